//! The section `limits`: all keys, with their defaults and ranges, and what is told of each.

use super::{
    limit::{Amount, Field, Limit, Per, Rejection},
    machine,
    quota::{Level, Quota},
};
use crate::settings::reader::{Section, count, duration, number, size};
use std::time::Duration;

/// Declares [`Limits`], how it is read, and a [`Limit`] for each of its keys.
///
/// A default is an expression of those above it: `open_files` is what `connections` leaves. A limit `of` tenants may be
/// said of each tenant as well.
macro_rules! limits {
    ($(
        $(#[doc = $doc:literal])+
        $row:ident: $key:ident = $default:expr => $type:ty,
        $(of $tenants:ident,)? read by $read:expr, told as $amount:path, $of:literal per $per:ident, rejection: $rejection:expr;
    )+) => {
        /// `limits`: all of them, with their defaults.
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub struct Limits {
            $($(#[doc = $doc])+ pub $key: $type,)+
            /// The quota of each user.
            pub user: Quota,
            /// The quota of each tenant.
            pub tenant: Quota,
        }

        impl Default for Limits {
            fn default() -> Self {
                $(let $key: $type = $default;)+
                Self { $($key,)+ user: USER_BY_DEFAULT, tenant: Quota::NONE }
            }
        }

        impl Limits {
            $(
                $(#[doc = $doc])+
                pub const $row: &Limit = &Limit::new(concat!("limits.", stringify!($key)), Per::$per, $of, $rejection);
            )+

            /// All limits but those of quotas.
            pub(super) const ALL: &[&Limit] = &[$(Self::$row),+];

            /// `limits`.
            pub(crate) fn read(mut section: Section<'_>) -> Self {
                $(let $key: $type = section.read(stringify!($key), $default, $read);)+
                let mut limits = Self { $($key,)+ user: USER_BY_DEFAULT, tenant: Quota::NONE };
                limits.read_quotas(&mut section);
                section.finish();
                limits
            }

            /// Reads the `limits` of a tenant; a key that is not given is as for all.
            pub(crate) fn read_of_tenant(&self, mut section: Section<'_>) -> Self {
                let mut limits = self.clone();
                // Only those `of tenants` are read: the word stands for the name.
                $($(
                    let $tenants = stringify!($key);
                    limits.$key = section.read($tenants, limits.$key, $read);
                )?)+
                limits.read_quotas(&mut section);
                section.finish();
                limits
            }

            /// Sets a limit that is of no quota. An amount of another kind changes nothing.
            pub(super) fn set_own(&mut self, limit: &Limit, amount: Amount) {
                $(
                    if limit == Self::$row && let Some(value) = Field::of(amount) {
                        self.$key = value;
                    }
                )+
            }

            /// Each limit with its amount, but those of quotas.
            pub(super) fn own_amounts(&self) -> Vec<(&'static Limit, Amount)> {
                vec![$((Self::$row, $amount(self.$key))),+]
            }
        }
    };
}

/// Connections that there may be where nothing else is said.
const CONNECTIONS_BY_DEFAULT: usize = 10_000;
/// The quota of each user where nothing else is said.
const USER_BY_DEFAULT: Quota = Quota { open_files: Some(64), ..Quota::NONE };
const GIB: u64 = 1 << 30;

limits! {
    /// Fuel that a call and all that it calls may use together. A unit is about one WebAssembly instruction.
    FUEL_PER_CALL: fuel_per_call = 1_000_000_000 => u64,
    of tenants, read by count(1, u64::MAX / 2), told as Amount::Count, "units of fuel" per Call,
    rejection: Rejection::new(500, "fuel_exhausted", None);

    /// The time from a call's arrival to its end: for all that it waits for, and its run.
    DEADLINE: deadline = Duration::from_secs(10) => Duration,
    of tenants, read by duration(Duration::from_millis(10)), told as Amount::Time, "" per Call,
    rejection: Rejection::new(504, "deadline_exceeded", None);

    /// Bytes of linear memory and tables of one instance.
    MEMORY_PER_INSTANCE: memory_per_instance = 64 << 20 => usize,
    of tenants, read by size(65536, 4 * GIB), told as Amount::Size, "of memory" per Instance,
    rejection: Rejection::new(500, "memory_exhausted", None);

    /// Bytes of a call's output, and of all that it emits.
    OUTPUT_SIZE: output_size = 1 << 20 => usize,
    of tenants, read by size(1, GIB), told as Amount::Size, "of output" per Call,
    rejection: Rejection::new(500, "output_too_large", None);

    /// Bytes of a request's body, and of the input of a sibling call.
    BODY_SIZE: body_size = 1 << 20 => usize,
    of tenants, read by size(1, GIB), told as Amount::Size, "of body" per Call,
    rejection: Rejection::new(413, "body_too_large", None);

    /// Bytes of what a guest writes to stdout and stderr in one call; what is beyond is dropped.
    LOG_SIZE: log_size = 64 << 10 => usize,
    of tenants, read by size(0, GIB), told as Amount::Size, "of log lines" per Call,
    rejection: None;

    /// Calls of one session that may wait for their turn.
    QUEUE_PER_SESSION: queue_per_session = 128 => usize,
    of tenants, read by number(1, 1_000_000), told as Amount::number, "waiting calls" per Session,
    rejection: Rejection::new(429, "queue_full", Some(1));

    /// The depth to which calls may be nested: 1 lets no function call another.
    CALL_DEPTH: call_depth = 8 => usize,
    of tenants, read by number(1, 64), told as Amount::number, "deep" per Call,
    rejection: Rejection::new(500, "call_too_deep", None);

    /// Bytes that all users, callers and the log may take together.
    MEMORY: memory = machine::memory() / 4 * 3 => usize,
    read by size(1 << 20, 1 << 50), told as Amount::Size, "of memory" per Host,
    rejection: Rejection::new(503, "host_full", Some(5));

    /// Sessions that may be live at once.
    MAX_SESSIONS: max_sessions = 100_000 => usize,
    read by number(1, 1_000_000), told as Amount::number, "sessions" per Host,
    rejection: Rejection::new(503, "too_many_sessions", Some(1));

    /// Calls that may wait or run at once.
    CALLS: calls = 20_000 => usize,
    read by number(1, 10_000_000), told as Amount::number, "calls" per Host,
    rejection: Rejection::new(503, "too_many_calls", Some(1));

    /// Connections that may be open at once.
    CONNECTIONS: connections = CONNECTIONS_BY_DEFAULT => usize,
    read by number(1, 10_000_000), told as Amount::number, "connections" per Host,
    rejection: Rejection::new(503, "too_many_connections", Some(1));

    /// Files and connections that all guests may have open at once.
    OPEN_FILES: open_files = machine::descriptors_for_guests(connections) => usize,
    read by number(1, 10_000_000), told as Amount::number, "open files of guests" per Host,
    rejection: None;

    /// Bytes of a guest's file.
    GUEST_SIZE: guest_size = 32 << 20 => usize,
    read by size(1024, GIB), told as Amount::Size, "of file" per Guest,
    rejection: None;

    /// Bytes of a function's code, in a guest.
    GUEST_FUNCTION_SIZE: guest_function_size = 512 << 10 => usize,
    read by size(1024, GIB), told as Amount::Size, "of a function" per Guest,
    rejection: None;

    /// The processor time that compiling a guest may take, of all threads together.
    GUEST_COMPILE_TIME: guest_compile_time = Duration::from_secs(180) => Duration,
    read by duration(Duration::from_millis(10)), told as Amount::Time, "to be compiled" per Guest,
    rejection: None;
}

impl Limits {
    /// Reads the keys of quotas.
    fn read_quotas(&mut self, section: &mut Section<'_>) {
        self.user = Quota::read(section.section("user"), &self.user, Level::User);
        self.tenant = Quota::read(section.section("tenant"), &self.tenant, Level::Tenant);
    }
}
