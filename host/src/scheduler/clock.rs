//! The clock that stops guests: its intervals, and the time that counts as short.

use std::time::Duration;

/// The interval of the clock that stops guests: the time for which a guest can hold a thread before another gets it.
/// A shorter one is fairer, and wakes the clock's thread more often.
pub const TICK: Duration = Duration::from_micros(500);
/// The clock's interval while no guest runs for long. [`TICK`] would then cost some 5 % of a core for nothing, and
/// interrupt a busy one. A guest that begins to spin meanwhile holds its thread for this long, once.
pub(crate) const SLOW_TICK: Duration = Duration::from_millis(5);
/// Ticks without meeting a guest after which the clock slows down.
pub(crate) const TICKS_UNTIL_SLOW: u32 = 200;
/// A call that has run no longer than this when the clock ticks goes on at once: it is a short one that the tick
/// happened to meet.
pub(crate) const SHORT: Duration = Duration::from_micros(250);
