//! An instance, and calling it.

use super::{
    Context, GuestError, Invocation, Json, Phase, Returned, Running, Services, StopKind, contract::Guest as Contract,
    run::run,
};
use crate::{
    limits::memory::Full,
    state::{Finding, Image, Pages, Saved, Undone},
};
use carrel_arena::{Frames, Tracked};
use std::sync::Arc;

/// One function of one session: a store, and the guest in it.
pub(crate) struct Instance {
    pub(super) store: Tracked<Context>,
    pub(super) guest: Contract,
    /// The pages of its memories, as far as they are known.
    pub(super) pages: Pages,
}

impl Instance {
    /// Prepares a call: reserves room for all that it could write to and, with `keep`, saves the instance's state.
    /// Returns `None` without `keep`, or if the instance holds something outside of its memory.
    ///
    /// # Errors
    ///
    /// There is no such room, and all is as before.
    pub(crate) fn begin(&mut self, keep: bool) -> Result<Option<Saved>, Full> {
        let keep = keep && !self.store.data().holds_handles();
        let copies = if keep { self.pages.copies() } else { 0 };
        let charge = self.store.data_mut().memory.reserve(copies)?;
        Ok(keep.then(|| self.pages.begin(&mut self.store, charge)))
    }

    /// Commits a call that ended well and began with `saved`: finds the pages that it changed. Returns the units of
    /// fuel used.
    pub(crate) fn commit(&mut self, of: &Finding<'_>, saved: &mut Saved) -> u64 {
        let units = self.pages.commit(&mut self.store, of, saved);
        self.settled(of.image);
        units
    }

    /// Gives back the stack that a call which ended well has left. `frames` are those of the guest's functions.
    pub(crate) fn trim_stack(&mut self, frames: Frames) {
        self.store.trim_stack(frames);
    }

    /// Ends a call without finding its changes: all memory counts but the stack.
    pub(crate) fn rest(&mut self) {
        self.store.data_mut().memory.rest();
    }

    /// Returns true if no work is left before the next call.
    pub(crate) fn is_settled(&self) -> bool {
        self.pages.are_settled()
    }

    /// Does a piece of the work left before the next call; returns true if there is another piece.
    pub(crate) fn settle(&mut self, image: &Image) -> bool {
        let more = self.pages.settle(&mut self.store, image);
        self.settled(image);
        more
    }

    /// Charges only the pages that differ, once these are known.
    fn settled(&mut self, image: &Image) {
        if self.is_settled() {
            let written = self.pages.written(image);
            self.store.data_mut().memory.settle(written);
        }
    }

    /// Undoes a call that began with `saved`, and gives the units of fuel; `None` if the state before is not known.
    /// The store is dropped: it is unusable after a trap.
    pub(crate) fn undo(self, saved: Saved, image: &Image) -> Option<(Box<Undone>, u64)> {
        let Self { store, pages, .. } = self;
        leave(store, pages).undo(saved, image)
    }

    /// Returns true if the instance holds something outside of its memory, and so can be neither parked nor undone.
    pub(crate) fn holds_handles(&self) -> bool {
        self.store.data().holds_handles()
    }

    /// Takes the memories, to be parked. The store is dropped.
    pub(crate) fn leave(mut self, image: &Image) -> Box<Undone> {
        self.pages.look(&mut self.store, image);
        self.store.data_mut().memory.settle(self.pages.written(image));
        leave(self.store, self.pages)
    }

    /// Runs one call. After a [`Stop`] the instance can only be dropped.
    pub(crate) async fn call(
        &mut self,
        input: &Json,
        services: &Arc<dyn Services>,
        Invocation { allowance, depth, undo_from }: Invocation,
    ) -> Returned {
        let limits = services.limits();
        let running = Running::new(Some(services.clone()), services.permit().clone(), Phase::Call, allowance, depth);
        let running = Running { undo_from, ..running };
        let guest = &self.guest;
        let mut done = run(&mut self.store, running, limits, async |store| {
            let called = guest.carrel_function_function().call_call(store.context(), input);
            let returned = services.relay().drive(called).await?;
            Ok(returned.map_err(|error| {
                let passed_on = store.data().running.as_ref().and_then(|running| running.stops.passed_on());
                GuestError::new(error, passed_on, limits.output_size)
            }))
        })
        .await;
        match &mut done.result {
            Ok(Ok(output)) if output.len() > limits.output_size => {
                let (size, limit) = (output.len(), limits.output_size);
                done.result = Err(self.store.data().stop(StopKind::too_much_output(size, limit)));
            }
            Ok(Ok(output)) => {
                if let Err(full) = self.store.data().memory.room_for(output.len()) {
                    done.result = Err(self.store.data().stop(full.into()));
                }
            }
            _ => {}
        }
        done
    }

    /// Bytes that the undo logs of a call may take, where the instance is large.
    pub(crate) fn logs(&self, image: &Image) -> usize {
        self.pages.logs(image)
    }

    /// Bytes that it takes of its user's memory while it runs: all that it could write to.
    pub(crate) fn whole(&self) -> usize {
        self.store.data().memory.whole()
    }

    /// Bytes that it takes of its user's memory.
    pub(crate) fn charged(&self) -> usize {
        self.store.data().memory.charged()
    }

    /// Bytes of linear memory and tables.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().memory.used
    }
}

/// Takes the memories out of a store, which is dropped.
fn leave(mut store: Tracked<Context>, pages: Pages) -> Box<Undone> {
    let charge = store.data_mut().memory.take_charge();
    Undone::new(store.into_memories(), pages, charge)
}
