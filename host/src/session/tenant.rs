//! A tenant: what all of its users' sessions share.

use super::{Refusal, TooManySessions};
use crate::{
    function::Function,
    identity::TenantConfig,
    limits::{Budget, Descriptors, Level, Limits, Spent, memory::Memory},
    observe::CallMetrics,
    state::Image,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// What the instances of each function begin with, by position. Tenants to whom a function looks the same share them.
type Images = Box<[Option<Arc<Image>>]>;

/// What all sessions of a tenant share.
#[derive(Debug)]
pub struct Tenant {
    name: Arc<str>,
    limits: Limits,
    /// Which functions its users may call, by their positions; all, if there is no list.
    functions: Option<Box<[bool]>>,
    memory: Arc<Memory>,
    descriptors: Descriptors,
    budget: Option<Budget>,
    /// Calls that wait or run.
    calls: AtomicUsize,
    sessions: AtomicUsize,
    /// What its users' instances of each function begin with, by position.
    images: OnceLock<Images>,
    pub(super) metrics: CallMetrics,
}

impl Tenant {
    /// A tenant of a host that has these functions, this memory, and these descriptors for guests.
    pub(crate) fn new(
        config: &TenantConfig,
        functions: &[Function],
        memory: &Arc<Memory>,
        descriptors: &Descriptors,
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
            descriptors: descriptors.within(Level::Tenant, quota.open_files),
            budget: Budget::new(quota),
            calls: AtomicUsize::new(0),
            sessions: AtomicUsize::new(0),
            images: OnceLock::new(),
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

    /// What its users' instances of a function begin with, if they can be made again from their memories.
    pub(crate) fn image(&self, position: usize) -> Option<&Image> {
        self.images.get()?.get(position)?.as_deref()
    }

    /// The functions were tried out for it: this is what its users' instances begin with.
    pub(crate) fn set_images(&self, images: Images) {
        // Once, before the host serves.
        let _ = self.images.set(images);
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
        self.memory.within(Level::User, self.limits.user.memory)
    }

    /// The descriptors that a user of it may hold.
    pub(super) fn descriptors_of_user(&self) -> Descriptors {
        self.descriptors.within(Level::User, self.limits.user.open_files)
    }

    /// Files and connections that its guests have open.
    pub fn open_files(&self) -> usize {
        self.descriptors.used().0
    }

    /// The memory that its users may take together.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// A request of it is let in, if its rates allow that.
    pub(super) fn admit(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::Tenant))
    }

    /// There is fuel for one of its calls to begin with.
    pub(super) fn check_fuel(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check_fuel(Level::Tenant))
    }

    /// A request of it that was let in was refused elsewhere.
    pub(super) fn readmit(&self) {
        self.budget.iter().for_each(Budget::readmit);
    }

    pub(super) fn use_fuel(&self, units: i64) {
        self.budget.iter().for_each(|budget| budget.use_fuel(units));
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

/// A call that has arrived, and counts. It ends when this is dropped, or, where this is kept, with [`InFlight::end`].
pub(super) struct InFlight<'a> {
    all: &'a AtomicUsize,
    /// None, where it is the operator's.
    tenant: Option<&'a Tenant>,
}

impl<'a> InFlight<'a> {
    /// Counts it among all calls, of which there may be so many, and among the tenant's.
    pub(super) fn begin(all: &'a AtomicUsize, most: usize, tenant: Option<&'a Tenant>) -> Result<Self, Refusal> {
        // In one step each, so that no two take the last place.
        let take = |calls: &AtomicUsize, level, limit| {
            let one_more = |calls| (calls < limit).then_some(calls + 1);
            let taken = calls.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
            taken.map_err(|_| Refusal::TooManyCalls { level, limit })
        };
        take(all, Level::Host, most)?;
        if let Some(tenant) = tenant
            && let Err(refusal) = take(&tenant.calls, Level::Tenant, tenant.limits.tenant.calls.unwrap_or(usize::MAX))
        {
            all.fetch_sub(1, Ordering::Release);
            return Err(refusal);
        }
        Ok(Self { all, tenant })
    }

    pub(super) fn keep(self) {
        std::mem::forget(self);
    }

    pub(super) fn end(all: &AtomicUsize, tenant: Option<&Tenant>) {
        if let Some(tenant) = tenant {
            tenant.calls.fetch_sub(1, Ordering::Relaxed);
        }
        // Whoever sees that none is left sees all that they have done.
        all.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        Self::end(self.all, self.tenant);
    }
}
