//! Making an instance: a new one, from an image or the whole guest, or a restored one; and making the image.

use super::{
    Context, Description, Linked, Making, Metered, Phase, Running, Stop, StopKind, UnclaimedFuel,
    call::Instance,
    contract::Guest as Contract,
    guest_error::cut,
    memory::MemoryLimit,
    pay,
    revive::revive,
    run::{new_store, run},
    watch::Watch,
    work,
};
use crate::{
    identity::User,
    limits::{Allowance, Limits, memory::Memory},
    scheduler::Permit,
    state::{Broken, Finding, Gone, Image, Numbers, PIECE, Pages, SMALL, Snapshot, Undone, prices},
};
use carrel_arena::{PAGE, Tracked};
use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

impl Making<'_> {
    /// Makes a store with a guest or its shell in it, whose memories have at least these sizes. `price` comes on top
    /// of the engine's.
    async fn instantiate(
        &self,
        guest: &Linked,
        context: Context,
        sizes: &[usize],
        price: u64,
    ) -> Metered<(Tracked<Context>, Contract)> {
        let mut store = Tracked::new(new_store(self.blueprint.code.engine(), context, self.limits));
        let done = run(&mut store, self.running(Phase::Configure), self.limits, async |store| {
            let made = store.instantiate(sizes, guest.pre()).await?;
            let made = guest.exports().load(store.context(), &made)?;
            pay::pay(&mut store.context(), price)?;
            Ok(made)
        })
        .await;
        Metered { result: done.result.map(|guest| (store, guest)), fuel: done.fuel }
    }

    /// A store, and the whole guest in it: its start code runs.
    async fn instantiate_whole(&self, mut context: Context) -> Metered<(Tracked<Context>, Contract)> {
        if let Err(full) = context.memory.reserve(0) {
            return Metered { result: Err(context.stop(full.into())), fuel: 0 };
        }
        self.instantiate(&self.blueprint.code.whole, context, &[], 0).await
    }

    /// A store, and the guest's shell in it, with the image in its memories, which have these sizes.
    async fn instantiate_image(&self, image: &Image, sizes: &[usize]) -> Metered<(Tracked<Context>, Contract)> {
        let context = self.context(None, None, None);
        let price = self.price(image);
        let Metered { result, fuel } = self.instantiate(&self.blueprint.code.shell, context, sizes, price).await;
        let result = result.and_then(|(mut store, guest)| {
            let memory = &mut store.data_mut().memory;
            let reserved = memory.restored(sizes.iter().sum()).and_then(|()| Ok(memory.reserve(0).map(drop)?));
            reserved.map_err(|kind| store.data().stop(kind))?;
            Ok((store, guest))
        });
        let result = match result {
            Ok((store, guest)) => self.write_image(image, store).await.map(|store| (store, guest)),
            Err(stop) => Err(stop),
        };
        Metered { result, fuel }
    }

    /// Writes an image to a store's memories, with turns for others in between.
    async fn write_image(&self, image: &Image, mut store: Tracked<Context>) -> Result<Tracked<Context>, Stop> {
        for from in (0..image.pages()).step_by(PIECE) {
            if from > 0 {
                self.turn().await?;
            }
            image.apply(store.memories(), from..from + PIECE);
        }
        Ok(store)
    }

    /// Completes the undo of an instance that is to be revived, with turns for others in between. Returns false if what
    /// it held is gone.
    pub(crate) async fn complete(&self, undone: &mut Undone) -> Result<bool, Stop> {
        let Some(image) = self.image else { return Ok(true) };
        loop {
            match undone.step(image) {
                Ok(false) => return Ok(true),
                Ok(true) => self.turn().await?,
                Err(Gone) => return Ok(false),
            }
        }
    }

    /// Yields to others during a long making; fails once the deadline has passed.
    async fn turn(&self) -> Result<(), Stop> {
        tokio::task::yield_now().await;
        if tokio::time::Instant::now() < self.allowance.deadline {
            return Ok(());
        }
        Err(Stop { function: self.blueprint.name.clone(), kind: StopKind::too_late() })
    }

    /// Units of fuel for writing an image: the price of writing the guest's data, or that of the image's bytes, if
    /// these are more.
    fn price(&self, image: &Image) -> u64 {
        let data = self.blueprint.code.state.as_ref().map_or(0, |state| state.data);
        data.max(work::BYTE * (image.pages() * PAGE).saturating_sub(work::IMAGE) as u64)
    }

    async fn configure(&self, store: &mut Tracked<Context>, guest: &Contract, used: u64) -> Metered<()> {
        let mut running = self.running(Phase::Configure);
        running.allowance.fuel -= used;
        run(store, running, self.limits, async |store| {
            let configured = guest.carrel_function_function().call_configure(store.context(), self.blueprint.config);
            match configured.await? {
                Ok(()) => Ok(()),
                Err(why) => {
                    let why = cut(why, self.limits.output_size.min(WORDS));
                    Err(store.data().stop(StopKind::Unconfigurable(why)).into())
                }
            }
        })
        .await
    }

    /// Makes the function's image; `None` if an instance cannot be restored from its memories.
    ///
    /// Two instances are made from the whole guest, with different randomness. If both are alike, and neither was
    /// told anything that differs between instances, the image is of a configured instance. All others are then made
    /// from the guest's shell and the image, and no start code runs again. Otherwise each new instance starts and is
    /// configured by itself, and only parked ones are restored into the shell.
    pub(crate) async fn image(&self) -> Result<(Option<Image>, Told), Stop> {
        const SEEDS: [u128; 2] = [u128::MAX / 3, u128::MAX / 3 * 2];
        let one = self.watched(SEEDS[0]).await?;
        let Ok(state) = &self.blueprint.code.state else { return Ok((None, one.told)) };
        let other = self.watched(SEEDS[1]).await?;
        let told = one.told.and(other.told);
        let start_alike = !one.start_differs && !other.start_differs && one.started == other.started;
        let alike = start_alike && !one.differs && !other.differs && one.configured == other.configured;
        let memories = if alike { &one.configured } else { &one.started };
        Ok((Image::new(memories, alike, state.dead, &state.hash), told))
    }

    /// Makes an instance only to look at it.
    async fn watched(&self, seed: u128) -> Result<WatchedMemories, Stop> {
        let budget = Arc::new(AtomicUsize::new(self.limits.log_size));
        let differs = Arc::new(AtomicBool::new(false));
        let asked_for_functions = Arc::new(AtomicBool::new(false));
        let watch = Watch { differs: differs.clone(), asked_for_functions: asked_for_functions.clone(), seed };
        let made = self.instantiate_whole(self.context(Some(budget.clone()), Some(watch), None)).await;
        let (mut store, guest) = made.result?;
        let look = |store: &mut Tracked<Context>| {
            let logged = budget.load(Ordering::Relaxed) != self.limits.log_size;
            let differs = differs.load(Ordering::Relaxed) || logged || store.data().holds_handles();
            (store.memories().map(|memory| memory.to_vec()).collect::<Vec<_>>(), differs)
        };
        let (started, start_differs) = look(&mut store);
        self.configure(&mut store, &guest, made.fuel).await.result?;
        let (configured, differs) = look(&mut store);
        let memory = &store.data().memory;
        let told = Told {
            functions: asked_for_functions.load(Ordering::Relaxed),
            refused: memory.was_refused,
            memory: memory.of_guest(),
            of_user: self.services.memory().used(),
        };
        Ok(WatchedMemories { started, start_differs, configured, differs, told })
    }
}

/// Bytes of a guest's own words on why it refuses its configuration: a stop is kept, and told to others.
const WORDS: usize = 2 << 10;

/// The memories of an instance after instantiation and after configuration. The flags are true if it had been told
/// something by then that may differ between instances.
struct WatchedMemories {
    started: Vec<Vec<u8>>,
    start_differs: bool,
    configured: Vec<Vec<u8>>,
    differs: bool,
    told: Told,
}

/// The facts told to an instance, until it was configured, that may differ for another tenant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// True if it asked for other functions.
    pub(crate) functions: bool,
    /// True if it was refused memory.
    pub(crate) refused: bool,
    /// Bytes of memories, tables and handles that it had at the most.
    pub(crate) memory: usize,
    /// Bytes of its user's memory in use then.
    pub(crate) of_user: usize,
}

impl Told {
    fn and(self, other: Self) -> Self {
        Self {
            functions: self.functions | other.functions,
            refused: self.refused | other.refused,
            memory: self.memory.max(other.memory),
            of_user: self.of_user.max(other.of_user),
        }
    }
}

impl Instance {
    /// Makes a new instance, configured. The cost is part of the call that needs it.
    pub(crate) async fn create(making: Making<'_>) -> Metered<Self> {
        if let Some(image) = making.image.filter(|image| image.is_configured()) {
            let sizes: Vec<usize> = image.sizes().collect();
            let made = making.instantiate_image(image, &sizes).await;
            let result = match made.result {
                Ok((store, guest)) => Self { store, guest, pages: Pages::default() }.start(making, false).await,
                Err(stop) => Err(stop),
            };
            return Metered { result, fuel: made.fuel };
        }
        let made = making.instantiate_whole(making.context(None, None, None)).await;
        let (mut store, guest) = match made.result {
            Ok(made) => made,
            Err(stop) => return Metered { result: Err(stop), fuel: made.fuel },
        };
        let unclaimed = UnclaimedFuel::new(&**making.services, made.fuel);
        let configured = making.configure(&mut store, &guest, made.fuel).await;
        let instance = Self { store, guest, pages: Pages::default() };
        let result = match configured.result {
            Ok(()) => instance.start(making, true).await,
            Err(stop) => Err(stop),
        };
        Metered { result, fuel: unclaimed.claim() + configured.fuel }
    }

    /// Restores an instance from a snapshot. From the start, the instance counts in place of the snapshot: a user
    /// with room for only one of them would otherwise never be served again.
    pub(crate) async fn restore(making: Making<'_>, snapshot: &mut Snapshot) -> Metered<Self> {
        let broken = |why: String| {
            let kind = StopKind::SnapshotBroken { user: making.services.user(), why };
            Metered { result: Err(Stop { function: making.blueprint.name.clone(), kind }), fuel: 0 }
        };
        let Some(image) = making.image else {
            return broken("the function has no image".into());
        };
        let mut piece = match snapshot.piece(image, 0) {
            Ok(piece) => piece,
            Err(error) => return broken(error.to_string()),
        };
        let snapshot = snapshot.uncounted();
        let Metered { result, fuel } = making.instantiate_image(image, &piece.sizes).await;
        let (mut store, guest) = match result {
            Ok(made) => made,
            Err(stop) => return Metered { result: Err(stop), fuel },
        };
        let mut touched = Vec::new();
        for next in 1.. {
            piece.apply(store.memories(), &mut touched);
            if piece.is_last {
                break;
            }
            if let Err(stop) = making.turn().await {
                return Metered { result: Err(stop), fuel };
            }
            piece = match snapshot.piece(image, next) {
                Ok(next) if next.sizes == piece.sizes => next,
                Ok(_) => return broken(Broken::Damaged.to_string()),
                Err(error) => return broken(error.to_string()),
            };
        }
        let large = touched.iter().map(Numbers::len).sum::<usize>().saturating_sub(SMALL);
        let result = Self { store, guest, pages: Pages::new(touched) }.start(making, false).await;
        if result.is_ok() {
            snapshot.end();
            making.services.upkeep(prices::WAKE * (large * PAGE) as u64);
        }
        Metered { result, fuel }
    }

    /// Revives an undone instance, whose undo is complete: gives the memories to a new store. If the store cannot be
    /// made, `undone` holds what it did.
    pub(crate) async fn revive(making: Making<'_>, undone: &mut Option<Box<Undone>>) -> Metered<Self> {
        let Some(was) = undone.take() else { return Self::create(making).await };
        let mut reviving = revive(*was, &making, undone);
        let shell = &making.blueprint.code.shell;
        let full = || Stop { function: making.blueprint.name.clone(), kind: StopKind::HostFull };
        let Some((store, memories)) = reviving.parts() else { return Metered { result: Err(full()), fuel: 0 } };
        let done = run(store, making.running(Phase::Configure), making.limits, async |store| {
            let made = store.instantiate_in(memories, shell.pre()).await?;
            shell.exports().load(store.context(), &made)
        })
        .await;
        let result = done.result.and_then(|guest| {
            let (store, pages) = reviving.end().ok_or_else(full)?;
            Ok(Self { store, guest, pages })
        });
        Metered { result, fuel: done.fuel }
    }

    /// Guards the large memories of a new instance, if its calls are to be undone. The memories hold the image but
    /// for the noted pages; with `compare`, they are compared with the image instead.
    async fn start(mut self, making: Making<'_>, compare: bool) -> Result<Self, Stop> {
        if let Some(image) = making.image.filter(|_| making.undone) {
            let of = Finding { image, room: making.services.memory() };
            if let Err(error) = self.pages.start(&mut self.store, &of, compare) {
                tracing::warn!(%error, "a large memory cannot be guarded");
                return Err(self.store.data().stop(StopKind::HostFull));
            }
            while self.settle(image) {
                making.turn().await?;
            }
        }
        Ok(self)
    }
}

/// Asks a guest for its description, in an instance that is dropped afterwards.
pub(crate) async fn describe(
    linked: &Linked,
    name: Arc<str>,
    limits: &Limits,
    permit: Arc<Permit>,
) -> Result<Description, Stop> {
    let budget = Arc::new(AtomicUsize::new(limits.log_size));
    // Guests are described one after the other, before there are sessions.
    let memory = MemoryLimit::new(limits.memory_per_instance, &Memory::new(limits.memory));
    let context = Context::new(name, User::from_credential(""), memory, Some(budget), Arc::default(), None);
    let mut store = Tracked::new(new_store(linked.pre().engine(), context, limits));
    let allowance = Allowance { fuel: limits.fuel_per_call, deadline: tokio::time::Instant::now() + limits.deadline };
    let running = Running::new(None, permit, Phase::Describe, allowance, 1);
    let done = run(&mut store, running, limits, async |store| {
        let guest = store.instantiate(&[], linked.pre()).await?;
        let guest = linked.exports().load(store.context(), &guest)?;
        guest.carrel_function_function().call_describe(store.context()).await
    });
    done.await.result
}
