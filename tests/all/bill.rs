//! The cost of calls: for their callers, in the figures, and for each user.

use carrel_tests::{Reply, Server, Test};
use serde_json::json;

fn fuel(reply: &Reply) -> u64 {
    reply.header("carrel-fuel").parse().expect("fuel")
}

/// A figure's value, by its name and labels.
async fn figure(server: &Server, name: &str) -> Option<f64> {
    let reply = server.get("/metrics").await;
    let line = reply.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.map(|value| value.parse().expect("a number"))
}

#[tokio::test(flavor = "multi_thread")]
async fn each_answer_tells_what_it_cost() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice");
    let first = alice.call(json!({"command": "note", "action": "add", "param1": "milk"})).await;
    assert_eq!(first.header("carrel-functions"), "2", "the assistant and the notepad");
    let timing = |reply: &Reply| {
        let parts = reply.header("server-timing").split(", ").map(|part| {
            let (name, time) = part.split_once(";dur=").expect("a name and a time");
            (name.to_owned(), time.parse::<f64>().expect("milliseconds"))
        });
        parts.collect::<Vec<_>>()
    };
    let times = timing(&first);
    let names: Vec<_> = times.iter().map(|(name, _)| name.as_str()).collect();
    assert_eq!(names, ["queue", "instantiate", "call"]);
    assert!(times[1].1 > 0.0 && times[2].1 > 0.0, "{times:?}");
    let second = alice.call(json!({"command": "stats"})).await;
    assert_eq!((second.header("carrel-functions"), timing(&second)[1].1), ("1", 0.0), "its instance was there");
    // Also when it fails, and when it is a stream.
    let failed = alice.clone().at("/hostile").call(json!({"do": "panic"})).await;
    failed.error(500, "function_crashed");
    assert!(fuel(&failed) > 1000 && failed.header("carrel-functions") == "1");
    let stream = alice.at("/hostile/stream").call(json!({"do": "emit", "chunks": 2, "bytes": 5})).await;
    let events: Vec<_> = stream.text().trim_end().split("\n\n").collect();
    let cost = events[events.len() - 2];
    assert!(cost.starts_with(": carrel-fuel: ") && cost.contains("server-timing: queue;dur="), "{events:?}");
    let refused = server.nobody().call(json!({"command": "stats"})).await;
    assert_eq!((refused.header("carrel-fuel"), refused.header("server-timing")), ("", ""), "nothing was run");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_sum_of_the_bills_is_what_the_figures_and_the_tenant_say() {
    let server = Test::hostile().set("functions.h1", json!({"_type": "hostile"})).start().await;
    let mut sum = 0;
    let mut calls = 0.0;
    for user in ["alice", "bob", "mallory"] {
        let caller = server.user(user);
        for command in [json!({"command": "stats"}), json!({"command": "note", "action": "list"})] {
            let reply = caller.call(command).await;
            reply.ok();
            (sum, calls) = (sum + fuel(&reply), calls + 1.0);
        }
        let hostile = caller.at("/hostile");
        for (attack, status) in [
            (json!({"do": "panic"}), 500),
            (json!({"do": "refuse", "why": "no"}), 422),
            (json!({"do": "call", "name": "h1", "input": {"do": "panic"}}), 200),
            (json!({"do": "relay", "name": "h1", "input": {"do": "abort"}}), 500),
        ] {
            let reply = hostile.call(attack).await;
            assert_eq!(reply.status, status);
            (sum, calls) = (sum + fuel(&reply), calls + 1.0);
        }
    }
    assert_eq!(figure(&server, r#"carrel_fuel_total{tenant="default"}"#).await, Some(sum as f64));
    assert_eq!(figure(&server, r#"carrel_calls_total{tenant="default"}"#).await, Some(calls));
    assert_eq!(figure(&server, r#"carrel_call_seconds_count{tenant="default"}"#).await, Some(calls));
    assert_eq!(server.host.tenants()[0].fuel_used(), sum);
    let of_users = ["alice", "bob", "mallory"].map(|name| {
        let user = carrel::identity::User::from_credential(name);
        server.host.registry().look(user).map_or(0, |seen| seen.session.account().fuel())
    });
    assert_eq!(of_users.iter().sum::<u64>(), sum);
    // The assistant's two calls ran three functions, a relayed one and a called one two each.
    assert_eq!(figure(&server, r#"carrel_functions_run_total{tenant="default"}"#).await, Some(3.0 * 9.0));
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_and_stops_are_counted_by_kind_and_no_user_is_named() {
    let server = Test::hostile().set("functions.h1", json!({"_type": "hostile"})).start().await;
    let mallory = server.user("mallory").at("/hostile");
    mallory.call(json!({"do": "panic"})).await.error(500, "function_crashed");
    mallory.call(json!({"do": "call", "name": "h1", "input": {"do": "panic"}})).await.ok();
    mallory.clone().at("/hostile/stream").call(json!({"do": "emit", "chunks": 1, "bytes": 1, "panic": true})).await;
    mallory.body("no json").await.error(422, "invalid_input");
    server.nobody().call(json!({"command": "stats"})).await.error(401, "identity_required");
    for (name, expected) in [
        (r#"carrel_errors_total{tenant="default",code="function_crashed"}"#, 2.0),
        (r#"carrel_stops_total{tenant="default",code="function_crashed"}"#, 3.0),
        (r#"carrel_errors_total{tenant="default",code="invalid_input"}"#, 1.0),
        (r#"carrel_errors_total{tenant="",code="identity_required"}"#, 1.0),
        (r#"carrel_tenant_sessions{tenant="default"}"#, 1.0),
    ] {
        assert_eq!(figure(&server, name).await, Some(expected), "{name}");
    }
    let id = carrel::identity::User::from_credential("mallory").to_string();
    assert!(!server.get("/metrics").await.text().contains(&id));
    let shown = server.get(&format!("/monitor/users?user_id={id}")).await.ok();
    assert_eq!(shown["users"][0]["traps"], 3);
}
