//! The voucher of a user: the credential behind a session cookie.

use super::user::User;
use serde::{Deserialize, Serialize};

/// The credential that a cookie was given for.
#[derive(Serialize, Deserialize)]
pub(super) struct Given {
    pub(super) by: Voucher,
    /// The end of the last cookie that is given without the credential.
    pub(super) until: u64,
}

/// The configured key or issuer that vouches for a user, as a hash that does not reveal it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) struct Voucher(u64);

impl Voucher {
    /// Hashes the kind of credential, the key or issuer, and the tenant or the claim that names it.
    pub(super) fn new(kind: &str, who: &str, tenant: &str) -> Self {
        Self(short_hash("carrel 2026-11-24 what vouches for a cookie", &[kind, who, tenant]))
    }
}

pub(super) fn short_hash(context: &str, parts: &[&str]) -> u64 {
    let mut hasher = blake3::Hasher::new_derive_key(context);
    for part in parts {
        hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
    }
    let mut short = [0; 8];
    hasher.finalize_xof().fill(&mut short);
    u64::from_be_bytes(short)
}

/// The caller for whom a cookie is issued.
pub(super) enum Holder {
    /// A caller who has just shown another credential.
    Verified(User, Voucher),
    /// A caller who has shown a cookie.
    Known(User, Option<Given>),
    /// A caller who has shown nothing.
    Unknown,
}
