//! `GET /health`: whether the host takes requests.

use super::{answer::json, error::Error};
use crate::Host;
use axum::{body::Body, extract::State};
use http::{Response, StatusCode};
use std::sync::Arc;

pub(super) async fn get(State(host): State<Arc<Host>>) -> Result<Response<Body>, Error> {
    if host.is_leaving() {
        return Err(Error::draining());
    }
    Ok(json(StatusCode::OK, r#"{"status":"healthy"}"#))
}
