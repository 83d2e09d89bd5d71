//! NAT's way: nobody is verified. Whoever sends a user's credential is that user, and a JWT's claims are believed whoever
//! signed it. The order and the ids are NAT's: the cookie, then `Authorization`, then `X-API-Key`; a user's id is the
//! UUIDv5 of the credential, whichever of them it came in.

use super::{API_KEY, COOKIE, Error, User, authorization, cookie};
use http::{HeaderMap, header};

/// The user whom a request's headers name.
pub(super) fn user(headers: &HeaderMap) -> Result<User, Error> {
    if let Some(cookie) = cookie::find(headers, COOKIE).filter(|cookie| !cookie.is_empty()) {
        return Ok(User::from_credential(&cookie));
    }
    if let Some(value) = headers.get(header::AUTHORIZATION)
        && let Some(user) = authorization::user(&latin1(value.as_bytes()))?
    {
        return Ok(user);
    }
    let key = headers.get(API_KEY).map(|value| latin1(value.as_bytes())).filter(|key| !key.is_empty());
    key.map(|key| User::from_credential(&key)).ok_or(Error::Required(
        "send the cookie `nat-session=<name>`, an `Authorization` header (Bearer or Basic) or an `X-API-Key` header",
    ))
}

/// A header's bytes as text: each byte is the character of that number, as HTTP has it.
pub(super) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// White space, as Python strips it, among the characters that a header can have.
pub(super) fn is_space(c: char) -> bool {
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
        assert!(matches!(id(&[]), Err(Error::Required(_))));
        assert!(matches!(id(&[("x-api-key", "")]), Err(Error::Required(_))));
    }
}
