//! The use of a session.

use std::sync::{
    Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU8, AtomicU64, AtomicUsize, Ordering},
};
use tokio::sync::OwnedSemaphorePermit;

/// A session's use: its handles, its last use, its stage, and its place.
#[derive(Debug, Default)]
pub(super) struct Uses {
    pub(super) handles: AtomicUsize,
    /// Microseconds since the registry began.
    pub(super) last: AtomicU64,
    pub(super) stage: AtomicU8,
    /// The session's place among the live ones.
    place: Mutex<Option<OwnedSemaphorePermit>>,
}

/// The stage of a session's life.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum LifeStage {
    New,
    Live,
    Parked,
    /// No longer in the registry.
    Gone,
}

impl Uses {
    /// The session's last use, in microseconds since the registry began.
    pub(super) fn last(&self) -> u64 {
        self.last.load(Ordering::Relaxed)
    }

    pub(super) fn place(&self) -> MutexGuard<'_, Option<OwnedSemaphorePermit>> {
        self.place.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn is_idle(&self) -> bool {
        self.handles.load(Ordering::Acquire) == 0
    }

    pub(super) fn stage(&self) -> LifeStage {
        match self.stage.load(Ordering::Acquire) {
            0 => LifeStage::New,
            1 => LifeStage::Live,
            2 => LifeStage::Parked,
            _ => LifeStage::Gone,
        }
    }
}
