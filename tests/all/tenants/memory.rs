//! Memory of users, tenants and the host.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn when_a_tenants_memory_is_spent_its_own_idle_sessions_make_room_and_no_others() {
    let server =
        verified().set("tenants.small.limits.tenant.memory", "2 MiB").set("tenants.big", json!({})).start().await;
    let quiet = of(&server, "big", "alice");
    quiet.call(count()).await.ok();
    // No evictor runs as long as the host does not serve.
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
    // A guest that is refused memory and goes on is stopped for what it does next.
    let probe = alice.call(json!({"do": "probe"})).await;
    is_limited(&probe, 500, "fuel_exhausted", "limits.fuel_per_call");
}

#[tokio::test(start_paused = true)]
async fn the_longest_idle_are_dropped_for_want_of_memory_only_where_it_is_said() {
    for (key, value) in [("sessions.max_parked", json!(0)), ("sessions.park_after", json!("off"))] {
        let test = Test::hostile().set("limits.memory", "2 MiB").set(key, value);
        let said = test.clone().set("sessions.drop_longest_idle", true).start().await;
        let upkeep = said.host.upkeep();
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
        drop(upkeep);

        let unsaid = test.start().await;
        let upkeep = unsaid.host.upkeep();
        let served = users_until_the_memory_is_spent(&unsaid).await;
        for number in 0..served {
            assert_eq!(user(&unsaid, &format!("user {number}")).call(count()).await.ok()["calls"], 2);
        }
        drop(upkeep);
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
    let upkeep = server.host.upkeep();
    let served = users_until_the_memory_is_spent(&server).await;
    assert_eq!(server.host.registry().live(), served + 1, "whoever was refused has a session, and nothing in it");
    user(&server, "user 0").call(count()).await.error(429, "budget_spent");
    advance(Duration::from_secs(600)).await;
    user(&server, "another").call(count()).await.ok();
    drop(upkeep);
}
