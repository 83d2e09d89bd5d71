//! Room: memory, or places among the live sessions, for those who have none.
//!
//! Whoever needs room wishes for it in the scope that is full. The scope has an evictor of its own (see `evict`),
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
        Mutex, MutexGuard, PoisonError,
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
    pub(super) fn tenant(self) -> Option<u16> {
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
    pub(super) fn covers(self, need: Self) -> bool {
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
    /// Sets of evictors that run: one, while the host serves.
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
    pub(crate) fn new(tenants: usize) -> Self {
        Self {
            ledgers: (0..=tenants).map(|_| Ledger::new()).collect(),
            evicting: AtomicUsize::new(0),
            parked: AtomicU64::new(0),
            woken: AtomicU64::new(0),
            dropped: AtomicU64::new(0),
        }
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

    /// Counts a set of running evictors, until the result is dropped.
    pub(crate) fn evicting(&self) -> Evicting<'_> {
        self.evicting.fetch_add(1, Ordering::AcqRel);
        Evicting(self)
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
    pub(super) fn was_parked(&self, tenant: u16, freed: Room) {
        self.parked.fetch_add(freed.sessions as u64, Ordering::Relaxed);
        self.free(tenant, freed);
    }

    /// Counts a tenant's session that was dropped for want of room.
    pub(super) fn was_dropped(&self, tenant: u16, freed: Room) {
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

/// A set of running evictors.
pub(crate) struct Evicting<'a>(&'a Pressure);

impl Drop for Evicting<'_> {
    fn drop(&mut self) {
        self.0.evicting.fetch_sub(1, Ordering::AcqRel);
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::limits::memory::Memory;
    use std::{
        future::{Future, poll_fn},
        pin::Pin,
        sync::{Arc, atomic::AtomicBool},
        task::{Context, Poll, Wake, Waker},
        time::Duration,
    };
    use tokio::{
        task::{JoinHandle, unconstrained, yield_now},
        time::sleep,
    };

    const MINUTE: Duration = Duration::from_secs(60);

    fn asks(pressure: &Arc<Pressure>, scope: Scope, bytes: usize) -> JoinHandle<Room> {
        let pressure = pressure.clone();
        tokio::spawn(async move { pressure.make_room(scope, Room::bytes(bytes), Instant::now() + MINUTE).await })
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_ends_at_its_deadline_and_at_once_where_nobody_makes_room() {
        let (pressure, began) = (Pressure::new(1), Instant::now());
        assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
        let evicting = pressure.evicting();
        assert!(pressure.make_room(Scope::Tenant(7), Room::PLACE, began + MINUTE).await.is_none(), "there is no such");
        assert_eq!(began.elapsed(), Duration::ZERO);
        // The evictor is busy for longer than that.
        assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
        assert_eq!(began.elapsed(), MINUTE);
        assert!(pressure.make_room(Scope::Host, Room::PLACE, began + MINUTE).await.is_none());
        assert_eq!(began.elapsed(), MINUTE);
        drop(evicting);
        assert!(pressure.make_room(Scope::Host, Room::PLACE, began + 2 * MINUTE).await.is_none());
        assert_eq!(began.elapsed(), MINUTE);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wish_is_answered_by_a_round_that_began_after_it_and_none_is_lost_among_others() {
        let pressure = Arc::new(Pressure::new(1));
        let _evicting = pressure.evicting();
        let first = asks(&pressure, Scope::Host, 10);
        assert_eq!(pressure.wishes(Scope::Host).await, (1, Room::bytes(10)));
        // While its round is under way, two more come: for the evictor they are one notice.
        let others = [20, 30].map(|bytes| asks(&pressure, Scope::Host, bytes));
        yield_now().await;
        let freed = Room { sessions: 1, bytes: 15 };
        pressure.was_parked(0, freed);
        pressure.answer(Scope::Host, 1);
        assert_eq!(first.await.unwrap(), freed);
        sleep(Duration::from_secs(1)).await;
        assert!(others.iter().all(|other| !other.is_finished()));
        assert_eq!(pressure.wishes(Scope::Host).await, (3, Room::bytes(50)));
        pressure.answer(Scope::Host, 3);
        for other in others {
            assert_eq!(other.await.unwrap(), freed, "it was freed since they asked");
        }
        // An older answer takes none back.
        pressure.answer(Scope::Host, 1);
        assert_eq!(pressure.parked(), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn room_of_a_tenant_is_the_hosts_too_and_no_other_tenants() {
        let pressure = Arc::new(Pressure::new(2));
        let _evicting = pressure.evicting();
        let scopes: Vec<_> = pressure.scopes().collect();
        assert_eq!(scopes, [Scope::Host, Scope::Tenant(0), Scope::Tenant(1)]);
        let asked: Vec<_> = scopes.iter().map(|scope| asks(&pressure, *scope, 10)).collect();
        for scope in &scopes {
            assert_eq!(pressure.wishes(*scope).await, (1, Room::bytes(10)));
        }
        let (part, whole) = (Room::bytes(40), Room { sessions: 1, bytes: 60 });
        pressure.was_parked(0, part);
        pressure.was_dropped(0, whole);
        scopes.iter().for_each(|scope| pressure.answer(*scope, 1));
        let mut told = Vec::new();
        for asked in asked {
            told.push(asked.await.unwrap());
        }
        let all = Room { sessions: 1, bytes: 100 };
        assert_eq!(told, [all, all, Room::default()]);
        assert_eq!((pressure.parked(), pressure.dropped()), (0, 1), "a part of a session is no session");
    }

    #[tokio::test(start_paused = true)]
    async fn who_grows_waits_for_room_where_it_is_missing_and_only_if_there_can_be_any() {
        let (pressure, began) = (Arc::new(Pressure::new(1)), Instant::now());
        let host = Memory::new(1000);
        let tenant = host.within(Level::Tenant, Some(500));
        let user = tenant.within(Level::User, Some(300));
        let _evicting = pressure.evicting();
        let grow = async |of: &Arc<Memory>, more| {
            let mut charge = of.charge(0);
            pressure.grow(&mut charge, more, Some(0), began + MINUTE).await.map_err(|full| full.level)
        };
        assert_eq!(grow(&user, 301).await, Err(Level::User));
        assert_eq!(grow(&tenant, 501).await, Err(Level::Tenant));
        assert_eq!(began.elapsed(), Duration::ZERO);
        // An idle session of the tenant is parked in two parts; then there is none.
        let mut idle = vec![tenant.charge(100), tenant.charge(350)];
        let evictor = tokio::spawn({
            let pressure = pressure.clone();
            async move {
                loop {
                    let (wish, need) = pressure.wishes(Scope::Tenant(0)).await;
                    assert_eq!(need, Room::bytes(400));
                    if let Some(part) = idle.pop() {
                        pressure.was_parked(0, Room::bytes(part.bytes()));
                    }
                    pressure.answer(Scope::Tenant(0), wish);
                }
            }
        });
        assert_eq!(grow(&tenant, 400).await, Ok(()));
        let _taken = tenant.charge(50);
        assert_eq!(grow(&tenant, 400).await, Ok(()), "the second part is gone, too");
        let _more = tenant.charge(150);
        assert_eq!(grow(&tenant, 400).await, Err(Level::Tenant));
        assert_eq!(began.elapsed(), Duration::ZERO);
        // Nobody answers for the host.
        assert_eq!(grow(&host, 900).await, Err(Level::Host));
        assert_eq!(began.elapsed(), MINUTE);
        evictor.abort();
    }

    type Task = Pin<Box<dyn Future<Output = ()>>>;

    /// A task's wake-up, until it is polled.
    #[derive(Default)]
    struct Woken(AtomicBool);

    impl Wake for Woken {
        fn wake(self: Arc<Self>) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    /// Runs tasks in every order in which they could be polled; returns the number of orders. Each has to end.
    fn in_every_order(tasks: impl Fn() -> Vec<Task>) -> usize {
        // The choices of the present order, each with the number of those that there were.
        let (mut choices, mut orders): (Vec<(usize, usize)>, usize) = (Vec::new(), 0);
        loop {
            // Without tokio's budget, which makes a task wait that has gone on for long.
            let woken = || Arc::new(Woken(true.into()));
            let mut tasks: Vec<_> =
                tasks().into_iter().map(|task| (Some(Box::pin(unconstrained(task))), woken())).collect();
            for step in 0.. {
                let can_go_on =
                    |(task, woken): &(Option<_>, Arc<Woken>)| task.is_some() && woken.0.load(Ordering::Relaxed);
                let ready: Vec<_> = (0..tasks.len()).filter(|it| can_go_on(&tasks[*it])).collect();
                if ready.is_empty() {
                    break;
                }
                if step == choices.len() {
                    choices.push((0, ready.len()));
                }
                let (task, woken) = &mut tasks[ready[choices[step].0]];
                woken.0.store(false, Ordering::Relaxed);
                let waker = Waker::from(woken.clone());
                if task.as_mut().is_some_and(|task| task.as_mut().poll(&mut Context::from_waker(&waker)).is_ready()) {
                    *task = None;
                }
            }
            let asleep: Vec<_> = (0..tasks.len()).filter(|it| tasks[*it].0.is_some()).collect();
            assert!(asleep.is_empty(), "{asleep:?} sleep for ever after {choices:?}");
            orders += 1;
            while let Some((chosen, of)) = choices.pop() {
                if chosen + 1 < of {
                    choices.push((chosen + 1, of));
                    break;
                }
            }
            if choices.is_empty() {
                return orders;
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn in_every_order_each_wish_is_answered_and_by_a_round_that_began_after_it() {
        let orders = in_every_order(|| {
            let pressure = Arc::new(Pressure::new(1));
            let (asked, rounds) = (Arc::new(Mutex::new(0)), Arc::new(Mutex::new(Vec::new())));
            let mut tasks: Vec<Task> = Vec::new();
            for _ in 0..2 {
                let (pressure, asked, rounds) = (pressure.clone(), asked.clone(), rounds.clone());
                tasks.push(Box::pin(async move {
                    let _evicting = pressure.evicting();
                    yield_once().await;
                    *asked.lock().unwrap() += 1;
                    let begun_before = rounds.lock().unwrap().len();
                    let freed = pressure.make_room(Scope::Host, Room::bytes(1), Instant::now() + MINUTE).await;
                    let answered: usize = rounds.lock().unwrap().iter().skip(begun_before).sum();
                    assert!(answered > 0 && freed.bytes > 0, "{freed:?} by rounds of {answered} wishes");
                }));
            }
            tasks.push(Box::pin(async move {
                let mut served = 0;
                while served < 2 {
                    let (wish, need) = pressure.wishes(Scope::Host).await;
                    assert!(need.bytes <= *asked.lock().unwrap());
                    rounds.lock().unwrap().push(need.bytes);
                    served += need.bytes;
                    // Others may ask while the round is under way, and after its room is there.
                    yield_once().await;
                    pressure.was_parked(0, need);
                    yield_once().await;
                    pressure.answer(Scope::Host, wish);
                }
            }));
            tasks
        });
        assert!(orders > 100, "only {orders} orders");
    }

    /// Lets the others go on.
    async fn yield_once() {
        let mut yielded = false;
        poll_fn(|cx| {
            if std::mem::replace(&mut yielded, true) {
                return Poll::Ready(());
            }
            cx.waker().wake_by_ref();
            Poll::Pending
        })
        .await;
    }
}
