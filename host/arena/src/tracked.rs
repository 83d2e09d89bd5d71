//! A store whose linear memories the host can read and write while nothing runs in it.

use crate::{
    held::{Held, Lent},
    making::{Listening, Next, StoreMemories},
    stack::Frames,
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Weak},
};
use wasmtime::{AsContext, AsContextMut, Store, StoreContext, StoreContextMut};

/// A module or component that a [`Tracked`] store can instantiate. The trait is sealed: a store's memories are known
/// by it.
pub trait Pre<T>: sealed::Sealed {
    /// The type of the instance.
    type Instance;

    /// The number of an instance's own linear memories, if known.
    fn memories(&self) -> Option<usize>;

    /// Instantiates in this store, and nothing else anywhere.
    fn instantiate_in(
        &self,
        store: StoreContextMut<'_, T>,
    ) -> impl Future<Output = wasmtime::Result<Self::Instance>> + Send;
}

mod sealed {
    pub trait Sealed {}
    impl<T> Sealed for wasmtime::InstancePre<T> {}
    impl<T: 'static> Sealed for wasmtime::component::InstancePre<T> {}
}

impl<T: Send + 'static> Pre<T> for wasmtime::InstancePre<T> {
    type Instance = wasmtime::Instance;

    fn memories(&self) -> Option<usize> {
        usize::try_from(self.module().resources_required().num_memories).ok()
    }

    async fn instantiate_in(&self, store: StoreContextMut<'_, T>) -> wasmtime::Result<Self::Instance> {
        self.instantiate_async(store).await
    }
}

impl<T: Send + 'static> Pre<T> for wasmtime::component::InstancePre<T> {
    type Instance = wasmtime::component::Instance;

    fn memories(&self) -> Option<usize> {
        usize::try_from(self.component().resources_required()?.num_memories).ok()
    }

    async fn instantiate_in(&self, store: StoreContextMut<'_, T>) -> wasmtime::Result<Self::Instance> {
        self.instantiate_async(store).await
    }
}

/// A store and its linear memories.
///
/// The store is only ever lent as a context, so that it cannot be exchanged for another one: an exclusive borrow of
/// the `Tracked` proves that nothing runs in the store, so that its memories may be read and written.
pub struct Tracked<T: 'static> {
    store: Store<T>,
    memories: StoreMemories,
}

impl<T: Send + 'static> Tracked<T> {
    /// Tracks a store in which nothing was instantiated yet. The engine must use [`Memories`](crate::Memories).
    pub fn new(store: Store<T>) -> Self {
        Self { store, memories: StoreMemories::default() }
    }

    /// Instantiates. The n-th memory made has `sizes[n]` bytes, where that is more than its own minimum.
    ///
    /// # Errors
    ///
    /// Wasmtime's errors; or memories that are not the instance's were made meanwhile, by a host function called from
    /// its start function.
    pub async fn instantiate<P: Pre<T>>(&mut self, sizes: &[usize], pre: &P) -> wasmtime::Result<P::Instance> {
        let before = self.memories.made.len();
        // SAFETY: a `Pre` instantiates in the store that it is given, and which memories it makes is looked at below: one of
        // another store would be one too many.
        let made = unsafe { self.instantiate_by(sizes, async |cx| pre.instantiate_in(cx).await) }.await;
        self.check(before, pre, made)
    }

    /// Like [`instantiate`](Self::instantiate), in memories that another store has left: the n-th memory is the n-th
    /// of `held`, with its contents and its guard. Instantiating writes to them as a guest does.
    ///
    /// [`into_memories`](Self::into_memories) gives all of them back, whether this succeeds or not.
    ///
    /// # Errors
    ///
    /// As for [`instantiate`](Self::instantiate).
    pub async fn instantiate_in<P: Pre<T>>(&mut self, held: Vec<Held>, pre: &P) -> wasmtime::Result<P::Instance> {
        let before = self.memories.made.len();
        self.memories.next = held.into_iter().map(|held| Next::Held(held.into_shared())).collect();
        let made = self.listen(async |cx| pre.instantiate_in(cx).await).await;
        self.check(before, pre, made)
    }

    /// Checks that as many memories were made as an instance has. If not, none of them is ever lent.
    fn check<P: Pre<T>>(
        &mut self,
        before: usize,
        pre: &P,
        made: wasmtime::Result<P::Instance>,
    ) -> wasmtime::Result<P::Instance> {
        if made.is_ok() && pre.memories() != Some(self.memories.made.len() - before) {
            self.memories.made.truncate(before);
            return Err(wasmtime::Error::msg("memories of another store were made while a guest was started"));
        }
        made
    }

    /// Instantiates by calling `instantiate`: the memories made while its future is polled are this store's. The n-th
    /// of them has `sizes[n]` bytes, where that is more than its own minimum.
    ///
    /// # Safety
    ///
    /// `instantiate`, and the host functions that a start function calls, must make instances in this store only, or
    /// in another one that is `Tracked`: the memories of a third one would be taken for this store's, and
    /// [`Tracked::memories`] would lend what that one uses.
    #[doc(hidden)]
    pub async unsafe fn instantiate_by<R>(
        &mut self,
        sizes: &[usize],
        instantiate: impl AsyncFnOnce(StoreContextMut<'_, T>) -> R,
    ) -> R {
        self.memories.next = sizes.iter().copied().map(Next::Size).collect();
        let done = self.listen(instantiate).await;
        // If one memory could not be made, wasmtime has already dropped the instance's other memories.
        self.memories.made.retain(|memory| Arc::strong_count(memory) > 1);
        done
    }

    async fn listen<R>(&mut self, instantiate: impl AsyncFnOnce(StoreContextMut<'_, T>) -> R) -> R {
        let Self { store, memories } = self;
        let done = {
            // The closure itself, too, runs only while memories are being noted.
            let mut instantiating = pin!(async { instantiate(store.as_context_mut()).await });
            poll_fn(|cx| {
                let _listening = Listening::start(memories);
                instantiating.as_mut().poll(cx)
            })
            .await
        };
        // A failed instantiation, for want of fuel, say, may not have used all of them.
        let left = memories.next.drain(..).filter_map(|next| match next {
            Next::Held(held) => Some(held),
            Next::Size(_) => None,
        });
        memories.made.extend(left);
        done
    }

    /// Drops the store and returns its instances' memories, in the order in which they were made.
    pub fn into_memories(self) -> Vec<Held> {
        let Self { store, memories } = self;
        drop(store);
        memories.made.into_iter().filter_map(Held::new).collect()
    }

    /// Gives the store's stack back to the kernel beyond its first 20 KiB, if the last call went deeper. `frames` are
    /// those of the code that runs in the store.
    pub fn trim_stack(&mut self, frames: Frames) {
        // The store is borrowed exclusively, so nothing runs in it, nor on its stack.
        if let Some(stack) = self.memories.stack.as_ref().and_then(Weak::upgrade) {
            // SAFETY: as said.
            unsafe { stack.trim(frames) };
        }
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

    /// The number of linear memories.
    pub fn memories_len(&self) -> usize {
        self.memories.made.len()
    }

    /// One of the linear memories, by its number in the order in which they were made.
    pub fn memory(&mut self, index: usize) -> Option<Lent<'_>> {
        // The store is borrowed exclusively for as long as it is lent, so nothing runs in it.
        self.memories.made.get(index).map(|memory| Lent::new(memory))
    }

    /// The linear memories, in the order in which they were made. The guest reads what is written here.
    pub fn memories(&mut self) -> impl Iterator<Item = &mut [u8]> {
        // Each is of another slot, since each is noted once; the store is borrowed as for `memory`.
        self.memories.made.iter().map(|memory| Lent::new(memory).into_bytes())
    }
}

impl<T: 'static> std::fmt::Debug for Tracked<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tracked").field("memories", &self.memories.made).finish_non_exhaustive()
    }
}
