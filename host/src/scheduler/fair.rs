//! Fair scheduling: grants permits to the waiting calls of tenants, in proportion to the tenants' shares.
//!
//! A tenant's usage is the processor's time that its calls have used with permits, divided by its share. The next
//! permit goes to the waiting tenant with the least usage, and within a tenant to the call that has waited longest.
//! So a tenant's part does not depend on its number of calls: with equal shares, one spinning call gets as much as a
//! thousand. (This is stride scheduling, with the time really used in place of turns.)
//!
//! A call that begins needs no permit, and its running time is not known yet. While a tenant has calls in the lane,
//! as many others of it may begin at once as there are permits that it does not have, and at least one. Without this
//! bound, a hundred calls that begin together and spin until their first tick would keep everybody else waiting.
//! Calls of sessions whose last call was short go first.
//!
//! # What must always hold
//!
//! * A permit is free, held or promised; none is ever lost, and none is free while a call waits.
//! * No tenant saves up: one that was away, or had too few calls to use its share, comes back with one turn of credit
//!   at most. No tenant is in debt for long: a turn counts for [`LONGEST`] at most.

use super::clock::TICK;
use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};
use tokio::sync::oneshot;

/// The longest time that one turn is charged: what takes so long is not the guest, which every tick stops.
const LONGEST: Duration = Duration::from_millis(50);
/// The most credit of a tenant that comes back, in nanoseconds: one turn at a share of 1.
const BEHIND: u64 = TICK.as_nanos() as u64;

/// The permits and the calls that wait for them. Each operation takes logarithmic time in the number of waiters.
#[derive(Debug)]
pub(super) struct Fair {
    /// All permits.
    permits: usize,
    /// Permits that nobody has.
    free: usize,
    /// Calls that wait for a place to begin.
    beginning: usize,
    tenants: Vec<TenantTurns>,
    /// The tenants that wait, ordered by usage.
    order: BTreeSet<(u64, usize)>,
    /// The virtual time: the usage of the tenant last given a permit; never decreases.
    now: u64,
    /// The number of the next waiter.
    next: u64,
}

/// A tenant's usage, permits and waiting calls.
#[derive(Debug)]
struct TenantTurns {
    share: u64,
    /// The usage: nanoseconds of the processor in the tenant's turns, divided by its share.
    used: u64,
    /// The calls that wait for a permit, in order of arrival, each with the channel that promises one.
    waiting: BTreeMap<u64, oneshot::Sender<()>>,
    /// Permits held or promised.
    has: usize,
    /// Places to begin, held or promised.
    began: usize,
    /// The calls that wait for a place to begin, as above; those of sessions without an earlier call come last.
    beginning: BTreeMap<(bool, u64), oneshot::Sender<()>>,
}

/// The decision about a call that wants to begin.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Begins {
    /// Begin without a place: the lane has no call of this tenant.
    Freely,
    /// Begin with a place, to be given back.
    InPlace,
    /// Wait: no place is free.
    Not,
}

/// A permit or place that a waiting call has yet to be told of. Tell it outside of locks, since it wakes a task.
#[must_use]
#[derive(Debug)]
pub(super) struct Promise(oneshot::Sender<()>);

impl Promise {
    pub(super) fn tell(self) {
        // Whoever has gone away meanwhile gives the permit back, when it leaves.
        let _ = self.0.send(());
    }
}

impl Fair {
    pub(super) fn new(permits: usize, shares: impl IntoIterator<Item = u32>) -> Self {
        let tenant = |share| TenantTurns {
            share: u64::from(share),
            used: 0,
            waiting: BTreeMap::new(),
            has: 0,
            began: 0,
            beginning: BTreeMap::new(),
        };
        let tenants = shares.into_iter().map(tenant).collect();
        Self { permits, free: permits, beginning: 0, tenants, order: BTreeSet::new(), now: 0, next: 0 }
    }

    /// Returns true if a permit is taken, or a call waits to begin.
    pub(super) fn is_busy(&self) -> bool {
        self.free < self.permits || self.beginning > 0
    }

    /// Decides whether a call of a tenant may begin, and takes a place for it if it needs one.
    pub(super) fn begin(&mut self, number: usize) -> Begins {
        let places = self.places(number);
        let tenant = &mut self.tenants[number];
        // As long as any wait, none goes past them.
        let waited_for = !tenant.beginning.is_empty();
        if tenant.has == 0 && tenant.waiting.is_empty() && !waited_for {
            return Begins::Freely;
        }
        if waited_for || tenant.began >= places {
            return Begins::Not;
        }
        tenant.began += 1;
        Begins::InPlace
    }

    /// Queues a call for a place to begin, to be promised through `tell`. Returns its number.
    pub(super) fn wait_to_begin(&mut self, tenant: usize, unknown: bool, tell: oneshot::Sender<()>) -> (bool, u64) {
        let number = (unknown, self.next);
        self.next += 1;
        self.beginning += 1;
        self.tenants[tenant].beginning.insert(number, tell);
        number
    }

    /// Removes a call that waits for a place. Returns `false` if it was already promised one.
    #[must_use]
    pub(super) fn leave_beginning(&mut self, tenant: usize, number: (bool, u64)) -> bool {
        let waited = self.tenants[tenant].beginning.remove(&number).is_some();
        self.beginning -= usize::from(waited);
        waited
    }

    /// Takes back a place to begin.
    pub(super) fn began(&mut self, tenant: usize) {
        self.tenants[tenant].began -= 1;
    }

    /// Promises a free place to begin to the tenant's first waiting call. To be called after each change.
    pub(super) fn promise_to_begin(&mut self, number: usize) -> Option<Promise> {
        let places = self.places(number);
        let tenant = &mut self.tenants[number];
        if tenant.began >= places {
            return None;
        }
        let (_, tell) = tenant.beginning.pop_first()?;
        tenant.began += 1;
        self.beginning -= 1;
        Some(Promise(tell))
    }

    /// The number of calls of a tenant that may begin at once.
    fn places(&self, tenant: usize) -> usize {
        self.permits.saturating_sub(self.tenants[tenant].has).max(1)
    }

    /// Queues a call of a tenant for a permit, to be promised through `tell`. Returns its number.
    pub(super) fn wait(&mut self, tenant: usize, tell: oneshot::Sender<()>) -> u64 {
        let least = self.now.saturating_sub(BEHIND);
        let number = self.next;
        self.next += 1;
        self.change(tenant, |tenant| {
            tenant.used = tenant.used.max(least);
            tenant.waiting.insert(number, tell);
        });
        number
    }

    /// Removes a call that waits for a permit. Returns `false` if it was already promised one.
    #[must_use]
    pub(super) fn leave(&mut self, tenant: usize, number: u64) -> bool {
        let mut waited = false;
        self.change(tenant, |tenant| waited = tenant.waiting.remove(&number).is_some());
        waited
    }

    /// Takes back a permit, and charges the tenant for the time that was used with it.
    pub(super) fn give_back(&mut self, tenant: usize, turn: Duration) {
        self.free += 1;
        let turn = turn.min(LONGEST).as_nanos() as u64;
        self.change(tenant, |tenant| {
            tenant.has -= 1;
            tenant.used += turn / tenant.share;
        });
    }

    /// Promises a free permit to the next waiting call, if there is one. To be called after each change.
    pub(super) fn promise(&mut self) -> Option<Promise> {
        let (used, tenant) = *self.order.first().filter(|_| self.free > 0)?;
        let mut first = None;
        self.change(tenant, |tenant| {
            tenant.has += 1;
            first = tenant.waiting.pop_first();
        });
        self.free -= 1;
        self.now = self.now.max(used);
        first.map(|(_, tell)| Promise(tell))
    }

    /// Permits that nobody has.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.free
    }

    /// Changes a tenant, and updates its place in the order.
    fn change(&mut self, number: usize, what: impl FnOnce(&mut TenantTurns)) {
        let tenant = &mut self.tenants[number];
        if !tenant.waiting.is_empty() {
            self.order.remove(&(tenant.used, number));
        }
        what(tenant);
        if !tenant.waiting.is_empty() {
            self.order.insert((tenant.used, number));
        }
    }
}

#[cfg(test)]
mod tests;
