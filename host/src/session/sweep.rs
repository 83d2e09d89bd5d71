//! Drops sessions that nobody has used for a while.

use super::Registry;
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// Sessions that are dropped before others get a turn: each takes some 20 microseconds.
const BATCH: usize = 32;

/// Looks at all sessions once per `interval`, for ever, and drops those that were idle for `timeout`.
pub(crate) async fn sweep(registry: Arc<Registry>, timeout: Duration, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let mut dropped = 0;
        for shard in 0..registry.shards() {
            let mut idle = registry.take_idle(shard, timeout);
            dropped += idle.len();
            while !idle.is_empty() {
                idle.truncate(idle.len().saturating_sub(BATCH));
                tokio::task::yield_now().await;
            }
        }
        if dropped > 0 {
            tracing::info!(dropped, live = registry.live(), "dropped sessions idle for {timeout:?}");
        }
    }
}
