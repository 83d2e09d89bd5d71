//! What an instance was before a call: a copy of the pages that differ from its image.

use super::{
    image::{Dirty, Image, Page},
    snapshot::Snapshot,
};
use crate::limits::memory::Memory;
use std::{cell::RefCell, sync::Arc};

/// An instance's state, kept while a call runs in it.
#[derive(Debug, Default)]
pub(crate) struct Saved(Buffers);

#[derive(Debug, Default)]
struct Buffers {
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
    static BUFFERS_KEPT: RefCell<Vec<Buffers>> = const { RefCell::new(Vec::new()) };
}

impl Saved {
    pub(super) fn new<'a>(memories: impl Iterator<Item = &'a mut [u8]>, dirty: &Dirty) -> Self {
        let mut kept = BUFFERS_KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        let mut pages = dirty.pages().iter().peekable();
        for (index, memory) in memories.enumerate() {
            kept.sizes.push(memory.len());
            while let Some(page) = pages.next_if(|page| page.memory() == index) {
                kept.pages.push(*page);
                kept.bytes.extend_from_slice(&memory[page.range()]);
            }
        }
        Self(kept)
    }

    /// The same as a snapshot.
    pub(crate) fn snapshot(&self, image: &Image, host: &Arc<Memory>) -> Snapshot {
        let Buffers { sizes, pages, bytes } = &self.0;
        let pages = pages.iter().zip(bytes.chunks(carrel_arena::PAGE));
        Snapshot::new(image, sizes, pages.map(|(page, bytes)| (*page, bytes)), host)
    }
}

impl Drop for Saved {
    /// The buffers are kept for another one.
    fn drop(&mut self) {
        let mut buffers = std::mem::take(&mut self.0);
        if buffers.bytes.capacity() > BUFFER || buffers.bytes.capacity() == 0 {
            return;
        }
        buffers.sizes.clear();
        buffers.pages.clear();
        buffers.bytes.clear();
        // A thread that is ending keeps nothing.
        let _ = BUFFERS_KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < BUFFERS {
                kept.push(buffers);
            }
        });
    }
}
