//! Work on many sessions, done beside their calls.

use std::time::Duration;
use tokio::{
    task::yield_now,
    time::{Instant, sleep},
};

/// The longest stretch of work, and the shortest rest after it.
const WORK: Duration = Duration::from_millis(1);

/// Rests for as long as it works, so that it never takes a thread for long, nor a whole core from those who are
/// served.
pub(super) struct Pace {
    since: Instant,
}

impl Pace {
    pub(super) fn new() -> Self {
        Self { since: Instant::now() }
    }

    /// Yields to others, or rests after a stretch of work.
    pub(super) async fn step(&mut self) {
        if self.since.elapsed() < WORK {
            yield_now().await;
        } else {
            sleep(WORK).await;
            self.since = Instant::now();
        }
    }
}
