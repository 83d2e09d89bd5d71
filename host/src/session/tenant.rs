//! A tenant: what all of its users' sessions share.

use super::{Refusal, TooManySessions};
use crate::{
    function::Function,
    identity::TenantConfig,
    limits::{Budget, Level, Limits, Spent, memory::Memory},
    observe::CallMetrics,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// What all sessions of a tenant share.
#[derive(Debug)]
pub struct Tenant {
    name: Arc<str>,
    limits: Limits,
    /// Which functions its users may call, by their positions; all, if there is no list.
    functions: Option<Box<[bool]>>,
    memory: Arc<Memory>,
    budget: Option<Budget>,
    /// Calls that wait or run.
    calls: AtomicUsize,
    sessions: AtomicUsize,
    pub(super) metrics: CallMetrics,
}

impl Tenant {
    /// A tenant of a host that has these functions and this memory.
    pub(crate) fn new(
        config: &TenantConfig,
        functions: &[Function],
        memory: &Arc<Memory>,
        metrics: CallMetrics,
    ) -> Self {
        let allowed = config
            .functions
            .as_ref()
            .map(|names| functions.iter().map(|function| names.iter().any(|name| *name == *function.name)).collect());
        let quota = &config.limits.tenant;
        Self {
            name: config.name.clone(),
            limits: config.limits.clone(),
            functions: allowed,
            memory: memory.within(Level::Tenant, quota.memory),
            budget: Budget::new(quota),
            calls: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            metrics,
        }
    }

    /// What it is called.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    /// Its limits.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Whether its users may call a function.
    pub fn may_call(&self, position: usize) -> bool {
        self.functions.as_ref().is_none_or(|allowed| allowed[position])
    }

    /// Calls that wait or run.
    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }

    /// Sessions that exist.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// Bytes that its instances and snapshots take.
    pub fn memory_used(&self) -> usize {
        self.memory.used()
    }

    /// Calls that have ended.
    pub fn calls_ended(&self) -> u64 {
        self.metrics.calls()
    }

    /// Units of fuel that its calls have used.
    pub fn fuel_used(&self) -> u64 {
        self.metrics.fuel()
    }

    /// Units of fuel that are left of its budget, where it has one; less than nothing if more was used.
    pub fn fuel_left(&self) -> Option<i64> {
        self.budget.as_ref().and_then(Budget::fuel_left)
    }

    /// What a user of it may take of memory.
    pub(super) fn memory_of_user(&self) -> Arc<Memory> {
        match self.limits.user.memory {
            Some(limit) => self.memory.within(Level::User, Some(limit)),
            None => self.memory.clone(),
        }
    }

    /// A request of it is let in, if its rates allow that.
    pub(super) fn admit(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::Tenant))
    }

    /// A request of it that was let in was refused elsewhere.
    pub(super) fn readmit(&self) {
        self.budget.iter().for_each(Budget::readmit);
    }

    pub(super) fn use_fuel(&self, units: i64) {
        self.budget.iter().for_each(|budget| budget.use_fuel(units));
    }

    /// A call of it arrives.
    pub(super) fn call_begins(&self) -> Result<InFlight<'_>, Refusal> {
        let in_flight = InFlight(self);
        let before = self.calls.fetch_add(1, Ordering::Relaxed);
        match self.limits.tenant.calls {
            Some(limit) if before >= limit => Err(Refusal::TooManyCalls { level: Level::Tenant, limit }),
            _ => Ok(in_flight),
        }
    }

    pub(super) fn call_ends(&self) {
        self.calls.fetch_sub(1, Ordering::Relaxed);
    }

    /// It gets another session.
    pub(super) fn session_begins(&self) -> Result<(), TooManySessions> {
        let most = self.limits.tenant.sessions.unwrap_or(usize::MAX);
        let one_more = |sessions| (sessions < most).then_some(sessions + 1);
        let admitted = self.sessions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
        admitted.map(drop).map_err(|_| TooManySessions::OfTenant(most))
    }

    pub(super) fn session_ends(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A call of a tenant that has arrived. It ends when this is dropped, or, where this is kept, with
/// [`Tenant::call_ends`].
pub(super) struct InFlight<'a>(&'a Tenant);

impl InFlight<'_> {
    pub(super) fn keep(self) {
        std::mem::forget(self);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.call_ends();
    }
}
