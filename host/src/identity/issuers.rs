//! The verifier of JWTs: the issuers of `identity.jwt`.

use super::{
    credential::Kind,
    error::Error,
    jwt::{Issuer, Reread},
    tenant::{TenantConfig, Tenants},
    verifier::{Carried, Verifier},
    voucher::{Holder, Voucher},
};
use crate::settings::reader::Section;
use serde_json::Value;

/// The issuers whose tokens are taken.
pub(super) struct Issuers(Vec<Issuer>);

impl Verifier for Issuers {
    fn read(section: &mut Section<'_>, tenants: &Tenants, _: &mut [TenantConfig]) -> Option<Self> {
        let (key, problems) = (section.path().with("jwt"), section.problems());
        let items = match section.take("jwt") {
            None => Vec::new(),
            Some(Value::Array(items)) => {
                let indexed = items.into_iter().enumerate();
                indexed.map(|(index, item)| (key.with(index.to_string()), item)).collect()
            }
            Some(one) => vec![(key, one)],
        };
        let mut issuers: Vec<Issuer> = Vec::new();
        for (key, item) in items {
            let Some(issuer) = Issuer::read(Section::new(key.clone(), item, problems), tenants) else {
                continue;
            };
            if issuers.iter().any(|other| other.name() == issuer.name()) {
                problems.add(&key.with("issuer"), "is there twice: put its keys together, in a `jwks`");
            }
            issuers.push(issuer);
        }
        (!issuers.is_empty()).then_some(Self(issuers))
    }

    fn kinds(&self) -> &'static [Kind] {
        &[Kind::Bearer]
    }

    fn user(&self, carried: &Carried<'_>, tenants: &Tenants) -> Result<Option<Holder>, Error> {
        let token = carried.bearer()?.filter(|credential| credential.matches('.').count() == 2);
        token.map(|token| Issuer::user(&self.0, tenants, token)).transpose()
    }

    fn vouchers(&self) -> Vec<Voucher> {
        self.0.iter().map(Issuer::voucher).collect()
    }

    fn reread(&self) -> Vec<Reread> {
        self.0.iter().filter_map(Issuer::reread).collect()
    }
}
