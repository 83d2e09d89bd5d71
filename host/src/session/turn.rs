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
    /// The user's queue is full.
    #[error("{waiting} calls of this user are already waiting, which is what `limits.queue_per_session` allows")]
    QueueFull {
        /// Calls that wait.
        waiting: usize,
    },
    /// There is no place for another session.
    #[error(transparent)]
    TooManySessions(#[from] TooManySessions),
    /// The tenant's or the host's limit of calls that wait or run is reached.
    #[error("{limit} calls wait or run, which is what `{}` allows", calls_of(*.level))]
    TooManyCalls {
        /// The level of the limit.
        level: Level,
        /// The most calls that may wait or run.
        limit: usize,
    },
    /// The user's or the tenant's budget over time is spent.
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

/// A call's turn in its session, given back on drop.
pub(crate) struct Turn(Arc<Session>);

impl Queue {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), waiting: AtomicUsize::new(0) }
    }
}

impl Session {
    /// Takes the turn if it is free.
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

/// A place in the queue, given back on drop.
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
