//! Fuzz targets: the places where the host reads untrusted bytes. Each function here takes bytes, and panics if an
//! invariant is broken. `host/fuzz` feeds them a fuzzer's inputs; the tests feed them its corpus.
#![allow(clippy::panic)]

use crate::{
    Host,
    config::Config,
    function, http,
    identity::{self, Identity, User},
    instance::Engine,
    limits::Limits,
    scheduler::Lane,
};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, header};
use axum::body::Body;
use http_body_util::BodyExt;
use serde_json::Value;
use std::{
    path::Path,
    sync::{Arc, LazyLock},
};
use tokio::runtime::Runtime;
use tower::ServiceExt;

/// The name of a file that does not exist.
const FILE: &str = "/nowhere/fuzz.yml";

/// A configuration with every kind of verification.
const VERIFIED: &str = "
identity:
  jwt:
    issuer: https://login.example.com
    audience: carrel
    secret: a secret of the fuzzer, which nobody else knows
    tenant_claim: org
  cookies: { secrets: ['another secret of the fuzzer, which is long enough'], anonymous: acme }
tenants:
  acme: { claims: [acme], api_keys: ['blake3:6d5776cbe1968f9542fe0d00334baa2e1d2eb57d91abcaec57c4db72b8f18963'] }
  globex: { api_keys: ['blake3:59b10eefb58da8f3c9e55877c7931e7b6d4e46de22273ff93af93b247ce7e4bb'] }
functions: { notepad: { _type: per_user_notepad } }
workflow: { _type: per_user_notepad }
";

const SERVED: &str = "
sessions: { park_after: off }
functions:
  notepad: { _type: per_user_notepad }
  preferences: { _type: per_user_preferences }
workflow: { _type: per_user_assistant, notepad_name: notepad, preferences_name: preferences }
";

fn parsed(text: &str) -> Config {
    Config::parse(Path::new(FILE), text).unwrap_or_else(|error| panic!("{error}"))
}

static RUNTIME: LazyLock<Runtime> = LazyLock::new(|| {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.unwrap_or_else(|error| panic!("{error}"))
});

/// Reads a request's headers: each line is a letter for the header, and its value. A request that is let in is let in
/// again as the same user, and only with a known credential.
pub fn headers(data: &[u8]) {
    static VERIFIED_BY: LazyLock<Identity> = LazyLock::new(|| parsed(VERIFIED).identity);
    let open = Identity::open();
    let mut headers = HeaderMap::new();
    for line in data.split(|byte| *byte == b'\n') {
        let Some((which, value)) = line.split_first() else { continue };
        let name = match which {
            b'c' => header::COOKIE,
            b'a' => header::AUTHORIZATION,
            b'k' => HeaderName::from_static("x-api-key"),
            _ => HeaderName::from_static("x-forwarded-proto"),
        };
        if let Ok(value) = HeaderValue::from_bytes(value) {
            headers.append(name, value);
        }
    }
    let user = open.user(&headers);
    assert_eq!(user, open.user(&headers));
    if let Some(cookie) = identity::cookie_of(&headers).filter(|cookie| !cookie.is_empty()) {
        assert_eq!(user, Ok(User::from_credential(&cookie)));
    }
    let verified = &*VERIFIED_BY;
    let user = verified.user(&headers);
    assert_eq!(user, verified.user(&headers));
    if let Ok(user) = user {
        assert!(usize::from(user.tenant()) < 2);
        let keys = [("acme", "example-key-of-acme"), ("globex", "example-key-of-globex")];
        let has = |text: &str| {
            let mut values = headers.values();
            values.any(|value| value.as_bytes().windows(text.len()).any(|part| part == text.as_bytes()))
        };
        // The credentials of the corpus, which no fuzzer can guess.
        let known = keys.iter().any(|(_, key)| has(key)) || has("eyJ");
        assert!(known, "{headers:?} is {user}");
    }
    // An issued cookie is accepted.
    if let Some(Ok(issued)) = verified.issue(&headers) {
        let (pair, _) = issued.header.split_once(';').unwrap_or((&issued.header, ""));
        let mut own = HeaderMap::new();
        own.insert(header::COOKIE, HeaderValue::try_from(pair).unwrap_or_else(|error| panic!("{error}")));
        assert!(verified.user(&own).is_ok(), "{pair}");
    }
}

/// Reads a configuration. Each problem has a text.
pub fn config(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Err(error) = Config::parse(Path::new(FILE), text) {
        assert!(!error.problems.is_empty(), "nothing is wrong, and it is refused");
        assert!(error.to_string().lines().count() >= error.problems.len());
        let lines = text.split('\n').count();
        assert!(error.problems.iter().all(|problem| problem.line.is_none_or(|line| line >= 1 && line <= lines)));
    }
}

/// Sends a body; its first byte chooses the route. It is answered, or refused for a reason with a place in the body.
pub fn json(data: &[u8]) {
    static APP: LazyLock<(Arc<Host>, http::App)> = LazyLock::new(|| {
        let host = RUNTIME.block_on(Host::start(parsed(SERVED), 1)).unwrap_or_else(|error| panic!("{error}"));
        (host.clone(), http::app(host))
    });
    let (host, app) = &*APP;
    let (first, body) = data.split_first().unwrap_or((&0, &[]));
    let path = ["/generate", "/generate/stream", "/generate/full", "/v1/workflow"][usize::from(*first % 4)];
    if let Ok(text) = std::str::from_utf8(body) {
        http::compare_json(text);
    }
    let request = Request::post(path)
        .header(header::COOKIE, "nat-session=fuzz")
        .header(header::CONTENT_TYPE, "application/json")
        .body(Body::from(body.to_owned()))
        .unwrap_or_else(|error| panic!("{error}"));
    let (status, answer) = RUNTIME.block_on(async {
        let answer = app.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        let status = answer.status().as_u16();
        let body = answer.into_body().collect().await.unwrap_or_else(|error| panic!("{error}"));
        (status, body.to_bytes())
    });
    // The next input must not find this one's session.
    let _ = host.registry().take_if_idle(User::from_credential("fuzz"));
    match status {
        200 => assert!(path.ends_with("stream") || path.ends_with("full") || is_object(&answer)),
        422 => {
            let text = std::str::from_utf8(&answer).unwrap_or_else(|error| panic!("{error}: {answer:?}"));
            assert!(http::compare_json(text), "{answer:?}");
            // A number that nobody has room for is sent back as it came.
            if let Ok(detail) = serde_json::from_str::<Value>(text) {
                let items = detail["detail"].as_array();
                assert!(items.is_some_and(|items| items.iter().all(|item| item["loc"][0] == "body")), "{answer:?}");
            }
        }
        400 => assert!(std::str::from_utf8(body).is_err(), "{answer:?}"),
        other => panic!("{other}: {answer:?}"),
    }
}

fn is_object(answer: &[u8]) -> bool {
    serde_json::from_slice::<Value>(answer).is_ok_and(|value| value.is_object())
}

/// Loads a guest's file, which is accepted or refused.
pub fn guest(data: &[u8]) {
    static ENGINE: LazyLock<(Engine, Lane, Limits)> = LazyLock::new(|| {
        let mut limits = Limits { memory_per_instance: 1 << 20, fuel_per_call: 1_000_000, ..Limits::default() };
        limits.deadline = std::time::Duration::from_secs(1);
        let lane = Lane::new(1, [1]);
        (
            Engine::new(limits.memory_per_instance, limits.memory, &lane).unwrap_or_else(|why| panic!("{why}")),
            lane,
            limits,
        )
    });
    let (engine, lane, limits) = &*ENGINE;
    if let Err(why) = RUNTIME.block_on(function::load_one(engine, lane, limits, data)) {
        assert!(!why.is_empty() && why.len() < 20_000, "{} bytes: {why}", why.len());
    }
}

/// Examines a component for its guest's state. A valid one must stay valid.
pub fn state(component: &[u8]) {
    function::examine_one(component);
}
