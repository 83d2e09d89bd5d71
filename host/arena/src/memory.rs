//! One linear memory, and the slot that it is in.

use crate::{
    PAGE,
    barrier::{Barrier, Guarded, LogRoom, Table, WriteLog},
    populated::Populated,
    slots::Slots,
};
use std::{
    io,
    ops::Range,
    ptr::NonNull,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

const ZEROES: [u8; PAGE] = [0; PAGE];
/// Slots of one size, and the state that they share.
#[derive(Debug)]
pub(crate) struct Size {
    pub(crate) slots: Slots,
    pub(crate) guards: Arc<Table>,
    pub(crate) barrier: Arc<Barrier>,
    pub(crate) populated: Arc<Populated>,
}

/// The slot that a memory is in now, shared by the memory and its [`Tracked`](crate::Tracked) store.
#[derive(Debug)]
pub(crate) struct SharedSlot(Mutex<MemorySlot>);

impl SharedSlot {
    pub(crate) fn new(slot: MemorySlot) -> Self {
        Self(Mutex::new(slot))
    }

    /// The memory's address, and its size in bytes.
    pub(crate) fn place(&self) -> (NonNull<u8>, usize) {
        let slot = self.slot();
        (slot.base(), slot.size)
    }

    /// See [`Lent::guard`](crate::Lent::guard).
    pub(crate) fn guard(&self, from: usize, room: Arc<dyn LogRoom>) -> io::Result<()> {
        let mut slot = self.slot();
        if slot.guarded.is_some() {
            return Ok(());
        }
        let from = from.min(slot.size / PAGE);
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
    pub(crate) fn take_log(&self) -> Option<WriteLog> {
        self.guarded(Guarded::take_log)
    }

    /// Calls `found` with the runs of these pages that take memory.
    pub(crate) fn populated(&self, pages: Range<usize>, mut found: impl FnMut(Range<usize>)) {
        let slot = self.slot();
        let (of, start) = (slot.of.clone(), slot.base().as_ptr() as usize);
        drop(slot);
        let addresses = start + pages.start * PAGE..start + pages.end * PAGE;
        let page = |address: usize| (address - start) / PAGE;
        of.populated.find(addresses, |run| found(page(run.start)..page(run.end)));
    }

    /// See [`Lent::discard`](crate::Lent::discard).
    pub(crate) fn discard(&self, pages: Range<usize>) {
        let mut slot = self.slot();
        let end = pages.end.min(slot.size / PAGE);
        if pages.start >= end {
            return;
        }
        if slot.guarded.as_mut().is_some_and(|guarded| guarded.open(pages.start..end).is_err()) {
            return;
        }
        slot.zero(pages.start * PAGE..end * PAGE);
    }

    /// See [`Held::truncate`](crate::Held::truncate).
    pub(crate) fn truncate(&self, size: usize) -> io::Result<()> {
        let mut slot = self.slot();
        if size >= slot.size {
            return Ok(());
        }
        if let Some(guarded) = &mut slot.guarded {
            guarded.truncate(size / PAGE)?;
        }
        let end = slot.size;
        slot.zero(size..end);
        slot.size = size;
        Ok(())
    }

    /// Locks the slot. Nothing panics while the lock is held, and a slot is whole at any time.
    pub(crate) fn slot(&self) -> MutexGuard<'_, MemorySlot> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A slot in use: the first `size` bytes of it.
#[derive(Debug)]
pub(crate) struct MemorySlot {
    pub(crate) of: Arc<Size>,
    pub(crate) index: usize,
    pub(crate) size: usize,
    /// Bytes that its last user left resident, as zeroes; perhaps beyond `size`.
    pub(crate) resident: usize,
    /// The guard, which notices writes to it.
    pub(crate) guarded: Option<Guarded>,
}

impl MemorySlot {
    pub(crate) fn base(&self) -> NonNull<u8> {
        self.of.slots.region().at(self.of.slots.offset(self.index))
    }

    /// Moves the memory to a larger slot, with its guard.
    pub(crate) fn move_to(&mut self, mut larger: MemorySlot) {
        // SAFETY: the slot is this one's own, and nothing else refers to it: wasmtime holds the memory exclusively while it
        // grows, and reads its base anew afterwards; the host has a slice of it only while nothing runs in the store.
        let old = unsafe { std::slice::from_raw_parts(self.base().as_ptr(), self.size) };
        // SAFETY: as above, of a slot that nobody knows yet, with as many open bytes at least.
        let new = unsafe { std::slice::from_raw_parts_mut(larger.base().as_ptr(), self.size) };
        // The new one holds zeroes: a page of zeroes there takes no memory as long as it is not written to.
        for (new, old) in new.chunks_mut(PAGE).zip(old.chunks(PAGE)) {
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
    pub(crate) fn zero(&mut self, bytes: Range<usize>) {
        let offset = self.of.slots.offset(self.index);
        let region = self.of.slots.region();
        let whole = bytes.start.next_multiple_of(PAGE)..bytes.end.next_multiple_of(PAGE);
        let given_back = region.advise(offset + whole.start, whole.len(), libc::MADV_DONTNEED).is_ok();
        let left = if given_back { bytes.start..whole.start.min(bytes.end) } else { bytes };
        // SAFETY: the slot is this one's own, and open; whoever calls this has the memory exclusively.
        let left = unsafe { std::slice::from_raw_parts_mut(region.at(offset + left.start).as_ptr(), left.len()) };
        left.fill(0);
    }
}

impl Drop for MemorySlot {
    /// Zeroes what may have been written, which is the first `size` bytes, or more if it was once larger: its code is
    /// bounds-checked, and what is cut off of a memory is zeroed then.
    fn drop(&mut self) {
        if self.guarded.take().is_some_and(|guarded| guarded.release().is_err()) {
            // Its pages are closed for good: it is never used again, and stays as it is.
            return;
        }
        let slots = &self.of.slots;
        let offset = slots.offset(self.index);
        let written = self.size.next_multiple_of(PAGE);
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
        bytes.chunks_mut(PAGE).filter(|page| **page != ZEROES[..page.len()]).for_each(|page| page.fill(0));
        slots.put(self.index, kept, left);
    }
}
