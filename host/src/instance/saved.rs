//! What an instance was before a call: a copy of the pages that differ from its image.

use super::{
    image::{Dirty, Image, Page},
    snapshot::Snapshot,
};
use crate::limits::memory::HostMemory;
use std::{cell::RefCell, sync::Arc};

/// An instance's state, kept while a call runs in it.
#[derive(Debug, Default)]
pub(crate) struct Saved {
    /// Bytes of each linear memory.
    sizes: Vec<usize>,
    pages: Vec<Page>,
    /// The pages' bytes, one after the other.
    bytes: Vec<u8>,
}

/// The most buffers that a thread keeps.
const BUFFERS: usize = 8;
/// The most bytes of one that is kept.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// Buffers for the next calls: a call's pages are copied to memory that is in the processor's cache.
    static BUFFERS_KEPT: RefCell<Vec<Saved>> = const { RefCell::new(Vec::new()) };
}

impl Saved {
    pub(super) fn new<'a>(memories: impl Iterator<Item = &'a mut [u8]>, dirty: &Dirty) -> Self {
        let mut saved = BUFFERS_KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut pages = dirty.pages().iter().peekable();
        for (index, memory) in memories.enumerate() {
            saved.sizes.push(memory.len());
            while let Some(page) = pages.next_if(|page| page.memory() == index) {
                saved.pages.push(*page);
                saved.bytes.extend_from_slice(&memory[page.range()]);
            }
        }
        saved
    }

    /// The same as a snapshot.
    pub(crate) fn snapshot(&self, image: &Image, host: &Arc<HostMemory>) -> Snapshot {
        let pages = self.pages.iter().zip(self.bytes.chunks(carrel_arena::PAGE));
        Snapshot::new(image, &self.sizes, pages.map(|(page, bytes)| (*page, bytes)), host)
    }
}

impl Drop for Saved {
    /// The buffers are kept for another one.
    fn drop(&mut self) {
        if self.bytes.capacity() > BUFFER || self.bytes.capacity() == 0 {
            return;
        }
        let mut kept = Self {
            sizes: std::mem::take(&mut self.sizes),
            pages: std::mem::take(&mut self.pages),
            bytes: std::mem::take(&mut self.bytes),
        };
        kept.sizes.clear();
        kept.pages.clear();
        kept.bytes.clear();
        // A thread that is ending keeps nothing.
        let refused = BUFFERS_KEPT.try_with(|buffers| match buffers.try_borrow_mut() {
            Ok(mut buffers) if buffers.len() < BUFFERS => {
                buffers.push(std::mem::take(&mut kept));
            }
            _ => {}
        });
        let _ = refused;
        // What was not taken is freed here, without coming back to this function's start.
        std::mem::take(&mut kept.bytes);
    }
}
