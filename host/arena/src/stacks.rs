//! Fiber stacks with guard pages.
//!
//! A store keeps the stack of its last call for as long as it lives, so there are as many stacks as live instances.
//! The guard page below each is installed without a mapping of its own where the kernel can (`MADV_GUARD_INSTALL`,
//! Linux 6.13); elsewhere it costs two mappings a stack, and [`Stacks::new`] allows only as many as the kernel's
//! default limit of mappings leaves room for.

use crate::{PAGE, slots::Slots};
use std::{io, ops::Range, sync::Arc};
use wasmtime::{StackCreator, StackMemory};

/// From `linux/mman.h`: touching the page raises SIGSEGV, without a mapping of its own. Since Linux 6.13.
const MADV_GUARD_INSTALL: libc::c_int = 102;
/// The most stacks where each costs two mappings, so that half of the default 65,530 mappings are left.
const MOST_WITH_MAPPINGS: usize = 16_000;
/// The most bytes of free stacks that stay resident.
const RESIDENT: usize = 16 << 20;
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
        let size = size.next_multiple_of(PAGE) + PAGE;
        let guard = if guards_can_be_installed()? { Guard::Installed } else { Guard::Protected };
        let most = if guard == Guard::Installed { MOST } else { MOST_WITH_MAPPINGS };
        Ok(Self { slots: Arc::new(Slots::reserve(size, most)?), guard })
    }

    /// Stacks that exist.
    pub fn in_use(&self) -> usize {
        self.slots.used()
    }

    /// Whether guard pages cost a mapping each, because the kernel is older than 6.13.
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
            // A slot without its guard page is never used: it is not put back, so that nobody takes it for one that
            // has been used and therefore has one.
            guarded.map_err(|error| exhausted(&format!("no guard page for a fiber stack: {error}")))?;
        }
        Ok(Stack { slots: self.slots.clone(), index: taken.index })
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
        Ok(Box::new(self.allocate()?))
    }
}

/// One stack. The guard page is the lowest page of its slot.
struct Stack {
    slots: Arc<Slots>,
    index: usize,
}

// SAFETY: the range is the slot above its guard page, this stack's own until it is dropped.
unsafe impl StackMemory for Stack {
    fn top(&self) -> *mut u8 {
        self.slots.region().at(self.slots.offset(self.index) + self.slots.size()).as_ptr()
    }

    fn range(&self) -> Range<usize> {
        let guard = self.guard_range();
        guard.end as usize..self.top() as usize
    }

    fn guard_range(&self) -> Range<*mut u8> {
        let offset = self.slots.offset(self.index);
        self.slots.region().at(offset).as_ptr()..self.slots.region().at(offset + PAGE).as_ptr()
    }
}

impl Drop for Stack {
    /// Gives the stack back to the kernel, which also zeroes it, but for two pages at its top while not too many are
    /// kept; those are zeroed by writing. Nothing of a call is left for the next one.
    fn drop(&mut self) {
        let keep = if self.slots.resident() < RESIDENT { 2 * PAGE } else { 0 };
        let start = self.slots.offset(self.index) + PAGE;
        let len = self.slots.size() - PAGE - keep;
        let zeroed = self.slots.region().advise(start, len, libc::MADV_DONTNEED).is_ok();
        let kept = if zeroed { keep } else { keep + len };
        let bottom = self.slots.region().at(self.slots.offset(self.index) + self.slots.size() - kept);
        // SAFETY: the range is within the slot, above its guard page, and the slot is still this stack's own; nothing
        // runs on it, since wasmtime drops a stack only when its fiber is done.
        unsafe { std::ptr::write_bytes(bottom.as_ptr(), 0, kept) };
        self.slots.put(self.index, keep);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZE: usize = 128 << 10;

    #[test]
    fn a_stack_is_writable_to_its_edges_and_reused_zeroed() {
        let stacks = Stacks::new(SIZE).unwrap();
        for _ in 0..3 {
            let stack = stacks.allocate().unwrap();
            let range = stack.range();
            assert_eq!(range.len(), SIZE);
            assert_eq!(range.end, stack.top() as usize);
            // SAFETY: the stack is the test's own.
            let bytes = unsafe { std::slice::from_raw_parts_mut(stack.guard_range().end, SIZE) };
            assert!(bytes.iter().all(|byte| *byte == 0));
            bytes.fill(0xee);
        }
        assert_eq!(stacks.in_use(), 0);
    }

    #[test]
    fn touching_a_guard_page_is_a_fault_on_first_use_and_after_reuse() {
        let stacks = Stacks::new(SIZE).unwrap();
        drop(stacks.allocate().unwrap());
        let stack = stacks.allocate().unwrap();
        let guard = stack.guard_range().start;
        // SAFETY: `fork` in a test with threads: the child only writes one byte and exits, it calls nothing that
        // could take a lock that another thread held.
        let child = unsafe { libc::fork() };
        if child == 0 {
            // SAFETY: on purpose an invalid write, in a process of its own; `_exit` runs no destructors.
            unsafe {
                libc::signal(libc::SIGSEGV, libc::SIG_DFL);
                guard.write_volatile(1);
                libc::_exit(0);
            }
        }
        let mut status = 0;
        // SAFETY: `child` is the process that was just made, and `status` is a valid place for its end.
        assert_eq!(unsafe { libc::waitpid(child, &mut status, 0) }, child);
        assert!(libc::WIFSIGNALED(status) && libc::WTERMSIG(status) == libc::SIGSEGV, "the guard page was writable");
    }

    #[test]
    fn a_stack_of_another_size_is_refused() {
        assert!(Stacks::new(SIZE).unwrap().new_stack(SIZE * 2, false).is_err());
    }
}
