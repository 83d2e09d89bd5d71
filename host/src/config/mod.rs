//! The configuration file: NAT's keys, and Carrel's own.
//!
//! A file is checked in two steps. This module checks everything that the file alone can tell: syntax, keys, types,
//! ranges, routes. Checks that need the guests (each `_type` exists, a function's own keys fit its schema) are made
//! by [`crate::function::Catalog`], which reports in the same words. All problems are collected, so that an operator
//! mends a file once.
//!
//! # Layout
//!
//! * [`Config`] and [`General`], here; [`FrontEnd`]; [`Admin`]; [`Limits`], [`Policy`], [`Identity`],
//!   [`TenantConfig`] and [`Grants`] read their own sections.
//! * `load`: the files, put together to one `document`. `yaml`: the parser, with `scalar`: what a plain text means.
//!   `variables`: environment variables in the text. `file`: files that a configuration names.
//! * `reader`: sections, key by key. [`Problem`], [`Error`]: what is wrong, and where.

mod admin;
mod document;
mod file;
mod front_end;
mod load;
mod problem;
pub(crate) mod reader;
mod scalar;
mod variables;
mod yaml;

pub use admin::Admin;
pub(crate) use file::{read as read_file, without_mark};
pub use front_end::{Cors, Endpoint, FrontEnd, Method};
pub(crate) use front_end::{FORMS, V1_WORKFLOW};
pub use load::Surroundings;
pub use problem::{Error, KeyPath, Problem};

use crate::{
    grants::Grants,
    identity::{Identity, TenantConfig},
    limits::Limits,
    session::Policy,
};
use document::Node;
use reader::{Problems, Section, boolean, duration, text};
use serde_json::{Map, Value};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

/// The name under which the workflow is listed, called and logged.
pub const WORKFLOW: &str = "workflow";

/// A whole configuration, checked as far as the file alone tells.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, for messages.
    pub source: Source,
    /// `general`.
    pub general: General,
    /// `guests`: files and folders with guests besides the built-in ones.
    pub guests: Vec<GuestPath>,
    /// `guest_cache`: the place of compiled guests.
    pub guest_cache: GuestCache,
    /// `limits`.
    pub limits: Limits,
    /// `sessions`.
    pub sessions: Policy,
    /// `identity`.
    pub identity: Identity,
    /// `tenants`; one, if none are given.
    pub tenants: Vec<TenantConfig>,
    /// `admin`; none, if the operator has no listener.
    pub admin: Option<Admin>,
    /// `functions`, in the file's order, and the workflow at the end.
    pub functions: Vec<FunctionConfig>,
    /// NAT keys that are given and mean nothing here, for a note at start.
    pub ignored: Vec<String>,
}

/// The files of a configuration as one document, so that a problem found later can be reported with its place.
#[derive(Debug, Clone)]
pub struct Source {
    /// The file that was asked for.
    pub file: PathBuf,
    document: Arc<Node>,
}

impl Source {
    /// The problems as an error, each with its file and line.
    pub fn error(&self, mut problems: Vec<Problem>) -> Error {
        for problem in problems.iter_mut().filter(|problem| problem.line.is_none() && problem.file.is_none()) {
            let mark = self.document.place(&problem.path);
            problem.line = mark.line;
            problem.file = Some(mark.file.clone()).filter(|file| **file != *self.file);
        }
        problems.sort_by(|a, b| (&a.file, a.line.unwrap_or(0)).cmp(&(&b.file, b.line.unwrap_or(0))));
        Error { file: self.file.clone().into(), problems }
    }

    /// The text of a plain scalar that is read as a boolean, such as `on`.
    pub(crate) fn word(&self, path: &KeyPath) -> Option<&str> {
        self.document.word(path)
    }
}

/// `general`.
#[derive(Debug, Clone)]
pub struct General {
    /// The time for which a session may be idle before it is dropped.
    pub per_user_workflow_timeout: Duration,
    /// The interval at which idle sessions are looked for.
    pub per_user_workflow_cleanup_interval: Duration,
    /// True if `GET /monitor/users` answers.
    pub enable_per_user_monitoring: bool,
    /// The time for which a host that is told to stop waits for running calls.
    pub drain_timeout: Duration,
    /// The time for which a host that is told to stop still takes requests, while `/health` reports the stop.
    pub drain_delay: Duration,
    /// `general.front_end`.
    pub front_end: FrontEnd,
}

/// A guest file, or a folder of them.
#[derive(Debug, Clone)]
pub struct GuestPath {
    /// The key, for messages.
    pub key: KeyPath,
    /// Absolute, or relative to the working directory.
    pub path: PathBuf,
}

/// The place of compiled guests.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestCache {
    /// In the user's cache folder: `$XDG_CACHE_HOME/carrel`, or `~/.cache/carrel`.
    Default,
    /// In this folder.
    Folder(PathBuf),
    /// Nowhere: each start compiles.
    Off,
}

/// A function: a guest, named and configured.
#[derive(Debug, Clone)]
pub struct FunctionConfig {
    /// The key, for messages.
    pub key: KeyPath,
    /// The name in the configuration; [`WORKFLOW`] for the workflow.
    pub name: String,
    /// `_type`: the guest's own name; empty if there is none, which is a problem.
    pub guest: String,
    /// `allow`: the function's access to things outside of its sandbox.
    pub grants: Arc<Grants>,
    /// The other keys, which go to the guest.
    pub config: Map<String, Value>,
}

impl Config {
    /// Reads and checks a file.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or has [`Problem`]s: all of them.
    pub fn load(file: &Path) -> Result<Self, Error> {
        strict(Self::load_with_problems(file, Surroundings::default())?)
    }

    /// Checks a text as if it were the file's.
    ///
    /// # Errors
    ///
    /// All [`Problem`]s.
    pub fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        strict(Self::of(file, load::parse(file, text)?))
    }

    /// Makes a configuration without functions, and with the default of every key.
    pub(crate) fn empty() -> Self {
        let file = Path::new("the defaults");
        Self::of(file, Node::empty(file.into())).0
    }

    /// Like [`load`](Self::load), but returns the problems found, so that a caller can look for more before reporting
    /// them. A key that is wrong has its default.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not YAML.
    pub fn load_with_problems(file: &Path, surroundings: Surroundings<'_>) -> Result<(Self, Vec<Problem>), Error> {
        Ok(Self::of(file, load::load(file, surroundings)?))
    }

    fn of(file: &Path, document: Node) -> (Self, Vec<Problem>) {
        let source = Source { file: file.to_owned(), document: document.into() };
        let problems = Problems::of(source.document.clone());
        let value = source.document.value();
        (Self::read(source, value, &problems), problems.into_vec())
    }

    fn read(source: Source, value: Value, problems: &Problems) -> Self {
        let mut top = Section::new(KeyPath::root(), value, problems);
        let mut ignored = Vec::new();
        let general = General::read(top.section("general"), &mut ignored);
        let guests = read_guests(&mut top);
        let guest_cache = top.read("guest_cache", GuestCache::Default, |value| match value {
            Value::Bool(false) => Ok(GuestCache::Off),
            Value::String(it) if it == "off" => Ok(GuestCache::Off),
            Value::String(it) => Ok(GuestCache::Folder(problems.beside(&KeyPath::parse("guest_cache"), it))),
            other => Err(format!("must be a folder or `off`, and is {}", reader::describe(other))),
        });
        let limits = Limits::read(top.section("limits"));
        let sessions = Policy::read(top.section("sessions"));
        let mut tenants = TenantConfig::read_all(&mut top, &limits);
        let identity = Identity::read(&mut top, &mut tenants, &general.front_end.callers, &mut ignored);
        let admin = Admin::read(&mut top);
        let functions = read_functions(&mut top);
        for key in NAT_ONLY {
            ignored.extend(top.ignore(key));
        }
        top.finish();
        Self { source, general, guests, guest_cache, limits, sessions, identity, tenants, admin, functions, ignored }
    }
}

/// A configuration without problems.
fn strict((config, problems): (Config, Vec<Problem>)) -> Result<Config, Error> {
    if problems.is_empty() { Ok(config) } else { Err(config.source.error(problems)) }
}

/// NAT's sections for what guests bring themselves or Carrel has no part in.
const NAT_ONLY: [&str; 17] = [
    "authentication",
    "embedders",
    "eval",
    "finetuning",
    "function_groups",
    "llms",
    "memory",
    "middleware",
    "object_stores",
    "optimizer",
    "retrievers",
    "trainer_adapters",
    "trainers",
    "trajectory_builders",
    "ttc_strategies",
    "workspace",
    "workspace_guardrails",
];

impl General {
    fn read(mut section: Section<'_>, ignored: &mut Vec<String>) -> Self {
        let millisecond = duration(Duration::from_millis(1));
        let general = Self {
            per_user_workflow_timeout: section.read(
                "per_user_workflow_timeout",
                Duration::from_secs(30 * 60),
                &millisecond,
            ),
            per_user_workflow_cleanup_interval: section.read(
                "per_user_workflow_cleanup_interval",
                Duration::from_secs(5 * 60),
                &millisecond,
            ),
            enable_per_user_monitoring: section.read("enable_per_user_monitoring", false, boolean),
            drain_timeout: section.read("drain_timeout", Duration::from_secs(30), duration(Duration::ZERO)),
            drain_delay: section.read("drain_delay", Duration::ZERO, duration(Duration::ZERO)),
            front_end: FrontEnd::read(section.section("front_end"), ignored),
        };
        ignored.extend(["telemetry", "use_uvloop"].into_iter().filter_map(|key| section.ignore(key)));
        section.finish();
        general
    }
}

fn read_guests(top: &mut Section<'_>) -> Vec<GuestPath> {
    let key = KeyPath::root().with("guests");
    let paths = match top.take("guests") {
        None => Vec::new(),
        Some(Value::Array(items)) => items,
        Some(one) => vec![one],
    };
    let mut guests = Vec::new();
    for (index, path) in paths.iter().enumerate() {
        let key = key.with(index.to_string());
        match text(path) {
            Ok(path) => guests.push(GuestPath { path: top.problems().beside(&key, &path), key }),
            Err(message) => top.problems().add(&key, format!("the path of a guest {message}")),
        }
    }
    guests
}

fn read_functions(top: &mut Section<'_>) -> Vec<FunctionConfig> {
    let problems = top.problems();
    let mut functions = Vec::new();
    let mut section = top.section("functions");
    let path = section.path().clone();
    for (name, value) in section.rest() {
        let key = path.with(&name);
        if name == WORKFLOW {
            problems.add(&key, "this name is taken by the workflow itself: give the function another one");
        } else if !(1..=64).contains(&name.chars().count()) || name.chars().any(|c| c.is_control() || c.is_whitespace())
        {
            problems.add(&key, "a function's name has 1 to 64 characters, none of them a space");
        } else {
            functions.push(read_function(Section::new(key, value, problems), name));
        }
    }
    match top.take(WORKFLOW) {
        None => problems.push(
            Problem::new(KeyPath::root().with(WORKFLOW), "missing: the function that answers /generate")
                .hint("add, for example:\nworkflow:\n  _type: per_user_assistant"),
        ),
        Some(value) => {
            let section = Section::new(KeyPath::root().with(WORKFLOW), value, problems);
            functions.push(read_function(section, WORKFLOW.into()));
        }
    }
    functions
}

/// Reads a function. One without a `_type` is reported here and gets an empty one, so that it is not reported as
/// missing elsewhere.
fn read_function(mut section: Section<'_>, name: String) -> FunctionConfig {
    let key = section.path().clone();
    if !section.has("_type") {
        let problem = Problem::new(key.clone(), "has no `_type`, which names the guest");
        section.problems().push(problem.hint("`carrel info` lists the guests that come with Carrel"));
    }
    let guest = section.read("_type", String::new(), text);
    let grants = Arc::new(Grants::read(section.section("allow")));
    FunctionConfig { key, name, guest, grants, config: section.rest() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn problems(text: &str) -> String {
        let error = Config::parse(Path::new("config.yml"), text).err();
        error.map_or_else(String::new, |error| error.to_string())
    }

    #[test]
    fn nats_own_keys_are_read_and_the_defaults_are_nats() -> Result<(), Error> {
        let text = "workflow: {_type: per_user_assistant, notepad_name: notepad}\nllms: {a: {_type: nim}}\n";
        let config = Config::parse(Path::new("config.yml"), text)?;
        assert_eq!(config.general.per_user_workflow_timeout, Duration::from_secs(1800));
        assert_eq!(config.general.per_user_workflow_cleanup_interval, Duration::from_secs(300));
        assert_eq!((config.general.front_end.host.as_str(), config.general.front_end.port), ("localhost", 8000));
        assert_eq!(config.ignored, ["llms"]);
        assert_eq!(config.functions[0].config["notepad_name"], "notepad");
        Ok(())
    }

    #[test]
    fn all_problems_are_told_at_once_in_the_files_order() {
        let text =
            "general:\n  per_user_workflow_timeot: 3\nlimits:\n  deadline: soon\nfunctions:\n  a: {}\nworkflow: 5\n";
        let told = problems(text);
        let lines: Vec<_> = told.lines().filter(|line| !line.starts_with(' ')).collect();
        assert_eq!(lines.len(), 5, "{told}");
        assert!(lines[0].starts_with("config.yml:2: general.per_user_workflow_timeot: unknown key"));
        assert!(lines[1].starts_with("config.yml:4: limits.deadline: must be a time"));
        assert!(lines[2].starts_with("config.yml:6: functions.a: has no `_type`"));
        assert!(told.contains("did you mean `per_user_workflow_timeout`?"));
    }

    #[test]
    fn a_file_that_is_not_yaml_has_one_problem() {
        let told = problems("a: [1\nb: 2\n");
        assert!(told.starts_with("config.yml:2: is not YAML: "), "{told}");
    }

    #[test]
    fn a_function_may_not_take_the_workflows_name() {
        let told = problems("functions: {workflow: {_type: a}}\nworkflow: {_type: a}\n");
        assert!(told.contains("taken by the workflow"), "{told}");
    }
}
