//! The ground floor of the configuration: tools that read its files, key by key.
//!
//! Each room reads its own section with them, and knows nothing of the others; [`config`](crate::config) puts the
//! sections together. All problems are collected, so that an operator mends a file once.
//!
//! # Layout
//!
//! * [`Source`], here: a configuration's files as one document. `load`: the files, put together to one `document`.
//!   `yaml`: the parser, with `scalar`: what a plain text means. `variables`: environment variables in the text.
//!   `file`: files that a configuration names.
//! * `reader`: sections, key by key, and values with their units. [`Problem`], [`Error`]: what is wrong, and where.

mod document;
mod file;
mod load;
mod problem;
pub(crate) mod reader;
mod scalar;
mod variables;
mod yaml;

pub(crate) use file::{read_file, without_mark};
pub use load::Surroundings;
pub use problem::{Error, KeyPath, Problem};

use document::Node;
use reader::{Problems, Section};
use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

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

    /// Reads a file, the files that it stands on, and the overrides.
    ///
    /// # Errors
    ///
    /// A file cannot be read, or is not YAML.
    pub(crate) fn load(file: &Path, surroundings: Surroundings<'_>) -> Result<Self, Error> {
        Ok(Self::new(file, load::load(file, surroundings)?))
    }

    /// Reads a text as if it were the file's.
    ///
    /// # Errors
    ///
    /// The text is not YAML.
    pub(crate) fn parse(file: &Path, text: &str) -> Result<Self, Error> {
        Ok(Self::new(file, load::parse(file, text)?))
    }

    /// A file without a key.
    pub(crate) fn empty(file: &Path) -> Self {
        Self::new(file, Node::empty(file.into()))
    }

    fn new(file: &Path, document: Node) -> Self {
        Self { file: file.to_owned(), document: document.into() }
    }

    /// Reads the whole document, and collects its problems.
    pub(crate) fn read_with<T>(&self, read: impl FnOnce(Section<'_>) -> T) -> (T, Vec<Problem>) {
        let problems = Problems::of(self.document.clone());
        let read = read(Section::new(KeyPath::root(), self.document.value(), &problems));
        (read, problems.into_vec())
    }
}
