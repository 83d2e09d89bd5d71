//! Cross-origin requests.

use crate::config::Cors;
use http::{HeaderName, HeaderValue, request::Parts};
use tower_http::cors::{AllowHeaders, AllowMethods, AllowOrigin, CorsLayer};

/// The rules for pages of other origins; none if no origin is let in.
pub(super) fn cors(cors: &Cors) -> Option<CorsLayer> {
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
