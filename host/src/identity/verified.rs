//! Verified callers: the choice of the credential of a request that counts.
//!
//! A session cookie comes first, and then the verifiers in their order; only what is configured is looked at. A header
//! or a session cookie that a request has twice is wrong: one of the two may come from somebody else.

use super::{
    api_key::KeyHash,
    api_keys::ApiKeys,
    cookie,
    credential::{COOKIE, Kind},
    error::Error,
    issuers::Issuers,
    jwt::Reread,
    signed::{Cookies, Issued},
    tenant::{TenantConfig, Tenants},
    user::User,
    verifier::{Carried, Verifier},
    voucher::{Holder, Voucher},
};
use crate::settings::reader::Section;
use http::HeaderMap;
use std::{collections::HashSet, sync::Arc};

type Read = fn(&mut Section<'_>, &Tenants, &mut [TenantConfig]) -> Option<Arc<dyn Verifier>>;

/// All verifiers, in the order in which they look at a request.
const VERIFIERS: [Read; 2] = [read_as::<Issuers>, read_as::<ApiKeys>];

fn read_as<V: Verifier + 'static>(
    section: &mut Section<'_>,
    tenants: &Tenants,
    all: &mut [TenantConfig],
) -> Option<Arc<dyn Verifier>> {
    Some(Arc::new(V::read(section, tenants, all)?))
}

/// The tenants and their verifiers.
#[derive(Clone)]
pub struct Verified {
    tenants: Tenants,
    /// Those that verify anybody.
    verifiers: Vec<Arc<dyn Verifier>>,
    cookies: Option<Cookies>,
    /// All that may vouch for a cookie.
    vouchers: HashSet<Voucher>,
}

/// The keys of the section that verify callers.
pub(super) const KINDS: &str = "`jwt`, `api_keys`, `cookies`";

const REQUIRED: &str = "send an `Authorization: Bearer` header with a JWT or an API key, an `X-API-Key` header, or a \
                        session cookie of this host, whichever its operator gave you";

impl Verified {
    pub(super) fn with_keys(&self, keys: impl Iterator<Item = (KeyHash, usize)>) -> Self {
        let (mut with, added) = (self.clone(), ApiKeys::new(keys, &self.tenants));
        with.vouchers.extend(added.vouchers());
        with.verifiers.push(Arc::new(added));
        with
    }

    /// The user of a request: the holder of a right cookie, or else of the credential in a header.
    ///
    /// A browser sends its cookie with every request, so a wrong one, such as one that has expired, does not shadow
    /// a credential that the caller sends explicitly.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<User, Error> {
        let by_cookie = self.by_cookie(headers);
        let holder = match by_cookie {
            Ok(Some(holder)) => holder,
            Ok(None) => self.by_header(headers)?.ok_or(Error::Required(REQUIRED))?,
            Err(wrong) => self.by_header(headers)?.ok_or(wrong)?,
        };
        match holder {
            Holder::Verified(user, _) | Holder::Known(user, _) => Ok(user),
            Holder::Unknown => Err(Error::Required(REQUIRED)),
        }
    }

    fn by_cookie(&self, headers: &HeaderMap) -> Result<Option<Holder>, Error> {
        let Some(cookies) = &self.cookies else { return Ok(None) };
        let found = cookie::only(headers, COOKIE).map_err(|_| Error::Invalid("there are two session cookies"))?;
        found.map(|value| cookies.holder(&self.tenants, &self.vouchers, &value)).transpose()
    }

    /// The holder whom the first verifier finds. Of several that refuse a credential, the first says why.
    fn by_header(&self, headers: &HeaderMap) -> Result<Option<Holder>, Error> {
        let (carried, mut wrong) = (Carried(headers), None);
        for verifier in &self.verifiers {
            match verifier.user(&carried, &self.tenants) {
                Ok(None) => {}
                Err(error) => wrong = wrong.or(Some(error)),
                found => return found,
            }
        }
        if wrong.is_none() && self.looked_at().any(|kind| carried.has(kind)) {
            wrong = Some(Error::Invalid("the credential is of no form that is verified here"));
        }
        wrong.map_or(Ok(None), Err)
    }

    /// The kinds that verifiers look at; one that several look at comes several times.
    fn looked_at(&self) -> impl Iterator<Item = Kind> {
        self.verifiers.iter().flat_map(|verifier| verifier.kinds().iter().copied())
    }

    pub(super) fn reread(&self) -> Vec<Reread> {
        self.verifiers.iter().flat_map(|verifier| verifier.reread()).collect()
    }

    pub(super) fn kinds(&self) -> Vec<Kind> {
        let mut kinds = Vec::from_iter(self.cookies.is_some().then_some(Kind::Cookie));
        for kind in self.looked_at() {
            if !kinds.contains(&kind) {
                kinds.push(kind);
            }
        }
        kinds
    }

    pub(super) fn is_for_anybody(&self) -> bool {
        self.cookies.as_ref().is_some_and(Cookies::are_for_anybody)
    }

    pub(super) fn gives_cookies(&self) -> bool {
        self.cookies.is_some()
    }

    pub(super) fn issue(&self, headers: &HeaderMap) -> Option<Result<Issued, Error>> {
        let cookies = self.cookies.as_ref()?;
        // An explicit credential comes before the cookie that a browser sends by itself.
        let holder = match self.by_header(headers) {
            Ok(None) => self.by_cookie(headers),
            other => other,
        };
        let issued = holder.and_then(|holder| {
            let holder = holder.unwrap_or(Holder::Unknown);
            cookies.issue(&self.tenants, holder, COOKIE, over_tls(headers)).ok_or(Error::Required(REQUIRED))
        });
        Some(issued)
    }

    pub(super) fn expire(&self, headers: &HeaderMap) -> Option<String> {
        Some(self.cookies.as_ref()?.expire(COOKIE, over_tls(headers)))
    }

    pub(super) fn read(mut section: Section<'_>, all: &mut [TenantConfig]) -> Self {
        let (path, problems) = (section.path().clone(), section.problems());
        let tenants = Tenants::new(all);
        let verifiers: Vec<_> = VERIFIERS.iter().filter_map(|read| read(&mut section, &tenants, all)).collect();
        let has_cookies = section.has("cookies");
        let cookies = section.section("cookies");
        let cookies = if has_cookies { Cookies::read(cookies, &tenants) } else { None };
        section.finish();
        if verifiers.is_empty() && cookies.is_none() && problems.is_empty() {
            problems.add(&path, format!("verifies nobody: it has to be `open`, or to have one of {KINDS}"));
        }
        let vouchers = verifiers.iter().flat_map(|verifier| verifier.vouchers()).collect();
        Self { tenants, verifiers, cookies, vouchers }
    }
}

/// Returns true if the proxy in front says that the caller used TLS: of several proxies, the first one.
fn over_tls(headers: &HeaderMap) -> bool {
    let first = headers.get("x-forwarded-proto").and_then(|schemes| schemes.as_bytes().split(|it| *it == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}
