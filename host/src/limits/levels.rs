//! The limits that there are at each level: of a user, of a tenant, and of the host.

use super::{
    limit::{Amount, Answer, Limit, Per},
    quota::{
        self, Level, TENANT_CALLS, TENANT_FUEL, TENANT_MEMORY, TENANT_REQUESTS, USER_FUEL, USER_MEMORY, USER_REQUESTS,
    },
    table::{CALLS, Limits, MEMORY, QUEUE_PER_SESSION},
};

/// Parked sessions that there may be. The key is one of the section `sessions`.
pub static MAX_PARKED: Limit =
    Limit::new("sessions.max_parked", Per::Host, "parked sessions", Answer::new(503, "too_many_sessions", Some(60)));

/// All limits that there are.
pub fn all() -> impl Iterator<Item = &'static Limit> {
    Limits::ALL.iter().chain(quota::ALL).copied().chain([&MAX_PARKED])
}

impl Limits {
    /// The amount of a limit. `None`: there is no bound.
    pub fn amount(&self, limit: &Limit) -> Option<Amount> {
        let quotas = [(Level::User, &self.user), (Level::Tenant, &self.tenant)];
        let quotas = quotas.into_iter().flat_map(|(level, quota)| quota.amounts(level));
        let all = self.amounts().into_iter().map(|(limit, amount)| (limit, Some(amount))).chain(quotas);
        all.into_iter().find(|(it, _)| *it == limit).and_then(|(_, amount)| amount)
    }

    /// Sets a limit. An amount of another kind changes nothing.
    pub(crate) fn set(&mut self, limit: &Limit, amount: Amount) {
        match limit.per {
            Per::User => self.user.set(limit, amount),
            Per::Tenant => self.tenant.set(limit, amount),
            _ => self.set_own(limit, amount),
        }
    }
}

impl Level {
    /// The limit on fuel over time. The host has none.
    pub(super) fn fuel(self) -> &'static Limit {
        if self == Self::User { &USER_FUEL } else { &TENANT_FUEL }
    }

    /// The limit on requests over time. The host has none.
    pub(super) fn requests(self) -> &'static Limit {
        if self == Self::User { &USER_REQUESTS } else { &TENANT_REQUESTS }
    }

    /// The limit on memory.
    pub(crate) fn memory(self) -> &'static Limit {
        match self {
            Self::User => &USER_MEMORY,
            Self::Tenant => &TENANT_MEMORY,
            Self::Host => &MEMORY,
        }
    }

    /// The limit on calls that wait or run.
    pub(crate) fn calls(self) -> &'static Limit {
        match self {
            Self::User => &QUEUE_PER_SESSION,
            Self::Tenant => &TENANT_CALLS,
            Self::Host => &CALLS,
        }
    }
}
