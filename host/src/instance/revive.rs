//! A new store for an instance that has left its old one.

use super::{Context, Making, run::new_store};
use crate::state::{Pages, Undone};
use carrel_arena::{Held, Tracked};

/// Makes a store for an undone instance. If the result is dropped before [`Reviving::end`], it puts all back.
pub(super) fn revive<'a>(undone: Undone, making: &Making<'_>, back: &'a mut Option<Box<Undone>>) -> Reviving<'a> {
    let (memories, pages, charge) = undone.into_parts();
    let context = making.context(None, None, Some(charge));
    let store = Tracked::new(new_store(making.blueprint.code.engine(), context, making.limits));
    Reviving { store: Some(store), memories, pages, back }
}

/// An instance that is being given a store.
pub(super) struct Reviving<'a> {
    /// `None` after the end.
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

    /// Ends the revival: the store has an instance now.
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
        *self.back = Some(Undone::new(memories, std::mem::take(&mut self.pages), charge));
    }
}
