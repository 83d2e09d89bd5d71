//! The lane through its permits: what a session's calls do, one after the other, and in any order beside others'.
#![allow(clippy::unwrap_used)]

use super::{Lane, Permit};
use proptest::{collection::vec, prelude::*};
use std::{future::pending, mem, pin::pin, sync::Arc, time::Duration};
use tokio::{
    task::{JoinHandle, yield_now},
    time::{Instant, advance},
};

/// Sessions of the property test, by their tenants.
const SESSIONS: [u16; 7] = [0, 0, 0, 1, 1, 2, 2];
const THREADS: usize = 3;

thread_local! {
    static BEGAN: Instant = Instant::now();
}

/// The time of the test's own clock, which may be paused.
fn paused() -> Duration {
    BEGAN.with(|began| Instant::now().saturating_duration_since(*began))
}

/// An event in a session.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    /// Its next call begins.
    Begin,
    /// A tick meets its call.
    Tick,
    /// Its call waits, on a clock or for a reader.
    Wait,
    /// Its call meets its deadline.
    Deadline,
    /// Its call ends, or is dropped wherever it is.
    End,
    /// It is dropped, with its call.
    Leave,
}

/// A session, and its call as far as it has come.
struct Caller {
    permit: Arc<Permit>,
    call: Call,
}

enum Call {
    None,
    Runs,
    Waits(Step, JoinHandle<()>),
}

impl Caller {
    fn new(lane: &Lane, tenant: u16) -> Self {
        Self { permit: Arc::new(Permit::new(lane.clone(), tenant)), call: Call::None }
    }

    fn is_over(&self) -> bool {
        matches!(&self.call, Call::Waits(_, waits) if waits.is_finished())
    }

    async fn take(&mut self, step: Step) {
        let permit = self.permit.clone();
        let waits = match (step, &self.call) {
            (Step::Begin, Call::None) => tokio::spawn(async move { permit.drive(pin!(permit.begin())).await }),
            (Step::Tick, Call::Runs) if !permit.goes_on(false) => {
                tokio::spawn(async move { permit.drive(pin!(permit.clone().next_turn())).await })
            }
            (Step::Deadline, Call::Runs) => tokio::spawn(async move {
                assert_eq!(permit.drive(pin!(permit.end(pin!(pending::<()>())))).await, None);
            }),
            (Step::Wait, Call::Runs) => return permit.give_back(),
            (Step::End, _) => return self.end().await,
            _ => return,
        };
        self.call = Call::Waits(step, waits);
    }

    /// Ends the call as whoever runs one does, wherever it is.
    async fn end(&mut self) {
        self.give_up().await;
        self.permit.give_back();
    }

    async fn give_up(&mut self) {
        if let Call::Waits(_, waits) = mem::replace(&mut self.call, Call::None) {
            waits.abort();
            let _ = waits.await;
        }
    }

    fn waits_for(&self, what: Step) -> bool {
        matches!(self.call, Call::Waits(step, _) if step == what)
    }
}

/// Lets all that can go on do so.
async fn settle(callers: &mut [Caller]) {
    for _ in 0..4 * SESSIONS.len() {
        yield_now().await;
    }
    for caller in callers {
        if caller.is_over() {
            caller.call = Call::Runs;
        }
    }
}

fn step() -> impl Strategy<Value = (usize, Step)> {
    let step = prop_oneof![
        4 => Just(Step::Begin),
        6 => Just(Step::Tick),
        1 => Just(Step::Wait),
        1 => Just(Step::Deadline),
        3 => Just(Step::End),
        1 => Just(Step::Leave),
    ];
    (0..SESSIONS.len(), step)
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    /// No permit is lost, none is given twice, and none is free while a call waits for one; whoever waits goes on once
    /// the others have ended.
    #[test]
    fn permits_are_neither_lost_nor_made_nor_free_while_a_call_waits(steps in vec(step(), 1..120)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let lane = Lane::with_clock(THREADS, [1, 2, 5], paused);
            let mut callers: Vec<_> = SESSIONS.iter().map(|tenant| Caller::new(&lane, *tenant)).collect();
            for (which, step) in steps {
                if let Step::Leave = step {
                    callers[which].give_up().await;
                    callers[which] = Caller::new(&lane, SESSIONS[which]);
                } else {
                    callers[which].take(step).await;
                }
                settle(&mut callers).await;
                let held = callers.iter().filter(|caller| caller.permit.has_permit()).count();
                prop_assert_eq!(held + lane.free(), THREADS - 1);
                prop_assert!(lane.free() == 0 || !callers.iter().any(|caller| caller.waits_for(Step::Tick)));
                prop_assert!(lane.is_busy() || !callers.iter().any(|caller| caller.waits_for(Step::Begin)));
                advance(Duration::from_micros(100)).await;
            }
            // Whoever runs ends, until nobody is left: nobody waits in vain.
            for _ in 0..callers.len() {
                for nth in 0..callers.len() {
                    if matches!(callers[nth].call, Call::Runs) {
                        callers[nth].end().await;
                        settle(&mut callers).await;
                    }
                }
            }
            prop_assert!(callers.iter().all(|caller| matches!(caller.call, Call::None)));
            prop_assert!(lane.free() == THREADS - 1 && !lane.is_busy());
            Ok(())
        })?;
    }
}

#[tokio::test]
async fn permits_are_given_back_at_each_turn_at_the_end_and_when_a_call_is_dropped() {
    let lane = Lane::new(2, [1]);
    let (first, second) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 0)));
    first.clone().next_turn().await;
    assert_eq!(lane.free(), 0);
    // Waiting, and dropped while it waits.
    let waiting = tokio::spawn(second.clone().next_turn());
    yield_now().await;
    waiting.abort();
    assert!(waiting.await.is_err());
    first.clone().next_turn().await;
    // Promised a permit, and dropped before it has looked.
    let promised = second.clone().next_turn();
    first.give_back();
    drop(promised);
    assert_eq!(lane.free(), 1);
    first.clone().next_turn().await;
    drop(first);
    assert_eq!(lane.free(), 1);
    second.clone().next_turn().await;
    second.give_back();
    second.give_back();
    assert_eq!(lane.free(), 1);
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
    yield_now().await;
    let begins_known = begins(&known);
    for _ in 0..5 {
        yield_now().await;
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
        yield_now().await;
    }
    assert!(!again.is_finished());
    long.give_back();
    again.await.unwrap();
    assert_eq!(lane.free(), 0);
    third.give_back();
    assert_eq!(lane.free(), 1);
    assert!(!lane.is_busy());
}

#[tokio::test]
async fn while_anybody_runs_long_calls_end_at_their_deadlines_one_after_the_other() {
    let lane = Lane::new(2, [1]);
    let permit = || Arc::new(Permit::new(lane.clone(), 0));
    let (long, one, other, third) = (permit(), permit(), permit(), permit());
    let never = pending::<()>;
    // Nobody runs long.
    assert_eq!(one.end(pin!(never())).await, None);
    assert_eq!(other.end(pin!(never())).await, None);
    long.clone().next_turn().await;
    assert_eq!(one.end(pin!(never())).await, None);
    let ends = tokio::spawn(async move { (other.end(pin!(never())).await, other) });
    yield_now().await;
    assert!(!ends.is_finished());
    // One that comes to its end by itself meanwhile gives what it gives.
    assert_eq!(third.end(pin!(async { 1 })).await, Some(1));
    one.give_back();
    let (ended, other) = ends.await.unwrap();
    assert_eq!(ended, None);
    other.give_back();
    assert_eq!(third.end(pin!(never())).await, None);
}

#[tokio::test(start_paused = true)]
async fn a_tenants_only_call_may_have_the_next_turn_too() {
    let lane = Lane::with_clock(2, [1, 1000], paused);
    let (one, other) = (Arc::new(Permit::new(lane.clone(), 0)), Arc::new(Permit::new(lane.clone(), 1)));
    one.clone().next_turn().await;
    tokio::time::sleep(Duration::from_millis(1)).await;
    let mut waiting = tokio::spawn(other.clone().next_turn());
    yield_now().await;
    let again = tokio::spawn(one.clone().next_turn());
    (&mut waiting).await.unwrap();
    other.clone().next_turn().await;
    assert!(!again.is_finished(), "its share is a thousandth of the other's");
    again.abort();
}
