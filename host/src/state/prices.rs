//! The prices of the host's work on large state, in units of fuel: see `instance/work` for how they are paid.

/// A page of a large memory that a call writes to for the first time: it is noticed, and copied.
pub(crate) const MET: u64 = 25_000;
/// A page of a large memory that is copied ahead of a call, or put back after it.
pub(crate) const COPY: u64 = 800;
/// A byte of a large instance that is parked and restored, for both.
pub(crate) const WAKE: u64 = 8;
