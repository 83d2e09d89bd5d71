//! The parts that all sessions of a host share.

use super::{eviction::Pressure, policy::Policy, tenant::Tenant, tidying::Tidying};
use crate::{
    function::Catalog,
    identity::User,
    limits::{Descriptors, Limits, memory::Memory},
    scheduler::Lane,
};
use std::sync::Arc;

/// The state shared by all sessions.
#[derive(Debug)]
pub struct Shared {
    /// The functions.
    pub catalog: Catalog,
    /// The limits of the host.
    pub limits: Limits,
    /// The tenants, in the configuration's order.
    pub tenants: Vec<Arc<Tenant>>,
    /// The `sessions` settings: rollback, parking and eviction.
    pub policy: Policy,
    pub(crate) lane: Lane,
    pub(crate) memory: Arc<Memory>,
    pub(crate) descriptors: Descriptors,
    pub(crate) pressure: Arc<Pressure>,
    pub(crate) tidying: Tidying,
}

impl Shared {
    /// A user's tenant.
    pub fn tenant(&self, user: User) -> &Arc<Tenant> {
        &self.tenants[usize::from(user.tenant())]
    }
}
