//! 2. Identity: from a request's headers to a user.
//!
//! The order and the ids are NAT's: the cookie `nat-session`, then `Authorization`, then `X-API-Key`; a user's id is
//! the UUIDv5 of the credential. Nothing is verified: whoever sends a user's credential is that user, and a JWT's claims
//! are believed whoever signed it. The host says so when it starts.
//!
//! # Layout
//!
//! * [`User`] and [`user`], here. `cookie`: one cookie of a header. `authorization`: Bearer and Basic.

mod authorization;
mod cookie;

use http::HeaderMap;
use std::{fmt, sync::LazyLock};
use uuid::Uuid;

/// The cookie that names a user.
pub const COOKIE: &str = "nat-session";

/// A user: an opaque id, made of the credential, from which the credential cannot be told. Safe to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User(Uuid);

/// NAT's namespace: the UUIDv5 of `nemo-agent-toolkit` among the DNS names.
static NAMESPACE: LazyLock<Uuid> = LazyLock::new(|| Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"nemo-agent-toolkit"));

impl User {
    /// The user whom a credential names.
    pub fn from_credential(credential: &str) -> Self {
        Self(Uuid::new_v5(&NAMESPACE, credential.as_bytes()))
    }

    /// From an id, as monitoring shows it.
    pub fn from_id(id: &str) -> Option<Self> {
        Uuid::try_parse(id).ok().map(Self)
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

/// Why a request has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It brings no credential.
    #[error(
        "this request names no user: send the cookie `nat-session=<name>`, an `Authorization` header (Bearer or Basic) \
         or an `X-API-Key` header"
    )]
    Required,
    /// It brings a credential that cannot be read.
    #[error("the `Authorization` header cannot be read: {0}")]
    Invalid(&'static str),
}

/// The user whom a request's headers name.
///
/// # Errors
///
/// [`Error`].
pub fn user(headers: &HeaderMap) -> Result<User, Error> {
    if let Some(cookie) = cookie::find(headers, COOKIE).filter(|cookie| !cookie.is_empty()) {
        return Ok(User::from_credential(&cookie));
    }
    if let Some(value) = headers.get(http::header::AUTHORIZATION)
        && let Some(user) = authorization::user(&latin1(value.as_bytes()))?
    {
        return Ok(user);
    }
    let key = headers.get("x-api-key").map(|value| latin1(value.as_bytes())).filter(|key| !key.is_empty());
    key.map(|key| User::from_credential(&key)).ok_or(Error::Required)
}

/// A header's bytes as text: each byte is the character of that number, as HTTP has it.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// White space, as Python strips it, among the characters that a header can have.
fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::{HeaderName, HeaderValue};

    fn id(headers: &[(&str, &str)]) -> Result<String, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap_or_else(|error| panic!("{error}"));
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|error| panic!("{error}")));
        }
        user(&map).map(|user| user.to_string())
    }

    #[test]
    fn ids_are_nats() {
        let alice = "fd784dad-3cbf-507a-887f-c3f10843fe4c";
        assert_eq!(id(&[("cookie", "nat-session=g-readme-alice")]), Ok(alice.into()));
        assert_eq!(id(&[("x-api-key", "g-readme-alice")]), Ok(alice.into()));
        assert_eq!(id(&[("authorization", "bEaReR   g-readme-alice ")]), Ok(alice.into()));
    }

    #[test]
    fn the_cookie_comes_first_then_authorization_then_the_key() {
        let of = |credential| Ok(User::from_credential(credential).to_string());
        let all = [("cookie", "nat-session=a"), ("authorization", "Bearer b"), ("x-api-key", "c")];
        assert_eq!(id(&all), of("a"));
        assert_eq!(id(&all[1..]), of("b"));
        assert_eq!(id(&[("cookie", "nat-session="), all[2]]), of("c"));
        assert_eq!(id(&[("authorization", "Digest q"), all[2]]), of("c"));
        assert!(matches!(id(&[("authorization", "Bearer a.b.c"), all[2]]), Err(Error::Invalid(_))));
        assert_eq!(id(&[]), Err(Error::Required));
        assert_eq!(id(&[("x-api-key", "")]), Err(Error::Required));
    }
}
