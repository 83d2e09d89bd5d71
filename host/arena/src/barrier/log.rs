//! Logs: the bytes that pages held before they were written to.

use crate::PAGE;
use std::{fmt, ptr::NonNull, sync::Arc};

/// Pages of the first chunk, which comes from the allocator, and of the others, which come from the kernel: an
/// allocator keeps freed memory for a while, and logs of large memories are large.
const FIRST: usize = 4;
const CHUNK: usize = 64;
/// The initial capacity for entries.
const ENTRIES: usize = 16;

/// Accounts for the memory that logs take. The methods are called from a signal handler, between two instructions of
/// a guest or of a copy to its memory: they must wait for nothing and must not panic.
pub trait LogRoom: Send + Sync {
    /// Adds bytes that a log takes. The log takes them in any case: without room, the implementer has to stop the
    /// guest.
    fn take(&self, bytes: usize);

    /// Subtracts bytes that a log has given back.
    fn give_back(&self, bytes: usize);
}

/// A room without a limit that counts nothing.
pub(super) struct Unlimited;

impl LogRoom for Unlimited {
    fn take(&self, _: usize) {}

    fn give_back(&self, _: usize) {}
}

/// The pages of a memory that were written to, in the order of their first writes, and what each of them held before.
///
/// A log grows, and allocates, in a signal handler. This is sound because no allocator is interrupted: the signal
/// comes from a write to a guarded memory, and neither an allocator nor a holder of its locks ever writes there.
pub struct WriteLog {
    entries: Vec<Entry>,
    /// The bytes of the first [`FIRST`] pages.
    first: Vec<u8>,
    /// The bytes of the other pages. All chunks but the last are full.
    chunks: Vec<Segment>,
    room: Arc<dyn LogRoom>,
    /// Bytes taken from the room.
    taken: usize,
    /// True if there was no memory for a page.
    lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    page: u32,
    /// The index of the page's copy among all copies; [`ZEROES`] if there is none.
    place: u32,
}

/// The place of a page that held zeroes.
const ZEROES: u32 = u32::MAX;

impl WriteLog {
    pub(super) fn new(room: Arc<dyn LogRoom>) -> Self {
        Self { entries: Vec::new(), first: Vec::new(), chunks: Vec::new(), room, taken: 0, lost: false }
    }

    pub(super) fn room(&self) -> &Arc<dyn LogRoom> {
        &self.room
    }

    /// Adds a page and its contents: `None` for zeroes. Never panics.
    pub(super) fn keep(&mut self, page: usize, bytes: Option<&[u8]>) {
        if self.entries.len() == self.entries.capacity() {
            let more = self.entries.len().max(ENTRIES);
            if self.entries.try_reserve_exact(more).is_err() {
                self.lost = true;
                return;
            }
            self.take(more * size_of::<Entry>());
        }
        let place = bytes.map_or(Some(ZEROES), |bytes| self.copy(bytes)).unwrap_or_else(|| {
            self.lost = true;
            ZEROES
        });
        self.entries.push(Entry { page: page as u32, place });
    }

    /// Copies a page's bytes and returns the copy's place; `None` if there is no memory for it.
    fn copy(&mut self, bytes: &[u8]) -> Option<u32> {
        const NOTHING: [u8; PAGE] = [0; PAGE];
        if *bytes == NOTHING {
            return Some(ZEROES);
        }
        if self.first.len() < FIRST * PAGE {
            if self.first.capacity() == 0 {
                self.first.try_reserve_exact(FIRST * PAGE).ok()?;
                self.take(FIRST * PAGE);
            }
            self.first.extend_from_slice(bytes);
            return Some((self.first.len() / PAGE - 1) as u32);
        }
        if self.chunks.last().is_none_or(|last| last.pages == CHUNK) {
            self.chunks.try_reserve(1).ok()?;
            let chunk = Segment::map()?;
            self.chunks.push(chunk);
            self.take(CHUNK * PAGE);
        }
        let full = self.chunks.len() - 1;
        let last = self.chunks.last_mut()?;
        last.add(bytes);
        Some((FIRST + full * CHUNK + last.pages - 1) as u32)
    }

    /// The bytes at a place.
    fn at(&self, place: usize) -> &[u8] {
        match place.checked_sub(FIRST) {
            None => &self.first[place * PAGE..(place + 1) * PAGE],
            Some(place) => self.chunks[place / CHUNK].page(place % CHUNK),
        }
    }

    /// Marks the log as incomplete: a page was written to and is missing.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }

    fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        self.room.take(bytes);
    }

    /// The number of pages.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// True if no page was written to.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// True if no written page is missing; one may be, for want of memory.
    pub fn is_whole(&self) -> bool {
        !self.lost
    }

    /// Keeps only the pages that `wanted` accepts, called in the order of the log. The others' bytes are freed.
    pub fn retain(&mut self, mut wanted: impl FnMut(usize) -> bool) {
        let kept: Vec<bool> = self.pages().map(|(page, _)| wanted(page)).collect();
        if kept.iter().all(|kept| *kept) {
            return;
        }
        let mut fewer = Self::new(self.room.clone());
        for ((page, held), _) in self.pages().zip(kept).filter(|(_, kept)| *kept) {
            fewer.keep(page, held);
        }
        fewer.lost |= self.lost;
        *self = fewer;
    }

    /// Drops the pages from the `len`-th on, and gives back their bytes' memory.
    pub fn truncate(&mut self, len: usize) {
        self.entries.truncate(len);
        let last = self.entries.iter().rev().find(|entry| entry.place != ZEROES);
        let places = last.map_or(0, |last| last.place as usize + 1);
        self.first.truncate(places.min(FIRST) * PAGE);
        let chunks = places.saturating_sub(FIRST).div_ceil(CHUNK);
        let before = self.chunks.len();
        self.chunks.truncate(chunks);
        if let Some(last) = self.chunks.last_mut() {
            last.pages = places - FIRST - (chunks - 1) * CHUNK;
        }
        let less = (before - self.chunks.len()) * CHUNK * PAGE;
        self.taken -= less;
        self.room.give_back(less);
    }

    /// The pages' numbers and previous contents: `None` for zeroes.
    pub fn pages(&self) -> impl ExactSizeIterator<Item = (usize, Option<&[u8]>)> {
        self.entries.iter().map(|entry| {
            let bytes = (entry.place != ZEROES).then(|| self.at(entry.place as usize));
            (entry.page as usize, bytes)
        })
    }
}

/// A mapping of its own, for [`CHUNK`] pages.
struct Segment {
    base: NonNull<u8>,
    /// Pages that are written.
    pages: usize,
}

// SAFETY: the mapping is this chunk's own, and is written only by whoever holds it exclusively.
unsafe impl Send for Segment {}
// SAFETY: as above.
unsafe impl Sync for Segment {}

impl Segment {
    /// Maps a chunk; `None` if the kernel gives no memory.
    fn map() -> Option<Self> {
        // SAFETY: an anonymous mapping at an address that the kernel chooses touches no existing mapping.
        let base = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                CHUNK * PAGE,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if base == libc::MAP_FAILED { None } else { Some(Self { base: NonNull::new(base.cast())?, pages: 0 }) }
    }

    /// Adds a page, for which there must be room.
    fn add(&mut self, bytes: &[u8]) {
        assert!(self.pages < CHUNK && bytes.len() == PAGE, "a page, and room for it");
        // SAFETY: the place is within the mapping, and `bytes` is a page of another one.
        unsafe { std::ptr::copy_nonoverlapping(bytes.as_ptr(), self.base.as_ptr().add(self.pages * PAGE), PAGE) };
        self.pages += 1;
    }

    fn page(&self, page: usize) -> &[u8] {
        assert!(page < self.pages, "a page that was written");
        // SAFETY: the page is within the mapping, which lives as long as this, and is not written to any more.
        unsafe { std::slice::from_raw_parts(self.base.as_ptr().add(page * PAGE), PAGE) }
    }
}

impl Drop for Segment {
    fn drop(&mut self) {
        // SAFETY: the mapping is this chunk's own, and nothing borrows from it any more.
        unsafe { libc::munmap(self.base.as_ptr().cast(), CHUNK * PAGE) };
    }
}

impl Drop for WriteLog {
    fn drop(&mut self) {
        self.room.give_back(self.taken);
    }
}

impl fmt::Debug for WriteLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WriteLog").field("pages", &self.entries.len()).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::atomic::{AtomicUsize, Ordering};

    #[derive(Default)]
    struct Counted(AtomicUsize);

    impl LogRoom for Counted {
        fn take(&self, bytes: usize) {
            self.0.fetch_add(bytes, Ordering::Relaxed);
        }

        fn give_back(&self, bytes: usize) {
            self.0.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Steps, each of which adds a number of pages filled with a byte, or drops up to that many off the end.
    fn steps() -> impl Strategy<Value = Vec<(bool, u8, usize)>> {
        let byte = prop_oneof![Just(0u8), 1..4u8];
        prop::collection::vec((any::<bool>(), byte, prop_oneof![0..6usize, 0..200usize]), 1..30)
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn a_log_is_a_list_that_gives_back_what_is_taken_off_its_end(steps in steps()) {
            let room = Arc::new(Counted::default());
            let mut log = WriteLog::new(room.clone());
            let mut model: Vec<(usize, u8)> = Vec::new();
            for (is_kept, byte, pages) in steps {
                if is_kept {
                    for _ in 0..pages {
                        let page = model.len() * 3;
                        log.keep(page, Some(&[byte; PAGE]));
                        model.push((page, byte));
                    }
                } else {
                    model.truncate(model.len().saturating_sub(pages));
                    log.truncate(log.len().saturating_sub(pages));
                }
                prop_assert_eq!(log.len(), model.len());
                for ((page, held), (expected, byte)) in log.pages().zip(&model) {
                    prop_assert_eq!(page, *expected);
                    prop_assert_eq!(held.is_none(), *byte == 0);
                    prop_assert!(held.is_none_or(|held| held.iter().all(|of| of == byte)));
                }
                let held = model.iter().filter(|(_, byte)| *byte != 0).count();
                let chunks = held.saturating_sub(FIRST).div_ceil(CHUNK);
                let least = chunks * CHUNK * PAGE;
                let taken = room.0.load(Ordering::Relaxed);
                let most = least + FIRST * PAGE + log.entries.capacity() * size_of::<Entry>();
                prop_assert!((least..=most).contains(&taken), "{} bytes for {} pages", taken, held);
            }
            drop(log);
            prop_assert_eq!(room.0.load(Ordering::Relaxed), 0);
        }
    }
}
