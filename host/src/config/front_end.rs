//! `general.front_end`: the host's address and routes.

use super::{own::Own, strangers};
use crate::{
    identity::Callers,
    settings::{
        KeyPath,
        reader::{Section, boolean, count, describe, duration, list, list_of, nearest, text},
    },
};
use serde_json::Value;
use std::{
    collections::HashMap,
    net::{Ipv4Addr, Ipv6Addr},
    time::Duration,
};

/// The host's address and routes.
#[derive(Debug, Clone)]
pub struct FrontEnd {
    /// The address to listen on: a name or an IP address.
    pub host: String,
    /// The port to listen on; 0 lets the system choose one.
    pub port: u16,
    /// The path under which a proxy serves this host; only `/openapi.json` shows it.
    pub root_path: String,
    /// Threads that run calls; by default one for each core.
    pub workers: Option<usize>,
    /// The longest time for which a connection may be idle or make no progress.
    pub keep_alive_timeout: Duration,
    /// The workflow's route.
    pub workflow: Endpoint,
    /// More routes, each to one function.
    pub endpoints: Vec<Endpoint>,
    /// The rules for web pages of other origins that want to read answers.
    pub cors: Cors,
    /// NAT's keys for identifying callers.
    pub callers: Callers,
}

/// A route to a function. `{path}/stream` and `{path}/full` are routes as well, with the same method.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// The key, for messages.
    pub key: KeyPath,
    /// The path, from `/`.
    pub path: String,
    /// The method.
    pub method: Method,
    /// The description in the API's document.
    pub description: String,
    /// The function that answers.
    pub function: String,
}

/// A method that a route to a function can have. With `GET` and `DELETE` the function's input is `null`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Method {
    Get,
    Post,
    Put,
    Delete,
}

impl Method {
    const ALL: [Self; 4] = [Self::Get, Self::Post, Self::Put, Self::Delete];

    /// As in a request line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
        }
    }

    /// Returns true if a request has the function's input as its body.
    pub fn has_body(self) -> bool {
        matches!(self, Self::Post | Self::Put)
    }

    fn from_value(value: &Value) -> Result<Self, String> {
        let name = text(value)?;
        let found = Self::ALL.into_iter().find(|method| method.as_str() == name.to_uppercase());
        found.ok_or_else(|| format!("must be one of `GET`, `POST`, `PUT`, `DELETE`, and is {}", describe(value)))
    }
}

/// Cross-origin requests, by default none.
#[derive(Debug, Clone)]
pub struct Cors {
    /// Origins that may send requests; `*` is all of them.
    pub allow_origins: Vec<String>,
    /// A pattern that the whole of an origin must match.
    pub allow_origin_regex: Option<regex::Regex>,
    /// Methods that they may use; `*` is all of them.
    pub allow_methods: Vec<String>,
    /// Headers that they may send; `*` is all of them.
    pub allow_headers: Vec<String>,
    /// True if they may send cookies.
    pub allow_credentials: bool,
    /// Headers of an answer that they may read.
    pub expose_headers: Vec<String>,
    /// The time for which a browser may keep these rules.
    pub max_age: Duration,
}

impl FrontEnd {
    pub(super) fn read(mut section: Section<'_>, ignored: &mut Vec<String>) -> Self {
        section.read("_type", (), |value| match text(value)?.as_str() {
            "fastapi" => Ok(()),
            _ => Err(format!("must be `fastapi`, the only front end there is, and is {}", describe(value))),
        });
        let legacy = !section.read("disable_legacy_routes", false, boolean);
        let mut endpoints = Vec::new();
        let front_end = Self {
            host: section.read("host", "localhost".into(), text),
            port: section.read("port", 8000, count(0, 65535)) as u16,
            root_path: section.read("root_path", String::new(), |value| text(value).map(|path| Self::prefix(&path))),
            workers: match section.read("workers", 0, count(1, 1024)) {
                0 => None,
                workers => Some(workers as usize),
            },
            keep_alive_timeout: section.read(
                "keep_alive_timeout",
                Duration::from_secs(60),
                duration(Duration::from_secs(1)),
            ),
            workflow: read_workflow(section.section("workflow"), legacy, ignored, &mut endpoints),
            endpoints: Vec::new(),
            cors: Cors::read(section.section("cors")),
            callers: Callers::read(&mut section),
        };
        read_endpoints(&mut section, legacy, ignored, &mut endpoints);
        let front_end = Self { endpoints, ..front_end };
        ignored.extend(NAT_ONLY.into_iter().filter_map(|key| section.ignore(key)));
        let problems = section.problems();
        section.finish();
        front_end.check_routes(|key, message| problems.add(key, message));
        front_end
    }

    /// A path that others are put behind: with a `/` before it, and none at its end.
    pub(crate) fn prefix(path: &str) -> String {
        let plain = path.trim_matches('/');
        if plain.is_empty() { String::new() } else { format!("/{plain}") }
    }

    /// Finds two functions on one route, or a function on one of the host's own.
    fn check_routes(&self, mut problem: impl FnMut(&KeyPath, String)) {
        let mut taken: HashMap<String, String> = HashMap::new();
        taken.extend(Own::ALL.map(|own| (own.path().into(), "Carrel itself".into())));
        // The workflow may be where NAT always has it; nothing else may.
        if self.workflow.path != V1_WORKFLOW {
            taken.extend(FORMS.map(|form| (format!("{V1_WORKFLOW}{form}"), "Carrel itself".into())));
        }
        // An endpoint without a valid path is reported already.
        let endpoints = [&self.workflow].into_iter().chain(&self.endpoints).filter(|it| !it.path.is_empty());
        for endpoint in endpoints {
            let method = endpoint.method.as_str();
            let paths = FORMS.map(|form| format!("{}{form}", endpoint.path));
            // Methods can share a path, but not with a route that answers every method.
            let other = |path: &String| taken.get(path).or_else(|| taken.get(&format!("{method} {path}")));
            if let Some((path, other)) = paths.iter().find_map(|path| Some((path, other(path)?))) {
                problem(&endpoint.key, format!("the route {path} is already taken by {other}"));
            }
            taken.extend(paths.map(|path| (format!("{method} {path}"), format!("`{}`", endpoint.key))));
        }
    }
}

/// The suffixes of a function's path: for its plain answer, and for two forms of it as a stream.
pub(crate) const FORMS: [&str; 3] = ["", "/stream", "/full"];

/// The path at which the workflow always is, as with NAT.
pub(crate) const V1_WORKFLOW: &str = "/v1/workflow";

/// NAT's keys for its process model, its job queue and its evaluation, which Carrel does not have.
const NAT_ONLY: [&str; 16] = [
    "reload",
    "enable_interactive_extensions",
    "scheduler_address",
    "db_url",
    "max_running_async_jobs",
    "dask_workers",
    "dask_log_level",
    "dask_worker_memory_limit",
    "dask_threads_per_worker",
    "step_adaptor",
    "evaluate",
    "evaluate_item",
    "oauth2_callback_path",
    "use_gunicorn",
    "runner_class",
    "object_store",
];

/// NAT's paths for protocols that Carrel does not speak.
const NAT_PATHS: [&str; 4] = ["websocket_path", "openai_api_path", "openai_api_v1_path", "legacy_openai_api_path"];

/// `legacy`: routes that NAT keeps for older callers are there.
fn read_workflow(
    mut section: Section<'_>,
    legacy: bool,
    ignored: &mut Vec<String>,
    endpoints: &mut Vec<Endpoint>,
) -> Endpoint {
    // NAT's default is a legacy path, beside the one that is always there.
    let default = if legacy { "/generate" } else { V1_WORKFLOW };
    let endpoint = Endpoint {
        key: section.path().clone(),
        path: section.read("path", default.into(), path),
        method: section.read("method", Method::Post, Method::from_value),
        description: section.read("description", "Runs the workflow.".into(), text),
        function: super::WORKFLOW.into(),
    };
    endpoints.extend(read_legacy(&mut section, &endpoint, legacy));
    ignored.extend(NAT_PATHS.into_iter().filter_map(|key| section.ignore(key)));
    section.finish();
    endpoint
}

fn read_endpoints(parent: &mut Section<'_>, legacy: bool, ignored: &mut Vec<String>, endpoints: &mut Vec<Endpoint>) {
    let key = parent.path().with("endpoints");
    let items = match parent.take("endpoints") {
        None => return,
        Some(Value::Array(items)) => items,
        Some(other) => {
            return parent.problems().add(&key, format!("must be a list, and is {}", describe(&other)));
        }
    };
    for (index, item) in items.into_iter().enumerate() {
        let mut section = Section::new(key.with(index.to_string()), item, parent.problems());
        section.require("function_name");
        let has_legacy = legacy && section.has("legacy_path");
        if !has_legacy {
            section.require("path");
        }
        let endpoint = Endpoint {
            key: section.path().clone(),
            path: section.read("path", String::new(), path),
            method: section.read("method", Method::Post, Method::from_value),
            description: section.read("description", String::new(), text),
            function: section.read("function_name", String::new(), text),
        };
        let older = read_legacy(&mut section, &endpoint, legacy);
        ignored.extend(NAT_PATHS.into_iter().filter_map(|key| section.ignore(key)));
        section.finish();
        // An endpoint for older callers only has no other path.
        endpoints.extend(Some(endpoint).filter(|it| !has_legacy || !it.path.is_empty()));
        endpoints.extend(older);
    }
}

/// An endpoint for the same function at the path that NAT keeps for older callers.
fn read_legacy(section: &mut Section<'_>, endpoint: &Endpoint, legacy: bool) -> Option<Endpoint> {
    let path = section.read("legacy_path", None, |value| path(value).map(Some))?;
    let key = section.path().with("legacy_path");
    let another = legacy && path != endpoint.path && !(path == V1_WORKFLOW && endpoint.function == super::WORKFLOW);
    another.then(|| Endpoint { path, key, ..endpoint.clone() })
}

/// Reads a path of plain segments. One that a router could take for a pattern is refused.
fn path(value: &Value) -> Result<String, String> {
    let path = text(value)?;
    let plain = |c: char| c.is_ascii_alphanumeric() || "/-_.~".contains(c);
    match path.strip_prefix('/') {
        Some(rest) if !rest.is_empty() && !path.ends_with('/') && !path.contains("//") && path.chars().all(plain) => {
            Ok(path)
        }
        _ => Err(format!("must be a path such as `/notes`, without a `/` at its end, and is {}", describe(value))),
    }
}

/// Reads an origin in the form that browsers send, since any other form would never match.
fn origin(value: &Value) -> Result<String, String> {
    let given = text(value)?;
    if given == "*" || given == "null" {
        return Ok(given);
    }
    match as_browsers_send(&given) {
        Some(right) if right == given => Ok(given),
        Some(right) => Err(format!("{given:?} is no origin as browsers send it: did you mean `{right}`?")),
        None if given.contains('*') => Err(format!(
            "{given:?} is no origin: `*` stands only alone, for all of them; a pattern goes into `allow_origin_regex`"
        )),
        None => Err(format!(
            "{given:?} is no origin: one is a scheme, a host in ASCII and, if it is not the scheme's own, a port, such as \
             `https://app.example.org`"
        )),
    }
}

/// The origin that is meant, in the form of RFC 6454 (6.2).
fn as_browsers_send(given: &str) -> Option<String> {
    let given = given.trim().to_lowercase();
    let (scheme, rest) = match given.split_once("://") {
        Some((scheme, rest)) => (Some(scheme), rest),
        None => (None, &*given),
    };
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let authority = authority.rsplit_once('@').map_or(authority, |(_, authority)| authority);
    let (host, port) = match authority.rfind(':').filter(|at| !authority[*at..].contains(']')) {
        Some(at) => (&authority[..at], Some(authority[at + 1..].parse::<u16>().ok().filter(|port| *port > 0)?)),
        None => (authority, None),
    };
    let host = match host.strip_prefix('[').and_then(|host| host.strip_suffix(']')) {
        Some(address) => format!("[{}]", address.parse::<Ipv6Addr>().ok()?),
        None => host.to_owned(),
    };
    let plain = |c: char| c.is_ascii_alphanumeric() || "-._".contains(c);
    if host.is_empty() || !(host.starts_with('[') || host.chars().all(plain)) {
        return None;
    }
    let is_here = host == "localhost" || host.starts_with('[') || host.parse::<Ipv4Addr>().is_ok();
    let scheme = scheme.unwrap_or(if is_here { "http" } else { "https" });
    let plain = |c: char| c.is_ascii_alphanumeric() || "+-.".contains(c);
    if !scheme.starts_with(|c: char| c.is_ascii_alphabetic()) || !scheme.chars().all(plain) {
        return None;
    }
    match port.filter(|port| !matches!((scheme, port), ("http", 80) | ("https", 443))) {
        Some(port) => Some(format!("{scheme}://{host}:{port}")),
        None => Some(format!("{scheme}://{host}")),
    }
}

impl Cors {
    fn read(mut section: Section<'_>) -> Self {
        let methods = ["GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "*"];
        let method = list_of(|value| {
            let name = text(value)?.to_uppercase();
            if methods.contains(&name.as_str()) {
                return Ok(name);
            }
            let near = nearest(&name, methods.into_iter()).map(|near| format!(": did you mean `{near}`?"));
            Err(format!("{name:?} is not one of {}{}", list(methods.into_iter()), near.unwrap_or_default()))
        });
        let header = list_of(|value| {
            let name = text(value)?;
            match name == "*" || http::HeaderName::try_from(name.as_str()).is_ok() {
                true => Ok(name),
                false => Err(format!("{name:?} is not the name of a header")),
            }
        });
        let cors = Self {
            allow_origins: section.read("allow_origins", Vec::new(), list_of(origin)),
            allow_origin_regex: section.read("allow_origin_regex", None, |value| {
                let pattern = format!("^(?:{})$", text(value)?);
                regex::Regex::new(&pattern).map(Some).map_err(|error| format!("is not a pattern: {error}"))
            }),
            allow_methods: section.read("allow_methods", vec!["GET".into()], &method),
            allow_headers: section.read("allow_headers", Vec::new(), &header),
            allow_credentials: section.read("allow_credentials", false, boolean),
            expose_headers: section.read("expose_headers", Vec::new(), &header),
            max_age: section.read("max_age", Duration::from_secs(600), |value| {
                count(0, 365 * 24 * 60 * 60)(value).map(Duration::from_secs)
            }),
        };
        if cors.allow_credentials
            && let Some(open) = cors.open_to_strangers()
        {
            let message = format!("with {open} would let every web page act as its visitors: name the origins");
            section.problems().add(&section.path().with("allow_credentials"), message);
        }
        if cors.allow_credentials && cors.expose_headers.iter().any(|header| header == "*") {
            let message = "has no `*` with `allow_credentials`: browsers take it for the name of a header";
            section.problems().add(&section.path().with("expose_headers"), message);
        }
        section.finish();
        cors
    }

    /// The key and value that allow origins anybody can have, if there are such. `null` is the origin of any page's
    /// sandboxed frame.
    fn open_to_strangers(&self) -> Option<String> {
        if let Some(open) = self.allow_origins.iter().find(|origin| ["*", "null"].contains(&&***origin)) {
            return Some(format!("`allow_origins: [\"{open}\"]`"));
        }
        let stranger = strangers::match_of(self.allow_origin_regex.as_ref()?)?;
        Some(format!("this `allow_origin_regex`, which matches {stranger},"))
    }

    /// Returns true if no origin is let in.
    pub fn is_off(&self) -> bool {
        self.allow_origins.is_empty() && self.allow_origin_regex.is_none()
    }
}
