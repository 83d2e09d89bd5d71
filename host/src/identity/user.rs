//! Users: opaque ids.

use sha1::{Digest, Sha1};
use std::{fmt, sync::LazyLock};
use uuid::{Builder, Uuid};

/// A user of a tenant: an opaque id, derived from the credential without revealing it. Safe to log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct User {
    id: Uuid,
    /// The tenant's place in the configuration.
    tenant: u16,
}

/// NAT's namespace: the UUIDv5 of `nemo-agent-toolkit` among the DNS names.
static NAMESPACE: LazyLock<Uuid> = LazyLock::new(|| v5(&Uuid::NAMESPACE_DNS, b"nemo-agent-toolkit"));

/// The UUIDv5 of a name in a namespace (RFC 9562, 5.5). `uuid` has the same without the instructions for
/// SHA-1 that processors of x86 have, which are five times as fast.
fn v5(namespace: &Uuid, name: &[u8]) -> Uuid {
    let hash = Sha1::new_with_prefix(namespace).chain_update(name).finalize();
    let mut id = [0; 16];
    id.copy_from_slice(&hash[..16]);
    Builder::from_sha1_bytes(id).into_uuid()
}

impl User {
    /// The user whom a credential names if nobody is verified; the id is NAT's. There is only one tenant then.
    pub fn from_credential(credential: &str) -> Self {
        Self { id: v5(&NAMESPACE, credential.as_bytes()), tenant: 0 }
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

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::vec, prelude::*};

    /// Parts of so few characters that two lists often differ only in where one part ends and the next begins.
    fn parts() -> impl Strategy<Value = Vec<String>> {
        vec("[a\0\u{1}]{0,3}", 3..6)
    }

    fn id(parts: &[String]) -> String {
        let rest: Vec<_> = parts[2..].iter().map(String::as_str).collect();
        User::verified((0, &parts[0]), &parts[1], &rest).to_string()
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 5000, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn other_tenants_kinds_or_parts_are_other_users(one in parts(), other in parts()) {
            prop_assert_eq!(one == other, id(&one) == id(&other));
        }

        #[test]
        fn a_character_that_moves_from_one_part_to_the_next_makes_another_user(one in parts(), at in 0usize..5) {
            let mut other = one.clone();
            let at = at % (one.len() - 1);
            if let Some(moved) = other[at].pop() {
                other[at + 1].insert(0, moved);
                prop_assert_ne!(id(&one), id(&other));
            }
            // Nor do two parts that become one, nor one more that is empty.
            let mut joined = one.clone();
            let next = joined.remove(at + 1);
            joined[at].push_str(&next);
            joined.push(String::new());
            prop_assert_eq!(joined == one, id(&joined) == id(&one));
            let longer = [&one[..], &[String::new()]].concat();
            prop_assert_ne!(id(&one), id(&longer));
        }

        #[test]
        fn a_user_whom_nobody_verified_is_none_who_is(one in parts()) {
            let credentials = [one.concat(), one.join(":"), one[2].clone()];
            for credential in credentials {
                prop_assert_ne!(User::from_credential(&credential).to_string(), id(&one));
            }
        }
    }

    #[test]
    fn the_same_id_in_two_tenants_is_two_users() {
        let id = "7b031fd4-714b-598e-b755-a517d069edc5";
        assert_ne!(User::from_id(0, id), User::from_id(1, id));
        assert_eq!(User::from_id(1, id).map(User::tenant), Some(1));
        assert_eq!(User::from_id(0, "alice"), None);
    }
}
