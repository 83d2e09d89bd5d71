//! Making an instance, and calling it.

use super::{
    Context, Description, Emitter, GuestError, GuestPre, Json, Phase, Running, Stop, StopKind,
    contract::Guest as Contract,
};
use crate::{
    function::Function,
    limits::{Allowance, Limits, Permit, SHORT},
    session::Session,
};
use std::{
    future::Future,
    sync::{Arc, atomic::AtomicUsize},
    time::Instant,
};
use wasmtime::{Store, StoreContextMut, UpdateDeadline};

/// One function of one session: a store, and the guest in it.
pub(crate) struct Instance {
    store: Store<Context>,
    guest: Contract,
}

/// What something that ran in an instance gave, and the fuel that it took.
pub(crate) struct Done<T> {
    pub(crate) result: Result<T, Stop>,
    pub(crate) fuel: u64,
}

impl Instance {
    /// A new instance, configured. What that takes counts as part of the call that needs it.
    pub(crate) async fn create(
        function: &Function,
        session: &Arc<Session>,
        limits: &Limits,
        allowance: Allowance,
        depth: usize,
    ) -> Done<Self> {
        let engine = function.guest.engine();
        let user = session.user().to_string();
        let budget = session.log_budget().clone();
        let context = Context::new(function.name.clone(), user, limits.memory_per_instance, budget);
        let mut store = new_store(engine, context, limits);
        let running = Running {
            session: Some(session.clone()),
            permit: session.permit().clone(),
            phase: Phase::Configure,
            allowance,
            began: Instant::now(),
            depth,
            emitter: None,
        };
        let done = run(&mut store, running, limits, async |store| {
            let guest = function.guest.pre().instantiate_async(&mut *store).await?;
            let configured = guest.carrel_function_function().call_configure(&mut *store, &function.config).await?;
            match configured {
                Ok(()) => Ok(guest),
                Err(mut why) => {
                    cut(&mut why, limits.output_size);
                    Err(store.data().stop(StopKind::Unconfigurable(why)).into())
                }
            }
        })
        .await;
        Done { result: done.result.map(|guest| Self { store, guest }), fuel: done.fuel }
    }

    /// One call. After a [`Stop`] the instance can only be dropped.
    pub(crate) async fn call(
        &mut self,
        input: &Json,
        session: &Arc<Session>,
        limits: &Limits,
        allowance: Allowance,
        depth: usize,
        emitter: Arc<Emitter>,
    ) -> Done<Result<String, GuestError>> {
        let running = Running {
            session: Some(session.clone()),
            permit: session.permit().clone(),
            phase: Phase::Call,
            allowance,
            began: Instant::now(),
            depth,
            emitter: Some(emitter),
        };
        let guest = &self.guest;
        let mut done = run(&mut self.store, running, limits, async |store| {
            guest.carrel_function_function().call_call(store, input).await
        })
        .await;
        match &mut done.result {
            Ok(Ok(output)) if output.len() > limits.output_size => {
                let (size, limit) = (output.len(), limits.output_size);
                done.result = Err(self.store.data().stop(StopKind::OutputTooLarge { size, limit }));
            }
            // An error's text is output as well, and still says enough when it is cut.
            Ok(Err(GuestError::InvalidInput(why) | GuestError::Failed(why))) => cut(why, limits.output_size),
            _ => {}
        }
        done
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
    let context = Context::new(name, String::new(), limits.memory_per_instance, budget);
    let mut store = new_store(guest.engine(), context, limits);
    let allowance = Allowance { fuel: limits.fuel_per_call, deadline: Instant::now() + limits.deadline };
    let running = Running {
        session: None,
        permit,
        phase: Phase::Describe,
        allowance,
        began: Instant::now(),
        depth: 1,
        emitter: None,
    };
    let done = run(&mut store, running, limits, async |store| {
        let guest = guest.instantiate_async(&mut *store).await?;
        guest.carrel_function_function().call_describe(store).await
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
fn tick(cx: StoreContextMut<'_, Context>) -> wasmtime::Result<UpdateDeadline> {
    let Some(running) = &cx.data().running else { return Ok(UpdateDeadline::Interrupt) };
    running.permit.lane().meet();
    let now = Instant::now();
    if now >= running.allowance.deadline {
        return Ok(UpdateDeadline::Interrupt);
    }
    if now - running.began < SHORT {
        return Ok(UpdateDeadline::Continue(1));
    }
    Ok(UpdateDeadline::YieldCustom(1, running.permit.clone().next_turn()))
}

/// Runs something in a store within an allowance.
///
/// The clock stops a guest that computes; the timer here one that waits, for a pollable or for a slow reader.
async fn run<T>(
    store: &mut Store<Context>,
    running: Running,
    limits: &Limits,
    what: impl AsyncFnOnce(&mut Store<Context>) -> wasmtime::Result<T>,
) -> Done<T> {
    let allowance = running.allowance;
    let time_left = allowance.time_left(running.began);
    if let Err(error) = store.set_fuel(allowance.fuel) {
        // Only an engine without fuel refuses it.
        let kind = StopKind::Crashed(error.to_string());
        return Done { result: Err(store.data().stop(kind)), fuel: 0 };
    }
    store.set_epoch_deadline(1);
    let context = store.data_mut();
    context.memory.begin();
    context.running = Some(running);
    let ended = within(time_left, what(store)).await;
    let fuel = allowance.fuel.saturating_sub(store.get_fuel().unwrap_or(0));
    store.data_mut().running = None;
    store.data().log.flush();
    let result = match ended {
        Some(Ok(value)) => Ok(value),
        Some(Err(error)) => Err(StopKind::from_error(&error, store, limits)),
        None => Err(StopKind::DeadlineExceeded),
    };
    Done { result: result.map_err(|kind| store.data().stop(kind)), fuel }
}

/// Cuts a text to so many bytes, between characters.
fn cut(text: &mut String, most: usize) {
    if text.len() > most {
        text.truncate(text.floor_char_boundary(most));
    }
}

async fn within<T>(time: std::time::Duration, what: impl Future<Output = T>) -> Option<T> {
    tokio::time::timeout(time, what).await.ok()
}
