//! Credentials: their kinds, where a request has them, and their texts.

use super::error::Error;
use crate::settings::reader::{list, text};
use serde_json::Value;

/// The cookie that names a user, or that a session is kept in.
pub const COOKIE: &str = "nat-session";
/// The header with an API key.
pub(super) const API_KEY: &str = "X-API-Key";

/// The place of a credential in a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Cookie,
    /// `Authorization: Bearer`.
    Bearer,
    /// `Authorization: Basic`.
    Basic,
    /// A header with nothing but the credential.
    Header {
        /// The kind's name in the API's description.
        name: &'static str,
        header: &'static str,
    },
}

pub(super) const KEY: Kind = Kind::Header { name: "key", header: API_KEY };

/// A kind of credential, by NAT's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Credential {
    SessionCookie,
    Jwt,
    ApiKey,
    Basic,
}

impl Credential {
    const ALL: [Self; 4] = [Self::SessionCookie, Self::Jwt, Self::ApiKey, Self::Basic];

    /// As in a configuration.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SessionCookie => "session_cookie",
            Self::Jwt => "jwt",
            Self::ApiKey => "api_key",
            Self::Basic => "basic",
        }
    }

    pub(super) fn from_value(value: &Value) -> Result<Self, String> {
        let name = text(value)?;
        let names = || list(Self::ALL.iter().map(|kind| kind.as_str()));
        let found = Self::ALL.into_iter().find(|kind| kind.as_str() == name);
        found.ok_or_else(|| format!("{name:?} is not one of {}", names()))
    }

    pub(super) fn refused(self) -> Error {
        Error::Invalid(match self {
            Self::SessionCookie => "session cookies are not accepted here",
            Self::Jwt => "JWTs are not accepted here",
            Self::ApiKey => "API keys are not accepted here",
            Self::Basic => "names with passwords (Basic) are not accepted here",
        })
    }
}

/// A header's bytes as text: each byte is the character of that number, as HTTP has it.
pub(super) fn latin1(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| char::from(*byte)).collect()
}

/// White space, as Python strips it, among the characters that a header can have.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || ('\x1c'..='\x1f').contains(&c)
}
