//! The first write to each page of a memory, noticed before it happens.
//!
//! A memory that is *guarded* has pages that are *closed*: writing to one stops the thread for some microseconds,
//! keeps a copy of what the page holds in the memory's [`Log`], and opens the page. So the owner of a guarded memory
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
use smallvec::SmallVec;
use std::{
    fmt, io,
    ops::Range,
    os::fd::{AsRawFd, FromRawFd, OwnedFd},
    ptr::NonNull,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

mod handler;
mod log;

pub(crate) use handler::Table;
pub use log::{Log, Room};

/// Memories that may be guarded by `mprotect` at a time: with [`OPENINGS`] runs of open pages each, they take fewer
/// mappings than a process has by default.
const MOST_PROTECTED: usize = 400;
/// Openings of a memory guarded by `mprotect`, at the most, until its log is taken.
const OPENINGS: usize = 64;
/// Openings of them that open a single page.
const SINGLE: usize = OPENINGS / 2;
/// The most pages that one write opens with userfaultfd, if the writes before it went from page to page: noticing a
/// write takes ten times as long as keeping a page.
const AHEAD: usize = 32;

/// A means to notice writes.
#[derive(Debug)]
pub(crate) struct Barrier {
    means: Means,
    guards: AtomicUsize,
}

#[derive(Debug)]
enum Means {
    Userfaults(OwnedFd),
    Protection,
}

// From `linux/userfaultfd.h`.
const USER_MODE_ONLY: libc::c_int = 1;
const API: u64 = 0xaa;
const FEATURES: u64 = FEATURE_WP | FEATURE_SIGBUS | FEATURE_WP_UNPOPULATED;
const FEATURE_WP: u64 = 1;
const FEATURE_SIGBUS: u64 = 1 << 7;
const FEATURE_WP_UNPOPULATED: u64 = 1 << 13;
const MODE_WP: u64 = 2;
const WRITEPROTECT_WP: u64 = 1;
const UFFDIO_API: libc::c_ulong = 0xc018_aa3f;
const UFFDIO_REGISTER: libc::c_ulong = 0xc020_aa00;
const UFFDIO_WRITEPROTECT: libc::c_ulong = 0xc018_aa06;

#[repr(C)]
struct Api {
    api: u64,
    features: u64,
    ioctls: u64,
}

#[repr(C)]
struct Register {
    start: u64,
    len: u64,
    mode: u64,
    ioctls: u64,
}

#[repr(C)]
struct WriteProtect {
    start: u64,
    len: u64,
    mode: u64,
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
        let pointer = NonNull::from(&mut guard);
        // SAFETY: the guard outlives its entry, the pages are this region's own, and no other thread knows of them.
        unsafe {
            guard.means = NonNull::from(&self.means);
            table.set(0, Some(pointer));
            region.at(0).write_volatile(1);
            region.at(PAGE).write_volatile(1);
            table.set(0, None);
            pointer.as_ref().log.len() == 1
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
        let Means::Userfaults(userfaults) = &self.means else { return Ok(()) };
        let start = region.at(0).as_ptr() as u64;
        ask(userfaults, UFFDIO_REGISTER, &mut Register { start, len: len as u64, mode: MODE_WP, ioctls: 0 })
    }
}

impl Means {
    fn userfaults() -> Option<Self> {
        // SAFETY: the call takes no memory, and gives a file of its own or -1.
        let fd = unsafe { libc::syscall(libc::SYS_userfaultfd, libc::O_CLOEXEC | libc::O_NONBLOCK | USER_MODE_ONLY) };
        let fd = i32::try_from(fd).ok().filter(|fd| *fd >= 0)?;
        // SAFETY: the file was just opened, and nobody else has it.
        let userfaults = unsafe { OwnedFd::from_raw_fd(fd) };
        ask(&userfaults, UFFDIO_API, &mut Api { api: API, features: FEATURES, ioctls: 0 }).ok()?;
        Some(Self::Userfaults(userfaults))
    }

    /// The signal raised by a write to a closed page.
    fn signal(&self) -> libc::c_int {
        match self {
            Self::Userfaults(_) => libc::SIGBUS,
            Self::Protection => libc::SIGSEGV,
        }
    }

    /// Closes pages: the first write to each of them is noticed from now on.
    fn close(&self, addresses: Range<usize>) -> io::Result<()> {
        self.set(addresses, true)
    }

    /// Opens pages: writes to them are no longer noticed.
    fn open(&self, addresses: Range<usize>) -> io::Result<()> {
        self.set(addresses, false)
    }

    /// Closes or opens pages, by one system call. The signal handler calls this too.
    fn set(&self, addresses: Range<usize>, closed: bool) -> io::Result<()> {
        if addresses.is_empty() {
            return Ok(());
        }
        match self {
            Self::Userfaults(userfaults) => {
                let (start, len) = (addresses.start as u64, addresses.len() as u64);
                let mode = if closed { WRITEPROTECT_WP } else { 0 };
                ask(userfaults, UFFDIO_WRITEPROTECT, &mut WriteProtect { start, len, mode })
            }
            Self::Protection => {
                let access = if closed { libc::PROT_READ } else { libc::PROT_READ | libc::PROT_WRITE };
                // SAFETY: the pages are those of one slot that is in use, open for reading and writing but for this, and
                // a write to one that is closed is met by the handler. What they hold does not change.
                match unsafe { libc::mprotect(addresses.start as *mut libc::c_void, addresses.len(), access) } {
                    0 => Ok(()),
                    _ => Err(io::Error::last_os_error()),
                }
            }
        }
    }
}

fn ask<T>(userfaults: &OwnedFd, request: libc::c_ulong, argument: &mut T) -> io::Result<()> {
    // SAFETY: `argument` is of the type that the request takes, and lives until the call is over. None of the requests
    // changes what memory holds.
    match unsafe { libc::ioctl(userfaults.as_raw_fd(), request, std::ptr::from_mut(argument)) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// A guarded memory: the pages of it that are closed, and its log.
pub(crate) struct Guard {
    /// The barrier's means. They live as long as this guard's [`Guarded`].
    means: NonNull<Means>,
    /// The address of the memory's first page.
    start: usize,
    /// The pages that are guarded; all others are open.
    pages: Range<usize>,
    /// A bit for each page from the memory's first on, set if the page is open.
    open: SmallVec<[u64; 2]>,
    log: Log,
    /// Openings of pages since the log was last taken.
    openings: usize,
    /// The pages opened last: a sequential writer writes next to the page after them.
    last: Range<usize>,
}

impl Guard {
    fn new(start: usize, pages: Range<usize>, room: Arc<dyn Room>) -> Self {
        let open = SmallVec::from_elem(0, pages.end.div_ceil(64));
        Self { means: NonNull::dangling(), start, pages, open, log: Log::new(room), openings: 0, last: 0..0 }
    }

    fn is_open(&self, page: usize) -> bool {
        self.open[page / 64] & 1 << (page % 64) != 0
    }

    fn addresses(&self, pages: Range<usize>) -> Range<usize> {
        self.start + pages.start * PAGE..self.start + pages.end * PAGE
    }

    /// Handles a write: keeps a copy of the page and opens it. Returns true if the page was closed and now is open,
    /// so that the write can be retried.
    ///
    /// # Safety
    ///
    /// The guard's memory and means must live, and nobody else may use the guard.
    unsafe fn met(&mut self, address: usize) -> bool {
        let page = (address - self.start) / PAGE;
        if !self.pages.contains(&page) || self.is_open(page) {
            return false;
        }
        let mut group = self.group(page);
        self.last = group.clone();
        while let Some(run) = self.next_closed(&mut group) {
            for page in run.clone() {
                let bytes = (self.start + page * PAGE) as *const [u8; PAGE];
                // SAFETY: the page is the memory's own and can be read; whoever writes to the memory waits for this.
                self.log.keep(page, Some(unsafe { &*bytes }));
            }
            // SAFETY: as this function asks of its callers.
            if unsafe { self.means.as_ref() }.open(self.addresses(run.clone())).is_err() {
                return false;
            }
            self.mark(run, true);
        }
        self.openings += 1;
        true
    }

    /// The pages that are opened together with one.
    fn group(&self, page: usize) -> Range<usize> {
        // SAFETY: as `met` asks of its callers, the only ones of this.
        match unsafe { self.means.as_ref() } {
            // A sequential writer is stopped less and less often.
            Means::Userfaults(_) if self.openings > 0 && page == self.last.end => {
                return page..(page + (2 * self.last.len()).min(AHEAD)).min(self.pages.end);
            }
            Means::Userfaults(_) => return page..page + 1,
            Means::Protection if self.openings < SINGLE => return page..page + 1,
            Means::Protection => {}
        }
        // So large that the whole memory is opened before the remaining openings are used up.
        let size = self.pages.end.div_ceil(OPENINGS - SINGLE);
        let start = page / size * size;
        start.max(self.pages.start)..(start + size).min(self.pages.end)
    }

    /// Takes the next run of closed pages off the front of `pages`.
    fn next_closed(&self, pages: &mut Range<usize>) -> Option<Range<usize>> {
        let start = pages.clone().find(|page| !self.is_open(*page))?;
        let end = (start..pages.end).find(|page| self.is_open(*page)).unwrap_or(pages.end);
        pages.start = end;
        Some(start..end)
    }

    fn mark(&mut self, pages: Range<usize>, open: bool) {
        for page in pages {
            let bit = 1 << (page % 64);
            if open {
                self.open[page / 64] |= bit;
            } else {
                self.open[page / 64] &= !bit;
            }
        }
    }
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
        room: Arc<dyn Room>,
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
        // SAFETY: it is a box's content that `drop` frees, and nothing writes to the memory now, as `new` asks.
        unsafe { self.guard.as_ref() }
    }

    fn guard_mut(&mut self) -> &mut Guard {
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
    pub(crate) fn take_log(&mut self) -> Log {
        let guard = self.guard_mut();
        guard.openings = 0;
        let room = guard.log.room().clone();
        std::mem::replace(&mut guard.log, Log::new(room))
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
