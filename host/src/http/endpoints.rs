//! The routes to functions.

use crate::{
    Host,
    config::{Endpoint, FORMS, Method, V1_WORKFLOW},
};
use http::HeaderValue;
use std::collections::HashMap;

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

/// The methods of each path of a function, as the header `allow` has them.
///
/// `HEAD` is not among them, even if `GET` is: its answer would have to be that of the call, so a crawler, a link
/// checker or a prefetching browser would run the call.
pub(super) fn methods(host: &Host) -> HashMap<String, HeaderValue> {
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
