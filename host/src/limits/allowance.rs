//! The allowance of a call: the fuel and time that it has left.
//!
//! A sibling call gets less of both than its caller has left, so that the caller can still answer for a sibling that
//! used all it got.

use crate::scheduler::TICK;
use tokio::time::Instant;

/// The fuel and time that a call may still use.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allowance {
    /// Units of fuel.
    pub fuel: u64,
    /// The time by which the call must have ended.
    pub deadline: Instant,
}

impl Allowance {
    /// The part of a caller's fuel that its siblings leave to it.
    const FUEL_KEPT: u64 = 8;
    /// The part of a caller's time that its siblings leave to it.
    const TIME_KEPT: u32 = 16;

    /// The allowance of a sibling that a caller with this allowance calls.
    pub fn for_sibling(self, now: Instant) -> Self {
        let left = self.deadline.saturating_duration_since(now);
        let kept = (left / Self::TIME_KEPT).max(4 * TICK);
        Self { fuel: self.fuel - self.fuel / Self::FUEL_KEPT, deadline: now + left.saturating_sub(kept) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_sibling_leaves_its_caller_fuel_and_time_however_deep() {
        let now = Instant::now();
        let mut allowance = Allowance { fuel: 1_000_000, deadline: now + Duration::from_secs(1) };
        for _ in 0..64 {
            let inner = allowance.for_sibling(now);
            assert!(inner.fuel <= allowance.fuel && inner.deadline <= allowance.deadline);
            assert!(allowance.fuel < 8 || inner.fuel < allowance.fuel);
            allowance = inner;
        }
        let over = Allowance { fuel: 0, deadline: now };
        assert_eq!(over.for_sibling(now), over);
    }
}
