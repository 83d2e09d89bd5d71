//! The first write to each page of a memory, noticed before it happens.
//!
//! A memory that is *guarded* has pages that are *closed*: writing to one stops the thread for some microseconds,
//! keeps a copy of what the page holds in the memory's [`WriteLog`], and opens the page. So the owner of a guarded memory
//! learns which pages were written to and can restore their contents, at a cost that depends on the pages written and
//! not on the memory's size. A page stays open until it is closed again.
//!
//! # How a write is noticed
//!
//! | means | closed pages are | a write gives | mappings |
//! |---|---|---|---|
//! | userfaultfd | write-protected by `UFFDIO_WRITEPROTECT`, whether there is memory behind them or not | `SIGBUS` | none |
//! | `mprotect` | read-only | `SIGSEGV` | two for each run of open pages |
//!
//! The first needs Linux 6.4 and a process that may use userfaultfd, which many containers are kept from. The second
//! works everywhere. Since a process has 65,530 mappings by default, few memories are guarded by it, and after the first
//! openings each one opens more pages than it must: see [`Barrier::most`] and `Guard::group`.
//!
//! # What must always hold
//!
//! * A slot that is handed out has no closed page: nobody would open it, and the process would end.
//! * A memory's log is touched by the thread that writes to that memory, or by whoever has its store exclusively while
//!   nothing runs in it. These are never two at once.

use crate::{PAGE, region::Region};
use guard::Guard;
use means::Means;
use std::{
    fmt, io,
    ops::Range,
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering, compiler_fence},
    },
};

mod guard;
mod handler;
mod log;
mod means;

pub(crate) use handler::Table;
pub use log::{LogRoom, WriteLog};

/// Memories that may be guarded by `mprotect` at a time: with [`guard::OPENINGS`] runs of open pages each, they take fewer
/// mappings than a process has by default.
const MOST_PROTECTED: usize = 400;
/// A means to notice writes.
#[derive(Debug)]
pub(crate) struct Barrier {
    means: Means,
    guards: AtomicUsize,
}

impl Barrier {
    /// Uses userfaultfd where the process may and where it works, else `mprotect`.
    pub(crate) fn new() -> Self {
        let userfaults = Means::userfaults().map(|means| Self { means, guards: AtomicUsize::new(0) });
        userfaults.filter(Self::works).unwrap_or_else(Self::of_protection)
    }

    /// Uses `mprotect`.
    pub(crate) fn of_protection() -> Self {
        Self { means: Means::Protection, guards: AtomicUsize::new(0) }
    }

    /// Returns true if, in a trial, a write to a closed page is noticed and one to an open page is not.
    fn works(&self) -> bool {
        let Ok(region) = Region::reserve(2 * PAGE) else { return false };
        if handler::install(self.means.signal()).is_err() {
            return false;
        }
        let registered = region.open(0, 2 * PAGE).and_then(|_| self.register(&region, 2 * PAGE));
        let start = region.at(0).as_ptr() as usize;
        registered.is_ok()
            && self.means.close(start..start + 2 * PAGE).is_ok()
            && self.means.open(start..start + PAGE).is_ok()
            && Table::new(&region, 2 * PAGE, 1).is_ok_and(|table| self.notices(&region, &table))
    }

    fn notices(&self, region: &Region, table: &Table) -> bool {
        let start = region.at(0).as_ptr() as usize;
        let mut guard = Guard::new(start, 1..2, Arc::new(log::Unlimited));
        guard.means = NonNull::from(&self.means);
        let guard = NonNull::from(&mut guard);
        // SAFETY: the guard outlives its entry, the pages are this region's own, and no other thread knows of them.
        unsafe {
            table.set(0, Some(guard));
            region.at(0).write_volatile(1);
            region.at(PAGE).write_volatile(1);
            after_writes();
            table.set(0, None);
            guard.as_ref().log.len() == 1
        }
    }

    /// True if guarding a memory costs mappings.
    pub(crate) fn takes_mappings(&self) -> bool {
        matches!(self.means, Means::Protection)
    }

    /// The most memories that may be guarded at a time.
    pub(crate) fn most(&self) -> usize {
        if self.takes_mappings() { MOST_PROTECTED } else { usize::MAX }
    }

    /// Memories that are guarded.
    pub(crate) fn guards(&self) -> usize {
        self.guards.load(Ordering::Relaxed)
    }

    /// Registers a region, so that its pages can be closed.
    pub(crate) fn register(&self, region: &Region, len: usize) -> io::Result<()> {
        self.means.register(region, len)
    }
}

/// Tells the compiler that writes which this thread has made may have changed guards, by the handler: it cannot know, and
/// would take what it has read of a guard before to be so still.
fn after_writes() {
    compiler_fence(Ordering::SeqCst);
}

/// A memory's guard, for the slot that the memory is in. Dropping the guard opens all pages.
pub(crate) struct Guarded {
    barrier: Arc<Barrier>,
    table: Arc<Table>,
    /// The slot's place in the table.
    index: usize,
    guard: NonNull<Guard>,
}

// SAFETY: the guard is this one's own, as a `Box` would be, but for the handler, which uses it only on a thread that
// writes to the memory: and such a thread has the memory's store.
unsafe impl Send for Guarded {}

impl Guarded {
    /// Guards a memory, which is in the slot `index` of a table's region and begins at `start`, from a page on: no page of
    /// it yet, until it is [extended](Self::extend).
    ///
    /// # Safety
    ///
    /// The slot must be in use, by this memory alone, and stay so until this is dropped; nothing may write to the memory
    /// while a method of this runs.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or as many memories are guarded as may be.
    pub(crate) unsafe fn new(
        barrier: &Arc<Barrier>,
        table: &Arc<Table>,
        index: usize,
        start: NonNull<u8>,
        from: usize,
        room: Arc<dyn LogRoom>,
    ) -> io::Result<Self> {
        let guards = barrier.guards.fetch_add(1, Ordering::Relaxed);
        let mut guard = Box::new(Guard::new(start.as_ptr() as usize, from..from, room));
        guard.means = NonNull::from(&barrier.means);
        // SAFETY: a box is never null.
        let guard = unsafe { NonNull::new_unchecked(Box::into_raw(guard)) };
        let guarded = Self { barrier: barrier.clone(), table: table.clone(), index, guard };
        if guards >= barrier.most() {
            return Err(io::Error::other("as many memories are guarded as the process has mappings for"));
        }
        handler::install(barrier.means.signal())?;
        // SAFETY: the guard lives until `drop` has taken it out of the table.
        unsafe { table.set(index, Some(guard)) };
        Ok(guarded)
    }

    fn guard(&self) -> &Guard {
        after_writes();
        // SAFETY: it is a box's content that `drop` frees, and nothing writes to the memory now, as `new` asks.
        unsafe { self.guard.as_ref() }
    }

    fn guard_mut(&mut self) -> &mut Guard {
        after_writes();
        // SAFETY: as in `guard`.
        unsafe { self.guard.as_mut() }
    }

    /// The pages that are guarded.
    pub(crate) fn pages(&self) -> Range<usize> {
        self.guard().pages.clone()
    }

    /// The guarded pages that are open, in order.
    pub(crate) fn open_pages(&self) -> Vec<usize> {
        let guard = self.guard();
        let words = guard.open.iter().enumerate().filter(|(_, word)| **word != 0);
        let bits = words
            .flat_map(|(index, word)| (0..64).filter(move |bit| word & 1 << bit != 0).map(move |bit| index * 64 + bit));
        bits.filter(|page| guard.pages.contains(page)).collect()
    }

    /// The guard's own bytes, without its log.
    pub(crate) fn size(&self) -> usize {
        size_of::<Guard>() + size_of_val(self.guard().open.as_slice())
    }

    /// The log since it was last taken. The pages in it stay open.
    pub(crate) fn take_log(&mut self) -> WriteLog {
        let guard = self.guard_mut();
        guard.openings = 0;
        let room = guard.log.room().clone();
        std::mem::replace(&mut guard.log, WriteLog::new(room))
    }

    /// Closes pages that are guarded.
    pub(crate) fn close(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.set(pages, true)
    }

    /// Opens pages without logging them.
    pub(crate) fn open(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.set(pages, false)
    }

    /// Closes or opens those of these pages that are guarded.
    fn set(&mut self, pages: Range<usize>, closed: bool) -> io::Result<()> {
        let guard = self.guard_mut();
        let pages = pages.start.max(guard.pages.start)..pages.end.min(guard.pages.end);
        if pages.is_empty() {
            return Ok(());
        }
        guard.mark(pages.clone(), !closed);
        let addresses = guard.addresses(pages);
        self.barrier.means.set(addresses, closed)
    }

    /// Extends the guard from the last guarded page to `end`, and closes the pages added.
    pub(crate) fn extend(&mut self, end: usize) -> io::Result<()> {
        let guard = self.guard_mut();
        let more = guard.pages.end..end;
        if more.is_empty() {
            return Ok(());
        }
        guard.open.resize(end.div_ceil(64), 0);
        guard.mark(more.clone(), false);
        guard.pages.end = end;
        let addresses = guard.addresses(more);
        self.barrier.means.close(addresses)
    }

    /// Guards only the pages before `end` from now on.
    pub(crate) fn truncate(&mut self, end: usize) -> io::Result<()> {
        let guard = self.guard_mut();
        let less = end.max(guard.pages.start)..guard.pages.end;
        if less.is_empty() {
            return Ok(());
        }
        guard.pages.end = less.start;
        let addresses = guard.addresses(less);
        self.barrier.means.open(addresses)
    }

    /// Follows the memory to another slot, which holds the same bytes and whose pages are all open. Pages that were
    /// closed in the old slot are closed in the new one; if the kernel refuses that, the log is marked as not whole.
    ///
    /// # Safety
    ///
    /// As for [`new`](Self::new), of the other slot.
    ///
    /// # Errors
    ///
    /// The kernel does not open the pages of the old slot, which must never be used again.
    pub(crate) unsafe fn move_to(&mut self, table: &Arc<Table>, index: usize, start: NonNull<u8>) -> io::Result<()> {
        let opened = self.forget_slot();
        // SAFETY: nobody is in the old slot any more.
        unsafe { self.table.set(self.index, None) };
        let at = start.as_ptr() as usize;
        self.guard_mut().start = at;
        (self.table, self.index) = (table.clone(), index);
        // SAFETY: the guard lives until `drop` has taken it out of the table.
        unsafe { table.set(index, Some(self.guard)) };
        let guard = self.guard();
        let mut left = guard.pages.clone();
        let closed = std::iter::from_fn(|| guard.next_closed(&mut left))
            .try_for_each(|run| self.barrier.means.close(guard.addresses(run)));
        if closed.is_err() {
            self.guard_mut().log.lose();
        }
        opened
    }

    /// Opens all pages of the slot, and takes the guard out of the table.
    fn forget_slot(&self) -> io::Result<()> {
        let guard = self.guard();
        self.barrier.means.open(guard.addresses(guard.pages.clone()))?;
        // SAFETY: no page of the slot is closed any more.
        unsafe { self.table.set(self.index, None) };
        Ok(())
    }

    /// Opens all pages and gives up the guard, so that the slot can be reused.
    ///
    /// # Errors
    ///
    /// The kernel refuses. The guard is given back and still guards the slot, which must then never be reused.
    pub(crate) fn release(self) -> Result<(), Self> {
        match self.forget_slot() {
            Ok(()) => Ok(()),
            Err(_) => Err(self),
        }
    }
}

impl Drop for Guarded {
    fn drop(&mut self) {
        // SAFETY: nobody writes to the memory, and no other one is in the slot before this is gone.
        unsafe { self.table.set(self.index, None) };
        // SAFETY: it was made of a box, and no table refers to it.
        drop(unsafe { Box::from_raw(self.guard.as_ptr()) });
        self.barrier.guards.fetch_sub(1, Ordering::Relaxed);
    }
}

impl fmt::Debug for Guarded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guarded").field("pages", &self.pages()).finish_non_exhaustive()
    }
}
