//! Drops sessions that nobody has used for a while.

use crate::session::{pace::Pace, registry::Registry};
use std::{sync::Arc, time::Duration};
use tokio::time::{MissedTickBehavior, interval};

/// Looks at all sessions once in this time (`every`), for ever, and drops those that were idle for `timeout`.
pub(super) async fn sweep(registry: Arc<Registry>, timeout: Duration, every: Duration) {
    let mut ticks = interval(every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        let (mut dropped, mut pace) = (0, Pace::new());
        for shard in 0..registry.shards() {
            for session in registry.take_idle(shard, timeout) {
                drop(session);
                dropped += 1;
                pace.step().await;
            }
            pace.step().await;
        }
        if dropped > 0 {
            tracing::info!(dropped, live = registry.live(), "dropped sessions idle for {timeout:?}");
        }
    }
}
