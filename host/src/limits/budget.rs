//! Budgets: the units that a user or a tenant has left of its rates.

use super::{
    Quota,
    bucket::Bucket,
    limit::{Limit, Per, Rate, Reached},
    quota::Level,
};
use std::time::Duration;

/// The token buckets of a user or a tenant, one for each rate that is set.
#[derive(Debug, Default)]
pub(crate) struct Budget {
    fuel: Option<Bucket>,
    requests: Option<Bucket>,
}

/// A budget is spent, and has some again after this time: nothing is run.
fn spent(limit: &'static Limit, bucket: &Bucket, time: Duration) -> Reached {
    let who = if limit.per == Per::User { "this user" } else { "this tenant" };
    let (Limit { key, of, .. }, Rate { per_second, burst }) = (limit, bucket.rate());
    let why = format!("{who} may use {per_second} {of} a second, and {burst} at once, and has used them: `{key}`");
    limit.reached_in_words(why).until(time)
}

impl Budget {
    /// Full buckets; `None`, if there is no rate at all.
    pub(crate) fn new(quota: &Quota) -> Option<Self> {
        let budget = Self { fuel: quota.fuel.map(Bucket::new), requests: quota.requests.map(Bucket::new) };
        (budget.fuel.is_some() || budget.requests.is_some()).then_some(budget)
    }

    /// Admits a request: takes one from the requests, and requires that fuel is left.
    pub(crate) fn admit(&self, level: Level) -> Result<(), Reached> {
        self.check_fuel(level)?;
        if let Some(requests) = &self.requests {
            requests.try_take(1).map_err(|time| spent(level.requests(), requests, time))?;
        }
        Ok(())
    }

    /// Checks that there is fuel for a call to begin with.
    pub(crate) fn check_fuel(&self, level: Level) -> Result<(), Reached> {
        match &self.fuel {
            Some(fuel) => fuel.has(1).map_err(|time| spent(level.fuel(), fuel, time)),
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
