//! NAT's way: nobody is verified. A request with a user's credential is that user's, and a JWT's claims are believed
//! whatever its signature. The order and the ids are NAT's: the cookie, then `Authorization`, then `X-API-Key`; a
//! user's id is the UUIDv5 of the credential, wherever it came from.
//!
//! NAT has keys of its own for who is let in (`general.front_end`): a header in which a proxy names the user whom it has
//! verified, and the kinds of credentials that are accepted. NAT keeps to the second one on websockets only.

use super::{
    authorization, cookie,
    credential::{API_KEY, COOKIE, Credential, is_space, latin1},
    error::Error,
    jwt::Issuer,
    user::User,
};
use crate::settings::reader::{Section, list_of, text};
use http::{HeaderMap, HeaderName, HeaderValue, header};
use serde_json::Value;

/// The way to tell callers apart where this host has no section `identity`.
#[derive(Clone, Default)]
pub struct Open {
    /// True if the configuration says so explicitly.
    said: bool,
    callers: Callers,
    /// The issuers of the JWTs that are taken; none, if their claims are believed whoever signed them.
    issuers: Vec<Issuer>,
}

/// NAT's keys for callers, of `general.front_end`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Callers {
    /// `identity_header`: the header in which a proxy names the user.
    pub identity_header: Option<HeaderName>,
    /// `accepted_identity_credentials`: the kinds of credentials that are accepted; all, if it is not given.
    pub accepted: Option<Vec<Credential>>,
    /// `identity_authentication`: the providers of `authentication` that verify JWTs.
    pub authentication: Vec<String>,
}

impl Callers {
    /// The keys of `general.front_end`.
    pub(crate) fn read(section: &mut Section<'_>) -> Self {
        let identity_header = section.read("identity_header", None, |value| {
            let name = text(value)?;
            HeaderName::try_from(name.trim()).map(Some).map_err(|_| format!("{name:?} is not the name of a header"))
        });
        let accepted = section.read("accepted_identity_credentials", None, |value| match value {
            Value::Array(kinds) if kinds.is_empty() => Err("must have one at least: else nobody is let in".into()),
            Value::Array(kinds) => kinds.iter().map(Credential::from_value).collect::<Result<_, _>>().map(Some),
            _ => Err("must be a list".into()),
        });
        if identity_header.is_some() && accepted.is_some() {
            let key = section.path().with("accepted_identity_credentials");
            section
                .problems()
                .add(&key, "cannot be combined with `identity_header`, which names the user of each request");
        }
        let authentication = section.read("identity_authentication", Vec::new(), list_of(text));
        let key = section.path().with("identity_authentication");
        if identity_header.is_some() && !authentication.is_empty() {
            section
                .problems()
                .add(&key, "cannot be combined with `identity_header`, which names the user of each request");
        }
        let no_jwt = |kinds: &Vec<Credential>| !kinds.contains(&Credential::Jwt);
        if !authentication.is_empty() && accepted.as_ref().is_some_and(no_jwt) {
            section.problems().add(&key, "verifies JWTs, and `accepted_identity_credentials` accepts none");
        }
        Self { identity_header, accepted, authentication }
    }

    /// True if none of them is given.
    pub(super) fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn accept(&self, kind: Credential) -> Result<(), Error> {
        match &self.accepted {
            Some(accepted) if !accepted.contains(&kind) => Err(kind.refused()),
            _ => Ok(()),
        }
    }
}

impl std::fmt::Debug for Open {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Open").field("said", &self.said).field("callers", &self.callers).finish_non_exhaustive()
    }
}

impl Open {
    pub(super) fn new(said: bool, callers: Callers, issuers: Vec<Issuer>) -> Self {
        Self { said, callers, issuers }
    }

    /// True if somebody vouches for each caller: the proxy that sets the header, or the issuer of the JWT, if nothing
    /// else is accepted.
    pub(super) fn is_vouched_for(&self) -> bool {
        let only_jwt = self.callers.accepted.as_deref() == Some(&[Credential::Jwt]);
        self.callers.identity_header.is_some() || (only_jwt && !self.issuers.is_empty())
    }

    /// The header of the proxy that verifies callers.
    pub(super) fn header_of_proxy(&self) -> Option<&HeaderName> {
        self.callers.identity_header.as_ref()
    }

    /// The issuers of the JWTs that are taken.
    pub(super) fn issuers(&self) -> &[Issuer] {
        &self.issuers
    }

    fn jwt(&self, token: &str) -> Result<User, Error> {
        if self.issuers.is_empty() { authorization::jwt(token) } else { Issuer::user_of_nat(&self.issuers, token) }
    }

    /// Returns true if the configuration says explicitly that callers are not verified.
    pub(super) fn is_said(&self) -> bool {
        self.said
    }

    /// The user whom a request's headers name.
    pub(super) fn user(&self, headers: &HeaderMap) -> Result<User, Error> {
        if let Some(name) = &self.callers.identity_header {
            return by_proxy(name, headers);
        }
        if let Some(cookie) = cookie::find(headers, COOKIE).filter(|cookie| !cookie.is_empty()) {
            self.callers.accept(Credential::SessionCookie)?;
            return Ok(User::from_credential(&cookie));
        }
        if let Some(value) = headers.get(header::AUTHORIZATION)
            && let Some(user) =
                authorization::user(&latin1(value.as_bytes()), &|kind| self.callers.accept(kind), &|token| {
                    self.jwt(token)
                })?
        {
            return Ok(user);
        }
        let key = headers.get(API_KEY).map(|value| latin1(value.as_bytes())).filter(|key| !key.is_empty());
        let key = key.ok_or(Error::Required(
            "send the cookie `nat-session=<name>`, an `Authorization` header (Bearer or Basic) or an `X-API-Key` header",
        ))?;
        self.callers.accept(Credential::ApiKey)?;
        Ok(User::from_credential(&key))
    }
}

/// The user whom the proxy in front has verified. A caller that reaches this host directly could claim to be anybody.
fn by_proxy(name: &HeaderName, headers: &HeaderMap) -> Result<User, Error> {
    let mut values = headers.get_all(name).iter();
    let missing = Error::Required("the header that the proxy in front of this host has to set is missing");
    let value = latin1(values.next().map(HeaderValue::as_bytes).ok_or(missing)?);
    if values.next().is_some() {
        return Err(Error::Invalid("the header that the proxy in front of this host has to set is there twice"));
    }
    match value.trim_matches(is_space) {
        "" => Err(Error::Invalid("the header that the proxy in front of this host has to set is empty")),
        // NAT's id for it: names of another header are other users.
        identity => Ok(User::from_credential(&format!("trusted-header:{}\u{1f}{identity}", name.as_str()))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(headers: &[(&str, &str)]) -> Result<String, Error> {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            let name = HeaderName::try_from(*name).unwrap_or_else(|error| panic!("{error}"));
            map.append(name, HeaderValue::from_bytes(value.as_bytes()).unwrap_or_else(|error| panic!("{error}")));
        }
        Open::default().user(&map).map(|user| user.to_string())
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
        assert!(matches!(id(&[]), Err(Error::Required(_))));
        assert!(matches!(id(&[("x-api-key", "")]), Err(Error::Required(_))));
    }
}
