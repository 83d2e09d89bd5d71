//! Making an instance: a new one, of an image or of the whole guest, or one that there was; and making the image.

use super::{
    Context, Description, Linked, Phase, Running, Stop, StopKind,
    call::{Instance, cut},
    context::{MemoryLimit, Watch},
    contract::Guest as Contract,
    revive::revive,
    run::{Done, new_store, run},
    work,
};
use crate::{
    function::Function,
    identity::User,
    limits::{
        Allowance, Limits, Permit,
        memory::{Charge, Memory},
    },
    session::{Session, Unbilled},
    state::{Broken, Finding, Gone, Image, Numbers, PIECE, Pages, SMALL, Snapshot, Undone, prices},
};
use carrel_arena::{PAGE, Tracked};
use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Instant,
};

/// An instance that is to be made: for whom, and within what.
#[derive(Clone, Copy)]
pub(crate) struct Making<'a> {
    pub(crate) function: &'a Function,
    /// The function's, in the catalog.
    pub(crate) position: usize,
    pub(crate) session: &'a Arc<Session>,
    pub(crate) limits: &'a Limits,
    pub(crate) allowance: Allowance,
    pub(crate) depth: usize,
}

impl Making<'_> {
    /// A store's data; `charge` is what was taken already for the memories that it is to be given, if it is.
    pub(super) fn context(&self, budget: Arc<AtomicUsize>, watch: Option<Watch>, charge: Option<Charge>) -> Context {
        let user = self.session.user();
        let limit = self.limits.memory_per_instance;
        let memory = match charge {
            Some(charge) => MemoryLimit::of(limit, charge),
            None => MemoryLimit::new(limit, self.session.memory()),
        };
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

    /// A store, and a guest or its shell in it, whose memories have these sizes at least, for a price on top of the
    /// engine's.
    async fn instantiate(
        &self,
        guest: &Linked,
        context: Context,
        sizes: &[usize],
        price: u64,
    ) -> Done<(Tracked<Context>, Contract)> {
        let mut store = Tracked::new(new_store(self.function.guest.engine(), context, self.limits));
        let done = run(&mut store, self.running(Phase::Configure), self.limits, async |store| {
            let made = store.instantiate(sizes, guest.pre()).await?;
            let made = guest.exports().load(store.context(), &made)?;
            work::pay(&mut store.context(), price)?;
            Ok(made)
        })
        .await;
        Done { result: done.result.map(|guest| (store, guest)), fuel: done.fuel }
    }

    /// A store, and the whole guest in it: its start code runs.
    async fn instantiate_whole(&self, mut context: Context) -> Done<(Tracked<Context>, Contract)> {
        if let Err(full) = context.memory.reserve() {
            return Done { result: Err(context.stop(full.into())), fuel: 0 };
        }
        self.instantiate(self.function.guest.pre(), context, &[], 0).await
    }

    /// A store, and the guest's shell in it, with the image in its memories, which have these sizes.
    async fn instantiate_image(&self, image: &Image, sizes: &[usize]) -> Done<(Tracked<Context>, Contract)> {
        let context = self.context(self.session.log_budget().clone(), None, None);
        let price = self.price(image);
        let Done { result, fuel } = self.instantiate(self.function.guest.shell(), context, sizes, price).await;
        let result = result.and_then(|(mut store, guest)| {
            let memory = &mut store.data_mut().memory;
            let reserved = memory.restored(sizes.iter().sum()).and_then(|()| Ok(memory.reserve()?));
            reserved.map_err(|kind| store.data().stop(kind))?;
            Ok((store, guest))
        });
        let result = match result {
            Ok((store, guest)) => self.write_image(image, store).await.map(|store| (store, guest)),
            Err(stop) => Err(stop),
        };
        Done { result, fuel }
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

    /// Lets others have their turns, while the making goes on for long.
    async fn turn(&self) -> Result<(), Stop> {
        tokio::task::yield_now().await;
        if tokio::time::Instant::now() < self.allowance.deadline {
            return Ok(());
        }
        Err(Stop { function: self.function.name.clone(), kind: StopKind::DeadlineExceeded })
    }

    /// Units of fuel that writing an image takes: as many as writing the guest's data would, or, where more than that is
    /// in the image, by its bytes.
    fn price(&self, image: &Image) -> u64 {
        let data = self.function.guest.state.as_ref().map_or(0, |state| state.data);
        data.max(work::BYTE * (image.pages() * PAGE).saturating_sub(work::IMAGE) as u64)
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
    /// Twice an instance is made of the whole guest, with other randomness. If both are alike, and neither was told what
    /// differs from one instance to the next, the image is of a configured instance: all others are made of the guest's
    /// shell and the image, and no start code runs again. Otherwise each new instance starts and is configured by
    /// itself, and only those that are woken are made of the shell.
    pub(crate) async fn image(&self) -> Result<(Option<Image>, Told), Stop> {
        const SEEDS: [u128; 2] = [u128::MAX / 3, u128::MAX / 3 * 2];
        let one = self.watched(SEEDS[0]).await?;
        let Ok(state) = &self.function.guest.state else { return Ok((None, one.told)) };
        let other = self.watched(SEEDS[1]).await?;
        let told = one.told.and(other.told);
        let start_alike = !one.start_differs && !other.start_differs && one.started == other.started;
        let alike = start_alike && !one.differs && !other.differs && one.configured == other.configured;
        let memories = if alike { &one.configured } else { &one.started };
        Ok((Image::new(memories, alike, state.dead, &state.hash), told))
    }

    /// An instance that is only made to be looked at.
    async fn watched(&self, seed: u128) -> Result<Watched, Stop> {
        let budget = Arc::new(AtomicUsize::new(self.limits.log_size));
        let differs = Arc::new(AtomicBool::new(false));
        let asked_for_functions = Arc::new(AtomicBool::new(false));
        let watch = Watch { differs: differs.clone(), asked_for_functions: asked_for_functions.clone(), seed };
        let made = self.instantiate_whole(self.context(budget.clone(), Some(watch), None)).await;
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
            of_user: self.session.memory().used(),
        };
        Ok(Watched { started, start_differs, configured, differs, told })
    }
}

/// The memories of an instance after it was instantiated, and after it was configured, and whether it was told by then
/// what differs from one instance to the next.
struct Watched {
    started: Vec<Vec<u8>>,
    start_differs: bool,
    configured: Vec<Vec<u8>>,
    differs: bool,
    told: Told,
}

/// What an instance was told until it was configured that may be otherwise for another tenant.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told {
    /// It has asked whether there are other functions.
    pub(crate) functions: bool,
    /// It was refused memory.
    pub(crate) refused: bool,
    /// Bytes of memories, tables and handles that it had at the most.
    pub(crate) memory: usize,
    /// Bytes that its user had then.
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
    /// A new instance, configured. What that takes counts as part of the call that needs it.
    pub(crate) async fn create(making: Making<'_>) -> Done<Self> {
        if let Some(image) = making.session.image(making.position).filter(|image| image.is_configured()) {
            let sizes: Vec<usize> = image.sizes().collect();
            let made = making.instantiate_image(image, &sizes).await;
            let result = match made.result {
                Ok((store, guest)) => Self { store, guest, pages: Pages::default() }.start(making, false).await,
                Err(stop) => Err(stop),
            };
            return Done { result, fuel: made.fuel };
        }
        let made = making.instantiate_whole(making.context(making.session.log_budget().clone(), None, None)).await;
        let (mut store, guest) = match made.result {
            Ok(made) => made,
            Err(stop) => return Done { result: Err(stop), fuel: made.fuel },
        };
        let unbilled = Unbilled::new(making.session, made.fuel);
        let configured = making.configure(&mut store, &guest, made.fuel).await;
        let instance = Self { store, guest, pages: Pages::default() };
        let result = match configured.result {
            Ok(()) => instance.start(making, true).await,
            Err(stop) => Err(stop),
        };
        Done { result, fuel: unbilled.bill() + configured.fuel }
    }

    /// The instance that a snapshot is of.
    /// From the moment on at which there is one, it counts in place of the snapshot: who could pay for one of them only
    /// would never be served again.
    pub(crate) async fn restore(making: Making<'_>, snapshot: &mut Snapshot) -> Done<Self> {
        let broken = |why: String| {
            let kind = StopKind::SnapshotBroken { user: making.session.user(), why };
            Done { result: Err(Stop { function: making.function.name.clone(), kind }), fuel: 0 }
        };
        let Some(image) = making.session.image(making.position) else {
            return broken("the function has no image".into());
        };
        let mut piece = match snapshot.piece(image, 0) {
            Ok(piece) => piece,
            Err(error) => return broken(error.to_string()),
        };
        let snapshot = snapshot.uncounted();
        let Done { result, fuel } = making.instantiate_image(image, &piece.sizes).await;
        let (mut store, guest) = match result {
            Ok(made) => made,
            Err(stop) => return Done { result: Err(stop), fuel },
        };
        let mut touched = Vec::new();
        for next in 1.. {
            piece.apply(store.memories(), &mut touched);
            if piece.is_last {
                break;
            }
            if let Err(stop) = making.turn().await {
                return Done { result: Err(stop), fuel };
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
            making.session.upkeep(prices::WAKE * (large * PAGE) as u64);
        }
        Done { result, fuel }
    }

    /// The instance that was undone: its memories, in a new store. What is still to be put back is put back first. If it
    /// cannot be made, `undone` holds what it did.
    pub(crate) async fn revive(making: Making<'_>, undone: &mut Option<Box<Undone>>) -> Done<Self> {
        if let (Some(was), Some(image)) = (undone.as_mut(), making.session.image(making.position)) {
            loop {
                match was.step(image) {
                    Ok(false) => break,
                    Ok(true) => {
                        if let Err(stop) = making.turn().await {
                            return Done { result: Err(stop), fuel: 0 };
                        }
                    }
                    Err(Gone) => {
                        making.session.lost(making.position);
                        *undone = None;
                        break;
                    }
                }
            }
        }
        let Some(was) = undone.take() else { return Self::create(making).await };
        let mut reviving = revive(*was, &making, undone);
        let shell = making.function.guest.shell();
        let full = || Stop { function: making.function.name.clone(), kind: StopKind::HostFull };
        let Some((store, memories)) = reviving.parts() else { return Done { result: Err(full()), fuel: 0 } };
        let done = run(store, making.running(Phase::Configure), making.limits, async |store| {
            let made = store.instantiate_in(memories, shell.pre()).await?;
            shell.exports().load(store.context(), &made)
        })
        .await;
        let result = done.result.and_then(|guest| {
            let (store, pages) = reviving.end().ok_or_else(full)?;
            Ok(Self { store, guest, pages })
        });
        Done { result, fuel: done.fuel }
    }

    /// Guards what is large of a new instance, if its calls are to be undone. Its memories hold the image, and what is
    /// noted; if they have to be compared with the image, `compare` says so.
    async fn start(mut self, making: Making<'_>, compare: bool) -> Result<Self, Stop> {
        if let Some(image) = making.session.undone_by(making.position) {
            let of = Finding { image, room: making.session.undo_room().clone() };
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

/// What a guest says of itself, in an instance that is dropped after it.
pub(crate) async fn describe(
    linked: &Linked,
    name: Arc<str>,
    limits: &Limits,
    permit: Arc<Permit>,
) -> Result<Description, Stop> {
    let budget = Arc::new(AtomicUsize::new(limits.log_size));
    // Guests are described one after the other, before there are sessions.
    let memory = MemoryLimit::new(limits.memory_per_instance, &Memory::new(limits.memory));
    let context = Context::new(name, User::from_credential(""), memory, budget, Arc::default(), None);
    let mut store = Tracked::new(new_store(linked.pre().engine(), context, limits));
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
        let guest = store.instantiate(&[], linked.pre()).await?;
        let guest = linked.exports().load(store.context(), &guest)?;
        guest.carrel_function_function().call_describe(store.context()).await
    });
    done.await.result
}
