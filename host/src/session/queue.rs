//! The queue of a session's calls: the turn, and how many wait for it.

use crate::limits::{Limits, Reached};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::Semaphore;

/// A session's queue.
#[derive(Debug)]
pub(super) struct Queue {
    /// One permit: the turn. Its waiters are served in order.
    pub(super) turn: Semaphore,
    pub(super) waiting: AtomicUsize,
}

impl Queue {
    pub(super) fn new() -> Self {
        Self { turn: Semaphore::new(1), waiting: AtomicUsize::new(0) }
    }
}

/// A place in the queue, given back on drop.
pub(super) struct QueueSlot<'a>(&'a AtomicUsize);

impl<'a> QueueSlot<'a> {
    pub(super) fn take(waiting: &'a AtomicUsize, most: usize) -> Result<Self, Reached> {
        let before = waiting.fetch_add(1, Ordering::Relaxed);
        let place = Self(waiting);
        let by = || format!("{before} calls of this user are already waiting");
        if before >= most { Err(Limits::QUEUE_PER_SESSION.reached(by())) } else { Ok(place) }
    }
}

impl Drop for QueueSlot<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}
