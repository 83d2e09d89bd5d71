//! All that is done to idle sessions beside their calls.

use super::{park::park, sweep::sweep};
use crate::session::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Drops and parks idle sessions, and makes room of them for others, for ever: in tasks that end when the set is
/// dropped. A session is dropped when it was idle for `timeout`, which is looked at once per `interval`.
pub(crate) fn upkeep(registry: &Arc<Registry>, timeout: Duration, interval: Duration) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    tasks.spawn(sweep(registry.clone(), timeout, interval));
    let policy = &registry.shared().policy;
    if policy.makes_room() {
        tasks.spawn(park(registry.clone(), policy.park_after));
    }
    tasks
}
