//! `POST /session`: a session cookie that this host signs; `DELETE /session` takes it away again.

use super::described::{NOBODY, failure, own, security, with};
use crate::{
    Host,
    http::{
        answer::{JSON, json},
        error::Error,
    },
    identity::Issued,
};
use axum::{body::Body, extract::State};
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Value, json};
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

/// The operations, for the API's description.
pub(super) fn describe(host: &Host) -> Value {
    let given = json!({"type": "object", "required": ["user_id", "expires_in"], "properties": {
        "user_id": {"type": "string"},
        "expires_in": {"type": "integer", "description": "Seconds"},
    }});
    let mut issue = own("session_issue", "Gives a session cookie for a credential.", &[(JSON, given)]);
    issue["security"] = security(host);
    if host.config().identity.is_for_anybody() {
        issue["security"] = with(security(host), json!({}));
    }
    issue["responses"]["200"]["headers"] = json!({"Set-Cookie": {"schema": {"type": "string"}}});
    issue["responses"]["401"] = failure(NOBODY);
    issue["responses"]["503"] = failure("The host is being stopped");
    let mut end = own("session_end", "Takes the session cookie away.", &[]);
    end["responses"] = json!({"204": {"description": "The cookie is taken away"}});
    json!({"post": issue, "delete": end})
}
