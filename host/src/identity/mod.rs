//! 2. Identity: from a request's headers to a user, and the tenant that the user belongs to.
//!
//! Either nobody is verified, as with NAT: `open`. Or every request needs a verified credential: a JWT of a
//! configured issuer, an API key, or a session cookie that this host has signed. Then a user's id is derived from the
//! credential and whoever vouches for it, so that two callers never meet in one session because their credentials
//! look alike.
//!
//! # Layout
//!
//! * [`Identity`]: the `scheme` of a host; [`User`]: an opaque id. [`TenantConfig`]: the tenant of users.
//! * `open`: NAT's way, with `cookie` and `authorization`, which read as NAT reads.
//! * `verified`: the list of verifiers, and the choice of the credential that counts. `verifier`: what one does.
//!   `issuers`, of `jwt`s, and `api_keys`: both that there are. `signed`: cookies that stand for a credential.
//!   `fetch`: keys that an issuer publishes. `voucher`: the credential behind a cookie.

mod api_key;
mod api_keys;
mod authorization;
mod cookie;
mod credential;
mod error;
mod fetch;
mod issuers;
mod jwt;
mod open;
mod scheme;
mod secret;
mod signed;
mod tenant;
mod user;
mod verified;
mod verifier;
mod voucher;

pub use api_key::{KeyHash, generate};
pub(crate) use credential::Kind;
pub use credential::{COOKIE, Credential};
pub use error::Error;
pub use jwt::Reread;
pub use open::{Callers, Open};
pub use scheme::Identity;
pub(crate) use signed::Issued;
pub use tenant::{DEFAULT, TenantConfig};
pub use user::User;

/// The value of the cookie that names a user where nobody is verified.
#[cfg(any(test, fuzzing))]
pub(crate) fn cookie_of(headers: &http::HeaderMap) -> Option<String> {
    cookie::find(headers, COOKIE)
}
