//! A configuration's files, read and put together.
//!
//! A file can be based on another one (`base`), as with NAT: its keys go on top of the other's, at any depth. A text
//! value that begins with `file://` is the content of a text file. Overrides of the command line come last.

use super::{
    Error, KeyPath, Problem,
    document::{Mark, Node, NodeKind},
    file::{self, without_mark},
    reader::{Problems, as_integer, as_number, describe},
    variables, yaml,
};
use indexmap::IndexSet;
use serde_json::Value;
use std::{
    fmt,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

/// Bytes of a file of the configuration.
const LARGEST: usize = 16 << 20;
/// The key that names the file on which this one is based.
const BASE: &str = "base";
/// The prefix of a text that names a file with the actual text.
const FILE: &str = "file://";
/// Endings of files that `file://` may name: texts and templates, as with NAT.
const TEXTS: [&str; 8] = ["txt", "md", "j2", "jinja2", "jinja", "prompt", "tpl", "template"];
/// The place reported for values of the command line.
const OVERRIDE: &str = "--override";

/// The parts of a configuration besides its files.
#[derive(Clone, Copy)]
pub struct Surroundings<'a> {
    /// Keys, with dots, and texts that replace the files' values.
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

/// Reads a file and all its bases, and applies the overrides.
///
/// # Errors
///
/// A file cannot be read or is no YAML, files are based on each other in a circle, or a variable or an override is
/// wrong.
pub(super) fn load(file: &Path, surroundings: Surroundings<'_>) -> Result<Node, Error> {
    let mut root = Files { environment: surroundings.environment, chain: IndexSet::new() }.load(file, None)?;
    override_with(&mut root, surroundings.overrides).map_err(|problems| Error { file: file.into(), problems })?;
    Ok(root)
}

/// Like `load`, with the text of the first file.
pub(super) fn parse(file: &Path, text: &str) -> Result<Node, Error> {
    Files { environment: Surroundings::default().environment, chain: IndexSet::new() }.load(file, Some(text))
}

/// The files that are being read.
struct Files<'a> {
    environment: &'a dyn Fn(&str) -> Option<String>,
    /// The files that are based on the one being read, the first one first.
    chain: IndexSet<PathBuf>,
}

fn override_with(root: &mut Node, overrides: &[(String, String)]) -> Result<(), Vec<Problem>> {
    let file: Arc<Path> = Path::new(OVERRIDE).into();
    let mut problems = Vec::new();
    for (path, text) in overrides {
        if path.split('.').any(str::is_empty) {
            let why = format!("{OVERRIDE} {path:?} names no key: give it as `general.front_end.port`");
            problems.push(Problem::new(KeyPath::root(), why));
            continue;
        }
        let (path, at) = (KeyPath::parse(path), Mark { file: file.clone(), line: None });
        let plain = || Node::scalar(at.clone(), text.as_str().into());
        let given = match root.get(&path) {
            // By the type of the value there, as NAT does: a text stays one, and a number is read as Python reads it.
            Some(NodeKind::Scalar { value: Value::String(_), .. }) => Ok(plain()),
            Some(NodeKind::Scalar { value: Value::Number(_), .. }) => {
                let number = as_integer(&text.as_str().into()).map(Value::from);
                let number = number.or_else(|| as_number(&text.as_str().into()).map(Value::from));
                Ok(number.map_or_else(plain, |number| Node::scalar(at.clone(), number)))
            }
            // A list or a map as it would stand in a file.
            _ if text.starts_with(['{', '[']) => match yaml::parse(&file, text) {
                Ok(node) => Ok(node.without_lines()),
                Err(error) => Err(format!("is not YAML: {}", error.message)),
            },
            Some(NodeKind::List(_)) => {
                let items = text.split(',').map(|item| Node::scalar(at.clone(), item.trim().into()));
                Ok(Node { at: at.clone(), kind: NodeKind::List(items.collect()) })
            }
            _ => Ok(plain()),
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
    /// Merges a file and all its bases. `text` is the file's own, if given; otherwise it is read.
    fn load(&mut self, file: &Path, text: Option<&str>) -> Result<Node, Error> {
        let mut on_top = Vec::new();
        let (mut root, mut base) = match text {
            Some(text) => self.document(file, text)?,
            None => self.document(file, &read_text(file, None)?)?,
        };
        while let Some((path, named)) = base {
            on_top.push(root);
            let text = read_text(&path, Some(&named))?;
            (root, base) = self.document(&path, &text)?;
        }
        while let Some(over) = on_top.pop() {
            root.merge(over);
        }
        Ok(root)
    }

    /// A file's own document, and the file that it is based on, with the place that names it.
    fn document(&mut self, file: &Path, text: &str) -> Result<(Node, Option<(PathBuf, Mark)>), Error> {
        let failed = |problems: Vec<Problem>| Error { file: file.into(), problems };
        let name: Arc<Path> = file.into();
        let problems = Problems::default();
        let text = variables::substitute(without_mark(text), self.environment, &problems);
        if !problems.is_empty() {
            // The text lacks these values, and parsing it would only make more problems.
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
        let folder = folder(file);
        let mut problems = Vec::new();
        texts(&mut root, &KeyPath::root(), &folder, &mut problems);
        if !problems.is_empty() {
            return Err(failed(problems));
        }
        let NodeKind::Map(members) = &mut root.kind else {
            let why = format!("must be a map of keys, and is {}", describe(&root.value()));
            return Err(failed(vec![Problem::new(KeyPath::root(), why)]));
        };
        let Some(base) = members.shift_remove(BASE) else { return Ok((root, None)) };
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
        self.chain.insert(real(file));
        if self.chain.contains(&real(&path)) {
            let mut names: Vec<_> = self.chain.iter().map(|file| format!("`{}`", short(file))).collect();
            names.push(format!("`{}`", short(&real(&path))));
            let why = format!("the files stand on each other in a circle: {}", names.join(" -> "));
            return Err(wrong(why, "take one of these references out"));
        }
        Ok((root, Some((path, base.at))))
    }
}

/// A file's text. `named` is the place that names it, if another file does.
fn read_text(file: &Path, named: Option<&Mark>) -> Result<String, Error> {
    let read = match named {
        // It may come from another command (`/dev/stdin`).
        None => file::read_any(file, LARGEST),
        Some(_) => file::read_file(file, LARGEST),
    };
    let bytes = read.map_err(|error| {
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
    String::from_utf8(bytes).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        let line = error.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count() + 1;
        let mut error = refused(file, None, "is not text in UTF-8".into(), "save it as UTF-8");
        error.problems[0].line = Some(line);
        error
    })
}

fn real(file: &Path) -> PathBuf {
    file.canonicalize().unwrap_or_else(|_| file.to_owned())
}

/// The folder of a file; of a link, that of the file to which it leads, as with NAT.
fn folder(file: &Path) -> PathBuf {
    let named = file.parent().unwrap_or(Path::new(""));
    let here = if named.as_os_str().is_empty() { Path::new(".") } else { named };
    match real(file).parent() {
        Some(folder) if folder != real(here) => folder.to_owned(),
        _ => named.to_owned(),
    }
}

/// Reports a file that cannot be used, at the place that names it, if there is one.
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

/// Replaces texts that name files by the files' contents. As with NAT, not in lists.
fn texts(node: &mut Node, path: &KeyPath, folder: &Path, problems: &mut Vec<Problem>) {
    let NodeKind::Map(members) = &mut node.kind else { return };
    for (key, member) in members {
        let path = path.with(key.as_str());
        let named = match &member.kind {
            NodeKind::Scalar { value: Value::String(text), .. } => text.strip_prefix(FILE),
            _ => None,
        };
        let Some(named) = named else {
            texts(member, &path, folder, problems);
            continue;
        };
        match content(&folder.join(named)) {
            Ok(text) => member.kind = NodeKind::Scalar { value: text.into(), word: None },
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
    let bytes = file::read_file(&real, LARGEST).map_err(unreadable)?;
    let text = String::from_utf8(bytes).map_err(|_| format!("{name} is not text in UTF-8"))?;
    // Lines end as they do for NAT, however the file has it.
    Ok(without_mark(&text).replace("\r\n", "\n").replace('\r', "\n"))
}
