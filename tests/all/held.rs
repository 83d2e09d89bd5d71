//! Bytes that the host holds for callers count as memory and are bounded by `limits.memory`: measured from outside,
//! by the process's own figures, during the attack.

use crate::served::{Served, head};
use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};
use std::{
    io::{Read, Write},
    net::TcpStream,
    process::{Command, Stdio},
    sync::mpsc,
    thread::{sleep, spawn},
    time::{Duration, Instant},
};

const MIB: u64 = 1 << 20;

/// A host with so many MiB, whose bodies may be large and slow.
fn small(mebibytes: u64) -> Test {
    Test::hostile()
        .set("limits.memory", format!("{mebibytes} MiB"))
        .set("limits.body_size", "8 MiB")
        .set("limits.output_size", "8 MiB")
        .set("limits.deadline", "60s")
        .set("limits.connections", 5000)
}

/// A health check's answer.
fn health(served: &Served) -> String {
    served.ask(b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
}

#[test]
fn slow_callers_with_large_bodies_take_no_more_than_there_is_and_the_rest_are_told() {
    let served = Served::start("", &small(64));
    health(&served);
    let (idle, mut most) = (served.resident(), 0);
    let body = vec![b' '; 6 << 20];
    let mut kept = Vec::new();
    for user in 0..40 {
        let head = head("/hostile", &format!("user {user}"));
        let mut stream = served.connect(format!("{head}content-length: {}\r\n\r\n", 7 << 20).as_bytes());
        stream.set_write_timeout(Some(Duration::from_secs(2))).expect("a timeout");
        let _ = stream.write_all(&body);
        most = most.max(served.resident());
        kept.push(stream);
    }
    // Now all admitted callers hold what they have sent.
    let refused = kept.iter().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(20))).expect("a timeout");
        let mut answer = [0; 512];
        let read = (&**stream).read(&mut answer).unwrap_or(0);
        let text = String::from_utf8_lossy(&answer[..read]);
        let refused = text.starts_with("HTTP/1.1 503 ");
        assert!(!refused || (text.contains("carrel-error: host_full") && text.contains("retry-after: ")), "{text}");
        refused
    });
    let refused = refused.count();
    most = most.max(served.resident());
    assert!((25..40).contains(&refused), "{refused} of 40 were refused");
    assert!(most < idle + 64 * MIB + 16 * MIB, "{most} over {idle}");
}

#[test]
fn connections_that_send_half_of_a_request_take_no_more_than_there_is() {
    let served = Served::start("ulimit -n 6000;", &small(16));
    health(&served);
    let idle = served.resident();
    let half = format!("GET /health HTTP/1.1\r\nhost: x\r\nx: {}", "y".repeat(60 << 10));
    let kept: Vec<_> = (0..1000).map(|_| served.connect(half.as_bytes())).collect();
    sleep(Duration::from_millis(500));
    let resident = served.resident();
    assert!(resident < idle + 16 * MIB + 16 * MIB, "{resident} over {idle}");
    let told = kept.iter().filter(|stream| {
        stream.set_read_timeout(Some(Duration::from_millis(5))).expect("a timeout");
        let mut answer = [0; 512];
        let read = (&**stream).read(&mut answer).unwrap_or(0);
        answer[..read].starts_with(b"HTTP/1.1 503 ")
    });
    assert!(told.count() > 500);
    drop(kept);
    let began = Instant::now();
    while !health(&served).starts_with("HTTP/1.1 200") {
        assert!(began.elapsed() < Duration::from_secs(20), "there is memory again");
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn answers_that_nobody_takes_are_no_more_than_there_is() {
    let served = Served::start("", &small(96));
    let body = json!({"do": "answer", "bytes": 7 << 20}).to_string();
    let ask = format!("{}content-length: {}\r\n\r\n{body}", head("/hostile", "alice"), body.len());
    // From now on the guest itself holds the memory that it needs for this.
    assert!(served.call("/hostile", "alice", &json!({"do": "answer", "bytes": 7 << 20})).starts_with("HTTP/1.1 200"));
    let (idle, before) = (served.resident(), served.figure("carrel_memory_bytes"));
    let (mut kept, mut most, mut full) = (Vec::new(), 0, 0);
    for _ in 0..60 {
        let mut stream = served.connect(ask.as_bytes());
        // Its beginning comes when the call has ended, or was refused.
        let mut answer = [0; 64];
        let read = stream.read(&mut answer).expect("an answer");
        full += usize::from(answer[..read].starts_with(b"HTTP/1.1 503 "));
        most = most.max(served.resident());
        kept.push(stream);
    }
    assert!((20..60).contains(&full), "{full} were refused");
    // While a call runs its output is there more than once, for the guest and for the caller, and what is freed is
    // given back to the system by and by. Without a bound it would be some 300 MiB.
    assert!(most < idle + 96 * MIB + 80 * MIB, "{most} over {idle}");
    drop(kept);
    let began = Instant::now();
    while !health(&served).starts_with("HTTP/1.1 200") || served.figure("carrel_memory_bytes") > before + MIB {
        assert!(began.elapsed() < Duration::from_secs(20), "what nobody takes any more does not count");
        sleep(Duration::from_millis(20));
    }
}

/// A user's memory, as the monitor reports it.
async fn counted(server: &Server) -> u64 {
    let seen = server.get("/monitor/users").await.ok();
    seen["users"][0]["memory"]["counted_bytes"].as_u64().unwrap_or_else(|| panic!("{seen}"))
}

fn alice(server: &Server) -> Caller {
    server.user("alice").at("/hostile")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_counts_for_its_user_for_as_long_as_it_is_there() {
    let server = Test::hostile().set("limits.user.memory", "3 MiB").start().await;
    alice(&server).call(json!({"do": "count"})).await.ok();
    let (before, all) = (counted(&server).await, server.held().bytes);
    let sleeping = alice(&server).spawn(json!({"do": "sleep", "milliseconds": 1500}));
    server.until_in_use(1).await;
    let large = |user: &Caller| user.spawn(json!({"do": "fail", "why": "x".repeat(900 << 10)}));
    let waiting: Vec<_> = (0..2).map(|_| large(&alice(&server))).collect();
    server.until_in_use(3).await;
    let now = counted(&server).await;
    assert!((1800 << 10..3 << 20).contains(&(now - before)), "{before}, then {now}");
    assert!(server.held().bytes - all >= 1800 << 10);
    // One more than the user may have.
    let refused = alice(&server).call(json!({"do": "fail", "why": "x".repeat(1000 << 10)})).await;
    let error = refused.error(500, "memory_exhausted");
    assert_eq!(error["setting"], "limits.user.memory");
    sleeping.await.expect("it ends").ok();
    for call in waiting {
        call.await.expect("it ends");
    }
    let after = counted(&server).await;
    assert!(after < before + (256 << 10) + 2 * (900 << 10), "{before}, {after}");
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_of_callers_who_have_gone_do_not_count() {
    let server = Test::new().start().await;
    let listening = server.listen().await;
    let before = server.held().bytes;
    let address = listening.address;
    let sent = tokio::task::spawn_blocking(move || {
        let mut stream = TcpStream::connect(address).expect("a connection");
        stream
            .write_all(format!("{}content-length: 1000000\r\n\r\n", head("/generate", "alice")).as_bytes())
            .expect("sent");
        stream.write_all(&vec![b' '; 900_000]).expect("sent");
        stream
    });
    let stream = sent.await.expect("sent");
    let until = async |enough: &dyn Fn(usize) -> bool| {
        for _ in 0..1000 {
            if enough(server.held().bytes) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{before}, {}", server.held().bytes);
    };
    // While a body moves to a larger place, both count.
    until(&|bytes| (before + 900_000..before + 1_200_000).contains(&bytes)).await;
    drop(stream);
    until(&|bytes| bytes == before).await;
}

#[test]
fn the_log_waits_in_bounded_memory_for_a_stderr_that_nobody_reads_and_tells_what_it_dropped() {
    let folder = tempfile::tempdir().expect("a folder");
    let test = Test::hostile().set("general.front_end.port", 0);
    std::fs::write(folder.path().join("config.yml"), test.text()).expect("a file");
    let mut child = Command::new(env!("CARGO_BIN_EXE_carrel"))
        .args(["serve", "--config_file=config.yml", "--log-format=json"])
        .current_dir(folder.path())
        .env_remove("RUST_LOG")
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut stderr = child.stderr.take().expect("a pipe");
    let mut said = String::new();
    while !said.contains("nobody is verified") {
        let mut bytes = [0; 1024];
        let read = stderr.read(&mut bytes).expect("read");
        assert!(read > 0, "{said}");
        said.push_str(&String::from_utf8_lossy(&bytes[..read]));
    }
    let serving: Value = serde_json::from_str(said.lines().next().expect("a line")).expect("JSON");
    let address = serving["fields"]["address"].as_str().expect("an address").parse().expect("an address");
    let served = Served::of(child, folder, address);
    let print = json!({"do": "print", "text": "\u{1}".repeat(1000), "times": 25});
    assert!(served.call("/hostile", "alice", &print).starts_with("HTTP/1.1 200"));
    let (before, idle) = (served.figure("carrel_memory_bytes"), served.resident());
    for _ in 0..150 {
        assert!(served.call("/hostile", "alice", &print).starts_with("HTTP/1.1 200"), "nobody waits for stderr");
    }
    let waits = served.figure("carrel_memory_bytes") - before;
    assert!((2 * MIB..=4 * MIB).contains(&waits), "{waits} bytes wait");
    let grown = served.resident().saturating_sub(idle);
    assert!(grown < 16 * MIB, "{grown} bytes");
    // A client that reads again is told how many were dropped.
    let (sender, lines) = mpsc::channel();
    spawn(move || {
        use std::io::BufRead;
        for line in std::io::BufReader::new(stderr).lines() {
            let Ok(line) = line else { return };
            if sender.send(line).is_err() {
                return;
            }
        }
    });
    let (mut written, mut dropped, mut told) = (0, 0, 0);
    // Each line is written, or counted as dropped.
    while written + dropped < 151 * 50 {
        let line = lines.recv_timeout(Duration::from_secs(10));
        let line = line.unwrap_or_else(|_| panic!("{written} were written, and {dropped} dropped"));
        let line: Value = serde_json::from_str(&line).expect("JSON");
        match line["fields"]["lines"].as_u64() {
            Some(lines) => (dropped, told) = (dropped + lines, told + 1),
            None if line["target"] == "guest" => written += 1,
            None => {}
        }
    }
    assert!(written + dropped == 151 * 50 && dropped > 5000 && told < 20, "{written}, {dropped}, told {told} times");
    let began = Instant::now();
    while served.figure("carrel_memory_bytes") > before {
        assert!(began.elapsed() < Duration::from_secs(10));
        sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_connection_that_is_idle_counts_what_it_takes() {
    let served = Served::start("ulimit -n 6000;", &Test::new().set("limits.connections", 5000));
    let request = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let answered = |stream: &TcpStream| assert!((&*stream).read(&mut [0; 1024]).expect("an answer") > 0);
    let warm: Vec<_> = (0..100).map(|_| served.connect(request)).collect();
    warm.iter().for_each(answered);
    let (counted, resident) = (served.figure("carrel_memory_bytes"), served.resident());
    let kept: Vec<_> = (0..2000).map(|_| served.connect(request)).collect();
    kept.iter().for_each(answered);
    let each = (served.resident() - resident) / 2000;
    let counts = (served.figure("carrel_memory_bytes") - counted) / 2000;
    println!("a connection takes {each} bytes, and counts as {counts}");
    assert!(each <= counts && counts <= 3 * each, "{each}, {counts}");
}
