//! What all instances of a function begin with, and which pages of one differ from it.
//!
//! An image is the bytes of the linear memories of a new instance. Between calls, an instance is its image, and the
//! pages that differ: that is all that has to be kept of it to make it again. Pages are compared once; from then on the
//! kernel notes which are written to, or they are compared after each call where it cannot (see
//! host/docs/performance.md).

use carrel_arena::PAGE;
use std::ops::Range;

/// What identifies the image: snapshots of another one are refused.
pub(crate) type Key = [u8; 16];

/// The linear memories of a new instance.
pub(crate) struct Image {
    memories: Box<[Start]>,
    /// Whether the instance is configured in it, so that a new one need not be.
    configured: bool,
    /// Pages at the start of the only memory that hold nothing between calls: stack below its top.
    dead: usize,
    /// What snapshots are compressed with: texts of the guest, which its heap has many of.
    dictionary: Box<[u8]>,
    key: Key,
}

/// The most bytes of a dictionary: as far as LZ4 looks back.
const DICTIONARY: usize = 64 << 10;

/// What a linear memory begins with.
struct Start {
    /// Bytes.
    size: usize,
    /// Its bytes, up to the last page that is not all zero.
    bytes: Box<[u8]>,
    /// Pages that are not all zero.
    written: Box<[usize]>,
}

/// The pages that differ from the image, or may.
#[derive(Debug, Default)]
pub(crate) struct Dirty(Vec<Page>);

/// A page of a memory: the memory's number above the page's, so that they are in order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Page(u32);

impl Page {
    const BITS: u32 = 24;

    /// The most linear memories that an image has.
    const MEMORIES: usize = 1 << (u32::BITS - Self::BITS);
    /// The most pages of one: 64 GiB, beyond what a memory of 32-bit addresses has.
    const PAGES: usize = 1 << Self::BITS;

    /// Both are within what [`Image::new`] takes.
    fn new(memory: usize, page: usize) -> Self {
        Self(((memory as u32) << Self::BITS) | page as u32)
    }

    pub(super) fn memory(self) -> usize {
        (self.0 >> Self::BITS) as usize
    }

    /// Its bytes in the memory.
    pub(super) fn range(self) -> Range<usize> {
        let start = self.number() * PAGE;
        start..start + PAGE
    }

    fn number(self) -> usize {
        (self.0 & ((1 << Self::BITS) - 1)) as usize
    }
}

impl Dirty {
    pub(super) fn pages(&self) -> &[Page] {
        &self.0
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Adds what the kernel has noted: all pages that these bytes of a memory touch.
    pub(super) fn merge(&mut self, memory: usize, bytes: Range<usize>) {
        for page in bytes.start / PAGE..bytes.end.div_ceil(PAGE) {
            let page = Page::new(memory, page);
            if let Err(place) = self.0.binary_search(&page) {
                self.0.insert(place, page);
            }
        }
    }

    /// All pages that these bytes of a memory touch. The caller goes forward.
    pub(super) fn add(&mut self, memory: usize, bytes: Range<usize>) {
        for page in bytes.start / PAGE..bytes.end.div_ceil(PAGE) {
            let page = Page::new(memory, page);
            if self.0.last() != Some(&page) {
                self.0.push(page);
            }
        }
    }

    /// The pages of one memory.
    fn of(&self, memory: usize) -> &[Page] {
        if self.0.last().is_none_or(|last| last.memory() == memory) && memory == 0 {
            return &self.0;
        }
        let start = self.0.partition_point(|page| page.memory() < memory);
        let end = self.0.partition_point(|page| page.memory() <= memory);
        &self.0[start..end]
    }
}

impl Image {
    /// The image of an instance with these memories. `dead` is how many bytes at the start of the memory, if there is
    /// one only, hold nothing between calls. `identity` is of the guest and its configuration.
    ///
    /// None, if the memories are of a kind that has no image.
    pub(super) fn new(memories: &[Vec<u8>], configured: bool, dead: usize, identity: &blake3::Hasher) -> Option<Self> {
        let mut starts = Vec::new();
        let mut identity = identity.clone();
        for (index, memory) in memories.iter().enumerate() {
            let whole = memory.len().is_multiple_of(PAGE) && memory.len() / PAGE <= Page::PAGES;
            if index >= Page::MEMORIES || !whole {
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

    pub(super) fn is_configured(&self) -> bool {
        self.configured
    }

    pub(super) fn key(&self) -> &Key {
        &self.key
    }

    pub(super) fn dictionary(&self) -> &[u8] {
        &self.dictionary
    }

    /// Bytes of each memory.
    pub(super) fn sizes(&self) -> impl ExactSizeIterator<Item = usize> {
        self.memories.iter().map(|start| start.size)
    }

    /// Pages that a new instance writes to.
    pub(crate) fn pages(&self) -> usize {
        self.memories.iter().map(|start| start.written.len()).sum()
    }

    /// What a page begins with; none, if with zeroes.
    pub(super) fn page(&self, page: Page) -> Option<&[u8]> {
        self.memories.get(page.memory())?.bytes.get(page.range())
    }

    /// Bytes at the start of the only memory that hold nothing between calls.
    pub(super) fn dead(&self) -> usize {
        self.dead * PAGE
    }

    /// Writes the image to the memories of a guest's shell, which are all zero. One may be smaller than in the image, if
    /// it is not of a configured instance: start code may grow memories by chance.
    pub(super) fn apply<'a>(&self, memories: impl Iterator<Item = &'a mut [u8]>) {
        for (memory, start) in memories.zip(&self.memories) {
            for page in &start.written {
                let bytes = page * PAGE..(page + 1) * PAGE;
                if let (Some(to), Some(from)) = (memory.get_mut(bytes.clone()), start.bytes.get(bytes)) {
                    to.copy_from_slice(from);
                }
            }
        }
    }

    /// Adds all pages to `dirty` that differ from the image and are not in it. Gives how many are left that do not.
    pub(super) fn find_dirty<'a>(&self, memories: impl Iterator<Item = &'a mut [u8]>, dirty: &mut Dirty) -> usize {
        let mut found = Vec::new();
        let mut alive = 0;
        for (index, (memory, start)) in memories.zip(&self.memories).enumerate() {
            let mut from = if index == 0 { self.dead } else { 0 };
            alive += memory.len() / PAGE - from;
            let known = dirty.of(index).iter().map(|page| page.number());
            for page in known.chain([memory.len() / PAGE]) {
                start.find_differing(memory, from..page, |page| found.push(Page::new(index, page)));
                from = page + 1;
            }
        }
        if !found.is_empty() {
            dirty.0.append(&mut found);
            dirty.0.sort_unstable();
        }
        alive.saturating_sub(dirty.0.len())
    }
}

impl Start {
    fn find_differing(&self, now: &[u8], pages: Range<usize>, mut found: impl FnMut(usize)) {
        if pages.is_empty() || self.is(now, pages.clone()) {
            return;
        }
        pages.filter(|page| !self.is(now, *page..page + 1)).for_each(&mut found);
    }

    /// Whether these pages are as they were at first.
    fn is(&self, now: &[u8], pages: Range<usize>) -> bool {
        let (start, end) = (pages.start * PAGE, pages.end * PAGE);
        let written = end.min(self.bytes.len()).max(start);
        self.bytes.get(start..written).is_none_or(|first| now[start..written] == *first) && is_zero(&now[written..end])
    }
}

fn is_zero(bytes: &[u8]) -> bool {
    const ZEROES: [u8; PAGE] = [0; PAGE];
    bytes.chunks(PAGE).all(|page| *page == ZEROES[..page.len()])
}

impl std::fmt::Debug for Image {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let sizes: Vec<_> = self.sizes().collect();
        f.debug_struct("Image").field("sizes", &sizes).field("configured", &self.configured).finish_non_exhaustive()
    }
}
