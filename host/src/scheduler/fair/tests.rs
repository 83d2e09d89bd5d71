//! Tests of fair scheduling.
#![allow(clippy::unwrap_used)]

use super::*;
use proptest::prelude::*;

/// The permits, and calls that wait for them or hold one.
struct Calls {
    fair: Fair,
    /// Calls that wait or were promised a permit: their tenants, numbers and channels.
    waiting: Vec<(usize, u64, oneshot::Receiver<()>)>,
    /// The tenants of calls that hold a permit.
    holding: Vec<usize>,
    /// Turns that each tenant had.
    turns: Vec<usize>,
    permits: usize,
}

impl Calls {
    fn new(permits: usize, shares: &[u32]) -> Self {
        let fair = Fair::new(permits, shares.iter().copied());
        Self { fair, waiting: Vec::new(), holding: Vec::new(), turns: vec![0; shares.len()], permits }
    }

    fn wait(&mut self, tenant: usize) {
        let (tell, told) = oneshot::channel();
        self.waiting.push((tenant, self.fair.wait(tenant, tell), told));
    }

    /// Calls that were promised a permit take it.
    fn take(&mut self) {
        while let Some(promise) = self.fair.promise() {
            promise.tell();
        }
        let (turns, holding) = (&mut self.turns, &mut self.holding);
        self.waiting.retain_mut(|(tenant, _, told)| {
            let has = told.try_recv().is_ok();
            if has {
                turns[*tenant] += 1;
                holding.push(*tenant);
            }
            !has
        });
    }

    fn give_back(&mut self, index: usize, held: Duration) -> usize {
        let tenant = self.holding.remove(index);
        self.fair.give_back(tenant, held);
        tenant
    }

    /// All calls spin: they hold a permit for a tick, and wait for the next one.
    fn spin(&mut self, turns: usize) {
        for _ in 0..turns {
            self.take();
            let tenant = self.give_back(0, TICK);
            self.wait(tenant);
        }
    }

    fn check(&self) {
        assert_eq!(self.fair.free + self.holding.len(), self.permits, "no permit is lost");
        assert!(self.fair.free == 0 || self.waiting.is_empty(), "a permit is free, and somebody waits");
        let known: usize = self.fair.tenants.iter().map(|tenant| tenant.waiting.len()).sum();
        assert_eq!(known, self.waiting.len());
    }
}

#[test]
fn a_tenant_with_a_thousand_calls_gets_as_much_as_one_with_one() {
    let mut calls = Calls::new(1, &[1, 1]);
    (0..1000).for_each(|_| calls.wait(0));
    calls.wait(1);
    calls.spin(1000);
    assert!(calls.turns[1].abs_diff(500) <= 1, "{:?}", calls.turns);
}

#[test]
fn turns_are_as_the_shares_are() {
    let mut calls = Calls::new(3, &[1, 3, 6]);
    for tenant in [0, 1, 2].repeat(20) {
        calls.wait(tenant);
    }
    calls.spin(1000);
    for (turns, expected) in calls.turns.iter().zip([100, 300, 600]) {
        assert!(turns.abs_diff(expected) <= 6, "{:?}", calls.turns);
    }
}

#[test]
fn what_counts_is_the_time_and_not_the_number_of_turns() {
    let mut calls = Calls::new(1, &[1, 1]);
    (0..2).for_each(|tenant| calls.wait(tenant));
    for _ in 0..300 {
        calls.take();
        let held = if calls.holding[0] == 0 { TICK * 2 } else { TICK };
        let tenant = calls.give_back(0, held);
        calls.wait(tenant);
    }
    assert!(calls.turns[0].abs_diff(100) <= 2, "{:?}", calls.turns);
}

#[test]
fn within_a_tenant_whoever_came_first_is_served_first() {
    let mut calls = Calls::new(1, &[1]);
    (0..5).for_each(|_| calls.wait(0));
    for left in (0..5).rev() {
        calls.take();
        let numbers: Vec<u64> = calls.waiting.iter().map(|it| it.1).collect();
        assert_eq!(numbers, (5 - left..5).collect::<Vec<_>>());
        calls.give_back(0, TICK);
    }
}

#[test]
fn nobody_saves_up_while_away() {
    let mut calls = Calls::new(1, &[1, 1]);
    (0..10).for_each(|_| calls.wait(0));
    calls.spin(1000);
    (0..10).for_each(|_| calls.wait(1));
    calls.spin(100);
    assert!(calls.turns[1] <= 52, "{:?}", calls.turns);
}

#[test]
fn whoever_used_a_machine_that_stood_still_is_soon_served_again() {
    let mut calls = Calls::new(1, &[1, 1]);
    (0..2).for_each(|tenant| calls.wait(tenant));
    calls.take();
    assert_eq!(calls.give_back(0, Duration::from_secs(3600)), 0);
    calls.wait(0);
    calls.spin(200);
    assert!(calls.turns[0] > 40, "{:?}", calls.turns);
}

/// Calls of one tenant that begin: those that wait for a place, and how many have one.
#[derive(Default)]
struct Beginning {
    waiting: Vec<((bool, u64), oneshot::Receiver<()>)>,
    begun: usize,
}

impl Beginning {
    /// Promises what there is, and takes it.
    fn take(&mut self, fair: &mut Fair) {
        fair.promise().into_iter().for_each(Promise::tell);
        fair.promise_to_begin(0).into_iter().for_each(Promise::tell);
        let begun = &mut self.begun;
        self.waiting.retain_mut(|(_, told)| {
            let has = told.try_recv().is_ok();
            *begun += usize::from(has);
            !has
        });
    }
}

proptest! {
    #[test]
    fn no_place_to_begin_is_lost_and_no_more_begin_than_there_are_places(
        permits in 1..4_usize,
        steps in prop::collection::vec((0..7_u8, any::<prop::sample::Index>()), 0..300),
    ) {
        let mut fair = Fair::new(permits, [1]);
        let (mut lane, mut beginning) = (Vec::new(), Beginning::default());
        for (what, which) in steps {
            match what {
                // In the lane a call waits for its turn, or ends it.
                0 => {
                    let (tell, told) = oneshot::channel();
                    lane.push((fair.wait(0, tell), told));
                }
                1 if !lane.is_empty() => {
                    let (number, _told) = lane.remove(which.index(lane.len()));
                    if !fair.leave(0, number) {
                        fair.give_back(0, TICK);
                    }
                }
                2..=4 => {
                    let (busy, waited_for) = (!lane.is_empty(), !beginning.waiting.is_empty());
                    match fair.begin(0) {
                        Begins::Freely => prop_assert!(!busy && !waited_for),
                        Begins::InPlace => {
                            prop_assert!(busy && !waited_for);
                            beginning.begun += 1;
                            prop_assert!(beginning.begun <= fair.places(0));
                        }
                        Begins::Not => {
                            let (tell, told) = oneshot::channel();
                            beginning.waiting.push((fair.wait_to_begin(0, what == 4, tell), told));
                        }
                    }
                }
                5 if beginning.begun > 0 => {
                    beginning.begun -= 1;
                    fair.began(0);
                }
                6 if !beginning.waiting.is_empty() => {
                    let (number, _told) = beginning.waiting.remove(which.index(beginning.waiting.len()));
                    prop_assert!(fair.leave_beginning(0, number), "it was not promised a place");
                }
                _ => {}
            }
            beginning.take(&mut fair);
            prop_assert_eq!(fair.beginning, beginning.waiting.len());
            prop_assert_eq!(fair.tenants[0].began, beginning.begun);
            let room = fair.places(0) > beginning.begun;
            prop_assert!(beginning.waiting.is_empty() || !room, "there is a place, and somebody waits for one");
            let known = beginning.waiting.iter().map(|((unknown, _), _)| *unknown);
            prop_assert!(known.clone().count() == fair.tenants[0].beginning.len());
            prop_assert_eq!(fair.is_busy(), !lane.is_empty() || !beginning.waiting.is_empty());
        }
    }

    #[test]
    fn no_permit_is_lost_whatever_calls_do(
        permits in 1..4_usize,
        shares in prop::collection::vec(1..5_u32, 1..4),
        steps in prop::collection::vec((0..4_u8, any::<prop::sample::Index>()), 0..200),
    ) {
        let mut calls = Calls::new(permits, &shares);
        for (what, which) in steps {
            match what {
                0 => calls.wait(which.index(shares.len())),
                1 if !calls.holding.is_empty() => {
                    let index = which.index(calls.holding.len());
                    calls.give_back(index, TICK);
                }
                // Goes away, before or after it was promised a permit, and has not taken it.
                2 | 3 if !calls.waiting.is_empty() => {
                    if what == 2 {
                        calls.fair.promise().into_iter().for_each(Promise::tell);
                    }
                    let (tenant, number, _told) = calls.waiting.remove(which.index(calls.waiting.len()));
                    if !calls.fair.leave(tenant, number) {
                        calls.fair.give_back(tenant, Duration::ZERO);
                    }
                }
                _ => {}
            }
            calls.take();
            calls.check();
        }
    }
}
