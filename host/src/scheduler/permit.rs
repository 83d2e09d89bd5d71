//! A session's side of the lane: what its running call holds there.
//!
//! It belongs to a session's call, not to one of its stores: a caller that held a permit while its sibling waited for
//! one would wait for ever.

use super::{
    fair::{Begins, Fair},
    history::{Expected, History},
    lane::Lane,
    waiter::{Waiter, Waits},
};
use std::{
    future::{Future, poll_fn},
    mem,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::Poll,
    time::Duration,
};
use tokio::sync::{OwnedSemaphorePermit, oneshot};

/// The steps of one session's calls, one call at a time, through the lane.
#[derive(Debug)]
pub(crate) struct Permit {
    lane: Lane,
    /// The tenant's place in the configuration.
    tenant: usize,
    holds: Mutex<Hold>,
    history: History,
}

/// The part of the lane that a call holds.
#[derive(Debug)]
enum Hold {
    Nothing,
    /// A place to begin.
    Place,
    /// A permit, held since this time by the lane's clock. A turn is run by one thread.
    Permit(Duration),
    /// The right to end.
    End(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit),
}

impl Permit {
    pub(crate) fn new(lane: Lane, tenant: u16) -> Self {
        Self { lane, tenant: tenant.into(), holds: Mutex::new(Hold::Nothing), history: History::default() }
    }

    /// The lane that the permit is of.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Admits a call that is about to begin. While others run long, waits for a place, or for a permit if the
    /// session's last call was long.
    pub(crate) async fn begin(self: &Arc<Self>) {
        let expected = self.history.begin();
        if !self.lane.is_busy() {
            return;
        }
        if expected == Expected::Long {
            self.clone().next_turn().await;
        } else {
            // Boxed: most calls just begin.
            Box::pin(self.clone().place_to_begin(expected == Expected::Unknown)).await;
        }
    }

    async fn place_to_begin(self: Arc<Self>, unknown: bool) {
        let waits = self.lane.change(self.tenant, |fair| match fair.begin(self.tenant) {
            Begins::Freely => None,
            Begins::InPlace => {
                self.hold(Hold::Place);
                None
            }
            Begins::Not => {
                let (tell, told) = oneshot::channel();
                Some((fair.wait_to_begin(self.tenant, unknown, tell), told))
            }
        });
        if let Some((number, told)) = waits {
            self.waiter(Waits::ToBegin(number)).told(told).await;
            self.hold(Hold::Place);
        }
    }

    /// Returns true if a call that meets a tick may go on at once, since even a short call can meet one by chance. A
    /// young call always may. While the lane is busy, any call may at its first tick: perhaps the system had
    /// suspended its thread, and in the lane it would wait for all the others.
    pub(crate) fn goes_on(&self, is_young: bool) -> bool {
        let is_first = self.history.tick();
        is_young || (is_first && self.lane.is_busy())
    }

    /// Gives the permit back at a tick, and waits for the next one.
    pub(crate) fn next_turn(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (tell, told) = oneshot::channel();
        let held = self.hold(Hold::Nothing);
        // In one step: it may be this very call's turn again, since it may be its tenant's only one.
        let number = self.lane.change(self.tenant, |fair| {
            let number = fair.wait(self.tenant, tell);
            self.given_back(fair, held);
            number
        });
        let waiter = self.waiter(Waits::ForTurn(number));
        Box::pin(async move {
            waiter.told(told).await;
            self.hold(Hold::Permit(self.lane.time()));
        })
    }

    fn waiter(&self, waits: Waits) -> Waiter {
        Waiter::new(self.lane.clone(), self.tenant, waits)
    }

    /// Drives a call that waits at its deadline until it has the right to end. Returns the output if the call ends by
    /// itself meanwhile.
    pub(crate) async fn end<F: Future>(&self, mut call: Pin<&mut F>) -> Option<F::Output> {
        if !self.lane.is_busy() {
            return None;
        }
        let mut right = Box::pin(self.lane.ends().clone().acquire_owned());
        let ended = poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => right.as_mut().poll(cx).map(Err),
        });
        match ended.await {
            Ok(output) => Some(output),
            Err(right) => {
                // Nobody closes it.
                self.hold_instead(right.map_or(Hold::Nothing, Hold::End));
                None
            }
        }
    }

    /// Runs a call, or a step of one, that may hold something of the lane's. It is given back while that waits, or a
    /// sleeping guest would block all others who run long, and one whose sibling ended late would wait for itself.
    pub(crate) async fn drive<F: Future>(&self, mut call: Pin<&mut F>) -> F::Output {
        poll_fn(|cx| {
            let polled = call.as_mut().poll(cx);
            if polled.is_pending() {
                self.give_back();
            }
            polled
        })
        .await
    }

    /// Gives back what is held: the call ended, or its tick did, or it waits.
    pub(crate) fn give_back(&self) {
        self.hold_instead(Hold::Nothing);
    }

    /// Gives back what is held, and holds something else.
    fn hold_instead(&self, holds: Hold) {
        match self.hold(holds) {
            Hold::Nothing => {}
            held => self.lane.change(self.tenant, |fair| self.given_back(fair, held)),
        }
    }

    fn given_back(&self, fair: &mut Fair, held: Hold) {
        match held {
            Hold::Nothing | Hold::End(_) => {}
            Hold::Place => fair.began(self.tenant),
            Hold::Permit(since) => fair.give_back(self.tenant, self.lane.time().saturating_sub(since)),
        }
    }

    /// Replaces what is held, and returns the former if the lane has to take it back. A right to end is given back
    /// here instead: that wakes a task, and the lane takes back while it is locked.
    fn hold(&self, holds: Hold) -> Hold {
        let held = mem::replace(&mut *self.holds.lock().unwrap_or_else(PoisonError::into_inner), holds);
        if matches!(held, Hold::End(_)) { Hold::Nothing } else { held }
    }

    #[cfg(test)]
    pub(super) fn has_permit(&self) -> bool {
        matches!(*self.holds.lock().unwrap_or_else(PoisonError::into_inner), Hold::Permit(_))
    }
}

/// A session that goes away in the middle of a call gives its permit back.
impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}
