//! Connections: listeners, their number, their duration, and their end when the host stops.

use crate::served::{Served, read_all};
use carrel::http::Listeners;
use carrel_tests::Test;
use serde_json::json;
use std::{
    fs,
    io::Write,
    net::{SocketAddr, TcpListener},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, sleep, timeout},
};

/// The time after which a silent connection is closed, in these tests, and some more for a machine that is busy.
/// It is measured from a little later on than the host does.
const QUIET: std::ops::RangeInclusive<Duration> = Duration::from_millis(800)..=Duration::from_secs(11);

fn closes_soon() -> Test {
    Test::new().set("general.front_end.keep_alive_timeout", "1s")
}

/// Reads until the host closes the connection; gives how long that took, and what was read.
async fn until_closed(stream: &mut TcpStream) -> (Duration, Vec<u8>) {
    let (began, mut read) = (Instant::now(), Vec::new());
    // A host that closes while something is on its way resets the connection.
    let _ = stream.read_to_end(&mut read).await;
    (began.elapsed(), read)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_of_which_nothing_comes_is_closed() {
    let listening = closes_soon().start().await.listen().await;
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

#[tokio::test(flavor = "multi_thread")]
async fn headers_that_come_byte_by_byte_are_not_waited_for_for_ever() {
    let listening = closes_soon().start().await.listen().await;
    let (mut read, mut write) = TcpStream::connect(listening.address).await.expect("a connection").into_split();
    let began = Instant::now();
    let dripping = tokio::spawn(async move {
        let _ = write.write_all(b"GET /health HTTP/1.1\r\nx: ").await;
        while write.write_all(b"x").await.is_ok() {
            sleep(Duration::from_millis(100)).await;
        }
    });
    let _ = read.read_to_end(&mut Vec::new()).await;
    assert!(QUIET.contains(&began.elapsed()), "{:?}", began.elapsed());
    dripping.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_uses_a_connection_now_and_then_keeps_it() {
    let listening = Test::new().set("general.front_end.keep_alive_timeout", "4s").start().await.listen().await;
    let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
    for _ in 0..5 {
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let mut answer = [0; 500];
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..read].ends_with(br#"{"status":"healthy"}"#), "{:?}", String::from_utf8_lossy(&answer[..read]));
        sleep(Duration::from_secs(1)).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_nobody_reads_is_given_up() {
    let test = Test::hostile().set("limits.output_size", "64 MiB").set("limits.memory_per_instance", "512 MiB");
    let test = test.set("general.front_end.keep_alive_timeout", "1s").set("limits.fuel_per_call", "100G");
    let test = test.set("limits.connections", 1);
    let server = test.start().await;
    let listening = server.listen().await;
    let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
    let body = r#"{"do":"answer","bytes":60000000}"#;
    let request = format!(
        "POST /hostile HTTP/1.1\r\nhost: x\r\ncookie: nat-session=mallory\r\ncontent-type: application/json\r\n\
         content-length: {}\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes()).await.expect("sent");
    // There is one place for a connection: when it is free, the host has closed this one.
    let closed = async {
        while !health(listening.address).await.starts_with("HTTP/1.1 200") {
            sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(Duration::from_secs(60), closed).await.expect("the host gives up");
    let (_, read) = until_closed(&mut stream).await;
    assert!(read.len() < 60_000_000, "only what the system had kept was there to be read: {}", read.len());
    server.user("mallory").at("/hostile").call(serde_json::json!({"do": "count"})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_says_how_long_an_idle_connection_is_kept() {
    let by_default = carrel::config::Config::parse("test.yml".as_ref(), "{workflow: {_type: per_user_notepad}}");
    assert_eq!(by_default.expect("a configuration").general.front_end.keep_alive_timeout, Duration::from_secs(60));
    let kept = async |seconds: u64| {
        let test = Test::new().set("general.front_end.keep_alive_timeout", format!("{seconds}s"));
        let listening = test.start().await.listen().await;
        let mut stream = TcpStream::connect(listening.address).await.expect("a connection");
        stream.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
        let (took, read) = until_closed(&mut stream).await;
        assert!(read.starts_with(b"HTTP/1.1 200"));
        assert!(took >= Duration::from_millis(800 * seconds), "{seconds}: {took:?}");
        took
    };
    let (short, long) = tokio::join!(kept(1), kept(8));
    assert!(short < long && short < Duration::from_secs(6), "{short:?} {long:?}");
}

const HEALTH: &[u8] = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";

async fn health(address: SocketAddr) -> String {
    let mut stream = TcpStream::connect(address).await.expect("a connection");
    stream.write_all(HEALTH).await.expect("sent");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("an answer");
    answer
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_told_to_stop_says_so_before_it_refuses_anybody() {
    let server = Test::new().set("general.drain_delay", "10s").start().await;
    let listening = server.listen().await;
    let address = listening.address;
    assert!(health(address).await.starts_with("HTTP/1.1 200"));
    let alice = server.user("alice");
    alice.call(json!({"command": "stats"})).await.ok();
    let began = Instant::now();
    let ended = listening.stop();
    while health(address).await.starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < Duration::from_secs(5), "it was told to stop");
    }
    for _ in 0..5 {
        let answer = health(address).await;
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("carrel-error: draining"), "{answer}");
        alice.call(json!({"command": "stats"})).await.ok();
    }
    assert_eq!(ended.await.expect("it ends"), 0);
    assert!(began.elapsed() >= Duration::from_secs(10), "{:?}", began.elapsed());
    assert!(TcpStream::connect(address).await.is_err(), "nobody listens any more");
    alice.call(json!({"command": "stats"})).await.error(503, "draining");
    // Without a delay, as by default, it is refused at once.
    let server = Test::new().start().await;
    let began = Instant::now();
    server.listen().await.stop().await.expect("it ends");
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    server.get("/health").await.error(503, "draining");
}

fn has_ipv6() -> bool {
    TcpListener::bind("[::1]:0").is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_with_several_addresses_is_listened_on_at_all_of_them_with_one_port() {
    let listeners = Listeners::bind("localhost", 0).await.expect("ports");
    let addresses = listeners.addresses().expect("addresses");
    assert!(addresses[0].is_ipv4() && addresses.len() == 1 + usize::from(has_ipv6()), "{addresses:?}");
    assert!(addresses.iter().all(|it| it.ip().is_loopback() && it.port() == addresses[0].port()), "{addresses:?}");
    let server = Test::new().start().await;
    let app = carrel::http::app(server.host.clone());
    let serving = tokio::spawn(carrel::http::serve(listeners, server.host.clone(), app, std::future::pending()));
    for _ in 0..3 {
        for address in &addresses {
            assert!(health(*address).await.starts_with("HTTP/1.1 200"), "{address}");
        }
    }
    serving.abort();
    // An address is one, whatever the name has besides; where the port is taken at any of a name's, that is an error.
    let one = Listeners::bind("127.0.0.1", 0).await.expect("a port").addresses().expect("an address");
    assert!(one.len() == 1 && one[0].is_ipv4(), "{one:?}");
    for taken in if has_ipv6() { vec!["127.0.0.1:0", "[::1]:0"] } else { vec!["127.0.0.1:0"] } {
        let taken = TcpListener::bind(taken).expect("a port");
        let port = taken.local_addr().expect("an address").port();
        let refused = Listeners::bind("localhost", port).await.expect_err("the port is taken");
        assert_eq!(refused.kind(), std::io::ErrorKind::AddrInUse);
    }
    assert!(Listeners::bind("no.such.host.invalid", 0).await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_connections_wait_to_be_accepted_as_the_system_allows() {
    let allowed = fs::read_to_string("/proc/sys/net/core/somaxconn").expect("Linux");
    let many = allowed.trim().parse::<usize>().expect("a number").min(600);
    let listeners = Listeners::bind("127.0.0.1", 0).await.expect("a port");
    let address = listeners.addresses().expect("an address")[0];
    let mut waiting = Vec::new();
    for n in 0..many {
        let connecting = timeout(Duration::from_secs(2), TcpStream::connect(address)).await;
        waiting.push(connecting.unwrap_or_else(|_| panic!("only {n} of {many} may wait")).expect("a connection"));
    }
}

#[test]
fn the_start_tells_every_address_that_is_listened_on() {
    let served = Served::start("", &Test::new());
    let said = served.said();
    if has_ipv6() {
        let also = format!("note: it listens on http://[::1]:{} as well", served.address.port());
        assert!(said.contains(&also), "{said}");
    }
    assert!(said.lines().next().expect("a line").ends_with(&format!(" on http://{}", served.address)), "{said}");
    assert!(served.ask(HEALTH).starts_with("HTTP/1.1 200"));
}

#[test]
fn the_host_takes_as_many_descriptors_as_it_may() {
    let served = Served::start("ulimit -Sn 100;", &Test::new());
    let open: Vec<_> = (0..200).map(|_| served.connect(b"")).collect();
    assert!(served.ask(HEALTH).starts_with("HTTP/1.1 200"), "{}", served.said());
    drop(open);
    assert!(!served.said().contains("no file descriptor"), "{}", served.said());
}

#[test]
fn when_no_descriptor_is_left_callers_are_told_and_the_log_says_so_once() {
    let served = Served::start("ulimit -n 120;", &Test::new().set("limits.connections", 5000));
    let said = served.said();
    assert!(
        said.contains("warning: `limits.connections` allows 5000 connections") && said.contains(" 120 open"),
        "{said}"
    );
    let mut open: Vec<_> = (0..150).map(|_| served.connect(b"")).collect();
    for _ in 0..50 {
        let answer = served.ask(HEALTH);
        assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("too_many_connections"), "{answer}");
    }
    // Some of the first connections are served: they were admitted before.
    let mut first = open.remove(0);
    first.write_all(HEALTH).expect("sent");
    assert!(read_all(first).starts_with("HTTP/1.1 200"));
    let said = served.said();
    assert_eq!(said.matches("no file descriptor is left").count(), 1, "{said}");
    drop(open);
    // Connections that were closed are noticed by and by.
    let again = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        served.ask(HEALTH).starts_with("HTTP/1.1 200")
    });
    assert!(again, "there are descriptors again");
}

#[test]
fn a_second_signal_ends_the_host_at_once_also_while_it_still_takes_requests() {
    let mut served = Served::start("", &Test::new().set("general.drain_delay", "60s"));
    served.signal();
    let draining = (0..500).any(|_| {
        std::thread::sleep(Duration::from_millis(10));
        served.ask(HEALTH).starts_with("HTTP/1.1 503")
    });
    assert!(draining, "{}", served.said());
    let body = r#"{"command":"stats"}"#;
    let call = format!(
        "POST /generate HTTP/1.1\r\nhost: x\r\ncookie: nat-session=alice\r\ncontent-type: application/json\r\n\
         connection: close\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    );
    assert!(served.ask(call.as_bytes()).starts_with("HTTP/1.1 200"), "calls are served until the delay is over");
    let began = std::time::Instant::now();
    served.signal();
    assert_eq!(served.child.wait().expect("it ends").code(), Some(1));
    assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_is_turned_away_and_goes_on_sending_holds_nobody_up() {
    let server = Test::new().set("limits.connections", 1).start().await;
    let listening = server.listen().await;
    let mut held = TcpStream::connect(listening.address).await.expect("a connection");
    held.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    assert!(held.read(&mut [0; 4096]).await.expect("an answer") > 0);
    // They send as fast as they can, until the host closes.
    let flooding: Vec<_> = (0..4)
        .map(|_| {
            let address = listening.address;
            tokio::task::spawn_blocking(move || {
                let mut stream = std::net::TcpStream::connect(address).expect("a connection");
                let (mut sent, bytes) = (0_u64, vec![b'x'; 256 << 10]);
                while let Ok(written) = Write::write(&mut stream, &bytes) {
                    sent += written as u64;
                    assert!(sent < 256 << 20, "the host reads whatever is sent");
                }
            })
        })
        .collect();
    for flood in flooding {
        flood.await.expect("it ends");
    }
    held.write_all(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n").await.expect("sent");
    assert!(held.read(&mut [0; 4096]).await.expect("an answer") > 0);
    listening.stop().await.expect("the server ends");
}
