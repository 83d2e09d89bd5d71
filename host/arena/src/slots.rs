//! The slots of a region: a list of free ones, and the number of the first that was never used.

use crate::{
    barrier::{Barrier, Table},
    region::Region,
};
use std::{
    io,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

/// Equal slots of one region.
#[derive(Debug)]
pub(crate) struct Slots {
    region: Region,
    /// Bytes of a slot.
    size: usize,
    count: usize,
    keep: Keep,
    state: Mutex<Occupancy>,
}

/// Bounds on the memory that free slots keep, so that their next users have fewer page faults.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Keep {
    /// The most bytes of a slot.
    pub(crate) of_each: usize,
    /// The most bytes of all free slots together.
    pub(crate) of_all: usize,
}

#[derive(Debug, Default)]
struct Occupancy {
    /// Free slots of which something is resident. The last one freed is handed out first: its pages are the warmest.
    warm: Vec<Free>,
    /// The other free slots, which are handed out when there are no warm ones.
    cold: Vec<Free>,
    /// The sum of the free slots' resident bytes, and of what [`Slots::keep`] promised to slots that are about to be free.
    resident: usize,
    /// The first slot that was never used.
    next: usize,
    /// Bytes of the region that are open.
    open: usize,
}

#[derive(Debug, Clone, Copy)]
struct Free {
    index: usize,
    /// Bytes of it that are zero and still resident.
    resident: usize,
    /// True if the slot was never used.
    fresh: bool,
}

/// A taken slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Taken {
    pub(crate) index: usize,
    /// Bytes of it that are zero and still resident.
    pub(crate) resident: usize,
    /// True if the slot was never used before.
    pub(crate) fresh: bool,
}

impl Slots {
    /// Reserves the addresses of up to `count` slots; of fewer, down to one in a thousand, if the process may not have
    /// so many addresses.
    pub(crate) fn reserve(size: usize, count: usize, keep: Keep) -> std::io::Result<Self> {
        let mut wanted = count.max(1);
        loop {
            match Region::reserve(size.saturating_mul(wanted)) {
                Ok(region) => return Ok(Self { region, size, count: wanted, keep, state: Mutex::default() }),
                Err(_) if wanted > (count / 1000).max(1) => wanted /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Registers the slots with a barrier, and returns the table of their guards.
    pub(crate) fn guarded_by(&self, barrier: &Barrier) -> io::Result<Arc<Table>> {
        barrier.register(&self.region, self.size * self.count)?;
        Table::new(&self.region, self.size, self.count).map(Arc::new)
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
        let free = state.warm.pop().or_else(|| state.cold.pop());
        if let Some(Free { index, resident, fresh }) = free {
            state.resident -= resident;
            return Some(Taken { index, resident, fresh });
        }
        let index = state.next;
        if index >= self.count {
            return None;
        }
        state.open = self.region.open(state.open, self.offset(index + 1)).ok()?;
        state.next += 1;
        Some(Taken { index, resident: 0, fresh: true })
    }

    /// Returns how many of a slot's `resident` bytes may stay resident when the slot is put back: the caller zeroes
    /// those by writing and gives the others back to the kernel. The kept bytes count from now on.
    pub(crate) fn keep(&self, resident: usize) -> usize {
        let mut state = self.state();
        let kept = resident.min(self.keep.of_each);
        if state.resident + kept > self.keep.of_all {
            return 0;
        }
        state.resident += kept;
        kept
    }

    /// Puts a slot back. The caller has zeroed it; `resident` bytes of it are still resident, which are the `kept` ones
    /// that [`Slots::keep`] gave for it, or more if the kernel did not take what it was given back.
    pub(crate) fn put(&self, index: usize, kept: usize, resident: usize) {
        let mut state = self.state();
        state.resident = state.resident - kept + resident;
        let free = if resident > 0 { &mut state.warm } else { &mut state.cold };
        free.push(Free { index, resident, fresh: false });
    }

    /// Puts a slot back that was fresh when it was taken, and was not used: it stays fresh.
    pub(crate) fn put_unused(&self, index: usize) {
        self.state().cold.push(Free { index, resident: 0, fresh: true });
    }

    /// The number of slots in use.
    pub(crate) fn used(&self) -> usize {
        let state = self.state();
        state.next - state.warm.len() - state.cold.len()
    }

    /// Asserts what must hold whenever no slot is being put back: every slot is in use or free, the free ones keep
    /// the bytes noted and no more than they may, and the kernel has the rest.
    #[cfg(test)]
    #[track_caller]
    pub(crate) fn check(&self) {
        let state = self.state();
        let mut seen = std::collections::HashSet::new();
        for free in state.warm.iter().chain(&state.cold) {
            assert!(free.index < state.next && seen.insert(free.index), "slot {} is free twice", free.index);
            assert!(!free.fresh || free.resident == 0);
            let resident = self.region.resident(self.offset(free.index), self.size);
            assert!(resident <= free.resident, "{resident} bytes are resident, of which {} are known", free.resident);
        }
        assert_eq!(state.resident, state.warm.iter().map(|free| free.resident).sum::<usize>());
        assert!(state.cold.iter().all(|free| free.resident == 0));
        assert!(state.resident <= self.keep.of_all, "{} bytes are kept", state.resident);
        assert!(state.next <= self.count && self.offset(state.next) <= state.open);
    }

    /// Locks the state. Nothing panics while the lock is held; even then, the list would be whole.
    fn state(&self) -> MutexGuard<'_, Occupancy> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEEP: Keep = Keep { of_each: 8192, of_all: 20_000 };

    fn slots(count: usize) -> Slots {
        Slots::reserve(16384, count, KEEP).unwrap()
    }

    #[test]
    fn the_last_slot_put_back_is_the_next_taken() {
        let slots = slots(3);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken, [0, 1, 2].map(|index| Taken { index, resident: 0, fresh: true }));
        assert_eq!(slots.used(), 3);
        for (index, resident) in [(1, 7), (0, 8), (2, 9)] {
            slots.put(index, slots.keep(resident), resident);
        }
        assert_eq!(slots.used(), 0);
        let taken: Vec<_> = std::iter::from_fn(|| slots.take()).collect();
        assert_eq!(taken, [(2, 9), (0, 8), (1, 7)].map(|(index, resident)| Taken { index, resident, fresh: false }));
        slots.check();
    }

    #[test]
    fn warm_slots_are_taken_before_cold_ones() {
        let slots = slots(4);
        for _ in 0..4 {
            slots.take();
        }
        for (index, resident) in [(0, 0), (1, 7), (2, 0), (3, 8)] {
            slots.put(index, slots.keep(resident), resident);
        }
        let taken: Vec<_> = std::iter::from_fn(|| slots.take()).map(|taken| taken.index).collect();
        assert_eq!(taken, [3, 1, 2, 0]);
    }

    #[test]
    fn a_slot_that_was_not_used_stays_fresh() {
        let slots = slots(2);
        assert_eq!(slots.take(), Some(Taken { index: 0, resident: 0, fresh: true }));
        slots.put_unused(0);
        assert_eq!(slots.used(), 0);
        assert_eq!(slots.take(), Some(Taken { index: 0, resident: 0, fresh: true }));
        slots.put(0, 0, 0);
        assert_eq!(slots.take(), Some(Taken { index: 0, resident: 0, fresh: false }));
        slots.check();
    }

    #[test]
    fn no_more_is_kept_than_may_be_even_while_slots_are_being_put_back() {
        let slots = slots(4);
        for _ in 0..4 {
            slots.take();
        }
        assert_eq!(slots.keep(16384), 8192);
        assert_eq!(slots.keep(100), 100);
        // Neither was put back yet, and both count.
        assert_eq!(slots.keep(16384), 8192);
        assert_eq!(slots.keep(8192), 0);
        slots.put(0, 8192, 8192);
        slots.put(1, 100, 100);
        slots.put(2, 8192, 8192);
        slots.put(3, 0, 0);
        assert_eq!(slots.state().resident, 16484);
        for left in [8292, 8192, 0, 0] {
            slots.take();
            assert_eq!(slots.state().resident, left);
        }
    }

    #[test]
    fn what_the_kernel_does_not_take_counts_as_resident() {
        let slots = slots(1);
        slots.take();
        let kept = slots.keep(16384);
        slots.put(0, kept, 16384);
        assert_eq!(slots.state().resident, 16384);
        slots.take();
        assert_eq!(slots.state().resident, 0);
    }

    #[test]
    fn fewer_slots_are_reserved_where_addresses_are_few() {
        // No process has 2^50 addresses, and any has 2^45.
        let slots = Slots::reserve(1 << 40, 1 << 10, KEEP).unwrap();
        assert!((1..1 << 10).contains(&slots.count), "{}", slots.count);
        assert!(Slots::reserve(1 << 50, 1, KEEP).is_err());
        assert!(Slots::reserve(usize::MAX, usize::MAX, KEEP).is_err());
    }
}
