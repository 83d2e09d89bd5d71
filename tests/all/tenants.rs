//! What users, tenants and the host may use over time and at once: whoever has used it is refused, with a true time
//! after which to come again, and others notice nothing.

use carrel::identity::User;
use carrel_tests::{Caller, Reply, Server, Test};
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp as now};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::{Instant, advance},
};

/// A shared secret, for tests only.
const SECRET: &str = "a secret of the tests, which everybody knows";

/// A host whose callers are verified, and say in a claim of which tenant they are.
fn verified() -> Test {
    let jwt = json!({"issuer": "https://all.example", "audience": "carrel", "secret": SECRET, "tenant_claim": "org"});
    Test::hostile().set("identity.jwt", jwt)
}

/// A user of a tenant, who does what they are told.
fn of(server: &Server, tenant: &str, name: &str) -> Caller {
    let claims =
        json!({"iss": "https://all.example", "aud": "carrel", "sub": name, "org": tenant, "exp": now() + 3600});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token");
    server.bearer(&token).at("/hostile")
}

/// A user where nobody is verified.
fn user(server: &Server, name: &str) -> Caller {
    server.user(name).at("/hostile")
}

fn count() -> Value {
    json!({"do": "count"})
}

fn sleep() -> Value {
    json!({"do": "sleep", "milliseconds": 8000})
}

#[track_caller]
fn is_limited(reply: &Reply, status: u16, code: &str, setting: &str) {
    assert_eq!(reply.error(status, code)["setting"], setting, "{reply:?}");
}

/// Waits out what a refusal says: until a second before it is too early, and then it is not.
async fn wait_out(caller: &Caller, refusal: &Reply) -> Reply {
    let code = refusal.header("carrel-error");
    advance(Duration::from_secs(refusal.retry_after() - 1)).await;
    let early = caller.call(count()).await;
    early.error(429, code);
    assert_eq!(early.retry_after(), 1, "{early:?}");
    advance(Duration::from_secs(1)).await;
    caller.call(count()).await
}

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
    let listening = server.listen().await;
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
    drop(listening);
}

#[tokio::test(flavor = "multi_thread")]
async fn when_a_tenants_memory_is_spent_its_own_idle_sessions_make_room_and_no_others() {
    let server =
        verified().set("tenants.small.limits.tenant.memory", "2 MiB").set("tenants.big", json!({})).start().await;
    let quiet = of(&server, "big", "alice");
    quiet.call(count()).await.ok();
    // Nobody makes room as long as the host does not serve.
    let refused = loop {
        let there = server.host.tenants()[0].sessions();
        assert!(there < 100, "nobody was refused");
        let reply = of(&server, "small", &format!("user {there}")).call(count()).await;
        if reply.status != 200 {
            break reply;
        }
    };
    is_limited(&refused, 503, "tenant_full", "limits.tenant.memory");
    refused.undone();
    assert!(refused.retry_after() > 0);
    assert!(server.host.tenants()[0].memory_used() <= 2 << 20);
    quiet.call(json!({"do": "take", "bytes": 4 << 20})).await.ok();
    let before = server.host.registry().parkings();
    let listening = server.listen().await;
    let first = async { while of(&server, "small", "first").call(count()).await.status != 200 {} };
    tokio::time::timeout(Duration::from_secs(10), first).await.expect("room is made as soon as the host serves");
    for guest in 0..30 {
        assert_eq!(of(&server, "small", &format!("guest {guest}")).call(count()).await.ok()["calls"], 1);
    }
    assert!(server.host.registry().parkings() > before + 10, "some were parked for others");
    let quiet_users = server.host.registry().look_at_all().into_iter().filter(|seen| seen.session.user().tenant() == 1);
    assert_eq!(quiet_users.map(|seen| seen.parked).collect::<Vec<_>>(), [false], "and nobody of the other tenant");
    assert_eq!(of(&server, "small", "user 0").call(count()).await.ok()["calls"], 2, "who was parked has kept all");
    let too_much = of(&server, "small", "user 0").call(json!({"do": "take", "bytes": 3 << 20})).await;
    is_limited(&too_much, 503, "tenant_full", "limits.tenant.memory");
    too_much.undone();
    listening.stop().await.expect("the server ends");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_users_instances_take_together_what_the_user_may_have() {
    let server = Test::hostile()
        .set("functions.h1", json!({"_type": "hostile"}))
        .set("limits.user.memory", "4 MiB")
        .set("limits.fuel_per_call", "20M")
        .set("limits.memory_per_instance", "4 GiB")
        .start()
        .await;
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    let take = |bytes: usize| json!({"do": "take", "bytes": bytes});
    alice.call(take(1_500_000)).await.ok();
    let in_other = json!({"do": "relay", "name": "h1", "input": take(3_000_000)});
    let refused = alice.call(in_other).await;
    is_limited(&refused, 500, "memory_exhausted", "limits.user.memory");
    refused.undone();
    assert_eq!(refused.header("retry-after"), "", "waiting does not help");
    assert_eq!(alice.call(json!({"do": "holds"})).await.ok()["said"]["kept"], 1_500_000);
    bob.call(take(3_000_000)).await.ok();
    // One that is refused memory and goes on is stopped for what it does then.
    let probe = alice.call(json!({"do": "probe"})).await;
    is_limited(&probe, 500, "fuel_exhausted", "limits.fuel_per_call");
}

/// What the first tenant may use of memory and fuel says nothing of what the others' functions need.
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

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_rate_are_refused_for_as_long_as_it_is_told() {
    let server = Test::hostile()
        .set("limits.deadline", "1h")
        .set("limits.user", json!({"requests_per_second": 2, "requests_burst": 3}))
        .start()
        .await;
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    // What comes of a request does not matter.
    alice.call(count()).await.ok();
    alice.body("no JSON").await.error(422, "invalid_input");
    alice.call(json!({"do": "panic"})).await.error(500, "function_crashed");
    let refused = alice.call(count()).await;
    is_limited(&refused, 429, "rate_limited", "limits.user.requests_per_second");
    assert_eq!(refused.retry_after(), 1);
    assert!(refused.text().contains("2 requests a second, and 3 at once"), "{refused:?}");
    bob.call(count()).await.ok();
    advance(Duration::from_millis(499)).await;
    alice.call(count()).await.error(429, "rate_limited");
    advance(Duration::from_millis(1)).await;
    assert_eq!(alice.call(count()).await.ok()["calls"], 2);
    // Over time there are no more than that.
    let (began, mut served) = (Instant::now(), 0);
    while began.elapsed() < Duration::from_secs(10) {
        served += u32::from(alice.call(count()).await.status == 200);
        advance(Duration::from_millis(37)).await;
    }
    assert!((19..=21).contains(&served), "{served}");
}

#[tokio::test(start_paused = true)]
async fn a_request_that_the_user_may_not_send_is_not_taken_off_the_tenants() {
    let server = verified()
        .set("limits.deadline", "1h")
        .set("tenants.red.limits.tenant", json!({"requests_per_second": 1, "requests_burst": 4}))
        .set("tenants.red.limits.user", json!({"requests_per_second": 1, "requests_burst": 2}))
        .set("tenants.blue", json!({}))
        .start()
        .await;
    let [alice, bob, carol] = ["alice", "bob", "carol"].map(|name| of(&server, "red", name));
    for _ in 0..2 {
        alice.call(count()).await.ok();
    }
    for _ in 0..5 {
        let refused = alice.call(count()).await;
        is_limited(&refused, 429, "rate_limited", "limits.user.requests_per_second");
    }
    for _ in 0..2 {
        bob.call(count()).await.ok();
    }
    let refused = carol.call(count()).await;
    is_limited(&refused, 429, "rate_limited", "limits.tenant.requests_per_second");
    for _ in 0..20 {
        of(&server, "blue", "alice").call(count()).await.ok();
    }
    wait_out(&carol, &refused).await.ok();
}

#[tokio::test(start_paused = true)]
async fn whoever_has_used_their_fuel_waits_until_it_is_paid() {
    let rate = json!({"fuel_per_second": "1M", "fuel_burst": "1M"});
    for (level, setting) in [("user", "limits.user.fuel_per_second"), ("tenant", "limits.tenant.fuel_per_second")] {
        let server = verified()
            .set("limits.deadline", "1h")
            .set("limits.fuel_per_call", "5M")
            .set(&format!("tenants.red.limits.{level}"), rate.clone())
            .set("tenants.blue", json!({}))
            .start()
            .await;
        let (alice, bob) = (of(&server, "red", "alice"), of(&server, "red", "bob"));
        // It is let in, and not cut short by what it makes of the budget.
        let spun = alice.call(json!({"do": "spin"})).await;
        spun.error(500, "fuel_exhausted");
        assert!(spun.fuel() > 4_900_000, "{}", spun.fuel());
        let refused = alice.call(count()).await;
        is_limited(&refused, 429, "budget_spent", setting);
        assert_eq!(refused.retry_after(), (spun.fuel() - 1_000_000 + 1).div_ceil(1_000_000));
        assert_eq!(bob.call(count()).await.status, if level == "user" { 200 } else { 429 });
        of(&server, "blue", "alice").call(count()).await.ok();
        wait_out(&alice, &refused).await.ok();
    }
}

#[tokio::test(start_paused = true)]
async fn a_budget_is_charged_to_the_unit_whatever_comes_of_a_call() {
    let server = verified()
        .set("limits.fuel_per_call", "3M")
        .set("functions.h1", json!({"_type": "hostile"}))
        .set("tenants.red.limits.tenant", json!({"fuel_per_second": 1, "fuel_burst": "1G"}))
        .start()
        .await;
    let alice = of(&server, "red", "alice");
    let used = || 1_000_000_000 - server.host.tenants()[0].fuel_left().expect("a budget");
    let mut billed = 0;
    for asked in [
        count(),
        json!({"do": "call", "name": "h1", "input": {"do": "spin"}}),
        json!({"do": "all", "of": [{"do": "call", "name": "h1", "input": count()}, count()]}),
        json!({"do": "spin"}),
        json!({"do": "panic"}),
        json!({"do": "fail", "why": "told to"}),
        json!({"do": "nothing that it knows"}),
    ] {
        billed += alice.call(asked.clone()).await.fuel() as i64;
        assert_eq!(used(), billed, "{asked}");
    }
    server.park().await;
    billed += alice.call(count()).await.fuel() as i64;
    assert_eq!(used(), billed, "being woken costs nothing");
    // What a caller who goes away has used is charged, to the tenant as to the session.
    let works =
        json!({"do": "all", "of": [{"do": "call", "name": "h1", "input": {"do": "work", "milliseconds": 5}}, sleep()]});
    alice.abandon(works).await;
    assert!(used() > billed, "{} after {billed}", used());
    let sessions = server.host.registry().look_at_all();
    assert_eq!(used(), sessions[0].session.account().fuel() as i64);
    alice.body("no JSON").await.error(422, "invalid_input");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_runs_long_is_charged_while_it_runs() {
    let server = verified()
        .set("limits.fuel_per_call", "9000G")
        .set("tenants.red.limits.tenant", json!({"fuel_per_second": 1, "fuel_burst": "20M"}))
        .set("tenants.blue", json!({}))
        .start()
        .await;
    let (mallory, bob) = (of(&server, "red", "mallory"), of(&server, "red", "bob"));
    let spinning = mallory.spawn(json!({"do": "spin"}));
    let refused = loop {
        let reply = bob.call(count()).await;
        if reply.status != 200 {
            break reply;
        }
        yield_now().await;
    };
    is_limited(&refused, 429, "budget_spent", "limits.tenant.fuel_per_second");
    assert!(!spinning.is_finished(), "it was refused before the long call's end");
    of(&server, "blue", "bob").call(count()).await.ok();
    spinning.abort();
    assert!(spinning.await.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_charged_while_a_call_runs_is_never_more_than_it_uses() {
    let server = verified()
        .set("limits.fuel_per_call", "9000G")
        .set("functions.h1", json!({"_type": "hostile"}))
        .set("functions.h2", json!({"_type": "hostile"}))
        .set("tenants.red.limits.tenant", json!({"fuel_per_second": 1, "fuel_burst": "100G"}))
        .start()
        .await;
    let work = json!({"do": "work", "milliseconds": 40});
    let call = |name: &str, input: &Value| json!({"do": "call", "name": name, "input": input});
    let all = |of: [&Value; 2]| json!({"do": "all", "of": of});
    let inner = all([&call("h2", &work), &work]);
    let left = || server.host.tenants()[0].fuel_left().expect("a budget");
    let before = left();
    let calling = of(&server, "red", "alice").spawn(all([&call("h1", &inner), &work]));
    let mut least = before;
    while !calling.is_finished() {
        least = least.min(left());
        yield_now().await;
    }
    let used = calling.await.expect("no panic").fuel() as i64;
    assert!(before - least <= used, "{} of {used}", before - least);
    // A second adds a unit.
    assert!(before - left() + 60 >= used, "{} of {used}", before - left());
}

#[tokio::test(start_paused = true)]
async fn over_ten_seconds_a_tenant_gets_its_rate_and_no_more() {
    let rate = 200_000;
    let server = verified()
        .set("limits.deadline", "1h")
        .set("tenants.red.limits.tenant", json!({"fuel_per_second": rate, "fuel_burst": rate / 10}))
        .start()
        .await;
    let callers = ["alice", "bob", "carol"].map(|name| of(&server, "red", name));
    let (began, mut used, mut refused) = (Instant::now(), 0, 0);
    while began.elapsed() < Duration::from_secs(10) {
        for caller in &callers {
            let reply = caller.call(count()).await;
            match reply.status.as_u16() {
                200 => used += reply.fuel(),
                _ => {
                    is_limited(&reply, 429, "budget_spent", "limits.tenant.fuel_per_second");
                    refused += 1;
                }
            }
        }
        advance(Duration::from_millis(7)).await;
    }
    assert!(refused > 0, "all were let in, so that nothing was limited");
    assert!((9 * rate..=11 * rate).contains(&used), "{used} units in ten seconds, at {rate} a second");
}

#[tokio::test(start_paused = true)]
async fn the_end_of_a_session_is_no_way_to_a_new_budget() {
    let server = Test::hostile()
        .set("limits.deadline", "1h")
        .set("limits.fuel_per_call", "5M")
        .set("limits.user", json!({"fuel_per_second": "1M", "fuel_burst": "2M"}))
        .set("general.per_user_workflow_timeout", "1s")
        .set("general.per_user_workflow_cleanup_interval", "100ms")
        .start()
        .await;
    let listening = server.listen().await;
    let alice = user(&server, "alice");
    let session = || server.host.registry().look(User::from_credential("alice"));
    alice.call(json!({"do": "spin"})).await.error(500, "fuel_exhausted");
    // Three million are owed, and two more are missing until she has all that there may be.
    for _ in 0..27 {
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    alice.call(count()).await.error(429, "budget_spent");
    tokio::time::sleep(Duration::from_millis(1900)).await;
    assert!(session().is_some(), "the debt is paid, and a new session would have more than she has");
    alice.call(json!({"do": "spin"})).await.error(500, "fuel_exhausted");
    alice.call(count()).await.error(429, "budget_spent");
    tokio::time::sleep(Duration::from_millis(7000)).await;
    assert!(session().is_none(), "all is paid, and she has been away for longer than the timeout");
    assert_eq!(alice.call(count()).await.ok()["calls"], 1);
    drop(listening);
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_are_dropped_for_want_of_memory_only_where_it_is_said() {
    for (key, value) in [("sessions.max_parked", json!(0)), ("sessions.park_after", json!("off"))] {
        let test = Test::hostile().set("limits.memory", "2 MiB").set(key, value);
        let said = test.clone().set("sessions.drop_longest_idle", true).start().await;
        let listening = said.listen().await;
        let (regular, mut users) = (user(&said, "regular"), 0);
        // The first that comes after the regular one is the longest idle, since that one comes each time.
        while said.host.registry().live() == users + usize::from(users > 0) {
            regular.call(count()).await.ok();
            user(&said, &format!("user {users}")).call(count()).await.ok();
            users += 1;
            assert!(users < 100, "nobody was dropped");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert!(users > 2, "some were served");
        assert_eq!(regular.call(count()).await.ok()["calls"], users + 1, "who comes each time keeps all");
        let last = user(&said, &format!("user {}", users - 1));
        assert_eq!(last.call(count()).await.ok()["calls"], 2, "and so does the last one");
        assert_eq!(user(&said, "user 0").call(count()).await.ok()["calls"], 1, "the longest idle one begins afresh");
        drop(listening);

        let unsaid = test.start().await;
        let listening = unsaid.listen().await;
        let served = users_until_the_memory_is_spent(&unsaid).await;
        for number in 0..served {
            assert_eq!(user(&unsaid, &format!("user {number}")).call(count()).await.ok()["calls"], 2);
        }
        drop(listening);
    }
}

/// Calls of `user 0`, `user 1` and so on, until one is refused: as many were served.
async fn users_until_the_memory_is_spent(server: &Server) -> usize {
    let mut served = 0;
    let refused = loop {
        let reply = user(server, &format!("user {served}")).call(count()).await;
        if reply.status != 200 {
            break reply;
        }
        served += 1;
        assert!(served < 100, "nobody was refused");
    };
    is_limited(&refused, 503, "host_full", "limits.memory");
    served
}

#[tokio::test(start_paused = true)]
async fn who_is_in_debt_is_not_dropped_for_want_of_memory() {
    let server = Test::hostile()
        .set("limits.deadline", "1h")
        .set("limits.memory", "2 MiB")
        .set("limits.user", json!({"fuel_per_second": 1000, "fuel_burst": 1000}))
        .set("sessions.max_parked", 0)
        .set("sessions.drop_longest_idle", true)
        .start()
        .await;
    let listening = server.listen().await;
    let served = users_until_the_memory_is_spent(&server).await;
    assert_eq!(server.host.registry().live(), served + 1, "whoever was refused has a session, and nothing in it");
    user(&server, "user 0").call(count()).await.error(429, "budget_spent");
    advance(Duration::from_secs(600)).await;
    user(&server, "another").call(count()).await.ok();
    drop(listening);
}
