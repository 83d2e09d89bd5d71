//! The service of `configs/config.yml` without Carrel: what `figures` compares with.
//!
//!     cargo run --release -p carrel --example native_server -- [PORT]
//!
//! A service as one would write it without a sandbox: the same routes, the same users, the same JSON in and out, as
//! plain Rust in one process. The socket, the connections and the threads are set up as in `host/src/http/server.rs`
//! and `host/src/cli`, and the allocator is the same, so that the difference is Carrel's work between the request's
//! bytes and the answer's. There are no limits beyond the body's size, and no sessions are dropped.
#![allow(clippy::expect_used, clippy::print_stderr)]

mod assistant;
mod notepad;
mod preferences;
mod users;

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::State,
    routing::{get, post},
};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::graceful::GracefulShutdown,
    service::TowerToHyperService,
};
use std::{io, sync::Arc, time::Duration};
use tokio::{
    net::{TcpListener, TcpStream},
    signal::unix::{SignalKind, signal},
    time::timeout,
};
use users::Users;

const BODY_SIZE: usize = 1 << 20;
const HEADERS_WITHIN: Duration = Duration::from_secs(60);
const HEADERS_SIZE: usize = 64 << 10;
const DRAIN: Duration = Duration::from_secs(10);

fn main() -> io::Result<()> {
    let port = std::env::args().nth(1).map_or(0, |port| port.parse().expect("the argument is a port"));
    let threads = std::thread::available_parallelism().map_or(2, usize::from).max(2);
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.worker_threads(threads).enable_all().event_interval(16).build()?.block_on(serve(port))
}

async fn serve(port: u16) -> io::Result<()> {
    let app = Router::new()
        .route("/health", get(async || json(StatusCode::OK, r#"{"status":"healthy"}"#)))
        .route("/generate", post(generate))
        .route("/v1/workflow", post(generate))
        .with_state(Arc::new(Users::new()));
    let listener = TcpListener::bind(("127.0.0.1", port)).await?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    eprintln!("the native service listens on http://{}", listener.local_addr()?);
    let connections = GracefulShutdown::new();
    loop {
        tokio::select! {
            accepted = listener.accept() => serve_connection(accepted?.0, &app, &connections),
            _ = terminate.recv() => break,
            _ = interrupt.recv() => break,
        }
    }
    let _ = timeout(DRAIN, connections.shutdown()).await;
    Ok(())
}

fn serve_connection(stream: TcpStream, app: &Router, connections: &GracefulShutdown) {
    let _ = stream.set_nodelay(true);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEADERS_WITHIN)
        .max_buf_size(HEADERS_SIZE)
        .serve_connection(TokioIo::new(stream), TowerToHyperService::new(app.clone()));
    tokio::spawn(connections.watch(connection));
}

async fn generate(State(users): State<Arc<Users>>, request: Request<Body>) -> Response<Body> {
    // In parts, since axum's extractor for headers would copy them.
    let (parts, body) = request.into_parts();
    if !is_json(&parts.headers) {
        return error(StatusCode::UNSUPPORTED_MEDIA_TYPE, "the body is not declared as JSON");
    }
    let Ok(body) = to_bytes(body, BODY_SIZE).await else {
        return error(StatusCode::PAYLOAD_TOO_LARGE, "the body is too large, or broken off");
    };
    let input = match serde_json::from_slice(&body) {
        Ok(input) => input,
        Err(why) => return error(StatusCode::UNPROCESSABLE_ENTITY, &why.to_string()),
    };
    let Some(user) = users::id(&parts.headers) else {
        return error(StatusCode::UNAUTHORIZED, "send the cookie `nat-session=<name>`");
    };
    let session = users.session(user);
    let output = session.lock().await.run(input);
    match serde_json::to_vec(&output) {
        Ok(output) => json(StatusCode::OK, output),
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, &why.to_string()),
    }
}

fn is_json(headers: &HeaderMap) -> bool {
    headers.get(header::CONTENT_TYPE).is_some_and(|value| value.as_bytes().starts_with(b"application/json"))
}

fn error(status: StatusCode, detail: &str) -> Response<Body> {
    json(status, serde_json::json!({ "detail": detail }).to_string())
}

fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}
