//! Linear memories and fiber stacks as slots of a few large mappings.
//!
//! Left to itself, wasmtime makes two to four mappings for each linear memory and two for each fiber stack, and a
//! kernel allows 65,530 mappings in a process by default: a few thousand users, and then an abort. Here thousands of
//! memories share one mapping, so that the number of users is bounded by memory alone, and so that the host can
//! read an idle instance's memory, since it owns it.
//!
//! # Layout
//!
//! * [`configure`]: sets an engine up with the next two.
//! * [`Memories`]: linear memories, in slots of a few sizes, for [`wasmtime::Config::with_host_memory`].
//! * [`Stacks`]: fiber stacks with guard pages, for [`wasmtime::Config::with_host_stack`].
//! * `memory` and `stack`: one of them, in its slot. `making`: the store for which they are made.
//! * [`Tracked`]: a store whose memories the host can read and write while nothing runs in it. [`Held`]: a memory that a
//!   store has left, for another one. [`Lent`]: what can be done with either.
//! * `barrier`: the first write to each page of a guarded memory, and what the page held before: a [`WriteLog`].
//! * `populated`: finds the pages that take memory, by asking the kernel.
//! * `region`: one reserved range of addresses, opened from its start as slots are needed.
//! * `slots`: keeps track of a region's free slots.
//! * [`Error`]: why one cannot be made.
//! * [`run_sooner`], [`processor_time`], [`ThreadClock`]: not memory, but unsafe too: they make a thread's turns short,
//!   for the clock that stops guests, and tell how long it has run, for the turns of guests.
//!
//! # What must always hold
//!
//! * A slot that is handed out reads as zeroes, whoever had it before.
//! * A slot belongs to one memory or stack at a time, and goes back when that is dropped.
//! * Exhaustion is an error, never an abort.
//! * There are no guard pages between linear memories: wasmtime must be configured with explicit bounds checks
//!   (`memory_reservation(0)`, `memory_guard_size(0)`), and [`Memories`] refuses to make a memory otherwise.
//!
//! This is the only crate of the project that manages memory by hand; each unsafe block argues its safety.
//!
//! # Checking
//!
//! The unit tests hold slots against a plain model; those in `tests/arena` have real guests look for each other's
//! bytes, and access memory at and beyond every edge. `cargo bench -p carrel-arena` measures the cost of reusing a
//! slot. Valgrind is to find nothing in the unit tests, apart from those that reserve a terabyte or touch guard
//! pages; it cannot follow fibers:
//!
//! ```console
//! $ export CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER='valgrind -q --error-exitcode=9'
//! $ cargo test -p carrel-arena --lib -- --test-threads 1 memories_are memories_of stacks_are a_slot_ a_stack_that
//! ```

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "carrel-arena needs 64-bit Linux: it reserves terabytes of addresses, and relies on madvise(MADV_DONTNEED) to zero"
);

use std::sync::Arc;

mod barrier;
mod error;
mod held;
mod making;
mod memories;
mod memory;
mod populated;
mod region;
mod slots;
mod stack;
mod stacks;
mod thread;
mod tracked;

pub use barrier::{LogRoom, WriteLog};
pub use error::Error;
pub use held::{Held, Lent};
pub use memories::Memories;
pub use stack::Frames;
pub use stacks::Stacks;
pub use thread::{ThreadClock, processor_time, run_sooner};
pub use tracked::{Pre, Tracked};

/// Gives an engine's configuration these memories and stacks, with the settings that they rely on: memories have no guard
/// pages, may move, and start with zeroes; stacks have the size that they were made with.
pub fn configure(config: &mut wasmtime::Config, memories: &Memories, stacks: &Stacks) {
    config
        .with_host_memory(Arc::new(memories.clone()))
        .memory_reservation(0)
        .memory_reservation_for_growth(0)
        .memory_guard_size(0)
        .memory_init_cow(false)
        .with_host_stack(Arc::new(stacks.clone()))
        .async_stack_size(stacks.size());
}

/// Bytes of a page, as this crate assumes: Linux's on x86-64 and, by default, on AArch64.
pub const PAGE: usize = 4096;
