//! Each limit: a hostile guest is stopped by it, the error names it, and a neighbour is not affected.

use carrel_tests::{Caller, Reply, Server, Test};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Does `attack` as mallory while alice has state; asserts that both users' state and answers, and the host's
/// resources, are as before.
async fn attacked(server: &Server, attack: Value) -> Reply {
    let (alice, mallory) = (server.user("alice").at("/hostile"), server.user("mallory").at("/hostile"));
    let count = async |caller: &Caller| caller.call(json!({"do": "count"})).await.ok()["calls"].as_u64();
    let before = (count(&alice).await, count(&mallory).await);
    let held = server.held();
    let reply = mallory.call(attack).await;
    reply.undone();
    let after = (count(&alice).await, count(&mallory).await);
    assert_eq!(after, (before.0.map(|calls| calls + 1), before.1.map(|calls| calls + 1)));
    server.held().is_as(&held);
    reply
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_spins_runs_out_of_fuel() {
    let server = Test::hostile().set("limits.fuel_per_call", 5_000_000).start().await;
    let error = attacked(&server, json!({"do": "spin"})).await.error(500, "fuel_exhausted");
    assert_eq!(error["setting"], "limits.fuel_per_call");
    assert_eq!(error["function"], "hostile");
    assert!(error["detail"].as_str().expect("text").contains("allows 5000000 units"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_spins_longer_than_its_fuel_lasts_passes_its_deadline() {
    let server = Test::hostile().set("limits.deadline", "100ms").set("limits.fuel_per_call", "9000G").start().await;
    let started = Instant::now();
    let error = attacked(&server, json!({"do": "spin"})).await.error(504, "deadline_exceeded");
    assert_eq!(error["setting"], "limits.deadline");
    assert!(started.elapsed() < Duration::from_secs(5));
}

#[tokio::test(flavor = "multi_thread")]
async fn whoever_spins_until_the_deadline_is_charged_for_it() {
    let server = Test::hostile().set("limits.deadline", "2s").set("limits.fuel_per_call", "9000G").start().await;
    let reply = server.user("mallory").at("/hostile").call(json!({"do": "spin"})).await;
    reply.error(504, "deadline_exceeded");
    let fuel: u64 = reply.header("carrel-fuel").parse().expect("fuel");
    assert!(fuel >= 10_000_000, "{fuel} units in two seconds");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_waits_passes_its_deadline_too() {
    let server = Test::hostile().set("limits.deadline", "100ms").start().await;
    attacked(&server, json!({"do": "sleep", "milliseconds": 60_000})).await.error(504, "deadline_exceeded");
    let reply = server.user("alice").at("/hostile").call(json!({"do": "sleep", "milliseconds": 5})).await;
    reply.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_takes_too_much_memory_is_stopped_at_once_or_bit_by_bit() {
    let server = Test::hostile().set("limits.memory_per_instance", "4 MiB").start().await;
    for attack in
        [json!({"do": "take", "bytes": 8 << 20}), json!({"do": "hoard"}), json!({"do": "take", "bytes": 2_000_000_000})]
    {
        let error = attacked(&server, attack).await.error(500, "memory_exhausted");
        assert_eq!(error["setting"], "limits.memory_per_instance");
        assert!(error["detail"].as_str().expect("text").contains("allows 4194304"), "{error}");
    }
    server.user("alice").at("/hostile").call(json!({"do": "take", "bytes": 3 << 20})).await.ok();
    assert_eq!(server.host.engine().memories().in_use(), 2, "those that were stopped have given theirs back");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_too_large_is_refused_and_one_that_fits_is_not() {
    let server = Test::hostile().set("limits.output_size", 1000).start().await;
    let error = attacked(&server, json!({"do": "answer", "bytes": 1000})).await.error(500, "output_too_large");
    assert_eq!(error["setting"], "limits.output_size");
    server.user("alice").at("/hostile").call(json!({"do": "answer", "bytes": 900})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_emitted_counts_as_output_whether_anybody_listens_or_not() {
    let server = Test::hostile().set("limits.output_size", 1000).start().await;
    let flood = json!({"do": "emit", "chunks": 1000, "bytes": 10});
    attacked(&server, flood.clone()).await.error(500, "output_too_large");
    let stream = server.user("mallory").at("/hostile/stream").call(flood).await;
    let last = stream.text().trim_end().rsplit("\n\n").next().expect("an event");
    assert!(last.starts_with("event: error\ndata: ") && last.contains("output_too_large"), "{last}");
    server.user("alice").at("/hostile").call(json!({"do": "emit", "chunks": 10, "bytes": 10})).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_crashes_in_any_way_is_as_it_was_before() {
    let server = Test::hostile().start().await;
    for (attack, how) in [
        (json!({"do": "panic"}), "panicked or aborted"),
        (json!({"do": "exit", "status": 3}), "exited with status 1"),
        (json!({"do": "recurse"}), ""),
        (json!({"do": "divide"}), ""),
    ] {
        let error = attacked(&server, attack.clone()).await.error(500, "function_crashed");
        assert!(error["detail"].as_str().expect("text").contains(how), "{attack}: {error}");
        assert_eq!(error.get("setting"), None);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_of_the_functions_own_changes_nothing_else() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(json!({"do": "count"})).await.ok();
    let failed = alice.call(json!({"do": "fail", "why": "no milk"})).await.error(500, "function_failed");
    assert_eq!(failed["detail"], "no milk");
    let refused = alice.call(json!({"do": "refuse", "why": "not that"})).await.error(422, "invalid_input");
    assert_eq!(refused["detail"][0]["msg"], "not that");
    assert_eq!(alice.call(json!({"do": "count"})).await.ok()["calls"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_may_be_as_large_as_the_limit_and_no_larger() {
    let server = Test::new().set("limits.body_size", 100).start().await;
    let alice = server.user("alice");
    let fits = format!("{:<100}", json!({"command": "stats"}).to_string());
    alice.body(fits.clone()).await.ok();
    let error = alice.body(fits + " ").await.error(413, "body_too_large");
    assert_eq!(error["setting"], "limits.body_size");
    assert_eq!(alice.call(json!({"command": "stats"})).await.ok()["data"]["commands_executed"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_more_calls_of_a_user_wait_than_may() {
    let server = Test::hostile().set("limits.queue_per_session", 2).start().await;
    let mallory = server.user("mallory").at("/hostile");
    let slow = json!({"do": "sleep", "milliseconds": 300});
    let calls: Vec<_> = (0..8).map(|_| mallory.spawn(slow.clone())).collect();
    tokio::task::yield_now().await;
    server.user("alice").at("/hostile").call(json!({"do": "count"})).await.ok();
    let (mut served, mut refused) = (0, 0);
    for call in calls {
        let reply = call.await.expect("no panic");
        if reply.status == 200 {
            served += 1;
        } else {
            let error = reply.error(429, "queue_full");
            assert_eq!(error["setting"], "limits.queue_per_session");
            assert_eq!(reply.header("retry-after"), "1");
            refused += 1;
        }
    }
    assert_eq!((served, refused), (3, 5), "one runs, two wait, five are refused");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_waits_for_its_turn_no_longer_than_the_deadline() {
    let server = Test::hostile().set("limits.deadline", "200ms").start().await;
    let mallory = server.user("mallory").at("/hostile");
    let slow = json!({"do": "sleep", "milliseconds": 60_000});
    let calls: Vec<_> = (0..3).map(|_| mallory.spawn(slow.clone())).collect();
    let mut details = Vec::new();
    for call in calls {
        let error = call.await.expect("no panic").error(504, "deadline_exceeded");
        details.push(error["detail"].as_str().expect("text").to_owned());
    }
    assert!(details.iter().any(|detail| detail.contains("ran longer")), "{details:?}");
    assert!(details.iter().any(|detail| detail.contains("waited for its turn")), "{details:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn there_are_no_more_sessions_than_may_be_and_those_that_are_there_are_served() {
    let server = Test::new().set("limits.max_sessions", 2).start().await;
    for user in ["alice", "bob"] {
        server.user(user).call(json!({"command": "stats"})).await.ok();
    }
    let reply = server.user("carol").call(json!({"command": "stats"})).await;
    let error = reply.error(503, "too_many_sessions");
    assert_eq!(error["setting"], "limits.max_sessions");
    assert!(reply.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds > 0));
    assert_eq!(server.user("alice").call(json!({"command": "stats"})).await.ok()["data"]["commands_executed"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn calls_are_nested_no_deeper_than_may_be() {
    let mut test = Test::hostile().set("limits.call_depth", 3);
    for depth in 1..=3 {
        test = test.set(&format!("functions.h{depth}"), json!({"_type": "hostile"}));
    }
    let server = test.start().await;
    let nest = |names: &[&str]| {
        names
            .iter()
            .rev()
            .fold(json!({"do": "count"}), |input, name| json!({"do": "call", "name": name, "input": input}))
    };
    let alice = server.user("alice").at("/hostile");
    let deep = alice.call(nest(&["h1", "h2", "h3"])).await.ok();
    let said = deep["said"]["said"]["said"].as_str().expect("the third call is refused, and the others are not");
    assert!(said.contains("Stopped(\"call_too_deep") && said.contains("limits.call_depth"), "{said}");
    let fits = alice.call(nest(&["h1", "h2"])).await.ok();
    assert_eq!(fits["said"]["said"]["calls"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siblings_input_may_be_as_large_as_a_body() {
    let server =
        Test::hostile().set("functions.h1", json!({"_type": "hostile"})).set("limits.body_size", 2000).start().await;
    let call = |bytes: usize| json!({"do": "call", "name": "h1", "input": {"do": "call", "name": "nobody", "input": "x".repeat(bytes)}});
    let alice = server.user("alice").at("/hostile");
    assert!(alice.call(call(1000)).await.ok()["said"]["said"].as_str().is_some_and(|said| said.contains("Unknown")));
    alice.call(call(3000)).await.error(413, "body_too_large");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sandbox_is_closed() {
    let server = Test::hostile().start().await;
    let got = server.user("mallory").at("/hostile").call(json!({"do": "escape"})).await.ok();
    assert_eq!(got["said"], json!([]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hundred_spinning_guests_leave_others_answering() {
    let test = Test::hostile().set("limits.deadline", "3s").set("limits.fuel_per_call", "9000G");
    let server = test.start().await;
    let listening = server.listen().await;
    server.user("alice").call(json!({"command": "stats"})).await.ok();
    let spinning: Vec<_> = (0..100)
        .map(|n| {
            let mallory = server.user(&format!("mallory-{n}")).at("/hostile");
            tokio::spawn(async move { mallory.call(json!({"do": "spin"})).await })
        })
        .collect();
    for _ in 0..3 {
        let health = http::Request::get("/health").body(axum::body::Body::empty()).expect("a request");
        assert_eq!(listening.send(health).await.status, 200);
        listening.call("alice", json!({"command": "stats"})).await.ok();
    }
    // The benchmark measures how fast; here, others must be served while all of the guests spin.
    assert!(spinning.iter().all(|call| !call.is_finished()), "others wait until a guest has ended");
    for call in spinning {
        call.await.expect("no panic").error(504, "deadline_exceeded");
    }
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_is_refused_memory_and_goes_on_is_stopped_for_what_it_does_then() {
    let server = Test::hostile().set("limits.fuel_per_call", 5_000_000).start().await;
    attacked(&server, json!({"do": "probe"})).await.error(500, "fuel_exhausted");
    let waits = Test::hostile().set("limits.deadline", "100ms").set("limits.fuel_per_call", "9000G").start().await;
    attacked(&waits, json!({"do": "probe"})).await.error(504, "deadline_exceeded");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_an_error_are_output_too() {
    let server = Test::hostile().set("limits.output_size", 1000).start().await;
    let alice = server.user("alice").at("/hostile");
    let why = "\u{fc}".repeat(50_000);
    let failed = alice.call(json!({"do": "fail", "why": why})).await.error(500, "function_failed");
    assert_eq!(failed["detail"].as_str().map(str::len), Some(1000));
    let refused = alice.call(json!({"do": "refuse", "why": why})).await;
    refused.error(422, "invalid_input");
    let chunks = alice.call(json!({"do": "emit", "chunks": 10_000, "bytes": 0})).await;
    chunks.error(500, "output_too_large");
}

/// On two threads there is one permit for calls that run long. A guest that works for a while and then waits must not
/// keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_guest_that_waits_does_not_hold_up_those_that_work() {
    let server = Test::hostile().set("limits.fuel_per_call", "9000G").start().await;
    let mallory = server.user("mallory").at("/hostile");
    mallory.call(json!({"do": "count"})).await.ok();
    let waits =
        tokio::spawn(async move { mallory.call(json!({"do": "work", "milliseconds": 30, "sleep": 4000})).await });
    tokio::time::sleep(Duration::from_millis(300)).await;
    let alice = server.user("alice").at("/hostile");
    for _ in 0..3 {
        alice.call(json!({"do": "work", "milliseconds": 30})).await.ok();
    }
    assert!(!waits.is_finished(), "alice did not wait for mallory");
    waits.await.expect("no panic").ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn when_the_hosts_memory_is_spent_a_call_is_refused_and_served_when_others_sleep() {
    let server = Test::new().set("limits.memory", "1 MiB").start().await;
    let note = json!({"command": "note", "action": "add", "param1": "milk"});
    let mut there = 0;
    let refused = loop {
        let reply = server.user(&format!("user-{there}")).call(note.clone()).await;
        if reply.status != 200 {
            break reply;
        }
        there += 1;
        assert!(there < 100, "nobody was refused");
    };
    assert!(there > 1, "some were served");
    refused.error(503, "host_full");
    assert!(!refused.header("retry-after").is_empty());
    assert!(server.park().await >= there);
    server.user(&format!("user-{there}")).call(note.clone()).await.ok();
    let first = server.user("user-0").call(note).await.ok();
    assert_eq!(first["data"]["count"], 2, "and who slept has kept all");
}
