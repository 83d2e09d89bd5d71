//! The places of parked sessions: a number that those who hold one for a time give back.

use std::{
    mem,
    sync::atomic::{AtomicUsize, Ordering},
};

/// A place that a session is about to get. Dropping this gives it back.
pub(super) struct ParkedPlace<'a>(&'a AtomicUsize);

impl<'a> ParkedPlace<'a> {
    /// Takes one of `most` places, so many of which are taken. `None`: none is free.
    pub(super) fn take(taken: &'a AtomicUsize, most: usize) -> Option<Self> {
        let one_more = |taken| (taken < most).then_some(taken + 1);
        taken.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more).ok()?;
        Some(Self(taken))
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
