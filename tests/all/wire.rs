//! Connections: callers who close half of one, or go away; answers that come before a request's end; and requests
//! that are valid HTTP, or nearly so.

use carrel_tests::{Server, Test};
use http::{Method, Request};
use serde_json::{Value, json};
use std::{
    net::SocketAddr,
    process::Stdio,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No answer of these tests takes longer, on however slow a machine.
const ANSWERED: Duration = Duration::from_secs(20);

/// Bytes of a request, without its end.
fn post(path: &str, version: &str, headers: &str) -> String {
    format!(
        "POST {path} {version}\r\nhost: x\r\ncookie: nat-session=mallory\r\ncontent-type: application/json\r\n{headers}"
    )
}

fn call(path: &str, version: &str, input: &Value) -> String {
    let body = input.to_string();
    format!("{}content-length: {}\r\n\r\n{body}", post(path, version, ""), body.len())
}

/// Sends a request, closes the sending side, and reads until the host closes.
async fn half_closed(address: SocketAddr, request: &str) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(request.as_bytes()).await.expect("sent");
    stream.shutdown().await.expect("half closed");
    read_all(&mut stream).await
}

async fn read_all(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    let read = timeout(ANSWERED, stream.read_to_end(&mut answer)).await.expect("the host closes");
    assert!(read.is_ok(), "{read:?} after {:?}", String::from_utf8_lossy(&answer));
    String::from_utf8(answer).expect("text")
}

/// The last answer's status, header and body. Interim answers before it are skipped.
#[track_caller]
fn last(mut text: &str) -> (u16, &str, &str) {
    loop {
        let (head, rest) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {text:?}"));
        let status: u16 =
            head.get(9..12).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("no status: {text:?}"));
        if status >= 200 {
            return (status, head, rest);
        }
        text = rest;
    }
}

#[track_caller]
fn error(text: &str, status: u16, code: &str) {
    let (got, head, body) = last(text);
    assert_eq!(got, status, "{text}");
    assert!(head.contains(&format!("\r\ncarrel-error: {code}")), "{text}");
    let body: Value = serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {text}"));
    assert_eq!(body["code"], code, "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_has_sent_everything_and_half_closes_gets_the_answer() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let stats = json!({"command": "stats"});
    for n in 0..200 {
        let health = half_closed(listening.address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
        assert_eq!((last(&health).0, last(&health).2), (200, r#"{"status":"healthy"}"#), "{n}: {health}");
        let version = if n % 2 == 0 { "HTTP/1.1" } else { "HTTP/1.0" };
        let called = half_closed(listening.address, &call("/generate", version, &stats)).await;
        let (status, _, body) = last(&called);
        let body: Value = serde_json::from_str(body).unwrap_or_default();
        assert_eq!((status, &body["data"]["commands_executed"]), (200, &json!(n + 1)), "{called}");
    }
    // Several at once, and one whose body comes in chunks.
    let two = format!("GET /health HTTP/1.1\r\nhost: x\r\n\r\n{}", call("/generate", "HTTP/1.1", &stats));
    let both = half_closed(listening.address, &two).await;
    assert!(both.contains("healthy") && both.contains("commands_executed\":201"), "{both}");
    let chunked =
        format!("{}transfer-encoding: chunked\r\n\r\n13\r\n{stats}\r\n0\r\n\r\n", post("/generate", "HTTP/1.1", ""));
    let chunked = half_closed(listening.address, &chunked).await;
    assert!(chunked.contains("commands_executed\":202"), "{chunked}");
    // A body that breaks off is no request.
    let broken = format!("{}content-length: 100\r\n\r\n{{", post("/generate", "HTTP/1.1", ""));
    error(&half_closed(listening.address, &broken).await, 400, "body_incomplete");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_half_closed_caller_is_waited_for_however_long_the_call_takes() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let sleep = json!({"do": "all", "of": [{"do": "sleep", "milliseconds": 2500}, {"do": "count"}]});
    let answers = async |path: &'static str, version: &'static str| {
        half_closed(listening.address, &call(path, version, &sleep)).await
    };
    let stream = async {
        let emit = json!({"do": "all", "of": [{"do": "emit", "chunks": 1, "bytes": 1}, sleep]});
        half_closed(listening.address, &call("/hostile/stream", "HTTP/1.1", &emit)).await
    };
    // One user's calls run one after the other: waiting ones are asked for and answered too.
    let (one, old, stream) = tokio::join!(answers("/hostile", "HTTP/1.1"), answers("/hostile", "HTTP/1.0"), stream);
    assert_eq!(last(&one).0, 200, "{one}");
    assert!(one.starts_with("HTTP/1.1 100 Continue\r\n\r\n"), "it was asked whether it is there: {one}");
    assert_eq!(last(&old).0, 200, "{old}");
    assert!(old.starts_with("HTTP/1.0 200"), "HTTP/1.0 has no interim answers: {old}");
    let (status, _, events) = last(&stream);
    assert!(status == 200 && events.contains("\"calls\\\":"), "{stream}");
    listening.stop().await.expect("the server ends");
}

/// The way in which a caller goes away.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// With a reset.
    Reset,
    /// By closing the connection, as a process does that ends.
    Close,
    /// By closing one half, and the other after it was asked.
    Asked,
}

/// Callers of a path go in each way, while the host works on their call.
async fn is_undone_whichever_way_they_go(path: &str, does: Value) {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let mallory = server.user("mallory").at("/hostile");
    mallory.call(json!({"do": "count"})).await.ok();
    let input = json!({"do": "all", "of": does});
    // Bytes after the request hide the end of the connection: the next request, or the line break of old clients.
    let behind = ["", "\r\n", "GET /health HTTP/1.1\r\nhost: x\r\n\r\n"];
    let ways = behind.iter().flat_map(|behind| [Way::Reset, Way::Close, Way::Asked].map(|way| (behind, way)));
    for (behind, way) in ways {
        let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
        let request = format!("{}{behind}", call(path, "HTTP/1.1", &input));
        stream.write_all(request.as_bytes()).await.expect("sent");
        server.until_in_use(1).await;
        if path.ends_with("/stream") {
            assert!(stream.read(&mut [0; 4096]).await.expect("a first event") > 0);
        }
        let began = Instant::now();
        match way {
            Way::Reset => stream.set_zero_linger().expect("a reset"),
            Way::Close => {}
            Way::Asked => {
                stream.shutdown().await.expect("half closed");
                assert!(stream.read(&mut [0; 4096]).await.expect("a question") > 0);
            }
        }
        drop(stream);
        server.until_idle().await;
        let took = began.elapsed();
        // Sooner than its deadline, which would end it as well.
        assert!(took < Duration::from_secs(6), "{path} {way:?}: {took:?}");
        println!("{path} {behind:?} {way:?}: undone after {took:?}");
    }
    let holds = mallory.call(json!({"do": "holds"})).await.ok();
    assert_eq!(holds["calls"], 2, "{holds}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_whose_caller_has_gone_is_undone_whichever_way_they_went() {
    is_undone_whichever_way_they_go("/hostile", json!([{"do": "sleep", "milliseconds": 60_000}])).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_whose_listener_has_gone_is_undone_whichever_way_they_went() {
    let emit = json!({"do": "emit", "chunks": 1, "bytes": 1});
    let sleep = json!({"do": "sleep", "milliseconds": 60_000});
    is_undone_whichever_way_they_go("/hostile/stream", json!([emit, sleep])).await;
}

/// Sends all of a request before anything of the answer is read, as many clients do.
async fn sent_whole(address: SocketAddr, head: &str, body: usize) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(head.as_bytes()).await.expect("the head is sent");
    let part = vec![b'x'; 64 << 10];
    let mut left = body;
    while left > 0 {
        let bytes = left.min(part.len());
        stream.write_all(&part[..bytes]).await.unwrap_or_else(|error| panic!("{left} bytes were left: {error}"));
        left -= bytes;
    }
    read_all(&mut stream).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_early_answer_to_a_large_body_arrives() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let json = "content-type: application/json\r\n";
    let alice = "cookie: nat-session=alice\r\n";
    let twice = "host: y\r\n";
    for body in [0, 100, 20 << 10, 900 << 10, 4 << 20, 12 << 20] {
        let small = body <= 1 << 20;
        for (path, headers, statuses) in [
            ("/generate", [alice, json, ""], if small { &[422][..] } else { &[413] }),
            // Nothing is read for a caller without an identity.
            ("/generate", ["", json, ""], &[401]),
            ("/generate", [alice, "content-type: text/plain\r\n", ""], if small { &[415, 422] } else { &[413] }),
            ("/nope", [alice, json, ""], &[404]),
            ("/health", [alice, json, ""], &[405]),
            ("/generate/", [alice, json, ""], &[307]),
            ("/generate", [alice, json, twice], &[400]),
        ] {
            let head = format!(
                "POST {path} HTTP/1.1\r\nhost: x\r\n{}connection: close\r\ncontent-length: {body}\r\n\r\n",
                headers.concat()
            );
            let answer = sent_whole(listening.address, &head, body).await;
            assert!(statuses.contains(&last(&answer).0), "{body} bytes to {path}, {statuses:?}: {answer}");
        }
    }
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_refused_with_a_small_body_keeps_the_connection_and_with_a_large_one_is_told_that_it_ends() {
    let server = Test::new().tenant("a", 1, 1).start().await;
    let listening = server.listen().await;
    let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
    for _ in 0..3 {
        let request = post("/generate", "HTTP/1.1", "content-length: 2000\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("sent");
        stream.write_all(&[b'x'; 2000]).await.expect("sent");
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        error(&answer, 401, "identity_required");
        assert!(!last(&answer).1.contains("connection: close"), "{answer}");
        // In chunks, nothing says before that it is small.
        let chunked = post("/nope", "HTTP/1.1", "transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
        stream.write_all(chunked.as_bytes()).await.expect("sent");
        let mut answer = vec![0; 4096];
        let read = stream.read(&mut answer).await.expect("an answer");
        let answer = String::from_utf8_lossy(&answer[..read]).into_owned();
        error(&answer, 404, "not_found");
        assert!(!last(&answer).1.contains("connection: close"), "{answer}");
    }
    let head = post("/generate", "HTTP/1.1", "content-length: 2000000\r\n\r\n");
    let answer = sent_whole(listening.address, &head, 2_000_000).await;
    error(&answer, 401, "identity_required");
    assert!(last(&answer).1.contains("connection: close"), "{answer}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_never_stops_sending_is_not_read_for_ever() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    for head in [
        post("/generate", "HTTP/1.1", "content-length: 100000000000\r\n\r\n"),
        post("/nope", "HTTP/1.1", "content-length: 100000000000\r\n\r\n"),
        post("/nope", "HTTP/1.1", "transfer-encoding: chunked\r\n\r\n"),
    ] {
        let (mut read, mut write) = TcpStream::connect(listening.address).await.expect("a connection").into_split();
        let began = tokio::time::Instant::now();
        write.write_all(head.as_bytes()).await.expect("sent");
        let sending = tokio::spawn(async move {
            let mut sent = 0;
            while let Ok(bytes) = write.write(b"10000\r\n").await {
                sent += bytes;
                let chunk = [&[b'x'; 0x10000][..], b"\r\n"].concat();
                if write.write_all(&chunk).await.is_err() {
                    break;
                }
                sent += chunk.len();
            }
            sent
        });
        let mut answer = vec![0; 4096];
        let bytes = read.read(&mut answer).await.expect("an answer");
        assert!(matches!(last(&String::from_utf8_lossy(&answer[..bytes])).0, 404 | 413));
        let sent = sending.await.expect("no panic");
        assert!(sent < 32 << 20, "{sent} bytes were taken");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    }
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_asks_before_sending_a_body_is_not_told_to_send_one_that_is_refused() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let ask = async |path: &str, length: usize, body: &str| {
        let expect = format!("expect: 100-continue\r\nconnection: close\r\ncontent-length: {length}\r\n\r\n");
        let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
        stream.write_all(post(path, "HTTP/1.1", &expect).as_bytes()).await.expect("sent");
        let mut first = [0; 25];
        stream.read_exact(&mut first).await.expect("an answer");
        if first.starts_with(b"HTTP/1.1 100") {
            stream.write_all(body.as_bytes()).await.expect("sent");
        }
        String::from_utf8_lossy(&first).into_owned() + &read_all(&mut stream).await
    };
    let stats = r#"{"command":"stats"}"#;
    let right = ask("/generate", stats.len(), stats).await;
    assert!(right.starts_with("HTTP/1.1 100") && last(&right).0 == 200, "{right}");
    for (path, length, status, code) in [
        ("/generate", 2_000_000, 413, "body_too_large"),
        ("/nope", 5, 404, "not_found"),
        ("/health", 5, 405, "method_not_allowed"),
    ] {
        let refused = ask(path, length, "").await;
        assert!(refused.starts_with(&format!("HTTP/1.1 {status}")), "{refused}");
        error(&refused, status, code);
    }
    listening.stop().await.expect("the server ends");
}

/// Other people's clients, where this machine has them.
#[tokio::test(flavor = "multi_thread")]
async fn nodes_fetch_and_curl_see_the_status_of_an_early_answer() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let url = format!("http://{}", listening.address);
    let script = format!(
        "(async () => {{ for (let n = 0; n < 15; n++) for (const [path, status] of [['/generate', 401], ['/nope', 404]]) {{ \
         const got = await fetch('{url}' + path, {{method: 'POST', body: 'x'.repeat(4e6), headers: {{'content-type': \
         'application/json'}}}}); if (got.status !== status || !(await got.json()).code) throw got.status }} }})()"
    );
    let folder = tempfile::tempdir().expect("a folder");
    let body = folder.path().join("body");
    std::fs::write(&body, vec![b'x'; 4_000_000]).expect("a file");
    let data = format!("@{}", body.display());
    let curl = ["-s", "-o", "/dev/null", "-w", "%{http_code}", "--data-binary", &data, &format!("{url}/generate")];
    for (program, arguments, expected) in [("node", &["-e", &script][..], ""), ("curl", &curl, "401")] {
        let mut command = std::process::Command::new(program);
        command.args(arguments).stdin(Stdio::null());
        match tokio::task::spawn_blocking(move || command.output()).await.expect("no panic") {
            Ok(done) => {
                assert!(done.status.success(), "{program}: {}", String::from_utf8_lossy(&done.stderr));
                assert_eq!(String::from_utf8_lossy(&done.stdout), expected, "{program}");
            }
            Err(_) => println!("not tried: this machine has no {program}"),
        }
    }
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_names_one_host() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let get = async |line: &str, hosts: &str| {
        half_closed(listening.address, &format!("GET /health {line}\r\n{hosts}connection: close\r\n\r\n")).await
    };
    for hosts in [
        "",
        "host: a\r\nhost: b\r\n",
        "host: a\r\nHost: a\r\n",
        "host: a b\r\n",
        "host: user@a\r\n",
        "host: [::1\r\n",
        "host: a:b\r\n",
        "host: a/b\r\n",
    ] {
        error(&get("HTTP/1.1", hosts).await, 400, "host_invalid");
    }
    for hosts in
        ["host: a\r\n", "host:\r\n", "host: 127.0.0.1:80\r\n", "host: [::1]:80\r\n", "HOST: a.example:8000\r\n"]
    {
        assert_eq!(last(&get("HTTP/1.1", hosts).await).0, 200, "{hosts}");
    }
    assert_eq!(last(&get("HTTP/1.0", "").await).0, 200);
    error(&get("HTTP/1.0", "host: a\r\nhost: b\r\n").await, 400, "host_invalid");
    // A call with a wrong host does not run.
    let wrong = call("/generate", "HTTP/1.1", &json!({"command": "stats"})).replace("host: x", "host: x y");
    error(&half_closed(listening.address, &wrong).await, 400, "host_invalid");
    assert_eq!(server.host.registry().live(), 0);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_http_is_answered_with_a_code() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    for garbage in [
        "GARBAGE\r\n\r\n",
        "GET /health HTTP/3.0\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: x\r\n\r\n",
        "GET / HTTP/1.1\r\nna me: x\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: x\r\n y\r\n\r\n",
    ] {
        let answer = half_closed(listening.address, garbage).await;
        error(&answer, 400, "malformed_request");
        assert!(last(&answer).1.contains("connection: close"), "{answer}");
    }
    let large = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}\r\n\r\n", "y".repeat(2_000_000));
    error(&half_closed(listening.address, &large).await, 431, "headers_too_large");
    let long = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "y".repeat(70_000));
    let (status, ..) = last(&half_closed(listening.address, &long).await);
    assert!(matches!(status, 414 | 431), "{status}");
    // After a good one, on the same connection.
    let after = half_closed(listening.address, "GET /health HTTP/1.1\r\nhost: x\r\n\r\nGARBAGE\r\n\r\n").await;
    let (status, _, rest) = last(&after);
    assert_eq!(status, 200, "{after}");
    error(rest.strip_prefix(r#"{"status":"healthy"}"#).expect("the second answer"), 400, "malformed_request");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_path_with_needless_encodings_is_the_path() {
    let server = Test::new().start().await;
    for path in ["/gener%61te", "/%67enerate", "/v1/w%6Frkflow", "/v1/w%6frkflow", "/%76%31/%77%6f%72%6b%66%6c%6f%77"] {
        server.user("alice").at(path).call(json!({"command": "stats"})).await.ok();
    }
    let streamed = server.user("alice").at("/gener%61te/stre%61m?x=%61").call(json!({"command": "stats"})).await;
    assert!(streamed.text().contains("Session statistics: 6"), "{}", streamed.text());
    for path in [
        "/he%61lth",
        "/openapi%2Ejson",
        "/monitor/user%73?user_id=x",
        "/d%6Fcs",
        "/docs/swagger%2Dui.css",
        "/metric%73",
    ] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
    for path in [
        "/v1%2Fworkflow",
        "/health%2F",
        "/health%20",
        "/he%6",
        "/he%",
        "/he%zzlth",
        "/he%+1lth",
        "/%2568ealth",
        "/health%00",
    ] {
        server.get(path).await.error(404, "not_found");
    }
    server.get("/gener%61te").await.error(405, "method_not_allowed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slash_too_many_leads_to_the_route_also_behind_a_proxy() {
    let server = Test::new().endpoint("/v2/notes/all", "notepad").start().await;
    for (path, method, location) in [
        ("/health/", Method::GET, "../health"),
        ("/health/?x=1&y=%2F", Method::GET, "../health?x=1&y=%2F"),
        ("/generate/", Method::POST, "../generate"),
        ("/generate/stream/?a", Method::POST, "../stream?a"),
        ("/v1/workflow/", Method::POST, "../workflow"),
        ("/v2/notes/all/full/", Method::POST, "../full"),
        ("/he%61lth/", Method::GET, "../health"),
    ] {
        let request = Request::builder().method(method).uri(path).body(axum::body::Body::empty());
        let answer = server.send(request.expect("a request")).await;
        assert_eq!((answer.status.as_u16(), answer.header("location")), (307, location), "{path}");
        // Resolved as RFC 3986 has it: from the folder that the path is.
        let (folder, query) = path.split_once('?').map_or((path, ""), |(folder, query)| (folder, query));
        let above = folder.trim_end_matches('/').rsplit_once('/').expect("a path").0;
        let (name, asked) = location.split_once('?').map_or((location, ""), |(name, query)| (name, query));
        let leads = format!("/prefix{above}/{}", name.trim_start_matches("../"));
        assert_eq!((leads, asked), (format!("/prefix{}", folder.trim_end_matches('/').replace("%61", "a")), query));
    }
    server.get("/nope/").await.error(404, "not_found");
    server.get("/").await.ok();
    server.get("//").await.error(404, "not_found");
}

async fn head(server: &Server, path: &str) -> carrel_tests::Reply {
    let request = Request::head(path).header("cookie", "nat-session=alice").body(axum::body::Body::empty());
    server.send(request.expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_head_runs_no_function() {
    let endpoint =
        |method: &str| json!({"path": "/it", "method": method, "description": "", "function_name": "notepad"});
    let test = Test::new().set("general.front_end.endpoints", json!([endpoint("GET"), endpoint("DELETE")]));
    let server = test.set("general.front_end.workflow", json!({"path": "/ask", "method": "GET"})).start().await;
    for (path, allow) in [
        ("/ask", "GET"),
        ("/ask/stream", "GET"),
        ("/ask/full", "GET"),
        ("/it", "GET,DELETE"),
        ("/it/stream", "GET,DELETE"),
        ("/v1/workflow", "POST"),
        ("/%69t", "GET,DELETE"),
    ] {
        let answer = head(&server, path).await;
        assert_eq!((answer.status.as_u16(), answer.header("allow")), (405, allow), "{path}");
        assert_eq!(answer.header("carrel-error"), "method_not_allowed", "{path}");
        let put = Request::put(path).body(axum::body::Body::empty()).expect("a request");
        assert_eq!(server.send(put).await.header("allow"), allow, "{path}");
    }
    assert_eq!(server.host.registry().live(), 0, "nothing was run");
    server.user("alice").ask(Method::GET, "/it").await.error(422, "invalid_input");
    assert_eq!(server.host.registry().live(), 1, "a GET does run it");
    for path in ["/health", "/openapi.json", "/docs", "/docs/swagger-ui.css", "/monitor/users"] {
        let (get, head) = (server.get(path).await, head(&server, path).await);
        assert_eq!((head.status, head.body.len()), (get.status, 0), "{path}");
        assert_eq!(head.header("content-type"), get.header("content-type"), "{path}");
    }
    let listening = server.listen().await;
    let answer = half_closed(listening.address, "HEAD /health HTTP/1.1\r\nhost: x\r\n\r\n").await;
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("content-length: 20\r\n"), "{answer}");
    assert!(answer.ends_with("\r\n\r\n"), "{answer}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test]
async fn answers_of_every_size_come_whole() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    // Small ones are sent in one piece, and larger ones in two: with all headers, 2 KiB is among these.
    for size in (1..60).map(|nth| nth * 41).chain([100_000, 900_000]) {
        let answer =
            half_closed(listening.address, &call("/hostile", "HTTP/1.1", &json!({"do": "answer", "bytes": size})))
                .await;
        let (status, head, body) = last(&answer);
        assert_eq!(status, 200, "{head}");
        assert!(body.len() >= size && head.contains(&format!("content-length: {}\r\n", body.len())), "{size}: {head}");
    }
}
