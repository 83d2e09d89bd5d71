//! What a store holds besides the guest: its WASI, its memory limit, and the call that runs.

use super::{
    Stop, StopKind,
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
    pub(super) fn new(function: Arc<str>, user: String, memory_per_instance: usize) -> Self {
        let log = Log::new(function.clone(), user);
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(log.stream(Stream::Stdout)).stderr(log.stream(Stream::Stderr)).allow_tcp(false).allow_udp(false);
        Self {
            function,
            wasi: wasi.build(),
            table: ResourceTable::new(),
            log,
            memory: MemoryLimit { limit: memory_per_instance, used: 0, refused: None },
            running: None,
        }
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
    /// What it would have used, had the last growth not been refused in this call.
    pub(super) refused: Option<usize>,
}

impl MemoryLimit {
    /// Refusing makes `memory.grow` and `table.grow` give -1, and an instance that starts too large fails.
    fn grow(&mut self, more: usize) -> bool {
        let needed = self.used.saturating_add(more);
        if needed > self.limit {
            self.refused = Some(needed);
            return false;
        }
        self.used = needed;
        true
    }
}

/// Bytes that the host keeps for an element of a table.
const TABLE_ELEMENT: usize = 16;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current)))
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        Ok(self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT)))
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

impl Emitter {
    pub(crate) fn new(listener: Option<mpsc::Sender<String>>, limit: usize) -> Arc<Self> {
        Arc::new(Self { listener, left: AtomicUsize::new(limit), limit })
    }

    /// Takes a chunk off the budget. Gives where to send it.
    pub(super) fn take(&self, size: usize) -> Result<Option<mpsc::Sender<String>>, StopKind> {
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(self.listener.clone()),
            Err(left) => Err(StopKind::OutputTooLarge { size: self.limit - left + size, limit: self.limit }),
        }
    }
}
