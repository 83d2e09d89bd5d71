//! Admission: what a call waits for, until its turn.

use super::outcome::{Answer, Failure};
use crate::{
    instance::{Chunk, Json},
    limits::{Bill, within},
    session::{Handle, Outcome, Refusal, Turn},
};
use std::{pin::pin, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

/// A call whose turn it is.
pub(crate) struct Ready {
    pub(super) handle: Handle,
    pub(super) turn: Turn,
}

impl Handle {
    /// Calls a function, at its place in the catalog. Partial results go to the listener.
    ///
    /// The call waits for its turn for as long as the returned future is polled. If it is dropped while the call
    /// runs, the call is undone; where that cannot be, it runs to its end.
    pub(crate) async fn call(self, position: usize, input: Arc<Json>, listener: Option<mpsc::Sender<Chunk>>) -> Answer {
        match self.turn().await {
            Ok(ready) => ready.run(position, input, listener).await,
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

    /// Waits until the call, which has its turn, may begin; returns the time at which it does.
    pub(super) async fn begin(&self) -> Result<Instant, Refusal> {
        let session = self.session();
        let begun = within(|| self.deadline(), pin!(session.permit().begin())).await;
        // The guest gets the time that is left; with none left, the call is refused.
        let now = Instant::now();
        begun.filter(|()| now < self.deadline()).ok_or(Refusal::WaitedTooLong)?;
        session.check_fuel()?;
        Ok(now)
    }

    /// The answer to a call that was not run.
    pub(super) fn refused(&self, refusal: Refusal) -> Answer {
        let bill = Bill { waited: self.arrived().elapsed(), ..Bill::default() };
        self.session().account().add(bill, Outcome::Failed);
        Answer { result: Err(Failure::Refused(refusal)), dropped: Vec::new(), bill }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;
    use crate::{Host, config::Config, identity::User, limits::Permit, session::TooManySessions};
    use std::{path::Path, time::Duration};
    use tokio::time::sleep;

    async fn host() -> Arc<Host> {
        let text = "{workflow: {_type: per_user_notepad}, limits: {max_sessions: 1, deadline: 10s}}";
        Host::start(Config::parse(Path::new("test.yml"), text).unwrap(), 2).await.unwrap()
    }

    fn session(host: &Host, user: &str) -> Handle {
        host.registry().session(User::from_credential(user)).unwrap()
    }

    async fn call(handle: Handle) -> Answer {
        handle.call(0, Arc::new(r#"{"action":"count"}"#.to_owned()), None).await
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
