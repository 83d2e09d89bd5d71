//! The documents tell the truth: their examples are run, and their lists are complete.
//!
//! # How a document is run
//!
//! * A `bash` block is a step: it is run in the folder in which the one before it ended. A `console` or `json` block
//!   after it is its output; without one, the step must succeed. `...` stands for variable text: a part of a line or,
//!   if it is all of a line, any number of lines.
//! * A comment `<!-- file: path -->` before a block makes a file of it.
//! * `carrel serve` and `cargo run .. -- serve` start the real binary, on a port of the system's choice, which
//!   `localhost:8000` means from then on, until the next server or the document's end. All other `cargo run` and
//!   `cargo test` lines of the README are the project itself, and only their configurations are looked for.
//! * A block of another language, `sh` among them, is only for the reader.

use carrel::limits::{self, Limit};
use std::{
    collections::BTreeSet,
    fs,
    io::{BufRead, BufReader},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{self, Receiver, RecvTimeoutError},
    thread,
    time::{Duration, Instant},
};

const CARREL: &str = env!("CARGO_BIN_EXE_carrel");
/// The folder of compiled files, kept for the next time.
const TMP: &str = env!("CARGO_TARGET_TMPDIR");
/// The longest time until a server prints what a document shows: a test machine may be busy compiling.
const SERVER_STARTS_WITHIN: Duration = Duration::from_secs(120);
/// Seconds that a step may take; the guide's first one compiles all that the SDK depends on.
const STEP_ENDS_WITHIN: &str = "900";

/// Returns true if there is curl, which the documents' steps use and the project does not need: without it they are
/// skipped, unless this is CI.
fn has_curl() -> bool {
    let found = Command::new("curl").arg("--version").output().is_ok();
    assert!(found || std::env::var_os("CI").is_none(), "curl is needed to follow the documents");
    if !found {
        println!("not followed: this machine has no curl");
    }
    found
}

#[test]
fn the_readmes_tour_gives_what_it_shows() {
    if !has_curl() {
        return;
    }
    let document = Document::read("README.md");
    for block in document.steps.iter().filter_map(Step::script).filter(|script| is_of_the_project(script)) {
        for config in block.split_whitespace().filter_map(|word| word.strip_prefix("--config_file=")) {
            assert!(project().join(config).is_file(), "README.md names {config}, which is not there");
        }
    }
    let ran = Terminal::at(project()).run(&document);
    assert!(ran.servers == 1 && ran.compared > 10, "README.md has no tour any more: {ran:?}");
}

#[test]
fn the_authors_guide_leads_from_an_empty_folder_to_a_served_function() {
    if !has_curl() {
        return;
    }
    let folder = tempfile::tempdir().expect("a folder outside of the project");
    let ran = Terminal::at(folder.path())
        .building_in(&Path::new(TMP).join("author"))
        .run(&Document::read("guests/README.md"));
    assert!(ran.servers >= 1 && ran.files >= 3 && ran.compared > 5, "guests/README.md is no guide any more: {ran:?}");
}

#[test]
fn the_commands_of_the_operators_guide_work() {
    let folder = tempfile::tempdir().expect("a folder outside of the project");
    let ran = Terminal::at(folder.path()).run(&Document::read("host/docs/operating.md"));
    assert_eq!(ran.files, 1, "host/docs/operating.md is no guide any more: {ran:?}");
}

#[test]
fn the_pages_on_configuration_and_errors_show_what_happens() {
    if !has_curl() {
        return;
    }
    for page in ["host/docs/configuration.md", "host/docs/errors.md"] {
        let folder = tempfile::tempdir().expect("a folder outside of the project");
        let ran = Terminal::at(folder.path()).run(&Document::read(page));
        assert!(ran.compared >= 1, "{page} shows nothing any more: {ran:?}");
    }
}

#[test]
fn the_page_on_configuration_names_every_key() {
    let folder = tempfile::tempdir().expect("a folder");
    let nonsense = "zzzz: 1\nlimits: {zzzz: 1, user: {zzzz: 1}, tenant: {zzzz: 1}}\nsessions: {zzzz: 1}\nidentity:\n  \
                    zzzz: 1\n  jwt: {zzzz: 1}\n  cookies: {zzzz: 1}\ntenants: {a: {zzzz: 1}}\nadmin: {zzzz: 1}\ngeneral:\n  zzzz: 1\n  front_end:\n    zzzz: 1\n    workflow: {zzzz: 1}\n    \
                    cors: {zzzz: 1}\n    endpoints:\n      - {path: /a, function_name: workflow, zzzz: 1}\n\
                    workflow: {_type: per_user_notepad, allow: {zzzz: 1}}\n";
    fs::write(folder.path().join("config.yml"), nonsense).expect("a file");
    let mut validate = Command::new(CARREL);
    validate.args(["validate", "--config_file=config.yml"]).current_dir(folder.path());
    let told = validate.output().expect("the binary runs").stderr;
    let told = String::from_utf8(told).expect("text");
    let hints: Vec<&str> = told.lines().filter_map(|line| line.trim().strip_prefix("the keys here are ")).collect();
    assert_eq!(hints.len(), 16, "each of the sixteen sections tells its keys:\n{told}");
    let keys: BTreeSet<&str> = hints.iter().flat_map(|hint| hint.split(", ")).collect();
    assert!(keys.contains("`fuel_per_call`") && keys.contains("`allow_origins`"), "{keys:?}");
    let page = read("host/docs/configuration.md");
    let missing: Vec<_> = keys.into_iter().filter(|key| !page.contains(*key)).collect();
    assert!(missing.is_empty(), "host/docs/configuration.md does not name {missing:?}");
    let limits = hints.iter().find(|hint| hint.contains("fuel_per_call")).expect("the keys of `limits`");
    let table = read("README.md");
    let missing: Vec<_> = limits
        .split(", ")
        .filter(|key| ![" |", ", a section"].iter().any(|end| table.contains(&format!("| {key}{end}"))))
        .collect();
    assert!(missing.is_empty(), "README.md's table of limits does not have {missing:?}");
}

#[test]
fn the_page_on_errors_names_every_code_and_no_other() {
    let codes = |file: &str| codes(&read(file));
    let sources = ["host/src/http/error.rs", "host/src/instance/stop.rs"];
    let of_limits = limits::all().filter_map(Limit::code).map(str::to_owned);
    let seen: BTreeSet<String> = sources.into_iter().flat_map(codes).chain(of_limits).collect();
    for known in ["invalid_input", "draining", "fuel_exhausted", "identity_required", "not_found"] {
        assert!(seen.contains(known), "the codes are not found in the sources any more: {seen:?}");
    }
    let page = read("host/docs/errors.md");
    // Before the first heading the page describes what all of them share.
    let (_, page) = page.split_once("\n## ").expect("headings");
    let named: BTreeSet<String> = page.lines().filter_map(first_cell).map(str::to_owned).collect();
    let missing: Vec<_> = seen.difference(&named).collect();
    assert!(missing.is_empty(), "host/docs/errors.md does not name {missing:?}");
    // Codes that only functions see are listed there as well.
    let siblings = read("host/src/instance/siblings.rs") + &read("host/src/call/services.rs");
    let gone: Vec<_> = named.difference(&seen).filter(|code| !siblings.contains(&format!("\"{code}"))).collect();
    assert!(gone.is_empty(), "host/docs/errors.md names {gone:?}, which no source has");
}

#[test]
fn the_documents_say_of_each_limit_what_its_line_in_the_code_says() {
    let pages = ["host/docs/configuration.md", "README.md", "host/docs/errors.md"].map(read);
    let [configuration, readme, errors] = &pages;
    let row = |page: &str, cell: &str| page.lines().find(|line| first_cell(line) == Some(cell)).map(str::to_owned);
    let mut checked = 0;
    for limit in limits::all() {
        let name = limit.key.rsplit('.').next().expect("a name");
        assert!(row(configuration, name).is_some(), "host/docs/configuration.md has no row for {}", limit.key);
        let Some(rejection) = limit.rejection else { continue };
        let code = format!("`{}`", rejection.code);
        let of_code =
            row(errors, rejection.code).unwrap_or_else(|| panic!("host/docs/errors.md has no row for {code}"));
        let statuses = of_code.split('|').nth(2).expect("a status");
        assert!(
            statuses.contains(&rejection.status.to_string()),
            "{}: {} is not in {of_code}",
            limit.key,
            rejection.status
        );
        assert!(of_code.contains(name), "host/docs/errors.md does not say that {code} is of {}", limit.key);
        let is_told = rejection.retry_after.is_some() || limit.key.ends_with("_per_second");
        assert_eq!(is_told, [429, 503].contains(&rejection.status), "{}: `Retry-After` is of 429 and 503", limit.key);
        let is_alone = limit.key.split('.').collect::<Vec<_>>() == ["limits", name];
        let told = if is_alone { row(readme, name) } else { Some(readme.clone()) };
        let told = told.unwrap_or_else(|| panic!("README.md has no row for {}", limit.key));
        assert!(told.contains(&code), "README.md does not say that {} answers with {code}", limit.key);
        checked += 1;
    }
    assert!(checked > 15, "only {checked} limits");
}

#[test]
fn the_changelog_has_this_version() {
    let text = read("CHANGELOG.md");
    let newest = text.lines().filter_map(|line| line.strip_prefix("## [")).nth(1).expect("a version");
    assert!(newest.starts_with(&format!("{}] - ", env!("CARGO_PKG_VERSION"))), "{newest}");
}

#[test]
fn links_between_the_documents_lead_somewhere() {
    let mut checked = 0;
    let pages = [
        "README.md",
        "CHANGELOG.md",
        ".github/CONTRIBUTING.md",
        ".github/SECURITY.md",
        "guests/README.md",
        "host/docs/architecture.md",
        "host/docs/configuration.md",
        "host/docs/errors.md",
        "host/docs/fuzzing.md",
        "host/docs/operating.md",
        "host/docs/performance.md",
    ];
    for page in pages {
        let text = read(page);
        let folder = project().join(page);
        let folder = folder.parent().expect("a folder");
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            let (path, part) = link.split_once('#').unwrap_or((link, ""));
            if path.contains("://") {
                continue;
            }
            let target = if path.is_empty() { project().join(page) } else { folder.join(path) };
            assert!(target.exists(), "{page} links to {link}, which is not there");
            if !part.is_empty() {
                let target = fs::read_to_string(&target).expect("a page");
                let headings = target.lines().filter(|line| line.starts_with('#')).map(anchor);
                assert!(headings.into_iter().any(|it| it == part), "{page} links to {link}: no such heading");
            }
            checked += 1;
        }
    }
    assert!(checked > 50, "only {checked} links");
}

#[test]
fn what_contributors_are_told_to_type_is_there() {
    let (page, aliases) = (read(".github/CONTRIBUTING.md"), read(".cargo/config.toml"));
    let mut commands = 0;
    for command in page.split('`').filter_map(|code| code.strip_prefix("cargo ")) {
        let name = command.split(' ').next().expect("a word");
        // The other two are cargo's own, and cargo-deny.
        let known = ["test", "deny"].contains(&name) || aliases.contains(&format!("\n{name} = ["));
        assert!(known, "`cargo {command}` is no command: there is no alias `{name}`");
        commands += 1;
    }
    for script in [".ci/run", "host/benches/all.sh"] {
        assert!(page.contains(script) && project().join(script).is_file(), "{script} is not there, or not told");
    }
    assert!(commands >= 5, "only {commands} commands");
    assert!(read(".github/workflows/ci.yml").contains("- run: .ci/run\n"), "the workflow does not run .ci/run");
}

/// A heading's name in a link.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    text.chars().filter(|c| c.is_alphanumeric() || " -_".contains(*c)).map(|c| if c == ' ' { '-' } else { c }).collect()
}

/// `code` of a table's row "| `code` | ..".
fn first_cell(line: &str) -> Option<&str> {
    line.strip_prefix("| `")?.split_once("` |").map(|(code, _)| code)
}

/// The codes in a source: texts in snake case with an underscore in them, and those that come after a status.
fn codes(source: &str) -> BTreeSet<String> {
    let mut codes = BTreeSet::new();
    let mut pieces = source.split('"');
    let mut before = pieces.next().unwrap_or_default();
    while let (Some(text), Some(after)) = (pieces.next(), pieces.next()) {
        let plain = !text.is_empty() && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        let follows_a_status = before.rsplit('(').next().is_some_and(|it| it.trim().starts_with("StatusCode::"));
        if plain && (text.contains('_') || follows_a_status) {
            codes.insert(text.to_owned());
        }
        before = after;
    }
    codes
}

/// The project's folder.
fn project() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

fn read(file: &str) -> String {
    fs::read_to_string(project().join(file)).unwrap_or_else(|error| panic!("{file}: {error}"))
}

/// A document's steps, in order.
pub(super) struct Document {
    name: String,
    steps: Vec<Step>,
}

enum Step {
    File { path: String, text: String },
    Run { line: usize, script: String, shown: Option<String> },
}

impl Step {
    fn script(&self) -> Option<&str> {
        match self {
            Self::Run { script, .. } => Some(script),
            Self::File { .. } => None,
        }
    }
}

impl Document {
    pub(super) fn read(name: &str) -> Self {
        let text = read(name);
        let mut steps = Vec::new();
        let mut file = None;
        let mut lines = text.lines().zip(1..);
        // True if the block before was a step, so that this one can be its output.
        let mut shows = false;
        while let Some((line, number)) = lines.next() {
            if let Some(comment) = line.strip_prefix("<!-- file: ") {
                file = comment.strip_suffix(" -->").map(str::to_owned);
                assert!(file.is_some(), "{name}:{number}: the comment does not end in ` -->`");
            }
            let Some(language) = line.strip_prefix("```") else { continue };
            let block: Vec<_> = lines.by_ref().map(|(line, _)| line).take_while(|line| *line != "```").collect();
            let block = block.join("\n");
            match (file.take(), language) {
                (Some(path), _) => steps.push(Step::File { path, text: block + "\n" }),
                (None, "bash") => steps.push(Step::Run { line: number, script: block, shown: None }),
                (None, "console" | "json") if shows => {
                    if let Some(Step::Run { shown, .. }) = steps.last_mut() {
                        *shown = Some(block);
                    }
                }
                (None, "console") => panic!("{name}:{number}: a `console` block comes after a `bash` block"),
                (None, _) => {}
            }
            shows = language == "bash" && matches!(steps.last(), Some(Step::Run { .. }));
        }
        Self { name: name.into(), steps }
    }
}

/// `cargo run` and `cargo test` in the project itself.
fn is_of_the_project(script: &str) -> bool {
    script.lines().all(|line| line.starts_with("cargo run ") || line.starts_with("cargo test"))
}

/// The arguments of a step that starts a server.
fn arguments_of_a_server(script: &str) -> Option<Vec<&str>> {
    let words: Vec<_> = script.split_whitespace().collect();
    let serve = words.iter().position(|word| *word == "serve")?;
    match words[..serve] {
        ["carrel"] | ["cargo", "run", .., "--"] => Some(words[serve..].to_vec()),
        _ => None,
    }
}

/// A reader of a document who runs its steps.
pub(super) struct Terminal {
    folder: PathBuf,
    /// The folder used in place of `target` for crates that the reader makes.
    target: Option<PathBuf>,
    server: Option<Server>,
    /// The command that runs the binary with some arguments, where it does not run in this very folder.
    place: Option<Place>,
    /// The file in which a step leaves the name of the folder in which it ended.
    left_in: tempfile::NamedTempFile,
}

type Place = Box<dyn Fn(&[&str]) -> Command>;

/// Counts of a document's files, servers and compared outputs.
#[derive(Debug, Default)]
pub(super) struct Ran {
    files: usize,
    pub(super) servers: usize,
    pub(super) compared: usize,
}

impl Terminal {
    pub(super) fn at(folder: &Path) -> Self {
        let left_in = tempfile::NamedTempFile::new().expect("a file");
        Self { folder: folder.to_owned(), target: None, server: None, place: None, left_in }
    }

    /// Servers run in another place, from where the same port leads to them.
    pub(super) fn serving_in(mut self, place: impl Fn(&[&str]) -> Command + 'static) -> Self {
        self.place = Some(Box::new(place));
        self
    }

    fn building_in(mut self, target: &Path) -> Self {
        fs::create_dir_all(target).expect("a folder for what is compiled");
        self.target = Some(target.to_owned());
        self
    }

    /// Follows a document from its first step to its last.
    fn run(mut self, document: &Document) -> Ran {
        self.follow(document).0
    }

    /// Like `run`, but returns the last server as well.
    pub(super) fn follow(&mut self, document: &Document) -> (Ran, Option<Server>) {
        let mut ran = Ran::default();
        for step in &document.steps {
            match step {
                Step::File { path, text } => {
                    let path = self.folder.join(path);
                    fs::create_dir_all(path.parent().expect("a folder")).expect("the file's folder");
                    fs::write(&path, text).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
                    ran.files += 1;
                }
                Step::Run { line, script, shown } => {
                    let place = format!("{}:{line}", document.name);
                    if let Some(arguments) = arguments_of_a_server(script) {
                        // The one before is stopped first, as the reader has to.
                        self.server = None;
                        let command = match &self.place {
                            Some(place) => place(&[&*arguments, &["--port", "0"]].concat()),
                            None => {
                                let mut command = Command::new(CARREL);
                                command.args(arguments).args(["--port", "0"]).current_dir(&self.folder);
                                command
                            }
                        };
                        let server = Server::start(&place, command, shown.as_deref());
                        self.server = Some(server);
                        ran.servers += 1;
                    } else if !(document.name == "README.md" && is_of_the_project(script)) {
                        self.step(&place, script, shown.as_deref());
                    }
                    ran.compared += usize::from(shown.is_some());
                }
            }
        }
        (ran, self.server.take())
    }

    fn step(&mut self, place: &str, script: &str, shown: Option<&str>) {
        let mut here = script.to_owned();
        if let Some(server) = &self.server {
            here = here.replace("localhost:8000", &server.address);
        }
        let told = format!("exec 2>&1\ntrap 'pwd >\"$LEFT_IN\"' EXIT\n{here}\n");
        let mut bash = Command::new("timeout");
        bash.args([STEP_ENDS_WITHIN, "bash", "-eo", "pipefail", "-c", &told]).current_dir(&self.folder);
        plain_environment(&mut bash)
            .env("LEFT_IN", self.left_in.path())
            .env("CARREL", project().canonicalize().expect("the project"));
        let folder = Path::new(CARREL).parent().expect("a folder").to_owned();
        let others = std::env::var_os("PATH").unwrap_or_default();
        let path = std::env::join_paths([folder].into_iter().chain(std::env::split_paths(&others)));
        bash.env("PATH", path.expect("a PATH"));
        let done = bash.stdin(Stdio::null()).output().expect("bash and timeout are there");
        let wrote = String::from_utf8_lossy(&done.stdout).into_owned();
        match shown {
            Some(shown) => {
                assert!(fits(shown, &wrote), "{place}\n\n{script}\n\nshows:\n{shown}\n\nand gives:\n{wrote}")
            }
            None => assert!(done.status.success(), "{place}: {}\n\n{script}\n\ngives:\n{wrote}", done.status),
        }
        let left_in = fs::read_to_string(self.left_in.path()).expect("where the step ended");
        self.folder = left_in.trim_end().into();
        // The reader's compiled crate is kept, so that its dependencies are compiled once.
        if let Some(target) = self.target.as_ref().filter(|_| self.folder.join("Cargo.toml").exists()) {
            let link = self.folder.join("target");
            if !link.exists() {
                symlink(target, &link).unwrap_or_else(|error| panic!("{}: {error}", link.display()));
            }
        }
    }
}

/// Removes the variables set by the cargo that runs this test, and this machine's own log settings.
fn plain_environment(command: &mut Command) -> &mut Command {
    for (name, _) in std::env::vars_os() {
        let name = name.to_string_lossy().into_owned();
        let kept = ["RUSTUP_", "CARGO_HOME", "CARGO_NET", "CARGO_REGISTR", "CARGO_HTTP"];
        let kept = kept.iter().any(|kept| name.starts_with(kept));
        if !kept && (name.starts_with("CARGO") || name.starts_with("RUST")) {
            command.env_remove(&name);
        }
    }
    command
}

/// The real binary, serving. Dropping it kills it.
pub(super) struct Server {
    pub(super) child: Child,
    address: String,
    lines: Receiver<String>,
    pub(super) said: String,
}

impl Server {
    fn start(place: &str, mut command: Command, shown: Option<&str>) -> Self {
        plain_environment(&mut command).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("the binary runs");
        let (sender, lines) = mpsc::channel();
        let stderr = child.stderr.take().expect("stderr is a pipe");
        // Reads on for as long as the server lives, so that it never waits for a reader.
        thread::spawn(move || {
            BufReader::new(stderr).lines().map_while(Result::ok).try_for_each(|line| sender.send(line))
        });
        let mut server = Self { child, address: String::new(), lines, said: String::new() };
        server.wait(place, "where it listens", |said| address(said).is_some());
        server.address = address(&server.said).expect("it was just found").to_owned();
        if let Some(shown) = shown {
            let real = server.address.clone();
            server.wait(place, shown, |said| fits(shown, &said.replace(&real, "127.0.0.1:8000")));
        }
        server
    }

    /// Reads the server's output until that is enough.
    pub(super) fn wait(&mut self, place: &str, what: &str, enough: impl Fn(&str) -> bool) {
        let end = Instant::now() + SERVER_STARTS_WITHIN;
        while !enough(&self.said) {
            match self.lines.recv_timeout(end.saturating_duration_since(Instant::now())) {
                Ok(line) => {
                    self.said.push_str(&line);
                    self.said.push('\n');
                }
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    panic!("{place}: the server should say\n{what}\n\nand it said\n{}", self.said)
                }
            }
        }
    }
}

/// `127.0.0.1:8000`, of a start's first line.
fn address(said: &str) -> Option<&str> {
    said.lines().find_map(|line| line.split_once(" on http://")).map(|(_, address)| address)
}

impl Drop for Server {
    fn drop(&mut self) {
        // The kill fails only if the server has ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns true if a text is what a document shows.
fn fits(shown: &str, text: &str) -> bool {
    fn lines(text: &str) -> Vec<&str> {
        text.trim_end().lines().map(str::trim_end).collect()
    }

    fn all_fit(shown: &[&str], text: &[&str]) -> bool {
        match shown.split_first() {
            None => text.is_empty(),
            Some((&"...", rest)) => (0..=text.len()).any(|skipped| all_fit(rest, &text[skipped..])),
            Some((line, rest)) => text.first().is_some_and(|first| line_fits(line, first)) && all_fit(rest, &text[1..]),
        }
    }

    fn line_fits(shown: &str, line: &str) -> bool {
        match shown.split_once("...") {
            None => shown == line,
            Some((start, rest)) => line.strip_prefix(start).is_some_and(|line| {
                line.char_indices().map(|(at, _)| at).chain([line.len()]).any(|at| line_fits(rest, &line[at..]))
            }),
        }
    }

    all_fit(&lines(shown), &lines(text))
}

#[test]
fn dots_stand_for_what_changes_and_for_nothing_else() {
    assert!(fits("a\nb", "a  \r\nb\n\n"));
    assert!(!fits("a", "a\nb") && !fits("a\nb", "a") && !fits("a", "ab"));
    assert!(fits("date: ...", "date: today") && fits("a ... c ... e", "a b c d e") && fits("ok ... ok", "ok ... ok"));
    assert!(!fits("date: ...", "day: today") && !fits("a ...\nb", "a b\nc") && !fits("... x", "x y"));
    assert!(fits("...\nb\n...", "a\na\nb") && fits("a\n...", "a") && !fits("...\nb", "a\nc"));
}
