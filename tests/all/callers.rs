//! Hostile callers: the bytes they send, and how. Silent connections are in `connections`.

use super::hostile::{alone, resident};
use carrel_tests::{Server, Test};
use serde_json::json;
use std::{
    net::SocketAddr,
    time::{Duration, Instant},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// No answer of these tests takes longer, on however slow a machine.
const ANSWERED: Duration = Duration::from_secs(20);

/// The last request on each connection: whoever gets that far is answered with a 404.
const END: &[u8] = b"GET /end HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

/// Sends bytes and [`END`], and reads what comes back until the host closes the connection.
async fn sent(address: SocketAddr, bytes: &[u8]) -> String {
    let (mut read, mut write) = TcpStream::connect(address).await.expect("a connection").into_split();
    let bytes = [bytes, END].concat();
    // A host that refuses early does not read the rest.
    let sending = tokio::spawn(async move {
        let _ = write.write_all(&bytes).await;
        write
    });
    let mut answer = Vec::new();
    let _ = timeout(ANSWERED, read.read_to_end(&mut answer)).await.expect("the host does not hang");
    drop(sending.await);
    String::from_utf8_lossy(&answer).into_owned()
}

/// The statuses of all answers on a connection. No body of these tests has `HTTP/1.1` in it.
fn statuses(answer: &str) -> Vec<u16> {
    answer.split("HTTP/1.1 ").skip(1).map(|rest| rest[..3].parse().expect("a status")).collect()
}

const CALL: &str =
    "POST /generate HTTP/1.1\r\nhost: x\r\ncookie: nat-session=mallory\r\ncontent-type: application/json\r\n";
const STATS: &str = "{\"command\":\"stats\"}";

/// Commands that the server has run for mallory, and this one.
async fn commands(server: &Server) -> u64 {
    let stats = server.user("mallory").call(json!({"command": "stats"})).await.ok();
    stats["data"]["commands_executed"].as_u64().expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn no_request_is_hidden_in_another() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    // Bytes that another server would take for a separate request.
    let hidden = format!("{CALL}content-length: {}\r\n\r\n{STATS}", STATS.len());
    let long = STATS.len() + hidden.len();
    let chunk = format!("{:x}\r\n{STATS}\r\n0\r\n\r\n", STATS.len());
    let short = STATS.len();
    for (name, attack, answers) in [
        (
            "two lengths",
            format!("{CALL}content-length: {short}\r\ncontent-length: {long}\r\n\r\n{STATS}{hidden}"),
            vec![400],
        ),
        ("a list of lengths", format!("{CALL}content-length: {short}, {long}\r\n\r\n{STATS}{hidden}"), vec![400]),
        ("a length with a sign", format!("{CALL}content-length: +{short}\r\n\r\n{STATS}{hidden}"), vec![400]),
        ("a length below nothing", format!("{CALL}content-length: -1\r\n\r\n{hidden}"), vec![400]),
        ("a length beyond all", format!("{CALL}content-length: 99999999999999999999999\r\n\r\n{hidden}"), vec![400]),
        ("another encoding", format!("{CALL}transfer-encoding: gzip\r\n\r\n{hidden}"), vec![400]),
        ("chunked, and more", format!("{CALL}transfer-encoding: chunked, identity\r\n\r\n{chunk}{hidden}"), vec![400]),
        ("a space before the colon", format!("{CALL}content-length : {long}\r\n\r\n{STATS}{hidden}"), vec![400]),
        ("a name that is none", format!("{CALL}content\u{0}length: 5\r\n\r\n{hidden}"), vec![400]),
        ("a line that goes on", format!("{CALL}x: a\r\n content-length: {long}\r\n\r\n{hidden}"), vec![400]),
        ("a return in a value", format!("{CALL}x: a\rcontent-length: {long}\r\n\r\n{hidden}"), vec![400]),
        ("no length of a chunk", format!("{CALL}transfer-encoding: chunked\r\n\r\nxyz\r\n{hidden}"), vec![400]),
        (
            "a chunk beyond all",
            format!("{CALL}transfer-encoding: chunked\r\n\r\nfffffffffffffffff\r\n{hidden}"),
            vec![400],
        ),
    ] {
        let before = commands(&server).await;
        let answer = sent(listening.address, attack.as_bytes()).await;
        assert_eq!(statuses(&answer), answers, "{name}: {answer}");
        assert_eq!(commands(&server).await, before + 1, "{name}: {answer}");
    }
    // A length besides the chunks: the chunks count, and the connection ends with them, as the standard has it.
    let both = format!("{CALL}content-length: {long}\r\ntransfer-encoding: chunked\r\n\r\n{chunk}{hidden}");
    let before = commands(&server).await;
    let answer = sent(listening.address, both.as_bytes()).await;
    assert_eq!(statuses(&answer), [200], "{answer}");
    assert_eq!(commands(&server).await, before + 2, "{answer}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_only_odd_is_answered_once() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let length = STATS.len();
    for (name, request) in [
        (
            "extensions of chunks",
            format!("{CALL}transfer-encoding: chunked\r\n\r\n{length:x};a=\"b\";c\r\n{STATS}\r\n0\r\n\r\n"),
        ),
        (
            "trailers",
            format!("{CALL}transfer-encoding: chunked\r\n\r\n{length:x}\r\n{STATS}\r\n0\r\ncontent-length: 5\r\n\r\n"),
        ),
        ("the same length twice", format!("{CALL}content-length: {length}\r\ncontent-length: {length}\r\n\r\n{STATS}")),
        ("bare line feeds", format!("{CALL}content-length: {length}\r\n\r\n{STATS}").replace("\r\n", "\n")),
        ("spaces around a length", format!("{CALL}content-length:   {length}  \r\n\r\n{STATS}")),
    ] {
        let before = commands(&server).await;
        let answer = sent(listening.address, request.as_bytes()).await;
        let answers = statuses(&answer);
        assert!(matches!(answers[..], [200, 404] | [400]), "{name}: {answer}");
        assert_eq!(commands(&server).await - before - 1, u64::from(answers != [400]), "{name}: {answer}");
    }
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_that_come_all_at_once_are_answered_in_their_order() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let one = format!("{CALL}content-length: {}\r\n\r\n{STATS}", STATS.len());
    let answer = sent(listening.address, one.repeat(200).as_bytes()).await;
    let counts: Vec<u64> = answer
        .split("\"commands_executed\":")
        .skip(1)
        .map(|rest| rest.split('}').next().and_then(|count| count.parse().ok()).expect("a count"))
        .collect();
    assert_eq!(counts, (1..=200).collect::<Vec<_>>());
    // A broken request ends the connection, and nothing after it is read.
    let answer = sent(listening.address, format!("{one}GARBAGE\r\n\r\n{one}").as_bytes()).await;
    assert_eq!(statuses(&answer), [200, 400], "{answer}");
    assert_eq!(commands(&server).await, 202);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn other_protocols_are_refused() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    for hello in [
        &b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0"[..],
        b"\x16\x03\x01\x02\0\x01\0\x01\xfc\x03\x03",
        b"GET /health HTTP/3.0\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.9\r\n",
        b"\0\0\0\0",
    ] {
        let answer = sent(listening.address, hello).await;
        assert!(matches!(statuses(&answer)[..], [] | [400]), "{answer}");
    }
    assert_eq!(server.get("/health").await.status, 200);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_headers_are_refused_and_large_ones_are_not() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let get = |headers: String| format!("GET /health HTTP/1.1\r\nhost: x\r\n{headers}\r\n");
    let many = |count: usize| (0..count).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    for (headers, status) in [
        (format!("cookie: nat-session={}\r\n", "x".repeat(30_000)), 200),
        (format!("cookie: nat-session={}\r\n", "x".repeat(300_000)), 431),
        (format!("cookie: {}\r\n", "a=b; ".repeat(50_000)), 431),
        (format!("{}: x\r\n", "x".repeat(300_000)), 431),
        (many(50), 200),
        (many(20_000), 431),
    ] {
        let answer = sent(listening.address, get(headers).as_bytes()).await;
        let answers = statuses(&answer);
        assert!(answers == [status] || answers == [status, 404], "{answer}");
    }
    let path = format!("GET /{} HTTP/1.1\r\nhost: x\r\n\r\n", "x".repeat(200_000));
    let answer = sent(listening.address, path.as_bytes()).await;
    assert!(matches!(statuses(&answer)[..], [] | [414 | 431]), "{answer}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_comes_slowly_is_not_waited_for_and_holds_up_nobody() {
    let server = Test::new().set("limits.deadline", "300ms").start().await;
    let listening = server.listen().await;
    let slow: Vec<_> = (0..50)
        .map(|_| {
            let address = listening.address;
            tokio::spawn(async move {
                let mut stream = TcpStream::connect(address).await.expect("a connection");
                let begun = format!("{CALL}content-length: 1000\r\n\r\n{{");
                stream.write_all(begun.as_bytes()).await.expect("sent");
                let mut answer = vec![0; 4096];
                let read = timeout(ANSWERED, stream.read(&mut answer)).await.expect("an answer").expect("read");
                String::from_utf8_lossy(&answer[..read]).into_owned()
            })
        })
        .collect();
    let mut answered = 0;
    while slow.iter().any(|call| !call.is_finished()) {
        server.user("alice").call(json!({"command": "stats"})).await.ok();
        answered += 1;
        tokio::task::yield_now().await;
    }
    for call in slow {
        let answer = call.await.expect("no panic");
        assert!(answer.starts_with("HTTP/1.1 408") && answer.contains("body_too_slow"), "{answer}");
    }
    assert!(answered > 10, "{answered}");
    assert_eq!(server.host.registry().in_use(), 0);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_hangs_up_in_mid_call_leaves_no_call_half_way() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let alice = server.user("mallory").at("/hostile");
    alice.call(json!({"do": "count"})).await.ok();
    let body =
        json!({"do": "all", "of": [{"do": "take", "bytes": 1_000_000}, {"do": "sleep", "milliseconds": 60_000}]})
            .to_string();
    for n in 0..10 {
        let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
        let request = format!("{}content-length: {}\r\n\r\n{body}", CALL.replace("/generate", "/hostile"), body.len());
        stream.write_all(request.as_bytes()).await.expect("sent");
        server.until_in_use(1).await;
        // Without a reset it takes the host a while to find out.
        if n > 2 {
            stream.set_zero_linger().expect("a reset");
        }
        drop(stream);
        let ended = async {
            while server.host.registry().in_use() > 0 {
                tokio::task::yield_now().await;
            }
        };
        timeout(ANSWERED, ended).await.expect("the call ends with its caller");
    }
    let holds = alice.call(json!({"do": "holds"})).await.ok();
    assert_eq!((&holds["calls"], &holds["said"]["kept"]), (&json!(2), &json!(0)), "{holds}");
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn callers_with_a_new_cookie_each_time_take_no_more_than_there_is() {
    if !alone("callers::callers_with_a_new_cookie_each_time_take_no_more_than_there_is") {
        return;
    }
    const REQUESTS: usize = 50_000;
    let test = Test::new().set("limits.max_sessions", 100).set("sessions.max_parked", 400);
    let server = test.start().await;
    let alice = server.user("alice");
    let stats = json!({"command": "stats"});
    alice.call(stats.clone()).await.ok();
    let flood = async |from: usize, to: usize| {
        let (mut served, mut refused) = (0, 0);
        for n in from..to {
            let reply = server.user(&format!("nobody-{n}")).call(stats.clone()).await;
            if reply.status == 200 {
                served += 1;
            } else {
                reply.error(503, "too_many_sessions");
                refused += 1;
            }
        }
        (served, refused)
    };
    let (served, refused) = flood(0, REQUESTS / 4).await;
    // A live user may or may not be parked in time for the next one.
    assert!(served >= 99 && refused > 0, "{served} {refused}");
    let (memory, resident_then) = (server.host.registry().memory().0, resident());
    assert_eq!(flood(REQUESTS / 4, REQUESTS).await, (0, REQUESTS - REQUESTS / 4));
    assert!(server.host.registry().memory().0 <= memory, "what was refused takes nothing");
    assert!(resident() < resident_then + (16 << 10), "{resident_then} and {} KiB", resident());
    assert_eq!(alice.call(stats.clone()).await.ok()["data"]["commands_executed"], 2, "who was there is served");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_megabyte_of_nesting_is_answered_at_once() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let began = Instant::now();
    for deep in ["[".repeat(1_000_000), "{\"a\":".repeat(200_000), format!("{{\"command\":{}", "[".repeat(1_000_000))] {
        alice.body(deep).await.error(422, "invalid_input");
    }
    assert!(began.elapsed() < ANSWERED, "{:?}", began.elapsed());
    alice.call(json!({"command": "stats"})).await.ok();
}
