//! What pages held before they were written to.

use crate::PAGE;
use std::{fmt, sync::Arc};

/// Pages whose bytes are allocated together.
const CHUNK: usize = 16;

/// Where the memory that logs take is counted. Called from a handler of signals, between two instructions of a guest or
/// of a copy to its memory: it must wait for nothing, and must not panic.
pub trait Room: Send + Sync {
    /// A log takes so many bytes more. It takes them in any case; who has no room has to stop the guest.
    fn take(&self, bytes: usize);

    /// A log has given back so many bytes.
    fn give_back(&self, bytes: usize);
}

/// Room without a limit, and without a count.
pub(super) struct Unlimited;

impl Room for Unlimited {
    fn take(&self, _: usize) {}

    fn give_back(&self, _: usize) {}
}

/// The pages of a memory that were written to, in the order of their first writes, and what each of them held before.
///
/// It grows in a handler of signals, and allocates there. That is sound since no allocator is interrupted: the signal
/// comes of a write to a guarded memory, which neither an allocator nor anything that holds its locks ever does.
pub struct Log {
    entries: Vec<Entry>,
    /// Each has room for [`CHUNK`] pages, and all but the last one are full.
    chunks: Vec<Vec<u8>>,
    room: Arc<dyn Room>,
    /// Bytes that were taken of the room.
    taken: usize,
    /// There was no memory for a page.
    lost: bool,
}

#[derive(Debug, Clone, Copy)]
struct Entry {
    page: u32,
    /// Its bytes' place among all, in pages; [`ZEROES`] for none.
    place: u32,
}

/// The place of a page that held zeroes.
const ZEROES: u32 = u32::MAX;

impl Log {
    pub(super) fn new(room: Arc<dyn Room>) -> Self {
        Self { entries: Vec::new(), chunks: Vec::new(), room, taken: 0, lost: false }
    }

    pub(super) fn room(&self) -> &Arc<dyn Room> {
        &self.room
    }

    /// Adds a page, and what it holds: `None` for zeroes. It may be called where nothing must panic.
    pub(super) fn keep(&mut self, page: usize, bytes: Option<&[u8]>) {
        if self.entries.len() == self.entries.capacity() {
            let more = self.entries.len().max(CHUNK);
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

    /// The place of a copy; `None`, if there is no memory for it.
    fn copy(&mut self, bytes: &[u8]) -> Option<u32> {
        const NOTHING: [u8; PAGE] = [0; PAGE];
        if *bytes == NOTHING {
            return Some(ZEROES);
        }
        if self.chunks.last().is_none_or(|last| last.len() == last.capacity()) {
            let mut chunk = Vec::new();
            self.chunks.try_reserve(1).ok()?;
            chunk.try_reserve_exact(CHUNK * PAGE).ok()?;
            self.chunks.push(chunk);
            self.take(CHUNK * PAGE);
        }
        let full = self.chunks.len() - 1;
        let last = self.chunks.last_mut()?;
        let place = full * CHUNK + last.len() / PAGE;
        last.extend_from_slice(bytes);
        Some(place as u32)
    }

    /// Something that was written to is not in it.
    pub(super) fn lose(&mut self) {
        self.lost = true;
    }

    fn take(&mut self, bytes: usize) {
        self.taken += bytes;
        self.room.take(bytes);
    }

    /// How many pages there are.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether no page was written to.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Whether all is there: no page was written to that is missing, for want of memory, say.
    pub fn is_whole(&self) -> bool {
        !self.lost
    }

    /// Keeps only the pages that are wanted, which are asked for in the order of the log. The others' bytes go.
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

    /// The pages, by their numbers, and what they held: `None` for zeroes.
    pub fn pages(&self) -> impl Iterator<Item = (usize, Option<&[u8]>)> {
        self.entries.iter().map(|entry| {
            let bytes = (entry.place != ZEROES).then(|| {
                let (chunk, at) = (entry.place as usize / CHUNK, entry.place as usize % CHUNK * PAGE);
                &self.chunks[chunk][at..at + PAGE]
            });
            (entry.page as usize, bytes)
        })
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        self.room.give_back(self.taken);
    }
}

impl fmt::Debug for Log {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Log").field("pages", &self.entries.len()).finish_non_exhaustive()
    }
}
