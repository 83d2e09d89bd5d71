//! A call's services for the instances that run in it: what it may use, its accounts, and its user's other functions.

use super::{object::Call, run::run};
use crate::{
    identity::User,
    instance::{CallError, Emitter, Invocation, Json, NotCalled, Services, SiblingCall, SiblingRelay, Stop},
    limits::{Descriptors, Limits, memory::Memory},
    scheduler::Permit,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use tokio::time::Instant;

impl Services for Call {
    fn user(&self) -> User {
        self.session.user()
    }

    fn limits(&self) -> &Limits {
        self.session.limits()
    }

    fn memory(&self) -> &Arc<Memory> {
        self.session.memory()
    }

    fn descriptors(&self) -> &Descriptors {
        self.session.descriptors()
    }

    fn permit(&self) -> &Arc<Permit> {
        self.session.permit()
    }

    fn log_budget(&self) -> &Arc<AtomicUsize> {
        self.log_budget.get_or_init(|| Arc::new(AtomicUsize::new(self.limits().log_size)))
    }

    fn emitter(&self) -> &Emitter {
        &self.emitter
    }

    fn relay(&self) -> &SiblingRelay {
        &self.relay
    }

    fn has_function(&self, name: &str) -> bool {
        self.session.callable(name).is_some()
    }

    /// A sibling that already runs in this call is refused: a circle would otherwise wait for itself.
    fn sibling(self: Arc<Self>, by: Invocation, name: &str, input: Json) -> Result<SiblingCall, NotCalled> {
        let Invocation { allowance, depth, undo_from } = by;
        let position = self
            .session
            .callable(name)
            .ok_or_else(|| CallError::Unknown(format!("no function `{name}` is configured")))?;
        let limits = self.limits();
        if depth >= limits.call_depth {
            let function = self.session.function(position).name.clone();
            let why = Limits::CALL_DEPTH.reached(format!("cannot be called: calls are nested {depth} deep"));
            return Err(NotCalled::Stopped(Stop { function, kind: why.into() }));
        }
        if input.len() > limits.body_size {
            let (size, key, most) = (input.len(), Limits::BODY_SIZE.key, limits.body_size);
            let why = format!("the input has {size} bytes, and `{key}` allows {most}");
            return Err(CallError::InvalidInput(why).into());
        }
        let frame = self
            .take(position, undo_from)
            .ok_or_else(|| CallError::Cycle(format!("`{name}` is already running in this call")))?;
        let allowance = allowance.for_sibling(Instant::now());
        Ok(Box::pin(async move { run(frame, &input, allowance, depth + 1).await }))
    }

    fn charged(&self) -> u64 {
        u64::try_from(self.charged.load(Ordering::Relaxed)).unwrap_or_default()
    }

    // Before the call's end, so that no other call is admitted on fuel that is already spent.
    fn charge(&self, units: u64) {
        let charged = i64::try_from(units).unwrap_or(i64::MAX);
        self.charged.fetch_add(charged, Ordering::Relaxed);
        self.session.use_fuel(charged);
    }

    fn abandon(&self, units: u64) {
        self.effects().tally.abandoned += units;
    }

    fn upkeep(&self, units: u64) {
        self.effects().tally.upkeep += units;
    }
}
