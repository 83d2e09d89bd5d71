//! The commands, as a process: their output, its streams, and the exit codes.

use std::{
    io::{BufRead, BufReader, Read, Write},
    net::TcpStream,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::{Duration, Instant},
};

pub(super) const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/config.yml");

pub(super) fn carrel(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_carrel"));
    command.args(arguments).env_remove("RUST_LOG");
    command
}

pub(super) fn run(arguments: &[&str]) -> Output {
    carrel(arguments).output().expect("the binary runs")
}

pub(super) fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("text")
}

#[test]
fn run_puts_the_output_on_stdout_and_nothing_else() {
    let done = run(&["run", "--config_file", CONFIG, "--input", r#"{"command":"stats"}"#, "--user", "alice"]);
    let expected = "{\"success\":true,\"message\":\"Session statistics: 1 commands executed\",\"data\":{\"commands_executed\":1}}\n";
    assert_eq!((done.status.code(), text(&done.stdout), text(&done.stderr)), (Some(0), expected, ""));
}

#[test]
fn run_reads_the_input_from_stdin_and_calls_any_function() {
    let mut child = carrel(&["run", "--config-file", CONFIG, "--function", "notepad", "--input", "-"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("stdin").write_all(br#"{"action":"count"}"#).expect("the input is sent");
    let done = child.wait_with_output().expect("it ends");
    assert_eq!(text(&done.stdout), "{\"success\":true,\"message\":\"You have 0 notes\",\"notes\":[],\"count\":0}\n");
}

#[test]
fn run_tells_a_failed_call_on_stderr_and_exits_with_1() {
    let done = run(&["run", "--config_file", CONFIG, "--input", "{}"]);
    assert_eq!((done.status.code(), text(&done.stdout)), (Some(1), ""));
    assert!(text(&done.stderr).starts_with("error: invalid_input: missing field `command`"));
    let nobody = run(&["run", "--config_file", CONFIG, "--input", "{}", "--function", "nope"]);
    assert_eq!(nobody.status.code(), Some(1));
    assert!(text(&nobody.stderr).contains("there are notepad, preferences, workflow"));
}

#[test]
fn validate_says_what_is_valid_and_exits_with_2_on_what_is_not() {
    let good = run(&["validate", "--config_file", CONFIG]);
    assert_eq!(good.status.code(), Some(0), "{}", text(&good.stderr));
    assert!(text(&good.stdout).ends_with("config.yml is valid: 3 functions, 3 guests\n"));
    // Those that come with Carrel count if they are used.
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("one.yml");
    std::fs::write(&config, "workflow: {_type: per_user_preferences}").expect("a file");
    let good = run(&["validate", "--config_file", config.to_str().expect("text")]);
    assert!(text(&good.stdout).ends_with("one.yml is valid: 1 function, 1 guest\n"));
    let missing = run(&["validate", "--config_file", "no/such/file.yml"]);
    assert_eq!((missing.status.code(), text(&missing.stdout)), (Some(2), ""));
    assert!(text(&missing.stderr).starts_with("error: no/such/file.yml: cannot be read: No such file"));
    assert!(text(&missing.stderr).contains("--config_file"));
}

#[test]
fn validate_tells_what_is_wrong_with_the_file_and_with_its_guests_at_once() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    let text = "limits:\n  dedline: 5\nguests: nowhere.wasm\nworkflow:\n  _type: per_user_asistant\n";
    std::fs::write(&config, text).expect("a file");
    let done = run(&["validate", "--config_file", config.to_str().expect("text")]);
    assert_eq!(done.status.code(), Some(2));
    let name = config.display();
    let told: Vec<_> = text_lines(&done.stderr);
    assert_eq!(told[0], format!("error: {name}:2: limits.dedline: unknown key"));
    assert_eq!(told[1], "  did you mean `deadline`?");
    assert!(told[2].starts_with(&format!("{name}:3: guests.0: ")), "{told:?}");
    assert_eq!(told[4], format!("{name}:5: workflow._type: there is no guest `per_user_asistant`"));
}

fn text_lines(bytes: &[u8]) -> Vec<&str> {
    text(bytes).lines().collect()
}

#[test]
fn info_lists_functions_and_guests_with_their_schemas() {
    let info = run(&["info", "--config_file", CONFIG]);
    assert!(text(&info.stdout).contains("notepad: per_user_notepad {\"max_notes\":50}"));
    assert!(text(&info.stdout).contains("config: max_notes?: integer = 100"));
    let json = run(&["info", "--config_file", CONFIG, "--json"]);
    let info: serde_json::Value = serde_json::from_slice(&json.stdout).expect("JSON");
    assert_eq!(info["guests"][0]["schemas"]["input"]["required"][0], "action");
    assert_eq!(info["guests"][0]["source"], "built in");
    let none = run(&["info"]);
    assert!(text(&none.stdout).starts_with("Guests\n  per_user_notepad: "), "{}", text(&none.stdout));
    let folder = tempfile::tempdir().expect("a folder");
    let wrong = folder.path().join("config.yml");
    std::fs::write(&wrong, "workflow: {_type: per_user_notepad, max_note: 1}\n").expect("a file");
    let shown = run(&["info", "--config_file", wrong.to_str().expect("text")]);
    assert!(text(&shown.stdout).contains("max_note") && text(&shown.stdout).contains("max_notes?: integer = 100"));
}

#[test]
fn help_names_every_command_and_option() {
    let help = run(&["--help"]);
    for word in ["serve", "run", "validate", "info", "--log-format", "Exit codes"] {
        assert!(text(&help.stdout).contains(word), "{word}");
    }
    let serve = run(&["serve", "--help"]);
    for word in ["--host", "--port", "--config_file", "--config-file"] {
        assert!(text(&serve.stdout).contains(word), "{word}");
    }
    assert_eq!(run(&["serve"]).status.code(), Some(2), "the configuration is required");
}

/// A server as a process, stopped when it is dropped.
struct Served {
    child: Child,
    address: String,
    said: String,
}

impl Served {
    /// `caches`: the folder of this user's caches; if it is not given, the usual one.
    fn start(config: &Path, caches: Option<&Path>) -> Self {
        let mut command = carrel(&["serve", "--port", "0", "--config_file"]);
        command.arg(config).envs(caches.map(|caches| ("XDG_CACHE_HOME", caches)));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("the binary runs");
        let mut lines = BufReader::new(child.stderr.take().expect("stderr"));
        let mut said = String::new();
        while !said.contains("warning: nobody is verified") {
            assert!(lines.read_line(&mut said).expect("text") > 0, "it ended: {said}");
        }
        child.stderr = Some(lines.into_inner());
        let address = said.split("http://").nth(1).and_then(|rest| rest.lines().next()).expect("an address");
        Self { address: address.to_owned(), child, said }
    }

    /// The body of an answer.
    fn get(&self, path: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        answer.split_once("\r\n\r\n").expect("a body").1.to_owned()
    }

    fn signal(&self, name: &str) {
        let kill = Command::new("kill").args(["-s", name, &self.child.id().to_string()]).status();
        assert!(kill.expect("kill runs").success());
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[test]
fn serve_says_what_it_serves_and_stops_when_it_is_told() {
    for signal in ["TERM", "INT"] {
        let mut served = Served::start(Path::new(CONFIG), None);
        for part in ["per_user_notepad (built in)", "/generate", "1000000000 units of fuel", "100000 sessions"] {
            assert!(served.said.contains(part), "{part}: {}", served.said);
        }
        assert_eq!(served.get("/health"), r#"{"status":"healthy"}"#);
        served.signal(signal);
        assert_eq!(served.child.wait().expect("it ends").code(), Some(0));
    }
}

/// NAT's example with more keys, in a folder of its own.
pub(super) fn config_with(more: &str) -> (tempfile::TempDir, PathBuf) {
    let text = std::fs::read_to_string(CONFIG).expect("the configuration");
    written(&format!("{text}\n{more}\n"))
}

#[test]
fn where_nobody_is_verified_others_than_this_machine_are_served_only_if_the_file_says_so() {
    for address in ["0.0.0.0", "::"] {
        let refused = run(&["serve", "--config_file", CONFIG, "--host", address, "--port", "0"]);
        assert_eq!((refused.status.code(), text(&refused.stdout)), (Some(2), ""), "{address}");
        let told = text(&refused.stderr);
        assert!(told.starts_with("error: nobody is verified, and ") && told.contains("`identity: open`"), "{told}");
        assert!(!told.contains("Carrel 0"), "it was not served: {told}");
    }
    // The server says so, with the warning that the helper waits for.
    let (_folder, config) = config_with("identity: open");
    let text = std::fs::read_to_string(&config)
        .expect("the file")
        .replace("general:", "general:\n  front_end: {host: 0.0.0.0}");
    std::fs::write(&config, text).expect("a file");
    let served = Served::start(&config, None);
    assert!(served.address.starts_with("0.0.0.0:"), "{}", served.address);
    assert_eq!(served.get("/health"), r#"{"status":"healthy"}"#);
}

#[test]
fn a_key_that_carrel_makes_has_a_hash_that_the_configuration_takes() {
    let made = run(&["key"]);
    let (key, told) = (text(&made.stdout), text(&made.stderr));
    assert_eq!((made.status.code(), key.lines().count()), (Some(0), 1));
    let key = key.trim();
    assert!(key.starts_with("carrel_") && !told.contains(key), "the key is on stdout alone");
    assert_ne!(text(&run(&["key"]).stdout).trim(), key);
    let hash = told.split_whitespace().find(|word| word.starts_with("blake3:")).expect("its hash");
    let (_folder, config) = config_with(&format!("identity:\n  api_keys: [\"{hash}\"]"));
    let config = carrel::config::Config::load(&config).expect("a right configuration");
    let user = |key: &str| {
        let mut headers = http::HeaderMap::new();
        headers.insert("x-api-key", key.parse().expect("a header's value"));
        config.identity.user(&headers)
    };
    assert!(user(key).is_ok());
    assert!(user(hash).is_err(), "the hash is no key");
}

#[test]
fn an_address_that_is_taken_is_told_and_exits_with_1() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = taken.local_addr().expect("an address").port().to_string();
    let done = run(&["serve", "--config_file", CONFIG, "--host", "127.0.0.1", "--port", &port]);
    assert_eq!(done.status.code(), Some(1));
    assert!(text(&done.stderr).contains("cannot listen on 127.0.0.1") && text(&done.stderr).contains("--port"));
}

/// The files in the cache of compiled guests in this folder of caches.
pub(super) fn cached(folder: &Path) -> Vec<PathBuf> {
    let files = std::fs::read_dir(folder.join("carrel")).expect("the cache");
    let mut files: Vec<_> = files.map(|entry| entry.expect("a file").path()).collect();
    files.sort();
    files
}

/// The configuration of one guest, which is compiled in some milliseconds.
pub(super) fn of_a_small_guest() -> String {
    let guest = carrel_tests::Test::fixture_file("two-memories");
    format!("guests: {guest:?}\nworkflow: {{_type: two_memories}}\n")
}

/// A file with a configuration, in a folder of its own, in which caches may be as well.
fn written(text: &str) -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    std::fs::write(&config, text).expect("a file");
    (folder, config)
}

#[test]
fn compiled_guests_are_kept() {
    let (cache, config) =
        written("functions: {notes: {_type: per_user_notepad}}\nworkflow: {_type: per_user_preferences}\n");
    let started = Instant::now();
    Served::start(&config, Some(cache.path())).get("/health");
    let first = started.elapsed();
    assert_eq!(cached(cache.path()).len(), 2, "two guests, each with its shell");
    let started = Instant::now();
    Served::start(&config, Some(cache.path())).get("/health");
    let second = started.elapsed();
    println!("first start {first:?}, second start {second:?}");
    // Compiling takes seconds here, loading a few milliseconds: this is no measurement, only which of both it was.
    assert!(second < first / 2 && second < Duration::from_secs(5), "{first:?} {second:?}");
}

#[test]
fn a_damaged_file_of_a_compiled_guest_is_made_anew() {
    let (cache, config) = written(&of_a_small_guest());
    Served::start(&config, Some(cache.path())).get("/health");
    let files = cached(cache.path());
    assert_eq!(files.len(), 1, "the guest with its shell");
    let whole = std::fs::read(&files[0]).expect("a file");
    let mut flipped = whole.clone();
    let middle = flipped.len() / 2;
    flipped[middle] ^= 1;
    for damaged in [flipped, whole[..whole.len() / 2].to_vec(), whole[..10].to_vec(), Vec::new(), b"text".to_vec()] {
        std::fs::write(&files[0], damaged).expect("the file is damaged");
        let served = Served::start(&config, Some(cache.path()));
        assert!(served.said.contains("is damaged, and is made anew"), "{}", served.said);
        assert_eq!(served.get("/health"), r#"{"status":"healthy"}"#);
        assert_eq!(std::fs::read(&files[0]).expect("a file"), whole, "it was made anew, the same");
    }
}

#[test]
fn a_cache_that_others_can_write_to_is_not_used() {
    use std::os::unix::fs::PermissionsExt;
    let (cache, config) = written(&format!("guest_cache: shared\n{}", of_a_small_guest()));
    let folder = cache.path().join("shared");
    std::fs::create_dir(&folder).expect("a folder");
    std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(0o777)).expect("permissions");
    let served = Served::start(&config, Some(cache.path()));
    assert!(served.said.contains("other users can write to it"), "{}", served.said);
    assert_eq!(std::fs::read_dir(&folder).expect("the folder").count(), 0);
}
