//! What a failed call leaves of an instance: its memories, as they were before the call, and no store.
//!
//! A store is of no use after a trap. The memories stay where they are, and the next call gives them to a new store of
//! the guest's shell, which writes nothing to them.

use super::{Making, Snapshot, call::new_store, context::Context, image::Image, pages::Pages, saved::Saved};
use crate::limits::memory::{self, Charge};
use carrel_arena::{Held, Tracked};

/// An instance without its store.
pub(crate) struct Undone {
    memories: Vec<Held>,
    pages: Pages,
    /// What it takes of its user's memory.
    charge: Charge,
}

impl Undone {
    /// The memories of a store, which goes.
    pub(super) fn of(mut store: Tracked<Context>, pages: Pages) -> Box<Self> {
        let charge = store.data_mut().memory.take_charge();
        Box::new(Self { memories: store.into_memories(), pages, charge })
    }

    /// Puts back what it held before a call, of which `saved` is what it began with; `None`, if that is not all known,
    /// for want of memory, or because the kernel refused to help.
    pub(crate) fn put_back(mut self: Box<Self>, saved: &mut Saved, image: &Image) -> Option<Box<Self>> {
        match self.pages.undo(&mut self.memories, saved, image) {
            Ok(true) => {}
            Ok(false) => return None,
            Err(error) => {
                tracing::warn!(%error, "a call cannot be undone");
                return None;
            }
        }
        self.charge.set(memory::INSTANCE + self.pages.written(image));
        Some(self)
    }

    /// Bytes that it takes of its user's memory.
    pub(crate) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// Bytes of its memories.
    pub(crate) fn memory(&self) -> usize {
        self.memories.iter().map(Held::size).sum()
    }

    /// Its state, parked.
    pub(crate) fn snapshot(&self, image: &Image) -> Snapshot {
        let memories: Vec<_> = self.memories.iter().map(Held::bytes).collect();
        self.pages.snapshot(&memories, image, self.charge.of())
    }

    /// A store for it. Dropped before its end, what that is puts all back.
    pub(super) fn revive<'a>(self: Box<Self>, making: &Making<'_>, back: &'a mut Option<Box<Self>>) -> Reviving<'a> {
        let Self { memories, pages, charge } = *self;
        let context = making.context(making.session.log_budget().clone(), None, Some(charge));
        let store = Tracked::new(new_store(making.function.guest.engine(), context, making.limits));
        Reviving { store: Some(store), memories, pages, back }
    }
}

/// An instance that is being given a store.
pub(super) struct Reviving<'a> {
    /// Gone at the end.
    store: Option<Tracked<Context>>,
    memories: Vec<Held>,
    pages: Pages,
    back: &'a mut Option<Box<Undone>>,
}

impl Reviving<'_> {
    /// The store, and the memories that it is to be given.
    pub(super) fn parts(&mut self) -> Option<(&mut Tracked<Context>, Vec<Held>)> {
        Some((self.store.as_mut()?, std::mem::take(&mut self.memories)))
    }

    /// The store has an instance now.
    pub(super) fn end(mut self) -> Option<(Tracked<Context>, Pages)> {
        let mut store = self.store.take()?;
        let size = store.memories().map(|bytes| bytes.len()).sum();
        store.data_mut().memory.revived(size);
        Some((store, std::mem::take(&mut self.pages)))
    }
}

impl Drop for Reviving<'_> {
    fn drop(&mut self) {
        let Some(mut store) = self.store.take() else { return };
        let charge = store.data_mut().memory.take_charge();
        let mut memories = store.into_memories();
        memories.append(&mut self.memories);
        *self.back = Some(Box::new(Undone { memories, pages: std::mem::take(&mut self.pages), charge }));
    }
}
