//! Restores an instance's state before a failed call.
//!
//! Undoing goes in pieces, since a call may have written to all of a large memory: each takes a thread for a part of
//! a millisecond. Saved pages are dropped once restored, so that undoing never takes more memory than the call did.

use super::{Held, Image, Known, Lent, Numbers, PAGE, Pages, Saved, close_all, copied, price, runs};
use crate::state::snapshot::PIECE;
use std::io;

/// Bytes that a memory is cut down by in a piece.
const CUT: usize = 4 << 20;
/// Pages that are compared with the image in a piece.
const COMPARED: usize = 256;
/// Pages that are closed in a piece.
const CLOSED: usize = 512;

/// The rest of an undo.
#[derive(Debug)]
pub(crate) struct Undo {
    saved: Saved,
    /// The memory and the page from which on pages are still to be compared with the image.
    compared: (usize, usize),
    /// Copies restored so far.
    copies: usize,
}

impl Undo {
    /// Begins to undo a failed call that began with `saved`. Returns the units of fuel as well; `None` if not all
    /// changes are known, for want of memory.
    pub(crate) fn new(memories: &mut [Held], mut saved: Saved) -> Option<(Self, u64)> {
        let mut met = 0;
        for (memory, held) in memories.iter_mut().enumerate() {
            let log = held.lend().take_log().filter(|log| !log.is_empty() && !saved.is_compared(memory));
            met += log.as_ref().map_or(0, |log| price(saved.size(memory), log.len(), 0));
            log.into_iter().for_each(|log| saved.log(memory, log));
        }
        let (this, units) = Self::of(memories, saved)?;
        Some((this, met + units))
    }

    /// Extends the undo to an earlier call that began with `earlier`. Returns the additional units of fuel as well;
    /// `None` if not all changes are known.
    pub(crate) fn and(self, memories: &[Held], mut earlier: Saved) -> Option<(Self, u64)> {
        earlier.add(self.saved);
        Self::of(memories, earlier)
    }

    fn of(memories: &[Held], saved: Saved) -> Option<(Self, u64)> {
        let copied = |memory| saved.logged(memory) + 2 * saved.copies_of(memory).len();
        let units = (0..memories.len()).map(|memory| price(saved.size(memory), 0, copied(memory))).sum();
        saved.is_whole().then_some((Self { saved, compared: (0, 0), copies: 0 }, units))
    }

    /// Pages that are to be looked at.
    pub(crate) fn len(&self, memories: &[Held]) -> usize {
        let of_memory = |(memory, held): (usize, &Held)| {
            let (now, before) = (held.size() / PAGE, self.saved.size(memory) / PAGE);
            let compared = if self.saved.is_compared(memory) { before } else { 0 };
            now.saturating_sub(before) + compared + self.saved.logged(memory)
        };
        memories.iter().enumerate().map(of_memory).sum::<usize>() + self.saved.copies()
    }

    /// Restores a piece; returns true if there is another one after it.
    ///
    /// # Errors
    ///
    /// The kernel does not cut off a memory's growth. The state before the call is lost then.
    pub(crate) fn step(&mut self, pages: &mut Pages, memories: &mut [Held], image: &Image) -> io::Result<bool> {
        for (memory, held) in memories.iter_mut().enumerate() {
            let size = self.saved.size(memory);
            if held.size() > size {
                let known = pages.of(memory);
                let next = size.max(held.size().saturating_sub(CUT));
                held.truncate(next)?;
                known.changed.truncate(next / PAGE);
                known.hot.retain(|hot| (hot.page as usize) < next / PAGE);
                return Ok(true);
            }
        }
        if let Some(memory) = self.saved.last_log() {
            if let Some(held) = memories.get_mut(memory) {
                self.log(memory, pages.of(memory), &mut held.lend(), image);
            }
            self.saved.shorten(PIECE);
            return Ok(true);
        }
        let (memory, page) = self.compared;
        if let Some(held) = memories.get_mut(memory) {
            let end = held.size() / PAGE;
            self.compared = if page + COMPARED < end { (memory, page + COMPARED) } else { (memory + 1, 0) };
            if self.saved.is_compared(memory) {
                compare(memory, page..end.min(page + COMPARED), pages.of(memory), &mut held.lend(), image);
            } else {
                self.compared = (memory + 1, 0);
            }
            return Ok(true);
        }
        for (memory, page, held) in self.saved.some_copies(self.copies..self.copies + PIECE) {
            let mut bytes = memories.get_mut(memory).map(Held::lend);
            if let Some(bytes) = bytes.as_mut().and_then(|lent| lent.bytes().get_mut(copied(page))) {
                bytes.copy_from_slice(held);
            }
        }
        self.copies += PIECE;
        if self.copies < self.saved.copies() {
            return Ok(true);
        }
        for (memory, held) in memories.iter_mut().enumerate() {
            let (known, mut lent) = (pages.of(memory), held.lend());
            // All changes are known by now.
            (known.closing, known.rest) = (Vec::new(), None);
            let mut open = lent.open_pages();
            open.retain(|page| !known.is_hot(*page));
            let more = open.len() > CLOSED;
            open.truncate(CLOSED);
            known.close(&mut lent, open);
            // A memory that a call has just made large may not be guarded as a whole yet.
            let (guarded, size) = (lent.guarded_end(), lent.size() / PAGE);
            let rest = known.guarded && guarded < size;
            if rest && lent.extend_guard(size.min(guarded + CLOSED)).is_err() {
                known.give_up(&mut lent);
            }
            known.rest = None;
            if more || rest {
                return Ok(true);
            }
            #[cfg(debug_assertions)]
            known.check(memory, &mut lent, image);
        }
        Ok(false)
    }

    /// Restores the last pages of the last log. A page that held zeroes takes no memory any more.
    fn log(&self, memory: usize, known: &mut Known, lent: &mut Lent<'_>, image: &Image) {
        let end = lent.size() / PAGE;
        let (mut zero, mut written) = (Vec::new(), Vec::new());
        for (page, held) in self.saved.last(PIECE).filter(|(page, _)| *page < end) {
            written.push(page);
            let Some(bytes) = lent.bytes().get_mut(copied(page)) else { continue };
            match held {
                Some(held) => bytes.copy_from_slice(held),
                None if image.has(memory, page) => bytes.fill(0),
                None => zero.push(page),
            }
        }
        zero.sort_unstable();
        runs(&zero).for_each(|run| lent.discard(run));
        zero.iter().for_each(|page| known.changed.remove(*page));
        known.hot.retain(|hot| zero.binary_search(&(hot.page as usize)).is_err());
        known.close(lent, written);
    }
}

impl Known {
    /// Closes pages that were written to, but for those that are hot. The log of the host's own writes is dropped.
    fn close(&mut self, lent: &mut Lent<'_>, mut pages: Vec<usize>) {
        drop(lent.take_log());
        pages.retain(|page| !self.is_hot(*page));
        if self.guarded && close_all(lent, pages).is_err() {
            self.give_up(lent);
        }
    }
}

/// Resets the pages in a range to the image.
fn compare(memory: usize, range: std::ops::Range<usize>, known: &Known, lent: &mut Lent<'_>, image: &Image) {
    let mut differing = Numbers::default();
    differing.extend(known.changed.within(range.clone()));
    image.find_differing(memory, lent.bytes(), range, &mut differing);
    for page in differing.iter() {
        image.put_back(memory, page, lent.bytes());
    }
}
