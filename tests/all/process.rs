//! The process among others: signals, a supervisor, key files that change, and an output that goes nowhere.

use super::cli::{CONFIG, carrel, config_with, run, text};
use jsonwebtoken::{
    Algorithm::{self, ES256, EdDSA, RS256},
    EncodingKey, Header, encode, get_current_timestamp as now,
    jwk::Jwk,
};
use serde_json::{Value, json};
use std::{
    fs::{self, File},
    io::{self, BufRead, BufReader, Read, Write},
    net::{TcpListener, TcpStream},
    os::{
        linux::net::SocketAddrExt,
        unix::net::{SocketAddr, UnixDatagram},
    },
    path::{Path, PathBuf},
    process::{Child, Command, ExitStatus, Stdio},
    sync::mpsc::{self, Receiver},
    thread,
    time::{Duration, Instant},
};

/// The longest time that anything here may take: a test machine may be busy compiling.
const SOON: Duration = Duration::from_secs(120);

/// The binary, serving or on its way to it. Dropping it kills it.
pub(super) struct Process {
    pub(super) child: Child,
    lines: Receiver<String>,
    pub(super) said: Vec<String>,
}

impl Process {
    pub(super) fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().expect("it runs");
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().expect("stderr is a pipe");
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        Self { child, lines, said: Vec::new() }
    }

    pub(super) fn serve(config: &Path, more: &[&str]) -> Self {
        Self::start(carrel(&["serve", "--port", "0", "--config_file"]).arg(config).args(more))
    }

    /// The first line from here on that has these words.
    #[track_caller]
    pub(super) fn until(&mut self, words: &str) -> String {
        let end = Instant::now() + SOON;
        loop {
            let line = self.lines.recv_timeout(end.saturating_duration_since(Instant::now()));
            let line = line.unwrap_or_else(|_| panic!("it should say {words:?}, and said {:#?}", self.said));
            self.said.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
    }

    /// Its address, once it serves.
    #[track_caller]
    pub(super) fn address(&mut self) -> String {
        let line = self.until(" on http://");
        line.split_once(" on http://").expect("an address").1.to_owned()
    }

    fn signal(&self, name: &str) {
        kill(name, self.child.id());
    }

    /// Waits for its end, and for all that it says.
    #[track_caller]
    pub(super) fn end(&mut self) -> ExitStatus {
        let status = until(|| self.child.try_wait().expect("a status"));
        self.said.extend(self.lines.iter());
        status
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

pub(super) fn kill(name: &str, process: u32) {
    let kill = Command::new("kill").args(["-s", name, &process.to_string()]).status();
    assert!(kill.expect("kill runs").success());
}

/// Polls until something is found, and returns it.
#[track_caller]
pub(super) fn until<T>(mut found: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + SOON;
    loop {
        if let Some(found) = found() {
            return found;
        }
        assert!(Instant::now() < end, "it takes too long");
        thread::sleep(Duration::from_millis(2));
    }
}

/// Returns true if a process handles a signal of this number.
pub(super) fn handles(process: u32, signal: u32) -> bool {
    let status = fs::read_to_string(format!("/proc/{process}/status")).unwrap_or_default();
    let caught = status.lines().find_map(|line| line.strip_prefix("SigCgt:")).unwrap_or("0");
    u64::from_str_radix(caught.trim(), 16).expect("a set of signals") >> (signal - 1) & 1 == 1
}

/// A configuration of two guests, of which neither is compiled yet.
fn cold() -> (tempfile::TempDir, PathBuf, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let (config, cache) = (folder.path().join("config.yml"), folder.path().join("cache"));
    let text =
        "guest_cache: cache\nfunctions: {notes: {_type: per_user_notepad}}\nworkflow: {_type: per_user_preferences}";
    fs::write(&config, text).expect("a file");
    (folder, config, cache)
}

fn files(folder: &Path) -> Vec<PathBuf> {
    fs::read_dir(folder).map(|entries| entries.map(|entry| entry.expect("a file").path()).collect()).unwrap_or_default()
}

#[test]
fn a_signal_while_guests_are_compiled_ends_the_start_at_once_and_leaves_nothing_half_written() {
    for (signal, number) in [("TERM", 15), ("INT", 2)] {
        for some_are_written in [false, true] {
            let (_folder, config, cache) = cold();
            let mut process = Process::serve(&config, &[]);
            let id = process.child.id();
            until(|| handles(id, number).then_some(()));
            if some_are_written {
                until(|| (!files(&cache).is_empty()).then_some(()));
            }
            process.signal(signal);
            let status = process.end();
            assert_eq!(status.code(), Some(128 + number as i32), "{signal}: {:?}", process.said);
            assert_eq!(process.said, [format!("note: stopped by SIG{signal} before it was done")]);
            let left = files(&cache);
            assert!(left.len() < 2, "it was no start without a cache: {left:?}");
            assert!(left.iter().all(|file| file.extension().is_some_and(|it| it == "cwasm")), "{left:?}");
            if some_are_written {
                let mut next = Process::serve(&config, &[]);
                next.address();
                assert!(!next.said.iter().any(|line| line.contains("damaged")), "{:?}", next.said);
            }
        }
    }
}

/// The command that makes a process 1 on this machine, if it can.
fn as_process_1() -> Option<Command> {
    let ways: [&[&str]; 2] = [&["--pid", "--fork"], &["--user", "--map-root-user", "--pid", "--fork"]];
    let unshare = |way: &[&str]| {
        let mut unshare = Command::new("unshare");
        unshare.args(way).arg("--kill-child");
        unshare
    };
    let works = |way: &&&[&str]| unshare(way).arg("true").status().is_ok_and(|status| status.success());
    let found = ways.iter().find(works).map(|way| unshare(way));
    if found.is_none() {
        println!("not tried: this machine makes no process 1");
    }
    found
}

#[test]
fn process_1_of_a_container_is_stopped_as_any_other() {
    for serves in [false, true] {
        for (signal, number) in [("TERM", 15), ("INT", 2)] {
            let Some(mut unshare) = as_process_1() else { return };
            let (_folder, cold, _cache) = cold();
            // One that is to serve finds its guests compiled.
            let config = if serves { Path::new(CONFIG) } else { &cold };
            unshare.arg(env!("CARGO_BIN_EXE_carrel")).args(["serve", "--port", "0", "--config_file"]).arg(config);
            let mut process = Process::start(&mut unshare);
            let outer = process.child.id();
            let child = until(|| {
                let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
                let child = children.split_whitespace().next()?.parse().ok()?;
                // Before that it is not yet the binary.
                handles(child, number).then_some(child)
            });
            if serves {
                process.address();
            }
            kill(signal, child);
            let expected = if serves { 0 } else { 128 + number as i32 };
            assert_eq!(process.end().code(), Some(expected), "{signal}: {:?}", process.said);
        }
    }
}

/// Lines that must be JSON, of the form that the log's are.
#[track_caller]
fn objects<'a>(lines: impl IntoIterator<Item = &'a str>) -> Vec<Value> {
    let object = |line: &str| {
        let object: Value = serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        assert!(object["timestamp"].as_str().is_some_and(|time| time.ends_with('Z')), "{line}");
        assert!(object["fields"]["message"].is_string() && object["target"].is_string(), "{line}");
        assert!(["ERROR", "WARN", "INFO"].contains(&object["level"].as_str().expect("a level")), "{line}");
        object
    };
    lines.into_iter().map(object).collect()
}

#[test]
fn with_json_every_line_of_every_command_is_json_whatever_is_wrong() {
    let (folder, broken) = config_with("limits:\n  dedline: 5\n  fuel_per_cal: 1\nzzzz: 1");
    let broken = broken.to_str().expect("text");
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let missing = folder.path().join("no.yml");
    let missing = missing.to_str().expect("text");
    for (arguments, code, level, words) in [
        (&["--nonsense"][..], 2, "ERROR", "unexpected argument '--nonsense'"),
        (&["serve"], 2, "ERROR", "--config_file <FILE>"),
        (&["nonsense"], 2, "ERROR", "unrecognized subcommand"),
        (&[], 2, "ERROR", "Usage: carrel"),
        (&["validate", "--config_file", missing], 2, "ERROR", "cannot be read"),
        (&["validate", "--config_file", broken], 2, "ERROR", "unknown key"),
        (&["serve", "--config_file", broken], 2, "ERROR", "unknown key"),
        (&["run", "--config_file", CONFIG, "--input", "{}"], 1, "ERROR", "invalid_input"),
        (&["serve", "--config_file", CONFIG, "--host", "0.0.0.0"], 2, "ERROR", "nobody is verified"),
        (&["serve", "--config_file", CONFIG, "--host", "127.0.0.1", "--port", &port], 1, "ERROR", "cannot listen"),
        (&["key"], 0, "INFO", "a key was made"),
        (&["panic"], 101, "ERROR", "panic: asked for"),
    ] {
        for form in [&["--log-format=json"][..], &["--log-format", "json"]] {
            let done = run(&[form, arguments].concat());
            let told = text(&done.stderr);
            assert_eq!(done.status.code(), Some(code), "{arguments:?}: {told}");
            let told = objects(told.lines());
            assert_eq!(told[0]["level"], level, "{arguments:?}");
            let message = told[0]["fields"]["message"].as_str().expect("text");
            assert!(message.contains(words) && !message.starts_with("error: "), "{arguments:?}: {message}");
            if words == "unknown key" {
                let at: Vec<_> = told.iter().map(|it| (&it["fields"]["key"], it["fields"]["line"].is_u64())).collect();
                assert_eq!(
                    at,
                    [(&json!("limits.dedline"), true), (&json!("limits.fuel_per_cal"), true), (&json!("zzzz"), true)]
                );
                assert_eq!(told[0]["fields"]["hint"], "did you mean `deadline`?");
                assert_eq!(told[0]["fields"]["file"], broken);
            }
        }
    }
}

#[test]
fn with_json_a_server_says_all_of_its_life_in_json() {
    let (_folder, config) =
        config_with("llms: {}\nadmin: {port: 0}\nlimits: {deadline: 500ms, user: {fuel_per_second: 7M}}");
    let mut process = Process::serve(&config, &["--log-format=json"]);
    let serving = process.until(r#""message":"serving""#);
    let serving = &objects([&*serving])[0]["fields"];
    let address = serving["address"].as_str().expect("an address").to_owned();
    assert_eq!(
        serving["functions"][0],
        json!({"name": "notepad", "guest": "per_user_notepad", "source": "built in", "allow": {"environment": [], "folders": {}, "http": []}})
    );
    assert_eq!(serving["routes"][0], json!({"method": "POST", "path": "/generate", "function": "workflow"}));
    assert_eq!(
        (&serving["limits"]["deadline"], &serving["limits"]["fuel_per_call"]),
        (&json!(0.5), &json!(1_000_000_000))
    );
    let of_user = &serving["limits"]["user"];
    assert_eq!((&of_user["fuel_per_second"], &of_user["fuel_burst"]), (&json!(7_000_000), &json!(70_000_000)));
    assert!(serving["admin"].as_str().is_some_and(|admin| admin.starts_with("127.0.0.1:")), "{serving}");
    process.until("`llms` is a key of NAT's");
    process.until("nobody is verified");
    process.signal("HUP");
    process.until("no file of keys");
    let stream = TcpStream::connect(&address).expect("a connection");
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
    drop(stream);
    objects(process.said.iter().map(|line| &**line));
}

#[test]
fn with_json_people_at_a_terminal_see_the_listing_all_the_same() {
    if Command::new("script").arg("--version").output().is_err() {
        return println!("not tried: this machine has no `script`, which makes a terminal");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let (seen, log) = (folder.path().join("seen"), folder.path().join("log"));
    let binary = env!("CARGO_BIN_EXE_carrel");
    for form in ["json", "text"] {
        let serve = format!(
            "{binary} serve --port 0 --config_file {CONFIG} --log-format={form} 2>{} & \
             while ! grep -q 'nobody is verified' {}; do sleep 0.05; done; kill $!; wait $!",
            log.display(),
            log.display()
        );
        fs::write(&log, "").expect("a file");
        let mut script = Command::new("script");
        let status = script.args(["-qec", &serve]).arg(&seen).stdin(Stdio::null()).stdout(Stdio::null()).status();
        assert!(status.expect("it runs").success());
        let (seen, log) = (fs::read_to_string(&seen).expect("text"), fs::read_to_string(&log).expect("text"));
        assert_eq!(seen.contains("/v1/workflow             workflow"), form == "json", "{seen}");
        assert_eq!(log.contains("/v1/workflow             workflow"), form == "text", "{log}");
    }
}

/// Commands that write output.
fn with_output() -> Vec<Vec<&'static str>> {
    vec![
        vec!["--help"],
        vec!["--version"],
        vec!["serve", "--help"],
        vec!["key"],
        vec!["info"],
        vec!["info", "--json", "--config_file", CONFIG],
        vec!["validate", "--config_file", CONFIG],
        vec!["run", "--config_file", CONFIG, "--input", r#"{"command":"stats"}"#],
    ]
}

#[test]
fn a_command_whose_output_could_not_be_written_fails() {
    for arguments in with_output() {
        let full = File::options().write(true).open("/dev/full").expect("a full disk");
        let done = carrel(&arguments).stdout(full).output().expect("it runs");
        let told = text(&done.stderr);
        assert_eq!(done.status.code(), Some(1), "{arguments:?}: {told}");
        assert!(told.starts_with("error: the output could not be written to stdout: No space left"), "{told}");
        assert!(!told.contains("blake3:"), "a key that nobody has looks as if there were one: {told}");
    }
}

#[test]
fn a_reader_who_has_gone_away_has_had_enough_but_for_a_key() {
    for arguments in with_output() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let done = carrel(&arguments).stdout(writer).output().expect("it runs");
        let told = text(&done.stderr);
        if arguments == ["key"] {
            assert_eq!(done.status.code(), Some(1));
            assert!(told.contains("could not be written") && !told.contains("blake3:"), "{told}");
        } else {
            assert_eq!((done.status.code(), told), (Some(0), ""), "{arguments:?}");
        }
    }
}

#[test]
fn a_key_that_would_come_to_nobody_is_not_made() {
    let binary = env!("CARGO_BIN_EXE_carrel");
    for nowhere in [">/dev/null", ">&-", "<>/dev/null >&0", ">/dev/full", "2>/dev/full"] {
        let done = Command::new("sh").args(["-c", &format!("{binary} key {nowhere}")]).output().expect("it runs");
        assert_eq!(done.status.code(), Some(1), "{nowhere}: {}", text(&done.stderr));
        assert!(!text(&done.stderr).contains("blake3:"), "{nowhere}");
    }
    let file = tempfile::NamedTempFile::new().expect("a file");
    let done = carrel(&["key"]).stdout(file.reopen().expect("the file")).output().expect("it runs");
    assert!(done.status.success() && text(&done.stderr).contains("blake3:"));
    assert!(fs::read_to_string(file.path()).expect("text").starts_with("carrel_"));
}

/// A supervisor's socket, and its value for `NOTIFY_SOCKET`.
fn supervisor(folder: &Path, is_abstract: bool) -> (UnixDatagram, String) {
    let path = folder.join("notify").display().to_string();
    let address = match is_abstract {
        true => SocketAddr::from_abstract_name(&path),
        false => SocketAddr::from_pathname(&path),
    };
    let socket = UnixDatagram::bind_addr(&address.expect("an address")).expect("a socket");
    socket.set_read_timeout(Some(SOON)).expect("a timeout");
    (socket, if is_abstract { format!("@{path}") } else { path })
}

fn told(socket: &UnixDatagram) -> String {
    let mut bytes = [0; 1024];
    let length = socket.recv(&mut bytes).expect("something is told in time");
    text(&bytes[..length]).to_owned()
}

#[test]
fn a_supervisor_is_told_when_the_host_can_be_reached_reloads_and_stops() {
    for is_abstract in [false, true] {
        let (folder, config) = config_with("admin: {port: 0}");
        let (socket, name) = supervisor(folder.path(), is_abstract);
        let mut command = carrel(&["serve", "--port", "0", "--config_file"]);
        let mut process = Process::start(command.arg(&config).env("NOTIFY_SOCKET", name));
        assert_eq!(told(&socket), "READY=1\n");
        // The notification was sent before that.
        let address = process.address();
        let operators = process.until("the operator's routes are on http://");
        let operators = operators.split("http://").nth(1).and_then(|rest| rest.split_whitespace().next());
        let operators = operators.expect("an address").trim_end_matches(':');
        for address in [&*address, operators] {
            assert!(get(address, "/health", "").starts_with("HTTP/1.1 200"), "{address}");
        }
        let mut last = 0;
        for _ in 0..2 {
            process.signal("HUP");
            let reloading = told(&socket);
            let time = reloading.strip_prefix("RELOADING=1\nMONOTONIC_USEC=").expect("a time").trim().parse::<u64>();
            let time = time.expect("a number");
            assert!(time > last, "{time} after {last}");
            last = time;
            assert_eq!(told(&socket), "READY=1\n");
        }
        process.signal("TERM");
        assert_eq!(told(&socket), "STOPPING=1\n");
        assert_eq!(process.end().code(), Some(0));
    }
}

#[test]
fn nobody_is_told_of_a_host_that_one_of_its_listeners_cannot_be_had_for() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port();
    for (admin, code, why) in [
        (format!("{{host: 127.0.0.1, port: {port}}}"), 1, "error: cannot listen on 127.0.0.1"),
        ("{host: 0.0.0.0, port: 0}".to_owned(), 2, "error: 0.0.0.0:"),
        ("{host: no.such.host.invalid, port: 0}".to_owned(), 1, "error: cannot listen on no.such"),
    ] {
        let (folder, config) = config_with(&format!("admin: {admin}"));
        let (socket, name) = supervisor(folder.path(), false);
        let mut command = carrel(&["serve", "--port", "0", "--config_file"]);
        let done = command.arg(&config).env("NOTIFY_SOCKET", name).output().expect("it runs");
        assert_eq!(done.status.code(), Some(code));
        assert!(text(&done.stderr).starts_with(why), "{admin}: {}", text(&done.stderr));
        assert!(!text(&done.stderr).contains("serves"), "{admin}: {}", text(&done.stderr));
        socket.set_nonblocking(true).expect("a socket");
        assert!(socket.recv(&mut [0; 64]).is_err(), "the supervisor was told");
    }
}

#[test]
fn a_supervisor_who_is_not_there_stops_nobody() {
    let mut command = carrel(&["serve", "--port", "0", "--config_file", CONFIG]);
    let mut process = Process::start(command.env("NOTIFY_SOCKET", "/no/such/socket"));
    let address = process.address();
    process.until("NOTIFY_SOCKET");
    assert!(get(&address, "/health", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn a_supervisor_who_does_not_read_stops_nobody() {
    let folder = tempfile::tempdir().expect("a folder");
    let (socket, name) = supervisor(folder.path(), false);
    // As much as the socket keeps unread.
    let sender = UnixDatagram::unbound().expect("a socket");
    sender.set_nonblocking(true).expect("a flag");
    while sender.send_to(b"X=1", &name).is_ok() {}
    let mut command = carrel(&["serve", "--port", "0", "--config_file", CONFIG]);
    let mut process = Process::start(command.env("NOTIFY_SOCKET", &name));
    let address = process.address();
    process.until("NOTIFY_SOCKET");
    process.signal("HUP");
    assert!(get(&address, "/health", "").starts_with("HTTP/1.1 200"));
    process.signal("TERM");
    assert_eq!(process.end().code(), Some(0));
    drop(socket);
}

/// An answer as it is.
fn get(address: &str, path: &str, headers: &str) -> String {
    ask(address, &format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n"))
}

pub(super) fn post(address: &str, path: &str, headers: &str, body: &str) -> String {
    let length = body.len();
    ask(
        address,
        &format!(
            "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\
             {headers}Connection: close\r\n\r\n{body}"
        ),
    )
}

fn ask(address: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(address).expect("a connection");
    stream.write_all(request.as_bytes()).expect("a request");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("an answer");
    answer
}

fn key_file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/keys")).join(name)
}

fn key(algorithm: Algorithm, name: &str) -> EncodingKey {
    let pem = fs::read(key_file(&format!("{name}.pem"))).expect("a key");
    let key = match algorithm {
        RS256 => EncodingKey::from_rsa_pem(&pem),
        ES256 => EncodingKey::from_ec_pem(&pem),
        _ => EncodingKey::from_ed_pem(&pem),
    };
    key.expect("a private key")
}

fn key_set(algorithm: Algorithm, names: &[&str]) -> String {
    let keys = names.iter().map(|name| Jwk::from_encoding_key(&key(algorithm, name), algorithm).expect("a public key"));
    json!({"keys": keys.collect::<Vec<_>>()}).to_string()
}

fn bearer(issuer: &str, algorithm: Algorithm, name: &str) -> String {
    let claims = json!({"iss": issuer, "aud": "carrel", "sub": "alice", "exp": now() + 600});
    let token = encode(&Header::new(algorithm), &claims, &key(algorithm, name)).expect("a token");
    format!("Authorization: Bearer {token}\r\n")
}

/// Adds a note for a caller, and returns the number of notes.
#[track_caller]
fn add(address: &str, headers: &str) -> u64 {
    let answer = post(address, "/generate", headers, r#"{"action":"add","content":"milk"}"#);
    let body = answer.split_once("\r\n\r\n").expect("a body").1;
    let body: Value = serde_json::from_str(body).expect("JSON");
    body["count"].as_u64().unwrap_or_else(|| panic!("{answer}"))
}

#[track_caller]
fn is_refused(address: &str, headers: &str) {
    let answer = post(address, "/generate", headers, r#"{"action":"list"}"#);
    assert!(answer.starts_with("HTTP/1.1 401") && answer.contains("identity_invalid"), "{answer}");
}

const SET: &str = "https://set.example";
const PEM: &str = "https://pem.example";

/// A host of which one issuer's keys are in a set, and another's in PEM.
fn with_keys() -> (tempfile::TempDir, Process) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    let text = format!(
        "identity:\n  jwt:\n    - {{issuer: \"{SET}\", audience: carrel, jwks: set.json}}\n    \
         - {{issuer: \"{PEM}\", audience: carrel, public_key: keys.pem}}\n    \
         - {{issuer: \"https://secret.example\", audience: carrel, secret: 0123456789abcdef0123456789abcdef}}\n  \
         cookies: {{secrets: [0123456789abcdef0123456789abcdef]}}\nworkflow: {{_type: per_user_notepad}}\n"
    );
    fs::write(&config, text).expect("a file");
    fs::write(folder.path().join("set.json"), key_set(ES256, &["p256"])).expect("a file");
    fs::copy(key_file("ed25519.pub.pem"), folder.path().join("keys.pem")).expect("a file");
    let process = Process::serve(&config, &[]);
    (folder, process)
}

#[test]
fn keys_are_exchanged_on_sighup_and_nobody_loses_a_session() {
    let (folder, mut process) = with_keys();
    let address = process.address();
    let (old, new) = (bearer(SET, ES256, "p256"), bearer(SET, ES256, "p256-other"));
    let of_pem = bearer(PEM, EdDSA, "ed25519");
    let session = post(&address, "/session", &old, "");
    let cookie = session.split("nat-session=").nth(1).and_then(|rest| rest.split(';').next()).expect("a cookie");
    let cookie = format!("Cookie: nat-session={cookie}\r\n");
    assert_eq!((add(&address, &old), add(&address, &cookie), add(&address, &of_pem)), (1, 2, 1));
    is_refused(&address, &new);

    // Both for a while, as keys are rotated; and then only the new one.
    fs::write(folder.path().join("set.json"), key_set(ES256, &["p256", "p256-other"])).expect("a file");
    is_refused(&address, &new);
    process.signal("HUP");
    for _ in 0..2 {
        process.until("keys were read again");
    }
    assert_eq!((add(&address, &new), add(&address, &old)), (3, 4), "the session is the same");
    fs::write(folder.path().join("set.json"), key_set(ES256, &["p256-other"])).expect("a file");
    fs::copy(key_file("rsa.cert.pem"), folder.path().join("keys.pem")).expect("a file");
    process.signal("HUP");
    for _ in 0..2 {
        process.until("keys were read again");
    }
    is_refused(&address, &old);
    is_refused(&address, &of_pem);
    assert_eq!((add(&address, &new), add(&address, &cookie)), (5, 6), "a cookie is of the issuer, whatever its key");
    assert_eq!(add(&address, &bearer(PEM, RS256, "rsa")), 2);
}

#[test]
fn a_wrong_file_changes_nothing_and_is_told_by_name() {
    let (folder, mut process) = with_keys();
    let address = process.address();
    let (set, pem) = (folder.path().join("set.json"), folder.path().join("keys.pem"));
    let private = fs::read_to_string(key_file("ed25519.pem")).expect("text");
    let cut_off =
        ["p256.pub.pem", "ed25519.pub.pem"].map(|name| fs::read_to_string(key_file(name)).expect("text")).concat();
    let cut_off = &cut_off[..cut_off.len() - 40];
    let of_set = bearer(SET, ES256, "p256");
    let of_pem = bearer(PEM, EdDSA, "ed25519");
    let mut count = 0;
    for (file, contents, why) in [
        (&set, Some(""), "is no JSON Web Key Set"),
        (&set, Some(r#"{"keys": []}"#), "has no key to verify with"),
        (&set, Some(r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#), "has a shared secret"),
        (&set, None, "cannot be read: No such file"),
        (&pem, Some(""), "is no public key in PEM"),
        (&pem, Some(cut_off), "is cut off"),
        (&pem, Some(&private), "has a private key"),
        (&pem, None, "cannot be read: No such file"),
    ] {
        let before = fs::read(file).expect("the file");
        match contents {
            Some(contents) => fs::write(file, contents).expect("a file"),
            None => fs::remove_file(file).expect("a file"),
        }
        process.signal("HUP");
        let told = process.until("the issuer's keys stay as they were");
        assert!(told.contains("ERROR") && told.contains(why), "{why}: {told}");
        assert!(told.contains(file.to_str().expect("text")), "{told}");
        count += 1;
        assert_eq!((add(&address, &of_set), add(&address, &of_pem)), (count, count), "{why}");
        fs::write(file, before).expect("a file");
    }
}

#[test]
fn without_key_files_sighup_ends_nobody() {
    let mut process = Process::serve(Path::new(CONFIG), &[]);
    let address = process.address();
    process.signal("HUP");
    process.until("no file of keys");
    assert!(get(&address, "/health", "").starts_with("HTTP/1.1 200"));
}

#[test]
fn sighup_while_the_host_starts_is_followed_when_it_serves() {
    let (_folder, config, _cache) = cold();
    let mut process = Process::serve(&config, &[]);
    let id = process.child.id();
    until(|| handles(id, 1).then_some(()));
    process.signal("HUP");
    process.until("nobody is verified");
    process.until("no file of keys");
}
