//! One call from outside, and one of a function.

use super::{Bill, Handle, Refusal, Taken, to_the_end};
use crate::{
    instance::{Done, Emitter, GuestError, Instance, Json, Stop},
    limits::Allowance,
};
use std::{sync::Arc, time::Instant};

/// What a call from outside gives.
#[derive(Debug)]
pub struct Answer {
    /// The output, as JSON text, or why there is none.
    pub result: Result<String, Failure>,
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
    /// The function was stopped.
    Stopped {
        /// Which, and why.
        stop: Stop,
        /// The functions whose instances the call had used, all of which were dropped.
        dropped: Vec<Arc<str>>,
    },
}

impl Handle {
    /// Calls a function, at its place in the catalog.
    ///
    /// The call waits for its turn for as long as the returned future is polled. Once it runs, it runs to its end, even
    /// if that future is dropped: a caller who goes away in the middle leaves no instance half-way.
    pub(crate) async fn call(self, position: usize, input: Arc<Json>, emitter: Arc<Emitter>) -> Answer {
        let arrived = Instant::now();
        let session = self.session().clone();
        let active = session.account().arrive();
        let turn = match session.turn(session.limits()).await {
            Ok(turn) => turn,
            Err(refusal) => {
                let bill = Bill { waited: arrived.elapsed(), ..Bill::default() };
                session.account().add(bill, true);
                return Answer { result: Err(Failure::Refused(refusal)), bill };
            }
        };
        drop(active);
        to_the_end(async move {
            let _turn = turn;
            let session = self.session();
            let _active = session.account().arrive();
            let started = Instant::now();
            let (result, fuel) = self.run(position, &input, emitter, started).await;
            let bill = Bill { fuel, waited: started - arrived, ran: started.elapsed() };
            session.account().add(bill, result.is_err());
            Answer { result, bill }
        })
        .await
    }

    async fn run(
        &self,
        position: usize,
        input: &Json,
        emitter: Arc<Emitter>,
        now: Instant,
    ) -> (Result<String, Failure>, u64) {
        let session = self.session();
        let limits = session.limits();
        let allowance = Allowance { fuel: limits.fuel_per_call, deadline: now + limits.deadline };
        session.touched().clear();
        // It is this call's turn, so no other one has the slot.
        let Some(taken) = session.take(position) else {
            let why = "the host lost track of this function's instance".to_owned();
            return (Err(Failure::Failed(why)), 0);
        };
        let Ran { done, dropped } = run(taken, input, allowance, 1, emitter).await;
        session.permit().give_back();
        let result = match done.result {
            Ok(Ok(output)) => Ok(output),
            Ok(Err(GuestError::InvalidInput(why))) => Err(Failure::InvalidInput(why)),
            Ok(Err(GuestError::Failed(why))) => Err(Failure::Failed(why)),
            Err(stop) => Err(Failure::Stopped { stop, dropped }),
        };
        (result, done.fuel)
    }
}

/// What a function's run gave.
pub(crate) struct Ran {
    pub(crate) done: Done<Result<String, GuestError>>,
    /// If it was stopped: the functions whose instances were dropped and had been there before it, itself among them.
    pub(crate) dropped: Vec<Arc<str>>,
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
) -> Ran {
    let session = taken.session.clone();
    let limits = session.limits();
    let before = session.touched().len();
    let mut left = allowance;
    let mut instance = match taken.instance.take() {
        Some(instance) => instance,
        None => {
            let function = &session.catalog().functions()[taken.position];
            let made = Instance::create(function, &session, limits, allowance, depth).await;
            left.fuel -= made.fuel;
            match made.result {
                Ok(instance) => Box::new(instance),
                // There was no instance, so none is lost.
                Err(stop) => return Ran { done: Done { result: Err(stop), fuel: made.fuel }, dropped: Vec::new() },
            }
        }
    };
    let mut done = instance.call(input, &session, limits, left, depth, emitter).await;
    done.fuel += allowance.fuel - left.fuel;
    let dropped = match &done.result {
        Ok(_) => {
            taken.instance = Some(instance);
            taken.put_back();
            Vec::new()
        }
        Err(stop) => {
            let own = (!taken.new).then(|| stop.function.clone());
            own.into_iter().chain(session.drop_touched(before)).collect()
        }
    };
    Ran { done, dropped }
}
