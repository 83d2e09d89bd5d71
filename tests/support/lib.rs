//! Shared by the tests: one fluent helper, and the hostile guest.
//!
//! ```ignore
//! let server = Test::new().set("limits.fuel_per_call", 1_000_000).start().await;
//! let reply = server.user("alice").call(json!({"command": "stats"})).await;
//! reply.ok();
//! ```
//!
//! [`Test`] is a configuration, NAT's own example to begin with. [`Test::start`] makes a host of it whose routes are
//! called without a socket; [`Server::listen`] serves it on a port of the system's choice.

mod fixtures;

use axum::body::{Body, Bytes};
use carrel::{Host, config::Config, http::App, identity::KeyHash};
use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, header};
use http_body_util::BodyExt;
use hyper_util::{client::legacy::Client, rt::TokioExecutor};
use serde_json::{Value, json};
use std::{
    future::{Future, poll_fn},
    net::SocketAddr,
    path::Path,
    pin::pin,
    sync::Arc,
    task::Poll,
    time::Duration,
};
use tokio::{
    net::TcpListener,
    sync::{OnceCell, oneshot},
    task::JoinHandle,
};
use tower::ServiceExt;

/// The guest that does what it is told.
pub const HOSTILE: &str = concat!(env!("OUT_DIR"), "/hostile.wasm");

/// The guest that looks for a way out of its sandbox.
pub const TRAVELLER: &str = concat!(env!("OUT_DIR"), "/traveller.wasm");

/// Starts a host. The first start of a process compiles the guests that most tests use, while all others wait: else
/// each test that begins meanwhile would compile the same, since none of it is in the cache yet.
async fn host(config: Config) -> Result<Arc<Host>, carrel::config::Error> {
    static COMPILED: OnceCell<()> = OnceCell::const_new();
    let compile = async || {
        let all = Test::new().set("guests", json!([HOSTILE, TRAVELLER]));
        Host::start(all.config(), 2).await.unwrap_or_else(|error| panic!("{error}"));
    };
    COMPILED.get_or_init(compile).await;
    Host::start(config, 2).await
}

/// A configuration, and ways to use it.
#[derive(Debug, Clone)]
pub struct Test {
    config: Value,
}

impl Default for Test {
    fn default() -> Self {
        Self::new()
    }
}

impl Test {
    /// NAT's own example, with monitoring.
    pub fn new() -> Self {
        let config = json!({
            "general": {"enable_per_user_monitoring": true},
            "functions": {
                "notepad": {"_type": "per_user_notepad", "max_notes": 50},
                "preferences": {
                    "_type": "per_user_preferences",
                    "default_preferences": {"theme": "dark", "language": "en", "notifications": "enabled"},
                },
            },
            "workflow": {"_type": "per_user_assistant"},
        });
        Self { config }
    }

    /// NAT's example with the hostile guest beside it, at `POST /hostile`.
    pub fn hostile() -> Self {
        Self::new()
            .set("guests", json!([HOSTILE]))
            .set("functions.hostile", json!({"_type": "hostile"}))
            .endpoint("/hostile", "hostile")
    }

    /// NAT's example with a guest beside it, at `POST /it`, that looks for a way out of its sandbox.
    pub fn traveller() -> Self {
        Self::new().guest(TRAVELLER, "traveller")
    }

    /// NAT's example with a guest that is written as text beside it, at `POST /it`.
    pub fn fixture(name: &str) -> Self {
        Self::new().guest(&Self::fixture_file(name), &name.replace('-', "_"))
    }

    /// The path of such a guest: of `guests/raw`, `guests/snapshots` or `guests/framed`.
    pub fn fixture_file(name: &str) -> String {
        fixtures::assembled(name).display().to_string()
    }

    /// NAT's example with the guest written in JavaScript beside it, at `POST /it`.
    pub fn keeper() -> Self {
        Self::new().guest(concat!(env!("CARGO_MANIFEST_DIR"), "/guests/javascript/keeper.wasm"), "javascript_keeper")
    }

    fn guest(self, file: &str, name: &str) -> Self {
        self.set("guests", json!([file])).set("functions.it", json!({"_type": name})).endpoint("/it", "it")
    }

    /// Sets a key, given with dots, and makes the maps that lead to it.
    pub fn set(mut self, path: &str, value: impl Into<Value>) -> Self {
        let place = path.split('.').fold(&mut self.config, |place, key| {
            if place.is_null() {
                *place = json!({});
            }
            &mut place[key]
        });
        *place = value.into();
        self
    }

    /// Adds a tenant with a share and so many users. Each user has a key: the tenant's name and a number, from 0 on.
    pub fn tenant(self, name: &str, share: u32, users: usize) -> Self {
        let keys: Vec<_> = (0..users).map(|user| KeyHash::of(&key(name, user)).to_string()).collect();
        // Nobody but the tenants' users is let in.
        self.set("identity", json!({"api_keys": []}))
            .set(&format!("tenants.{name}"), json!({"share": share, "api_keys": keys}))
    }

    /// Adds a route to a function.
    pub fn endpoint(mut self, path: &str, function: &str) -> Self {
        let endpoint = json!({"path": path, "method": "POST", "description": "", "function_name": function});
        match self.config.pointer_mut("/general/front_end/endpoints").and_then(Value::as_array_mut) {
            Some(endpoints) => endpoints.push(endpoint),
            None => self = self.set("general.front_end.endpoints", json!([endpoint])),
        }
        self
    }

    /// The configuration as the text of a file; JSON is YAML.
    pub fn text(&self) -> String {
        format!("{:#}", self.config)
    }

    /// The configuration, read.
    pub fn config(&self) -> Config {
        Config::parse(Path::new("test.yml"), &self.text()).unwrap_or_else(|error| panic!("{error}"))
    }

    /// A host, for calls without a socket.
    pub async fn start(&self) -> Server {
        let host = host(self.config()).await.unwrap_or_else(|error| panic!("{error}"));
        Server { app: carrel::http::app(host.clone()), host }
    }

    /// The errors in the configuration, as text.
    pub async fn refused(&self) -> String {
        let config = match Config::parse(Path::new("test.yml"), &self.text()) {
            Ok(config) => config,
            Err(error) => return error.to_string(),
        };
        match host(config).await {
            Ok(_) => panic!("the configuration was not refused:\n{}", self.text()),
            Err(error) => error.to_string(),
        }
    }
}

/// The API key of a user of [`Test::tenant`].
pub fn key(tenant: &str, user: usize) -> String {
    format!("{tenant}-{user}")
}

/// A host and its routes.
#[derive(Clone)]
pub struct Server {
    /// The host.
    pub host: Arc<Host>,
    app: App,
}

/// The resources that a host holds for the instances of all users.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Held {
    /// Bytes of its memory that count.
    pub bytes: usize,
    /// Linear memories of all instances.
    pub linear_memories: usize,
    /// Fiber stacks of all instances.
    pub stacks: usize,
}

impl Held {
    /// Asserts that a failed attack has changed nothing held, except some bytes that instances keep anyway.
    #[track_caller]
    pub fn is_as(&self, before: &Self) {
        assert_eq!((self.linear_memories, self.stacks), (before.linear_memories, before.stacks));
        assert!(self.bytes <= before.bytes + (64 << 10), "{before:?}, and then {self:?}");
    }
}

impl Server {
    /// The resources that the host holds now.
    pub fn held(&self) -> Held {
        let engine = self.host.engine();
        Held {
            bytes: self.host.registry().memory().0,
            linear_memories: engine.memories().in_use(),
            stacks: engine.stacks().in_use(),
        }
    }

    /// A caller, by the cookie's value.
    pub fn user(&self, name: &str) -> Caller {
        self.nobody().with("cookie", &format!("nat-session={name}"))
    }

    /// A caller with a token or an API key, as `Authorization: Bearer`.
    pub fn bearer(&self, credential: &str) -> Caller {
        self.nobody().with("authorization", &format!("Bearer {credential}"))
    }

    /// A caller with an API key.
    pub fn key(&self, key: &str) -> Caller {
        self.nobody().with("x-api-key", key)
    }

    /// A user of [`Test::tenant`].
    pub fn user_of(&self, tenant: &str, user: usize) -> Caller {
        self.key(&key(tenant, user))
    }

    /// A caller without any credential.
    pub fn nobody(&self) -> Caller {
        Caller { server: self.clone(), headers: HeaderMap::new(), path: "/generate".into() }
    }

    /// Any request.
    pub async fn send(&self, request: Request<Body>) -> Reply {
        let response = self.app.clone().oneshot(request).await.unwrap_or_else(|never| match never {});
        Reply::read(response).await
    }

    /// A `GET`.
    pub async fn get(&self, path: &str) -> Reply {
        self.send(Request::get(path).body(Body::empty()).expect("a request")).await
    }

    /// Parks everybody who can be parked, and gives how many were.
    pub async fn park(&self) -> usize {
        self.host.registry().park_idle(Duration::ZERO).await
    }

    /// Waits until so many calls wait or run.
    pub async fn until_in_use(&self, calls: usize) {
        self.until(&format!("{calls} calls wait or run"), |host| host.registry().in_use() >= calls).await;
    }

    /// Waits until no call waits or runs.
    pub async fn until_idle(&self) {
        self.until("all calls have ended", |host| host.registry().in_use() == 0).await;
    }

    /// Waits until this is so of the host, and fails after a minute.
    pub async fn until(&self, what: &str, is_so: impl Fn(&Host) -> bool) {
        let so = async {
            // At first without the clock: a paused one would advance with each wait.
            for turn in 0.. {
                if is_so(&self.host) {
                    return;
                }
                match turn {
                    0..1000 => tokio::task::yield_now().await,
                    _ => tokio::time::sleep(Duration::from_millis(1)).await,
                }
            }
        };
        tokio::time::timeout(Duration::from_secs(60), so).await.expect(what);
    }

    /// Serves on a port of the system's choice, until [`Listening::stop`].
    pub async fn listen(&self) -> Listening {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address");
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let serving = carrel::http::serve(listener, self.host.clone(), self.app.clone(), shutdown);
        Listening { address, stop, serving: tokio::spawn(serving) }
    }
}

/// A server on a port.
pub struct Listening {
    /// The address of the port.
    pub address: SocketAddr,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<usize>,
}

impl Listening {
    /// Tells the server to stop, as a signal would. The task returned gives the number of calls left running.
    pub fn stop(self) -> JoinHandle<usize> {
        let _ = self.stop.send(());
        self.serving
    }

    /// A request over the port, on a connection of its own.
    pub async fn send(&self, mut request: Request<Body>) -> Reply {
        let uri = format!("http://{}{}", self.address, request.uri());
        *request.uri_mut() = uri.parse().expect("an address");
        let client = Client::builder(TokioExecutor::new()).build_http::<Body>();
        Reply::read(client.request(request).await.expect("an answer").map(Body::new)).await
    }

    /// A call over the port.
    pub async fn call(&self, user: &str, input: Value) -> Reply {
        let mut headers = HeaderMap::new();
        headers.insert(header::COOKIE, format!("nat-session={user}").parse().expect("a cookie"));
        self.send(request(Method::POST, "/generate", &headers, input.to_string())).await
    }
}

/// A caller.
#[derive(Clone)]
pub struct Caller {
    server: Server,
    headers: HeaderMap,
    path: String,
}

impl Caller {
    /// The same caller, on another route.
    pub fn at(mut self, path: &str) -> Self {
        self.path = path.into();
        self
    }

    /// The same caller, with one more header. Another one of the same name stays.
    pub fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.append(name, HeaderValue::from_bytes(value.as_bytes()).expect("a header's value"));
        self
    }

    /// A request without a body, such as `POST /session`.
    pub async fn ask(&self, method: Method, path: &str) -> Reply {
        self.server.send(request(method, path, &self.headers, Body::empty())).await
    }

    /// A call with a JSON body.
    pub async fn call(&self, input: Value) -> Reply {
        self.body(input.to_string()).await
    }

    /// A call in a task of its own.
    pub fn spawn(&self, input: Value) -> JoinHandle<Reply> {
        let caller = self.clone();
        tokio::spawn(async move { caller.call(input).await })
    }

    /// Abandons a call as soon as it waits for something.
    pub async fn abandon(&self, input: Value) {
        let mut call = pin!(self.call(input));
        let polled = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
        assert!(polled.is_pending(), "it has ended: {polled:?}");
    }

    /// A call with any body, declared as JSON.
    pub async fn body(&self, body: impl Into<Body>) -> Reply {
        self.server.send(request(Method::POST, &self.path, &self.headers, body)).await
    }
}

fn request(method: Method, path: &str, headers: &HeaderMap, body: impl Into<Body>) -> Request<Body> {
    let mut request = Request::new(body.into());
    *request.method_mut() = method;
    *request.uri_mut() = path.parse().expect("a path");
    *request.headers_mut() = headers.clone();
    request.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    request
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: StatusCode,
    /// The headers.
    pub headers: HeaderMap,
    /// The body.
    pub body: Bytes,
}

impl Reply {
    /// Reads a router's response.
    pub async fn read(response: http::Response<Body>) -> Self {
        let (parts, body) = response.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        Self { status: parts.status, headers: parts.headers, body }
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("text")
    }

    /// The body as JSON.
    #[track_caller]
    pub fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// The body of an answer that should be a success.
    #[track_caller]
    pub fn ok(&self) -> Value {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.json()
    }

    /// The body of an answer that should be an error, with this status and code.
    #[track_caller]
    pub fn error(&self, status: u16, code: &str) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers.get("carrel-error").expect("a code"), code, "{self:?}");
        let body = self.json();
        assert!(status == 422 || body["code"] == code, "{self:?}");
        body
    }

    /// Asserts that the error says that nothing was changed.
    #[track_caller]
    pub fn undone(&self) {
        let error = self.json();
        let detail = error["detail"].as_str().unwrap_or_default();
        assert!(detail.ends_with("Nothing was changed: all is as before the call."), "{self:?}");
        assert_eq!((&error["dropped"], self.header("carrel-dropped")), (&json!([]), ""), "{self:?}");
    }

    /// The seconds after which to try again.
    #[track_caller]
    pub fn retry_after(&self) -> u64 {
        self.header("retry-after").parse().unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// Units of fuel that the call used.
    #[track_caller]
    pub fn fuel(&self) -> u64 {
        self.header("carrel-fuel").parse().unwrap_or_else(|error| panic!("{error}: {self:?}"))
    }

    /// A header as text, empty if there is none.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().expect("text"))
    }
}
