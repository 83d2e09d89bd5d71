//! NAT's keys for callers: a header of the proxy in front, and the kinds of credentials that are accepted.

use carrel_tests::{Server, Test};
use http::Method;
use serde_json::{Value, json};

const STATS: &str = r#"{"command":"stats"}"#;

fn behind_proxy(name: &str) -> Test {
    Test::new().set("general.front_end.identity_header", name)
}

async fn executed(caller: &carrel_tests::Caller) -> Value {
    caller.body(STATS).await.ok()["data"]["commands_executed"].clone()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxys_header_names_the_user_and_nothing_else_does() {
    let server = behind_proxy("X-Remote-User").start().await;
    let alice = || server.nobody().with("x-remote-user", "alice@example.org");
    assert_eq!(executed(&alice()).await, 1);
    // Surrounding spaces are stripped, and all else in the request is ignored.
    assert_eq!(executed(&server.user("bob").with("x-remote-user", "  alice@example.org ")).await, 2);
    assert_eq!(executed(&server.bearer("a.b.c").with("x-remote-user", "alice@example.org")).await, 3);
    assert_eq!(executed(&server.nobody().with("x-remote-user", "Alice@example.org")).await, 1, "another user");
    // NAT's own id: the UUIDv5 of `trusted-header:x-remote-user`, a separator and the name.
    let id = "2e74c414-28b1-5032-b075-7707f29e0285";
    let own = alice().ask(Method::GET, "/monitor/users").await.ok();
    assert_eq!(
        (&own["users"][0]["user_id"], &own["total_active_users"]),
        (&json!(id), &json!(1)),
        "others are not shown"
    );
    for (name, nobody, code) in [
        ("no header", server.user("alice"), "identity_required"),
        ("two of them", alice().with("x-remote-user", "alice@example.org"), "identity_invalid"),
        ("an empty one", server.nobody().with("x-remote-user", "  "), "identity_invalid"),
    ] {
        let error = nobody.body(STATS).await.error(401, code);
        assert!(error["detail"].as_str().is_some_and(|why| why.contains("the proxy in front of this host")), "{name}");
        nobody.at("/generate/stream").body("not read").await.error(401, code);
    }
    assert_eq!(server.host.registry().live(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_same_name_in_another_header_is_another_user() {
    let mut ids = Vec::new();
    for name in ["X-Remote-User", "x-remote-user", "X-Forwarded-User"] {
        let server = behind_proxy(name).start().await;
        let caller = match name.to_ascii_lowercase().as_str() {
            "x-remote-user" => server.nobody().with("x-remote-user", "alice"),
            _ => server.nobody().with("x-forwarded-user", "alice"),
        };
        caller.body(STATS).await.ok();
        ids.push(caller.ask(Method::GET, "/monitor/users").await.ok()["users"][0]["user_id"].clone());
    }
    assert_eq!(ids[0], ids[1]);
    assert_ne!(ids[0], ids[2]);
}

async fn accepting(kinds: &[&str]) -> Server {
    Test::new().set("general.front_end.accepted_identity_credentials", json!(kinds)).start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_accepted_kinds_of_credentials_name_a_user() {
    // {"alg":"none"} and {"sub":"alice"}.
    let jwt = "eyJhbGciOiJub25lIn0.eyJzdWIiOiJhbGljZSJ9.c2ln";
    for accepted in [&["session_cookie"][..], &["jwt"], &["api_key"], &["basic"], &["jwt", "basic"]] {
        let server = accepting(accepted).await;
        let callers = [
            ("session_cookie", server.user("alice")),
            ("jwt", server.bearer(jwt)),
            ("api_key", server.bearer("alice")),
            ("api_key", server.key("alice")),
            ("basic", server.nobody().with("authorization", "Basic YWxpY2U6c2VjcmV0")),
        ];
        for (kind, caller) in callers {
            let reply = caller.body(STATS).await;
            match accepted.contains(&kind) {
                true => drop(reply.ok()),
                false => {
                    let error = reply.error(401, "identity_invalid");
                    assert!(error["detail"].as_str().is_some_and(|why| why.contains("not accepted here")), "{error}");
                }
            }
        }
        server.nobody().body(STATS).await.error(401, "identity_required");
    }
    // As with NAT, the first that is there counts: one that is not accepted hides the next one.
    let server = accepting(&["api_key"]).await;
    server.user("alice").with("x-api-key", "key").body(STATS).await.error(401, "identity_invalid");
}

#[tokio::test]
async fn keys_for_callers_that_do_not_go_together_are_refused() {
    let both = behind_proxy("X-User").set("general.front_end.accepted_identity_credentials", json!(["jwt"]));
    assert!(both.refused().await.contains("cannot be combined with `identity_header`"));
    for name in ["x y", "", " ", "x:y"] {
        let told = behind_proxy(name).refused().await;
        assert!(told.contains("identity_header: ") && told.contains("is not the name of a header"), "{name}: {told}");
    }
    let unknown = Test::new().set("general.front_end.accepted_identity_credentials", json!(["passport"]));
    assert!(unknown.refused().await.contains("\"passport\" is not one of `session_cookie`, `jwt`, `api_key`, `basic`"));
    let verified =
        behind_proxy("X-User").set("identity", json!({"cookies": {"secrets": ["0123456789abcdef0123456789abcdef"]}}));
    assert!(verified.refused().await.contains("identity: has no place beside `identity_header`"));
}
