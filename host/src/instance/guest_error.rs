//! A guest's own error: why a call that was not stopped has no output.

use super::{Stop, contract::Error};

/// A guest's own error.
#[derive(Debug)]
pub(crate) enum GuestError {
    /// The input does not fit.
    InvalidInput(String),
    /// The guest could not do it.
    Failed(String),
    /// The guest could not do it because another function was stopped, and passes that stop on.
    Stopped(Box<Stop>),
}

impl GuestError {
    /// The error that a guest has returned, given the stop that it passes on. Its text is cut to so many bytes: it is
    /// output as well, and still says enough.
    pub(super) fn new(error: Error, passed_on: Option<&Stop>, most: usize) -> Self {
        match (error, passed_on) {
            (Error::InvalidInput(why), _) => Self::InvalidInput(cut(why, most)),
            (Error::Failed(_), Some(stop)) => Self::Stopped(Box::new(stop.clone())),
            (Error::Failed(why), None) => Self::Failed(cut(why, most)),
        }
    }
}

/// Cuts a text to so many bytes, between characters.
pub(super) fn cut(mut text: String, most: usize) -> String {
    text.truncate(text.floor_char_boundary(most));
    text
}
