//! A call whose caller went away, and that cannot be undone, runs to its end.
//!
//! A server drops the future of a request when its connection closes. A guest that is dropped in the middle of a call
//! cannot be used again. Mostly the call is undone then; but where that cannot be, its user would lose what the guest
//! held because of a lost connection. Such a call goes on as a task of its own; its limits bound it as before.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::runtime::Handle;

/// Runs `what`. If the future is dropped early, and `must` returns true then, a task runs `what` to its end.
pub(crate) fn to_the_end<F, M>(what: F, must: M) -> ToTheEnd<F, M>
where
    F: Future + Send + 'static,
    F::Output: Send,
    M: Fn() -> bool + Unpin,
{
    ToTheEnd { what: Some(Box::pin(what)), must, begun: false }
}

/// See [`to_the_end`].
pub(crate) struct ToTheEnd<F, M>
where
    F: Future + Send + 'static,
    F::Output: Send,
    M: Fn() -> bool + Unpin,
{
    what: Option<Pin<Box<F>>>,
    must: M,
    begun: bool,
}

impl<F, M> Future for ToTheEnd<F, M>
where
    F: Future + Send + 'static,
    F::Output: Send,
    M: Fn() -> bool + Unpin,
{
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<F::Output> {
        self.begun = true;
        // Taken out meanwhile: should it panic, it must not be polled again.
        let Some(mut what) = self.what.take() else { return Poll::Pending };
        let polled = what.as_mut().poll(cx);
        if polled.is_pending() {
            self.what = Some(what);
        }
        polled
    }
}

impl<F, M> Drop for ToTheEnd<F, M>
where
    F: Future + Send + 'static,
    F::Output: Send,
    M: Fn() -> bool + Unpin,
{
    fn drop(&mut self) {
        if !self.begun || self.what.is_none() || !(self.must)() {
            return;
        }
        // Without a runtime the host is ending, and so do all sessions.
        if let (Some(what), Ok(runtime)) = (self.what.take(), Handle::try_current()) {
            runtime.spawn(what);
        }
    }
}
