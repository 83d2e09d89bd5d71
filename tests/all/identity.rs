//! Who callers are: each credential is taken if all of it is right, and nobody is ever taken for somebody else.

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

/// Somebody who signs tokens.
#[derive(Debug, Clone, Copy)]
struct Issuer {
    name: &'static str,
    algorithm: Algorithm,
    key: &'static str,
    /// Where the host has its key from.
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

    /// What a right token of it says.
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

/// How often a caller has been counted, this time included.
async fn count(caller: &Caller) -> Value {
    caller.clone().at("/hostile").call(json!({"do": "count"})).await.ok()["calls"].clone()
}

/// Who a caller is.
async fn who(caller: &Caller) -> Value {
    caller.clone().at("/hostile").call(json!({"do": "who"})).await.ok()["said"].clone()
}

/// That a caller is refused, for a reason that has these words.
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

#[tokio::test(flavor = "multi_thread")]
async fn a_right_token_of_each_kind_is_its_subjects_each_time() {
    let server = trusting().await;
    for issuer in ISSUERS {
        let (alice, bob) = (server.bearer(&issuer.token("alice")), server.bearer(&issuer.token("bob")));
        assert_eq!(count(&alice).await, 1, "{issuer:?}");
        assert_eq!(count(&server.bearer(&issuer.token("alice"))).await, 2, "{issuer:?}");
        assert_eq!(count(&bob).await, 1, "{issuer:?}");
    }
    assert_eq!(server.host.registry().live(), 2 * ISSUERS.len(), "equal subjects of two issuers are two users");
    let issuer = ISSUERS[0];
    let alice = who(&server.bearer(&issuer.token("alice"))).await;
    for (claim, value) in [
        ("aud", json!(["others", "its other name"])),
        ("exp", json!(now() - 20)),
        ("exp", json!(now() as f64 + 0.5)),
        ("nbf", json!(now() + 20)),
        ("nbf", json!(now())),
        ("email", json!("bob")),
    ] {
        let mut claims = issuer.claims("alice");
        claims[claim] = value;
        assert_eq!(who(&server.bearer(&issuer.sign(&claims))).await, alice, "{claims}");
    }
    let spaced = server.nobody().with("authorization", &format!("bEARER   {} ", issuer.token("alice")));
    assert_eq!(who(&spaced).await, alice);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_whose_claims_are_not_right_is_refused_whoever_signed_it() {
    let server = trusting().await;
    let late = "expired";
    let lacks = "lacks one of the claims";
    let nobody = "no text in the claim that names its user";
    let wrong = [
        ("exp", json!(now() - 40), late),
        ("exp", json!(0), late),
        ("exp", Value::Null, lacks),
        ("exp", json!("tomorrow"), lacks),
        ("exp", json!(-1), lacks),
        ("nbf", json!(now() + 40), "not valid yet"),
        ("nbf", json!("tomorrow"), "no valid JWT"),
        ("aud", json!("others"), "another audience"),
        ("aud", json!(["others", "Carrel"]), "another audience"),
        ("aud", json!([]), "another audience"),
        ("aud", Value::Null, lacks),
        ("iss", json!("https://nobody.example"), "nobody here knows its issuer"),
        ("iss", json!("https://secret.example/"), "nobody here knows its issuer"),
        ("iss", json!(["https://secret.example"]), "no JWT with the claim `iss`"),
        ("iss", Value::Null, "no JWT with the claim `iss`"),
        ("sub", Value::Null, nobody),
        ("sub", json!(""), nobody),
        ("sub", json!(5), nobody),
        ("sub", json!(["alice"]), "no valid JWT"),
        ("sub", json!("x".repeat(1025)), nobody),
    ];
    for issuer in ISSUERS {
        for (claim, value, words) in &wrong {
            let mut claims = issuer.claims("alice");
            match value {
                Value::Null => drop(claims.as_object_mut().expect("a map").remove(*claim)),
                value => claims[*claim] = value.clone(),
            }
            is_refused(&server.bearer(&issuer.sign(&claims)).call(json!({})).await, words);
        }
    }
    assert_eq!(server.host.registry().live() + server.host.registry().parked(), 0, "nobody got a session");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_that_is_signed_by_somebody_else_or_not_at_all_is_refused() {
    let server = trusting().await;
    let refused = async |token: &str, words: &str| is_refused(&server.bearer(token).call(json!({})).await, words);
    let wrong = "its signature is wrong";
    for issuer in ISSUERS {
        let (algorithm, claims) = (issuer.algorithm, issuer.claims("alice"));
        let token = issuer.token("alice");
        let [header, payload, signature] = parts(&token);
        // The right algorithm, and another key.
        let other = key(algorithm, &format!("{}-other", issuer.key));
        refused(&encode(&Header::new(algorithm), &claims, &other).expect("a token"), wrong).await;
        // A key of its own in the header is nobody's.
        let mut own = Header::new(algorithm);
        own.jku = Some("https://secret.example/keys".into());
        own.jwk = (algorithm != HS256).then(|| Jwk::from_encoding_key(&other, algorithm).expect("a public key"));
        refused(&encode(&own, &claims, &other).expect("a token"), wrong).await;
        // The claims of another, a header of another, a signature of another, part of one, none.
        let mallory = issuer.token("mallory");
        refused(&format!("{header}.{}.{signature}", parts(&mallory)[1]), wrong).await;
        refused(&format!("{header}.{payload}.{}", parts(&mallory)[2]), wrong).await;
        refused(&format!("{}.{payload}.{signature}", part(&json!({"typ": "x", "alg": algorithm}))), wrong).await;
        refused(&format!("{header}.{payload}."), wrong).await;
        refused(&format!("{header}.{payload}.{}", &signature[..signature.len() / 8 * 4]), wrong).await;
        let flipped = if signature.starts_with('A') { "B" } else { "A" };
        refused(&format!("{header}.{payload}.{flipped}{}", &signature[1..]), wrong).await;
        // No algorithm is none, however it is written.
        for none in ["none", "None", "NONE", "nOnE", ""] {
            let header = part(&json!({"alg": none}));
            refused(&format!("{header}.{payload}."), "its header cannot be read").await;
            refused(&format!("{header}.{payload}.{signature}"), "its header cannot be read").await;
        }
        // What the token demands and nobody here knows.
        let critical = Header { crit: Some(vec!["exp".into()]), ..Header::new(algorithm) };
        refused(&issuer.sign_as(&critical, &claims), "`crit`").await;
        let odd = part(&json!({"alg": algorithm, "crit": []}));
        let reply = server.bearer(&format!("{odd}.{payload}.{signature}")).call(json!({})).await;
        reply.error(401, "identity_invalid");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_public_key_is_never_a_secret_and_an_algorithm_never_anothers() {
    let server = trusting().await;
    let words = "no key of this id (`kid`) for its algorithm (`alg`)";
    for issuer in ISSUERS {
        let claims = issuer.claims("alice");
        if issuer.algorithm != HS256 {
            let pem = fs::read(file(&format!("{}.pub.pem", issuer.key))).expect("a key");
            let public = match issuer.algorithm {
                RS256 => DecodingKey::from_rsa_pem(&pem),
                ES256 | ES384 => DecodingKey::from_ec_pem(&pem),
                _ => DecodingKey::from_ed_pem(&pem),
            };
            let der = public.expect("a public key").try_get_as_bytes().expect("its bytes").to_vec();
            // The file with and without its last line break, and what is in it.
            for secret in [&pem[..], pem.trim_ascii_end(), &der] {
                for algorithm in [HS256, Algorithm::HS384, Algorithm::HS512] {
                    let token = encode(&Header::new(algorithm), &claims, &EncodingKey::from_secret(secret));
                    is_refused(&server.bearer(&token.expect("a token")).call(json!({})).await, words);
                }
            }
        }
        for (algorithm, name) in [(RS256, "rsa"), (ES256, "p256"), (ES384, "p384"), (EdDSA, "ed25519")] {
            if name != issuer.key {
                let token = encode(&Header::new(algorithm), &claims, &key(algorithm, name)).expect("a token");
                is_refused(&server.bearer(&token).call(json!({})).await, words);
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_set_gives_the_key_that_the_token_names_or_the_one_that_fits() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("set.json");
    // Of one curve after the other, without `alg`, which is not needed; and among them what is for others.
    let keys = json!({"keys": [
        {"kty": "RSA", "use": "enc", "kid": "sealed", "n": "AQAB", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "kid": "odd", "x": "AQAB"},
        jwk(ES256, "p256", json!({"kid": "first"})),
        jwk(ES256, "p256-other", json!({"kid": "second", "alg": "ES256", "use": "sig"})),
        jwk(ES384, "p384", json!({})),
        jwk(RS256, "rsa", json!({"kid": "long", "alg": "RS512"})),
    ]});
    fs::write(&set, keys.to_string()).expect("a file");
    let jwt = json!({"issuer": "https://set.example", "audience": "carrel", "jwks": set});
    let server = Test::hostile().set("identity.jwt", jwt).start().await;
    let issuer = |algorithm, key| Issuer { name: "https://set.example", algorithm, key, source: "jwks" };
    let send = async |algorithm, key, kid: Option<&str>| {
        let issuer = issuer(algorithm, key);
        let header = Header { kid: kid.map(str::to_owned), ..Header::new(algorithm) };
        server.bearer(&issuer.sign_as(&header, &issuer.claims("alice"))).at("/hostile").call(json!({"do": "who"})).await
    };
    let alice = send(ES256, "p256", Some("first")).await.ok()["said"].clone();
    for (algorithm, key, kid) in [
        (ES256, "p256", None),
        (ES256, "p256-other", Some("second")),
        (ES256, "p256-other", None),
        (ES384, "p384", None),
        // The set's own key has no id: it may be any.
        (ES384, "p384", Some("first")),
    ] {
        assert_eq!(send(algorithm, key, kid).await.ok()["said"], alice, "{key} as {kid:?}");
    }
    let no_key = "no key of this id (`kid`) for its algorithm (`alg`)";
    is_refused(&send(ES256, "p256", Some("second")).await, "its signature is wrong");
    is_refused(&send(ES256, "p256", Some("third")).await, no_key);
    is_refused(&send(ES256, "p256", Some("")).await, no_key);
    // Its key is for RS512, it says.
    is_refused(&send(RS256, "rsa", Some("long")).await, no_key);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_claim_that_names_the_user_and_the_algorithms_are_as_configured() {
    let folder = tempfile::tempdir().expect("a folder");
    let mut jwt = ISSUERS[1].trusted(&folder);
    jwt["user_claim"] = json!("email");
    jwt["algorithms"] = json!(["RS384"]);
    jwt["leeway"] = json!("0s");
    let server = Test::hostile().set("identity.jwt", jwt).start().await;
    let sign = |algorithm, claims: &Value| ISSUERS[1].sign_as(&Header::new(algorithm), claims);
    let mut claims = ISSUERS[1].claims("alice");
    claims["email"] = json!("alice@example.com");
    let alice = server.bearer(&sign(Algorithm::RS384, &claims));
    assert_eq!(count(&alice).await, 1);
    claims["sub"] = json!("bob");
    assert_eq!(count(&server.bearer(&sign(Algorithm::RS384, &claims))).await, 2, "the subject does not count");
    is_refused(&server.bearer(&sign(RS256, &claims)).call(json!({})).await, "no key of this id");
    claims["exp"] = json!(now() - 2);
    is_refused(&server.bearer(&sign(Algorithm::RS384, &claims)).call(json!({})).await, "expired");
    let mut nameless = ISSUERS[1].claims("alice");
    nameless["emails"] = json!("alice@example.com");
    is_refused(&server.bearer(&sign(Algorithm::RS384, &nameless)).call(json!({})).await, "no text in the claim");
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

#[tokio::test(flavor = "multi_thread")]
async fn the_same_subject_in_two_tenants_is_two_users_who_have_nothing_in_common() {
    let server = tenants().start().await;
    let callers = [
        server.bearer(&of("https://red.example", "alice", None)),
        server.bearer(&of("https://blue.example", "alice", None)),
        server.bearer(&of("https://both.example", "alice", Some("red"))),
        server.bearer(&of("https://both.example", "alice", Some("Blue Ltd."))),
        server.key("red-key"),
        server.bearer("blue-key"),
        server.bearer(&of("https://red.example", "red-key", None)),
        server.bearer(&of("https://red.example", &hash("red-key"), None)),
    ];
    for round in 1..=2 {
        for (index, caller) in callers.iter().enumerate() {
            assert_eq!(count(caller).await, round, "caller {index}");
        }
    }
    let of_red = server.host.tenants()[0].sessions();
    assert_eq!((of_red, server.host.tenants()[1].sessions()), (5, 3));
    // Both names of a tenant are the same tenant, and its users are the same users.
    assert_eq!(count(&server.bearer(&of("https://both.example", "alice", Some("blue")))).await, 3);
    // One issuer's claim does not move a user of another one.
    assert_eq!(count(&server.bearer(&of("https://red.example", "alice", Some("blue")))).await, 3);
    for org in [None, Some("green"), Some("Red"), Some("")] {
        let token = of("https://both.example", "alice", org);
        is_refused(&server.bearer(&token).call(json!({})).await, "no tenant of this host in the claim");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_key_is_taken_in_either_header_and_only_the_very_key() {
    let server = Test::hostile().set("identity.api_keys", json!([hash(KEY), hash("another")])).start().await;
    assert_eq!(count(&server.key(KEY)).await, 1);
    assert_eq!(count(&server.bearer(KEY)).await, 2);
    assert_eq!(count(&server.nobody().with("authorization", &format!("BEARER  {KEY}"))).await, 3);
    assert_eq!(count(&server.key("another")).await, 1);
    let (hash, cut) = (hash(KEY), &KEY[..KEY.len() - 1]);
    for wrong in ["", "nobody's", cut, &format!("{KEY}x"), &KEY.to_uppercase(), &hash, &hash["blake3:".len()..]] {
        is_refused(&server.key(wrong).call(json!({})).await, "the API key is none of this host's");
        is_refused(&server.bearer(wrong).call(json!({})).await, "the API key is none of this host's");
    }
    for odd in ["Basic YTpi", "Token x", "Bearer", ""] {
        let reply = server.nobody().with("authorization", odd).call(json!({})).await;
        reply.error(401, "identity_invalid");
    }
    let nobody = server.nobody().call(json!({})).await;
    let detail = nobody.error(401, "identity_required")["detail"].clone();
    assert!(detail.as_str().is_some_and(|text| text.contains("Bearer") && text.contains("X-API-Key")), "{detail}");
    assert_eq!(nobody.header("www-authenticate"), "Bearer");
    // A name that would be somebody where nobody is verified is nobody here.
    server.user("alice").call(json!({})).await.error(401, "identity_required");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_credential_that_is_there_twice_is_nobodys() {
    let server = tenants().start().await;
    let token = of("https://red.example", "alice", None);
    let bearer = format!("Bearer {token}");
    let twice = "a header with a credential is there twice";
    let alice = server.bearer(&token);
    is_refused(&alice.clone().with("authorization", &bearer).call(json!({})).await, twice);
    is_refused(&alice.clone().with("authorization", "Bearer red-key").call(json!({})).await, twice);
    is_refused(&server.key("red-key").with("x-api-key", "blue-key").call(json!({})).await, twice);
    // The first kind that is there counts, and not the next one if that is wrong.
    assert_eq!(who(&alice.clone().with("x-api-key", "nobody's")).await, who(&alice).await);
    is_refused(&server.bearer("nobody's").with("x-api-key", "red-key").call(json!({})).await, "the API key is none");
    let cookie = session(&alice).await.1;
    let both = server.nobody().with("cookie", &cookie).with("cookie", &cookie);
    is_refused(&both.call(json!({})).await, "two session cookies");
    let one_header = server.nobody().with("cookie", &format!("{cookie}; a=b; {cookie}"));
    is_refused(&one_header.call(json!({})).await, "two session cookies");
    is_refused(&server.user("alice").with("authorization", &bearer).call(json!({})).await, "none of this host's");
    assert_eq!(who(&server.key("blue-key").with("cookie", &cookie)).await, who(&alice).await, "the cookie comes first");
}

/// What `POST /session` gives a caller, and the cookie in it, as a browser sends it.
async fn session(caller: &Caller) -> (Reply, String) {
    let reply = caller.ask(Method::POST, "/session").await;
    reply.ok();
    let cookie = reply.header("set-cookie").split(';').next().expect("a cookie").to_owned();
    (reply, cookie)
}

/// The token in a cookie, signed anew with changed claims.
fn forged(cookie: &str, secret: &str, change: impl FnOnce(&mut Header, &mut Value)) -> String {
    let token = cookie.strip_prefix("nat-session=").expect("the session cookie");
    let TokenData { mut header, mut claims } = insecure_decode::<Value>(token).expect("a token");
    change(&mut header, &mut claims);
    let key = EncodingKey::from_secret(secret.as_bytes());
    format!("nat-session={}", encode(&header, &claims, &key).expect("a token"))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_cookie_is_the_same_user_as_the_credential_that_it_was_given_for() {
    let server = tenants().start().await;
    let alice = server.bearer(&of("https://red.example", "alice", None));
    assert_eq!(count(&alice).await, 1);
    let (given, cookie) = session(&alice).await;
    assert_eq!(given.ok(), json!({"user_id": who(&alice).await, "expires_in": 12 * 60 * 60}));
    assert_eq!(given.header("cache-control"), "no-store");
    let token = cookie.strip_prefix("nat-session=").expect("the cookie");
    let payload = String::from_utf8(URL_SAFE_NO_PAD.decode(parts(token)[1]).expect("base64")).expect("text");
    assert!(!payload.contains("alice") && !payload.contains("red.example"), "{payload}");
    let by_cookie = server.nobody().with("cookie", &format!("theme=\u{fc}; {cookie}; a=b=c; x"));
    assert_eq!(count(&by_cookie).await, 3, "as alice, beside cookies that are none of the host's business");
    let (_, newer) = session(&by_cookie).await;
    assert_eq!(count(&server.nobody().with("cookie", &newer)).await, 4);
    // What is said in so many words comes before what a browser sends of itself.
    let (_, of_key) = session(&server.key("blue-key").with("cookie", &cookie)).await;
    assert_eq!(who(&server.nobody().with("cookie", &of_key)).await, who(&server.key("blue-key")).await);
    server.nobody().ask(Method::POST, "/session").await.error(401, "identity_required");
    server.key("nobody's").ask(Method::POST, "/session").await.error(401, "identity_invalid");
    let gone = server.nobody().with("cookie", &cookie).ask(Method::DELETE, "/session").await;
    assert_eq!((gone.status.as_u16(), gone.body.len()), (204, 0));
    let header = gone.header("set-cookie");
    assert!(
        header.starts_with("nat-session=; ") && header.contains("Max-Age=0") && header.contains("Path=/"),
        "{header}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_that_the_host_did_not_sign_or_whose_time_is_over_is_refused() {
    let server = tenants().start().await;
    let alice = server.bearer(&of("https://red.example", "alice", None));
    let (_, cookie) = session(&alice).await;
    let send = async |cookie: &str| server.nobody().with("cookie", cookie).call(json!({"command": "stats"})).await;
    send(&forged(&cookie, SECRET, |_, _| {})).await.ok();
    let none = "the session cookie is none of this host's";
    // By who knows the secret, and still is not right.
    let later = |_: &mut Header, claims: &mut Value| claims["exp"] = json!(now() - 1);
    is_refused(&send(&forged(&cookie, SECRET, later)).await, "the session cookie has expired");
    for (claim, value) in [
        ("aud", json!("carrel")),
        ("aud", Value::Null),
        ("exp", Value::Null),
        ("sub", json!("alice")),
        ("sub", Value::Null),
        ("tenant", json!("green")),
        ("tenant", json!("Blue Ltd.")),
        ("tenant", Value::Null),
    ] {
        is_refused(&send(&forged(&cookie, SECRET, |_, claims| claims[claim] = value)).await, none);
    }
    is_refused(&send(&forged(&cookie, SECRET, |header, _| header.kid = None)).await, none);
    is_refused(&send(&forged(&cookie, SECRET, |header, _| header.alg = Algorithm::HS384)).await, none);
    // By who does not: other claims under the old signature, another secret, no signature.
    is_refused(&send(&forged(&cookie, OTHER_SECRET, |_, _| {})).await, none);
    let blue = forged(&cookie, OTHER_SECRET, |_, claims| claims["tenant"] = json!("blue"));
    is_refused(&send(&blue).await, none);
    let [header, _, signature] = parts(&cookie);
    is_refused(&send(&format!("{header}.{}.{signature}", parts(&blue)[1])).await, none);
    let payload = parts(&cookie)[1];
    is_refused(&send(&format!("nat-session={}.{payload}.", part(&json!({"alg": "none"})))).await, none);
    // A token is no cookie, though the secret is the same, and a cookie is no token.
    is_refused(&send(&format!("nat-session={}", of("https://red.example", "alice", None))).await, none);
    let token = cookie.strip_prefix("nat-session=").expect("the cookie");
    is_refused(&server.bearer(token).call(json!({})).await, "no JWT with the claim `iss`");
    for odd in ["nat-session=", "nat-session=alice", "nat-session=..", "nat-session=\u{fc}.\u{fc}.\u{fc}"] {
        is_refused(&send(odd).await, none);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn secrets_are_exchanged_without_anybody_noticing_and_one_that_is_taken_away_ends_its_cookies() {
    let with = async |secrets: Value| tenants().set("identity.cookies.secrets", secrets).start().await;
    let old = with(json!([SECRET])).await;
    let both = with(json!([OTHER_SECRET, SECRET])).await;
    let new = with(json!([OTHER_SECRET])).await;
    let alice = of("https://red.example", "alice", None);
    let (_, of_old) = session(&old.bearer(&alice)).await;
    let (_, of_both) = session(&both.bearer(&alice)).await;
    let send = async |server: &Server, cookie: &str| {
        server.nobody().with("cookie", cookie).call(json!({"command": "stats"})).await
    };
    send(&old, &of_old).await.ok();
    send(&both, &of_old).await.ok();
    send(&both, &of_both).await.ok();
    send(&new, &of_both).await.ok();
    is_refused(&send(&new, &of_old).await, "none of this host's");
    is_refused(&send(&old, &of_both).await, "none of this host's");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cookie_is_for_the_browser_alone_and_for_tls_if_it_came_so() {
    let attributes = async |server: &Server, proto: Option<&str>| {
        let mut alice = server.bearer(&of("https://red.example", "alice", None));
        if let Some(proto) = proto {
            alice = alice.with("x-forwarded-proto", proto);
        }
        let given = session(&alice).await.0.header("set-cookie").to_owned();
        let ended = alice.ask(Method::DELETE, "/session").await.header("set-cookie").to_owned();
        for header in [&given, &ended] {
            assert!(header.contains("; HttpOnly") && header.contains("; Path=/"), "{header}");
            assert_eq!(header.contains("; Secure"), given.contains("; Secure"), "{header}");
        }
        given
    };
    let server = tenants().set("identity.cookies.lifetime", "90s").start().await;
    for (proto, secure) in [
        (None, false),
        (Some("http"), false),
        (Some("https"), true),
        (Some("HTTPS"), true),
        (Some("https, http"), true),
        (Some("http, https"), false),
        (Some("httpsx"), false),
    ] {
        let given = attributes(&server, proto).await;
        assert_eq!(given.contains("; Secure"), secure, "{proto:?}: {given}");
        assert!(given.contains("; SameSite=Lax") && given.contains("; Max-Age=90"), "{given}");
    }
    let never = tenants().set("identity.cookies.secure", false).set("identity.cookies.same_site", "strict");
    let given = attributes(&never.start().await, Some("https")).await;
    assert!(!given.contains("; Secure") && given.contains("; SameSite=Strict"), "{given}");
    let always = tenants().set("identity.cookies.secure", true).start().await;
    assert!(attributes(&always, None).await.contains("; Secure"));
    // Browsers take no cookie for other sites that is not for TLS.
    let none = tenants().set("identity.cookies.secure", false).set("identity.cookies.same_site", "none");
    let given = attributes(&none.start().await, None).await;
    assert!(given.contains("; Secure") && given.contains("; SameSite=None"), "{given}");
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_credential_there_is_a_cookie_only_where_it_is_said_and_each_is_a_new_user() {
    let test = Test::hostile().set("identity.cookies", json!({"secrets": [SECRET]}));
    let off = test.start().await;
    off.nobody().ask(Method::POST, "/session").await.error(401, "identity_required");
    let on = test.set("identity.cookies.anonymous", "default").start().await;
    on.nobody().call(json!({})).await.error(401, "identity_required");
    let (one, other) = (session(&on.nobody()).await.1, session(&on.nobody()).await.1);
    let (one, other) = (on.nobody().with("cookie", &one), on.nobody().with("cookie", &other));
    assert_eq!((count(&one).await, count(&one).await, count(&other).await), (json!(1), json!(2), json!(1)));
    // Headers of which the configuration has no kind are not looked at: a proxy may have sent them.
    let behind = one.clone().with("authorization", "Basic cHJveHk6cHJveHk=").with("x-api-key", "a proxy's");
    assert_eq!(count(&behind).await, 3);
    assert_eq!(count(&on.nobody().with("cookie", &session(&behind).await.1)).await, 4);
    // Where there are none, there is no such route.
    let without = Test::hostile().set("identity.api_keys", json!([hash(KEY)])).start().await;
    without.key(KEY).ask(Method::POST, "/session").await.error(404, "not_found");
    Test::hostile().start().await.user("alice").ask(Method::DELETE, "/session").await.error(404, "not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn monitoring_shows_everybody_only_themselves() {
    let server = tenants().start().await;
    let (alice, bob) = (server.key("red-key"), server.key("blue-key"));
    for _ in 0..2 {
        count(&alice).await;
    }
    count(&bob).await;
    let ids = [who(&alice).await, who(&bob).await].map(|id| id.as_str().expect("an id").to_owned());
    let seen = async |caller: &Caller, path: &str| caller.ask(Method::GET, path).await.ok();
    let own = seen(&alice, "/monitor/users").await;
    assert_eq!((&own["total_active_users"], &own["live"], &own["parked"]), (&json!(1), &json!(1), &json!(0)));
    assert_eq!(
        (&own["users"][0]["user_id"], &own["users"][0]["requests"]["total_requests"]),
        (&json!(ids[0]), &json!(3))
    );
    assert_eq!(own["users"].as_array().map(Vec::len), Some(1));
    let asked = seen(&alice, &format!("/monitor/users?user_id={}", ids[0])).await;
    assert_eq!(asked["users"][0]["user_id"], json!(ids[0]));
    for other in [&*ids[1], "nobody", ""] {
        let none = seen(&alice, &format!("/monitor/users?user_id={other}")).await;
        assert_eq!((&none["users"], &none["total_active_users"], &none["live"]), (&json!([]), &json!(0), &json!(0)));
    }
    server.get("/monitor/users").await.error(401, "identity_required");
    server.get(&format!("/monitor/users?user_id={}", ids[0])).await.error(401, "identity_required");
    server.key("nobody's").ask(Method::GET, "/monitor/users").await.error(401, "identity_invalid");
}

#[tokio::test(flavor = "multi_thread")]
async fn of_a_caller_who_is_not_verified_nothing_more_is_looked_at() {
    let server = trusting().await;
    // What would be a 422, a 415, a 413 and a 400 of somebody.
    for body in ["{}".to_owned(), "x".repeat(2 << 20), "\"\\ud800\"".to_owned()] {
        server.nobody().body(body).await.error(401, "identity_required");
    }
    for path in ["/generate/stream", "/generate/full", "/v1/workflow", "/hostile"] {
        server.nobody().at(path).call(json!({})).await.error(401, "identity_required");
        is_refused(&server.bearer("x").at(path).call(json!({})).await, "the API key is none of this host's");
    }
    let undeclared = Request::post("/generate").body(Body::from("x")).expect("a request");
    server.send(undeclared).await.error(401, "identity_required");
    assert_eq!(server.get("/health").await.status, 200);
    assert_eq!(server.get("/openapi.json").await.status, 200);
}

// From here on: any bytes at all.

fn headers(name: &'static str, values: &[Vec<u8>]) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for value in values {
        headers.append(name, HeaderValue::from_bytes(value).expect("bytes that a header may have"));
    }
    headers
}

/// Bytes that a header may have, made of what cookies are made of.
fn header_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        4 => Just(b"nat-session=".to_vec()),
        1 => Just(b"nat-session".to_vec()),
        4 => Just(b"\"".to_vec()),
        2 => Just(b"; ".to_vec()),
        2 => Just(b"\\".to_vec()),
        2 => "\\\\[0-4][0-8][0-8]".prop_map(String::into_bytes),
        2 => "[a-c=; \t\\\\\"0-9%]".prop_map(String::into_bytes),
        1 => prop_oneof![32u8..127, 128u8..=255].prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..12).prop_map(|pieces| pieces.concat())
}

/// Text as Python strips it.
fn strip(text: &[char]) -> &[char] {
    let space = |c: &char| matches!(c, '\t'..='\r' | '\x1c'..='\x1f' | ' ' | '\u{85}' | '\u{a0}');
    let from = text.iter().position(|c| !space(c)).unwrap_or(text.len());
    let to = text.iter().rposition(|c| !space(c)).map_or(from, |last| last + 1);
    &text[from..to]
}

/// `http.cookies._unquote`, character by character.
fn unquote(text: &[char]) -> String {
    if text.len() < 2 || text[0] != '"' || text[text.len() - 1] != '"' {
        return text.iter().collect();
    }
    let (text, mut out, mut at) = (&text[1..text.len() - 1], String::new(), 0);
    while at < text.len() {
        let digit = |ahead: usize, most: char| text.get(at + ahead).filter(|c| ('0'..=most).contains(*c));
        match (text[at], digit(1, '3'), digit(2, '7'), digit(3, '7')) {
            ('\\', Some(a), Some(b), Some(c)) => {
                let number = u32::from_str_radix(&String::from_iter([a, b, c]), 8).expect("octal digits");
                out.push(char::from_u32(number).expect("a character"));
                at += 4;
            }
            ('\\', ..) if at + 1 < text.len() => {
                out.push(text[at + 1]);
                at += 2;
            }
            (c, ..) => {
                out.push(c);
                at += 1;
            }
        }
    }
    out
}

/// Starlette's `cookie_parser`: what it says of the session cookie.
fn session_cookie(values: &[Vec<u8>]) -> Option<String> {
    let mut cookies = HashMap::new();
    for value in values {
        let text: Vec<char> = value.iter().map(|byte| char::from(*byte)).collect();
        for chunk in text.split(|c| *c == ';') {
            let (key, value) = match chunk.iter().position(|c| *c == '=') {
                Some(at) => (&chunk[..at], &chunk[at + 1..]),
                None => (&chunk[..0], chunk),
            };
            cookies.insert(strip(key).iter().collect::<String>(), unquote(strip(value)));
        }
    }
    cookies.remove("nat-session").filter(|cookie| !cookie.is_empty())
}

fn credential_bytes() -> impl Strategy<Value = Vec<u8>> {
    let piece = prop_oneof![
        Just(b"Bearer ".to_vec()),
        Just(b"Basic ".to_vec()),
        Just(b".".to_vec()),
        Just(b"eyJhbGciOiJub25lIn0".to_vec()),
        Just(b"eyJpc3MiOiJodHRwczovL3JlZC5leGFtcGxlIn0".to_vec()),
        Just(b"YTpi".to_vec()),
        prop_oneof![32u8..127, 128u8..=255].prop_map(|byte| vec![byte]),
    ];
    vec(piece, 0..8).prop_map(|pieces| pieces.concat())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 3000, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn where_nobody_is_verified_any_cookie_is_read_as_python_reads_it(values in vec(header_bytes(), 0..3)) {
        let identity = carrel::identity::Identity::Open { said: true };
        let user = identity.user(&headers("cookie", &values));
        match session_cookie(&values) {
            Some(credential) => prop_assert_eq!(user, Ok(User::from_credential(&credential))),
            None => prop_assert!(matches!(user, Err(Error::Required(_)))),
        }
    }

    #[test]
    fn where_nobody_is_verified_other_credentials_are_other_users(one in vec(header_bytes(), 1..3), other in vec(header_bytes(), 1..3)) {
        let identity = carrel::identity::Identity::Open { said: true };
        if let (Some(a), Some(b)) = (session_cookie(&one), session_cookie(&other)) {
            let users = [one, other].map(|values| identity.user(&headers("cookie", &values)));
            prop_assert_eq!(a == b, users[0] == users[1]);
        }
    }

    #[test]
    fn where_nobody_is_verified_any_header_is_read_without_a_panic(
        values in vec(credential_bytes(), 1..3),
        name in prop::sample::select(vec!["authorization", "x-api-key"]),
    ) {
        let identity = carrel::identity::Identity::Open { said: true };
        let text: String = values[0].iter().map(|byte| char::from(*byte)).collect();
        let user = identity.user(&headers(name, &values));
        if name == "x-api-key" && !text.is_empty() {
            prop_assert_eq!(user, Ok(User::from_credential(&text)));
        }
    }
}

#[test]
fn whatever_is_verified_any_bytes_are_refused_and_nothing_panics() {
    let identity = tenants().config().identity;
    let names = ["authorization", "x-api-key", "cookie"];
    let any = prop_oneof![header_bytes(), credential_bytes()];
    proptest!(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(3000) }, |(
        values in vec(any, 1..3),
        name in prop::sample::select(names.to_vec()),
    )| {
        prop_assert!(identity.user(&headers(name, &values)).is_err());
    });
}

#[test]
fn a_credential_of_which_one_byte_is_another_is_nobodys() {
    let test = tenants();
    let identity = test.config().identity;
    let token = of("https://red.example", "alice", None);
    let folder = tempfile::tempdir().expect("a folder");
    let curves: Vec<_> = ISSUERS.iter().map(|issuer| issuer.trusted(&folder)).collect();
    let curves = test.set(
        "identity.jwt",
        curves
            .into_iter()
            .map(|mut it| {
                it["tenant"] = json!("red");
                it
            })
            .collect::<Vec<_>>(),
    );
    let curves = curves.config().identity;
    let by_curve = ISSUERS[4].token("alice");
    let right = [
        (&identity, "authorization", "Bearer ", token),
        (&identity, "authorization", "Bearer ", "red-key".to_owned()),
        (&identity, "x-api-key", "", "blue-key".to_owned()),
        (&curves, "authorization", "Bearer ", by_curve),
    ];
    for (identity, name, before, credential) in &right {
        let user = |credential: &[u8]| identity.user(&headers(name, &[[before.as_bytes(), credential].concat()]));
        assert!(user(credential.as_bytes()).is_ok(), "{name}");
        let config = ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) };
        proptest!(config, |(at in any::<Index>(), byte in prop_oneof![33u8..127, 128u8..=255])| {
            let mut changed = credential.clone().into_bytes();
            let at = at.index(changed.len());
            let same = std::mem::replace(&mut changed[at], byte) == byte;
            prop_assert_eq!(user(&changed).is_ok(), same);
        });
    }
}
