//! The relay of sibling calls, which do not run on their callers' stacks.
//!
//! A future that an import awaits is polled on its guest's own stack, and an instance keeps that stack while it is
//! idle. A sibling's call polled there would cost each user three pages of stack, none of which is in the processor's
//! cache when it is needed. So the import leaves the sibling's call here and waits. The poller of the guest finds the
//! call and runs it on the thread's stack, and the import picks up the result.
//!
//! A call left here is taken at once, on the same thread: the calls of a session run one after the other, and of
//! nested ones only the innermost one runs.

use super::{GuestError, metered::Metered};
use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    sync::{Mutex, PoisonError},
    task::{Poll, ready},
};

/// The output of a function, or its own error, with the fuel used.
pub(crate) type Returned = Metered<Result<String, GuestError>>;

/// A sibling's call that may run.
pub(crate) type SiblingCall = Pin<Box<dyn Future<Output = Returned> + Send>>;

/// The place where an import leaves its sibling's call, and finds the result.
#[derive(Default)]
pub(crate) struct SiblingRelay(Mutex<Left>);

#[derive(Default)]
enum Left {
    #[default]
    Nothing,
    Call(SiblingCall),
    Returned(Box<Returned>),
}

impl SiblingRelay {
    fn leave(&self, left: Left) -> Left {
        std::mem::replace(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner), left)
    }

    /// Drops what is left: a sibling's call holds the one that has this relay.
    pub(crate) fn clear(&self) {
        self.leave(Left::Nothing);
    }

    /// Has a sibling's call run, and waits for the result. Called by an import.
    pub(super) async fn run(&self, call: SiblingCall) -> Returned {
        self.leave(Left::Call(call));
        poll_fn(|_| match self.leave(Left::Nothing) {
            Left::Returned(returned) => Poll::Ready(*returned),
            // Nobody has taken the call yet; whoever takes it polls the guest afterwards, and so wakes the import.
            left => {
                self.leave(left);
                Poll::Pending
            }
        })
        .await
    }

    /// Runs a guest, and beside it the calls that its imports leave here. If dropped before its end, drops the
    /// sibling's call first.
    pub(super) async fn drive<F: Future>(&self, guest: F) -> F::Output {
        let mut guest = pin!(guest);
        let mut call: Option<SiblingCall> = None;
        poll_fn(|cx| {
            loop {
                if let Some(running) = &mut call {
                    let returned = ready!(running.as_mut().poll(cx));
                    call = None;
                    self.leave(Left::Returned(Box::new(returned)));
                }
                let polled = guest.as_mut().poll(cx);
                if polled.is_ready() {
                    return polled;
                }
                let Left::Call(left) = self.leave(Left::Nothing) else { return Poll::Pending };
                call = Some(left);
            }
        })
        .await
    }
}
