//! Session cookies that Carrel itself signs.
//!
//! `POST /session` gives one to whoever is verified by another credential, and, where the configuration has it so, to
//! anybody: each gets a user of their own. The cookie is a JWT, signed with a secret of the host's (HS256); nothing is
//! kept of it. The first secret signs, all of them verify: so secrets can be exchanged without anybody noticing, and
//! taking one away ends all cookies that it has signed.
//!
//! A cookie can be exchanged for a newer one, but does not outlive what it was given for: it ends with the key or the
//! issuer that vouched for its user, and after some time the credential has to be shown again.

use super::{
    error::Error,
    secret::secret,
    tenant::Tenants,
    user::User,
    voucher::{Given, Holder, Voucher, short_hash},
};
use crate::settings::reader::{Section, boolean, duration, secret_list_of, text};
use cookie::{Cookie, SameSite};
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, decode_header, encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::{
    collections::HashSet,
    time::{Duration, SystemTime, UNIX_EPOCH},
};
use uuid::Uuid;

/// The audience of a cookie: no other token is taken for one.
const AUDIENCE: &str = "carrel-session";

/// `identity.cookies`.
#[derive(Clone)]
pub(super) struct Cookies {
    /// The first one signs.
    secrets: Vec<Secret>,
    lifetime: Duration,
    /// The time after the credential's use during which a cookie may be exchanged for a newer one.
    renewable: Duration,
    same_site: SameSite,
    /// Only over TLS; if it is not said, as the request came.
    secure: Option<bool>,
    /// The tenant of whoever has no credential at all; none, if nobody gets a cookie then.
    anonymous: Option<u16>,
}

#[derive(Clone)]
struct Secret {
    /// The secret's id: a hash that reveals nothing.
    id: String,
    sign: EncodingKey,
    verify: DecodingKey,
}

#[derive(Serialize, Deserialize)]
struct Claims {
    aud: String,
    /// The user's id.
    sub: String,
    /// The tenant's name.
    tenant: String,
    iat: u64,
    exp: u64,
    /// The credential that the cookie was given for; none if its user never had anything but cookies.
    #[serde(skip_serializing_if = "Option::is_none")]
    given: Option<Given>,
}

/// A cookie that was issued.
pub(crate) struct Issued {
    /// The cookie's user.
    pub(crate) user: User,
    /// The header `Set-Cookie`.
    pub(crate) header: String,
    /// The time for which the cookie is valid.
    pub(crate) lifetime: Duration,
}

impl Cookies {
    /// Verifies a cookie, and that its voucher still exists, and returns its holder.
    pub(super) fn holder(&self, tenants: &Tenants, vouchers: &HashSet<Voucher>, value: &str) -> Result<Holder, Error> {
        let wrong = Error::Invalid("the session cookie is none of this host's");
        let header = decode_header(value).map_err(|_| wrong)?;
        let secret = self.secrets.iter().find(|secret| header.kid.as_deref() == Some(&secret.id)).ok_or(wrong)?;
        let mut validation = Validation::new(Algorithm::HS256);
        validation.set_required_spec_claims(&["exp", "aud", "sub"]);
        validation.set_audience(&[AUDIENCE]);
        validation.leeway = 0;
        let claims = decode::<Claims>(value, &secret.verify, &validation).map_err(|error| match error.kind() {
            jsonwebtoken::errors::ErrorKind::ExpiredSignature => Error::Invalid("the session cookie has expired"),
            _ => wrong,
        })?;
        let Claims { sub, tenant, given, .. } = claims.claims;
        let tenant = tenants.by_name(&tenant).ok_or(wrong)?;
        let still_valid = match &given {
            Some(given) => vouchers.contains(&given.by),
            None => self.anonymous == Some(tenant),
        };
        if !still_valid {
            return Err(Error::Invalid("what the session cookie was given for is not valid any more"));
        }
        Ok(Holder::Known(User::from_id(tenant, &sub).ok_or(wrong)?, given))
    }

    /// Issues a cookie to a caller. `None`: callers without another credential get none.
    pub(super) fn issue(&self, tenants: &Tenants, holder: Holder, name: &str, over_tls: bool) -> Option<Issued> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let (user, given) = match holder {
            Holder::Verified(user, by) => {
                (user, Some(Given { by, until: now.saturating_add(self.renewable.max(self.lifetime).as_secs()) }))
            }
            Holder::Known(user, given) => (user, given),
            Holder::Unknown => {
                let chance = Uuid::from_u128(rand::random()).to_string();
                (User::verified(tenants.named(self.anonymous?), "anonymous", &[&chance]), None)
            }
        };
        let until = given.as_ref().map_or(u64::MAX, |given| given.until);
        let exp = now.saturating_add(self.lifetime.as_secs()).min(until);
        let claims = Claims {
            aud: AUDIENCE.into(),
            sub: user.to_string(),
            tenant: tenants.named(user.tenant()).1.to_owned(),
            iat: now,
            exp,
            given,
        };
        let secret = self.secrets.first()?;
        let header = Header { kid: Some(secret.id.clone()), ..Header::new(Algorithm::HS256) };
        let value = encode(&header, &claims, &secret.sign).ok()?;
        let lifetime = Duration::from_secs(exp.saturating_sub(now));
        Some(Issued { user, header: self.header(name, value, lifetime, over_tls), lifetime })
    }

    /// True if those who have no credential get one, too.
    pub(super) fn are_for_anybody(&self) -> bool {
        self.anonymous.is_some()
    }

    /// The header that takes a cookie away.
    pub(super) fn expire(&self, name: &str, over_tls: bool) -> String {
        self.header(name, String::new(), Duration::ZERO, over_tls)
    }

    fn header(&self, name: &str, value: String, lifetime: Duration, over_tls: bool) -> String {
        let age = i64::try_from(lifetime.as_secs()).unwrap_or(i64::MAX);
        Cookie::build((name, value))
            .path("/")
            .max_age(cookie::time::Duration::seconds(age))
            .http_only(true)
            .same_site(self.same_site)
            // Browsers take no `SameSite=None` without it.
            .secure(self.same_site == SameSite::None || self.secure.unwrap_or(over_tls))
            .to_string()
    }

    pub(super) fn read(mut section: Section<'_>, tenants: &Tenants) -> Option<Self> {
        let (path, problems) = (section.path().clone(), section.problems());
        section.require("secrets");
        let secrets = section.read("secrets", Vec::new(), |value| match value {
            Value::Array(items) if items.is_empty() => Err("must have one at least: the first one signs".into()),
            value => secret_list_of(secret)(value),
        });
        let lifetime = section.read("lifetime", Duration::from_secs(12 * 60 * 60), duration(Duration::from_secs(1)));
        let a_week = Duration::from_secs(7 * 24 * 60 * 60);
        let renewable = section.read("renewable", a_week, duration(Duration::ZERO));
        let same_site = section.read("same_site", SameSite::Lax, |value| match text(value)?.as_str() {
            "lax" => Ok(SameSite::Lax),
            "strict" => Ok(SameSite::Strict),
            "none" => Ok(SameSite::None),
            other => Err(format!("must be `lax`, `strict` or `none`, and is {other:?}")),
        });
        let secure = section.read("secure", None, |value| match value {
            Value::String(auto) if auto == "auto" => Ok(None),
            value => boolean(value).map(Some).map_err(|why| format!("{why}, or `auto`")),
        });
        let named = section.read("anonymous", None, |value| match value {
            Value::Bool(false) => Ok(None),
            value => text(value).map(Some),
        });
        section.finish();
        let anonymous = named.as_ref().and_then(|name| tenants.by_name(name));
        if let (Some(name), None) = (&named, anonymous) {
            problems.add(&path.with("anonymous"), format!("there is no tenant `{name}`"));
        }
        if secrets.is_empty() {
            return None;
        }
        let secrets = secrets.iter().map(|secret| Secret {
            id: format!("{:016x}", short_hash("carrel 2026-11-23 id of a cookie secret", &[secret])),
            sign: EncodingKey::from_secret(secret.as_bytes()),
            verify: DecodingKey::from_secret(secret.as_bytes()),
        });
        Some(Self { secrets: secrets.collect(), lifetime, renewable, same_site, secure, anonymous })
    }
}
