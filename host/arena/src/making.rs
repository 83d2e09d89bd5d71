//! The store for which memories and a stack are being made on this thread.
//!
//! wasmtime asks for a memory without saying for which store. A [`Tracked`](crate::Tracked) store learns which ones are
//! its own by listening, on this thread, while its own instances are made.

use crate::{memory::SharedSlot, stack::StackSlot};
use std::{
    cell::RefCell,
    collections::VecDeque,
    sync::{Arc, Weak},
};

thread_local! {
    /// The store for which memories are being made on this thread now.
    static MAKING: RefCell<Option<StoreMemories>> = const { RefCell::new(None) };
}

#[derive(Debug, Default)]
pub(crate) struct StoreMemories {
    /// The memories that are to be made next.
    pub(crate) next: VecDeque<Next>,
    pub(crate) made: Vec<Arc<SharedSlot>>,
    /// The stack that the store's calls run on.
    pub(crate) stack: Option<Weak<StackSlot>>,
}

/// A memory to be made.
#[derive(Debug)]
pub(crate) enum Next {
    /// A new memory, of at least so many bytes.
    Size(usize),
    /// A memory that an instance has left.
    Held(Arc<SharedSlot>),
}

/// Takes the memory that is to be made next, if one was given.
pub(crate) fn next() -> Option<Next> {
    MAKING.with_borrow_mut(|making| making.as_mut()?.next.pop_front())
}

/// Notes that a memory was made.
pub(crate) fn made(memory: &Arc<SharedSlot>) {
    MAKING.with_borrow_mut(|making| {
        if let Some(making) = making {
            making.made.push(memory.clone());
        }
    });
}

/// Notes that a stack was made: a store gets one for its first call, and keeps it.
pub(crate) fn made_stack(stack: &Arc<StackSlot>) {
    MAKING.with_borrow_mut(|making| {
        if let Some(making) = making {
            making.stack = Some(Arc::downgrade(stack));
        }
    });
}

/// A guard value: while it lives, memories made on this thread belong to its store. It ends with its poll, also when
/// that panics; polls may be nested, so the previous value is restored.
pub(crate) struct Listening<'a> {
    making: &'a mut StoreMemories,
    outer: Option<StoreMemories>,
}

impl<'a> Listening<'a> {
    pub(crate) fn start(making: &'a mut StoreMemories) -> Self {
        let outer = MAKING.replace(Some(std::mem::take(making)));
        Self { making, outer }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        *self.making = MAKING.replace(self.outer.take()).unwrap_or_default();
    }
}
