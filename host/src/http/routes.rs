//! All routes of callers.

use super::{
    app::{App, Calls},
    call::{self, Route},
    cors::cors,
    endpoints::{endpoints, methods},
    error::Error,
    own,
    paths::{decoding, not_found},
    stream,
};
use crate::{
    Host,
    config::{FORMS, Method, Own},
};
use axum::{
    Router,
    body::Body,
    response::IntoResponse,
    routing::{MethodFilter, on},
};
use http::{HeaderValue, Request, Response, header};
use std::{collections::HashSet, sync::Arc};

/// All routes.
pub fn app(host: Arc<Host>) -> App {
    let mut router = own::served(&host).fold(Router::new(), |router, it| router.merge(own::route(it, &host)));
    let methods = Arc::new(methods(&host));
    let mut calls = Calls::default();
    for endpoint in endpoints(&host) {
        // The catalog knows every configured function: an endpoint to another one is refused at start.
        let Some(position) = host.catalog().position(&endpoint.function) else { continue };
        let (filter, method) = match endpoint.method {
            Method::Get => (MethodFilter::GET, http::Method::GET),
            Method::Post => (MethodFilter::POST, http::Method::POST),
            Method::Put => (MethodFilter::PUT, http::Method::PUT),
            Method::Delete => (MethodFilter::DELETE, http::Method::DELETE),
        };
        let route = Arc::new(Route { host: host.clone(), position, has_body: endpoint.method.has_body() });
        calls.add(&endpoint.path, method, &route);
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
        // It has to see each request, and each answer.
        Some(cors) => App::new(router.layer(cors), Calls::default()),
        None => App::new(router, calls),
    }
}

fn known_paths(host: &Host) -> HashSet<String> {
    // `/` is never what is left of a path without its last `/`.
    let own = own::served(host).filter(|own| *own != Own::Start).map(|own| own.path().to_owned());
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
