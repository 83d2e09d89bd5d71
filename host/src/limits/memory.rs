//! Memory accounts of users, tenants and the host: for instances and snapshots, callers and the log together.
//!
//! Linear memories are counted by the pages written to; each instance counts some more for its other parts. A memory
//! that grows counts in full until the call has ended, and so do a new instance and the stack that it runs on. A
//! user's memory counts for its tenant too, and a tenant's for the host. When a level is full, idle sessions are
//! parked; after that, new instances and growth are refused.

use super::Level;
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

/// Bytes that an instance takes besides its linear memories and tables: its store, and what it keeps of its stack.
pub(crate) const INSTANCE: usize = 24 << 10;
/// Bytes of stack that an instance can write to while it runs.
pub(crate) const STACK: usize = 256 << 10;
/// Bytes that a session takes besides its instances and snapshots.
pub(crate) const SESSION: usize = 1 << 10;
/// Bytes that a snapshot takes besides its own.
pub(crate) const SNAPSHOT: usize = 64;

/// The memory account of one level: its limit, and the bytes taken.
#[derive(Debug)]
pub(crate) struct Memory {
    level: Level,
    limit: usize,
    used: AtomicUsize,
    /// The enclosing level, charged as well.
    within: Option<Arc<Memory>>,
    undo_logs: UndoLogs,
}

/// Bytes taken from a memory account, given back on drop.
#[derive(Debug)]
pub(crate) struct Charge {
    of: Arc<Memory>,
    bytes: usize,
}

/// The state of an account's undo logs (see `carrel_arena`): a user's account has room for those of its running call. A
/// call that exceeds it goes on until its guest can be stopped.
#[derive(Default)]
struct UndoLogs {
    /// The engine whose running guests are made to look at the clock.
    engine: Option<wasmtime::Engine>,
    /// Bytes taken for the running call's logs, and not used by any yet.
    reserved: AtomicUsize,
    /// One more than the index of the level that a log exceeded; 0 if none.
    outgrown: AtomicUsize,
}

impl std::fmt::Debug for UndoLogs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UndoLogs")
            .field("reserved", &self.reserved)
            .field("outgrown", &self.outgrown)
            .finish_non_exhaustive()
    }
}

impl Memory {
    /// Makes a user's account within this one.
    pub(crate) fn of_user(self: &Arc<Self>, limit: Option<usize>, engine: Option<&wasmtime::Engine>) -> Arc<Self> {
        Self::make(Level::User, limit, Some(self.clone()), engine)
    }

    /// The level that the running call's logs exceed.
    pub(crate) fn outgrown(&self) -> Option<Full> {
        let nth = self.undo_logs.outgrown.load(Ordering::Relaxed).checked_sub(1)?;
        let of = self.levels().nth(nth)?;
        Some(Full { level: of.level, limit: of.limit })
    }

    /// Reserves what the logs of a function's call may need, so that the call is not stopped for want of memory.
    pub(crate) fn reserve_for_undo_logs(&self, bytes: usize) -> Result<(), Full> {
        self.try_take(bytes)?;
        self.undo_logs.reserved.fetch_add(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Ends a call from outside: gives back what was reserved for its logs and not needed.
    pub(crate) fn end_undo_logs(&self) {
        if self.undo_logs.outgrown.load(Ordering::Relaxed) > 0 {
            self.undo_logs.outgrown.store(0, Ordering::Relaxed);
        }
        if self.undo_logs.reserved.load(Ordering::Relaxed) > 0 {
            self.sub(self.undo_logs.reserved.swap(0, Ordering::Relaxed));
        }
    }
}

impl carrel_arena::LogRoom for Memory {
    fn take(&self, bytes: usize) {
        let rest = |reserved: usize| Some(reserved.saturating_sub(bytes));
        let reserved =
            self.undo_logs.reserved.fetch_update(Ordering::Relaxed, Ordering::Relaxed, rest).unwrap_or_default();
        let bytes = bytes.saturating_sub(reserved);
        if bytes == 0 {
            return;
        }
        for (nth, of) in self.levels().enumerate() {
            if of.used.fetch_add(bytes, Ordering::Relaxed).saturating_add(bytes) > of.limit {
                self.undo_logs.outgrown.store(nth + 1, Ordering::Relaxed);
                self.undo_logs.engine.iter().for_each(wasmtime::Engine::increment_epoch);
            }
        }
    }

    fn give_back(&self, bytes: usize) {
        self.sub(bytes);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.end_undo_logs();
    }
}

/// An account that has too little memory left.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Full {
    /// The level that is full.
    pub level: Level,
    /// The level's limit, in bytes.
    pub limit: usize,
}

impl Memory {
    /// Makes the host's account.
    pub(crate) fn new(limit: usize) -> Arc<Self> {
        Self::make(Level::Host, Some(limit), None, None)
    }

    /// Makes an account within this one; without a limit, only this one bounds it.
    pub(crate) fn within(self: &Arc<Self>, level: Level, limit: Option<usize>) -> Arc<Self> {
        Self::make(level, limit, Some(self.clone()), None)
    }

    fn make(
        level: Level,
        limit: Option<usize>,
        within: Option<Arc<Self>>,
        engine: Option<&wasmtime::Engine>,
    ) -> Arc<Self> {
        let undo_logs = UndoLogs { engine: engine.cloned(), ..UndoLogs::default() };
        Arc::new(Self { level, limit: limit.unwrap_or(usize::MAX), used: AtomicUsize::new(0), within, undo_logs })
    }

    /// Bytes that may be taken.
    pub(crate) fn limit(&self) -> usize {
        self.limit
    }

    /// Bytes that are taken.
    pub(crate) fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Takes bytes even beyond the limit: for small amounts that cannot be refused.
    pub(crate) fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.add(bytes);
        Charge { of: self.clone(), bytes }
    }

    /// Takes bytes, if all levels have them.
    pub(crate) fn try_charge(self: &Arc<Self>, bytes: usize) -> Result<Charge, Full> {
        self.try_take(bytes)?;
        Ok(Charge { of: self.clone(), bytes })
    }

    /// This level and all that enclose it.
    fn levels(&self) -> impl Iterator<Item = &Self> {
        std::iter::successors(Some(self), |memory| memory.within.as_deref())
    }

    // Each is a write to lines that all processors share: zero is not worth it.
    fn add(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        for memory in self.levels() {
            memory.used.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    fn sub(&self, bytes: usize) {
        if bytes == 0 {
            return;
        }
        for memory in self.levels() {
            memory.used.fetch_sub(bytes, Ordering::Relaxed);
        }
    }

    /// Takes bytes of all levels, or of none.
    fn try_take(&self, bytes: usize) -> Result<(), Full> {
        if bytes == 0 {
            return Ok(());
        }
        for (index, memory) in self.levels().enumerate() {
            if let Err(full) = memory.take_of_this(bytes) {
                for taken in self.levels().take(index) {
                    taken.used.fetch_sub(bytes, Ordering::Relaxed);
                }
                return Err(full);
            }
        }
        Ok(())
    }

    /// Takes bytes of this level alone.
    fn take_of_this(&self, bytes: usize) -> Result<(), Full> {
        let grown = |used: usize| used.checked_add(bytes).filter(|used| *used <= self.limit);
        let taken = self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, grown);
        taken.map(drop).map_err(|_| Full { level: self.level, limit: self.limit })
    }
}

impl Charge {
    /// The account that is charged.
    pub(crate) fn of(&self) -> &Arc<Memory> {
        &self.of
    }

    /// Bytes that are taken.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes more bytes, if all levels have them.
    pub(crate) fn grow(&mut self, more: usize) -> Result<(), Full> {
        self.of.try_take(more)?;
        self.bytes += more;
        Ok(())
    }

    /// Moves the charge to an account within the present one; if there is too little, the charge stays unchanged.
    pub(crate) fn narrow(mut self, to: &Arc<Memory>) -> Result<Charge, (Full, Charge)> {
        let bytes = self.bytes;
        if bytes == 0 {
            return Ok(to.charge(0));
        }
        if to.within.as_ref().is_none_or(|within| !Arc::ptr_eq(within, &self.of)) {
            // Another account: given back first, so that a common enclosing level does not count the bytes twice.
            self.shrink(bytes);
            return to.try_charge(bytes).map_err(|full| {
                self.set(bytes);
                (full, self)
            });
        }
        if let Err(full) = to.take_of_this(bytes) {
            return Err((full, self));
        }
        // The enclosing levels have counted it already.
        self.bytes = 0;
        Ok(Charge { of: to.clone(), bytes })
    }

    /// Takes bytes off the charge, as a charge of their own.
    pub(crate) fn split(&mut self, bytes: usize) -> Charge {
        let bytes = bytes.min(self.bytes);
        self.bytes -= bytes;
        Charge { of: self.of.clone(), bytes }
    }

    /// Gives back what was taken and is not needed.
    pub(crate) fn shrink(&mut self, less: usize) {
        let less = less.min(self.bytes);
        self.bytes -= less;
        self.of.sub(less);
    }

    /// Sets the charge to the real number of bytes, once known.
    pub(crate) fn set(&mut self, bytes: usize) {
        if bytes > self.bytes {
            self.of.add(bytes - self.bytes);
        } else if bytes < self.bytes {
            self.of.sub(self.bytes - bytes);
        }
        self.bytes = bytes;
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.of.sub(self.bytes);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_is_counted_to_the_byte_and_given_back() {
        let memory = Memory::new(1000);
        let mut one = memory.charge(100);
        assert_eq!(one.grow(800), Ok(()));
        assert_eq!(one.grow(101), Err(Full { level: Level::Host, limit: 1000 }));
        assert_eq!(one.grow(100), Ok(()));
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
    fn what_a_user_takes_counts_for_the_tenant_and_the_host_and_what_is_refused_for_nobody() {
        let host = Memory::new(1000);
        let tenant = host.within(Level::Tenant, Some(500));
        let users = [tenant.within(Level::User, Some(300)), tenant.within(Level::User, None)];
        let mut charges = [users[0].charge(0), users[1].charge(0)];
        let used = || [users[0].used(), users[1].used(), tenant.used(), host.used()];
        assert_eq!(charges[0].grow(301), Err(Full { level: Level::User, limit: 300 }));
        assert_eq!(charges[0].grow(300), Ok(()));
        assert_eq!(charges[1].grow(201), Err(Full { level: Level::Tenant, limit: 500 }));
        let other = host.charge(600);
        assert_eq!(charges[1].grow(101), Err(Full { level: Level::Host, limit: 1000 }));
        assert_eq!(used(), [300, 0, 300, 900]);
        charges[1].set(150);
        assert_eq!(used(), [300, 150, 450, 1050], "what it really is counts, though it is too much");
        drop((other, charges));
        assert_eq!(used(), [0; 4]);
        let of_tenant = tenant.charge(250);
        let of_user = of_tenant.narrow(&users[0]);
        assert_eq!(used(), [250, 0, 250, 250]);
        assert!(tenant.charge(51).narrow(&users[0]).is_err(), "it is more than the user may have");
        let of_nobody = host.charge(100).narrow(&users[1]);
        assert_eq!(used(), [250, 100, 350, 350]);
        drop((of_user, of_nobody));
        assert_eq!(used(), [0; 4]);
    }

    #[test]
    fn room_for_undo_logs_is_taken_of_all_levels_and_given_back_and_the_level_that_is_exceeded_is_known() {
        let host = Memory::new(1000);
        let tenant = host.within(Level::Tenant, Some(500));
        let user = tenant.of_user(Some(400), None);
        let used = || [user.used(), tenant.used(), host.used()];
        assert!(user.reserve_for_undo_logs(401).is_err());
        assert_eq!(user.reserve_for_undo_logs(300), Ok(()));
        assert_eq!(used(), [300; 3]);
        // The first logs are in the reserve, the next ones are not, and nothing can refuse them.
        let room: &dyn carrel_arena::LogRoom = &*user;
        room.take(200);
        assert_eq!((used(), user.outgrown()), ([300; 3], None));
        room.take(350);
        assert_eq!(used(), [550; 3]);
        assert_eq!(user.outgrown(), Some(Full { level: Level::Tenant, limit: 500 }), "the outermost one");
        user.end_undo_logs();
        assert_eq!((used(), user.outgrown()), ([550; 3], None));
        room.give_back(550);
        assert_eq!(user.reserve_for_undo_logs(100), Ok(()));
        assert_eq!(used(), [100; 3]);
        user.end_undo_logs();
        assert_eq!(used(), [0; 3]);
        // A user who goes away leaves nothing behind.
        assert_eq!(user.reserve_for_undo_logs(100), Ok(()));
        drop(user);
        assert_eq!([tenant.used(), host.used()], [0; 2]);
    }
}
