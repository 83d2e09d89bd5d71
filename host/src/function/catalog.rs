//! The functions of a configuration, checked.

use super::{
    FunctionConfig, GuestPath, WORKFLOW, Wanted, bounds,
    builtin::BUILTIN,
    cache::Cache,
    forms,
    guest::{Guest, GuestSource, Loader},
    references::{self, Reference},
    refused::Refused,
    schema::{MisfitKind, Step},
};
use crate::{
    grants::Grants,
    instance::{self, Blueprint, Engine},
    scheduler::Lane,
    settings::{self, KeyPath, Problem, reader},
};
use carrel_arena::Frames;
use serde_json::Value;
use std::{
    collections::{HashMap, HashSet},
    path::Path,
    sync::Arc,
};

/// The functions of a configuration. All of them exist, fit their schemas, and refer to each other in no circle.
#[derive(Debug)]
pub struct Catalog {
    functions: Vec<Function>,
    positions: HashMap<Arc<str>, usize>,
    guests: Vec<Arc<Guest>>,
}

/// A guest, named and configured.
#[derive(Debug)]
pub struct Function {
    /// The name in the configuration; [`WORKFLOW`] for the workflow.
    pub name: Arc<str>,
    /// The guest that implements the function.
    pub guest: Arc<Guest>,
    /// The function's own keys, as the JSON that the guest gets.
    pub config: String,
    /// The function's access to things outside of its sandbox.
    pub grants: Arc<Grants>,
    /// The key, for messages.
    pub key: KeyPath,
}

impl Function {
    /// The most stack that any one function takes: the guest's own, and the host's that it may call. The host's
    /// functions for folders and HTTP take pages.
    pub(crate) fn frames(&self) -> Frames {
        if self.grants.reach_out() { Frames::Any } else { self.guest.code.frames() }
    }

    /// The function, as instances of it are made.
    pub(crate) fn blueprint(&self) -> Blueprint<'_> {
        Blueprint { name: &self.name, code: &self.guest.code, config: &self.config, grants: &self.grants }
    }
}

impl Catalog {
    /// Loads the guests and checks the functions.
    ///
    /// # Errors
    ///
    /// All problems, of guests and functions alike.
    pub(crate) async fn load(wanted: Wanted<'_>, engine: &Engine, lane: &Lane) -> Result<Self, settings::Error> {
        let mut problems = Vec::new();
        let is_used = |name: &str| wanted.functions.iter().any(|function| function.guest == name);
        let guests = load_guests(&wanted, engine, lane, is_used, &mut problems).await;
        let some_refused = !problems.is_empty();
        let by_name: HashMap<&str, &Arc<Guest>> = guests.iter().map(|guest| (guest.name.as_str(), guest)).collect();
        let mut functions = Vec::new();
        let mut checked = Vec::new();
        for function in wanted.functions {
            let Some(guest) = by_name.get(function.guest.as_str()) else {
                problems.extend(unknown_guest(function, &by_name, some_refused, problems.len()));
                continue;
            };
            let (value, found) = match check_config(&wanted, function, guest) {
                Ok(Checked { value, problems: wrong, references }) => {
                    problems.extend(wrong);
                    (value, references)
                }
                Err(Refused { why, hint }) => {
                    let problem = Problem::new(function.key.clone(), format!("the guest `{}` {why}", guest.name));
                    problems.push(hint.into_iter().fold(problem, Problem::hint));
                    continue;
                }
            };
            checked.push(found);
            functions.push(Function {
                name: function.name.as_str().into(),
                guest: Arc::clone(guest),
                config: value.to_string(),
                grants: function.grants.clone(),
                key: function.key.clone(),
            });
        }
        let all: Vec<_> = wanted.functions.iter().map(|function| function.name.as_str()).collect();
        let names: Vec<_> = all.iter().copied().filter(|name| *name != WORKFLOW).collect();
        let known: HashSet<_> = all.into_iter().collect();
        for reference in checked.iter().flatten().filter(|reference| !known.contains(reference.name.as_str())) {
            problems.push(unknown_function(&names, reference.key.clone(), &reference.name, problems.len()));
        }
        check_circles(&functions, &checked, &mut problems);
        for (key, name) in &wanted.named {
            if !known.contains(name) {
                problems.push(unknown_function(&names, key.clone(), name, problems.len()));
            }
        }
        if !problems.is_empty() {
            return Err(wanted.source.error(problems));
        }
        let positions = functions.iter().enumerate().map(|(index, it)| (it.name.clone(), index)).collect();
        Ok(Self { functions, positions, guests })
    }

    /// All functions, the workflow last.
    pub fn functions(&self) -> &[Function] {
        &self.functions
    }

    /// The guests: those that come with Carrel and are used, and all others.
    pub fn guests(&self) -> &[Arc<Guest>] {
        &self.guests
    }

    /// The place of a function among [`functions`](Self::functions).
    pub fn position(&self, name: &str) -> Option<usize> {
        self.positions.get(name).copied()
    }
}

/// Loads the guests that a configuration names, and those of the built-in ones that are used. A file that is no guest is
/// a problem.
pub(crate) async fn load_guests(
    wanted: &Wanted<'_>,
    engine: &Engine,
    lane: &Lane,
    is_used: impl Fn(&str) -> bool + Sync + Send,
    problems: &mut Vec<Problem>,
) -> Vec<Arc<Guest>> {
    let linker = match instance::linker(engine.wasmtime()) {
        Ok(linker) => linker,
        Err(error) => {
            problems.push(Problem::new(KeyPath::root(), format!("no guest can be linked: {error:#}")));
            return Vec::new();
        }
    };
    let loader = Loader { engine, linker, cache: Cache::open(wanted.cache), limits: wanted.limits, lane };
    let mut guests: Vec<Arc<Guest>> = Vec::new();
    for (name, wasm) in BUILTIN.into_iter().filter(|(name, _)| is_used(name)) {
        match loader.load(GuestSource::BuiltIn, wasm.into()).await {
            Ok(guest) => guests.push(Arc::new(guest)),
            Err(refused) => problems.push(refusal(&KeyPath::root(), &format!("the built-in guest {name}"), refused)),
        }
    }
    for GuestPath { key, path } in wanted.guests {
        let files = match guest_files(path) {
            Ok(files) => files,
            Err(why) => {
                problems.push(
                    Problem::new(key.clone(), why).hint("paths are relative to the folder of the file that names them"),
                );
                continue;
            }
        };
        for file in files {
            let name = file.display().to_string();
            let loaded = match bounds::read_guest(&file, wanted.limits.guest_size) {
                Ok(wasm) => loader.load(GuestSource::File(file), wasm.into()).await,
                Err(refused) => Err(refused),
            };
            match loaded {
                Ok(guest) => match source_of(&guests, &guest.name) {
                    None => guests.push(Arc::new(guest)),
                    Some(other) => problems.push(
                        Problem::new(
                            key.clone(),
                            format!("{name} is named `{}`, and so is one that is {other}", guest.name),
                        )
                        .hint("a guest's name is its own, from `describe`: rename one, or remove it"),
                    ),
                },
                Err(refused) => problems.push(refusal(key, &name, refused)),
            }
        }
    }
    guests
}

/// The source of the guest that has this name: one of these, or a built-in one that nobody uses.
fn source_of<'a>(guests: &'a [Arc<Guest>], name: &str) -> Option<&'a GuestSource> {
    let loaded = guests.iter().find(|guest| guest.name == name).map(|guest| &guest.source);
    loaded.or_else(|| BUILTIN.iter().any(|(builtin, _)| *builtin == name).then_some(&GuestSource::BuiltIn))
}

/// A file, or a folder's `.wasm` files by name.
fn guest_files(path: &Path) -> Result<Vec<std::path::PathBuf>, String> {
    let unreadable = |error: std::io::Error| format!("{} cannot be read: {error}", path.display());
    if !std::fs::metadata(path).map_err(unreadable)?.is_dir() {
        return Ok(vec![path.to_owned()]);
    }
    let entries: Result<Vec<_>, _> = std::fs::read_dir(path).map_err(unreadable)?.collect();
    let mut files: Vec<_> = entries.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    files.retain(|file| file.extension().is_some_and(|extension| extension == "wasm"));
    files.sort();
    if files.is_empty() {
        return Err(format!("the folder {} has no .wasm files", path.display()));
    }
    Ok(files)
}

fn refusal(key: &KeyPath, guest: &str, refused: Refused) -> Problem {
    let problem = Problem::new(key.clone(), format!("{guest} {}", refused.why));
    match refused.hint {
        Some(hint) => problem.hint(hint),
        None => problem,
    }
}

/// The most comparisons of misspelt names with known ones, over all problems. Beyond that, suggestions help little
/// and take long to find.
const COMPARED: usize = 100_000;

/// Suggests the known name nearest to a misspelt one, for the first problems only.
fn nearest<'a>(wrong: &str, known: &[&'a str], told: usize) -> Option<&'a str> {
    (told.saturating_mul(known.len()) < COMPARED).then(|| reader::nearest(wrong, known.iter().copied())).flatten()
}

/// Reports an unknown guest. Returns `None` for a function without a `_type`, which is reported already, and for a
/// function whose guest may be a refused one.
fn unknown_guest(
    function: &FunctionConfig,
    guests: &HashMap<&str, &Arc<Guest>>,
    some_refused: bool,
    told: usize,
) -> Option<Problem> {
    if function.guest.is_empty() {
        return None;
    }
    let mut names: Vec<_> = guests.keys().copied().chain(BUILTIN.map(|(name, _)| name)).collect();
    names.sort_unstable();
    names.dedup();
    let hint = match nearest(&function.guest, &names, told) {
        Some(near) => format!("did you mean `{near}`?"),
        None if some_refused => return None,
        None => format!("there are {}; `guests:` adds more", reader::list(names.into_iter())),
    };
    Some(Problem::new(function.key.with("_type"), format!("there is no guest `{}`", function.guest)).hint(hint))
}

/// `names` are those of all functions.
fn unknown_function(names: &[&str], key: KeyPath, name: &str, told: usize) -> Problem {
    let hint = match nearest(name, names, told) {
        Some(near) => format!("did you mean `{near}`?"),
        None => format!("the functions are {}", reader::list(names.iter().copied())),
    };
    Problem::new(key, format!("there is no function `{name}`")).hint(hint)
}

/// The key of a part of a function's configuration.
fn below(key: &KeyPath, path: &[Step]) -> KeyPath {
    path.iter().fold(key.clone(), |key, step| key.with(step.to_string()))
}

/// A function's own keys, converted to the types of its guest's schema.
struct Checked {
    value: Value,
    problems: Vec<Problem>,
    /// The functions that they name.
    references: Vec<Reference>,
}

/// Checks a function's own keys against its guest's schema, within a time limit: a hostile schema could take years.
fn check_config(wanted: &Wanted<'_>, function: &FunctionConfig, guest: &Arc<Guest>) -> Result<Checked, Refused> {
    let time = (guest.source != GuestSource::BuiltIn).then_some(wanted.limits.guest_compile_time);
    let (key, guest, source) = (function.key.clone(), guest.clone(), wanted.source.clone());
    let mut value = Value::Object(function.config.clone());
    let check = ("check this configuration", "a config-schema that refers to its own parts less often is faster");
    bounds::within(time, check, move |_| {
        let word = |path: &[Step]| source.word(&below(&key, path)).map(str::to_owned);
        forms::adapt(guest.config_schema.value(), &mut value, &word);
        let references = references::references(guest.config_schema.value(), &value, &key);
        Checked { problems: misfits(&key, &guest, &value), value, references }
    })
}

fn misfits(at: &KeyPath, guest: &Guest, value: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    for misfit in guest.config_schema.misfits(value, 20) {
        let key = below(at, &misfit.path);
        let problem = match misfit.kind {
            MisfitKind::Missing => Problem::new(key, format!("missing: the guest `{}` needs it", guest.name)),
            MisfitKind::Type(types) => {
                let found = reader::describe(&misfit.value);
                Problem::new(key, format!("must be of type {}, and is {found}", types.join(" or ")))
            }
            MisfitKind::Unexpected => {
                let known = guest.config_schema.value().get("properties").and_then(Value::as_object);
                let known = || known.into_iter().flatten().map(|(name, _)| name.as_str());
                let wrong = match misfit.path.last() {
                    Some(Step::Name(name)) => name.as_str(),
                    _ => "",
                };
                let hint = match reader::nearest(wrong, known().chain(["allow"])) {
                    Some(near) => format!("did you mean `{near}`?"),
                    None => format!("the guest `{}` knows {}", guest.name, reader::list(known())),
                };
                Problem::new(key, "unknown key").hint(hint)
            }
            MisfitKind::Other(why) => Problem::new(key, format!("is {}: {why}", reader::describe(&misfit.value))),
        };
        problems.push(problem);
    }
    problems
}

/// Reports references that lead in a circle. One to a function with a problem of its own is reported there.
fn check_circles(functions: &[Function], references: &[Vec<Reference>], problems: &mut Vec<Problem>) {
    let positions: HashMap<&str, usize> = functions.iter().enumerate().map(|(at, it)| (&*it.name, at)).collect();
    let position = |name: &str| positions.get(name).copied();
    let edges: Vec<Vec<usize>> =
        references.iter().map(|found| found.iter().filter_map(|it| position(&it.name)).collect()).collect();
    if let Some(circle) = references::cycle(&edges) {
        let mut names: Vec<_> = circle.iter().map(|index| format!("`{}`", functions[*index].name)).collect();
        names.extend(names.first().cloned());
        let next = circle.get(1).or(circle.first()).map(|index| &functions[*index].name);
        let first = &references[circle[0]];
        let key = first.iter().find(|it| Some(it.name.as_str()) == next.map(|name| &**name)).map(|it| it.key.clone());
        problems.push(
            Problem::new(
                key.unwrap_or_default(),
                format!("the functions call each other in a circle: {}", names.join(" -> ")),
            )
            .hint("a function cannot be called while it runs: take one of these references out"),
        );
    }
}
