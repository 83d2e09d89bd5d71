//! Limits of memory, as the machine sees them: the process's resident memory, sampled while it is attacked.

use crate::served::{Served, head, read_all};
use carrel_tests::Test;
use serde_json::{Value, json};
use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    thread::{scope, sleep},
    time::Duration,
};

const LIMIT: u64 = 256 << 20;
/// The most uncounted bytes of a process: the allocator's own, and memory just freed.
const BESIDES: u64 = 24 << 20;
const PAGE: u64 = 4096;
const FIRST: u64 = 65536;
const PAGES: u64 = ((60 << 20) - FIRST) / PAGE;

/// The most that was seen of the process and of its counter.
#[derive(Default)]
struct Seen {
    resident: AtomicU64,
    counted: AtomicU64,
}

/// Runs an attack by several callers, each with its own users, and samples meanwhile.
fn attack(settings: &[(&str, Value)], attack: impl Fn(&Served, usize) + Sync) -> (Seen, Served) {
    let test = Test::fixture("large").set("limits.memory", "256 MiB").set("limits.deadline", "60s");
    let test = settings.iter().fold(test, |test, (key, value)| test.set(key, value.clone()));
    let served = Served::start("", &test);
    let (seen, over) = (Seen::default(), AtomicBool::new(false));
    let before = served.resident();
    scope(|scope| {
        let sampling = scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                seen.resident.fetch_max(served.resident().saturating_sub(before), Ordering::Relaxed);
                let counted = served.figure_if_any("carrel_memory_bytes").unwrap_or_default();
                seen.counted.fetch_max(counted, Ordering::Relaxed);
                sleep(Duration::from_millis(3));
            }
        });
        let (attack, served) = (&attack, &served);
        let attacks: Vec<_> = (0..4).map(|caller| scope.spawn(move || attack(served, caller))).collect();
        // The sampler ends whatever has become of the attacks.
        let ended: Vec<_> = attacks.into_iter().map(|attack| attack.join()).collect();
        over.store(true, Ordering::Relaxed);
        sampling.join().expect("no panic");
        ended.into_iter().for_each(|attack| attack.expect("no panic"));
    });
    (seen, served)
}

fn holds(what: &str, (seen, _served): &(Seen, Served)) {
    let (resident, counted) = (seen.resident.load(Ordering::Relaxed), seen.counted.load(Ordering::Relaxed));
    println!("{what}: {} MiB resident, {} MiB counted", resident >> 20, counted >> 20);
    assert!(resident <= LIMIT + LIMIT * 15 / 100 + BESIDES, "{what}: {resident} bytes are resident");
    assert!(counted <= LIMIT + LIMIT * 5 / 100, "{what}: {counted} bytes are counted");
}

/// The status and the code of an answer.
fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[test]
fn memory_that_is_reserved_first_and_written_to_later_is_bounded() {
    let done = attack(&[], |served, caller| {
        let users: Vec<_> = (0..10).map(|user| format!("user-{caller}-{user}")).collect();
        for user in &users {
            served.call("/it", user, &json!([4]));
        }
        for user in &users {
            let answer = served.call("/it", user, &json!([1, FIRST, PAGES, PAGE, 1]));
            assert!(["200", "503"].contains(&status(&answer)), "{answer}");
        }
    });
    holds("reserved and written", &done);
}

#[test]
fn memory_that_is_kept_to_undo_calls_is_bounded() {
    let done = attack(&[], |served, caller| {
        for user in 0..3 {
            let user = format!("user-{caller}-{user}");
            served.call("/it", &user, &json!([7, FIRST, PAGES * 256, user.len()]));
            for _ in 0..2 {
                served.call("/it", &user, &json!([1, FIRST, PAGES, PAGE, 7, "trap"]));
                served.call("/it", &user, &json!([5, FIRST, PAGES * PAGE, 9, "trap"]));
            }
        }
    });
    holds("kept to be undone", &done);
}

#[test]
fn memory_of_those_who_are_parked_and_woken_all_the_time_is_bounded() {
    let done = attack(&[("sessions.park_after", json!("20ms"))], |served, caller| {
        let users: Vec<_> = (0..4).map(|user| format!("user-{caller}-{user}")).collect();
        for round in 0..3 {
            for user in &users {
                let answer = served.call("/it", user, &json!([7, FIRST, PAGES * 100, round * 8 + 1]));
                assert!(["200", "503"].contains(&status(&answer)), "{answer}");
                sleep(Duration::from_millis(60));
            }
        }
    });
    holds("parked and woken", &done);
}

/// A store keeps the stack of its last call, but not the pages that a deep call has used.
#[test]
fn memory_of_stacks_that_calls_went_deep_on_does_not_stay() {
    const USERS: usize = 1000;
    let served = Served::start("", &Test::fixture("goes-deep"));
    served.call("/it", "first", &json!(null));
    let (resident, counted) = (served.resident(), served.figure("carrel_memory_bytes"));
    for user in 0..USERS {
        let answer = served.call("/it", &format!("user-{user}"), &json!(null));
        assert!(answer.contains(r#""value":2000"#), "{answer}");
    }
    let resident = served.resident() - resident;
    let counted = served.figure("carrel_memory_bytes") - counted;
    println!("{USERS} users: {} KiB resident, {} KiB counted", resident >> 10, counted >> 10);
    assert!(resident <= counted + counted * 15 / 100 + (8 << 20), "{resident} bytes are resident, {counted} counted");
}

/// A running call is charged for all of its stack, whether it goes deep or not: the memory bounds how many run at
/// once.
#[test]
fn memory_of_stacks_that_calls_stay_deep_on_is_bounded() {
    const LIMIT: u64 = 48 << 20;
    const CALLERS: usize = 600;
    let test = Test::fixture("goes-deep")
        .set("limits.memory", LIMIT)
        .set("limits.fuel_per_call", 1_000_000_000_000_u64)
        .set("limits.deadline", "3s")
        .set("limits.calls", CALLERS);
    let served = Served::start("", &test);
    served.call("/it", "first", &json!(null));
    let before = served.resident();
    let callers: Vec<_> = (0..CALLERS)
        .map(|user| {
            served.connect(
                format!(
                    "{}connection: close\r\ncontent-length: 7\r\n\r\n\"stay\" ",
                    head("/it", &format!("user-{user}"))
                )
                .as_bytes(),
            )
        })
        .collect();
    let (mut resident, mut counted) = (0, 0);
    let answers = scope(|scope| {
        let answers = scope.spawn(|| callers.into_iter().map(read_all).collect::<Vec<_>>());
        while !answers.is_finished() {
            resident = resident.max(served.resident().saturating_sub(before));
            counted = counted.max(served.figure_if_any("carrel_memory_bytes").unwrap_or_default());
            sleep(Duration::from_millis(3));
        }
        answers.join().expect("no panic")
    });
    let (ran, refused) = answers.iter().partition::<Vec<_>, _>(|answer| status(answer) != "503");
    println!(
        "{} ran, {} were refused; {} MiB resident, {} MiB counted",
        ran.len(),
        refused.len(),
        resident >> 20,
        counted >> 20
    );
    assert!(ran.iter().all(|answer| answer.contains("deadline_exceeded")), "{ran:?}");
    assert!(refused.iter().all(|answer| answer.contains("host_full")), "{refused:?}");
    assert!(ran.len() > 50, "{} ran", ran.len());
    assert!(resident <= LIMIT + LIMIT * 15 / 100 + BESIDES, "{resident} bytes are resident, {counted} counted");
}
