//! Tokens: each is taken if all of it is right.

use super::*;

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
        // An extension that the token demands and this host does not know.
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
    // Some write a zero before a number, though RFC 7518 has none there.
    let mut padded = jwk(RS256, "rsa-other", json!({"kid": "padded"}));
    for number in ["n", "e"] {
        let bytes = URL_SAFE_NO_PAD.decode(padded[number].as_str().expect("text")).expect("base64");
        padded[number] = json!(URL_SAFE_NO_PAD.encode([&[0], bytes.as_slice()].concat()));
    }
    // Keys of one curve after the other, without `alg`, which is not needed; and among them keys for other uses.
    let keys = json!({"keys": [
        {"kty": "RSA", "use": "enc", "kid": "sealed", "n": "AQAB", "e": "AQAB"},
        {"kty": "OKP", "crv": "X25519", "kid": "odd", "x": "AQAB"},
        jwk(ES256, "p256", json!({"kid": "first"})),
        jwk(ES256, "p256-other", json!({"kid": "second", "alg": "ES256", "use": "sig"})),
        jwk(ES384, "p384", json!({})),
        jwk(RS256, "rsa", json!({"kid": "long", "alg": "RS512"})),
        padded,
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
        (RS256, "rsa-other", Some("padded")),
    ] {
        assert_eq!(send(algorithm, key, kid).await.ok()["said"], alice, "{key} as {kid:?}");
    }
    let no_key = "no key of this id (`kid`) for its algorithm (`alg`)";
    is_refused(&send(ES256, "p256", Some("second")).await, "its signature is wrong");
    is_refused(&send(ES256, "p256", Some("third")).await, no_key);
    is_refused(&send(ES256, "p256", Some("")).await, no_key);
    // The key says that it is for RS512.
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

/// A host that trusts an issuer by a file in PEM.
async fn trusting_pem(pem: &str) -> (TempDir, Server) {
    let folder = tempfile::tempdir().expect("a folder");
    let keys = folder.path().join("keys.pem");
    fs::write(&keys, pem).expect("a file");
    let server =
        Test::hostile().set("identity.jwt", json!({"issuer": "pem", "audience": "carrel", "public_key": keys}));
    (folder, server.start().await)
}

fn signed(algorithm: Algorithm, key: &'static str) -> String {
    Issuer { name: "pem", algorithm, key, source: "public_key" }.token("alice")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_in_pem_has_any_number_of_keys_and_certificates() {
    let read = |name: &str| fs::read_to_string(file(name)).expect("text");
    let all = [(RS256, "rsa"), (ES256, "p256"), (ES384, "p384"), (EdDSA, "ed25519")];
    let names = |end: &str| all.map(|(_, name)| read(&format!("{name}.{end}.pem")));
    let mixed = [read("rsa.cert.pem"), read("p256.pub.pem"), read("p384.cert.pem"), read("ed25519.pub.pem")];
    for pem in [
        names("pub").concat(),
        names("cert").concat(),
        mixed.concat(),
        mixed.join("\nBag Attributes: what tools write in between\n\n"),
        mixed.concat().replace('\n', "\r\n"),
    ] {
        let (_folder, server) = trusting_pem(&pem).await;
        for (position, (algorithm, key)) in all.into_iter().enumerate() {
            assert_eq!(count(&server.bearer(&signed(algorithm, key))).await, position + 1, "{key}: {pem}");
        }
        for (algorithm, key) in [(RS256, "rsa-other"), (ES256, "p256-other"), (ES384, "p384-other")] {
            is_refused(
                &server.bearer(&signed(algorithm, key)).call(json!({"do": "count"})).await,
                "its signature is wrong",
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_certificates_own_key_counts_and_not_that_of_its_authority() {
    let pem = fs::read_to_string(file("rsa-of-ed25519.cert.pem")).expect("text");
    let (_folder, server) = trusting_pem(&pem).await;
    assert_eq!(count(&server.bearer(&signed(RS256, "rsa"))).await, 1);
    is_refused(&server.bearer(&signed(EdDSA, "ed25519")).call(json!({"do": "count"})).await, "no key of this id");
}
