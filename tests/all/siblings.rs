//! Functions call each other.

use carrel_tests::Test;
use serde_json::{Value, json};

fn call(name: &str, input: Value) -> Value {
    json!({"do": "call", "name": name, "input": input})
}

fn two() -> Test {
    Test::hostile().set("functions.h1", json!({"_type": "hostile"}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siblings_crash_is_an_error_for_its_caller_and_nothing_more() {
    let server = two().start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(call("h1", json!({"do": "count"}))).await.ok();
    let crashed = alice.call(call("h1", json!({"do": "panic"}))).await.ok();
    assert!(crashed["said"].as_str().is_some_and(|said| said.starts_with("Stopped(\"function_crashed: function `h1`")));
    let after = alice.call(call("h1", json!({"do": "count"}))).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(3), &json!(2)), "only h1's crash never was");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sibling_that_uses_all_it_gets_leaves_its_caller_enough_to_answer() {
    let spins = two().set("limits.fuel_per_call", 50_000_000).start().await;
    let said = spins.user("alice").at("/hostile").call(call("h1", json!({"do": "spin"}))).await.ok();
    assert!(said["said"].as_str().is_some_and(|said| said.contains("fuel_exhausted")), "{said}");

    let waits = two().set("limits.deadline", "1500ms").set("limits.fuel_per_call", "9000G").start().await;
    for slow in [json!({"do": "sleep", "milliseconds": 60_000}), json!({"do": "spin"})] {
        let waits = waits.user("alice").at("/hostile").call(call("h1", slow)).await.ok();
        assert!(waits["said"].as_str().is_some_and(|said| said.contains("deadline_exceeded")), "{waits}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circle_is_refused_and_not_waited_for() {
    let server = two().start().await;
    let alice = server.user("alice").at("/hostile");
    let own = alice.call(call("hostile", json!({"do": "count"}))).await.ok();
    assert!(own["said"].as_str().is_some_and(|said| said.starts_with("Cycle(")), "{own}");
    let long = alice.call(call("h1", call("hostile", json!({"do": "count"})))).await.ok();
    assert!(long["said"]["said"].as_str().is_some_and(|said| said.starts_with("Cycle(")), "{long}");
    let unknown = alice.call(call("nobody", json!({}))).await.ok();
    assert!(unknown["said"].as_str().is_some_and(|said| said.starts_with("Unknown(")), "{unknown}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_siblings_own_errors_come_through() {
    let server = two().start().await;
    let alice = server.user("alice").at("/hostile");
    for (input, expected) in [
        (json!({"do": "fail", "why": "no"}), "Failed(\"no\")"),
        (json!({"do": "refuse", "why": "not that"}), "InvalidInput(\"not that\")"),
    ] {
        assert_eq!(alice.call(call("h1", input)).await.ok()["said"], expected);
    }
    let shapeless = alice.call(call("h1", json!({"do": "nothing of the kind"}))).await.ok();
    assert!(shapeless["said"].as_str().is_some_and(|said| said.starts_with("InvalidInput(")), "{shapeless}");
}

/// The sibling ends well and the caller's output is too large.
fn too_much() -> Value {
    call("h1", json!({"do": "answer", "bytes": 165}))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_failed_call_undoes_all_that_it_has_used() {
    let server = two().set("limits.output_size", 200).start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(too_much()).await.error(500, "output_too_large");
    let first = alice.call(call("h1", json!({"do": "count"}))).await.ok();
    assert_eq!((&first["calls"], &first["said"]["calls"]), (&json!(1), &json!(1)));
    let failed = alice.call(too_much()).await;
    failed.error(500, "output_too_large");
    failed.undone();
    let after = alice.call(call("h1", json!({"do": "count"}))).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(2), &json!(2)));
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_a_failed_call_drops_all_that_it_has_used() {
    let server = two().set("sessions.rollback", false).set("limits.output_size", 200).start().await;
    let alice = server.user("alice").at("/hostile");
    let first = alice.call(too_much()).await.error(500, "output_too_large");
    assert_eq!(first["dropped"], json!([]), "both were new");
    alice.call(call("h1", json!({"do": "count"}))).await.ok();
    let reply = alice.call(too_much()).await;
    let error = reply.error(500, "output_too_large");
    assert_eq!(error["dropped"], json!(["h1", "hostile"]));
    assert!(
        error["detail"].as_str().is_some_and(|it| it.ends_with("is gone: the next call starts afresh.")),
        "{error}"
    );
    assert_eq!(reply.header("carrel-dropped"), "h1, hostile");
    let after = alice.call(call("h1", json!({"do": "count"}))).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(1), &json!(1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_bill_of_a_call_is_the_sum_of_what_its_tree_used() {
    let server = two().start().await;
    let alice = server.user("alice").at("/hostile");
    let fuel = async |input: Value| alice.call(input).await.header("carrel-fuel").parse::<u64>().expect("a number");
    // Once, so that both instances are there.
    fuel(call("h1", json!({"do": "count"}))).await;
    let alone = fuel(json!({"do": "count"})).await;
    let small = fuel(call("h1", json!({"do": "answer", "bytes": 10}))).await;
    let large = fuel(call("h1", json!({"do": "answer", "bytes": 100_000}))).await;
    assert!(alone > 0 && small > 2 * alone, "{alone} {small}");
    assert!(large > small + 100_000, "{small} {large}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_what_a_stopped_sibling_held_is_told_whatever_its_caller_makes_of_it() {
    let server = two().set("sessions.rollback", false).start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(call("h1", json!({"do": "count"}))).await.ok();
    // The caller goes on, and answers well.
    let reply = alice.call(call("h1", json!({"do": "panic"}))).await;
    reply.ok();
    assert_eq!(reply.header("carrel-dropped"), "h1");
    // Nothing was there any more, so nothing is lost a second time.
    let reply = alice.call(call("h1", json!({"do": "panic"}))).await;
    reply.ok();
    assert_eq!(reply.header("carrel-dropped"), "");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_that_is_passed_on_keeps_its_code_and_setting() {
    let server = Test::new().set("limits.memory_per_instance", "1 MiB").start().await;
    let alice = server.user("alice");
    let add = |text: &str| json!({"command": "note", "action": "add", "param1": text});
    alice.call(add("milk")).await.ok();
    let large = "x".repeat(30_000);
    let mut notes = 1;
    let error = loop {
        let reply = alice.call(add(&large)).await;
        if reply.status != 200 {
            break reply.error(500, "memory_exhausted");
        }
        notes += 1;
        assert!(notes < 50, "a MiB is spent some day");
    };
    assert_eq!((&error["function"], &error["setting"]), (&json!("notepad"), &json!("limits.memory_per_instance")));
    assert_eq!(error["dropped"], json!([]));
    let after = alice.call(json!({"command": "note", "action": "count"})).await.ok();
    let data = json!({"notes": [], "count": notes, "commands_executed": notes + 1});
    assert_eq!(after["data"], data, "the assistant, which passed it on, is as before as well");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_rollback_a_stop_that_is_passed_on_costs_only_who_was_stopped() {
    let server = two().set("sessions.rollback", false).start().await;
    let alice = server.user("alice").at("/hostile");
    alice.call(call("h1", json!({"do": "count"}))).await.ok();
    let relay = json!({"do": "relay", "name": "h1", "input": {"do": "panic"}});
    let error = alice.call(relay).await.error(500, "function_crashed");
    assert_eq!((&error["function"], &error["dropped"]), (&json!("h1"), &json!(["h1"])));
    let after = alice.call(call("h1", json!({"do": "count"}))).await.ok();
    assert_eq!((&after["calls"], &after["said"]["calls"]), (&json!(3), &json!(1)));
}
