//! Parity: Carrel gives the answers of a real NAT server (`nvidia-nat` 1.9.0, its `per_user_workflow` example).
//!
//! `golden.jsonl` holds the recorded requests and answers, a step a line. Each is sent to Carrel over a socket, byte
//! for byte and in order, and falls into exactly one of the groups of [`Group`]; the test ends with how many there
//! were of each.

#![allow(clippy::expect_used, clippy::panic, clippy::print_stdout)]

mod files;
mod http1;

use base64::{Engine, engine::general_purpose::STANDARD};
use carrel_tests::{Listening, Test};
use http1::Answer;
use serde_json::Value;
use std::collections::BTreeMap;

const GOLDEN: &str = include_str!("golden.jsonl");

/// The way in which a step is compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Group {
    /// The same status and the same body, to the byte.
    Equal,
    /// Requests that were sent at once: the same answers, in any order.
    EqualInAnyOrder,
    /// Server-sent events: the same status, and the same output in the same form. NAT's steps of its own tracing, in
    /// Python's notation, are left out.
    EqualOutput,
    /// `/monitor/users`: the same users, counts and keys; times and latencies are not compared.
    EqualUsers,
    /// The same status and `detail`; Carrel adds a code.
    EqualError,
    /// Better on purpose: the status and code that Carrel gives instead.
    Better(u16, &'static str),
    /// A 200 instead of NAT's failure, or another count because a call before it was refused.
    BetterAnswer(&'static str),
    /// Only the status is compared.
    EqualStatus,
    /// Routes and rules that Carrel does not have, or has differently.
    LeftOut(&'static str),
}

/// The steps that are not simply equal.
fn group(name: &str, path: &str, status: u64) -> Group {
    let case = name.split('/').next().unwrap_or_default();
    let path = path.split('?').next().unwrap_or_default();
    let nobody = Group::Better(401, "identity_required");
    let unreadable = Group::Better(401, "identity_invalid");
    match (case, name) {
        ("concurrent-32", _) => return Group::EqualInAnyOrder,
        (_, "unicode-lone-surrogate/01") => return Group::Better(422, "invalid_input"),
        (_, "unicode-lone-surrogate/02") => return Group::BetterAnswer("\"Found 0 notes\""),
        (_, "unicode-lone-surrogate/03") => return Group::BetterAnswer("\"commands_executed\":2"),
        (_, "unicode-invalid-utf8/01") => return Group::EqualError,
        (_, "invalid-json/09") => return Group::Better(422, "invalid_input"),
        ("content-types", _) if status == 422 => return Group::Better(415, "not_json"),
        ("empty-cookie", _) | (_, "cors/06") => return nobody,
        ("no-cookie", _) if path.ends_with("/atif") => {}
        ("no-cookie", _) => return nobody,
        ("jwt-bad", _) | (_, "bad-bearer-with-apikey/02") => return unreadable,
        ("basic-auth-bad", _) => {
            let scheme_names_nobody = ["04", "07", "08", "09", "10", "11"].iter().any(|step| name.ends_with(step));
            return if scheme_names_nobody { nobody } else { unreadable };
        }
        (_, "cors/01" | "cors/02") => {
            return Group::LeftOut("without `cors` Carrel has no CORS rules, and OPTIONS is a 405 like any method");
        }
        (_, "methods/10" | "methods/13") => return Group::LeftOut("HEAD is answered wherever GET is"),
        (_, "paths/05" | "paths/10") => return Group::EqualStatus,
        (_, "paths/09") => return Group::LeftOut("an encoded slash is not a slash"),
        (_, "paths/15") => return Group::EqualStatus,
        (_, "paths/01") => return Group::BetterAnswer(r#""name":"Carrel""#),
        (_, "paths/17") => return Group::BetterAnswer("carrel_sessions_live"),
        ("bad-content-length", _) => return Group::EqualStatus,
        ("docs", "docs/01") => return Group::EqualStatus,
        ("docs", _) => return Group::LeftOut("there is one page of documentation, without a CDN"),
        _ => {}
    }
    if path.ends_with("/atif") {
        return Group::LeftOut("NAT's experimental tracing stream, /atif");
    }
    match (path, status) {
        ("/generate" | "/v1/workflow" | "/health", 200 | 422) => Group::Equal,
        (path, 200) if path.ends_with("/stream") || path.ends_with("/full") => Group::EqualOutput,
        (path, 422) if path.ends_with("/stream") || path.ends_with("/full") => Group::Equal,
        ("/monitor/users", 200) => Group::EqualUsers,
        (_, 404 | 405) => Group::EqualError,
        _ => panic!("{name}: {path} {status} belongs to no group"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn carrel_answers_what_nat_answered() {
    let server = Test::new().start().await;
    let carrel = server.listen().await;
    let steps: Vec<Value> =
        GOLDEN.lines().map(|line| serde_json::from_str(line).expect("a step is a JSON object")).collect();
    let mut counts: BTreeMap<String, usize> = BTreeMap::new();
    let mut in_any_order = (Vec::new(), Vec::new());
    for step in &steps {
        let name = step["name"].as_str().expect("a name");
        let (request, golden) = (&step["request"], &step["response"]);
        let status = golden["status"].as_u64().expect("a status");
        let group = group(name, request["path"].as_str().expect("a path"), status);
        if let Group::LeftOut(why) = group {
            *counts.entry(format!("left out: {why}")).or_default() += 1;
            continue;
        }
        let answer = send(&carrel, request).await;
        let golden_body = golden["body"].as_str().unwrap_or_default();
        let (text, golden_status) = (answer.text(), status as u16);
        let kind = match group {
            Group::Equal => {
                assert_eq!((answer.status, text.as_str()), (golden_status, golden_body), "{name}");
                "equal to the byte"
            }
            Group::EqualInAnyOrder => {
                assert_eq!(answer.status, golden_status, "{name}");
                in_any_order.0.push(text);
                in_any_order.1.push(golden_body.to_owned());
                "equal to the byte"
            }
            Group::EqualOutput => {
                assert_eq!((answer.status, outputs(&text)), (golden_status, outputs(golden_body)), "{name}");
                "equal output of a stream"
            }
            Group::EqualUsers => {
                assert_eq!(answer.status, golden_status, "{name}");
                assert_eq!(users(&text), users(golden_body), "{name}");
                "equal users in monitoring"
            }
            Group::EqualError => {
                let detail = |text: &str| serde_json::from_str::<Value>(text).map(|body| body["detail"].clone()).ok();
                assert_eq!((answer.status, detail(&text)), (golden_status, detail(golden_body)), "{name}");
                "equal status and detail of an error"
            }
            Group::EqualStatus => {
                assert_eq!(answer.status, golden_status, "{name}");
                "equal status"
            }
            Group::Better(status, code) => {
                assert_eq!((answer.status, answer.header("carrel-error")), (status, Some(code)), "{name}: {text}");
                "better on purpose"
            }
            Group::BetterAnswer(part) => {
                assert!(answer.status == 200 && text.contains(part), "{name}: {text}");
                "better on purpose"
            }
            Group::LeftOut(_) => unreachable!("left out above"),
        };
        assert_eq!(answer.headers.iter().filter(|(name, _)| name == "content-type").count().max(1), 1, "{name}");
        *counts.entry(kind.into()).or_default() += 1;
    }
    in_any_order.0.sort();
    in_any_order.1.sort();
    assert_eq!(in_any_order.0, in_any_order.1);
    carrel.stop().await.expect("the server ends");
    for (kind, count) in &counts {
        println!("{count:4} {kind}");
    }
    assert_eq!(counts.values().sum::<usize>(), steps.len());
    assert_eq!(counts["equal to the byte"], 175, "{counts:?}");
}

async fn send(carrel: &Listening, request: &Value) -> Answer {
    let headers = request["headers"].as_array().into_iter().flatten().map(|pair| {
        let text = |index: usize| pair[index].as_str().expect("text");
        (text(0), text(1))
    });
    let body = match &request["body"] {
        Value::String(text) => text.clone().into_bytes(),
        Value::Object(encoded) => STANDARD.decode(encoded["base64"].as_str().expect("base64")).expect("base64"),
        _ => Vec::new(),
    };
    let (method, path) = (request["method"].as_str(), request["path"].as_str());
    http1::send(carrel.address, method.expect("a method"), path.expect("a path"), headers, &body).await
}

/// The outputs among a stream's events.
fn outputs(text: &str) -> Vec<Value> {
    let data = text.split("\n\n").filter_map(|event| event.strip_prefix("data: "));
    data.map(|data| serde_json::from_str(data).expect("an event's data is JSON")).collect()
}

/// The parts of a monitoring answer that do not change from run to run, and its keys.
fn users(text: &str) -> Value {
    let mut body: Value = serde_json::from_str(text).expect("JSON");
    let times = ["timestamp", "created_at", "last_activity", "avg_latency_ms"];
    fn blank(value: &mut Value, times: &[&str]) {
        match value {
            Value::Object(map) => {
                let of_memory = ["instances", "bytes", "parked", "parked_bytes", "counted_bytes"];
                for ours in of_memory.into_iter().chain(["fuel", "traps", "is_parked", "live"]) {
                    map.shift_remove(ours);
                }
                for (key, value) in map {
                    if times.contains(&key.as_str()) {
                        *value = Value::from(if value.is_string() { value.to_string().len() } else { 0 });
                    }
                    blank(value, times);
                }
            }
            Value::Array(items) => items.iter_mut().for_each(|item| blank(item, times)),
            _ => {}
        }
    }
    blank(&mut body, &times);
    body
}
