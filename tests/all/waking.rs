//! An instance that was parked or undone is as it was, whatever its guest does at the start.

use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// Calls of a guest of `guests/framed`, each after a call that crashed and a parking.
struct Woken {
    server: Server,
    caller: Caller,
    calls: u64,
}

impl Woken {
    async fn new(name: &str) -> Self {
        let server = Test::fixture(name).start().await;
        let caller = server.user("alice").at("/it");
        Self { server, caller, calls: 0 }
    }

    /// The value that the guest tells in its next call.
    async fn value(&mut self) -> Value {
        if self.calls > 0 {
            let reply = self.caller.call(json!("trap")).await;
            reply.error(500, "function_crashed");
            reply.undone();
            assert_eq!(self.server.park().await, 1);
            assert_eq!(self.server.host.engine().memories().in_use(), 0);
        }
        self.calls += 1;
        let said = self.caller.call(json!({})).await.ok();
        assert_eq!(said["count"], self.calls, "{said}");
        said["value"].clone()
    }

    async fn values(&mut self, calls: u64) -> Vec<Value> {
        let mut values = Vec::new();
        for _ in 0..calls {
            values.push(self.value().await);
        }
        values
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_start_code_grows_has_its_size_after_each_wake() {
    for (name, pages) in [("grows-at-start", 2), ("grows-to-maximum", 3)] {
        assert_eq!(Woken::new(name).await.values(6).await, vec![pages; 6], "{name}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_initializers_allocate_is_allocated_once() {
    assert_eq!(Woken::new("initializes").await.values(6).await, [1037; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_that_start_code_grows_by_chance_has_its_size_after_each_wake() {
    let server = Test::fixture("grows-by-chance").start().await;
    let users: Vec<_> = (0..12).map(|n| server.user(&format!("user-{n}")).at("/it")).collect();
    let mut before = Vec::new();
    for user in &users {
        before.push(user.call(json!({})).await.ok()["value"].clone());
    }
    assert!(before.iter().any(|value| *value != before[0]), "{before:?}");
    for count in 2..=4 {
        assert_eq!(server.park().await, users.len());
        for (user, before) in users.iter().zip(&before) {
            user.call(json!("trap")).await.undone();
            assert_eq!(user.call(json!({})).await.ok(), json!({"count": count, "value": before}));
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_start_code_fills_are_filled_after_each_wake_and_all_else_happens_once() {
    assert_eq!(Woken::new("fills-tables-at-start").await.values(6).await, [1201; 6]);
}

#[tokio::test(flavor = "multi_thread")]
async fn start_code_is_run_for_no_user_and_no_wake() {
    /// Units that the start takes, and a time that no machine needs less for.
    const START: (u64, Duration) = (540_000_000, Duration::from_millis(25));
    let mut woken = Woken::new("starts-slowly").await;
    let first = woken.server.user("bob").at("/it").call(json!({})).await;
    assert_eq!(first.ok(), json!({"count": 1, "value": 60_000_000}));
    assert!(first.fuel() < START.0 / 1000, "{first:?}");
    woken.server.park().await;
    woken.value().await;
    let mut shortest = Duration::MAX;
    for _ in 0..5 {
        woken.server.park().await;
        woken.calls += 1;
        let began = Instant::now();
        let reply = woken.caller.call(json!({})).await;
        shortest = shortest.min(began.elapsed());
        assert_eq!(reply.ok(), json!({"count": woken.calls, "value": 60_000_000}));
        assert!(reply.fuel() < START.0 / 1000, "{reply:?}");
    }
    assert!(shortest < START.1, "each wake took {shortest:?} at least");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_lies_below_a_stack_pointer_is_kept_unless_the_guest_says_that_nothing_does() {
    let expected: Vec<u64> = (1..=6).collect();
    assert_eq!(Woken::new("keeps-below-its-stack").await.values(6).await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_made_of_an_image_has_no_more_memory_than_its_tenant_allows() {
    let server = Test::fixture("grows-when-configured")
        .tenant("large", 1, 1)
        .tenant("small", 1, 1)
        .set("tenants.small.limits", json!({"memory_per_instance": "1 MiB"}))
        .start()
        .await;
    let call = async |tenant: &str| server.user_of(tenant, 0).at("/it").call(json!({})).await;
    let first = call("large").await;
    assert_eq!(first.ok(), json!({"count": 1, "value": 32}));
    assert!(first.fuel() > 30 << 16, "what is written for it is paid for: {}", first.fuel());
    assert_eq!(call("small").await.ok(), json!({"count": 1, "value": 1}), "it was refused more, and went on");
    assert_eq!(call("large").await.ok(), json!({"count": 2, "value": 32}));
}
