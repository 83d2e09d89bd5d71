//! Routes, and errors as callers see them.

use axum::body::Body;
use carrel_tests::{Server, Test};
use http::{HeaderValue, Request, header};
use serde_json::{Value, json};
use std::collections::BTreeSet;

async fn post(server: &Server, content_type: Option<&str>, body: &[u8]) -> carrel_tests::Reply {
    let mut request = Request::post("/generate").header("cookie", "nat-session=alice");
    if let Some(content_type) = content_type {
        request = request.header("content-type", content_type);
    }
    server.send(request.body(Body::from(body.to_vec())).expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_must_be_declared_as_json_and_be_text() {
    let server = Test::new().start().await;
    let body = br#"{"command":"stats"}"#;
    for right in ["application/json", "APPLICATION/JSON; charset=utf-8", "application/vnd.api+json"] {
        post(&server, Some(right), body).await.ok();
    }
    for wrong in [None, Some("text/plain"), Some("text/json"), Some("application/jsonp"), Some("garbage")] {
        post(&server, wrong, body).await.error(415, "not_json");
    }
    post(&server, Some("application/json"), b"{\"command\":\"\xff\"}").await.error(400, "not_utf8");
    let with_mark = [b"\xef\xbb\xbf", &body[..]].concat();
    assert_eq!(post(&server, Some("application/json"), &with_mark).await.ok()["data"]["commands_executed"], 4);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_body_that_is_compressed_is_refused_as_such() {
    let server = Test::hostile().start().await;
    let listening = server.listen().await;
    let send = async |path: &str, codings: &[&str], body: &[u8]| {
        let mut request = Request::post(path).header("cookie", "nat-session=alice");
        request = request.header("content-type", "application/json");
        for coding in codings {
            request = request.header("content-encoding", *coding);
        }
        listening.send(request.body(Body::from(body.to_vec())).expect("a request")).await
    };
    let gzip = b"\x1f\x8b\x08\0\0\0\0\0\0\x03\xabV*.I,)V\xb2R\x02\0";
    let plain = br#"{"command":"stats"}"#;
    for codings in [&["gzip"][..], &["br"], &["zstd"], &["GZIP"], &["identity, deflate"], &["identity", "x-new"]] {
        for path in ["/generate", "/generate/stream", "/generate/full", "/v1/workflow"] {
            for body in [&gzip[..], plain] {
                let reply = send(path, codings, body).await;
                reply.error(415, "encoding_not_supported");
                assert_eq!(reply.header("accept-encoding"), "identity", "{codings:?}");
            }
        }
    }
    for codings in [&[][..], &[""], &["identity"], &["Identity , identity"], &[" ", "identity"]] {
        send("/generate", codings, plain).await.ok();
    }
    // Other refusals have nothing to do with codings.
    assert_eq!(post(&server, Some("text/plain"), plain).await.header("accept-encoding"), "");
    listening.stop().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn numbers_that_do_not_fit_are_sent_back_as_they_came() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let nobody = server.nobody();
    for (number, is) in [
        ("123456789012345678901", "123456789012345678901"),
        ("-9007199254740993", "-9007199254740993"),
        ("1.10", "1.10"),
        ("0.1e1", "0.1e1"),
        ("-0", "-0"),
        ("1e400", "1e400"),
        ("[1.10, {\"a\": 1E22}]", "[1.10,{\"a\":1E22}]"),
    ] {
        let told = |msg: &str, input: &str, at: &str| {
            format!(
                r#"{{"detail":[{{"type":"{msg}","loc":["body","{at}"],"msg":"{}","input":{input}}}]}}"#,
                match msg {
                    "missing" => "Field required",
                    _ => "Input should be a valid string",
                }
            )
        };
        let body = format!(r#"{{ "command" : {number} }}"#);
        let reply = alice.body(body.clone()).await;
        assert_eq!((reply.status.as_u16(), reply.header("carrel-error")), (422, "invalid_input"));
        assert_eq!(reply.text(), told("string_type", is, "command"));
        // Nothing is read for a caller without an identity.
        nobody.body(body.clone()).await.error(401, "identity_required");
        // Also as part of an incomplete input.
        let reply = alice.body(format!(r#"{{"size": {number}}}"#)).await;
        assert_eq!(reply.text(), told("missing", &format!(r#"{{"size":{is}}}"#), "command"));
        let stream = alice.clone().at("/generate/stream").body(body).await;
        assert_eq!((stream.status.as_u16(), stream.header("carrel-error")), (422, "invalid_input"));
        assert_eq!(stream.text(), told("string_type", is, "command"));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn each_wrong_field_is_named_and_the_guest_is_not_touched() {
    let server = Test::new().start().await;
    let alice = server.user("alice");
    let error = alice.call(json!({"command": 5, "action": null, "param1": ["x"]})).await.error(422, "invalid_input");
    let told: Vec<_> = error["detail"].as_array().expect("a list").iter().map(|it| &it["loc"][1]).collect();
    assert_eq!(told, ["command", "action", "param1"]);
    assert_eq!(error["detail"][2]["input"], json!(["x"]));
    let surrogate = alice.body(r#"{"command":"note","action":"add","param1":"\ud800"}"#).await;
    let error = surrogate.error(422, "invalid_input");
    assert_eq!(error["detail"][0]["ctx"]["error"], "Unpaired surrogate in string");
    let deep = format!("{{\"command\":{}", "[".repeat(100_000));
    let error = alice.body(deep).await.error(422, "invalid_input");
    assert_eq!(error["detail"][0]["ctx"]["error"], "Nested too deeply");
    let twice = alice.body(r#"{"command":"help","command":"stats"}"#).await.ok();
    assert_eq!(twice["data"]["commands_executed"], 1, "of two equal names the last counts, and nothing before did");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_huge_wrong_body_is_not_sent_back() {
    let server = Test::new().start().await;
    let reply = server.user("alice").call(json!({"param1": "x".repeat(900_000)})).await;
    let error = reply.error(422, "invalid_input");
    assert_eq!(error["detail"][0]["loc"], json!(["body"]));
    assert!(error["detail"][0]["msg"].as_str().is_some_and(|msg| msg.starts_with("missing field `command`")));
    assert!(reply.body.len() < 1000, "{} bytes", reply.body.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_nobody_gets_a_401() {
    let server = Test::new().start().await;
    let reply = server.nobody().call(json!({"command": "stats"})).await;
    let error = reply.error(401, "identity_required");
    assert!(error["detail"].as_str().is_some_and(|detail| detail.contains("nat-session")));
    assert_eq!(reply.header("www-authenticate"), "Bearer");
    let request =
        Request::post("/generate").header("authorization", "Basic !!!").header("content-type", "application/json");
    let body = Body::from(r#"{"command":"stats"}"#);
    server.send(request.body(body).expect("a request")).await.error(401, "identity_invalid");
    assert_eq!(server.host.registry().live(), 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_not_there_is_a_404_and_a_wrong_method_a_405() {
    let server = Test::new().start().await;
    server.get("/nope").await.error(404, "not_found");
    server.get("/metrics/x").await.error(404, "not_found");
    let reply = server.get("/generate").await;
    reply.error(405, "method_not_allowed");
    assert_eq!(reply.header("allow"), "POST");
    let redirected = server.get("/health/?x=1").await;
    assert_eq!((redirected.status.as_u16(), redirected.header("location")), (307, "../health?x=1"));
    assert_eq!(server.get("/health").await.ok(), json!({"status": "healthy"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_answers_only_where_it_is_enabled() {
    let off = Test::new().set("general.enable_per_user_monitoring", false).start().await;
    off.get("/monitor/users").await.error(404, "not_found");
    let on = Test::new().start().await;
    on.user("alice").call(json!({"command": "note", "action": "add", "param1": "milk"})).await.ok();
    on.user("alice").call(json!({})).await.error(422, "invalid_input");
    let seen = on.get("/monitor/users").await.ok();
    assert_eq!(seen["total_active_users"], 1);
    let user = &seen["users"][0];
    // As with NAT, a call whose input does not fit is not counted among the user's requests.
    assert_eq!(user["requests"]["total_requests"], 1);
    assert_eq!(user["requests"]["error_count"], 0);
    assert_eq!(user["memory"]["instances"], 2);
    assert!(user["fuel"].as_u64() > Some(10_000) && user["memory"]["bytes"].as_u64() >= Some(131_072), "{user}");
    for unknown in ["7b031fd4-714b-598e-b755-a517d069edc6", "alice"] {
        let seen = on.get(&format!("/monitor/users?user_id={unknown}")).await.ok();
        assert_eq!((&seen["total_active_users"], &seen["users"]), (&json!(0), &json!([])));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_counts_no_call_whose_input_does_not_fit_but_its_fuel() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice");
    let mut fuel = 0;
    let mut send = async |path: &str, body: &str, status: u16| {
        let reply = alice.clone().at(path).body(body.to_owned()).await;
        assert_eq!(reply.status.as_u16(), status, "{reply:?}");
        fuel += reply.header("carrel-fuel").parse::<u64>().unwrap_or_default();
        let seen = server.get("/monitor/users").await.ok()["users"][0].clone();
        assert_eq!(seen["fuel"], fuel, "{body}");
        let requests = &seen["requests"];
        assert_eq!(requests["active_requests"], 0);
        let average = requests["avg_latency_ms"].as_f64().expect("a number");
        (requests["total_requests"].clone(), requests["error_count"].clone(), average)
    };
    // No kind of unfit body counts: none at all, broken JSON, another type, or an incomplete input.
    for body in ["", "{", "[]", "{}", r#"{"command":5}"#] {
        assert_eq!(send("/generate", body, 422).await, (json!(0), json!(0), 0.0), "{body}");
    }
    let count = |(total, errors, _): (Value, Value, f64)| (total, errors);
    assert_eq!(count(send("/generate", r#"{"command":"stats"}"#, 200).await), (json!(1), json!(0)));
    assert_eq!(count(send("/hostile", r#"{"do":"panic"}"#, 500).await), (json!(2), json!(1)));
    assert_eq!(count(send("/hostile", r#"{"do":"dance"}"#, 422).await), (json!(2), json!(1)));
    assert_eq!(count(send("/generate/stream", "{}", 422).await), (json!(2), json!(1)));
    // The host's own figures are of all calls.
    let figures = server.get("/metrics").await.text().to_owned();
    assert!(figures.contains(r#"carrel_calls_total{tenant="default"} 9"#), "{figures}");
    assert!(figures.contains(r#"carrel_errors_total{tenant="default",code="invalid_input"} 7"#), "{figures}");
}

#[tokio::test(flavor = "multi_thread")]
async fn configured_endpoints_lead_to_single_functions_by_their_methods() {
    let endpoint = |path: &str, method: &str, function: &str| json!({"path": path, "method": method, "description": "x", "function_name": function});
    let test = Test::hostile().set("general.front_end.workflow", json!({"path": "/ask", "method": "PUT"}));
    let test = test.set(
        "general.front_end.endpoints",
        json!([endpoint("/notes", "POST", "notepad"), endpoint("/notes", "GET", "hostile")]),
    );
    let server = test.start().await;
    let add = json!({"action": "add", "content": "milk"});
    let added = server.user("alice").at("/notes").call(add).await.ok();
    assert_eq!(added, json!({"success": true, "message": "Note added successfully", "notes": [], "count": 1}));
    // The workflow's notepad is the same one: the same user's.
    let put = Request::put("/ask").header("cookie", "nat-session=alice").header("content-type", "application/json");
    let list = put.body(Body::from(r#"{"command":"note","action":"list"}"#)).expect("a request");
    assert_eq!(server.send(list).await.ok()["data"]["notes"], json!(["milk"]));
    // A GET gives `null`, which the hostile guest does not take.
    let get = Request::get("/notes").header("cookie", "nat-session=alice").body(Body::empty()).expect("a request");
    server.send(get).await.error(422, "invalid_input");
    server.get("/generate").await.error(404, "not_found");
}

/// The events of a stream: name and data.
fn events(text: &str) -> Vec<(String, Value)> {
    let event = |event: &str| {
        let field = |name: &str| event.lines().find_map(|line| line.strip_prefix(name)).map(str::to_owned);
        let data = field("data: ").expect("an event has data");
        (field("event: ").unwrap_or_default(), serde_json::from_str(&data).expect("the data is JSON"))
    };
    // A comment, such as what the call has cost, is no event.
    text.split("\n\n").filter(|part| !part.is_empty() && !part.starts_with(':')).map(event).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_has_each_chunk_and_last_the_output() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile/stream");
    let reply = alice.call(json!({"do": "emit", "chunks": 100, "bytes": 3})).await;
    assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, "text/event-stream"));
    let events = events(reply.text());
    assert_eq!(events.len(), 101);
    for (n, (name, data)) in events[..100].iter().enumerate() {
        assert_eq!((name.as_str(), data), ("", &json!({"value": format!("\"{n}xxx\"")})));
    }
    assert_eq!(events[100].1, json!({"value": "{\"calls\":1,\"said\":100}"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_fails_before_it_began_has_a_status_and_later_an_event() {
    let server = Test::hostile().start().await;
    let alice = server.user("alice").at("/hostile/stream");
    alice.call(json!({"do": "panic"})).await.error(500, "function_crashed");
    alice.call(json!({})).await.error(422, "invalid_input");
    let reply = alice.call(json!({"do": "emit", "chunks": 2, "bytes": 0, "panic": true})).await;
    let events = events(reply.text());
    assert_eq!(events.len(), 3);
    assert_eq!((events[2].0.as_str(), &events[2].1["code"]), ("error", &json!("function_crashed")));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_reader_holds_up_nobody_but_their_own_call() {
    let test = Test::hostile().set("limits.deadline", "400ms").set("limits.output_size", "64 MiB");
    let server = test.start().await;
    // The body is not read at first: a few chunks wait, and then the function does, until its deadline.
    let mut request = Request::new(Body::from(json!({"do": "emit", "chunks": 1000, "bytes": 10_000}).to_string()));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = "/hostile/stream".parse().expect("a path");
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request.headers_mut().insert(header::COOKIE, HeaderValue::from_static("nat-session=mallory"));
    let app = carrel::http::app(server.host.clone());
    let response = tower::ServiceExt::oneshot(app, request).await.unwrap_or_else(|never| match never {});
    server.user("alice").at("/hostile").call(json!({"do": "count"})).await.ok();
    server.until_idle().await;
    let body = http_body_util::BodyExt::collect(response.into_body()).await.expect("a body").to_bytes();
    let events = events(std::str::from_utf8(&body).expect("text"));
    let (last, before) = events.split_last().expect("events");
    assert!(before.len() < 100, "{} chunks were kept for a reader who was not there", before.len());
    assert_eq!((last.0.as_str(), &last.1["code"]), ("error", &json!("deadline_exceeded")));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_of_the_api_comes_from_the_functions_schemas() {
    let server = Test::hostile().start().await;
    let api = server.get("/openapi.json").await.ok();
    assert_eq!(api["openapi"], "3.1.0");
    let input = &api["paths"]["/generate"]["post"]["requestBody"]["content"]["application/json"]["schema"]["$ref"];
    assert_eq!(input, "#/components/schemas/UserAssistantInput");
    let schema = &api["components"]["schemas"]["UserAssistantInput"];
    assert_eq!(schema["required"], json!(["command"]));
    assert_eq!(schema["properties"]["param1"]["type"], "string");
    for path in ["/v1/workflow", "/generate/stream", "/hostile", "/health", "/metrics", "/monitor/users"] {
        assert!(api["paths"][path].is_object(), "{path}");
    }
    // Every reference leads somewhere.
    fn references<'a>(value: &'a Value, found: &mut Vec<&'a str>) {
        match value {
            Value::Object(map) => {
                found.extend(map.get("$ref").and_then(Value::as_str));
                map.values().for_each(|value| references(value, found));
            }
            Value::Array(items) => items.iter().for_each(|item| references(item, found)),
            _ => {}
        }
    }
    let mut found = Vec::new();
    references(&api, &mut found);
    for reference in found {
        let pointer = reference.strip_prefix('#').expect("a reference into the document");
        assert!(api.pointer(pointer).is_some(), "{reference} leads nowhere");
    }
}

/// All operations of a description: path, method, and content.
fn operations(api: &Value) -> Vec<(&str, &str, &Value)> {
    let paths = api["paths"].as_object().expect("paths").iter();
    let methods = paths.flat_map(|(path, item)| item.as_object().expect("methods").iter().map(move |it| (path, it)));
    methods.map(|(path, (method, operation))| (path.as_str(), method.as_str(), operation)).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_operation_has_a_name_of_its_own_whatever_the_paths() {
    let endpoint = |path: &str, method: &str| json!({"path": path, "method": method, "description": "", "function_name": "notepad"});
    let paths =
        ["/a-b", "/a_b", "/a.b", "/a/b", "/ab", "/aB", "/A-B", "/a~b", "/a-b-2", "/a-b/stream-full", "/~", "/-"];
    let endpoints: Vec<_> =
        paths.iter().flat_map(|path| ["GET", "POST", "PUT", "DELETE"].map(|method| endpoint(path, method))).collect();
    let server = Test::new().set("general.front_end.endpoints", endpoints).start().await;
    let api = server.get("/openapi.json").await.ok();
    let mut names: Vec<String> = Vec::new();
    for (path, method, operation) in operations(&api) {
        let id = operation["operationId"].as_str().unwrap_or_else(|| panic!("{method} {path} has no name"));
        let plain = id.starts_with(|c: char| c.is_ascii_alphabetic());
        assert!(plain && id.chars().all(|c| c.is_ascii_alphanumeric() || c == '_'), "{id}");
        // As programs write names: without signs, in lower case.
        names.push(id.replace('_', "").to_lowercase());
    }
    let all = names.len();
    assert!(all > paths.len() * 4 * 3, "{all}");
    names.sort();
    names.dedup();
    assert_eq!(names.len(), all);
    // They do not change from one time to the next.
    assert_eq!(api, server.get("/openapi.json").await.ok());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_description_has_what_this_configuration_takes_and_answers() {
    let schemes = async |test: Test| {
        let api = test.start().await.get("/openapi.json").await.ok();
        let named: Vec<String> =
            api["components"]["securitySchemes"].as_object().expect("schemes").keys().cloned().collect();
        let asked = api["security"].as_array().expect("a list");
        let asked: Vec<_> = asked.iter().flat_map(|it| it.as_object().expect("a map").keys().cloned()).collect();
        assert_eq!(named, asked);
        (named, api)
    };
    let (open, api) = schemes(Test::new()).await;
    assert_eq!(open, ["cookie", "bearer", "basic", "key"]);
    assert!(api["paths"]["/session"].is_null() && api["paths"]["/generate"]["post"]["responses"]["403"].is_null());
    let of = |identity: Value| Test::new().set("identity", identity);
    let secret = "a secret of the tests, which everybody knows";
    let jwt = json!({"issuer": "https://one.example", "audience": "carrel", "secret": secret});
    let hash = carrel::identity::KeyHash::of("key").to_string();
    let (keys, api) = schemes(of(json!({"api_keys": [hash]}))).await;
    assert_eq!(keys, ["bearer", "key"]);
    let statuses = api["paths"]["/generate"]["post"]["responses"].as_object().expect("answers");
    for status in ["200", "400", "401", "403", "408", "413", "415", "422", "429", "500", "503", "504"] {
        assert!(statuses.contains_key(status), "{status}");
    }
    assert_eq!(schemes(of(json!({"jwt": jwt}))).await.0, ["bearer"]);
    let (cookies, api) = schemes(of(json!({"cookies": {"secrets": [secret], "anonymous": "default"}}))).await;
    assert_eq!(cookies, ["cookie"]);
    let session = &api["paths"]["/session"];
    assert!(session["post"]["responses"]["200"].is_object() && session["delete"]["responses"]["204"].is_object());
    assert_eq!(session["post"]["security"], json!([{"cookie": []}, {}]), "who has nothing gets one too");
    for path in ["/generate/full", "/v1/workflow/full", "/generate/stream"] {
        let ok = &api["paths"][path]["post"]["responses"]["200"]["content"];
        assert_eq!(ok["text/event-stream"]["schema"]["contentMediaType"], "text/event-stream", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documentation_needs_nothing_from_elsewhere() {
    let server = Test::new().start().await;
    let page = server.get("/docs").await;
    assert!(page.text().contains("SwaggerUIBundle") && !page.text().contains("://"), "{}", page.text());
    for asset in ["swagger-ui.css", "swagger-ui-bundle.js"] {
        let asset = server.get(&format!("/docs/{asset}")).await;
        assert!(asset.status == 200 && asset.body.len() > 50_000);
    }
    server.get("/docs/other").await.error(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn figures_come_in_the_format_that_is_asked_for() {
    let server = Test::new().set("admin", json!({"port": 0})).start().await;
    server.user("alice").call(json!({"command": "stats"})).await.ok();
    let callers = Test::new().start().await;
    callers.user("alice").call(json!({"command": "stats"})).await.ok();
    let (old, new) =
        ("text/plain; version=0.0.4; charset=utf-8", "application/openmetrics-text; version=1.0.0; charset=utf-8");
    for (accept, content_type) in [
        (None, old),
        (Some("*/*"), old),
        (Some("text/html,application/xhtml+xml,*/*;q=0.8"), old),
        (Some("application/openmetrics-text"), new),
        (Some("application/openmetrics-text; version=1.0.0"), new),
        (Some("application/openmetrics-text; version=2.0.0, */*;q=0.1"), old),
        (Some("application/openmetrics-text;q=0.5, text/plain"), old),
        (Some("application/openmetrics-text, text/plain;q=0.5"), new),
        (Some("application/openmetrics-text, text/plain"), new),
        (Some("application/openmetrics-text;q=0, text/plain;q=0.1"), old),
        // Prometheus 2.5 and 3.
        (Some("application/openmetrics-text; version=0.0.1,text/plain;version=0.0.4;q=0.5,*/*;q=0.1"), old),
        (
            Some(
                "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,\
                 application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,\
                 text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            ),
            new,
        ),
    ] {
        let mut request = Request::get("/metrics").header("host", "localhost");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let request = request.body(Body::empty()).expect("a request");
        let admin = carrel::http::admin(server.host.clone());
        let (again, _) = request.into_parts();
        let of_admin = tower::ServiceExt::oneshot(admin, Request::from_parts(again.clone(), Body::empty())).await;
        let of_admin = carrel_tests::Reply::read(of_admin.expect("an answer")).await;
        for reply in [callers.send(Request::from_parts(again, Body::empty())).await, of_admin] {
            assert_eq!((reply.status.as_u16(), reply.header("content-type")), (200, content_type), "{accept:?}");
            assert_eq!(reply.header("vary"), "accept");
            let is_new = content_type == new;
            let text = reply.text();
            assert_eq!((text.ends_with("# EOF\n"), text.contains("# UNIT ")), (is_new, is_new), "{accept:?}");
            let name = if is_new { "carrel_calls" } else { "carrel_calls_total" };
            assert!(text.contains(&format!("# TYPE {name} counter\n")), "{text}");
            assert!(text.contains("# TYPE carrel_call_seconds histogram\n") && text.contains("le=\"+Inf\""), "{text}");
            assert!(text.contains("\ncarrel_calls_total{tenant=\"default\"} 1\n"), "{text}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_start_sends_browsers_to_the_documentation_and_tells_others_what_is_here() {
    let server = Test::hostile().start().await;
    let ask = async |server: &Server, accept: Option<&str>| {
        let mut request = Request::get("/");
        if let Some(accept) = accept {
            request = request.header("accept", accept);
        }
        let reply = server.send(request.body(Body::empty()).expect("a request")).await;
        assert_eq!(reply.header("vary"), "accept");
        reply
    };
    let browser = "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8";
    for accept in [browser, "text/html", "application/json;q=0.5, TEXT/HTML"] {
        let reply = ask(&server, Some(accept)).await;
        // Relative: what is before it, such as a proxy's prefix, stays.
        assert_eq!((reply.status.as_u16(), reply.header("location"), reply.body.len()), (307, "docs", 0), "{accept}");
    }
    for accept in [
        None,
        Some("*/*"),
        Some("application/json"),
        Some("text/html;q=0, */*"),
        Some("text/html;q=0.5, application/json"),
    ] {
        let told = ask(&server, accept).await.ok();
        assert_eq!((&told["name"], &told["version"]), (&json!("Carrel"), &json!(env!("CARGO_PKG_VERSION"))));
        let hostile = json!({"method": "POST", "path": "/hostile", "stream": "/hostile/stream", "function": "hostile"});
        assert_eq!(told["routes"].as_array().map(Vec::len), Some(3), "{told}");
        assert!(told["routes"].as_array().is_some_and(|routes| routes.contains(&hostile)), "{told}");
        for link in ["docs", "openapi", "health"] {
            assert_eq!(server.get(told[link].as_str().expect("a link")).await.status, 200, "{link}");
        }
    }
    let behind = Test::new().set("general.front_end.root_path", "/apps/carrel").start().await;
    let told = ask(&behind, None).await.ok();
    assert_eq!(
        (&told["docs"], &told["routes"][0]["path"]),
        (&json!("/apps/carrel/docs"), &json!("/apps/carrel/generate"))
    );
    let put = Request::put("/").body(Body::empty()).expect("a request");
    server.send(put).await.error(405, "method_not_allowed");
}

/// A configuration with all of the host's own routes.
fn with_all_routes() -> Test {
    Test::new()
        .set("general.enable_per_user_monitoring", true)
        .set("identity.cookies", json!({"secrets": ["a secret of the tests, which everybody knows"]}))
        .set("identity.cookies.anonymous", "default")
}

/// The start's listing, the router, the API's description, the paths that endpoints may not have, and those that are found
/// with a `/` too many.
#[tokio::test(flavor = "multi_thread")]
async fn the_hosts_own_routes_are_the_same_in_every_list() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = folder.path().join("config.yml");
    std::fs::write(&config, with_all_routes().text()).expect("a file");
    let listed = tokio::task::spawn_blocking(move || super::process::Process::serve(&config, &[]).until("/stream; "));
    let listed = listed.await.expect("a listing");
    let listed: BTreeSet<_> = listed.split("/stream; ").nth(1).expect("a list").trim().split(", ").collect();
    let server = with_all_routes().start().await;
    let described = server.get("/openapi.json").await.ok();
    let paths = described["paths"]
        .as_object()
        .expect("paths")
        .keys()
        .filter(|path| !["/generate", "/v1/workflow"].iter().any(|function| path.starts_with(function)));
    let mut own: Vec<&str> = paths.map(String::as_str).collect();
    assert_eq!(own, ["/health", "/", "/metrics", "/monitor/users", "/session"]);
    own.retain(|path| *path != "/");
    own.extend(["/openapi.json", "/docs"]);
    assert_eq!(listed, own.iter().copied().collect());
    for path in own {
        assert_ne!(server.get(path).await.status, 404, "{path}");
        let with_a_slash = server.get(&format!("{path}/")).await;
        let name = path.rsplit('/').next().expect("a name");
        assert_eq!((with_a_slash.status.as_u16(), with_a_slash.header("location")), (307, &*format!("../{name}")));
        let endpoint = json!([{"path": path, "function_name": "notepad", "description": "x"}]);
        let told = with_all_routes().set("general.front_end.endpoints", endpoint).refused().await;
        assert!(told.contains(&format!("the route {path} is already taken by Carrel itself")), "{told}");
    }
}

async fn preflight(server: &Server, origin: &'static str) -> carrel_tests::Reply {
    let request = Request::options("/generate")
        .header("origin", origin)
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type");
    server.send(request.body(Body::empty()).expect("a request")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_of_other_origins_are_let_in_only_by_the_configuration() {
    let closed = Test::new().start().await;
    assert_eq!(preflight(&closed, "http://localhost:3000").await.header("access-control-allow-origin"), "");
    let open = Test::new().set(
        "general.front_end.cors",
        json!({
            "allow_origins": ["http://localhost:3000"],
            "allow_origin_regex": "https://[a-z]+\\.example\\.org",
            "allow_methods": ["POST"],
            "allow_headers": ["Content-Type"],
            "allow_credentials": true,
        }),
    );
    let open = open.start().await;
    for origin in ["http://localhost:3000", "https://app.example.org"] {
        let allowed = preflight(&open, origin).await;
        assert_eq!(allowed.header("access-control-allow-origin"), origin);
        assert_eq!(allowed.header("access-control-allow-methods"), "POST");
        assert_eq!(allowed.header("access-control-allow-credentials"), "true");
    }
    for origin in ["http://evil.example", "https://app.example.org.evil.example", "http://localhost:3000.evil"] {
        assert_eq!(preflight(&open, origin).await.header("access-control-allow-origin"), "", "{origin}");
    }
}
