//! The place of an instance between calls.

use crate::{
    instance::Instance,
    state::{Snapshot, Undone},
};

/// The state of one function's instance.
#[derive(Default)]
pub(crate) enum Slot {
    /// No instance: none was needed yet, or it was stopped and could not be undone.
    #[default]
    Empty,
    /// No instance: what it held was lost when no caller could be told. The function's next call tells.
    Lost,
    Idle(Box<Instance>),
    /// The last call failed: the memories are as before that call, and need a new store.
    Undone(Box<Undone>),
    /// No instance, but the snapshot to restore it from.
    Parked(Snapshot),
    /// Taken by a call.
    Running,
}
