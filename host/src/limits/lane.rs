//! The slow lane: calls that run longer than a tick go on with one of a few permits.
//!
//! A guest that spins gives its thread back at every tick. With yielding alone, a hundred of them would still make
//! everybody else wait for a hundred ticks, since each of them is as runnable as a fresh call. So a call that has
//! outlived its first tick goes on only while it holds a permit, gives it back at the next tick and waits for the
//! next. Tenants take turns, by their shares: see `fair`. There is a permit less than there are threads: one thread is
//! always free for calls that are short.
//!
//! A call that waits, on a clock or for a slow reader, holds no permit: it gives it back and goes on without one until
//! its next tick.
//!
//! A permit belongs to a session's call, not to one of its stores: a caller that held one while its sibling waited for
//! one would wait for ever.

use super::fair::Fair;
use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};
use tokio::sync::oneshot;

/// The permits.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A std mutex: nothing waits while it is held.
    fair: Mutex<Fair>,
    met: AtomicBool,
}

impl Lane {
    /// For calls of tenants with these shares, that run on so many threads.
    pub(crate) fn new(threads: usize, shares: impl IntoIterator<Item = u32>) -> Self {
        let fair = Mutex::new(Fair::new(threads.saturating_sub(1).max(1), shares));
        Self(Arc::new(Inner { fair, met: AtomicBool::new(false) }))
    }

    /// A guest that runs long was running when the clock ticked.
    pub(crate) fn meet(&self) {
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Whether one was since this was last asked.
    pub(crate) fn was_met(&self) -> bool {
        self.0.met.swap(false, Ordering::Relaxed)
    }

    /// Changes who waits or holds, and tells whoever has a permit because of that.
    fn change<T>(&self, what: impl FnOnce(&mut Fair) -> T) -> T {
        let mut fair = self.0.fair.lock().unwrap_or_else(PoisonError::into_inner);
        let done = what(&mut fair);
        // One change makes one permit free, or one call wait.
        let promise = fair.promise();
        drop(fair);
        if let Some(promise) = promise {
            promise.tell();
        }
        done
    }
}

/// A session's place in the lane: it holds a permit or not.
#[derive(Debug)]
pub(crate) struct Permit {
    lane: Lane,
    /// The tenant's place in the configuration.
    tenant: usize,
    /// Since when it is held.
    held: Mutex<Option<Instant>>,
}

impl Permit {
    pub(crate) fn new(lane: Lane, tenant: u16) -> Self {
        Self { lane, tenant: tenant.into(), held: Mutex::new(None) }
    }

    /// The lane that the permit is of.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Gives the permit back, if one is held: the call ended, or its tick did.
    pub(crate) fn give_back(&self) {
        if let Some(held) = self.take() {
            self.lane.change(|fair| fair.give_back(self.tenant, held));
        }
    }

    /// Takes note that no permit is held any more; for how long one was.
    fn take(&self) -> Option<Duration> {
        let since = self.held.lock().unwrap_or_else(PoisonError::into_inner).take();
        since.map(|since| since.elapsed())
    }

    /// What a call does at a tick: gives its permit back and waits for the next one.
    pub(crate) fn next_turn(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (tell, told) = oneshot::channel();
        let held = self.take();
        // In one step: it may be this very call's turn again, since it may be its tenant's only one.
        let number = self.lane.change(|fair| {
            let number = fair.wait(self.tenant, tell);
            held.into_iter().for_each(|held| fair.give_back(self.tenant, held));
            number
        });
        let place = Place { permit: self, number: Some(number) };
        Box::pin(async move {
            tokio::task::yield_now().await;
            // Who is to tell keeps the other end until it has.
            let _ = told.await;
            place.keep();
        })
    }
}

/// A session that goes away in the middle of a call gives its permit back.
impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A call's place among those that wait. A call that is dropped while it waits leaves it, and what it was promised.
struct Place {
    permit: Arc<Permit>,
    number: Option<u64>,
}

impl Place {
    /// It has its permit.
    fn keep(mut self) {
        self.number = None;
        *self.permit.held.lock().unwrap_or_else(PoisonError::into_inner) = Some(Instant::now());
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Permit { lane, tenant, .. } = &*self.permit;
        if let Some(number) = self.number {
            lane.change(|fair| {
                if !fair.leave(*tenant, number) {
                    fair.give_back(*tenant, Duration::ZERO);
                }
            });
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn free(lane: &Lane) -> usize {
        lane.0.fair.lock().unwrap().free()
    }

    #[tokio::test]
    async fn permits_are_given_back_at_each_turn_at_the_end_and_when_a_call_is_dropped() {
        let lane = Lane::new(2, [1]);
        let (first, second) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 0)));
        first.clone().next_turn().await;
        assert_eq!(free(&lane), 0);
        // Waiting, and dropped while it waits.
        let waiting = tokio::spawn(second.clone().next_turn());
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        first.clone().next_turn().await;
        // Promised a permit, and dropped before it has looked.
        let promised = second.clone().next_turn();
        first.give_back();
        drop(promised);
        assert_eq!(free(&lane), 1);
        first.clone().next_turn().await;
        drop(first);
        assert_eq!(free(&lane), 1);
        second.clone().next_turn().await;
        second.give_back();
        second.give_back();
        assert_eq!(free(&lane), 1);
    }

    #[tokio::test]
    async fn a_tenants_only_call_may_have_the_next_turn_too() {
        let lane = Lane::new(2, [1, 1000]);
        let (one, other) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 1)));
        one.clone().next_turn().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut waiting = tokio::spawn(other.clone().next_turn());
        tokio::task::yield_now().await;
        let again = tokio::spawn(one.clone().next_turn());
        (&mut waiting).await.unwrap();
        other.clone().next_turn().await;
        assert!(!again.is_finished(), "its share is a thousandth of the other's");
        again.abort();
    }
}
