//! Tenants share the processor: a tenant's part does not depend on its number of calls.

use carrel_tests::{Server, Test};
use serde_json::{Value, json};
use std::time::Duration;

/// Fuel that each tenant has.
const FUEL: i64 = 1_000_000_000_000;
/// Fuel that both tenants use before their parts are compared: by then all calls have outlived their first tick, for
/// which nobody needs a permit.
const BEFORE: i64 = 30_000_000;
/// Fuel that both use during the comparison: a thousand turns, so that one more or less makes no difference.
const MEANWHILE: i64 = 1_000_000_000;
/// The largest deviation of a tenant's part from its share, by fuel.
const WITHIN: f64 = 0.1;

/// Two tenants, with shares and numbers of users, whose calls may run for as long as they like.
async fn tenants(shares: [u32; 2], users: [usize; 2]) -> Server {
    Test::hostile()
        .tenant("a", shares[0], users[0])
        .tenant("b", shares[1], users[1])
        .set("limits.deadline", "10min")
        .set("limits.fuel_per_call", FUEL)
        .set("limits.tenant", json!({"fuel_per_second": 1, "fuel_burst": FUEL}))
        .start()
        .await
}

fn work(time: Duration) -> Value {
    json!({"do": "work", "milliseconds": time.as_millis() as u64})
}

/// Fuel that the tenants have used, when it is so much together.
async fn used(server: &Server, together: i64) -> [i64; 2] {
    loop {
        let used = [0, 1].map(|tenant| FUEL - server.host.tenants()[tenant].fuel_left().expect("there is a budget"));
        if used.iter().sum::<i64>() >= together {
            return used;
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// Asserts that the second tenant gets so many times the first one's fuel, while all users of both compute. Neither the
/// machine's speed matters nor other tests beside, which suspend some turns: only the distribution of turns does.
async fn the_second_gets(expected: f64, shares: [u32; 2], users: [usize; 2]) {
    let server = tenants(shares, users).await;
    let mut calls = Vec::new();
    for (tenant, users) in ["a", "b"].into_iter().zip(users) {
        calls.extend(
            (0..users).map(|user| server.user_of(tenant, user).at("/hostile").spawn(work(Duration::from_secs(1000)))),
        );
    }
    let before = used(&server, BEFORE).await;
    let after = used(&server, before[0] + before[1] + MEANWHILE).await;
    let times = (after[1] - before[1]) as f64 / (after[0] - before[0]) as f64;
    println!("{times:.3} times as much, of {expected}");
    calls.iter().for_each(|call| call.abort());
    server.until_idle().await;
    assert!((times / expected - 1.0).abs() <= WITHIN, "{times} times as much, of {expected}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tenant_whose_share_is_three_times_as_large_gets_three_times_as_much() {
    the_second_gets(3.0, [1, 3], [10, 10]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_call_that_runs_long_gets_as_much_as_fifty_of_another_tenant() {
    the_second_gets(1.0, [1, 1], [50, 1]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_goes_away_while_their_call_waits_for_its_turn_leaves_nothing() {
    let server = tenants([1, 1], [20, 1]).await;
    let spin = |user| server.user_of("a", user).at("/hostile").spawn(json!({"do": "spin"}));
    let calls: Vec<_> = (0..20).map(spin).collect();
    server.until_in_use(20).await;
    // Some run, some wait for a permit, some have perhaps not met a tick yet.
    tokio::time::sleep(Duration::from_millis(100)).await;
    calls.iter().for_each(|call| call.abort());
    server.until_idle().await;
    for user in 0..20 {
        let said = server.user_of("a", user).at("/hostile").call(json!({"do": "count"})).await.ok();
        assert_eq!(said["calls"], 1, "the call that was left is undone");
    }
    // Long enough to need permits.
    server.user_of("b", 0).at("/hostile").call(work(Duration::from_millis(20))).await.ok();
}
