//! Results with their price.

use super::Stop;

/// The result of a run, and the units of fuel that it used.
pub(crate) struct Metered<T> {
    pub(crate) result: Result<T, Stop>,
    pub(crate) fuel: u64,
}
