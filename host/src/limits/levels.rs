//! All limits in one list, and those of a level: the host, a tenant, a user.

use super::{
    limit::{Amount, Limit, Per, Rejection},
    quota::{Level, Quota},
    table::Limits,
};

/// All limits that there are.
pub fn all() -> impl Iterator<Item = &'static Limit> {
    Limits::ALL.iter().chain(Quota::ALL).copied().chain([Limits::MAX_PARKED])
}

impl Limits {
    /// Parked sessions that there may be. It is no key of `limits`: `sessions` says what becomes of idle ones.
    pub const MAX_PARKED: &Limit = &Limit::new(
        "sessions.max_parked",
        Per::Host,
        "parked sessions",
        Rejection::new(503, "too_many_sessions", Some(60)),
    );

    /// Each limit of the section `limits` with its amount, where it is bounded.
    pub fn amounts(&self) -> impl Iterator<Item = (&'static Limit, Amount)> {
        let quotas = [(Level::User, &self.user), (Level::Tenant, &self.tenant)];
        let quotas = quotas.into_iter().flat_map(|(level, quota)| quota.amounts(level));
        self.own_amounts().into_iter().chain(quotas.filter_map(|(limit, amount)| Some((limit, amount?))))
    }

    /// The amount of a limit. `None`: there is no bound.
    pub fn amount(&self, limit: &Limit) -> Option<Amount> {
        self.amounts().find(|(it, _)| *it == limit).map(|(_, amount)| amount)
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
        if self == Self::User { Quota::USER_FUEL } else { Quota::TENANT_FUEL }
    }

    /// The limit on requests over time. The host has none.
    pub(super) fn requests(self) -> &'static Limit {
        if self == Self::User { Quota::USER_REQUESTS } else { Quota::TENANT_REQUESTS }
    }

    pub(crate) fn memory(self) -> &'static Limit {
        match self {
            Self::User => Quota::USER_MEMORY,
            Self::Tenant => Quota::TENANT_MEMORY,
            Self::Host => Limits::MEMORY,
        }
    }
}
