//! Puts idle sessions to sleep: their instances go, and snapshots of them stay.
//!
//! A session is parked when it has been idle for `sessions.park_after`, and earlier if room is needed for others: then
//! the longest idle ones are, before anybody is refused. It is parked at its own turn, so that a call that comes
//! meanwhile waits for some microseconds; other sessions get theirs in between.

use super::{Registry, Session, Slot, pace::Pace};
use crate::limits::{
    Level,
    memory::{Charge, Full},
};
use std::{
    collections::BTreeSet,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};
use tokio::{
    sync::Notify,
    time::{MissedTickBehavior, interval, timeout},
};

/// The least and the most time between two looks for sessions that have been idle long enough.
const LOOK: (Duration, Duration) = (Duration::from_millis(10), Duration::from_secs(5));
/// How long a call waits for others to be parked.
const PATIENCE: Duration = Duration::from_secs(1);
/// One in so many live sessions is parked when room is needed: each time all of them have to be looked at.
const SHARE: usize = 64;

/// The most looks for idle sessions that can be parked, if none of those that were found could be.
const TRIES: usize = 4;

/// Says that room is needed, and that some was made.
#[derive(Debug, Default)]
pub(crate) struct Pressure {
    wanted: Notify,
    /// Whose sessions have to make it: a tenant's, or anybody's.
    of: Mutex<BTreeSet<Option<u16>>>,
    made: Notify,
    /// Somebody makes room.
    parker: AtomicBool,
    /// How often somebody began to, and how often that ended, since the start.
    begun: AtomicU64,
    ended: AtomicU64,
    /// Sessions that were parked, since the start.
    parked: AtomicU64,
    /// Instances that were woken, since the start.
    woken: AtomicU64,
    /// Sessions that were dropped for want of memory, since the start.
    dropped: AtomicU64,
}

impl Pressure {
    /// Waits until idle sessions were parked. Gives whether there were any: then it is worth to try again.
    pub(super) async fn make_room(&self, of: Option<u16>) -> bool {
        if !self.parker.load(Ordering::Acquire) {
            return false;
        }
        let made_before = self.parked.load(Ordering::Acquire) + self.dropped();
        let begun = self.begun.load(Ordering::Acquire);
        self.want(of);
        let found = async {
            loop {
                let made = self.made.notified();
                tokio::pin!(made);
                made.as_mut().enable();
                if self.parked.load(Ordering::Acquire) + self.dropped() > made_before {
                    return true;
                }
                // What had begun before has maybe not seen those who are idle by now.
                if self.ended.load(Ordering::Acquire) > begun {
                    return false;
                }
                made.await;
            }
        };
        timeout(PATIENCE, found).await.unwrap_or(false)
    }

    /// Takes more of somebody's memory: a tenant's, or the host's. If there is none, idle sessions are parked first.
    pub(crate) async fn grow(&self, charge: &mut Charge, more: usize, tenant: Option<u16>) -> Result<(), Full> {
        loop {
            let Err(full) = charge.grow(more) else { return Ok(()) };
            let of = match full.level {
                Level::User => return Err(full),
                Level::Tenant => tenant,
                Level::Host => None,
            };
            if !self.make_room(of).await {
                return Err(full);
            }
        }
    }

    /// Room is needed; nobody waits for it.
    pub(super) fn want(&self, of: Option<u16>) {
        self.of.lock().unwrap_or_else(PoisonError::into_inner).insert(of);
        self.wanted.notify_one();
    }

    /// Sessions that were parked, since the start.
    pub(crate) fn parked(&self) -> u64 {
        self.parked.load(Ordering::Relaxed)
    }

    /// Instances that were woken, since the start.
    pub(crate) fn woken(&self) -> u64 {
        self.woken.load(Ordering::Relaxed)
    }

    /// Sessions that were dropped for want of memory, since the start.
    pub(crate) fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    pub(super) fn woke(&self) {
        self.woken.fetch_add(1, Ordering::Relaxed);
    }
}

/// Parks sessions that were idle for `after`, if that is said, and makes room when it is needed, for ever.
pub(crate) async fn park(registry: Arc<Registry>, after: Option<Duration>) {
    let pressure = &registry.shared().pressure;
    pressure.parker.store(true, Ordering::Release);
    let by_time = async {
        let Some(after) = after else { return };
        let mut looks = interval((after / 4).clamp(LOOK.0, LOOK.1));
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            looks.tick().await;
            let parked = registry.park_idle(after).await;
            if parked > 0 {
                let (live, all) = (registry.live(), registry.parked());
                tracing::info!(parked, live, all_parked = all, "parked sessions idle for {after:?}");
            }
        }
    };
    // Whoever waits for room does not wait for those that are parked by the time.
    let by_need = async {
        loop {
            pressure.wanted.notified().await;
            pressure.begun.fetch_add(1, Ordering::AcqRel);
            let of = std::mem::take(&mut *pressure.of.lock().unwrap_or_else(PoisonError::into_inner));
            for of in of {
                make_room(&registry, of).await;
            }
            pressure.ended.fetch_add(1, Ordering::AcqRel);
            pressure.made.notify_waiters();
        }
    };
    tokio::join!(by_time, by_need);
}

/// Parks the longest idle of a tenant's sessions, or of all. Where there is none to be parked, drops them, if they may be.
async fn make_room(registry: &Registry, of: Option<u16>) {
    let mut parked = 0;
    // Those who were idle may all be used again before it is their turn, and others be idle by then.
    for _ in 0..TRIES {
        let mut idle = Vec::new();
        for shard in 0..registry.shards() {
            idle.append(&mut registry.idle_live(shard, Duration::ZERO, of));
            if shard % 64 == 63 {
                tokio::task::yield_now().await;
            }
        }
        let enough = (registry.live() / SHARE).max(1);
        let none = idle.is_empty();
        // By one reading of each: some may be used meanwhile.
        idle.sort_by_cached_key(|session| session.uses.last());
        for session in idle {
            parked += usize::from(registry.park(&session));
            if parked >= enough {
                break;
            }
            tokio::task::yield_now().await;
        }
        if parked > 0 || none {
            break;
        }
    }
    if parked == 0 && registry.shared().policy.drop_longest_idle {
        drop_some(registry, of).await;
    }
}

/// Drops the longest idle of a tenant's sessions, or of all, whether they are live or parked.
async fn drop_some(registry: &Registry, of: Option<u16>) {
    let mut idle = Vec::new();
    for shard in 0..registry.shards() {
        idle.append(&mut registry.idle(shard, of));
        if shard % 64 == 63 {
            tokio::task::yield_now().await;
        }
    }
    let enough = (idle.len() / SHARE).max(1);
    idle.sort_unstable();
    let mut dropped = 0;
    for (_, user) in idle {
        dropped += usize::from(registry.take_if_idle(user).is_some());
        if dropped >= enough {
            break;
        }
        tokio::task::yield_now().await;
    }
    if dropped > 0 {
        tracing::warn!(dropped, "dropped the longest idle sessions: there was no memory for others");
        registry.shared().pressure.dropped.fetch_add(dropped as u64, Ordering::Relaxed);
    }
}

impl Registry {
    /// Parks all sessions that were idle for so long. Gives how many.
    pub async fn park_idle(&self, time: Duration) -> usize {
        let (mut parked, mut pace) = (0, Pace::new());
        for shard in 0..self.shards() {
            for session in self.idle_live(shard, time, None) {
                parked += usize::from(self.park(&session));
                pace.step().await;
            }
            pace.step().await;
        }
        parked
    }

    /// Parks a session, unless it is used, or holds what cannot be parked.
    fn park(&self, session: &Arc<Session>) -> bool {
        if self.parked() >= self.shared().policy.max_sleeping() {
            return false;
        }
        let Some(_turn) = session.turn_if_free() else { return false };
        if !session.uses.is_idle() || !session.park() {
            return false;
        }
        self.parked_one(session);
        self.shared().pressure.parked.fetch_add(1, Ordering::Relaxed);
        true
    }
}

impl Session {
    /// Replaces its instances by snapshots; gives whether that was so for all. Called at its turn.
    fn park(&self) -> bool {
        let mut all = true;
        for (position, function) in self.catalog().functions().iter().enumerate() {
            let was = std::mem::replace(&mut *self.slot(position), Slot::Running);
            let (now, gone) = match was {
                Slot::Idle(mut instance) => match function.image().and_then(|image| instance.snapshot(image)) {
                    Some(snapshot) => (Slot::Parked(snapshot), Some(instance)),
                    None => {
                        all = false;
                        (Slot::Idle(instance), None)
                    }
                },
                other => (other, None),
            };
            *self.slot(position) = now;
            drop(gone);
        }
        self.current().undo.shrink_to_fit();
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Host, config::Config, http::app, identity::User};
    use axum::body::Body;
    use http::Request;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use std::path::Path;
    use tower::ServiceExt;

    /// A command of a user, its status, and what came of it.
    async fn ask(host: &Arc<Host>, user: &str, command: [&str; 4]) -> (u16, Value) {
        let [command, action, param1, param2] = command;
        let input = json!({"command": command, "action": action, "param1": param1, "param2": param2});
        let request = Request::post("/generate").header("content-type", "application/json");
        let request = request.header("cookie", format!("nat-session={user}")).body(Body::from(input.to_string()));
        let response = app(host.clone()).oneshot(request.unwrap()).await.unwrap();
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.unwrap().to_bytes();
        (status, serde_json::from_slice(&body).unwrap())
    }

    /// Flips a bit in the middle of what is kept of a user's function.
    fn flip(host: &Arc<Host>, user: &str, function: &str) {
        let session = host.registry().look(User::from_credential(user)).unwrap().session;
        match &mut *session.slot(host.catalog().position(function).unwrap()) {
            Slot::Parked(snapshot) => {
                let middle = snapshot.len() / 2;
                snapshot.bytes()[middle] ^= 4;
            }
            _ => panic!("it is not parked"),
        };
    }

    const LIST: [&str; 4] = ["note", "list", "", ""];

    #[tokio::test(flavor = "multi_thread")]
    async fn a_damaged_snapshot_is_told_and_kept_and_harms_nobody_else() {
        let text = "functions: {notepad: {_type: per_user_notepad}, preferences: {_type: per_user_preferences}}
workflow: {_type: per_user_assistant}";
        let host = Host::start(Config::parse(Path::new("test.yml"), text).unwrap(), 2).await.unwrap();
        for user in ["alice", "bob"] {
            assert_eq!(ask(&host, user, ["note", "add", user, ""]).await.0, 200);
            assert_eq!(ask(&host, user, ["pref", "set", "name", user]).await.0, 200);
        }
        assert_eq!(host.registry().park_idle(Duration::ZERO).await, 2);
        flip(&host, "alice", "notepad");
        for _ in 0..3 {
            let (status, error) = ask(&host, "alice", LIST).await;
            assert_eq!((status, &error["code"]), (500, &json!("snapshot_broken")));
            assert_eq!((&error["function"], &error["dropped"]), (&json!("notepad"), &json!([])));
            let detail = error["detail"].as_str().unwrap();
            let user = User::from_credential("alice").to_string();
            assert!(detail.contains("`notepad`") && detail.contains(&user) && detail.contains("damaged"), "{detail}");
            assert!(detail.ends_with("Nothing was changed: all is as before the call."), "{detail}");
            host.registry().park_idle(Duration::ZERO).await;
        }
        let (status, other) = ask(&host, "alice", ["pref", "get", "name", ""]).await;
        assert_eq!((status, other["data"]["value"].as_str()), (200, Some("alice")));
        assert_eq!(other["data"]["commands_executed"], 3, "what could not be woken changed nothing");
        assert_eq!(ask(&host, "bob", LIST).await.1["data"]["notes"], json!(["bob"]));
        // It was never replaced by an empty one.
        flip(&host, "alice", "notepad");
        assert_eq!(ask(&host, "alice", LIST).await.1["data"]["notes"], json!(["alice"]));
    }
}
