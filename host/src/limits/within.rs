//! A bound on time that costs nothing where it is not needed.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    task::Poll,
};
use tokio::time::{Instant, sleep_until};

/// Runs a future until a deadline; `None` if it has not ended by then. Most end at the first poll, and make no timer.
pub(crate) async fn within<F: Future>(until: impl FnOnce() -> Instant, mut what: Pin<&mut F>) -> Option<F::Output> {
    let (mut until, mut timer) = (Some(until), None);
    poll_fn(|cx| {
        if let Poll::Ready(value) = what.as_mut().poll(cx) {
            return Poll::Ready(Some(value));
        }
        if let Some(until) = until.take() {
            timer = Some(Box::pin(sleep_until(until())));
        }
        match &mut timer {
            Some(timer) => timer.as_mut().poll(cx).map(|()| None),
            None => Poll::Pending,
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{pin::pin, time::Duration};
    use tokio::time::sleep;

    #[tokio::test(start_paused = true)]
    async fn what_ends_in_time_is_given_and_what_does_not_is_not() {
        let soon = || Instant::now() + Duration::from_secs(60);
        assert_eq!(within(soon, pin!(async { 1 })).await, Some(1));
        assert_eq!(within(soon, pin!(sleep(Duration::from_secs(30)))).await, Some(()));
        assert_eq!(within(soon, pin!(sleep(Duration::from_secs(3600)))).await, None);
    }
}
