//! Scheduling: which of the calls that run long goes on next.
//!
//! A guest that spins gives its thread back at every tick of the `clock`. With yielding alone, a hundred of them would
//! still make everybody else wait for a hundred ticks, since each of them is as runnable as a fresh call. So a call that
//! meets ticks goes on only while it holds one of the permits of the slow lane, gives it back at the next tick and waits
//! for the next. Tenants take turns, by their shares. There is a permit less than there are threads: one thread is
//! always free for calls that are short.
//!
//! A call that begins is not in the lane yet. While others of its tenant are, it waits until there is a place for it
//! to begin: what it runs until its first tick is taken from the same thread. One of a session whose last call was
//! long begins in the lane.
//!
//! Calls that began together have their deadlines together, too. While anybody is in the lane they end one after the
//! other, since to undo a call takes a thread's time as well; one whose turn comes before its end stops by itself.
//!
//! A call that waits, on a clock or for a slow reader, holds no permit: it gives it back and goes on without one until
//! its next tick.
//!
//! # Layout
//!
//! * `clock`: the ticks. `history`: whether a session's last call met any.
//! * [`Permit`]: a session's side of the lane, and its call's steps through it. `waiter`: its call's place in a queue.
//! * [`Lane`]: the permits, of which `fair` says who is next.

mod clock;
mod fair;
mod history;
mod lane;
mod permit;
#[cfg(test)]
mod tests;
mod waiter;

pub use clock::TICK;
pub(crate) use clock::{SHORT, SLOW_TICK, TICKS_UNTIL_SLOW};
pub(crate) use lane::Lane;
pub(crate) use permit::Permit;
