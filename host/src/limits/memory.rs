//! The memory of the host: what all instances and snapshots may take together.
//!
//! What is counted are linear memories, by the pages that were written to, and what an instance takes besides; a memory
//! that grows counts in full until the call has ended, and so does a new instance. When there is no more, idle sessions
//! are parked, and then new instances and growth are refused: `host_full`.

use std::{
    fs,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

/// Bytes that an instance takes besides its linear memories and tables: its store, and the stack that it runs on.
pub(crate) const INSTANCE: usize = 24 << 10;
/// Bytes that a session takes besides its instances and snapshots.
pub(crate) const SESSION: usize = 1 << 10;
/// Bytes that a snapshot takes besides its own.
pub(crate) const SNAPSHOT: usize = 64;

/// What may be taken, and what is.
#[derive(Debug)]
pub(crate) struct HostMemory {
    limit: usize,
    used: AtomicUsize,
}

/// A part of the host's memory that somebody has, until this is dropped.
#[derive(Debug)]
pub(crate) struct Charge {
    of: Arc<HostMemory>,
    bytes: usize,
}

impl HostMemory {
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, used: AtomicUsize::new(0) })
    }

    /// Bytes that may be taken.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// A part, whether it is there or not: what takes little, and cannot be refused.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.used.fetch_add(bytes, Ordering::Relaxed);
        Charge { of: self.clone(), bytes }
    }
}

impl Charge {
    /// The host's memory that it is a part of.
    pub(crate) fn of(&self) -> &Arc<HostMemory> {
        &self.of
    }

    /// Takes more; gives whether there was so much.
    pub(crate) fn grow(&mut self, more: usize) -> bool {
        let grown = |used: usize| used.checked_add(more).filter(|used| *used <= self.of.limit);
        let taken = self.of.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown).is_ok();
        if taken {
            self.bytes += more;
        }
        taken
    }

    /// Gives back what was taken and is not needed.
    pub(crate) fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.of.used.fetch_sub(less, Ordering::Relaxed);
    }

    /// It is known now how much it really is.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes == self.bytes {
            return;
        }
        if bytes > self.bytes {
            self.of.used.fetch_add(bytes - self.bytes, Ordering::Relaxed);
        } else {
            self.of.used.fetch_sub(self.bytes - bytes, Ordering::Relaxed);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.used.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// Bytes of memory that this machine has, or that the control group may use in which the process is.
pub(crate) fn of_the_machine() -> usize {
    let machine = fs::read_to_string("/proc/meminfo").ok().and_then(|text| {
        let total = text.lines().find_map(|line| line.strip_prefix("MemTotal:"))?;
        total.trim().trim_end_matches("kB").trim().parse::<usize>().ok()?.checked_mul(1024)
    });
    // The group's own file: where control groups are namespaces, it is at the root.
    let group = fs::read_to_string("/sys/fs/cgroup/memory.max").ok().and_then(|text| text.trim().parse().ok());
    machine.unwrap_or(usize::MAX).min(group.unwrap_or(usize::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_to_the_byte_and_given_back() {
        let memory = HostMemory::new(1000);
        let mut one = memory.charge(100);
        assert!(one.grow(800) && !one.grow(101) && one.grow(100));
        one.shrink(400);
        let two = memory.charge(500);
        assert_eq!(memory.used(), 1100);
        one.set(50);
        drop(two);
        assert_eq!(memory.used(), 50);
        drop(one);
        assert_eq!(memory.used(), 0);
    }

    #[test]
    fn a_machine_has_memory() {
        assert!(of_the_machine() > 64 << 20);
    }
}
