//! The host's work for a guest, and its prices in fuel.
//!
//! A guest's own code pays for each instruction. What it asks of the host is paid for here, all of it, so that nobody
//! gets work for nothing: each call of an import, and what it copies or makes, byte by byte, where that is known. So
//! the same call of the same instance costs the same each time, whoever else is there and however long it takes.
//!
//! Imports of `carrel:function` take what they cost off the store's fuel at once. WASI has no access to the store:
//! it notes the fuel [owed](Work). The next import that has access takes it off, or the end of the call does. A
//! guest that owes more than it has left is stopped when the clock ticks in it next, or at its end: in either case
//! it has used all it had, so what a call costs and whether it fails do not depend on when the clock ticks.
//! (wasmtime's own hook at each crossing would take it off at once, but it is met at the crossings into guests as
//! well, of which there are many more.)
//!
//! Instructions with which wasmtime itself helps, such as `memory.grow`, cost what it counts for them.
//!
//! # The prices
//!
//! A unit is about a simple instruction. In the host as it is shipped, guests' own code was measured to take 0.08 to
//! 0.15 ns a unit, and what is paid for here 0.18 to 0.35: by fuel, a guest gets up to four times as much of the
//! processor when it asks the host for something as when it computes, and never more. (Two cores of an AMD EPYC;
//! guests were `tests/guests/raw/flood.wat` and `guests/hostile`, the time what `server-timing` says of a
//! call.) A call out of a guest took 0.12 to 0.28 us, a random byte 8 ns, a byte that is copied or written 0.3 ns, a
//! pollable of a list 36 ns, and a sibling that panicked 30 us with its call. In the profile of the tests, where the
//! host is hardly optimised, they take ten times as long.

use std::sync::atomic::{AtomicU64, Ordering};

/// A call out of a guest.
pub(crate) const CALL: u64 = 500;
/// A byte that goes over the boundary, copied once on each side, or into the log.
pub(crate) const BYTE: u64 = 1;
/// A number that the host draws: WASI draws one for each random byte.
pub(crate) const DRAW: u64 = 30;
/// A pollable in a list that is polled.
pub(super) const LISTED: u64 = 200;
/// Bytes of an image that are a part of what making an instance takes.
pub(super) const IMAGE: usize = 64 << 10;
/// A sibling that was stopped: it is undone, and its next call makes its instance again.
pub(crate) const UNDO: u64 = 100_000;
/// The least cost of a call whose function is stopped: undoing it, logging it, and an answer that says why.
pub(crate) const STOPPED: u64 = 200_000;

/// The least units that a guest has computed between two ticks of the clock. They bill a guest that is cut off, whose
/// own count is unavailable. Slow instructions take a nanosecond each.
pub(super) const TICK: u64 = crate::scheduler::TICK.as_nanos() as u64;

/// Units that a guest owes for what WASI has done for it.
#[derive(Debug, Default)]
pub(super) struct Work(AtomicU64);

impl Work {
    pub(super) fn add(&self, units: u64) {
        self.0.fetch_add(units, Ordering::Relaxed);
    }

    pub(super) fn owed(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    pub(super) fn take(&self) -> u64 {
        // Nobody adds to it meanwhile: the guest that could cause it is the one that pays.
        match self.owed() {
            0 => 0,
            _ => self.0.swap(0, Ordering::Relaxed),
        }
    }
}
