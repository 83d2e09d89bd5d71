//! The scheme by which a host identifies users.

use super::{
    api_key::KeyHash,
    credential::{KEY, Kind},
    error::Error,
    jwt::{Issuer, Reread},
    open::{Callers, Open},
    signed::Issued,
    tenant::{DEFAULT, TenantConfig},
    user::User,
    verified::{KINDS, Verified},
};
use crate::settings::{KeyPath, reader::Section};
use futures_util::future::join_all;
use http::{HeaderMap, HeaderName};
use serde_json::Value;
use std::sync::Arc;
use tokio::task::JoinSet;

/// The way in which a host identifies users.
#[derive(Clone)]
pub enum Identity {
    /// Nobody is verified by this host.
    Open(Open),
    /// Everybody is verified.
    Verified(Arc<Verified>),
}

impl Identity {
    /// The user whom a request's headers name.
    ///
    /// # Errors
    ///
    /// [`Error`].
    pub fn user(&self, headers: &HeaderMap) -> Result<User, Error> {
        match self {
            Self::Open(open) => open.user(headers),
            Self::Verified(verified) => verified.user(headers),
        }
    }

    /// Issues a session cookie to a request's user. `None`: this host gives no cookies.
    ///
    /// # Errors
    ///
    /// The request has no credential, or a wrong one, and not everybody gets a cookie.
    pub(crate) fn issue(&self, headers: &HeaderMap) -> Option<Result<Issued, Error>> {
        match self {
            Self::Open(_) => None,
            Self::Verified(verified) => verified.issue(headers),
        }
    }

    /// The header that takes a session cookie away. `None`: this host gives no cookies.
    pub(crate) fn expire(&self, headers: &HeaderMap) -> Option<String> {
        match self {
            Self::Open(_) => None,
            Self::Verified(verified) => verified.expire(headers),
        }
    }

    /// The kinds of credentials that are looked at, in their order.
    pub(crate) fn kinds(&self) -> Vec<Kind> {
        match self {
            Self::Open { .. } => vec![Kind::Cookie, Kind::Bearer, Kind::Basic, KEY],
            Self::Verified(verified) => verified.kinds(),
        }
    }

    /// True if session cookies are given to those who have no credential, too.
    pub(crate) fn is_for_anybody(&self) -> bool {
        matches!(self, Self::Verified(verified) if verified.is_for_anybody())
    }

    /// Returns true if session cookies are given.
    pub(crate) fn gives_cookies(&self) -> bool {
        matches!(self, Self::Verified(verified) if verified.gives_cookies())
    }

    /// Reads all files of keys again. A file that is wrong changes nothing.
    pub(crate) fn reread(&self) -> Vec<Reread> {
        match self {
            Self::Open(open) => open.issuers().iter().filter_map(Issuer::reread).collect(),
            Self::Verified(verified) => verified.reread(),
        }
    }

    /// Fetches the keys of all issuers that publish them, as a host does when it begins to serve, and from time to time.
    pub async fn fetch(&self) -> Vec<Reread> {
        let Self::Open(open) = self else { return Vec::new() };
        join_all(open.issuers().iter().map(Issuer::fetch)).await.into_iter().flatten().collect()
    }

    /// Keeps fetched keys fresh, in tasks that end when the returned set is dropped.
    pub(crate) fn stay_fresh(&self) -> JoinSet<()> {
        match self {
            Self::Open(open) => open.issuers().iter().filter_map(Issuer::stay_fresh).collect(),
            Self::Verified(_) => JoinSet::new(),
        }
    }

    /// True if everybody is verified: by this host, or by the proxy in front of it.
    pub fn is_verified(&self) -> bool {
        match self {
            Self::Open(open) => open.is_vouched_for(),
            Self::Verified(_) => true,
        }
    }

    /// The header of the proxy that verifies callers.
    pub(crate) fn header_of_proxy(&self) -> Option<&HeaderName> {
        match self {
            Self::Open(open) => open.header_of_proxy(),
            Self::Verified(_) => None,
        }
    }

    /// Returns true if serving others than this machine has to be allowed explicitly.
    pub(crate) fn must_be_said(&self) -> bool {
        matches!(self, Self::Open(open) if !open.is_said() && !open.is_vouched_for())
    }

    /// Makes an identity that verifies nobody, as if the configuration said so.
    pub fn open() -> Self {
        Self::Open(Open::new(true, Callers::default(), Vec::new()))
    }

    /// Adds API keys, each with its tenant's place. If nobody is verified, there are none.
    pub(crate) fn with_keys(&self, keys: impl Iterator<Item = (KeyHash, usize)>) -> Self {
        match self {
            Self::Open(_) => Self::open(),
            Self::Verified(verified) => Self::Verified(Arc::new(verified.with_keys(keys))),
        }
    }

    /// Reads `identity`, and the keys of `general.front_end` about callers.
    /// NAT providers that nothing names are added to `ignored`.
    pub(crate) fn read(
        top: &mut Section<'_>,
        tenants: &mut [TenantConfig],
        callers: &Callers,
        ignored: &mut Vec<String>,
    ) -> Self {
        let issuers = read_authentication(top, callers, ignored);
        let (key, problems) = (top.path().with("identity"), top.problems());
        let several = tenants.len() > 1 || tenants.first().is_some_and(|tenant| &*tenant.name != DEFAULT);
        let open = |said| {
            if several {
                problems.add(&key, "must say how tenants are told apart: with `open`, nobody is verified");
            }
            Self::Open(Open::new(said, callers.clone(), issuers.clone()))
        };
        match top.take("identity") {
            None => open(false),
            Some(Value::String(it)) if it == "open" => open(true),
            Some(value @ Value::Object(_)) => {
                if !callers.is_default() {
                    let why = "has no place beside `identity_header`, `accepted_identity_credentials` and \
                               `identity_authentication`, which say who callers are, too: take them out of \
                               `general.front_end`, or this section";
                    problems.add(&key, why);
                }
                let section = Section::new(key.clone(), value, problems);
                Self::Verified(Arc::new(Verified::read(section, tenants)))
            }
            Some(_) => {
                problems.add(&key, format!("must be `open`, or a map of what is verified: {KINDS}"));
                Self::Open(Open::default())
            }
        }
    }
}

/// The providers that verify JWTs for NAT.
fn read_authentication(top: &mut Section<'_>, callers: &Callers, ignored: &mut Vec<String>) -> Vec<Issuer> {
    if callers.authentication.is_empty() {
        return Vec::new();
    }
    let mut section = top.section("authentication");
    let (path, problems) = (section.path().clone(), section.problems());
    let mut providers = section.rest();
    let mut issuers: Vec<Issuer> = Vec::new();
    let named = KeyPath::parse("general.front_end.identity_authentication");
    for (index, name) in callers.authentication.iter().enumerate() {
        let named = named.with(index.to_string());
        let Some(provider) = providers.shift_remove(name) else {
            problems.add(&named, format!("there is no `{name}` in `authentication`"));
            continue;
        };
        let Some(issuer) = Issuer::read_of_nat(Section::new(path.with(name), provider, problems)) else { continue };
        if issuers.iter().any(|other| other.name() == issuer.name()) {
            problems.add(&named, format!("the issuer of `{name}` is there twice"));
        }
        issuers.push(issuer);
    }
    ignored.extend(providers.keys().map(|name| path.with(name).to_string()));
    issuers
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Open(open) => open.fmt(f),
            Self::Verified(_) => f.write_str("Verified"),
        }
    }
}
