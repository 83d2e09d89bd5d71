//! A call's effects so far.

use super::prior::{UndoEntry, leftover};
use crate::session::Leftovers;
use std::time::Duration;

/// The effects of a call on its session's instances, by their functions' positions, and its figures.
#[derive(Default)]
pub(super) struct Effects {
    /// The functions that have run, each with its state before.
    pub(super) undo: Vec<UndoEntry>,
    /// True if an instance needs work after the call.
    pub(super) untidy: bool,
    /// True if a function that has run or is running would lose its state if it were stopped.
    pub(super) loses: bool,
    /// The functions that have lost their state.
    pub(super) lost: Vec<usize>,
    pub(super) tally: Tally,
}

/// The figures of a call.
#[derive(Default)]
pub(super) struct Tally {
    /// True if the call was undone because of a stop that was passed on, although the function called from outside was
    /// not stopped itself.
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
    /// The functions that have lost the state they had before the call, by position.
    pub(super) lost: Vec<usize>,
    /// Work that is left for the session.
    pub(super) leftovers: Leftovers,
    pub(super) tally: Tally,
}

impl Effects {
    /// Ends the call.
    pub(super) fn end(self) -> Ended {
        // Not collected: that would keep the list's own memory for one that is mostly empty.
        let mut undo = Vec::new();
        undo.extend(self.undo.into_iter().filter_map(leftover));
        Ended { lost: self.lost, leftovers: Leftovers { undo, untidy: self.untidy }, tally: self.tally }
    }
}
