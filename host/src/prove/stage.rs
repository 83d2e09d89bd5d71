//! A host to attack, and its callers.

use crate::{
    Host,
    config::{self, Config, Endpoint, FunctionConfig, GuestPath, KeyPath, Method},
    grants::Grants,
    http,
    identity::{KeyHash, User},
    limits::Limits,
    session::Seen,
};
use ::http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use std::{
    fs, io,
    net::SocketAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
    time::sleep,
};

/// The guest that does what it is told, whatever it is.
const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile.wasm"));
/// The guest whose table grows: `tables.wat`, assembled.
const TABLES: &[u8] = include_bytes!("tables.wasm");
/// The file that the first of these guests may open, and its folder, by the guest's names for them.
pub(super) const FILE: &str = "/carrel-prove/hostile.wasm";
pub(super) const FOLDER: &str = "/carrel-prove";
/// The route to the guest that does what it is told.
const PATH: &str = "/carrel-prove";
/// The route to the guest whose table grows.
const TABLES_PATH: &str = "/carrel-prove-tables";
/// Users of a tenant who may take part.
const CROWD: usize = 128;
/// The time after which nothing may be left of an attack: its calls, its sessions, and those being parked to make
/// room.
const CLEARED_WITHIN: Duration = Duration::from_secs(5);
/// Bytes of memory that may then be counted beyond those at the host's start.
const LEFT: usize = 1 << 20;
/// The time within which an answer must come.
const PATIENCE: Duration = Duration::from_secs(120);

/// The name of a copy of the hostile function; functions that call each other need several.
pub(super) fn function(number: usize) -> String {
    format!("carrel-prove-{number}")
}

/// The name of the function whose table grows.
const TABLES_FUNCTION: &str = "carrel-prove-tables";

/// A host that is served on a port of this machine, and attacked.
pub(super) struct Stage {
    host: Arc<Host>,
    /// The limits that should hold: of the host, and of each tenant.
    limits: (Limits, Vec<Limits>),
    address: SocketAddr,
    /// Bytes of memory that the host counted at its start.
    memory: usize,
    /// The prefix of its users' credentials.
    secret: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<usize>,
    _folder: ScratchFolder,
}

/// A folder that is deleted on drop.
struct ScratchFolder(PathBuf);

impl Drop for ScratchFolder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

#[derive(Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    path: &'static str,
    credential: (&'static str, String),
}

/// The answer to a request.
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) setting: String,
    pub(super) fuel: u64,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Value,
    pub(super) took: Duration,
}

impl Stage {
    /// Starts a host of a configuration changed by `flaw`; the limits of the unchanged one should hold.
    pub(super) async fn start(
        mut config: Config,
        threads: usize,
        flaw: &(dyn Fn(&mut Config) + Sync),
    ) -> Result<Self, config::Error> {
        let folder = ScratchFolder(std::env::temp_dir().join(format!("carrel-prove-{}", std::process::id())));
        let told = |config: &Config, error: io::Error| {
            let why = format!("{} cannot be written: {error}", folder.0.display());
            config.source.error(vec![config::Problem::new(KeyPath::root(), why)])
        };
        let files = [folder.0.join("hostile.wasm"), folder.0.join("tables.wasm")];
        fs::create_dir_all(&folder.0)
            .and_then(|()| fs::write(&files[0], HOSTILE))
            .and_then(|()| fs::write(&files[1], TABLES))
            .map_err(|error| told(&config, error))?;
        let grants = Grants::of_folder(&folder.0, FOLDER).map_err(|error| told(&config, error))?;
        let secret = crate::identity::generate().0;
        prepare(&mut config, &files, grants, &secret);
        let of_tenants = config.tenants.iter().map(|tenant| tenant.limits.clone()).collect();
        let limits = (config.limits.clone(), of_tenants);
        flaw(&mut config);
        let source = config.source.clone();
        let host = Host::start(config, threads).await?;
        let bound = async {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            Ok((listener.local_addr()?, listener))
        };
        let (address, listener) = bound.await.map_err(|error: io::Error| {
            source.error(vec![config::Problem::new(KeyPath::root(), format!("no port could be had: {error}"))])
        })?;
        let (stop, stopped) = oneshot::channel::<()>();
        let shutdown = async move {
            let _ = stopped.await;
        };
        let serving = tokio::spawn(http::serve(listener, host.clone(), http::app(host.clone()), shutdown));
        let memory = host.registry().memory().0;
        Ok(Self { host, limits, address, memory, secret, stop, serving, _folder: folder })
    }

    /// Stops the host, and waits until it has.
    pub(super) async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.serving.await;
    }

    pub(super) fn host(&self) -> &Arc<Host> {
        &self.host
    }

    pub(super) fn address(&self) -> SocketAddr {
        self.address
    }

    pub(super) fn host_limits(&self) -> &Limits {
        &self.limits.0
    }

    /// The limits of a tenant, as they are tried.
    pub(super) fn limits(&self, tenant: usize) -> &Limits {
        &self.limits.1[tenant]
    }

    pub(super) fn tenant(&self, tenant: usize) -> String {
        self.host.config().tenants[tenant].name.to_string()
    }

    /// Drops all sessions, and waits until they are gone: an attack must not find what the one before has left.
    pub(super) async fn clear(&self) {
        let registry = self.host.registry();
        let began = Instant::now();
        let is_left = || registry.sessions() > 0 || registry.memory().0 > self.memory + LEFT;
        while is_left() && began.elapsed() < CLEARED_WITHIN {
            for user in registry.users() {
                drop(registry.take_if_idle(user));
            }
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// The session of a caller, if there is one.
    pub(super) fn session(&self, caller: &Caller) -> Option<Seen> {
        self.host.registry().look(self.user(caller)?)
    }

    /// A caller's user id on the host.
    pub(super) fn user(&self, caller: &Caller) -> Option<User> {
        let (name, value) = &caller.credential;
        let value = HeaderValue::from_str(value).ok()?;
        let headers = HeaderMap::from_iter([(HeaderName::from_static(name), value)]);
        self.host.config().identity.user(&headers).ok()
    }

    /// A tenant beside this one; the same, if there is no other.
    pub(super) fn beside(&self, tenant: usize) -> usize {
        (tenant + 1) % self.host.config().tenants.len()
    }

    /// The n-th user of a tenant.
    pub(super) fn caller(&self, tenant: usize, number: usize) -> Caller {
        let key = key(&self.secret, tenant, number);
        let credential = match self.host.config().identity.is_verified() {
            true => ("x-api-key", key),
            false => ("cookie", format!("{}={key}", crate::identity::COOKIE)),
        };
        Caller { address: self.address, path: PATH, credential }
    }
}

fn key(secret: &str, tenant: usize, number: usize) -> String {
    format!("{secret}-{tenant}-{number}")
}

/// Adds the guests that attack, their routes, and users who may call them.
fn prepare(config: &mut Config, guests: &[PathBuf], grants: Grants, secret: &str) {
    config.admin = None;
    // A session dropped for want of memory would make room without a refusal.
    config.sessions.drop_longest_idle = false;
    config.guests.extend(guests.iter().map(|path| GuestPath { key: KeyPath::root(), path: path.clone() }));
    let depth = config.tenants.iter().map(|tenant| tenant.limits.call_depth).max().unwrap_or(1);
    // The one that is called from outside may open files.
    let mut grants = Some(grants);
    for number in 0..=depth {
        add_function(config, function(number), "hostile", grants.take().unwrap_or_default());
    }
    add_function(config, TABLES_FUNCTION.to_owned(), "tables", Grants::default());
    for (path, function) in [(PATH, function(0)), (TABLES_PATH, TABLES_FUNCTION.to_owned())] {
        config.general.front_end.endpoints.push(Endpoint {
            key: KeyPath::root(),
            path: path.into(),
            method: Method::Post,
            description: String::new(),
            function,
        });
    }
    let tenants = 0..config.tenants.len();
    let users = tenants.flat_map(|tenant| (0..CROWD).map(move |number| (tenant, number)));
    let keys = users.map(|(tenant, number)| (KeyHash::of(&key(secret, tenant, number)), tenant));
    config.identity = config.identity.with_keys(keys);
}

/// Adds a function that all tenants may call, before the workflow, which is the last one.
fn add_function(config: &mut Config, name: String, guest: &str, grants: Grants) {
    for functions in config.tenants.iter_mut().filter_map(|tenant| tenant.functions.as_mut()) {
        functions.push(name.clone());
    }
    let workflow = config.functions.len() - 1;
    let (key, guest) = (KeyPath::root(), guest.to_owned());
    let added = FunctionConfig { key, name, guest, grants: Arc::new(grants), config: Map::new() };
    config.functions.insert(workflow, added);
}

impl Caller {
    /// This caller, calling the function whose table grows.
    pub(super) fn of_tables(mut self) -> Self {
        self.path = TABLES_PATH;
        self
    }

    /// Calls the function.
    pub(super) async fn call(&self, input: &Value) -> Result<Reply, String> {
        self.send(input.to_string().into()).await
    }

    /// Calls the function with any body.
    pub(super) async fn send(&self, body: Bytes) -> Result<Reply, String> {
        let began = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, self.ask(body)).await;
        let response = answer.map_err(|_| format!("no answer for {PATIENCE:?}"))?.map_err(|error| error.to_string())?;
        Ok(Reply::of(&response, began.elapsed()))
    }

    async fn ask(&self, body: Bytes) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let (name, value) = &self.credential;
        let request = Request::post(self.path)
            .header(header::HOST, "localhost")
            .header(header::CONTENT_TYPE, "application/json")
            .header(*name, value)
            .body(Full::new(body))?;
        let (parts, body) = sender.send_request(request).await?.into_parts();
        let body = Body::new(body).collect().await?.to_bytes();
        drop(connection);
        Ok(Response::from_parts(parts, body))
    }
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Reply {
    /// The answer in words.
    pub(super) fn told(&self) -> String {
        let setting = if self.setting.is_empty() { String::new() } else { format!(" by {}", self.setting) };
        let detail = self.body["detail"].as_str().unwrap_or_default();
        match self.status {
            200 => "200".to_owned(),
            status => format!("{status} {}{setting}: {detail}", self.code),
        }
    }

    fn of(response: &Response<Bytes>, took: Duration) -> Self {
        let header = |name: &str| response.headers().get(name).and_then(|it| it.to_str().ok()).unwrap_or_default();
        let body: Value = serde_json::from_slice(response.body()).unwrap_or_default();
        Self {
            status: response.status().as_u16(),
            code: header("carrel-error").to_owned(),
            setting: body["setting"].as_str().unwrap_or_default().to_owned(),
            fuel: header("carrel-fuel").parse().unwrap_or(0),
            retry_after: header("retry-after").parse().ok().map(Duration::from_secs),
            body,
            took,
        }
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn the_guest_whose_table_grows_is_what_its_text_says() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/src/prove/tables");
        let assembled = wat::parse_file(format!("{folder}.wat")).unwrap();
        if std::env::var_os("UPDATE_GOLDEN").is_some() {
            fs::write(format!("{folder}.wasm"), &assembled).unwrap();
        }
        assert!(TABLES == assembled, "UPDATE_GOLDEN=1 cargo test --lib prove:: assembles tables.wat anew");
    }
}
