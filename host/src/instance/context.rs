//! A store's data besides the guest: its WASI, its memory limit, and the running call.

use super::{
    Stop, StopKind, contract::carrel::function::log::Level, memory::MemoryLimit, open_files::OpenFiles, polls::Polls,
    running::Running, wasi::Wasi, watch::Watch, work::Work,
};
use crate::{grants::Grants, identity::User, limits::Descriptors};
use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use wasmtime_wasi::{WasiCtxView, WasiView};
use wasmtime_wasi_http::{WasiHttpCtxView, WasiHttpView};

/// A store's data.
pub(crate) struct Context {
    pub(super) function: Arc<str>,
    user: User,
    /// The bytes that may be printed by an instance which is made only to be described or looked at. All others have
    /// the running call's.
    log_budget: Option<Arc<AtomicUsize>>,
    grants: Arc<Grants>,
    /// Made when the guest first logs or asks WASI for something; many never do.
    wasi: Option<Box<Wasi>>,
    pub(super) memory: MemoryLimit,
    /// Set while an image is made: notes what makes one instance differ from another.
    watch: Option<Watch>,
    /// Set for a call, and gone after it: an idle instance does not hold its session.
    pub(crate) running: Option<Running>,
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
    fn called(&mut self) -> &mut Wasi {
        let wasi = self
            .wasi
            .get_or_insert_with(|| Box::new(Wasi::new(&self.function, self.user, &self.grants, self.watch.as_ref())));
        wasi.begin_import(&mut self.memory, || {
            let services = self.running.as_ref().and_then(|running| running.services.as_ref());
            self.log_budget.as_ref().or_else(|| services.map(|services| services.log_budget()))
        });
        wasi
    }

    /// Logs each line of a text, as the guest's.
    pub(super) fn log(&mut self, level: Level, text: &str) {
        self.called().log(level, text);
    }

    /// Charges for a handle that takes more than others; returns true if there is room for it.
    pub(super) fn pay_for_handles(&mut self) -> bool {
        self.wasi.as_mut().is_none_or(|wasi| wasi.pay_for_handles(&mut self.memory))
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
            wasi.end_call();
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
        let (http, table) = self.called().http(grants, differs);
        (http.outgoing.deadline, http.outgoing.descriptors) = (deadline, descriptors);
        WasiHttpCtxView { hooks: &mut http.outgoing, table, ctx: &mut http.ctx }
    }
}
