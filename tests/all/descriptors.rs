//! Descriptors and listings: the files and connections that guests hold are bounded, and callers get theirs.

use crate::served::Served;
use axum::{body::Body, http::Request};
use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};
use std::{fs, net::TcpStream};
use tower::ServiceExt;

/// A folder with files, the first of which is `0`, and a guest that may read it.
fn granting(files: usize) -> (tempfile::TempDir, Test) {
    let folder = tempfile::tempdir().expect("a folder");
    for number in 0..files {
        fs::write(folder.path().join(number.to_string()), vec![b'x'; 100 << 10]).expect("a file");
    }
    let test = Test::traveller().set("functions.it.allow.folders./data", json!(folder.path()));
    (folder, test)
}

/// The guest's report: the number of successes, and the reason why there were no more.
async fn found(caller: &Caller, input: Value) -> (u64, Value) {
    let output = caller.call(input).await.ok();
    let found = output["found"].as_array().unwrap_or_else(|| panic!("{output}")).clone();
    (found[0].as_u64().expect("a number"), found[1].clone())
}

fn open(times: usize) -> Value {
    json!({"try": "open", "path": "0", "times": times})
}

const NO_MORE: &str = "insufficient-memory";

fn user(server: &Server, name: &str) -> Caller {
    server.user(name).at("/it")
}

#[test]
fn guests_that_keep_files_open_leave_callers_their_connections() {
    let (_folder, test) = granting(1);
    let test = test.set("limits.user.open_files", 240).set("limits.memory_per_instance", "256 MiB");
    let served = Served::start("ulimit -n 1024;", &test);
    assert!(served.said().contains("`limits.open_files` 240 files to guests"), "{}", served.said());
    let mut opened = 0;
    for user in 0..8 {
        // With its stream each is two handles, of which an instance has 250.
        let answer = served.call("/it", &format!("user {user}"), &open(110));
        let body: Value = serde_json::from_str(answer.lines().last().expect("a body")).expect("JSON");
        opened += body["found"][0].as_u64().unwrap_or_else(|| panic!("{answer}"));
    }
    assert_eq!(opened, 240);
    assert_eq!(served.figure("carrel_open_files_limit"), 240);
    assert_eq!(served.figure("carrel_open_files"), 240);
    let kept: Vec<_> = (0..600).map(|_| served.connect(b"")).collect();
    let answer = served.call("/generate", "alice", &json!({"command": "stats"}));
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert_eq!(kept.iter().filter(|it| TcpStream::peer_addr(it).is_ok()).count(), 600);
    assert!(!served.said().contains("no file descriptor"), "{}", served.said());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_user_a_tenant_and_all_guests_have_only_so_many_files_open() {
    let (_folder, test) = granting(1);
    let test = test
        .set("limits.user.open_files", 4)
        .set("limits.open_files", 9)
        .tenant("one", 1, 3)
        .tenant("two", 1, 3)
        .set("tenants.one.limits.tenant.open_files", 6);
    let server = test.start().await;
    let one = |number| server.user_of("one", number).at("/it");
    let two = |number| server.user_of("two", number).at("/it");
    assert_eq!(found(&one(0), open(10)).await, (4, NO_MORE.into()), "a user");
    assert_eq!(found(&one(1), open(10)).await, (2, NO_MORE.into()), "a tenant");
    assert_eq!(found(&two(0), open(10)).await, (3, NO_MORE.into()), "all");
    // Guests at the bound are not stopped, and keep the files that they hold.
    assert_eq!(found(&two(1), open(1)).await, (0, NO_MORE.into()));
    one(0).call(json!({"try": "close", "streams_stay": true})).await.ok();
    assert_eq!(found(&two(1), open(1)).await, (0, NO_MORE.into()), "a stream keeps its file open");
    one(0).call(json!({"try": "close", "streams_stay": false})).await.ok();
    assert_eq!(found(&two(1), open(10)).await, (4, NO_MORE.into()), "what is closed is others' at once");
    let metrics = server.get("/metrics").await.text().to_owned();
    assert!(metrics.contains("carrel_open_files 9\n"), "{metrics}");
    assert!(metrics.contains("carrel_tenant_open_files{tenant=\"two\"} 7\n"), "{metrics}");
    // Instances that go give back what they have.
    for user in server.host.registry().users() {
        for tenant in ["one", "two"] {
            let request = Request::delete(format!("/sessions/{tenant}/{user}")).header("host", "localhost");
            let operator = carrel::http::admin(server.host.clone());
            operator.oneshot(request.body(Body::empty()).expect("a request")).await.expect("an answer");
        }
    }
    assert_eq!(server.host.registry().open_files(), (0, 9));
}

#[tokio::test(flavor = "multi_thread")]
async fn listings_take_a_descriptor_each_and_memory_that_does_not_grow_with_the_folder() {
    let (folder, test) = granting(0);
    for number in 0..5000 {
        fs::write(folder.path().join(format!("{number:0200}")), "").expect("a file");
    }
    let server = test.set("limits.user.open_files", 150).set("limits.memory_per_instance", "16 MiB").start().await;
    let alice = user(&server, "alice");
    assert_eq!(alice.call(json!({"try": "count"})).await.ok()["found"], 5000, "all are told");
    let before = server.held().bytes;
    assert_eq!(found(&alice, json!({"try": "peek", "times": 100})).await, (100, Value::Null));
    let listings = server.held().bytes - before;
    assert!((100 * (16 << 10)..100 * (64 << 10)).contains(&listings), "{listings} bytes count");
    assert_eq!(server.host.registry().open_files().0, 100);
    assert_eq!(found(&alice, json!({"try": "peek", "times": 100})).await, (50, NO_MORE.into()));
    alice.call(json!({"try": "close", "streams_stay": false})).await.ok();
    assert_eq!(server.host.registry().open_files().0, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_handles_hold_is_bounded_by_the_users_memory() {
    let (_folder, test) = granting(1);
    let server = test.set("limits.user.memory", "4 MiB").start().await;
    let alice = user(&server, "alice");
    let (opened, why) = found(&alice, open(100)).await;
    // A stream may hold 64 KiB that were read.
    assert!((20..64).contains(&opened) && why == NO_MORE, "{opened} {why}");
    let (peeked, why) = found(&user(&server, "bob"), json!({"try": "peek", "times": 100})).await;
    assert!(peeked == 64 && why == NO_MORE, "{peeked} {why}");
    found(&alice, json!({"try": "open", "path": "0", "times": 0})).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_there_takes_no_descriptor() {
    let (_folder, test) = granting(1);
    let server = test.set("limits.user.open_files", 2).start().await;
    let alice = user(&server, "alice");
    for _ in 0..5 {
        let missing = found(&alice, json!({"try": "open", "path": "missing", "times": 1})).await;
        assert_eq!(missing, (0, "no-entry".into()));
    }
    assert_eq!(found(&alice, open(3)).await, (2, NO_MORE.into()));
}
