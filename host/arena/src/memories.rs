//! Linear memories in slots of three sizes.
//!
//! A memory starts in the smallest slot that it fits in and moves to a larger one when it outgrows it. Small slots
//! matter: a slot of 2 MiB or more costs a page of page tables for itself. Moving copies the memory, which is a MiB at
//! the most: a memory that needs more is in a slot of the largest size from then on.

use crate::{
    barrier::Barrier,
    error::Error,
    making::{self, Next},
    memory::{MemorySlot, SharedSlot, Size},
    populated::Populated,
    slots::{Keep, Slots},
};
use std::{io, sync::Arc};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// Bytes of the slots that are not of the largest size.
const SMALLER: [usize; 2] = [256 << 10, 1 << 20];
/// Addresses that slots of one of those sizes may take, in bytes, and those of the largest size.
const ADDRESSES: usize = 1 << 40;
const ADDRESSES_OF_LARGEST: usize = 1 << 44;
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
/// The most bytes of free slots that stay resident, per size: 512 slots of `KEEP` bytes. That memory is idle, so it
/// is bounded. Where 2,000 instances of 128 KiB come and go together, each takes 25 µs if nothing is kept, 19 with
/// this bound, and 7 if all is kept, which is four times as much memory (same bench, on a busy machine).
const RESIDENT: usize = 64 << 20;

/// Makes linear memories. Give it to [`wasmtime::Config::with_host_memory`], together with
/// `memory_reservation(0)`, `memory_reservation_for_growth(0)` and `memory_guard_size(0)`.
#[derive(Debug, Clone)]
pub struct Memories {
    sizes: Arc<[Arc<Size>]>,
    barrier: Arc<Barrier>,
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

    /// Like [`Memories::new`], with at most `slots` slots of each size: so few that tests can use them up. A memory
    /// that finds no slot of its size gets a larger one, so there are at most `slots` times the number of sizes
    /// memories.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn with_slots(largest: usize, slots: usize) -> std::io::Result<Self> {
        Self::reserve(largest, slots, Keep { of_each: KEEP, of_all: RESIDENT })
    }

    /// Like [`Memories::new`]; the free slots of each size together keep at most `resident` bytes of memory, which
    /// are charged to nobody.
    ///
    /// # Errors
    ///
    /// As of that.
    pub fn keeping(largest: usize, resident: usize) -> io::Result<Self> {
        Self::reserve(largest, MOST_SLOTS, Keep { of_each: KEEP, of_all: resident.min(RESIDENT) })
    }

    /// Like [`Memories::new`], with other bounds on the memory that free slots keep: for measuring which are good.
    #[doc(hidden)]
    pub fn with_keep(largest: usize, of_each: usize, of_all: usize) -> std::io::Result<Self> {
        Self::reserve(largest, MOST_SLOTS, Keep { of_each, of_all })
    }

    /// Like [`with_slots`](Self::with_slots), in a process that may not use userfaultfd.
    ///
    /// # Errors
    ///
    /// As of that.
    #[doc(hidden)]
    pub fn without_userfaults(largest: usize, slots: usize) -> io::Result<Self> {
        Self::reserve_with(Barrier::of_protection(), largest, slots, Keep { of_each: KEEP, of_all: RESIDENT })
    }

    fn reserve(largest: usize, slots: usize, keep: Keep) -> io::Result<Self> {
        Self::reserve_with(Barrier::new(), largest, slots, keep)
    }

    fn reserve_with(barrier: Barrier, largest: usize, most: usize, keep: Keep) -> io::Result<Self> {
        let (barrier, populated) = (Arc::new(barrier), Arc::new(Populated::new()));
        let smaller = SMALLER.into_iter().filter(|size| *size < largest).map(|size| (size, ADDRESSES));
        let largest = largest.max(1).checked_next_multiple_of(SMALLER[0]).ok_or(io::ErrorKind::OutOfMemory)?;
        let sizes = smaller.chain([(largest, ADDRESSES_OF_LARGEST)]).map(|(size, addresses)| {
            let slots = Slots::reserve(size, (addresses / size).min(most), keep)?;
            let guards = slots.guarded_by(&barrier)?;
            Ok(Arc::new(Size { slots, guards, barrier: barrier.clone(), populated: populated.clone() }))
        });
        let sizes = sizes.collect::<io::Result<Vec<_>>>()?.into();
        Ok(Self { sizes, barrier })
    }

    /// The number of further memories that can be guarded now; `None` if there is no limit.
    pub fn guards_left(&self) -> Option<usize> {
        let most = self.barrier.takes_mappings().then(|| self.barrier.most())?;
        Some(most.saturating_sub(self.barrier.guards()))
    }

    /// Memories that exist.
    pub fn in_use(&self) -> usize {
        self.sizes.iter().map(|size| size.slots.used()).sum()
    }

    fn allocate(&self, size: usize) -> Result<MemorySlot, Error> {
        let fitting = self.sizes.iter().position(|of| of.slots.size() >= size);
        let fitting = fitting.ok_or(Error::TooLarge(size))?;
        // A slot of the next size serves as well, if all of this one are in use.
        let taken = self.sizes[fitting..].iter().find_map(|of| Some((of, of.slots.take()?)));
        let (of, taken) = taken.ok_or_else(|| Error::Exhausted(format!("no slot for a memory of {size} bytes")))?;
        Ok(MemorySlot { of: of.clone(), index: taken.index, size, resident: taken.resident, guarded: None })
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
        let next = making::next();
        let size = match &next {
            Some(Next::Held(held)) => held.place().1,
            Some(Next::Size(wanted)) => minimum.max(*wanted),
            None => minimum,
        };
        let page = usize::try_from(memory.page_size()).map_err(|error| error.to_string())?;
        let fits = size >= minimum && size <= maximum.unwrap_or(usize::MAX) && size.is_multiple_of(page);
        let slot = match next {
            Some(Next::Held(held)) => held,
            _ if fits => Arc::new(SharedSlot::new(self.allocate(size).map_err(|error| error.to_string())?)),
            _ => return Err(format!("a memory of {minimum} bytes at least cannot have {size} bytes")),
        };
        making::made(&slot);
        if !fits {
            return Err(format!("a memory of {minimum} bytes at least cannot be one of {size} bytes"));
        }
        Ok(Box::new(ArenaMemory { memories: self.clone(), slot }))
    }
}

/// One linear memory.
struct ArenaMemory {
    memories: Memories,
    slot: Arc<SharedSlot>,
}

// SAFETY: the range from `as_ptr` of `byte_size` bytes is a slot that is this memory's own until it is dropped, open
// for reading and writing, and page-aligned. The base moves only in `grow_to` beyond `byte_capacity`.
unsafe impl LinearMemory for ArenaMemory {
    fn byte_size(&self) -> usize {
        self.slot.slot().size
    }

    fn byte_capacity(&self) -> usize {
        self.slot.slot().of.slots.size()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let mut slot = self.slot.slot();
        if new_size > slot.of.slots.size() {
            let larger = self.memories.allocate(new_size)?;
            slot.move_to(larger);
        }
        slot.size = new_size;
        Ok(())
    }

    fn as_ptr(&self) -> *mut u8 {
        self.slot.slot().base().as_ptr()
    }
}

#[cfg(test)]
mod tests;
