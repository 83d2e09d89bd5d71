//! The slow lane: calls that run longer than a tick go on with one of a few permits.
//!
//! A guest that spins gives its thread back at every tick. With yielding alone, a hundred of them would still make
//! everybody else wait for a hundred ticks, since each of them is as runnable as a fresh call. So a call that meets
//! ticks goes on only while it holds a permit, gives it back at the next tick and waits for the next. Tenants take
//! turns, by their shares: see `fair`. There is a permit less than there are threads: one thread is always free for
//! calls that are short.
//!
//! A call that begins is not in the lane yet. While others of its tenant are, it waits until there is a place for it
//! to begin: what it runs until its first tick is taken from the same thread. One of a session whose last call was
//! long begins in the lane.
//!
//! Calls that began together have their deadlines together, too. While anybody is in the lane they end one after the
//! other, since to undo a call takes a thread's time as well; one whose turn comes before its end stops by itself.
//!
//! A call that waits, on a clock or for a slow reader, holds no permit: it gives it back and goes on without one until
//! its next tick.
//!
//! A permit belongs to a session's call, not to one of its stores: a caller that held one while its sibling waited for
//! one would wait for ever.

use super::fair::{Begins, Fair, Promise};
use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU8, Ordering},
    },
    task::Poll,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

/// The permits.
#[derive(Debug, Clone)]
pub(crate) struct Lane(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// A std mutex: nothing waits while it is held.
    fair: Mutex<Fair>,
    /// The last result of [`Fair::is_busy`].
    busy: AtomicBool,
    met: AtomicBool,
    /// The right to end at the deadline: one call at a time has it.
    ends: Arc<Semaphore>,
}

impl Lane {
    /// For calls of tenants with these shares, that run on so many threads.
    pub(crate) fn new(threads: usize, shares: impl IntoIterator<Item = u32>) -> Self {
        let fair = Mutex::new(Fair::new(threads.saturating_sub(1).max(1), shares));
        let ends = Arc::new(Semaphore::new(1));
        Self(Arc::new(Inner { fair, busy: AtomicBool::new(false), met: AtomicBool::new(false), ends }))
    }

    /// Notes that a long-running guest was running when the clock ticked.
    pub(crate) fn meet(&self) {
        self.0.met.store(true, Ordering::Relaxed);
    }

    /// Returns true if one was noted since the last such question.
    pub(crate) fn was_met(&self) -> bool {
        self.0.met.swap(false, Ordering::Relaxed)
    }

    /// Changes a tenant's waiting calls or permits, and tells the calls that get a permit or a place because of it.
    fn change<T>(&self, tenant: usize, what: impl FnOnce(&mut Fair) -> T) -> T {
        let mut fair = self.0.fair.lock().unwrap_or_else(PoisonError::into_inner);
        let done = what(&mut fair);
        // One change makes one permit free, or one call wait.
        let permit = fair.promise();
        let place = fair.promise_to_begin(tenant);
        self.0.busy.store(fair.is_busy(), Ordering::Relaxed);
        drop(fair);
        permit.into_iter().chain(place).for_each(Promise::tell);
        done
    }
}

/// A session's side of the lane: what its running call holds there.
#[derive(Debug)]
pub(crate) struct Permit {
    lane: Lane,
    /// The tenant's place in the configuration.
    tenant: usize,
    holds: Mutex<LaneHold>,
    /// The number of ticks that the session's last call met: one of the constants below.
    last: AtomicU8,
}

/// No call yet.
const UNKNOWN: u8 = 0;
/// The last call met no tick.
const NO_TICK: u8 = 1;
/// The last call met one tick.
const ONE_TICK: u8 = 2;
/// The last call met more than one tick.
const MORE_TICKS: u8 = 3;

/// The state of a call in the lane.
#[derive(Debug)]
enum LaneHold {
    Nothing,
    /// A place to begin.
    Place,
    /// A permit, held since this time.
    Permit(Instant),
    /// The right to end.
    End(#[expect(dead_code, reason = "it is given back when it is dropped")] OwnedSemaphorePermit),
}

impl Permit {
    pub(crate) fn new(lane: Lane, tenant: u16) -> Self {
        Self { lane, tenant: tenant.into(), holds: Mutex::new(LaneHold::Nothing), last: AtomicU8::new(UNKNOWN) }
    }

    /// The lane that the permit is of.
    pub(crate) fn lane(&self) -> &Lane {
        &self.lane
    }

    /// Gives back what is held: the call ended, or its tick did, or it waits.
    pub(crate) fn give_back(&self) {
        self.hold_instead(LaneHold::Nothing);
    }

    /// Gives back what is held, and holds something else.
    fn hold_instead(&self, holds: LaneHold) {
        match self.hold(holds) {
            LaneHold::Nothing => {}
            held => self.lane.change(self.tenant, |fair| self.given_back(fair, held)),
        }
    }

    fn given_back(&self, fair: &mut Fair, held: LaneHold) {
        match held {
            LaneHold::Nothing | LaneHold::End(_) => {}
            LaneHold::Place => fair.began(self.tenant),
            LaneHold::Permit(since) => fair.give_back(self.tenant, since.elapsed()),
        }
    }

    /// Replaces what is held, and returns the former if the lane has to take it back. A right to end is given back
    /// here instead: that wakes a task, and the lane takes back while it is locked.
    fn hold(&self, holds: LaneHold) -> LaneHold {
        let held = std::mem::replace(&mut *self.holds.lock().unwrap_or_else(PoisonError::into_inner), holds);
        if matches!(held, LaneHold::End(_)) { LaneHold::Nothing } else { held }
    }

    /// Admits a call that is about to begin. While others run long, waits for a place, or for a permit if the
    /// session's last call was long.
    pub(crate) async fn begin(self: &Arc<Self>) {
        let last = self.last.load(Ordering::Relaxed);
        if last != NO_TICK {
            self.last.store(NO_TICK, Ordering::Relaxed);
        }
        if !self.lane.0.busy.load(Ordering::Relaxed) {
            return;
        }
        if last == MORE_TICKS {
            self.clone().next_turn().await;
        } else {
            // Boxed: most calls just begin.
            Box::pin(self.clone().place_to_begin(last == UNKNOWN)).await;
        }
    }

    async fn place_to_begin(self: Arc<Self>, unknown: bool) {
        let waits = self.lane.change(self.tenant, |fair| match fair.begin(self.tenant) {
            Begins::Freely => None,
            Begins::InPlace => {
                self.hold(LaneHold::Place);
                None
            }
            Begins::Not => {
                let (tell, told) = oneshot::channel();
                Some((fair.wait_to_begin(self.tenant, unknown, tell), told))
            }
        });
        if let Some((number, told)) = waits {
            let place = LaneSlot { permit: self, waits: Some(Waits::ToBegin(number)) };
            place.told(told).await;
        }
    }

    /// Drives a call that waits at its deadline until it has the right to end. Returns the output if the call ends by
    /// itself meanwhile.
    pub(crate) async fn end<F: Future>(&self, mut call: Pin<&mut F>) -> Option<F::Output> {
        if !self.lane.0.busy.load(Ordering::Relaxed) {
            return None;
        }
        let mut right = Box::pin(self.lane.0.ends.clone().acquire_owned());
        let ended = poll_fn(|cx| match call.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Ok(output)),
            Poll::Pending => right.as_mut().poll(cx).map(Err),
        });
        match ended.await {
            Ok(output) => Some(output),
            Err(right) => {
                // Nobody closes it.
                self.hold_instead(right.map_or(LaneHold::Nothing, LaneHold::End));
                None
            }
        }
    }

    /// Returns true if a call that meets a tick may go on at once, since even a short call can meet one by chance. A
    /// young call always may. While the lane is busy, any call may at its first tick: perhaps the system had
    /// suspended its thread, and in the lane it would wait for all the others.
    pub(crate) fn goes_on(&self, is_young: bool) -> bool {
        let is_first = self.last.load(Ordering::Relaxed) <= NO_TICK;
        self.last.store(if is_first { ONE_TICK } else { MORE_TICKS }, Ordering::Relaxed);
        is_young || (is_first && self.lane.0.busy.load(Ordering::Relaxed))
    }

    /// Gives the permit back at a tick, and waits for the next one.
    pub(crate) fn next_turn(self: Arc<Self>) -> Pin<Box<dyn Future<Output = ()> + Send>> {
        let (tell, told) = oneshot::channel();
        let held = self.hold(LaneHold::Nothing);
        // In one step: it may be this very call's turn again, since it may be its tenant's only one.
        let number = self.lane.change(self.tenant, |fair| {
            let number = fair.wait(self.tenant, tell);
            self.given_back(fair, held);
            number
        });
        let place = LaneSlot { permit: self, waits: Some(Waits::ForTurn(number)) };
        Box::pin(place.told(told))
    }
}

/// A session that goes away in the middle of a call gives its permit back.
impl Drop for Permit {
    fn drop(&mut self) {
        self.give_back();
    }
}

/// A waiting call's place in the queue. Dropping it leaves the queue, and gives back what was already promised.
struct LaneSlot {
    permit: Arc<Permit>,
    waits: Option<Waits>,
}

/// The queue that a call waits in, and its number there.
#[derive(Debug, Clone, Copy)]
enum Waits {
    ToBegin((bool, u64)),
    ForTurn(u64),
}

impl LaneSlot {
    /// Waits until the permit or place is promised, and takes it.
    async fn told(mut self, told: oneshot::Receiver<()>) {
        // The sender is kept until the promise is told.
        let _ = told.await;
        // Whoever is woken by a task that ends its turn is run next on the same thread, before all that wait there: one
        // turn would follow the other. Yielding lets the others go first.
        tokio::task::yield_now().await;
        self.permit.hold(match self.waits.take() {
            Some(Waits::ForTurn(_)) => LaneHold::Permit(Instant::now()),
            Some(Waits::ToBegin(_)) => LaneHold::Place,
            None => LaneHold::Nothing,
        });
    }
}

impl Drop for LaneSlot {
    fn drop(&mut self) {
        let Permit { lane, tenant, .. } = &*self.permit;
        let Some(waits) = self.waits else { return };
        lane.change(*tenant, |fair| match waits {
            Waits::ForTurn(number) if !fair.leave(*tenant, number) => fair.give_back(*tenant, Duration::ZERO),
            Waits::ToBegin(number) if !fair.leave_beginning(*tenant, number) => fair.began(*tenant),
            _ => {}
        });
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    fn free(lane: &Lane) -> usize {
        lane.0.fair.lock().unwrap().free()
    }

    #[tokio::test]
    async fn permits_are_given_back_at_each_turn_at_the_end_and_when_a_call_is_dropped() {
        let lane = Lane::new(2, [1]);
        let (first, second) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 0)));
        first.clone().next_turn().await;
        assert_eq!(free(&lane), 0);
        // Waiting, and dropped while it waits.
        let waiting = tokio::spawn(second.clone().next_turn());
        tokio::task::yield_now().await;
        waiting.abort();
        assert!(waiting.await.is_err());
        first.clone().next_turn().await;
        // Promised a permit, and dropped before it has looked.
        let promised = second.clone().next_turn();
        first.give_back();
        drop(promised);
        assert_eq!(free(&lane), 1);
        first.clone().next_turn().await;
        drop(first);
        assert_eq!(free(&lane), 1);
        second.clone().next_turn().await;
        second.give_back();
        second.give_back();
        assert_eq!(free(&lane), 1);
    }

    #[tokio::test]
    async fn calls_begin_one_after_the_other_while_one_of_their_tenant_runs_long_and_known_ones_go_first() {
        let lane = Lane::new(2, [1, 1]);
        let permit = |tenant| Arc::new(Permit::new(lane.clone(), tenant));
        let (long, known) = (permit(0), permit(0));
        // Nobody runs long: any number begins.
        for permit in [&long, &known, &permit(0)] {
            permit.begin().await;
        }
        long.clone().next_turn().await;
        // Another tenant's do not care.
        for _ in 0..3 {
            permit(1).begin().await;
        }
        let (first, second, third) = (permit(0), permit(0), permit(0));
        first.begin().await;
        let begins = |permit: &Arc<Permit>| {
            let permit = permit.clone();
            tokio::spawn(async move { permit.begin().await })
        };
        let (begins_second, begins_third) = (begins(&second), begins(&third));
        tokio::task::yield_now().await;
        let begins_known = begins(&known);
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        let begun = || [&begins_second, &begins_third, &begins_known].map(|it| it.is_finished());
        assert_eq!(begun(), [false; 3]);
        // Its turn ends, or it waits.
        first.give_back();
        begins_known.await.unwrap();
        assert!(!begins_second.is_finished() && !begins_third.is_finished());
        // One that goes away leaves its place in the queue.
        begins_second.abort();
        assert!(begins_second.await.is_err());
        known.give_back();
        begins_third.await.unwrap();
        third.give_back();
        // One whose last call was long begins in the lane: not before there is a permit.
        assert!(third.goes_on(false) && !third.goes_on(false));
        let again = begins(&third);
        for _ in 0..5 {
            tokio::task::yield_now().await;
        }
        assert!(!again.is_finished());
        long.give_back();
        again.await.unwrap();
        assert_eq!(free(&lane), 0);
        third.give_back();
        assert_eq!(free(&lane), 1);
        assert!(!lane.0.busy.load(Ordering::Relaxed));
    }

    #[tokio::test]
    async fn while_anybody_runs_long_calls_end_at_their_deadlines_one_after_the_other() {
        let lane = Lane::new(2, [1]);
        let permit = || Arc::new(Permit::new(lane.clone(), 0));
        let (long, one, other, third) = (permit(), permit(), permit(), permit());
        let never = std::future::pending::<()>;
        // Nobody runs long.
        assert_eq!(one.end(std::pin::pin!(never())).await, None);
        assert_eq!(other.end(std::pin::pin!(never())).await, None);
        long.clone().next_turn().await;
        assert_eq!(one.end(std::pin::pin!(never())).await, None);
        let ends = tokio::spawn(async move { (other.end(std::pin::pin!(never())).await, other) });
        tokio::task::yield_now().await;
        assert!(!ends.is_finished());
        // One that comes to its end by itself meanwhile gives what it gives.
        assert_eq!(third.end(std::pin::pin!(async { 1 })).await, Some(1));
        one.give_back();
        let (ended, other) = ends.await.unwrap();
        assert_eq!(ended, None);
        other.give_back();
        assert_eq!(third.end(std::pin::pin!(never())).await, None);
    }

    #[tokio::test]
    async fn a_tenants_only_call_may_have_the_next_turn_too() {
        let lane = Lane::new(2, [1, 1000]);
        let (one, other) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 1)));
        one.clone().next_turn().await;
        tokio::time::sleep(Duration::from_millis(1)).await;
        let mut waiting = tokio::spawn(other.clone().next_turn());
        tokio::task::yield_now().await;
        let again = tokio::spawn(one.clone().next_turn());
        (&mut waiting).await.unwrap();
        other.clone().next_turn().await;
        assert!(!again.is_finished(), "its share is a thousandth of the other's");
        again.abort();
    }
}
