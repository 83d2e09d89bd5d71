//! Reasons for which a call is not let in.

use crate::limits::{Level, Spent};

/// Why a call did not get its turn. Nothing was run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The user's queue is full.
    #[error("{waiting} calls of this user are already waiting, which is what `limits.queue_per_session` allows")]
    QueueFull {
        /// Calls that wait.
        waiting: usize,
    },
    /// There is no place for another session.
    #[error(transparent)]
    TooManySessions(#[from] TooManySessions),
    /// The tenant's or the host's limit of calls that wait or run is reached.
    #[error("{limit} calls wait or run, which is what `{}` allows", calls_of(*.level))]
    TooManyCalls {
        /// The level of the limit.
        level: Level,
        /// The most calls that may wait or run.
        limit: usize,
    },
    /// The user's or the tenant's budget over time is spent.
    #[error(transparent)]
    Spent(#[from] Spent),
    /// The call's deadline came before its turn did.
    #[error("the call waited for its turn for as long as `limits.deadline` allows, and was not run")]
    WaitedTooLong,
}

/// There is no place for another session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TooManySessions {
    /// No other one may be live.
    #[error("{0} sessions are live and in use, which is what `limits.max_sessions` allows")]
    Live(usize),
    /// No other one may exist, since none is parked.
    #[error("{0} sessions exist, which is what `limits.max_sessions` allows")]
    Awake(usize),
    /// The tenant may have no other one.
    #[error("this tenant has {0} sessions, which is what `limits.tenant.sessions` allows")]
    OfTenant(usize),
    /// No other one may exist, live or parked.
    #[error("{0} sessions exist, which is what `limits.max_sessions` and `sessions.max_parked` allow together")]
    All(usize),
}

/// The key that says how many calls of a level may wait or run.
pub(crate) fn calls_of(level: Level) -> &'static str {
    match level {
        Level::User => "limits.queue_per_session",
        Level::Tenant => "limits.tenant.calls",
        Level::Host => "limits.calls",
    }
}
