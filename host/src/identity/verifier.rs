//! The interface of what verifies callers.
//!
//! A new one is a file with a type that has this trait, and a line in the list of `verified`.

use super::{
    credential::Kind,
    error::Error,
    jwt::Reread,
    tenant::{TenantConfig, Tenants},
    voucher::{Holder, Voucher},
};
use crate::settings::reader::Section;
use http::{HeaderMap, header};

/// A way to verify callers by what their requests carry. The session cookie is none: it stands for one of them.
pub(super) trait Verifier: Send + Sync {
    /// Reads its keys of the section `identity`, and what each tenant has for it. `None`: nobody can be verified by it.
    fn read(section: &mut Section<'_>, tenants: &Tenants, all: &mut [TenantConfig]) -> Option<Self>
    where
        Self: Sized;

    /// The kinds of credentials that it looks at, in its order.
    fn kinds(&self) -> &'static [Kind];

    /// The caller of a request. `None`: the request carries nothing that it could verify.
    ///
    /// # Errors
    ///
    /// The request carries a credential of its kind, and that is wrong.
    fn user(&self, carried: &Carried<'_>, tenants: &Tenants) -> Result<Option<Holder>, Error>;

    /// All that vouch for users of its, and so for their session cookies.
    fn vouchers(&self) -> Vec<Voucher>;

    /// Reads its files again, if it has any.
    fn reread(&self) -> Vec<Reread> {
        Vec::new()
    }
}

/// The headers of a request, read as strictly as credentials have to be: a second one may come from somebody else.
pub(super) struct Carried<'a>(pub(super) &'a HeaderMap);

impl<'a> Carried<'a> {
    /// The value of a header that may be there once.
    pub(super) fn header(&self, name: &str) -> Result<Option<&'a str>, Error> {
        let mut values = self.0.get_all(name).iter();
        let Some(value) = values.next() else { return Ok(None) };
        if values.next().is_some() {
            return Err(Error::Invalid("a header with a credential is there twice"));
        }
        let value = value.to_str().map_err(|_| Error::Invalid("a credential has characters that are no ASCII"))?;
        Ok(Some(value.trim_matches(' ')))
    }

    /// The credential of `Authorization: Bearer`.
    pub(super) fn bearer(&self) -> Result<Option<&'a str>, Error> {
        let Some(value) = self.header(header::AUTHORIZATION.as_str())? else { return Ok(None) };
        let (scheme, credential) = value.split_once(' ').unwrap_or((value, ""));
        if !scheme.eq_ignore_ascii_case("bearer") {
            return Err(Error::Invalid("only the scheme Bearer is verified here"));
        }
        Ok(Some(credential.trim_matches(' ')))
    }

    /// Returns true if there is a header for a kind of credential.
    pub(super) fn has(&self, kind: Kind) -> bool {
        match kind {
            Kind::Cookie => self.0.contains_key(header::COOKIE),
            Kind::Bearer | Kind::Basic => self.0.contains_key(header::AUTHORIZATION),
            Kind::Header { header, .. } => self.0.contains_key(header),
        }
    }
}
