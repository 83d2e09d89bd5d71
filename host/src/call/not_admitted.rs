//! Why a call is not admitted.

use crate::limits::{Reached, memory::Full};

/// Why a call is not admitted.
#[derive(Debug)]
pub(crate) enum NotAdmitted {
    /// The host takes no more calls.
    Draining,
    /// The tenant may not call the function.
    Forbidden,
    /// A limit of calls, sessions, rates or budgets is reached.
    Limit(Reached),
    /// There is no memory for the input.
    Memory(Full),
}

impl From<Full> for NotAdmitted {
    fn from(full: Full) -> Self {
        Self::Memory(full)
    }
}
