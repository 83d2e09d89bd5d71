// A client in Java, of java.net.http.HttpClient or HttpURLConnection: `java Client.java new|old ADDRESS STREAM`.
//
// Both keep cookies in a CookieManager. Prints what two users met, as one line of JSON: see tests/all/clients.rs.

import java.io.BufferedReader;
import java.io.ByteArrayInputStream;
import java.io.InputStream;
import java.io.InputStreamReader;
import java.net.CookieHandler;
import java.net.CookieManager;
import java.net.HttpURLConnection;
import java.net.URI;
import java.net.http.HttpClient;
import java.net.http.HttpRequest;
import java.net.http.HttpRequest.BodyPublisher;
import java.net.http.HttpRequest.BodyPublishers;
import java.net.http.HttpResponse.BodyHandlers;
import java.nio.charset.StandardCharsets;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;

class Client {
    static final byte[] LARGE = ("\"" + "x".repeat(6 << 20) + "\"").getBytes(StandardCharsets.UTF_8);

    record Answer(int status, String code, InputStream body) {
        String text() throws Exception {
            return body == null ? "" : new String(body.readAllBytes(), StandardCharsets.UTF_8);
        }
    }

    interface User {
        Answer ask(String method, String path, byte[] body, boolean inPieces) throws Exception;

        default Answer post(String path, String body) throws Exception {
            return ask("POST", path, body.getBytes(StandardCharsets.UTF_8), false);
        }

        default String note(String action, String text) throws Exception {
            String input = "{\"command\":\"note\",\"action\":\"" + action + "\",\"param1\":\"" + text + "\"}";
            return first("\"notes\":(\\[[^\\]]*\\])", post("/generate", input).text());
        }
    }

    static User newOne(String address) {
        HttpClient client = HttpClient.newBuilder().cookieHandler(new CookieManager()).build();
        return (method, path, body, inPieces) -> {
            BodyPublisher publisher = inPieces
                ? BodyPublishers.ofInputStream(() -> new ByteArrayInputStream(body))
                : BodyPublishers.ofByteArray(body);
            HttpRequest request = HttpRequest.newBuilder(URI.create(address + path))
                .header("Content-Type", "application/json")
                .method(method, publisher)
                .build();
            var answer = client.send(request, BodyHandlers.ofInputStream());
            return new Answer(answer.statusCode(), answer.headers().firstValue("carrel-error").orElse(""), answer.body());
        };
    }

    /** Its cookies are the whole process', so that each call of a user puts the user's own in place. */
    static User oldOne(String address) {
        CookieManager cookies = new CookieManager();
        return (method, path, body, inPieces) -> {
            CookieHandler.setDefault(cookies);
            var connection = (HttpURLConnection) URI.create(address + path).toURL().openConnection();
            connection.setRequestMethod(method);
            connection.setRequestProperty("Content-Type", "application/json");
            if (method.equals("POST")) {
                connection.setDoOutput(true);
                if (inPieces) connection.setChunkedStreamingMode(1 << 16);
                connection.getOutputStream().write(body);
                connection.getOutputStream().close();
            }
            int status = connection.getResponseCode();
            String code = connection.getHeaderField("carrel-error");
            return new Answer(status, code, status < 400 ? connection.getInputStream() : connection.getErrorStream());
        };
    }

    static String first(String pattern, String text) {
        Matcher matcher = Pattern.compile(pattern).matcher(text);
        if (!matcher.find()) throw new IllegalStateException(pattern + " is not in " + text);
        return matcher.group(1);
    }

    public static void main(String[] arguments) throws Exception {
        String address = arguments[1];
        List<User> users = new ArrayList<>();
        for (int n = 0; n < 2; n++) users.add(arguments[0].equals("new") ? newOne(address) : oldOne(address));
        for (User user : users) {
            if (user.post("/session", "").status() != 200) throw new IllegalStateException("no session");
        }
        for (String text : List.of("milk", "bread")) {
            for (int n = 0; n < 2; n++) users.get(n).note("add", text + " " + n);
        }
        List<String> events = new ArrayList<>();
        List<Long> times = new ArrayList<>();
        long begun = System.currentTimeMillis();
        InputStream stream = users.get(0).post("/hostile/stream", arguments[2]).body();
        var lines = new BufferedReader(new InputStreamReader(stream, StandardCharsets.UTF_8));
        for (String line = lines.readLine(); line != null; line = lines.readLine()) {
            if (line.startsWith("data: ")) {
                events.add(first("\\{\"value\": (\".*\")\\}", line));
                times.add(System.currentTimeMillis() - begun);
            }
        }
        List<String> large = new ArrayList<>();
        for (boolean inPieces : new boolean[] {false, true}) {
            Answer answer = users.get(0).ask("POST", "/generate", LARGE, inPieces);
            String code = first("\"code\":(\"[^\"]*\")", answer.text());
            large.add("[" + answer.status() + ",\"" + answer.code() + "\"," + code + "]");
        }
        String notes = "[" + users.get(0).note("list", "") + "," + users.get(1).note("list", "") + "]";
        int ended = users.get(0).ask("DELETE", "/session", new byte[0], false).status();
        int after = users.get(0).post("/generate", "{\"command\":\"stats\"}").status();
        System.out.println("{\"notes\":" + notes + ",\"events\":" + events + ",\"times\":" + times
            + ",\"large\":" + large + ",\"ended\":[" + ended + "," + after + "]}");
    }
}
