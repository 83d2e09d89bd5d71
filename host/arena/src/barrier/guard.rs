//! The state of a guarded memory, and what is done at a write.

use super::{
    log::{LogRoom, WriteLog},
    means::Means,
};
use crate::PAGE;
use smallvec::SmallVec;
use std::{ops::Range, ptr::NonNull, sync::Arc};

/// Openings of a memory guarded by `mprotect`, at the most, until its log is taken.
pub(super) const OPENINGS: usize = 64;
/// Openings of them that open a single page.
const SINGLE: usize = OPENINGS / 2;
/// The most pages that one write opens with userfaultfd, if the writes before it went from page to page: noticing a
/// write takes ten times as long as keeping a page.
const AHEAD: usize = 32;

/// A guarded memory: the pages of it that are closed, and its log.
pub(crate) struct Guard {
    /// The barrier's means. They live as long as this guard's [`Guarded`].
    pub(super) means: NonNull<Means>,
    /// The address of the memory's first page.
    pub(super) start: usize,
    /// The pages that are guarded; all others are open.
    pub(super) pages: Range<usize>,
    /// A bit for each page from the memory's first on, set if the page is open.
    pub(super) open: SmallVec<[u64; 2]>,
    pub(super) log: WriteLog,
    /// Openings of pages since the log was last taken.
    pub(super) openings: usize,
    /// The pages opened last: a sequential writer writes next to the page after them.
    pub(super) last: Range<usize>,
}

impl Guard {
    pub(super) fn new(start: usize, pages: Range<usize>, room: Arc<dyn LogRoom>) -> Self {
        let open = SmallVec::from_elem(0, pages.end.div_ceil(64));
        Self { means: NonNull::dangling(), start, pages, open, log: WriteLog::new(room), openings: 0, last: 0..0 }
    }

    pub(super) fn is_open(&self, page: usize) -> bool {
        self.open[page / 64] & 1 << (page % 64) != 0
    }

    pub(super) fn addresses(&self, pages: Range<usize>) -> Range<usize> {
        self.start + pages.start * PAGE..self.start + pages.end * PAGE
    }

    /// Handles a write: keeps a copy of the page and opens it. Returns true if the page was closed and now is open,
    /// so that the write can be retried.
    ///
    /// # Safety
    ///
    /// The guard's memory and means must live, and nobody else may use the guard.
    pub(super) unsafe fn met(&mut self, address: usize) -> bool {
        let page = (address - self.start) / PAGE;
        if !self.pages.contains(&page) || self.is_open(page) {
            return false;
        }
        let mut group = self.group(page);
        self.last = group.clone();
        while let Some(run) = self.next_closed(&mut group) {
            for page in run.clone() {
                let bytes = (self.start + page * PAGE) as *const [u8; PAGE];
                // SAFETY: the page is the memory's own and can be read; whoever writes to the memory waits for this.
                self.log.keep(page, Some(unsafe { &*bytes }));
            }
            // SAFETY: as this function asks of its callers.
            if unsafe { self.means.as_ref() }.open(self.addresses(run.clone())).is_err() {
                return false;
            }
            self.mark(run, true);
        }
        self.openings += 1;
        true
    }

    /// The pages that are opened together with one.
    pub(super) fn group(&self, page: usize) -> Range<usize> {
        // SAFETY: as `met` asks of its callers, the only ones of this.
        match unsafe { self.means.as_ref() } {
            // A sequential writer is stopped less and less often.
            Means::Userfaults(_) if self.openings > 0 && page == self.last.end => {
                return page..(page + (2 * self.last.len()).min(AHEAD)).min(self.pages.end);
            }
            Means::Userfaults(_) => return page..page + 1,
            Means::Protection if self.openings < SINGLE => return page..page + 1,
            Means::Protection => {}
        }
        // So large that the whole memory is opened before the remaining openings are used up.
        let size = self.pages.end.div_ceil(OPENINGS - SINGLE);
        let start = page / size * size;
        start.max(self.pages.start)..(start + size).min(self.pages.end)
    }

    /// Takes the next run of closed pages off the front of `pages`.
    pub(super) fn next_closed(&self, pages: &mut Range<usize>) -> Option<Range<usize>> {
        let start = pages.clone().find(|page| !self.is_open(*page))?;
        let end = (start..pages.end).find(|page| self.is_open(*page)).unwrap_or(pages.end);
        pages.start = end;
        Some(start..end)
    }

    pub(super) fn mark(&mut self, pages: Range<usize>, open: bool) {
        for page in pages {
            let bit = 1 << (page % 64);
            if open {
                self.open[page / 64] |= bit;
            } else {
                self.open[page / 64] &= !bit;
            }
        }
    }
}
