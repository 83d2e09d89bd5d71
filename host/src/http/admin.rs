//! The operator's routes, on a listener of their own: nothing of them is on the port that callers reach.
//!
//! Everybody who can connect can use all of them. So the listener is on the machine itself, or asks for a token. If
//! it asks for none, it refuses requests that a web page may have caused: those have an `Origin`, or name another
//! host.

use super::{
    answer::json,
    error::Error,
    own::{
        health, metrics,
        monitor::{self, BATCH, SHARDS},
    },
    paths::decoding,
};
use crate::{
    Host,
    identity::{KeyHash, User},
    session::{NotTaken, Seen, Tenant, Visit},
};
use axum::{
    Router,
    body::Body,
    extract::{
        Path, Query, Request, State,
        rejection::{PathRejection, QueryRejection},
    },
    middleware::{self, Next},
    response::IntoResponse,
    routing::{get, post},
};
use http::{HeaderMap, Response, StatusCode, header};
use serde::Deserialize;
use serde_json::{Value, json};
use std::{net::IpAddr, sync::Arc, time::SystemTime};
use tokio::task::yield_now;

/// Items of one answer: by default, and at most.
const PAGE: (usize, usize) = (100, 1000);

/// All of the operator's routes.
pub fn admin(host: Arc<Host>) -> Router {
    let routes = Router::new()
        .route("/health", get(health::get))
        .route("/metrics", get(metrics::get))
        .route("/tenants", get(tenants))
        .route("/sessions", get(sessions))
        .route("/sessions/{tenant}/{user}", get(session).delete(drop_session))
        .route("/drain", post(drain))
        .method_not_allowed_fallback(async || Error::method_not_allowed())
        .with_state(host.clone());
    decoding(routes, |_| Error::not_found().into_response()).layer(middleware::from_fn_with_state(host, guard))
}

/// Lets the operator in.
async fn guard(State(host): State<Arc<Host>>, request: Request, next: Next) -> Result<Response<Body>, Error> {
    let token = host.config().admin.as_ref().and_then(|admin| admin.token);
    let right = match token {
        Some(token) => bearer(request.headers()).is_some_and(|given| KeyHash::of(given) == token),
        None => is_local(request.headers()),
    };
    if right { Ok(next.run(request).await) } else { Err(Error::not_the_operator(token.is_some())) }
}

fn bearer(headers: &HeaderMap) -> Option<&str> {
    let (scheme, token) = headers.get(header::AUTHORIZATION)?.to_str().ok()?.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

/// Returns true if no web page of another origin can have caused a request.
fn is_local(headers: &HeaderMap) -> bool {
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or_default();
    let name = host.rsplit_once(':').map_or(host, |(name, port)| if port.ends_with(']') { host } else { name });
    let address = name.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    let local = name.eq_ignore_ascii_case("localhost") || address.is_ok_and(|address| address.is_loopback());
    local && !headers.contains_key(header::ORIGIN)
}

/// The tenants in the configuration's order, page by page.
async fn tenants(
    State(host): State<Arc<Host>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response<Body>, Error> {
    let (asked, _visit) = begin(&host, asked)?;
    let first = match &asked.after {
        Some(name) => usize::from(number(&host, name)?) + 1,
        None => 0,
    };
    let all = host.tenants();
    let rest = all.get(first..).unwrap_or_default();
    let page = &rest[..asked.limit().min(rest.len())];
    let mut body = format!(r#"{{"total":{},"tenants":["#, all.len());
    for (index, it) in page.iter().enumerate() {
        add(&mut body, index, &tenant(it)).await;
    }
    let last = page.last().filter(|_| page.len() < rest.len()).map(|last| &**last.name());
    body.push_str(&format!(r#"],"after":{}}}"#, json!(last)));
    Ok(json(StatusCode::OK, body))
}

/// Begins a list: it counts as a call until it is made.
fn begin(host: &Host, asked: Result<Query<Asked>, QueryRejection>) -> Result<(Asked, Visit), Error> {
    let Query(asked) = asked.map_err(|error| Error::invalid_query(error.body_text()))?;
    let visit = host.registry().visit(None).map_err(|refusal| Error::refused(&refusal))?;
    Ok((asked, visit))
}

/// Adds an item to a list. Now and then others get a turn.
async fn add(body: &mut String, index: usize, item: &Value) {
    if index > 0 {
        body.push(',');
    }
    body.push_str(&item.to_string());
    if index % BATCH == BATCH - 1 {
        yield_now().await;
    }
}

/// A tenant's usage beside its limits, as JSON.
fn tenant(tenant: &Tenant) -> Value {
    let quota = &tenant.limits().tenant;
    let rate =
        |rate: Option<crate::limits::Rate>| rate.map(|it| json!({"per_second": it.per_second, "burst": it.burst}));
    json!({
        "tenant": &**tenant.name(),
        "calls": {"in_progress": tenant.calls(), "limit": quota.calls, "ended": tenant.calls_ended()},
        "sessions": {"count": tenant.sessions(), "limit": quota.sessions},
        "memory": {"bytes": tenant.memory_used(), "limit": quota.memory},
        "fuel": {"used": tenant.fuel_used(), "left": tenant.fuel_left(), "rate": rate(quota.fuel)},
        "requests": {"rate": rate(quota.requests)},
    })
}

/// The query of a list.
#[derive(Deserialize)]
struct Asked {
    /// The tenant whose sessions are listed; all if not given.
    tenant: Option<String>,
    /// The end of the page before: that page's own `after`.
    after: Option<String>,
    limit: Option<usize>,
}

impl Asked {
    fn limit(&self) -> usize {
        self.limit.unwrap_or(PAGE.0).clamp(1, PAGE.1)
    }
}

/// The sessions in the host's own order, page by page. A page starts where the one before ended, without a look at
/// earlier ones.
async fn sessions(
    State(host): State<Arc<Host>>,
    asked: Result<Query<Asked>, QueryRejection>,
) -> Result<Response<Body>, Error> {
    let (asked, _visit) = begin(&host, asked)?;
    let tenant = asked.tenant.as_deref().map(|name| number(&host, name)).transpose()?;
    let after = match &asked.after {
        Some(place) => Some(user_at(place).ok_or_else(|| Error::invalid_query(NO_PLACE.into()))?),
        None => None,
    };
    let total = match tenant.and_then(|tenant| host.tenants().get(usize::from(tenant))) {
        Some(tenant) => tenant.sessions(),
        None => host.registry().sessions(),
    };
    let mut body = format!(r#"{{"total":{total},"sessions":["#);
    let (mut count, mut last, mut more, mut looked_at) = (0, None, false, 0);
    let mut walk = host.registry().walk(after);
    'walk: while let Some(shard) = walk.next_shard(tenant) {
        for seen in shard {
            if count == asked.limit() {
                more = true;
                break 'walk;
            }
            add(&mut body, count, &one(&host, &seen)).await;
            last = Some(seen.session.user());
            count += 1;
        }
        looked_at += 1;
        if looked_at % SHARDS == 0 {
            yield_now().await;
        }
    }
    let next = last.filter(|_| more).map(|user| format!("{}.{user}", user.tenant()));
    body.push_str(&format!(r#"],"after":{}}}"#, json!(next)));
    Ok(json(StatusCode::OK, body))
}

const NO_PLACE: &str = "`after` is what the page before gave as `after`";

fn user_at(place: &str) -> Option<User> {
    let (tenant, user) = place.split_once('.')?;
    User::from_id(tenant.parse().ok()?, user)
}

/// A session, as monitoring has it, with its tenant.
fn one(host: &Host, seen: &Seen) -> Value {
    let mut shown = monitor::user(seen, SystemTime::now(), host.catalog().functions().len());
    shown["tenant"] = (&**seen.session.tenant().name()).into();
    shown
}

/// A session's tenant and user.
type Named = Path<(String, String)>;

async fn session(State(host): State<Arc<Host>>, path: Result<Named, PathRejection>) -> Result<Response<Body>, Error> {
    let Path((tenant, user)) = path.map_err(|_| Error::invalid_path())?;
    let seen = host.registry().look(named(&host, &tenant, &user)?).ok_or_else(Error::not_found)?;
    Ok(json(StatusCode::OK, one(&host, &seen).to_string()))
}

/// Drops a session that nobody uses, with all that it holds.
async fn drop_session(
    State(host): State<Arc<Host>>,
    path: Result<Named, PathRejection>,
) -> Result<Response<Body>, Error> {
    let Path((tenant, user)) = path.map_err(|_| Error::invalid_path())?;
    let user = named(&host, &tenant, &user)?;
    let dropped = host.registry().take_if_idle(user).map_err(|kept| match kept {
        NotTaken::Absent => Error::not_found(),
        NotTaken::InUse => Error::session_in_use(),
    })?;
    tracing::info!(%user, %tenant, "a session was dropped by the operator");
    drop(dropped);
    Ok(json(StatusCode::OK, json!({"dropped": user.to_string()}).to_string()))
}

/// Tells the host to stop, as a signal would: calls that run are let end.
async fn drain(State(host): State<Arc<Host>>) -> Response<Body> {
    host.stop();
    json(StatusCode::ACCEPTED, json!({"draining": true, "calls": host.registry().in_use()}).to_string())
}

fn number(host: &Host, name: &str) -> Result<u16, Error> {
    let position = host.tenants().iter().position(|tenant| **tenant.name() == *name);
    position.and_then(|position| u16::try_from(position).ok()).ok_or_else(Error::not_found)
}

fn named(host: &Host, tenant: &str, user: &str) -> Result<User, Error> {
    User::from_id(number(host, tenant)?, user).ok_or_else(Error::not_found)
}
