//! Fiber stacks with guard pages.
//!
//! A store keeps the stack of its last call for as long as it lives, so there are as many stacks as live instances.
//! The guard page below each is installed without a mapping of its own where the kernel can (`MADV_GUARD_INSTALL`,
//! Linux 6.13); elsewhere it costs two mappings a stack, and [`Stacks::new`] allows only as many as the kernel's
//! default limit of mappings leaves room for.

use crate::{
    PAGE,
    slots::{Keep, Slots},
    tracked,
};
use std::{io, ops::Range, sync::Arc};
use wasmtime::{StackCreator, StackMemory, component::Component};

/// From `linux/mman.h`: touching the page raises SIGSEGV, without a mapping of its own. Since Linux 6.13.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// The most stacks where each costs two mappings, so that half of the default 65,530 mappings are left.
const MOST_WITH_MAPPINGS: usize = 16_000;
/// Bytes at the top of a stack that are zeroed by writing when it is freed, rather than given back to the kernel.
const KEEP: usize = 2 * PAGE;
/// The most bytes of free stacks that stay resident.
const RESIDENT: usize = 16 << 20;
/// Bytes at the top of a stack that stay with its store between calls. Few calls go deeper.
const SHALLOW: usize = 5 * PAGE;
/// Words of 64 bits of a page.
const WORDS: usize = PAGE / 8;
/// The most stacks otherwise: address space for a million instances.
const MOST: usize = 1 << 20;

/// Makes fiber stacks. Give it to [`wasmtime::Config::with_host_stack`].
#[derive(Debug, Clone)]
pub struct Stacks {
    slots: Arc<Slots>,
    guard: Guard,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Guard {
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
        let guard = if guards_can_be_installed()? { Guard::Installed } else { Guard::Protected };
        Self::reserve(size, slots, guard)
    }

    /// Bytes of a stack, the guard page not counted.
    pub(crate) fn size(&self) -> usize {
        self.slots.size() - PAGE
    }

    fn reserve(size: usize, slots: usize, guard: Guard) -> io::Result<Self> {
        let size = size.next_multiple_of(PAGE) + PAGE;
        let most = if guard == Guard::Installed { MOST } else { MOST_WITH_MAPPINGS };
        let keep = Keep { of_each: KEEP.min(size - PAGE), of_all: RESIDENT };
        Ok(Self { slots: Arc::new(Slots::reserve(size, slots.min(most), keep)?), guard })
    }

    /// Stacks that exist.
    pub fn in_use(&self) -> usize {
        self.slots.used()
    }

    /// True if guard pages cost a mapping each, because the kernel is older than 6.13.
    pub fn guards_are_mappings(&self) -> bool {
        self.guard == Guard::Protected
    }

    fn allocate(&self) -> io::Result<Stack> {
        let exhausted = |why: &str| io::Error::other(format!("{}: {why}", crate::EXHAUSTED));
        let taken = self.slots.take().ok_or_else(|| exhausted("no fiber stack"))?;
        if taken.fresh {
            let (region, offset) = (self.slots.region(), self.slots.offset(taken.index));
            let guarded = match self.guard {
                Guard::Installed => region.advise(offset, PAGE, MADV_GUARD_INSTALL),
                Guard::Protected => region.protect(offset, PAGE, libc::PROT_NONE),
            };
            if let Err(error) = guarded {
                // The slot stays fresh, so that its next taker installs the guard page: no stack is without one.
                self.slots.put_unused(taken.index);
                return Err(exhausted(&format!("no guard page for a fiber stack: {error}")));
            }
        }
        Ok(Stack(Arc::new(Place { slots: self.slots.clone(), index: taken.index })))
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
        tracked::made_stack(&stack.0);
        Ok(Box::new(stack))
    }
}

/// One stack.
struct Stack(Arc<Place>);

/// The slot of a stack. The guard page is the lowest page of it.
#[derive(Debug)]
pub(crate) struct Place {
    slots: Arc<Slots>,
    index: usize,
}

impl Place {
    fn start(&self) -> usize {
        self.slots.offset(self.index)
    }

    /// Gives the pages of a stack that a deep call has used back to the kernel.
    ///
    /// # Safety
    ///
    /// Nothing may run on the stack meanwhile.
    pub(crate) unsafe fn trim(&self, frames: Frames) {
        let Some(deep) = self.slots.size().checked_sub(PAGE + SHALLOW).filter(|deep| *deep > 0) else { return };
        let (start, region) = (self.start() + PAGE, self.slots.region());
        // A call that goes deeper touches this page.
        let below = start + deep - PAGE;
        let touched = match frames {
            // If the page was used, there is a return address in it: two of them are never a page apart. Reading a
            // page that was never written to takes no memory, and a page fault only the first time. A page is all
            // zeroes if its first word is, and each other word is like the one before it: that is quick to find out.
            Frames::Small => {
                // SAFETY: the page is within the slot, above its guard page, and open; nothing runs on it.
                let words = unsafe { std::slice::from_raw_parts(region.at(below).cast::<u64>().as_ptr(), WORDS) };
                words[0] != 0 || words[1..] != words[..WORDS - 1]
            }
            // The page may have been used and hold only zeroes.
            Frames::Any => region.may_be_resident(below),
        };
        if touched {
            // Memory that the kernel does not take back, such as locked memory, stays.
            let _ = region.advise(start, deep, libc::MADV_DONTNEED);
        }
    }
}

/// The largest stack frame of any function, of a guest or of the host, that runs on a stack.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Frames {
    /// Less than a page.
    Small,
    /// Some may take a page or more.
    Any,
}

impl Frames {
    /// Finds the frame size of a component's compiled code.
    ///
    /// Cranelift makes a function whose frame takes a page or more touch each of the pages first, by writing a zero:
    /// the code is searched for the instruction that does so. Other code may contain the same bytes; the answer then
    /// is `Any`, which is always safe.
    pub fn of(component: &Component) -> Self {
        // movl $0, (%rsp)
        const PROBE: [u8; 7] = [0xc7, 0x04, 0x24, 0, 0, 0, 0];
        if !cfg!(target_arch = "x86_64") {
            return Self::Any;
        }
        let Range { start, end } = component.image_range();
        // SAFETY: the engine keeps the image mapped, readable and unchanged for as long as the component lives.
        let code = unsafe { std::slice::from_raw_parts(start, end.addr() - start.addr()) };
        if code.windows(PROBE.len()).any(|window| window == PROBE) { Self::Any } else { Self::Small }
    }
}

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

impl Drop for Place {
    /// Gives the stack back to the kernel, which also zeroes it, except for two pages at its top while not too many
    /// are kept; those are zeroed by writing. Nothing of a call is left for the next one.
    fn drop(&mut self) {
        let size = self.slots.size() - PAGE;
        let kept = self.slots.keep(size);
        let start = self.slots.offset(self.index) + PAGE;
        let zeroed = match self.slots.region().advise(start, size - kept, libc::MADV_DONTNEED) {
            Ok(()) => kept,
            Err(_) => size,
        };
        let bottom = self.slots.region().at(start + size - zeroed);
        // SAFETY: the range is within the slot, above its guard page, and the slot is still this stack's own; nothing
        // runs on it, since wasmtime drops a stack only when its fiber is done.
        unsafe { std::ptr::write_bytes(bottom.as_ptr(), 0, zeroed) };
        self.slots.put(self.index, kept, zeroed);
    }
}

#[cfg(test)]
mod tests;
