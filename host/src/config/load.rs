//! A configuration's files, read and put together.
//!
//! A file can stand on another one (`base`), as with NAT: its keys go on top of those of the other, at any depth. A text
//! value that begins with `file://` is the content of a text file. What was given on the command line comes last.

use super::{
    Error, KeyPath, Problem,
    document::{Kind, Mark, Node},
    file::{self, without_mark},
    reader::{Problems, describe},
    scalar, variables, yaml,
};
use serde_json::Value;
use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of a file of the configuration.
const LARGEST: usize = 64 << 20;
/// The key that names the file on which this one stands.
const BASE: &str = "base";
/// The beginning of a text that names a file with the text itself.
const FILE: &str = "file://";
/// Endings of files that `file://` may name: texts and templates, as with NAT.
const TEXTS: [&str; 8] = ["txt", "md", "j2", "jinja2", "jinja", "prompt", "tpl", "template"];
/// The place of what is given on the command line.
const OVERRIDE: &str = "--override";

/// The parts of a configuration besides its files.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Keys, with dots, and texts that take the place of the files'.
    pub overrides: &'a [(String, String)],
    /// The values of environment variables.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Default for Surroundings<'_> {
    /// No overrides, and the environment of the process.
    fn default() -> Self {
        Self { overrides: &[], environment: &|name| std::env::var(name).ok() }
    }
}

impl fmt::Debug for Surroundings<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // The environment has secrets.
        f.debug_struct("Surroundings").field("overrides", &self.overrides.len()).finish_non_exhaustive()
    }
}

/// Reads a file, all that it stands on, and what is put on top of it.
///
/// # Errors
///
/// A file cannot be read or is no YAML, files stand on each other in a circle, or a variable or an override is wrong.
pub(super) fn load(file: &Path, surroundings: Surroundings<'_>) -> Result<Node, Error> {
    let mut root = Files { environment: surroundings.environment, chain: Vec::new() }.read(file, None)?;
    override_with(&mut root, surroundings.overrides).map_err(|problems| Error { file: file.into(), problems })?;
    Ok(root)
}

/// Like `load`, with the text of the first file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Node, Error> {
    Files { environment: Surroundings::default().environment, chain: Vec::new() }.document(file, text)
}

/// The files that are being read.
struct Files<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// Those that stand on the one that is read now, the first one first.
    chain: Vec<PathBuf>,
}

fn override_with(root: &mut Node, overrides: &[(String, String)]) -> Result<(), Vec<Problem>> {
    let file: Arc<Path> = Path::new(OVERRIDE).into();
    let mut problems = Vec::new();
    for (path, text) in overrides {
        let (path, at) = (KeyPath::parse(path), Mark { file: file.clone(), line: None });
        if path.is_root() {
            problems.push(Problem::new(path, format!("{OVERRIDE} names no key: give it as `general.front_end.port`")));
            continue;
        }
        let given = match (text.starts_with(['{', '[']), root.get(&path)) {
            // A list or a map as it would stand in a file.
            (true, _) => match yaml::parse(&file, text) {
                Ok(node) => Ok(node.without_lines()),
                Err(error) => Err(format!("is not YAML: {}", error.message)),
            },
            (_, Some(Kind::List(_))) => {
                let items = text.split(',').map(|item| Node::scalar(at.clone(), item.trim().into()));
                Ok(Node { at: at.clone(), kind: Kind::List(items.collect()) })
            }
            (_, Some(Kind::Scalar { value: Value::Bool(_) | Value::Number(_), .. })) => {
                let value =
                    scalar::resolve(text.trim()).map_err(|text| format!("{text} is not a number that JSON has"));
                value.map(|value| Node::scalar(at.clone(), value))
            }
            _ => Ok(Node::scalar(at.clone(), text.as_str().into())),
        };
        let set = given.map_err(|why| {
            let mut problem = Problem::new(path.clone(), why);
            problem.file = Some(file.clone());
            problem
        });
        problems.extend(set.and_then(|node| root.set(&path, node)).err());
    }
    if problems.is_empty() { Ok(()) } else { Err(problems) }
}

impl Files<'_> {
    /// `named` is the place that names the file, if another one does.
    fn read(&mut self, file: &Path, named: Option<&Mark>) -> Result<Node, Error> {
        let bytes = file::read(file, LARGEST).map_err(|error| {
            let hint = match (error.kind(), named) {
                (_, Some(_)) => "a path is relative to the folder of the file that names it",
                (ErrorKind::NotFound, _) => {
                    "give the path of a configuration with --config_file; the folder configs/ of the project has some to \
                     start from"
                }
                _ => "the file must be readable",
            };
            refused(file, named, format!("cannot be read: {error}"), hint)
        })?;
        let text = String::from_utf8(bytes).map_err(|error| {
            let at = error.utf8_error().valid_up_to();
            let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
            let mut error = refused(file, None, "is not text in UTF-8".into(), "save it as UTF-8");
            error.problems[0].line = Some(line);
            error
        })?;
        self.document(file, &text)
    }

    fn document(&mut self, file: &Path, text: &str) -> Result<Node, Error> {
        let failed = |problems: Vec<Problem>| Error { file: file.into(), problems };
        let name: Arc<Path> = file.into();
        let problems = Problems::default();
        let text = variables::substitute(without_mark(text), self.environment, &problems);
        if !problems.is_empty() {
            // What is missing in the text would only make more problems.
            return Err(failed(problems.into_vec()));
        }
        let mut root = yaml::parse(&name, &text).map_err(|error| {
            let mut problem = Problem::new(KeyPath::root(), format!("is not YAML: {}", error.message));
            problem.line = error.line;
            if error.message.starts_with("did not") || error.message.contains("while") {
                problem = problem.hint("indentation is by spaces, and a text with `: ` or `#` in it needs quotes");
            }
            failed(vec![problem])
        })?;
        let folder = file.parent().unwrap_or(Path::new(""));
        let mut problems = Vec::new();
        texts(&mut root, &KeyPath::root(), folder, &mut problems);
        if !problems.is_empty() {
            return Err(failed(problems));
        }
        let what = describe(&root.value());
        let Kind::Map(members) = &mut root.kind else {
            return Err(failed(vec![Problem::new(KeyPath::root(), format!("must be a map of keys, and is {what}"))]));
        };
        let Some(base) = members.shift_remove(BASE) else { return Ok(root) };
        let wrong = |why: String, hint: &str| {
            let mut problem = Problem::new(KeyPath::root().with(BASE), why).hint(hint);
            problem.line = base.at.line;
            failed(vec![problem])
        };
        let path = match base.value() {
            Value::String(path) if !path.is_empty() => folder.join(path),
            other => {
                let why = format!("must be the path of a configuration, and is {}", describe(&other));
                return Err(wrong(why, "this file's keys go on top of those of the other one"));
            }
        };
        let real = |path: &Path| path.canonicalize().unwrap_or_else(|_| path.to_owned());
        self.chain.push(real(file));
        if self.chain.contains(&real(&path)) {
            let mut names: Vec<_> = self.chain.iter().map(|file| format!("`{}`", short(file))).collect();
            names.push(format!("`{}`", short(&real(&path))));
            let why = format!("the files stand on each other in a circle: {}", names.join(" -> "));
            return Err(wrong(why, "take one of these references out"));
        }
        let mut below = self.read(&path, Some(&base.at))?;
        below.merge(root);
        Ok(below)
    }
}

/// A file that cannot be taken, told at the place that names it, if there is one.
fn refused(file: &Path, named: Option<&Mark>, why: String, hint: &str) -> Error {
    match named {
        None => Error { file: file.into(), problems: vec![Problem::new(KeyPath::root(), why).hint(hint)] },
        Some(mark) => {
            let why = format!("{} {why}", file.display());
            let mut problem = Problem::new(KeyPath::root().with(BASE), why).hint(hint);
            problem.line = mark.line;
            Error { file: mark.file.as_ref().into(), problems: vec![problem] }
        }
    }
}

fn short(file: &Path) -> String {
    file.file_name().unwrap_or(file.as_os_str()).to_string_lossy().into_owned()
}

/// Puts the contents of files in the place of texts that name them. As with NAT, not in lists.
fn texts(node: &mut Node, path: &KeyPath, folder: &Path, problems: &mut Vec<Problem>) {
    let Kind::Map(members) = &mut node.kind else { return };
    for (key, member) in members {
        let path = path.with(key.as_str());
        let named = match &member.kind {
            Kind::Scalar { value: Value::String(text), .. } => text.strip_prefix(FILE),
            _ => None,
        };
        let Some(named) = named else {
            texts(member, &path, folder, problems);
            continue;
        };
        match content(&folder.join(named)) {
            Ok(text) => member.kind = Kind::Scalar { value: text.into(), word: None },
            Err(why) => {
                let mut problem = Problem::new(path, why).hint("`file://` stands for the content of a text file");
                problem.line = member.at.line;
                problems.push(problem);
            }
        }
    }
}

fn content(file: &Path) -> Result<String, String> {
    let name = file.display();
    let unreadable = |error: std::io::Error| format!("{name} cannot be read: {error}");
    // A link to another file does not make it a text.
    let real = file.canonicalize().map_err(unreadable)?;
    let ending = real.extension().unwrap_or_default().to_string_lossy().to_lowercase();
    if !TEXTS.contains(&ending.as_str()) {
        return Err(format!("{name} ends in none of .{}", TEXTS.join(", .")));
    }
    let bytes = file::read(&real, LARGEST).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not text in UTF-8"))?;
    // Lines end as they do for NAT, however the file has it.
    Ok(without_mark(&text).replace("\r\n", "\n").replace('\r', "\n"))
}
