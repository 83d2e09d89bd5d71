//! `GET /monitor/users`: NAT's figures for each user, and Carrel's own beside them.

use super::{error::Error, json};
use crate::{Host, identity::User, session::Seen};
use axum::{
    body::Body,
    extract::{RawQuery, State},
};
use http::{HeaderMap, Response, StatusCode};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::sync::Arc;

/// Users that are written before others get a turn.
const BATCH: usize = 64;

pub(super) async fn users(
    State(host): State<Arc<Host>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, Error> {
    // An id has no characters that a query would have to escape. Of several the last counts, as with NAT.
    let query = query.unwrap_or_default();
    let asked = query.split('&').filter_map(|pair| pair.strip_prefix("user_id=")).next_back();
    let identity = &host.config().identity;
    let mut seen: Vec<Seen> = match asked {
        // Whoever is verified sees nobody else.
        _ if identity.is_verified() => {
            let user = identity.user(&headers).map_err(|error| Error::no_user(&error))?;
            let own = asked.is_none_or(|id| user.to_string().eq_ignore_ascii_case(id));
            host.registry().look(user).filter(|_| own).into_iter().collect()
        }
        Some(id) => User::from_id(0, id).and_then(|user| host.registry().look(user)).into_iter().collect(),
        None => host.registry().look_at_all(),
    };
    seen.sort_by_key(|seen| seen.session.account().created());
    let now = Timestamp::now();
    let functions = host.catalog().functions().len();
    let mut body = format!(r#"{{"timestamp":"{}","total_active_users":{},"users":["#, text(now), seen.len());
    for (index, seen) in seen.iter().enumerate() {
        if index > 0 {
            body.push(',');
        }
        body.push_str(&user(seen, now, functions).to_string());
        // A hundred thousand users are a second's work: others get their turns in between.
        if index % BATCH == BATCH - 1 {
            tokio::task::yield_now().await;
        }
    }
    let (live, parked) = match identity.is_verified() {
        true => (seen.iter().filter(|seen| !seen.parked).count(), seen.iter().filter(|seen| seen.parked).count()),
        false => (host.registry().live(), host.registry().parked()),
    };
    body.push_str(&format!(r#"],"live":{live},"parked":{parked}}}"#));
    Ok(json(StatusCode::OK, body))
}

pub(super) fn user(seen: &Seen, now: Timestamp, functions: usize) -> Value {
    let account = seen.session.account();
    let holds = seen.session.holds();
    let created = Timestamp::try_from(account.created()).unwrap_or(now);
    let last = SignedDuration::try_from(seen.idle).ok().and_then(|idle| now.checked_sub(idle).ok()).unwrap_or(created);
    let milliseconds = account.average_latency().as_secs_f64() * 1000.0;
    json!({
        "user_id": seen.session.user().to_string(),
        "session": {
            "created_at": text(created),
            "last_activity": text(last.max(created)),
            "ref_count": seen.in_use,
            "is_active": seen.in_use > 0,
            "is_parked": seen.parked,
        },
        "requests": {
            "total_requests": account.calls(),
            "active_requests": account.active(),
            "avg_latency_ms": (milliseconds * 100.0).round() / 100.0,
            "error_count": account.failures(),
        },
        "memory": {
            "per_user_functions_count": functions - 1,
            "per_user_function_groups_count": 0,
            "exit_stack_size": functions,
            "instances": holds.instances,
            "bytes": holds.bytes,
            "parked": holds.parked,
            "parked_bytes": holds.parked_bytes,
            "counted_bytes": seen.session.memory().used(),
        },
        "fuel": account.fuel(),
        "traps": account.stops(),
    })
}

/// NAT's form: UTC here, without saying so.
fn text(time: Timestamp) -> String {
    time.strftime("%Y-%m-%dT%H:%M:%S%.6f").to_string()
}
