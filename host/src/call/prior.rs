//! The state of functions before a call.

use crate::state::{AT_ONCE, Saved, Snapshot};

/// A function's state before it ran.
pub(super) enum PriorState {
    /// Nothing: there was no instance.
    Nothing,
    /// The same as now: the function has not run yet.
    Same,
    /// It was parked.
    Parked(Snapshot),
    /// It had an instance.
    Saved(Saved),
    /// An instance that cannot be restored: its state is lost if the call fails.
    Lost,
}

/// A function that has run, and its state before.
pub(super) struct UndoEntry {
    pub(super) position: usize,
    pub(super) before: PriorState,
}

/// The undo data of a function that need not be undone any more, if it is large.
pub(super) fn leftover(entry: UndoEntry) -> Option<Saved> {
    match entry.before {
        PriorState::Saved(saved) if saved.len() > AT_ONCE => Some(saved),
        _ => None,
    }
}
