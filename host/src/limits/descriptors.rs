//! Descriptors of the process that guests hold: files that they have opened, listings of folders, and connections that
//! they have made. A process has only so many, and callers need them as well.
//!
//! Descriptors are counted as memory is: a user's count for its tenant too, and a tenant's for the host.

use super::{
    Level,
    memory::{Charge, Memory},
};
use std::sync::Arc;

/// The descriptors that guests of one level may hold.
#[derive(Debug, Clone)]
pub(crate) struct Descriptors(Arc<Memory>);

/// A descriptor that is held, until this is dropped.
#[derive(Debug)]
pub(crate) struct Descriptor(#[allow(dead_code)] Charge);

impl Descriptors {
    /// Makes the account of all guests.
    pub(crate) fn new(limit: usize) -> Self {
        Self(Memory::new(limit))
    }

    /// Makes an account within this one; without a limit, only this one bounds it.
    pub(crate) fn within(&self, level: Level, limit: Option<usize>) -> Self {
        Self(self.0.within(level, limit))
    }

    /// Takes a descriptor, if one is left.
    pub(crate) fn take(&self) -> Option<Descriptor> {
        self.0.try_charge(1).map(Descriptor).ok()
    }

    /// The number of descriptors held, and the limit.
    pub(crate) fn used(&self) -> (usize, usize) {
        (self.0.used(), self.0.limit())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn those_of_a_user_count_for_the_tenant_and_the_host_until_they_are_dropped() {
        let host = Descriptors::new(3);
        let tenant = host.within(Level::Tenant, None);
        let users = [1, 2].map(|_| tenant.within(Level::User, Some(2)));
        let held: Vec<_> = (0..2).map_while(|_| users[0].take()).collect();
        assert!(held.len() == 2 && users[0].take().is_none());
        let other = users[1].take();
        assert!(other.is_some() && users[1].take().is_none(), "the host has no more");
        assert_eq!((tenant.used().0, host.used()), (3, (3, 3)));
        drop(held);
        assert!(users[1].take().is_some());
        drop(other);
        assert_eq!(host.used(), (0, 3));
    }
}
