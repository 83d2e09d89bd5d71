//! The verifier of API keys: those of `identity.api_keys`, or of each tenant.

use super::{
    api_key::KeyHash,
    credential::{API_KEY, KEY, Kind},
    error::Error,
    tenant::{TenantConfig, Tenants, number},
    user::User,
    verifier::{Carried, Verifier},
    voucher::{Holder, Voucher},
};
use crate::settings::reader::{Section, secret_list_of};

/// The keys that are taken.
pub(super) struct ApiKeys(Vec<ApiKey>);

/// A key, as it is kept.
#[derive(Clone, Copy)]
struct ApiKey {
    hash: KeyHash,
    tenant: u16,
    voucher: Voucher,
}

impl ApiKeys {
    /// Keys, each with its tenant's place.
    pub(super) fn new(keys: impl Iterator<Item = (KeyHash, usize)>, tenants: &Tenants) -> Self {
        let key = |(hash, tenant): (KeyHash, usize)| {
            let (tenant, name) = tenants.named(number(tenant)?);
            Some(ApiKey { hash, tenant, voucher: Voucher::new("key", &hash.to_string(), name) })
        };
        Self(keys.filter_map(key).collect())
    }
}

impl Verifier for ApiKeys {
    fn read(section: &mut Section<'_>, tenants: &Tenants, all: &mut [TenantConfig]) -> Option<Self> {
        let own = section.read("api_keys", Vec::new(), secret_list_of(KeyHash::from_value));
        match all {
            [only] if only.key.is_root() => only.api_keys = own,
            _ if own.is_empty() => {}
            _ => {
                let key = section.path().with("api_keys");
                section.problems().add(&key, "belong to a tenant: put them into its `api_keys`");
            }
        }
        let of_tenants = all.iter().map(|tenant| tenant.api_keys.iter().copied()).enumerate();
        let keys = Self::new(of_tenants.flat_map(|(tenant, keys)| keys.map(move |key| (key, tenant))), tenants);
        (!keys.0.is_empty()).then_some(keys)
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Bearer, KEY]
    }

    fn user(&self, carried: &Carried<'_>, tenants: &Tenants) -> Result<Option<Holder>, Error> {
        let key = match carried.bearer()? {
            None => carried.header(API_KEY)?,
            bearer => bearer,
        };
        let Some(key) = key else { return Ok(None) };
        let hash = KeyHash::of(key);
        // Each is compared, in constant time, whichever it is.
        let found = self.0.iter().fold(None, |found, it| if it.hash == hash { Some(it) } else { found });
        let key = found.ok_or(Error::Invalid("the API key is none of this host's"))?;
        let user = User::verified(tenants.named(key.tenant), "key", &[&hash.to_string()]);
        Ok(Some(Holder::Verified(user, key.voucher)))
    }

    fn vouchers(&self) -> Vec<Voucher> {
        self.0.iter().map(|key| key.voucher).collect()
    }
}
