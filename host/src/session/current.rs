//! The progress of the call that runs in a session.

use super::prior::UndoEntry;
use crate::{instance::Stop, state::Saved};
use std::{sync::Arc, time::Duration};

/// The running call's effects on its session's instances, by their functions' positions.
#[derive(Default)]
pub(super) struct Current {
    /// The functions that have run, each with its state before.
    pub(super) undo: Vec<UndoEntry>,
    /// Large undo data that is no longer needed, to be freed by `tidy`.
    pub(super) leftovers: Vec<Saved>,
    /// True if `tidy` has work to do before the session's next call.
    pub(super) untidy: bool,
    /// True if a function that has run or is running would lose its state if it were stopped.
    pub(super) loses: bool,
    /// The functions that have lost their state.
    pub(super) lost: Vec<usize>,
    /// The figures of the call.
    pub(super) tally: Tally,
}

/// The figures of a call, until its end.
#[derive(Default)]
pub(super) struct Tally {
    /// The stops of functions during the call.
    pub(super) stops: Vec<Stop>,
    /// True if the call was undone because of these stops, although the function called from outside was not stopped.
    pub(super) undone: bool,
    /// Units of fuel of functions whose caller went away while they ran.
    pub(super) abandoned: u64,
    /// Units of fuel for the host's work on the call: billed, but not taken off the call's allowance.
    pub(super) upkeep: u64,
    /// The time spent making instances.
    pub(super) made: Duration,
    /// Functions that were run.
    pub(super) functions: u32,
}

/// The end of a call from outside.
pub(super) struct Ended {
    /// The functions that have lost the state they had before the call.
    pub(super) lost: Vec<Arc<str>>,
    pub(super) tally: Tally,
}
