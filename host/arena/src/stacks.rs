//! Fiber stacks with guard pages.
//!
//! A store keeps the stack of its last call for as long as it lives, so there are as many stacks as live instances.
//! The guard page below each is installed without a mapping of its own where the kernel can (`MADV_GUARD_INSTALL`,
//! Linux 6.13); elsewhere it costs two mappings a stack, and [`Stacks::new`] allows only as many as the kernel's
//! default limit of mappings leaves room for.

use crate::{
    PAGE,
    error::Error,
    making,
    slots::{Keep, Slots},
    stack::StackSlot,
};
use std::{io, ops::Range, sync::Arc};
use wasmtime::{StackCreator, StackMemory};

/// From `linux/mman.h`: touching the page raises SIGSEGV, without a mapping of its own. Since Linux 6.13.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// The most stacks where each costs two mappings, so that half of the default 65,530 mappings are left.
const MOST_WITH_MAPPINGS: usize = 16_000;
/// Bytes at the top of a stack that are zeroed by writing when it is freed, rather than given back to the kernel.
const KEEP: usize = 2 * PAGE;
/// The most bytes of free stacks that stay resident.
const RESIDENT: usize = 16 << 20;
/// The most stacks otherwise: address space for a million instances.
const MOST: usize = 1 << 20;

/// Makes fiber stacks. Give it to [`wasmtime::Config::with_host_stack`].
#[derive(Debug, Clone)]
pub struct Stacks {
    slots: Arc<Slots>,
    guard: GuardPages,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum GuardPages {
    Installed,
    Protected,
}

impl Stacks {
    /// Reserves addresses for stacks of `size` bytes each, the guard page not counted. `size` must be what
    /// [`wasmtime::Config::async_stack_size`] is given.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn new(size: usize) -> io::Result<Self> {
        Self::with_slots(size, MOST)
    }

    /// Like [`Stacks::new`], with at most `slots` stacks: so few that tests can use them up.
    ///
    /// # Errors
    ///
    /// The kernel gives the process too few addresses (`ulimit -v`).
    pub fn with_slots(size: usize, slots: usize) -> io::Result<Self> {
        let guard = if guards_can_be_installed()? { GuardPages::Installed } else { GuardPages::Protected };
        Self::reserve(size, slots, guard)
    }

    /// Bytes of a stack, the guard page not counted.
    pub(crate) fn size(&self) -> usize {
        self.slots.size() - PAGE
    }

    fn reserve(size: usize, slots: usize, guard: GuardPages) -> io::Result<Self> {
        let size = size.next_multiple_of(PAGE) + PAGE;
        let most = if guard == GuardPages::Installed { MOST } else { MOST_WITH_MAPPINGS };
        let keep = Keep { of_each: KEEP.min(size - PAGE), of_all: RESIDENT };
        Ok(Self { slots: Arc::new(Slots::reserve(size, slots.min(most), keep)?), guard })
    }

    /// Stacks that exist.
    pub fn in_use(&self) -> usize {
        self.slots.used()
    }

    /// True if guard pages cost a mapping each, because the kernel is older than 6.13.
    pub fn guards_are_mappings(&self) -> bool {
        self.guard == GuardPages::Protected
    }

    fn allocate(&self) -> Result<Stack, Error> {
        let taken = self.slots.take().ok_or_else(|| Error::Exhausted("no fiber stack".into()))?;
        if taken.fresh {
            let (region, offset) = (self.slots.region(), self.slots.offset(taken.index));
            let guarded = match self.guard {
                GuardPages::Installed => region.advise(offset, PAGE, MADV_GUARD_INSTALL),
                GuardPages::Protected => region.protect(offset, PAGE, libc::PROT_NONE),
            };
            if let Err(error) = guarded {
                // The slot stays fresh, so that its next taker installs the guard page: no stack is without one.
                self.slots.put_unused(taken.index);
                return Err(Error::Exhausted(format!("no guard page for a fiber stack: {error}")));
            }
        }
        Ok(Stack(Arc::new(StackSlot { slots: self.slots.clone(), index: taken.index })))
    }
}

fn guards_can_be_installed() -> io::Result<bool> {
    let probe = crate::region::Region::reserve(PAGE)?;
    probe.open(0, PAGE)?;
    Ok(probe.advise(0, PAGE, MADV_GUARD_INSTALL).is_ok())
}

// SAFETY: each stack is a slot of its own, page-aligned, with a guard page below it that stays for as long as the
// region does, alive until the `StackMemory` is dropped.
unsafe impl StackCreator for Stacks {
    fn new_stack(&self, size: usize, _zeroed: bool) -> wasmtime::Result<Box<dyn StackMemory>> {
        if size.next_multiple_of(PAGE) + PAGE != self.slots.size() {
            return Err(wasmtime::Error::msg("carrel-arena: async_stack_size is not what Stacks was made for"));
        }
        let stack = self.allocate()?;
        making::made_stack(&stack.0);
        Ok(Box::new(stack))
    }
}

struct Stack(Arc<StackSlot>);

// SAFETY: the range is the slot above its guard page, this stack's own until it is dropped.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.0.slots.region().at(self.0.start() + self.0.slots.size()).as_ptr()
    }

    fn range(&self) -> Range<usize> {
        let guard = self.guard_range();
        guard.end as usize..self.top() as usize
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let (offset, region) = (self.0.start(), self.0.slots.region());
        region.at(offset).as_ptr()..region.at(offset + PAGE).as_ptr()
    }
}

#[cfg(test)]
mod tests;
