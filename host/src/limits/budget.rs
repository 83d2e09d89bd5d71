//! Budgets: the units that a user or a tenant has left of its rates.

use super::{Quota, bucket::Bucket, quota::Level};
use std::time::Duration;

/// The token buckets of a user or a tenant, one for each rate that is set.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    fuel: Option<Bucket>,
    requests: Option<Bucket>,
}

/// A budget is spent: nothing was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{who} may use {per_second} {what} a second, and {burst} at once, and has used them: `{}`", self.setting())]
pub struct Spent {
    /// The level of the spent budget.
    pub level: Level,
    /// True if fuel is missing, false if a request is.
    pub is_fuel: bool,
    /// The time after which a retry may succeed.
    pub retry_after: Duration,
    who: &'static str,
    what: &'static str,
    per_second: u64,
    burst: u64,
}

impl Spent {
    /// The configuration's key that sets the rate.
    pub fn setting(&self) -> &'static str {
        match (self.level, self.is_fuel) {
            (Level::User, true) => "limits.user.fuel_per_second",
            (Level::User, false) => "limits.user.requests_per_second",
            (_, true) => "limits.tenant.fuel_per_second",
            (_, false) => "limits.tenant.requests_per_second",
        }
    }

    fn new(level: Level, is_fuel: bool, bucket: &Bucket, retry_after: Duration) -> Self {
        let who = if level == Level::User { "this user" } else { "this tenant" };
        let rate = bucket.rate();
        let what = if is_fuel { "units of fuel" } else { "requests" };
        Self { level, is_fuel, retry_after, who, what, per_second: rate.per_second, burst: rate.burst }
    }
}

impl Budget {
    /// Full buckets; `None`, if there is no rate at all.
    pub(crate) fn new(quota: &Quota) -> Option<Self> {
        let budget = Self { fuel: quota.fuel.map(Bucket::new), requests: quota.requests.map(Bucket::new) };
        (budget.fuel.is_some() || budget.requests.is_some()).then_some(budget)
    }

    /// Admits a request: takes one from the requests, and requires that fuel is left.
    pub(crate) fn admit(&self, level: Level) -> Result<(), Spent> {
        self.check_fuel(level)?;
        if let Some(requests) = &self.requests {
            requests.try_take(1).map_err(|time| Spent::new(level, false, requests, time))?;
        }
        Ok(())
    }

    /// Checks that there is fuel for a call to begin with.
    pub(crate) fn check_fuel(&self, level: Level) -> Result<(), Spent> {
        match &self.fuel {
            Some(fuel) => fuel.has(1).map_err(|time| Spent::new(level, true, fuel, time)),
            None => Ok(()),
        }
    }

    /// Gives back an admitted request that was refused elsewhere.
    pub(crate) fn readmit(&self) {
        if let Some(requests) = &self.requests {
            requests.take(-1);
        }
    }

    /// Charges fuel that was used; a negative number refunds what was charged too much.
    pub(crate) fn use_fuel(&self, units: i64) {
        if let Some(fuel) = &self.fuel {
            fuel.take(units);
        }
    }

    /// Returns true if more fuel was used than there was.
    pub(crate) fn in_debt(&self) -> bool {
        self.fuel.as_ref().is_some_and(|fuel| fuel.level() < 0)
    }

    /// Returns true if all buckets are full, as in a new budget.
    pub(crate) fn is_full(&self) -> bool {
        [&self.fuel, &self.requests].into_iter().flatten().all(Bucket::is_full)
    }

    /// Units of fuel that are left, where there is a rate.
    pub(crate) fn fuel_left(&self) -> Option<i64> {
        self.fuel.as_ref().map(Bucket::level)
    }
}
