//! Linear memories in slots of three sizes.
//!
//! A memory starts in the smallest slot that it fits in and moves to a larger one when it outgrows it. Small slots
//! matter: a slot of 2 MiB or more costs a page of page tables for itself. Moving copies the memory, which is a MiB at
//! the most: a memory that needs more is in a slot of the largest size from then on.

use crate::{
    barrier::{Barrier, Guarded, Log, Room, Table},
    populated::Populated,
    slots::{Keep, Slots},
    tracked::{self, Next},
};
use std::{
    io,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};
use wasmtime::{LinearMemory, MemoryCreator, MemoryType};

/// The beginning of the error for a memory that finds no slot.
pub const EXHAUSTED: &str = "the arena is exhausted";

const ZEROES: [u8; crate::PAGE] = [0; crate::PAGE];
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

/// Slots of one size, and the state that they share.
#[derive(Debug)]
struct Size {
    slots: Slots,
    guards: Arc<Table>,
    barrier: Arc<Barrier>,
    populated: Arc<Populated>,
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

    fn allocate(&self, size: usize) -> Result<Slot, String> {
        let fitting = self.sizes.iter().position(|of| of.slots.size() >= size);
        let fitting = fitting.ok_or_else(|| format!("a memory of {size} bytes is larger than the largest slot"))?;
        // A slot of the next size serves as well, if all of this one are in use.
        let taken = self.sizes[fitting..].iter().find_map(|of| Some((of, of.slots.take()?)));
        let (of, taken) = taken.ok_or_else(|| format!("{EXHAUSTED}: no slot for a memory of {size} bytes"))?;
        Ok(Slot { of: of.clone(), index: taken.index, size, resident: taken.resident, guarded: None })
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
        let next = tracked::next();
        let size = match &next {
            Some(Next::Held(held)) => held.place().1,
            Some(Next::Size(wanted)) => minimum.max(*wanted),
            None => minimum,
        };
        let page = usize::try_from(memory.page_size()).map_err(|error| error.to_string())?;
        let fits = size >= minimum && size <= maximum.unwrap_or(usize::MAX) && size.is_multiple_of(page);
        let slot = match next {
            Some(Next::Held(held)) => held,
            _ if fits => Arc::new(Shared::new(self.allocate(size)?)),
            _ => return Err(format!("a memory of {minimum} bytes at least cannot have {size} bytes")),
        };
        tracked::made(&slot);
        if !fits {
            return Err(format!("a memory of {minimum} bytes at least cannot be one of {size} bytes"));
        }
        Ok(Box::new(Memory { memories: self.clone(), slot }))
    }
}

/// One linear memory.
struct Memory {
    memories: Memories,
    slot: Arc<Shared>,
}

/// The slot that a memory is in now, shared by the memory and its [`Tracked`](crate::Tracked) store.
#[derive(Debug)]
pub(crate) struct Shared(Mutex<Slot>);

impl Shared {
    fn new(slot: Slot) -> Self {
        Self(Mutex::new(slot))
    }

    /// The memory's address, and its size in bytes.
    pub(crate) fn place(&self) -> (NonNull<u8>, usize) {
        let slot = self.slot();
        (slot.base(), slot.size)
    }

    /// See [`Lent::guard`](crate::Lent::guard).
    pub(crate) fn guard(&self, from: usize, room: Arc<dyn Room>) -> io::Result<()> {
        let mut slot = self.slot();
        if slot.guarded.is_some() {
            return Ok(());
        }
        let from = from.min(slot.size / crate::PAGE);
        let (of, index, start) = (slot.of.clone(), slot.index, slot.base());
        // SAFETY: the slot is this memory's own until it is dropped, which releases the guard first, or until the memory
        // has moved, which the guard is told. Whoever calls this has the memory's store exclusively.
        let guarded = unsafe { Guarded::new(&of.barrier, &of.guards, index, start, from, room) };
        slot.guarded = Some(guarded?);
        Ok(())
    }

    /// See [`Lent::unguard`](crate::Lent::unguard).
    pub(crate) fn unguard(&self) {
        let mut slot = self.slot();
        if let Some(guarded) = slot.guarded.take()
            && let Err(guarded) = guarded.release()
        {
            // The kernel does not open the pages, so writes to them must still be handled.
            slot.guarded = Some(guarded);
        }
    }

    /// See [`Lent::guarding_is_free`](crate::Lent::guarding_is_free).
    pub(crate) fn guarding_is_free(&self) -> bool {
        !self.slot().of.barrier.takes_mappings()
    }

    /// Calls `what` with the memory's guard, if there is one.
    pub(crate) fn guarded<R>(&self, what: impl FnOnce(&mut Guarded) -> R) -> Option<R> {
        self.slot().guarded.as_mut().map(what)
    }

    /// The log since it was last taken; `None`, if the memory is not guarded.
    pub(crate) fn take_log(&self) -> Option<Log> {
        self.guarded(Guarded::take_log)
    }

    /// Calls `found` with the runs of these pages that take memory.
    pub(crate) fn populated(&self, pages: Range<usize>, mut found: impl FnMut(Range<usize>)) {
        let slot = self.slot();
        let (of, start) = (slot.of.clone(), slot.base().as_ptr() as usize);
        drop(slot);
        let addresses = start + pages.start * crate::PAGE..start + pages.end * crate::PAGE;
        let page = |address: usize| (address - start) / crate::PAGE;
        of.populated.find(addresses, |run| found(page(run.start)..page(run.end)));
    }

    /// See [`Lent::discard`](crate::Lent::discard).
    pub(crate) fn discard(&self, pages: Range<usize>) {
        let mut slot = self.slot();
        let end = pages.end.min(slot.size / crate::PAGE);
        if pages.start >= end {
            return;
        }
        if slot.guarded.as_mut().is_some_and(|guarded| guarded.open(pages.start..end).is_err()) {
            return;
        }
        slot.zero(pages.start * crate::PAGE..end * crate::PAGE);
    }

    /// See [`Held::truncate`](crate::Held::truncate).
    pub(crate) fn truncate(&self, size: usize) -> io::Result<()> {
        let mut slot = self.slot();
        if size >= slot.size {
            return Ok(());
        }
        if let Some(guarded) = &mut slot.guarded {
            guarded.truncate(size / crate::PAGE)?;
        }
        let end = slot.size;
        slot.zero(size..end);
        slot.size = size;
        Ok(())
    }

    /// Locks the slot. Nothing panics while the lock is held, and a slot is whole at any time.
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
        self.slot.slot().of.slots.size()
    }

    fn grow_to(&mut self, new_size: usize) -> wasmtime::Result<()> {
        let mut slot = self.slot.slot();
        if new_size > slot.of.slots.size() {
            let larger = self.memories.allocate(new_size).map_err(wasmtime::Error::msg)?;
            slot.move_to(larger);
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
    of: Arc<Size>,
    index: usize,
    size: usize,
    /// Bytes that its last user left resident, as zeroes; perhaps beyond `size`.
    resident: usize,
    /// The guard, which notices writes to it.
    guarded: Option<Guarded>,
}

impl Slot {
    fn base(&self) -> NonNull<u8> {
        self.of.slots.region().at(self.of.slots.offset(self.index))
    }

    /// Moves the memory to a larger slot, with its guard.
    fn move_to(&mut self, mut larger: Slot) {
        // SAFETY: the slot is this one's own, and nothing else refers to it: wasmtime holds the memory exclusively while it
        // grows, and reads its base anew afterwards; the host has a slice of it only while nothing runs in the store.
        let old = unsafe { std::slice::from_raw_parts(self.base().as_ptr(), self.size) };
        // SAFETY: as above, of a slot that nobody knows yet, with as many open bytes at least.
        let new = unsafe { std::slice::from_raw_parts_mut(larger.base().as_ptr(), self.size) };
        // The new one holds zeroes: a page of zeroes there takes no memory as long as it is not written to.
        for (new, old) in new.chunks_mut(crate::PAGE).zip(old.chunks(crate::PAGE)) {
            if *old != ZEROES[..old.len()] {
                new.copy_from_slice(old);
            }
        }
        if let Some(mut guarded) = self.guarded.take() {
            // SAFETY: the new slot is this memory's own from now on.
            let released = unsafe { guarded.move_to(&larger.of.guards, larger.index, larger.base()) };
            larger.guarded = Some(guarded);
            if released.is_err() {
                // Its pages are closed for good, so nobody may ever have it again.
                std::mem::forget(std::mem::replace(self, larger));
                return;
            }
        }
        *self = larger;
    }

    /// Zeroes bytes of it, whose pages are open.
    fn zero(&mut self, bytes: Range<usize>) {
        let offset = self.of.slots.offset(self.index);
        let region = self.of.slots.region();
        let whole = bytes.start.next_multiple_of(crate::PAGE)..bytes.end.next_multiple_of(crate::PAGE);
        let given_back = region.advise(offset + whole.start, whole.len(), libc::MADV_DONTNEED).is_ok();
        let left = if given_back { bytes.start..whole.start.min(bytes.end) } else { bytes };
        // SAFETY: the slot is this one's own, and open; whoever calls this has the memory exclusively.
        let left = unsafe { std::slice::from_raw_parts_mut(region.at(offset + left.start).as_ptr(), left.len()) };
        left.fill(0);
    }
}

impl Drop for Slot {
    /// Zeroes what may have been written, which is the first `size` bytes, or more if it was once larger: its code is
    /// bounds-checked, and what is cut off of a memory is zeroed then.
    fn drop(&mut self) {
        if self.guarded.take().is_some_and(|guarded| guarded.release().is_err()) {
            // Its pages are closed for good: it is never used again, and stays as it is.
            return;
        }
        let slots = &self.of.slots;
        let offset = slots.offset(self.index);
        let written = self.size.next_multiple_of(crate::PAGE);
        let resident = written.max(self.resident);
        let kept = slots.keep(resident);
        let given_back = slots.region().advise(offset + kept, resident - kept, libc::MADV_DONTNEED);
        // The kernel takes nothing back of locked memory, say: then all of it is zeroed by writing.
        let left = if given_back.is_ok() { kept } else { resident };
        // SAFETY: the slot is still this one's own, and open. Nothing refers to it: its memory has moved to another slot,
        // or was dropped, and so was the `Tracked` that knew of it.
        let bytes = unsafe { std::slice::from_raw_parts_mut(self.base().as_ptr(), written.min(left)) };
        // Looking costs less than writing, and a page that was never written to takes no memory: a guest's stack is
        // mostly such pages.
        bytes.chunks_mut(crate::PAGE).filter(|page| **page != ZEROES[..page.len()]).for_each(|page| page.fill(0));
        slots.put(self.index, kept, left);
    }
}

#[cfg(test)]
mod tests;
