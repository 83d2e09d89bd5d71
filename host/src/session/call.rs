//! One call from outside, and one of a function.

use super::{
    account::Outcome,
    current::{Ended, Tally},
    live::Session,
    pressure::{Room, Scope},
    refusal::Refusal,
    registry::Handle,
    to_the_end::to_the_end,
    turn::Turn,
    undo::Frame,
};
use crate::{
    instance::{Emitter, GuestError, Invocation, Json, Metered, STOPPED, Services, Stop, StopKind, UnclaimedFuel},
    limits::{Allowance, Bill, Permit, within},
};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::Arc,
    time::Duration,
};
use tokio::time::Instant;

/// The answer to a call from outside.
#[derive(Debug)]
pub struct Answer {
    /// The output, as JSON text, or why there is none.
    pub result: Result<String, Failure>,
    /// The functions that lost this user's state: they were stopped, or used by one that was, and could not be
    /// undone.
    pub dropped: Vec<Arc<str>>,
    /// The call's bill.
    pub bill: Bill,
}

/// Why a call has no output.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failure {
    /// The call did not get its turn; nothing was run.
    Refused(Refusal),
    /// The function says that the input does not fit. Its state is committed.
    InvalidInput(String),
    /// The function says that it could not do it. Its state is committed.
    Failed(String),
    /// The function was stopped, or passed on the stop of one that it called.
    Stopped {
        /// Why.
        stop: Stop,
        /// True if all is as it was before the call.
        undone: bool,
    },
}

/// A call whose turn it is.
pub(crate) struct Ready {
    handle: Handle,
    turn: Turn,
}

impl Handle {
    /// Calls a function, at its place in the catalog.
    ///
    /// The call waits for its turn for as long as the returned future is polled. If it is dropped while the call
    /// runs, the call is undone; where that cannot be, it runs to its end.
    pub(crate) async fn call(self, position: usize, input: Arc<Json>, emitter: Arc<Emitter>) -> Answer {
        match self.turn().await {
            Ok(ready) => ready.run(position, input, emitter).await,
            Err(refused) => refused,
        }
    }

    /// Waits for the turn.
    pub(crate) async fn turn(self) -> Result<Ready, Answer> {
        let waiting = self.session().account().arrive();
        let turn = self.live_turn().await;
        drop(waiting);
        match turn {
            Ok(turn) => Ok(Ready { handle: self, turn }),
            Err(refusal) => Err(self.refused(refusal)),
        }
    }

    /// Waits for the turn, and for a place for a session that is not live.
    async fn live_turn(&self) -> Result<Turn, Refusal> {
        let session = self.session();
        let turn = session.turn(self.deadline()).await?;
        // Nobody is parked for a call that cannot be paid for.
        session.check_fuel()?;
        self.registry().activate(session, self.deadline()).await?;
        Ok(turn)
    }

    /// Waits until the call, which has its turn, may begin.
    async fn begin(&self) -> Result<(), Refusal> {
        let session = self.session();
        let begun = within(|| self.deadline(), pin!(session.permit().begin())).await;
        // The guest gets the time that is left; with none left, the call is refused.
        begun.filter(|()| Instant::now() < self.deadline()).ok_or(Refusal::WaitedTooLong)?;
        Ok(session.check_fuel()?)
    }

    /// The answer to a call that was not run.
    fn refused(&self, refusal: Refusal) -> Answer {
        let bill = Bill { waited: self.arrived().elapsed(), ..Bill::default() };
        self.session().account().add(bill, Outcome::Failed);
        Answer { result: Err(Failure::Refused(refusal)), dropped: Vec::new(), bill }
    }
}

impl Ready {
    /// Runs the call. If the future is dropped before its end, the call is undone or, where that is impossible, runs
    /// to its end.
    pub(crate) fn run(
        self,
        position: usize,
        input: Arc<Json>,
        emitter: Arc<Emitter>,
    ) -> impl Future<Output = Answer> + Send {
        let session = self.handle.session().clone();
        let call = async move {
            let Self { handle, turn } = self;
            let session = handle.session();
            let _active = session.account().arrive();
            if let Err(refusal) = handle.begin().await {
                session.permit().give_back();
                return handle.refused(refusal);
            }
            let (arrived, started) = (handle.arrived(), Instant::now());
            let mut running = Running { session, turn: Some(turn), arrived, started, ended: false };
            session.begin();
            let mut call = pin!(outer(session, position, &input, emitter, handle.deadline()));
            let done = permitted(session.permit(), call.as_mut()).await;
            let Ended { lost: dropped, tally: Tally { stops, undone, made, functions, upkeep, .. } } = session.end();
            let result = match done.result {
                Ok(Ok(output)) => Ok(output),
                Ok(Err(GuestError::InvalidInput(why))) => Err(Failure::InvalidInput(why)),
                Ok(Err(GuestError::Failed(why))) => Err(failed(why, stops, undone)),
                Err(stop) => Err(Failure::Stopped { stop, undone: dropped.is_empty() }),
            };
            let outcome = match &result {
                Ok(_) => Outcome::Answered,
                Err(Failure::InvalidInput(_)) => Outcome::Misfit,
                Err(_) => Outcome::Failed,
            };
            let bill = running.end((done.fuel + upkeep, made, functions), outcome);
            Answer { result, dropped, bill }
        };
        to_the_end(call, move || !session.can_be_undone())
    }
}

/// A running call from outside. If this is dropped before its end, the caller went away.
struct Running<'a> {
    session: &'a Session,
    turn: Option<Turn>,
    arrived: Instant,
    started: Instant,
    ended: bool,
}

impl Running<'_> {
    fn end(&mut self, (fuel, made, functions): (u64, Duration, u32), outcome: Outcome) -> Bill {
        self.ended = true;
        let (waited, ran) = (self.started - self.arrived, self.started.elapsed());
        let bill = Bill { fuel, waited, ran, made, functions };
        self.session.tenant().metrics.ended(&bill);
        self.session.account().add(bill, outcome);
        self.session.settle(fuel);
        bill
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        if !self.ended {
            let Tally { abandoned, made, functions, upkeep, .. } = self.session.end().tally;
            self.end((abandoned + upkeep, made, functions), Outcome::Failed);
        }
        self.turn.take().into_iter().for_each(Turn::tidy);
    }
}

/// A function that fails with the very words of a stop passes on what happened to one that it called.
fn failed(why: String, stops: Vec<Stop>, undone: bool) -> Failure {
    match stops.into_iter().rev().find(|stop| passes_on(&why, stop)) {
        Some(stop) => Failure::Stopped { stop, undone },
        _ => Failure::Failed(why),
    }
}

fn passes_on(why: &str, stop: &Stop) -> bool {
    why.contains(&stop.to_string())
}

/// The function that is called from outside.
async fn outer(
    session: &Arc<Session>,
    position: usize,
    input: &Json,
    emitter: Arc<Emitter>,
    deadline: Instant,
) -> Metered<Result<String, GuestError>> {
    let allowance = Allowance { fuel: session.limits().fuel_per_call, deadline };
    match session.take(position, 0) {
        Some(frame) => run(frame, input, allowance, 1, emitter).await,
        // It is this call's turn, so no other one has the slot.
        None => Metered { result: Ok(Err(GuestError::Failed("the instance is in use".into()))), fuel: 0 },
    }
}

/// Runs a call that may hold a permit of the slow lane. The permit is given back while the call waits, or a sleeping
/// guest would block all other long runners, and after any end of the call.
async fn permitted<F: Future>(permit: &Permit, mut call: Pin<&mut F>) -> F::Output {
    struct GiveBack<'a>(&'a Permit);

    impl Drop for GiveBack<'_> {
        fn drop(&mut self) {
            self.0.give_back();
        }
    }

    let held = GiveBack(permit);
    poll_fn(|cx| {
        let polled = call.as_mut().poll(cx);
        if polled.is_pending() {
            held.0.give_back();
        }
        polled
    })
    .await
}

/// Runs a function, called from outside or by another one, in its instance or in a new one.
pub(super) async fn run(
    mut frame: Frame,
    input: &Json,
    allowance: Allowance,
    depth: usize,
    emitter: Arc<Emitter>,
) -> Metered<Result<String, GuestError>> {
    let session = frame.session().clone();
    let mut left = allowance;
    let services: Arc<dyn Services> = session.clone();
    let mut unclaimed = UnclaimedFuel::new(&*services, 0);
    frame.settle().await;
    if !matches!(frame.begin(true), Ok(true)) {
        let began = Instant::now();
        // Boxed: most calls find an instance and room, and need no place for what it takes to make them.
        let prepared = Box::pin(prepare(&mut frame, &session, allowance, depth)).await;
        session.current().tally.made += began.elapsed();
        left.fuel = left.fuel.saturating_sub(prepared.fuel);
        unclaimed.add(prepared.fuel);
        if let Err(stop) = prepared.result {
            frame.stopped(&stop);
            unclaimed.add(frame.abort());
            return Metered { result: Err(stop), fuel: unclaimed.claim().max(least(&session, depth)) };
        }
    }
    let undo = frame.from();
    let mut done = match frame.instance() {
        Some(instance) => instance.call(input, &services, Invocation { allowance: left, depth, undo, emitter }).await,
        None => Metered { result: Err(frame.stop(StopKind::HostFull)), fuel: 0 },
    };
    done.fuel += unclaimed.claim();
    match &done.result {
        // The caller from outside is told of a stop, so the whole call is undone.
        Ok(Err(GuestError::Failed(why))) if depth == 1 && session.undoes(|stop| passes_on(why, stop)) => {
            done.fuel += frame.abort();
        }
        Ok(_) => done.fuel += frame.commit(),
        Err(stop) => {
            frame.stopped(stop);
            let stop = stop.clone();
            done.fuel += frame.abort();
            done.fuel = done.fuel.max(least(&session, depth));
            // A guest that was refused memory was stopped; room is made for the next call.
            if let Some(scope) = full_scope(&session, &stop.kind, Room::default()) {
                session.shared.pressure.ask_for_room(scope, Room::default());
            }
        }
    }
    done
}

/// The least units of fuel that a stopped function costs at this depth of a call. For a sibling there is no least:
/// its caller pays.
fn least(session: &Session, depth: usize) -> u64 {
    if depth == 1 { STOPPED.min(session.limits().fuel_per_call) } else { 0 }
}

/// The scope in which others can make the room that a stopped function lacked.
fn full_scope(session: &Session, kind: &StopKind, need: Room) -> Option<Scope> {
    Scope::of(kind.full()?, Some(session.user().tenant()), need)
}

/// Makes a function's instance, if it has none, and begins the call. The caller pays for a new instance, but not for
/// restoring a parked one. If there is no room, idle sessions are parked, and it is tried again: the caller pays for
/// attempts that failed for want of room.
async fn prepare(frame: &mut Frame, session: &Arc<Session>, allowance: Allowance, depth: usize) -> Metered<()> {
    let (mut failed, mut tidied) = (UnclaimedFuel::new(&**session, 0), session.shared.tidying.watch());
    loop {
        let left = Allowance { fuel: allowance.fuel.saturating_sub(failed.units()), ..allowance };
        let (woken, mut result) = (frame.is_parked(), Ok(()));
        if frame.instance().is_none() {
            if woken {
                session.shared.pressure.woke();
            }
            let made = frame.make(left, depth).await;
            if made.result.is_err() || !woken {
                failed.add(made.fuel);
            }
            result = made.result;
            frame.settle().await;
        }
        let begun = result.and_then(|()| frame.begin(true).map_err(|full| frame.stop(full.into())));
        let Err(stop) = begun else { return Metered { result: Ok(()), fuel: failed.claim() } };
        let need = Room::bytes(frame.needs());
        let is_freed = match full_scope(session, &stop.kind, need) {
            Some(scope) => {
                let freed = session.shared.pressure.make_room(scope, need, allowance.deadline).await;
                !freed.is_none() || tidied.another(allowance.deadline).await
            }
            None => false,
        };
        if !is_freed {
            // Most calls change little, so this one may well end without the room for its undo logs.
            let begun = frame.begin(false).is_ok_and(|begun| begun);
            return Metered { result: if begun { Ok(()) } else { Err(stop) }, fuel: failed.claim() };
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Host, config::Config, identity::User, session::TooManySessions};
    use std::path::Path;
    use tokio::time::sleep;

    async fn host() -> Arc<Host> {
        let text = "{workflow: {_type: per_user_notepad}, limits: {max_sessions: 1, deadline: 10s}}";
        Host::start(Config::parse(Path::new("test.yml"), text).unwrap(), 2).await.unwrap()
    }

    fn session(host: &Host, user: &str) -> Handle {
        host.registry().session(User::from_credential(user)).unwrap()
    }

    async fn call(handle: Handle) -> Answer {
        handle.call(0, Arc::new(r#"{"action":"count"}"#.to_owned()), Emitter::new(None, 1 << 20)).await
    }

    #[track_caller]
    fn refused(answer: &Answer, refusal: Refusal) {
        assert_eq!(answer.result, Err(Failure::Refused(refusal)));
        assert_eq!((answer.bill.fuel, answer.bill.waited.as_secs()), (0, 10));
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_for_the_turn_and_that_for_a_place_end_at_one_deadline() {
        let host = host().await;
        assert!(call(session(&host, "alice")).await.result.is_ok());
        // An evictor that counts as running, and never answers.
        let _evicting = host.registry().shared().pressure.evicting();
        let other = session(&host, "bob");
        let turn = other.session().turn_if_free().unwrap();
        let waiting = tokio::spawn(call(session(&host, "bob")));
        sleep(Duration::from_secs(6)).await;
        drop(turn);
        refused(&waiting.await.unwrap(), TooManySessions::Live(1).into());
        // A call whose deadline passes before its turn is refused, and asks for no place.
        let turn = other.session().turn_if_free().unwrap();
        let waiting = tokio::spawn(call(session(&host, "bob")));
        sleep(Duration::from_secs(11)).await;
        refused(&waiting.await.unwrap(), Refusal::WaitedTooLong);
        drop(turn);
        assert!(call(session(&host, "alice")).await.result.is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn the_wait_in_the_slow_lane_ends_at_the_calls_deadline() {
        let host = host().await;
        let permit = || Arc::new(Permit::new(host.registry().shared().lane.clone(), 0));
        let (long, begins) = (permit(), permit());
        long.clone().next_turn().await;
        begins.begin().await;
        let other = session(&host, "alice");
        let turn = other.session().turn_if_free().unwrap();
        let waiting = tokio::spawn(call(session(&host, "alice")));
        sleep(Duration::from_secs(6)).await;
        drop(turn);
        refused(&waiting.await.unwrap(), Refusal::WaitedTooLong);
        drop((long, begins));
        assert!(call(session(&host, "alice")).await.result.is_ok(), "it left no place behind");
    }
}
