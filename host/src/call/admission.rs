//! Admission: what a call is granted before it runs, in this order, and all of it by the call's deadline.
//!
//! 1. The host takes calls, and the tenant may call the function: [`Admission::new`].
//! 2. Memory of the tenant's for the input, while it comes: [`Admission::input`].
//! 3. The numbers of calls and of sessions, rates and budgets; a session, and memory of its user's: [`Admission::enter`].
//! 4. The session's turn, fuel, and a place among the live sessions: [`Handle::turn`].
//! 5. A place to begin, where others run long: `begin`.

use super::{
    input::{IncomingInput, hand_over},
    not_admitted::NotAdmitted,
    outcome::{Answer, Failure},
};
use crate::{
    identity::User,
    instance::{Chunk, Json},
    limits::{Bill, Reached, memory::Charge, within},
    session::{Handle, Outcome, Registry, Tenant, Turn, waited_too_long},
};
use std::{pin::pin, sync::Arc};
use tokio::{sync::mpsc, time::Instant};

/// A call that has arrived, and has no session yet.
pub(crate) struct Admission<'a> {
    registry: &'a Arc<Registry>,
    user: User,
    tenant: &'a Tenant,
    deadline: Instant,
}

impl<'a> Admission<'a> {
    /// A user's call of a function, at its place in the catalog, that arrives now.
    pub(crate) fn new(registry: &'a Arc<Registry>, user: User, position: usize) -> Result<Self, NotAdmitted> {
        if registry.is_draining() {
            return Err(NotAdmitted::Draining);
        }
        let tenant = &**registry.shared().tenant(user);
        if !tenant.may_call(position) {
            return Err(NotAdmitted::Forbidden);
        }
        Ok(Self { registry, user, tenant, deadline: Instant::now() + tenant.limits().deadline })
    }

    /// The time by which the call must have ended, whatever it waits for until then.
    pub(crate) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// The most bytes that the input may have.
    pub(crate) fn input_size(&self) -> usize {
        self.tenant.limits().body_size
    }

    /// The input, of which nothing has come, and which will have so many bytes at the most.
    pub(crate) fn input(&self, most: usize) -> IncomingInput<'a> {
        let pressure = &self.registry.shared().pressure;
        IncomingInput::new(self.tenant.memory(), self.user.tenant(), most, pressure, self.deadline)
    }

    /// Enters the user's session, with an input that is charged so far to the tenant.
    pub(crate) async fn enter(self, input: Charge) -> Result<(Handle, Charge), NotAdmitted> {
        let handle = self.registry.session_until(self.user, self.deadline).map_err(NotAdmitted::Limit)?;
        let charge = hand_over(input, &handle).await?;
        Ok((handle, charge))
    }
}

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
        let bill = Bill { waited: self.entered().elapsed(), ..Bill::default() };
        self.session().account().add(bill, Outcome::Failed);
        Answer { result: Err(Failure::Refused(refusal)), dropped: Vec::new(), bill }
    }
}
