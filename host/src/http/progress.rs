//! The progress of a connection: finds out if it makes any, and tracks what is under way on it.
//!
//! A connection is closed when for some time no request of it is worked on, and no part of an answer is taken: it is
//! idle, its next request's headers come byte by byte, or its caller does not read. The time for which a request is
//! worked on is bounded by the limits of calls. No timer runs for that: steps are counted, and looked at now and
//! then.
//!
//! Only one task uses this, the connection's. The fields are atomic only because tasks move between threads.

use hyper::body::Incoming;
use std::{
    sync::{
        Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};
use tokio::time::{MissedTickBehavior, interval};

/// The number of looks in the time for which a connection may stand still.
const LOOKS: u32 = 4;
/// The number of unread bytes if it is not known.
const UNKNOWN: u64 = u64::MAX;

/// The state and steps of a connection.
#[derive(Debug, Default)]
pub(super) struct Progress {
    /// True while a request is worked on.
    working: AtomicBool,
    /// True if the request's body has come as a whole.
    whole: AtomicBool,
    /// True if the request's caller knows interim answers.
    knows_interim: AtomicBool,
    /// True while the answer is a stream of events that has not ended.
    streaming: AtomicBool,
    /// True if the stream is to have a comment.
    asked_in_stream: AtomicBool,
    /// True if the system has not yet taken all bytes of an answer.
    unsent: AtomicBool,
    /// True if a request was answered, and bytes that come belong to the next one.
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

    /// Takes such a body.
    pub(super) fn given_up(&self) -> Option<Incoming> {
        if !self.is_given_up.load(Relaxed) {
            return None;
        }
        self.is_given_up.store(false, Relaxed);
        self.body.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    /// Notes that so much of a request, if known, will not be read.
    pub(super) fn leaves_unread(&self, bytes: Option<u64>) {
        self.left_unread.store(bytes.unwrap_or(UNKNOWN), Relaxed);
        self.is_unread.store(true, Relaxed);
    }

    /// The rest of a request that was not read to its end, if its size is known.
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

    /// Ends when the connection has made no progress for so long, or up to a quarter longer.
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
