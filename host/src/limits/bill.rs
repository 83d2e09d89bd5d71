//! The bill of a call: what of its allowance it has used.

use std::time::Duration;

/// The bill of one call, with all that it called.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Bill {
    /// Units of fuel.
    pub fuel: u64,
    /// The time that the call waited before it began.
    pub waited: Duration,
    /// The time that it ran, making instances included.
    pub ran: Duration,
    /// The time spent making the instances that it needed.
    pub made: Duration,
    /// Functions that it ran: the one that was called, and all that were called in it.
    pub functions: u32,
}
