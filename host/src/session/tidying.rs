//! The sessions that are being tidied: see `tidy`.

use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::{
    sync::watch,
    time::{Instant, timeout_at},
};

/// The sessions that are being tidied: there will be more memory soon.
#[derive(Debug, Default)]
pub(crate) struct Tidying {
    pub(super) sessions: AtomicUsize,
    /// The number of sessions tidied so far.
    pub(super) tidied: watch::Sender<u64>,
}

/// A watch on sessions that are tidied after its creation.
pub(crate) struct TidyWatch<'a> {
    tidying: &'a Tidying,
    tidied: watch::Receiver<u64>,
}

impl Tidying {
    /// Begins a watch. Call this before an attempt that may fail for want of memory.
    pub(crate) fn watch(&self) -> TidyWatch<'_> {
        TidyWatch { tidying: self, tidied: self.tidied.subscribe() }
    }
}

impl TidyWatch<'_> {
    /// Waits until another session was tidied, or until the deadline; returns true if one was. If not, a retry is
    /// useless.
    pub(crate) async fn another(&mut self, deadline: Instant) -> bool {
        // In this order: see `One::drop`.
        let will_be = self.tidying.sessions.load(Ordering::Acquire) > 0;
        let may_be = self.tidied.has_changed().unwrap_or(false) || will_be;
        may_be && timeout_at(deadline, self.tidied.changed()).await.is_ok()
    }
}
