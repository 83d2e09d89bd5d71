//! Points in time, as text.

use std::time::{SystemTime, UNIX_EPOCH};

/// A point in time by RFC 3339, in UTC, with microseconds. A clock that is set before 1970 shows its beginning.
pub(crate) fn timestamp(time: SystemTime) -> String {
    humantime::format_rfc3339_micros(time.max(UNIX_EPOCH)).to_string()
}
