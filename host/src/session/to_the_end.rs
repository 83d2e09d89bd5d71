//! A call whose caller went away runs to its end.
//!
//! A server drops the future of a request when its connection closes. A guest that is dropped in the middle of a call
//! cannot be used again, and its user would lose what it held because of a lost connection. So a call that has begun
//! and is dropped goes on as a task of its own; its limits bound it as before.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};
use tokio::runtime::Handle;

/// Runs `what` to its end, even if this is dropped before.
pub(crate) fn to_the_end<F>(what: F) -> ToTheEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    ToTheEnd { what: Some(Box::pin(what)), begun: false }
}

/// See [`to_the_end`].
pub(crate) struct ToTheEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    what: Option<Pin<Box<F>>>,
    begun: bool,
}

impl<F> Future for ToTheEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
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

impl<F> Drop for ToTheEnd<F>
where
    F: Future + Send + 'static,
    F::Output: Send,
{
    fn drop(&mut self) {
        // Without a runtime the host is ending, and so do all sessions.
        if let (Some(what), true, Ok(runtime)) = (self.what.take(), self.begun, Handle::try_current()) {
            runtime.spawn(what);
        }
    }
}
