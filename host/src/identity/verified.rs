//! Verified callers: the choice of the credential of a request that counts.
//!
//! The order is that of `open`. Only configured kinds are looked at, and each at most once. A request with
//! two `Authorization` headers has no user: the second one may come from somebody else. So a session cookie with two
//! values is a wrong one.

use super::{
    api_key::KeyHash,
    cookie,
    credential::{API_KEY, COOKIE, Kind},
    error::Error,
    jwt::{Issuer, Reread},
    signed::{Cookies, Issued},
    tenant::{TenantConfig, Tenants, number},
    user::User,
    voucher::{Holder, Voucher},
};
use crate::settings::reader::{Section, secret_list_of};
use http::{HeaderMap, header};
use serde_json::Value;
use std::collections::HashSet;

/// The tenants and their verifiers.
#[derive(Clone)]
pub struct Verified {
    tenants: Tenants,
    issuers: Vec<Issuer>,
    api_keys: Vec<ApiKey>,
    cookies: Option<Cookies>,
    /// All of the above that may vouch for a cookie.
    vouchers: HashSet<Voucher>,
}

/// A key, as it is kept.
#[derive(Clone, Copy)]
struct ApiKey {
    hash: KeyHash,
    tenant: u16,
    voucher: Voucher,
}

impl ApiKey {
    fn new(hash: KeyHash, (tenant, name): (u16, &str)) -> Self {
        Self { hash, tenant, voucher: Voucher::new("key", &hash.to_string(), name) }
    }
}

const REQUIRED: &str = "send an `Authorization: Bearer` header with a JWT or an API key, an `X-API-Key` header, or a \
                        session cookie of this host, whichever its operator gave you";

impl Verified {
    pub(super) fn with_keys(&self, keys: impl Iterator<Item = (KeyHash, usize)>) -> Self {
        let added: Vec<_> =
            keys.filter_map(|(hash, tenant)| Some(ApiKey::new(hash, self.tenants.named(number(tenant)?)))).collect();
        let mut with = self.clone();
        with.vouchers.extend(added.iter().map(|key| key.voucher));
        with.api_keys.extend(added);
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

    fn by_header(&self, headers: &HeaderMap) -> Result<Option<Holder>, Error> {
        let (has_issuers, has_keys) = (!self.issuers.is_empty(), !self.api_keys.is_empty());
        if (has_issuers || has_keys)
            && let Some(value) = only(headers, header::AUTHORIZATION.as_str())?
        {
            let (scheme, credential) = value.split_once(' ').unwrap_or((value, ""));
            if !scheme.eq_ignore_ascii_case("bearer") {
                return Err(Error::Invalid("only the scheme Bearer is verified here"));
            }
            let credential = credential.trim_matches(' ');
            if credential.matches('.').count() == 2 && has_issuers {
                return Issuer::user(&self.issuers, &self.tenants, credential).map(Some);
            }
            return self.by_key(credential).map(Some);
        }
        if !has_keys {
            return Ok(None);
        }
        only(headers, API_KEY)?.map(|key| self.by_key(key)).transpose()
    }

    fn by_key(&self, key: &str) -> Result<Holder, Error> {
        let hash = KeyHash::of(key);
        // Each is compared, in constant time, whichever it is.
        let found = self.api_keys.iter().fold(None, |found, it| if it.hash == hash { Some(*it) } else { found });
        let key = found.ok_or(Error::Invalid("the API key is none of this host's"))?;
        let user = User::verified(self.tenants.named(key.tenant), "key", &[&hash.to_string()]);
        Ok(Holder::Verified(user, key.voucher))
    }

    pub(super) fn reread(&self) -> Vec<Reread> {
        self.issuers.iter().filter_map(Issuer::reread).collect()
    }

    pub(super) fn kinds(&self) -> Vec<Kind> {
        let (has_issuers, has_keys) = (!self.issuers.is_empty(), !self.api_keys.is_empty());
        let kinds =
            [(Kind::Cookie, self.cookies.is_some()), (Kind::Bearer, has_issuers || has_keys), (Kind::Key, has_keys)];
        kinds.into_iter().filter(|(_, is_there)| *is_there).map(|(kind, _)| kind).collect()
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
        let own_keys = section.read("api_keys", Vec::new(), secret_list_of(KeyHash::read));
        match all {
            [only] if only.key.is_root() => only.api_keys = own_keys,
            _ if own_keys.is_empty() => {}
            _ => problems.add(&path.with("api_keys"), "belong to a tenant: put them into its `api_keys`"),
        }
        let tenants = Tenants::new(all);
        let mut issuers: Vec<Issuer> = Vec::new();
        let jwt = path.with("jwt");
        let items = match section.take("jwt") {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let indexed = items.into_iter().enumerate();
                indexed.map(|(index, item)| (jwt.with(index.to_string()), item)).collect()
            }
            Some(one) => vec![(jwt, one)],
        };
        for (key, item) in items {
            let Some(issuer) = Issuer::read(Section::new(key.clone(), item, problems), &tenants) else {
                continue;
            };
            if issuers.iter().any(|other| other.name() == issuer.name()) {
                problems.add(&key.with("issuer"), "is there twice: put its keys together, in a `jwks`");
            }
            issuers.push(issuer);
        }
        let has_cookies = section.has("cookies");
        let cookies = section.section("cookies");
        let cookies = if has_cookies { Cookies::read(cookies, &tenants) } else { None };
        section.finish();
        let numbered = all.iter().enumerate().filter_map(|(position, tenant)| Some((number(position)?, tenant)));
        let api_keys: Vec<_> = numbered
            .flat_map(|(number, it)| it.api_keys.iter().map(move |hash| ApiKey::new(*hash, (number, &it.name))))
            .collect();
        if issuers.is_empty() && api_keys.is_empty() && cookies.is_none() && problems.is_empty() {
            problems.add(&path, "verifies nobody: it needs `jwt`, `api_keys` or `cookies`, or to be `open`");
        }
        let vouchers = issuers.iter().map(Issuer::voucher);
        let vouchers = vouchers.chain(api_keys.iter().map(|key| key.voucher)).collect();
        Self { tenants, issuers, api_keys, cookies, vouchers }
    }
}

/// A header that may be there once.
fn only<'a>(headers: &'a HeaderMap, name: &str) -> Result<Option<&'a str>, Error> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(None) };
    if values.next().is_some() {
        return Err(Error::Invalid("a header with a credential is there twice"));
    }
    let value = value.to_str().map_err(|_| Error::Invalid("a credential has characters that are no ASCII"))?;
    Ok(Some(value.trim_matches(' ')))
}

/// Returns true if the proxy in front says that the caller used TLS: of several proxies, the first one.
fn over_tls(headers: &HeaderMap) -> bool {
    let first = headers.get("x-forwarded-proto").and_then(|schemes| schemes.as_bytes().split(|it| *it == b',').next());
    first.is_some_and(|scheme| scheme.trim_ascii().eq_ignore_ascii_case(b"https"))
}
