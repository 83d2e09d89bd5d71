//! The memory limit of an instance, and its share of the user's memory.

use super::{Engine, StopKind};
use crate::limits::memory::{self, Charge, Full, Memory};
use std::sync::Arc;
use wasmtime::ResourceLimiter;

/// Bytes of an instance's linear memories and tables, and of what the host holds for it, together.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    pub(super) limit: usize,
    /// Bytes of linear memories and tables.
    pub(super) used: usize,
    /// Bytes of tables.
    tables: usize,
    /// Bytes of linear memories that the engine has asked for.
    asked: usize,
    /// Bytes of handles, the most that there were at once.
    held: usize,
    /// Bytes that it would have used, had its last growth in this call not been refused.
    pub(super) refused: Option<usize>,
    /// True if any growth was refused, in any call.
    pub(super) was_refused: bool,
    /// There was no memory for the last growth, though the instance's own limit would have allowed it.
    pub(super) full: Option<Full>,
    /// True if the host had no place for the last growth.
    pub(super) no_place: bool,
    /// Why there is no room for another handle, if there is none.
    pub(super) no_handle: Option<NoHandle>,
    /// Bytes granted last, to be taken back if the growth fails all the same.
    granted: usize,
    /// True if growth is charged already: the instance is being given existing memories.
    covered: bool,
    /// The instance's charge on its user's memory.
    charge: Charge,
}

/// Why there is no room for another handle.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoHandle {
    /// The instance would need so many bytes then.
    Exhausted(usize),
    /// The user's, the tenant's or the host's memory is spent.
    Full(Full),
}

impl MemoryLimit {
    pub(super) fn new(limit: usize, user: &Arc<Memory>) -> Self {
        Self { covered: false, ..Self::of(limit, user.charge(memory::INSTANCE)) }
    }

    /// The limit of an instance that is being given memories, which are charged already.
    pub(super) fn of(limit: usize, charge: Charge) -> Self {
        Self {
            limit,
            used: 0,
            tables: 0,
            asked: 0,
            held: 0,
            refused: None,
            was_refused: false,
            full: None,
            no_place: false,
            no_handle: None,
            granted: 0,
            covered: true,
            charge,
        }
    }

    /// Begins a call: forgets what another one was refused.
    pub(super) fn begin(&mut self) {
        self.refused = None;
        self.full = None;
        self.no_place = false;
    }

    /// Refusing makes `memory.grow` and `table.grow` give -1, and an instance that starts too large fails.
    fn grow(&mut self, more: usize) -> bool {
        let needed = self.used.saturating_add(self.held).saturating_add(more);
        if needed > self.limit {
            self.refused = Some(needed);
            self.was_refused = true;
            self.granted = 0;
            return false;
        }
        if !self.covered
            && let Err(full) = self.charge.grow(more)
        {
            self.full = Some(full);
            self.was_refused = true;
            self.granted = 0;
            return false;
        }
        self.begin();
        self.used += more;
        self.granted = more;
        true
    }

    /// Charges the bytes that the host holds for the guest's handles; returns true if there is room for them.
    pub(super) fn hold(&mut self, needed: usize) -> bool {
        self.no_handle = None;
        if needed > self.held {
            let total = self.used.saturating_add(needed);
            if total > self.limit {
                self.no_handle = Some(NoHandle::Exhausted(total));
            } else if let Err(full) = self.charge.grow(needed - self.held) {
                self.no_handle = Some(NoHandle::Full(full));
            } else {
                self.held = needed;
            }
            self.was_refused |= self.no_handle.is_some();
        }
        needed <= self.held
    }

    /// Checks that there is room for an output until its caller has taken it. A small one is part of a connection's
    /// memory.
    pub(super) fn room_for(&self, output: usize) -> Result<(), Full> {
        if output <= SMALL_OUTPUT { Ok(()) } else { self.charge.of().try_charge(output).map(drop) }
    }

    /// Charges the memories as a whole, since the call that begins may write to all of them.
    ///
    /// Charges `copies` bytes for copies of them as well, which are returned as a charge of their own.
    pub(super) fn reserve(&mut self, copies: usize) -> Result<Charge, Full> {
        // A request for nothing is never refused, even where others have taken more than there is.
        self.charge.grow(self.whole().saturating_sub(self.charge.bytes()) + copies)?;
        Ok(self.charge.split(copies))
    }

    /// Bytes that it takes while it runs.
    pub(super) fn whole(&self) -> usize {
        memory::INSTANCE + memory::STACK + self.of_guest()
    }

    /// Bytes of its linear memories, tables and handles.
    pub(super) fn of_guest(&self) -> usize {
        self.held + self.used
    }

    /// Takes the charge, for the next owner of the memories.
    pub(super) fn take_charge(&mut self) -> Charge {
        let nothing = self.charge.of().charge(0);
        std::mem::replace(&mut self.charge, nothing)
    }

    /// Notes that the instance was given its memories, of so many bytes in all.
    pub(super) fn revived(&mut self, memories: usize) {
        self.covered = false;
        self.used = self.used.saturating_sub(self.asked).saturating_add(memories);
    }

    /// Ends a call: charges all that it could write to, but not the stack.
    pub(super) fn rest(&mut self) {
        self.charge.set(memory::INSTANCE + self.of_guest());
    }

    /// Ends a call: of the linear memories, charges only the bytes written to.
    pub(super) fn settle(&mut self, written: usize) {
        self.charge.set(memory::INSTANCE + self.held + self.tables + written);
    }

    /// Bytes that it takes of the user's memory.
    pub(super) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// Counts linear memories of so many bytes in all. The engine has asked only for those that a new instance has
    /// before it starts.
    ///
    /// # Errors
    ///
    /// They are more than the instance may have: its image may be of one that has grown further.
    pub(super) fn restored(&mut self, memories: usize) -> Result<(), StopKind> {
        let total = self.used.saturating_add(memories.saturating_sub(self.asked));
        if total.saturating_add(self.held) > self.limit {
            return Err(StopKind::out_of_memory(total.saturating_add(self.held), self.limit));
        }
        self.used = total;
        Ok(())
    }

    /// Takes back a growth that failed after it was granted: beyond the memory's own maximum, or for want of a slot.
    /// wasmtime reports refused ones too, for which nothing was granted. Returns the bytes taken back.
    fn failed(&mut self, error: &wasmtime::Error) -> usize {
        let granted = std::mem::take(&mut self.granted);
        self.used -= granted;
        if !self.covered {
            self.charge.shrink(granted);
        }
        self.no_place |= Engine::is_full(error);
        granted
    }
}

/// Bytes that the host keeps for an element of a table.
const TABLE_ELEMENT: usize = 16;
/// Core instances of a component, and memories and tables in them. A guest of one language has one memory and two
/// tables; the rest is for those that are composed of several.
const PARTS: usize = 64;
/// Bytes of an output for which no room is looked for.
const SMALL_OUTPUT: usize = 8 << 10;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.grow(desired.saturating_sub(current));
        self.asked += if granted { self.granted } else { 0 };
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let granted = self.failed(&error);
        self.asked = self.asked.saturating_sub(granted);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT));
        self.tables += if granted { self.granted } else { 0 };
        Ok(granted)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let granted = self.failed(&error);
        self.tables = self.tables.saturating_sub(granted);
        Ok(())
    }

    fn instances(&self) -> usize {
        PARTS
    }

    fn memories(&self) -> usize {
        PARTS
    }

    fn tables(&self) -> usize {
        PARTS
    }
}
