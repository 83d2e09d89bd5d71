//! Which slots of a region are in use: a list of free ones, and the number of those that never were used.

use crate::region::Region;
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Equal slots of one region.
#[derive(Debug)]
pub(crate) struct Slots {
    region: Region,
    /// Bytes of a slot.
    size: usize,
    count: usize,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Free slots, each with the bytes of it that are zero and still resident. The last one freed is handed out
    /// first: its pages are the warmest.
    free: Vec<Free>,
    /// The sum of `free`'s resident bytes.
    resident: usize,
    /// Slots from here on were never used.
    next: usize,
    /// Bytes of the region that are open.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    index: usize,
    resident: usize,
}

/// A slot that was taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) index: usize,
    /// It was never used before.
    pub(crate) fresh: bool,
}

impl Slots {
    /// Reserves the addresses of up to `count` slots; of fewer, down to one in a thousand, if the process may not have
    /// so many addresses.
    pub(crate) fn reserve(size: usize, count: usize) -> std::io::Result<Self> {
        let mut wanted = count.max(1);
        loop {
            match Region::reserve(size.saturating_mul(wanted)) {
                Ok(region) => return Ok(Self { region, size, count: wanted, state: Mutex::default() }),
                Err(_) if wanted > (count / 1000).max(1) => wanted /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    pub(crate) fn size(&self) -> usize {
        self.size
    }

    pub(crate) fn region(&self) -> &Region {
        &self.region
    }

    pub(crate) fn offset(&self, index: usize) -> usize {
        index * self.size
    }

    /// Takes a slot, or none if all are in use or the kernel gives no more memory.
    pub(crate) fn take(&self) -> Option<Taken> {
        let mut state = self.state();
        if let Some(Free { index, resident }) = state.free.pop() {
            state.resident -= resident;
            return Some(Taken { index, fresh: false });
        }
        let index = state.next;
        if index >= self.count {
            return None;
        }
        state.open = self.region.open(state.open, self.offset(index + 1)).ok()?;
        state.next += 1;
        Some(Taken { index, fresh: true })
    }

    /// Puts a slot back, of which `resident` bytes, all zero, are resident. The caller has zeroed it.
    pub(crate) fn put(&self, index: usize, resident: usize) {
        let mut state = self.state();
        state.resident += resident;
        state.free.push(Free { index, resident });
    }

    /// The bytes of free slots that are resident.
    pub(crate) fn resident(&self) -> usize {
        self.state().resident
    }

    /// How many slots are in use.
    pub(crate) fn used(&self) -> usize {
        let state = self.state();
        state.next - state.free.len()
    }

    /// Nothing panics while this is held; were it so, the list would still be whole.
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
