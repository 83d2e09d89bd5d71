//! Room: memory, or places among the live sessions, for those who have none.
//!
//! Whoever needs room wishes for it in the scope that is full. The scope has an evictor of its own (see `evictor`),
//! which parks its idle sessions, and the wisher is told what was freed in that scope since it asked. While something
//! was, and its deadline lasts, it tries again.
//!
//! | what is full | scope | who makes room | if nobody can |
//! |---|---|---|---|
//! | `limits.memory`, or the engine's places | the host | the longest idle of all | `host_full` |
//! | `limits.max_sessions` | the host | the longest idle of all; places go to whoever has waited longest | `too_many_sessions` |
//! | `limits.tenant.memory` | the tenant | the longest idle of the tenant | `tenant_full` |
//! | `limits.user.memory` | none | nobody: the user's one session is the one that needs it | `memory_exhausted` at once |
//! | any memory, and more is needed than it has | none | nobody | as above, at once |
//! | any, and nothing can be parked | as above | the longest idle are dropped, where `sessions.drop_longest_idle` says so | as above |
//! | any, while the host does not serve | as above | nobody | as above, at once |
//!
//! # What must always hold
//!
//! * Room freed in one scope is not reported to the wishers of another: they neither go on nor give up because of it.
//!   Room that a tenant's session leaves counts for the tenant, and for the host.
//! * Each wish is answered by a round that began after it. Wishes are numbered under a lock, and an evictor takes all
//!   of them at once under the same lock: a wish is among those that it takes, or was made after, and then its notice
//!   comes after, too, which [`Notify`] keeps for an evictor that does not wait. So no wish is lost, however many
//!   notices become one.
//! * Nobody sleeps past an answer: the number answered last only grows, and a wisher waits until it reaches the
//!   wisher's own number, whenever the wisher looks.
//! * All room that is freed counts, whoever asked for it: also that of a session which was parked only in part.

use crate::limits::{
    Level,
    memory::{Charge, Full},
};
use std::{
    ops::{AddAssign, Sub},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, timeout_at},
};

/// The sessions that can make room for each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Scope {
    /// All of them.
    Host,
    /// A tenant's, by its place in the configuration.
    Tenant(u16),
}

impl Scope {
    /// The scope in which the room can be made when a level is full; `None` if nobody can make it.
    pub(crate) fn of(full: Full, tenant: Option<u16>, need: Room) -> Option<Self> {
        match full.level {
            // More than the limit can never be freed.
            _ if need.bytes > full.limit => None,
            Level::Host => Some(Self::Host),
            Level::Tenant => tenant.map(Self::Tenant),
            Level::User => None,
        }
    }

    /// The tenant of the scope's sessions; `None` for the host.
    pub(in crate::session) fn tenant(self) -> Option<u16> {
        match self {
            Self::Host => None,
            Self::Tenant(tenant) => Some(tenant),
        }
    }
}

/// Room that is needed, or that was freed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    /// Sessions: to be parked or dropped, or that were. A live one leaves its place.
    pub(crate) sessions: usize,
    /// Bytes of memory.
    pub(crate) bytes: usize,
}

impl Room {
    /// A place among the live sessions.
    pub(crate) const PLACE: Self = Self { sessions: 1, bytes: 0 };

    pub(crate) fn bytes(bytes: usize) -> Self {
        Self { sessions: 0, bytes }
    }

    pub(crate) fn is_none(self) -> bool {
        self == Self::default()
    }

    /// Returns true if this is as much as is needed.
    pub(in crate::session) fn covers(self, need: Self) -> bool {
        self.sessions >= need.sessions && self.bytes >= need.bytes
    }
}

impl AddAssign for Room {
    fn add_assign(&mut self, other: Self) {
        self.sessions = self.sessions.saturating_add(other.sessions);
        self.bytes = self.bytes.saturating_add(other.bytes);
    }
}

impl Sub for Room {
    type Output = Self;

    /// The room freed between two readings; a count may have wrapped around meanwhile.
    fn sub(self, earlier: Self) -> Self {
        Self { sessions: self.sessions.wrapping_sub(earlier.sessions), bytes: self.bytes.wrapping_sub(earlier.bytes) }
    }
}

/// The wishes for room, and what was freed, of each scope.
#[derive(Debug)]
pub(crate) struct Pressure {
    /// The host's, and then those of the tenants.
    ledgers: Box<[Ledger]>,
    /// Sets of evictors: one, while the host serves.
    evicting: AtomicUsize,
    /// Sessions parked since the start.
    parked: AtomicU64,
    /// Instances restored from snapshots since the start.
    woken: AtomicU64,
    /// Sessions dropped for want of room since the start.
    dropped: AtomicU64,
}

/// The wishes for room, and what was freed, of one scope.
#[derive(Debug)]
struct Ledger {
    wishes: Mutex<Wishes>,
    wished: Notify,
    /// The newest wish that was answered.
    answered: watch::Sender<u64>,
    /// All that was freed since the start.
    freed: [AtomicUsize; 2],
}

/// Wishes that no evictor has taken yet.
#[derive(Debug, Default)]
struct Wishes {
    /// The number of the newest one.
    newest: u64,
    /// Room that they need together.
    need: Room,
}

impl Ledger {
    fn new() -> Self {
        Self {
            wishes: Mutex::default(),
            wished: Notify::new(),
            answered: watch::Sender::new(0),
            freed: [AtomicUsize::new(0), AtomicUsize::new(0)],
        }
    }

    fn wishes(&self) -> MutexGuard<'_, Wishes> {
        self.wishes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a wish; returns its number.
    fn wish(&self, need: Room) -> u64 {
        let number = {
            let mut wishes = self.wishes();
            wishes.newest += 1;
            wishes.need += need;
            wishes.newest
        };
        self.wished.notify_one();
        number
    }

    fn freed(&self) -> Room {
        let [sessions, bytes] = &self.freed;
        Room { sessions: sessions.load(Ordering::Acquire), bytes: bytes.load(Ordering::Acquire) }
    }

    fn free(&self, room: Room) {
        let [sessions, bytes] = &self.freed;
        sessions.fetch_add(room.sessions, Ordering::AcqRel);
        bytes.fetch_add(room.bytes, Ordering::AcqRel);
    }
}

impl Pressure {
    /// Makes the ledgers of a host with so many tenants.
    pub(crate) fn new(tenants: usize) -> Arc<Self> {
        Arc::new(Self {
            ledgers: (0..=tenants).map(|_| Ledger::new()).collect(),
            evicting: AtomicUsize::new(0),
            parked: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        })
    }

    /// Requests room in a full scope, and waits for it until the deadline. Returns the room freed there meanwhile:
    /// if that is none, a retry is useless.
    ///
    /// Room that is freed is not kept for the wisher: whoever comes first takes it.
    pub(crate) async fn make_room(&self, scope: Scope, need: Room, deadline: Instant) -> Room {
        let Some(ledger) = self.ledger(scope) else { return Room::default() };
        if self.evicting.load(Ordering::Acquire) == 0 || Instant::now() >= deadline {
            return Room::default();
        }
        let before = ledger.freed();
        let wish = ledger.wish(need);
        let mut answers = ledger.answered.subscribe();
        // At the deadline, what was freed by then counts all the same.
        let _ = timeout_at(deadline, answers.wait_for(|answered| *answered >= wish)).await;
        ledger.freed() - before
    }

    /// Requests room for whoever comes next, without waiting for it.
    pub(crate) fn ask_for_room(&self, scope: Scope, need: Room) {
        if let Some(ledger) = self.ledger(scope) {
            ledger.wish(need);
        }
    }

    /// Grows a charge on a tenant's or the host's memory. If there is none left, room is made first, for as long
    /// as that frees any.
    pub(crate) async fn grow(
        &self,
        charge: &mut Charge,
        more: usize,
        tenant: Option<u16>,
        deadline: Instant,
    ) -> Result<(), Full> {
        loop {
            let Err(full) = charge.grow(more) else { return Ok(()) };
            let need = Room::bytes(more);
            let scope = Scope::of(full, tenant, need).ok_or(full)?;
            // Boxed: there mostly is some, and then no request has a place for this.
            if Box::pin(self.make_room(scope, need, deadline)).await.is_none() {
                return Err(full);
            }
        }
    }

    fn ledger(&self, scope: Scope) -> Option<&Ledger> {
        self.ledgers.get(scope.tenant().map_or(0, |tenant| usize::from(tenant) + 1))
    }

    /// All scopes that there are.
    pub(super) fn scopes(&self) -> impl Iterator<Item = Scope> {
        let tenants = u16::try_from(self.ledgers.len() - 1).unwrap_or(u16::MAX);
        std::iter::once(Scope::Host).chain((0..tenants).map(Scope::Tenant))
    }

    /// Counts a set of evictors, until the result is dropped. They need not run yet: they find the wishes that were
    /// made by then.
    pub(crate) fn evicting(self: &Arc<Self>) -> Evicting {
        self.evicting.fetch_add(1, Ordering::AcqRel);
        Evicting(self.clone())
    }

    /// Waits for wishes of a scope. Returns the newest one's number, and the room that all of them need. For the
    /// scope's evictor.
    pub(super) async fn wishes(&self, scope: Scope) -> (u64, Room) {
        let Some(ledger) = self.ledger(scope) else { return std::future::pending().await };
        ledger.wished.notified().await;
        let mut wishes = ledger.wishes();
        (wishes.newest, std::mem::take(&mut wishes.need))
    }

    /// Answers the wishes of a scope up to a number.
    pub(super) fn answer(&self, scope: Scope, wish: u64) {
        if let Some(ledger) = self.ledger(scope) {
            ledger.answered.send_modify(|answered| *answered = wish.max(*answered));
        }
    }

    /// Counts a tenant's session that was parked, or a part of it.
    pub(in crate::session) fn was_parked(&self, tenant: u16, freed: Room) {
        self.parked.fetch_add(freed.sessions as u64, Ordering::Relaxed);
        self.free(tenant, freed);
    }

    /// Counts a tenant's session that was dropped for want of room.
    pub(in crate::session) fn was_dropped(&self, tenant: u16, freed: Room) {
        self.dropped.fetch_add(freed.sessions as u64, Ordering::Relaxed);
        self.free(tenant, freed);
    }

    fn free(&self, tenant: u16, freed: Room) {
        [Scope::Host, Scope::Tenant(tenant)]
            .into_iter()
            .filter_map(|scope| self.ledger(scope))
            .for_each(|it| it.free(freed));
    }

    /// Counts an instance restored from its snapshot.
    pub(crate) fn woke(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }

    /// Sessions parked since the start.
    pub(crate) fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Instances restored from snapshots since the start.
    pub(crate) fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Sessions dropped for want of room since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }
}

/// A set of evictors, which run or are about to.
pub(crate) struct Evicting(Arc<Pressure>);

impl Drop for Evicting {
    fn drop(&mut self) {
        self.0.evicting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests;
