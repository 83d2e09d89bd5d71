//! 2. Identity: from a request's headers to a user, and the tenant that the user belongs to.
//!
//! Either nobody is verified, as with NAT: `open`. Or every request has to bring a credential that is: a JWT of an
//! issuer whom the configuration names, an API key, or a session cookie that this host has signed. Then a user is made
//! of who vouches for the credential and what it says, so that two callers never meet in one session because their
//! credentials look alike.
//!
//! # Layout
//!
//! * [`Identity`], here; [`User`]: an opaque id. [`TenantConfig`]: whose users they are.
//! * `open`: NAT's way, with `cookie` and `authorization`, which read as NAT reads.
//! * `verified`: which credential counts. `jwt`, `api_key`, `signed`: the three kinds.

mod api_key;
mod authorization;
mod cookie;
mod jwt;
mod open;
mod signed;
mod tenant;
mod user;
mod verified;

pub use api_key::{KeyHash, generate};
pub(crate) use signed::Issued;
pub use tenant::{DEFAULT, TenantConfig};
pub use user::User;

use crate::config::reader::Section;
use http::HeaderMap;
use serde_json::Value;
use std::{path::Path, sync::Arc};
use verified::Verified;

/// What the cookie that names a user says, where nobody is verified.
#[cfg(any(test, fuzzing))]
pub(crate) fn cookie_of(headers: &HeaderMap) -> Option<String> {
    cookie::find(headers, COOKIE)
}

/// The cookie that names a user, or that a session is kept in.
pub const COOKIE: &str = "nat-session";
/// The header with an API key.
const API_KEY: &str = "x-api-key";

/// Who is who.
#[derive(Clone)]
pub enum Identity {
    /// Nobody is verified.
    Open {
        /// The configuration says so in so many words.
        said: bool,
    },
    /// Everybody is.
    Verified(Arc<Verified>),
}

/// A kind of credential.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    /// The cookie [`COOKIE`].
    Cookie,
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`.
    Basic,
    /// The header `X-API-Key`.
    Key,
}

/// Why a request has no user.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// It brings no credential; and what it could bring.
    #[error("this request names no user: {0}")]
    Required(&'static str),
    /// It brings a credential that cannot be read, or is not right.
    #[error("the credential is not taken: {0}")]
    Invalid(&'static str),
}

impl Identity {
    /// The user whom a request's headers name.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn user(&self, headers: &HeaderMap) -> Result<User, Error> {
        match self {
            Self::Open { .. } => open::user(headers),
            Self::Verified(verified) => verified.user(headers),
        }
    }

    /// A session cookie for whoever a request is of. `None`: none are given.
    ///
    /// # Errors
    ///
    /// The request has no credential, or a wrong one, and not everybody gets a cookie.
    pub(crate) fn issue(&self, headers: &HeaderMap) -> Option<Result<Issued, Error>> {
        match self {
            Self::Open { .. } => None,
            Self::Verified(verified) => verified.issue(headers),
        }
    }

    /// The header that takes a session cookie away. `None`: none are given.
    pub(crate) fn expire(&self, headers: &HeaderMap) -> Option<String> {
        match self {
            Self::Open { .. } => None,
            Self::Verified(verified) => verified.expire(headers),
        }
    }

    /// The kinds of credentials that are looked at, in their order.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        match self {
            Self::Open { .. } => vec![Kind::Cookie, Kind::Bearer, Kind::Basic, Kind::Key],
            Self::Verified(verified) => verified.kinds(),
        }
    }

    /// Whether session cookies are given to those who have no credential, too.
    pub(crate) fn is_for_anybody(&self) -> bool {
        matches!(self, Self::Verified(verified) if verified.is_for_anybody())
    }

    /// Whether session cookies are given.
    pub(crate) fn gives_cookies(&self) -> bool {
        matches!(self, Self::Verified(verified) if verified.gives_cookies())
    }

    /// Whether everybody is verified.
    pub fn is_verified(&self) -> bool {
        matches!(self, Self::Verified(_))
    }

    /// The same, with more API keys, each with its tenant's place. Where nobody is verified, there are none.
    pub(crate) fn with_keys(&self, keys: impl Iterator<Item = (KeyHash, usize)>) -> Self {
        match self {
            Self::Open { said } => Self::Open { said: *said },
            Self::Verified(verified) => Self::Verified(Arc::new(verified.with_keys(keys))),
        }
    }

    /// `identity`.
    pub(crate) fn read(top: &mut Section<'_>, tenants: &mut [TenantConfig], folder: &Path) -> Self {
        let (key, problems) = (top.path().with("identity"), top.problems());
        let several = tenants.len() > 1 || tenants.first().is_some_and(|tenant| &*tenant.name != DEFAULT);
        let open = |said| {
            if several {
                problems.add(&key, "must say how tenants are told apart: with `open`, nobody is verified");
            }
            Self::Open { said }
        };
        match top.take("identity") {
            None => open(false),
            Some(Value::String(it)) if it == "open" => open(true),
            Some(value @ Value::Object(_)) => {
                let section = Section::new(key.clone(), value, problems);
                Self::Verified(Arc::new(Verified::read(section, tenants, folder)))
            }
            Some(_) => {
                problems.add(&key, "must be `open`, or a map of what is verified: `jwt`, `api_keys`, `cookies`");
                Self::Open { said: false }
            }
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(if self.is_verified() { "Verified" } else { "Open" })
    }
}

/// The tenants, as credentials name them.
#[derive(Debug, Default, Clone)]
struct Tenants {
    names: Vec<Arc<str>>,
    claims: Vec<Vec<String>>,
}

impl Tenants {
    fn new(tenants: &[TenantConfig]) -> Self {
        Self {
            names: tenants.iter().map(|tenant| tenant.name.clone()).collect(),
            claims: tenants.iter().map(|tenant| tenant.claims.clone()).collect(),
        }
    }

    fn only_one(&self) -> bool {
        self.names.len() == 1
    }

    fn by_name(&self, name: &str) -> Option<u16> {
        number(self.names.iter().position(|it| **it == *name)?)
    }

    fn by_claim(&self, claim: &str) -> Option<u16> {
        number(self.claims.iter().position(|claims| claims.iter().any(|it| it == claim))?)
    }

    fn named(&self, tenant: u16) -> (u16, &str) {
        (tenant, &self.names[usize::from(tenant)])
    }
}

/// There are never more tenants than that.
fn number(position: usize) -> Option<u16> {
    u16::try_from(position).ok()
}
