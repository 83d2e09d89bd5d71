//! What a store holds besides the guest: its WASI, its memory limit, and the call that runs.

use super::{
    Engine, Stop, StopKind,
    log::{Log, Stream},
};
use crate::{
    limits::{Allowance, Permit},
    session::Session,
};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Instant;
use tokio::sync::mpsc;
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};

/// A store's data.
pub(crate) struct Context {
    pub(super) function: Arc<str>,
    wasi: WasiCtx,
    table: ResourceTable,
    pub(super) log: Arc<Log>,
    pub(super) memory: MemoryLimit,
    /// Set for a call, and gone after it: an idle instance does not hold its session.
    pub(crate) running: Option<Running>,
}

/// A call, as one of the instances that it runs in sees it.
#[derive(Clone)]
pub(crate) struct Running {
    /// `None` for a guest that is being described, before there are sessions.
    pub(crate) session: Option<Arc<Session>>,
    pub(crate) permit: Arc<Permit>,
    pub(crate) phase: Phase,
    pub(crate) allowance: Allowance,
    pub(crate) began: Instant,
    /// 1 for the function that was called from outside.
    pub(crate) depth: usize,
    /// Where partial results go.
    pub(crate) emitter: Option<Arc<Emitter>>,
}

/// What of the contract runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Configure,
    Call,
}

impl Context {
    /// The data of a new instance. Its sandbox is closed: no files, no environment, no arguments, no sockets, nothing
    /// to read, and what it writes goes to the log.
    pub(super) fn new(
        function: Arc<str>,
        user: String,
        memory_per_instance: usize,
        log_budget: Arc<AtomicUsize>,
    ) -> Self {
        let log = Log::new(function.clone(), user, log_budget);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(log.stream(Stream::Stdout)).stderr(log.stream(Stream::Stderr)).allow_tcp(false).allow_udp(false);
        wasi.max_random_size(RANDOM);
        let mut table = ResourceTable::new();
        table.set_max_capacity(RESOURCES);
        Self { function, wasi: wasi.build(), table, log, memory: MemoryLimit::new(memory_per_instance), running: None }
    }

    /// A stop of this function.
    pub(super) fn stop(&self, kind: StopKind) -> Stop {
        Stop { function: self.function.clone(), kind }
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        WasiCtxView { ctx: &mut self.wasi, table: &mut self.table }
    }
}

/// Bytes of an instance's linear memories and tables together.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    pub(super) limit: usize,
    pub(super) used: usize,
    /// What it would have used, had its last growth not been refused in this call.
    pub(super) refused: Option<usize>,
    /// The host had no room for the last growth, though the limit would have allowed it.
    pub(super) host_full: bool,
    /// What was last granted, to be taken back if the growth fails all the same.
    granted: usize,
}

impl MemoryLimit {
    fn new(limit: usize) -> Self {
        Self { limit, used: 0, refused: None, host_full: false, granted: 0 }
    }

    /// A call begins: what was refused in another is forgotten.
    pub(super) fn begin(&mut self) {
        self.refused = None;
        self.host_full = false;
    }

    /// Refusing makes `memory.grow` and `table.grow` give -1, and an instance that starts too large fails.
    fn grow(&mut self, more: usize) -> bool {
        let needed = self.used.saturating_add(more);
        if needed > self.limit {
            self.refused = Some(needed);
            self.granted = 0;
            return false;
        }
        self.begin();
        self.used = needed;
        self.granted = more;
        true
    }

    /// A growth failed after it was granted: beyond the memory's own maximum, or for want of a slot. wasmtime tells of
    /// refused ones too, for which nothing was granted.
    fn failed(&mut self, error: &wasmtime::Error) {
        self.used -= std::mem::take(&mut self.granted);
        self.host_full |= Engine::is_full(error);
    }
}

/// Bytes that the host keeps for an element of a table.
const TABLE_ELEMENT: usize = 16;
/// Core instances of a component, and memories and tables in them. A guest of one language has one memory and two
/// tables; the rest is for those that are composed of several.
const PARTS: usize = 64;
/// Resources of WASI that an instance may hold at once, such as streams and pollables.
const RESOURCES: usize = 1000;
/// Random bytes that a guest may ask for at once: the host makes them in one go.
const RANDOM: u64 = 64 << 10;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT)))
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        self.failed(&error);
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

/// Where partial results go, and how many bytes of them may still come.
#[derive(Debug)]
pub(crate) struct Emitter {
    /// `None` where nobody listens: what is emitted then only counts.
    listener: Option<mpsc::Sender<String>>,
    left: AtomicUsize,
    limit: usize,
}

/// Bytes that an event takes besides its chunk.
const CHUNK: usize = 32;

impl Emitter {
    pub(crate) fn new(listener: Option<mpsc::Sender<String>>, limit: usize) -> Arc<Self> {
        Arc::new(Self { listener, left: AtomicUsize::new(limit), limit })
    }

    /// Takes a chunk off the budget, with what sending it takes. Gives where to send it.
    pub(super) fn take(&self, size: usize) -> Result<Option<mpsc::Sender<String>>, StopKind> {
        let size = size + CHUNK;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(self.listener.clone()),
            Err(left) => Err(StopKind::OutputTooLarge { size: self.limit - left + size, limit: self.limit }),
        }
    }
}
