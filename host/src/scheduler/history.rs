//! The ticks that a session's last call met: a session whose calls are long is expected to go on so.

use std::sync::atomic::{AtomicU8, Ordering};

/// The number of ticks that a session's last call met, as far as it matters.
#[derive(Debug, Default)]
pub(super) struct History(AtomicU8);

/// No call yet.
const UNKNOWN: u8 = 0;
/// The last call met no tick.
const NO_TICK: u8 = 1;
/// The last call met one tick.
const ONE_TICK: u8 = 2;
/// The last call met more than one tick.
const MORE_TICKS: u8 = 3;

/// The expectation of a session's next call, by its last one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Expected {
    /// Nothing: there was none.
    Unknown,
    Short,
    Long,
}

impl History {
    /// Notes that a call begins, and returns what is to be expected of it.
    pub(super) fn begin(&self) -> Expected {
        let last = self.0.load(Ordering::Relaxed);
        if last != NO_TICK {
            self.0.store(NO_TICK, Ordering::Relaxed);
        }
        match last {
            UNKNOWN => Expected::Unknown,
            MORE_TICKS => Expected::Long,
            _ => Expected::Short,
        }
    }

    /// Notes that the call met a tick. Returns true if it is its first.
    pub(super) fn tick(&self) -> bool {
        let is_first = self.0.load(Ordering::Relaxed) <= NO_TICK;
        self.0.store(if is_first { ONE_TICK } else { MORE_TICKS }, Ordering::Relaxed);
        is_first
    }
}
