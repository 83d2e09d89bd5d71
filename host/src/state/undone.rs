//! An instance whose call has failed: its memories, as they were before the call, and no store.
//!
//! A store is of no use after a trap. The memories stay where they are, and the next call gives them to a new store
//! of the guest's shell, which writes nothing to them.

use super::{
    image::Image,
    pages::{Pages, Undo},
    saved::{Saved, copied},
    snapshot::{PIECE, Snapshot},
};
use crate::limits::memory::{self, Charge};
use carrel_arena::{Held, PAGE};

/// Pages that are put back at once; more than these are put back in pieces, beside other work.
pub(crate) const AT_ONCE: usize = 128;

/// An instance without its store.
pub(crate) struct Undone {
    memories: Vec<Held>,
    pages: Pages,
    /// The instance's charge on its user's memory.
    charge: Charge,
    /// The rest of the undo. Until it is done, the memories are not as before the call.
    left: Option<Undo>,
}

impl Undone {
    /// Takes the memories that a store has left, and their charge on their user's memory.
    pub(crate) fn new(memories: Vec<Held>, pages: Pages, charge: Charge) -> Box<Self> {
        Box::new(Self { memories, pages, charge, left: None })
    }

    /// Restores the state before a call that began with `saved`: now or, where that is much, by [`step`](Self::step).
    /// Returns the units of fuel as well; `None` if the state is not all known, for want of memory, or because the
    /// kernel refused to help.
    pub(crate) fn undo(mut self: Box<Self>, saved: Saved, image: &Image) -> Option<(Box<Self>, u64)> {
        let (undo, units) = match self.left.take() {
            Some(left) => left.and(&self.memories, saved)?,
            None => Undo::new(&mut self.memories, saved)?,
        };
        let little = undo.len(&self.memories) <= AT_ONCE;
        self.left = Some(undo);
        if little {
            while self.step(image).ok()? {}
        }
        Some((self, units))
    }

    /// Returns true if the state before the last call is not fully restored yet.
    pub(crate) fn is_being_undone(&self) -> bool {
        self.left.is_some()
    }

    /// Restores a piece; returns true if there is another one after it.
    ///
    /// # Errors
    ///
    /// The kernel refuses to help: the instance's state is lost.
    pub(crate) fn step(&mut self, image: &Image) -> Result<bool, Gone> {
        let Some(left) = &mut self.left else { return Ok(false) };
        let more = left.step(&mut self.pages, &mut self.memories, image).map_err(|error| {
            tracing::warn!(%error, "a call cannot be undone");
            Gone
        })?;
        if !more {
            self.left = None;
            self.charge.set(memory::INSTANCE + self.pages.written(image));
        }
        Ok(more)
    }

    /// Bytes of its memories.
    pub(crate) fn memory(&self) -> usize {
        self.memories.iter().map(Held::size).sum()
    }

    /// Begins to park the instance, which must not be [being undone](Self::is_being_undone).
    pub(crate) fn park(self: Box<Self>, image: &Image) -> Parking<'_> {
        let sizes: Vec<_> = self.memories.iter().map(Held::size).collect();
        let snapshot = Snapshot::new(sizes.iter().sum(), self.charge.of().charge(0));
        Parking { undone: self, image, sizes, snapshot, next: (0, 0), is_done: false }
    }

    /// The parts from which a store can be made.
    pub(crate) fn into_parts(self) -> (Vec<Held>, Pages, Charge) {
        (self.memories, self.pages, self.charge)
    }
}

/// An instance's state cannot be restored.
#[derive(Debug)]
pub(crate) struct Gone;

/// An instance that becomes a snapshot, piece by piece. The pages in a piece are freed in the instance, so that both
/// together take no more memory than the instance did.
pub(crate) struct Parking<'a> {
    undone: Box<Undone>,
    image: &'a Image,
    /// Bytes of each memory.
    sizes: Vec<usize>,
    snapshot: Snapshot,
    /// The memory and the page from which on pages are in no piece yet.
    next: (usize, usize),
    is_done: bool,
}

impl Parking<'_> {
    /// Makes the next piece; returns true if there is another one after it.
    pub(crate) fn step(&mut self) -> bool {
        if self.is_done {
            return false;
        }
        let Undone { memories, pages, charge, .. } = &mut *self.undone;
        let mut left = pages.from(self.next);
        let some: Vec<_> = left.by_ref().take(PIECE).collect();
        let next = left.next();
        drop(left);
        let bytes = some
            .iter()
            .filter_map(|(memory, page)| Some((*memory, *page, memories.get(*memory)?.bytes().get(copied(*page))?)));
        self.snapshot.add(self.image, &self.sizes, bytes, next.is_none());
        // After the last piece, all of the instance is freed.
        if next.is_some() {
            for run in some.chunk_by(|one, next| (one.0, one.1 + 1) == *next) {
                if let Some(held) = memories.get_mut(run[0].0) {
                    held.lend().discard(run[0].1..run[0].1 + run.len());
                }
            }
            charge.shrink(some.len() * PAGE);
        }
        self.is_done = next.is_none();
        self.next = next.unwrap_or_default();
        !self.is_done
    }

    /// Completes the parking at once; returns the snapshot.
    pub(crate) fn end(mut self) -> Snapshot {
        while self.step() {}
        self.snapshot
    }
}
