//! Running something in a store, within an allowance.

use super::{Context, Metered, Running, StopKind, cause::cause, pay, work::Work};
use crate::{
    limits::{Limits, within},
    scheduler::SHORT,
};
use carrel_arena::Tracked;
use std::pin::pin;
use wasmtime::{Store, StoreContextMut, Trap, UpdateDeadline};

/// A store, in which nothing runs yet.
pub(super) fn new_store(engine: &wasmtime::Engine, context: Context, limits: &Limits) -> Store<Context> {
    let mut store = Store::new(engine, context);
    // Bytes that one call across the boundary may copy: more than the limits, so that slightly too large data gets
    // the proper error.
    store.set_hostcall_fuel(2 * limits.output_size.max(limits.body_size) + (1 << 20));
    store.limiter(|context| &mut context.memory);
    store.epoch_deadline_callback(tick);
    store
}

/// Handles a tick of the clock in a running guest: stops it if its time is over, and yields if it has run for long.
fn tick(mut cx: StoreContextMut<'_, Context>) -> wasmtime::Result<UpdateDeadline> {
    let fuel = cx.get_fuel()?;
    let owed = cx.data().work().map_or(0, Work::owed);
    if owed > fuel {
        return Err(Trap::OutOfFuel.into());
    }
    let Some(running) = &mut cx.data_mut().running else { return Ok(UpdateDeadline::Interrupt) };
    if let Some(full) = running.services.as_ref().and_then(|services| services.memory().outgrown()) {
        let stop = cx.data().stop(full.into());
        return Err(stop.into());
    }
    // The clock of the runtime, as for all that a call waits for.
    if tokio::time::Instant::now() >= running.allowance.deadline {
        return Ok(UpdateDeadline::Interrupt);
    }
    if running.permit.goes_on(running.began.elapsed() < SHORT) {
        return Ok(UpdateDeadline::Continue(1));
    }
    running.tick(fuel);
    let used = running.used(fuel) + owed;
    if let Some(services) = &running.services {
        services.charge(used.saturating_sub(std::mem::replace(&mut running.charged, used)));
    }
    running.permit.lane().meet();
    Ok(UpdateDeadline::YieldCustom(1, running.permit.clone().next_turn()))
}

/// Runs something in a store within an allowance.
///
/// The clock stops a guest that computes; the timer here one that waits, for a pollable or for a slow reader.
pub(super) async fn run<T>(
    store: &mut Tracked<Context>,
    running: Running,
    limits: &Limits,
    what: impl AsyncFnOnce(&mut Tracked<Context>) -> wasmtime::Result<T>,
) -> Metered<T> {
    let (allowance, permit) = (running.allowance, running.permit.clone());
    if let Err(error) = store.context().set_fuel(allowance.fuel) {
        // Only an engine without fuel refuses it.
        let kind = StopKind::Crashed(error.to_string());
        return Metered { result: Err(store.data().stop(kind)), fuel: 0 };
    }
    store.context().set_epoch_deadline(1);
    let context = store.data_mut();
    context.memory.begin();
    context.running = Some(running);
    let mut metered = Meter { store, fuel: allowance.fuel };
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
        Some(_) if overdrawn => Err(StopKind::out_of_fuel(limits)),
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(cause(&error, &store.data().memory, limits)),
        None => Err(StopKind::too_late()),
    };
    let is_late = result.as_ref().is_err_and(|kind| kind.limit() == Some(Limits::DEADLINE));
    let fuel = if is_late { cut_off } else { fuel };
    Metered { result: result.map_err(|kind| store.data().stop(kind)), fuel }
}

/// A store in which a guest runs. If this is dropped before the end, the caller went away, and the fuel used is
/// charged to the session.
struct Meter<'a> {
    store: &'a mut Tracked<Context>,
    /// Units of fuel that the run may use.
    fuel: u64,
}

impl Meter<'_> {
    /// Pays what is owed.
    fn settle(&mut self) -> wasmtime::Result<()> {
        pay::pay(&mut self.store.context(), 0)
    }

    fn used(&self) -> u64 {
        self.fuel.saturating_sub(self.left())
    }

    fn left(&self) -> u64 {
        self.store.look().get_fuel().unwrap_or(0)
    }

    /// Units of fuel used by a run that was cut off.
    fn cut_off(&self) -> u64 {
        self.store.data().running.as_ref().map_or(0, |running| running.used(self.left()))
    }
}

impl Drop for Meter<'_> {
    fn drop(&mut self) {
        // Nobody waits to hear if there was enough fuel.
        let _ = self.settle();
        let running = self.store.data().running.as_ref();
        if let Some(services) = running.and_then(|running| running.services.as_ref()) {
            services.abandon(self.cut_off());
        }
    }
}
