//! `GET /metrics`: the host's figures, for Prometheus.

use super::described::own;
use crate::{
    Host,
    http::{
        accept::{self, Form},
        answer::{METRICS, OPEN_METRICS},
    },
};
use axum::{body::Body, extract::State};
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Value, json};
use std::sync::Arc;

/// The figures, in the format that is asked for. As with Prometheus' own libraries, the default is the older format.
pub(in crate::http) async fn get(State(host): State<Arc<Host>>, headers: HeaderMap) -> Response<Body> {
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

/// The operations, for the API's description.
pub(super) fn describe() -> Value {
    let text = || json!({"type": "string"});
    let formats = [(METRICS, text()), (OPEN_METRICS, text())];
    let help = "What the host counts, in Prometheus' text format or in that of OpenMetrics.";
    json!({"get": own("metrics", help, &formats)})
}
