//! The slow lane: the permits of the calls that run long.

use super::fair::{Fair, Promise};
use carrel_arena::processor_time;
use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};
use tokio::sync::Semaphore;

/// The permits.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A std mutex: nothing waits while it is held.
    fair: Mutex<Fair>,
    /// The last result of [`Fair::is_busy`].
    busy: AtomicBool,
    met: AtomicBool,
    ends: Arc<Semaphore>,
    /// The clock by which a turn is charged: the thread's processor time. Time in which the system runs something else
    /// is nobody's: the thread of whoever has used most is suspended most, and would be charged for that as well.
    clock: fn() -> Duration,
}

impl Lane {
    /// For calls of tenants with these shares, that run on so many threads.
    pub(crate) fn new(threads: usize, shares: impl IntoIterator<Item = u32>) -> Self {
        Self::with_clock(threads, shares, processor_time)
    }

    /// Like [`new`](Self::new), with another clock for turns than the processor's time.
    pub(super) fn with_clock(threads: usize, shares: impl IntoIterator<Item = u32>, clock: fn() -> Duration) -> Self {
        let fair = Mutex::new(Fair::new(threads.saturating_sub(1).max(1), shares));
        let ends = Arc::new(Semaphore::new(1));
        Self(Arc::new(Inner { fair, busy: AtomicBool::new(false), met: AtomicBool::new(false), ends, clock }))
    }

    /// The time of the clock by which turns are charged, for the thread that asks.
    pub(super) fn time(&self) -> Duration {
        (self.0.clock)()
    }

    /// Notes that a long-running guest was running when the clock ticked.
    pub(crate) fn meet(&self) {
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Returns true if one was noted since the last such question.
    pub(crate) fn was_met(&self) -> bool {
        self.0.met.swap(false, Ordering::Relaxed)
    }

    /// Returns true if any call runs long, or waits to begin because one does.
    pub(super) fn is_busy(&self) -> bool {
        self.0.busy.load(Ordering::Relaxed)
    }

    /// The right to end at the deadline: one call at a time has it.
    pub(super) fn ends(&self) -> &Arc<Semaphore> {
        &self.0.ends
    }

    /// Changes a tenant's waiting calls or permits, and tells the calls that get a permit or a place because of it.
    pub(super) fn change<T>(&self, tenant: usize, what: impl FnOnce(&mut Fair) -> T) -> T {
        let mut fair = self.0.fair.lock().unwrap_or_else(PoisonError::into_inner);
        let done = what(&mut fair);
        // One change makes one permit free, or one call wait.
        let permit = fair.promise();
        let place = fair.promise_to_begin(tenant);
        self.0.busy.store(fair.is_busy(), Ordering::Relaxed);
        drop(fair);
        permit.into_iter().chain(place).for_each(Promise::tell);
        done
    }

    /// Permits that nobody has.
    #[cfg(test)]
    pub(super) fn free(&self) -> usize {
        self.0.fair.lock().unwrap_or_else(PoisonError::into_inner).free()
    }
}
