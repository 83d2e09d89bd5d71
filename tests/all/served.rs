//! The binary, serving, with limits set by a shell, and its output in a file.

use carrel_tests::Test;
use serde_json::Value;
use std::{
    fs,
    io::{Read, Write},
    net::{SocketAddr, TcpStream},
    path::Path,
    process::{Child, Command, Stdio},
    thread::sleep,
    time::Duration,
};

/// A process that serves, until this is dropped.
pub struct Served {
    /// The process.
    pub child: Child,
    folder: tempfile::TempDir,
    /// The address on which it listens.
    pub address: SocketAddr,
}

impl Served {
    /// Starts the binary after a shell command, such as `ulimit -n 100;`.
    pub fn start(before: &str, test: &Test) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        let text = test.clone().set("general.front_end.port", 0).text();
        fs::write(folder.path().join("config.yml"), text).expect("a file");
        let said = fs::File::create(folder.path().join("said")).expect("a file");
        let command = format!("{before} exec \"$0\" serve --config_file=config.yml");
        let child = Command::new("sh")
            .args(["-c", &command, env!("CARGO_BIN_EXE_carrel")])
            .current_dir(folder.path())
            .env_remove("RUST_LOG")
            .stderr(said)
            .stdout(Stdio::null())
            .spawn()
            .expect("sh");
        let mut served = Self { child, folder, address: SocketAddr::from(([127, 0, 0, 1], 0)) };
        while !served.said().contains("nobody is verified") {
            assert!(served.child.try_wait().expect("a process").is_none(), "it ended: {}", served.said());
            sleep(Duration::from_millis(20));
        }
        let said = served.said();
        let address = said.split("http://").nth(1).and_then(|rest| rest.split(['\n', '\\', '"']).next());
        served.address = address.expect("an address").trim().parse().expect("an address");
        served
    }

    /// A process that was started otherwise.
    pub fn of(child: Child, folder: tempfile::TempDir, address: SocketAddr) -> Self {
        Self { child, folder, address }
    }

    /// The folder that it runs in.
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// All that it has said on stderr.
    pub fn said(&self) -> String {
        fs::read_to_string(self.folder().join("said")).expect("what it says")
    }

    /// Asks it to stop.
    pub fn signal(&self) {
        let kill = Command::new("kill").args(["-s", "TERM", &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    }

    /// The answer to a request, of whatever kind.
    pub fn ask(&self, request: &[u8]) -> String {
        read_all(self.connect(request))
    }

    /// A connection on which this was sent.
    pub fn connect(&self, request: &[u8]) -> TcpStream {
        let mut stream = TcpStream::connect(self.address).expect("a connection");
        // Longer than any deadline here: on a busy machine a call may take nearly all of its own.
        stream.set_read_timeout(Some(Duration::from_secs(70))).expect("a timeout");
        // A connection may be refused before this.
        let _ = stream.write_all(request);
        stream
    }

    /// The answer to a user's call, head and body.
    pub fn call(&self, path: &str, user: &str, input: &Value) -> String {
        let body = input.to_string();
        self.ask(
            format!("{}connection: close\r\ncontent-length: {}\r\n\r\n{body}", head(path, user), body.len()).as_bytes(),
        )
    }

    /// A figure of its metrics.
    pub fn figure(&self, name: &str) -> u64 {
        self.figure_if_any(name).unwrap_or_else(|| panic!("no {name}"))
    }

    /// Like `figure`; `None` if there is no memory for this request either.
    pub fn figure_if_any(&self, name: &str) -> Option<u64> {
        let text = self.ask(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.map(|line| line.parse().expect("a number"))
    }

    /// Bytes of memory that the process has of the machine.
    pub fn resident(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("a process");
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("a figure");
        line.trim().trim_end_matches(" kB").parse::<u64>().expect("a number") * 1024
    }
}

/// The beginning of a user's call.
pub fn head(path: &str, user: &str) -> String {
    format!("POST {path} HTTP/1.1\r\nhost: x\r\ncookie: nat-session={user}\r\ncontent-type: application/json\r\n")
}

/// All that still comes of a connection.
pub fn read_all(mut stream: TcpStream) -> String {
    let mut answer = Vec::new();
    let _ = stream.read_to_end(&mut answer);
    String::from_utf8(answer).expect("text")
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
