//! Which sessions exist.
//!
//! Sessions are spread over shards, each with a lock that is held for a look-up and never while a guest runs, compiles
//! or is dropped. A session that is looked up is marked as used under that lock, and the sweep looks at the mark and
//! removes under it too: a session can never be removed between being found and being used.

use super::{Session, Shared};
use crate::identity::User;
use std::{
    collections::{HashMap, hash_map::Entry},
    hash::{BuildHasher, RandomState},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};
use tokio::time::Instant;

/// Enough that threads rarely meet at one, few enough that a sweep is quick.
const SHARDS: usize = 64;

/// The sessions that exist.
pub struct Registry {
    shared: Arc<Shared>,
    shards: Box<[Mutex<HashMap<User, Entered>>]>,
    /// Not the maps' own hasher: that one would fill each map unevenly.
    hasher: RandomState,
    /// Sessions in all shards.
    live: AtomicUsize,
    /// Handles that exist.
    in_use: Arc<AtomicUsize>,
    began: Instant,
}

/// A session in the registry.
struct Entered {
    session: Arc<Session>,
    use_of: Arc<Use>,
}

/// Whether a session is used, and when it last was.
struct Use {
    handles: AtomicUsize,
    /// Microseconds since the registry began.
    last: AtomicU64,
    began: Instant,
    all: Arc<AtomicUsize>,
}

/// There is no place for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{live} sessions are live, which is what `limits.max_sessions` allows")]
pub struct TooManySessions {
    /// Sessions that are live.
    pub live: usize,
}

/// A session in use. As long as there is one, the session stays.
pub struct Handle {
    session: Arc<Session>,
    use_of: Arc<Use>,
}

/// A session, as monitoring sees it.
pub struct Seen {
    /// The session. Looking at it does not count as using it.
    pub session: Arc<Session>,
    /// Calls that use it now.
    pub in_use: usize,
    /// How long ago a call last used it.
    pub idle: Duration,
}

impl Registry {
    /// An empty registry.
    pub fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            hasher: RandomState::new(),
            live: AtomicUsize::new(0),
            in_use: Arc::new(AtomicUsize::new(0)),
            began: Instant::now(),
        }
    }

    /// The user's session; a new one, if there is none and there may be another.
    ///
    /// # Errors
    ///
    /// [`TooManySessions`].
    pub fn session(&self, user: User) -> Result<Handle, TooManySessions> {
        match self.shard(user).entry(user) {
            Entry::Occupied(entered) => Ok(entered.get().handle()),
            Entry::Vacant(free) => {
                let most = self.shared.limits.max_sessions;
                let one_more = |live| (live < most).then_some(live + 1);
                let admitted = self.live.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more);
                admitted.map_err(|live| TooManySessions { live })?;
                let use_of = Use {
                    handles: AtomicUsize::new(0),
                    last: AtomicU64::new(0),
                    began: self.began,
                    all: self.in_use.clone(),
                };
                let session = Session::new(user, self.shared.clone());
                Ok(free.insert(Entered { session, use_of: Arc::new(use_of) }).handle())
            }
        }
    }

    /// Sessions that are live.
    pub fn live(&self) -> usize {
        self.live.load(Ordering::Relaxed)
    }

    /// Calls that wait or run, in all sessions.
    pub fn in_use(&self) -> usize {
        self.in_use.load(Ordering::Acquire)
    }

    /// A user's session, to look at.
    pub fn look(&self, user: User) -> Option<Seen> {
        self.shard(user).get(&user).map(|entered| entered.seen(Instant::now()))
    }

    /// All sessions, to look at, in no order.
    pub fn look_at_all(&self) -> Vec<Seen> {
        let now = Instant::now();
        let shards = self.shards.iter();
        shards.flat_map(|shard| lock(shard).values().map(|it| it.seen(now)).collect::<Vec<_>>()).collect()
    }

    /// Takes the sessions of one shard out that nobody has used for `timeout`. The caller drops them, outside of the
    /// lock.
    pub(super) fn take_idle(&self, shard: usize, timeout: Duration) -> Vec<Arc<Session>> {
        let now = Instant::now();
        let mut taken = Vec::new();
        lock(&self.shards[shard]).retain(|_, entered| {
            let idle = entered.use_of.handles.load(Ordering::Acquire) == 0 && entered.use_of.idle(now) >= timeout;
            if idle {
                taken.push(entered.session.clone());
            }
            !idle
        });
        self.live.fetch_sub(taken.len(), Ordering::Relaxed);
        taken
    }

    pub(super) fn shards(&self) -> usize {
        self.shards.len()
    }

    fn shard(&self, user: User) -> MutexGuard<'_, HashMap<User, Entered>> {
        let hash = self.hasher.hash_one(user);
        lock(&self.shards[hash as usize % SHARDS])
    }
}

/// Nothing panics while it is held; were it so, the map would still be whole.
fn lock(shard: &Mutex<HashMap<User, Entered>>) -> MutexGuard<'_, HashMap<User, Entered>> {
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Entered {
    /// Called under the shard's lock.
    fn handle(&self) -> Handle {
        Handle::new(self.session.clone(), self.use_of.clone())
    }

    fn seen(&self, now: Instant) -> Seen {
        let in_use = self.use_of.handles.load(Ordering::Acquire);
        let idle = if in_use > 0 { Duration::ZERO } else { self.use_of.idle(now) };
        Seen { session: self.session.clone(), in_use, idle }
    }
}

impl Use {
    fn idle(&self, now: Instant) -> Duration {
        let last = self.began + Duration::from_micros(self.last.load(Ordering::Relaxed));
        now.saturating_duration_since(last)
    }
}

impl Handle {
    fn new(session: Arc<Session>, use_of: Arc<Use>) -> Self {
        use_of.handles.fetch_add(1, Ordering::Relaxed);
        use_of.all.fetch_add(1, Ordering::Relaxed);
        Self { session, use_of }
    }

    /// The session.
    pub fn session(&self) -> &Arc<Session> {
        &self.session
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        let now = self.use_of.began.elapsed().as_micros();
        self.use_of.last.store(u64::try_from(now).unwrap_or(u64::MAX), Ordering::Relaxed);
        // Released after the time is written: a sweep that sees no handle sees the time as well.
        self.use_of.handles.fetch_sub(1, Ordering::Release);
        self.use_of.all.fetch_sub(1, Ordering::Release);
    }
}
