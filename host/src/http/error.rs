//! Every error that a caller can see: its status, its stable code, and its body.
//!
//! A body is JSON: `detail`, in words, as NAT has it; `code`, for programs; and for a limit `setting`, the key of the
//! configuration that sets it. A guest's own words are told apart from the host's. No body shows the host's
//! internals.
//!
//! The body of a 422 is NAT's to the byte, and has no room for a code. So every error has its code as a header as well.

use super::{answer::json, bill, invalid_input};
use crate::{
    call::Failure,
    identity,
    limits::{Bill, Limit, Limits, Reached, Rejection, memory::Full},
};
use axum::{body::Body, response::IntoResponse};
use http::{HeaderName, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value};
use std::{sync::Arc, time::Duration};

/// The header with the functions that lost what they held for the user.
pub(super) const DROPPED: HeaderName = HeaderName::from_static("carrel-dropped");
/// The header that has an error's code.
pub(super) const CODE: HeaderName = HeaderName::from_static("carrel-error");

/// The time after which a user may have memory for a request again.
const WHEN_FULL: Duration = Duration::from_secs(5);
/// The code of a body that is compressed.
const ENCODING: &str = "encoding_not_supported";

/// The value of [`DROPPED`]; none if nothing was lost.
pub(super) fn dropped_header(dropped: &[Arc<str>]) -> Option<HeaderValue> {
    let names = dropped.join(", ");
    if names.is_empty() { None } else { HeaderValue::from_bytes(names.as_bytes()).ok() }
}

/// An error, ready to be sent.
#[derive(Debug)]
pub(super) struct Error {
    status: StatusCode,
    code: &'static str,
    /// Boxed, since a `Result` is as large as its error.
    body: Box<Map<String, Value>>,
    /// The whole body, where it has bytes of the caller's own.
    text: Option<Box<str>>,
    retry_after: Option<Duration>,
    bill: Option<Box<Bill>>,
    dropped: Option<HeaderValue>,
    /// True if the state is as it was before the call.
    undone: bool,
}

impl Error {
    fn new(status: StatusCode, code: &'static str, detail: impl Into<Value>) -> Self {
        let mut body = Map::new();
        body.insert("detail".into(), detail.into());
        body.insert("code".into(), code.into());
        Self {
            status,
            code,
            body: Box::new(body),
            text: None,
            retry_after: None,
            bill: None,
            dropped: None,
            undone: false,
        }
    }

    fn with(mut self, key: &str, value: impl Into<Value>) -> Self {
        self.body.insert(key.into(), value.into());
        self
    }

    fn setting(self, setting: Option<&str>) -> Self {
        match setting {
            Some(setting) => self.with("setting", setting),
            None => self,
        }
    }

    fn retry_after(mut self, time: Duration) -> Self {
        self.retry_after = Some(time);
        self
    }

    pub(super) fn not_found() -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", "Not Found")
    }

    pub(super) fn method_not_allowed() -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", "Method Not Allowed")
    }

    pub(super) fn invalid_query(why: String) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_query", why)
    }

    pub(super) fn invalid_path() -> Self {
        let detail = "the path cannot be read: what is escaped in it with `%` must be UTF-8";
        Self::new(StatusCode::BAD_REQUEST, "invalid_path", detail)
    }

    /// The host's own mistake.
    pub(super) fn internal() -> Self {
        let detail = "the host made a mistake; its log says more";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }

    pub(super) fn draining() -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "draining", "this host is being stopped; send the request again")
            .retry_after(Duration::from_secs(1))
    }

    /// A request that is no HTTP.
    pub(super) fn malformed_request() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed_request", "this cannot be read as a request of HTTP")
    }

    pub(super) fn target_too_long() -> Self {
        Self::new(StatusCode::URI_TOO_LONG, "target_too_long", "the request's path and query are too long")
    }

    pub(super) fn headers_too_large() -> Self {
        let detail = "the request's headers are too many, or too large";
        Self::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "headers_too_large", detail)
    }

    /// The header `Host` is not there, is there twice, or names no host.
    pub(super) fn host_header(why: &str) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "host_invalid", why)
    }

    pub(super) fn body_too_large(limit: usize) -> Self {
        Self::of_limit(Limits::BODY_SIZE, format!("the body is larger than the {limit} bytes that are allowed"))
    }

    pub(super) fn body_too_slow() -> Self {
        let detail = "the body did not arrive within the time that a call has";
        Self::new(StatusCode::REQUEST_TIMEOUT, "body_too_slow", detail).setting(Some(Limits::DEADLINE.key))
    }

    pub(super) fn body_broken_off() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "body_incomplete", "the body did not arrive as a whole")
    }

    pub(super) fn not_json() -> Self {
        let detail = "the body must be JSON, and its Content-Type must say so: application/json";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "not_json", detail)
    }

    pub(super) fn encoding_not_supported() -> Self {
        let detail = "the body is compressed, which is not read here: send it as it is, without Content-Encoding";
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, ENCODING, detail)
    }

    pub(super) fn not_utf8() -> Self {
        Self::new(StatusCode::BAD_REQUEST, "not_utf8", "There was an error parsing the body")
    }

    pub(super) fn no_user(error: &identity::Error) -> Self {
        let code = match error {
            identity::Error::Required(_) => "identity_required",
            identity::Error::Invalid(_) => "identity_invalid",
            identity::Error::Unavailable(_) => {
                let status = StatusCode::SERVICE_UNAVAILABLE;
                return Self::new(status, "identity_unavailable", error.to_string())
                    .retry_after(Duration::from_secs(10));
            }
        };
        Self::new(StatusCode::UNAUTHORIZED, code, error.to_string())
    }

    /// A request for which there is no memory: nothing was run.
    pub(super) fn no_memory(full: Full) -> Self {
        let limit = full.level.memory();
        let detail = format!(
            "there is no memory for the request: all {} bytes that `{}` allows are in use",
            full.limit, limit.key
        );
        let error = Self::refused(&limit.reached_in_words(detail));
        if error.retry_after.is_some() { error } else { error.retry_after(WHEN_FULL) }
    }

    /// A call that was not run.
    pub(super) fn refused(reached: &Reached) -> Self {
        let error = Self::of_limit(reached.limit, reached.to_string());
        match reached.retry_after {
            Some(time) => error.retry_after(time),
            None => error,
        }
    }

    /// The rejection that a limit has. One that has none never stops a caller.
    fn of_limit(limit: &Limit, detail: String) -> Self {
        Self::without_key(limit, detail).setting(limit.rejection.map(|_| limit.key))
    }

    /// The same, where not the key but the machine is the reason.
    fn without_key(limit: &Limit, detail: impl Into<Value>) -> Self {
        let Some(rejection) = limit.rejection else { return Self::internal() };
        Self::new(status_of(rejection), rejection.code, detail)
    }

    /// A caller that is not the operator.
    pub(super) fn not_the_operator(by_token: bool) -> Self {
        let detail = if by_token {
            "the operator's token is missing or wrong: send `Authorization: Bearer <token>`"
        } else {
            "only requests to this machine itself are answered, and none that web pages cause"
        };
        Self::new(if by_token { StatusCode::UNAUTHORIZED } else { StatusCode::FORBIDDEN }, "not_the_operator", detail)
    }

    pub(super) fn session_in_use() -> Self {
        Self::new(StatusCode::CONFLICT, "session_in_use", "a call uses this session: drop it when it has ended")
    }

    pub(super) fn forbidden(function: &str) -> Self {
        let detail = format!("this tenant may not call the function `{function}`");
        Self::new(StatusCode::FORBIDDEN, "function_forbidden", detail).setting(Some("tenants.*.functions"))
    }

    /// An input that does not fit, with NAT's list of what is wrong.
    pub(super) fn invalid_input(list: &str) -> Self {
        let mut error = Self::new(StatusCode::UNPROCESSABLE_ENTITY, "invalid_input", Value::Null);
        error.body = Box::default();
        error.text = Some(format!(r#"{{"detail":{list}}}"#).into());
        error
    }

    pub(super) fn of_call(failure: Failure) -> Self {
        match failure {
            Failure::Refused(refusal) => Self::refused(&refusal),
            Failure::InvalidInput(why) => Self::invalid_input(&invalid_input::words(&why)),
            Failure::Failed(why) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "function_failed", why),
            Failure::Stopped { stop, undone } => {
                let rejection = stop.kind.rejection();
                let status = rejection.map_or(StatusCode::INTERNAL_SERVER_ERROR, status_of);
                let detail = format!("the function `{}` {}", stop.function, stop.kind);
                let mut error = Self::new(status, stop.kind.code(), detail)
                    .setting(stop.kind.limit().map(|limit| limit.key))
                    .with("function", &*stop.function);
                error.undone = undone;
                match rejection.and_then(|rejection| rejection.retry_after) {
                    Some(seconds) => error.retry_after(Duration::from_secs(seconds)),
                    None => error,
                }
            }
        }
    }

    /// Adds the functions whose state the call lost.
    pub(super) fn dropped(mut self, dropped: &[Arc<str>]) -> Self {
        let names: Vec<_> = dropped.iter().map(|name| format!("`{name}`")).collect();
        let lost = match names.is_empty() {
            true if self.undone => "Nothing was changed: all is as before the call.".to_owned(),
            true => "Nothing that this user had is lost.".to_owned(),
            false => format!("What this user had in {} is gone: the next call starts afresh.", names.join(", ")),
        };
        // Other errors are the function's own words, or say that nothing was run.
        if self.body.contains_key("function")
            && let Some(Value::String(detail)) = self.body.get_mut("detail")
        {
            *detail = format!("{detail}. {lost}");
        }
        if self.body.contains_key("function") || (!dropped.is_empty() && self.body.contains_key("code")) {
            let names: Vec<Value> = dropped.iter().map(|name| Value::from(&**name)).collect();
            self.body.insert("dropped".into(), names.into());
        }
        self.dropped = dropped_header(dropped);
        self
    }

    /// Adds the cost of the failed call.
    pub(super) fn bill(mut self, bill: Bill) -> Self {
        self.bill = Some(Box::new(bill));
        self
    }

    /// The error's code, for programs.
    pub(super) fn code(&self) -> &'static str {
        self.code
    }

    /// The whole answer to a caller whose request cannot be read, for want of memory.
    pub(super) fn full_at_the_door() -> Vec<u8> {
        let detail = format!("there is no memory for the request: all that `{}` allows is in use", Limits::MEMORY.key);
        Self::refused(&Limits::MEMORY.reached_in_words(detail)).at_the_door()
    }

    /// The whole answer to a connection beyond the most that may be open.
    pub(super) fn too_many_connections(most: usize) -> Vec<u8> {
        Self::refused(&Limits::CONNECTIONS.reached(format!("{most} connections are open"))).at_the_door()
    }

    /// The whole answer to a connection for which the system has no descriptor: no key of the configuration says so.
    pub(super) fn no_descriptors() -> Vec<u8> {
        let detail = "this host has as many files open as the system allows it";
        Self::without_key(Limits::CONNECTIONS, detail).at_the_door()
    }

    /// The whole answer, for a connection of which no request is read.
    fn at_the_door(self) -> Vec<u8> {
        let (status, code) = (self.status, self.code);
        let retry_after = self.retry_after.map_or(1, seconds);
        let body = self.into_event();
        let head = format!(
            "HTTP/1.1 {status}\r\ncarrel-error: {code}\r\nretry-after: {retry_after}\r\n\
             content-type: application/json\r\nconnection: close\r\n"
        );
        format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes()
    }

    /// The last event of a stream that has already begun.
    pub(super) fn into_event(self) -> String {
        self.text.map_or_else(|| Value::Object(*self.body).to_string(), String::from)
    }
}

/// A time for `Retry-After`: whole seconds, at least one, and never too early.
fn seconds(time: Duration) -> u64 {
    (time.as_secs() + u64::from(time.subsec_nanos() > 0)).max(1)
}

fn status_of(rejection: Rejection) -> StatusCode {
    StatusCode::from_u16(rejection.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR)
}

impl IntoResponse for Error {
    fn into_response(self) -> Response<Body> {
        let body = self.text.map_or_else(|| Value::Object(*self.body).to_string(), String::from);
        let mut response = json(self.status, body);
        let headers = response.headers_mut();
        headers.insert(CODE, HeaderValue::from_static(self.code));
        if let Some(time) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds(time)));
        }
        if let Some(bill) = self.bill {
            bill::write(&bill, headers);
        }
        if let Some(dropped) = self.dropped {
            headers.insert(DROPPED, dropped);
        }
        if self.status == StatusCode::UNAUTHORIZED {
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        // The accepted encodings of a request (RFC 9110, 15.5.16).
        if self.code == ENCODING {
            headers.insert(header::ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        response
    }
}
