//! A host to attack, and whoever calls it.

use crate::{
    Host,
    config::{self, Config, Endpoint, FunctionConfig, GuestPath, KeyPath, Method},
    grants::Grants,
    http,
    identity::KeyHash,
    limits::Limits,
};
use ::http::{Request, Response, header};
use axum::body::Body;
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use serde_json::{Map, Value};
use std::{
    fs, io,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};

/// The guest that does what it is told, whatever it is.
const HOSTILE: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/hostile.wasm"));
/// The file that it may open, and the folder which that is in, as it knows them.
pub(super) const FILE: &str = "/carrel-prove/hostile.wasm";
const FOLDER: &str = "/carrel-prove";
/// Where it is called.
const PATH: &str = "/carrel-prove";
/// Users of a tenant who may take part.
const CROWD: usize = 128;
/// An answer comes within so long, or it counts as none.
const PATIENCE: Duration = Duration::from_secs(120);

/// The name of a copy of the hostile function; functions that call each other need several.
pub(super) fn function(number: usize) -> String {
    format!("carrel-prove-{number}")
}

/// A host that is served on a port of this machine, and attacked.
pub(super) struct Stage {
    host: Arc<Host>,
    /// The limits that should hold: of the host, and of each tenant.
    limits: (Limits, Vec<Limits>),
    address: SocketAddr,
    /// What the credentials of its users begin with.
    secret: String,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<usize>,
    _folder: Folder,
}

/// A folder that goes with this.
struct Folder(PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.0);
    }
}

/// Somebody who calls.
#[derive(Clone)]
pub(super) struct Caller {
    address: SocketAddr,
    credential: (&'static str, String),
}

/// What came back.
pub(super) struct Answer {
    pub(super) status: u16,
    pub(super) code: String,
    pub(super) setting: String,
    pub(super) fuel: u64,
    pub(super) retry_after: Option<Duration>,
    pub(super) body: Value,
    pub(super) took: Duration,
}

impl Stage {
    pub(super) async fn start(mut config: Config, threads: usize, broken: Option<&str>) -> Result<Self, config::Error> {
        let folder = Folder(std::env::temp_dir().join(format!("carrel-prove-{}", std::process::id())));
        let told = |config: &Config, error: io::Error| {
            let why = format!("{} cannot be written: {error}", folder.0.display());
            config.source.error(vec![config::Problem::new(KeyPath::root(), why)])
        };
        let file = folder.0.join("hostile.wasm");
        fs::create_dir_all(&folder.0).and_then(|()| fs::write(&file, HOSTILE)).map_err(|error| told(&config, error))?;
        let grants = Grants::of_folder(&folder.0, FOLDER).map_err(|error| told(&config, error))?;
        let secret = crate::identity::generate().0;
        prepare(&mut config, &file, grants, &secret);
        let of_tenants = config.tenants.iter().map(|tenant| tenant.limits.clone()).collect();
        let limits = (config.limits.clone(), of_tenants);
        if let Some(broken) = broken {
            take_off(&mut config, broken);
        }
        let source = config.source.clone();
        let started = Host::start(config, threads).await;
        let host = started?;
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
        Ok(Self { host, limits, address, secret, stop, serving, _folder: folder })
    }

    /// Stops the host, and waits until it has.
    pub(super) async fn end(self) {
        let _ = self.stop.send(());
        let _ = self.serving.await;
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

    /// Drops all sessions that nobody uses: an attack must not find what the one before has left.
    pub(super) fn clear(&self) {
        for user in self.host.registry().users() {
            drop(self.host.registry().take_if_idle(user));
        }
    }

    /// Sessions of a tenant that are parked.
    pub(super) fn parked(&self, tenant: usize) -> usize {
        let users = self.host.registry().users().into_iter().filter(|user| usize::from(user.tenant()) == tenant);
        users.filter_map(|user| self.host.registry().look(user)).filter(|seen| seen.parked).count()
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
        Caller { address: self.address, credential }
    }
}

fn key(secret: &str, tenant: usize, number: usize) -> String {
    format!("{secret}-{tenant}-{number}")
}

/// Adds the hostile function, its route, and users who may call it.
fn prepare(config: &mut Config, guest: &Path, grants: Grants, secret: &str) {
    let mut grants = Some(grants);
    config.admin = None;
    config.guests.push(GuestPath { key: KeyPath::root(), path: guest.to_owned() });
    let depth = config.tenants.iter().map(|tenant| tenant.limits.call_depth).max().unwrap_or(1);
    let workflow = config.functions.len() - 1;
    for number in 0..=depth {
        let (key, name) = (KeyPath::root(), function(number));
        for tenant in &mut config.tenants {
            tenant.functions.iter_mut().for_each(|functions| functions.push(name.clone()));
        }
        let added = FunctionConfig {
            key,
            name,
            guest: "hostile".into(),
            // The one that is called from outside.
            grants: Arc::new(grants.take().unwrap_or_default()),
            config: Map::new(),
        };
        config.functions.insert(workflow, added);
    }
    config.general.front_end.endpoints.push(Endpoint {
        key: KeyPath::root(),
        path: PATH.into(),
        method: Method::Post,
        description: String::new(),
        function: function(0),
    });
    let tenants = 0..config.tenants.len();
    let users = tenants.flat_map(|tenant| (0..CROWD).map(move |number| (tenant, number)));
    let keys = users.map(|(tenant, number)| (KeyHash::of(&key(secret, tenant, number)), tenant));
    config.identity = config.identity.with_keys(keys);
}

/// Takes a limit off, so that it can be seen that this is noticed.
fn take_off(config: &mut Config, key: &str) {
    let all = config.tenants.iter_mut().map(|tenant| &mut tenant.limits).chain([&mut config.limits]);
    for limits in all {
        match key {
            "limits.fuel_per_call" => limits.fuel_per_call = u64::MAX / 2,
            "limits.deadline" => limits.deadline *= 100,
            "limits.output_size" => limits.output_size *= 100,
            "limits.body_size" => limits.body_size *= 100,
            "limits.memory_per_instance" => limits.memory_per_instance *= 100,
            "limits.queue_per_session" => limits.queue_per_session *= 100,
            "limits.call_depth" => limits.call_depth *= 100,
            "limits.open_files" => limits.open_files *= 100,
            "limits.user.open_files" => limits.user.open_files = None,
            "limits.connections" => limits.connections *= 100,
            "limits.user.requests_per_second" => limits.user.requests = None,
            "limits.tenant.calls" => limits.tenant.calls = None,
            _ => {}
        }
    }
}

impl Caller {
    /// Calls the hostile function.
    pub(super) async fn call(&self, input: &Value) -> Result<Answer, String> {
        self.send(input.to_string().into()).await
    }

    /// The same, with any body.
    pub(super) async fn send(&self, body: Bytes) -> Result<Answer, String> {
        let began = Instant::now();
        let answer = tokio::time::timeout(PATIENCE, self.ask(body)).await;
        let response = answer.map_err(|_| format!("no answer for {PATIENCE:?}"))?.map_err(|error| error.to_string())?;
        Ok(Answer::read(&response, began.elapsed()))
    }

    async fn ask(&self, body: Bytes) -> Result<Response<Bytes>, Box<dyn std::error::Error + Send + Sync>> {
        let stream = TcpStream::connect(self.address).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        let connection = AbortOnDrop(tokio::spawn(async move {
            let _ = connection.await;
        }));
        let (name, value) = &self.credential;
        let request = Request::post(PATH)
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

impl Answer {
    fn read(response: &Response<Bytes>, took: Duration) -> Self {
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
