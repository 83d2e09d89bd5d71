//! The queue of a session's calls: one runs, a bounded number waits, first come first served.

use super::{Session, TooManySessions};
use crate::limits::{Level, Spent};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::{
    sync::Semaphore,
    time::{Instant, timeout_at},
};

/// A session's queue.
#[derive(Debug)]
pub(super) struct Queue {
    /// One permit: the turn. Its waiters are served in order.
    turn: Semaphore,
    waiting: AtomicUsize,
}

/// Why a call did not get its turn. Nothing was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// As many calls wait as may.
    #[error("{waiting} calls of this user are already waiting, which is what `limits.queue_per_session` allows")]
    QueueFull {
        /// Calls that wait.
        waiting: usize,
    },
    /// There is no place for another session.
    #[error(transparent)]
    TooManySessions(#[from] TooManySessions),
    /// As many calls wait or run as may.
    #[error("{limit} calls wait or run, which is what `{}` allows", calls_of(*.level))]
    TooManyCalls {
        /// Whose calls they are.
        level: Level,
        /// How many there may be.
        limit: usize,
    },
    /// What may be used over time is used.
    #[error(transparent)]
    Spent(#[from] Spent),
    /// The call's deadline came before its turn did.
    #[error("the call waited for its turn for as long as `limits.deadline` allows, and was not run")]
    WaitedTooLong,
}

/// The key that says how many calls of a level may wait or run.
pub(crate) fn calls_of(level: Level) -> &'static str {
    match level {
        Level::User => "limits.queue_per_session",
        Level::Tenant => "limits.tenant.calls",
        Level::Host => "limits.calls",
    }
}

/// It is this call's turn, until this is dropped.
pub(crate) struct Turn(Arc<Session>);

impl Queue {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), waiting: AtomicUsize::new(0) }
    }
}

impl Session {
    /// The turn, if it is nobody's.
    pub(super) fn turn_if_free(self: &Arc<Self>) -> Option<Turn> {
        let permit = self.queue.turn.try_acquire().ok()?;
        permit.forget();
        Some(Turn(self.clone()))
    }

    /// Waits for the turn.
    pub(super) async fn turn(self: &Arc<Self>, deadline: Instant) -> Result<Turn, Refusal> {
        if let Some(turn) = self.turn_if_free() {
            return Ok(turn);
        }
        let _place = Place::take(&self.queue.waiting, self.limits().queue_per_session)?;
        match timeout_at(deadline, self.queue.turn.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(Turn(self.clone()))
            }
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(Refusal::WaitedTooLong),
        }
    }
}

impl Turn {
    pub(super) fn session(&self) -> &Arc<Session> {
        &self.0
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.queue.turn.add_permits(1);
    }
}

/// A place among those who wait, given back when it is dropped.
struct Place<'a>(&'a AtomicUsize);

impl<'a> Place<'a> {
    fn take(waiting: &'a AtomicUsize, most: usize) -> Result<Self, Refusal> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        if before >= most { Err(Refusal::QueueFull { waiting: before }) } else { Ok(place) }
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
