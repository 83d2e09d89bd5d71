//! The sessions that exist.
//!
//! Sessions are spread over shards, each with a lock that is held for a look-up and never while a guest runs,
//! compiles or is dropped. A session that is looked up is marked as used under that lock, and the sweep looks at the
//! mark and removes under it too: a session can never be removed between being found and being used.
//!
//! A session is new until its first call begins, live while it has instances, and parked when it has only snapshots.
//! It becomes live at its turn, by taking one of `limits.max_sessions` places, and keeps the place for as long as it
//! is live. Places are given in the order in which they were asked for. A new session whose first call was refused is
//! forgotten.

use super::{
    eviction::{Room, Scope},
    in_flight::InFlight,
    live::Session,
    locked::{Locked, lock},
    places::{LentPlace, ParkedPlace, count_one},
    shared::Shared,
    tenant::Tenant,
    uses::LifeStage,
};
use crate::{
    identity::User,
    limits::{Limits, Reached},
};
use std::{
    collections::{HashMap, hash_map::Entry},
    future::ready,
    hash::{BuildHasher, RandomState},
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::{
    select,
    sync::{OwnedSemaphorePermit, Semaphore},
    time::Instant,
};

/// Enough that threads rarely contend for one, and that none is locked for long with a million sessions.
const SHARDS: usize = 1024;

/// The sessions that exist.
pub struct Registry {
    shared: Arc<Shared>,
    shards: Box<[Mutex<Shard>]>,
    /// Not the maps' own hasher: that one would fill each map unevenly.
    hasher: RandomState,
    /// Sessions in all shards.
    sessions: AtomicUsize,
    /// Places for live sessions. Its waiters are served in order.
    places: Arc<Semaphore>,
    /// Live sessions.
    live: AtomicUsize,
    /// Parked sessions.
    parked: AtomicUsize,
    /// Calls that wait or run, and visits by those who only look.
    in_use: AtomicUsize,
    draining: AtomicBool,
    began: Instant,
}

/// A part of the sessions.
#[derive(Default)]
struct Shard {
    sessions: HashMap<User, Arc<Session>>,
    /// The live sessions, so that a search for sessions to park need not look at a million parked ones.
    live: HashMap<User, Arc<Session>>,
}

/// A session in use. As long as there is one, the session stays.
pub struct Handle {
    session: Arc<Session>,
    registry: Arc<Registry>,
    /// The time at which its call entered the session: the input is there.
    entered: Instant,
    deadline: Instant,
}

/// A session, as monitoring sees it.
pub struct Seen {
    /// The session. Looking at it does not count as using it.
    pub session: Arc<Session>,
    /// Calls that use it now.
    pub in_use: usize,
    /// The time since a call last used the session; zero while one does.
    pub idle: Duration,
    /// True if the session is parked.
    pub parked: bool,
}

impl Registry {
    /// An empty registry.
    pub fn new(shared: Arc<Shared>) -> Arc<Self> {
        Arc::new(Self {
            places: Arc::new(Semaphore::new(shared.limits.max_sessions)),
            shared,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            sessions: AtomicUsize::new(0),
            live: AtomicUsize::new(0),
            parked: AtomicUsize::new(0),
            in_use: AtomicUsize::new(0),
            draining: AtomicBool::new(false),
            began: Instant::now(),
        })
    }

    /// Takes no more calls: their admission refuses them. Those that are admitted end.
    pub(crate) fn drain(&self) {
        self.draining.store(true, Ordering::Relaxed);
    }

    /// Returns true if no more calls are taken.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.load(Ordering::Relaxed)
    }

    /// The user's session, for a call that arrives now; a new one, if there is none and there may be another.
    ///
    /// # Errors
    ///
    /// The limit of calls that wait or run is reached, the user's or the tenant's budget is spent, or there are too
    /// many sessions.
    pub fn session(self: &Arc<Self>, user: User) -> Result<Handle, Reached> {
        self.session_until(user, Instant::now() + self.shared.tenant(user).limits().deadline)
    }

    /// The user's session, for a call that must have ended by a deadline.
    ///
    /// # Errors
    ///
    /// As of [`session`](Self::session).
    pub(crate) fn session_until(self: &Arc<Self>, user: User, deadline: Instant) -> Result<Handle, Reached> {
        let (entered, tenant) = (Instant::now(), self.shared.tenant(user));
        let in_flight = InFlight::begin(&self.in_use, self.shared.limits.calls, Some(tenant))?;
        tenant.admit()?;
        let session = self.enter(user, tenant).inspect_err(|_| tenant.readmit())?;
        in_flight.keep();
        Ok(Handle { session, registry: self.clone(), entered, deadline })
    }

    /// The user's session, marked as used.
    fn enter(&self, user: User, tenant: &Tenant) -> Result<Arc<Session>, Reached> {
        let entered = |session: &Arc<Session>| {
            session.uses.handles.fetch_add(1, Ordering::Relaxed);
            session.clone()
        };
        // Marked under the shard's lock.
        match self.shard(user).sessions.entry(user) {
            Entry::Occupied(known) => {
                known.get().admit()?;
                Ok(entered(known.get()))
            }
            Entry::Vacant(free) => {
                tenant.session_begins()?;
                let parked = self.shared.policy.parked_at_most();
                let most = self.shared.limits.max_sessions + parked;
                if let Err(all) = count_one(&self.sessions, most) {
                    tenant.session_ends();
                    return Err(no_more(all, parked > 0));
                }
                let session = Session::new(user, self.shared.clone());
                // The first request counts as well; a new bucket has room for one.
                let _ = session.admit();
                Ok(entered(free.insert(session)))
            }
        }
    }

    /// Begins work of the host that calls no function, for a tenant or, if none is given, for the operator.
    ///
    /// # Errors
    ///
    /// The limit of calls that wait or run is reached.
    pub fn visit(self: &Arc<Self>, tenant: Option<u16>) -> Result<Visit, Reached> {
        let whose = tenant.and_then(|tenant| self.shared.tenants.get(usize::from(tenant)));
        let tenant = tenant.filter(|_| whose.is_some());
        InFlight::begin(&self.in_use, self.shared.limits.calls, whose.map(|tenant| &**tenant))?.keep();
        Ok(Visit { registry: self.clone(), tenant })
    }

    /// Sessions that are live.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Sessions that are parked.
    pub fn parked(&self) -> usize {
        self.parked.load(Ordering::Relaxed)
    }

    /// Calls that wait or run, in all sessions, and visits.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Acquire)
    }

    /// Bytes of the host's memory that are taken, and how many may be.
    pub fn memory(&self) -> (usize, usize) {
        (self.shared.memory.used(), self.shared.memory.limit())
    }

    /// Sessions that were parked since the start.
    pub fn parkings(&self) -> u64 {
        self.shared.pressure.parked()
    }

    /// Sessions that were dropped for want of room, since the start.
    pub fn dropped_for_room(&self) -> u64 {
        self.shared.pressure.dropped()
    }

    /// Instances restored from snapshots since the start.
    pub fn wakings(&self) -> u64 {
        self.shared.pressure.woken()
    }

    /// Files and connections that guests have open, and how many they may.
    pub fn open_files(&self) -> (usize, usize) {
        self.shared.descriptors.used()
    }

    /// The state shared by all sessions.
    pub(crate) fn shared(&self) -> &Shared {
        &self.shared
    }

    /// A user's session, to look at.
    pub fn look(&self, user: User) -> Option<Seen> {
        self.shard(user).sessions.get(&user).map(|session| self.seen(session, Instant::now()))
    }

    /// Sessions that exist.
    pub fn sessions(&self) -> usize {
        self.sessions.load(Ordering::Relaxed)
    }

    /// All sessions, to look at, a few at a time, from the one behind a user's on.
    pub fn walk(self: &Arc<Self>, after: Option<User>) -> Walk {
        let shard = after.map_or(0, |user| self.shard_of(user));
        Walk { registry: self.clone(), shard, after }
    }

    /// The users who have a session, in no order. Takes time in proportion to the number of sessions, as
    /// [`look_at_all`](Self::look_at_all) does: use [`walk`](Self::walk) where others are served meanwhile.
    pub fn users(&self) -> Vec<User> {
        self.shards.iter().flat_map(|shard| lock(shard).sessions.keys().copied().collect::<Vec<_>>()).collect()
    }

    /// All sessions, to look at, in no order.
    pub fn look_at_all(&self) -> Vec<Seen> {
        let now = Instant::now();
        let shards = self.shards.iter();
        shards
            .flat_map(|shard| lock(shard).sessions.values().map(|it| self.seen(it, now)).collect::<Vec<_>>())
            .collect()
    }

    /// Takes out the sessions of one shard that nobody has used for `timeout`. The caller drops them, outside of the
    /// lock.
    pub(super) fn take_idle(&self, shard: usize, timeout: Duration) -> Vec<Arc<Session>> {
        let now = Instant::now();
        let mut taken = Vec::new();
        let Shard { sessions, live } = &mut *lock(&self.shards[shard]);
        sessions.retain(|user, session| {
            // A session stays until its user's budget is full again: otherwise a new session would refill the budget
            // early.
            let idle = session.uses.is_idle() && self.idle_time(session, now) >= timeout && session.has_full_budget();
            if idle {
                self.leave(session);
                live.remove(user);
                taken.push(session.clone());
            }
            !idle
        });
        taken
    }

    /// The live sessions of one shard, of one tenant if one is named, that nobody has used for `time`.
    pub(super) fn idle_live(&self, shard: usize, time: Duration, of: Option<u16>) -> Vec<Arc<Session>> {
        let now = Instant::now();
        let shard = lock(&self.shards[shard]);
        let wanted = |session: &&Arc<Session>| {
            let of_whom = of.is_none_or(|tenant| session.user().tenant() == tenant);
            of_whom && session.uses.is_idle() && self.idle_time(session, now) >= time
        };
        shard.live.values().filter(wanted).cloned().collect()
    }

    /// The sessions of one shard, of one tenant if one is named, that nobody uses, with the times of their last use.
    /// Sessions in debt are left out. Those whose budgets are not full are not: nobody can say when they will be, and
    /// room is needed now.
    pub(super) fn idle(&self, shard: usize, of: Option<u16>) -> Vec<(u64, User)> {
        let shard = lock(&self.shards[shard]);
        let sessions = shard.sessions.iter().filter(|(user, _)| of.is_none_or(|tenant| user.tenant() == tenant));
        let idle = sessions.filter(|(_, session)| session.uses.is_idle() && !session.in_debt());
        idle.map(|(user, session)| (session.uses.last(), *user)).collect()
    }

    /// Takes a user's session out. The caller drops it.
    ///
    /// # Errors
    ///
    /// [`NotTaken`]: there is no such session, or it is in use.
    pub(crate) fn take_if_idle(&self, user: User) -> Result<Arc<Session>, NotTaken> {
        let mut shard = self.shard(user);
        match shard.sessions.entry(user) {
            Entry::Vacant(_) => Err(NotTaken::Absent),
            Entry::Occupied(entered) if !entered.get().uses.is_idle() => Err(NotTaken::InUse),
            Entry::Occupied(entered) => {
                self.leave(entered.get());
                let session = entered.remove();
                shard.live.remove(&user);
                Ok(session)
            }
        }
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    /// Makes a session live at its turn, once there is a place for it.
    pub(crate) async fn activate(&self, session: &Arc<Session>, deadline: Instant) -> Result<(), Reached> {
        if session.uses.stage() == LifeStage::Live {
            return Ok(());
        }
        // Nobody overtakes the waiters: no place is free while anybody waits.
        let place = match self.places.clone().try_acquire_owned() {
            Ok(place) => place,
            // All may be taken, those of the parked sessions too: then this one and another change places.
            Err(_) => {
                let lent = (session.uses.stage() == LifeStage::Parked).then(|| LentPlace::of(&self.parked));
                let place = Box::pin(self.next_place(deadline)).await?;
                drop(lent);
                place
            }
        };
        *session.uses.place() = Some(place);
        self.live.fetch_add(1, Ordering::Relaxed);
        // The session is in use, so it cannot be dropped, and has its turn, so it cannot be parked.
        if session.uses.stage.swap(LifeStage::Live as u8, Ordering::AcqRel) == LifeStage::Parked as u8 {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
        self.shard(session.user()).live.insert(session.user(), session.clone());
        Ok(())
    }

    /// Waits for a place among the live sessions, and has idle ones parked meanwhile, for as long as that helps.
    async fn next_place(&self, deadline: Instant) -> Result<OwnedSemaphorePermit, Reached> {
        let none = || {
            Limits::MAX_SESSIONS.reached(format!("{} sessions are live and in use", self.shared.limits.max_sessions))
        };
        let mut place = pin!(self.places.clone().acquire_owned());
        loop {
            let freed = select! {
                biased;
                // The semaphore is never closed.
                place = &mut place => return place.map_err(|_| none()),
                freed = self.shared.pressure.make_room(Scope::Host, Room::PLACE, deadline) => freed,
            };
            if freed.is_none() {
                // One may have become free since.
                return select! {
                    biased;
                    place = &mut place => place.map_err(|_| none()),
                    () = ready(()) => Err(none()),
                };
            }
        }
    }

    /// Takes a place among the parked sessions, if there is one.
    pub(super) fn place_to_park(&self) -> Option<ParkedPlace<'_>> {
        ParkedPlace::take(&self.parked, self.shared.policy.parked_at_most())
    }

    /// Marks a session as parked, when it has no instances any more. Called at its turn. Returns false if it has left
    /// the registry meanwhile, or somebody else has parked it.
    pub(super) fn parked_one(&self, session: &Session, place: ParkedPlace<'_>) -> bool {
        let (live, parked) = (LifeStage::Live as u8, LifeStage::Parked as u8);
        let mut shard = self.shard(session.user());
        let is_live = session.uses.stage.compare_exchange(live, parked, Ordering::AcqRel, Ordering::Acquire).is_ok();
        if is_live {
            shard.live.remove(&session.user());
            place.keep();
            self.leave_place(session);
        }
        is_live
    }

    /// Gives back the place of a session that is no longer live.
    fn leave_place(&self, session: &Session) {
        self.live.fetch_sub(1, Ordering::Relaxed);
        *session.uses.place() = None;
    }

    /// Counts a session as taken out. Called under the shard's lock.
    fn leave(&self, session: &Session) {
        self.sessions.fetch_sub(1, Ordering::Relaxed);
        session.tenant().session_ends();
        let was = session.uses.stage.swap(LifeStage::Gone as u8, Ordering::AcqRel);
        if was == LifeStage::Live as u8 {
            self.leave_place(session);
        } else if was == LifeStage::Parked as u8 {
            self.parked.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// Forgets a session that has never been live.
    fn forget_new(&self, session: &Arc<Session>) {
        let mut shard = self.shard(session.user());
        // The user may have another session by now. The caller keeps this one, so that it is not dropped under the lock.
        if let Entry::Occupied(entered) = shard.sessions.entry(session.user())
            && Arc::ptr_eq(entered.get(), session)
            && session.uses.stage() == LifeStage::New
            && session.uses.is_idle()
        {
            self.leave(session);
            entered.remove();
        }
    }

    fn idle_time(&self, session: &Session, now: Instant) -> Duration {
        let last = self.began + Duration::from_micros(session.uses.last());
        now.saturating_duration_since(last)
    }

    fn seen(&self, session: &Arc<Session>, now: Instant) -> Seen {
        let in_use = session.uses.handles.load(Ordering::Acquire);
        let idle = if in_use > 0 { Duration::ZERO } else { self.idle_time(session, now) };
        Seen { session: session.clone(), in_use, idle, parked: session.uses.stage() == LifeStage::Parked }
    }

    fn shard(&self, user: User) -> Locked<'_, Shard> {
        lock(&self.shards[self.shard_of(user)])
    }

    fn shard_of(&self, user: User) -> usize {
        self.hasher.hash_one(user) as usize % SHARDS
    }
}

impl Handle {
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }

    pub(crate) fn registry(&self) -> &Registry {
        &self.registry
    }

    /// The time at which its call entered the session.
    pub(crate) fn entered(&self) -> Instant {
        self.entered
    }

    /// The time by which its call must have ended, whatever it waits for until then.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }
}

/// A walk over all sessions, by shard, and by user within a shard. The order is fixed for the registry's life,
/// so that a walk can be resumed after any user.
pub struct Walk {
    registry: Arc<Registry>,
    shard: usize,
    after: Option<User>,
}

impl Walk {
    /// The sessions of the next shard, of one tenant if one is named. `None`: that was all.
    pub fn next_shard(&mut self, of: Option<u16>) -> Option<Vec<Seen>> {
        let shard = self.registry.shards.get(self.shard)?;
        self.shard += 1;
        let after = self.after.take();
        let now = Instant::now();
        let wanted = |user: &User| of.is_none_or(|tenant| user.tenant() == tenant) && after.is_none_or(|it| *user > it);
        let mut seen: Vec<_> = {
            let shard = lock(shard);
            let sessions = shard.sessions.iter().filter(|(user, _)| wanted(user));
            sessions.map(|(_, session)| self.registry.seen(session, now)).collect()
        };
        seen.sort_unstable_by_key(|seen| seen.session.user());
        Some(seen)
    }
}

/// The reason why a session could not be taken out.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotTaken {
    /// The user has no session.
    Absent,
    /// A call of the session waits or runs.
    InUse,
}

/// Work of the host that calls no function. It counts as a call until this is dropped.
pub struct Visit {
    registry: Arc<Registry>,
    /// `None` for the operator's.
    tenant: Option<u16>,
}

impl Drop for Visit {
    fn drop(&mut self) {
        let tenant = self.tenant.and_then(|tenant| self.registry.shared.tenants.get(usize::from(tenant)));
        InFlight::end(&self.registry.in_use, tenant.map(|tenant| &**tenant));
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let uses = &self.session.uses;
        let now = self.registry.began.elapsed().as_micros();
        uses.last.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        let new = uses.stage() == LifeStage::New;
        // Released after the time is written: a sweep that sees no handle sees the time as well.
        let last = uses.handles.fetch_sub(1, Ordering::Release) == 1;
        if new && last {
            self.registry.forget_new(&self.session);
        }
        InFlight::end(&self.registry.in_use, Some(self.session.tenant()));
    }
}

/// No more sessions may exist than there are, live or parked.
fn no_more(all: usize, parks: bool) -> Reached {
    if parks {
        let keys = (Limits::MAX_SESSIONS.key, Limits::MAX_PARKED.key);
        return Limits::MAX_PARKED.reached_in_words(format!(
            "{all} sessions exist, which is what `{}` and `{}` allow together",
            keys.0, keys.1
        ));
    }
    // Sessions are dropped less often than their calls end.
    Limits::MAX_SESSIONS.reached(format!("{all} sessions exist")).until(Duration::from_secs(60))
}
