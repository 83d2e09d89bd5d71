//! All that is done to idle sessions beside their calls.

use super::{park::park, sweep::sweep};
use crate::session::registry::Registry;
use std::{sync::Arc, time::Duration};
use tokio::task::JoinSet;

/// Drops and parks idle sessions, and makes room of them for others, for ever, in tasks that are added to a set. A
/// session is dropped when it was idle for `timeout`, which is looked at once per `interval`.
pub(crate) fn upkeep(registry: &Arc<Registry>, timeout: Duration, interval: Duration, tasks: &mut JoinSet<()>) {
    tasks.spawn(sweep(registry.clone(), timeout, interval));
    if registry.shared().policy.makes_room() {
        // Whoever wishes for room before the task has begun waits for it, and is not refused.
        let evicting = registry.shared().pressure.evicting();
        tasks.spawn(park(registry.clone(), evicting));
    }
}
