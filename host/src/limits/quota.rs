//! Quotas: the limits that each user, or each tenant, has besides those of calls.

use super::limit::{Amount, Field, Limit, Per, Rate, Rejection};
use crate::settings::reader::{Section, count, number, size};
use serde_json::Value;

/// The level at which a quota applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A user's, who has one session at the most.
    User,
    /// A tenant's: that of all its users together.
    Tenant,
    /// The host's: that of all.
    Host,
}

/// Declares [`Quota`], how it is read, and a [`Limit`] for each of its keys at each level that has it.
macro_rules! quotas {
    ($(
        #[doc = $doc:literal]
        $field:ident: $type:ty, read by $read:expr, told as $amount:path, $of:literal {
            $($level:ident: $row:ident = $key:literal, $rejection:expr;)+
        }
    )+) => {
        /// The quota of a user or a tenant. `None` means no bound of its own: a user is then bounded by the tenant, and
        /// a tenant by the host.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Quota {
            $(#[doc = $doc] pub $field: Option<$type>,)+
        }

        impl Quota {
            $($(
                #[doc = $doc]
                pub const $row: &Limit = &Limit::new($key, Per::$level, $of, $rejection);
            )+)+

            /// No bounds.
            pub(super) const NONE: Self = Self { $($field: None),+ };

            /// The limits of quotas.
            pub(super) const ALL: &[&Limit] = &[$($(Self::$row),+),+];

            /// `limits.user` or `limits.tenant`; a key that is not given is as in `default`.
            pub(super) fn read(mut section: Section<'_>, default: &Self, level: Level) -> Self {
                let mut quota = Self::NONE;
                $(
                    if [$(Level::$level),+].contains(&level) {
                        quota.$field = $read(&mut section, default.$field);
                    }
                )+
                section.finish();
                quota
            }

            /// Each limit of a level with its amount, where it is bounded.
            pub(super) fn amounts(&self, level: Level) -> Vec<(&'static Limit, Option<Amount>)> {
                let all = [$($((Level::$level, Self::$row, self.$field.map($amount))),+),+];
                all.into_iter().filter(|it| it.0 == level).map(|(_, limit, amount)| (limit, amount)).collect()
            }

            /// Bounds a limit. An amount of another kind changes nothing.
            pub(super) fn set(&mut self, limit: &Limit, amount: Amount) {
                $(
                    if [$(Self::$row),+].contains(&limit) && let Some(value) = Field::of(amount) {
                        self.$field = Some(value);
                    }
                )+
            }
        }
    };
}

quotas! {
    /// Fuel over time.
    fuel: Rate, read by rate("fuel_per_second", "fuel_burst"), told as Amount::Rate, "units of fuel" {
        User: USER_FUEL = "limits.user.fuel_per_second", Rejection::new(429, "budget_spent", None);
        Tenant: TENANT_FUEL = "limits.tenant.fuel_per_second", Rejection::new(429, "budget_spent", None);
    }

    /// Requests over time.
    requests: Rate, read by rate("requests_per_second", "requests_burst"), told as Amount::Rate, "requests" {
        User: USER_REQUESTS = "limits.user.requests_per_second", Rejection::new(429, "rate_limited", None);
        Tenant: TENANT_REQUESTS = "limits.tenant.requests_per_second", Rejection::new(429, "rate_limited", None);
    }

    /// Bytes that instances, snapshots and callers may take together.
    memory: usize, read by one("memory", size(1 << 16, 1 << 50)), told as Amount::Size, "of memory" {
        User: USER_MEMORY = "limits.user.memory", Rejection::new(500, "memory_exhausted", None);
        Tenant: TENANT_MEMORY = "limits.tenant.memory", Rejection::new(503, "tenant_full", Some(5));
    }

    /// Files and connections that guests may have open at once.
    open_files: usize, read by one("open_files", number(1, MOST)), told as Amount::number, "open files of guests" {
        User: USER_OPEN_FILES = "limits.user.open_files", None;
        Tenant: TENANT_OPEN_FILES = "limits.tenant.open_files", None;
    }

    /// Calls that may wait or run at once.
    calls: usize, read by one("calls", number(1, MOST)), told as Amount::number, "calls" {
        Tenant: TENANT_CALLS = "limits.tenant.calls", Rejection::new(429, "too_many_calls", Some(1));
    }

    /// Sessions that may exist, live or parked.
    sessions: usize, read by one("sessions", number(1, MOST)), told as Amount::number, "sessions" {
        Tenant: TENANT_SESSIONS = "limits.tenant.sessions", Rejection::new(503, "too_many_sessions", Some(60));
    }
}

/// The most that there may be of what is counted.
const MOST: u64 = 10_000_000;
/// The largest rate and burst.
const MOST_OVER_TIME: u64 = 1 << 53;
/// Seconds of a rate that may be used at once, where nothing else is said.
const BURST: u64 = 10;

/// Reads a bound that may be missing.
fn one<T>(
    key: &'static str,
    read: impl Fn(&Value) -> Result<T, String>,
) -> impl FnOnce(&mut Section<'_>, Option<T>) -> Option<T> {
    move |section, default| section.read(key, default, |value| read(value).map(Some))
}

/// Reads a rate and its burst.
fn rate(rate: &'static str, burst: &'static str) -> impl FnOnce(&mut Section<'_>, Option<Rate>) -> Option<Rate> {
    move |section, default| {
        let given = section.has(rate);
        let fallback = default.map(|rate| rate.per_second);
        let per_second = section.read(rate, fallback, |value| count(1, MOST_OVER_TIME)(value).map(Some));
        let key = section.path().with(burst);
        let has_burst = section.has(burst);
        let burst = section.read(burst, None, |value| count(1, MOST_OVER_TIME)(value).map(Some));
        let Some(per_second) = per_second else {
            if has_burst {
                section.problems().add(&key, format!("without `{rate}` there is nothing that it would be a burst of"));
            }
            return None;
        };
        let usual = || default.filter(|_| !given).map_or(per_second.saturating_mul(BURST), |rate| rate.burst);
        Some(Rate { per_second, burst: burst.unwrap_or_else(usual) })
    }
}
