//! Callers' identities: a credential is accepted only if all of it is right, and nobody is ever taken for somebody
//! else.

mod cookies;
mod credentials;
mod properties;
mod proxy;
mod published;
mod tokens;

use axum::body::Body;
use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use carrel::identity::{Error, KeyHash, User};
use carrel_tests::{Caller, Reply, Server, Test};
use http::{HeaderMap, HeaderValue, Method, Request};
use jsonwebtoken::{
    Algorithm::{self, ES256, ES384, EdDSA, HS256, RS256},
    DecodingKey, EncodingKey, Header, TokenData,
    dangerous::insecure_decode,
    encode, get_current_timestamp as now,
    jwk::Jwk,
};
use proptest::{collection::vec, prelude::*, sample::Index};
use serde_json::{Value, json};
use std::{collections::HashMap, fs, path::PathBuf};
use tempfile::TempDir;

/// Shared secrets, for tests only.
const SECRET: &str = "a secret of the tests, which everybody knows";
const OTHER_SECRET: &str = "another secret of the tests, as well known";
/// An API key, as somebody may have chosen it.
const KEY: &str = "an-api-key-of-the-tests";

/// The file of a key.
fn file(name: &str) -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/fixtures/keys")).join(name)
}

/// A key to sign with; of `secret`, a shared one.
fn key(algorithm: Algorithm, name: &str) -> EncodingKey {
    let pem = || fs::read(file(&format!("{name}.pem"))).expect("a key");
    let key = match algorithm {
        HS256 if name == "secret" => return EncodingKey::from_secret(SECRET.as_bytes()),
        HS256 => return EncodingKey::from_secret(OTHER_SECRET.as_bytes()),
        RS256 => EncodingKey::from_rsa_pem(&pem()),
        ES256 | ES384 => EncodingKey::from_ec_pem(&pem()),
        _ => EncodingKey::from_ed_pem(&pem()),
    };
    key.expect("a private key")
}

/// An item of a key set; without a `kid` and an `alg`, unless they are put in.
fn jwk(algorithm: Algorithm, name: &str, more: Value) -> Value {
    let jwk = Jwk::from_encoding_key(&key(algorithm, name), algorithm).expect("a public key");
    let mut jwk = serde_json::to_value(jwk).expect("JSON");
    let map = jwk.as_object_mut().expect("a map");
    map.remove("alg");
    map.extend(more.as_object().cloned().unwrap_or_default());
    jwk
}

/// An issuer, who signs tokens.
#[derive(Debug, Clone, Copy)]
struct Issuer {
    name: &'static str,
    algorithm: Algorithm,
    key: &'static str,
    /// The source of the host's copy of the key.
    source: &'static str,
}

const ISSUERS: [Issuer; 9] = [
    Issuer { name: "https://secret.example", algorithm: HS256, key: "secret", source: "secret" },
    Issuer { name: "https://rsa-pem.example", algorithm: RS256, key: "rsa", source: "public_key" },
    Issuer { name: "https://rsa-set.example", algorithm: RS256, key: "rsa", source: "jwks" },
    Issuer { name: "https://p256-pem.example", algorithm: ES256, key: "p256", source: "public_key" },
    Issuer { name: "https://p256-set.example", algorithm: ES256, key: "p256", source: "jwks" },
    Issuer { name: "https://p384-pem.example", algorithm: ES384, key: "p384", source: "public_key" },
    Issuer { name: "https://p384-set.example", algorithm: ES384, key: "p384", source: "jwks" },
    Issuer { name: "https://ed25519-pem.example", algorithm: EdDSA, key: "ed25519", source: "public_key" },
    Issuer { name: "https://ed25519-set.example", algorithm: EdDSA, key: "ed25519", source: "jwks" },
];

impl Issuer {
    /// An item of `identity.jwt`; what it needs is put into the folder.
    fn trusted(self, folder: &TempDir) -> Value {
        let source = match self.source {
            "secret" => json!(SECRET),
            "public_key" => json!(file(&format!("{}.pub.pem", self.key))),
            _ => {
                let set = folder.path().join(format!("{}.json", self.key));
                let keys = json!({"keys": [jwk(self.algorithm, self.key, json!({"kid": "the one"}))]});
                fs::write(&set, keys.to_string()).expect("a file");
                json!(set)
            }
        };
        json!({"issuer": self.name, "audience": ["carrel", "its other name"], self.source: source})
    }

    /// The claims of a valid token of the issuer.
    fn claims(self, subject: &str) -> Value {
        json!({"iss": self.name, "aud": "carrel", "sub": subject, "exp": now() + 600})
    }

    fn sign(self, claims: &Value) -> String {
        self.sign_as(&Header::new(self.algorithm), claims)
    }

    fn sign_as(self, header: &Header, claims: &Value) -> String {
        encode(header, claims, &key(self.algorithm, self.key)).expect("a token")
    }

    /// A right token.
    fn token(self, subject: &str) -> String {
        self.sign(&self.claims(subject))
    }
}

/// A host that trusts all of the issuers.
async fn trusting() -> Server {
    let folder = tempfile::tempdir().expect("a folder");
    let jwt: Vec<_> = ISSUERS.iter().map(|issuer| issuer.trusted(&folder)).collect();
    Test::hostile().set("identity.jwt", jwt).start().await
}

/// Counts a caller's call, and returns the number of counts.
async fn count(caller: &Caller) -> Value {
    caller.clone().at("/hostile").call(json!({"do": "count"})).await.ok()["calls"].clone()
}

/// A caller's user id.
async fn who(caller: &Caller) -> Value {
    caller.clone().at("/hostile").call(json!({"do": "who"})).await.ok()["said"].clone()
}

/// Asserts that a caller is refused, for a reason with these words.
#[track_caller]
fn is_refused(reply: &Reply, words: &str) {
    let error = reply.error(401, "identity_invalid");
    assert_eq!(reply.header("www-authenticate"), "Bearer");
    let detail = error["detail"].as_str().expect("text");
    assert!(detail.starts_with("the credential is not taken: ") && detail.contains(words), "{detail}, not {words}");
}

/// A part of a token.
fn part(json: &Value) -> String {
    URL_SAFE_NO_PAD.encode(json.to_string())
}

/// A token's header, claims and signature.
fn parts(token: &str) -> [&str; 3] {
    token.split('.').collect::<Vec<_>>().try_into().expect("three parts")
}

/// Two tenants, each with an issuer, a key, and a tenant that a third issuer's claim names.
fn tenants() -> Test {
    let issuer = |name: &str, tenant: &str, value: &str| json!({"issuer": name, "audience": "carrel", "secret": SECRET, tenant: value});
    Test::hostile()
        .set("tenants.red", json!({"api_keys": [hash("red-key")]}))
        .set("tenants.blue", json!({"api_keys": [hash("blue-key")], "claims": ["Blue Ltd.", "blue"]}))
        .set(
            "identity.jwt",
            json!([
                issuer("https://red.example", "tenant", "red"),
                issuer("https://blue.example", "tenant", "blue"),
                issuer("https://both.example", "tenant_claim", "org"),
            ]),
        )
        .set("identity.cookies", json!({"secrets": [SECRET]}))
}

fn hash(key: &str) -> String {
    KeyHash::of(key).to_string()
}

/// A token of an issuer that shares [`SECRET`], of a tenant, if one is named.
fn of(issuer: &'static str, subject: &str, tenant: Option<&str>) -> String {
    let issuer = Issuer { name: issuer, algorithm: HS256, key: "secret", source: "secret" };
    let mut claims = issuer.claims(subject);
    if let Some(tenant) = tenant {
        claims["org"] = json!(tenant);
    }
    issuer.sign(&claims)
}

/// The answer of `POST /session`, and the cookie in it, as a browser sends it.
async fn session(caller: &Caller) -> (Reply, String) {
    let reply = caller.ask(Method::POST, "/session").await;
    reply.ok();
    let cookie = reply.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    (reply, cookie)
}
