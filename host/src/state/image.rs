//! Images: the memories that all instances of a function begin with.
//!
//! An image is the bytes of the linear memories of a new instance. Between calls, an instance is its image and the
//! pages that differ from it: no more must be kept to restore it. `pages` finds these pages.

use super::numbers::Numbers;
use carrel_arena::PAGE;
use std::ops::Range;

/// An image's identity: snapshots of another image are refused.
pub(crate) type Key = [u8; 16];

/// The linear memories of a new instance.
pub(crate) struct Image {
    memories: Box<[Start]>,
    /// True if the image is of a configured instance, so that a new one need not be configured.
    configured: bool,
    /// Pages at the start of the only memory that hold nothing between calls: stack below its top.
    dead: usize,
    /// The dictionary for compressing snapshots: texts of the guest, of which its heap has many.
    dictionary: Box<[u8]>,
    key: Key,
}

/// The most bytes of a dictionary: as far as LZ4 looks back.
const DICTIONARY: usize = 64 << 10;

/// The initial content of a linear memory.
struct Start {
    /// Bytes.
    size: usize,
    /// Its bytes, up to the last page that is not all zero.
    bytes: Box<[u8]>,
    /// Pages that are not all zero.
    written: Box<[usize]>,
}

/// The most linear memories that an image has.
const MEMORIES: usize = 256;
/// The most pages of one: 64 GiB, beyond what a memory of 32-bit addresses has.
const PAGES: usize = 1 << 24;

impl Image {
    /// Makes the image of an instance with these memories. `dead` is the number of bytes at the start of the memory,
    /// if there is one only, that hold nothing between calls. The key is made of the guest's hash and the memories:
    /// all else that an instance was told, by its configuration or its grants, is in them or makes no difference.
    ///
    /// Returns `None` if the memories are of a kind that has no image.
    pub(crate) fn new(memories: &[Vec<u8>], configured: bool, dead: usize, guest: &[u8; 32]) -> Option<Self> {
        let mut starts = Vec::new();
        let mut identity = blake3::Hasher::new();
        identity.update(guest).update(&[configured.into()]);
        for (index, memory) in memories.iter().enumerate() {
            let whole = memory.len().is_multiple_of(PAGE) && memory.len() / PAGE <= PAGES;
            if index >= MEMORIES || !whole {
                return None;
            }
            let pages = memory.chunks(PAGE).enumerate().filter(|(_, page)| !is_zero(page));
            let written: Box<[usize]> = pages.map(|(page, _)| page).collect();
            let used = written.last().map_or(0, |last| (last + 1) * PAGE);
            identity.update(&(memory.len() as u64).to_le_bytes()).update(&(used as u64).to_le_bytes());
            identity.update(&memory[..used]);
            starts.push(Start { size: memory.len(), bytes: memory[..used].into(), written });
        }
        let dead = if starts.len() == 1 { dead / PAGE } else { 0 };
        let mut key = Key::default();
        key.copy_from_slice(&identity.finalize().as_bytes()[..size_of::<Key>()]);
        let texts = starts.iter().flat_map(|start| start.bytes.chunks(PAGE)).filter(|page| !is_zero(page));
        let dictionary: Vec<u8> = texts.flatten().copied().take(DICTIONARY).collect();
        let dictionary = dictionary.into();
        Some(Self { dictionary, memories: starts.into(), configured, dead, key })
    }

    pub(crate) fn is_configured(&self) -> bool {
        self.configured
    }

    pub(crate) fn key(&self) -> &Key {
        &self.key
    }

    pub(crate) fn dictionary(&self) -> &[u8] {
        &self.dictionary
    }

    /// Bytes of each memory.
    pub(crate) fn sizes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.memories.iter().map(|start| start.size)
    }

    /// Bytes of a memory.
    pub(crate) fn size(&self, memory: usize) -> usize {
        self.memories.get(memory).map_or(0, |start| start.size)
    }

    /// Bytes of linear memory that a new instance takes at first.
    pub(crate) fn at_first(&self) -> usize {
        self.sizes().sum()
    }

    /// Pages that a new instance writes to.
    pub(crate) fn pages(&self) -> usize {
        self.memories.iter().map(|start| start.written.len()).sum()
    }

    /// Pages of a memory that a new instance writes to.
    pub(crate) fn written(&self, memory: usize) -> usize {
        self.memories.get(memory).map_or(0, |start| start.written.len())
    }

    /// The initial bytes of a page: zeroes beyond the last page that is not all zero.
    pub(crate) fn page(&self, memory: usize, page: usize) -> &[u8] {
        let start = self.memories.get(memory);
        start.and_then(|start| start.bytes.get(page * PAGE..(page + 1) * PAGE)).unwrap_or(&ZEROES)
    }

    /// True if a new instance writes to a page.
    pub(crate) fn has(&self, memory: usize, page: usize) -> bool {
        self.memories.get(memory).is_some_and(|start| start.written.binary_search(&page).is_ok())
    }

    /// Pages at the start of a memory that hold nothing between calls.
    pub(crate) fn dead_of(&self, memory: usize) -> usize {
        if memory == 0 { self.dead } else { 0 }
    }

    /// Writes these pages of the image, counted through all memories, to the memories of a guest's shell, which are
    /// all zero. A memory may be smaller than in the image, if that is not of a configured instance: start code may
    /// grow memories by chance.
    pub(crate) fn apply<'a>(&self, memories: impl Iterator<Item = &'a mut [u8]>, pages: Range<usize>) {
        let mut before = 0;
        for (memory, start) in memories.zip(&self.memories) {
            let of_this = pages.start.saturating_sub(before)..pages.end.saturating_sub(before);
            let of_this = of_this.start.min(start.written.len())..of_this.end.min(start.written.len());
            before += start.written.len();
            for page in &start.written[of_this] {
                let bytes = page * PAGE..(page + 1) * PAGE;
                if let (Some(to), Some(from)) = (memory.get_mut(bytes.clone()), start.bytes.get(bytes)) {
                    to.copy_from_slice(from);
                }
            }
        }
    }

    /// Resets a page of a memory to its initial bytes.
    pub(crate) fn put_back(&self, memory: usize, page: usize, bytes: &mut [u8]) {
        if let Some(bytes) = bytes.get_mut(page * PAGE..(page + 1) * PAGE) {
            bytes.copy_from_slice(self.page(memory, page));
        }
    }

    /// Adds to `known` the pages in a range of a memory that differ from the image.
    pub(crate) fn find_differing(&self, memory: usize, bytes: &[u8], pages: Range<usize>, known: &mut Numbers) {
        let Some(start) = self.memories.get(memory) else { return };
        let mut found = Vec::new();
        let mut from = pages.start.max(self.dead_of(memory));
        for page in known.within(from..pages.end).chain([pages.end]) {
            start.find_differing(bytes, from..page, |page| found.push(page));
            from = page + 1;
        }
        known.extend(found);
    }
}

impl Start {
    fn find_differing(&self, now: &[u8], pages: Range<usize>, mut found: impl FnMut(usize)) {
        if pages.is_empty() || self.is(now, pages.clone()) {
            return;
        }
        pages.filter(|page| !self.is(now, *page..page + 1)).for_each(&mut found);
    }

    /// Returns true if these pages hold their initial bytes.
    fn is(&self, now: &[u8], pages: Range<usize>) -> bool {
        let (start, end) = (pages.start * PAGE, pages.end * PAGE);
        let written = end.min(self.bytes.len()).max(start);
        self.bytes.get(start..written).is_none_or(|first| now[start..written] == *first) && is_zero(&now[written..end])
    }
}

static ZEROES: [u8; PAGE] = [0; PAGE];

fn is_zero(bytes: &[u8]) -> bool {
    bytes.chunks(PAGE).all(|page| *page == ZEROES[..page.len()])
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<_> = self.sizes().collect();
        f.debug_struct("Image").field("sizes", &sizes).field("configured", &self.configured).finish_non_exhaustive()
    }
}
