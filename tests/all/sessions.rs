//! Sessions: a user's calls in order, and their end.

use carrel_tests::Test;
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

fn stats() -> Value {
    json!({"command": "stats"})
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_at_once_of_one_new_user_are_run_one_after_the_other() {
    let server = Test::new().start().await;
    let calls: Vec<_> = (0..64)
        .map(|_| {
            let alice = server.user("alice");
            tokio::spawn(async move { alice.call(stats()).await.ok()["data"]["commands_executed"].as_u64() })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for call in calls {
        seen.insert(call.await.expect("no panic").expect("a number"));
    }
    assert_eq!(seen, (1..=64).collect());
}

#[tokio::test(start_paused = true)]
async fn an_idle_session_is_dropped_within_the_timeout_and_the_interval() {
    let test = Test::new()
        .set("general.per_user_workflow_timeout", "2s")
        .set("general.per_user_workflow_cleanup_interval", "500ms");
    let server = test.start().await;
    let upkeep = server.host.upkeep();
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    for user in [&alice, &bob] {
        user.call(stats()).await.ok();
    }
    // The clock is ours: it moves only here.
    for _ in 0..19 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        alice.call(stats()).await.ok();
    }
    assert_eq!(server.host.registry().live(), 2, "bob has been idle for 1.9 s");
    for _ in 0..6 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        alice.call(stats()).await.ok();
    }
    assert_eq!(server.host.registry().live(), 1, "bob has been idle for 2.5 s");
    assert_eq!(bob.call(stats()).await.ok()["data"]["commands_executed"], 1, "bob begins afresh");
    assert_eq!(alice.call(stats()).await.ok()["data"]["commands_executed"], 27, "alice was never idle");
    drop(upkeep);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_session_is_dropped_for_real() {
    let test = Test::new()
        .set("general.per_user_workflow_timeout", "300ms")
        .set("general.per_user_workflow_cleanup_interval", "50ms");
    let server = test.start().await;
    let listening = server.listen().await;
    server.user("alice").call(json!({"command": "note", "action": "add", "param1": "milk"})).await.ok();
    assert_eq!(server.host.engine().memories().in_use(), 2);
    let dropped = async {
        while server.host.registry().live() > 0 || server.host.engine().memories().in_use() > 0 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(10), dropped).await.expect("the session and its memories are gone");
    assert_eq!(server.host.engine().stacks().in_use(), 0);
    listening.stop().await.expect("the server ends");
}

/// A sweep that runs all the time, with a timeout of a millisecond, against a thousand requests at once: whatever it
/// drops, no call fails, and no session is dropped under a call, which would be seen as a count that starts again in
/// the middle of a user's calls that overlap.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn a_session_in_use_is_never_dropped() {
    let test = Test::hostile()
        .set("general.per_user_workflow_timeout", "1ms")
        .set("general.per_user_workflow_cleanup_interval", "1ms")
        .set("limits.queue_per_session", 1000);
    let server = test.start().await;
    let listening = server.listen().await;
    let mut calls = Vec::new();
    for n in 0..1000 {
        let user = server.user(&format!("user-{}", n % 50)).at("/hostile");
        // Some wait inside of the call, so that others of the same user queue up behind them.
        let input = if n % 10 == 0 { json!({"do": "sleep", "milliseconds": 5}) } else { json!({"do": "count"}) };
        calls.push(tokio::spawn(async move { user.call(input).await.ok()["calls"].as_u64().expect("a number") }));
    }
    let mut longest = 0;
    for call in calls {
        longest = longest.max(call.await.expect("no call failed"));
    }
    assert!(longest >= 2, "calls of one user met in one session");
    // And one that is busy for much longer than the timeout keeps its state from call to call.
    let alice = server.user("alice").at("/hostile");
    let busy = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.call(json!({"do": "sleep", "milliseconds": 200})).await.ok() })
    };
    server.until_in_use(1).await;
    let queued = {
        let alice = alice.clone();
        tokio::spawn(async move { alice.call(json!({"do": "count"})).await.ok() })
    };
    let counts = [busy.await.expect("no panic"), queued.await.expect("no panic")].map(|said| said["calls"].as_u64());
    assert_eq!(counts.into_iter().collect::<BTreeSet<_>>(), BTreeSet::from([Some(1), Some(2)]));
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_takes_the_call_with_them() {
    let server = Test::hostile().set("functions.h1", json!({"_type": "hostile"})).start().await;
    let alice = server.user("alice").at("/hostile");
    let sleep = json!({"do": "sleep", "milliseconds": 60_000});
    let call = |input: &Value| json!({"do": "call", "name": "h1", "input": input});
    alice.abandon(sleep.clone()).await;
    alice.call(call(&json!({"do": "count"}))).await.ok();
    alice.abandon(sleep.clone()).await;
    alice.abandon(json!({"do": "all", "of": [call(&json!({"do": "count"})), sleep]})).await;
    alice.abandon(call(&sleep)).await;
    assert_eq!(server.host.registry().in_use(), 0);
    let after = alice.call(call(&json!({"do": "count"}))).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(2), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_goes_away_pays_for_what_the_call_has_used() {
    let server = Test::hostile().set("functions.h1", json!({"_type": "hostile"})).start().await;
    let then_sleep = |milliseconds: u64| {
        let sleep = json!({"do": "sleep", "milliseconds": milliseconds});
        json!({"do": "all", "of": [{"do": "call", "name": "h1", "input": {"do": "fill", "byte": 7, "bytes": 100_000}}, sleep]})
    };
    let in_sibling = |milliseconds| json!({"do": "call", "name": "h1", "input": then_sleep(milliseconds)["of"][1]});
    for (number, call) in [&then_sleep as &dyn Fn(u64) -> Value, &in_sibling].into_iter().enumerate() {
        let fuel = |name: &str| {
            let user = carrel::identity::User::from_credential(name);
            server.host.registry().look(user).map_or(0, |seen| seen.session.account().fuel())
        };
        let (stays, goes) = (format!("stays-{number}"), format!("goes-{number}"));
        server.user(&stays).at("/hostile").call(call(1)).await.ok();
        // The call is in its sleep by then, on however slow a machine; an earlier yield would tell nothing.
        let left =
            tokio::time::timeout(Duration::from_secs(1), server.user(&goes).at("/hostile").call(call(60_000))).await;
        assert!(left.is_err(), "it has ended: {left:?}");
        let (whole, until_then) = (fuel(&stays), fuel(&goes));
        assert!(until_then < whole && until_then > whole / 4 * 3, "{until_then} of {whole}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_a_caller_who_goes_away_leaves_no_call_half_way() {
    let server = Test::hostile().set("sessions.rollback", false).start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(json!({"do": "count"})).await.ok();
    alice.abandon(json!({"do": "sleep", "milliseconds": 50})).await;
    assert_eq!(server.host.registry().in_use(), 1);
    // The next call waits for the abandoned one, and finds the state that it left.
    assert_eq!(alice.call(json!({"do": "count"})).await.ok()["calls"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_while_waiting_is_not_called_for() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(json!({"do": "count"})).await.ok();
    // So long that it still runs when the others wait, however busy the machine is.
    let slow = alice.spawn(json!({"do": "sleep", "milliseconds": 3000}));
    server.until_in_use(1).await;
    for route in ["/hostile", "/hostile/stream"] {
        let waiting: Vec<_> = (0..10).map(|_| alice.clone().at(route).spawn(json!({"do": "count"}))).collect();
        server.until_in_use(11).await;
        for call in waiting {
            call.abort();
            assert!(call.await.is_err_and(|error| error.is_cancelled()));
        }
        assert_eq!(server.host.registry().in_use(), 1);
    }
    slow.await.expect("no panic").ok();
    assert_eq!(alice.call(json!({"do": "count"})).await.ok()["calls"], 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_is_stopped_lets_calls_end_and_takes_no_more() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let address = listening.address;
    let slow = server.user("alice").at("/hostile").spawn(json!({"do": "sleep", "milliseconds": 300}));
    server.until_in_use(1).await;
    let stopped = listening.stop();
    let done = Arc::new(AtomicBool::new(false));
    let refused = {
        let (server, done) = (server.clone(), done.clone());
        async move {
            loop {
                let reply = server.user("bob").call(stats()).await;
                if reply.status != 200 {
                    done.store(true, Ordering::Relaxed);
                    return reply;
                }
                tokio::task::yield_now().await;
            }
        }
    };
    let reply = refused.await;
    reply.error(503, "draining");
    assert_eq!(reply.header("retry-after"), "1");
    server.get("/health").await.error(503, "draining");
    slow.await.expect("no panic").ok();
    assert_eq!(stopped.await.expect("the server ends"), 0, "no call was left running");
    assert!(tokio::net::TcpStream::connect(address).await.is_err(), "nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_does_not_wait_for_calls_for_ever() {
    let test = Test::hostile().set("general.drain_timeout", "50ms").set("limits.deadline", "2s");
    let server = test.start().await;
    let listening = server.listen().await;
    let slow = server.user("alice").at("/hostile").spawn(json!({"do": "sleep", "milliseconds": 60_000}));
    server.until_in_use(1).await;
    assert_eq!(listening.stop().await.expect("the server ends"), 1, "one call was left");
    slow.await.expect("no panic").error(504, "deadline_exceeded");
}

/// Ten times as many users as stock allocators have mappings for. Every answer is checked.
#[tokio::test(flavor = "multi_thread")]
async fn ten_thousand_users_with_a_note_each() {
    const USERS: usize = 10_000;
    let server = Test::new().start().await;
    let before = resident();
    let workers: Vec<_> = (0..4)
        .map(|worker| {
            let server = server.clone();
            tokio::spawn(async move {
                for n in (worker..USERS).step_by(4) {
                    let text = format!("the note of {n}");
                    let add = json!({"command": "note", "action": "add", "param1": text});
                    let answer = server.user(&format!("user-{n}")).call(add).await.ok();
                    assert_eq!(answer["data"]["count"], 1, "{n}");
                }
                for n in (worker..USERS).step_by(4) {
                    let list = json!({"command": "note", "action": "list"});
                    let answer = server.user(&format!("user-{n}")).call(list).await.ok();
                    assert_eq!(answer["data"]["notes"], json!([format!("the note of {n}")]));
                }
            })
        })
        .collect();
    for worker in workers {
        worker.await.expect("all answers were right");
    }
    assert_eq!(server.host.registry().live(), USERS);
    assert_eq!(server.host.engine().memories().in_use(), 2 * USERS);
    let mappings = std::fs::read_to_string("/proc/self/maps").expect("the mappings").lines().count();
    println!("{} KiB for each of {USERS} users, {mappings} mappings in the process", (resident() - before) / USERS);
    assert!(server.host.engine().stacks().guards_are_mappings() || mappings < 1000, "{mappings} mappings");
}

/// KiB of this process that are in memory.
fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}
