//! Large state: a call costs and changes what it writes to, and not what there is.

use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};

const PAGE: u64 = 4096;
/// The first address that the guest writes to on demand, and the end of its memory.
const FIRST: u64 = 65536;
const END: u64 = 60 << 20;

/// Writes a value to every page of the guest's memory.
fn write_all(value: u64) -> Value {
    json!([1, FIRST, (END - FIRST) / PAGE, PAGE, value])
}

/// The calls of one user of `guests/framed/large.wat`.
struct Large {
    caller: Caller,
    calls: u64,
}

impl Large {
    fn of(server: &Server, user: &str) -> Self {
        Self { caller: server.user(user).at("/it"), calls: 0 }
    }

    async fn value(&mut self, input: Value) -> u64 {
        let said = self.caller.call(input).await.ok();
        self.calls += 1;
        assert_eq!(said["count"], self.calls, "{said}");
        said["value"].as_u64().expect("a number")
    }

    /// All that the guest holds, as far as it can be told: two sums, and how many pages there are.
    async fn state(&mut self) -> [u64; 3] {
        let first = self.value(json!([2, FIRST, (END - FIRST) / PAGE, PAGE])).await;
        let second = self.value(json!([2, FIRST + 2048, (END - FIRST) / PAGE, PAGE])).await;
        [first, second, self.value(json!([4])).await]
    }

    async fn fails(&self, input: Value, status: u16, code: &str) {
        let reply = self.caller.call(input).await;
        reply.error(status, code);
        reply.undone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn however_a_call_fails_large_state_is_as_before_awake_and_parked() {
    let server = Test::fixture("large")
        .set("limits.deadline", "3s")
        .set("limits.fuel_per_call", 1_000_000_000_000_u64)
        .start()
        .await;
    let mut alice = Large::of(&server, "alice");
    alice.value(write_all(3)).await;
    alice.value(json!([1, FIRST, 100, PAGE, 5])).await;
    let before = alice.state().await;
    for round in 0..3 {
        // A few pages, many, all of them, and what lies beyond them once it is there.
        alice.fails(json!([1, FIRST + 40 * PAGE, 10, PAGE, 7, "trap"]), 500, "function_crashed").await;
        assert_eq!(alice.state().await, before, "round {round}");
        alice.fails(json!([1, FIRST, 3000, PAGE, 8, "trap"]), 500, "function_crashed").await;
        alice.fails(json!([5, FIRST, 20 << 20, 0, "trap"]), 500, "function_crashed").await;
        alice.fails(json!([3, 10, "trap"]), 500, "function_crashed").await;
        assert_eq!(alice.state().await, before, "round {round}");
        alice.fails(json!([6, FIRST + 2048, 200, PAGE, 9]), 504, "deadline_exceeded").await;
        if round == 1 {
            assert_eq!(server.park().await, 1);
        }
        assert_eq!(alice.state().await, before, "round {round}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_that_grow_and_are_written_to_are_kept_and_undone_with_the_rest() {
    let server = Test::fixture("large").start().await;
    let mut alice = Large::of(&server, "alice");
    alice.value(json!([1, FIRST, 10, PAGE, 1])).await;
    assert_eq!(alice.value(json!([3, 20])).await, 960);
    alice.value(json!([1, END, 100, PAGE, 4])).await;
    let beyond = json!([2, END, 320, PAGE]);
    assert_eq!(alice.value(beyond.clone()).await, 400);
    alice.fails(json!([1, END + 50 * PAGE, 200, PAGE, 6, "trap"]), 500, "function_crashed").await;
    assert_eq!(alice.value(beyond.clone()).await, 400);
    alice.value(json!([1, END + 50 * PAGE, 200, PAGE, 6])).await;
    assert_eq!(alice.value(beyond.clone()).await, 50 * 4 + 200 * 6);
    assert_eq!(server.park().await, 1);
    assert_eq!(alice.value(beyond).await, 50 * 4 + 200 * 6);
    assert_eq!(alice.value(json!([4])).await, 980);
}

/// Its memory fits once into what there is, and not twice: one call that fails, however much it writes, and one that
/// wakes, leave the user served.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_locked_out_by_what_it_takes_to_undo_or_to_wake() {
    for key in ["limits.memory", "limits.user.memory", "limits.tenant.memory"] {
        let server = Test::fixture("large").set(key, "100 MiB").start().await;
        let listening = server.listen().await;
        let mut alice = Large::of(&server, "alice");
        alice.value(write_all(3)).await;
        let before = alice.state().await;
        for _ in 0..2 {
            alice.fails(json!([1, FIRST, 10, PAGE, 7, "trap"]), 500, "function_crashed").await;
            assert_eq!(alice.state().await, before, "{key}");
            assert_eq!(server.park().await, 1, "{key}");
            assert_eq!(alice.state().await, before, "{key}");
        }
        listening.stop().await.expect("the server ends");
    }
}

/// A call that would have to keep more than there is room for is stopped, and undone as any other.
#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_changes_more_than_there_is_room_to_keep_is_stopped_and_undone() {
    let server = Test::fixture("large").set("limits.user.memory", "80 MiB").start().await;
    let mut alice = Large::of(&server, "alice");
    alice.value(write_all(3)).await;
    let before = alice.state().await;
    for _ in 0..2 {
        alice.fails(write_all(4), 500, "memory_exhausted").await;
        assert_eq!(alice.state().await, before);
    }
}

/// What a call could write to is charged before it runs: users who only hold what they have reserved, and write to it
/// later, are given room by others who are idle, or are refused; and never is more taken than there may be.
#[tokio::test(flavor = "multi_thread")]
async fn what_a_call_could_write_to_is_charged_before_it_runs() {
    const LIMIT: usize = 200 << 20;
    let server = Test::fixture("large").set("limits.memory", "200 MiB").set("sessions.park_after", "1h").start().await;
    let listening = server.listen().await;
    let users: Vec<_> = (0..12).map(|user| server.user(&format!("user-{user}")).at("/it")).collect();
    for user in &users {
        user.call(json!([4])).await.ok();
    }
    for round in 0..2 {
        for user in &users {
            let reply = user.call(json!([1, FIRST, 8000, PAGE, round + 1])).await;
            if reply.status != 200 {
                reply.error(503, "host_full");
            }
            let (used, limit) = server.host.registry().memory();
            assert!(used <= limit && limit == LIMIT, "{used} of {limit} bytes");
        }
    }
    // Each is idle while the others run, so there was room for each.
    for user in &users {
        assert_eq!(user.call(json!([2, FIRST, 8000, PAGE])).await.ok()["value"], 16000);
    }
    listening.stop().await.expect("the server ends");
}
