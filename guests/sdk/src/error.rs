//! Errors of calls.

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
        let (Self::InvalidInput(text) | Self::Failed(text)) = self;
        text
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.message())
    }
}

impl core::error::Error for Error {}

/// A failed sibling call that is not handled makes the caller fail too.
impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        Self::Failed(error.to_string())
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
    /// The sibling crashed or passed a limit. The text begins with the host's stable code, such as `fuel_exhausted`.
    Stopped(String),
    /// The input could not be written as JSON, or the output does not have the type that the caller asked for.
    Json(String),
}

impl fmt::Display for CallError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (Self::Unknown(text)
        | Self::Cycle(text)
        | Self::InvalidInput(text)
        | Self::Failed(text)
        | Self::Stopped(text)
        | Self::Json(text)) = self;
        f.write_str(text)
    }
}

impl core::error::Error for CallError {}
