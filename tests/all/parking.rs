//! Idle sessions are parked: their instances go, and come back with the next call as if they had never been away.

use carrel::identity::User;
use carrel_tests::{Caller, Reply, Server, Test};
use serde_json::{Value, json};
use std::{
    collections::BTreeSet,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

fn stats() -> Value {
    json!({"command": "stats"})
}

fn count() -> Value {
    json!({"do": "count"})
}

/// Parks everybody, of whom there are so many, and sees that nothing is left of their instances.
async fn all_parked(server: &Server, users: usize) {
    assert_eq!(server.park().await, users);
    let (registry, engine) = (server.host.registry(), server.host.engine());
    assert_eq!((registry.live(), registry.parked()), (0, users));
    assert_eq!((engine.memories().in_use(), engine.stacks().in_use()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn nats_functions_are_woken_as_they_were() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let ask = async |command: &str, action: &str, param: &str| {
        let asked = json!({"command": command, "action": action, "param1": param, "param2": param});
        alice.call(asked).await.ok()["data"].clone()
    };
    let mut notes = Vec::new();
    for round in 0..20 {
        let text = format!("{round} {}", "x".repeat(round * 500));
        ask("note", "add", &text).await;
        ask("pref", "set", &format!("key {round}")).await;
        notes.push(text);
        all_parked(&server, 1).await;
        assert_eq!(ask("note", "list", "").await["notes"], json!(notes));
        let preferences = ask("pref", "list", "").await;
        assert_eq!(preferences["preferences"].as_object().map(|map| map.len()), Some(round + 4));
        assert_eq!(preferences["commands_executed"], 4 * (round + 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_has_grown_is_there_again() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile");
    let holds = async || alice.call(json!({"do": "holds"})).await.ok()["said"].clone();
    for bytes in [10, 100_000, 1 << 20, 3 << 20] {
        alice.call(json!({"do": "fill", "byte": 201, "bytes": bytes})).await.ok();
        let before = (holds().await, alice.call(json!({"do": "look", "byte": 201})).await.ok()["said"].clone());
        all_parked(&server, 1).await;
        assert_eq!((holds().await, alice.call(json!({"do": "look", "byte": 201})).await.ok()["said"].clone()), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_there_before_counts_towards_the_limit() {
    let server = Test::hostile().set("limits.memory_per_instance", "4 MiB").start().await;
    let alice = server.user("alice").at("/hostile");
    let take = json!({"do": "take", "bytes": 1_500_000});
    alice.call(take.clone()).await.ok();
    all_parked(&server, 1).await;
    alice.call(take.clone()).await.ok();
    all_parked(&server, 1).await;
    alice.call(take.clone()).await.error(500, "memory_exhausted");
    alice.call(take).await.error(500, "memory_exhausted");
    assert_eq!(alice.call(json!({"do": "holds"})).await.ok()["said"]["kept"], 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn globals_tables_and_several_memories_are_there_again() {
    for name in ["globals", "two-memories", "linkage-tables", "random"] {
        let server = Test::fixture(name).start().await;
        let (parks, stays) = (server.user("parks").at("/it"), server.user("stays").at("/it"));
        let mut before = Value::Null;
        for count in 1..=12 {
            let parked = parks.call(json!({})).await.ok();
            assert_eq!(parked["count"], count, "{name}");
            if name == "random" {
                let own = ["start", "configure", "first"];
                assert!(count == 1 || own.iter().all(|key| parked[key] == before[key]), "{before} {parked}");
                assert_ne!(parked["latest"], before["latest"]);
                before = parked;
            } else {
                assert_eq!(parked, stays.call(json!({})).await.ok(), "{name}");
            }
            assert!(server.park().await >= 1, "{name}");
            assert_eq!(server.host.engine().memories().in_use(), 0);
        }
        let other = server.user("other").at("/it").call(json!({})).await.ok();
        assert!(name != "random" || ["start", "configure", "first"].iter().all(|key| other[key] != before[key]));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_javascript_is_woken_as_it_was() {
    // Here and not where others are told of, since it takes long to compile: then the host finds it compiled.
    let told = told(&Test::keeper(), "javascript_keeper");
    assert!(told.starts_with(ALL), "{told}");
    let server = Test::keeper().start().await;
    let alice = server.user("alice").at("/it");
    alice.call(json!({"command": "add", "text": "milk"})).await.ok();
    for round in 1..=3 {
        all_parked(&server, 1).await;
        alice.call(json!({"command": "fill", "text": "line", "times": 1000})).await.ok();
        all_parked(&server, 1).await;
        let list = alice.call(json!({"command": "list"})).await.ok();
        assert_eq!((&list["count"], &list["calls"]), (&json!(1 + 1000 * round), &json!(1 + 2 * round)));
        assert_eq!((&list["texts"][0], &list["texts"][1000 * round]), (&json!("milk"), &json!("line 999")));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_holds_something_of_the_host_stays_awake_until_it_lets_go() {
    let server = Test::fixture("handle").start().await;
    let alice = server.user("alice").at("/it");
    alice.call(json!({})).await.ok();
    all_parked(&server, 1).await;
    assert_eq!(alice.call(json!("take")).await.ok(), json!({"count": 2, "held": 1}));
    assert_eq!(server.park().await, 0);
    assert_eq!((server.host.registry().live(), server.host.registry().parked()), (1, 0));
    assert_eq!(alice.call(json!({})).await.ok(), json!({"count": 3, "held": 1}), "it used what it holds");
    alice.call(json!("drop")).await.ok();
    all_parked(&server, 1).await;
    assert_eq!(alice.call(json!("take")).await.ok(), json!({"count": 5, "held": 1}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_prints_stays_awake_and_what_is_beside_it_does_not() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice");
    alice.call(json!({"command": "note", "action": "add", "param1": "milk"})).await.ok();
    alice.clone().at("/hostile").call(json!({"do": "print", "text": "x", "times": 1})).await.ok();
    for round in 2..=4 {
        assert_eq!(server.park().await, 0);
        assert_eq!(server.host.registry().live(), 1);
        let user = server.get("/monitor/users").await.ok()["users"][0].clone();
        assert_eq!((&user["memory"]["instances"], &user["memory"]["parked"]), (&json!(1), &json!(2)));
        assert_eq!(alice.clone().at("/hostile").call(count()).await.ok()["calls"], round);
        assert_eq!(alice.call(stats()).await.ok()["data"]["commands_executed"], round);
    }
    let list = alice.call(json!({"command": "note", "action": "list"})).await.ok();
    assert_eq!(list["data"]["notes"], json!(["milk"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_logs_by_the_contract_is_parked_and_undone() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile");
    let log = |panic: bool| json!({"do": "log", "level": "warn", "text": "x", "times": 3, "panic": panic});
    for round in 0..3 {
        alice.call(log(false)).await.ok();
        alice.call(log(true)).await.error(500, "function_crashed");
        assert_eq!(alice.call(count()).await.ok()["calls"], 2 * round + 2, "the call that failed never was");
        all_parked(&server, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_whose_state_cannot_be_kept_is_never_parked() {
    for name in ["changing-table", "data-drop", "shared-globals"] {
        let server = Test::fixture(name).start().await;
        let alice = server.user("alice").at("/it");
        for count in 1..=4 {
            assert_eq!(alice.call(json!({})).await.ok()["count"], count, "{name}");
            assert_eq!(server.park().await, 0, "{name}");
        }
    }
}

/// The words of `carrel info` for a guest whose state can be kept.
const ALL: &str = "all in its linear memories: an instance is parked and rolled back, unless";

/// The report of `carrel info` on the state of a guest of this name.
fn told(test: &Test, guest: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    std::fs::write(&config, test.text()).expect("a file");
    let mut info = Command::new(env!("CARGO_BIN_EXE_carrel"));
    let done = info.arg("info").arg("--config_file").arg(&config).env_remove("RUST_LOG").output();
    let text = String::from_utf8(done.expect("the binary runs").stdout).expect("text");
    let guest = text.split(&format!("\n  {guest}: ")).last().expect("the guest");
    let state = guest.lines().find_map(|line| line.trim().strip_prefix("state: "));
    state.expect("a line on its state").to_owned()
}

#[test]
fn info_says_why_a_guest_cannot_be_parked() {
    for (name, why) in [
        ("changing-table", "its code has `table.set`, which changes what is no memory (core module 0)"),
        ("data-drop", "its code has `data.drop`, which changes what is no memory (core module 0)"),
        ("shared-globals", "changes between calls, and modules share it (core module "),
    ] {
        let told = told(&Test::fixture(name), &name.replace('-', "_"));
        assert!(told.starts_with("cannot be parked nor rolled back: ") && told.contains(why), "{told}");
    }
    for (test, guest) in [
        (Test::hostile(), "hostile"),
        (Test::new(), "per_user_notepad"),
        (Test::fixture("globals"), "globals"),
        (Test::fixture("random"), "random"),
    ] {
        let told = told(&test, guest);
        assert!(told.starts_with(ALL), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_tells_who_is_parked() {
    let server = Test::new().start().await;
    for user in ["alice", "bob", "carol"] {
        server.user(user).call(json!({"command": "note", "action": "count"})).await.ok();
    }
    all_parked(&server, 3).await;
    server.user("bob").call(stats()).await.ok();
    let seen = server.get("/monitor/users").await.ok();
    assert_eq!((&seen["total_active_users"], &seen["live"], &seen["parked"]), (&json!(3), &json!(1), &json!(2)));
    let users = seen["users"].as_array().expect("a list");
    for (user, parked) in users.iter().zip([true, false, true]) {
        let (session, memory) = (&user["session"], &user["memory"]);
        assert_eq!(session["is_parked"], parked, "{user}");
        // Bob's workflow was woken alone.
        let (instances, asleep) = if parked { (0, 2) } else { (1, 1) };
        assert_eq!((&memory["instances"], &memory["parked"]), (&json!(instances), &json!(asleep)), "{user}");
        assert!(memory["parked_bytes"].as_u64() > Some(20) && memory["parked_bytes"].as_u64() < Some(20_000), "{user}");
        assert_eq!(memory["bytes"].as_u64() > Some(0), !parked);
    }
    let asked = format!("/monitor/users?user_id={}", users[0]["user_id"].as_str().expect("text"));
    let alone = server.get(&asked).await.ok();
    assert_eq!((&alone["total_active_users"], &alone["users"][0]["session"]["is_parked"]), (&json!(1), &json!(true)));
    assert_eq!((&alone["live"], &alone["parked"]), (&json!(1), &json!(2)), "these are of the whole host");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_does_not_pay_for_being_woken() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let fuel =
        async || alice.call(json!({"command": "note", "action": "count"})).await.header("carrel-fuel").to_owned();
    fuel().await;
    let awake = fuel().await;
    all_parked(&server, 1).await;
    assert_eq!(fuel().await, awake);
}

#[tokio::test(start_paused = true)]
async fn a_session_is_parked_when_it_is_idle_and_ends_when_it_is_for_longer() {
    let test = Test::new()
        .set("sessions.park_after", "1s")
        .set("general.per_user_workflow_timeout", "4s")
        .set("general.per_user_workflow_cleanup_interval", "500ms");
    let server = test.start().await;
    let upkeep = server.host.upkeep();
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let there = || (server.host.registry().live(), server.host.registry().parked());
    let pass = async |milliseconds: u64| tokio::time::sleep(Duration::from_millis(milliseconds)).await;
    for user in [&alice, &bob] {
        user.call(stats()).await.ok();
    }
    pass(900).await;
    assert_eq!(there(), (2, 0));
    alice.call(stats()).await.ok();
    pass(500).await;
    assert_eq!(there(), (1, 1), "bob has been idle for 1.4 s");
    assert_eq!(bob.call(stats()).await.ok()["data"]["commands_executed"], 2);
    assert_eq!(there(), (2, 0));
    pass(3_000).await;
    assert_eq!(there(), (0, 2), "a session that is parked is not yet too old");
    pass(1_600).await;
    assert_eq!(there(), (0, 0), "and is dropped like any other");
    assert_eq!(bob.call(stats()).await.ok()["data"]["commands_executed"], 1);
    drop(upkeep);
}

#[tokio::test(start_paused = true)]
async fn what_may_not_be_parked_is_not() {
    let server = Test::new().set("sessions.park_after", "off").start().await;
    let upkeep = server.host.upkeep();
    server.user("alice").call(stats()).await.ok();
    tokio::time::sleep(Duration::from_secs(600)).await;
    assert_eq!((server.host.registry().live(), server.host.registry().parked()), (1, 0));
    drop(upkeep);
    for wrong in [json!("soon"), json!(true), json!(0)] {
        let told = Test::new().set("sessions.park_after", wrong).refused().await;
        assert!(told.contains("sessions.park_after: ") && told.contains("`off`"), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn requests_at_once_of_a_user_who_is_parked_are_run_one_after_the_other() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let mut next = 1;
    for _ in 0..10 {
        let calls: Vec<_> = (0..64).map(|_| alice.spawn(stats())).collect();
        let mut seen = BTreeSet::new();
        for call in calls {
            let answer = call.await.expect("no panic").ok();
            seen.insert(answer["data"]["commands_executed"].as_u64().expect("a number"));
        }
        assert_eq!(seen, (next..next + 64).collect());
        next += 64;
        all_parked(&server, 1).await;
    }
}

/// Everybody is parked again and again while forty users call, who go on until that has met them often enough.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn parking_never_gets_in_the_way_of_calls() {
    const ENOUGH: usize = 200;
    let server = Test::new().start().await;
    let parked = Arc::new(AtomicUsize::new(0));
    let mut users: Vec<_> = (0..40)
        .map(|n| {
            let (user, parked) = (server.user(&format!("user-{n}")), parked.clone());
            tokio::spawn(async move {
                let mut round = 0;
                while round < 50 || parked.load(Ordering::Relaxed) < ENOUGH {
                    round += 1;
                    let theme = format!("{n} {round}");
                    let set = json!({"command": "pref", "action": "set", "param1": "theme", "param2": theme});
                    let data = user.call(set).await.ok()["data"].clone();
                    assert_eq!(
                        (&data["preferences"]["theme"], &data["commands_executed"]),
                        (&json!(theme), &json!(round))
                    );
                    // Time to be parked in, now and then.
                    for _ in 0..(n + round) % 8 * 10 {
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    while users.iter().any(|user| !user.is_finished()) {
        parked.fetch_add(server.park().await, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
    for user in users.drain(..) {
        user.await.expect("each answer was right");
    }
    server.park().await;
    assert_eq!((server.host.registry().live(), server.host.registry().parked()), (0, 40));
    assert_eq!(server.host.engine().memories().in_use(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_use_is_not_parked() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let slow = alice.spawn(json!({"do": "sleep", "milliseconds": 200}));
    server.until_in_use(1).await;
    let waiting = alice.spawn(count());
    server.until_in_use(2).await;
    assert_eq!(server.park().await, 0);
    slow.await.expect("no panic").ok();
    // Either of the two may have had its turn first.
    assert!(waiting.await.expect("no panic").ok()["calls"].as_u64() >= Some(2));
    assert_eq!(alice.call(count()).await.ok()["calls"], 4);
    all_parked(&server, 1).await;
}

/// A host with places for so many, that parks to make room and for no other reason.
async fn crowded(places: usize) -> (Server, carrel_tests::Listening) {
    let server = Test::hostile().set("limits.max_sessions", places).set("sessions.park_after", "1h").start().await;
    let listening = server.listen().await;
    (server, listening)
}

fn refused(reply: &Reply, setting: &str, retry: &str) {
    assert_eq!(reply.error(503, "too_many_sessions")["setting"], setting);
    assert_eq!(reply.header("retry-after"), retry);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_idle_are_parked_to_make_room() {
    let (server, listening) = crowded(3).await;
    let names = ["alice", "bob", "carol", "dave", "erin"];
    let is_awake = |name: &&str| {
        let seen = server.host.registry().look(User::from_credential(name));
        seen.is_some_and(|seen| !seen.parked)
    };
    let awake = || names.into_iter().filter(is_awake).collect::<Vec<_>>();
    let call = async |name: &str| {
        // Longer than the search for idle users takes.
        tokio::time::sleep(Duration::from_millis(10)).await;
        server.user(name).call(stats()).await.ok()["data"]["commands_executed"].clone()
    };
    for name in &names[..3] {
        call(name).await;
    }
    call("alice").await;
    assert_eq!(awake(), ["alice", "bob", "carol"]);
    call("dave").await;
    assert_eq!(awake(), ["alice", "carol", "dave"]);
    call("erin").await;
    assert_eq!(awake(), ["alice", "dave", "erin"]);
    // A parked user comes back in another's place.
    assert_eq!(call("bob").await, 2);
    assert_eq!(awake(), ["bob", "dave", "erin"]);
    assert_eq!(call("alice").await, 3);
    assert_eq!(server.host.registry().live(), 3);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_finds_all_places_in_use_is_refused_and_leaves_no_trace() {
    let (server, listening) = crowded(2).await;
    let sleep = json!({"do": "sleep", "milliseconds": 400});
    let slow = ["alice", "bob"].map(|name| server.user(name).at("/hostile").spawn(sleep.clone()));
    // Both must have their places first: room made for one of them could be taken by the next caller.
    let placed = |host: &carrel::Host| host.registry().live() >= 2;
    server.until("both have their places", placed).await;
    refused(&server.user("carol").call(stats()).await, "limits.max_sessions", "1");
    assert!(server.host.registry().look(User::from_credential("carol")).is_none());
    for call in slow {
        call.await.expect("no panic").ok();
    }
    server.user("carol").call(stats()).await.ok();
    assert_eq!(server.host.registry().live(), 2);
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn who_cannot_be_parked_keeps_their_place() {
    let (server, listening) = crowded(1).await;
    let alice = server.user("alice").at("/hostile");
    alice.call(json!({"do": "print", "text": "x", "times": 1})).await.ok();
    refused(&server.user("bob").call(stats()).await, "limits.max_sessions", "1");
    assert_eq!(alice.call(count()).await.ok()["calls"], 2);
    listening.stop().await.expect("the server ends");
}

#[tokio::test]
async fn where_nobody_is_parked_who_is_too_many_is_refused() {
    let test = Test::new().set("limits.max_sessions", 1).set("sessions.park_after", "off");
    let server = test.start().await;
    let listening = server.listen().await;
    server.user("alice").call(stats()).await.ok();
    refused(&server.user("bob").call(stats()).await, "limits.max_sessions", "60");
    server.user("alice").call(stats()).await.ok();
    listening.stop().await.expect("the server ends");
}

/// A host with places for two live sessions and three parked ones, none of which is taken.
async fn with_five_places() -> (Server, carrel_tests::Listening) {
    let server = Test::new().set("limits.max_sessions", 2).set("sessions.max_parked", 3).start().await;
    let listening = server.listen().await;
    (server, listening)
}

#[tokio::test]
async fn no_more_are_parked_than_may_be() {
    let (server, listening) = with_five_places().await;
    let user = |n: usize| server.user(&format!("user-{n}"));
    for n in 0..5 {
        user(n).call(stats()).await.ok();
    }
    assert_eq!((server.host.registry().live(), server.host.registry().parked()), (2, 3));
    refused(&user(5).call(stats()).await, "sessions.max_parked", "60");
    assert_eq!(server.park().await, 0);
    assert_eq!(user(4).call(stats()).await.ok()["data"]["commands_executed"], 2, "who is there is served");
    listening.stop().await.expect("the server ends");
}

/// As many users as there may be, live and parked: each is served, in turn and all at once, by changing places.
#[tokio::test(flavor = "multi_thread")]
async fn where_all_places_are_taken_who_is_parked_and_who_is_idle_change_places() {
    let (server, listening) = with_five_places().await;
    let registry = server.host.registry();
    let user = |n: usize| server.user(&format!("user-{n}"));
    for round in 1..=4 {
        for n in 0..5 {
            assert_eq!(user(n).call(stats()).await.ok()["data"]["commands_executed"], round, "user {n}");
            assert!(registry.live() <= 2 && registry.parked() <= 3, "{} {}", registry.live(), registry.parked());
        }
    }
    for round in 5..=20 {
        let calls: Vec<_> = (0..5)
            .map(|n| {
                let user = user(n);
                tokio::spawn(async move { user.call(stats()).await })
            })
            .collect();
        for call in calls {
            let answer = call.await.expect("an answer").ok();
            assert_eq!(answer["data"]["commands_executed"], round);
        }
        assert_eq!((registry.live(), registry.parked()), (2, 3));
    }
    listening.stop().await.expect("the server ends");
}

/// Far more users than places, and almost as many callers at once: nobody is refused.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn nobody_is_refused_while_anybody_is_idle() {
    const CALLERS: usize = 32;
    let (server, listening) = crowded(40).await;
    let callers: Vec<_> = (0..CALLERS)
        .map(|caller| {
            let server = server.clone();
            tokio::spawn(async move {
                for round in 1..=5 {
                    for n in (caller..20 * CALLERS).step_by(CALLERS) {
                        let answer = server.user(&format!("user-{n}")).call(stats()).await.ok();
                        assert_eq!(answer["data"]["commands_executed"], round, "user {n}");
                        tokio::task::yield_now().await;
                    }
                }
            })
        })
        .collect();
    for caller in callers {
        caller.await.expect("everybody was served");
    }
    assert!(server.host.registry().live() <= 40);
    listening.stop().await.expect("the server ends");
}

/// A caller of the notepad alone, who wakes the notepad alone.
#[tokio::test(flavor = "multi_thread")]
async fn only_what_is_called_is_woken() {
    let server = Test::new().endpoint("/notes", "notepad").start().await;
    let alice: Caller = server.user("alice");
    alice.call(json!({"command": "note", "action": "add", "param1": "milk"})).await.ok();
    alice.call(json!({"command": "pref", "action": "list"})).await.ok();
    all_parked(&server, 1).await;
    let notes = alice.clone().at("/notes").call(json!({"action": "list"})).await.ok();
    assert_eq!(notes["notes"], json!(["milk"]));
    assert_eq!(server.host.engine().memories().in_use(), 1);
}
