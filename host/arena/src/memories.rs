//! Linear memories in slots of a few sizes.
//!
//! A memory starts in the smallest slot that it fits in and moves to a larger one when it outgrows it; each size is
//! four times the one before, so that a memory that grows page by page is copied a third of its size in all. Small
//! slots matter twice: a slot of 2 MiB or more costs a page of page tables for itself.

use crate::{
    slots::{Keep, Slots},
    tracked,
    watch::Watch,
};
use std::{
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// What the error of a memory that finds no slot begins with.
pub const EXHAUSTED: &str = "the arena is exhausted";

const ZEROES: [u8; crate::PAGE] = [0; crate::PAGE];
/// Bytes of the smallest slot.
const SMALLEST: usize = 256 << 10;
/// Addresses that slots of one size may take, in bytes.
const ADDRESSES: usize = 1 << 40;
/// The most slots of one size.
const MOST_SLOTS: usize = 1 << 20;
/// Bytes at the start of a slot that are zeroed by writing when it is freed, rather than given back to the kernel: the
/// next user meets no page faults there.
///
/// Guests are expected to have 64 or 128 KiB. To make and drop an instance that writes to 8 pages takes, with so much
/// kept (`benches/reuse.rs`, two cores of a virtual machine):
///
/// | memory  | nothing | 64 KiB | 128 KiB | 256 KiB |
/// |---------|---------|--------|---------|---------|
/// | 64 KiB  | 19 µs   | 1.5 µs |         |         |
/// | 128 KiB | 20 µs   | 11 µs  | 1.8 µs  |         |
/// | 256 KiB | 19 µs   | 15 µs  | 13 µs   | 2.6 µs  |
const KEEP: usize = 128 << 10;
/// The most bytes of free slots that stay resident, per size: 512 slots of `KEEP` bytes. Nobody uses that memory, so it
/// is bounded. Where 2,000 instances of 128 KiB come and go together, each takes 25 µs if nothing is kept, 19 if this is,
/// and 7 if all is, which is four times as much (of the same bench, on a busy machine).
const RESIDENT: usize = 64 << 20;

/// Makes linear memories. Give it to [`wasmtime::Config::with_host_memory`], together with
/// `memory_reservation(0)`, `memory_reservation_for_growth(0)` and `memory_guard_size(0)`.
#[derive(Debug, Clone)]
pub struct Memories {
    sizes: Arc<[Arc<Slots>]>,
    /// What notes writes; none, where the kernel cannot.
    watch: Option<Arc<Watch>>,
}

impl Memories {
    /// Reserves addresses for memories of up to `largest` bytes each.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn new(largest: usize) -> std::io::Result<Self> {
        Self::with_slots(largest, MOST_SLOTS)
    }

    /// The same, with at most `slots` slots of each size: so few that tests can use them up. A memory that finds none
    /// of its size is put in a larger one, so `slots` times the number of sizes is the most memories there can be.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn with_slots(largest: usize, slots: usize) -> std::io::Result<Self> {
        Self::reserve(largest, slots, Keep { of_each: KEEP, of_all: RESIDENT })
    }

    /// The same as [`Memories::new`], with other figures for what free slots keep: for measuring which are good.
    #[doc(hidden)]
    pub fn with_keep(largest: usize, of_each: usize, of_all: usize) -> std::io::Result<Self> {
        Self::reserve(largest, MOST_SLOTS, Keep { of_each, of_all })
    }

    fn reserve(largest: usize, slots: usize, keep: Keep) -> std::io::Result<Self> {
        let mut sizes = Vec::new();
        let mut size = SMALLEST;
        loop {
            sizes.push(Arc::new(Slots::reserve(size, (ADDRESSES / size).min(slots), keep)?));
            if size >= largest {
                let watch = Watch::new().filter(|watch| sizes.iter().all(|slots| slots.watch_by(watch)));
                return Ok(Self { sizes: sizes.into(), watch: watch.map(Arc::new) });
            }
            size *= 4;
        }
    }

    /// What notes writes, where the kernel can.
    pub(crate) fn watch(&self) -> Option<&Arc<Watch>> {
        self.watch.as_ref()
    }

    /// Whether the kernel tells which pages of a memory were written to.
    pub fn writes_are_noted(&self) -> bool {
        self.watch.is_some()
    }

    /// Memories that exist.
    pub fn in_use(&self) -> usize {
        self.sizes.iter().map(|slots| slots.used()).sum()
    }

    fn allocate(&self, size: usize) -> Result<Slot, String> {
        let fitting = self.sizes.iter().position(|slots| slots.size() >= size);
        let fitting = fitting.ok_or_else(|| format!("a memory of {size} bytes is larger than the largest slot"))?;
        // A slot of the next size serves as well, if all of this one are in use.
        let taken = self.sizes[fitting..].iter().find_map(|slots| Some((slots, slots.take()?)));
        let (slots, taken) = taken.ok_or_else(|| format!("{EXHAUSTED}: no slot for a memory of {size} bytes"))?;
        Ok(Slot { slots: slots.clone(), index: taken.index, size, resident: taken.resident, watched: None })
    }
}

// SAFETY: each memory is a slot of its own: zeroed, page-aligned, and alive until the `LinearMemory` is dropped. No
// guard pages are promised, and a configuration that would need them is refused.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        memory: MemoryType,
        minimum: usize,
        maximum: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved_size_in_bytes.unwrap_or(0) != 0 || guard_size_in_bytes != 0 {
            return Err("carrel-arena needs memory_reservation(0) and memory_guard_size(0)".into());
        }
        if memory.is_shared() {
            return Err("carrel-arena makes no memories that several threads share".into());
        }
        let size = tracked::size_of_next().map_or(minimum, |wanted| wanted.max(minimum));
        let page = usize::try_from(memory.page_size()).map_err(|error| error.to_string())?;
        if !size.is_multiple_of(page) || size > maximum.unwrap_or(usize::MAX) {
            return Err(format!("a memory of {minimum} bytes at least cannot have {size} bytes"));
        }
        let slot = Arc::new(Shared::new(self.allocate(size)?));
        tracked::made(&slot, self.watch());
        Ok(Box::new(Memory { memories: self.clone(), slot }))
    }
}

/// One linear memory.
struct Memory {
    memories: Memories,
    slot: Arc<Shared>,
}

/// The slot that a memory is in now, for the memory itself and for the [`Tracked`](crate::Tracked) store that it is of.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Slot>);

impl Shared {
    fn new(slot: Slot) -> Self {
        Self(Mutex::new(slot))
    }

    /// Where the memory begins, and its size in bytes.
    pub(crate) fn place(&self) -> (NonNull<u8>, usize) {
        let slot = self.slot();
        (slot.base(), slot.size)
    }

    /// From now on, writes to the memory are noted, but for its first `skip` bytes. Gives whether the kernel does so.
    pub(crate) fn watch(&self, watch: &Arc<Watch>, skip: usize) -> bool {
        let mut slot = self.slot();
        let start = slot.base().as_ptr() as usize;
        let addresses = start + skip.min(slot.size)..start + slot.size;
        let watched = addresses.is_empty() || watch.protect(addresses.clone()).is_ok();
        slot.watched = Some((watch.clone(), addresses));
        watched
    }

    /// Tells the bytes of the memory that were written to, in whole pages, since it was last watched. Gives whether that
    /// is known: a memory that has grown since then has to be watched anew.
    pub(crate) fn written(&self, mut found: impl FnMut(Range<usize>)) -> bool {
        let slot = self.slot();
        let Some((watch, addresses)) = &slot.watched else { return false };
        let start = slot.base().as_ptr() as usize;
        if addresses.end != start + slot.size {
            return false;
        }
        let told = |pages: Range<usize>| found(pages.start - start..pages.end - start);
        addresses.is_empty() || watch.written(addresses.clone(), told).is_ok()
    }

    /// Nothing panics while it is held, and a slot is whole at any time.
    fn slot(&self) -> MutexGuard<'_, Slot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// SAFETY: the range from `as_ptr` of `byte_size` bytes is a slot that is this memory's own until it is dropped, open
// for reading and writing, and page-aligned. The base moves only in `grow_to` beyond `byte_capacity`.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.slot.slot().size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.slot().slots.size()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let mut slot = self.slot.slot();
        if new_size > slot.slots.size() {
            let larger = self.memories.allocate(new_size).map_err(wasmtime::Error::msg)?;
            // SAFETY: both are slots of their own with at least `slot.size` open bytes. Nothing refers to the old one:
            // wasmtime holds the memory exclusively while it grows, and reads its base anew afterwards; the host has a
            // slice of it only while nothing runs in the store.
            unsafe {
                std::ptr::copy_nonoverlapping(slot.base().as_ptr(), larger.base().as_ptr(), slot.size);
            }
            *slot = larger;
        }
        slot.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.slot().base().as_ptr()
    }
}

/// A slot in use: the first `size` bytes of it.
#[derive(Debug)]
struct Slot {
    slots: Arc<Slots>,
    index: usize,
    size: usize,
    /// Bytes that its last user left resident, as zeroes; perhaps beyond `size`.
    resident: usize,
    /// The addresses in it that are watched, and by what.
    watched: Option<(Arc<Watch>, Range<usize>)>,
}

impl Slot {
    fn base(&self) -> NonNull<u8> {
        self.slots.region().at(self.slots.offset(self.index))
    }
}

impl Drop for Slot {
    /// Zeroes what may have been written, which is the first `size` bytes: a memory never shrinks, and its code is
    /// bounds-checked.
    fn drop(&mut self) {
        if let Some((watch, addresses)) = self.watched.take() {
            // If it fails, the writes below cost more, and that is all.
            let _ = watch.release(addresses);
        }
        let offset = self.slots.offset(self.index);
        let written = self.size.next_multiple_of(crate::PAGE);
        let resident = written.max(self.resident);
        let kept = self.slots.keep(resident);
        let given_back = self.slots.region().advise(offset + kept, resident - kept, libc::MADV_DONTNEED);
        // The kernel takes nothing back of locked memory, say: then all of it is zeroed by writing.
        let left = if given_back.is_ok() { kept } else { resident };
        // SAFETY: the slot is still this one's own, and open. Nothing refers to it: its memory has moved to another slot,
        // or was dropped, and so was the `Tracked` that knew of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), written.min(left)) };
        // Looking costs less than writing, and a page that was never written to takes no memory: a guest's stack is
        // mostly such pages.
        bytes.chunks_mut(crate::PAGE).filter(|page| **page != ZEROES[..page.len()]).for_each(|page| page.fill(0));
        self.slots.put(self.index, kept, left);
    }
}

#[cfg(test)]
mod tests;
