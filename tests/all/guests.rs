//! Guests of others: those admitted, those refused and how, and their output.

use carrel_tests::{HOSTILE, Test};
use serde_json::json;
use std::process::Command;

/// The error that `carrel` reports for a guest file with these bytes.
async fn refused(bytes: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.wasm");
    std::fs::write(&file, bytes).expect("a file");
    Test::new().set("guests", json!([file])).set("limits.fuel_per_call", "20M").refused().await
}

/// A component in text form.
async fn refused_text(component: &str) -> String {
    refused(&wat::parse_str(component).expect("a component")).await
}

#[tokio::test]
async fn an_import_that_the_host_does_not_give_is_named_with_what_it_gives() {
    let told = refused_text(r#"(component (import "wasi:http/incoming-handler@0.2.0" (instance)))"#).await;
    assert!(told.contains("guests.0: ") && told.contains("guest.wasm imports `wasi:http/incoming-handler@0.2.0`"));
    assert!(told.contains("which the host does not give\n  it gives, with carrel: at version 0.1"), "{told}");
    assert!(told.contains("carrel:function/functions, ") && told.contains("wasi:cli/stdout"), "{told}");
    let version = refused_text(r#"(component (import "carrel:function/session@0.2.0" (instance)))"#).await;
    assert!(version.contains("imports `carrel:function/session@0.2.0`, which"), "{version}");
    let bare = refused_text(r#"(component (import "mine" (func)))"#).await;
    assert!(bare.contains("imports `mine`, which"), "{bare}");
}

#[tokio::test]
async fn a_component_that_exports_no_function_is_no_guest() {
    let told = refused_text("(component)").await;
    assert!(told.contains("does not export `carrel:function/function@0.1.0`"), "{told}");
    assert!(told.contains("carrel_guest::export!"), "{told}");
}

#[tokio::test]
async fn an_import_of_another_shape_is_told() {
    let shape = r#"(component (import "carrel:function/session@0.1.0"
        (instance (export "user-id" (func (param "x" u32))))))"#;
    let told = refused_text(shape).await;
    assert!(told.contains("imports what does not fit what the host gives"), "{told}");
}

#[tokio::test]
async fn a_core_module_and_other_bytes_are_told_apart() {
    let module = refused(&wat::parse_str("(module)").expect("a module")).await;
    assert!(module.contains("is a core WebAssembly module") && module.contains("wasm32-wasip2"), "{module}");
    let half = std::fs::read(HOSTILE).expect("a guest");
    let broken = refused(&half[..half.len() / 2]).await;
    assert!(broken.contains("is not a valid component"), "{broken}");
    assert!(refused(b"").await.contains("is not WebAssembly"));
}

/// A guest whose core module has this start function, and these bodies for its exports.
pub fn guest(start: &str, describe: &str) -> String {
    format!(
        r#"(component
        (core module $m
            (memory (export "memory") 1)
            (func (export "realloc") (param i32 i32 i32 i32) (result i32) (i32.const 1024))
            (func (export "describe") (result i32) {describe})
            (func (export "configure") (param i32 i32) (result i32) unreachable)
            (func (export "call") (param i32 i32) (result i32) unreachable)
            (func $start {start})
            (start $start)
        )
        (core instance $i (instantiate $m))
        (type $json string)
        (type $error-type (variant (case "invalid-input" string) (case "failed" string)))
        (type $description-type (record (field "name" string) (field "summary" string)
            (field "config-schema" string) (field "input-schema" string) (field "output-schema" string)))
        (component $c
            (import "error" (type $error (eq $error-type)))
            (import "description" (type $description (eq $description-type)))
            (import "describe" (func $describe (result $description)))
            (import "configure" (func $configure (param "config" string) (result (result (error string)))))
            (import "call" (func $call (param "input" string) (result (result string (error $error)))))
            (export $error-out "error" (type $error))
            (export $description-out "description" (type $description))
            (export "describe" (func $describe) (func (result $description-out)))
            (export "configure" (func $configure))
            (export "call" (func $call)
                (func (param "input" string) (result (result string (error $error-out)))))
        )
        (func $describe (result $description-type)
            (canon lift (core func $i "describe") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
        (func $configure (param "config" string) (result (result (error string)))
            (canon lift (core func $i "configure") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
        (func $call (param "input" string) (result (result string (error $error-type)))
            (canon lift (core func $i "call") (memory (core memory $i "memory")) (realloc (core func $i "realloc"))))
        (instance $f (instantiate $c
            (with "error" (type $error-type)) (with "description" (type $description-type))
            (with "describe" (func $describe)) (with "configure" (func $configure)) (with "call" (func $call))))
        (export "carrel:function/function@0.1.0" (instance $f))
    )"#
    )
}

#[tokio::test]
async fn a_guest_that_does_not_describe_itself_is_stopped_and_refused() {
    for (start, describe, why) in [
        ("(loop (br 0))", "(i32.const 0)", "used up its fuel"),
        ("", "(loop (br 0)) (unreachable)", "used up its fuel"),
        ("", "unreachable", "crashed: it panicked or aborted"),
        ("", "(i32.const 0x7ffffff0)", "crashed: "),
        ("", "(i32.const 0)", "calls itself \"\""),
    ] {
        let told = refused_text(&guest(start, describe)).await;
        assert!(told.contains("guest.wasm ") && told.contains(why), "{start} {describe}: {told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_folder_of_guests_is_loaded_whole() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::copy(HOSTILE, folder.path().join("any name.wasm")).expect("a guest");
    std::fs::write(folder.path().join("README.md"), "not a guest").expect("a file");
    let test = Test::new().set("guests", json!([folder.path()])).set("functions.it", json!({"_type": "hostile"}));
    let server = test.endpoint("/it", "it").start().await;
    assert_eq!(server.user("alice").at("/it").call(json!({"do": "count"})).await.ok()["calls"], 1);
}

/// The host's log of a call, in a process of its own.
fn logged(input: &str, log_size: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    let test = Test::hostile().set("functions.hostile2", json!({"_type": "hostile"}));
    std::fs::write(&config, test.set("limits.log_size", log_size).text()).expect("a file");
    let done = Command::new(env!("CARGO_BIN_EXE_carrel"))
        .args(["--log-format", "json", "run", "--function", "hostile", "--user", "alice", "--input", input])
        .arg("--config_file")
        .arg(&config)
        .env_remove("RUST_LOG")
        .output()
        .expect("the binary runs");
    String::from_utf8(done.stderr).expect("text")
}

fn own((level, text): (&str, &str)) -> (String, String) {
    (level.to_owned(), text.to_owned())
}

/// The level and the text of each line of a log, all of which are the guest's.
fn lines(log: &str) -> Vec<(String, String)> {
    let line = |line: &str| {
        let line: serde_json::Value = serde_json::from_str(line).expect("a line is a JSON object");
        assert_eq!(line["target"], "guest");
        assert_eq!(line["fields"]["function"], "hostile");
        assert_eq!(line["fields"]["user"], "7b031fd4-714b-598e-b755-a517d069edc5");
        own((line["level"].as_str().expect("text"), line["fields"]["message"].as_str().expect("text")))
    };
    log.lines().map(line).collect()
}

#[test]
fn what_a_guest_prints_becomes_log_lines_of_its_function_and_user() {
    let log = logged(r#"{"do":"print","text":"one\ntwo \u001b[31m\r","times":1}"#, "1 KiB");
    let told = lines(&log);
    let two = "two \\u{1b}[31m\\r";
    assert_eq!(told, [("INFO", "one"), ("INFO", two), ("WARN", "one"), ("WARN", two)].map(own));
}

#[test]
fn what_a_guest_logs_has_its_level_and_a_line_for_each_of_its_lines() {
    let each: Vec<_> = ["error", "warn", "info", "debug", "trace"]
        .map(|level| json!({"do": "log", "level": level, "text": "one\n\ntwo \u{1b}[31m\r.", "times": 1}))
        .into();
    let log = logged(&json!({"do": "all", "of": each}).to_string(), "2 KiB");
    let told = lines(&log);
    // By default the operator does not want to see the others, and they take nothing of the budget.
    let of = |level| ["one", "", "two \\u{1b}[31m\\r."].map(|text| own((level, text)));
    assert_eq!(told, [of("ERROR"), of("WARN"), of("INFO")].concat());
}

#[test]
fn a_long_line_that_a_guest_logs_is_cut_between_characters_and_none_is_shown_in_another_order() {
    let text = "\u{20ac}".repeat(2000) + "\u{202e}";
    let log = logged(&json!({"do": "log", "level": "info", "text": text, "times": 1}).to_string(), "64 KiB");
    let texts = ["\u{20ac}".repeat(1365), "\u{20ac}".repeat(635) + "\\u{202e}"];
    assert_eq!(lines(&log), texts.map(|text| own(("INFO", &text))));
}

#[test]
fn what_a_guest_logs_and_what_it_prints_is_on_one_budget() {
    let print = json!({"do": "print", "text": "0123456789", "times": 2});
    let log = json!({"do": "log", "level": "info", "text": "0123456789\n".repeat(2), "times": 1000});
    let log = logged(&json!({"do": "all", "of": [print, log]}).to_string(), "1000");
    assert_eq!(log.matches("0123456789").count(), 7, "{log}");
    assert_eq!(log.matches("limits.log_size").count(), 1, "{log}");
}

#[test]
fn a_flood_of_log_lines_is_cut_and_told_once() {
    let log = logged(r#"{"do":"print","text":"0123456789","times":10000}"#, "1000");
    let lines = log.lines().filter(|line| line.contains("0123456789")).count();
    assert_eq!(lines, 7, "each line costs 11 bytes and the 128 that the host adds");
    assert_eq!(log.matches("limits.log_size").count(), 1, "{log}");
}

#[test]
fn the_budget_of_log_lines_is_one_for_all_that_a_call_calls() {
    let print = r#"{"do":"print","text":"0123456789","times":10}"#;
    let log = logged(&format!(r#"{{"do":"call","name":"hostile2","input":{print}}}"#), "1000");
    assert_eq!(log.matches("0123456789").count(), 7, "{log}");
    assert_eq!(log.matches("limits.log_size").count(), 1, "{log}");
}

#[test]
fn an_instance_that_is_called_twice_prints_twice_on_one_budget() {
    let print = json!({"do": "print", "text": "0123456789", "times": 3});
    let call = json!({"do": "call", "name": "hostile2", "input": print});
    let twice = json!({"do": "all", "of": [call, call]}).to_string();
    // To stdout and to stderr each time.
    for (log_size, lines) in [("4 KiB", 12), ("1000", 7)] {
        let log = logged(&twice, log_size);
        assert_eq!(log.matches("0123456789").count(), lines, "{log}");
    }
}
