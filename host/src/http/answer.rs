//! Answers of the host's own.

use axum::body::Body;
use http::{HeaderValue, Response, StatusCode, header};

pub(super) const JSON: &str = "application/json";
/// The text format of OpenMetrics, which Prometheus asks for.
pub(super) const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";
/// Prometheus' own text format, which all others read.
pub(super) const METRICS: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A JSON answer.
pub(super) fn json(status: StatusCode, body: impl Into<Body>) -> Response<Body> {
    let mut response = Response::new(body.into());
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(JSON));
    response
}
