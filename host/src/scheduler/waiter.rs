//! A call's place in one of the lane's queues.

use super::lane::Lane;
use std::time::Duration;
use tokio::{sync::oneshot, task::yield_now};

/// A call that waits. Dropping it leaves the queue, and gives back what was already promised.
pub(super) struct Waiter {
    lane: Lane,
    tenant: usize,
    /// None once it has what it waited for.
    waits: Option<Waits>,
}

/// The queue that a call waits in, and its number there.
#[derive(Debug, Clone, Copy)]
pub(super) enum Waits {
    ToBegin((bool, u64)),
    ForTurn(u64),
}

impl Waiter {
    pub(super) fn new(lane: Lane, tenant: usize, waits: Waits) -> Self {
        Self { lane, tenant, waits: Some(waits) }
    }

    /// Waits until the permit or place is promised. It is the caller's then.
    pub(super) async fn told(mut self, told: oneshot::Receiver<()>) {
        // The sender is kept until the promise is told.
        let _ = told.await;
        // Whoever is woken by a task that ends its turn is run next on the same thread, before all that wait there: one
        // turn would follow the other. Yielding lets the others go first.
        yield_now().await;
        self.waits = None;
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        let Some(waits) = self.waits else { return };
        let tenant = self.tenant;
        self.lane.change(tenant, |fair| match waits {
            Waits::ForTurn(number) if !fair.leave(tenant, number) => fair.give_back(tenant, Duration::ZERO),
            Waits::ToBegin(number) if !fair.leave_beginning(tenant, number) => fair.began(tenant),
            _ => {}
        });
    }
}
