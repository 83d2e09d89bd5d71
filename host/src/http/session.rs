//! `POST /session`: a session cookie that this host signs; `DELETE /session` takes it away again.

use super::{answer::json, error::Error};
use crate::{Host, identity::Issued};
use axum::{body::Body, extract::State};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::json;
use std::sync::Arc;

pub(super) async fn issue(State(host): State<Arc<Host>>, headers: HeaderMap) -> Result<Response<Body>, Error> {
    if host.is_draining() {
        return Err(Error::draining());
    }
    let issued = host.config().identity.issue(&headers).ok_or_else(Error::not_found)?;
    let Issued { user, header, lifetime } = issued.map_err(|error| Error::no_user(&error))?;
    let body = json!({"user_id": user.to_string(), "expires_in": lifetime.as_secs()}).to_string();
    Ok(with_cookie(json(StatusCode::OK, body), &header))
}

pub(super) async fn end(State(host): State<Arc<Host>>, headers: HeaderMap) -> Result<Response<Body>, Error> {
    let header = host.config().identity.expire(&headers).ok_or_else(Error::not_found)?;
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::NO_CONTENT;
    Ok(with_cookie(response, &header))
}

fn with_cookie(mut response: Response<Body>, cookie: &str) -> Response<Body> {
    let headers = response.headers_mut();
    // It has no characters that a header may not have: the cookie's value is base64.
    if let Ok(cookie) = HeaderValue::from_str(cookie) {
        headers.insert(header::SET_COOKIE, cookie);
    }
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}
