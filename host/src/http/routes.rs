//! All routes of callers.

use super::{
    call::{self, Route},
    cors::cors,
    docs,
    endpoints::{endpoints, methods},
    error::Error,
    health, metrics, monitor, openapi,
    paths::{decoding, not_found},
    session, stream,
};
use crate::{
    Host,
    config::{FORMS, Method},
};
use axum::{
    Router,
    body::Body,
    response::IntoResponse,
    routing::{MethodFilter, get, on},
};
use http::{HeaderValue, Request, Response, header};
use std::{collections::HashSet, sync::Arc};

/// All routes.
pub fn app(host: Arc<Host>) -> Router {
    let mut router = Router::new()
        .route("/health", get(health::get))
        .route("/openapi.json", openapi::route(&host))
        .route("/", get(docs::start))
        .merge(docs::routes())
        .with_state(host.clone());
    // If the operator has a listener, the figures are there.
    if host.config().admin.is_none() {
        router = router.merge(Router::new().route("/metrics", get(metrics::get)).with_state(host.clone()));
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

fn known_paths(host: &Host) -> HashSet<String> {
    let monitor = host.config().general.enable_per_user_monitoring.then_some("/monitor/users");
    let session = host.config().identity.gives_cookies().then_some("/session");
    let metrics = host.config().admin.is_none().then_some("/metrics");
    let own = ["/health", "/openapi.json", "/docs"].into_iter().chain(metrics).chain(monitor).chain(session);
    let own = own.map(str::to_owned);
    let routes = endpoints(host).into_iter().flat_map(|it| FORMS.map(|form| format!("{}{form}", it.path)));
    own.chain(routes).collect()
}

/// A 405. Of the host's own routes the router knows the methods.
fn not_allowed(allow: Option<HeaderValue>) -> Response<Body> {
    let mut response = Error::method_not_allowed().into_response();
    if let Some(allow) = allow {
        response.headers_mut().insert(header::ALLOW, allow);
    }
    response
}
