//! A container, as an operator's platform makes it of an image with nothing but the program: the host is process 1 and
//! user 65534, may have 256 MiB, can write nowhere, has no environment, and no userfaultfd.
//!
//! `tests/container` makes such a place. Where this machine does not allow it, that is said and nothing is tested, unless
//! `CARREL_MUST_CONTAIN` is set, as `.ci/run` does where namespaces can be had.

use super::{
    cli::{cached, carrel},
    clients::not_tested,
    docs::{Document, Terminal},
    process::{Process, handles, kill, post, until},
};
use carrel_tests::{HOSTILE, Test};
use serde_json::{Value, json};
use std::{
    env, fs,
    os::unix::fs::{MetadataExt, PermissionsExt},
    path::{Path, PathBuf},
    process::Command,
    sync::Arc,
    thread,
    time::{Duration, Instant, SystemTime},
};

const CARREL: &str = env!("CARGO_BIN_EXE_carrel");
const SCRIPTS: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/container");
const MEMORY: usize = 256 << 20;
/// The longest time that a host without calls may take to end.
const STOPS_WITHIN: Duration = Duration::from_secs(10);

/// The parts of an image besides the program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    /// The things that platforms put there: `/proc`, `/sys/fs/cgroup`, `/dev/null` and `/etc/hosts`.
    Usual,
    /// Nothing.
    Bare,
}

/// A control group with a limit, which ends with this.
struct Group {
    folder: PathBuf,
    /// True if it is of version 2.
    unified: bool,
}

impl Group {
    /// Makes a group below this process's own, or as near as possible. `None`: this user may not make one on this
    /// machine.
    fn new() -> Option<Self> {
        let own = fs::read_to_string("/proc/self/cgroup").ok()?;
        own.lines().find_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            let (controllers, path) = (parts.next()?, Path::new(parts.next()?).strip_prefix("/").ok()?);
            let (mounts, unified): (&[&str], _) = match controllers {
                "" => (&["/sys/fs/cgroup", "/sys/fs/cgroup/unified"], true),
                "memory" => (&["/sys/fs/cgroup/memory"], false),
                _ => return None,
            };
            let above = mounts.iter().flat_map(|mount| path.ancestors().map(|path| Path::new(mount).join(path)));
            above.into_iter().find_map(|above| Self::below(&above, unified))
        })
    }

    fn below(above: &Path, unified: bool) -> Option<Self> {
        let name = tempfile::Builder::new().prefix("carrel-test-").tempdir_in(above).ok()?.keep();
        let group = Self { folder: name, unified };
        // Of version 2, a group has no such file unless the one above it hands memory down.
        let limit = if unified { "memory.max" } else { "memory.limit_in_bytes" };
        fs::write(group.folder.join(limit), MEMORY.to_string()).ok()?;
        Some(group)
    }

    /// The most bytes that were used, where the kernel tells.
    fn peak(&self) -> Option<usize> {
        let file = if self.unified { "memory.peak" } else { "memory.max_usage_in_bytes" };
        fs::read_to_string(self.folder.join(file)).ok()?.trim().parse().ok()
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        // The group can be removed once the kernel has reaped its last process.
        for _ in 0..1000 {
            if fs::remove_dir(&self.folder).is_ok() {
                return;
            }
            thread::sleep(Duration::from_millis(5));
        }
        println!("{} is left", self.folder.display());
    }
}

/// A container that can be started.
struct Container {
    image: tempfile::TempDir,
    group: Option<Group>,
}

impl Container {
    /// `None`: this machine allows none, which is no failure.
    fn new(kind: Kind, config: &str) -> Option<Self> {
        let image = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a folder");
        let put = |path: &str, contents: &[u8]| {
            let path = image.path().join(path);
            fs::create_dir_all(path.parent().expect("a folder")).expect("a folder");
            fs::write(path, contents).expect("a file");
        };
        fs::set_permissions(image.path(), PermissionsExt::from_mode(0o755)).expect("its folder");
        put("bin/carrel", b"");
        for library in libraries() {
            put(library.trim_start_matches('/'), &fs::read(&library).expect("a library"));
            fs::set_permissions(image.path().join(&library[1..]), PermissionsExt::from_mode(0o755)).expect("its file");
        }
        put("configs/config.yml", config.as_bytes());
        put("guests/hostile.wasm", &fs::read(HOSTILE).expect("a guest"));
        let group = (kind == Kind::Usual).then(Group::new).flatten();
        if kind == Kind::Usual {
            put("dev/null", b"");
            put("etc/hosts", b"127.0.0.1 localhost\n");
            fs::create_dir(image.path().join("proc")).expect("a folder");
            match &group {
                Some(group) => {
                    let mount = if group.unified { "unified" } else { "memory" };
                    fs::create_dir_all(image.path().join("sys/fs/cgroup").join(mount)).expect("a folder");
                }
                None => not_tested("a container's memory: no control group can be made here"),
            }
        }
        let container = Self { image, group };
        let tried = container.command(&["--version"]).output();
        let why = match tried {
            Ok(done) if done.status.success() => return Some(container),
            Ok(done) => String::from_utf8_lossy(&done.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        assert!(env::var_os("CARREL_MUST_CONTAIN").is_none(), "no container can be made: {why}");
        not_tested(&format!("a container, which this machine does not make: {why}"));
        None
    }

    /// Puts the guests of the configuration in `/compiled`, as an operator's image may bring them.
    fn bring_compiled(&self) {
        let (config, compiled) = (self.image.path().join("configs/config.yml"), self.image.path().join("compiled"));
        let began = SystemTime::now();
        let valid = carrel(&["validate", "--config_file"]).arg(&config).output().expect("it runs");
        assert!(valid.status.success(), "{valid:?}");
        fs::create_dir(&compiled).expect("a folder");
        let caches = env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
        let caches = caches.or_else(|| Some(env::home_dir()?.join(".cache"))).expect("a folder of caches");
        for path in cached(&caches) {
            // What is loaded or compiled is marked with the time. Another test may delete one that is old.
            let used = fs::metadata(&path).and_then(|it| it.modified()).is_ok_and(|it| it >= began);
            if used && path.extension().is_some_and(|it| it == "cwasm") {
                fs::copy(&path, compiled.join(path.file_name().expect("a name"))).expect("a copy");
            }
        }
    }

    /// The binary, as process 1 of it.
    fn command(&self, arguments: &[&str]) -> Command {
        // The shell joins the group first, so that all that follows is in it.
        let mut command = Command::new("sh");
        command.args(["-c", "[ -z \"$GROUP\" ] || echo 0 >\"$GROUP/cgroup.procs\"; exec \"$@\"", "sh"]);
        command.arg("python3").arg(Path::new(SCRIPTS).join("confined.py"));
        command.args(["unshare", "--mount", "--pid", "--cgroup", "--ipc", "--uts", "--fork", "--kill-child"]);
        if fs::metadata("/proc/self").is_ok_and(|me| me.uid() != 0) {
            command.args(["--user", "--map-root-user"]);
        }
        command.arg("sh").arg(Path::new(SCRIPTS).join("enter.sh")).arg(self.image.path()).args(arguments);
        let group = self.group.as_ref().map(|group| group.folder.as_os_str()).unwrap_or_default();
        command.env("CARREL", CARREL).env("GROUP", group);
        command
    }

    fn serve(&self, more: &[&str]) -> Process {
        let mut arguments = vec!["serve", "--config_file=configs/config.yml", "--port", "0"];
        arguments.extend(more);
        Process::start(&mut self.command(&arguments))
    }

    /// Asserts that the host has stayed within its memory.
    fn is_within_memory(&self) {
        if let Some(peak) = self.group.as_ref().and_then(Group::peak) {
            println!("at most {} MiB of {}", peak >> 20, MEMORY >> 20);
        }
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        // Process 1 outlives whoever made its namespaces: the kernel's promise to end both together is void once a
        // process becomes another user. The image is nobody else's.
        let image = self.image.path().canonicalize().ok();
        for process in fs::read_dir("/proc").into_iter().flatten().flatten() {
            let root = fs::read_link(process.path().join("root")).ok();
            let id = process.file_name().to_str().and_then(|id| id.parse().ok());
            if let Some(id) = id.filter(|_| root.is_some() && root == image) {
                kill("KILL", id);
            }
        }
    }
}

/// The libraries that the binary is linked with, and what links it.
fn libraries() -> Vec<String> {
    let told = Command::new("ldd").arg(CARREL).output().expect("ldd runs").stdout;
    let told = String::from_utf8(told).expect("text");
    told.split_whitespace().filter(|word| word.starts_with('/')).map(str::to_owned).collect()
}

/// Process 1 of a container, by its id outside.
fn process_1(outer: u32) -> u32 {
    until(|| {
        let children = fs::read_to_string(format!("/proc/{outer}/task/{outer}/children")).ok()?;
        let child = children.split_whitespace().next()?.parse().ok()?;
        // Before that it is not yet the binary.
        handles(child, 15).then_some(child)
    })
}

/// A value of process 1's `status` file, by its name.
fn status(process: u32, name: &str) -> String {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("a process");
    let value = status.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
    value.expect("a line").split_whitespace().collect::<Vec<_>>().join(" ")
}

fn configuration() -> String {
    fs::read_to_string(super::cli::CONFIG).expect("a file")
}

#[test]
fn the_readmes_tour_is_taken_in_a_container() {
    let Some(container) = Container::new(Kind::Usual, &configuration()) else { return };
    let container = Arc::new(container);
    let place = container.clone();
    let began = Instant::now();
    let mut terminal = Terminal::at(container.image.path()).serving_in(move |arguments| place.command(arguments));
    let (ran, server) = terminal.follow(&Document::read("README.md"));
    assert!(ran.servers == 1 && ran.compared > 10, "README.md has no tour any more: {ran:?}");
    println!("the tour: {:.1} s", began.elapsed().as_secs_f64());
    let mut server = server.expect("a server");
    let all = if container.group.is_some() { "the host     192.0 MiB of memory" } else { "the host     " };
    server.wait("a container", all, |said| said.contains(all) && said.contains("nobody is verified"));
    // Nobody has asked for a folder of compiled guests, so that none is missed.
    assert_eq!(server.said.to_lowercase().matches("warn").count(), 1, "{}", server.said);
    let process = process_1(server.child.id());
    if fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
        assert_eq!(status(process, "Uid"), "65534 65534 65534 65534");
    }
    assert_eq!((status(process, "CapEff"), status(process, "Groups")), ("0".repeat(16), String::new()));
    assert!(status(process, "NSpid").ends_with(" 1"), "it is process 1");
    let began = Instant::now();
    kill("TERM", process);
    let status = until(|| server.child.try_wait().expect("a status"));
    assert_eq!(status.code(), Some(0));
    assert!(began.elapsed() < STOPS_WITHIN, "it took {:?}", began.elapsed());
    container.is_within_memory();
}

/// A call of the guest that does what it is told: its status, and its answer.
fn tell(address: &str, user: &str, input: &Value) -> (u16, Value) {
    let answer = post(address, "/hostile", &format!("Cookie: nat-session={user}\r\n"), &input.to_string());
    // A caller who waits for long gets interim answers, which test the connection, before the answer.
    let answer = answer.trim_start_matches("HTTP/1.1 100 Continue\r\n\r\n");
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no answer: {answer:?}"));
    let status = head.get(9..12).and_then(|it| it.parse().ok()).unwrap_or_else(|| panic!("no status: {head}"));
    (status, serde_json::from_str(body).unwrap_or_else(|error| panic!("{error}: {body}")))
}

#[test]
fn in_a_container_guests_that_want_its_memory_are_refused_and_what_failed_is_undone() {
    let config = Test::hostile().set("guests", json!(["../guests/hostile.wasm"])).text();
    let Some(container) = Container::new(Kind::Usual, &config) else { return };
    container.bring_compiled();
    let mut process = container.serve(&["--override", "guest_cache", "/compiled"]);
    let address = process.address();
    // One that is not there could not be kept, which would be told.
    let warnings: Vec<_> = process.said.iter().filter(|line| line.to_lowercase().contains("warn")).collect();
    assert!(warnings.iter().all(|line| line.contains("nobody is verified")), "{warnings:?}");
    // Without userfaultfd memories are compared, also those of many pages.
    let take = json!({"do": "take", "bytes": 4 << 20});
    let holds = json!({"do": "holds"});
    assert_eq!(tell(&address, "alice", &take).1["calls"], 1);
    let before = tell(&address, "alice", &holds).1;
    for end in ["panic", "hoard"] {
        let (status, failed) = tell(&address, "alice", &json!({"do": "all", "of": [take, {"do": end}]}));
        assert_eq!(status, 500, "{failed}");
        let code = if end == "panic" { "function_crashed" } else { "memory_exhausted" };
        assert_eq!(failed["code"], code, "{failed}");
    }
    let after = tell(&address, "alice", &holds).1;
    assert_eq!((&after["calls"], &after["said"]), (&json!(3), &before["said"]), "what failed is undone");
    if container.group.is_some() {
        // All at once, so that nobody can be parked for another.
        let greedy =
            json!({"do": "all", "of": [{"do": "take", "bytes": 50 << 20}, {"do": "sleep", "milliseconds": 2000}]});
        let calls: Vec<_> = (0..8)
            .map(|user| {
                let (address, greedy) = (address.clone(), greedy.clone());
                thread::spawn(move || tell(&address, &format!("mallory {user}"), &greedy))
            })
            .collect();
        let answers: Vec<_> = calls.into_iter().map(|call| call.join().expect("an answer")).collect();
        let (good, bad): (Vec<_>, Vec<_>) = answers.iter().partition(|(status, _)| *status == 200);
        assert!(good.len() >= 2 && good.len() <= 3, "as many as there is memory for: {answers:?}");
        for (status, answer) in bad {
            assert_eq!((*status, &answer["code"]), (503, &json!("host_full")));
        }
        container.is_within_memory();
    }
    assert_eq!(tell(&address, "alice", &holds).1["said"], before["said"]);
    kill("TERM", process_1(process.child.id()));
    assert_eq!(process.end().code(), Some(0), "{:?}", process.said);
}

#[test]
fn a_container_may_have_nothing_but_the_program_and_its_configuration() {
    let config = format!("guest_cache: /var/cache/carrel\n{}", configuration());
    let Some(container) = Container::new(Kind::Bare, &config) else { return };
    let mut process = container.serve(&[]);
    process.until("guest_cache: /var/cache/carrel is not used, each start compiles: Read-only file system");
    let address = process.address();
    let input = r#"{"command":"note","action":"add","param1":"milk"}"#;
    let answer = post(&address, "/generate", "Cookie: nat-session=alice\r\n", input);
    assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("Note added"), "{answer}");
    kill("TERM", process_1(process.child.id()));
    assert_eq!(process.end().code(), Some(0), "{:?}", process.said);
    let warnings: Vec<_> = process.said.iter().filter(|line| line.to_lowercase().contains("warn")).collect();
    assert!(warnings.len() == 2 && warnings[1].contains("nobody is verified"), "{warnings:?}");
}

#[test]
fn a_stop_while_guests_are_compiled_ends_a_container_at_once() {
    for kind in [Kind::Usual, Kind::Bare] {
        let Some(container) = Container::new(kind, &configuration()) else { return };
        let mut process = container.serve(&[]);
        let inner = process_1(process.child.id());
        let began = Instant::now();
        kill("TERM", inner);
        assert_eq!(process.end().code(), Some(143), "{kind:?}: {:?}", process.said);
        assert_eq!(process.said, ["note: stopped by SIGTERM before it was done"]);
        assert!(began.elapsed() < STOPS_WITHIN, "it took {:?}", began.elapsed());
    }
}
