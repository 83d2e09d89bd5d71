//! One call from outside, and one of a function.

use super::{Bill, Handle, Refusal, Session, Taken, Turn, to_the_end};
use crate::{
    instance::{Done, Emitter, GuestError, Instance, Json, Stop},
    limits::{Allowance, Permit},
};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    time::Instant,
};

/// What a call from outside gives.
#[derive(Debug)]
pub struct Answer {
    /// The output, as JSON text, or why there is none.
    pub result: Result<String, Failure>,
    /// The functions that lost what they held for this user: they were stopped, or were used by one that was.
    pub dropped: Vec<Arc<str>>,
    /// What it used.
    pub bill: Bill,
}

/// Why a call has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// It did not get its turn; nothing was run.
    Refused(Refusal),
    /// The function says that the input does not fit. Its state is its own.
    InvalidInput(String),
    /// The function says that it could not do it. Its state is its own.
    Failed(String),
    /// The function was stopped, or one that it called, and it passed that on.
    Stopped(Stop),
}

/// A call whose turn it is.
pub(crate) struct Ready {
    handle: Handle,
    turn: Turn,
    arrived: Instant,
}

impl Handle {
    /// Calls a function, at its place in the catalog.
    ///
    /// The call waits for its turn for as long as the returned future is polled. Once it runs, it runs to its end, even
    /// if that future is dropped: a caller who goes away in the middle leaves no instance half-way.
    pub(crate) async fn call(self, position: usize, input: Arc<Json>, emitter: Arc<Emitter>) -> Answer {
        match self.turn().await {
            Ok(ready) => ready.run(position, input, emitter).await,
            Err(refused) => refused,
        }
    }

    /// Waits for the turn.
    pub(crate) async fn turn(self) -> Result<Ready, Answer> {
        let arrived = Instant::now();
        let session = self.session();
        let waiting = session.account().arrive();
        let turn = session.turn(session.limits()).await;
        drop(waiting);
        match turn {
            Ok(turn) => Ok(Ready { handle: self, turn, arrived }),
            Err(refusal) => {
                let bill = Bill { waited: arrived.elapsed(), ..Bill::default() };
                session.account().add(bill, true);
                Err(Answer { result: Err(Failure::Refused(refusal)), dropped: Vec::new(), bill })
            }
        }
    }
}

impl Ready {
    /// Runs the call, to its end even if what this gives is dropped before.
    pub(crate) fn run(
        self,
        position: usize,
        input: Arc<Json>,
        emitter: Arc<Emitter>,
    ) -> impl Future<Output = Answer> + Send {
        to_the_end(async move {
            let Self { handle, turn: _turn, arrived } = self;
            let session = handle.session();
            let _running = session.account().arrive();
            let started = Instant::now();
            session.begin();
            let done = permitted(session.permit(), outer(session, position, &input, emitter, started)).await;
            let (dropped, last_stop) = session.end();
            let bill = Bill { fuel: done.fuel, waited: started - arrived, ran: started.elapsed() };
            let result = match done.result {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(GuestError::InvalidInput(why))) => Err(Failure::InvalidInput(why)),
                Ok(Err(GuestError::Failed(why))) => Err(failed(why, last_stop)),
                Err(stop) => Err(Failure::Stopped(stop)),
            };
            session.account().add(bill, result.is_err());
            Answer { result, dropped, bill }
        })
    }
}

/// A function that fails with the very words of a stop passes on what happened to one that it called.
fn failed(why: String, last_stop: Option<Stop>) -> Failure {
    match last_stop {
        Some(stop) if why.contains(&stop.to_string()) => Failure::Stopped(stop),
        _ => Failure::Failed(why),
    }
}

/// The function that is called from outside.
async fn outer(
    session: &Arc<Session>,
    position: usize,
    input: &Json,
    emitter: Arc<Emitter>,
    now: Instant,
) -> Done<Result<String, GuestError>> {
    let limits = session.limits();
    let allowance = Allowance { fuel: limits.fuel_per_call, deadline: now + limits.deadline };
    match session.take(position) {
        Some(taken) => run(taken, input, allowance, 1, emitter).await,
        // It is this call's turn, so no other one has the slot.
        None => Done { result: Ok(Err(GuestError::Failed("the instance is in use".into()))), fuel: 0 },
    }
}

/// Runs a call that may hold a permit of the slow lane. It holds none while it waits for anything, else a guest that
/// sleeps would keep all others that run long from running; nor after its end, whichever that is.
async fn permitted<T>(permit: &Permit, call: impl Future<Output = T>) -> T {
    struct GiveBack<'a>(&'a Permit);

    impl Drop for GiveBack<'_> {
        fn drop(&mut self) {
            self.0.give_back();
        }
    }

    let held = GiveBack(permit);
    let mut call = pin!(call);
    poll_fn(|cx| {
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() {
            held.0.give_back();
        }
        polled
    })
    .await
}

/// Runs a function, whether it was called from outside or by another one: in its instance, or in a new one.
///
/// A function that is stopped takes all instances with it that it has used, since they may hold half of what it was
/// doing.
pub(crate) async fn run(
    mut taken: Taken,
    input: &Json,
    allowance: Allowance,
    depth: usize,
    emitter: Arc<Emitter>,
) -> Done<Result<String, GuestError>> {
    let session = taken.session.clone();
    let limits = session.limits();
    let before = session.current().ticks;
    let mut left = allowance;
    let mut instance = match taken.instance.take() {
        Some(instance) => instance,
        None => {
            let function = &session.catalog().functions()[taken.position];
            let made = Instance::create(function, &session, limits, allowance, depth).await;
            left.fuel -= made.fuel;
            match made.result {
                Ok(instance) => {
                    session.current().made.push(taken.position);
                    Box::new(instance)
                }
                Err(stop) => {
                    session.current().stop = Some(stop.clone());
                    return Done { result: Err(stop), fuel: made.fuel };
                }
            }
        }
    };
    let mut done = instance.call(input, &session, limits, left, depth, emitter).await;
    done.fuel += allowance.fuel - left.fuel;
    match &done.result {
        Ok(_) => taken.put_back(instance),
        Err(stop) => {
            drop(instance);
            session.lose(taken.position, before, stop);
        }
    }
    done
}
