//! The time of a call through the routes, without a socket.
//!
//!     cargo bench -p carrel --bench calls
//!
//! The host is that of `configs/config.yml`. Each figure includes all of a request's handling behind the socket:
//! routing, identity, the session, the guest, the answer; `health` is the part that does not involve functions. The
//! calls run as a task of a runtime with several threads, where the server's run as well, and not on the benchmark's
//! own thread.
#![allow(clippy::expect_used)]

use axum::body::{Body, to_bytes};
use bytes::Bytes;
use carrel::{Host, config::Config, http::App};
use criterion::{Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use http::{Request, StatusCode, header};
use std::{
    path::Path,
    sync::atomic::{AtomicU64, Ordering},
    time::{Duration, Instant},
};
use tokio::runtime::Runtime;
use tower::ServiceExt;

const CONFIG: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../configs/config.yml");
const STATS: &str = r#"{"command":"stats"}"#;
const ADD: &str = r#"{"command":"note","action":"add","param1":"milk"}"#;
const LIST: &str = r#"{"command":"note","action":"list"}"#;
const NOTES: usize = 5;
/// Users who call in turn: more than the processor's caches keep warm.
const USERS: usize = 1_000;
/// Sessions that each host makes before it is dropped: enough that dropping and starting hosts takes little of the
/// benchmark's time, few enough to take some 200 MiB.
const SESSIONS_PER_HOST: u64 = 4_000;

criterion_main!(benches);
criterion_group!(benches, calls);

fn calls(criterion: &mut Criterion) {
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // As `carrel serve` sets it up.
    let runtime = runtime.worker_threads(threads).enable_all().event_interval(16).build().expect("a runtime");
    let app = runtime.block_on(new_app(true));
    runtime.block_on(prepare(&app));
    let without = runtime.block_on(new_app(false));
    runtime.block_on(prepare(&without));

    let mut group = criterion.benchmark_group("calls");
    group.throughput(Throughput::Elements(1));
    group.bench_function("health", |bencher| {
        bencher.to_async(&runtime).iter_custom(|times| repeat(app.clone(), times, health));
    });
    group.bench_function("hot note list, 5 notes, over a sibling", |bencher| {
        bencher.to_async(&runtime).iter_custom(|times| repeat(app.clone(), times, || generate("notes", LIST)));
    });
    for (name, app) in [("rollback on", &app), ("rollback off", &without)] {
        group.bench_function(format!("hot stats, {name}"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|times| repeat(app.clone(), times, || generate("hot", STATS)));
        });
        group.bench_function(format!("hot note add, {name}"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|times| add(app.clone(), times));
        });
        group.bench_function(format!("stats of 1,000 users in turn, {name}"), |bencher| {
            bencher.to_async(&runtime).iter_custom(|times| in_turn(app.clone(), times));
        });
    }
    // A sample takes as many calls as any other: growing ones would make hosts for most of the time.
    group.sampling_mode(SamplingMode::Flat).sample_size(20);
    group.bench_function("stats of a new session", |bencher| {
        bencher.to_async(&runtime).iter_custom(|times| new_sessions(&runtime, times));
    });
    group.finish();
}

/// A host without sessions, and its routes.
async fn new_app(rollback: bool) -> App {
    let mut config = Config::load(Path::new(CONFIG)).expect("a valid configuration");
    config.limits.max_sessions = 1_000_000;
    config.sessions.rollback = rollback;
    let threads = tokio::runtime::Handle::current().metrics().num_workers();
    carrel::http::app(Host::start(config, threads).await.expect("a host"))
}

/// Makes the sessions of the hot calls, and looks at their answers: a benchmark of wrong ones is worth nothing.
async fn prepare(app: &App) {
    for _ in 0..NOTES {
        send(app, generate("notes", ADD)).await;
    }
    let data = r#"{"notes":["milk","milk","milk","milk","milk"],"count":5,"commands_executed":6}"#;
    let list = format!(r#"{{"success":true,"message":"Found 5 notes","data":{data}}}"#);
    assert_eq!(send(app, generate("notes", LIST)).await, list);
    let (message, data) = ("Session statistics: 1 commands executed", r#"{"commands_executed":1}"#);
    let stats = format!(r#"{{"success":true,"message":"{message}","data":{data}}}"#);
    assert_eq!(send(app, generate("hot", STATS)).await, stats);
}

/// Measures so many requests, one after the other.
async fn repeat(app: App, times: u64, mut request: impl FnMut() -> Request<Body> + Send + 'static) -> Duration {
    let task = tokio::spawn(async move {
        let began = Instant::now();
        for _ in 0..times {
            send(&app, request()).await;
        }
        began.elapsed()
    });
    task.await.expect("requests that end")
}

/// Measures the adding of so many notes; now and then they are cleared.
async fn add(app: App, times: u64) -> Duration {
    const CLEAR: &str = r#"{"command":"note","action":"clear"}"#;
    let mut count = 0;
    let next = move || {
        count += 1;
        generate("adds", if count % 40 == 0 { CLEAR } else { ADD })
    };
    repeat(app, times, next).await
}

/// Measures so many calls, each of the next user.
async fn in_turn(app: App, times: u64) -> Duration {
    let users: Vec<_> = (0..USERS).map(|number| format!("turn-{number}")).collect();
    for user in &users {
        send(&app, generate(user, STATS)).await;
    }
    let mut next = (0..USERS).cycle();
    repeat(app, times, move || generate(&users[next.next().unwrap_or(0)], STATS)).await
}

/// Measures the first calls of so many users. Making and dropping hosts is not counted.
async fn new_sessions(runtime: &Runtime, times: u64) -> Duration {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut took = Duration::ZERO;
    let mut left = times;
    while left > 0 {
        let batch = left.min(SESSIONS_PER_HOST);
        let app = new_app(true).await;
        let new_user = || generate(&format!("user-{}", NEXT.fetch_add(1, Ordering::Relaxed)), STATS);
        took += repeat(app.clone(), batch, new_user).await;
        // Dropping sessions blocks, and this is not polled by a worker of the runtime.
        runtime.spawn_blocking(move || drop(app)).await.expect("a host that can be dropped");
        left -= batch;
    }
    took
}

async fn send(app: &App, request: Request<Body>) -> Bytes {
    let response = app.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
    assert_eq!(response.status(), StatusCode::OK);
    to_bytes(response.into_body(), usize::MAX).await.expect("an answer")
}

fn generate(user: &str, body: &'static str) -> Request<Body> {
    let request = Request::post("/generate")
        .header(header::CONTENT_TYPE, "application/json")
        .header(header::COOKIE, format!("nat-session={user}"));
    request.body(Body::from(body)).expect("a request")
}

fn health() -> Request<Body> {
    Request::get("/health").body(Body::empty()).expect("a request")
}
