//! Limits at once: calls, sessions, connections, and the functions that a tenant may call.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_has_its_own_limits_and_else_those_of_all() {
    let server = verified()
        .set("limits.fuel_per_call", "9000G")
        .set("limits.deadline", "1s")
        .set("functions.h1", json!({"_type": "hostile"}))
        .set("tenants.small.limits", json!({
            "fuel_per_call": "5M", "memory_per_instance": "4 MiB", "output_size": 1000, "body_size": 2000, "call_depth": 1,
        }))
        .set("tenants.hasty.limits.deadline", "250ms")
        .set("tenants.big", json!({}))
        .start()
        .await;
    let [small, hasty, big] = ["small", "hasty", "big"].map(|tenant| of(&server, tenant, "alice"));
    let spin = json!({"do": "spin"});
    let fuel = small.call(spin.clone()).await;
    is_limited(&fuel, 500, "fuel_exhausted", "limits.fuel_per_call");
    assert!(fuel.text().contains("allows 5000000 units"), "{fuel:?}");
    is_limited(&big.call(spin).await, 504, "deadline_exceeded", "limits.deadline");
    let wait = json!({"do": "sleep", "milliseconds": 400});
    is_limited(&hasty.call(wait.clone()).await, 504, "deadline_exceeded", "limits.deadline");
    for patient in [&small, &big] {
        patient.call(wait.clone()).await.ok();
    }
    let nested = json!({"do": "call", "name": "h1", "input": count()});
    for (asked, status, code, setting) in [
        (json!({"do": "take", "bytes": 8 << 20}), 500, "memory_exhausted", "limits.memory_per_instance"),
        (json!({"do": "answer", "bytes": 1500}), 500, "output_too_large", "limits.output_size"),
        (json!({"do": "emit", "chunks": 3, "bytes": 500}), 500, "output_too_large", "limits.output_size"),
        (json!({"do": "count", "x": "x".repeat(3000)}), 413, "body_too_large", "limits.body_size"),
    ] {
        is_limited(&small.call(asked.clone()).await, status, code, setting);
        for other in [&hasty, &big] {
            other.call(asked.clone()).await.ok();
        }
    }
    let deep = small.call(nested.clone()).await.ok();
    assert!(deep["said"].as_str().is_some_and(|said| said.contains("call_too_deep")), "{deep}");
    assert_eq!(big.call(nested).await.ok()["said"]["calls"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_calls_only_the_functions_that_it_may_from_outside_and_from_within() {
    let server = verified()
        .endpoint("/notes", "notepad")
        .set("tenants.some.functions", json!(["hostile", "preferences"]))
        .set("tenants.none.functions", json!([]))
        .set("tenants.all", json!({}))
        .start()
        .await;
    let [some, none, all] = ["some", "none", "all"].map(|tenant| of(&server, tenant, "alice"));
    let list = json!({"action": "list"});
    for path in ["/generate", "/generate/stream", "/v1/workflow", "/notes", "/notes/full"] {
        let refused = some.clone().at(path).body("no JSON at all").await;
        is_limited(&refused, 403, "function_forbidden", "tenants.*.functions");
        none.clone().at(path).call(list.clone()).await.error(403, "function_forbidden");
    }
    assert!(some.clone().at("/notes").call(list.clone()).await.text().contains("may not call the function `notepad`"));
    all.clone().at("/notes").call(list.clone()).await.ok();
    all.clone().at("/generate").call(json!({"command": "stats"})).await.ok();
    none.call(count()).await.error(403, "function_forbidden");
    for (caller, name, there) in
        [(&some, "notepad", false), (&some, "workflow", false), (&some, "preferences", true), (&all, "notepad", true)]
    {
        assert_eq!(caller.call(json!({"do": "exists", "name": name})).await.ok()["said"], there, "{name}");
        let said = caller.call(json!({"do": "call", "name": name, "input": list})).await.ok()["said"].clone();
        let unknown = format!("Unknown(\"no function `{name}` is configured\")");
        assert_eq!(said.as_str() == Some(&unknown), !there, "{name}: {said}");
    }
    assert_eq!(server.host.tenants()[1].sessions(), 0, "who may call nothing has no session");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_of_a_tenant_as_it_may_have_leave_other_tenants_alone() {
    let server = verified()
        .set("tenants.busy.limits.tenant.calls", 3)
        .set("tenants.calm", json!({}))
        .set("limits.tenant.calls", 100)
        .start()
        .await;
    let (alice, bob) = (of(&server, "busy", "alice"), of(&server, "busy", "bob"));
    // Two run, and one waits.
    let calls = [alice.spawn(sleep()), bob.spawn(sleep()), bob.spawn(sleep())];
    server.until_in_use(3).await;
    for caller in [&alice, &bob, &of(&server, "busy", "carol")] {
        let refused = caller.call(count()).await;
        is_limited(&refused, 429, "too_many_calls", "limits.tenant.calls");
        assert_eq!(refused.retry_after(), 1);
    }
    of(&server, "calm", "alice").call(count()).await.ok();
    assert_eq!(server.host.tenants()[0].calls(), 3, "who was refused is not counted");
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    while server.host.tenants()[0].calls() > 0 {
        yield_now().await;
    }
    of(&server, "busy", "carol").call(count()).await.ok();
    assert_eq!((server.host.tenants()[0].calls(), server.host.registry().in_use()), (0, 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn as_many_calls_of_all_users_as_the_host_takes() {
    let server = Test::hostile().set("limits.calls", 2).start().await;
    let calls = [user(&server, "alice").spawn(sleep()), user(&server, "bob").spawn(sleep())];
    server.until_in_use(2).await;
    for name in ["alice", "carol"] {
        let refused = user(&server, name).call(count()).await;
        is_limited(&refused, 503, "too_many_calls", "limits.calls");
        assert_eq!(refused.retry_after(), 1);
    }
    assert_eq!(server.get("/health").await.status, 200);
    calls.iter().for_each(tokio::task::JoinHandle::abort);
    while server.host.registry().in_use() > 0 {
        yield_now().await;
    }
    user(&server, "carol").call(count()).await.ok();
}

#[tokio::test(start_paused = true)]
async fn a_tenant_has_as_many_sessions_as_it_may_and_another_when_one_has_ended() {
    let server = verified()
        .set("tenants.small.limits.tenant.sessions", 2)
        .set("tenants.big", json!({}))
        .set("general.per_user_workflow_timeout", "2s")
        .set("general.per_user_workflow_cleanup_interval", "500ms")
        .start()
        .await;
    let upkeep = server.host.upkeep();
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| of(&server, "small", name));
    alice.call(count()).await.ok();
    bob.call(count()).await.ok();
    assert_eq!(server.park().await, 2, "parked ones count as well");
    let refused = carol.call(count()).await;
    is_limited(&refused, 503, "too_many_sessions", "limits.tenant.sessions");
    assert_eq!(refused.retry_after(), 60);
    assert_eq!(alice.call(count()).await.ok()["calls"], 2, "who has one keeps it");
    for name in ["alice", "bob", "carol"] {
        of(&server, "big", name).call(count()).await.ok();
    }
    assert_eq!((server.host.tenants()[0].sessions(), server.host.tenants()[1].sessions()), (2, 3));
    tokio::time::sleep(Duration::from_secs(3)).await;
    assert_eq!((server.host.tenants()[0].sessions(), server.host.tenants()[1].sessions()), (0, 0));
    carol.call(count()).await.ok();
    drop(upkeep);
}

/// The first tenant's limits of memory and fuel are independent of the needs of the others' functions.
#[tokio::test(flavor = "multi_thread")]
async fn the_host_tries_its_functions_at_nobodys_cost() {
    let tiny =
        json!({"tenant": {"fuel_per_second": 1, "fuel_burst": 1, "memory": "64 KiB"}, "user": {"memory": "64 KiB"}});
    let server = verified().set("tenants.tiny.limits", tiny).set("tenants.big", json!({})).start().await;
    assert_eq!(server.host.tenants()[0].fuel_left(), Some(1));
    of(&server, "big", "alice").call(count()).await.ok();
    of(&server, "tiny", "alice").call(count()).await.error(500, "memory_exhausted");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_more_connection_than_there_may_be_is_told_and_closed() {
    let server = Test::new().set("limits.connections", 2).start().await;
    let listening = server.listen().await;
    let ask = b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n";
    let connect = async || TcpStream::connect(listening.address).await.expect("a connection");
    let mut open = Vec::new();
    for _ in 0..2 {
        let mut stream = connect().await;
        stream.write_all(ask).await.expect("sent");
        let mut answer = [0; 500];
        let read = stream.read(&mut answer).await.expect("an answer");
        assert!(answer[..read].starts_with(b"HTTP/1.1 200"));
        open.push(stream);
    }
    let mut told = String::new();
    connect().await.read_to_string(&mut told).await.expect("an answer, and the end");
    let (head, body) = told.split_once("\r\n\r\n").expect("a body");
    assert!(head.starts_with("HTTP/1.1 503 Service Unavailable\r\ncarrel-error: too_many_connections"), "{head}");
    assert!(
        head.contains("\r\nretry-after: 1\r\n") && head.contains(&format!("content-length: {}", body.len())),
        "{head}"
    );
    let body: Value = serde_json::from_str(body).expect("JSON");
    assert_eq!((&body["code"], &body["setting"]), (&json!("too_many_connections"), &json!("limits.connections")));
    // Those that are open go on, and when one of them ends there is a place.
    open[0].write_all(ask).await.expect("sent");
    assert!(open[0].read(&mut [0; 500]).await.expect("an answer") > 0);
    drop(open.pop());
    loop {
        let (mut stream, mut answer) = (connect().await, [0; 500]);
        stream.write_all(ask).await.expect("sent");
        let read = stream.read(&mut answer).await.expect("an answer");
        if answer[..read].starts_with(b"HTTP/1.1 200") {
            break;
        }
    }
    drop(open);
    listening.stop().await.expect("the server ends");
}
