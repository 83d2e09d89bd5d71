//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its caller's.
//! * An instance is taken out of its slot while it runs. If it ends well it is put back; whatever else happens, a crash,
//!   a limit, a caller who goes away, its slot becomes what it was before: a failed call never happened.
//! * A session is dropped only when nobody uses it, and that is looked at under the lock of the registry's shard. It is
//!   parked only when it is nobody's turn in it.
//! * A call has one deadline, from its arrival on: for its turn, a place among the live sessions, memory, the slow lane,
//!   and its run. What it has waited it cannot run.
//! * Nothing outside of this folder knows which sessions exist.
//!
//! # Layout
//!
//! * [`Session`] and [`Slot`], here. `call`: one call from outside, and one of a function. `undo`: what a failed one
//!   leaves, which is nothing.
//! * [`Registry`]: which sessions exist; [`Handle`] keeps one in use. `sweep`: drops idle ones. `park`: puts idle ones
//!   to sleep. `pressure`: who needs room, and what was freed for them; `evict`: makes it.
//! * `aside`: where a sibling's call runs. `pace`: how fast both work. [`Policy`]: how the configuration wants it. `account`: what a session has used. `turn`:
//!   the queue. `to_the_end`: a call whose caller went away, and that cannot be undone.

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

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The functions.
    pub catalog: Catalog,
    /// The limits of the host.
    pub limits: Limits,
    /// The tenants, in the configuration's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// What is done with sessions.
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
    /// What the user may take of memory.
    memory: Arc<Memory>,
    /// The room for logs of what the session's calls write to.
    undo_room: Arc<UndoRoom>,
    /// The descriptors that the user's guests may hold.
    descriptors: Descriptors,
    /// What the user has left over time; none, if there is no limit.
    budget: Option<Box<Budget>>,
    /// Fuel that the call that runs was charged for already.
    charged: AtomicI64,
    /// One for each function of the catalog.
    slots: Box<[Mutex<Slot>]>,
    /// The call that runs, or the last one.
    current: Mutex<Current>,
    aside: Aside,
    /// What is left of its last call is being done.
    is_tidied: AtomicBool,
    /// Bytes that the call that runs may still log.
    log_budget: Arc<AtomicUsize>,
    queue: Queue,
    permit: Arc<Permit>,
    account: Account,
    uses: Uses,
    /// What it takes of the host's memory itself.
    _charge: Charge,
}

/// Where an instance is between calls.
#[derive(Default)]
pub(crate) enum Slot {
    /// There is none: it was not needed yet, or it was stopped and could not be undone.
    #[default]
    Empty,
    Idle(Box<Instance>),
    /// Its last call has failed: its memories are as they were before that, and it needs a new store.
    Undone(Box<Undone>),
    /// There is none, but what it takes to make it.
    Parked(Snapshot),
    /// A call has it.
    Running,
}

/// What a call does with its session's instances, by their functions' positions.
#[derive(Default)]
struct Current {
    /// The functions that have run, and what they held before.
    undo: Vec<Entry>,
    /// What was kept to undo functions that need not be undone any more, of which there is much.
    leftovers: Vec<Saved>,
    /// There is something to do before its next call.
    untidy: bool,
    /// One of those that have run or are running would lose what it holds if it were stopped.
    loses: bool,
    /// Those that have lost what they held.
    lost: Vec<usize>,
    /// The stops of functions in it.
    stops: Vec<Stop>,
    /// It was undone, though no function that was called from outside was stopped.
    undone: bool,
    /// Fuel of functions whose caller went away while they ran.
    abandoned: u64,
    /// Fuel for what the host did for the call, and that is not taken off what the call may use.
    upkeep: u64,
    /// How long it took to make instances.
    made: Duration,
    /// Functions that were run.
    functions: u32,
}

/// How a call from outside has ended.
struct Ended {
    /// The functions that have lost what they held before it.
    lost: Vec<Arc<str>>,
    /// The stops of functions in it.
    stops: Vec<Stop>,
    /// It was undone because of that.
    undone: bool,
    /// Fuel of what did not end, as its caller went away.
    abandoned: u64,
    /// Fuel for what the host did for the call, and that is not taken off what the call may use.
    upkeep: u64,
    /// How long it took to make instances.
    made: Duration,
    /// Functions that were run.
    functions: u32,
}

/// What is there of a session.
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

    /// Whose it is.
    pub fn user(&self) -> User {
        self.user
    }

    /// What it has used.
    pub fn account(&self) -> &Account {
        &self.account
    }

    /// Where the calls of siblings run.
    pub(crate) fn aside(&self) -> &Aside {
        &self.aside
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    /// Whose user it is.
    pub fn tenant(&self) -> &Arc<Tenant> {
        &self.tenant
    }

    pub(crate) fn limits(&self) -> &Limits {
        self.tenant.limits()
    }

    /// What the instances of a function begin with, if they can be made again from their memories.
    pub(crate) fn image(&self, position: usize) -> Option<&Image> {
        self.tenant.image(position)
    }

    /// What the user may take of memory.
    pub(crate) fn memory(&self) -> &Arc<Memory> {
        &self.memory
    }

    /// The room for logs of what the session's calls write to.
    pub(crate) fn undo_room(&self) -> &Arc<UndoRoom> {
        &self.undo_room
    }

    /// The descriptors that the user's guests may hold.
    pub(crate) fn descriptors(&self) -> &Descriptors {
        &self.descriptors
    }

    /// A request is let in, if the user's rates allow that.
    fn admit(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.admit(Level::User))
    }

    /// There is fuel left for a call that was let in, and has waited since: others may have used it meanwhile.
    fn check_fuel(&self) -> Result<(), Spent> {
        self.budget.as_ref().map_or(Ok(()), |budget| budget.check_fuel(Level::User))?;
        self.tenant.check_fuel()
    }

    /// Whether the user has used more than there was.
    fn in_debt(&self) -> bool {
        self.budget.as_ref().is_some_and(|budget| budget.in_debt())
    }

    /// Whether the user has all that there may be: a new session would have no more.
    fn has_full_budget(&self) -> bool {
        self.budget.as_ref().is_none_or(|budget| budget.is_full())
    }

    /// Units of fuel that the call that runs was charged for so far.
    pub(crate) fn charged(&self) -> u64 {
        u64::try_from(self.charged.load(Ordering::Relaxed)).unwrap_or_default()
    }

    /// The call that runs has used fuel. It is charged before the call's end, so that others are not let in for what is
    /// spent already.
    pub(crate) fn charge(&self, units: u64) {
        let units = i64::try_from(units).unwrap_or(i64::MAX);
        self.charged.fetch_add(units, Ordering::Relaxed);
        self.use_fuel(units);
    }

    /// A call has ended that has used so much in all.
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

    /// What is there of it now.
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

    /// Nothing panics while it is held, and a slot is whole at any time.
    fn slot(&self, position: usize) -> MutexGuard<'_, Slot> {
        self.slots[position].lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn log_budget(&self) -> &Arc<AtomicUsize> {
        &self.log_budget
    }

    /// A call from outside begins.
    fn begin(&self) {
        self.log_budget.store(self.limits().log_size, Ordering::Relaxed);
        // What was kept meanwhile, to undo the last one, is no matter of this one.
        self.undo_room.end();
    }

    /// A call from outside has ended. What was kept to undo it goes, or is left for `tidy`.
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

    /// Whether the call that runs can be undone as a whole.
    fn can_be_undone(&self) -> bool {
        !self.current().loses
    }

    /// Notes that the call that runs is undone as a whole if a stop in it is such a one, and if it can be.
    fn undoes(&self, because: impl Fn(&Stop) -> bool) -> bool {
        let mut current = self.current();
        current.undone = !current.loses && current.stops.iter().any(because);
        current.undone
    }

    /// The host has done something for the call that runs: it is on its bill, and is not taken off what it may use.
    pub(crate) fn upkeep(&self, units: u64) {
        self.current().upkeep += units;
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
