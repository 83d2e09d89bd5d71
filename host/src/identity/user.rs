//! Users: opaque ids.

use std::{fmt, sync::LazyLock};
use uuid::{Builder, Uuid};

/// A user of a tenant: an opaque id, made of the credential, from which the credential cannot be told. Safe to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    id: Uuid,
    /// The tenant's place in the configuration.
    tenant: u16,
}

/// NAT's namespace: the UUIDv5 of `nemo-agent-toolkit` among the DNS names.
static NAMESPACE: LazyLock<Uuid> = LazyLock::new(|| Uuid::new_v5(&Uuid::NAMESPACE_DNS, b"nemo-agent-toolkit"));

impl User {
    /// The user whom a credential names where nobody is verified; the id is NAT's. There is only one tenant then.
    pub fn from_credential(credential: &str) -> Self {
        Self { id: Uuid::new_v5(&NAMESPACE, credential.as_bytes()), tenant: 0 }
    }

    /// The user whom a verified credential names: who vouches for it, and what it says. Other parts, or the same parts
    /// of another kind or tenant, are another user.
    pub(super) fn verified(tenant: (u16, &str), kind: &str, parts: &[&str]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("carrel 2026-11-23 user id of a verified credential");
        for part in [tenant.1, kind].iter().chain(parts) {
            // With its length, so that no two lists of parts are alike when they are put together.
            hasher.update(&(part.len() as u64).to_le_bytes()).update(part.as_bytes());
        }
        let mut id = [0; 16];
        hasher.finalize_xof().fill(&mut id);
        Self { id: Builder::from_custom_bytes(id).into_uuid(), tenant: tenant.0 }
    }

    /// A user of a tenant, by the id that monitoring shows.
    pub fn from_id(tenant: u16, id: &str) -> Option<Self> {
        Uuid::try_parse(id).ok().map(|id| Self { id, tenant })
    }

    /// The tenant's place in the configuration.
    pub fn tenant(self) -> u16 {
        self.tenant
    }
}

impl fmt::Display for User {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.id.hyphenated().fmt(f)
    }
}
