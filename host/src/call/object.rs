//! The call itself.

use super::effects::{Effects, Ended};
use crate::{
    instance::{Chunk, Emitter, SiblingRelay},
    limits::Limits,
    session::Session,
};
use std::sync::{
    Arc, Mutex, MutexGuard, OnceLock, PoisonError,
    atomic::{AtomicI64, AtomicUsize, Ordering},
};
use tokio::{sync::mpsc, time::Instant};

/// A call from outside that has its turn, with all that it calls.
///
/// It is made anew for each call, so that what a call writes to is in the processor's cache; most of a session is not.
pub(crate) struct Call {
    pub(super) session: Arc<Session>,
    pub(super) deadline: Instant,
    pub(super) emitter: Emitter,
    pub(super) relay: SiblingRelay,
    /// Units of fuel that the session was charged so far.
    pub(super) charged: AtomicI64,
    /// Bytes that its functions may still print; made when one of them first asks WASI for something.
    pub(super) log_budget: OnceLock<Arc<AtomicUsize>>,
    effects: Mutex<Effects>,
}

impl Call {
    /// A call in a session, that must have ended by the deadline, and whose partial results go to the listener.
    pub(crate) fn new(session: Arc<Session>, deadline: Instant, listener: Option<mpsc::Sender<Chunk>>) -> Arc<Self> {
        // Room that was reserved to undo the last call does not count for this one.
        session.memory().end_undo_logs();
        let emitter = Emitter::new(listener, session.limits().output_size);
        Arc::new(Self {
            session,
            deadline,
            emitter,
            relay: SiblingRelay::default(),
            charged: AtomicI64::new(0),
            log_budget: OnceLock::new(),
            effects: Mutex::default(),
        })
    }

    pub(super) fn limits(&self) -> &Limits {
        self.session.limits()
    }

    /// Ends the call. Its undo data is freed or, if large, left for its session to tidy.
    pub(super) fn end(&self) -> Ended {
        self.relay.clear();
        self.session.memory().end_undo_logs();
        std::mem::take(&mut *self.effects()).end()
    }

    /// Settles the charges, given the call's total fuel.
    pub(super) fn settle(&self, fuel: u64) {
        let charged = self.charged.swap(0, Ordering::Relaxed);
        self.session.use_fuel(i64::try_from(fuel).unwrap_or(i64::MAX) - charged);
    }

    /// Returns true if the call can be undone as a whole.
    pub(super) fn can_be_undone(&self) -> bool {
        !self.effects().loses
    }

    pub(super) fn effects(&self) -> MutexGuard<'_, Effects> {
        self.effects.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
