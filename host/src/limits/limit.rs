//! One limit, as everything that names it knows it.

use serde_json::Value;
use std::{fmt, time::Duration};

/// A limit: a key of the configuration, and all that is told of it.
///
/// The reader, the start's listing and the errors of callers come of it. The documents' tables are tested against it; an
/// attack on it is written by hand in `prove`, and a test misses it.
#[derive(Debug)]
pub struct Limit {
    /// The key, from the top of the configuration.
    pub key: &'static str,
    /// The holder that it bounds.
    pub per: Per,
    /// The things that it counts, as the start's listing has them behind the number.
    pub of: &'static str,
    /// The answer to a caller for whom it is reached. `None`: only guests are told, or the operator at the start.
    pub rejection: Option<Rejection>,
}

/// The answer to a caller for whom a limit is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rejection {
    /// The status of HTTP.
    pub status: u16,
    /// The stable code.
    pub code: &'static str,
    /// Seconds after which another request may succeed. Of a rate they depend on what was used.
    pub retry_after: Option<u64>,
}

/// The holder that a limit bounds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Per {
    /// One call, with all that it calls.
    Call,
    /// One instance.
    Instance,
    /// One user's session.
    Session,
    /// One user.
    User,
    /// One tenant.
    Tenant,
    /// The host.
    Host,
    /// One guest, when it is loaded.
    Guest,
}

/// A limit's value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Amount {
    /// A number of things.
    Count(u64),
    /// Bytes.
    Size(usize),
    /// A time.
    Time(Duration),
    /// So much over time.
    Rate(Rate),
}

/// A rate: units per second, and a burst.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    /// Units that are added in a second.
    pub per_second: u64,
    /// Units that there may be at most.
    pub burst: u64,
}

/// A limit is reached: what was asked for was not done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{why}")]
pub struct Reached {
    /// The limit.
    pub limit: &'static Limit,
    /// The time after which another try may succeed, where that is known.
    pub retry_after: Option<Duration>,
    /// Why, in words that name the key.
    why: Box<str>,
}

impl Limit {
    pub(crate) const fn new(key: &'static str, per: Per, of: &'static str, rejection: Option<Rejection>) -> Self {
        Self { key, per, of, rejection }
    }

    /// The limit is reached by so much that is there already: `128 calls wait`.
    pub(crate) fn reached(&'static self, by: impl fmt::Display) -> Reached {
        self.reached_in_words(format!("{by}, which is what `{}` allows", self.key))
    }

    /// The limit is reached, in words of the caller's.
    pub(crate) fn reached_in_words(&'static self, why: impl Into<Box<str>>) -> Reached {
        let retry_after = self.rejection.and_then(|it| it.retry_after).map(Duration::from_secs);
        Reached { limit: self, retry_after, why: why.into() }
    }

    /// The stable code that tells callers, or guests, of it.
    pub fn code(&self) -> Option<&'static str> {
        self.rejection.map(|it| it.code)
    }
}

/// Limits are equal if their keys are.
impl PartialEq for Limit {
    fn eq(&self, other: &Self) -> bool {
        self.key == other.key
    }
}

impl Eq for Limit {}

impl Reached {
    /// Sets the time after which another try will succeed.
    pub(crate) fn until(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }
}

impl Rejection {
    pub(crate) const fn new(status: u16, code: &'static str, retry_after: Option<u64>) -> Option<Self> {
        Some(Self { status, code, retry_after })
    }
}

impl Amount {
    pub(super) fn number(number: usize) -> Self {
        Self::Count(number as u64)
    }

    /// The amount of something, for people.
    pub(crate) fn told(self, of: &str) -> String {
        match self {
            Self::Rate(Rate { per_second, burst }) => format!("{per_second} {of} a second, {burst} at once"),
            amount => format!("{amount} {of}").trim_end().to_owned(),
        }
    }

    /// A number for programs: bytes, seconds, or units a second.
    pub(crate) fn as_json(self) -> Value {
        match self {
            Self::Count(count) => count.into(),
            Self::Size(bytes) => bytes.into(),
            Self::Time(time) => time.as_secs_f64().into(),
            Self::Rate(rate) => rate.per_second.into(),
        }
    }
}

impl fmt::Display for Amount {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(count) => count.fmt(f),
            Self::Size(bytes) => bytesize::ByteSize::b(*bytes as u64).fmt(f),
            Self::Time(time) => humantime::format_duration(*time).fmt(f),
            Self::Rate(rate) => rate.fmt(f),
        }
    }
}

impl fmt::Display for Rate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} a second, {} at once", self.per_second, self.burst)
    }
}

/// A type of a field that has an amount.
pub(super) trait Field: Sized {
    /// The field's value; `None` where the amount is of another kind.
    fn of(amount: Amount) -> Option<Self>;
}

macro_rules! fields {
    ($($type:ty: $kind:ident),+) => {
        $(
            impl Field for $type {
                fn of(amount: Amount) -> Option<Self> {
                    if let Amount::$kind(value) = amount { Some(value) } else { None }
                }
            }
        )+
    };
}

fields!(u64: Count, Duration: Time, Rate: Rate);

/// A field of the machine's size has a number of things, or of bytes.
impl Field for usize {
    fn of(amount: Amount) -> Option<Self> {
        match amount {
            Amount::Count(count) => count.try_into().ok(),
            Amount::Size(bytes) => Some(bytes),
            _ => None,
        }
    }
}
