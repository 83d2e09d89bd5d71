//! Users are isolated from each other: the guests testify.

use carrel_tests::{Caller, Server, Test};
use serde_json::{Value, json};

#[tokio::test(flavor = "multi_thread")]
async fn users_have_own_instances_of_every_function() {
    let server = Test::new().start().await;
    let (alice, bob) = (server.user("alice"), server.user("bob"));
    let add = |text: &str| json!({"command": "note", "action": "add", "param1": text});
    alice.call(add("alice's")).await.ok();
    bob.call(json!({"command": "pref", "action": "set", "param1": "theme", "param2": "light"})).await.ok();
    let bobs = bob.call(json!({"command": "note", "action": "list"})).await.ok();
    assert_eq!(bobs["data"], json!({"notes": [], "count": 0, "commands_executed": 2}));
    let alices = alice.call(json!({"command": "pref", "action": "get", "param1": "theme"})).await.ok();
    assert_eq!(alices["data"]["value"], "dark");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_knows_its_user_by_an_id_and_never_by_the_credential() {
    let server = Test::hostile().start().await;
    let who = async |name: &str| server.user(name).at("/hostile").call(json!({"do": "who"})).await.ok()["said"].clone();
    assert_eq!(who("alice").await, "7b031fd4-714b-598e-b755-a517d069edc5");
    assert_eq!(who("alice").await, who("alice").await);
    assert_ne!(who("alice").await, who("bob").await);
}

const USERS: u8 = 24;

fn user(server: &Server, n: u8) -> Caller {
    server.user(&format!("user-{n}")).at("/hostile")
}

/// Fills memory with a byte of the user's own: for some, more than is zeroed by writing, so that both ways of
/// cleaning a slot are tested.
fn fill(n: u8) -> Value {
    json!({"do": "fill", "byte": 200 + n, "bytes": 50_000 + 20_000 * usize::from(n)})
}

/// Looks through all of a user's memory for runs of everybody's bytes: there are only their own.
async fn finds_only_their_own(server: &Server, n: u8) {
    for other in 0..USERS {
        let found = user(server, n).call(json!({"do": "look", "byte": 200 + other})).await.ok();
        let found = found["said"].as_u64().expect("a number");
        assert_eq!(found > 0, n == other, "user {n} finds {found} runs of {other}'s byte");
    }
}

/// Instances are dropped, by crashing where nothing is undone, and made anew in the same slots, by the same and by other
/// users; none ever finds another user's byte, and each that is new counts from one.
#[tokio::test(flavor = "multi_thread")]
async fn no_byte_of_one_users_memory_is_ever_seen_by_another() {
    let server = Test::hostile().set("sessions.rollback", false).start().await;
    for round in 0..6 {
        for n in 0..USERS {
            let filled = user(&server, n).call(fill(n)).await.ok();
            assert_eq!(filled["calls"], 1, "round {round}: user {n} has a new instance");
        }
        for n in 0..USERS {
            finds_only_their_own(&server, n).await;
        }
        // Every user's instance is dropped; in the next round they take each other's slots.
        for n in (0..USERS).rev() {
            user(&server, n).call(json!({"do": "panic"})).await.error(500, "function_crashed");
        }
        assert_eq!(server.host.engine().memories().in_use(), 0);
    }
}

/// Instances are parked, or undone, and woken in slots that others had.
#[tokio::test(flavor = "multi_thread")]
async fn what_is_woken_finds_its_own_bytes_and_no_others() {
    let server = Test::hostile().start().await;
    for n in 0..USERS {
        user(&server, n).call(fill(n)).await.ok();
    }
    for round in 0..3 {
        if round == 1 {
            for n in 0..USERS {
                user(&server, n).call(json!({"do": "panic"})).await.error(500, "function_crashed");
            }
        } else {
            assert_eq!(server.park().await, usize::from(USERS));
        }
        // An undone instance stays where it is.
        let stay = if round == 1 { usize::from(USERS) } else { 0 };
        assert_eq!(server.host.engine().memories().in_use(), stay);
        // 7 is coprime to 24: every user comes once, in another order each time.
        for n in 0..USERS {
            finds_only_their_own(&server, (n * 7 + round) % USERS).await;
        }
        let calls = user(&server, 0).call(json!({"do": "count"})).await.ok()["calls"].clone();
        assert_eq!(calls, 1 + (u64::from(round) + 1) * (u64::from(USERS) + 1));
    }
}
