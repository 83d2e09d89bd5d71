//! What is left to do of a call that has been answered.
//!
//! A call may have written to all of a large instance. To put back what that held, if it failed, or to give back the
//! memory of what was kept for that, if it did not, takes milliseconds, for which nobody has to wait but the next call of
//! the same user: it is done in pieces, by a task that keeps the session's turn.

use super::{Session, Slot, Turn, pace::Pace};
use crate::state::Gone;
use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    runtime::Handle,
    sync::watch,
    time::{Instant, timeout_at},
};

/// How long those who look for idle sessions wait at the most for one to be tidied.
pub(super) const TIDYING: Duration = Duration::from_secs(1);
/// Pages of which the memory is given back in a piece.
const PIECE: usize = 256;

/// The sessions that are being tidied: there will be more memory soon.
#[derive(Debug, Default)]
pub(crate) struct Tidying {
    sessions: AtomicUsize,
    /// Counts those that were.
    tidied: watch::Sender<u64>,
}

/// Those that are tidied from some time on.
pub(crate) struct Tidied<'a> {
    tidying: &'a Tidying,
    tidied: watch::Receiver<u64>,
}

impl Tidying {
    /// For whoever is going to try something that may fail for want of memory.
    pub(crate) fn watch(&self) -> Tidied<'_> {
        Tidied { tidying: self, tidied: self.tidied.subscribe() }
    }
}

impl Tidied<'_> {
    /// Waits until another session was tidied, until the deadline at the most; gives whether one was: if not, it is of no
    /// use to try again.
    pub(crate) async fn another(&mut self, deadline: Instant) -> bool {
        // In this order: see `One::drop`.
        let will_be = self.tidying.sessions.load(Ordering::Acquire) > 0;
        let may_be = self.tidied.has_changed().unwrap_or(false) || will_be;
        may_be && timeout_at(deadline, self.tidied.changed()).await.is_ok()
    }
}

/// A session that is being tidied, until this is dropped.
struct One(Arc<Session>);

impl One {
    fn new(session: &Arc<Session>) -> Self {
        session.shared.tidying.sessions.fetch_add(1, Ordering::AcqRel);
        session.is_tidied.store(true, Ordering::Release);
        Self(session.clone())
    }
}

impl Drop for One {
    fn drop(&mut self) {
        let tidying = &self.0.shared.tidying;
        // In this order: who sees none that is being tidied sees that this one was.
        tidying.tidied.send_modify(|tidied| *tidied += 1);
        tidying.sessions.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Turn {
    /// A call from outside has ended: has done what is left of it, and gives back the turn.
    pub(super) fn tidy(self) {
        if !std::mem::take(&mut self.session().current().untidy) {
            return;
        }
        // Without a runtime the host is ending, and so do all sessions.
        if let Ok(runtime) = Handle::try_current() {
            let one = One::new(self.session());
            runtime.spawn(async move {
                self.session().tidy().await;
                // While it has the turn: its next call may be tidied, too.
                self.session().is_tidied.store(false, Ordering::Release);
                drop(self);
                drop(one);
            });
        }
    }
}

impl Session {
    /// True while it is being tidied.
    pub(crate) fn is_tidied(&self) -> bool {
        self.is_tidied.load(Ordering::Acquire)
    }

    async fn tidy(&self) {
        let mut pace = Pace::new();
        let mut leftovers = std::mem::take(&mut self.current().leftovers);
        for leftover in &mut leftovers {
            while leftover.shorten(PIECE) {
                pace.step().await;
            }
        }
        drop(leftovers);
        for position in 0..self.slots.len() {
            while self.undo_a_piece(position) || self.settle_a_piece(position) {
                pace.step().await;
            }
        }
    }

    /// Does a piece of what is left to be done of a function's last call, which has ended well; gives whether there is
    /// another one.
    fn settle_a_piece(&self, position: usize) -> bool {
        let mut slot = self.slot(position);
        let (Slot::Idle(instance), Some(image)) = (&mut *slot, self.undone_by(position)) else { return false };
        !instance.is_settled() && instance.settle(image)
    }

    /// Puts back a piece of what a function held, if its call has failed and is not undone yet; gives whether there is
    /// another one.
    pub(super) fn undo_a_piece(&self, position: usize) -> bool {
        let mut slot = self.slot(position);
        let (Slot::Undone(undone), Some(image)) = (&mut *slot, self.image(position)) else { return false };
        undone.step(image).unwrap_or_else(|Gone| {
            *slot = Slot::Empty;
            drop(slot);
            self.lost(position);
            false
        })
    }
}
