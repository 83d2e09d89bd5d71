//! Calls in flight: those that wait or run, of all tenants and of each.

use super::{places::count_one, tenant::Tenant};
use crate::limits::{Limit, Limits, Quota, Reached};
use std::sync::atomic::{AtomicUsize, Ordering};

/// A call that counts as in flight until this is dropped or, where this is kept, until [`InFlight::end`].
pub(super) struct InFlight<'a> {
    all: &'a AtomicUsize,
    /// `None` for the operator's.
    tenant: Option<&'a Tenant>,
}

impl<'a> InFlight<'a> {
    /// Counts a call among all, of which there may be `most`, and among the tenant's.
    pub(super) fn begin(all: &'a AtomicUsize, most: usize, tenant: Option<&'a Tenant>) -> Result<Self, Reached> {
        let one_more = |calls: &AtomicUsize, row: &'static Limit, most| {
            count_one(calls, most).map_err(|most| row.reached(format!("{most} calls wait or run")))
        };
        one_more(all, Limits::CALLS, most)?;
        if let Some(tenant) = tenant
            && let Err(refusal) =
                one_more(&tenant.calls, Quota::TENANT_CALLS, tenant.limits().tenant.calls.unwrap_or(usize::MAX))
        {
            all.fetch_sub(1, Ordering::Release);
            return Err(refusal);
        }
        Ok(Self { all, tenant })
    }

    pub(super) fn keep(self) {
        std::mem::forget(self);
    }

    pub(super) fn end(all: &AtomicUsize, tenant: Option<&Tenant>) {
        if let Some(tenant) = tenant {
            tenant.calls.fetch_sub(1, Ordering::Relaxed);
        }
        // A reader that sees no call left sees all that the calls did.
        all.fetch_sub(1, Ordering::Release);
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        Self::end(self.all, self.tenant);
    }
}
