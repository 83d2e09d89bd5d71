//! A server's process, and its use of resources.

use crate::{
    Result,
    client::{self, Connection},
    stop,
};
use carrel_tests::Test;
use std::{
    collections::HashMap,
    env, fs,
    net::SocketAddr,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};
use tempfile::TempDir;

const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// A server that runs until this is dropped.
pub(crate) struct Server {
    pub(crate) name: String,
    pub(crate) address: SocketAddr,
    child: Child,
    folder: TempDir,
}

/// CPU that the threads of a process have used until now, in nanoseconds, by their ids.
///
/// The kernel counts it for each thread to the nanosecond, and for the process in hundredths of a second.
pub(crate) struct Cpu(HashMap<String, u64>);

impl Cpu {
    /// The CPU used since then. Threads that have ended since are not counted; those that serve never end.
    pub(crate) fn since(&self, before: &Self) -> Duration {
        let used = self.0.iter().map(|(thread, now)| now - before.0.get(thread).copied().unwrap_or(0).min(*now));
        Duration::from_nanos(used.sum())
    }
}

impl Server {
    /// Carrel, as it is shipped.
    pub(crate) fn carrel(name: &str, config: &Test) -> Result<Self> {
        Self::of(&built()?.join("carrel"), name, config)
    }

    /// Carrel, as it is shipped, without userfaultfd, as in many containers.
    pub(crate) fn confined(name: &str, config: &Test) -> Result<Self> {
        let mut command = Command::new("python3");
        command
            .arg(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/container/confined.py"))
            .arg(built()?.join("carrel"));
        Self::serve(name, command, config)
    }

    /// A binary of Carrel's.
    pub(crate) fn of(binary: &Path, name: &str, config: &Test) -> Result<Self> {
        Self::serve(name, Command::new(binary), config)
    }

    fn serve(name: &str, mut command: Command, config: &Test) -> Result<Self> {
        let folder = new_folder()?;
        let file = folder.path().join("config.yml");
        fs::write(&file, config.text()).map_err(|error| format!("{}: {error}", file.display()))?;
        command.args(["serve", "--host=127.0.0.1", "--port=0", "--config_file"]).arg(file);
        Self::start(name, command, folder)
    }

    /// The same functions in plain Rust.
    pub(crate) fn native() -> Result<Self> {
        Self::start("native", Command::new(built()?.join("examples/native_server")), new_folder()?)
    }

    fn start(name: &str, mut command: Command, folder: TempDir) -> Result<Self> {
        let path = folder.path().join("log");
        let log = fs::File::create(&path).map_err(|error| error.to_string())?;
        let child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn();
        let child = child.map_err(|error| format!("{name} cannot be started: {error}; all.sh builds it"))?;
        let address = SocketAddr::from(([127, 0, 0, 1], 0));
        let mut server = Self { name: name.into(), address, child, folder };
        let end = Instant::now() + STARTS_WITHIN;
        loop {
            let log = server.log();
            let address = log.split_once("http://").and_then(|(_, rest)| rest.split_whitespace().next()?.parse().ok());
            if let Some(address) = address {
                server.address = address;
                eprintln!("{name}: process {}, {address}", server.child.id());
                return Ok(server);
            }
            let ended = server.child.try_wait().map_err(|error| error.to_string())?.is_some();
            if ended || Instant::now() > end {
                return Err(format!("{name} did not start:\n{log}"));
            }
            stop::check()?;
            thread::sleep(Duration::from_millis(20));
        }
    }

    /// The server's log so far.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("log")).unwrap_or_default()
    }

    /// Returns true if the server has said these words so far.
    pub(crate) fn said(&self, words: &str) -> bool {
        self.log().contains(words)
    }

    /// The end of the server's log, to explain a missing answer.
    pub(crate) fn last_words(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().rev().take(3).collect();
        format!("the last lines of {}'s log:\n{}", self.name, lines.into_iter().rev().collect::<Vec<_>>().join("\n"))
    }

    /// CPU that the server has used until now.
    pub(crate) fn cpu(&self) -> Result<Cpu> {
        let tasks = format!("/proc/{}/task", self.child.id());
        let gone = |error| format!("{} is gone: {tasks}: {error}", self.name);
        let mut used = HashMap::new();
        for task in fs::read_dir(&tasks).map_err(gone)? {
            let task = task.map_err(gone)?;
            // A thread may have ended meanwhile.
            let Ok(text) = fs::read_to_string(task.path().join("schedstat")) else { continue };
            let spent = text.split(' ').next().and_then(|spent| spent.parse().ok());
            used.insert(task.file_name().to_string_lossy().into_owned(), spent.unwrap_or(0));
        }
        if used.is_empty() {
            return Err(format!("{tasks}: no schedstat; this kernel does not tell what threads use"));
        }
        Ok(Cpu(used))
    }

    /// Bytes of memory that the server has.
    pub(crate) fn memory(&self) -> Result<u64> {
        let path = format!("/proc/{}/status", self.child.id());
        let text = fs::read_to_string(&path).map_err(|error| format!("{path}: {error}"))?;
        let resident = text.lines().find_map(|line| line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB"));
        resident.and_then(|it| it.parse::<u64>().ok()).map(|it| it << 10).ok_or(format!("{path} has no VmRSS"))
    }

    /// Mappings that the server has.
    pub(crate) fn mappings(&self) -> Result<usize> {
        let path = format!("/proc/{}/maps", self.child.id());
        fs::read_to_string(&path).map(|text| text.lines().count()).map_err(|error| format!("{path}: {error}"))
    }

    /// Figures of `/metrics`, by their names without `carrel_`.
    pub(crate) fn metrics<const N: usize>(&self, names: [&str; N]) -> Result<[u64; N]> {
        client::block_on(async { Connection::open(self.address).await?.metrics(names).await })
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // Nothing is kept, so no orderly end is needed.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn new_folder() -> Result<TempDir> {
    tempfile::tempdir().map_err(|error| format!("a folder for a server: {error}"))
}

/// The folder of cargo's builds: this program is an example there.
fn built() -> Result<PathBuf> {
    let this = env::current_exe().map_err(|error| error.to_string())?;
    this.ancestors().nth(2).map(Into::into).ok_or("this program is in no folder of cargo's".into())
}
