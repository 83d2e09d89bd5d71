//! A function's access outside of its sandbox: nothing, except what `allow` grants.

use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, StatusCode, header},
    routing::{any, get, post},
};
use carrel_tests::{Caller, Server, TRAVELLER, Test};
use serde_json::{Value, json};
use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::net::TcpListener;
use tokio_rustls::{
    TlsAcceptor,
    rustls::{
        ServerConfig,
        crypto::aws_lc_rs,
        pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    },
};

/// The guest's findings.
async fn found(caller: &Caller, input: Value) -> Value {
    let output = caller.call(input).await.ok();
    assert_eq!(output.get("refused"), None, "{output}");
    output["found"].clone()
}

/// The reason why the guest found nothing.
async fn refused(caller: &Caller, input: Value) -> String {
    let output = caller.call(input).await.ok();
    assert_eq!(output.get("found"), None, "{output}");
    output["refused"].as_str().expect("text").to_owned()
}

fn traveller(server: &Server) -> Caller {
    server.user("alice").at("/it")
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_grant_there_is_nothing() {
    let site = Site::open().await;
    let server = Test::traveller().start().await;
    let alice = traveller(&server);
    let environment = found(&alice, json!({"try": "environment"})).await;
    assert_eq!(environment, json!({"variables": {}, "arguments": []}));
    for path in ["/", "/etc", ".", "/data"] {
        refused(&alice, json!({"try": "list", "path": path})).await;
    }
    refused(&alice, json!({"try": "read", "path": "/etc/passwd"})).await;
    assert_eq!(found(&alice, json!({"try": "change", "file": "/tmp/x", "folder": "/tmp"})).await, json!([]));
    for (scheme, authority) in [("http", site.address.as_str()), ("https", "example.com")] {
        assert_eq!(refused(&alice, send(scheme, authority, "/")).await, DENIED);
    }
    assert_eq!(site.asked(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_variables_that_are_granted_are_there_and_no_others() {
    let granted = json!({"environment": {"KEY": "one two=three", "EMPTY": ""}});
    let server = Test::traveller()
        .set("functions.it.allow", granted)
        .set("functions.other", json!({"_type": "traveller", "allow": {"environment": {"KEY": "another"}}}))
        .set("functions.none", json!({"_type": "traveller"}))
        .endpoint("/other", "other")
        .endpoint("/none", "none")
        .start()
        .await;
    for (path, variables) in [
        ("/it", json!({"KEY": "one two=three", "EMPTY": ""})),
        ("/other", json!({"KEY": "another"})),
        ("/none", json!({})),
    ] {
        let told = found(&server.user("alice").at(path), json!({"try": "environment"})).await;
        assert_eq!(told, json!({"variables": variables, "arguments": []}), "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_reads_when_it_is_set_up_is_its_own_functions() {
    let folder = tempfile::tempdir().expect("a folder");
    fs::write(folder.path().join("text"), "from the file").expect("a file");
    let keeps = |value: &str| {
        json!({
            "_type": "traveller", "variable": "KEY", "file": "/data/text",
            "allow": {"environment": {"KEY": value}, "folders": {"/data": folder.path()}},
        })
    };
    let variable =
        |value: &str| json!({"_type": "traveller", "variable": "KEY", "allow": {"environment": {"KEY": value}}});
    let server = Test::traveller()
        .set("functions.it", keeps("one"))
        .set("functions.other", keeps("two"))
        .set("functions.third", variable("three"))
        .endpoint("/other", "other")
        .endpoint("/third", "third")
        .start()
        .await;
    let there = json!("from the file");
    for user in ["alice", "bob"] {
        for (path, value, file) in
            [("/it", "one", &there), ("/other", "two", &there), ("/third", "three", &Value::Null)]
        {
            let caller = server.user(user).at(path);
            let kept = json!({"file": file, "variable": value, "answer": null});
            assert_eq!(found(&caller, json!({"try": "kept"})).await, kept, "{user} {path}");
            server.park().await;
            assert_eq!(found(&caller, json!({"try": "kept"})).await, kept, "{user} {path}, woken");
        }
    }
}

/// A folder that may be read, `granted`, beside a file that may not, `secret`, with links that lead out of it.
fn granted_folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    let granted = folder.path().join("granted");
    fs::create_dir_all(granted.join("below")).expect("a folder");
    fs::write(folder.path().join("secret"), "secret").expect("a file");
    fs::write(granted.join("text"), "text").expect("a file");
    fs::write(granted.join("below/deep"), "deep").expect("a file");
    for (target, link) in [
        (Path::new("../secret"), "relative"),
        (&folder.path().join("secret"), "absolute"),
        (Path::new(".."), "up"),
        (Path::new("/"), "root"),
        (Path::new("below/../../secret"), "around"),
        (Path::new("below/deep"), "inside"),
    ] {
        symlink(target, granted.join(link)).expect("a link");
    }
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_can_be_read_and_what_is_outside_of_it_cannot() {
    let folder = granted_folder();
    let test = Test::traveller().set("functions.it.allow.folders./data", json!(folder.path().join("granted")));
    let server = test.start().await;
    let alice = traveller(&server);
    for (path, text) in [
        ("/data/text", "text"),
        ("/data/below/deep", "deep"),
        ("/data/inside", "deep"),
        ("/data/below/../text", "text"),
    ] {
        assert_eq!(found(&alice, json!({"try": "read", "path": path})).await, text, "{path}");
    }
    assert_eq!(found(&alice, json!({"try": "list", "path": "/data/below"})).await, json!(["deep"]));
    let secret = folder.path().join("secret");
    for path in [
        "/data/../secret",
        "/data/below/../../secret",
        "/data/relative",
        "/data/absolute",
        "/data/around",
        "/data/up/secret",
        "/data/root/etc/passwd",
        "/etc/passwd",
        "/datatext",
        "../secret",
        "secret",
        secret.to_str().expect("text"),
    ] {
        refused(&alice, json!({"try": "read", "path": path})).await;
    }
    for path in ["/data/..", "/data/up", "/data/root", "/"] {
        refused(&alice, json!({"try": "list", "path": path})).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn names_that_are_no_unicode_are_left_out_of_a_listing_and_keep_nobody_from_the_others() {
    use std::{ffi::OsStr, os::unix::ffi::OsStrExt};
    // Alone, cut off, a surrogate, of another encoding; a file, a folder and a link.
    let wrong: [&[u8]; 5] = [b"\xff", b"caf\xc3", b"\xed\xa0\x80", b"caf\xe9", b"\x80.txt"];
    let right = ["a", "caf\u{e9}", "z", "\u{1f980}"];
    for only_wrong in [false, true] {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, number) in wrong.iter().zip(0..) {
            let path = folder.path().join(OsStr::from_bytes(name));
            match number {
                0 => fs::create_dir(path).expect("a folder"),
                1 => symlink("/nowhere", path).expect("a link"),
                _ => fs::write(path, "hidden").expect("a file"),
            }
        }
        let told: &[&str] = if only_wrong { &[] } else { &right };
        for name in told {
            fs::write(folder.path().join(name), "text").expect("a file");
        }
        let server = Test::traveller().set("functions.it.allow.folders./data", json!(folder.path())).start().await;
        let alice = traveller(&server);
        // Twice: the second listing begins anew.
        for _ in 0..2 {
            assert_eq!(found(&alice, json!({"try": "list", "path": "/data"})).await, json!(told));
        }
        for name in told {
            let path = format!("/data/{name}");
            assert_eq!(found(&alice, json!({"try": "read", "path": path})).await, "text", "{name}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_cannot_be_written_to() {
    let folder = granted_folder();
    let granted = folder.path().join("granted");
    let server = Test::traveller().set("functions.it.allow.folders./data", json!(granted)).start().await;
    let attack = json!({"try": "change", "file": "/data/text", "folder": "/data/below"});
    assert_eq!(found(&traveller(&server), attack).await, json!([]));
    assert_eq!(fs::read_to_string(granted.join("text")).expect("it is there"), "text");
    assert!(granted.join("below/deep").is_file() && !granted.join("below/new").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_stays_the_one_that_was_there_at_the_start() {
    let folder = granted_folder();
    let granted = folder.path().join("granted");
    let server = Test::traveller().set("functions.it.allow.folders./data", json!(granted)).start().await;
    fs::rename(&granted, folder.path().join("moved")).expect("moved");
    symlink("/etc", &granted).expect("a link");
    let alice = traveller(&server);
    assert_eq!(found(&alice, json!({"try": "read", "path": "/data/text"})).await, "text");
    refused(&alice, json!({"try": "read", "path": "/data/passwd"})).await;
}

const DENIED: &str = "ErrorCode::HttpRequestDenied";
const PROHIBITED: &str = "ErrorCode::DestinationIpProhibited";

fn send(scheme: &str, authority: &str, path: &str) -> Value {
    json!({"try": "send", "scheme": scheme, "authority": authority, "path": path})
}

/// A site on this machine.
struct Site {
    address: String,
    port: u16,
    asked: Arc<AtomicUsize>,
}

impl Site {
    async fn open() -> Self {
        let asked = Arc::new(AtomicUsize::new(0));
        let count = async |State(asked): State<Arc<AtomicUsize>>| asked.fetch_add(1, Ordering::SeqCst).to_string();
        let slow = async |State(asked): State<Arc<AtomicUsize>>| {
            asked.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(500)).await;
        };
        let app = Router::new()
            .route("/", any(count))
            .route("/slow", get(slow))
            .route("/never", get(std::future::pending::<()>))
            .route("/host", get(async |headers: HeaderMap| headers[header::HOST].to_str().expect("text").to_owned()))
            .route("/echo", post(async |body: Bytes| body))
            .route("/away", get(async || (StatusCode::FOUND, [(header::LOCATION, "http://example.com/")])))
            .with_state(asked.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        tokio::spawn(async move { axum::serve(listener, app).await });
        Self { address: address.to_string(), port: address.port(), asked }
    }

    /// Requests for `/` and `/slow` that have come.
    fn asked(&self) -> usize {
        self.asked.load(Ordering::SeqCst)
    }
}

/// A function that may call these places.
async fn calling(places: &[&str]) -> Server {
    Test::traveller().set("functions.it.allow.http", json!(places)).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_place_is_called_and_answers() {
    let site = Site::open().await;
    let server = calling(&[&format!("http://{}", site.address)]).await;
    let alice = traveller(&server);
    let answer = found(&alice, send("http", &site.address, "/host")).await;
    assert_eq!((&answer["status"], &answer["body"]), (&json!(200), &json!(site.address)));
    let body = "milk ".repeat(50_000);
    let mut echo = send("http", &site.address, "/echo?x=1");
    echo["method"] = "POST".into();
    echo["body"] = body.clone().into();
    assert_eq!(found(&alice, echo).await["body"], body);
    let away = found(&alice, send("http", &site.address, "/away")).await;
    assert_eq!((&away["status"], &away["headers"]["location"]), (&json!(302), &json!("http://example.com/")));
    let gone = found(&alice, send("http", &site.address, "/nowhere")).await;
    assert_eq!(gone["status"], 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_is_not_listed_is_denied() {
    let (site, other) = (Site::open().await, Site::open().await);
    let port = site.port;
    let server = calling(&[&format!("http://{}", site.address), &format!("*.example.org:{port}")]).await;
    let alice = traveller(&server);
    for (scheme, authority) in [
        ("http", other.address.clone()),
        ("https", site.address.clone()),
        ("ftp", site.address.clone()),
        ("http", "127.0.0.1".into()),
        ("http", format!("127.0.0.2:{port}")),
        ("http", format!("localhost:{port}")),
        ("http", format!("user@127.0.0.1:{port}")),
        ("http", format!("127.0.0.1:{port}@example.org")),
        ("http", format!("127.1:{port}")),
        ("http", format!("2130706433:{port}")),
        ("http", format!("0x7f.0.0.1:{port}")),
        ("http", format!("0177.0.0.1:{port}")),
        ("http", format!("127.0.0.1.:{port}")),
        ("http", format!("[::ffff:127.0.0.1]:{port}")),
        ("https", format!("example.org:{port}")),
        ("https", format!("notexample.org:{port}")),
        ("https", format!("a.example.org.evil.com:{port}")),
    ] {
        let why = refused(&alice, send(scheme, &authority, "/")).await;
        let known = why == DENIED || why == "ErrorCode::HttpProtocolError" || why == "the authority is not taken";
        assert!(known, "{scheme} {authority}: {why}");
    }
    let mut tunnel = send("http", &site.address, "/");
    tunnel["method"] = "CONNECT".into();
    assert_eq!(refused(&alice, tunnel).await, DENIED);
    assert_eq!((site.asked(), other.asked()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listed_name_that_stands_for_this_machine_is_not_called_unless_the_address_is_listed_too() {
    let site = Site::open().await;
    let name = format!("localhost:{}", site.port);
    let by_name = format!("http://{name}");
    let server = calling(&[&by_name, "http://127.0.0.1:1"]).await;
    assert_eq!(refused(&traveller(&server), send("http", &name, "/")).await, PROHIBITED);
    assert_eq!(site.asked(), 0);
    let server = calling(&[&by_name, &format!("http://{}", site.address)]).await;
    assert_eq!(found(&traveller(&server), send("http", &name, "/host")).await["body"], name);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificate_that_nobody_vouches_for_is_not_taken() {
    let pem = |file: &str| fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("../tests/all/tls").join(file));
    let chain = CertificateDer::from_pem_slice(&pem("certificate.pem").expect("a file")).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(&pem("key.pem").expect("a file")).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(aws_lc_rs::default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![chain], key)
        .expect("a certificate and its key");
    let acceptor = TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
    let address = listener.local_addr().expect("an address").to_string();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            assert!(acceptor.accept(stream).await.is_err(), "the certificate was taken");
        }
    });
    let plain = Site::open().await;
    let server = calling(&[&address, &plain.address]).await;
    let alice = traveller(&server);
    assert_eq!(refused(&alice, send("https", &address, "/")).await, "ErrorCode::TlsCertificateError");
    assert_eq!(refused(&alice, send("https", &plain.address, "/")).await, "ErrorCode::TlsProtocolError");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_place_that_does_not_answer_holds_a_call_up_no_longer_than_its_deadline() {
    let site = Site::open().await;
    let place = format!("http://{}", site.address);
    let test = Test::traveller().set("functions.it.allow.http", json!([place])).set("limits.deadline", "300ms");
    let server = test.start().await;
    let alice = traveller(&server);
    alice.call(send("http", &site.address, "/never")).await.error(504, "deadline_exceeded");
    assert_eq!(found(&alice, send("http", &site.address, "/")).await["status"], 200);
    let closed = TcpListener::bind("127.0.0.1:0").await.expect("a free port").local_addr().expect("an address");
    let server = calling(&[&format!("http://{closed}")]).await;
    let why = refused(&traveller(&server), send("http", &closed.to_string(), "/")).await;
    assert_eq!(why, "ErrorCode::ConnectionRefused");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_has_only_so_many_requests_under_way() {
    let site = Site::open().await;
    let server = calling(&[&format!("http://{}", site.address)]).await;
    let alice = traveller(&server);
    let flood = json!({"try": "flood", "times": 20, "authority": site.address});
    let came = found(&alice, flood).await;
    let came: Vec<_> = came.as_array().expect("a list").iter().map(|it| it.as_str().expect("text")).collect();
    assert_eq!(came.iter().filter(|it| **it == "answered").count(), 16, "{came:?}");
    assert_eq!(came.iter().filter(|it| **it == "ErrorCode::ConnectionLimitReached").count(), 4, "{came:?}");
    assert_eq!(found(&alice, send("http", &site.address, "/")).await["status"], 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_waits_for_an_answer_is_not_parked() {
    let site = Site::open().await;
    let server = calling(&[&format!("http://{}", site.address)]).await;
    let (alice, bob) = (traveller(&server), server.user("bob").at("/it"));
    found(&alice, json!({"try": "leave", "authority": site.address})).await;
    found(&bob, send("http", &site.address, "/")).await;
    assert_eq!(server.park().await, 1, "bob holds nothing any more");
    found(&alice, json!({"try": "kept"})).await;
    found(&bob, json!({"try": "kept"})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_place_answers_when_a_guest_is_set_up_is_not_shared() {
    let site = Site::open().await;
    let server = Test::traveller()
        .set("functions.it.place", json!(site.address))
        .set("functions.it.allow.http", json!([format!("http://{}", site.address)]))
        .start()
        .await;
    let mut answers = Vec::new();
    for user in ["alice", "bob", "alice"] {
        answers.push(found(&server.user(user).at("/it"), json!({"try": "kept"})).await["answer"].clone());
    }
    assert_eq!(answers[0], answers[2]);
    assert_ne!(answers[0], answers[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_keeps_of_a_request_is_bounded() {
    let server = Test::traveller().start().await;
    let alice = traveller(&server);
    assert_eq!(found(&alice, json!({"try": "swell", "bytes": 9000})).await, json!(["method", "authority", "path"]));
    assert_eq!(found(&alice, json!({"try": "swell", "bytes": 8000})).await, json!([]));
}

/// The binary's output for a configuration.
fn told(command: &str, test: &Test) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    fs::create_dir(folder.path().join("reference")).expect("a folder");
    fs::write(folder.path().join("file"), "").expect("a file");
    fs::write(folder.path().join("config.yml"), test.text()).expect("a file");
    let mut carrel = Command::new(env!("CARGO_BIN_EXE_carrel"));
    carrel.args([command, "--config_file=config.yml"]).current_dir(folder.path()).env("SECRET", "a secret");
    let done = carrel.output().expect("the binary runs");
    String::from_utf8([done.stdout, done.stderr].concat()).expect("text")
}

#[test]
fn what_is_granted_is_listed_without_the_values() {
    let granted = json!({
        "environment": {"KEY": "${SECRET}"}, "folders": {"/data": "reference"},
        "http": ["api.example.com", "*.example.org:8443", "http://127.0.0.1:9000"],
    });
    let info = told("info", &Test::traveller().set("functions.it.allow", granted));
    assert!(info.contains("\n  it: traveller {}\n    may use environment KEY\n"), "{info}");
    assert!(info.contains("\n    may use folders /data (read-only: reference)\n"), "{info}");
    let places = "https://api.example.com, https://*.example.org:8443, http://127.0.0.1:9000";
    assert!(info.contains(&format!("\n    may use http {places}\n")), "{info}");
    assert!(!info.contains("a secret"), "{info}");
}

#[test]
fn a_grant_that_makes_no_sense_is_refused_with_its_line() {
    let granted = json!({
        "environment": {"A=B": "a secret", "NUMBER": 12345},
        "folders": {"data": "reference", "/up/../data": "reference", "/file": "file", "/missing": "missing"},
        "http": ["api.example.com/path", "127.1", "*.com"],
        "enviroment": {},
    });
    let told = told("validate", &Test::traveller().set("functions.it.allow", granted));
    let allow = "functions.it.allow";
    for expected in [
        format!("{allow}.environment.A=B: is no name"),
        format!("{allow}.environment.NUMBER: must be text\n  put the value in quotes"),
        format!("{allow}.folders.data: is no path for a guest"),
        format!("{allow}.folders./up/../data: is no path for a guest"),
        format!("{allow}.folders./file: file cannot be opened: "),
        format!("{allow}.folders./missing: missing cannot be opened: "),
        format!("{allow}.http.0: must be a host"),
        format!("{allow}.http.1: must be a host"),
        format!("{allow}.http.2: has less than two parts"),
        format!("{allow}.enviroment: unknown key\n  did you mean `environment`?"),
    ] {
        let line = told.lines().position(|line| line.contains(expected.lines().next().expect("a line")));
        assert!(line.is_some() && told.contains(&expected), "{expected:?} is not in\n{told}");
    }
    let problems: Vec<_> = told.lines().filter(|line| !line.starts_with("  ")).collect();
    let with_line = |line: &&str| line.trim_start_matches("error: ").starts_with("config.yml:");
    assert!(problems.len() == 10 && problems.iter().all(with_line), "{told}");
    assert!(!told.contains("a secret") && !told.contains("12345"), "{told}");
}

#[tokio::test]
async fn a_misspelt_allow_is_told() {
    let told = Test::traveller().set("functions.it.alow", json!({})).refused().await;
    assert!(told.contains("functions.it.alow: unknown key\n  did you mean `allow`?"), "{told}");
    assert!(Path::new(TRAVELLER).is_file());
}
