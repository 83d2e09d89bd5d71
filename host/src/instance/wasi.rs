//! A guest's WASI: what an instance holds of it, and what is paid for it.

use super::{
    contract::carrel::function::log::Level,
    log::{GuestLog, LogStream},
    memory::MemoryLimit,
    open_files::{HANDLE, OpenFiles, price},
    sources,
    watch::Watch,
    work::{self, Work},
};
use crate::{
    grants::{FIELDS, Grants, Outgoing, TEXT},
    identity::User,
};
use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize},
    },
};
use wasmtime::component::ResourceTable;
use wasmtime_wasi::{WasiCtx, WasiCtxBuilder};
use wasmtime_wasi_http::WasiHttpCtx;

/// Resources of WASI that an instance may hold at once, such as streams, pollables and open files. Some take tens of
/// kilobytes of the host, or a descriptor.
const RESOURCES: usize = 250;
/// Handles that one call of an import makes, at the most: one for the guest, and those that it is made of.
const AT_ONCE: usize = 4;
/// Like [`HANDLE`], for a guest that uses HTTP: a message's fields and texts.
const MESSAGE: usize = FIELDS + 6 * TEXT;
/// Random bytes that a guest may ask for at once: the host makes them in one go.
const RANDOM: u64 = 64 << 10;

/// A guest's WASI.
pub(super) struct Wasi {
    pub(super) ctx: WasiCtx,
    pub(super) table: ResourceTable,
    log: Arc<GuestLog>,
    /// True if the log has begun for what runs.
    log_has_begun: bool,
    pub(super) files: OpenFiles,
    /// The fuel that the guest owes for WASI's work.
    pub(super) work: Arc<Work>,
    /// Made when the guest first asks for something of HTTP.
    http: Option<Box<Http>>,
}

impl Wasi {
    /// The sandbox is closed: no arguments, no sockets, nothing to read, no files and no environment but what is
    /// granted, and what the guest writes goes to the log.
    pub(super) fn new(function: &Arc<str>, user: User, grants: &Grants, watch: Option<&Watch>) -> Self {
        let work = Arc::new(Work::default());
        let log = GuestLog::new(function.clone(), user.to_string(), work.clone());
        let mut wasi = WasiCtxBuilder::new();
        wasi.stdout(log.stream(LogStream::Stdout)).stderr(log.stream(LogStream::Stderr));
        wasi.allow_tcp(false).allow_udp(false).max_random_size(RANDOM);
        if let Some(watch) = watch {
            wasi.insecure_random_seed(watch.seed);
        }
        sources::give(&mut wasi, &work, watch.map(|watch| watch.differs.clone()));
        grants.give(&mut wasi);
        let mut ctx = wasi.build();
        grants.give_files(&mut ctx);
        Self {
            ctx,
            table: ResourceTable::new(),
            log,
            log_has_begun: false,
            files: OpenFiles::default(),
            work,
            http: None,
        }
    }

    /// Begins a call of an import: it is paid for, and may give the guest more handles. The log's budget is asked for
    /// once for what runs.
    pub(super) fn begin_import<'a>(
        &mut self,
        memory: &mut MemoryLimit,
        log_budget: impl FnOnce() -> Option<&'a Arc<AtomicUsize>>,
    ) {
        if !self.log_has_begun {
            let log_budget = log_budget();
            log_budget.into_iter().for_each(|budget| self.log.begin(budget.clone()));
            self.log_has_begun = log_budget.is_some();
        }
        self.work.add(work::CALL);
        let (handles, bytes, each) = self.handles();
        let more = if memory.hold(bytes + AT_ONCE * each) { AT_ONCE } else { 0 };
        self.table.set_max_capacity((handles + more).min(RESOURCES));
    }

    /// Charges for a handle that takes more than others; returns true if there is room for it.
    pub(super) fn pay_for_handles(&mut self, memory: &mut MemoryLimit) -> bool {
        let (_, bytes, _) = self.handles();
        memory.hold(bytes)
    }

    /// Logs each line of a text.
    pub(super) fn log(&self, level: Level, text: &str) {
        self.log.log(level, text);
    }

    /// Ends a call: writes unfinished lines, and gives back the descriptors of closed files.
    pub(super) fn end_call(&mut self) {
        if mem::take(&mut self.log_has_begun) {
            self.log.end();
        }
        self.files.forget_closed();
    }

    /// The guest's HTTP, made when it first asks for it.
    pub(super) fn http(
        &mut self,
        grants: Arc<Grants>,
        differs: Option<Arc<AtomicBool>>,
    ) -> (&mut Http, &mut ResourceTable) {
        let http = self.http.get_or_insert_with(|| {
            let mut ctx = WasiHttpCtx::new();
            ctx.set_field_size_limit(FIELDS);
            Box::new(Http { ctx, outgoing: Outgoing::new(grants, differs) })
        });
        (http, &mut self.table)
    }

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
pub(super) struct Http {
    pub(super) ctx: WasiHttpCtx,
    pub(super) outgoing: Outgoing,
}
