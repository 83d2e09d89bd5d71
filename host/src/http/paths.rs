//! Paths that are written otherwise than a route is.

use super::error::Error;
use axum::{Router, body::Body, response::IntoResponse};
use http::{HeaderValue, Request, Response, StatusCode, Uri, header};
use std::collections::HashSet;
use tower::ServiceExt;

/// Makes routes match paths with needless encodings too: `/gener%61te` is `/generate`, as RFC 3986 (6.2.2.2) has it.
/// Only a path that matches no route is decoded.
pub(super) fn decoding(
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
pub(super) fn plain_path(path: &str) -> Option<String> {
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
pub(super) fn not_found(paths: &HashSet<String>, request: &Request<Body>) -> Response<Body> {
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
