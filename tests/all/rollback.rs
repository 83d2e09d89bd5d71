//! A call that fails changes nothing, however it fails and whatever it has done before.

use carrel_tests::{Caller, Held, Reply, Server, Test};
use serde_json::{Value, json};

/// The three functions of NAT's example, and three hostile ones with routes of their own, within tight limits.
fn test() -> Test {
    ["h1", "h2"]
        .into_iter()
        .fold(Test::hostile(), |test, name| {
            test.set(&format!("functions.{name}"), json!({"_type": "hostile"})).endpoint(&format!("/{name}"), name)
        })
        .set("limits.fuel_per_call", "30M")
        .set("limits.deadline", "4s")
        .set("limits.memory_per_instance", "4 MiB")
        .set("limits.output_size", 4000)
}

/// The ways to fail, with the status and the code that each has.
fn ways() -> Vec<(Value, u16, &'static str)> {
    let simple = |what: &str| json!({"do": what});
    let crashes = ["panic", "abort", "unreachable", "recurse", "divide", "wild", "garble"].map(simple);
    let exits = [0, 1].map(|status| json!({"do": "exit", "status": status}));
    let emits = json!({"do": "emit", "chunks": 2, "bytes": 10, "panic": true});
    let takes = json!({"do": "all", "of": [{"do": "take", "bytes": 1 << 20}, {"do": "panic"}]});
    let crashes = crashes.into_iter().chain(exits).chain([emits, takes]).map(|way| (way, 500, "function_crashed"));
    let limits = [
        (simple("spin"), 500, "fuel_exhausted"),
        (simple("probe"), 500, "fuel_exhausted"),
        (json!({"do": "sleep", "milliseconds": 60_000}), 504, "deadline_exceeded"),
        (json!({"do": "take", "bytes": 8 << 20}), 500, "memory_exhausted"),
        (simple("hoard"), 500, "memory_exhausted"),
        (json!({"do": "answer", "bytes": 4000}), 500, "output_too_large"),
        (json!({"do": "emit", "chunks": 100, "bytes": 100}), 500, "output_too_large"),
    ];
    crashes.chain(limits).collect()
}

fn all(of: impl IntoIterator<Item = Value>) -> Value {
    json!({"do": "all", "of": of.into_iter().collect::<Vec<_>>()})
}

/// A sibling call whose outcome does not matter to its caller.
fn call(name: &str, input: impl Into<Value>) -> Value {
    json!({"do": "call", "name": name, "input": input.into()})
}

/// A sibling call whose error becomes the caller's.
fn relay(name: &str, input: impl Into<Value>) -> Value {
    json!({"do": "relay", "name": name, "input": input.into()})
}

fn note(text: &str) -> Value {
    json!({"command": "note", "action": "add", "param1": text})
}

fn prefer(value: &str) -> Value {
    json!({"command": "pref", "action": "set", "param1": "theme", "param2": value})
}

fn count() -> Value {
    json!({"do": "count"})
}

/// Changes to all functions: what a call does before it fails.
fn changes() -> [Value; 4] {
    [
        call("workflow", note("lost")),
        call("workflow", prefer("lost")),
        call("h1", json!({"do": "take", "bytes": 1 << 20})),
        json!({"do": "take", "bytes": 100_000}),
    ]
}

/// All that there is to see of a user's state.
#[derive(Debug, Clone, PartialEq)]
struct State {
    notes: Value,
    preferences: Value,
    commands: u64,
    /// For each hostile function: its calls, and what it holds.
    hostile: Vec<(u64, Value)>,
}

/// A user whose state is read. Reading is a call too, and counts; the state returned is the one before it.
struct User {
    caller: Caller,
}

impl User {
    fn new(server: &Server, name: &str) -> Self {
        Self { caller: server.user(name) }
    }

    async fn hostile(&self, input: Value) -> Reply {
        self.caller.clone().at("/hostile").call(input).await
    }

    async fn state(&self) -> State {
        let ask = async |command: &str| {
            self.caller.call(json!({"command": command, "action": "list"})).await.ok()["data"].clone()
        };
        let (notes, preferences, stats) = (ask("note").await, ask("pref").await, ask("stats").await);
        let mut hostile = Vec::new();
        for path in ["/hostile", "/h1", "/h2"] {
            let said = self.caller.clone().at(path).call(json!({"do": "holds"})).await.ok();
            hostile.push((said["calls"].as_u64().expect("a number") - 1, said["said"].clone()));
        }
        State {
            notes: notes["notes"].clone(),
            preferences: preferences["preferences"].clone(),
            commands: stats["commands_executed"].as_u64().expect("a number") - 3,
            hostile,
        }
    }

    /// The state before and after `what` is done, with the first reading's own traces added to the former.
    async fn around(&self, what: impl AsyncFnOnce()) -> (State, State) {
        let mut before = self.state().await;
        before.commands += 3;
        before.hostile.iter_mut().for_each(|(calls, _)| *calls += 1);
        what().await;
        (before, self.state().await)
    }

    /// Leaves something in each function, so that there is something to lose.
    async fn settle(&self, name: &str) {
        self.caller.call(note(name)).await.ok();
        self.caller.call(prefer(name)).await.ok();
        for path in ["/hostile", "/h1", "/h2"] {
            self.caller.clone().at(path).call(json!({"do": "take", "bytes": 200_000})).await.ok();
        }
    }
}

/// Does something in each of the ways, all at once, each for a user who has something to lose. Gives what the host held
/// before.
async fn in_all_ways<F>(server: &Server, what: impl Fn(User, Value, u16, &'static str) -> F) -> Held
where
    F: Future<Output = ()> + Send + 'static,
{
    let mut users = Vec::new();
    for n in 0..ways().len() {
        let name = format!("user-{n}");
        let user = User::new(server, &name);
        user.settle(&name).await;
        // To look at the state takes memory, too, the first time.
        user.state().await;
        users.push(user);
    }
    let held = server.held();
    let start = |(user, (way, status, code)): (User, (Value, u16, &'static str))| {
        (way.to_string(), tokio::spawn(what(user, way, status, code)))
    };
    let running: Vec<_> = users.into_iter().zip(ways()).map(start).collect();
    for (way, running) in running {
        assert!(running.await.is_ok(), "{way}");
    }
    held
}

/// The whole call fails with this code, and nothing is changed.
async fn is_undone(user: &User, input: Value, status: u16, code: &str) {
    let (before, after) = user
        .around(async || {
            let reply = user.hostile(input).await;
            reply.error(status, code);
            reply.undone();
        })
        .await;
    assert_eq!(before, after);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_alone_is_as_before() {
    let server = test().start().await;
    let held = in_all_ways(&server, async |user, way, status, code| is_undone(&user, way, status, code).await).await;
    server.held().is_as(&held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_fails_takes_back_what_its_siblings_did_for_it() {
    let server = test().start().await;
    let held = in_all_ways(&server, async |user, way, status, code| {
        is_undone(&user, all(changes().into_iter().chain([way])), status, code).await;
    })
    .await;
    server.held().is_as(&held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_fails_and_is_passed_on_takes_back_the_whole_call() {
    let server = test().start().await;
    let held = in_all_ways(&server, async |user, way, status, code| {
        let earlier = call("h2", json!({"do": "take", "bytes": 500_000}));
        let failing = all([call("workflow", note("lost")), way]);
        is_undone(&user, all(changes().into_iter().chain([earlier, relay("h2", failing)])), status, code).await;
    })
    .await;
    server.held().is_as(&held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_fails_while_its_caller_goes_on_is_undone_alone() {
    let server = test().set("limits.deadline", "4s").start().await;
    in_all_ways(&server, async |user, way, _, code| {
        let (mut before, after) = user
            .around(async || {
                let failing = all([call("workflow", note("lost")), call("workflow", prefer("lost")), way]);
                let steps =
                    [call("workflow", note("kept")), call("h2", count()), call("h1", failing), call("h2", count())];
                let said = user.hostile(all(steps)).await.ok();
                assert!(said["said"][2].as_str().is_some_and(|said| said.contains(code)), "{said}");
            })
            .await;
        before.notes.as_array_mut().expect("a list").push("kept".into());
        before.commands += 1;
        before.hostile[0].0 += 1;
        before.hostile[2].0 += 2;
        assert_eq!(before, after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_in_the_middle_is_undone_to_where_it_began() {
    let server = test().set("limits.deadline", "4s").start().await;
    in_all_ways(&server, async |user, way, _, code| {
        // The outer function has called the same siblings before, and calls them again.
        let (mut before, after) = user
            .around(async || {
                let mine = [call("h2", count()), call("workflow", note("outer's"))];
                let middle = all([call("h2", count()), call("workflow", note("lost")), call("h2", count()), way]);
                let steps = mine.clone().into_iter().chain([call("h1", middle)]).chain(mine);
                let said = user.hostile(all(steps)).await.ok();
                assert!(said["said"][2].as_str().is_some_and(|said| said.contains(code)), "{said}");
            })
            .await;
        before.notes.as_array_mut().expect("a list").extend(["outer's".into(), "outer's".into()]);
        before.commands += 2;
        before.hostile[0].0 += 1;
        before.hostile[2].0 += 2;
        assert_eq!(before, after);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_went_on_after_a_failure_in_the_middle_is_undone_with_the_whole() {
    let server = test().set("limits.deadline", "4s").start().await;
    let held = in_all_ways(&server, async |user, way, _, _| {
        let middle = all([call("h2", count()), call("workflow", note("lost")), way]);
        let steps = [call("h2", count()), call("h1", middle), call("h2", count()), call("h1", count())];
        is_undone(&user, all(steps.into_iter().chain([json!({"do": "panic"})])), 500, "function_crashed").await;
    })
    .await;
    server.held().is_as(&held);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failure_right_after_waking_leaves_what_was_parked() {
    let server = test().start().await;
    in_all_ways(&server, {
        let server = server.clone();
        move |user, way, status, code| {
            let server = server.clone();
            async move {
                let inputs = [
                    way.clone(),
                    all(changes().into_iter().chain([way.clone()])),
                    all([call("h2", count()), relay("h1", way)]),
                ];
                for input in inputs {
                    let (before, after) = user
                        .around(async || {
                            // Users in the middle of a call are not parked. This user is in none, and is parked.
                            server.park().await;
                            assert_eq!(user.hostile(input).await.error(status, code)["dropped"], json!([]));
                            server.park().await;
                        })
                        .await;
                    assert_eq!(before, after);
                }
            }
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_call_that_fails_never_was() {
    let server = test().start().await;
    let fresh = User::new(&server, "fresh").state().await;
    assert_eq!((fresh.commands, &fresh.notes), (0, &json!([])));
    let mut running = Vec::new();
    for (n, (way, status, code)) in ways().into_iter().enumerate() {
        let (server, fresh) = (server.clone(), fresh.clone());
        running.push(tokio::spawn(async move {
            let inputs = [way.clone(), all(changes().into_iter().chain([way.clone()])), relay("h1", way)];
            for (m, input) in inputs.into_iter().enumerate() {
                let user = User::new(&server, &format!("user-{n}-{m}"));
                let reply = user.hostile(input).await;
                reply.error(status, code);
                reply.undone();
                assert_eq!(user.state().await, fresh);
            }
        }));
    }
    for running in running {
        running.await.expect("nothing was left");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_spins_past_its_deadline_is_as_before() {
    let test = test().set("limits.fuel_per_call", "9000G").set("limits.deadline", "500ms");
    let server = test.start().await;
    let user = User::new(&server, "mallory");
    user.settle("mallory").await;
    let spin = json!({"do": "spin"});
    for input in
        [spin.clone(), all(changes().into_iter().chain([spin.clone()])), relay("h1", all([call("h2", count()), spin]))]
    {
        is_undone(&user, input, 504, "deadline_exceeded").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn two_users_who_fail_at_once_are_each_as_before() {
    let server = test().start().await;
    let failing = async |name: &'static str, way: Value, status: u16, code: &'static str| {
        let user = User::new(&server, name);
        user.settle(name).await;
        for _ in 0..20 {
            is_undone(&user, all(changes().into_iter().chain([way.clone()])), status, code).await;
        }
        let state = user.state().await;
        assert_eq!((&state.notes, &state.preferences["theme"]), (&json!([name]), &json!(name)));
    };
    tokio::join!(
        failing("alice", json!({"do": "panic"}), 500, "function_crashed"),
        failing("bob", json!({"do": "spin"}), 500, "fuel_exhausted"),
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_changes_nothing_wherever_the_call_is() {
    let server = test().start().await;
    let user = User::new(&server, "alice");
    user.settle("alice").await;
    let sleep = json!({"do": "sleep", "milliseconds": 60_000});
    let here = all(changes().into_iter().chain([sleep.clone()]));
    let in_a_sibling = all([call("h1", all([call("workflow", note("lost")), call("h2", sleep)]))]);
    for parked in [false, true] {
        for input in [&here, &in_a_sibling] {
            let (before, after) = user
                .around(async || {
                    if parked {
                        assert_eq!(server.park().await, 1);
                    }
                    user.caller.clone().at("/hostile").abandon(input.clone()).await;
                    assert_eq!(server.host.registry().in_use(), 0);
                })
                .await;
            assert_eq!(before, after);
        }
    }
    let fresh = server.user("fresh").at("/hostile");
    fresh.abandon(here).await;
    assert_eq!(fresh.call(count()).await.ok()["calls"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_in_a_functions_own_words_is_no_failure() {
    let server = test().start().await;
    let user = User::new(&server, "alice");
    let (mut before, after) = user
        .around(async || {
            let fails = json!({"do": "fail", "why": "no milk"});
            user.hostile(all([call("workflow", note("kept")), fails.clone()])).await.error(500, "function_failed");
            // The words of a stop that never happened, and of one that the caller turns into another error.
            let lies = json!({"do": "fail", "why": "function_crashed: function `h1` crashed: it panicked or aborted"});
            user.hostile(lies).await.error(500, "function_failed");
            let other = all([call("h1", json!({"do": "panic"})), fails]);
            user.hostile(other).await.error(500, "function_failed");
        })
        .await;
    before.notes = json!(["kept"]);
    before.commands += 1;
    before.hostile[0].0 += 3;
    assert_eq!(before, after);
}

/// A guest that counts, and crashes after it has counted if its input says `trap`.
async fn counts_and_traps(name: &str) -> (Server, Caller) {
    let server = Test::fixture(name).start().await;
    let alice = server.user("alice").at("/it");
    (server, alice)
}

#[tokio::test(flavor = "multi_thread")]
async fn state_in_globals_tables_and_several_memories_is_undone() {
    for name in ["globals", "two-memories", "linkage-tables", "random"] {
        let (_server, alice) = counts_and_traps(name).await;
        alice.call(json!("trap")).await.error(500, "function_crashed");
        let mut before = Value::Null;
        for count in 1..=12 {
            let said = alice.call(json!({})).await.ok();
            assert_eq!(said["count"], count, "{name}");
            match name {
                "globals" => {
                    assert_eq!(said, json!({"count": count, "i64": count, "f32": count, "f64": count, "v128": count}))
                }
                "two-memories" => {
                    let marks: u64 = (1..=count / 5).map(|mark| mark * 5).sum();
                    let (sum, pages) = (count * (count + 1) / 2, 1 + count / 5);
                    assert_eq!(
                        said,
                        json!({"count": count, "second": count, "sum": sum, "pages": pages, "marks": marks})
                    );
                }
                "linkage-tables" => assert_eq!(said, json!({"count": count, "global": count, "turn": 2 - count % 2})),
                _ => {
                    for key in ["start", "configure", "first"] {
                        assert!(count == 1 || said[key] == before[key], "{key}");
                    }
                }
            }
            for _ in 0..2 {
                let reply = alice.call(json!("trap")).await;
                reply.error(500, "function_crashed");
                reply.undone();
            }
            before = said;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn state_that_cannot_be_kept_is_dropped_and_named() {
    for name in ["changing-table", "data-drop", "shared-globals"] {
        let (_server, alice) = counts_and_traps(name).await;
        alice.call(json!({})).await.ok();
        assert_eq!(alice.call(json!({})).await.ok()["count"], 2);
        let error = alice.call(json!("trap")).await.error(500, "function_crashed");
        assert_eq!(error["dropped"], json!(["it"]), "{name}");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("`it` is gone")), "{error}");
        assert_eq!(alice.call(json!({})).await.ok()["count"], 1, "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_can_be_undone_only_while_it_holds_nothing_of_the_host() {
    let (_server, alice) = counts_and_traps("handle").await;
    alice.call(json!({})).await.ok();
    alice.call(json!("take trap")).await.error(500, "function_crashed");
    assert_eq!(alice.call(json!("take")).await.ok(), json!({"count": 2, "held": 1}));
    assert_eq!(alice.call(json!("trap")).await.error(500, "function_crashed")["dropped"], json!(["it"]));
    alice.call(json!("take")).await.ok();
    assert_eq!(alice.call(json!("drop")).await.ok(), json!({"count": 2, "held": 0}));
    alice.call(json!("trap")).await.undone();
    assert_eq!(alice.call(json!({})).await.ok(), json!({"count": 3, "held": 0}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_caller_who_goes_away_from_what_cannot_be_undone_leaves_it_to_end() {
    let server =
        test().set("functions.printer", json!({"_type": "hostile"})).endpoint("/printer", "printer").start().await;
    let alice = server.user("alice").at("/printer");
    // From its first print on, a guest of Rust's standard library holds a stream of the host.
    alice.call(json!({"do": "print", "text": "x", "times": 1})).await.ok();
    alice.abandon(json!({"do": "sleep", "milliseconds": 50})).await;
    assert_eq!(alice.call(count()).await.ok()["calls"], 3);
    let error = alice.call(json!({"do": "panic"})).await.error(500, "function_crashed");
    assert_eq!(error["dropped"], json!(["printer"]));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_guest_in_javascript_is_undone() {
    let server = Test::keeper().set("limits.fuel_per_call", "100M").start().await;
    let alice = server.user("alice").at("/it");
    let told = |command: &str, text: &str| json!({"command": command, "text": text, "times": 1});
    alice.call(told("add", "milk")).await.ok();
    for (command, code) in [
        ("throw", "function_crashed"),
        ("trap", "function_crashed"),
        ("recurse", "function_crashed"),
        ("spin", "fuel_exhausted"),
    ] {
        let reply = alice.call(told(command, "")).await;
        reply.error(500, code);
        reply.undone();
    }
    alice.call(told("fail", "no")).await.error(500, "function_failed");
    let list = alice.call(told("list", "")).await.ok();
    assert_eq!(list, json!({"texts": ["milk"], "count": 1, "calls": 3}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_listener_who_goes_away_from_a_stream_undoes_its_call() {
    let server = test().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let emits_and_sleeps = all([
        json!({"do": "emit", "chunks": 1, "bytes": 10, "panic": false}),
        json!({"do": "sleep", "milliseconds": 60_000}),
    ]);
    for (calls, input) in [(2, json!({"do": "sleep", "milliseconds": 60_000})), (3, emits_and_sleeps)] {
        alice.clone().at("/hostile/stream").abandon(input).await;
        assert_eq!(alice.call(count()).await.ok()["calls"], calls, "the next call neither waits for it nor sees it");
    }
}

/// A call of a function that is stopped for want of memory. The stop says how much it needed, so that no two are equal.
fn takes_too_much(pages: usize) -> Value {
    call("h2", json!({"do": "take", "bytes": (100 << 20) + (pages << 16)}))
}

#[tokio::test(flavor = "multi_thread")]
async fn any_stop_of_a_call_can_be_passed_on() {
    let server = test().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let after = |others: usize| {
        let others = (0..others).map(takes_too_much);
        json!({"do": "pass_on", "name": "h1", "input": {"do": "panic"}, "after": others.collect::<Vec<_>>()})
    };
    for others in [0, 1, 63] {
        let reply = alice.call(after(others)).await;
        assert_eq!(reply.error(500, "function_crashed")["function"], "h1", "after {others}");
        assert!(reply.header("carrel-fuel").parse::<u64>().is_ok_and(|fuel| fuel >= 200_000), "{reply:?}");
        reply.undone();
    }
    // What another function was told of, or in another call, is nothing that it could pass on.
    alice.call(json!({"do": "keep_stop", "name": "h1", "input": {"do": "panic"}})).await.ok();
    alice.call(json!({"do": "pass_on_kept"})).await.error(500, "function_failed");
    assert_eq!(alice.call(count()).await.ok()["calls"], 4);
    // One that the host does not remember any more fails with its text.
    let error = alice.call(after(64)).await.error(500, "function_failed");
    assert!(error["detail"].as_str().is_some_and(|why| why.starts_with("function_crashed: function `h1`")), "{error}");
    assert_eq!(alice.call(count()).await.ok()["calls"], 6);
}

/// Whoever cannot be undone keeps what it has; a caller that cannot be undone keeps nobody from it that can.
#[tokio::test(flavor = "multi_thread")]
async fn who_holds_a_handle_passes_a_stop_on_and_is_not_undone_and_others_are() {
    let server = test().start().await;
    let alice = server.user("alice").at("/hostile");
    let calls = |said: &Value| (said["calls"].clone(), said["said"]["calls"].clone());
    let print = json!({"do": "print", "text": "x", "times": 1});
    alice.call(call("h1", count())).await.ok();
    // From its first print on, the outer function holds a stream.
    alice.call(print.clone()).await.ok();
    let relays = relay("h2", json!({"do": "panic"}));
    let said = alice.call(call("h1", relays.clone())).await.ok()["said"].to_string();
    assert!(said.contains("Stopped") && said.contains("function `h2` crashed"), "{said}");
    let after = alice.call(call("h1", count())).await.ok();
    assert_eq!(calls(&after), (json!(4), json!(2)), "the function that relayed is undone");
    // It passes the stop on itself: the caller is told of it, and that it was not undone.
    let reply = alice.call(relay("h1", relays)).await;
    let error = reply.error(500, "function_crashed");
    assert_eq!((&error["function"], &error["dropped"]), (&json!("h2"), &json!([])));
    assert!(!error["detail"].to_string().contains("as before"), "{error}");
    let after = alice.call(call("h1", count())).await.ok();
    assert_eq!(calls(&after), (json!(6), json!(3)));
    // And one that was called holds a stream.
    let bob = server.user("bob").at("/hostile");
    bob.call(call("h1", print)).await.ok();
    bob.call(relay("h1", relay("h2", json!({"do": "panic"})))).await.error(500, "function_crashed");
    let after = bob.call(call("h1", count())).await.ok();
    assert_eq!(calls(&after), (json!(3), json!(3)), "neither is undone without the other");
}

/// A function that quotes a stop's text has failed in these words, and nothing else.
#[tokio::test(flavor = "multi_thread")]
async fn the_words_of_a_stop_are_no_stop() {
    let server = test().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    let stopped = call("h1", json!({"do": "panic"}));
    let said = alice.call(stopped.clone()).await.ok()["said"].to_string();
    let words = "function_crashed: function `h1` crashed: it panicked or aborted";
    assert!(said.contains(words), "{said}");
    let quotes = all([stopped, json!({"do": "fail", "why": words})]);
    alice.call(quotes).await.error(500, "function_failed");
    assert_eq!(alice.call(count()).await.ok()["calls"], 4, "a function that has failed keeps what it did");
}

/// A function that passes a stop on is undone at any depth, and its caller, which goes on, sees that it was stopped.
#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_passes_a_stop_on_is_undone_as_the_stopped_one_is() {
    let server = test().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(call("h1", count())).await.ok();
    let relays = relay("h2", json!({"do": "panic"}));
    let said = alice.call(call("h1", relays.clone())).await.ok()["said"].to_string();
    assert!(said.contains("Stopped") && said.contains("function `h2` crashed"), "{said}");
    let after = alice.call(call("h1", count())).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(3), &json!(2)));
    // From there it goes on to the caller from outside, as the same stop.
    let reply = alice.call(relay("h1", relays)).await;
    assert_eq!(reply.error(500, "function_crashed")["function"], "h2");
    reply.undone();
    let after = alice.call(call("h1", count())).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(4), &json!(3)));
}

/// However many functions of a call were stopped before: one that is passed on undoes the call.
#[tokio::test(flavor = "multi_thread")]
async fn a_stop_after_many_others_is_still_a_stop() {
    // Hundreds of instances are made in a call: however slow the machine is.
    let test = test().set("limits.fuel_per_call", 1_000_000_000).set("limits.deadline", "1min");
    let server = test.start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    for stopped in [1, 64, 65, 200] {
        let others = (0..stopped).map(takes_too_much);
        let same = (0..stopped).map(|_| call("h1", json!({"do": "divide"})));
        let reply = alice.call(all(others.chain(same).chain([relay("h1", json!({"do": "panic"}))]))).await;
        assert_eq!(reply.error(500, "function_crashed")["function"], "h1", "after {stopped}");
        reply.undone();
    }
    assert_eq!(alice.call(count()).await.ok()["calls"], 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_a_function_that_was_just_woken_is_dropped_as_any_other() {
    let server = test().set("sessions.rollback", false).start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(count()).await.ok();
    assert_eq!(server.park().await, 1);
    let error = alice.call(json!({"do": "panic"})).await.error(500, "function_crashed");
    assert_eq!(error["dropped"], json!(["hostile"]));
    assert_eq!(alice.call(count()).await.ok()["calls"], 1);
}

/// The same functions, with room for large state.
fn roomy() -> Test {
    test().set("limits.fuel_per_call", 100_000_000_000_u64).set("limits.memory_per_instance", "64 MiB")
}

/// The large memory that a failed call has written is restored beside other work, after the answer: the next caller
/// finds it restored, and so do a function that continues after another one has failed, and one that fails later.
#[tokio::test(flavor = "multi_thread")]
async fn what_takes_long_to_put_back_is_put_back_before_anybody_looks() {
    let server = roomy().start().await;
    let inner = |input: Value| json!({"do": "call", "name": "h1", "input": input});
    let overwritten = json!({"do": "all", "of": [{"do": "overwrite"}, {"do": "panic"}]});
    let alice = server.user("alice").at("/hostile");
    let h1 = alice.clone().at("/h1");
    h1.call(json!({"do": "fill", "byte": 7, "bytes": 12_000_000})).await.ok();
    let sum = json!({"do": "sum"});
    let before = h1.call(sum.clone()).await.ok();
    for round in 1..4 {
        // The inner function fails alone, twice, and the caller reads its state in between.
        let fails = [inner(overwritten.clone()), inner(sum.clone()), inner(overwritten.clone()), inner(sum.clone())];
        let said = alice.call(json!({"do": "all", "of": fails})).await.ok();
        assert_eq!([&said["said"][1]["said"], &said["said"][3]["said"]], [&before["said"]; 2], "{said}");
        // The inner function succeeds, fails, succeeds again, and then its caller fails.
        let overwrite = inner(json!({"do": "overwrite"}));
        let mixed = [overwrite.clone(), inner(overwritten.clone()), overwrite, json!({"do": "panic"})];
        alice.call(json!({"do": "all", "of": mixed})).await.error(500, "function_crashed");
        // The inner function succeeds, fails last, and its caller fails at once.
        let mixed = [inner(json!({"do": "overwrite"})), inner(overwritten.clone()), json!({"do": "panic"})];
        alice.call(json!({"do": "all", "of": mixed})).await.error(500, "function_crashed");
        if round == 2 {
            assert_eq!(server.park().await, 1);
        }
        let after = h1.call(sum.clone()).await.ok();
        assert_eq!(after["said"], before["said"], "round {round}");
    }
    assert_eq!(h1.call(sum).await.ok()["calls"].as_u64(), before["calls"].as_u64().map(|calls| calls + 10));
}

/// An instance that was small, and compared, becomes large in a call of its own that ends well, and goes back with its
/// caller's: whatever its next calls change is undone and kept as ever.
#[tokio::test(flavor = "multi_thread")]
async fn what_was_large_for_a_while_is_undone_and_kept_afterwards() {
    let server = roomy().start().await;
    let alice = server.user("alice").at("/hostile");
    let h1 = alice.clone().at("/h1");
    h1.call(json!({"do": "fill", "byte": 7, "bytes": 1000})).await.ok();
    let sum = json!({"do": "sum"});
    for round in 0..2 {
        // Woken, it is not guarded before its first call has ended.
        assert_eq!(server.park().await, 1);
        let grows = json!({"do": "call", "name": "h1", "input": {"do": "take", "bytes": 8_000_000}});
        alice.call(json!({"do": "all", "of": [grows, {"do": "panic"}]})).await.error(500, "function_crashed");
        let before = h1.call(sum.clone()).await.ok();
        let fails = json!({"do": "all", "of": [{"do": "overwrite"}, {"do": "panic"}]});
        h1.call(fails).await.error(500, "function_crashed");
        let after = h1.call(sum.clone()).await.ok();
        assert_eq!(after["said"], before["said"], "round {round}");
        assert_eq!(after["calls"].as_u64(), before["calls"].as_u64().map(|calls| calls + 1));
        h1.call(json!({"do": "overwrite"})).await.ok();
        let changed = h1.call(sum.clone()).await.ok();
        assert_ne!(changed["said"], before["said"]);
        assert_eq!(server.park().await, 1);
        assert_eq!(h1.call(sum.clone()).await.ok()["said"], changed["said"], "round {round}");
    }
}
