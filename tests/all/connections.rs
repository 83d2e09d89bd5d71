//! Connections, as callers who mean no good use them.

use carrel_tests::Test;
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep},
};

/// How long a connection lasts of which nothing comes.
const QUIET: std::ops::RangeInclusive<Duration> = Duration::from_secs(60)..=Duration::from_secs(76);

/// Reads until the host closes the connection; gives how long that took, and what was read.
async fn until_closed(stream: &mut TcpStream) -> (Duration, Vec<u8>) {
    let (began, mut read) = (Instant::now(), Vec::new());
    // A host that closes while something is on its way resets the connection.
    let _ = stream.read_to_end(&mut read).await;
    (began.elapsed(), read)
}

#[tokio::test(start_paused = true)]
async fn a_connection_of_which_nothing_comes_is_closed() {
    let listening = Test::new().start().await.listen().await;
    let request = "GET /health HTTP/1.1\r\nhost: x\r\n";
    // Nothing at all, the beginning of a request, and nothing after an answer.
    for sent in ["", request, &format!("{request}\r\n")] {
        let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
        stream.write_all(sent.as_bytes()).await.expect("sent");
        let (took, read) = until_closed(&mut stream).await;
        assert!(QUIET.contains(&took), "{sent:?}: {took:?}");
        assert_eq!(read.starts_with(b"HTTP/1.1 200"), sent.ends_with("\r\n\r\n"), "{sent:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn headers_that_come_byte_by_byte_are_not_waited_for_for_ever() {
    let listening = Test::new().start().await.listen().await;
    let (mut read, mut write) = TcpStream::connect(listening.address).await.expect("a connection").into_split();
    let began = Instant::now();
    let dripping = tokio::spawn(async move {
        let _ = write.write_all(b"GET /health HTTP/1.1\r\nx: ").await;
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_secs(5)).await;
        }
    });
    let _ = read.read_to_end(&mut Vec::new()).await;
    assert!(QUIET.contains(&began.elapsed()), "{:?}", began.elapsed());
    dripping.await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn whoever_uses_a_connection_now_and_then_keeps_it() {
    let listening = Test::new().start().await.listen().await;
    let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
    for _ in 0..5 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = [0; 500];
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..read].ends_with(br#"{"status":"healthy"}"#), "{:?}", String::from_utf8_lossy(&answer[..read]));
        sleep(Duration::from_secs(50)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_nobody_reads_is_given_up() {
    let test = Test::hostile().set("limits.output_size", "64 MiB").set("limits.memory_per_instance", "512 MiB");
    let server = test.set("limits.fuel_per_call", "100G").start().await;
    let listening = server.listen().await;
    let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
    let body = r#"{"do":"answer","bytes":60000000}"#;
    let request = format!(
        "POST /hostile HTTP/1.1\r\nhost: x\r\ncookie: nat-session=mallory\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    sleep(Duration::from_secs(200)).await;
    let (_, read) = until_closed(&mut stream).await;
    assert!(read.len() < 60_000_000, "only what the system had kept was there to be read: {}", read.len());
    server.user("mallory").at("/hostile").call(serde_json::json!({"do": "count"})).await.ok();
}
