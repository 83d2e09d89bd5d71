//! The slow lane: calls that run longer than a tick go on with one of a few permits.
//!
//! A guest that spins gives its thread back at every tick. With yielding alone, a hundred of them would still make
//! everybody else wait for a hundred ticks, since each of them is as runnable as a fresh call. So a call that has
//! outlived its first tick goes on only while it holds a permit, gives it back at the next tick and waits for the
//! next, first come first served. There is a permit less than there are threads: one thread is always free for calls
//! that are short.
//!
//! A call that waits, on a clock or for a slow reader, holds no permit: it gives it back and goes on without one until
//! its next tick.
//!
//! A permit belongs to a session's call, not to one of its stores: a caller that held one while its sibling waited for
//! one would wait for ever.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};
use tokio::sync::Semaphore;

/// The permits.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    permits: Semaphore,
    met: AtomicBool,
}

impl Lane {
    /// For calls that run on so many threads.
    pub(crate) fn new(threads: usize) -> Self {
        let permits = Semaphore::new(threads.saturating_sub(1).max(1));
        Self(Arc::new(Inner { permits, met: AtomicBool::new(false) }))
    }

    /// A guest that runs long was running when the clock ticked.
    pub(crate) fn meet(&self) {
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Whether one was since this was last asked.
    pub(crate) fn was_met(&self) -> bool {
        self.0.met.swap(false, Ordering::Relaxed)
    }
}

/// A session's place in the lane: it holds a permit or not.
#[derive(Debug)]
pub(crate) struct Permit {
    lane: Lane,
    held: AtomicBool,
}

impl Permit {
    pub(crate) fn new(lane: Lane) -> Self {
        Self { lane, held: AtomicBool::new(false) }
    }

    /// The lane that the permit is of.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Gives the permit back, if one is held: the call ended, or its tick did.
    pub(crate) fn give_back(&self) {
        if self.held.swap(false, Ordering::AcqRel) {
            self.lane.0.permits.add_permits(1);
        }
    }

    /// What a call does at a tick: gives its permit back and waits for the next one.
    pub(crate) fn next_turn(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        self.give_back();
        Box::pin(async move {
            tokio::task::yield_now().await;
            // The semaphore is never closed, so that there is always a permit in the end.
            if let Ok(permit) = self.lane.0.permits.acquire().await {
                // No await between these two: a call that is dropped while it waits holds nothing.
                permit.forget();
                self.held.store(true, Ordering::Release);
            }
        })
    }
}

/// A session that goes away in the middle of a call gives its permit back.
impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn permits_are_given_back_at_each_turn_at_the_end_and_when_a_call_is_dropped() {
        let lane = Lane::new(2);
        let (first, second) = (Arc::new(Permit::new(lane.clone())), Arc::new(Permit::new(lane.clone())));
        first.clone().next_turn().await;
        assert_eq!(lane.0.permits.available_permits(), 0);
        // Waiting, and dropped while it waits.
        let waiting = tokio::spawn(second.clone().next_turn());
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        first.clone().next_turn().await;
        drop(first);
        assert_eq!(lane.0.permits.available_permits(), 1);
        second.clone().next_turn().await;
        second.give_back();
        second.give_back();
        assert_eq!(lane.0.permits.available_permits(), 1);
    }
}
