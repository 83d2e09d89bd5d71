//! The progress of a connection: whether anything comes of it, and what is under way on it.
//!
//! A connection is let go when for some time no request of it is worked on, and nothing of an answer is taken: it is
//! idle, its next request's headers come byte by byte, or its caller does not read. How long a request is worked on is
//! bounded by the limits of calls. Nothing is timed for that: what happens is counted, and looked at now and then.
//!
//! Everything here is of one task, the connection's. It is atomic only because tasks move between threads.

use hyper::body::Incoming;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// One in so many of the time that it may stand still is between two looks.
const LOOKS: u32 = 4;
/// No more than this is known of what was left unread.
const UNKNOWN: u64 = u64::MAX;

/// What has happened on a connection.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// A request is worked on.
    working: AtomicBool,
    /// Its body has come as a whole.
    whole: AtomicBool,
    /// Its caller knows interim answers.
    knows_interim: AtomicBool,
    /// An answer is a stream of events, and has not ended.
    streaming: AtomicBool,
    /// The stream is to have a comment.
    asked_in_stream: AtomicBool,
    /// Something of an answer was not yet taken by the system.
    unsent: AtomicBool,
    /// A request was answered, and what is read is of the next one.
    answered: AtomicBool,
    /// Requests that were worked on, and writes that took something.
    steps: AtomicUsize,
    /// The body of a request that was answered before it was read, and whether there is one.
    body: Mutex<Option<Incoming>>,
    is_given_up: AtomicBool,
    /// A request was not read to its end, and this much of it is left.
    left_unread: AtomicU64,
    is_unread: AtomicBool,
}

impl Progress {
    pub(super) fn begins(&self, whole: bool, knows_interim: bool) {
        self.whole.store(whole, Relaxed);
        self.knows_interim.store(knows_interim, Relaxed);
        self.working.store(true, Relaxed);
    }

    pub(super) fn ends(&self) {
        self.working.store(false, Relaxed);
        self.answered.store(true, Relaxed);
        self.step();
    }

    pub(super) fn is_working(&self) -> bool {
        self.working.load(Relaxed)
    }

    /// True if a request was answered since the last time.
    pub(super) fn is_answered(&self) -> bool {
        self.answered.load(Relaxed) && self.answered.swap(false, Relaxed)
    }

    pub(super) fn body_is_whole(&self) {
        self.whole.store(true, Relaxed);
    }

    /// Keeps the body of a request that nobody wants to read further.
    pub(super) fn give_up(&self, body: Incoming) {
        *self.body.lock().unwrap_or_else(PoisonError::into_inner) = Some(body);
        self.is_given_up.store(true, Relaxed);
    }

    /// Such a body.
    pub(super) fn given_up(&self) -> Option<Incoming> {
        if !self.is_given_up.load(Relaxed) {
            return None;
        }
        self.is_given_up.store(false, Relaxed);
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// So much of a request, if it is known, will not be read.
    pub(super) fn leaves_unread(&self, bytes: Option<u64>) {
        self.left_unread.store(bytes.unwrap_or(UNKNOWN), Relaxed);
        self.is_unread.store(true, Relaxed);
    }

    /// The rest of a request that was not read to its end, as far as that is known.
    pub(super) fn left_unread(&self) -> Option<Option<u64>> {
        let bytes = Some(self.left_unread.load(Relaxed)).filter(|bytes| *bytes != UNKNOWN);
        self.is_unread.load(Relaxed).then_some(bytes)
    }

    pub(super) fn streams(&self, streams: bool) {
        self.streaming.store(streams, Relaxed);
    }

    pub(super) fn is_streaming(&self) -> bool {
        self.streaming.load(Relaxed)
    }

    pub(super) fn ask_in_stream(&self) {
        self.asked_in_stream.store(true, Relaxed);
    }

    /// True if a comment was asked for since the last time.
    pub(super) fn is_asked_in_stream(&self) -> bool {
        self.asked_in_stream.load(Relaxed) && self.asked_in_stream.swap(false, Relaxed)
    }

    pub(super) fn unsent(&self, unsent: bool) {
        self.unsent.store(unsent, Relaxed);
    }

    /// True if a caller who has sent everything waits for more than the system has to send.
    pub(super) fn is_waited_for(&self) -> bool {
        (self.working.load(Relaxed) && self.whole.load(Relaxed)) || self.is_streaming()
    }

    /// True if an interim answer may be sent: a caller waits who knows such, and no answer is under way.
    pub(super) fn may_be_asked(&self) -> bool {
        let waits = self.working.load(Relaxed) && self.whole.load(Relaxed);
        waits && self.knows_interim.load(Relaxed) && !self.is_streaming() && !self.unsent.load(Relaxed)
    }

    pub(super) fn step(&self) {
        self.steps.fetch_add(1, Relaxed);
    }

    /// Ends when nothing has come of the connection for so long, or up to a quarter longer.
    pub(super) async fn stands_still(&self, time: Duration) {
        let mut looks = interval(time / LOOKS);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let (mut seen, mut still) = (None, 0);
        loop {
            looks.tick().await;
            let steps = self.steps.load(Relaxed);
            let stands = !self.working.load(Relaxed) && seen == Some(steps);
            still = if stands { still + 1 } else { 0 };
            if still >= LOOKS {
                return;
            }
            seen = Some(steps);
        }
    }
}
