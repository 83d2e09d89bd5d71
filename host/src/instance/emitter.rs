//! Partial results on their way to a listener.

use super::StopKind;
use crate::limits::memory::Charge;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::sync::mpsc;

/// The receiver of partial results, and the budget of their bytes.
#[derive(Debug)]
pub(crate) struct Emitter {
    /// `None` where nobody listens: chunks then only count.
    listener: Option<mpsc::Sender<Chunk>>,
    left: AtomicUsize,
    limit: usize,
}

impl Emitter {
    pub(crate) fn new(listener: Option<mpsc::Sender<Chunk>>, limit: usize) -> Self {
        Self { listener, left: AtomicUsize::new(limit), limit }
    }

    /// Takes a chunk and its overhead off the budget; returns the listener to send it to.
    pub(super) fn take(&self, size: usize) -> Result<Option<mpsc::Sender<Chunk>>, StopKind> {
        let size = size + CHUNK;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(self.listener.clone()),
            Err(left) => Err(StopKind::too_much_output(self.limit - left + size, self.limit)),
        }
    }
}

/// A partial result on its way to a listener.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The JSON text.
    pub(crate) text: String,
    /// Its part of its user's memory.
    pub(super) _held: Charge,
}

/// Bytes that an event takes besides its chunk.
const CHUNK: usize = 32;
