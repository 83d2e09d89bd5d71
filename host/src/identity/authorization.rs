//! The `Authorization` header: a JWT's claims, a key, or a name and password.

use super::{
    credential::{Credential, is_space},
    error::Error,
    user::User,
};
use base64::{Engine, engine::general_purpose as base64_kinds};
use serde_json::{Map, Value};

/// The user whom the header names; none, if it is of a scheme that names nobody here. `accept` says whether a kind of
/// credential is taken, and `jwt` whom a JWT names.
pub(super) fn user(
    header: &str,
    accept: &dyn Fn(Credential) -> Result<(), Error>,
    jwt: &dyn Fn(&str) -> Result<User, Error>,
) -> Result<Option<User>, Error> {
    let header = header.trim_matches(is_space);
    let Some((scheme, credential)) = header.split_once(is_space) else { return Ok(None) };
    let credential = credential.trim_start_matches(is_space);
    if scheme.eq_ignore_ascii_case("bearer") {
        return match credential.matches('.').count() {
            2 => accept(Credential::Jwt).and_then(|()| jwt(credential)).map(Some),
            _ => accept(Credential::ApiKey).map(|()| Some(User::from_credential(credential))),
        };
    }
    if scheme.eq_ignore_ascii_case("basic") {
        return accept(Credential::Basic).and_then(|()| basic(credential)).map(Some);
    }
    Ok(None)
}

/// The claims that name a user, the first that is a text with something in it.
const CLAIMS: [&str; 3] = ["sub", "email", "preferred_username"];

/// Reads a JWT's claims without verifying them.
pub(super) fn jwt(token: &str) -> Result<User, Error> {
    let mut parts = token.split('.');
    let (Some(header), Some(payload), Some(signature)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(Error::Invalid("the token is not a JWT"));
    };
    object(header).ok_or(Error::Invalid("the JWT's header is not a JSON object in base64url"))?;
    let claims = object(payload).ok_or(Error::Invalid("the JWT's claims are not a JSON object in base64url"))?;
    base64url(signature).ok_or(Error::Invalid("the JWT's signature is not base64url"))?;
    identity(&claims).map(User::from_credential)
}

/// The name that a JWT's claims have for their user.
pub(super) fn identity(claims: &Map<String, Value>) -> Result<&str, Error> {
    let named = CLAIMS.iter().find_map(|claim| match claims.get(*claim) {
        Some(Value::String(name)) => Some(name.trim_matches(is_space)).filter(|name| !name.is_empty()),
        _ => None,
    });
    named.ok_or(Error::Invalid("the JWT has none of sub, email, preferred_username as text"))
}

fn object(part: &str) -> Option<Map<String, Value>> {
    serde_json::from_slice(&base64url(part)?).ok()
}

fn base64url(part: &str) -> Option<Vec<u8>> {
    base64_kinds::URL_SAFE_NO_PAD.decode(part.trim_end_matches('=')).ok()
}

/// A name and password. Both together are the credential: another password is another user.
fn basic(credential: &str) -> Result<User, Error> {
    let decoded = base64_kinds::STANDARD.decode(credential);
    let decoded = decoded.map_err(|_| Error::Invalid("the Basic credential is not base64"))?;
    let decoded = String::from_utf8(decoded).map_err(|_| Error::Invalid("the Basic credential is not UTF-8"))?;
    match decoded.split_once(':') {
        Some(("", _)) => Err(Error::Invalid("the Basic credential has an empty user name")),
        Some(_) => Ok(User::from_credential(credential)),
        None => Err(Error::Invalid("the Basic credential has no colon")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn user(header: &str) -> Result<Option<User>, Error> {
        super::user(header, &|_| Ok(()), &jwt)
    }

    fn token(claims: &str) -> String {
        let part = |text: &str| base64_kinds::URL_SAFE_NO_PAD.encode(text);
        format!("Bearer {}.{}.c2ln", part(r#"{"alg":"none"}"#), part(claims))
    }

    #[test]
    fn the_first_claim_that_names_somebody_counts() {
        let named = |claims: &str| user(&token(claims));
        let somebody = |name| Ok(Some(User::from_credential(name)));
        assert_eq!(named(r#"{"sub":"  a ","email":"b"}"#), somebody("a"));
        assert_eq!(named(r#"{"sub":" ","email":"b"}"#), somebody("b"));
        assert_eq!(named(r#"{"sub":5,"preferred_username":"c"}"#), somebody("c"));
        for nobody in [r#"{"sub":5}"#, "{}", "[]", "", r#"{"name":"x"}"#] {
            assert!(matches!(named(nobody), Err(Error::Invalid(_))), "{nobody}");
        }
    }

    #[test]
    fn what_cannot_be_read_is_an_error_and_an_unknown_scheme_is_not() {
        for wrong in ["Bearer a.b.c", "Bearer ..", "Basic !!!", "Basic bm9jb2xvbg==", "Basic OnB3", "Basic Y2Fyb2w6cHc"]
        {
            assert!(matches!(user(wrong), Err(Error::Invalid(_))), "{wrong}");
        }
        for unknown in ["", "Bearer", "Basic ", "Digest x=y", "Token abc"] {
            assert_eq!(user(unknown), Ok(None), "{unknown}");
        }
    }
}
