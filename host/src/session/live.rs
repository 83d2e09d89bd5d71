//! A session: all that is live of one user.

use super::{
    account::Account, eviction::Pressure, locked::NotLocked, queue::Queue, shared::Shared, slot::Slot, tenant::Tenant,
    tidying::Tidying, uses::Uses,
};
use crate::{
    function::{Catalog, Function},
    identity::User,
    limits::{
        Budget, Descriptors, Level, Limits, Reached,
        memory::{self, Charge, Memory},
    },
    scheduler::Permit,
    state::Image,
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, atomic::AtomicBool};

/// All that is live of one user.
pub struct Session {
    pub(super) user: User,
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: Arc<Tenant>,
    /// The user's memory budget.
    pub(super) memory: Arc<Memory>,
    /// The descriptors that the user's guests may hold.
    pub(super) descriptors: Descriptors,
    /// The user's budget over time; `None` if there is no limit.
    pub(super) budget: Option<Box<Budget>>,
    /// One for each function of the catalog.
    pub(super) slots: Box<[Mutex<Slot>]>,
    /// True while work left from the last call is being done: see `tidy`.
    pub(super) is_being_tidied: AtomicBool,
    pub(super) queue: Queue,
    pub(super) permit: Arc<Permit>,
    pub(super) account: Account,
    pub(super) uses: Uses,
    /// The memory of the session itself, without its instances.
    pub(super) _charge: Charge,
    pub(super) _not_locked: NotLocked,
}

/// A session's instances, its snapshots, and their memory.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Holds {
    /// Instances; those that run are not counted.
    pub instances: usize,
    /// Bytes of their memories and tables.
    pub bytes: usize,
    /// Functions that are parked.
    pub parked: usize,
    /// Bytes of their snapshots.
    pub parked_bytes: usize,
}

impl Session {
    pub(crate) fn new(user: User, shared: Arc<Shared>) -> Arc<Self> {
        let tenant = shared.tenant(user).clone();
        Self::of(tenant, user, shared)
    }

    /// A session of a tenant that need not be among those of the configuration.
    pub(crate) fn of(tenant: Arc<Tenant>, user: User, shared: Arc<Shared>) -> Arc<Self> {
        let slots: Box<[_]> = shared.catalog.functions().iter().map(|_| Mutex::<Slot>::default()).collect();
        let engine = shared.catalog.functions().first().map(|function| function.guest.code.engine());
        let (memory, budget) = (tenant.memory_of_user(engine), Budget::new(&tenant.limits().user).map(Box::new));
        Arc::new(Self {
            user,
            budget,
            is_being_tidied: AtomicBool::new(false),
            queue: Queue::new(),
            permit: Arc::new(Permit::new(shared.lane.clone(), user.tenant())),
            account: Account::new(),
            uses: Uses::default(),
            _charge: memory.charge(memory::SESSION + size_of_val(&*slots)),
            memory,
            slots,
            descriptors: tenant.descriptors_of_user(),
            tenant,
            shared,
            _not_locked: NotLocked,
        })
    }

    /// The session's user.
    pub fn user(&self) -> User {
        self.user
    }

    /// The session's running totals.
    pub fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// A function of the catalog.
    pub(crate) fn function(&self, position: usize) -> &Function {
        &self.catalog().functions()[position]
    }

    /// The tenant of the session's user.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.tenant.limits()
    }

    /// The image of a function; `None` if an instance cannot be restored from its memories.
    pub(crate) fn image(&self, position: usize) -> Option<&Image> {
        self.tenant.image(position)
    }

    /// A function's image, if calls of the function can be undone.
    pub(crate) fn undone_by(&self, position: usize) -> Option<&Image> {
        self.image(position).filter(|_| self.shared.policy.rollback)
    }

    /// The position of a function that the user may call.
    pub(crate) fn callable(&self, name: &str) -> Option<usize> {
        self.catalog().position(name).filter(|position| self.tenant.may_call(*position))
    }

    /// The descriptors that the user's guests may hold.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// The user's memory budget.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// Admits a request, if the user's rates allow it.
    pub(super) fn admit(&self) -> Result<(), Reached> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::User))
    }

    /// Checks that fuel is left for an admitted call: others may have used it up while the call waited.
    pub(crate) fn check_fuel(&self) -> Result<(), Reached> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check_fuel(Level::User))?;
        self.tenant.check_fuel()
    }

    /// Returns true if the user has used more fuel than there was.
    pub(super) fn in_debt(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.in_debt())
    }

    /// Returns true if the user's budget is full, so that a new session would have no more.
    pub(super) fn has_full_budget(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.is_full())
    }

    pub(crate) fn use_fuel(&self, units: i64) {
        self.budget.iter().for_each(|budget| budget.use_fuel(units));
        self.tenant.use_fuel(units);
    }

    pub(crate) fn permit(&self) -> &Arc<Permit> {
        &self.permit
    }

    /// The wishes for room.
    pub(crate) fn pressure(&self) -> &Pressure {
        &self.shared.pressure
    }

    /// The sessions of the host that are being tidied.
    pub(crate) fn tidying(&self) -> &Tidying {
        &self.shared.tidying
    }

    /// The session's instances and memory, counted now.
    pub fn holds(&self) -> Holds {
        let mut holds = Holds::default();
        for position in 0..self.slots.len() {
            match &*self.slot(position) {
                Slot::Idle(instance) => {
                    holds.instances += 1;
                    holds.bytes += instance.memory();
                }
                Slot::Undone(undone) => {
                    holds.instances += 1;
                    holds.bytes += undone.memory();
                }
                Slot::Parked(snapshot) => {
                    holds.parked += 1;
                    holds.parked_bytes += snapshot.len();
                }
                Slot::Empty | Slot::Lost | Slot::Running => {}
            }
        }
        holds
    }

    /// Notes that functions have lost their state, where they have got no other since: their next calls tell.
    pub(crate) fn note_lost(&self, positions: &[usize]) {
        for position in positions {
            let mut slot = self.slot(*position);
            if matches!(*slot, Slot::Empty) {
                *slot = Slot::Lost;
            }
        }
    }

    /// Locks a slot. Nothing panics while the lock is held, and a slot is whole at any time.
    pub(crate) fn slot(&self, position: usize) -> MutexGuard<'_, Slot> {
        self.slots[position].lock().unwrap_or_else(PoisonError::into_inner)
    }
}
