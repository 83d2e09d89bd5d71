//! The dependencies' policy, `.cargo/deny.toml`, as far as it needs no network. cargo-deny, which the policy is written
//! for, looks at advisories as well.

use serde_json::Value;
use spdx::{Expression, Licensee, ParseMode};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};
use toml::Table;

const REGISTRY: &str = "registry+https://github.com/rust-lang/crates.io-index";

fn policy() -> Table {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cargo/deny.toml");
    fs::read_to_string(file).expect("the policy").parse().expect("TOML")
}

fn texts<'a>(policy: &'a Table, section: &str, key: &str) -> Vec<&'a str> {
    let list = policy[section][key].as_array().expect("a list");
    list.iter().map(|it| it.as_str().or_else(|| it["name"].as_str()).expect("a name")).collect()
}

/// The packages that are built for the policy's targets.
fn packages(policy: &Table) -> Vec<Value> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.args(["metadata", "--locked", "--format-version=1"]).current_dir(env!("CARGO_MANIFEST_DIR"));
    for target in texts(policy, "graph", "targets") {
        cargo.arg(format!("--filter-platform={target}"));
    }
    let told = cargo.output().expect("cargo runs");
    assert!(told.status.success(), "{}", String::from_utf8_lossy(&told.stderr));
    let mut told: Value = serde_json::from_slice(&told.stdout).expect("JSON");
    let Value::Array(packages) = told["packages"].take() else { panic!("no packages") };
    let built = told["resolve"]["nodes"].as_array().expect("packages that are built");
    let built: BTreeSet<_> = built.iter().filter_map(|node| node["id"].as_str()).collect();
    packages.into_iter().filter(|package| package["id"].as_str().is_some_and(|id| built.contains(id))).collect()
}

fn name(package: &Value) -> &str {
    package["name"].as_str().expect("a name")
}

#[test]
fn dependencies_are_of_the_registry_and_have_licences_that_are_allowed() {
    let policy = policy();
    let allowed: Vec<_> = texts(&policy, "licenses", "allow");
    let licensees: Vec<_> = allowed.iter().map(|it| Licensee::parse(it).expect("a licence")).collect();
    let (mut used, mut checked) = (BTreeSet::new(), 0);
    for package in packages(&policy) {
        let (name, source) = (name(&package), package["source"].as_str());
        let Some(source) = source else { continue };
        assert_eq!(source, REGISTRY, "{name}");
        let told = package["license"].as_str().unwrap_or_else(|| panic!("{name} has no licence"));
        let licence = Expression::parse_mode(told, ParseMode::LAX).unwrap_or_else(|error| panic!("{name}: {error}"));
        assert!(
            licence.evaluate(|required| licensees.iter().any(|licensee| licensee.satisfies(required))),
            "{name}: {told}"
        );
        let fits = |licensee: &&Licensee| licence.requirements().any(|it| licensee.satisfies(&it.req));
        used.extend(licensees.iter().filter(fits).map(ToString::to_string));
        checked += 1;
    }
    assert!(checked > 200, "only {checked} dependencies");
    let unused: Vec<_> = allowed.iter().filter(|it| !used.contains(**it)).collect();
    assert!(unused.is_empty(), "no dependency has {unused:?}");
}

#[test]
fn there_is_one_library_for_one_thing_and_one_version_of_it() {
    let policy = policy();
    let mut versions: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for package in packages(&policy) {
        let version = package["version"].as_str().expect("a version").to_owned();
        versions.entry(name(&package).to_owned()).or_default().insert(version);
    }
    let denied: Vec<_> = texts(&policy, "bans", "deny").into_iter().filter(|it| versions.contains_key(*it)).collect();
    assert!(denied.is_empty(), "the policy has another library for what these do: {denied:?}");
    let several: BTreeMap<_, _> = versions.iter().filter(|(_, versions)| versions.len() > 1).collect();
    let skipped: BTreeSet<_> = texts(&policy, "bans", "skip").into_iter().collect();
    let told: Vec<_> = several.iter().filter(|(name, _)| !skipped.contains(name.as_str())).collect();
    assert!(told.is_empty(), "several versions: {told:?}");
    let superfluous: Vec<_> = skipped.iter().filter(|it| !several.contains_key(&(**it).to_owned())).collect();
    assert!(superfluous.is_empty(), "there is one version of {superfluous:?}");
}
