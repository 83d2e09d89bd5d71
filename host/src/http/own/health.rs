//! `GET /health`: whether the host takes requests.

use super::described::{failure, own};
use crate::{
    Host,
    http::{
        answer::{JSON, json},
        error::Error,
    },
};
use axum::{body::Body, extract::State};
use http::{Response, StatusCode};
use serde_json::{Value, json};
use std::sync::Arc;

pub(in crate::http) async fn get(State(host): State<Arc<Host>>) -> Result<Response<Body>, Error> {
    if host.is_leaving() {
        return Err(Error::draining());
    }
    Ok(json(StatusCode::OK, r#"{"status":"healthy"}"#))
}

/// The operations, for the API's description.
pub(super) fn describe() -> Value {
    let healthy = json!({"type": "object", "required": ["status"],
                          "properties": {"status": {"type": "string", "const": "healthy"}}});
    let mut get = own("health", "Whether the host takes requests.", &[(JSON, healthy)]);
    get["responses"]["503"] = failure("The host is being stopped");
    json!({"get": get})
}
