//! A session's running totals.

use crate::limits::Bill;
use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, SystemTime},
};

/// The end of a call, as its user's requests are counted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// With an output.
    Answered,
    /// Without one.
    Failed,
    /// The input did not fit. Such a call is not counted as a request: NAT looks at the input before it counts.
    Misfit,
}

/// A session's running totals since it began.
#[derive(Debug)]
pub struct Account {
    created: SystemTime,
    calls: AtomicU64,
    failures: AtomicU64,
    stops: AtomicU64,
    active: AtomicU64,
    fuel: AtomicU64,
    microseconds: AtomicU64,
}

impl Account {
    pub(super) fn new() -> Self {
        Self {
            created: SystemTime::now(),
            calls: AtomicU64::new(0),
            failures: AtomicU64::new(0),
            stops: AtomicU64::new(0),
            active: AtomicU64::new(0),
            fuel: AtomicU64::new(0),
            microseconds: AtomicU64::new(0),
        }
    }

    /// When the session began.
    pub fn created(&self) -> SystemTime {
        self.created
    }

    /// Calls that ended, but for those whose input did not fit.
    pub fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    /// Those of them that ended without an output.
    pub fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Functions that were stopped, also where their callers went on.
    pub fn stops(&self) -> u64 {
        self.stops.load(Ordering::Relaxed)
    }

    pub(crate) fn stopped(&self) {
        self.stops.fetch_add(1, Ordering::Relaxed);
    }

    /// Calls that wait or run.
    pub fn active(&self) -> u64 {
        self.active.load(Ordering::Relaxed)
    }

    /// Units of fuel.
    pub fn fuel(&self) -> u64 {
        self.fuel.load(Ordering::Relaxed)
    }

    /// The average time of a call, from when its input is there to its end.
    pub fn average_latency(&self) -> Duration {
        let calls = self.calls();
        if calls == 0 {
            return Duration::ZERO;
        }
        Duration::from_micros(self.microseconds.load(Ordering::Relaxed) / calls)
    }

    /// Counts a call that arrived.
    pub(crate) fn arrive(&self) -> Active<'_> {
        self.active.fetch_add(1, Ordering::Relaxed);
        Active(&self.active)
    }

    /// Adds a call that ended.
    pub(crate) fn add(&self, bill: Bill, outcome: Outcome) {
        self.fuel.fetch_add(bill.fuel, Ordering::Relaxed);
        if outcome == Outcome::Misfit {
            return;
        }
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.failures.fetch_add((outcome == Outcome::Failed).into(), Ordering::Relaxed);
        let took = (bill.waited + bill.ran).as_micros();
        self.microseconds.fetch_add(u64::try_from(took).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A call that waits or runs, until this is dropped.
pub(crate) struct Active<'a>(&'a AtomicU64);

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
