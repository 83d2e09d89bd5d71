//! Whether anything comes of a connection.
//!
//! A connection is let go when for some time no request of it is worked on, and nothing of an answer is taken: it is
//! idle, its next request's headers come byte by byte, or its caller does not read. How long a request is worked on is
//! bounded by the limits of calls. Nothing is timed for that: what happens is counted, and looked at now and then.

use hyper::rt::{Read, ReadBufCursor, Write};
use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// One in so many of the time that it may stand still is between two looks.
const LOOKS: u32 = 4;

/// What has happened on a connection.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// Requests that are worked on.
    working: AtomicUsize,
    /// Requests that were worked on, and writes that took something.
    steps: AtomicUsize,
}

impl Progress {
    pub(super) fn begins(&self) {
        self.working.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn ends(&self) {
        self.working.fetch_sub(1, Ordering::Relaxed);
        self.step();
    }

    fn step(&self) {
        self.steps.fetch_add(1, Ordering::Relaxed);
    }

    /// Ends when nothing has come of the connection for so long, or up to a quarter longer.
    pub(super) async fn stands_still(&self, time: Duration) {
        let mut looks = interval(time / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut still) = (None, 0);
        loop {
            looks.tick().await;
            let steps = self.steps.load(Ordering::Relaxed);
            let stands = self.working.load(Ordering::Relaxed) == 0 && seen == Some(steps);
            still = if stands { still + 1 } else { 0 };
            if still >= LOOKS {
                return;
            }
            seen = Some(steps);
        }
    }
}

/// A connection whose writes are counted.
pub(super) struct Watched<T> {
    pub(super) io: T,
    pub(super) progress: Arc<Progress>,
}

impl<T> Watched<T> {
    fn wrote(&self, wrote: Poll<io::Result<usize>>) -> Poll<io::Result<usize>> {
        if matches!(wrote, Poll::Ready(Ok(bytes)) if bytes > 0) {
            self.progress.step();
        }
        wrote
    }
}

impl<T: Read + Unpin> Read for Watched<T> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: ReadBufCursor<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl<T: Write + Unpin> Write for Watched<T> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write(cx, buf);
        self.wrote(wrote)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let wrote = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.wrote(wrote)
    }
}
