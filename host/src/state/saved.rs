//! An instance before a call: copies of the pages that the call may have changed.

use super::numbers::Numbers;
use crate::limits::memory::{Charge, Memory};
use carrel_arena::{PAGE, WriteLog};
use std::{cell::RefCell, ops::Range, sync::Arc};

/// An instance's state before a call, as far as the call has changed it. Complete once the call has ended.
#[derive(Debug)]
pub(crate) struct Saved {
    copies: Copies,
    /// The pages that the call has written to, with what they held, by memories.
    logs: Vec<(usize, WriteLog)>,
    /// The saved pages of each memory, once another call's were added.
    has: Vec<Numbers>,
    /// True if a page that a call changed is not saved.
    lost: bool,
    /// The copies' part of their user's memory.
    _charge: Charge,
}

/// Copies that were made before the call.
#[derive(Debug, Default)]
struct Copies {
    memories: Vec<MemoryBefore>,
    /// Memory and page of each copy, in order.
    pages: Vec<(usize, usize)>,
    /// The copies' bytes, one after the other.
    bytes: Vec<u8>,
}

/// A memory before the call.
#[derive(Debug, Clone, Copy)]
struct MemoryBefore {
    /// Bytes that it had.
    size: usize,
    /// True if each page that was not copied was as the image has it.
    compared: bool,
    /// The place of the memory's first copy among all.
    first: usize,
}

/// The most buffers that a thread keeps.
const BUFFERS: usize = 8;
/// The most bytes of one that is kept.
const BUFFER: usize = 256 << 10;

thread_local! {
    /// Buffers for the next calls: a call's pages are copied to memory that is in the processor's cache.
    static BUFFERS_KEPT: RefCell<Vec<Copies>> = const { RefCell::new(Vec::new()) };
}

/// A page's bytes in its memory.
pub(crate) fn copied(page: usize) -> Range<usize> {
    page * PAGE..(page + 1) * PAGE
}

impl Saved {
    /// Begins with nothing saved; `charge` pays for the copies to come.
    pub(crate) fn new(charge: Charge) -> Self {
        let copies = BUFFERS_KEPT.with_borrow_mut(Vec::pop).unwrap_or_default();
        Self { copies, logs: Vec::new(), has: Vec::new(), lost: false, _charge: charge }
    }

    /// Makes an empty one, for an instance that is not undone.
    pub(crate) fn nothing(memory: &Arc<Memory>) -> Self {
        Self::new(memory.charge(0))
    }

    /// Adds the next memory, before any of its pages.
    pub(crate) fn memory(&mut self, size: usize, compared: bool) {
        let first = self.copies.pages.len();
        self.copies.memories.push(MemoryBefore { size, compared, first });
    }

    /// Copies pages of the last memory.
    pub(crate) fn copy(&mut self, memory: usize, bytes: &[u8], pages: impl Iterator<Item = usize>) {
        for page in pages {
            if let Some(bytes) = bytes.get(copied(page)) {
                self.copies.pages.push((memory, page));
                self.copies.bytes.extend_from_slice(bytes);
            }
        }
    }

    /// Takes the log of what the call has written to in a memory.
    pub(crate) fn log(&mut self, memory: usize, log: WriteLog) {
        self.logs.push((memory, log));
    }

    /// Bytes that a memory had.
    pub(crate) fn size(&self, memory: usize) -> usize {
        self.copies.memories.get(memory).map_or(0, |before| before.size)
    }

    /// The copies of a memory's pages, in the order in which they were made.
    pub(crate) fn copies_of(&self, memory: usize) -> impl ExactSizeIterator<Item = &[u8]> {
        let first = |memory: usize| self.copies.memories.get(memory).map_or(self.copies.pages.len(), |it| it.first);
        let copies = self.copies.bytes.get(first(memory) * PAGE..first(memory + 1) * PAGE);
        copies.unwrap_or_default().chunks_exact(PAGE)
    }

    /// True if each page of a memory that was not copied was as the image has it.
    pub(crate) fn is_compared(&self, memory: usize) -> bool {
        self.copies.memories.get(memory).is_some_and(|before| before.compared)
    }

    /// Pages of a memory that are in logs.
    pub(crate) fn logged(&self, memory: usize) -> usize {
        self.logs.iter().filter(|(of, _)| *of == memory).map(|(_, log)| log.len()).sum()
    }

    /// Pages that were copied.
    pub(crate) fn copies(&self) -> usize {
        self.copies.pages.len()
    }

    /// Pages that it takes memory for.
    pub(crate) fn len(&self) -> usize {
        self.copies() + self.logs.iter().map(|(_, log)| log.len()).sum::<usize>()
    }

    /// The memory that the last log is of, if there is one.
    pub(crate) fn last_log(&self) -> Option<usize> {
        self.logs.last().map(|(memory, _)| *memory)
    }

    /// The last `pages` pages of the last log.
    pub(crate) fn last(&self, pages: usize) -> impl Iterator<Item = (usize, Option<&[u8]>)> {
        self.logs.last().into_iter().flat_map(move |(_, log)| log.pages().skip(log.len().saturating_sub(pages)))
    }

    /// Drops so many of the last pages in the last log, and the log once it is empty; returns true if a log is left.
    pub(crate) fn shorten(&mut self, pages: usize) -> bool {
        let Some((_, log)) = self.logs.last_mut() else { return false };
        log.truncate(log.len().saturating_sub(pages));
        if log.is_empty() {
            self.logs.pop();
        }
        !self.logs.is_empty()
    }

    /// Some of the copies: memory, page and bytes of each.
    pub(crate) fn some_copies(&self, which: Range<usize>) -> impl Iterator<Item = (usize, usize, &[u8])> {
        let copies = self.copies.pages.iter().zip(self.copies.bytes.chunks_exact(PAGE));
        copies.skip(which.start).take(which.len()).map(|((memory, page), bytes)| (*memory, *page, bytes))
    }

    /// Returns true if all that the call has changed is saved.
    pub(crate) fn is_whole(&self) -> bool {
        !self.lost && self.logs.iter().all(|(_, log)| log.is_whole())
    }

    /// Adds the state before a later call, so that this is the state before both. Both must be complete.
    pub(crate) fn add(&mut self, later: Saved) {
        if self.has.is_empty() {
            self.has.resize(self.copies.memories.len(), Numbers::default());
            for (memory, page) in &self.copies.pages {
                self.has[*memory].insert(*page);
            }
            for (memory, log) in &self.logs {
                self.has[*memory].extend(log.pages().map(|(page, _)| page));
            }
        }
        let mut later = later;
        let memories = self.copies.memories.iter().zip(&later.copies.memories);
        // The kernel has refused to guard a memory any longer.
        self.lost |= memories.into_iter().any(|(before, later)| later.compared && !before.compared);
        for (memory, mut log) in later.logs.drain(..) {
            let Some(before) = self.copies.memories.get(memory) else { continue };
            // A compared memory needs no log. A page that is saved already keeps its earlier content.
            if before.compared {
                continue;
            }
            let end = before.size / PAGE;
            let has = &mut self.has[memory];
            log.retain(|page| page < end && has.insert(page));
            if !log.is_empty() {
                self.logs.push((memory, log));
            }
        }
        // A page that was hot before the later call was so before this one, or was written to in it.
    }
}

impl Drop for Saved {
    /// Keeps the buffers for another one.
    fn drop(&mut self) {
        let mut copies = std::mem::take(&mut self.copies);
        if copies.bytes.capacity() > BUFFER || copies.bytes.capacity() == 0 {
            return;
        }
        copies.memories.clear();
        copies.pages.clear();
        copies.bytes.clear();
        // A thread that is ending keeps nothing.
        let _ = BUFFERS_KEPT.try_with(|kept| {
            let mut kept = kept.borrow_mut();
            if kept.len() < BUFFERS {
                kept.push(copies);
            }
        });
    }
}
