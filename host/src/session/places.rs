//! Numbers of which there may be so many, and the places of parked sessions, which are such a number.

use std::{
    mem,
    sync::atomic::{AtomicUsize, Ordering},
};

/// Counts one more, in one step, so that no two take the last place. Fails with `most` if so many are counted.
pub(super) fn count_one(counted: &AtomicUsize, most: usize) -> Result<(), usize> {
    let one_more = |counted| (counted < most).then_some(counted + 1);
    counted.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).map(drop).map_err(|_| most)
}

/// A place that a session is about to get. Dropping this gives it back.
pub(super) struct ParkedPlace<'a>(&'a AtomicUsize);

impl<'a> ParkedPlace<'a> {
    /// Takes one of `most` places, so many of which are taken. `None`: none is free.
    pub(super) fn take(taken: &'a AtomicUsize, most: usize) -> Option<Self> {
        count_one(taken, most).ok().map(|()| Self(taken))
    }

    /// The session is parked: the place is its own until it is woken or dropped.
    pub(super) fn keep(self) {
        mem::forget(self);
    }
}

impl Drop for ParkedPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The place of a parked session that waits to be live again: another one may be parked in it. Dropping this takes the
/// place back, whether another one is there or not.
pub(super) struct LentPlace<'a>(&'a AtomicUsize);

impl<'a> LentPlace<'a> {
    pub(super) fn of(taken: &'a AtomicUsize) -> Self {
        taken.fetch_sub(1, Ordering::Relaxed);
        Self(taken)
    }
}

impl Drop for LentPlace<'_> {
    fn drop(&mut self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
