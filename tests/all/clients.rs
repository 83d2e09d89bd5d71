//! Other people's clients against a listening host: curl, Python, Node and Java, each with cookies as it keeps them, its
//! own way to read a stream, and a body that is too large.
//!
//! Their programs are in `tests/clients`. Each prints one line of JSON, of the same form, which [`is_right`] checks.
//! Packages from registries have fixed versions, and are kept beside the build. A client whose language is missing is
//! left out: always for Java, and for the others unless this is CI.

use super::description::{run, venv};
use carrel_tests::{Server, Test};
use serde_json::{Value, json};
use std::{
    fs,
    io::{self, BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    time::Instant,
};

/// Not with the machine's own `requests`, whose version differs from machine to machine.
const PYTHON: [&str; 5] =
    ["requests==2.34.2", "certifi==2026.10.19.post1", "charset-normalizer==3.5.2", "idna==3.20", "urllib3==2.8.0"];
/// The newest version that Node 18 runs, and its dependency.
const NODE: [&str; 2] = ["eventsource@3.0.7", "eventsource-parser@3.1.1"];
/// The pause in a stream, in milliseconds.
const PAUSE: u64 = 600;

/// A host that gives everybody a cookie, and has a stream for those who cannot send a body.
async fn server() -> Server {
    let counts = json!({"path": "/it", "method": "GET", "description": "", "function_name": "it"});
    let mut test = Test::hostile()
        .set("identity.cookies", json!({"secrets": ["a secret of the tests, for all to see"], "anonymous": "default"}))
        .set("guests", json!([carrel_tests::HOSTILE, Test::fixture_file("globals")]))
        .set("functions.it", json!({"_type": "globals"}));
    let hostile = json!({"path": "/hostile", "method": "POST", "description": "", "function_name": "hostile"});
    test = test.set("general.front_end.endpoints", json!([hostile, counts]));
    test.start().await
}

/// The orders for the function of the stream: some events, a pause, and some more.
fn stream() -> String {
    let emit = |chunks: u64| json!({"do": "emit", "chunks": chunks, "bytes": 3});
    json!({"do": "all", "of": [emit(3), {"do": "sleep", "milliseconds": PAUSE}, emit(2)]}).to_string()
}

/// True if the machine has a program. CI has to have it.
fn has(program: &str, argument: &str) -> bool {
    let found = Command::new(program).arg(argument).stdout(Stdio::null()).stderr(Stdio::null()).status();
    let found = found.is_ok_and(|status| status.success());
    let optional = program.starts_with("java");
    assert!(found || optional || std::env::var_os("CI").is_none(), "CI has to have {program}");
    if !found {
        not_tested(&format!("clients of {program}, which this machine does not have"));
    }
    found
}

/// Reports a skipped test on stdout directly: output printed in a test that succeeds is not shown.
pub(super) fn not_tested(what: &str) {
    writeln!(io::stdout(), "NOT TESTED: {what}").expect("stdout");
}

fn script(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/clients").join(name)
}

/// Lets a client call a host, and returns the client's report.
async fn met(name: &'static str, client: impl FnOnce(&str) -> Value + Send + 'static) -> Value {
    let server = server().await;
    let listening = server.listen().await;
    let address = format!("http://{}", listening.address);
    let began = Instant::now();
    let seen =
        tokio::task::spawn_blocking(move || client(&address)).await.unwrap_or_else(|error| panic!("{name}: {error}"));
    println!("{name}: {:.1} s", began.elapsed().as_secs_f64());
    is_right(name, &seen);
    server.until_idle().await;
    listening.stop().await.expect("no panic");
    seen
}

/// The last line that a program prints, which is JSON; Node may warn of itself before that.
fn told(command: &mut Command) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let said = run(command, folder.path());
    let last = said.trim_end().lines().next_back().unwrap_or_default();
    serde_json::from_str(last).unwrap_or_else(|error| panic!("{command:?}: {error}\n{said}"))
}

#[track_caller]
fn is_right(client: &str, seen: &Value) {
    assert_eq!(seen["notes"], json!([["milk 0", "bread 0"], ["milk 1", "bread 1"]]), "{client}: {seen}");
    let events: Vec<_> = ["0xxx", "1xxx", "2xxx", "0xxx", "1xxx"].iter().map(|text| format!("\"{text}\"")).collect();
    let (last, before) = seen["events"].as_array().and_then(|events| events.split_last()).expect("events");
    assert_eq!(before, events, "{client}: {seen}");
    assert!(last.as_str().is_some_and(|last| last.starts_with(r#"{"calls":1,"#)), "{client}: {seen}");
    let times: Vec<_> = seen["times"].as_array().into_iter().flatten().filter_map(Value::as_u64).collect();
    assert!(
        times.len() == 6 && times[3] >= times[2] + PAUSE / 2,
        "{client} got the events when all were there: {seen}"
    );
    for large in seen["large"].as_array().expect("answers") {
        assert_eq!(large, &json!([413, "body_too_large", "body_too_large"]), "{client}: {seen}");
    }
    assert!(seen["large"].as_array().is_some_and(|large| large.len() >= 2), "{client}: {seen}");
    assert!(seen["ended"][0] == 204, "{client}: {seen}");
    assert_eq!(seen["ended"][1], 401, "{client} sent a cookie that the host has taken back: {seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn curl_keeps_its_session_reads_streams_and_is_told_that_a_body_is_too_large() {
    if has("curl", "--version") {
        met("curl", curl).await;
    }
}

/// The tour of the other clients, with a file of cookies for each user.
fn curl(address: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let (head, large) = (folder.path().join("head"), folder.path().join("large"));
    fs::write(&large, format!("\"{}\"", "x".repeat(6 << 20))).expect("a file");
    let curl = |user: usize, path: &str, arguments: &[&str]| {
        let jar = folder.path().join(format!("cookies {user}"));
        let mut curl = Command::new("curl");
        curl.args(["-sSN", "--max-time", "60", "-H", "Content-Type: application/json", "-b"])
            .arg(&jar)
            .arg("-c")
            .arg(&jar);
        curl.arg("-D").arg(&head).args(arguments).arg(format!("{address}{path}"));
        curl.stdin(Stdio::null());
        curl
    };
    let ask = |user: usize, path: &str, arguments: &[&str]| {
        let done = curl(user, path, arguments).output().expect("curl runs");
        assert!(done.status.success(), "{}: {}", done.status, String::from_utf8_lossy(&done.stderr));
        // Interim answers have a head before the answer's own.
        let head = fs::read_to_string(&head).expect("text");
        let head = head.trim_end().rsplit("\r\n\r\n").next().expect("a head").to_owned();
        let status: u16 = head.get(9..12).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"));
        let code = head.lines().find_map(|line| line.strip_prefix("carrel-error: ")).map(str::to_owned);
        (status, code, serde_json::from_slice::<Value>(&done.stdout).unwrap_or_default())
    };
    let note = |user: usize, action: &str, text: &str| {
        let input = json!({"command": "note", "action": action, "param1": text}).to_string();
        ask(user, "/generate", &["-d", &input]).2["data"]["notes"].take()
    };
    for user in 0..2 {
        assert_eq!(ask(user, "/session", &["-X", "POST"]).0, 200);
    }
    for text in ["milk", "bread"] {
        for user in 0..2 {
            note(user, "add", &format!("{text} {user}"));
        }
    }
    let (mut events, mut times, begun) = (Vec::new(), Vec::new(), Instant::now());
    let mut reading = curl(0, "/hostile/stream", &["-d", &stream()]).stdout(Stdio::piped()).spawn().expect("curl runs");
    for line in BufReader::new(reading.stdout.take().expect("a pipe")).lines() {
        if let Some(data) = line.expect("text").strip_prefix("data: ") {
            events.push(serde_json::from_str::<Value>(data).expect("JSON")["value"].take());
            times.push(begun.elapsed().as_millis() as u64);
        }
    }
    assert!(reading.wait().expect("it ends").success());
    // By itself curl asks before it sends so much; what does not ask is sent anyway.
    let body = format!("@{}", large.display());
    let ways: [&[&str]; 3] = [&[], &["-H", "Expect:"], &["-H", "Expect:", "-H", "Transfer-Encoding: chunked"]];
    let large = ways.map(|way| {
        let (status, code, body) = ask(0, "/generate", &[way, &["--data-binary", &body]].concat());
        json!([status, code, body["code"]])
    });
    let notes = [note(0, "list", ""), note(1, "list", "")];
    let ended = ask(0, "/session", &["-X", "DELETE"]).0;
    let after = ask(0, "/generate", &["-d", r#"{"command":"stats"}"#]).0;
    json!({"notes": notes, "events": events, "times": times, "large": large, "ended": [ended, after]})
}

#[tokio::test(flavor = "multi_thread")]
async fn python_does_with_requests_and_with_its_standard_library() {
    let log = tempfile::tempdir().expect("a folder");
    if !has("python3", "--version") {
        return;
    }
    let programs = venv(&PYTHON, log.path());
    for kind in ["requests", "stdlib"] {
        let python = programs.join("python");
        met(kind, move |address| told(Command::new(python).arg(script("client.py")).args([kind, address, &stream()])))
            .await;
    }
}

/// The folder of packages for Node; they are fetched if they are not there yet.
fn packages() -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(NODE.join("_"));
    let ready = folder.join("ready");
    if !ready.exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder");
        let mut npm = Command::new("npm");
        npm.args(["install", "--no-audit", "--no-fund", "--no-save", "--loglevel=error", "--prefix"]).arg(&folder);
        run(npm.args(NODE), &folder);
        fs::write(ready, "").expect("a mark");
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn node_does_and_its_event_source_does_not_run_a_function_again() {
    if !has("node", "--version") || !has("npm", "--version") {
        return;
    }
    let packages = packages();
    let seen = met("node", move |address| {
        told(Command::new("node").arg(script("client.mjs")).args([address, &stream()]).arg(packages))
    })
    .await;
    let source = &seen["source"];
    assert_eq!(source["requests"], json!([200, 204]), "once for the stream, and once to be told that this was all");
    assert_eq!(source["data"].as_array().map(Vec::len), Some(1), "{source}");
    // The function testifies: it had run once before it was asked in another way.
    assert!(source["data"][0].as_str().is_some_and(|it| it.starts_with(r#"{"count":1,"#)), "{source}");
    let again: Value = serde_json::from_str(seen["counted"].as_str().expect("an answer")).expect("JSON");
    assert_eq!(again["count"], 2, "{seen}");
}

#[tokio::test(flavor = "multi_thread")]
async fn java_does_with_its_new_client_and_with_its_old_one() {
    // A runtime alone does not run a source.
    let folder = tempfile::tempdir().expect("a folder");
    if !has("java", "-version") || !has("javac", "-version") {
        return;
    }
    let mut javac = Command::new("javac");
    run(javac.arg("-d").arg(folder.path()).arg(script("Client.java")), folder.path());
    for kind in ["new", "old"] {
        let classes = folder.path().to_owned();
        met(kind, move |address| {
            told(Command::new("java").arg("-cp").arg(classes).args(["Client", kind, address, &stream()]))
        })
        .await;
    }
}
