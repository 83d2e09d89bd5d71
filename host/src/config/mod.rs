//! The configuration file: NAT's keys, and Carrel's own.
//!
//! A file is checked in two steps. This module checks everything that the file alone can tell: syntax, keys, types,
//! ranges, routes. Checks that need the guests (each `_type` exists, a function's own keys fit its schema) are made
//! by [`crate::function::Catalog`], which reports in the same words. All problems are collected, so that an operator
//! mends a file once.
//!
//! # Layout
//!
//! * [`Config`] and [`General`], here; [`FrontEnd`]; [`Admin`]. [`Limits`], [`Policy`], [`Identity`],
//!   [`TenantConfig`], [`Grants`](crate::grants::Grants) and [`FunctionConfig`] read their own sections, with the tools of
//!   [`settings`](crate::settings).

mod admin;
mod front_end;
mod own;
mod strangers;

pub use crate::{
    function::{FunctionConfig, GuestCache, GuestPath, WORKFLOW},
    settings::{Error, KeyPath, Problem, Source, Surroundings},
};
pub use admin::Admin;
pub use front_end::{Cors, Endpoint, FrontEnd, Method};
pub(crate) use front_end::{FORMS, V1_WORKFLOW};
pub(crate) use own::Own;

use crate::{
    function::{Wanted, read_functions, read_guests},
    identity::{Identity, TenantConfig},
    limits::Limits,
    session::Policy,
    settings::reader::{Section, boolean, duration},
};
use std::{path::Path, time::Duration};

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
        strict(Self::of(Source::parse(file, text)?))
    }

    /// Makes a configuration without functions, and with the default of every key.
    pub(crate) fn empty() -> Self {
        Self::of(Source::empty(Path::new("the defaults"))).0
    }

    /// Like [`load`](Self::load), but returns the problems found, so that a caller can look for more before reporting
    /// them. A key that is wrong has its default.
    ///
    /// # Errors
    ///
    /// The file cannot be read, or is not YAML.
    pub fn load_with_problems(file: &Path, surroundings: Surroundings<'_>) -> Result<(Self, Vec<Problem>), Error> {
        Ok(Self::of(Source::load(file, surroundings)?))
    }

    fn of(source: Source) -> (Self, Vec<Problem>) {
        source.read_with(|top| Self::read(source.clone(), top))
    }

    /// The parts that the catalog of functions is made of.
    pub(crate) fn wanted(&self) -> Wanted<'_> {
        // An endpoint without a `function_name` is reported already.
        let endpoints = self.general.front_end.endpoints.iter().filter(|endpoint| !endpoint.function.is_empty());
        Wanted {
            source: &self.source,
            guests: &self.guests,
            cache: &self.guest_cache,
            functions: &self.functions,
            limits: &self.limits,
            named: endpoints.map(|it| (it.key.with("function_name"), &*it.function)).collect(),
        }
    }

    fn read(source: Source, mut top: Section<'_>) -> Self {
        let mut ignored = Vec::new();
        let general = General::read(top.section("general"), &mut ignored);
        let guests = read_guests(&mut top);
        let guest_cache = GuestCache::read(&mut top);
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
