//! A linear memory in the hands of the host: lent by a store in which nothing runs, or held between two stores.

use crate::{
    barrier::{LogRoom, WriteLog},
    memory::SharedSlot,
};
use std::{fmt, io, ops::Range, sync::Arc};

/// A linear memory that belongs to no store: one store has left it, and
/// [`Tracked::instantiate_in`](crate::Tracked::instantiate_in) can give it to another.
#[derive(Debug)]
pub struct Held(Arc<SharedSlot>);

impl Held {
    /// Takes the memory over; `None` if others still refer to it.
    pub(crate) fn new(memory: Arc<SharedSlot>) -> Option<Self> {
        (Arc::strong_count(&memory) == 1).then_some(Self(memory))
    }

    pub(crate) fn into_shared(self) -> Arc<SharedSlot> {
        self.0
    }

    /// Lends the memory, for all operations on it.
    pub fn lend(&mut self) -> Lent<'_> {
        Lent::new(&self.0)
    }

    /// The bytes, to be read.
    pub fn bytes(&self) -> &[u8] {
        let (base, size) = self.0.place();
        // SAFETY: as in `Lent::into_bytes`; while this is borrowed, nobody can lend the memory for writing.
        unsafe { std::slice::from_raw_parts(base.as_ptr(), size) }
    }

    /// Bytes that it has.
    pub fn size(&self) -> usize {
        self.0.place().1
    }

    /// Shrinks the memory to an earlier size of `size` bytes; the part cut off is zeroed.
    ///
    /// # Errors
    ///
    /// The kernel refuses. The memory then is as large as before.
    pub fn truncate(&mut self, size: usize) -> io::Result<()> {
        self.0.truncate(size)
    }
}

/// A linear memory in which nothing runs for as long as this lives.
pub struct Lent<'a>(&'a SharedSlot);

impl<'a> Lent<'a> {
    /// Lends a memory. The caller must hold it exclusively for as long as the result lives: by its store, or because
    /// it has none.
    pub(crate) fn new(memory: &'a SharedSlot) -> Self {
        Self(memory)
    }

    /// Bytes that it has.
    pub fn size(&self) -> usize {
        self.0.place().1
    }

    /// The bytes. Writes to closed pages are logged as a guest's are.
    pub fn bytes(&mut self) -> &mut [u8] {
        Lent(self.0).into_bytes()
    }

    pub(crate) fn into_bytes(self) -> &'a mut [u8] {
        let (base, size) = self.0.place();
        // SAFETY: the range is the memory's own slot, open for reading, and for writing, closed pages after the handler
        // has opened them. It stays so for as long as the `SharedSlot` lives, which is borrowed for 'a. The memory is lent, so
        // nothing runs that could read, write or grow it; and this is given up for the slice, or borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), size) }
    }

    /// True if the memory is guarded.
    pub fn is_guarded(&self) -> bool {
        self.0.guarded(|_| ()).is_some()
    }

    /// Makes a guard from the `from`-th page on, which covers no page yet: see [`extend_guard`](Self::extend_guard).
    /// The log takes memory from `room`. If the memory is guarded already, nothing changes.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or [`Memories::guards_left`](crate::Memories::guards_left) is none.
    pub fn guard(&mut self, from: usize, room: Arc<dyn LogRoom>) -> io::Result<()> {
        self.0.guard(from, room)
    }

    /// Extends the guard up to a page and closes the pages added: the first write to each of them is logged from now
    /// on. This takes a third of a microsecond a page.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn extend_guard(&mut self, end: usize) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.extend(end)).unwrap_or(Ok(()))
    }

    /// The page up to which the memory is guarded.
    pub fn guarded_end(&self) -> usize {
        self.0.guarded(|guarded| guarded.pages().end).unwrap_or(0)
    }

    /// Removes the guard: all pages are opened, and the log is dropped.
    pub fn unguard(&mut self) {
        self.0.unguard();
    }

    /// True if guarding costs no mappings, of which a process has few.
    pub fn guarding_is_free(&self) -> bool {
        self.0.guarding_is_free()
    }

    /// Bytes that the guard takes, besides the log.
    pub fn guard_size(&self) -> usize {
        self.0.guarded(|guarded| guarded.size()).unwrap_or(0)
    }

    /// Takes the log: the pages first written to since the last time, which are now open. `None` if the memory is not
    /// guarded.
    pub fn take_log(&mut self) -> Option<WriteLog> {
        self.0.take_log()
    }

    /// Closes pages again: their next writes are logged.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn close(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.close(pages)).unwrap_or(Ok(()))
    }

    /// Opens pages, for a caller about to write much to them without needing a log.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn open(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.open(pages)).unwrap_or(Ok(()))
    }

    /// The guarded pages that are open, in order: writes to these are not logged.
    pub fn open_pages(&self) -> Vec<usize> {
        self.0.guarded(|guarded| guarded.open_pages()).unwrap_or_default()
    }

    /// Gives pages' memory back to the kernel: they then hold zeroes and are open.
    pub fn discard(&mut self, pages: Range<usize>) {
        self.0.discard(pages);
    }

    /// Calls `found` with the runs of these pages that take memory, and perhaps with others.
    pub fn populated(&mut self, pages: Range<usize>, found: impl FnMut(Range<usize>)) {
        self.0.populated(pages, found);
    }
}

impl fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(self.0).finish()
    }
}
