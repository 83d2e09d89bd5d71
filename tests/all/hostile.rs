//! Guests that ask the host for too much: each pays for what it asks, or is stopped by a limit that the error names; a
//! neighbour is answered meanwhile, the host's memory is what it was, and the same user's next call works.
//!
//! Guests that loop, crash, or grow are in `limits`, those that fail in the middle of others in `rollback`, those that
//! cannot be loaded in `loading`.

use carrel_tests::{Caller, HOSTILE, Reply, Server, Test};
use serde_json::{Value, json};

/// A guest that asks for anything, at `/it`, beside the one that does what it is told, at `/hostile`.
fn test() -> Test {
    let flood = Test::fixture("flood").set("guests", json!([Test::fixture_file("flood"), HOSTILE]));
    flood
        .set("functions.hostile", json!({"_type": "hostile"}))
        .set("functions.h1", json!({"_type": "hostile"}))
        .endpoint("/hostile", "hostile")
}

/// Does `attack` while a neighbour is answered, between two calls that only count: the second must find what the first
/// one left.
async fn attacked(server: &Server, mallory: &Caller, count: Value, attack: Value) -> Reply {
    let alice = server.user("alice");
    let stats = json!({"command": "stats"});
    alice.call(stats.clone()).await.ok();
    let count_of = |said: &Value| said["count"].as_u64().or(said["calls"].as_u64()).expect("a count");
    let before = count_of(&mallory.call(count.clone()).await.ok());
    let held = server.held();
    let attacking = mallory.spawn(attack.clone());
    let mut answered = 0;
    while !attacking.is_finished() || answered == 0 {
        alice.call(stats.clone()).await.ok();
        answered += 1;
    }
    let reply = attacking.await.expect("no panic");
    let after = count_of(&mallory.call(count).await.ok());
    let went_well = u64::from(reply.status == 200);
    // Memory that a successful call has taken stays.
    if went_well == 0 {
        server.held().is_as(&held);
    }
    assert_eq!(after, before + 1 + went_well, "{attack}: {reply:?}");
    reply
}

/// A call that asks for nothing.
fn nothing() -> Value {
    json!("q 0 0")
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_a_guest_asks_of_the_host_uses_up_its_fuel() {
    let server = test().set("limits.fuel_per_call", 20_000_000).start().await;
    for (n, attack) in [
        "r 0 100000000",     // random bytes, none at a time
        "r 60000 100000000", // and many
        "b 1 100000000",     // pollables, dropped at once
        "l 500 100000000",   // the same one, polled in a list
        "w 1 100000000",     // log lines, byte by byte
        "w 60000 100000000", // and beyond what is kept of them
        "z 60000 100000000", // zeroes, which are not even the guest's
        "m 0 100000000",     // memory, none at a time
    ]
    .into_iter()
    .enumerate()
    {
        let mallory = server.user(&format!("mallory-{n}")).at("/it");
        let reply = attacked(&server, &mallory, nothing(), json!(attack)).await;
        assert_eq!(reply.error(500, "fuel_exhausted")["setting"], "limits.fuel_per_call", "{attack}");
        reply.undone();
        assert_eq!(reply.header("carrel-fuel"), "20000000", "{attack}");
    }
    // Calls of the contract's own imports.
    let many = |what: Value| json!({"do": "all", "of": vec![what; 6000]});
    for (n, attack) in [
        many(json!({"do": "emit", "chunks": 10, "bytes": 0})),
        many(json!({"do": "who"})),
        many(json!({"do": "call", "name": "nobody", "input": null})),
        many(json!({"do": "call", "name": "hostile", "input": {"do": "count"}})),
        many(json!({"do": "call", "name": "h1", "input": {"do": "count"}})),
        many(json!({"do": "call", "name": "h1", "input": {"do": "panic"}})),
    ]
    .into_iter()
    .enumerate()
    {
        let mallory = server.user(&format!("other-{n}")).at("/hostile");
        let reply =
            attacked(&server, &mallory, json!({"do": "call", "name": "h1", "input": {"do": "count"}}), attack).await;
        reply.error(500, "fuel_exhausted");
        reply.undone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_does_costs_the_same_each_time_and_more_if_it_is_more() {
    let server = test().start().await;
    let fuel = async |user: &str, path: &str, input: &Value| {
        let reply = server.user(user).at(path).call(input.clone()).await;
        reply.ok();
        reply.header("carrel-fuel").parse::<u64>().expect("a number")
    };
    // A call that asks for so much more, and the least by which its cost has to grow.
    for (n, (less, more, least)) in [
        ("q 0 1", "r 0 1", 500),
        ("r 0 1", "r 0 1001", 500_000),
        ("r 0 1", "r 10000 1", 300_000),
        ("b 0 1", "b 0 101", 100_000),
        ("w 0 1", "w 0 101", 50_000),
        ("w 0 1", "w 50000 1", 50_000),
        ("z 0 1", "z 50000 1", 50_000),
        ("l 1 1", "l 101 1", 10_000),
    ]
    .into_iter()
    .enumerate()
    {
        let (less, more) = (json!(less), json!(more));
        let mut costs = Vec::new();
        for user in ["one", "another"] {
            let (less_by, more_by) = (format!("{user}-{n}-less"), format!("{user}-{n}-more"));
            costs.push((fuel(&less_by, "/it", &less).await, fuel(&more_by, "/it", &more).await));
        }
        assert_eq!(costs[0], costs[1], "{less} {more}");
        assert!(costs[0].1 >= costs[0].0 + least, "{less} {more}: {costs:?}");
    }
    // The input of a sibling is copied there and back, and a stopped one is undone.
    let call = |input: Value| json!({"do": "call", "name": "h1", "input": input});
    let small = fuel("small", "/hostile", &call(json!({"do": "fail", "why": ""}))).await;
    let large = fuel("large", "/hostile", &call(json!({"do": "fail", "why": "x".repeat(100_000)}))).await;
    assert!(large >= small + 400_000, "{small} {large}");
    let stopped = fuel("stopped", "/hostile", &call(json!({"do": "unreachable"}))).await;
    assert!(stopped >= 100_000, "{stopped}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_call_that_has_as_much_fuel_as_it_takes_ends_well_and_one_unit_less_is_not_enough() {
    // The price of the last WASI calls is charged at the end of the call.
    for attack in ["r 0 2000", "r 10000 10", "b 1 2000", "w 100 2000", "z 50000 40"] {
        let call = async |fuel: u64| {
            // It is alone: others would describe themselves within that fuel, too.
            let server = Test::fixture("flood").set("limits.fuel_per_call", fuel).start().await;
            server.user("mallory").at("/it").call(json!(attack)).await
        };
        let reply = call(20_000_000).await;
        reply.ok();
        let fuel = reply.header("carrel-fuel").parse::<u64>().expect("a number");
        let enough = call(fuel).await;
        enough.ok();
        assert_eq!(enough.header("carrel-fuel"), fuel.to_string(), "{attack}");
        let too_little = call(fuel - 1).await;
        too_little.error(500, "fuel_exhausted");
        too_little.undone();
        assert_eq!(too_little.header("carrel-fuel"), (fuel - 1).to_string(), "{attack}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn memory_and_tables_do_not_grow_beyond_the_limit_in_one_step_or_in_many() {
    let server = test().set("limits.memory_per_instance", "4 MiB").start().await;
    let mallory = server.user("mallory").at("/it");
    for (attack, grown) in [("m 65000 1", 0..=0), ("m 1 10000", 50..=60), ("m 100 10000", 0..=0)] {
        let mallory = server.user(attack.split(' ').collect::<String>().as_str()).at("/it");
        let said = mallory.call(json!(attack)).await.ok();
        assert!(said["grown"].as_u64().is_some_and(|times| grown.contains(&times)), "{attack}: {said}");
        mallory.call(nothing()).await.ok();
    }
    let error = attacked(&server, &mallory, nothing(), json!("w 8000000 1")).await.error(500, "memory_exhausted");
    assert_eq!(error["setting"], "limits.memory_per_instance");
    // The same guest with a table.
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("table.wasm");
    let text = include_str!("../guests/raw/flood.wat").replace(";;table ", "");
    std::fs::write(&file, wat::parse_str(text).expect("a component")).expect("a file");
    let test = test().set("guests", json!([file, HOSTILE])).set("limits.memory_per_instance", "4 MiB");
    let server = test.start().await;
    for (attack, grown) in [("t 400000000 1", 0..=0), ("t 10000 1000", 20..=26), ("t 1000000 100", 0..=0)] {
        let mallory = server.user(attack.split(' ').collect::<String>().as_str()).at("/it");
        let said = mallory.call(json!(attack)).await.ok();
        assert!(said["grown"].as_u64().is_some_and(|times| grown.contains(&times)), "{attack}: {said}");
        mallory.call(nothing()).await.ok();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn handles_of_the_host_and_what_it_makes_at_once_are_bounded() {
    let server = test().start().await;
    for (n, (attack, why)) in [
        ("p 1 1000000", "resource table has no free keys"),
        ("l 200000 1", "handle limit exceeded"),
        ("l 1000000 1", "too much data is being copied"),
        ("r 70000 1", "exceeds limit"),
        ("r 4000000000 1", "exceeds limit"),
        ("z 4000000000 1", "cannot write more zeroes"),
        ("w 4000000 1", ""),
    ]
    .into_iter()
    .enumerate()
    {
        let mallory = server.user(&format!("mallory-{n}")).at("/it");
        let reply = attacked(&server, &mallory, nothing(), json!(attack)).await;
        let error = reply.error(500, "function_crashed");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains(why)), "{attack}: {error}");
        reply.undone();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_host_holds_for_an_instance_counts_as_its_memory() {
    // The instance begins with four pages of 64 KiB; each handle counts as 1 KiB.
    let server = test().set("limits.memory_per_instance", "2 MiB").start().await;
    let grown = |reply: &Reply| reply.ok()["grown"].as_u64();
    let full = server.user("full").at("/it");
    assert_eq!(grown(&full.call(json!("m 27 1")).await), Some(1));
    let reply = attacked(&server, &full, nothing(), json!("p 1 100")).await;
    assert_eq!(reply.error(500, "memory_exhausted")["setting"], "limits.memory_per_instance");
    reply.undone();
    // The other way round: handles reduce what is left for memory.
    let holding = server.user("holding").at("/it");
    holding.call(json!("p 1 100")).await.ok();
    assert_eq!(grown(&holding.call(json!("m 27 1")).await), Some(0));
    assert_eq!(grown(&holding.call(json!("m 20 1")).await), Some(1));
    // And it is of the user's memory, too.
    let server = test().set("limits.user.memory", "2 MiB").start().await;
    let mallory = server.user("mallory").at("/it");
    let before = server.host.registry().memory().0;
    mallory.call(json!("q 0 0")).await.ok();
    let idle = server.host.registry().memory().0;
    mallory.call(json!("p 1 100")).await.ok();
    let holds = server.host.registry().memory().0;
    assert!(holds - idle >= 100 << 10, "{before}, {idle}, {holds}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_output_that_is_no_json_harms_nobody_who_gets_it() {
    let server = test().start().await;
    let mallory = server.user("mallory").at("/it");
    // A caller gets what the function says, as it is.
    let reply = mallory.call(json!("n 1000000 1")).await;
    assert_eq!((reply.status.as_u16(), reply.body.len()), (200, 1_000_000));
    assert!(reply.body.iter().all(|byte| *byte == b'['));
    // On a stream it is a text in an event.
    let stream = mallory.clone().at("/it/stream").call(json!("n 1000 1")).await;
    let event = stream.text().lines().find_map(|line| line.strip_prefix("data: ")).expect("an event");
    let event: Value = serde_json::from_str(event).expect("the event is JSON");
    assert_eq!(event["value"].as_str().map(str::len), Some(1000));
    // A function that calls this one gets an error, or only that call ends.
    let asks = server.user("mallory").at("/hostile");
    let count = json!({"do": "count"});
    for much in [1000, 500_000] {
        let input = json!({"do": "call", "name": "it", "input": format!("n {much} 1")});
        let reply = attacked(&server, &asks, count.clone(), input).await;
        assert!(reply.ok()["said"].is_string(), "{reply:?}");
    }
    let error = mallory.call(json!("n 3000000 1")).await.error(500, "output_too_large");
    assert_eq!(error["setting"], "limits.output_size");
    mallory.call(nothing()).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn huge_texts_are_refused_before_the_host_has_copied_them_often() {
    if !alone("hostile::huge_texts_are_refused_before_the_host_has_copied_them_often") {
        return;
    }
    let test = test().set("limits.fuel_per_call", "20G").set("limits.memory_per_instance", "256 MiB");
    let server = test.start().await;
    let resident_before = resident();
    let mallory = server.user("mallory").at("/hostile");
    let count = json!({"do": "count"});
    for (attack, code) in [
        (json!({"do": "answer", "bytes": 2_000_000}), "output_too_large"),
        (json!({"do": "answer", "bytes": 20_000_000}), "function_crashed"),
        (json!({"do": "emit", "chunks": 1, "bytes": 2_000_000}), "output_too_large"),
        (json!({"do": "emit", "chunks": 1, "bytes": 20_000_000}), "function_crashed"),
    ] {
        attacked(&server, &mallory, count.clone(), attack).await.error(500, code);
    }
    assert!(resident() < resident_before + (256 << 10), "{} and {} KiB", resident_before, resident());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_loop_that_is_cut_off_is_paid_for() {
    let server = Test::hostile().set("limits.fuel_per_call", "9000G").set("limits.deadline", "300ms").start().await;
    let mallory = server.user("mallory").at("/hostile");
    let count = json!({"do": "count"});
    let fuel = |reply: &Reply| reply.header("carrel-fuel").parse::<u64>().expect("a number");
    let reply = attacked(&server, &mallory, count, json!({"do": "spin"})).await;
    reply.error(504, "deadline_exceeded");
    // A loop of its own tells nobody what it uses: without the clock it would be some thousands.
    assert!(fuel(&reply) >= 10_000_000, "{}", fuel(&reply));
    // A caller who goes away pays, too.
    let user = carrel::identity::User::from_credential("gone");
    let spins = server.user("gone").at("/hostile").spawn(json!({"do": "spin"}));
    server.until_in_use(1).await;
    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
    spins.abort();
    assert!(spins.await.is_err());
    let used = server.host.registry().look(user).map_or(0, |seen| seen.session.account().fuel());
    assert!(used >= 5_000_000, "{used}");
}

/// Returns true if a test is alone in its process, so that the process's memory is the test's. If not, runs it again
/// in a process of its own.
pub fn alone(name: &str) -> bool {
    const ALONE: &str = "CARREL_TEST_ALONE";
    if std::env::var_os(ALONE).is_some() {
        return true;
    }
    let this = std::env::current_exe().expect("this program");
    let done = std::process::Command::new(this).args([name, "--exact"]).env(ALONE, "1").output().expect("it runs");
    let wrote = String::from_utf8_lossy(&done.stdout);
    assert!(done.status.success() && wrote.contains("1 passed"), "{wrote}{}", String::from_utf8_lossy(&done.stderr));
    false
}

/// KiB of this process that are in memory.
pub fn resident() -> usize {
    let status = std::fs::read_to_string("/proc/self/status").expect("the process's status");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its resident size");
    line.split_whitespace().nth(1).and_then(|kib| kib.parse().ok()).expect("a number")
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_that_a_guest_passes_within_itself_are_paid_for_by_the_byte() {
    let server = Test::fixture("passes-on-text").start().await;
    let alice = server.user("alice").at("/it");
    alice.call(json!({})).await.ok();
    // Ten times 1 MiB, of which each takes 2 MiB where it comes to.
    let copied = 10 << 21;
    for parked in [false, true] {
        if parked {
            assert_eq!(server.park().await, 1, "it is kept as others are");
        }
        let fuel = alice.call(json!({})).await.fuel();
        assert!((2 * copied..4 * copied).contains(&fuel), "{fuel} units, parked: {parked}");
    }
    let server = Test::fixture("passes-on-text").set("limits.fuel_per_call", copied).start().await;
    let stopped = server.user("alice").at("/it").call(json!({})).await;
    assert_eq!(stopped.error(500, "fuel_exhausted")["setting"], "limits.fuel_per_call");
}
