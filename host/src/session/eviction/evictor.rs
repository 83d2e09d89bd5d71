//! Makes room for those who wish for it: see `pressure`.
//!
//! Each scope has an evictor, so that nobody waits for room that is made in another scope. It works in rounds: a
//! round takes all wishes that there are, looks at all idle sessions of the scope, and parks those that have been
//! idle for longest, until as much was freed as is needed. To look at all of them takes its time, so a round parks a
//! part of them at least.

use super::pressure::{Room, Scope};
use crate::session::{live::Session, registry::Registry, tidy::TIDYING};
use std::{sync::Arc, time::Duration};
use tokio::{
    task::{JoinSet, yield_now},
    time::Instant,
};

/// One in so many idle sessions is parked, or dropped, in a round, even if less is needed.
const SHARE: usize = 64;
/// The most looks for idle sessions that can be parked, if none of those that were found could be.
const TRIES: usize = 4;
/// Shards that are looked at in one go.
const SHARDS: usize = 64;

/// Runs the evictors of all scopes, until the returned set is dropped.
pub(super) fn evictors(registry: &Arc<Registry>) -> JoinSet<()> {
    let mut evictors = JoinSet::new();
    for scope in registry.shared().pressure.scopes() {
        evictors.spawn(evict(registry.clone(), scope));
    }
    evictors
}

/// Answers the wishes of one scope, for ever.
async fn evict(registry: Arc<Registry>, scope: Scope) {
    let pressure = &registry.shared().pressure;
    loop {
        let (newest, need) = pressure.wishes(scope).await;
        if park_some(&registry, scope, need).await.is_none() && registry.shared().policy.drop_longest_idle {
            drop_some(&registry, scope, need).await;
        }
        pressure.answer(scope, newest);
    }
}

/// Parks the longest idle sessions of a scope.
async fn park_some(registry: &Registry, scope: Scope, need: Room) -> Room {
    let (mut freed, mut tidied) = (Room::default(), registry.shared().tidying.watch());
    // The sessions found idle may all be in use by the time they are tried, and others idle by then.
    for _ in 0..TRIES {
        let mut idle = idle(registry, |shard| registry.idle_live(shard, Duration::ZERO, scope.tenant())).await;
        let enough = (idle.len() / SHARE).max(1);
        let (none, mut helped) = (idle.is_empty(), 0);
        // Each last use is read once: some sessions may be used during the sort.
        idle.sort_by_cached_key(|session| session.uses.last());
        for session in idle {
            let room = registry.park(&session).await;
            helped += usize::from(!room.is_none());
            freed += room;
            if helped >= enough && freed.covers(need) {
                break;
            }
            yield_now().await;
        }
        if !freed.is_none() {
            break;
        }
        // A session that is being tidied is idle soon.
        if !tidied.another(Instant::now() + TIDYING).await && none {
            break;
        }
    }
    freed
}

/// Drops the longest idle sessions of a scope, whether they are live or parked.
async fn drop_some(registry: &Registry, scope: Scope, need: Room) {
    let mut idle = idle(registry, |shard| registry.idle(shard, scope.tenant())).await;
    let enough = (idle.len() / SHARE).max(1);
    idle.sort_unstable();
    let (mut freed, mut dropped) = (Room::default(), 0);
    for (_, user) in idle {
        if let Ok(session) = registry.take_if_idle(user) {
            freed += drop_one(registry, session);
            dropped += 1;
        }
        if dropped >= enough && freed.covers(need) {
            break;
        }
        yield_now().await;
    }
    if dropped > 0 {
        tracing::warn!(dropped, "dropped the longest idle sessions: there was no room for others");
    }
}

/// Drops a session that was taken out of the registry. Whoever looks at it just now keeps it for that long.
fn drop_one(registry: &Registry, session: Arc<Session>) -> Room {
    let (tenant, freed) = (session.user().tenant(), Room { sessions: 1, bytes: session.memory().used() });
    drop(session);
    registry.shared().pressure.was_dropped(tenant, freed);
    freed
}

/// Collects all that `look` finds in each shard, yielding in between.
async fn idle<T>(registry: &Registry, look: impl Fn(usize) -> Vec<T>) -> Vec<T> {
    let mut found = Vec::new();
    for shard in 0..registry.shards() {
        found.append(&mut look(shard));
        if shard % SHARDS == SHARDS - 1 {
            yield_now().await;
        }
    }
    found
}
