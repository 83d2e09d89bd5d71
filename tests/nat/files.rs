//! Configuration files: Carrel reads the same in them as NAT.
//!
//! `files.jsonl` holds cases with NAT's result for each, recorded by `record_files.py`. Carrel takes the files that
//! NAT takes, with the same meaning, and refuses those that NAT refuses, except for the cases below, each with its
//! reason. Another recording of the same form is taken from the variable `CARREL_NAT_FILES`.

use carrel::{
    Host,
    config::{Config, Surroundings},
};
use serde_json::{Value, json};
use std::{collections::BTreeMap, fs, time::Duration};

const RECORDED: &str = include_str!("files.jsonl");

/// Cases that NAT takes and Carrel refuses, and a part of Carrel's error.
const STRICTER: [(&str, &str); 10] = [
    // A session cannot be dropped before it has begun, nor at once.
    ("time: '-01:30'", "is one before now"),
    ("time: -PT30M", "is one before now"),
    ("time: -5", "must be a time"),
    ("time: 0", "must be at least 1ms"),
    ("time: yes", "must be a time"),
    ("count: true", "must be of type integer"),
    ("a key twice", "duplicate"),
    // NAT passes over keys that it does not know here, and so over misspelt ones.
    ("front end: an unknown key", "did you mean `host`?"),
    ("override: an unknown key", "did you mean `port`?"),
    ("front end: credentials: none", "nobody is let in"),
];

/// Cases that NAT refuses and Carrel takes.
const WIDER: [(&str, &str); 11] = [
    ("time: '1800'", "a variable's value stands in quotes"),
    ("time: 1e3", "a number of seconds"),
    ("time: ~", "a key without a value is one that is not given"),
    ("time: 30m", "Carrel's own form"),
    ("time: '1h 30m'", "Carrel's own form"),
    ("text: yes", "a word where the guest takes text"),
    ("text: on", "a word where the guest takes text"),
    ("text: 2001-01-01", "a date is text"),
    ("variable: \\${PORT}", "NAT puts the value off, and then reads the braces"),
    ("variable in text: ${YES}", "a word where the guest takes text"),
    ("front end: a method in small letters", "methods are known in any letters"),
];

/// Cases that both take, each with a meaning of its own.
const OTHERWISE: [(&str, &str); 1] = [
    // As YAML has it, the first of several maps counts. PyYAML 6.0.3 compares keys by their address, so that it depends
    // on a key's length which one does.
    ("merge key: a list", "`functions`"),
];

#[tokio::test(flavor = "multi_thread")]
async fn files_are_read_as_nat_reads_them() {
    let other = std::env::var("CARREL_NAT_FILES").ok();
    let recorded = other.map(|file| fs::read_to_string(file).expect("a recording"));
    let (mut groups, mut wrong) = (BTreeMap::<&str, usize>::new(), Vec::new());
    for line in recorded.as_deref().unwrap_or(RECORDED).lines() {
        let case: Value = serde_json::from_str(line).expect("a case");
        let name = case["name"].as_str().expect("a name");
        let of = |list: &[(&'static str, &'static str)]| list.iter().find(|(it, _)| *it == name).map(|(_, what)| *what);
        let group = match (case.get("taken"), read(&case).await, of(&STRICTER), of(&WIDER)) {
            (Some(nat), Ok(carrel), None, None) => match differs(nat, &carrel) {
                None => "taken with the same meaning",
                Some(how) if of(&OTHERWISE).is_some_and(|key| how.starts_with(key)) => {
                    "taken with another meaning on purpose"
                }
                Some(how) => {
                    wrong.push(format!("{name}: {how}"));
                    continue;
                }
            },
            (None, Err(_), None, None) => "refused by both",
            (Some(_), Err(told), Some(why), _) if told.contains(why) => "refused on purpose",
            (None, Ok(_), _, Some(_)) => "taken beyond NAT",
            (nat, carrel, ..) => {
                wrong.push(format!(
                    "{name}: NAT {}, Carrel {carrel:?}",
                    if nat.is_some() { "takes it" } else { "does not" }
                ));
                continue;
            }
        };
        *groups.entry(group).or_default() += 1;
    }
    assert!(wrong.is_empty(), "{} cases:\n{}", wrong.len(), wrong.join("\n"));
    println!("files: {groups:?}");
}

/// Carrel's reading, in the recording's form; or its error.
async fn read(case: &Value) -> Result<Value, String> {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, text) in case["files"].as_object().expect("files") {
        let file = folder.path().join(name);
        fs::create_dir_all(file.parent().expect("a folder")).expect("a folder");
        fs::write(&file, text.as_str().expect("text")).expect("a file");
    }
    let pair = |pair: &Value| (text(&pair[0]), text(&pair[1]));
    let overrides: Vec<_> = case["override"].as_array().expect("a list").iter().map(pair).collect();
    let environment = |name: &str| case["env"][name].as_str().map(str::to_owned);
    let surroundings = Surroundings { overrides: &overrides, environment: &environment };
    let (config, problems) = Config::load_with_problems(&folder.path().join("config.yml"), surroundings)
        .map_err(|error| error.to_string())?;
    let source = config.source.clone();
    if !problems.is_empty() {
        return Err(source.error(problems).to_string());
    }
    let general = config.general.clone();
    // A guest's keys are known only once the guest is loaded, which the rest does not need.
    let own_keys = config.functions.iter().any(|function| !function.config.is_empty());
    let functions = match own_keys {
        false => config.functions.iter().map(|it| (it.name.clone(), json!({}))).collect(),
        true => {
            let host = Host::start(config, 2).await.map_err(|error| error.to_string())?;
            let functions = host.catalog().functions().iter();
            let own = |text: &str| serde_json::from_str(text).expect("JSON");
            functions.map(|it| (it.name.to_string(), own(&it.config))).collect::<BTreeMap<String, Value>>()
        }
    };
    let front_end = general.front_end;
    let workflow = [front_end.workflow];
    let routes = workflow.iter().chain(&front_end.endpoints);
    let routes: Vec<_> = routes.map(|it| json!([it.method.as_str(), it.path, it.function])).collect();
    Ok(json!({
        "timeout": general.per_user_workflow_timeout.as_secs_f64(),
        "interval": general.per_user_workflow_cleanup_interval.as_secs_f64(),
        "monitoring": general.enable_per_user_monitoring,
        "host": front_end.host,
        "port": front_end.port,
        "root_path": front_end.root_path,
        "workers": front_end.workers,
        "identity_header": front_end.callers.identity_header.map(|name| name.to_string()),
        "accepted": front_end.callers.accepted.map(|kinds| kinds.iter().map(|kind| kind.as_str()).collect::<Vec<_>>()),
        "routes": routes,
        "origins": front_end.cors.allow_origins,
        "max_age": front_end.cors.max_age.as_secs(),
        "functions": functions,
    }))
}

fn text(value: &Value) -> String {
    value.as_str().expect("text").to_owned()
}

/// The longest time of Carrel's; beyond it, times are as long as this.
const LONGEST: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

/// The difference between the two readings, if there is one.
fn differs(nat: &Value, carrel: &Value) -> Option<String> {
    nat.as_object().expect("a map").iter().find_map(|(key, nat)| {
        let carrel = &carrel[key];
        let same = match key.as_str() {
            "timeout" => nat.as_f64().map(|seconds| seconds.min(LONGEST.as_secs_f64())) == carrel.as_f64(),
            // By default NAT has one process, and Carrel a thread for each core.
            "workers" => carrel.is_null() && nat == 1 || carrel == nat,
            "identity_header" => nat.as_str().map(str::to_ascii_lowercase).as_deref() == carrel.as_str(),
            // The workflow is at `/v1/workflow` whatever the file says, and that is not among the configured ones.
            "routes" => {
                let of_nat = list(nat).iter().filter(|route| route[1] != "/v1/workflow");
                of_nat.clone().all(|route| list(carrel).contains(route))
                    && list(carrel)
                        .iter()
                        .all(|route| route[1] == "/v1/workflow" || of_nat.clone().any(|it| it == route))
            }
            // NAT writes out what the file leaves to the guest.
            "functions" => nat.as_object().into_iter().flatten().all(|(name, keys)| {
                let given = carrel[name].as_object().expect("a map");
                given.iter().all(|(key, value)| keys[key] == *value)
            }),
            _ => nat == carrel,
        };
        (!same).then(|| format!("`{key}` is {nat} for NAT, and {carrel} here"))
    })
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map_or(&[], Vec::as_slice)
}
