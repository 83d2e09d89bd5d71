//! A wrong configuration is refused before anything is served, with file, line, key and what helps.

use carrel_tests::{HOSTILE, Test};
use serde_json::json;
use std::path::Path;

/// What `carrel` says of a file, in words.
async fn told(text: &str) -> String {
    match carrel::config::Config::parse(Path::new("config.yml"), text) {
        Err(error) => error.to_string(),
        Ok(config) => match carrel::Host::start(config, 2).await {
            Err(error) => error.to_string(),
            Ok(_) => panic!("not refused:\n{text}"),
        },
    }
}

const WORKFLOW: &str = "workflow:\n  _type: per_user_assistant\nfunctions:\n  notepad:\n    _type: per_user_notepad\n  \
                        preferences:\n    _type: per_user_preferences\n";

#[tokio::test]
async fn an_unknown_key_is_told_with_the_nearest_known_one() {
    let text = format!("{WORKFLOW}limits:\n  fuel_per_cal: 5\n");
    let told = told(&text).await;
    assert_eq!(told, "config.yml:9: limits.fuel_per_cal: unknown key\n  did you mean `fuel_per_call`?");
}

#[tokio::test]
async fn a_bad_duration_is_told_with_what_it_should_be() {
    let text = format!("general:\n  per_user_workflow_timeout: 2 fortnights\n{WORKFLOW}");
    let told = told(&text).await;
    assert_eq!(
        told,
        "config.yml:2: general.per_user_workflow_timeout: must be a time, such as \"30m\", \"2s\" or a number of seconds, \
         and is the text \"2 fortnights\""
    );
}

#[tokio::test]
async fn an_unknown_type_is_told_with_the_nearest_guest_or_with_all() {
    let near = told(&WORKFLOW.replace("per_user_notepad", "per_user_notpad")).await;
    assert!(near.starts_with("config.yml:5: functions.notepad._type: there is no guest `per_user_notpad`"), "{near}");
    assert!(near.contains("did you mean `per_user_notepad`?"), "{near}");
    let far = told(&WORKFLOW.replace("per_user_notepad", "xyz")).await;
    assert!(far.contains("there are `per_user_assistant`, `per_user_notepad`, `per_user_preferences`"), "{far}");
}

#[tokio::test]
async fn functions_that_refer_to_each_other_in_a_circle_are_refused() {
    let text = "functions:\n  a:\n    _type: per_user_assistant\n    notepad_name: b\n    preferences_name: p\n  b:\n    \
                _type: per_user_assistant\n    notepad_name: a\n    preferences_name: p\n  p:\n    _type: \
                per_user_preferences\nworkflow:\n  _type: per_user_assistant\n  notepad_name: a\n  preferences_name: p\n";
    let told = told(text).await;
    assert!(told.starts_with("config.yml:4: functions.a.notepad_name: "), "{told}");
    assert!(told.contains("in a circle: `a` -> `b` -> `a`"), "{told}");
}

#[tokio::test]
async fn a_reference_to_a_function_that_is_not_there_is_refused_also_one_by_default() {
    let named = told(&WORKFLOW.replace("assistant\n", "assistant\n  notepad_name: notpad\n")).await;
    assert!(named.starts_with("config.yml:3: workflow.notepad_name: there is no function `notpad`"), "{named}");
    assert!(named.contains("did you mean `notepad`?"), "{named}");
    let default = told("workflow:\n  _type: per_user_assistant\n").await;
    assert!(default.contains("workflow.notepad_name: there is no function `notepad`"), "{default}");
}

#[tokio::test]
async fn a_functions_own_keys_are_checked_against_its_schema() {
    let ty = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_notes: many\n")).await;
    let expected = "config.yml:6: functions.notepad.max_notes: must be of type integer, and is the text \"many\"";
    assert_eq!(ty, expected);
    let unknown = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_note: 5\n")).await;
    assert_eq!(unknown, "config.yml:6: functions.notepad.max_note: unknown key\n  did you mean `max_notes`?");
    let range = told(&WORKFLOW.replace("per_user_notepad\n", "per_user_notepad\n    max_notes: -1\n")).await;
    assert!(
        range.starts_with("config.yml:6: functions.notepad.max_notes: is the number -1: value is less than"),
        "{range}"
    );
}

#[tokio::test]
async fn a_route_that_is_taken_is_refused() {
    let endpoint = |path: &str| json!({"path": path, "method": "POST", "function_name": "notepad", "description": ""});
    for (path, by) in [("/generate", "general.front_end.workflow"), ("/health", "Carrel itself")] {
        let told = Test::new().set("general.front_end.endpoints", json!([endpoint(path)])).refused().await;
        assert!(told.contains(&format!("the route {path} is already taken by")) && told.contains(by), "{told}");
    }
    let twice = json!([endpoint("/notes"), endpoint("/notes/stream")]);
    let told = Test::new().set("general.front_end.endpoints", twice).refused().await;
    assert!(told.contains("/notes/stream is already taken by `general.front_end.endpoints.0`"), "{told}");
    let unknown = Test::new().endpoint("/notes", "notpad").refused().await;
    assert!(unknown.contains("endpoints.0.function_name: there is no function `notpad`"), "{unknown}");
    assert!(unknown.contains("did you mean `notepad`?"), "{unknown}");
}

#[tokio::test]
async fn text_that_is_not_yaml_is_told_with_its_line() {
    for (text, line) in [("a: [1\nb: 2\n", 2), ("workflow:\n\t_type: x\n", 2), ("workflow: {}\nworkflow: {}\n", 1)] {
        let told = told(text).await;
        assert!(told.starts_with(&format!("config.yml:{line}: is not YAML: ")), "{text:?}: {told}");
    }
}

#[tokio::test]
async fn a_limit_of_nothing_is_refused() {
    let limits = [
        "fuel_per_call",
        "deadline",
        "memory_per_instance",
        "output_size",
        "body_size",
        "queue_per_session",
        "max_sessions",
        "call_depth",
    ];
    let text = limits.iter().fold(format!("{WORKFLOW}limits:\n"), |text, limit| format!("{text}  {limit}: 0\n"));
    let told = told(&text).await;
    for (index, limit) in limits.iter().enumerate() {
        let line = 9 + index;
        assert!(told.contains(&format!("config.yml:{line}: limits.{limit}: must be at least ")), "{told}");
    }
}

#[tokio::test]
async fn a_folder_or_file_of_guests_that_cannot_be_used_is_told_with_its_path() {
    let empty = tempfile::tempdir().expect("a folder");
    let nothing = Test::new().set("guests", json!([empty.path()])).refused().await;
    assert!(nothing.contains("guests.0: the folder") && nothing.contains("has no .wasm files"), "{nothing}");
    let missing = Test::new().set("guests", json!([empty.path().join("nope")])).refused().await;
    assert!(missing.contains("nope cannot be read: No such file"), "{missing}");
    let text = empty.path().join("text.wasm");
    std::fs::write(&text, "not wasm").expect("a file");
    let wrong = Test::new().set("guests", json!([empty.path()])).refused().await;
    assert!(wrong.contains("text.wasm is not WebAssembly"), "{wrong}");
    let twice = Test::new().set("guests", json!([HOSTILE, HOSTILE])).refused().await;
    assert!(twice.contains("is named `hostile`, and so is one that is"), "{twice}");
}

#[tokio::test]
async fn a_function_that_refuses_its_configuration_fails_the_start_with_its_name() {
    let told = Test::hostile().set("functions.hostile.refuse", "not on a Monday").refused().await;
    assert!(told.contains("functions.hostile: the guest `hostile` does not take this configuration: not on a Monday"));
    let spins = Test::hostile().set("functions.hostile.spin", true).set("limits.fuel_per_call", "10M");
    let told = spins.refused().await;
    assert!(told.contains("functions.hostile: the function could not be set up: it used up its fuel"), "{told}");
}

#[tokio::test]
async fn rules_for_other_origins_that_browsers_do_not_take_are_refused() {
    let cors = json!({"allow_origins": ["https://a.example"], "allow_credentials": true, "expose_headers": ["*"]});
    let told = Test::new().set("general.front_end.cors", cors).refused().await;
    assert!(told.contains("cors.expose_headers: has no `*` with `allow_credentials`"), "{told}");
    let cors = json!({"allow_origins": ["*"], "allow_credentials": true});
    let told = Test::new().set("general.front_end.cors", cors).refused().await;
    assert!(told.contains("cors.allow_credentials: with `allow_origins: [\"*\"]`"), "{told}");
}

#[tokio::test]
async fn all_problems_are_told_at_once() {
    let text = WORKFLOW.replace("per_user_notepad", "nope").replace("_type: per_user_preferences", "_type: neither");
    let told = told(&text).await;
    assert_eq!(told.matches("there is no guest").count(), 2, "{told}");
}

#[tokio::test]
async fn nats_keys_that_mean_nothing_here_are_taken_and_listed() {
    let test = Test::new().set("llms.nim._type", "nim").set("general.front_end.use_gunicorn", true);
    assert_eq!(test.config().ignored, ["general.front_end.use_gunicorn", "llms"]);
    test.start().await;
}
