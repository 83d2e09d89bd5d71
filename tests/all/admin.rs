//! The operator's listener.

use axum::body::Body;
use carrel_tests::{Reply, Server, Test};
use futures_util::StreamExt;
use http::Request;
use serde_json::json;
use tower::ServiceExt;

/// A host with a listener for the operator, and a user who has a session.
async fn served(token: Option<&str>) -> Server {
    let mut test = Test::hostile().set("admin", json!({"port": 0}));
    if let Some(token) = token {
        test = test.set("admin.token", carrel::identity::KeyHash::of(token).to_string());
    }
    let server = test.start().await;
    server.user("alice").call(json!({"command": "stats"})).await.ok();
    server
}

async fn ask(server: &Server, method: &str, path: &str, headers: &[(&str, &str)]) -> Reply {
    let mut request = Request::builder().method(method).uri(path).header("host", "localhost:8001");
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let request = request.body(Body::empty()).expect("a request");
    Reply::read(carrel::http::admin(server.host.clone()).oneshot(request).await.expect("an answer")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_of_the_operators_is_on_the_callers_port() {
    let server = served(None).await;
    for path in ["/metrics", "/tenants", "/sessions", "/drain"] {
        server.get(path).await.error(404, "not_found");
    }
    assert!(server.get("/openapi.json").await.ok()["paths"]["/metrics"].is_null());
    let figures = ask(&server, "GET", "/metrics", &[]).await;
    assert!(figures.text().contains("carrel_sessions_live 1\n"), "{}", figures.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_are_listed_page_by_page_looked_at_and_dropped() {
    let server = served(None).await;
    for user in ["bob", "carol"] {
        server.user(user).call(json!({"command": "stats"})).await.ok();
    }
    let mut users = Vec::new();
    let mut after = String::new();
    for left in (0..3).rev() {
        let page = ask(&server, "GET", &format!("/sessions?limit=1{after}"), &[]).await.ok();
        assert_eq!((&page["total"], page["sessions"].as_array().map(Vec::len)), (&json!(3), Some(1)));
        users.push(page["sessions"][0]["user_id"].to_string());
        assert_eq!(page["after"].is_null(), left == 0, "{page}");
        after = format!("&after={}", page["after"].as_str().unwrap_or_default());
    }
    users.sort_unstable();
    users.dedup();
    assert_eq!(users.len(), 3, "each is on one page");
    ask(&server, "GET", "/sessions?after=alice", &[]).await.error(400, "invalid_query");
    assert_eq!(ask(&server, "GET", "/sessions?tenant=default", &[]).await.ok()["total"], 3);
    ask(&server, "GET", "/sessions?tenant=nobody", &[]).await.error(404, "not_found");
    let path = format!("/sessions/default/{}", carrel::identity::User::from_credential("alice"));
    let alice = ask(&server, "GET", &path, &[]).await.ok();
    assert_eq!((&alice["tenant"], &alice["requests"]["total_requests"]), (&json!("default"), &json!(1)));
    ask(&server, "DELETE", &path, &[]).await.ok();
    ask(&server, "DELETE", &path, &[]).await.error(404, "not_found");
    assert_eq!(server.user("alice").call(json!({"command": "stats"})).await.ok()["data"]["commands_executed"], 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_listed_page_by_page() {
    let test = Test::new().tenant("a", 1, 1).tenant("b", 1, 1).tenant("c", 1, 1).set("admin", json!({"port": 0}));
    let server = test.start().await;
    let page = ask(&server, "GET", "/tenants?limit=2", &[]).await.ok();
    assert_eq!((&page["total"], &page["tenants"][1]["tenant"], &page["after"]), (&json!(3), &json!("b"), &json!("b")));
    let page = ask(&server, "GET", "/tenants?limit=2&after=b", &[]).await.ok();
    assert_eq!((page["tenants"].as_array().map(Vec::len), &page["after"]), (Some(1), &json!(null)));
    assert_eq!(page["tenants"][0]["tenant"], "c");
    ask(&server, "GET", "/tenants?after=d", &[]).await.error(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn lists_count_as_calls() {
    let test = Test::hostile().set("admin", json!({"port": 0})).set("limits.calls", 1);
    let server = test.set("general.enable_per_user_monitoring", true).start().await;
    let slow = server.user("alice").at("/hostile").spawn(json!({"do": "sleep", "milliseconds": 500}));
    server.until_in_use(1).await;
    for path in ["/sessions", "/tenants"] {
        ask(&server, "GET", path, &[]).await.error(503, "too_many_calls");
    }
    server.get("/monitor/users").await.error(503, "too_many_calls");
    slow.await.expect("no panic").ok();
    for path in ["/sessions", "/tenants"] {
        ask(&server, "GET", path, &[]).await.ok();
    }
    // Until the request is read, or given up.
    let request = Request::get("/monitor/users").body(Body::empty()).expect("a request");
    let reply = carrel::http::app(server.host.clone()).oneshot(request).await.expect("an answer");
    server.get("/monitor/users").await.error(503, "too_many_calls");
    drop(reply);
    assert_eq!(server.get("/monitor/users").await.ok()["total_active_users"], 1);
}

/// A large answer is neither made nor sent as a whole.
#[tokio::test(flavor = "multi_thread")]
async fn many_users_are_shown_part_by_part() {
    let server = Test::new().set("general.enable_per_user_monitoring", true).start().await;
    for user in 0..300 {
        server.user(&format!("user {user}")).call(json!({"command": "stats"})).await.ok();
    }
    let request = Request::get("/monitor/users").body(Body::empty()).expect("a request");
    let reply = carrel::http::app(server.host.clone()).oneshot(request).await.expect("an answer");
    let mut parts = reply.into_body().into_data_stream();
    let mut sizes = Vec::new();
    let mut text = Vec::new();
    while let Some(part) = parts.next().await {
        let part = part.expect("a part");
        sizes.push(part.len());
        text.extend_from_slice(&part);
    }
    let all: serde_json::Value = serde_json::from_slice(&text).expect("JSON");
    let mut ids: Vec<_> = all["users"].as_array().expect("users").iter().map(|it| it["user_id"].to_string()).collect();
    ids.sort_unstable();
    ids.dedup();
    assert_eq!((ids.len(), &all["total_active_users"], &all["live"]), (300, &json!(300), &json!(300)));
    assert!(sizes.len() > 4 && sizes.iter().all(|size| *size < 64 << 10), "{sizes:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_in_use_is_not_dropped() {
    let server = served(None).await;
    let path = format!("/sessions/default/{}", carrel::identity::User::from_credential("alice"));
    let slow = server.user("alice").at("/hostile").spawn(json!({"do": "sleep", "milliseconds": 300}));
    server.until_in_use(1).await;
    ask(&server, "DELETE", &path, &[]).await.error(409, "session_in_use");
    slow.await.expect("no panic").ok();
    ask(&server, "DELETE", &path, &[]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_shown_with_what_they_use() {
    let server = served(None).await;
    let reply = server.user("alice").call(json!({"command": "stats"})).await;
    let tenants = ask(&server, "GET", "/tenants", &[]).await.ok();
    let tenant = &tenants["tenants"][0];
    assert_eq!(
        (&tenant["tenant"], &tenant["calls"]["ended"], &tenant["sessions"]["count"]),
        (&json!("default"), &json!(2), &json!(1))
    );
    let last: u64 = reply.header("carrel-fuel").parse().expect("fuel");
    assert!(tenant["fuel"]["used"].as_u64() > Some(last), "{tenant}");
    assert!(tenant["memory"]["bytes"].as_u64() > Some(10_000), "{tenant}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_token_only_this_machine_itself_is_answered() {
    let server = served(None).await;
    for host in ["localhost", "127.0.0.1:8001", "[::1]:8001", "127.8.8.8"] {
        let request = Request::get("/tenants").header("host", host).body(Body::empty()).expect("a request");
        let reply = carrel::http::admin(server.host.clone()).oneshot(request).await.expect("an answer");
        assert_eq!(reply.status(), 200, "{host}");
    }
    for host in ["evil.example", "localhost.evil.example", "192.168.1.1:8001", ""] {
        let request = Request::get("/tenants").header("host", host).body(Body::empty()).expect("a request");
        let reply = carrel::http::admin(server.host.clone()).oneshot(request).await.expect("an answer");
        assert_eq!(reply.status(), 403, "{host}: a name that leads here may be anybody's");
    }
    ask(&server, "POST", "/drain", &[("origin", "https://evil.example")]).await.error(403, "not_the_operator");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_token_only_who_has_it_is_answered() {
    let server = served(Some("a long token")).await;
    ask(&server, "GET", "/tenants", &[]).await.error(401, "not_the_operator");
    for wrong in ["Bearer a long toke", "Bearer ", "Basic a long token", "a long token"] {
        ask(&server, "GET", "/tenants", &[("authorization", wrong)]).await.error(401, "not_the_operator");
    }
    ask(&server, "GET", "/tenants", &[("authorization", "Bearer a long token"), ("host", "elsewhere")]).await.ok();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_host_stops_as_by_a_signal() {
    let server = served(None).await;
    let stopped = {
        let host = server.host.clone();
        tokio::spawn(async move { host.stopped().await })
    };
    let reply = ask(&server, "POST", "/drain", &[]).await;
    assert_eq!((reply.status.as_u16(), reply.json()["draining"].clone()), (202, json!(true)));
    stopped.await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_wrong_with_a_request_of_the_operator_is_told_as_json_with_a_code() {
    let server = served(None).await;
    let user = carrel::identity::User::from_credential("alice");
    for query in ["limit=x", "limit=-1", "limit=", "limit=1&limit=2", "limit=99999999999999999999", "limit=1.5"] {
        let reply = ask(&server, "GET", &format!("/sessions?{query}"), &[]).await;
        let error = reply.error(400, "invalid_query");
        assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("limit")), "{query}: {error}");
    }
    for path in ["/sessions/%ff/x", "/sessions/default/%C3%28", "/sessions/%E0%80%80/%80"] {
        for method in ["GET", "DELETE"] {
            ask(&server, method, path, &[]).await.error(400, "invalid_path");
        }
    }
    for path in [
        "/",
        "/nope",
        "/sessions/",
        "/sessions/default",
        "/sessions/default/%zz",
        "/sessions/default/%2",
        "/%ff",
        "/tenants/x",
    ] {
        ask(&server, "GET", path, &[]).await.error(404, "not_found");
    }
    let one = format!("/sessions/default/{user}");
    for (method, path, allow) in [
        ("POST", "/tenants", "GET,HEAD"),
        ("DELETE", "/sessions", "GET,HEAD"),
        ("PUT", &*one, "GET,HEAD,DELETE"),
        ("GET", "/drain", "POST"),
        ("PATCH", "/metrics", "GET,HEAD"),
    ] {
        let reply = ask(&server, method, path, &[]).await;
        reply.error(405, "method_not_allowed");
        assert_eq!(reply.header("allow"), allow, "{method} {path}");
    }
    // A caller who is not the operator learns nothing else.
    let asked = ask(&server, "GET", "/sessions?limit=x", &[("origin", "https://evil.example")]).await;
    asked.error(403, "not_the_operator");
    // Valid escapes are decoded.
    let escaped = format!("/sessions/%64efault/{user}");
    ask(&server, "GET", &escaped, &[]).await.ok();
}
