//! Fuel and requests over time.

use super::*;

/// Waits as long as a refusal says: a second before that is too early, and then the call is admitted.
async fn wait_out(caller: &Caller, refusal: &Reply) -> Reply {
    let code = refusal.header("carrel-error");
    advance(Duration::from_secs(refusal.retry_after() - 1)).await;
    let early = caller.call(count()).await;
    early.error(429, code);
    assert_eq!(early.retry_after(), 1, "{early:?}");
    advance(Duration::from_secs(1)).await;
    caller.call(count()).await
}

#[tokio::test(start_paused = true)]
async fn requests_beyond_the_rate_are_refused_for_as_long_as_it_is_told() {
    let server = Test::hostile()
        .set("limits.deadline", "1h")
        .set("limits.user", json!({"requests_per_second": 2, "requests_burst": 3}))
        .start()
        .await;
    let (alice, bob) = (user(&server, "alice"), user(&server, "bob"));
    // The outcome of a request does not matter.
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
        // The call is admitted, and not cut short when it overdraws the budget.
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
    // Fuel used for a caller who goes away is charged, to the tenant as to the session.
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
    let upkeep = server.host.upkeep();
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
    drop(upkeep);
}
