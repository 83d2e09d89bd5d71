//! A session: all that is live of one user.

use super::{
    account::Account,
    current::{Current, Ended},
    prior::leftover,
    queue::Queue,
    shared::Shared,
    slot::Slot,
    tenant::Tenant,
    tidying::Tidying,
    uses::Uses,
};
use crate::{
    function::Catalog,
    identity::User,
    instance::{SiblingRelay, Stop},
    limits::{
        Budget, Descriptors, Level, Limits, Permit, Spent,
        memory::{self, Charge, Memory, UndoRoom},
    },
    state::Image,
};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
};

/// All that is live of one user.
pub struct Session {
    pub(super) user: User,
    pub(super) shared: Arc<Shared>,
    pub(super) tenant: Arc<Tenant>,
    /// The user's memory budget.
    pub(super) memory: Arc<Memory>,
    /// The memory budget of the session's undo logs.
    pub(super) undo_room: Arc<UndoRoom>,
    /// The descriptors that the user's guests may hold.
    pub(super) descriptors: Descriptors,
    /// The user's budget over time; `None` if there is no limit.
    pub(super) budget: Option<Box<Budget>>,
    /// Units of fuel charged for the running call so far.
    pub(super) charged: AtomicI64,
    /// One for each function of the catalog.
    pub(super) slots: Box<[Mutex<Slot>]>,
    /// The running call, or the last one.
    pub(super) current: Mutex<Current>,
    pub(super) relay: SiblingRelay,
    /// True while work left from the last call is being done: see `tidy`.
    pub(super) is_tidied: AtomicBool,
    /// Bytes that the running call may still log.
    pub(super) log_budget: Arc<AtomicUsize>,
    pub(super) queue: Queue,
    pub(super) permit: Arc<Permit>,
    pub(super) account: Account,
    pub(super) uses: Uses,
    /// The memory of the session itself, without its instances.
    pub(super) _charge: Charge,
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
        let (memory, budget) = (tenant.memory_of_user(), Budget::new(&tenant.limits().user).map(Box::new));
        Arc::new(Self {
            user,
            budget,
            charged: AtomicI64::new(0),
            current: Mutex::default(),
            relay: SiblingRelay::default(),
            is_tidied: AtomicBool::new(false),
            log_budget: Arc::new(AtomicUsize::new(tenant.limits().log_size)),
            queue: Queue::new(),
            permit: Arc::new(Permit::new(shared.lane.clone(), user.tenant())),
            account: Account::new(),
            uses: Uses::default(),
            _charge: memory.charge(memory::SESSION + size_of_val(&*slots)),
            undo_room: UndoRoom::new(
                &memory,
                shared.catalog.functions().first().map(|function| function.guest.code.engine()),
            ),
            memory,
            slots,
            descriptors: tenant.descriptors_of_user(),
            tenant,
            shared,
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

    /// The user's memory budget.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The memory budget of the session's undo logs.
    pub(crate) fn undo_room(&self) -> &Arc<UndoRoom> {
        &self.undo_room
    }

    /// Admits a request, if the user's rates allow it.
    pub(super) fn admit(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::User))
    }

    /// Checks that fuel is left for an admitted call: others may have used it up while the call waited.
    pub(super) fn check_fuel(&self) -> Result<(), Spent> {
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

    /// Settles the charges of a call that has ended, given its total fuel.
    pub(super) fn settle(&self, fuel: u64) {
        let charged = self.charged.swap(0, Ordering::Relaxed);
        self.use_fuel(i64::try_from(fuel).unwrap_or(i64::MAX) - charged);
    }

    pub(super) fn use_fuel(&self, units: i64) {
        self.budget.iter().for_each(|budget| budget.use_fuel(units));
        self.tenant.use_fuel(units);
    }

    pub(crate) fn permit(&self) -> &Arc<Permit> {
        &self.permit
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
                Slot::Empty | Slot::Running => {}
            }
        }
        holds
    }

    /// Locks a slot. Nothing panics while the lock is held, and a slot is whole at any time.
    pub(super) fn slot(&self, position: usize) -> MutexGuard<'_, Slot> {
        self.slots[position].lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins a call from outside.
    pub(super) fn begin(&self) {
        self.log_budget.store(self.limits().log_size, Ordering::Relaxed);
        // Room reserved meanwhile, to undo the last call, does not count for this one.
        self.undo_room.end();
    }

    /// Ends a call from outside. Its undo data is freed or, if large, left for `tidy`.
    pub(super) fn end(&self) -> Ended {
        let mut current = self.current();
        let Current { undo, leftovers, untidy, .. } = &mut *current;
        leftovers.extend(undo.drain(..).filter_map(leftover));
        *untidy |= !leftovers.is_empty();
        self.undo_room.end();
        current.loses = false;
        let name = |position: usize| self.catalog().functions()[position].name.clone();
        let lost = current.lost.drain(..).map(name).collect();
        Ended { lost, tally: std::mem::take(&mut current.tally) }
    }

    /// Returns true if the running call can be undone as a whole.
    pub(super) fn can_be_undone(&self) -> bool {
        !self.current().loses
    }

    /// Marks the running call for rollback as a whole, if a stop in it matches and every touched instance can be
    /// restored; returns true if so.
    pub(super) fn undoes(&self, because: impl Fn(&Stop) -> bool) -> bool {
        let mut current = self.current();
        current.tally.undone = !current.loses && current.tally.stops.iter().any(because);
        current.tally.undone
    }

    pub(super) fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
