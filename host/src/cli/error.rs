//! Failures of commands.

use crate::config;

/// A failure of a command, in words, with its exit code.
pub(super) enum Error {
    /// The arguments are wrong, or ask for help.
    Arguments(clap::Error),
    /// The configuration is wrong.
    Config(config::Error),
    /// The command is refused until the configuration is changed.
    Usage(String),
    /// Something else.
    Other(String),
}

impl From<config::Error> for Error {
    fn from(error: config::Error) -> Self {
        Self::Config(error)
    }
}
