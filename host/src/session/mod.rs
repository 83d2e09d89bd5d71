//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its caller's.
//! * An instance is taken out of its slot while it runs, and put back only if it ended well. Whatever happens in
//!   between, a crash or a limit, leaves the slot empty, and the next call makes a new instance.
//! * A session is dropped only when nobody uses it, and that is looked at under the lock of the registry's shard.
//! * Nothing outside of this folder knows which sessions exist.
//!
//! # Layout
//!
//! * [`Session`], [`Slot`] and [`Taken`], here. `call`: one call from outside, and one of a function.
//! * [`Registry`]: which sessions exist; [`Handle`] keeps one in use. `sweep`: drops idle ones.
//! * `account`: what a session has used. `turn`: the queue. `to_the_end`: a call whose caller went away.

mod account;
mod call;
mod registry;
mod sweep;
mod to_the_end;
mod turn;

pub use account::{Account, Bill};
pub(crate) use call::run;
pub use call::{Answer, Failure};
pub use registry::{Handle, Registry, Seen, TooManySessions};
pub(crate) use sweep::sweep;
pub(crate) use to_the_end::to_the_end;
pub use turn::Refusal;
use turn::Turn;

use crate::{
    function::Catalog,
    identity::User,
    instance::{Instance, Stop},
    limits::{Lane, Limits, Permit},
};
use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};
use turn::Queue;

/// What all sessions share.
#[derive(Debug)]
pub struct Shared {
    /// The functions.
    pub catalog: Catalog,
    /// The limits.
    pub limits: Limits,
    pub(crate) lane: Lane,
}

/// All that is live of one user.
pub struct Session {
    user: User,
    shared: Arc<Shared>,
    /// One for each function of the catalog.
    slots: Box<[Mutex<Slot>]>,
    /// The call that runs, or the last one.
    current: Mutex<Current>,
    /// Bytes that the call that runs may still log.
    log_budget: Arc<AtomicUsize>,
    queue: Queue,
    permit: Arc<Permit>,
    account: Account,
}

/// Where an instance is between calls.
#[derive(Default)]
pub(crate) enum Slot {
    /// There is none: it was not needed yet, or it was stopped.
    #[default]
    Empty,
    Idle(Box<Instance>),
    /// A call has it.
    Running,
}

/// What a call does with its session's instances, by their functions' positions.
#[derive(Default)]
struct Current {
    /// Those that it has used and put back, each with the tick at which it last did: no more than there are functions,
    /// however often they are called.
    touched: Vec<(usize, u64)>,
    /// Counts what was put back.
    ticks: u64,
    /// Those that are there because it has made them: nothing is lost with one of these.
    made: Vec<usize>,
    /// Those that were there before it, and are gone.
    lost: Vec<usize>,
    /// The last stop of a function in it.
    stop: Option<Stop>,
}

/// An instance's slot, taken for a call. Dropping it leaves the slot empty.
pub(crate) struct Taken {
    session: Arc<Session>,
    position: usize,
    instance: Option<Box<Instance>>,
    put_back: bool,
}

impl Session {
    pub(crate) fn new(user: User, shared: Arc<Shared>) -> Arc<Self> {
        let slots = shared.catalog.functions().iter().map(|_| Mutex::default()).collect();
        let permit = Arc::new(Permit::new(shared.lane.clone()));
        let (queue, account) = (Queue::new(), Account::new());
        let (current, log_budget) = (Mutex::default(), Arc::new(AtomicUsize::new(shared.limits.log_size)));
        Arc::new(Self { user, shared, slots, current, log_budget, queue, permit, account })
    }

    /// Whose it is.
    pub fn user(&self) -> User {
        self.user
    }

    /// What it has used.
    pub fn account(&self) -> &Account {
        &self.account
    }

    pub(crate) fn catalog(&self) -> &Catalog {
        &self.shared.catalog
    }

    pub(crate) fn limits(&self) -> &Limits {
        &self.shared.limits
    }

    pub(crate) fn permit(&self) -> &Arc<Permit> {
        &self.permit
    }

    /// Takes a function's slot; `None` if it is taken already.
    pub(crate) fn take(self: &Arc<Self>, position: usize) -> Option<Taken> {
        let mut slot = self.slot(position);
        let instance = match &*slot {
            Slot::Running => return None,
            Slot::Empty | Slot::Idle(_) => match std::mem::replace(&mut *slot, Slot::Running) {
                Slot::Idle(instance) => Some(instance),
                _ => None,
            },
        };
        drop(slot);
        Some(Taken { session: self.clone(), position, instance, put_back: false })
    }

    /// Instances that are there now, and the bytes of their memories. Those that run are not counted.
    pub fn instances(&self) -> (usize, usize) {
        let idle = (0..self.slots.len()).filter_map(|position| match &*self.slot(position) {
            Slot::Idle(instance) => Some(instance.memory()),
            _ => None,
        });
        idle.fold((0, 0), |(count, bytes), memory| (count + 1, bytes + memory))
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
        let mut current = self.current();
        current.touched.clear();
        current.made.clear();
        current.lost.clear();
        current.stop = None;
        self.log_budget.store(self.limits().log_size, Ordering::Relaxed);
    }

    /// A call from outside has ended: the functions that lost what they had before it, and the last stop in it.
    fn end(&self) -> (Vec<Arc<str>>, Option<Stop>) {
        let mut current = self.current();
        let stop = current.stop.take();
        let name = |position: &usize| self.catalog().functions()[*position].name.clone();
        (current.lost.iter().map(name).collect(), stop)
    }

    /// A function was stopped: its instance is gone, and so are those that it has used, which is since this tick.
    fn lose(&self, position: usize, since: u64, stop: &Stop) {
        let mut touched: Vec<usize> = {
            let mut current = self.current();
            current.stop = Some(stop.clone());
            current.touched.extract_if(.., |(_, at)| *at > since).map(|(touched, _)| touched).collect()
        };
        touched.retain(|touched| {
            // Dropped outside of the slot's lock.
            let mut slot = self.slot(*touched);
            let idle = matches!(*slot, Slot::Idle(_)).then(|| std::mem::take(&mut *slot));
            drop(slot);
            idle.is_some()
        });
        touched.insert(0, position);
        let mut current = self.current();
        for gone in touched {
            match current.made.iter().position(|made| *made == gone) {
                Some(index) => drop(current.made.swap_remove(index)),
                None if !current.lost.contains(&gone) => current.lost.push(gone),
                None => {}
            }
        }
    }

    fn current(&self) -> MutexGuard<'_, Current> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Puts the instance back: it ended well.
    fn put_back(mut self, instance: Box<Instance>) {
        self.put_back = true;
        *self.session.slot(self.position) = Slot::Idle(instance);
        let mut current = self.session.current();
        current.ticks += 1;
        let now = current.ticks;
        match current.touched.iter_mut().find(|(touched, _)| *touched == self.position) {
            Some((_, at)) => *at = now,
            None => current.touched.push((self.position, now)),
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        if !self.put_back {
            *self.session.slot(self.position) = Slot::Empty;
        }
    }
}
