//! Linear memories in slots of a few sizes.
//!
//! A memory starts in the smallest slot that it fits in and moves to a larger one when it outgrows it; each size is
//! four times the one before, so that a memory that grows page by page is copied a third of its size in all. Small
//! slots matter twice: a slot of 2 MiB or more costs a page of page tables for itself.

use crate::slots::Slots;
use std::{ptr::NonNull, sync::Arc};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// What the error of a memory that finds no slot begins with.
pub const EXHAUSTED: &str = "the arena is exhausted";

/// Bytes of the smallest slot.
const SMALLEST: usize = 256 << 10;
/// Addresses that slots of one size may take, in bytes.
const ADDRESSES: usize = 1 << 40;
/// The most slots of one size.
const MOST_SLOTS: usize = 1 << 20;
/// Bytes at the start of a slot that are zeroed by writing when it is freed, rather than given back to the kernel:
/// up to here, writing costs less than the page faults of the next user.
const KEEP: usize = 128 << 10;
/// The most bytes of free slots that stay resident, per size.
const RESIDENT: usize = 64 << 20;

/// Makes linear memories. Give it to [`wasmtime::Config::with_host_memory`], together with
/// `memory_reservation(0)`, `memory_reservation_for_growth(0)` and `memory_guard_size(0)`.
#[derive(Debug, Clone)]
pub struct Memories {
    sizes: Arc<[Arc<Slots>]>,
}

impl Memories {
    /// Reserves addresses for memories of up to `largest` bytes each.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn new(largest: usize) -> std::io::Result<Self> {
        let mut sizes = Vec::new();
        let mut size = SMALLEST;
        loop {
            sizes.push(Arc::new(Slots::reserve(size, (ADDRESSES / size).min(MOST_SLOTS))?));
            if size >= largest {
                return Ok(Self { sizes: sizes.into() });
            }
            size *= 4;
        }
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
        Ok(Slot { slots: slots.clone(), index: taken.index, size })
    }
}

// SAFETY: each memory is a slot of its own: zeroed, page-aligned, and alive until the `LinearMemory` is dropped. No
// guard pages are promised, and a configuration that would need them is refused.
unsafe impl MemoryCreator for Memories {
    fn new_memory(
        &self,
        _: MemoryType,
        minimum: usize,
        _: Option<usize>,
        reserved_size_in_bytes: Option<usize>,
        guard_size_in_bytes: usize,
    ) -> Result<Box<dyn LinearMemory>, String> {
        if reserved_size_in_bytes.unwrap_or(0) != 0 || guard_size_in_bytes != 0 {
            return Err("carrel-arena needs memory_reservation(0) and memory_guard_size(0)".into());
        }
        Ok(Box::new(Memory { memories: self.clone(), slot: self.allocate(minimum)? }))
    }
}

/// One linear memory.
struct Memory {
    memories: Memories,
    slot: Slot,
}

// SAFETY: the range from `as_ptr` of `byte_size` bytes is a slot that is this memory's own until it is dropped, open
// for reading and writing, and page-aligned. The base moves only in `grow_to` beyond `byte_capacity`.
unsafe impl LinearMemory for Memory {
    fn byte_size(&self) -> usize {
        self.slot.size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.slots.size()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        if new_size > self.byte_capacity() {
            let larger = self.memories.allocate(new_size).map_err(wasmtime::Error::msg)?;
            // SAFETY: both are slots of their own with at least `self.slot.size` open bytes, and wasmtime, which
            // holds the memory exclusively while it grows, has no reference into the old one.
            unsafe {
                std::ptr::copy_nonoverlapping(self.slot.base().as_ptr(), larger.base().as_ptr(), self.slot.size);
            }
            self.slot = larger;
        }
        self.slot.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.base().as_ptr()
    }
}

/// A slot in use: the first `size` bytes of it.
struct Slot {
    slots: Arc<Slots>,
    index: usize,
    size: usize,
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
        let offset = self.slots.offset(self.index);
        let written = self.size.next_multiple_of(crate::PAGE);
        let mut keep = written.min(KEEP);
        if self.slots.resident() + keep > RESIDENT {
            keep = 0;
        }
        if written > keep && self.slots.region().advise(offset + keep, written - keep, libc::MADV_DONTNEED).is_err() {
            // The kernel gives nothing back (locked memory, say): zero by writing.
            keep = written;
        }
        // SAFETY: the slot is still this one's own, and open; nothing refers to it, since its memory is being dropped.
        unsafe { std::ptr::write_bytes(self.base().as_ptr(), 0, keep) };
        self.slots.put(self.index, keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[allow(clippy::mut_from_ref)]
    fn slice(slot: &Slot) -> &mut [u8] {
        // SAFETY: the slot is the test's own, and the test keeps one slice of it at a time.
        unsafe { std::slice::from_raw_parts_mut(slot.base().as_ptr(), slot.size) }
    }

    #[test]
    fn a_slot_reads_as_zeroes_whoever_had_it_before() {
        let memories = Memories::new(4 << 20).unwrap();
        for size in [65536, KEEP, KEEP + 65536, 256 << 10, 1 << 20, 3 << 20] {
            for _ in 0..3 {
                let slot = memories.allocate(size).unwrap();
                assert!(slice(&slot).iter().all(|byte| *byte == 0), "{size} bytes");
                slice(&slot).fill(0xa5);
            }
        }
        assert_eq!(memories.in_use(), 0);
    }

    #[test]
    fn a_growing_memory_keeps_its_bytes_and_gains_zeroes() {
        let memories = Memories::new(4 << 20).unwrap();
        drop(memories.allocate(4 << 20).map(|slot| slice(&slot).fill(0xff)));
        let mut memory = Memory { memories: memories.clone(), slot: memories.allocate(65536).unwrap() };
        for size in [65536, 256 << 10, 320 << 10, 1 << 20, (1 << 20) + 65536, 4 << 20] {
            let before = memory.byte_size();
            memory.grow_to(size).unwrap();
            assert!(slice(&memory.slot)[before.min(size)..].iter().all(|byte| *byte == 0), "{size} bytes");
            slice(&memory.slot)[size - 1] = 7;
            assert!(before == size || slice(&memory.slot)[before - 1] == 7 || before == 65536);
        }
        assert!(memory.grow_to((4 << 20) + 65536).is_err());
        assert_eq!(memories.in_use(), 1);
    }

    #[test]
    fn slots_are_never_shared() {
        let memories = Memories::new(1 << 20).unwrap();
        std::thread::scope(|scope| {
            for thread in 1..=4u8 {
                let memories = &memories;
                scope.spawn(move || {
                    for round in 0..200 {
                        let slots: Vec<_> = (0..8).map(|_| memories.allocate(65536 + round * 1024).unwrap()).collect();
                        for slot in &slots {
                            slice(slot).fill(thread);
                        }
                        for slot in &slots {
                            assert!(slice(slot).iter().all(|byte| *byte == thread));
                        }
                    }
                });
            }
        });
        assert_eq!(memories.in_use(), 0);
    }

    #[test]
    fn a_full_arena_is_an_error_and_then_serves_again() {
        let memories = Memories { sizes: [Arc::new(Slots::reserve(SMALLEST, 2).unwrap())].into() };
        let first = memories.allocate(1).unwrap();
        let _second = memories.allocate(1).unwrap();
        assert!(memories.allocate(1).err().unwrap().starts_with(EXHAUSTED));
        drop(first);
        assert!(memories.allocate(1).is_ok());
    }
}
