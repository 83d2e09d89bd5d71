//! A tenant: the state shared by all sessions of its users.

use super::places::count_one;
use crate::{
    function::Function,
    identity::TenantConfig,
    limits::{Bill, Budget, Descriptors, Level, Limits, Quota, Reached, memory::Memory},
    observe::CallMetrics,
    state::Image,
};
use std::sync::{
    Arc, OnceLock,
    atomic::{AtomicUsize, Ordering},
};

/// The image of each function, by position. Tenants to whom a function looks the same share its image.
type Images = Box<[Option<Arc<Image>>]>;

/// The state shared by all sessions of a tenant.
#[derive(Debug)]
pub struct Tenant {
    name: Arc<str>,
    limits: Limits,
    /// The functions that its users may call, by position; all, if there is no list.
    functions: Option<Box<[bool]>>,
    memory: Arc<Memory>,
    descriptors: Descriptors,
    budget: Option<Budget>,
    /// Calls that wait or run.
    pub(super) calls: AtomicUsize,
    sessions: AtomicUsize,
    /// The image of each function, by position.
    images: OnceLock<Images>,
    metrics: CallMetrics,
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

    /// The tenant's name.
    pub fn name(&self) -> &Arc<str> {
        &self.name
    }

    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Returns true if the tenant's users may call a function.
    pub fn may_call(&self, position: usize) -> bool {
        self.functions.as_ref().is_none_or(|allowed| allowed[position])
    }

    /// A function's image; `None` if an instance cannot be restored from its memories.
    pub(crate) fn image(&self, position: usize) -> Option<&Image> {
        self.images.get()?.get(position)?.as_deref()
    }

    /// Sets the images, found by trying the functions out for this tenant.
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

    /// The memory budget of one user of the tenant.
    pub(super) fn memory_of_user(&self, engine: Option<&wasmtime::Engine>) -> Arc<Memory> {
        self.memory.of_user(self.limits.user.memory, engine)
    }

    /// The descriptor budget of one user of the tenant.
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

    /// Admits a request of the tenant, if its rates allow it.
    pub(super) fn admit(&self) -> Result<(), Reached> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::Tenant))
    }

    /// Checks that there is fuel for one of the tenant's calls to begin with.
    pub(super) fn check_fuel(&self) -> Result<(), Reached> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check_fuel(Level::Tenant))
    }

    /// Takes back the admission of a request that was refused elsewhere.
    pub(super) fn readmit(&self) {
        self.budget.iter().for_each(Budget::readmit);
    }

    /// Counts a call that has ended.
    pub(crate) fn call_ended(&self, bill: &Bill) {
        self.metrics.ended(bill);
    }

    /// Counts a stop of a function, by its code.
    pub(crate) fn function_stopped(&self, code: &'static str) {
        self.metrics.stopped(code);
    }

    pub(super) fn use_fuel(&self, units: i64) {
        self.budget.iter().for_each(|budget| budget.use_fuel(units));
    }

    /// Counts another session of the tenant, if it may have one.
    pub(super) fn session_begins(&self) -> Result<(), Reached> {
        let most = self.limits.tenant.sessions.unwrap_or(usize::MAX);
        let row = Quota::TENANT_SESSIONS;
        count_one(&self.sessions, most).map_err(|most| row.reached(format!("this tenant has {most} sessions")))
    }

    pub(super) fn session_ends(&self) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
    }
}
