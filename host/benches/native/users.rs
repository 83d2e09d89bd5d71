//! Users and their state: a sharded map, as Carrel's registry, and a lock for each user.

use crate::assistant::Assistant;
use http::{HeaderMap, header};
use sha1::{Digest, Sha1};
use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, LazyLock, Mutex, PoisonError},
};
use uuid::{Builder, Uuid};

const SHARDS: usize = 64;

/// NAT's namespace of user ids.
static NAMESPACE: LazyLock<Uuid> = LazyLock::new(|| v5(&Uuid::NAMESPACE_DNS, b"nemo-agent-toolkit"));

/// One user's state. The lock is tokio's, as functions that wait for something need.
pub(crate) type Session = Arc<tokio::sync::Mutex<Assistant>>;

/// All users.
pub(crate) struct Users {
    shards: Box<[Mutex<HashMap<Uuid, Session>>]>,
    hasher: RandomState,
}

impl Users {
    pub(crate) fn new() -> Self {
        Self { shards: (0..SHARDS).map(|_| Mutex::default()).collect(), hasher: RandomState::new() }
    }

    /// A user's session, a new one if there is none.
    pub(crate) fn session(&self, user: Uuid) -> Session {
        let shard = &self.shards[self.hasher.hash_one(user) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner).entry(user).or_default().clone()
    }
}

/// The user's id: the UUIDv5 of the cookie `nat-session`, the last one if there are several.
pub(crate) fn id(headers: &HeaderMap) -> Option<Uuid> {
    let cookies = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let mut pairs = cookies.flat_map(|cookies| cookies.split(';')).filter_map(|pair| pair.split_once('='));
    let named = pairs.rfind(|(name, _)| name.trim() == "nat-session");
    let value = named.map(|(_, value)| value.trim()).filter(|value| !value.is_empty())?;
    Some(v5(&NAMESPACE, value.as_bytes()))
}

/// The UUIDv5 of a name, hashed as quickly as Carrel does.
fn v5(namespace: &Uuid, name: &[u8]) -> Uuid {
    let mut id = [0; 16];
    id.copy_from_slice(&Sha1::new_with_prefix(namespace).chain_update(name).finalize()[..16]);
    Builder::from_sha1_bytes(id).into_uuid()
}
