//! Streams: their beginning, the keeping alive, and their definite end.

use axum::body::Body;
use carrel_tests::{Server, Test};
use http::{Request, Response, StatusCode};
use http_body_util::BodyExt;
use hyper::body::Incoming;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::json;
use std::net::SocketAddr;

/// The head of an answer over a socket; its body is still to come.
async fn head(address: SocketAddr, request: http::request::Builder, body: &str) -> Response<Incoming> {
    let request = request.header("content-type", "application/json").body(Body::from(body.to_owned()));
    let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
    let mut request = request.expect("a request");
    *request.uri_mut() = format!("http://{address}{}", request.uri()).parse().expect("an address");
    client.request(request).await.expect("an answer")
}

async fn text(response: Response<Incoming>) -> String {
    let body = response.into_body().collect().await.expect("a body").to_bytes();
    String::from_utf8(body.to_vec()).expect("text")
}

fn as_alice(path: &str) -> http::request::Builder {
    Request::post(path).header("cookie", "nat-session=alice")
}

fn is_unbuffered(response: &Response<Incoming>) {
    let header = |name: &str| response.headers().get(name).map(|value| value.to_str().expect("text"));
    assert_eq!(response.status(), StatusCode::OK);
    assert_eq!(header("content-type"), Some("text/event-stream"));
    assert_eq!(header("cache-control"), Some("no-cache"));
    assert_eq!(header("x-accel-buffering"), Some("no"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_headers_come_while_the_function_thinks_and_while_the_call_waits() {
    let server = Test::hostile().set("limits.deadline", "60s").start().await;
    let listening = server.listen().await;
    let slow = json!({"do": "sleep", "milliseconds": 50_000}).to_string();
    // Each head is here long before its call could have ended: the first runs, the others wait for it.
    let thinks = head(listening.address, as_alice("/hostile/stream"), &slow).await;
    is_unbuffered(&thinks);
    let waits = head(listening.address, as_alice("/hostile/full"), &slow).await;
    is_unbuffered(&waits);
    assert_eq!(server.host.registry().in_use(), 2);
    // A caller who goes away ends their calls, whether these run or wait.
    drop((thinks, waits));
    server.until_idle().await;
    let quick = head(listening.address, as_alice("/hostile/stream"), r#"{"do":"count"}"#).await;
    is_unbuffered(&quick);
    assert!(text(quick).await.contains(r#"data: {"value": "{\"calls\":1"#), "what was given up has left nothing");
    listening.stop().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_fails_soon_has_a_status_and_what_fails_late_an_event() {
    let test = Test::hostile().set("limits.deadline", "2s").set("limits.queue_per_session", 1);
    let server = test.start().await;
    let listening = server.listen().await;
    let call = async |body: &str| head(listening.address, as_alice("/hostile/stream"), body).await;
    for (body, status) in [(r#"{"do":"panic"}"#, 500), ("{}", 422), ("{", 422)] {
        let response = call(body).await;
        assert_eq!((response.status().as_u16(), response.headers().contains_key("carrel-error")), (status, true));
    }
    let late = call(r#"{"do":"sleep","milliseconds":60000}"#).await;
    is_unbuffered(&late);
    // One call runs, another waits, and a third finds no place and is refused at once.
    let waits = call(r#"{"do":"sleep","milliseconds":60000}"#).await;
    is_unbuffered(&waits);
    assert_eq!(call(r#"{"do":"count"}"#).await.status(), StatusCode::TOO_MANY_REQUESTS);
    for late in [late, waits] {
        let events = text(late).await;
        let last = events.trim_end().rsplit("\n\n").next().expect("an event");
        assert!(last.starts_with("event: error\ndata: {"), "{events}");
        assert!(last.contains(r#""code":"deadline_exceeded""#) && !last.contains("\nid:"), "{events}");
        assert_eq!(events.matches("event: error").count(), 1, "{events}");
    }
    assert!(server.get("/metrics").await.text().contains(r#"code="deadline_exceeded"} 2"#));
    listening.stop().await.expect("no panic");
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_a_function_that_thinks_has_a_comment_every_fifteen_seconds() {
    let server = Test::hostile().set("limits.deadline", "5m").start().await;
    // The clock of guests is the machine's, and the one of this test is not: a call in the queue waits for ever.
    let first = server.user("alice").at("/hostile").spawn(json!({"do": "sleep", "milliseconds": 200_000}));
    server.until_in_use(1).await;
    let request = as_alice("/hostile/stream").header("content-type", "application/json");
    let app = carrel::http::app(server.host.clone());
    let begun = tokio::time::Instant::now();
    let request = request.body(Body::from(r#"{"do":"count"}"#)).expect("a request");
    let response = tower::ServiceExt::oneshot(app, request).await.unwrap_or_else(|never| match never {});
    assert!(begun.elapsed() <= std::time::Duration::from_secs(1), "{:?}", begun.elapsed());
    let mut body = response.into_body();
    for n in 1..=3 {
        let frame = body.frame().await.expect("a frame").expect("no error").into_data().expect("data");
        assert_eq!(&frame[..], b":\n\n");
        let seconds = begun.elapsed().as_secs_f64();
        assert!((seconds - 15.0 * f64::from(n)).abs() < 1.0, "the comment {n} came after {seconds} s");
    }
    drop(body);
    first.abort();
}

/// `EventSource` of the HTML standard (9.2): opens a stream as a browser does until it gives up, at most `most`
/// times.
struct EventSource {
    requests: usize,
    seen: Vec<(String, String)>,
    last_id: String,
}

impl EventSource {
    async fn run(address: SocketAddr, path: &str, most: usize) -> Self {
        let mut source = Self { requests: 0, seen: Vec::new(), last_id: String::new() };
        while source.requests < most {
            source.requests += 1;
            let mut request =
                Request::get(path).header("accept", "text/event-stream").header("cache-control", "no-store");
            request = request.header("cookie", "nat-session=alice");
            if !source.last_id.is_empty() {
                request = request.header("last-event-id", &source.last_id);
            }
            let response = head(address, request, "").await;
            let is_stream = response.headers().get("content-type").is_some_and(|it| it == "text/event-stream");
            // Anything else fails the connection, and that is final.
            if response.status() != StatusCode::OK || !is_stream {
                break;
            }
            source.read(&text(response).await);
            // The server has closed the stream: after some time it is asked for again.
        }
        source
    }

    fn read(&mut self, stream: &str) {
        let (mut name, mut data, mut id) = (String::new(), String::new(), self.last_id.clone());
        for line in stream.lines() {
            let (field, value) = line.split_once(':').unwrap_or((line, ""));
            let value = value.strip_prefix(' ').unwrap_or(value);
            match field {
                _ if line.is_empty() => {
                    self.last_id.clone_from(&id);
                    if !data.is_empty() {
                        self.seen.push((std::mem::take(&mut name), std::mem::take(&mut data)));
                    }
                    name.clear();
                }
                "event" => value.clone_into(&mut name),
                "data" => data.push_str(value),
                "id" => value.clone_into(&mut id),
                _ => {}
            }
        }
    }
}

/// A route without a body to a function that counts its calls.
async fn counting() -> Server {
    let test = Test::fixture("globals").set(
        "general.front_end.endpoints",
        json!([{"path": "/it", "method": "GET", "description": "", "function_name": "it"}]),
    );
    test.start().await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_a_stream_is_the_end_for_an_event_source() {
    let server = counting().await;
    let listening = server.listen().await;
    for (path, calls) in [("/it/stream", 1), ("/it/full", 2)] {
        let source = EventSource::run(listening.address, path, 5).await;
        assert_eq!(source.requests, 2, "once for the stream, and once to be told that this was all");
        let output = format!(r#"{{"value": "{{\"count\":{calls},"#);
        assert_eq!(source.seen.len(), 1, "{:?}", source.seen);
        assert!(source.seen[0].1.starts_with(&output), "{:?}", source.seen);
    }
    // Another page of the same browser has seen nothing, and is answered.
    assert_eq!(EventSource::run(listening.address, "/it/stream", 5).await.seen.len(), 1);
    let calls = server.user("alice").ask(http::Method::GET, "/it").await.ok();
    assert_eq!(calls["count"], 4, "three streams and this one");
    listening.stop().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_id_of_an_end_is_nothing_else() {
    let server = counting().await;
    let ask = async |method: &str, path: &str, id: &str| {
        let request = Request::builder().method(method).uri(path).header("cookie", "nat-session=alice");
        let request = request.header("last-event-id", id).header("content-type", "application/json");
        server.send(request.body(Body::from(r#"{"command":"stats"}"#)).expect("a request")).await
    };
    let told = ask("GET", "/it/stream", "end").await;
    assert_eq!((told.status.as_u16(), told.body.len()), (204, 0));
    for other in ["", "END", "end1", "1"] {
        assert_eq!(ask("GET", "/it/stream", other).await.status.as_u16(), 200, "{other:?}");
    }
    // A function's own answer, and a stream that is asked for with a body, have no such end.
    assert_eq!(ask("GET", "/it", "end").await.status.as_u16(), 200);
    let posted = ask("POST", "/generate/stream", "end").await;
    assert!(posted.status == 200 && !posted.text().contains("\nid:"), "{}", posted.text());
}
