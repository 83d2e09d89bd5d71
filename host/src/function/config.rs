//! The parts of a configuration that functions are made of: `guests`, `guest_cache`, `functions` and `workflow`.

use crate::{
    grants::Grants,
    limits::Limits,
    settings::{
        KeyPath, Problem, Source,
        reader::{Section, describe, text},
    },
};
use serde_json::{Map, Value};
use std::{path::PathBuf, sync::Arc};

/// The name under which the workflow is listed, called and logged.
pub const WORKFLOW: &str = "workflow";

/// All that a catalog is made of.
pub(crate) struct Wanted<'a> {
    /// The file, for messages.
    pub(crate) source: &'a Source,
    pub(crate) guests: &'a [GuestPath],
    pub(crate) cache: &'a GuestCache,
    pub(crate) functions: &'a [FunctionConfig],
    /// The limits of the host: on files, on compiling, and on the calls that try a guest out.
    pub(crate) limits: &'a Limits,
    /// Names of functions in other parts of the file, with their keys.
    pub(crate) named: Vec<(KeyPath, &'a str)>,
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

impl GuestCache {
    /// Reads `guest_cache`.
    pub(crate) fn read(top: &mut Section<'_>) -> Self {
        let problems = top.problems();
        top.read("guest_cache", Self::Default, |value| match value {
            Value::Bool(false) => Ok(Self::Off),
            Value::String(it) if it == "off" => Ok(Self::Off),
            Value::String(it) => Ok(Self::Folder(problems.beside(&KeyPath::parse("guest_cache"), it))),
            other => Err(format!("must be a folder or `off`, and is {}", describe(other))),
        })
    }
}

/// Reads `guests`.
pub(crate) fn read_guests(top: &mut Section<'_>) -> Vec<GuestPath> {
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

/// Reads `functions` and `workflow`, in the file's order, the workflow last.
pub(crate) fn read_functions(top: &mut Section<'_>) -> Vec<FunctionConfig> {
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
