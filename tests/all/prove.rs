//! `carrel prove`: limits are attacked, and one that does not hold is noticed, and named.

use carrel::{
    config::Config,
    limits::{self, Limits, raise_descriptors},
    prove::{Part, prove_flawed},
};
use serde_json::Value;
use std::{
    collections::BTreeSet,
    env, fs,
    path::Path,
    process::{Command, Output},
};

const CARREL: &str = env!("CARGO_BIN_EXE_carrel");

fn prove(config: &Path, more: &[&str]) -> Output {
    let mut carrel = Command::new(CARREL);
    carrel.arg("prove").arg(format!("--config_file={}", config.display())).args(more);
    carrel.output().expect("the binary runs")
}

/// A report's attacks.
fn attacks(report: &Value) -> &[Value] {
    report["attacks"].as_array().expect("attacks")
}

/// The limits with an attack that is not reported as held, and the reasons.
fn not_held(report: &Value) -> Vec<(&str, &str)> {
    let text = |attack: &'_ Value, key: &str| attack[key].as_str().map(str::to_owned).unwrap_or_default();
    let wrong = attacks(report).iter().filter(|attack| attack["held"] != true);
    wrong
        .map(|attack| {
            println!("{}: {}: {}", text(attack, "limit"), text(attack, "attack"), text(attack, "wrong"));
            (attack["limit"].as_str().unwrap_or_default(), attack["wrong"].as_str().unwrap_or_default())
        })
        .collect()
}

#[test]
fn every_limit_of_the_example_for_several_tenants_holds_and_is_measured() {
    let config = Path::new(env!("CARGO_MANIFEST_DIR")).join("../configs/multi-tenant.yml");
    let output = prove(&config, &["--json"]);
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    assert_eq!(not_held(&report), []);
    assert!(output.status.success() && report["held"] == true, "{output:?}");
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
            "limits.tenant.requests_per_second",
            "the sandbox",
            "the neighbour",
        ] {
            let of_both = |attack: &&Value| attack["tenant"] == tenant && attack["limit"] == limit;
            assert!(attacks(&report).iter().any(|attack| of_both(&attack)), "{tenant}: {limit} is not attacked");
        }
    }
    // The rest is no attack on a running host: guests that are too large are not loaded, lines of the log are dropped,
    // and how many sessions are parked is of no harm to anybody else.
    let others = [
        "limits.log_size",
        "limits.guest_size",
        "limits.guest_function_size",
        "limits.guest_compile_time",
        "sessions.max_parked",
    ];
    for limit in limits::all().filter(|limit| !others.contains(&limit.key)) {
        assert!(attacks(&report).iter().any(|attack| attack["limit"] == limit.key), "{} is not attacked", limit.key);
    }
    for attack in attacks(&report) {
        let number = |path: &str| attack.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("{attack}"));
        assert!(number("/samples") > 0 && number("/resident_bytes/limit") > 0, "{attack}");
        for figure in ["resident_bytes", "counted_bytes"] {
            let most = number(&format!("/{figure}/most_tolerated"));
            assert!(number(&format!("/{figure}/most_seen")) <= most, "{attack}");
        }
        if attack["limit"] == "limits.connections" {
            assert_eq!(attack["neighbour"], Value::Null, "{attack}");
        } else {
            assert!(number("/neighbour/answers") + number("/neighbour/refused") > 0, "{attack}");
        }
        let is_of_files = attack["limit"].as_str().expect("a limit").ends_with("open_files");
        assert!(!is_of_files || number("/open_files/most_seen") > 0, "{attack}");
    }
}

/// The configuration that is attacked where one limit does not hold.
const CONFIG: &str = "limits:
  fuel_per_call: 5M
  deadline: 1500ms
  memory: 48 MiB
  memory_per_instance: 4 MiB
  output_size: 64 KiB
  body_size: 64 KiB
  queue_per_session: 4
  call_depth: 2
  max_sessions: 10
  calls: 8
  connections: 40
  open_files: 40
  user: {memory: 8 MiB, open_files: 30, requests_per_second: 10, requests_burst: 20}
  tenant: {memory: 16 MiB, calls: 6, sessions: 8, open_files: 45}
functions:
  notepad: {_type: per_user_notepad}
  preferences: {_type: per_user_preferences}
workflow: {_type: per_user_assistant}
";

/// A change that takes a limit off, so that it does not hold.
type Flaw = fn(&mut Limits);

/// Limits, the part of the attacks that is on them, and the flaw that takes each limit off.
const FLAWS: [(&str, Part, Flaw); 18] = [
    ("limits.memory", Part::Memory, |it| it.memory *= 100),
    ("limits.tenant.memory", Part::Memory, |it| it.tenant.memory = None),
    ("limits.user.memory", Part::Memory, |it| it.user.memory = None),
    ("limits.memory_per_instance", Part::Memory, |it| it.memory_per_instance *= 20),
    ("limits.fuel_per_call", Part::Processor, |it| it.fuel_per_call *= 3),
    ("limits.deadline", Part::Processor, |it| it.deadline *= 100),
    ("limits.output_size", Part::Sizes, |it| it.output_size *= 100),
    ("limits.body_size", Part::Sizes, |it| it.body_size *= 100),
    ("limits.call_depth", Part::Sizes, |it| it.call_depth *= 100),
    ("limits.queue_per_session", Part::Sizes, |it| it.queue_per_session *= 100),
    ("limits.user.open_files", Part::Sizes, |it| it.user.open_files = None),
    ("limits.calls", Part::Numbers, |it| it.calls *= 100),
    ("limits.tenant.calls", Part::Numbers, |it| it.tenant.calls = None),
    ("limits.max_sessions", Part::Numbers, |it| it.max_sessions *= 100),
    ("limits.tenant.sessions", Part::Numbers, |it| it.tenant.sessions = None),
    ("limits.connections", Part::Numbers, |it| it.connections *= 100),
    ("limits.open_files", Part::Numbers, |it| it.open_files *= 100),
    ("limits.user.requests_per_second", Part::Rates, |it| it.user.requests = None),
];

const KEYS: &str = "CARREL_TEST_FLAWS";
const REPORT: &str = "CARREL_TEST_REPORT";

/// The report on hosts with such flaws. They are attacked in a process of their own, whose memory nothing else takes.
fn report_on(keys: &str) -> Value {
    let folder = tempfile::tempdir().expect("a folder");
    let report = folder.path().join("report.json");
    let mut child = Command::new(env::current_exe().expect("this program"));
    child.args(["--exact", "prove::in_a_process_of_its_own", "--ignored"]).env(KEYS, keys).env(REPORT, &report);
    let output = child.output().expect("it runs");
    let told = fs::read(&report).unwrap_or_else(|error| panic!("{error}: {output:?}"));
    serde_json::from_slice(&told).expect("a report")
}

#[test]
#[ignore = "the other tests run it, and say with what"]
fn in_a_process_of_its_own() {
    let (Ok(keys), Ok(report)) = (env::var(KEYS), env::var(REPORT)) else { return };
    let config = Config::parse(Path::new("config.yml"), CONFIG).expect("a configuration");
    let _ = raise_descriptors(config.limits.connections, config.limits.open_files);
    let flaws: Vec<_> = FLAWS.iter().filter(|flaw| keys.split(',').any(|key| flaw.0 == key)).collect();
    // Those that are taken off together are of one part.
    let part = flaws.first().expect("a flaw").1;
    let spoil = |config: &mut Config| {
        let all = config.tenants.iter_mut().map(|tenant| &mut tenant.limits).chain([&mut config.limits]);
        all.for_each(|limits| flaws.iter().for_each(|flaw| flaw.2(limits)));
    };
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("threads");
    let told = runtime.block_on(prove_flawed(config, 2, &spoil, &[part])).expect("it is proved").as_json();
    fs::write(report, told.to_string()).expect("a file");
}

/// Checks that these limits, where they do not hold, are named, and no other that is attacked with them. Of the limits of
/// a part some hold at a time, and all are broken in the end.
fn are_named(of: impl Fn(Part) -> bool) {
    let all: Vec<_> = FLAWS.iter().filter(|flaw| of(flaw.1)).collect();
    let mut parts: Vec<Part> = all.iter().map(|flaw| flaw.1).collect();
    parts.dedup();
    for part in parts {
        for turn in 0..2 {
            let keys = all.iter().filter(|flaw| flaw.1 == part).map(|flaw| flaw.0);
            let broken: BTreeSet<&str> = keys.skip(turn).step_by(2).collect();
            if broken.is_empty() {
                continue;
            }
            let report = report_on(&Vec::from_iter(broken.iter().copied()).join(","));
            let named: BTreeSet<&str> = not_held(&report).into_iter().map(|it| it.0).collect();
            assert_eq!(named, broken);
            assert_eq!(report["held"], false);
        }
    }
}

// In two parts, so that they are run side by side.
#[test]
fn a_limit_that_holds_by_name_only_is_named_and_no_other() {
    are_named(|part| part == Part::Memory || part == Part::Processor);
}

#[test]
fn a_number_that_holds_by_name_only_is_named_and_no_other() {
    are_named(|part| part != Part::Memory && part != Part::Processor);
}
