//! 3. Sessions: all that is live of one user.
//!
//! # What must always hold
//!
//! * A user's calls run one after the other, in the order in which they came; a sibling call runs inside its caller's.
//! * An instance is taken out of its slot while it runs, and put back only if it ended well. Whatever happens in
//!   between, a crash, a limit, a caller who went away, leaves the slot empty, and the next call makes a new instance.
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
pub use call::{Answer, Failure};
pub(crate) use call::{Ran, run};
pub use registry::{Handle, Registry, Seen, TooManySessions};
pub(crate) use sweep::sweep;
pub(crate) use to_the_end::to_the_end;
pub use turn::Refusal;

use crate::{
    function::Catalog,
    identity::User,
    instance::Instance,
    limits::{Lane, Limits, Permit},
};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
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
    /// The instances that the call that runs has used and put back.
    touched: Mutex<Vec<Touched>>,
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

/// An instance that a call has used.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Touched {
    position: usize,
    /// It was made by this very call: nothing is lost with it.
    new: bool,
}

/// An instance's slot, taken for a call. Dropping it leaves the slot empty.
pub(crate) struct Taken {
    session: Arc<Session>,
    position: usize,
    instance: Option<Box<Instance>>,
    new: bool,
}

impl Session {
    pub(crate) fn new(user: User, shared: Arc<Shared>) -> Arc<Self> {
        let slots = shared.catalog.functions().iter().map(|_| Mutex::default()).collect();
        let permit = Arc::new(Permit::new(shared.lane.clone()));
        let (touched, queue, account) = (Mutex::default(), Queue::new(), Account::new());
        Arc::new(Self { user, shared, slots, touched, queue, permit, account })
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
        Some(Taken { session: self.clone(), position, new: instance.is_none(), instance })
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

    /// Drops the instances that the call that runs has used since it had used so many. Gives the names of the functions
    /// that had state before the call.
    fn drop_touched(&self, since: usize) -> Vec<Arc<str>> {
        let mut touched: Vec<_> = self.touched().drain(since..).collect();
        // Of one that was used several times, the first use counts: the others found what the call itself had made.
        touched.sort_unstable_by_key(|it| (it.position, !it.new));
        touched.dedup_by_key(|it| it.position);
        let dropped = touched.into_iter().filter(|it| {
            let mut slot = self.slot(it.position);
            let idle = matches!(*slot, Slot::Idle(_));
            if idle {
                *slot = Slot::Empty;
            }
            idle && !it.new
        });
        dropped.map(|it| self.catalog().functions()[it.position].name.clone()).collect()
    }

    fn touched(&self) -> MutexGuard<'_, Vec<Touched>> {
        self.touched.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    /// Puts the instance back: it ended well.
    fn put_back(mut self) {
        if let Some(instance) = self.instance.take() {
            *self.session.slot(self.position) = Slot::Idle(instance);
            self.session.touched().push(Touched { position: self.position, new: self.new });
        }
    }
}

impl Drop for Taken {
    fn drop(&mut self) {
        let mut slot = self.session.slot(self.position);
        if matches!(*slot, Slot::Running) {
            *slot = Slot::Empty;
        }
    }
}
