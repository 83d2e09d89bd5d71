//! One fiber stack: the slot that it is in.

use crate::{PAGE, slots::Slots};
use memchr::memmem;
use std::{ops::Range, sync::Arc};
use wasmtime::component::Component;

/// Bytes at the top of a stack that stay with its store between calls. Few calls go deeper.
pub(crate) const SHALLOW: usize = 5 * PAGE;
/// Words of 64 bits of a page.
const WORDS: usize = PAGE / 8;

/// The slot of a stack. The guard page is the lowest page of it.
#[derive(Debug)]
pub(crate) struct StackSlot {
    pub(crate) slots: Arc<Slots>,
    pub(crate) index: usize,
}

impl StackSlot {
    pub(crate) fn start(&self) -> usize {
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
        if memmem::find(code, &PROBE).is_some() { Self::Any } else { Self::Small }
    }
}

impl Drop for StackSlot {
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
