//! A store's data besides the guest: its WASI, its memory limit, and the running call.

use super::{
    Engine, Stop, StopKind,
    files::{OpenFiles, price},
    imports::Polls,
    log::{Log, Stream},
    sources,
    work::{self, Work},
};
use crate::{
    grants::{FIELDS, Grants, Outgoing, TEXT},
    identity::User,
    limits::{
        Allowance, Descriptors, Permit,
        memory::{self, Charge, Full, Memory},
    },
    session::Session,
};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};
use std::time::Instant;
use tokio::sync::mpsc;
use wasmtime::{ResourceLimiter, component::ResourceTable};
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder, WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtx, WasiHttpCtxView, WasiHttpView};

/// A store's data.
pub(crate) struct Context {
    pub(super) function: Arc<str>,
    user: User,
    log_budget: Arc<AtomicUsize>,
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
    log: Arc<Log>,
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
    pub(crate) session: Option<Arc<Session>>,
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
    /// The index of its siblings' first entry in the session's undo list: see `session::undo`.
    pub(crate) undo: usize,
    /// The receiver of partial results.
    pub(crate) emitter: Option<Arc<Emitter>>,
}

/// The part of the contract that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Describe,
    Configure,
    Call,
}

impl Running {
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
        log_budget: Arc<AtomicUsize>,
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
            let log = Log::new(self.function.clone(), self.user.to_string(), self.log_budget.clone(), work.clone());
            let mut wasi = WasiCtxBuilder::new();
            wasi.stdout(log.stream(Stream::Stdout)).stderr(log.stream(Stream::Stderr));
            wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM);
            if let Some(watch) = &self.watch {
                wasi.insecure_random_seed(watch.seed);
            }
            sources::give(&mut wasi, &work, self.watch.as_ref().map(|watch| watch.differs.clone()));
            self.grants.give(&mut wasi);
            let mut ctx = wasi.build();
            self.grants.give_files(&mut ctx);
            Box::new(Wasi { ctx, table: ResourceTable::new(), log, files: OpenFiles::default(), work, http: None })
        });
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
        let session = self.running.as_ref()?.session.as_ref()?;
        Some(session.descriptors())
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
            wasi.log.flush();
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

/// Bytes of an instance's linear memories and tables, and of what the host holds for it, together.
#[derive(Debug)]
pub(super) struct MemoryLimit {
    pub(super) limit: usize,
    /// Bytes of linear memories and tables.
    pub(super) used: usize,
    /// Bytes of tables.
    tables: usize,
    /// Bytes of linear memories that the engine has asked for.
    asked: usize,
    /// Bytes of handles, the most that there were at once.
    held: usize,
    /// Bytes that it would have used, had its last growth in this call not been refused.
    pub(super) refused: Option<usize>,
    /// True if any growth was refused, in any call.
    pub(super) was_refused: bool,
    /// There was no memory for the last growth, though the instance's own limit would have allowed it.
    pub(super) full: Option<Full>,
    /// True if the host had no place for the last growth.
    pub(super) no_place: bool,
    /// Why there is no room for another handle, if there is none.
    pub(super) no_handle: Option<NoHandle>,
    /// Bytes granted last, to be taken back if the growth fails all the same.
    granted: usize,
    /// True if growth is charged already: the instance is being given existing memories.
    covered: bool,
    /// The instance's charge on its user's memory.
    charge: Charge,
}

/// Why there is no room for another handle.
#[derive(Debug, Clone, Copy)]
pub(super) enum NoHandle {
    /// The instance would need so many bytes then.
    Exhausted(usize),
    /// The user's, the tenant's or the host's memory is spent.
    Full(Full),
}

impl MemoryLimit {
    pub(super) fn new(limit: usize, host: &Arc<Memory>) -> Self {
        Self { covered: false, ..Self::of(limit, host.charge(memory::INSTANCE)) }
    }

    /// The limit of an instance that is being given memories, which are charged already.
    pub(super) fn of(limit: usize, charge: Charge) -> Self {
        Self {
            limit,
            used: 0,
            tables: 0,
            asked: 0,
            held: 0,
            refused: None,
            was_refused: false,
            full: None,
            no_place: false,
            no_handle: None,
            granted: 0,
            covered: true,
            charge,
        }
    }

    /// Begins a call: forgets what another one was refused.
    pub(super) fn begin(&mut self) {
        self.refused = None;
        self.full = None;
        self.no_place = false;
    }

    /// Refusing makes `memory.grow` and `table.grow` give -1, and an instance that starts too large fails.
    fn grow(&mut self, more: usize) -> bool {
        let needed = self.used.saturating_add(self.held).saturating_add(more);
        if needed > self.limit {
            self.refused = Some(needed);
            self.was_refused = true;
            self.granted = 0;
            return false;
        }
        if !self.covered
            && let Err(full) = self.charge.grow(more)
        {
            self.full = Some(full);
            self.was_refused = true;
            self.granted = 0;
            return false;
        }
        self.begin();
        self.used += more;
        self.granted = more;
        true
    }

    /// Charges the bytes that the host holds for the guest's handles; returns true if there is room for them.
    fn hold(&mut self, needed: usize) -> bool {
        self.no_handle = None;
        if needed > self.held {
            let total = self.used.saturating_add(needed);
            if total > self.limit {
                self.no_handle = Some(NoHandle::Exhausted(total));
            } else if let Err(full) = self.charge.grow(needed - self.held) {
                self.no_handle = Some(NoHandle::Full(full));
            } else {
                self.held = needed;
            }
            self.was_refused |= self.no_handle.is_some();
        }
        needed <= self.held
    }

    /// Checks that there is room for an output until its caller has taken it. A small one is part of a connection's
    /// memory.
    pub(super) fn room_for(&self, output: usize) -> Result<(), Full> {
        if output <= SMALL_OUTPUT { Ok(()) } else { self.charge.of().try_charge(output).map(drop) }
    }

    /// Charges the memories as a whole, since the call that begins may write to all of them.
    pub(super) fn reserve(&mut self) -> Result<(), Full> {
        // A request for nothing is never refused, even where others have taken more than there is.
        match self.whole().saturating_sub(self.charge.bytes()) {
            0 => Ok(()),
            more => self.charge.grow(more),
        }
    }

    /// Sets the charge back to `bytes`, for a call that does not begin.
    pub(super) fn unreserve(&mut self, bytes: usize) {
        self.charge.set(bytes);
    }

    /// Bytes that it takes while it runs.
    pub(super) fn whole(&self) -> usize {
        memory::INSTANCE + memory::STACK + self.of_guest()
    }

    /// Bytes of its linear memories, tables and handles.
    pub(super) fn of_guest(&self) -> usize {
        self.held + self.used
    }

    /// Takes the charge, for the next owner of the memories.
    pub(super) fn take_charge(&mut self) -> Charge {
        let nothing = self.charge.of().charge(0);
        std::mem::replace(&mut self.charge, nothing)
    }

    /// Notes that the instance was given its memories, of so many bytes in all.
    pub(super) fn revived(&mut self, memories: usize) {
        self.covered = false;
        self.used = self.used.saturating_sub(self.asked).saturating_add(memories);
    }

    /// Ends a call: charges all that it could write to, but not the stack.
    pub(super) fn rest(&mut self) {
        self.charge.set(memory::INSTANCE + self.of_guest());
    }

    /// Ends a call: of the linear memories, charges only the bytes written to.
    pub(super) fn settle(&mut self, written: usize) {
        self.charge.set(memory::INSTANCE + self.held + self.tables + written);
    }

    /// Bytes that it takes of the user's memory.
    pub(super) fn charged(&self) -> usize {
        self.charge.bytes()
    }

    /// The host's memory.
    pub(super) fn host(&self) -> &Arc<Memory> {
        self.charge.of()
    }

    /// Counts linear memories of so many bytes in all. The engine has asked only for those that a new instance has
    /// before it starts.
    ///
    /// # Errors
    ///
    /// They are more than the instance may have: its image may be of one that has grown further.
    pub(super) fn restored(&mut self, memories: usize) -> Result<(), StopKind> {
        let total = self.used.saturating_add(memories.saturating_sub(self.asked));
        if total.saturating_add(self.held) > self.limit {
            return Err(StopKind::MemoryExhausted { needed: total.saturating_add(self.held), limit: self.limit });
        }
        self.used = total;
        Ok(())
    }

    /// Takes back a growth that failed after it was granted: beyond the memory's own maximum, or for want of a slot.
    /// wasmtime reports refused ones too, for which nothing was granted. Returns the bytes taken back.
    fn failed(&mut self, error: &wasmtime::Error) -> usize {
        let granted = std::mem::take(&mut self.granted);
        self.used -= granted;
        if !self.covered {
            self.charge.shrink(granted);
        }
        self.no_place |= Engine::is_full(error);
        granted
    }
}

/// Bytes that the host keeps for an element of a table.
const TABLE_ELEMENT: usize = 16;
/// Core instances of a component, and memories and tables in them. A guest of one language has one memory and two
/// tables; the rest is for those that are composed of several.
const PARTS: usize = 64;
/// Resources of WASI that an instance may hold at once, such as streams, pollables and open files. Some take tens of
/// kilobytes of the host, or a descriptor.
const RESOURCES: usize = 250;
/// Handles that one call of an import makes, at the most: one for the guest, and those that it is made of.
const AT_ONCE: usize = 4;
/// Bytes that the host holds for a handle, at the most: what it is, and what it buffers.
pub(super) const HANDLE: usize = 1 << 10;
/// Like [`HANDLE`], for a guest that uses HTTP: a message's fields and texts.
const MESSAGE: usize = FIELDS + 6 * TEXT;
/// Bytes of an output for which no room is looked for.
const SMALL_OUTPUT: usize = 8 << 10;
/// Random bytes that a guest may ask for at once: the host makes them in one go.
const RANDOM: u64 = 64 << 10;

impl ResourceLimiter for MemoryLimit {
    fn memory_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.grow(desired.saturating_sub(current));
        self.asked += if granted { self.granted } else { 0 };
        Ok(granted)
    }

    fn memory_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let granted = self.failed(&error);
        self.asked = self.asked.saturating_sub(granted);
        Ok(())
    }

    fn table_growing(&mut self, current: usize, desired: usize, _: Option<usize>) -> wasmtime::Result<bool> {
        let granted = self.grow(desired.saturating_sub(current).saturating_mul(TABLE_ELEMENT));
        self.tables += if granted { self.granted } else { 0 };
        Ok(granted)
    }

    fn table_grow_failed(&mut self, error: wasmtime::Error) -> wasmtime::Result<()> {
        let granted = self.failed(&error);
        self.tables = self.tables.saturating_sub(granted);
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

/// The receiver of partial results, and the budget of their bytes.
#[derive(Debug)]
pub(crate) struct Emitter {
    /// `None` where nobody listens: chunks then only count.
    listener: Option<mpsc::Sender<Chunk>>,
    left: AtomicUsize,
    limit: usize,
}

/// A partial result on its way to a listener.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The JSON text.
    pub(crate) text: String,
    /// Its part of its user's memory.
    pub(super) _held: Option<Charge>,
}

/// Bytes that an event takes besides its chunk.
const CHUNK: usize = 32;

impl Emitter {
    pub(crate) fn new(listener: Option<mpsc::Sender<Chunk>>, limit: usize) -> Arc<Self> {
        Arc::new(Self { listener, left: AtomicUsize::new(limit), limit })
    }

    /// Takes a chunk and its overhead off the budget; returns the listener to send it to.
    pub(super) fn take(&self, size: usize) -> Result<Option<mpsc::Sender<Chunk>>, StopKind> {
        let size = size + CHUNK;
        let taken = self.left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(size));
        match taken {
            Ok(_) => Ok(self.listener.clone()),
            Err(left) => Err(StopKind::OutputTooLarge { size: self.limit - left + size, limit: self.limit }),
        }
    }
}
