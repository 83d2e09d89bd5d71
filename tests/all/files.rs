//! Configuration files as people bring them, through the binary: several files, marks of editors, many mistakes.
//!
//! NAT's reading of files, compared with Carrel's, is in `tests/nat/files.rs`.

use super::cli::of_a_small_guest;
use carrel_tests::HOSTILE;
use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};
use tempfile::TempDir;

const WHOLE: &str = "functions: {notepad: {_type: per_user_notepad}, preferences: {_type: per_user_preferences}}\n\
                     workflow: {_type: per_user_assistant}\n";

/// A folder with files, the first of which is the configuration.
struct Files {
    folder: TempDir,
    config: String,
}

impl Files {
    fn new(files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("a folder");
        for (name, text) in files {
            let file = folder.path().join(name);
            fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
            fs::write(&file, text).expect("a file");
        }
        Self { folder, config: files[0].0.to_owned() }
    }

    /// Runs a command with the configuration, from its folder.
    fn run(&self, command: &str, more: &[&str]) -> Output {
        let mut carrel = Command::new(env!("CARGO_BIN_EXE_carrel"));
        carrel.args([command, "--config_file", &self.config]).args(more).env_remove("RUST_LOG");
        carrel.current_dir(self.folder.path()).output().expect("the binary runs")
    }

    /// The errors in the configuration.
    #[track_caller]
    fn refused(&self, more: &[&str]) -> String {
        let done = self.run("validate", more);
        assert_eq!(done.status.code(), Some(2), "{done:?}");
        String::from_utf8(done.stderr).expect("text")
    }

    #[track_caller]
    fn is_valid(&self, more: &[&str]) {
        let done = self.run("validate", more);
        assert_eq!(done.status.code(), Some(0), "{}", String::from_utf8_lossy(&done.stderr));
    }
}

#[test]
fn each_file_of_several_has_its_own_folder_and_lines() {
    let guests = Path::new(HOSTILE).file_name().expect("a name").to_string_lossy().into_owned();
    let base = format!("# guests of everybody\nguests: [{guests}]\nlimits:\n  deadline: 5s\n{WHOLE}");
    let files = Files::new(&[
        ("config.yml", "base: shared/base.yml\nfunctions:\n  attacker: {_type: hostile}\n"),
        ("shared/base.yml", &base),
    ]);
    fs::copy(HOSTILE, files.folder.path().join("shared").join(&guests)).expect("a copy");
    files.is_valid(&[]);
    // Each problem is told where it stands: in the file of its own first.
    let wrong = Files::new(&[
        ("config.yml", "base: shared/base.yml\nlimits:\n  body_size: none\n  log_sizes: 5\n"),
        ("shared/base.yml", &base.replace("5s", "soon").replace("_type: per_user_notepad", "_type: per_user_notpad")),
    ]);
    let told = wrong.refused(&[]);
    let lines: Vec<_> = told.trim_start_matches("error: ").lines().filter(|line| !line.starts_with(' ')).collect();
    assert_eq!(lines.len(), 5, "{told}");
    for (line, start) in lines.iter().zip([
        "config.yml:3: limits.body_size: must be a size",
        "config.yml:4: limits.log_sizes: unknown key",
        "shared/base.yml:2: guests.0: shared/",
        "shared/base.yml:4: limits.deadline: must be a time",
        "shared/base.yml:5: functions.notepad._type: there is no guest `per_user_notpad`",
    ]) {
        assert!(line.starts_with(start), "{line}");
    }
}

#[test]
fn a_base_that_cannot_be_taken_is_told_where_it_is_named() {
    let base = |text: &str, other: &str| {
        Files::new(&[("config.yml", text), ("b.yml", other)]).refused(&[]).trim_start_matches("error: ").to_owned()
    };
    let circle = base(&format!("{WHOLE}base: b.yml\n"), "# here\nbase: config.yml\n");
    assert!(circle.starts_with("b.yml:2: base: the files stand on each other in a circle: "), "{circle}");
    assert!(circle.contains("`config.yml` -> `b.yml` -> `config.yml`"), "{circle}");
    let missing = base(&format!("{WHOLE}base: nope.yml\n"), "");
    assert!(missing.starts_with("config.yml:3: base: nope.yml cannot be read: No such file"), "{missing}");
    let number = base(&format!("base: 5\n{WHOLE}"), "");
    assert!(
        number.starts_with("config.yml:1: base: must be the path of a configuration, and is the number 5"),
        "{number}"
    );
    let broken = base(&format!("base: b.yml\n{WHOLE}"), "a: 1\nb: [\n");
    assert!(broken.starts_with("b.yml:") && broken.contains("is not YAML"), "{broken}");
    let unset = base(&format!("base: b.yml\n{WHOLE}"), "a: 1\nb: ${CARREL_NOPE}\n");
    assert!(unset.starts_with("b.yml:2: the environment variable CARREL_NOPE is not set"), "{unset}");
}

#[test]
fn a_base_may_stand_on_any_number_of_others_and_links_lead_to_their_own_folder() {
    let many = 3000;
    let chain: Vec<(String, String)> = (0..many)
        .map(|n| (format!("{n}.yml"), format!("base: {}.yml\nlimits: {{call_depth: {}}}\n", n + 1, n % 60 + 1)))
        .chain([(format!("{many}.yml"), WHOLE.to_owned())])
        .collect();
    let chain: Vec<_> = chain.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
    Files::new(&chain).is_valid(&[]);
    let themed =
        WHOLE.replace("per_user_preferences}", "per_user_preferences, default_preferences: {theme: file://t.txt}}");
    let linked = Files::new(&[
        ("link/config.yml", ""),
        ("real/config.yml", "base: b.yml\n"),
        ("real/b.yml", &themed),
        ("real/t.txt", "x"),
    ]);
    let link = linked.folder.path().join("link/config.yml");
    fs::remove_file(&link).expect("a file");
    std::os::unix::fs::symlink("../real/config.yml", &link).expect("a link");
    linked.is_valid(&[]);
}

#[test]
fn what_two_readers_of_yaml_take_is_read_in_one_way() {
    // Brackets and quoted texts that go on at the beginning of a line; all else means what it always does.
    for before in ["limits: {\ncall_depth: 5\n}\n", "guests: [\n]\n", "general: {front_end: {host: \"a\nb\"}}\n"] {
        let text = format!("{before}{}", WHOLE.replace("per_user_notepad}", "per_user_notepad, max_notes: 010}"));
        let files = Files::new(&[("config.yml", &text)]);
        files.is_valid(&[]);
        let info = String::from_utf8(files.run("info", &[]).stdout).expect("text");
        assert!(info.contains("per_user_notepad {\"max_notes\":8}"), "{before}: {info}");
    }
    let told = Files::new(&[("config.yml", &format!("limits: {{\ndedline: 5\n}}\n{WHOLE}"))]).refused(&[]);
    assert!(told.starts_with("error: config.yml:2: limits.dedline: unknown key"), "{told}");
    let odd = Files::new(&[("config.yml", &format!("# x\u{85}limits: {{call_depth: 010}}\n{WHOLE}"))]).refused(&[]);
    assert!(odd.contains("it can be read in two ways"), "{odd}");
}

#[test]
fn a_byte_order_mark_is_taken_off_any_text_that_is_read() {
    let mark = "\u{feff}";
    let files = Files::new(&[
        ("config.yml", &format!("{mark}base: b.yml\r\nlimits: {{deadline: 5s}}\r\n")),
        (
            "b.yml",
            &format!(
                "{mark}{}",
                WHOLE.replace(
                    "per_user_preferences",
                    "per_user_preferences, default_preferences: {theme: file://theme.txt}"
                )
            ),
        ),
        ("theme.txt", &format!("{mark}dark")),
    ]);
    files.is_valid(&[]);
    let input = br#"{"command":"pref","action":"get","param1":"theme"}"#;
    let mut child = Command::new(env!("CARGO_BIN_EXE_carrel"))
        .args(["run", "--config_file", "config.yml", "--input", "-"])
        .current_dir(files.folder.path())
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the binary runs");
    child.stdin.take().expect("stdin").write_all(&[mark.as_bytes(), input].concat()).expect("the input is sent");
    let done = child.wait_with_output().expect("it ends");
    let answer: serde_json::Value = serde_json::from_slice(&done.stdout).expect("JSON");
    assert_eq!(answer["data"]["value"], "dark");
}

#[test]
fn what_no_configuration_can_have_is_told_with_its_line() {
    for (text, told) in [
        ("limits:\n  deadline: .inf\n", "config.yml:4: is not YAML: .inf is not a number"),
        ("limits:\n  ~: 5\n", "config.yml:4: is not YAML: a key is empty"),
        ("limits:\n  deadline: 5s # \u{1b}[0m\n", "config.yml:4: is not YAML: the control character U+001B"),
        ("limits: 5\n", "config.yml:3: limits: must be a map of keys, and is the number 5"),
        ("limits: !x 5\n", "config.yml:3: is not YAML: the tag !x means nothing here"),
        ("limits: {<<: 5}\n", "config.yml:3: is not YAML: the merge key `<<` takes a map"),
        ("limits:\n  call_depth: 1.7\n", "config.yml:4: limits.call_depth: must be a whole number"),
        ("limits:\n  call_depth: \"1.7\"\n", "config.yml:4: limits.call_depth: must be a whole number"),
        (
            "general:\n  per_user_workflow_timeout: '1:30'\n",
            "config.yml:4: general.per_user_workflow_timeout: must be a time",
        ),
        ("guests: file://nope.txt\n", "config.yml:3: guests: nope.txt cannot be read"),
        ("guests: file://config.yml\n", "config.yml:3: guests: config.yml ends in none of .txt"),
    ] {
        let refused = Files::new(&[("config.yml", &format!("{WHOLE}{text}"))]).refused(&[]);
        assert!(refused.starts_with(&format!("error: {told}")), "{text:?}: {refused}");
    }
    let files = Files::new(&[("config.yml", WHOLE)]);
    fs::write(files.folder.path().join("config.yml"), b"a: 1\nb: \xff\n").expect("a file");
    assert!(files.refused(&[]).starts_with("error: config.yml:2: is not text in UTF-8"));
}

#[test]
fn thousands_of_mistakes_are_told_each_with_its_line_and_soon() {
    const MANY: usize = 2000;
    // Every kind of mistake that a function can have, a line each.
    let kinds: [(&str, &dyn Fn(usize) -> String); 5] = [
        ("unknown keys", &|n| format!("  f{n}: {{_type: per_user_notepad, max_nots: 1}}\n")),
        ("unknown guests", &|n| format!("  f{n}: {{_type: per_user_notpad{n}}}\n")),
        ("wrong values", &|n| format!("  f{n}: {{_type: per_user_notepad, max_notes: many}}\n")),
        ("unknown functions", &|n| {
            format!("  f{n}: {{_type: per_user_assistant, notepad_name: g{n}, preferences_name: p}}\n")
        }),
        ("no type", &|n| format!("  f{n}: {{}}\n")),
    ];
    for (kind, line) in kinds {
        let mut text =
            "functions:\n  p: {_type: per_user_preferences}\n  notepad: {_type: per_user_notepad}\n".to_owned();
        text.extend((0..MANY).map(line));
        text.push_str("workflow: {_type: per_user_assistant, preferences_name: p}\n");
        let files = Files::new(&[("config.yml", &text)]);
        let began = Instant::now();
        let told = files.refused(&[]);
        // In quadratic time it was 13 seconds of a faster build; this is no measurement, but far from that.
        assert!(began.elapsed() < Duration::from_secs(60), "{kind}: {:?}", began.elapsed());
        let told: Vec<_> = told.trim_start_matches("error: ").lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(told.len(), MANY, "{kind}");
        for (n, line) in told.iter().enumerate() {
            assert!(line.starts_with(&format!("config.yml:{}: functions.f{n}", n + 4)), "{kind}: {line}");
        }
        let bytes: usize = told.iter().map(|line| line.len()).sum();
        assert!(bytes < MANY * 2000, "{kind}: {bytes} bytes");
    }
}

#[test]
fn a_name_has_up_to_64_characters_whatever_their_bytes() {
    let named = |name: &str| {
        Files::new(&[(
            "config.yml",
            &WHOLE.replace("notepad: {", &format!("notepad: {{_type: per_user_notepad}}, {name}: {{")),
        )])
    };
    for right in ["ü".repeat(64), "\u{1f600}".repeat(64), "x".into()] {
        named(&right).is_valid(&[]);
    }
    for wrong in ["ü".repeat(65), "x".repeat(65)] {
        assert!(named(&wrong).refused(&[]).contains("has 1 to 64 characters"), "{wrong}");
    }
}

#[test]
fn keys_are_overridden_on_the_command_line() {
    let files = Files::new(&[("config.yml", &format!("limits: {{deadline: 5s}}\n{WHOLE}"))]);
    let more = ["--override", "functions.notepad.max_notes", "1", "--override", "limits.deadline", "PT2S"];
    files.is_valid(&more);
    let add = r#"{"action":"add","content":"milk"}"#;
    let no_room = ["--function", "notepad", "--input", add, "--override", "functions.notepad.max_notes", "0"];
    let done = files.run("run", &no_room);
    assert!(String::from_utf8_lossy(&done.stdout).contains("\"success\":false"), "{done:?}");
    for (key, value, told) in [
        ("limits.dedline", "5s", "--override: limits.dedline: unknown key"),
        ("limits.deadline", "soon", "--override: limits.deadline: must be a time"),
        ("limits.deadline.x", "5s", "--override: limits.deadline.x: cannot be set: `limits.deadline` has no `x`"),
        ("", "5s", "names no key"),
        ("guests", "[nope.wasm]", "--override: guests.0: nope.wasm cannot be read"),
        ("guests", "[nope.wasm", "--override: guests: is not YAML"),
        ("limits..deadline", "5s", "names no key"),
        ("limits.call_depth", "-5", "--override: limits.call_depth: must be"),
    ] {
        let refused = files.refused(&["--override", key, value]);
        assert!(refused.contains(told), "{key}: {refused}");
    }
    // As with NAT, the type of the value in the file says how the text is read.
    let text = format!("limits: {{call_depth: 5}}\nguest_cache: \"off\"\n{}", of_a_small_guest());
    let typed = Files::new(&[("config.yml", &text)]);
    typed.is_valid(&["--override", "limits.call_depth", "010", "--override", "guest_cache", "[x]"]);
    let told = typed.refused(&["--override", "limits.call_depth", "065"]);
    assert!(told.contains("must be at most 64, and is 65"), "{told}");
    let done = files.run("validate", &["--override", "limits.deadline"]);
    assert_eq!(done.status.code(), Some(2));
}
