//! A store's data besides the guest: its WASI, its memory limit, and the running call.

use super::{
    Engine, Services, Stop, StopKind,
    log::{GuestLog, LogStream},
    memory::{MemoryLimit, NoHandle},
    open_files::{HANDLE, OpenFiles, price},
    polls::Polls,
    sources,
    stopped::StoppedSiblings,
    work::{self, Work},
};
use crate::{
    grants::{FIELDS, Grants, Outgoing, TEXT},
    identity::User,
    limits::{Allowance, Descriptors, Limits},
    scheduler::Permit,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use tokio::time::Instant;
use wasmtime::{
    Trap,
    component::{ResourceTable, ResourceTableError},
};
use wasmtime_wasi::{I32Exit, WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// Resources of WASI that an instance may hold at once, such as streams, pollables and open files. Some take tens of
/// kilobytes of the host, or a descriptor.
const RESOURCES: usize = 250;
/// Handles that one call of an import makes, at the most: one for the guest, and those that it is made of.
const AT_ONCE: usize = 4;
/// Like [`HANDLE`], for a guest that uses HTTP: a message's fields and texts.
const MESSAGE: usize = FIELDS + 6 * TEXT;
/// Random bytes that a guest may ask for at once: the host makes them in one go.
const RANDOM: u64 = 64 << 10;

/// A store's data.
pub(crate) struct Context {
    pub(super) function: Arc<str>,
    user: User,
    /// The bytes that may be printed by an instance which is made only to be described or looked at. All others have
    /// the running call's.
    log_budget: Option<Arc<AtomicUsize>>,
    grants: Arc<Grants>,
    /// Made when the guest first asks WASI for something; many never do.
    wasi: Option<Box<Wasi>>,
    pub(super) memory: MemoryLimit,
    /// Set while an image is made: notes what makes one instance differ from another.
    watch: Option<Watch>,
    /// Set for a call, and gone after it: an idle instance does not hold its session.
    pub(crate) running: Option<Running>,
}

/// A guest's WASI.
struct Wasi {
    ctx: WasiCtx,
    table: ResourceTable,
    log: Arc<GuestLog>,
    /// True if the log has begun for what runs.
    log_has_begun: bool,
    files: OpenFiles,
    /// The fuel that the guest owes for WASI's work.
    work: Arc<Work>,
    /// Made when the guest first asks for something of HTTP.
    http: Option<Box<Http>>,
}

impl Wasi {
    /// The number of the guest's handles, and the most bytes that the host holds for all of them, and for another
    /// one.
    fn handles(&mut self) -> (usize, usize, usize) {
        let each = if self.http.is_some() { MESSAGE } else { HANDLE };
        let (mut handles, mut bytes) = (0, 0);
        for handle in self.table.iter_mut() {
            handles += 1;
            bytes += price(handle).max(each);
        }
        (handles, bytes, each)
    }
}

/// A guest's way out.
struct Http {
    ctx: WasiHttpCtx,
    outgoing: Outgoing,
}

/// Flags that a guest was told something that differs between instances or tenants.
pub(super) struct Watch {
    pub(super) differs: Arc<AtomicBool>,
    pub(super) asked_for_functions: Arc<AtomicBool>,
    /// The seed for the guest's hash maps.
    pub(super) seed: u128,
}

/// A call, as one of the instances that it runs in sees it.
#[derive(Clone)]
pub(crate) struct Running {
    /// `None` for a guest that is being described, before there are sessions.
    pub(crate) services: Option<Arc<dyn Services>>,
    pub(crate) permit: Arc<Permit>,
    pub(crate) phase: Phase,
    pub(crate) allowance: Allowance,
    pub(crate) began: Instant,
    /// Units that its session was charged so far.
    pub(crate) charged: u64,
    /// Fuel that was left when the clock last ticked, as far as it was told.
    pub(super) told: u64,
    /// Units that it must have used since then without telling, by the clock.
    pub(super) by_clock: u64,
    /// 1 for the function that was called from outside.
    pub(crate) depth: usize,
    /// The index of its siblings' first entry in the undo list of the call: see `call::transaction`.
    pub(crate) undo: usize,
    /// The stops that it was told of.
    pub(super) stops: StoppedSiblings,
}

/// The part of the contract that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Configure,
    Call,
}

impl Running {
    /// A run that has used nothing yet, and calls nobody.
    pub(super) fn new(
        services: Option<Arc<dyn Services>>,
        permit: Arc<Permit>,
        phase: Phase,
        allowance: Allowance,
        depth: usize,
    ) -> Self {
        Self {
            services,
            permit,
            phase,
            allowance,
            began: Instant::now(),
            charged: 0,
            told: 0,
            by_clock: 0,
            depth,
            undo: 0,
            stops: StoppedSiblings::default(),
        }
    }

    /// Units used so far, given those that are left in the store. A loop counts in a register of its own until it
    /// ends, so one that is cut off has never reported its use: the clock's estimate is added.
    pub(super) fn used(&self, left: u64) -> u64 {
        let untold = if left == self.told { self.by_clock.min(left) } else { 0 };
        self.allowance.fuel.saturating_sub(left) + untold
    }

    /// Notes a tick of the clock, with so much fuel left.
    pub(super) fn tick(&mut self, left: u64) {
        self.by_clock = if left == self.told { self.by_clock + work::TICK } else { 0 };
        self.told = left;
    }
}

impl Context {
    /// The data of a new instance.
    pub(super) fn new(
        function: Arc<str>,
        user: User,
        memory: MemoryLimit,
        log_budget: Option<Arc<AtomicUsize>>,
        grants: Arc<Grants>,
        watch: Option<Watch>,
    ) -> Self {
        Self { function, user, log_budget, grants, wasi: None, memory, watch, running: None }
    }

    /// The guest's WASI, for a call of an import. Each such call comes by here once, and is paid for.
    ///
    /// The sandbox is closed: no arguments, no sockets, nothing to read, no files and no environment but what is
    /// granted, and what the guest writes goes to the log.
    fn called(&mut self) -> &mut Wasi {
        let wasi = self.wasi.get_or_insert_with(|| {
            let work = Arc::new(Work::default());
            let log = GuestLog::new(self.function.clone(), self.user.to_string(), work.clone());
            let mut wasi = WasiCtxBuilder::new();
            wasi.stdout(log.stream(LogStream::Stdout)).stderr(log.stream(LogStream::Stderr));
            wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM);
            if let Some(watch) = &self.watch {
                wasi.insecure_random_seed(watch.seed);
            }
            sources::give(&mut wasi, &work, self.watch.as_ref().map(|watch| watch.differs.clone()));
            self.grants.give(&mut wasi);
            let mut ctx = wasi.build();
            self.grants.give_files(&mut ctx);
            Box::new(Wasi {
                ctx,
                table: ResourceTable::new(),
                log,
                log_has_begun: false,
                files: OpenFiles::default(),
                work,
                http: None,
            })
        });
        if !wasi.log_has_begun {
            let services = self.running.as_ref().and_then(|running| running.services.as_ref());
            let budget = self.log_budget.as_ref().or_else(|| services.map(|services| services.log_budget()));
            budget.into_iter().for_each(|budget| wasi.log.begin(budget.clone()));
            wasi.log_has_begun = budget.is_some();
        }
        wasi.work.add(work::CALL);
        // The import may give the guest more handles.
        let (handles, bytes, each) = wasi.handles();
        let more = if self.memory.hold(bytes + AT_ONCE * each) { AT_ONCE } else { 0 };
        wasi.table.set_max_capacity((handles + more).min(RESOURCES));
        wasi
    }

    /// Charges for a handle that takes more than others; returns true if there is room for it.
    pub(super) fn pay_for_handles(&mut self) -> bool {
        let Some(wasi) = &mut self.wasi else { return true };
        let (_, bytes, _) = wasi.handles();
        self.memory.hold(bytes)
    }

    /// The descriptors that the guest may hold; none outside of a session's calls, where nothing is granted.
    pub(super) fn descriptors(&self) -> Option<&Descriptors> {
        let services = self.running.as_ref()?.services.as_ref()?;
        Some(services.descriptors())
    }

    /// The files that the guest has opened.
    pub(super) fn open_files(&mut self) -> &mut OpenFiles {
        &mut self.called().files
    }

    /// Gives back the descriptors of files that were closed.
    pub(super) fn forget_closed_files(&mut self) {
        if let Some(wasi) = &mut self.wasi {
            wasi.files.forget_closed();
        }
    }

    /// Ends a call: writes unfinished lines, and gives back the descriptors of closed files.
    pub(super) fn end_call(&mut self) {
        if let Some(wasi) = &mut self.wasi {
            if std::mem::take(&mut wasi.log_has_begun) {
                wasi.log.end();
            }
            wasi.files.forget_closed();
        }
    }

    /// The guest's pollables.
    pub(super) fn polls(&mut self) -> Polls<'_> {
        let wasi = self.called();
        Polls { table: &mut wasi.table, work: &wasi.work }
    }

    /// The fuel that the guest owes for WASI's work; `None` if it has not used WASI.
    pub(super) fn work(&self) -> Option<&Work> {
        self.wasi.as_ref().map(|wasi| &*wasi.work)
    }

    /// Notes that the guest was told something that is not always the same.
    pub(super) fn differs(&self) {
        if let Some(watch) = &self.watch {
            watch.differs.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the guest asked if its tenant has a function.
    pub(super) fn tells_of_functions(&self) {
        if let Some(watch) = &self.watch {
            watch.asked_for_functions.store(true, Ordering::Relaxed);
        }
    }

    /// Returns true if the guest holds streams, pollables or anything else outside of its memory.
    pub(super) fn holds_handles(&self) -> bool {
        self.wasi.as_ref().is_some_and(|wasi| !wasi.table.is_empty())
    }

    /// Maps an error of wasmtime to a kind of stop, by the error and the store's data.
    pub(super) fn stop_of(&self, error: &wasmtime::Error, limits: &Limits) -> StopKind {
        if let Some(stop) = error.downcast_ref::<Stop>() {
            return stop.kind.clone();
        }
        // A guest that was refused memory and went on is stopped for its later fault.
        match error.downcast_ref() {
            Some(Trap::OutOfFuel) => return StopKind::out_of_fuel(limits),
            Some(Trap::Interrupt) => return StopKind::too_late(),
            _ => {}
        }
        let memory = &self.memory;
        if let (Some(ResourceTableError::Full), Some(no_handle)) = (error.downcast_ref(), memory.no_handle) {
            return match no_handle {
                NoHandle::Exhausted(needed) => StopKind::out_of_memory(needed, memory.limit),
                NoHandle::Full(full) => full.into(),
            };
        }
        if let Some(full) = memory.full {
            return full.into();
        }
        if Engine::is_full(error) || memory.no_place {
            return StopKind::HostFull;
        }
        if let Some(I32Exit(status)) = error.downcast_ref() {
            return StopKind::Crashed(format!("it exited with status {status}"));
        }
        // A guest that is refused memory mostly aborts, which looks like any other abort; so does an instance that
        // starts too large, which is no trap at all.
        let refused = memory.refused.map(|needed| StopKind::out_of_memory(needed, memory.limit));
        match error.downcast_ref() {
            Some(Trap::UnreachableCodeReached) => {
                refused.unwrap_or_else(|| StopKind::Crashed("it panicked or aborted".into()))
            }
            Some(Trap::StackOverflow) => StopKind::Crashed("its call stack overflowed".into()),
            Some(trap) => StopKind::Crashed(trap.to_string()),
            // The rest are the guest's breaches of the component model, such as text that is not UTF-8.
            None => refused.unwrap_or_else(|| StopKind::Crashed(error.root_cause().to_string())),
        }
    }

    /// A stop of this function.
    pub(super) fn stop(&self, kind: StopKind) -> Stop {
        Stop { function: self.function.clone(), kind }
    }
}

impl WasiView for Context {
    fn ctx(&mut self) -> WasiCtxView<'_> {
        let wasi = self.called();
        WasiCtxView { ctx: &mut wasi.ctx, table: &mut wasi.table }
    }
}

/// Every guest may make a request; its function's grants decide if it is sent.
impl WasiHttpView for Context {
    fn http(&mut self) -> WasiHttpCtxView<'_> {
        let deadline = self.running.as_ref().map(|running| running.allowance.deadline);
        let descriptors = self.descriptors().cloned();
        let differs = self.watch.as_ref().map(|watch| watch.differs.clone());
        let grants = self.grants.clone();
        let wasi = self.called();
        let http = wasi.http.get_or_insert_with(|| {
            let mut ctx = WasiHttpCtx::new();
            ctx.set_field_size_limit(FIELDS);
            Box::new(Http { ctx, outgoing: Outgoing::new(grants, differs) })
        });
        (http.outgoing.deadline, http.outgoing.descriptors) = (deadline, descriptors);
        WasiHttpCtxView { hooks: &mut http.outgoing, table: &mut wasi.table, ctx: &mut http.ctx }
    }
}
