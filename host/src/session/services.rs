//! A session's services for its instances: what a call may use, the session's accounts, and its other functions.

use super::{call::run, live::Session};
use crate::{
    identity::User,
    instance::{CallError, Invocation, Json, Services, SiblingCall, SiblingRelay},
    limits::{
        Descriptors, Limits, Permit,
        memory::{Memory, UndoRoom},
    },
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::time::Instant;

impl Services for Session {
    fn user(&self) -> User {
        self.user
    }

    fn limits(&self) -> &Limits {
        self.tenant.limits()
    }

    fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    fn undo_room(&self) -> &Arc<UndoRoom> {
        &self.undo_room
    }

    fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    fn permit(&self) -> &Arc<Permit> {
        &self.permit
    }

    fn log_budget(&self) -> &Arc<AtomicUsize> {
        &self.log_budget
    }

    fn relay(&self) -> &SiblingRelay {
        &self.relay
    }

    fn has_function(&self, name: &str) -> bool {
        self.callable(name).is_some()
    }

    /// A sibling that already runs in this call is refused: a circle would otherwise wait for itself.
    fn sibling(self: Arc<Self>, by: Invocation, name: &str, input: Json) -> Result<SiblingCall, CallError> {
        let Invocation { allowance, depth, undo, emitter } = by;
        let position =
            self.callable(name).ok_or_else(|| CallError::Unknown(format!("no function `{name}` is configured")))?;
        let limits = self.limits();
        if depth >= limits.call_depth {
            return Err(CallError::Stopped(format!(
                "call_too_deep: calls are nested {depth} deep, which is what `limits.call_depth` allows"
            )));
        }
        if input.len() > limits.body_size {
            return Err(CallError::InvalidInput(format!(
                "the input has {} bytes, and `limits.body_size` allows {}",
                input.len(),
                limits.body_size
            )));
        }
        let frame = self
            .take(position, undo)
            .ok_or_else(|| CallError::Cycle(format!("`{name}` is already running in this call")))?;
        let allowance = allowance.for_sibling(Instant::now());
        Ok(Box::pin(async move { run(frame, &input, allowance, depth + 1, emitter).await }))
    }

    fn charged(&self) -> u64 {
        u64::try_from(self.charged.load(Ordering::Relaxed)).unwrap_or_default()
    }

    // Before the call's end, so that no other call is admitted on fuel that is already spent.
    fn charge(&self, units: u64) {
        let charged = i64::try_from(units).unwrap_or(i64::MAX);
        self.charged.fetch_add(charged, Ordering::Relaxed);
        self.use_fuel(charged);
    }

    fn abandon(&self, units: u64) {
        self.current().tally.abandoned += units;
    }

    fn upkeep(&self, units: u64) {
        self.current().tally.upkeep += units;
    }
}

impl Session {
    /// The position of a function that the user may call.
    fn callable(&self, name: &str) -> Option<usize> {
        self.catalog().position(name).filter(|position| self.tenant.may_call(*position))
    }
}
