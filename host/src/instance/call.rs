//! Making an instance, and calling it.

use super::{
    Context, Description, Emitter, GuestError, GuestPre, Json, Phase, Running, Stop, StopKind,
    context::{MemoryLimit, Watch},
    contract::Guest as Contract,
    image::{Dirty, Image},
    saved::Saved,
    snapshot::Snapshot,
    work::{self, Work},
};
use crate::{
    function::Function,
    identity::User,
    limits::{Allowance, Limits, Permit, SHORT, memory::Memory, within},
    session::{Session, Unbilled},
};
use carrel_arena::{PAGE, Tracked};
use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

/// Pages that are compared after each call: more of them the kernel watches. Asking it costs as much as comparing some
/// ten pages that are in the processor's cache, or three that are not.
const FEW: usize = 4;

/// One function of one session: a store, and the guest in it.
pub(crate) struct Instance {
    store: Tracked<Context>,
    guest: Contract,
    /// The pages that differ from the function's image, as far as they were looked for.
    dirty: Dirty,
}

/// What something that ran in an instance gave, and the fuel that it took.
pub(crate) struct Done<T> {
    pub(crate) result: Result<T, Stop>,
    pub(crate) fuel: u64,
}

/// Whose an instance is going to be, and within what it is made.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) function: &'a Function,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) limits: &'a Limits,
    pub(crate) allowance: Allowance,
    pub(crate) depth: usize,
}

impl Making<'_> {
    fn context(&self, budget: Arc<AtomicUsize>, watch: Option<Watch>) -> Context {
        let user = self.session.user();
        let memory = MemoryLimit::new(self.limits.memory_per_instance, self.session.memory());
        Context::new(self.function.name.clone(), user, memory, budget, self.function.grants.clone(), watch)
    }

    fn running(&self, phase: Phase) -> Running {
        Running {
            session: Some(self.session.clone()),
            permit: self.session.permit().clone(),
            phase,
            allowance: self.allowance,
            began: Instant::now(),
            charged: 0,
            told: 0,
            by_clock: 0,
            depth: self.depth,
            undo: 0,
            emitter: None,
        }
    }

    /// A store, and a guest in it whose memories have these sizes at least.
    async fn instantiate(&self, context: Context, sizes: &[usize]) -> Done<(Tracked<Context>, Contract)> {
        let mut store = Tracked::new(new_store(self.function.guest.engine(), context, self.limits));
        let done = run(&mut store, self.running(Phase::Configure), self.limits, async |store| {
            store.instantiate(sizes, async |cx| self.function.guest.pre().instantiate_async(cx).await).await
        })
        .await;
        Done { result: done.result.map(|guest| (store, guest)), fuel: done.fuel }
    }

    /// The same, with the image in its memories.
    async fn instantiate_image(&self, image: &Image, sizes: &[usize]) -> Done<(Tracked<Context>, Contract)> {
        let context = self.context(self.session.log_budget().clone(), None);
        let mut made = self.instantiate(context, sizes).await;
        if let Ok((store, _)) = &mut made.result {
            store.data_mut().memory.restored(sizes.iter().sum::<usize>().saturating_sub(image.size_at_start()));
            image.apply(store.memories());
        }
        made
    }

    /// Configures a guest.
    async fn configure(&self, store: &mut Tracked<Context>, guest: &Contract, used: u64) -> Done<()> {
        let mut running = self.running(Phase::Configure);
        running.allowance.fuel -= used;
        run(store, running, self.limits, async |store| {
            let configured = guest.carrel_function_function().call_configure(store.context(), &self.function.config);
            match configured.await? {
                Ok(()) => Ok(()),
                Err(mut why) => {
                    cut(&mut why, self.limits.output_size);
                    Err(store.data().stop(StopKind::Unconfigurable(why)).into())
                }
            }
        })
        .await
    }

    /// What new instances of the function begin with; `None`, if an instance cannot be made again from its memories.
    ///
    /// Twice an instance is made, with other randomness. If both are alike, and neither was told what differs from one
    /// instance to the next, the image is of a configured instance, and no other instance needs to be configured.
    pub(crate) async fn image(&self) -> Result<Option<Image>, Stop> {
        const SEEDS: [u128; 2] = [u128::MAX / 3, u128::MAX / 3 * 2];
        let one = self.watched(SEEDS[0]).await?;
        let Ok(state) = &self.function.guest.state else { return Ok(None) };
        let other = self.watched(SEEDS[1]).await?;
        let start_alike = !one.start_differs && !other.start_differs && one.started == other.started;
        let alike = start_alike && !one.differs && !other.differs && one.configured == other.configured;
        if state.sets_globals_at_start && !start_alike {
            return Ok(None);
        }
        let mut identity = blake3::Hasher::new();
        identity.update(&state.hash).update(self.function.config.as_bytes());
        self.function.grants.identify(&mut identity);
        Ok(Image::new(
            start_alike.then_some(one.started.as_slice()),
            if alike { &one.configured } else { &one.started },
            one.started.iter().map(Vec::len).sum(),
            alike,
            state.dead,
            &identity,
        ))
    }

    /// An instance that is only made to be looked at.
    async fn watched(&self, seed: u128) -> Result<Watched, Stop> {
        let budget = Arc::new(AtomicUsize::new(self.limits.log_size));
        let differs = Arc::new(AtomicBool::new(false));
        let watch = Watch { differs: differs.clone(), seed };
        let made = self.instantiate(self.context(budget.clone(), Some(watch)), &[]).await;
        let (mut store, guest) = made.result?;
        let look = |store: &mut Tracked<Context>| {
            let logged = budget.load(Ordering::Relaxed) != self.limits.log_size;
            let differs = differs.load(Ordering::Relaxed) || logged || store.data().holds_handles();
            (store.memories().map(|memory| memory.to_vec()).collect::<Vec<_>>(), differs)
        };
        let (started, start_differs) = look(&mut store);
        self.configure(&mut store, &guest, made.fuel).await.result?;
        let (configured, differs) = look(&mut store);
        Ok(Watched { started, start_differs, configured, differs })
    }
}

/// The memories of an instance after it was instantiated, and after it was configured, and whether it was told by then
/// what differs from one instance to the next.
struct Watched {
    started: Vec<Vec<u8>>,
    start_differs: bool,
    configured: Vec<Vec<u8>>,
    differs: bool,
}

impl Instance {
    /// A new instance, configured. What that takes counts as part of the call that needs it.
    pub(crate) async fn create(making: Making<'_>) -> Done<Self> {
        if let Some(image) = making.function.image().filter(|image| image.is_configured()) {
            let sizes: Vec<usize> = image.sizes().collect();
            let made = making.instantiate_image(image, &sizes).await;
            let result = made.result.map(|(store, guest)| Self { store, guest, dirty: Dirty::default() });
            return Done { result, fuel: made.fuel };
        }
        let made = making.instantiate(making.context(making.session.log_budget().clone(), None), &[]).await;
        let (mut store, guest) = match made.result {
            Ok(made) => made,
            Err(stop) => return Done { result: Err(stop), fuel: made.fuel },
        };
        let unbilled = Unbilled::new(making.session, made.fuel);
        let configured = making.configure(&mut store, &guest, made.fuel).await;
        let result = configured.result.map(|()| Self { store, guest, dirty: Dirty::default() });
        Done { result, fuel: unbilled.bill() + configured.fuel }
    }

    /// The instance that a snapshot is of.
    pub(crate) async fn restore(making: Making<'_>, snapshot: &Snapshot) -> Done<Self> {
        let broken = |why: String| {
            let kind = StopKind::SnapshotBroken { user: making.session.user(), why };
            Done { result: Err(Stop { function: making.function.name.clone(), kind }), fuel: 0 }
        };
        let Some(image) = making.function.image() else { return broken("the function has no image".into()) };
        let checked = match snapshot.check(image) {
            Ok(checked) => checked,
            Err(error) => return broken(error.to_string()),
        };
        let made = making.instantiate_image(image, &checked.sizes).await;
        let result = made.result.map(|(mut store, guest)| {
            let mut dirty = Dirty::default();
            checked.apply(store.memories(), &mut dirty);
            Self { store, guest, dirty }
        });
        Done { result, fuel: made.fuel }
    }

    /// What it is now, to be gone back to; `None`, if it holds what lies outside of its memory.
    ///
    /// What has changed since the last time must have been looked for, by [`changed`](Self::changed).
    pub(crate) fn save(&mut self) -> Option<Saved> {
        if self.store.data().holds_handles() {
            return None;
        }
        Some(Saved::new(self.store.memories(), &self.dirty))
    }

    /// Looks for pages that a call has changed for the first time.
    pub(crate) fn changed(&mut self, image: &Image) {
        let dirty = &mut self.dirty;
        if !self.store.written(|memory, bytes| dirty.merge(memory, bytes)) {
            let compared = image.find_dirty(self.store.memories(), dirty);
            if compared > FEW {
                self.store.watch(image.dead());
            }
        }
        let written = (image.pages() + dirty.pages().len()) * PAGE;
        self.store.data_mut().memory.settle(written);
    }

    /// Its state, without the instance; `None`, if it holds what lies outside of its memory.
    pub(crate) fn snapshot(&mut self, image: &Image) -> Option<Snapshot> {
        self.changed(image);
        Some(self.save()?.snapshot(image, self.store.data().memory.host()))
    }

    /// One call. After a [`Stop`] the instance can only be dropped.
    pub(crate) async fn call(
        &mut self,
        input: &Json,
        session: &Arc<Session>,
        allowance: Allowance,
        depth: usize,
        undo: usize,
        emitter: Arc<Emitter>,
    ) -> Done<Result<String, GuestError>> {
        let limits = session.limits();
        let running = Running {
            session: Some(session.clone()),
            permit: session.permit().clone(),
            phase: Phase::Call,
            allowance,
            began: Instant::now(),
            charged: 0,
            told: 0,
            by_clock: 0,
            depth,
            undo,
            emitter: Some(emitter),
        };
        let guest = &self.guest;
        let mut done = run(&mut self.store, running, limits, async |store| {
            session.aside().beside(guest.carrel_function_function().call_call(store.context(), input)).await
        })
        .await;
        match &mut done.result {
            Ok(Ok(output)) if output.len() > limits.output_size => {
                let (size, limit) = (output.len(), limits.output_size);
                done.result = Err(self.store.data().stop(StopKind::OutputTooLarge { size, limit }));
            }
            Ok(Ok(output)) => {
                if let Err(full) = self.store.data().memory.room_for(output.len()) {
                    done.result = Err(self.store.data().stop(full.into()));
                }
            }
            // An error's text is output as well, and still says enough when it is cut.
            Ok(Err(GuestError::InvalidInput(why) | GuestError::Failed(why))) => cut(why, limits.output_size),
            _ => {}
        }
        done
    }

    /// Bytes that it takes of its user's memory.
    pub(crate) fn charged(&self) -> usize {
        self.store.data().memory.charged()
    }

    /// Bytes of linear memory and tables.
    pub(crate) fn memory(&self) -> usize {
        self.store.data().memory.used
    }
}

/// What a guest says of itself, in an instance that is dropped after it.
pub(crate) async fn describe(
    guest: &GuestPre<Context>,
    name: Arc<str>,
    limits: &Limits,
    permit: Arc<Permit>,
) -> Result<Description, Stop> {
    let budget = Arc::new(AtomicUsize::new(limits.log_size));
    // Guests are described one after the other, before there are sessions.
    let memory = MemoryLimit::new(limits.memory_per_instance, &Memory::new(limits.memory));
    let context = Context::new(name, User::from_credential(""), memory, budget, Arc::default(), None);
    let mut store = Tracked::new(new_store(guest.engine(), context, limits));
    let allowance = Allowance { fuel: limits.fuel_per_call, deadline: tokio::time::Instant::now() + limits.deadline };
    let running = Running {
        session: None,
        permit,
        phase: Phase::Describe,
        allowance,
        began: Instant::now(),
        charged: 0,
        told: 0,
        by_clock: 0,
        depth: 1,
        undo: 0,
        emitter: None,
    };
    let done = run(&mut store, running, limits, async |store| {
        let guest = store.instantiate(&[], async |cx| guest.instantiate_async(cx).await).await?;
        guest.carrel_function_function().call_describe(store.context()).await
    });
    done.await.result
}

fn new_store(engine: &wasmtime::Engine, context: Context, limits: &Limits) -> Store<Context> {
    let mut store = Store::new(engine, context);
    // Bytes that one call across the boundary may copy: what is allowed, and as much again, so that what is a little too
    // large is told as such.
    store.set_hostcall_fuel(2 * limits.output_size.max(limits.body_size) + (1 << 20));
    store.limiter(|context| &mut context.memory);
    store.epoch_deadline_callback(tick);
    store
}

/// What a guest that runs when the clock ticks does: it stops if its time is over, and lets others run if it has run
/// for long.
fn tick(mut cx: StoreContextMut<'_, Context>) -> wasmtime::Result<UpdateDeadline> {
    let fuel = cx.get_fuel()?;
    let owed = cx.data().work().map_or(0, Work::owed);
    if owed > fuel {
        return Err(Trap::OutOfFuel.into());
    }
    let Some(running) = &mut cx.data_mut().running else { return Ok(UpdateDeadline::Interrupt) };
    // The clock of the runtime, as for all that a call waits for.
    if tokio::time::Instant::now() >= running.allowance.deadline {
        return Ok(UpdateDeadline::Interrupt);
    }
    if running.permit.goes_on(running.began.elapsed() < SHORT) {
        return Ok(UpdateDeadline::Continue(1));
    }
    running.tick(fuel);
    let used = running.used(fuel) + owed;
    if let Some(session) = &running.session {
        session.charge(used.saturating_sub(std::mem::replace(&mut running.charged, used)));
    }
    running.permit.lane().meet();
    Ok(UpdateDeadline::YieldCustom(1, running.permit.clone().next_turn()))
}

/// Runs something in a store within an allowance.
///
/// The clock stops a guest that computes; the timer here one that waits, for a pollable or for a slow reader.
async fn run<T>(
    store: &mut Tracked<Context>,
    running: Running,
    limits: &Limits,
    what: impl AsyncFnOnce(&mut Tracked<Context>) -> wasmtime::Result<T>,
) -> Done<T> {
    let (allowance, permit) = (running.allowance, running.permit.clone());
    if let Err(error) = store.context().set_fuel(allowance.fuel) {
        // Only an engine without fuel refuses it.
        let kind = StopKind::Crashed(error.to_string());
        return Done { result: Err(store.data().stop(kind)), fuel: 0 };
    }
    store.context().set_epoch_deadline(1);
    let context = store.data_mut();
    context.memory.begin();
    context.running = Some(running);
    let mut metered = Metered { store, fuel: allowance.fuel };
    let ended = {
        let mut running = pin!(what(&mut *metered.store));
        match within(|| allowance.deadline, running.as_mut()).await {
            None => permit.end(running).await,
            ended => ended,
        }
    };
    let overdrawn = metered.settle().is_err();
    let (fuel, cut_off) = (metered.used(), metered.cut_off());
    std::mem::forget(metered);
    store.data_mut().running = None;
    store.data_mut().end_call();
    let result = match ended {
        Some(_) if overdrawn => Err(StopKind::FuelExhausted { limit: limits.fuel_per_call }),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(StopKind::from_error(&error, store.data(), limits)),
        None => Err(StopKind::DeadlineExceeded),
    };
    let fuel = if matches!(result, Err(StopKind::DeadlineExceeded)) { cut_off } else { fuel };
    Done { result: result.map_err(|kind| store.data().stop(kind)), fuel }
}

/// A store in which something runs. Dropped before that has ended, its caller went away: what it used is told to its
/// session, since nobody waits for it any more.
struct Metered<'a> {
    store: &'a mut Tracked<Context>,
    /// What it may use.
    fuel: u64,
}

impl Metered<'_> {
    /// Pays what is owed.
    fn settle(&mut self) -> wasmtime::Result<()> {
        work::pay(&mut self.store.context(), 0)
    }

    fn used(&self) -> u64 {
        self.fuel.saturating_sub(self.left())
    }

    fn left(&self) -> u64 {
        self.store.look().get_fuel().unwrap_or(0)
    }

    /// What it used, if it did not come to an end by itself.
    fn cut_off(&self) -> u64 {
        self.store.data().running.as_ref().map_or(0, |running| running.used(self.left()))
    }
}

impl Drop for Metered<'_> {
    fn drop(&mut self) {
        // Whether there was enough for it, nobody waits to hear.
        let _ = self.settle();
        let running = self.store.data().running.as_ref();
        if let Some(session) = running.and_then(|running| running.session.as_ref()) {
            drop(Unbilled::new(session, self.cut_off()));
        }
    }
}

/// Cuts a text to so many bytes, between characters.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}
