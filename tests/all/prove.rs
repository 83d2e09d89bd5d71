//! `carrel prove`: limits are attacked, and one that holds by name only is noticed.

use std::{
    path::Path,
    process::{Command, Output},
};

const CARREL: &str = env!("CARGO_BIN_EXE_carrel");

fn prove(config: &Path, more: &[&str]) -> Output {
    let mut carrel = Command::new(CARREL);
    carrel.arg("prove").arg(format!("--config_file={}", config.display())).args(more);
    carrel.output().expect("the binary runs")
}

/// The table's rows, each with its cells.
fn rows(output: &Output) -> Vec<Vec<String>> {
    let text = String::from_utf8(output.stdout.clone()).expect("text");
    let rows = text.lines().filter(|line| line.starts_with("| ")).skip(1);
    rows.map(|row| row.trim_matches('|').split(" | ").map(|cell| cell.trim().to_owned()).collect()).collect()
}

#[test]
fn every_limit_of_the_example_for_several_tenants_holds() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/multi-tenant.yml");
    let output = prove(&config, &[]);
    let rows = rows(&output);
    for row in &rows {
        assert_eq!(row.last().map(String::as_str), Some("yes"), "{row:?}");
    }
    assert!(output.status.success(), "{output:?}");
    for tenant in ["acme", "globex"] {
        for limit in [
            "limits.fuel_per_call",
            "limits.deadline",
            "limits.memory_per_instance",
            "limits.output_size",
            "limits.body_size",
            "limits.call_depth",
            "limits.queue_per_session",
            "limits.tenant.calls",
            "limits.tenant.sessions",
            "limits.tenant.memory",
            "limits.user.open_files",
            "limits.tenant.open_files",
            "limits.user.memory",
            "limits.user.fuel_per_second",
            "limits.user.requests_per_second",
            "limits.tenant.fuel_per_second",
            "the sandbox",
        ] {
            assert!(rows.iter().any(|row| row[0] == tenant && row[1] == limit), "{tenant}: {limit} is not attacked");
        }
    }
}

#[test]
fn a_limit_that_holds_by_name_only_is_noticed() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    let text = "limits:
  fuel_per_call: 5M
  deadline: 1s
  memory_per_instance: 4 MiB
  output_size: 64 KiB
  body_size: 64 KiB
  queue_per_session: 2
  call_depth: 2
  open_files: 40
  user: {open_files: 30, requests_per_second: 10, requests_burst: 20}
functions:
  notepad: {_type: per_user_notepad}
  preferences: {_type: per_user_preferences}
workflow: {_type: per_user_assistant}
";
    std::fs::write(&config, text).expect("a file");
    let whole = prove(&config, &[]);
    assert!(whole.status.success(), "{}", String::from_utf8_lossy(&whole.stdout));
    for broken in [
        "limits.fuel_per_call",
        "limits.deadline",
        "limits.memory_per_instance",
        "limits.output_size",
        "limits.body_size",
        "limits.queue_per_session",
        "limits.call_depth",
        "limits.user.requests_per_second",
        "limits.open_files",
        "limits.user.open_files",
    ] {
        let output = prove(&config, &["--break-limit", broken]);
        assert_eq!(output.status.code(), Some(1), "{broken}: {}", String::from_utf8_lossy(&output.stdout));
        let not_held: Vec<_> = rows(&output).into_iter().filter(|row| row[7] != "yes").collect();
        assert!(!not_held.is_empty(), "{broken}");
    }
}
