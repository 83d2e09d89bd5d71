//! Limits of users, tenants and the host over time and at once: calls beyond a limit are refused with the true time
//! after which to come again, and others notice nothing.

mod budgets;
mod images;
mod memory;
mod places;

use carrel::identity::User;
use carrel_tests::{Caller, Reply, Server, Test};
use jsonwebtoken::{EncodingKey, Header, encode, get_current_timestamp as now};
use serde_json::{Value, json};
use std::time::Duration;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    task::yield_now,
    time::{Instant, advance},
};

/// A shared secret, for tests only.
const SECRET: &str = "a secret of the tests, which everybody knows";

/// A host whose callers are verified and name their tenant in a claim.
fn verified() -> Test {
    let jwt = json!({"issuer": "https://all.example", "audience": "carrel", "secret": SECRET, "tenant_claim": "org"});
    Test::hostile().set("identity.jwt", jwt)
}

/// A user of a tenant, who does what they are told.
fn of(server: &Server, tenant: &str, name: &str) -> Caller {
    let claims =
        json!({"iss": "https://all.example", "aud": "carrel", "sub": name, "org": tenant, "exp": now() + 3600});
    let token = encode(&Header::default(), &claims, &EncodingKey::from_secret(SECRET.as_bytes())).expect("a token");
    server.bearer(&token).at("/hostile")
}

/// A user where nobody is verified.
fn user(server: &Server, name: &str) -> Caller {
    server.user(name).at("/hostile")
}

fn count() -> Value {
    json!({"do": "count"})
}

fn sleep() -> Value {
    json!({"do": "sleep", "milliseconds": 8000})
}

#[track_caller]
fn is_limited(reply: &Reply, status: u16, code: &str, setting: &str) {
    assert_eq!(reply.error(status, code)["setting"], setting, "{reply:?}");
}
