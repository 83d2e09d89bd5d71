//! Admission: what a call waits for, until its turn.

use super::outcome::{Answer, Failure};
use crate::{
    instance::{Chunk, Json},
    limits::{Bill, Reached, within},
    session::{Handle, Outcome, Turn, waited_too_long},
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
    async fn live_turn(&self) -> Result<Turn, Reached> {
        let session = self.session();
        let turn = session.turn(self.deadline()).await?;
        // Nobody is parked for a call that cannot be paid for.
        session.check_fuel()?;
        self.registry().activate(session, self.deadline()).await?;
        Ok(turn)
    }

    /// Waits until the call, which has its turn, may begin; returns the time at which it does.
    pub(super) async fn begin(&self) -> Result<Instant, Reached> {
        let session = self.session();
        let begun = within(|| self.deadline(), pin!(session.permit().begin())).await;
        // The guest gets the time that is left; with none left, the call is refused.
        let now = Instant::now();
        begun.filter(|()| now < self.deadline()).ok_or_else(waited_too_long)?;
        session.check_fuel()?;
        Ok(now)
    }

    /// The answer to a call that was not run.
    pub(super) fn refused(&self, refusal: Reached) -> Answer {
        let bill = Bill { waited: self.arrived().elapsed(), ..Bill::default() };
        self.session().account().add(bill, Outcome::Failed);
        Answer { result: Err(Failure::Refused(refusal)), dropped: Vec::new(), bill }
    }
}
