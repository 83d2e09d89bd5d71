//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its
//!   caller's.
//! * An instance is taken out of its slot while it runs. If it ends well it is put back; whatever else happens, a
//!   crash, a limit, a caller who goes away, its slot becomes what it was before: a failed call never happened.
//! * A session is dropped only when nobody uses it, which is checked under the lock of the registry's shard. A
//!   session is parked only while no call has its turn.
//! * A call has one deadline, from its arrival on: for its turn, a place among the live sessions, memory, the slow
//!   lane, and its run. Time spent waiting is not left for running.
//! * Nothing outside of this folder knows which sessions exist.
//!
//! # Layout
//!
//! * [`Session`] and [`Slot`], here. `call`: a call from outside, and a call of one function. `undo`: rollback of a
//!   failed call.
//! * [`Registry`]: the sessions that exist; [`Handle`] keeps one in use. `sweep`: drops idle ones. `park`: replaces
//!   idle ones' instances by snapshots. `pressure`: wishes for room, and the room freed for them; `evict`: makes
//!   room.
//! * `aside`: sibling calls, run off their callers' stacks. `pace`: the speed of background work. [`Policy`]: the
//!   `sessions` settings. `account`: a call's bill, and a session's totals. `turn`: the queue. `to_the_end`: a
//!   call whose caller went away, and that cannot be undone.

mod account;
mod aside;
mod call;
mod evict;
mod pace;
mod park;
mod policy;
mod pressure;
mod registry;
mod sweep;
mod tenant;
mod tidy;
mod to_the_end;
mod turn;
mod undo;

pub(crate) use account::Unbilled;
pub use account::{Account, Bill};
use aside::Aside;
use call::run;
pub use call::{Answer, Failure};
pub(crate) use park::park;
pub use policy::Policy;
pub(crate) use pressure::{Pressure, Room, Scope};
pub(crate) use registry::NotTaken;
pub use registry::{Handle, Registry, Seen, TooManySessions, Visit, Walk};
pub(crate) use sweep::sweep;
pub use tenant::Tenant;
pub(crate) use tidy::Tidying;
pub(crate) use to_the_end::to_the_end;
pub use turn::Refusal;
use turn::Turn;
pub(crate) use turn::calls_of;
pub(crate) use undo::Frame;

use crate::{
    function::Catalog,
    identity::User,
    instance::{Instance, Stop},
    limits::{
        Budget, Descriptors, Lane, Level, Limits, Permit, Spent,
        memory::{self, Charge, Memory, UndoRoom},
    },
    state::{Image, Saved, Snapshot, Undone},
};
use registry::Uses;
use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicI64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use turn::Queue;
use undo::Entry;

/// The state shared by all sessions.
#[derive(Debug)]
pub struct Shared {
    /// The functions.
    pub catalog: Catalog,
    /// The limits of the host.
    pub limits: Limits,
    /// The tenants, in the configuration's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// The `sessions` settings: rollback, parking and eviction.
    pub policy: Policy,
    pub(crate) lane: Lane,
    pub(crate) memory: Arc<Memory>,
    pub(crate) descriptors: Descriptors,
    pub(crate) pressure: Pressure,
    pub(crate) tidying: Tidying,
}

impl Shared {
    /// A user's tenant.
    pub fn tenant(&self, user: User) -> &Arc<Tenant> {
        &self.tenants[usize::from(user.tenant())]
    }
}

/// All that is live of one user.
pub struct Session {
    user: User,
    shared: Arc<Shared>,
    tenant: Arc<Tenant>,
    /// The user's memory budget.
    memory: Arc<Memory>,
    /// The memory budget of the session's undo logs.
    undo_room: Arc<UndoRoom>,
    /// The descriptors that the user's guests may hold.
    descriptors: Descriptors,
    /// The user's budget over time; `None` if there is no limit.
    budget: Option<Box<Budget>>,
    /// Units of fuel charged for the running call so far.
    charged: AtomicI64,
    /// One for each function of the catalog.
    slots: Box<[Mutex<Slot>]>,
    /// The running call, or the last one.
    current: Mutex<Current>,
    aside: Aside,
    /// True while work left from the last call is being done: see `tidy`.
    is_tidied: AtomicBool,
    /// Bytes that the running call may still log.
    log_budget: Arc<AtomicUsize>,
    queue: Queue,
    permit: Arc<Permit>,
    account: Account,
    uses: Uses,
    /// The memory of the session itself, without its instances.
    _charge: Charge,
}

/// The state of one function's instance.
#[derive(Default)]
pub(crate) enum Slot {
    /// No instance: none was needed yet, or it was stopped and could not be undone.
    #[default]
    Empty,
    Idle(Box<Instance>),
    /// The last call failed: the memories are as before that call, and need a new store.
    Undone(Box<Undone>),
    /// No instance, but the snapshot to restore it from.
    Parked(Snapshot),
    /// Taken by a call.
    Running,
}

/// The running call's effects on its session's instances, by their functions' positions.
#[derive(Default)]
struct Current {
    /// The functions that have run, each with its state before.
    undo: Vec<Entry>,
    /// Large undo data that is no longer needed, to be freed by `tidy`.
    leftovers: Vec<Saved>,
    /// True if `tidy` has work to do before the session's next call.
    untidy: bool,
    /// True if a function that has run or is running would lose its state if it were stopped.
    loses: bool,
    /// The functions that have lost their state.
    lost: Vec<usize>,
    /// The stops of functions during the call.
    stops: Vec<Stop>,
    /// True if the call was undone although the function called from outside was not stopped.
    undone: bool,
    /// Units of fuel of functions whose caller went away while they ran.
    abandoned: u64,
    /// Units of fuel for the host's work on the call: billed, but not taken off the call's allowance.
    upkeep: u64,
    /// The time spent making instances.
    made: Duration,
    /// Functions that were run.
    functions: u32,
}

/// The end of a call from outside.
struct Ended {
    /// The functions that have lost the state they had before the call.
    lost: Vec<Arc<str>>,
    /// The stops of functions during the call.
    stops: Vec<Stop>,
    /// True if the call was undone because of these stops.
    undone: bool,
    /// Units of fuel of functions that did not end, since the caller went away.
    abandoned: u64,
    /// Units of fuel for the host's work on the call: billed, but not taken off the call's allowance.
    upkeep: u64,
    /// The time spent making instances.
    made: Duration,
    /// Functions that were run.
    functions: u32,
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
            aside: Aside::default(),
            is_tidied: AtomicBool::new(false),
            log_budget: Arc::new(AtomicUsize::new(tenant.limits().log_size)),
            queue: Queue::new(),
            permit: Arc::new(Permit::new(shared.lane.clone(), user.tenant())),
            account: Account::new(),
            uses: Uses::default(),
            _charge: memory.charge(memory::SESSION + size_of_val(&*slots)),
            undo_room: UndoRoom::new(
                &memory,
                shared.catalog.functions().first().map(|function| function.guest.engine()),
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

    /// The relay for sibling calls: see `aside`.
    pub(crate) fn aside(&self) -> &Aside {
        &self.aside
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

    /// The descriptors that the user's guests may hold.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// Admits a request, if the user's rates allow it.
    fn admit(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::User))
    }

    /// Checks that fuel is left for an admitted call: others may have used it up while the call waited.
    fn check_fuel(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check_fuel(Level::User))?;
        self.tenant.check_fuel()
    }

    /// Returns true if the user has used more fuel than there was.
    fn in_debt(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.in_debt())
    }

    /// Returns true if the user's budget is full, so that a new session would have no more.
    fn has_full_budget(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.is_full())
    }

    /// Units of fuel charged for the running call so far.
    pub(crate) fn charged(&self) -> u64 {
        u64::try_from(self.charged.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// Charges fuel to the running call before its end, so that no other call is admitted on fuel that is already
    /// spent.
    pub(crate) fn charge(&self, units: u64) {
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        self.charged.fetch_add(units, Ordering::Relaxed);
        self.use_fuel(units);
    }

    /// Settles the charges of a call that has ended, given its total fuel.
    fn settle(&self, fuel: u64) {
        let charged = self.charged.swap(0, Ordering::Relaxed);
        self.use_fuel(i64::try_from(fuel).unwrap_or(i64::MAX) - charged);
    }

    fn use_fuel(&self, units: i64) {
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
    fn slot(&self, position: usize) -> MutexGuard<'_, Slot> {
        self.slots[position].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log_budget(&self) -> &Arc<AtomicUsize> {
        &self.log_budget
    }

    /// Begins a call from outside.
    fn begin(&self) {
        self.log_budget.store(self.limits().log_size, Ordering::Relaxed);
        // Room reserved meanwhile, to undo the last call, does not count for this one.
        self.undo_room.end();
    }

    /// Ends a call from outside. Its undo data is freed or, if large, left for `tidy`.
    fn end(&self) -> Ended {
        let mut current = self.current();
        let Current { undo, leftovers, untidy, .. } = &mut *current;
        leftovers.extend(undo.drain(..).filter_map(undo::leftover));
        *untidy |= !leftovers.is_empty();
        self.undo_room.end();
        current.loses = false;
        let name = |position: usize| self.catalog().functions()[position].name.clone();
        let lost = current.lost.drain(..).map(name).collect();
        let stops = std::mem::take(&mut current.stops);
        let (undone, abandoned) = (std::mem::take(&mut current.undone), std::mem::take(&mut current.abandoned));
        let (made, functions) = (std::mem::take(&mut current.made), std::mem::take(&mut current.functions));
        let upkeep = std::mem::take(&mut current.upkeep);
        Ended { lost, stops, undone, abandoned, made, functions, upkeep }
    }

    /// Returns true if the running call can be undone as a whole.
    fn can_be_undone(&self) -> bool {
        !self.current().loses
    }

    /// Marks the running call for rollback as a whole, if a stop in it matches and every touched instance can be
    /// restored; returns true if so.
    fn undoes(&self, because: impl Fn(&Stop) -> bool) -> bool {
        let mut current = self.current();
        current.undone = !current.loses && current.stops.iter().any(because);
        current.undone
    }

    /// Bills the running call for work of the host, without taking it off the call's allowance.
    pub(crate) fn upkeep(&self, units: u64) {
        self.current().upkeep += units;
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
