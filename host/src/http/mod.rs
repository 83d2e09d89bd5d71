//! 1. HTTP: routes, and errors as callers see them.
//!
//! # Layout
//!
//! * [`app`]: the router, apart from any socket. [`serve`]: sockets, and a shutdown that drains. [`Listeners`]: the
//!   listening sockets. `front`: the steps before and after the routes. `wire`: a connection's bytes, and its caller.
//!   `progress`: finds connections that make none. `held`: a connection's memory.
//! * `call`: a route to a function, from bytes to bytes. `stream`: the same, as server-sent events. `bill`: a call's
//!   cost, as headers.
//! * `error`: every error's status, code and body. `invalid_input`: NAT's list of wrong fields; `json`: finds errors
//!   in JSON; `echo`: a caller's JSON, sent back.
//! * `accept`: the form of an answer that is asked for.
//! * `session`, `monitor`, `openapi`, `docs`: the host's own routes. [`admin`]: the operator's.

mod accept;
mod admin;
mod bill;
mod call;
mod docs;
mod echo;
mod error;
mod front;
mod held;
mod invalid_input;
mod json;
mod listeners;
mod monitor;
mod openapi;
mod progress;
mod server;
mod session;
mod stream;
mod wire;

pub use admin::admin;
pub(crate) use invalid_input::Readings;
pub use listeners::Listeners;
pub(crate) use openapi::describe as openapi_of;
pub use server::{serve, serve_operator};

use crate::{
    Host,
    config::{Cors, Endpoint, FORMS, Method, V1_WORKFLOW},
};
use accept::Form;
use axum::{
    Router,
    body::Body,
    extract::State,
    response::IntoResponse,
    routing::{MethodFilter, get, on},
};
use call::Route;
use error::Error;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, StatusCode, Uri, header, request::Parts};
use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};
use tower::ServiceExt;
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

const JSON: &str = "application/json";
/// The text format of OpenMetrics, which Prometheus asks for.
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus' own text format, which all others read.
const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// The routes to functions: the configured ones, and `/v1/workflow`, which NAT has whatever is configured.
pub(crate) fn endpoints(host: &Host) -> Vec<Endpoint> {
    let front_end = &host.config().general.front_end;
    let mut endpoints = vec![front_end.workflow.clone()];
    let v1 = Endpoint { path: V1_WORKFLOW.into(), method: Method::Post, ..front_end.workflow.clone() };
    if (&v1.path, v1.method) != (&front_end.workflow.path, front_end.workflow.method) {
        endpoints.push(v1);
    }
    endpoints.extend(front_end.endpoints.iter().cloned());
    endpoints
}

/// All routes.
pub fn app(host: Arc<Host>) -> Router {
    let mut router = Router::new()
        .route("/health", get(health))
        .route("/openapi.json", get(openapi::get))
        .route("/", get(docs::start))
        .merge(docs::routes())
        .with_state(host.clone());
    // If the operator has a listener, the figures are there.
    if host.config().admin.is_none() {
        router = router.merge(Router::new().route("/metrics", get(metrics)).with_state(host.clone()));
    }
    if host.config().identity.gives_cookies() {
        let routes = on(MethodFilter::POST, session::issue).on(MethodFilter::DELETE, session::end);
        router = router.merge(Router::new().route("/session", routes).with_state(host.clone()));
    }
    if host.config().general.enable_per_user_monitoring {
        router = router.merge(Router::new().route("/monitor/users", get(monitor::users)).with_state(host.clone()));
    }
    let methods = Arc::new(methods(&host));
    for endpoint in endpoints(&host) {
        // The catalog knows every configured function: an endpoint to another one is refused at start.
        let Some(position) = host.catalog().position(&endpoint.function) else { continue };
        let filter = match endpoint.method {
            Method::Get => MethodFilter::GET,
            Method::Post => MethodFilter::POST,
            Method::Put => MethodFilter::PUT,
            Method::Delete => MethodFilter::DELETE,
        };
        let route = Arc::new(Route { host: host.clone(), position, has_body: endpoint.method.has_body() });
        for form in FORMS {
            let path = format!("{}{form}", endpoint.path);
            let mut routes = if form.is_empty() { on(filter, call::answer) } else { on(filter, stream::answer) };
            if endpoint.method == Method::Get {
                let allow = methods.get(&path).cloned();
                routes = routes.on(MethodFilter::HEAD, async || not_allowed(allow));
            }
            router = router.route(&path, routes.with_state(route.clone()));
        }
    }
    let paths: Arc<HashSet<String>> = Arc::new(known_paths(&host));
    let router = router.method_not_allowed_fallback(async move |request: Request<Body>| {
        not_allowed(methods.get(request.uri().path()).cloned())
    });
    let router = decoding(router, move |request| not_found(&paths, request));
    match cors(&host.config().general.front_end.cors) {
        Some(cors) => router.layer(cors),
        None => router,
    }
}

async fn health(State(host): State<Arc<Host>>) -> Result<Response<Body>, Error> {
    if host.is_leaving() {
        return Err(Error::draining());
    }
    Ok(json(StatusCode::OK, r#"{"status":"healthy"}"#))
}

/// The figures, in the format that is asked for. As with Prometheus' own libraries, the default is the older format.
async fn metrics(State(host): State<Arc<Host>>, headers: HeaderMap) -> Response<Body> {
    let open = Form { ty: "application", subtype: "openmetrics-text", version: Some("1.0.0") };
    let plain = Form { ty: "text", subtype: "plain", version: Some("0.0.4") };
    let open = accept::wanted(&headers, open);
    let (body, content_type) = match open.is_named() && open >= accept::wanted(&headers, plain) {
        true => (host.open_metrics(), OPEN_METRICS),
        false => (host.metrics(), METRICS),
    };
    let mut response = Response::new(Body::from(body));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    response.headers_mut().insert(header::VARY, HeaderValue::from_static("accept"));
    response
}

fn known_paths(host: &Host) -> HashSet<String> {
    let monitor = host.config().general.enable_per_user_monitoring.then_some("/monitor/users");
    let session = host.config().identity.gives_cookies().then_some("/session");
    let metrics = host.config().admin.is_none().then_some("/metrics");
    let own = ["/health", "/openapi.json", "/docs"].into_iter().chain(metrics).chain(monitor).chain(session);
    let own = own.map(str::to_owned);
    let routes = endpoints(host).into_iter().flat_map(|it| FORMS.map(|form| format!("{}{form}", it.path)));
    own.chain(routes).collect()
}

/// The methods of each path of a function, as the header `allow` has them.
///
/// `HEAD` is not among them, even if `GET` is: its answer would have to be that of the call, so a crawler, a link
/// checker or a prefetching browser would run the call.
fn methods(host: &Host) -> HashMap<String, HeaderValue> {
    let mut methods: HashMap<String, String> = HashMap::new();
    for endpoint in endpoints(host) {
        for form in FORMS {
            let named = methods.entry(format!("{}{form}", endpoint.path)).or_default();
            let comma = if named.is_empty() { "" } else { "," };
            *named = format!("{named}{comma}{}", endpoint.method.as_str());
        }
    }
    methods.into_iter().filter_map(|(path, named)| Some((path, HeaderValue::try_from(named).ok()?))).collect()
}

/// A 405. Of the host's own routes the router knows the methods.
fn not_allowed(allow: Option<HeaderValue>) -> Response<Body> {
    let mut response = Error::method_not_allowed().into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}

/// Makes routes match paths with needless encodings too: `/gener%61te` is `/generate`, as RFC 3986 (6.2.2.2) has it.
/// Only a path that matches no route is decoded.
fn decoding(
    router: Router,
    not_found: impl Fn(&Request<Body>) -> Response<Body> + Clone + Send + Sync + 'static,
) -> Router {
    let last = not_found.clone();
    let routes = router.clone().fallback(async move |request: Request<Body>| last(&request));
    router.fallback(async move |mut request: Request<Body>| match plain_uri(request.uri()) {
        Some(uri) => {
            *request.uri_mut() = uri;
            routes.oneshot(request).await.unwrap_or_else(|never| match never {})
        }
        None => not_found(&request),
    })
}

fn plain_uri(uri: &Uri) -> Option<Uri> {
    let path = plain_path(uri.path())?;
    let target = match uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    let mut parts = uri.clone().into_parts();
    parts.path_and_query = Some(target.parse().ok()?);
    Uri::from_parts(parts).ok()
}

/// A path without needless encodings, if it has any: letters, digits and `-._~` stand for themselves. All else, such as
/// `%2F`, means something else when it is encoded, and stays.
fn plain_path(path: &str) -> Option<String> {
    let mut parts = path.split('%');
    let mut plain = parts.next()?.to_owned();
    let mut changed = false;
    for part in parts {
        let code = part.get(..2).and_then(|code| u8::from_str_radix(code, 16).ok());
        match code.filter(|code| code.is_ascii_alphanumeric() || b"-._~".contains(code)) {
            // `from_str_radix` takes a sign.
            Some(code) if !part.starts_with('+') => {
                plain.push(char::from(code));
                plain.push_str(&part[2..]);
                changed = true;
            }
            _ => {
                plain.push('%');
                plain.push_str(part);
            }
        }
    }
    changed.then_some(plain)
}

/// Redirects a path with a trailing `/` to the one without, as NAT does; any other is not found. The redirect is
/// relative to the request's own path, and so is right behind a proxy that adds a prefix.
fn not_found(paths: &HashSet<String>, request: &Request<Body>) -> Response<Body> {
    let path = request.uri().path();
    let right = path.strip_suffix('/').filter(|right| paths.contains(*right));
    let name = right.and_then(|right| right.rsplit('/').next());
    let location = name.map(|name| match request.uri().query() {
        Some(query) => format!("../{name}?{query}"),
        None => format!("../{name}"),
    });
    match location.and_then(|location| HeaderValue::try_from(location).ok()) {
        Some(location) => {
            let mut response = Response::new(Body::empty());
            *response.status_mut() = StatusCode::TEMPORARY_REDIRECT;
            response.headers_mut().insert(header::LOCATION, location);
            response
        }
        None => Error::not_found().into_response(),
    }
}

/// Asserts that `json::check` agrees with `serde_json`, except on numbers too large to be read, which are JSON.
/// Returns true if the text is JSON.
#[cfg(any(test, fuzzing))]
pub(crate) fn compare_json(text: &str) -> bool {
    let read = serde_json::from_str::<serde_json::Value>(text);
    let too_large = || matches!(&read, Err(error) if error.to_string().starts_with("number out of range"));
    let checked = json::check(text);
    assert!(checked.is_ok() == read.is_ok() || too_large(), "{text:?}: {checked:?}, {read:?}");
    checked.is_ok()
}

/// A JSON answer.
fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}

/// The rules for pages of other origins; none if no origin is let in.
fn cors(cors: &Cors) -> Option<CorsLayer> {
    if cors.is_off() {
        return None;
    }
    let any = |names: &[String]| names.iter().any(|name| name == "*");
    // With credentials, `*` means what the request names, as browsers take no `*` then.
    let mirror = cors.allow_credentials;
    let methods = match any(&cors.allow_methods) {
        true if mirror => AllowMethods::mirror_request(),
        true => AllowMethods::any(),
        false => AllowMethods::list(cors.allow_methods.iter().filter_map(|name| name.parse().ok())),
    };
    let headers =
        |names: &[String]| names.iter().filter_map(|name| name.parse::<HeaderName>().ok()).collect::<Vec<_>>();
    let allowed = match any(&cors.allow_headers) {
        true if mirror => AllowHeaders::mirror_request(),
        true => AllowHeaders::any(),
        false => AllowHeaders::list(headers(&cors.allow_headers)),
    };
    let (origins, pattern) = (cors.allow_origins.clone(), cors.allow_origin_regex.clone());
    let origin = AllowOrigin::predicate(move |origin: &HeaderValue, _: &Parts| {
        let origin = origin.to_str().unwrap_or_default();
        let named = origins.iter().any(|allowed| allowed == "*" || allowed == origin);
        named || pattern.as_ref().is_some_and(|pattern| pattern.is_match(origin))
    });
    let layer = CorsLayer::new()
        .allow_origin(origin)
        .allow_methods(methods)
        .allow_headers(allowed)
        .allow_credentials(cors.allow_credentials)
        .expose_headers(headers(&cors.expose_headers))
        .max_age(cors.max_age);
    Some(layer)
}
