//! Quotas: the rates of a user or a tenant, and what each may hold at once.

use super::limit::{Amount, Answer, Field, Limit, Per, Rate};
use crate::settings::reader::{Section, count, number, size};

macro_rules! quotas {
    ($($(#[doc = $doc:literal])+ $row:ident: $key:literal, $of:literal per $per:ident, answer: $answer:expr;)+) => {
        $($(#[doc = $doc])+ pub static $row: Limit = Limit::new($key, Per::$per, $of, $answer);)+

        /// The limits of quotas.
        pub(super) const ALL: &[&Limit] = &[$(&$row),+];
    };
}

quotas! {
    /// Fuel that a user may use over time.
    USER_FUEL: "limits.user.fuel_per_second", "units of fuel a second" per User,
    answer: Answer::new(429, "budget_spent", None);

    /// Requests that a user may make over time.
    USER_REQUESTS: "limits.user.requests_per_second", "requests a second" per User,
    answer: Answer::new(429, "rate_limited", None);

    /// Bytes that a user's instances and snapshots may take together.
    USER_MEMORY: "limits.user.memory", "of memory" per User,
    answer: Answer::new(500, "memory_exhausted", None);

    /// Files and connections that a user's guests may have open at once.
    USER_OPEN_FILES: "limits.user.open_files", "open files of guests" per User,
    answer: None;

    /// Fuel that a tenant's users may use over time.
    TENANT_FUEL: "limits.tenant.fuel_per_second", "units of fuel a second" per Tenant,
    answer: Answer::new(429, "budget_spent", None);

    /// Requests that a tenant's users may make over time.
    TENANT_REQUESTS: "limits.tenant.requests_per_second", "requests a second" per Tenant,
    answer: Answer::new(429, "rate_limited", None);

    /// Bytes that a tenant's instances and snapshots may take together.
    TENANT_MEMORY: "limits.tenant.memory", "of memory" per Tenant,
    answer: Answer::new(503, "tenant_full", Some(5));

    /// Files and connections that a tenant's guests may have open at once.
    TENANT_OPEN_FILES: "limits.tenant.open_files", "open files of guests" per Tenant,
    answer: None;

    /// Calls of a tenant that may wait or run at once.
    TENANT_CALLS: "limits.tenant.calls", "calls" per Tenant,
    answer: Answer::new(429, "too_many_calls", Some(1));

    /// Sessions that a tenant may have, live or parked.
    TENANT_SESSIONS: "limits.tenant.sessions", "sessions" per Tenant,
    answer: Answer::new(503, "too_many_sessions", Some(60));
}

/// The quota of a user or a tenant. `None` means no bound of its own: a user is then bounded by the tenant, and a
/// tenant by the host.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Quota {
    /// Fuel over time.
    pub fuel: Option<Rate>,
    /// Requests over time.
    pub requests: Option<Rate>,
    /// Bytes that instances and snapshots may take together.
    pub memory: Option<usize>,
    /// Files and connections that guests may have open at once.
    pub open_files: Option<usize>,
    /// Calls that may wait or run at once; for tenants.
    pub calls: Option<usize>,
    /// Sessions that may exist; for tenants.
    pub sessions: Option<usize>,
}

/// The level at which a quota applies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// A user's, in each of their sessions.
    User,
    /// A tenant's: that of all its users together.
    Tenant,
    /// The host's: that of all.
    Host,
}

impl Quota {
    pub(super) fn read(mut section: Section<'_>, default: &Self, level: Level) -> Self {
        let fuel = read_rate(&mut section, ["fuel_per_second", "fuel_burst"], default.fuel);
        let requests = read_rate(&mut section, ["requests_per_second", "requests_burst"], default.requests);
        let memory = section.read("memory", default.memory, |value| size(1 << 16, 1 << 50)(value).map(Some));
        let counted = |section: &mut Section<'_>, key, default: Option<usize>| {
            section.read(key, default, |value| number(1, 10_000_000)(value).map(Some))
        };
        let open_files = counted(&mut section, "open_files", default.open_files);
        let (mut calls, mut sessions) = (None, None);
        if level == Level::Tenant {
            calls = counted(&mut section, "calls", default.calls);
            sessions = counted(&mut section, "sessions", default.sessions);
        }
        section.finish();
        Self { fuel, requests, memory, open_files, calls, sessions }
    }

    /// Sets a limit of a level. An amount of another kind changes nothing.
    pub(super) fn set(&mut self, limit: &Limit, amount: Amount) {
        let of = |rows: [&Limit; 2]| rows.contains(&limit);
        if of([&USER_FUEL, &TENANT_FUEL]) {
            self.fuel = Field::of(amount);
        } else if of([&USER_REQUESTS, &TENANT_REQUESTS]) {
            self.requests = Field::of(amount);
        } else if of([&USER_MEMORY, &TENANT_MEMORY]) {
            self.memory = Field::of(amount);
        } else if of([&USER_OPEN_FILES, &TENANT_OPEN_FILES]) {
            self.open_files = Field::of(amount);
        } else if *limit == TENANT_CALLS {
            self.calls = Field::of(amount);
        } else if *limit == TENANT_SESSIONS {
            self.sessions = Field::of(amount);
        }
    }

    /// Each limit of a level with its amount, where it is bounded.
    pub(super) fn amounts(&self, level: Level) -> Vec<(&'static Limit, Option<Amount>)> {
        let [fuel, requests] = [self.fuel, self.requests].map(|rate| rate.map(Amount::Rate));
        let memory = self.memory.map(Amount::Size);
        let [files, calls, sessions] = [self.open_files, self.calls, self.sessions].map(|it| it.map(Amount::number));
        match level {
            Level::User => {
                vec![(&USER_FUEL, fuel), (&USER_REQUESTS, requests), (&USER_MEMORY, memory), (&USER_OPEN_FILES, files)]
            }
            Level::Tenant => vec![
                (&TENANT_FUEL, fuel),
                (&TENANT_REQUESTS, requests),
                (&TENANT_MEMORY, memory),
                (&TENANT_OPEN_FILES, files),
                (&TENANT_CALLS, calls),
                (&TENANT_SESSIONS, sessions),
            ],
            Level::Host => Vec::new(),
        }
    }
}

/// Seconds of a rate that may be used at once, where nothing else is said.
const BURST: u64 = 10;

fn read_rate(section: &mut Section<'_>, [rate, burst]: [&'static str; 2], default: Option<Rate>) -> Option<Rate> {
    const MOST: u64 = 1 << 53;
    let given = section.has(rate);
    let fallback = default.map(|rate| rate.per_second);
    let per_second = section.read(rate, fallback, |value| count(1, MOST)(value).map(Some));
    let key = section.path().with(burst);
    let has_burst = section.has(burst);
    let burst = section.read(burst, None, |value| count(1, MOST)(value).map(Some));
    let Some(per_second) = per_second else {
        if has_burst {
            section.problems().add(&key, format!("without `{rate}` there is nothing that it would be a burst of"));
        }
        return None;
    };
    let usual = || default.filter(|_| !given).map_or(per_second.saturating_mul(BURST), |rate| rate.burst);
    Some(Rate { per_second, burst: burst.unwrap_or_else(usual) })
}
