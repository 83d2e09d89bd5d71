//! How long others wait while a hundred guests spin: `cargo bench --bench spinning`.
//!
//! It starts the release binary, lets a hundred users' guests spin until their deadline, and meanwhile asks for
//! `/health` and for another user's `stats`, one after the other, on one connection. A table tells the latencies
//! without spinning guests, while the hundred have just begun, and while they go on. The machine's cores are shared
//! with this program, which waits most of the time.

#![allow(missing_docs, clippy::expect_used, clippy::print_stdout)]

use carrel_tests::Test;
use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

const SPINNING: usize = 100;
/// How long the guests spin, and how much of that counts as their beginning.
const DEADLINE: Duration = Duration::from_secs(4);
const BEGINNING: Duration = Duration::from_millis(300);

struct Server(Child, String);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A connection that is kept.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn open(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("an option");
        Self(BufReader::new(stream))
    }

    fn send(&mut self, method: &str, path: &str, user: &str, body: &str) {
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nCookie: nat-session={user}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        self.0.get_mut().write_all(request.as_bytes()).expect("a request is sent");
    }

    /// Reads an answer; gives its status.
    fn receive(&mut self) -> String {
        let (mut status, mut length) = (String::new(), 0);
        self.0.read_line(&mut status).expect("an answer");
        loop {
            let mut line = String::new();
            self.0.read_line(&mut line).expect("a header");
            if line == "\r\n" {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.trim().parse().expect("a length");
            }
        }
        self.0.read_exact(&mut vec![0; length]).expect("a body");
        status.split(' ').nth(1).unwrap_or_default().to_owned()
    }

    fn ask(&mut self, method: &str, path: &str, body: &str) -> Duration {
        let began = Instant::now();
        self.send(method, path, "alice", body);
        assert_eq!(self.receive(), "200", "{method} {path}");
        began.elapsed()
    }
}

/// Latencies of both kinds of request, until the time is over.
fn measure(connection: &mut Connection, until: Instant) -> [Vec<Duration>; 2] {
    let mut taken = [Vec::new(), Vec::new()];
    while Instant::now() < until {
        taken[0].push(connection.ask("GET", "/health", ""));
        taken[1].push(connection.ask("POST", "/generate", r#"{"command":"stats"}"#));
    }
    taken
}

fn row(when: &str, what: &str, mut taken: Vec<Duration>) {
    taken.sort();
    let at = |part: usize| taken[(taken.len() - 1) * part / 1000].as_secs_f64() * 1000.0;
    println!("| {when} | {what} | {} | {:.2} | {:.2} | {:.2} |", taken.len(), at(500), at(990), at(1000));
}

fn main() {
    let config = tempfile::NamedTempFile::new().expect("a file");
    let test = Test::hostile().set("limits.deadline", "4s").set("limits.fuel_per_call", "1000000G");
    std::fs::write(config.path(), test.text()).expect("the configuration");
    let mut child = Command::new(env!("CARGO_BIN_EXE_carrel"))
        .args(["serve", "--host", "127.0.0.1", "--port", "0", "--config_file"])
        .arg(config.path())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    let mut first = String::new();
    BufReader::new(child.stderr.take().expect("stderr")).read_line(&mut first).expect("its first line");
    let address = first.trim().rsplit("http://").next().expect("an address").to_owned();
    let server = Server(child, address);

    let mut alice = Connection::open(&server.1);
    let mut spinning: Vec<_> = (0..SPINNING).map(|_| Connection::open(&server.1)).collect();
    println!("| when | what | answers | p50 ms | p99 ms | max ms |\n|---|---|---|---|---|---|");
    let quiet = measure(&mut alice, Instant::now() + Duration::from_secs(1));
    let mut rows = vec![("nobody spins", quiet)];
    let began = Instant::now();
    for (n, connection) in spinning.iter_mut().enumerate() {
        connection.send("POST", "/hostile", &format!("mallory-{n}"), r#"{"do":"spin"}"#);
    }
    rows.push(("a hundred have just begun to", measure(&mut alice, began + BEGINNING)));
    rows.push(("a hundred spin", measure(&mut alice, began + DEADLINE - Duration::from_millis(200))));
    for connection in &mut spinning {
        assert_eq!(connection.receive(), "504", "a guest that spins passes its deadline");
    }
    for (when, [health, stats]) in rows {
        row(when, "/health", health);
        row(when, "stats of another user", stats);
    }
}
