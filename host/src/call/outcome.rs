//! The outcome of a call from outside.

use super::effects::Tally;
use crate::{
    instance::{GuestError, Stop},
    limits::{Bill, Reached},
    session::Outcome,
};
use std::sync::Arc;

/// The answer to a call from outside.
#[derive(Debug)]
pub(crate) struct Answer {
    /// The output, as JSON text, or why there is none.
    pub(crate) result: Result<String, Failure>,
    /// The functions that lost this user's state: they were stopped, or used by one that was, and could not be
    /// undone.
    pub(crate) dropped: Vec<Arc<str>>,
    /// The call's bill.
    pub(crate) bill: Bill,
}

/// Why a call has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Failure {
    /// The call did not get its turn; nothing was run.
    Refused(Reached),
    /// The function says that the input does not fit. Its state is committed.
    InvalidInput(String),
    /// The function says that it could not do it. Its state is committed.
    Failed(String),
    /// The function was stopped, or passed on the stop of one that it called.
    Stopped {
        /// Why.
        stop: Stop,
        /// True if all is as it was before the call.
        undone: bool,
    },
}

/// The result for the caller from outside: what its function returned, in a call with such losses and figures.
pub(super) fn result(
    returned: Result<Result<String, GuestError>, Stop>,
    lost: &[Arc<str>],
    tally: &Tally,
) -> Result<String, Failure> {
    match returned {
        Ok(Ok(output)) => Ok(output),
        Ok(Err(GuestError::InvalidInput(why))) => Err(Failure::InvalidInput(why)),
        Ok(Err(GuestError::Failed(why))) => Err(Failure::Failed(why)),
        Ok(Err(GuestError::Stopped(stop))) => {
            Err(Failure::Stopped { stop: *stop, undone: tally.undone && lost.is_empty() })
        }
        Err(stop) => Err(Failure::Stopped { stop, undone: lost.is_empty() }),
    }
}

/// The kind of a result, as its user's requests are counted.
pub(super) fn outcome(result: &Result<String, Failure>) -> Outcome {
    match result {
        Ok(_) => Outcome::Answered,
        Err(Failure::InvalidInput(_)) => Outcome::Misfit,
        Err(_) => Outcome::Failed,
    }
}
