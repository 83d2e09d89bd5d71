//! Callers' identities by their credentials: tenants, API keys, and duplicate credentials.

use super::*;

#[tokio::test(flavor = "multi_thread")]
async fn the_same_subject_in_two_tenants_is_two_users_who_have_nothing_in_common() {
    let server = tenants().start().await;
    let callers = [
        server.bearer(&of("https://red.example", "alice", None)),
        server.bearer(&of("https://blue.example", "alice", None)),
        server.bearer(&of("https://both.example", "alice", Some("red"))),
        server.bearer(&of("https://both.example", "alice", Some("Blue Ltd."))),
        server.key("red-key"),
        server.bearer("blue-key"),
        server.bearer(&of("https://red.example", "red-key", None)),
        server.bearer(&of("https://red.example", &hash("red-key"), None)),
    ];
    for round in 1..=2 {
        for (index, caller) in callers.iter().enumerate() {
            assert_eq!(count(caller).await, round, "caller {index}");
        }
    }
    let of_red = server.host.tenants()[0].sessions();
    assert_eq!((of_red, server.host.tenants()[1].sessions()), (5, 3));
    // Both names of a tenant are the same tenant, and its users are the same users.
    assert_eq!(count(&server.bearer(&of("https://both.example", "alice", Some("blue")))).await, 3);
    // One issuer's claim does not move a user of another one.
    assert_eq!(count(&server.bearer(&of("https://red.example", "alice", Some("blue")))).await, 3);
    for org in [None, Some("green"), Some("Red"), Some("")] {
        let token = of("https://both.example", "alice", org);
        is_refused(&server.bearer(&token).call(json!({})).await, "no tenant of this host in the claim");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_taken_in_either_header_and_only_the_very_key() {
    let server = Test::hostile().set("identity.api_keys", json!([hash(KEY), hash("another")])).start().await;
    assert_eq!(count(&server.key(KEY)).await, 1);
    assert_eq!(count(&server.bearer(KEY)).await, 2);
    assert_eq!(count(&server.nobody().with("authorization", &format!("BEARER  {KEY}"))).await, 3);
    assert_eq!(count(&server.key("another")).await, 1);
    let (hash, cut) = (hash(KEY), &KEY[..KEY.len() - 1]);
    for wrong in ["", "nobody's", cut, &format!("{KEY}x"), &KEY.to_uppercase(), &hash, &hash["blake3:".len()..]] {
        is_refused(&server.key(wrong).call(json!({})).await, "the API key is none of this host's");
        is_refused(&server.bearer(wrong).call(json!({})).await, "the API key is none of this host's");
    }
    for odd in ["Basic YTpi", "Token x", "Bearer", ""] {
        let reply = server.nobody().with("authorization", odd).call(json!({})).await;
        reply.error(401, "identity_invalid");
    }
    let nobody = server.nobody().call(json!({})).await;
    let detail = nobody.error(401, "identity_required")["detail"].clone();
    assert!(detail.as_str().is_some_and(|text| text.contains("Bearer") && text.contains("X-API-Key")), "{detail}");
    assert_eq!(nobody.header("www-authenticate"), "Bearer");
    // A name that would be somebody where nobody is verified is nobody here.
    server.user("alice").call(json!({})).await.error(401, "identity_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_there_twice_is_nobodys() {
    let server = tenants().start().await;
    let token = of("https://red.example", "alice", None);
    let bearer = format!("Bearer {token}");
    let twice = "a header with a credential is there twice";
    let alice = server.bearer(&token);
    is_refused(&alice.clone().with("authorization", &bearer).call(json!({})).await, twice);
    is_refused(&alice.clone().with("authorization", "Bearer red-key").call(json!({})).await, twice);
    is_refused(&server.key("red-key").with("x-api-key", "blue-key").call(json!({})).await, twice);
    // The first kind that is there counts, and not the next one if that is wrong.
    assert_eq!(who(&alice.clone().with("x-api-key", "nobody's")).await, who(&alice).await);
    is_refused(&server.bearer("nobody's").with("x-api-key", "red-key").call(json!({})).await, "the API key is none");
    let cookie = session(&alice).await.1;
    let other = session(&server.key("red-key")).await.1;
    let both = server.nobody().with("cookie", &cookie).with("cookie", &other);
    is_refused(&both.call(json!({})).await, "two session cookies");
    let one_header = server.nobody().with("cookie", &format!("{cookie}; a=b; {other}"));
    is_refused(&one_header.call(json!({})).await, "two session cookies");
    assert_eq!(who(&server.key("blue-key").with("cookie", &cookie)).await, who(&alice).await, "the cookie comes first");
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_shows_everybody_only_themselves() {
    let server = tenants().start().await;
    let (alice, bob) = (server.key("red-key"), server.key("blue-key"));
    for _ in 0..2 {
        count(&alice).await;
    }
    count(&bob).await;
    let ids = [who(&alice).await, who(&bob).await].map(|id| id.as_str().expect("an id").to_owned());
    let seen = async |caller: &Caller, path: &str| caller.ask(Method::GET, path).await.ok();
    let own = seen(&alice, "/monitor/users").await;
    assert_eq!((&own["total_active_users"], &own["live"], &own["parked"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(
        (&own["users"][0]["user_id"], &own["users"][0]["requests"]["total_requests"]),
        (&json!(ids[0]), &json!(3))
    );
    assert_eq!(own["users"].as_array().map(Vec::len), Some(1));
    let asked = seen(&alice, &format!("/monitor/users?user_id={}", ids[0])).await;
    assert_eq!(asked["users"][0]["user_id"], json!(ids[0]));
    for other in [&*ids[1], "nobody", ""] {
        let none = seen(&alice, &format!("/monitor/users?user_id={other}")).await;
        assert_eq!((&none["users"], &none["total_active_users"], &none["live"]), (&json!([]), &json!(0), &json!(0)));
    }
    server.get("/monitor/users").await.error(401, "identity_required");
    server.get(&format!("/monitor/users?user_id={}", ids[0])).await.error(401, "identity_required");
    server.key("nobody's").ask(Method::GET, "/monitor/users").await.error(401, "identity_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_caller_who_is_not_verified_nothing_more_is_looked_at() {
    let server = trusting().await;
    // Bodies that would be a 422, a 415, a 413 and a 400 for a caller with an identity.
    for body in ["{}".to_owned(), "x".repeat(2 << 20), "\"\\ud800\"".to_owned()] {
        server.nobody().body(body).await.error(401, "identity_required");
    }
    for path in ["/generate/stream", "/generate/full", "/v1/workflow", "/hostile"] {
        server.nobody().at(path).call(json!({})).await.error(401, "identity_required");
        let refused = server.bearer("x").at(path).call(json!({})).await;
        is_refused(&refused, "the credential is of no form that is verified here");
    }
    let undeclared = Request::post("/generate").body(Body::from("x")).expect("a request");
    server.send(undeclared).await.error(401, "identity_required");
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/openapi.json").await.status, 200);
}
