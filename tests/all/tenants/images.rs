//! Images: the initial state of a tenant's instances is made within its limits, and with its functions.

use super::*;

fn holds() -> Value {
    json!({"do": "holds"})
}

/// An answer to [`holds`], before and after the instance was undone and parked: both have to be alike.
async fn held(server: &Server, caller: &Caller) -> Value {
    let first = caller.call(holds()).await.ok()["said"].clone();
    caller.call(json!({"do": "unreachable"})).await.undone();
    server.park().await;
    let woken = caller.call(holds()).await.ok()["said"].clone();
    assert_eq!(first, woken);
    first
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_is_told_of_functions_when_it_is_configured_is_so_for_its_tenant() {
    let server = verified()
        .set("functions.hostile", json!({"_type": "hostile", "ask": "notepad"}))
        .set("functions.other", json!({"_type": "hostile", "ask": "nothing"}))
        .endpoint("/other", "other")
        .set("tenants.with.functions", json!(["hostile", "other", "notepad"]))
        .set("tenants.without.functions", json!(["hostile", "other"]))
        .set("tenants.like.functions", json!(["hostile", "other"]))
        .set("tenants.all", json!({}))
        .start()
        .await;
    for (tenant, told) in [("with", true), ("without", false), ("like", false), ("all", true)] {
        let caller = of(&server, tenant, "alice");
        assert_eq!(held(&server, &caller).await["told"], told, "{tenant}");
        assert_eq!(caller.at("/other").call(holds()).await.ok()["said"]["told"], false, "{tenant}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_guest_takes_when_it_is_configured_is_what_its_tenant_allows() {
    let server = verified()
        .set("functions.hostile", json!({"_type": "hostile", "take": true}))
        .set("limits.memory_per_instance", "8 MiB")
        .set("tenants.small.limits.memory_per_instance", "3 MiB")
        .set("tenants.alike.limits.memory_per_instance", "3 MiB")
        .set("tenants.poor.limits.user.memory", "4352 KiB")
        .set("tenants.broke.limits.tenant.memory", "5376 KiB")
        .set("tenants.large.limits.memory_per_instance", "16 MiB")
        .set("tenants.usual", json!({}))
        .start()
        .await;
    // A user's memory is that of the stack as well, 256 KiB.
    let limits = [("small", 3), ("alike", 3), ("poor", 4), ("broke", 5), ("large", 16), ("usual", 8)];
    for (tenant, mebibytes) in limits {
        let pages = held(&server, &of(&server, tenant, "alice")).await["pages"].as_u64().expect("a number");
        assert!(pages <= 16 * mebibytes && pages > 15 * mebibytes, "{tenant} has {pages} pages");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_whose_limits_are_too_small_for_a_function_keeps_nobody_else_from_it() {
    let test = verified().set("tenants.small.limits.memory_per_instance", "64 KiB").set("tenants.large", json!({}));
    let server = test.start().await;
    let refused = of(&server, "small", "alice").call(holds()).await;
    is_limited(&refused, 500, "memory_exhausted", "limits.memory_per_instance");
    held(&server, &of(&server, "large", "alice")).await;
    // If the limits of all are too low, the host does not start.
    let told = test.set("limits.user.memory", "64 KiB").refused().await;
    assert!(told.contains("functions.hostile: the function could not be set up"), "{told}");
}
