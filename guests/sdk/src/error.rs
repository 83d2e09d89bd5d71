//! Errors of calls.

use crate::Stop;
use alloc::string::{String, ToString};
use core::fmt;

/// The reason why a call has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Error {
    /// The input does not fit. HTTP callers get 422.
    InvalidInput(String),
    /// The input was understood, but the function could not do it. HTTP callers get 500 with the code
    /// `function_failed`.
    Failed(String),
    /// A sibling was stopped, and this function cannot do without it. It is undone as the sibling was, and its caller
    /// is told of the stop: HTTP callers get its code and setting.
    Stopped(Stop),
}

impl Error {
    /// Makes an [`Error::InvalidInput`]; `why` is for the caller.
    pub fn invalid_input(why: impl Into<String>) -> Self {
        Self::InvalidInput(why.into())
    }

    /// Makes an [`Error::Failed`]; `why` is for the caller.
    pub fn failed(why: impl Into<String>) -> Self {
        Self::Failed(why.into())
    }

    /// The text, whichever kind it is.
    pub fn message(&self) -> &str {
        match self {
            Self::InvalidInput(text) | Self::Failed(text) => text,
            Self::Stopped(stop) => &stop.text,
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Error {}

/// A failed sibling call that is not handled makes the caller fail too; a stop is passed on.
impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        match error {
            CallError::Stopped(stop) => Self::Stopped(stop),
            error => Self::Failed(error.to_string()),
        }
    }
}

/// The reason why a sibling gave no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallError {
    /// No function of that name is configured.
    Unknown(String),
    /// The function is already running in this call.
    Cycle(String),
    /// The sibling refused the input.
    InvalidInput(String),
    /// The sibling could not do it.
    Failed(String),
    /// The sibling crashed or passed a limit, or passed on such a stop of another function. It is as it was before.
    Stopped(Stop),
    /// The input could not be written as JSON, or the output does not have the type that the caller asked for.
    Json(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unknown(text)
            | Self::Cycle(text)
            | Self::InvalidInput(text)
            | Self::Failed(text)
            | Self::Json(text) => text,
            Self::Stopped(stop) => &stop.text,
        })
    }
}

impl core::error::Error for CallError {}
