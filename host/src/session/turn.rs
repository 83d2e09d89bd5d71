//! Turns: one call of a session runs, a bounded number waits, first come first served.

use super::{live::Session, queue::QueueSlot};
use crate::limits::{Limits, Reached};
use std::sync::Arc;
use tokio::time::{Instant, timeout_at};

/// A call's turn in its session, given back on drop.
pub(crate) struct Turn(Arc<Session>);

impl Session {
    /// Takes the turn if it is free.
    pub(crate) fn turn_if_free(self: &Arc<Self>) -> Option<Turn> {
        let permit = self.queue.turn.try_acquire().ok()?;
        permit.forget();
        Some(Turn(self.clone()))
    }

    /// Waits for the turn.
    pub(crate) async fn turn(self: &Arc<Self>, deadline: Instant) -> Result<Turn, Reached> {
        if let Some(turn) = self.turn_if_free() {
            return Ok(turn);
        }
        // Boxed: mostly the turn is free.
        Box::pin(self.turn_of_the_queue(deadline)).await
    }

    async fn turn_of_the_queue(self: &Arc<Self>, deadline: Instant) -> Result<Turn, Reached> {
        let _slot = QueueSlot::take(&self.queue.waiting, self.limits().queue_per_session)?;
        match timeout_at(deadline, self.queue.turn.acquire()).await {
            Ok(Ok(permit)) => {
                permit.forget();
                Ok(Turn(self.clone()))
            }
            // The semaphore is never closed.
            Ok(Err(_)) | Err(_) => Err(waited_too_long()),
        }
    }
}

/// The call's deadline came before it could run.
pub(crate) fn waited_too_long() -> Reached {
    let key = Limits::DEADLINE.key;
    Limits::DEADLINE
        .reached_in_words(format!("the call waited for its turn for as long as `{key}` allows, and was not run"))
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
