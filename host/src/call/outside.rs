//! A call from outside, from its turn to its answer.

use super::{
    admission::Ready,
    effects::{Ended, Tally},
    object::Call,
    outcome::{Answer, outcome, result},
    run::run,
    to_the_end::to_the_end,
};
use crate::{
    instance::{Chunk, GuestError, Json, Metered},
    limits::{Allowance, Bill},
    scheduler::Permit,
    session::{Leftovers, Outcome, Turn},
};
use std::{
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
};
use tokio::{sync::mpsc, time::Instant};

impl Ready {
    /// Runs the call. If the future is dropped before its end, the call is undone or, where that is impossible, runs
    /// to its end.
    pub(crate) fn run(
        self,
        position: usize,
        input: Arc<Json>,
        listener: Option<mpsc::Sender<Chunk>>,
    ) -> impl Future<Output = Answer> + Send {
        let call = Call::new(self.handle.session().clone(), self.handle.deadline(), listener);
        let kept = call.clone();
        let running = async move {
            let Self { handle, turn } = self;
            let session = handle.session();
            let _active = session.account().arrive();
            let started = match handle.begin().await {
                Ok(started) => started,
                Err(refusal) => {
                    session.permit().give_back();
                    return handle.refused(refusal);
                }
            };
            let entered = handle.entered();
            let mut running = RunningCall { call: &call, turn: Some(turn), entered, started };
            let mut outer = pin!(outer(&call, position, &input));
            let done = permitted(session.permit(), outer.as_mut()).await;
            let Ended { lost, leftovers, tally } = call.end();
            let lost: Vec<_> = lost.into_iter().map(|position| session.function(position).name.clone()).collect();
            let result = result(done.result, &lost, &tally);
            let bill = running.end(done.fuel, &tally, outcome(&result), leftovers);
            Answer { result, dropped: lost, bill }
        };
        to_the_end(running, move || !kept.can_be_undone())
    }
}

/// A call that runs. If this is dropped before its end, the caller went away.
struct RunningCall<'a> {
    call: &'a Call,
    /// `None` after the end.
    turn: Option<Turn>,
    /// The time at which its input was there.
    entered: Instant,
    started: Instant,
}

impl RunningCall<'_> {
    /// Ends the call, whose functions have used so much fuel.
    fn end(&mut self, fuel: u64, tally: &Tally, outcome: Outcome, leftovers: Leftovers) -> Bill {
        let turn = self.turn.take();
        let bill = Bill {
            fuel: fuel + tally.upkeep,
            waited: self.started - self.entered,
            ran: self.started.elapsed(),
            made: tally.made,
            functions: tally.functions,
        };
        let session = &self.call.session;
        session.tenant().call_ended(&bill);
        session.account().add(bill, outcome);
        self.call.settle(bill.fuel);
        if let Some(turn) = turn {
            turn.tidy(leftovers);
        }
        bill
    }
}

impl Drop for RunningCall<'_> {
    fn drop(&mut self) {
        if self.turn.is_some() {
            let Ended { lost, leftovers, tally } = self.call.end();
            // Nobody was told.
            self.call.session.note_lost(&lost);
            self.end(tally.abandoned, &tally, Outcome::Failed, leftovers);
        }
    }
}

/// The function that is called from outside.
async fn outer(call: &Arc<Call>, position: usize, input: &Json) -> Metered<Result<String, GuestError>> {
    let allowance = Allowance { fuel: call.limits().fuel_per_call, deadline: call.deadline };
    match call.take(position, 0) {
        Some(frame) => run(frame, input, allowance, 1).await,
        // It is this call's turn, so no other one has the slot.
        None => Metered { result: Ok(Err(GuestError::Failed("the instance is in use".into()))), fuel: 0 },
    }
}

/// Runs a call that may hold a permit of the slow lane, which is given back after any end of the call.
async fn permitted<F: Future>(permit: &Permit, call: Pin<&mut F>) -> F::Output {
    struct GiveBack<'a>(&'a Permit);

    impl Drop for GiveBack<'_> {
        fn drop(&mut self) {
            self.0.give_back();
        }
    }

    let held = GiveBack(permit);
    held.0.drive(call).await
}
