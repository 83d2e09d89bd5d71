//! Finds the pages of an instance that differ from its function's image, and those that a call changes.
//!
//! A call costs what it changes, and not what there is. So an instance's memories are *guarded* (see `carrel_arena`):
//! the first write to a closed page is noticed, and what the page held before is kept in a log. Noticing takes some
//! microseconds, and most calls of a guest write to the same few pages, so these stay open: they are *hot*, and are
//! copied before each call, which takes a tenth of a microsecond for each.
//!
//! | a memory | before a call | after it |
//! |---|---|---|
//! | of up to [`SMALL`] pages, in its first call | the pages that differ from the image are copied | the others are compared with the image, and the memory is guarded |
//! | guarded | its hot pages are copied | the log's pages are hot now; those that were not changed for [`QUIET`] calls are closed |
//! | that cannot be guarded | the pages that differ are copied | the others are compared with the image |
//!
//! Only small memories are compared, but where the kernel refuses to guard a large one. Where guarding takes
//! mappings, of which a process has few, only large ones are guarded.
//!
//! # What must always hold
//!
//! * Each page that differs from the image is in [`Known::changed`], before and after each call. In builds with debug
//!   assertions that is looked at after each of them.
//! * A page of a guarded memory is closed, or hot, or below the stack's top and nobody's between calls.

use super::{
    image::Image,
    numbers::Numbers,
    prices,
    saved::{Saved, copied},
};
use crate::limits::memory::{Charge, Memory};
use carrel_arena::{Held, Lent, PAGE, Tracked};
use smallvec::SmallVec;
use std::{io, ops::Range, sync::Arc};

mod undo;

pub(crate) use undo::Undo;

/// Pages of a memory that is compared in its first call: 256 KiB.
pub(crate) const SMALL: usize = 64;
/// The most hot pages of a memory. A call that changes more finds some of them closed the next time.
const HOT: usize = 64;
/// Hot pages of which none is closed again: to copy them costs less than to find out which could be.
const FEW: usize = 16;
/// Pages that are looked at, or closed, in one piece; of a memory of no more than these, all at once.
const PIECE: usize = 512;
/// Calls that have to leave a hot page as it is, one after the other, before it is closed.
const QUIET: u8 = 8;

/// The pages of an instance's memories, as far as they are known.
#[derive(Debug, Default)]
pub(crate) struct Pages(SmallVec<[Known; 1]>);

/// The pages of one memory, as far as they are known.
#[derive(Debug, Default)]
struct Known {
    /// The pages that differ from the image, or may.
    changed: Numbers,
    /// The open pages of a guarded memory.
    hot: SmallVec<[Hot; 4]>,
    guarded: bool,
    /// Pages that are still to be closed, in order.
    closing: Vec<usize>,
    /// The pages from this one on are still to be looked at, and to be closed.
    rest: Option<Rest>,
}

#[derive(Debug, Clone, Copy)]
struct Rest {
    from: usize,
    /// True if they have to be compared with the image.
    compare: bool,
}

#[derive(Debug, Clone, Copy)]
struct Hot {
    page: u32,
    /// Calls that have left it as it is, one after the other.
    quiet: u8,
}

/// The image to compare with, and the room for logs.
pub(crate) struct Finding<'a> {
    pub(crate) image: &'a Image,
    /// The room that logs take their memory from.
    pub(crate) room: &'a Arc<Memory>,
}

impl Pages {
    /// Describes memories that hold the image but for these pages, given memory by memory.
    pub(crate) fn new(changed: Vec<Numbers>) -> Self {
        Self(changed.into_iter().map(|changed| Known { changed, ..Known::default() }).collect())
    }

    fn of(&mut self, memory: usize) -> &mut Known {
        if memory >= self.0.len() {
            self.0.resize_with(memory + 1, Known::default);
        }
        &mut self.0[memory]
    }

    /// Guards the memories that are too large to be compared, which then are to be [settled](Self::settle). With
    /// `compare`, they are compared once: those of a new instance may hold anything.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or there are too many guarded ones.
    pub(crate) fn start<T: Send + 'static>(
        &mut self,
        store: &mut Tracked<T>,
        of: &Finding<'_>,
        compare: bool,
    ) -> io::Result<()> {
        for memory in 0..store.memories_len() {
            let Some(mut lent) = store.memory(memory) else { continue };
            let known = self.of(memory);
            if lent.size() / PAGE > SMALL {
                known.guard(memory, &mut lent, of, compare)?;
            }
        }
        Ok(())
    }

    /// True if no page is left to be looked at or closed before the next call begins.
    pub(crate) fn are_settled(&self) -> bool {
        self.0.iter().all(Known::is_settled)
    }

    /// Looks at some of the pages that are left, and closes them; returns true if there are others. Takes a part of a
    /// millisecond.
    pub(crate) fn settle<T: Send + 'static>(&mut self, store: &mut Tracked<T>, image: &Image) -> bool {
        let Some(memory) = self.0.iter().position(|known| !known.is_settled()) else { return false };
        let Some(mut lent) = store.memory(memory) else { return false };
        let known = self.of(memory);
        known.settle_some(memory, &mut lent, image);
        #[cfg(debug_assertions)]
        if known.is_settled() {
            known.check(memory, &mut lent, image);
        }
        !self.are_settled()
    }

    /// Bytes of memory that the instance takes: of pages that a new one writes to, and of those that differ.
    pub(crate) fn written(&self, image: &Image) -> usize {
        (image.pages() + self.0.iter().map(|known| known.changed.len()).sum::<usize>()) * PAGE
    }

    /// Bytes that a call's undo logs may take: those of all pages of large memories that could be written to and are
    /// not copied before.
    pub(crate) fn logs(&self, image: &Image) -> usize {
        let large = self.0.iter().enumerate().filter(|(_, known)| known.guarded);
        let pages =
            large.map(|(memory, known)| (image.written(memory) + known.changed.len()).saturating_sub(known.hot.len()));
        pages.filter(|pages| *pages > SMALL).sum::<usize>() * PAGE
    }

    /// Bytes of the pages that are copied before a call.
    pub(crate) fn copies(&self) -> usize {
        self.0.iter().map(Known::copies).sum::<usize>() * PAGE
    }

    /// Copies the pages that a call may change unnoticed, before it begins. The charge is for the [copies](Self::copies).
    pub(crate) fn begin<T: Send + 'static>(&mut self, store: &mut Tracked<T>, charge: Charge) -> Saved {
        let mut saved = Saved::new(charge);
        for memory in 0..store.memories_len() {
            let Some(mut lent) = store.memory(memory) else { continue };
            let known = self.of(memory);
            saved.memory(lent.size(), !known.guarded);
            if known.guarded {
                let hot = known.hot.iter().map(|hot| hot.page as usize);
                saved.copy(memory, lent.bytes(), hot);
            } else {
                saved.copy(memory, lent.bytes(), known.changed.iter());
            }
        }
        saved
    }

    /// The pages that differ from the image: by memory and number, in order, from one of them on.
    pub(crate) fn from(&self, (memory, page): (usize, usize)) -> impl Iterator<Item = (usize, usize)> {
        self.0.iter().enumerate().skip(memory).flat_map(move |(index, known)| {
            let first = if index == memory { page } else { 0 };
            known.changed.within(first..usize::MAX).map(move |page| (index, page))
        })
    }

    /// Commits a call that ended well: finds the pages that it changed; where these are many, the rest is to be
    /// [settled](Self::settle). `saved` is the state before the call, and is complete then. Returns the units of fuel
    /// used.
    pub(crate) fn commit<T: Send + 'static>(
        &mut self,
        store: &mut Tracked<T>,
        of: &Finding<'_>,
        saved: &mut Saved,
    ) -> u64 {
        let mut units = 0;
        for memory in 0..store.memories_len() {
            let Some(mut lent) = store.memory(memory) else { continue };
            let known = self.of(memory);
            if known.guarded {
                let written = known.ended(memory, &mut lent, saved, of.image);
                units += price(lent.size(), written, saved.copies_of(memory).len());
            } else if lent.size() / PAGE <= PIECE {
                let pages = 0..lent.size() / PAGE;
                known.compare(memory, &mut lent, pages, of.image);
                if lent.size() / PAGE > SMALL || lent.guarding_is_free() {
                    let differ = known.changed.iter().collect();
                    // If the kernel refuses it, the memory is compared again after the next call.
                    if known.guard(memory, &mut lent, of, false).is_ok() {
                        known.settle_some(memory, &mut lent, of.image);
                        known.keep_open(&mut lent, differ);
                    }
                }
            } else if known.guard(memory, &mut lent, of, true).is_err() {
                known.rest = Some(Rest { from: 0, compare: true });
            }
            #[cfg(debug_assertions)]
            if known.is_settled() {
                known.check(memory, &mut lent, of.image);
            }
        }
        units
    }

    /// Finds the changed pages outside of a call's end, in an instance that is not undone, and so is not guarded.
    pub(crate) fn look<T: Send + 'static>(&mut self, store: &mut Tracked<T>, image: &Image) {
        while self.settle(store, image) {}
        for memory in 0..store.memories_len() {
            let Some(mut lent) = store.memory(memory) else { continue };
            let known = self.of(memory);
            if !known.guarded {
                let pages = 0..lent.size() / PAGE;
                known.compare(memory, &mut lent, pages, image);
            }
        }
    }
}

impl Known {
    /// Pages that are copied before a call.
    fn copies(&self) -> usize {
        if self.guarded { self.hot.len() } else { self.changed.len() }
    }

    fn is_hot(&self, page: usize) -> bool {
        self.hot.iter().any(|hot| hot.page as usize == page)
    }

    fn is_settled(&self) -> bool {
        self.closing.is_empty() && self.rest.is_none()
    }

    /// Compares the pages that are not known to differ with the image.
    fn compare(&mut self, memory: usize, lent: &mut Lent<'_>, pages: Range<usize>, image: &Image) {
        if lent.size() / PAGE <= SMALL {
            image.find_differing(memory, lent.bytes(), pages, &mut self.changed);
            return;
        }
        let mut populated = Vec::new();
        lent.populated(pages, |run| populated.push(run));
        for run in populated {
            image.find_differing(memory, lent.bytes(), run, &mut self.changed);
        }
    }

    /// Guards the memory, and leaves all of its pages to be looked at.
    fn guard(&mut self, memory: usize, lent: &mut Lent<'_>, of: &Finding<'_>, compare: bool) -> io::Result<()> {
        if lent.is_guarded() {
            // It was given up, and the kernel did not open it.
            drop(lent.take_log());
            let open = lent.open_pages();
            close_all(lent, open)?;
        }
        let dead = of.image.dead_of(memory).min(lent.size() / PAGE);
        lent.guard(dead, of.room.clone())?;
        self.guarded = true;
        self.rest = Some(Rest { from: 0, compare });
        Ok(())
    }

    /// Closes some of the pages that are to be closed, or looks at some of those that are to be looked at.
    fn settle_some(&mut self, memory: usize, lent: &mut Lent<'_>, image: &Image) {
        if !self.closing.is_empty() {
            let some = self.closing.split_off(self.closing.len().saturating_sub(PIECE));
            if close_all(lent, some).is_err() {
                self.give_up(lent);
            }
            return;
        }
        let Some(Rest { from, compare }) = self.rest.take() else { return };
        let end = lent.size() / PAGE;
        let next = end.min(from + PIECE);
        if compare {
            self.compare(memory, lent, from..next, image);
        }
        if self.guarded {
            // Pages of zeroes that were written to take memory, though they do not differ.
            lent.populated(from..next, |run| self.changed.extend(run.filter(|page| !image.has(memory, *page))));
            if lent.extend_guard(next).is_err() {
                // All of it is to be compared.
                self.give_up(lent);
                return;
            }
        }
        if next < end {
            self.rest = Some(Rest { from: next, compare });
        }
    }

    /// Ends a call in a guarded memory: notes the pages that it wrote to, and updates the hot ones. Returns the
    /// number of pages that were in the log.
    fn ended(&mut self, memory: usize, lent: &mut Lent<'_>, saved: &mut Saved, image: &Image) -> usize {
        let mut open = Vec::new();
        if self.hot.len() > FEW {
            for (hot, was) in self.hot.iter_mut().zip(saved.copies_of(memory)) {
                let same = lent.bytes().get(copied(hot.page as usize)).is_some_and(|now| now == was);
                hot.quiet = if same { hot.quiet + 1 } else { 0 };
            }
        }
        let quiet = |hot: &Hot| hot.quiet >= QUIET;
        let mut close: Vec<usize> = self.hot.iter().filter(|hot| quiet(hot)).map(|hot| hot.page as usize).collect();
        self.hot.retain(|hot| !quiet(hot));
        if let Some(log) = lent.take_log().filter(|log| !log.is_empty()) {
            for (page, _) in log.pages() {
                self.changed.insert(page);
                open.push(page);
            }
            saved.log(memory, log);
        }
        let written = open.len();
        self.hot.extend(open.into_iter().map(|page| Hot { page: page as u32, quiet: 0 }));
        if self.hot.len() > HOT {
            // Those that were hot first go first.
            let cold = self.hot.drain(..self.hot.len() - HOT);
            close.extend(cold.map(|hot| hot.page as usize));
        }
        close.sort_unstable();
        self.closing = close;
        // Pages that the memory has grown by.
        let (end, size) = (lent.guarded_end(), lent.size() / PAGE);
        self.rest = (end < size).then_some(Rest { from: end, compare: false });
        // The memory may begin smaller than in the image, and hold zeroes where the image has content.
        self.changed.extend((end..size.min(image.size(memory) / PAGE)).filter(|page| image.has(memory, *page)));
        if self.closing.len() + size.saturating_sub(end) <= PIECE {
            while !self.is_settled() {
                self.settle_some(memory, lent, image);
            }
        }
        written
    }

    /// Keeps these pages open, or the first of them.
    fn keep_open(&mut self, lent: &mut Lent<'_>, mut pages: Vec<usize>) {
        pages.truncate(HOT);
        if runs(&pages).try_for_each(|run| lent.open(run)).is_err() {
            self.give_up(lent);
            return;
        }
        self.hot = pages.into_iter().map(|page| Hot { page: page as u32, quiet: 0 }).collect();
    }

    /// Checks what must hold after each call: all that differs from the image is known, and no page is open that is
    /// neither hot nor part of a stack.
    #[cfg(debug_assertions)]
    fn check(&self, memory: usize, lent: &mut Lent<'_>, image: &Image) {
        let pages = 0..lent.size() / PAGE;
        let mut found = self.changed.clone();
        image.find_differing(memory, lent.bytes(), pages, &mut found);
        assert_eq!(found.len(), self.changed.len(), "pages of memory {memory} differ from the image and are not known");
        if self.guarded {
            assert_eq!(lent.guarded_end(), lent.size() / PAGE, "memory {memory} is guarded as a whole");
            let open = lent.open_pages().into_iter();
            let open: Vec<_> = open.filter(|page| !self.is_hot(*page)).collect();
            assert!(open.is_empty(), "pages of memory {memory} are open, and no copies are made of them: {open:?}");
        }
    }

    /// Stops guarding a memory that the kernel refuses to guard: from now on it is compared.
    fn give_up(&mut self, lent: &mut Lent<'_>) {
        tracing::warn!("the kernel refuses to guard a memory: it is compared after each call from now on");
        lent.unguard();
        self.guarded = false;
        self.hot.clear();
        self.closing.clear();
        self.rest = Some(Rest { from: 0, compare: true });
    }
}

/// Units of fuel for guarding a memory of `size` bytes in a call, with the pages met and copied. Small memories cost
/// nothing, so that their calls cost the same each time.
fn price(size: usize, met: usize, copied: usize) -> u64 {
    let large = size / PAGE > SMALL;
    if large { prices::MET * met as u64 + prices::COPY * copied as u64 } else { 0 }
}

/// Closes pages, run by run.
fn close_all(lent: &mut Lent<'_>, mut pages: Vec<usize>) -> io::Result<()> {
    pages.sort_unstable();
    pages.dedup();
    runs(&pages).try_for_each(|run| lent.close(run))
}

/// The runs of neighbours in a list of pages that is in order.
fn runs(pages: &[usize]) -> impl Iterator<Item = Range<usize>> {
    pages.chunk_by(|one, next| one + 1 == *next).filter_map(|run| Some(*run.first()?..*run.last()? + 1))
}
