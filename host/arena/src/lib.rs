//! Linear memories and fiber stacks as slots of a few large mappings.
//!
//! Left to itself, wasmtime makes two to four mappings for each linear memory and two for each fiber stack, and a
//! kernel allows 65,530 mappings in a process by default: a few thousand users, and then an abort. Here thousands of
//! memories share one mapping, so that the number of users is bounded by memory alone, and so that the host can
//! read an idle instance's memory, since it owns it.
//!
//! # Layout
//!
//! * [`Memories`]: linear memories, in slots of a few sizes, for [`wasmtime::Config::with_host_memory`].
//! * [`Stacks`]: fiber stacks with guard pages, for [`wasmtime::Config::with_host_stack`].
//! * `region`: one reserved range of addresses, opened from its start as slots are needed.
//! * `slots`: which slots of a region are in use.
//!
//! # What must always hold
//!
//! * A slot that is handed out reads as zeroes, whoever had it before.
//! * A slot belongs to one memory or stack at a time, and goes back when that is dropped.
//! * What runs out is an error, never an abort.
//! * There are no guard pages between linear memories: wasmtime must be configured with explicit bounds checks
//!   (`memory_reservation(0)`, `memory_guard_size(0)`), and [`Memories`] refuses to make a memory otherwise.
//!
//! This is the only crate of the project that manages memory by hand; each unsafe block argues its safety.

#[cfg(not(all(target_os = "linux", target_pointer_width = "64")))]
compile_error!(
    "carrel-arena needs 64-bit Linux: it reserves terabytes of addresses, and relies on madvise(MADV_DONTNEED) to zero"
);

mod memories;
mod region;
mod slots;
mod stacks;

pub use memories::{EXHAUSTED, Memories};
pub use stacks::Stacks;

/// The size of a page that this crate assumes: that of Linux on x86-64 and, by default, on AArch64.
pub(crate) const PAGE: usize = 4096;
