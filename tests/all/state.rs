//! Large state: the cost and the effect of a call depend on the pages it writes to, and not on the size.

use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};
use std::{collections::BTreeMap, sync::Arc};

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

/// The memory limit holds the user's memory once, not twice: a call that fails, however much it writes, and one that
/// wakes, leave the user served.
#[tokio::test(flavor = "multi_thread")]
async fn nobody_is_locked_out_by_what_it_takes_to_undo_or_to_wake() {
    for key in ["limits.memory", "limits.user.memory", "limits.tenant.memory"] {
        let server = Test::fixture("large").set(key, "100 MiB").set("limits.deadline", "60s").start().await;
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

/// All memory that a call could write to is charged before it runs: users who write later to memory that they have
/// reserved get room from idle users, or are refused; the limit is never passed.
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

/// A small xorshift generator.
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}

/// A user's guest's memory: the bytes of those pages that were written to, and how many wasm pages there are.
#[derive(Clone, Default)]
struct Held {
    pages: BTreeMap<u64, Arc<[u8; PAGE as usize]>>,
    grown: u64,
}

impl Held {
    fn write(&mut self, at: u64, mut bytes: &[u8]) {
        let mut at = at;
        while !bytes.is_empty() {
            let start = (at % PAGE) as usize;
            let (now, rest) = bytes.split_at(bytes.len().min(PAGE as usize - start));
            let page = self.pages.entry(at / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[start..start + now.len()].copy_from_slice(now);
            (at, bytes) = (at + now.len() as u64, rest);
        }
    }

    fn word(&self, at: u64) -> u64 {
        // All addresses have no rest by eight.
        let start = (at % PAGE) as usize;
        let word = self.pages.get(&(at / PAGE)).and_then(|page| page[start..].first_chunk());
        word.map_or(0, |word| u64::from_le_bytes(*word))
    }

    fn sum(&self, at: u64, count: u64, step: u64) -> u64 {
        (0..count).fold(0, |sum, nth| sum.wrapping_add(self.word(at + nth * step)))
    }

    fn end(&self) -> u64 {
        END + self.grown * 65536
    }
}

/// Steps of the model that each run makes; more of them where `CARREL_MODEL_STEPS` says so.
const STEPS: u64 = 150;

/// Random calls of guests that hold much, that fail, grow, and are parked by the time and because others need room; of
/// two tenants, one of which has little. Whatever happens, each holds what a model in plain Rust says; and a call that is
/// refused for want of memory has changed nothing.
#[tokio::test(flavor = "multi_thread")]
async fn whatever_happens_to_large_state_it_is_what_the_model_says() {
    let steps = std::env::var("CARREL_MODEL_STEPS").ok().and_then(|steps| steps.parse().ok()).unwrap_or(STEPS);
    let seed =
        std::env::var("CARREL_MODEL_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or(0x9e37_79b9_7f4a_7c15);
    let mut random = Random(seed);
    let server = Test::fixture("large")
        .tenant("red", 1, 3)
        .tenant("blue", 1, 3)
        .set("limits.memory", "220 MiB")
        .set("tenants.blue.limits.tenant.memory", "140 MiB")
        .set("limits.deadline", "60s")
        .set("sessions.park_after", "1h")
        .start()
        .await;
    let listening = server.listen().await;
    let mut users: Vec<_> = (0..6)
        .map(|user| {
            let caller = server.user_of(if user < 3 { "red" } else { "blue" }, user % 3).at("/it");
            (Large { caller, calls: 0 }, Held::default())
        })
        .collect();
    let (mut failed, mut refused) = (0, 0);
    for step in 0..steps {
        if step % 1000 == 999 {
            println!("{} of {steps} steps: {failed} failed, {refused} refused", step + 1);
        }
        let which = random.below(6) as usize;
        let (large, held) = &mut users[which];
        let mut after = held.clone();
        let end = held.end();
        let at = FIRST + random.below(end - FIRST - (1 << 21)) / 8 * 8;
        // Mostly the same few pages, as real guests do.
        let at = if random.below(2) == 0 { FIRST + random.below(100 * PAGE) / 8 * 8 } else { at };
        let trap = random.below(4) == 0;
        let (mut input, value) = match random.below(12) {
            0..=4 => {
                let (count, step) = (1 + random.below(30), 8 + random.below(4 * PAGE) / 8 * 8);
                let value = random.below(1 << 40);
                (0..count).for_each(|nth| after.write(at + nth * step, &value.to_le_bytes()));
                (vec![1, at, count, step, value], 0)
            }
            5 => {
                let (count, value) = (200 + random.below(300), random.below(1 << 30));
                (0..count).for_each(|nth| after.write(at + nth * PAGE, &value.to_le_bytes()));
                (vec![1, at, count, PAGE, value], 0)
            }
            6 => {
                let (size, byte) = (random.below(1 << 20), random.below(3));
                after.write(at, &vec![byte as u8; size as usize]);
                (vec![5, at, size, byte], 0)
            }
            7 => {
                let more = random.below(3);
                let fits = held.grown + more <= 64;
                after.grown += if fits { more } else { 0 };
                (vec![3, more], if fits { 960 + held.grown } else { u64::from(u32::MAX) })
            }
            8 => (vec![4], 960 + held.grown),
            9 => {
                let park = server.park().await;
                assert!(park <= 6);
                continue;
            }
            _ => {
                let (count, step) = (1 + random.below(500), 8 + random.below(PAGE) / 8 * 8);
                (vec![2, at, count, step], held.sum(at, count, step))
            }
        };
        let grows = input[0] == 3;
        // A guest that goes on after it was refused memory is stopped for that.
        let code = if grows && value == u64::from(u32::MAX) { "memory_exhausted" } else { "function_crashed" };
        let mut input: Vec<Value> = input.drain(..).map(Value::from).collect();
        if trap {
            input.push("trap".into());
        }
        let reply = large.caller.call(input.clone().into()).await;
        match reply.status.as_u16() {
            200 if !trap => {
                large.calls += 1;
                let said = reply.json();
                assert_eq!(said["count"], large.calls, "step {step}: {input:?}");
                if said["value"] == u32::MAX && grows {
                    // There was no memory for it.
                    after.grown = held.grown;
                } else {
                    assert_eq!(said["value"].as_u64(), Some(value), "step {step}: {input:?}");
                }
                *held = after;
            }
            500 if trap => {
                reply.error(500, code);
                reply.undone();
                failed += 1;
            }
            503 => {
                assert!(["host_full", "tenant_full"].contains(&reply.header("carrel-error")), "{reply:?}");
                reply.undone();
                refused += 1;
            }
            _ => panic!("step {step}: {reply:?}"),
        }
        let (used, limit) = server.host.registry().memory();
        assert!(used <= limit, "step {step}: {used} of {limit} bytes");
    }
    assert!(failed > steps / 20 && refused < steps / 4, "{failed} failed and {refused} were refused of {steps}");
    for (large, held) in &mut users {
        for at in (FIRST..held.end() - (1 << 20)).step_by(1 << 20) {
            assert_eq!(large.value(json!([2, at, 1000, 1048])).await, held.sum(at, 1000, 1048));
        }
    }
    listening.stop().await.expect("the server ends");
}
