//! Tenants: customers of an operator, each with its own users, limits and functions.

use super::api_key::KeyHash;
use crate::{
    limits::Limits,
    settings::{
        KeyPath,
        reader::{Problems, Section, count, list_of, secret_list_of, text},
    },
};
use std::sync::Arc;

/// The tenant of all users where none is configured.
pub const DEFAULT: &str = "default";

/// The most tenants of a host: each has figures of its own in `/metrics`.
const MOST: usize = 1000;

/// A tenant, as `tenants` has it.
#[derive(Debug, Clone)]
pub struct TenantConfig {
    /// The key, for messages.
    pub key: KeyPath,
    /// The tenant's name.
    pub name: Arc<str>,
    /// The tenant's limits; a key that is not given is as in `limits`.
    pub limits: Limits,
    /// The functions that the tenant's users may call, by name; all if not given.
    pub functions: Option<Vec<String>>,
    /// The values of a JWT's claim that mean this tenant; the tenant's name if not given.
    pub claims: Vec<String>,
    /// The hashes of the tenant's API keys.
    pub api_keys: Vec<KeyHash>,
    /// The tenant's share of the processor, relative to the others', when there is not enough for all.
    pub share: u32,
}

impl TenantConfig {
    /// The only one, where `tenants` is not given.
    pub(crate) fn only(limits: &Limits) -> Self {
        Self {
            key: KeyPath::root(),
            name: DEFAULT.into(),
            limits: limits.clone(),
            functions: None,
            claims: Vec::new(),
            api_keys: Vec::new(),
            share: 1,
        }
    }

    /// `tenants`, in the file's order.
    pub(crate) fn read_all(top: &mut Section<'_>, limits: &Limits) -> Vec<Self> {
        let problems = top.problems();
        if !top.has("tenants") {
            top.take("tenants");
            return vec![Self::only(limits)];
        }
        let mut section = top.section("tenants");
        let path = section.path().clone();
        let given = section.rest();
        if given.is_empty() || given.len() > MOST {
            problems.add(&path, format!("has {} tenants, and must have 1 to {MOST}", given.len()));
        }
        let mut tenants: Vec<Self> = Vec::new();
        for (name, value) in given {
            let key = path.with(&name);
            let plain = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_' || c == '.';
            if name.is_empty() || name.len() > 64 || !name.chars().all(plain) {
                problems.add(&key, "a tenant's name has 1 to 64 letters, digits, `-`, `_` and `.`");
                continue;
            }
            let tenant = Self::read(Section::new(key, value, problems), &name, limits);
            for other in &tenants {
                tenant.shares_with(other, problems);
            }
            tenants.push(tenant);
        }
        if tenants.is_empty() { vec![Self::only(limits)] } else { tenants }
    }

    fn read(mut section: Section<'_>, name: &str, limits: &Limits) -> Self {
        let key = section.path().clone();
        let tenant = Self {
            name: name.into(),
            limits: limits.read_of_tenant(section.section("limits")),
            functions: section.read("functions", None, |value| list_of(text)(value).map(Some)),
            claims: section.read("claims", vec![name.to_owned()], list_of(text)),
            api_keys: section.read("api_keys", Vec::new(), secret_list_of(KeyHash::from_value)),
            share: section.read("share", 1, |value| count(1, 1000)(value).map(|share| share as u32)),
            key,
        };
        section.finish();
        tenant
    }

    /// No credential may belong to two tenants.
    fn shares_with(&self, other: &Self, problems: &Problems) {
        for claim in self.claims.iter().filter(|claim| other.claims.contains(claim)) {
            problems.add(&self.key.with("claims"), format!("`{claim}` belongs to the tenant `{}` already", other.name));
        }
        if self.api_keys.iter().any(|hash| other.api_keys.contains(hash)) {
            problems
                .add(&self.key.with("api_keys"), format!("one of them belongs to the tenant `{}` already", other.name));
        }
    }
}

/// The tenants, as credentials name them.
#[derive(Debug, Default, Clone)]
pub(super) struct Tenants {
    names: Vec<Arc<str>>,
    claims: Vec<Vec<String>>,
}

impl Tenants {
    pub(super) fn new(tenants: &[TenantConfig]) -> Self {
        Self {
            names: tenants.iter().map(|tenant| tenant.name.clone()).collect(),
            claims: tenants.iter().map(|tenant| tenant.claims.clone()).collect(),
        }
    }

    pub(super) fn only_one(&self) -> bool {
        self.names.len() == 1
    }

    pub(super) fn by_name(&self, name: &str) -> Option<u16> {
        number(self.names.iter().position(|it| **it == *name)?)
    }

    pub(super) fn by_claim(&self, claim: &str) -> Option<u16> {
        number(self.claims.iter().position(|claims| claims.iter().any(|it| it == claim))?)
    }

    pub(super) fn named(&self, tenant: u16) -> (u16, &str) {
        (tenant, &self.names[usize::from(tenant)])
    }
}

/// There are never more tenants than that.
pub(super) fn number(position: usize) -> Option<u16> {
    u16::try_from(position).ok()
}
