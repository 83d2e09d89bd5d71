//! NAT's `identity_authentication`: JWTs of issuers that publish their keys. The publisher is a server of the test.

use super::*;
use axum::{Router, extract::State, http::StatusCode, routing::get};
use std::sync::{Arc, Mutex};
use tokio::{net::TcpListener, task::JoinHandle};

/// The publisher's answer.
type Published = Arc<Mutex<(StatusCode, String)>>;

struct Publisher {
    address: String,
    published: Published,
    serving: JoinHandle<()>,
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

impl Publisher {
    async fn start() -> Self {
        let published: Published = Arc::new(Mutex::new((StatusCode::NOT_FOUND, String::new())));
        let answer = async |State(published): State<Published>| published.lock().expect("no panic").clone();
        let app = Router::new().route("/keys", get(answer)).with_state(published.clone());
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = format!("http://{}/keys", listener.local_addr().expect("an address"));
        let serving = tokio::spawn(async move { axum::serve(listener, app).await.expect("it serves") });
        Self { address, published, serving }
    }

    fn publish(&self, status: u16, text: &str) {
        let status = StatusCode::from_u16(status).expect("a status");
        *self.published.lock().expect("no panic") = (status, text.to_owned());
    }

    fn publish_keys(&self, keys: &[Value]) {
        self.publish(200, &json!({"keys": keys}).to_string());
    }

    fn config(&self, more: Value) -> Test {
        let mut provider = json!({
            "_type": "jwt", "issuer_url": SIGNER.name, "jwks_uri": self.address, "audience": "carrel",
        });
        provider.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        Test::hostile()
            .set("authentication", json!({"idp": provider, "other": {"_type": "api_key"}}))
            .set("general.front_end.identity_authentication", json!(["idp"]))
    }
}

const SIGNER: Issuer = ISSUERS[4];

fn own_key() -> Value {
    jwk(SIGNER.algorithm, SIGNER.key, json!({"kid": "one"}))
}

/// Fetches the keys, as the host does when it begins to serve, and now and then.
async fn fetch(server: &Server) -> Vec<Result<usize, String>> {
    server.host.config().identity.fetch().await.into_iter().map(|fetched| fetched.keys).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_taken_by_the_keys_that_its_issuer_publishes() {
    let publisher = Publisher::start().await;
    let server = publisher.config(json!({"scopes": ["read"]})).start().await;
    assert_eq!(server.host.config().ignored, ["authentication.other"]);
    let token = |more: Value| {
        let mut claims = SIGNER.claims("alice");
        claims["scope"] = json!("write read");
        claims.as_object_mut().expect("a map").extend(more.as_object().cloned().unwrap_or_default());
        SIGNER.sign(&claims)
    };
    let alice = server.bearer(&token(json!({})));
    // Until the keys are there, nobody can say whether it is right.
    let reply = alice.clone().at("/hostile").call(json!({"do": "count"})).await;
    reply.error(503, "identity_unavailable");
    assert_eq!(reply.retry_after(), 10);
    assert!(fetch(&server).await[0].as_ref().is_err_and(|why| why.contains("it answers 404")));
    // A key that cannot be read does not matter to the others.
    publisher.publish_keys(&[json!({"kty": "EC", "kid": 5}), own_key(), json!({"kty": "new", "x5c": "abc"})]);
    assert_eq!(fetch(&server).await, [Ok(1)]);
    assert_eq!(count(&alice).await, 1);
    assert_eq!(count(&server.bearer(&token(json!({"exp": now() + 900})))).await, 2);
    // NAT's ids: of the issuer, a separator, and the first claim that names somebody.
    assert_eq!(who(&alice).await, "58d487ed-522d-5b99-9fed-9e2054edfcac");
    let by_mail = server.bearer(&token(json!({"sub": " ", "email": "a@example.org"})));
    assert_eq!(who(&by_mail).await, "604786a3-7c4a-521b-8af4-3477757cad0f");
    for (wrong, why) in [
        (json!({"aud": "others"}), "another audience"),
        (json!({"exp": now() - 70}), "expired"),
        (json!({"nbf": now() + 70}), "not valid yet"),
        (json!({"iss": "https://other.example"}), "knows its issuer"),
        (json!({"scope": "write"}), "lacks a scope"),
        (json!({"iat": now() + 70}), "of a later time"),
        (json!({"sub": 5}), "none of sub, email"),
    ] {
        is_refused(&server.bearer(&token(wrong)).at("/hostile").call(json!({"do": "who"})).await, why);
    }
    let by_list = token(json!({"scope": null, "scp": ["read"]}));
    assert_eq!(who(&server.bearer(&by_list)).await, who(&alice).await);
    // Other credentials are as they were: nobody verifies them.
    count(&server.user("alice")).await;
    count(&server.key("alice")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_exchanged_as_a_whole_and_stay_where_none_can_be_had() {
    let publisher = Publisher::start().await;
    let server = publisher.config(json!({})).start().await;
    publisher.publish_keys(&[own_key()]);
    assert_eq!(fetch(&server).await, [Ok(1)]);
    let (old, new) = (SIGNER, Issuer { algorithm: RS256, key: "rsa", ..SIGNER });
    assert_eq!(count(&server.bearer(&old.token("alice"))).await, 1);
    is_refused(
        &server.bearer(&new.token("alice")).at("/hostile").call(json!({"do": "who"})).await,
        "no key of this id",
    );
    for (status, text) in
        [(500, "{}"), (200, "no JSON"), (200, "{\"keys\": []}"), (302, ""), (200, &"x".repeat(2 << 20))]
    {
        publisher.publish(status, text);
        assert!(fetch(&server).await[0].is_err(), "{status}: {text:.20}");
        assert!(count(&server.bearer(&old.token("alice"))).await.is_number());
    }
    publisher.publish_keys(&[jwk(new.algorithm, new.key, json!({"kid": "two"}))]);
    assert_eq!(fetch(&server).await, [Ok(1)]);
    assert_eq!(count(&server.bearer(&new.token("alice"))).await, 7, "the session is the same one's");
    is_refused(
        &server.bearer(&old.token("alice")).at("/hostile").call(json!({"do": "who"})).await,
        "no key of this id",
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_serves_fetches_the_keys_by_itself() {
    let publisher = Publisher::start().await;
    publisher.publish_keys(&[own_key()]);
    let accepted = json!(["jwt"]);
    let test = publisher.config(json!({})).set("general.front_end.accepted_identity_credentials", accepted);
    let server = test.start().await;
    assert!(server.host.config().identity.is_verified(), "only what is verified is accepted");
    let listening = server.listen().await;
    let alice = server.bearer(&SIGNER.token("alice")).at("/hostile");
    let taken = async {
        while alice.call(json!({"do": "count"})).await.status == 503 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), taken).await.expect("they are fetched");
    assert!(count(&alice).await.is_number());
    is_refused(&server.user("alice").body("{}").await, "not accepted here");
    listening.stop().await.expect("it ends");
}

#[tokio::test]
async fn what_is_wrong_with_a_provider_is_told_at_the_start() {
    let publisher = Publisher::start().await;
    for (key, value, why) in [
        ("authentication.idp._type", json!("api_key"), "authentication.idp._type: must be `jwt`"),
        ("authentication.idp.jwks_uri", json!("http://a.example/keys"), "must be an address that begins with https://"),
        ("authentication.idp.issuer_url", json!("alice"), "authentication.idp.issuer_url: must be an address"),
        ("authentication.idp.audience", json!(""), "authentication.idp.audience: is empty"),
        ("authentication.idp.audience", Value::Null, "authentication.idp: has no `audience`"),
        ("authentication.idp.leeway", json!(7200), "must be an hour at most"),
        ("authentication.idp.scope", json!([]), "did you mean `scopes`?"),
        ("general.front_end.identity_authentication", json!(["idq"]), "there is no `idq` in `authentication`"),
        ("general.front_end.identity_authentication", json!(["idp", "idp"]), "there is no `idp` in `authentication`"),
        ("general.front_end.identity_header", json!("X-User"), "cannot be combined with `identity_header`"),
        (
            "general.front_end.accepted_identity_credentials",
            json!(["basic"]),
            "`accepted_identity_credentials` accepts none",
        ),
        ("identity", json!({"cookies": {"secrets": [SECRET]}}), "identity: has no place beside `identity_header`"),
    ] {
        let told = publisher.config(json!({})).set(key, value).refused().await;
        assert!(told.contains(why), "{key}: {told}");
    }
}
