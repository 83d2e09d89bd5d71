//! A linear memory in the hands of the host: lent by a store in which nothing runs, or held between two stores.

use crate::{
    barrier::{Log, Room},
    memories::Shared,
};
use std::{fmt, io, ops::Range, sync::Arc};

/// A linear memory that is no store's: one has left it, and another one may be given it by
/// [`Tracked::instantiate_in`](crate::Tracked::instantiate_in).
#[derive(Debug)]
pub struct Held(Arc<Shared>);

impl Held {
    /// `None`, if somebody else knows of the memory.
    pub(crate) fn new(memory: Arc<Shared>) -> Option<Self> {
        (Arc::strong_count(&memory) == 1).then_some(Self(memory))
    }

    pub(crate) fn into_shared(self) -> Arc<Shared> {
        self.0
    }

    /// Lends it, for all that can be done with a memory.
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

    /// Makes it as small as it was once, `size` bytes; what is cut off is zeroed.
    ///
    /// # Errors
    ///
    /// The kernel refuses it. The memory is as large as before then.
    pub fn truncate(&mut self, size: usize) -> io::Result<()> {
        self.0.truncate(size)
    }
}

/// A linear memory in which nothing runs for as long as this lives.
pub struct Lent<'a>(&'a Shared);

impl<'a> Lent<'a> {
    /// The caller holds the memory exclusively for as long as this lives: by its store, or because it is no store's.
    pub(crate) fn new(memory: &'a Shared) -> Self {
        Self(memory)
    }

    /// Bytes that it has.
    pub fn size(&self) -> usize {
        self.0.place().1
    }

    /// The bytes. What is written to closed pages is noted as a guest's writes are.
    pub fn bytes(&mut self) -> &mut [u8] {
        Lent(self.0).into_bytes()
    }

    pub(crate) fn into_bytes(self) -> &'a mut [u8] {
        let (base, size) = self.0.place();
        // SAFETY: the range is the memory's own slot, open for reading, and for writing, closed pages after the handler
        // has opened them. It stays so for as long as the `Shared` lives, which is borrowed for 'a. The memory is lent, so
        // nothing runs that could read, write or grow it; and this is given up for the slice, or borrowed exclusively.
        unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), size) }
    }

    /// True if it is guarded.
    pub fn is_guarded(&self) -> bool {
        self.0.guarded(|_| ()).is_some()
    }

    /// Guards it from its `from`-th page on, but no page yet: see [`extend_guard`](Self::extend_guard). Its log takes memory
    /// from `room`. If it is guarded already, nothing changes.
    ///
    /// # Errors
    ///
    /// The kernel refuses it, or [`Memories::guards_left`](crate::Memories::guards_left) is none.
    pub fn guard(&mut self, from: usize, room: Arc<dyn Room>) -> io::Result<()> {
        self.0.guard(from, room)
    }

    /// Guards it up to a page, and closes all pages that this adds: from now on the first write to each of them is noted. It
    /// takes a third of a microsecond for each.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn extend_guard(&mut self, end: usize) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.extend(end)).unwrap_or(Ok(()))
    }

    /// The page up to which it is guarded.
    pub fn guarded_end(&self) -> usize {
        self.0.guarded(|guarded| guarded.pages().end).unwrap_or(0)
    }

    /// Guards it no longer: all pages are open, and its log is dropped.
    pub fn unguard(&mut self) {
        self.0.unguard();
    }

    /// True if guarding it costs no mappings, of which a process has few.
    pub fn guarding_is_free(&self) -> bool {
        self.0.guarding_is_free()
    }

    /// Bytes that guarding it takes, besides the log.
    pub fn guard_size(&self) -> usize {
        self.0.guarded(|guarded| guarded.size()).unwrap_or(0)
    }

    /// Takes the log: the pages that were written to first since it was last taken, which are open now. `None`, if the
    /// memory is not guarded.
    pub fn take_log(&mut self) -> Option<Log> {
        self.0.take_log()
    }

    /// Closes pages again: their next writes are noted.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn close(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.close(pages)).unwrap_or(Ok(()))
    }

    /// Opens pages, for whoever writes much to them and does not need to hear of it.
    ///
    /// # Errors
    ///
    /// The kernel refuses it.
    pub fn open(&mut self, pages: Range<usize>) -> io::Result<()> {
        self.0.guarded(|guarded| guarded.open(pages)).unwrap_or(Ok(()))
    }

    /// The guarded pages that are open, in order: what is written to these is not noted.
    pub fn open_pages(&self) -> Vec<usize> {
        self.0.guarded(|guarded| guarded.open_pages()).unwrap_or_default()
    }

    /// Gives the memory of pages back to the kernel: they hold zeroes, and are open.
    pub fn discard(&mut self, pages: Range<usize>) {
        self.0.discard(pages);
    }

    /// Tells the runs of these pages that take memory, and perhaps others.
    pub fn populated(&mut self, pages: Range<usize>, found: impl FnMut(Range<usize>)) {
        self.0.populated(pages, found);
    }
}

impl fmt::Debug for Lent<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Lent").field(self.0).finish()
    }
}
