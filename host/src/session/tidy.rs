//! Work left from a call that has been answered.
//!
//! A call may have written to all of a large instance. Restoring that, if the call failed, or freeing the undo data,
//! if it did not, takes milliseconds. Only the same user's next call waits for it: a task that keeps the session's
//! turn does the work in pieces.

use super::{live::Session, pace::Pace, slot::Slot, turn::Turn};
use crate::state::{Gone, Saved};
use std::{
    sync::{Arc, atomic::Ordering},
    time::Duration,
};
use tokio::runtime::Handle;

/// The longest time that a search for idle sessions waits for one to be tidied.
pub(super) const TIDYING: Duration = Duration::from_secs(1);
/// Pages of undo data freed in one piece.
const PIECE: usize = 256;

/// The work left from a call.
#[derive(Default)]
pub(crate) struct Leftovers {
    /// Large undo data to be freed.
    pub(crate) undo: Vec<Saved>,
    /// True if an instance is to be settled or undone.
    pub(crate) untidy: bool,
}

/// A session that is being tidied, until this is dropped.
struct One(Arc<Session>);

impl One {
    fn new(session: &Arc<Session>) -> Self {
        session.shared.tidying.sessions.fetch_add(1, Ordering::AcqRel);
        session.is_being_tidied.store(true, Ordering::Release);
        Self(session.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let tidying = &self.0.shared.tidying;
        // In this order: a reader that sees no session being tidied sees that this one was.
        tidying.tidied.send_modify(|tidied| *tidied += 1);
        tidying.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turn {
    /// Has a task do the work left from the ended call, and then gives back the turn.
    pub(crate) fn tidy(self, Leftovers { undo, untidy }: Leftovers) {
        if undo.is_empty() && !untidy {
            return;
        }
        // Without a runtime the host is ending, and so do all sessions.
        if let Ok(runtime) = Handle::try_current() {
            let one = One::new(self.session());
            runtime.spawn(async move {
                self.session().tidy(undo).await;
                // Cleared while the turn is held: the next call may be tidied, too.
                self.session().is_being_tidied.store(false, Ordering::Release);
                drop(self);
                drop(one);
            });
        }
    }
}

impl Session {
    /// Returns true while the session is being tidied.
    pub(crate) fn is_being_tidied(&self) -> bool {
        self.is_being_tidied.load(Ordering::Acquire)
    }

    async fn tidy(&self, undo: Vec<Saved>) {
        let mut pace = Pace::new();
        for mut saved in undo {
            while saved.shorten(PIECE) {
                pace.step().await;
            }
        }
        for position in 0..self.slots.len() {
            while self.undo_a_piece(position) || self.settle_a_piece(position) {
                pace.step().await;
            }
        }
    }

    /// Does a piece of the work left from a function's committed call; returns true if there is another piece.
    fn settle_a_piece(&self, position: usize) -> bool {
        let mut slot = self.slot(position);
        let (Slot::Idle(instance), Some(image)) = (&mut *slot, self.undone_by(position)) else { return false };
        !instance.is_settled() && instance.settle(image)
    }

    /// Restores a piece of a function's state, if its call failed and is not undone yet; returns true if there is
    /// another piece.
    pub(super) fn undo_a_piece(&self, position: usize) -> bool {
        let mut slot = self.slot(position);
        let (Slot::Undone(undone), Some(image)) = (&mut *slot, self.image(position)) else { return false };
        undone.step(image).unwrap_or_else(|Gone| {
            *slot = Slot::Lost;
            false
        })
    }
}
