//! Quotas: the rates of a user or a tenant, and what each may hold at once.

use crate::settings::reader::{Section, count, size};
use std::fmt;

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

/// A rate: units per second, and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units that are added in a second.
    pub per_second: u64,
    /// Units that there may be at most.
    pub burst: u64,
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
        let fuel = Rate::read(&mut section, ["fuel_per_second", "fuel_burst"], default.fuel);
        let requests = Rate::read(&mut section, ["requests_per_second", "requests_burst"], default.requests);
        let memory = section.read("memory", default.memory, |value| size(1 << 16, 1 << 50)(value).map(Some));
        let counted = |section: &mut Section<'_>, key, default: Option<usize>| {
            section.read(key, default, |value| count(1, 10_000_000)(value).map(|number| Some(number as usize)))
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
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a second, {} at once", self.per_second, self.burst)
    }
}

impl Rate {
    /// Seconds of the rate that may be used at once, where nothing else is said.
    const BURST: u64 = 10;

    fn read(section: &mut Section<'_>, [rate, burst]: [&'static str; 2], default: Option<Self>) -> Option<Self> {
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
        let usual = || default.filter(|_| !given).map_or(per_second.saturating_mul(Self::BURST), |rate| rate.burst);
        Some(Self { per_second, burst: burst.unwrap_or_else(usual) })
    }
}
