//! A token bucket: fills at a steady rate up to its burst, and is charged for what is used.
//!
//! A call's usage is known only when it has ended, so the level may fall below zero. The debt is paid before anything
//! else is admitted, and over time nobody gets more than the rate.

use super::Rate;
use std::{
    sync::{Mutex, MutexGuard, PoisonError},
    time::Duration,
};
use tokio::time::Instant;

/// A token bucket.
#[derive(Debug)]
pub(crate) struct Bucket {
    rate: Rate,
    state: Mutex<Filling>,
}

#[derive(Debug)]
struct Filling {
    /// Units times a thousand million, so that a nanosecond adds a whole number to it: exactly the rate.
    level: i128,
    at: Instant,
}

const NANOS: i128 = 1_000_000_000;

impl Bucket {
    /// Makes a full bucket.
    pub(crate) fn new(rate: Rate) -> Self {
        let state = Filling { level: i128::from(rate.burst) * NANOS, at: Instant::now() };
        Self { rate, state: Mutex::new(state) }
    }

    /// The rate at which the bucket fills, and its burst.
    pub(crate) fn rate(&self) -> Rate {
        self.rate
    }

    /// The units in the bucket; negative while in debt.
    pub(crate) fn level(&self) -> i64 {
        i64::try_from(self.filled().level.div_euclid(NANOS)).unwrap_or(i64::MIN)
    }

    /// Returns true if the bucket is full.
    pub(crate) fn is_full(&self) -> bool {
        self.filled().level >= i128::from(self.rate.burst) * NANOS
    }

    /// Checks that the bucket has this many units; the error is the time until it has.
    pub(crate) fn has(&self, units: u64) -> Result<(), Duration> {
        self.until(&self.filled(), units)
    }

    /// Takes units if the bucket has them; the error is the time until it has.
    pub(crate) fn try_take(&self, units: u64) -> Result<(), Duration> {
        let mut state = self.filled();
        self.until(&state, units)?;
        state.level -= i128::from(units) * NANOS;
        Ok(())
    }

    /// Takes units, into debt if need be; gives units back if negative.
    pub(crate) fn take(&self, units: i64) {
        let mut state = self.filled();
        state.level = (state.level - i128::from(units) * NANOS).min(i128::from(self.rate.burst) * NANOS);
    }

    fn until(&self, state: &Filling, units: u64) -> Result<(), Duration> {
        // A request for more than the burst is met when the bucket is full.
        let missing = i128::from(units.min(self.rate.burst)) * NANOS - state.level;
        if missing <= 0 {
            return Ok(());
        }
        let nanos = missing.unsigned_abs().div_ceil(self.rate.per_second.into());
        Err(Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX)))
    }

    /// The state, filled up to the present.
    fn filled(&self) -> MutexGuard<'_, Filling> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let passed = now.saturating_duration_since(state.at).as_nanos();
        let more = i128::try_from(passed).unwrap_or(i128::MAX).saturating_mul(self.rate.per_second.into());
        state.level = state.level.saturating_add(more).min(i128::from(self.rate.burst) * NANOS);
        state.at = now;
        state
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::advance;

    #[tokio::test(start_paused = true)]
    async fn over_time_nobody_gets_more_than_the_burst_and_the_rate() {
        let bucket = Bucket::new(Rate { per_second: 1000, burst: 500 });
        let mut got = 0;
        for _ in 0..10_000 {
            got += u64::from(bucket.try_take(7).is_ok()) * 7;
            advance(Duration::from_millis(1)).await;
        }
        assert!((10_480..=10_500).contains(&got), "{got}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_debt_is_paid_first_and_the_time_that_is_told_is_true() {
        let bucket = Bucket::new(Rate { per_second: 1000, burst: 100 });
        bucket.take(1000);
        assert_eq!((bucket.level(), bucket.has(1)), (-900, Err(Duration::from_millis(901))));
        advance(Duration::from_millis(900)).await;
        assert_eq!(bucket.has(1), Err(Duration::from_millis(1)));
        advance(Duration::from_millis(1)).await;
        assert_eq!(bucket.has(1), Ok(()));
        bucket.take(-5000);
        assert_eq!(bucket.level(), 100, "what was taken too much is given back, and no more than it holds is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_more_than_it_holds_is_let_in_when_it_is_full() {
        let bucket = Bucket::new(Rate { per_second: 10, burst: 5 });
        assert_eq!(bucket.try_take(8), Ok(()));
        assert_eq!(bucket.try_take(8), Err(Duration::from_millis(800)));
    }

    #[tokio::test(start_paused = true)]
    async fn it_is_full_when_all_that_was_taken_is_there_again() {
        let bucket = Bucket::new(Rate { per_second: 10, burst: 5 });
        assert!(bucket.is_full());
        bucket.take(1);
        advance(Duration::from_millis(99)).await;
        assert!(!bucket.is_full());
        advance(Duration::from_millis(1)).await;
        assert!(bucket.is_full());
    }
}
