//! Problems of a configuration: the place, the mistake, and a hint that helps.

use std::{fmt, path::Path, sync::Arc};

/// The path of a key: the keys from the top, such as `general.front_end.port`. An item of a list is its number.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash)]
pub struct KeyPath(Vec<String>);

impl KeyPath {
    /// The whole file.
    pub fn root() -> Self {
        Self::default()
    }

    /// Makes a path from keys with dots between them.
    pub fn parse(path: &str) -> Self {
        Self(path.split('.').filter(|key| !key.is_empty()).map(str::to_owned).collect())
    }

    /// A key below this one.
    pub fn with(&self, key: impl Into<String>) -> Self {
        let mut keys = self.0.clone();
        keys.push(key.into());
        Self(keys)
    }

    /// Returns true if the path means the whole file.
    pub(crate) fn is_root(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn keys(&self) -> &[String] {
        &self.0
    }
}

impl fmt::Display for KeyPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("."))
    }
}

/// One mistake in a configuration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The key.
    pub path: KeyPath,
    /// The file, if it is not that of the whole configuration.
    pub file: Option<Arc<Path>>,
    /// The line in the file, counted from 1, if known.
    pub line: Option<usize>,
    /// The mistake, in words.
    pub message: String,
    /// A hint that helps.
    pub hint: Option<String>,
}

impl Problem {
    /// A problem with a key.
    pub fn new(path: KeyPath, message: impl Into<String>) -> Self {
        Self { path, file: None, line: None, message: message.into(), hint: None }
    }

    /// Adds a hint that helps.
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// All problems of a configuration file.
#[derive(Debug)]
pub struct Error {
    /// The file.
    pub file: Box<Path>,
    /// At least one.
    pub problems: Vec<Problem>,
}

impl std::error::Error for Error {}

/// Writes a line for each problem, `file:line: key: message`, and below it the hint.
impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                writeln!(f)?;
            }
            write!(f, "{}", problem.file.as_deref().unwrap_or(&self.file).display())?;
            if let Some(line) = problem.line {
                write!(f, ":{line}")?;
            }
            if !problem.path.keys().is_empty() {
                write!(f, ": {}", problem.path)?;
            }
            write!(f, ": {}", problem.message)?;
            if let Some(hint) = &problem.hint {
                write!(f, "\n  {}", hint.replace('\n', "\n  "))?;
            }
        }
        Ok(())
    }
}
