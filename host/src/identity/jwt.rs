//! JSON Web Tokens of issuers that the configuration names (RFC 7519, RFC 8725).
//!
//! A token is accepted if three things hold. It is signed by a key of the issuer that it names, with an algorithm
//! that belongs to that key; it is meant for this host (`aud`); and it is valid now (`exp`, `nbf`). `alg: none` is no
//! algorithm. A public key is never taken for a shared secret, since each key has its algorithms before a token is
//! seen.
//!
//! Keys that come from a file can be read again while tokens are checked. They are replaced as a whole: a token is
//! checked with the old keys or with the new ones, and a file that is wrong changes nothing.

use super::{
    authorization,
    error::Error,
    fetch::fetch,
    secret::secret,
    tenant::Tenants,
    user::User,
    voucher::{Holder, Voucher},
};
use crate::settings::{
    read_file,
    reader::{Section, describe, duration, list, list_of, text},
};
use aws_lc_rs::{
    rsa::PublicKey,
    signature::{
        ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, ParsedPublicKey, RSA_PKCS1_2048_8192_SHA256, RsaParameters,
        RsaPublicKeyComponents,
    },
};
use http::Uri;
use jsonwebtoken::{
    Algorithm, AlgorithmFamily, DecodingKey, DecodingKeyKind, Validation,
    dangerous::insecure_decode_claims,
    decode, decode_header,
    errors::ErrorKind,
    get_current_timestamp,
    jwk::{Jwk, KeyAlgorithm, PublicKeyUse},
};
use serde::Deserialize;
use serde_json::{Map, Value};
use std::{
    ops::RangeInclusive,
    path::{Path, PathBuf},
    str::FromStr,
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};
use tokio::{sync::Notify, time::sleep};
use tokio_rustls::rustls::pki_types::CertificateDer;
use webpki::EndEntityCert;

/// Bytes of a file of keys, at most.
const KEYS: usize = 1 << 20;
/// Bytes of a claim that names somebody.
const NAME: usize = 1024;
/// The most by which clocks may differ. A larger difference means another problem; and the library subtracts it from
/// the time of day, which must not become negative.
const LEEWAY: Duration = Duration::from_secs(60 * 60);
/// Bits of the modulus of an RSA key: no fewer may be used (RFC 7518, 3.3), and the library takes no more.
const RSA: RangeInclusive<u32> = 2048..=8192;
/// Bytes of an Ed25519 public key.
const ED25519: usize = 32;

/// An issuer of tokens, and the rules by which they are checked.
#[derive(Clone)]
pub(super) struct Issuer {
    name: String,
    keys: Arc<Keys>,
    validation: Validation,
    user_claim: String,
    tenant: TenantSource,
    /// The voucher for users whom this issuer names.
    voucher: Voucher,
    /// Scopes that each token must have.
    scopes: Vec<String>,
}

/// The source of a token's tenant.
#[derive(Clone)]
enum TenantSource {
    /// This tenant, for all tokens of the issuer.
    Tenant(u16),
    /// The claim with this name.
    Claim(String),
}

/// An issuer's keys, and their source.
struct Keys {
    source: KeySource,
    /// The algorithms that the configuration allows, if it names any.
    allowed: Option<Vec<Algorithm>>,
    /// The present keys. The `Arc` is copied for each token, and the lock held no longer than that.
    now: RwLock<Arc<[VerificationKey]>>,
    /// Notified when a token names an unknown key: the issuer may have a new one.
    missed: Notify,
}

enum KeySource {
    Secret(String),
    Pem(PathBuf),
    Jwks(PathBuf),
    /// The address at which the issuer publishes its key set, and the time that it may take to get it.
    Url(Uri, Duration),
}

/// The result of reading or fetching an issuer's keys again.
#[derive(Debug)]
pub struct Reread {
    /// The issuer of the keys.
    pub issuer: String,
    /// The number of new keys; or why the old ones stay, with their source.
    pub keys: Result<usize, String>,
}

impl KeySource {
    /// The key of the configuration that names it.
    fn key(&self) -> &'static str {
        match self {
            Self::Secret(_) => "secret",
            Self::Pem(_) => "public_key",
            Self::Jwks(_) => "jwks",
            Self::Url(..) => "jwks_uri",
        }
    }

    fn load(&self) -> Result<Vec<VerificationKey>, String> {
        match self {
            Self::Secret(secret) => {
                Ok(Vec::from_iter(VerificationKey::new(None, DecodingKey::from_secret(secret.as_bytes()))))
            }
            Self::Pem(file) => from_pem(file),
            Self::Jwks(file) => from_jwks(file),
            // They are fetched when the host serves.
            Self::Url(..) => Ok(Vec::new()),
        }
    }
}

impl Keys {
    fn now(&self) -> Arc<[VerificationKey]> {
        self.now.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Reads the source's keys that an allowed algorithm belongs to.
    fn load(source: &KeySource, allowed: Option<&[Algorithm]>) -> Result<Arc<[VerificationKey]>, String> {
        let mut keys = source.load()?;
        if let Some(allowed) = allowed {
            keys.iter_mut().for_each(|key| key.algorithms.retain(|algorithm| allowed.contains(algorithm)));
            keys.retain(|key| !key.algorithms.is_empty());
        }
        Ok(keys.into())
    }

    /// Fetches the keys that the issuer publishes. `None`: they are from another source.
    async fn fetch(&self) -> Option<Result<usize, String>> {
        let KeySource::Url(address, time) = &self.source else { return None };
        let fetched = fetch(address, *time, KEYS).await;
        let keys = match fetched.and_then(|json| in_jwks(&json, &address.to_string())) {
            Ok(keys) => keys,
            Err(why) => return Some(Err(why)),
        };
        Some(Ok(self.exchange(keys.into())))
    }

    /// Reads the file again. `None`: there is none.
    fn reread(&self) -> Option<Result<usize, String>> {
        let file = match &self.source {
            KeySource::Pem(file) | KeySource::Jwks(file) => file,
            // Fetched in the background: nobody waits for it.
            KeySource::Url(..) => {
                self.missed.notify_one();
                return None;
            }
            KeySource::Secret(_) => return None,
        };
        let keys = match Self::load(&self.source, self.allowed.as_deref()) {
            Ok(keys) if keys.is_empty() => {
                return Some(Err(format!("{} has no key that one of `algorithms` belongs to", file.display())));
            }
            Ok(keys) => keys,
            Err(why) => return Some(Err(why)),
        };
        Some(Ok(self.exchange(keys)))
    }

    /// Replaces all keys at once, and returns the new number.
    fn exchange(&self, keys: Arc<[VerificationKey]>) -> usize {
        let number = keys.len();
        *self.now.write().unwrap_or_else(PoisonError::into_inner) = keys;
        number
    }
}

struct VerificationKey {
    id: Option<String>,
    algorithms: Vec<Algorithm>,
    key: DecodingKey,
}

/// The claim by which an issuer is found. Believed only once that issuer's key has verified the token.
#[derive(Deserialize)]
struct Signed {
    iss: String,
}

impl Issuer {
    /// Checks a token, and returns the user whom it names.
    pub(super) fn user(issuers: &[Self], tenants: &Tenants, token: &str) -> Result<Holder, Error> {
        let (issuer, claims) = Self::verified(issuers, token)?;
        let text = |claim: &str| match claims.get(claim) {
            Some(Value::String(name)) if !name.is_empty() && name.len() <= NAME => Some(name.as_str()),
            _ => None,
        };
        let subject =
            text(&issuer.user_claim).ok_or(Error::Invalid("it has no text in the claim that names its user"))?;
        let tenant = match &issuer.tenant {
            TenantSource::Tenant(tenant) => *tenant,
            TenantSource::Claim(claim) => {
                let named = text(claim).and_then(|name| tenants.by_claim(name));
                named.ok_or(Error::Invalid("it has no tenant of this host in the claim that names it"))?
            }
        };
        let user = User::verified(tenants.named(tenant), "jwt", &[&issuer.name, subject]);
        Ok(Holder::Verified(user, issuer.voucher))
    }

    /// The issuer that a token names, and the token's claims, once verified by that issuer's key.
    fn verified<'a>(issuers: &'a [Self], token: &str) -> Result<(&'a Self, Map<String, Value>), Error> {
        let signed: Signed =
            insecure_decode_claims(token).map_err(|_| Error::Invalid("it is no JWT with the claim `iss`"))?;
        let issuer = issuers.iter().find(|issuer| issuer.name == signed.iss);
        let issuer = issuer.ok_or(Error::Invalid("nobody here knows its issuer (`iss`)"))?;
        Ok((issuer, issuer.verify(token)?))
    }

    fn verify(&self, token: &str) -> Result<Map<String, Value>, Error> {
        let header = decode_header(token).map_err(|_| Error::Invalid("its header cannot be read"))?;
        if header.crit.is_some() {
            return Err(Error::Invalid("its header demands what is not known here (`crit`)"));
        }
        let fits = |key: &&VerificationKey| header.kid.is_none() || key.id.is_none() || key.id == header.kid;
        let keys = self.keys.now();
        let is_fetched = matches!(self.keys.source, KeySource::Url(..));
        if is_fetched && keys.is_empty() {
            return Err(Error::Unavailable("the keys of its issuer could not be fetched yet"));
        }
        let mut keys = keys.iter().filter(fits).filter(|key| key.algorithms.contains(&header.alg)).peekable();
        if keys.peek().is_none() {
            self.keys.missed.notify_one();
            return Err(Error::Invalid("its issuer has no key of this id (`kid`) for its algorithm (`alg`)"));
        }
        let mut wrong = ErrorKind::InvalidSignature;
        for key in keys {
            let validation = Validation { algorithms: key.algorithms.clone(), ..self.validation.clone() };
            match decode(token, &key.key, &validation) {
                Ok(token) => return Ok(token.claims),
                Err(error) => wrong = error.into_kind(),
            }
            // Another key may fit only if this one's signature did not.
            if !matches!(wrong, ErrorKind::InvalidSignature) {
                break;
            }
        }
        Err(Error::Invalid(match wrong {
            ErrorKind::InvalidSignature => "its signature is wrong",
            ErrorKind::ExpiredSignature => "it has expired (`exp`)",
            ErrorKind::ImmatureSignature => "it is not valid yet (`nbf`)",
            ErrorKind::InvalidAudience => "it is for another audience (`aud`)",
            ErrorKind::InvalidIssuer => "it is of another issuer (`iss`)",
            ErrorKind::MissingRequiredClaim(_) => "it lacks one of the claims `exp`, `aud` and `iss`",
            _ => "it is no valid JWT",
        }))
    }

    /// The issuer's name in its tokens.
    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn voucher(&self) -> Voucher {
        self.voucher
    }

    /// The user whom a token names, if the issuer comes from NAT's key. The id is NAT's, made of the issuer's name
    /// and the claim.
    pub(super) fn user_of_nat(issuers: &[Self], token: &str) -> Result<User, Error> {
        let (issuer, claims) = Self::verified(issuers, token)?;
        let has = scopes(&claims);
        if !issuer.scopes.iter().all(|scope| has.contains(&scope.as_str())) {
            return Err(Error::Invalid("it lacks a scope (`scope`) that is required here"));
        }
        let early = claims
            .get("iat")
            .and_then(Value::as_f64)
            .is_some_and(|at| at > (get_current_timestamp() + issuer.validation.leeway) as f64);
        if early {
            return Err(Error::Invalid("it is of a later time than now (`iat`)"));
        }
        let identity = authorization::identity(&claims)?;
        Ok(User::from_credential(&format!("{}\u{1f}{identity}", issuer.name)))
    }

    /// Fetches the issuer's keys, if it publishes them. Its users do not change.
    pub(super) async fn fetch(&self) -> Option<Reread> {
        Some(Reread { issuer: self.name.clone(), keys: self.keys.fetch().await? })
    }

    /// Keeps the issuer's keys as fresh as NAT does, for as long as this runs. `None`: it does not publish them.
    pub(super) fn stay_fresh(&self) -> Option<impl Future<Output = ()> + Send + use<>> {
        let (name, keys) = (self.name.clone(), self.keys.clone());
        matches!(keys.source, KeySource::Url(..)).then_some(async move {
            let mut wait = if keys.now().is_empty() { Duration::ZERO } else { FRESH };
            loop {
                tokio::select! {
                    () = sleep(wait) => {}
                    () = keys.missed.notified() => sleep(AGAIN.min(wait)).await,
                }
                wait = match keys.fetch().await {
                    Some(Err(why)) => {
                        tracing::warn!(issuer = name, "an issuer's keys stay as they are: {why}");
                        AGAIN
                    }
                    _ => FRESH,
                };
            }
        })
    }

    /// A provider of NAT's (`authentication`, `_type: jwt`) that `general.front_end.identity_authentication` names.
    pub(super) fn read_of_nat(mut section: Section<'_>) -> Option<Self> {
        let (path, problems) = (section.path().clone(), section.problems());
        for key in ["issuer_url", "jwks_uri", "audience"] {
            section.require(key);
        }
        section.read("_type", (), |value| match value.as_str() {
            Some("jwt") => Ok(()),
            _ => Err(format!("must be `jwt`, to verify who callers are, and is {}", describe(value))),
        });
        let name = section.read("issuer_url", None, |value| address(value).map(Some));
        let jwks = section.read("jwks_uri", None, |value| address(value).map(Some));
        let audience = section.read("audience", String::new(), text);
        let scopes = section.read("scopes", Vec::new(), list_of(text));
        let time = section.read("timeout", Duration::from_secs(10), duration(Duration::from_millis(1)));
        let leeway = section.read("leeway", Duration::from_secs(60), leeway);
        section.finish();
        let ((_, name), (jwks, _)) = (name?, jwks?);
        if audience.is_empty() {
            problems.add(&path.with("audience"), "is empty: tokens for anybody would be taken");
        }
        let keys = Keys {
            source: KeySource::Url(jwks, time),
            allowed: None,
            now: RwLock::new(Arc::new([])),
            missed: Notify::new(),
        };
        let validation = validation(&name, &[audience], leeway);
        let voucher = Voucher::new("jwt of nat", &name, "");
        let user_claim = String::new();
        Some(Self {
            name,
            keys: Arc::new(keys),
            validation,
            user_claim,
            tenant: TenantSource::Tenant(0),
            voucher,
            scopes,
        })
    }

    /// Reads the issuer's file of keys again, if it has one. Its users do not change: sessions and cookies stay.
    pub(super) fn reread(&self) -> Option<Reread> {
        Some(Reread { issuer: self.name.clone(), keys: self.keys.reread()? })
    }

    /// An item of `identity.jwt`.
    pub(super) fn read(mut section: Section<'_>, tenants: &Tenants) -> Option<Self> {
        let (path, problems) = (section.path().clone(), section.problems());
        section.require("issuer");
        section.require("audience");
        let name = section.read("issuer", String::new(), text);
        let audience = section.read("audience", Vec::new(), |value| match value {
            Value::Array(items) if items.is_empty() => Err("must have one at least: else no token is taken".into()),
            Value::Array(_) => list_of(text)(value),
            one => text(one).map(|one| vec![one]),
        });
        let algorithms = section.read("algorithms", None, |value| list_of(algorithm)(value).map(Some));
        let leeway = section.read("leeway", Duration::from_secs(30), leeway);
        let user_claim = section.read("user_claim", "sub".to_owned(), text);
        let tenant = read_tenant_source(&mut section, tenants);
        let sources = ["secret", "public_key", "jwks"];
        let given: Vec<_> = sources.into_iter().filter(|source| section.has(source)).collect();
        if given.len() != 1 {
            let names = list(sources.into_iter());
            problems.add(&path, format!("needs exactly one of {names}, and has {}", list(given.iter().copied())));
        }
        let secret = section.read("secret", None, |value| secret(value).map(Some));
        let file = |key: &'static str| {
            let key = path.with(key);
            move |value: &Value| text(value).map(|file| Some(problems.beside(&key, &file)))
        };
        let pem = section.read("public_key", None, file("public_key"));
        let jwks = section.read("jwks", None, file("jwks"));
        section.finish();
        let source = match (secret, pem, jwks) {
            (Some(secret), ..) => KeySource::Secret(secret),
            (_, Some(file), _) => KeySource::Pem(file),
            (.., Some(file)) => KeySource::Jwks(file),
            _ => return None,
        };
        let keys = Keys::load(&source, algorithms.as_deref());
        let keys = keys.map_err(|why| problems.add(&path.with(source.key()), why)).ok()?;
        if keys.is_empty() {
            problems.add(&path.with("algorithms"), "none of them belongs to a key of this issuer");
        }
        let keys = Arc::new(Keys { source, allowed: algorithms, now: RwLock::new(keys), missed: Notify::new() });
        let validation = validation(&name, &audience, leeway);
        let tenant = tenant?;
        let voucher = match &tenant {
            TenantSource::Tenant(number) => Voucher::new("jwt", &name, tenants.named(*number).1),
            TenantSource::Claim(claim) => Voucher::new("jwt by claim", &name, claim),
        };
        Some(Self { name, keys, validation, user_claim, tenant, voucher, scopes: Vec::new() })
    }
}

/// The time after which published keys are fetched anew, as with NAT.
const FRESH: Duration = Duration::from_secs(15 * 60);
/// The time after which published keys are fetched again if that failed, or if a token names an unknown key.
const AGAIN: Duration = Duration::from_secs(10);

/// The rules that a token of an issuer must keep to.
fn validation(issuer: &str, audience: &[String], leeway: Duration) -> Validation {
    let mut validation = Validation::default();
    validation.set_required_spec_claims(&["exp", "aud", "iss"]);
    validation.set_audience(audience);
    validation.set_issuer(&[issuer]);
    validation.validate_nbf = true;
    validation.leeway = leeway.as_secs();
    validation
}

fn leeway(value: &Value) -> Result<Duration, String> {
    let time = duration(Duration::ZERO)(value)?;
    if time > LEEWAY { Err("must be an hour at most".to_owned()) } else { Ok(time) }
}

/// An address over TLS, or of this machine, as NAT has it; and its text.
fn address(value: &Value) -> Result<(Uri, String), String> {
    let text = text(value)?;
    let parsed = Uri::try_from(text.as_str()).ok().filter(|address| address.authority().is_some());
    let local = |host: &str| ["localhost", "127.0.0.1", "[::1]"].contains(&host);
    let right = |address: &Uri| match address.scheme_str() {
        Some("https") => true,
        Some("http") => address.host().is_some_and(local),
        _ => false,
    };
    let found = parsed.filter(right);
    let why = || format!("must be an address that begins with https://, or http:// on this machine, and is {text:?}");
    found.map(|address| (address, text.clone())).ok_or_else(why)
}

/// A token's scopes: a text with spaces between them, or a list.
fn scopes(claims: &Map<String, Value>) -> Vec<&str> {
    let of = |claim: &str| match claims.get(claim) {
        Some(Value::String(text)) => text.split_whitespace().collect(),
        Some(Value::Array(items)) => items.iter().filter_map(Value::as_str).collect(),
        _ => Vec::new(),
    };
    let scope = of("scope");
    if scope.is_empty() { of("scp") } else { scope }
}

fn read_tenant_source(section: &mut Section<'_>, tenants: &Tenants) -> Option<TenantSource> {
    let (path, problems) = (section.path().clone(), section.problems());
    let named = section.read("tenant", None, |value| text(value).map(Some));
    let claim = section.read("tenant_claim", None, |value| text(value).map(Some));
    match (named, claim) {
        (Some(_), Some(_)) => {
            problems.add(&path, "has both `tenant` and `tenant_claim`: a token has one tenant");
            None
        }
        (Some(name), None) => {
            let tenant = tenants.by_name(&name);
            if tenant.is_none() {
                problems.add(&path.with("tenant"), format!("there is no tenant `{name}`"));
            }
            tenant.map(TenantSource::Tenant)
        }
        (None, Some(claim)) => Some(TenantSource::Claim(claim)),
        (None, None) if tenants.only_one() => Some(TenantSource::Tenant(0)),
        (None, None) => {
            problems.add(&path, "needs `tenant`, or the `tenant_claim` that names one, since there are several");
            None
        }
    }
}

fn algorithm(value: &Value) -> Result<Algorithm, String> {
    let name = text(value)?;
    Algorithm::from_str(&name).map_err(|_| format!("`{name}` is no algorithm that can be verified here"))
}

impl VerificationKey {
    /// `None`: no algorithm takes the key. The library would report that only with each token, as a wrong signature.
    fn new(id: Option<String>, mut key: DecodingKey) -> Option<Self> {
        if let DecodingKeyKind::RsaModulusExponent { n, e } = key.kind() {
            // Some write a zero first, lest the number be taken for a negative one (RFC 7518, 6.3.1.1).
            let number = |bytes: &[u8]| bytes.iter().copied().skip_while(|byte| *byte == 0).collect::<Vec<_>>();
            key = DecodingKey::from_rsa_raw_components(&number(n), &number(e));
        }
        let algorithms = algorithms(&key);
        (!algorithms.is_empty()).then_some(Self { id, algorithms, key })
    }
}

/// The algorithms that can verify with a key.
fn algorithms(key: &DecodingKey) -> Vec<Algorithm> {
    let point = || key.try_get_as_bytes().unwrap_or_default();
    let is_right = match key.family() {
        AlgorithmFamily::Rsa => rsa_bits(key).is_some_and(|bits| RSA.contains(&bits)),
        AlgorithmFamily::Ed => point().len() == ED25519,
        AlgorithmFamily::Ec | AlgorithmFamily::Hmac => true,
    };
    let takes = |algorithm: &Algorithm| match algorithm {
        // Of a curve there is one algorithm.
        Algorithm::ES256 => ParsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point()).is_ok(),
        Algorithm::ES384 => ParsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point()).is_ok(),
        _ => is_right,
    };
    key.family().algorithms().iter().copied().filter(takes).collect()
}

/// Bits of the modulus of a key that is one of RSA.
fn rsa_bits(key: &DecodingKey) -> Option<u32> {
    let key = match key.kind() {
        DecodingKeyKind::SecretOrDer(der) => PublicKey::from_der(der),
        DecodingKeyKind::RsaModulusExponent { n, e } => RsaPublicKeyComponents { n, e }
            .to_parsed_public_key(&RSA_PKCS1_2048_8192_SHA256)
            .and_then(|key| PublicKey::from_der(key.as_ref())),
    };
    RsaParameters::public_modulus_len(key.ok()?.as_ref()).ok()
}

/// The keys of a file in PEM: public keys, and those of certificates. Each block must be usable: a skipped key would
/// be missed only when the first token needs it.
fn from_pem(file: &Path) -> Result<Vec<VerificationKey>, String> {
    let name = file.display();
    let text = read_file(file, KEYS).map_err(|error| format!("{name} cannot be read: {error}"))?;
    let text = String::from_utf8_lossy(&text);
    if text.contains("PRIVATE KEY-----") {
        return Err(format!("{name} has a private key: only its public part belongs here"));
    }
    const WANTED: &str = "public key in PEM, of RSA (2048 bits at least), EC (P-256, P-384) or Ed25519";
    let blocks = pem::parse_many(text.as_bytes()).map_err(|error| format!("{name} is no {WANTED}: {error}"))?;
    // A block that is cut off at the end is silently ignored by the library.
    if blocks.is_empty() || blocks.len() != text.matches("-----BEGIN ").count() {
        return Err(format!("{name} is no {WANTED}, or is cut off"));
    }
    let mut keys = Vec::with_capacity(blocks.len());
    for (block, number) in blocks.iter().zip(1..) {
        let key = public_key(block).and_then(|key| VerificationKey::new(None, key).ok_or_else(String::new));
        keys.push(key.map_err(|why| {
            let place = if blocks.len() == 1 {
                name.to_string()
            } else {
                format!("{name}: block {number}, `{}`,", block.tag())
            };
            let why = if why.is_empty() { why } else { format!(": {why}") };
            format!("{place} is no {WANTED}{why}")
        })?);
    }
    Ok(keys)
}

/// The key of a block. The rest of a certificate is ignored: the operator vouches for it, and not its authority.
fn public_key(block: &pem::Pem) -> Result<DecodingKey, String> {
    let block = if block.tag() == "CERTIFICATE" {
        let der = CertificateDer::from(block.contents());
        let certificate = EndEntityCert::try_from(&der).map_err(|error| format!("the certificate: {error}"))?;
        pem::Pem::new("PUBLIC KEY", certificate.subject_public_key_info().as_ref())
    } else {
        block.clone()
    };
    let text = pem::encode(&block);
    let kinds = [DecodingKey::from_rsa_pem, DecodingKey::from_ec_pem, DecodingKey::from_ed_pem];
    kinds.into_iter().find_map(|kind| kind(text.as_bytes()).ok()).ok_or_else(String::new)
}

fn from_jwks(file: &Path) -> Result<Vec<VerificationKey>, String> {
    let json = read_file(file, KEYS).map_err(|error| format!("{} cannot be read: {error}", file.display()))?;
    in_jwks(&json, &file.display().to_string())
}

/// A set whose keys are not looked at yet.
#[derive(Deserialize)]
struct KeySet {
    keys: Vec<Value>,
}

/// The keys of a key set; `place` names its source.
fn in_jwks(json: &[u8], place: &str) -> Result<Vec<VerificationKey>, String> {
    const MARK: &[u8] = b"\xef\xbb\xbf";
    let json = json.strip_prefix(MARK).unwrap_or(json);
    let set: KeySet =
        serde_json::from_slice(json).map_err(|error| format!("{place} is no JSON Web Key Set: {error}"))?;
    let mut keys = Vec::new();
    // A key that cannot be read is none that could be used (RFC 7517, 5).
    for jwk in set.keys.into_iter().filter_map(|key| serde_json::from_value::<Jwk>(key).ok()) {
        // Sets have keys of other kinds and for other uses as well: those are for others to read.
        if jwk.common.public_key_use == Some(PublicKeyUse::Encryption) {
            continue;
        }
        let Ok(key) = DecodingKey::from_jwk(&jwk) else { continue };
        // A published secret is no secret.
        if key.family() == AlgorithmFamily::Hmac {
            return Err(format!("{place} has a shared secret, which must not be in a set of public keys"));
        }
        let Some(mut key) = VerificationKey::new(jwk.common.key_id.clone(), key) else { continue };
        // A key may say what it is for; it need not.
        if let Some(only) = jwk.common.key_algorithm {
            key.algorithms.retain(|algorithm| KeyAlgorithm::from(*algorithm) == only);
        }
        if !key.algorithms.is_empty() {
            keys.push(key);
        }
    }
    if keys.is_empty() { Err(format!("{place} has no key to verify with")) } else { Ok(keys) }
}
