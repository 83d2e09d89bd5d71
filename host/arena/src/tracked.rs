//! A store whose linear memories the host can read and write while nothing runs in it.
//!
//! wasmtime asks for a memory without saying for which store. A [`Tracked`] store learns which ones are its own by
//! listening, on this thread, while its own instances are made.

use crate::{memories::Shared, watch::Watch};
use std::{
    cell::RefCell,
    collections::VecDeque,
    future::{Future, poll_fn},
    ops::Range,
    pin::pin,
    sync::Arc,
};
use wasmtime::{AsContext, AsContextMut, Store, StoreContext, StoreContextMut};

thread_local! {
    /// What is being made on this thread now.
    static MAKING: RefCell<Option<Making>> = const { RefCell::new(None) };
}

/// The memories of a store.
#[derive(Debug, Default)]
struct Making {
    /// Bytes that the memories that are made next shall have at least.
    sizes: VecDeque<usize>,
    made: Vec<Arc<Shared>>,
    /// What notes writes to them, where the kernel can.
    watch: Option<Arc<Watch>>,
}

/// How large the memory that is made now shall be at least, if somebody said so.
pub(crate) fn size_of_next() -> Option<usize> {
    MAKING.with_borrow_mut(|making| making.as_mut()?.sizes.pop_front())
}

/// A memory was made.
pub(crate) fn made(memory: &Arc<Shared>, watch: Option<&Arc<Watch>>) {
    MAKING.with_borrow_mut(|making| {
        if let Some(making) = making {
            making.made.push(memory.clone());
            making.watch = watch.cloned();
        }
    });
}

/// While it lives, memories that are made on this thread are this store's. It ends with the poll that it is for, also
/// when that panics; polls may be nested, so the one before is put back.
struct Listening<'a> {
    making: &'a mut Making,
    outer: Option<Making>,
}

impl<'a> Listening<'a> {
    fn start(making: &'a mut Making) -> Self {
        let outer = MAKING.replace(Some(std::mem::take(making)));
        Self { making, outer }
    }
}

impl Drop for Listening<'_> {
    fn drop(&mut self) {
        *self.making = MAKING.replace(self.outer.take()).unwrap_or_default();
    }
}

/// A store and its linear memories.
///
/// The store is only ever lent as a context, so that it cannot be exchanged for another one: whoever borrows this
/// exclusively knows that nothing runs in the store, and may look at its memories.
pub struct Tracked<T: 'static> {
    store: Store<T>,
    memories: Making,
}

impl<T: Send + 'static> Tracked<T> {
    /// Tracks a store in which nothing was instantiated yet. Its engine must have been given [`Memories`](crate::Memories).
    pub fn new(store: Store<T>) -> Self {
        Self { store, memories: Making::default() }
    }

    /// Instantiates, by `instantiate`: the memories that are made while it is polled are this store's. The n-th of them
    /// has `sizes[n]` bytes, where that is more than its own minimum.
    ///
    /// `instantiate`, and the host functions that a start function calls, must make instances in this store only, or
    /// in another one that is `Tracked`: the memories of a third one would be taken for this store's, and
    /// [`Tracked::memories`] would lend what that one uses.
    pub async fn instantiate<R>(
        &mut self,
        sizes: &[usize],
        instantiate: impl AsyncFnOnce(StoreContextMut<'_, T>) -> R,
    ) -> R {
        let Self { store, memories } = self;
        memories.sizes = sizes.iter().copied().collect();
        let done = {
            // Its first statement, too, is to run only while it is listened.
            let mut instantiating = pin!(async { instantiate(store.as_context_mut()).await });
            poll_fn(|cx| {
                let _listening = Listening::start(memories);
                instantiating.as_mut().poll(cx)
            })
            .await
        };
        memories.sizes.clear();
        // wasmtime has already dropped the memories of an instance that did not come about for want of another one.
        memories.made.retain(|memory| Arc::strong_count(memory) > 1);
        done
    }

    /// The store, to run something in it.
    pub fn context(&mut self) -> StoreContextMut<'_, T> {
        self.store.as_context_mut()
    }

    /// The store, to look at it.
    pub fn look(&self) -> StoreContext<'_, T> {
        self.store.as_context()
    }

    /// The store's data.
    pub fn data(&self) -> &T {
        self.store.data()
    }

    /// The store's data.
    pub fn data_mut(&mut self) -> &mut T {
        self.store.data_mut()
    }

    /// How many linear memories there are.
    pub fn memories_len(&self) -> usize {
        self.memories.made.len()
    }

    /// From now on, writes to the memories are noted, but for the first `skip` bytes of the first one. Where the kernel
    /// does not note them, [`written`](Self::written) says so.
    pub fn watch(&mut self, skip: usize) {
        let Some(watch) = &self.memories.watch else { return };
        for (index, memory) in self.memories.made.iter().enumerate() {
            if !memory.watch(watch, if index == 0 { skip } else { 0 }) {
                self.memories.watch = None;
                return;
            }
        }
    }

    /// Tells which bytes of which memory were written to since [`watch`](Self::watch), in whole pages and in order. It
    /// may tell too many. Gives whether it is known: not for a memory that has grown since, nor where nothing is noted.
    pub fn written(&mut self, mut found: impl FnMut(usize, Range<usize>)) -> bool {
        let memories = &self.memories;
        let mut each = |(index, memory): (usize, &Arc<Shared>)| memory.written(|bytes| found(index, bytes));
        memories.watch.is_some() && memories.made.iter().enumerate().all(&mut each)
    }

    /// The linear memories, in the order in which they were made. What is written is what the guest reads next.
    pub fn memories(&mut self) -> impl Iterator<Item = &mut [u8]> {
        self.memories.made.iter().map(|memory| {
            let (base, size) = memory.place();
            // SAFETY: the range is the memory's own slot, open for reading and writing, and it stays so for as long as
            // `made` holds it, even if wasmtime drops the memory. The memory is of this store, as `instantiate` asks of
            // its callers, and the store is borrowed exclusively for as long as the slice lives: nothing runs in it, so
            // nothing else reads, writes or grows the memory. Each slice is of another slot, since each is noted once.
            unsafe { std::slice::from_raw_parts_mut(base.as_ptr(), size) }
        })
    }
}

impl<T: 'static> std::fmt::Debug for Tracked<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracked").field("memories", &self.memories.made).finish_non_exhaustive()
    }
}
