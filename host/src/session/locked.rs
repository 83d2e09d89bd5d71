//! A check that no session is dropped while a shard is locked: that takes time, and others wait for the lock.
//!
//! Only where debug assertions are on, so in all tests.

use std::{
    cell::Cell,
    ops::{Deref, DerefMut},
    sync::{Mutex, MutexGuard, PoisonError},
};

thread_local! {
    /// Shards that this thread has locked.
    static LOCKED: Cell<usize> = const { Cell::new(0) };
}

/// A locked shard.
pub(super) struct Locked<'a, T> {
    guard: MutexGuard<'a, T>,
    _counted: CountedLock,
}

/// Locks a shard. Nothing panics while the lock is held; if something did, the maps would still be whole.
pub(super) fn lock<T>(shard: &Mutex<T>) -> Locked<'_, T> {
    let guard = shard.lock().unwrap_or_else(PoisonError::into_inner);
    Locked { guard, _counted: CountedLock::new() }
}

impl<T> Deref for Locked<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.guard
    }
}

impl<T> DerefMut for Locked<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.guard
    }
}

struct CountedLock;

impl CountedLock {
    fn new() -> Self {
        if cfg!(debug_assertions) {
            LOCKED.set(LOCKED.get() + 1);
        }
        Self
    }
}

impl Drop for CountedLock {
    fn drop(&mut self) {
        if cfg!(debug_assertions) {
            LOCKED.set(LOCKED.get() - 1);
        }
    }
}

/// A part of what must not be dropped while this thread has a shard locked.
pub(super) struct NotLocked;

impl Drop for NotLocked {
    fn drop(&mut self) {
        debug_assert_eq!(LOCKED.get(), 0, "a session is dropped under the lock of a shard");
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::panic::{AssertUnwindSafe, catch_unwind};

    #[test]
    fn a_drop_under_a_lock_is_seen_and_one_after_it_is_none() {
        let shard = Mutex::new(vec![NotLocked, NotLocked]);
        let taken = lock(&shard).pop();
        drop(taken);
        let dropped = catch_unwind(AssertUnwindSafe(|| lock(&shard).clear()));
        assert!(dropped.is_err() && LOCKED.get() == 0);
    }
}
