//! A call waits for its turn, for a place, for memory: all that is bounded by its one deadline, and room is made by
//! those whose room is missing.

use carrel_tests::{Caller, Listening, Server, Test};
use serde_json::{Value, json};
use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::Poll,
    time::Duration,
};
use tokio::{
    task::yield_now,
    time::{Instant, timeout},
};

fn count() -> Value {
    json!({"do": "count"})
}

fn sleep(milliseconds: u64) -> Value {
    json!({"do": "sleep", "milliseconds": milliseconds})
}

fn take(bytes: usize) -> Value {
    json!({"do": "take", "bytes": bytes})
}

fn hostile(server: &Server, tenant: &str, user: usize) -> Caller {
    server.user_of(tenant, user).at("/hostile")
}

/// Calls until there is room: evictors begin to make it a moment after the host has begun to serve.
async fn until_served(caller: &Caller, input: Value) {
    let served = async {
        while caller.call(input.clone()).await.status != 200 {
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), served).await.expect("room is made as soon as the host serves");
}

/// Parks everybody, also those whom an evictor is about to park.
async fn until_asleep(server: &Server) {
    let asleep = async {
        while server.host.tenants()[0].memory_used() > 1 << 20 {
            server.park().await;
            yield_now().await;
        }
    };
    timeout(Duration::from_secs(20), asleep).await.expect("everybody can be parked");
}

#[tokio::test(start_paused = true)]
async fn a_call_runs_no_longer_than_what_its_wait_has_left_of_its_deadline() {
    let server = Test::hostile().set("limits.deadline", "10s").start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let began = Instant::now();
    let first = alice.spawn(sleep(8000));
    server.until_in_use(1).await;
    let [short, long] = [sleep(1000), sleep(5000)].map(|input| alice.spawn(input));
    server.until_in_use(3).await;
    let late = alice.spawn(count());
    first.await.expect("no panic").ok();
    short.await.expect("no panic").ok();
    let error = long.await.expect("no panic").error(504, "deadline_exceeded");
    assert!(error["detail"].as_str().is_some_and(|it| it.contains("ran longer")), "{error}");
    assert_eq!(error["setting"], "limits.deadline");
    // A call that has waited for all of its time has never run.
    let error = late.await.expect("no panic").error(504, "deadline_exceeded");
    assert!(error["detail"].as_str().is_some_and(|it| it.contains("was not run")), "{error}");
    let took = began.elapsed();
    assert!((Duration::from_secs(10)..Duration::from_secs(11)).contains(&took), "{took:?}");
    assert_eq!(alice.call(count()).await.ok()["calls"], 4);
}

/// Uses the system's own clock, not a paused one.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_waited_does_not_begin_its_deadline_anew() {
    let server = Test::hostile().set("limits.deadline", "2s").start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let first = alice.spawn(sleep(1500));
    server.until_in_use(1).await;
    let second = alice.call(sleep(1500)).await;
    second.error(504, "deadline_exceeded");
    first.await.expect("no panic").ok();
}

/// One call runs, 128 wait, and there is one unit of fuel: a call with none left at its turn is not run.
#[tokio::test(start_paused = true)]
async fn queued_calls_are_refused_when_those_before_them_have_used_the_fuel() {
    for level in ["user", "tenant"] {
        let server = Test::hostile()
            .tenant("red", 1, 2)
            .set("limits.deadline", "1h")
            .set("limits.queue_per_session", 128)
            .set(&format!("limits.{level}"), json!({"fuel_per_second": 1, "fuel_burst": 1}))
            .start()
            .await;
        let alice = hostile(&server, "red", 0);
        let first = alice.spawn(sleep(100));
        server.until_in_use(1).await;
        let queued: Vec<_> = (0..128).map(|_| alice.spawn(count())).collect();
        // Under load the first one is charged before it sleeps, and they are refused when they come.
        let refused = || queued.iter().any(|call| call.is_finished());
        server.until("all wait, or are refused", |host| host.registry().in_use() >= 129 || refused()).await;
        first.await.expect("no panic").ok();
        for call in queued {
            let refused = call.await.expect("no panic");
            let error = refused.error(429, "budget_spent");
            assert_eq!(error["setting"], format!("limits.{level}.fuel_per_second"));
            assert!(refused.retry_after() > 1000, "{refused:?}");
            assert!(["0", ""].contains(&refused.header("carrel-fuel")), "no guest was run: {refused:?}");
        }
        let other = hostile(&server, "red", 1).call(count()).await;
        assert_eq!(other.status, if level == "user" { 200 } else { 429 });
    }
}

/// Sessions of another tenant are parked all the time: that is no progress for a tenant that is full, none of whose
/// sessions is idle, and its call is refused at once.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn what_is_freed_in_another_tenant_keeps_nobody_waiting() {
    let server = Test::hostile()
        .tenant("full", 1, 4)
        .tenant("other", 1, 8)
        .set("limits.deadline", "60s")
        .set("sessions.park_after", "1h")
        .set("tenants.full.limits.tenant.memory", "4 MiB")
        .start()
        .await;
    let listening = server.listen().await;
    hostile(&server, "full", 0).call(take(1 << 20)).await.ok();
    until_served(&hostile(&server, "full", 1), take(3 << 20)).await;
    // All that there is belongs to one who is busy.
    until_asleep(&server).await;
    let busy = json!({"do": "all", "of": [take(3 << 20), sleep(50_000)]});
    let busy = hostile(&server, "full", 2).spawn(busy);
    server.until_in_use(1).await;
    server.until("it has its memory", |host| host.tenants()[0].memory_used() >= 3 << 20).await;
    let stop = Arc::new(AtomicBool::new(false));
    let churns: Vec<_> = (0..8)
        .map(|user| {
            let (server, stop) = (server.clone(), stop.clone());
            tokio::spawn(async move {
                while !stop.load(Ordering::Relaxed) {
                    hostile(&server, "other", user).call(count()).await.ok();
                    server.park().await;
                }
            })
        })
        .collect();
    let before = server.host.registry().parkings();
    server.until("others are parked", |host| host.registry().parkings() >= before + 50).await;
    for _ in 0..5 {
        let refused = timeout(Duration::from_secs(10), hostile(&server, "full", 3).call(take(1 << 20))).await;
        let refused = refused.expect("it is told at once");
        assert_eq!(refused.error(503, "tenant_full")["setting"], "limits.tenant.memory");
    }
    assert!(!busy.is_finished());
    stop.store(true, Ordering::Relaxed);
    for churn in churns {
        churn.await.expect("the other tenant was served meanwhile");
    }
    busy.abort();
    let _ = busy.await;
    listening.stop().await.expect("the server ends");
}

/// Two tenants are full, and many of both ask for room at once, again and again: each tenant gets some.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn wishes_for_room_of_two_tenants_at_once_are_both_met() {
    const USERS: usize = 24;
    let server = Test::hostile()
        .tenant("red", 1, USERS)
        .tenant("blue", 1, USERS)
        .set("limits.deadline", "60s")
        .set("limits.tenant.memory", "8 MiB")
        .set("sessions.park_after", "1h")
        .start()
        .await;
    let listening = server.listen().await;
    for tenant in ["red", "blue"] {
        for user in 0..8 {
            until_served(&hostile(&server, tenant, user), take(1 << 20)).await;
        }
    }
    for round in 1..=3 {
        for users in (0..USERS).collect::<Vec<_>>().chunks(2) {
            let calls = users.iter().flat_map(|user| ["red", "blue"].map(|tenant| (tenant, *user)));
            let calls: Vec<_> = calls.map(|(tenant, user)| hostile(&server, tenant, user).spawn(count())).collect();
            for call in calls {
                let calls = call.await.expect("no panic").ok()["calls"].as_u64();
                assert!(calls >= Some(round), "{calls:?} in round {round}");
            }
        }
    }
    assert!(server.host.tenants().iter().all(|tenant| tenant.memory_used() <= 8 << 20));
    listening.stop().await.expect("the server ends");
}

/// A server with a second guest at `/it`, whose tenant `red` had users who took nearly all of its memory, and are parked.
async fn full_of_sleepers(guest: &str, users: usize) -> (Server, Listening) {
    let server = Test::hostile()
        .set("guests", json!([carrel_tests::HOSTILE, Test::fixture_file(guest)]))
        .set("functions.it", json!({"_type": guest.replace('-', "_")}))
        .endpoint("/it", "it")
        .tenant("red", 1, users)
        .set("limits.body_size", "4 MiB")
        .set("limits.tenant.memory", "5 MiB")
        .set("sessions.park_after", "1h")
        .start()
        .await;
    let listening = server.listen().await;
    hostile(&server, "red", 0).call(take(3 << 20)).await.ok();
    until_served(&hostile(&server, "red", 1), take(3 << 20)).await;
    until_asleep(&server).await;
    (server, listening)
}

/// One of a session's two instances holds something of the host's and stays; the other one's memory still becomes
/// free.
#[tokio::test(flavor = "multi_thread")]
async fn a_session_of_which_only_a_part_can_be_parked_makes_room() {
    let (server, listening) = full_of_sleepers("handle", 4).await;
    let alice = server.user_of("red", 2);
    assert_eq!(alice.clone().at("/it").call(json!("take")).await.ok()["held"], 1);
    alice.clone().at("/hostile").call(take(3 << 20)).await.ok();
    let parkings = server.host.registry().parkings();
    // There is room for one of them only, and only alice can make it. The body is no text, which is seen once it is
    // read.
    hostile(&server, "red", 3).body(vec![0xff; 2 << 20]).await.error(400, "not_utf8");
    assert_eq!(server.host.registry().parkings(), parkings, "nobody was parked as a whole");
    assert_eq!(alice.clone().at("/it").call(json!({})).await.ok(), json!({"count": 2, "held": 1}));
    assert_eq!(alice.at("/hostile").call(json!({"do": "holds"})).await.ok()["said"]["kept"], 3 << 20);
    listening.stop().await.expect("the server ends");
}

/// A caller who arrives just when a place is free does not get it before one who has waited.
#[tokio::test]
async fn a_place_among_the_live_sessions_goes_to_whoever_has_waited_for_it() {
    let server = Test::hostile().set("limits.max_sessions", 1).set("sessions.park_after", "1h").start().await;
    let listening = server.listen().await;
    let user = |name: &str| server.user(name).at("/hostile");
    for round in 0..5 {
        user("alice").call(count()).await.ok();
        let parked = server.host.registry().parked();
        let barges = tokio::spawn({
            let (server, carol) = (server.clone(), user(&format!("carol {round}")));
            async move {
                // Looks each time that others have had their turns.
                let is_free = || server.host.registry().parked() > parked;
                poll_fn(|cx| {
                    cx.waker().wake_by_ref();
                    if is_free() { Poll::Ready(()) } else { Poll::Pending }
                })
                .await;
                // In the very turn in which it was seen.
                let call = carol.call(sleep(100));
                let mut call = pin!(call);
                poll_fn(|cx| call.as_mut().poll(cx)).await.status.as_u16()
            }
        });
        let waited = user(&format!("bob {round}")).call(sleep(100)).await;
        waited.ok();
        assert!([200, 503].contains(&barges.await.expect("no panic")));
        assert_eq!(server.host.registry().live(), 1);
    }
    listening.stop().await.expect("the server ends");
}

/// A function that has computed before it finds no room is run again when there is some, and pays for both.
#[tokio::test(flavor = "multi_thread")]
async fn what_failed_for_want_of_room_is_paid_for() {
    let (server, listening) = full_of_sleepers("dear-setup", 10).await;
    let once = server.user_of("red", 2).at("/it").call(json!({})).await;
    once.ok();
    until_asleep(&server).await;
    let mut paid = Vec::new();
    for user in 3..10 {
        hostile(&server, "red", 0).call(count()).await.ok();
        let parkings = server.host.registry().parkings();
        let twice = server.user_of("red", user).at("/it").call(json!({})).await;
        twice.ok();
        assert!(server.host.registry().parkings() > parkings, "there was no room for it at first");
        paid.push(twice.fuel());
    }
    // A round that was asked for before may have made the room in time.
    assert!(paid.iter().filter(|paid| **paid > once.fuel() + 100_000).count() > 4, "{paid:?} after {}", once.fuel());
    listening.stop().await.expect("the server ends");
}
