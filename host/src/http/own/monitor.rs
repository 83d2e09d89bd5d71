//! `GET /monitor/users`: NAT's figures for each user, and Carrel's own beside them.
//!
//! The answer is written while it is sent: there may be a million users, whose list need not fit into memory, and a
//! slow reader delays only its own answer. The answer counts as a call until it is sent.

use super::described::{NOBODY, failure, own, security};
use crate::{
    Host,
    http::{
        answer::{JSON, json},
        error::Error,
    },
    identity::User,
    observe::timestamp,
    session::{Seen, Visit, Walk},
};
use axum::{
    body::Body,
    extract::{RawQuery, State},
};
use futures_util::stream;
use http::{HeaderMap, Response, StatusCode};
use serde_json::{Value, json};
use std::{convert::Infallible, fmt::Write, sync::Arc, time::SystemTime, vec};
use tokio::task::yield_now;

/// The most users that are listed in order of arrival, as with NAT. More of them are in no order.
const SORTED: usize = 1_000;
/// Users that are written before others get a turn.
pub(in crate::http) const BATCH: usize = 64;
/// Shards of users that are looked at before others get a turn, where they have few.
pub(in crate::http) const SHARDS: usize = 4;

pub(super) async fn users(
    State(host): State<Arc<Host>>,
    RawQuery(query): RawQuery,
    headers: HeaderMap,
) -> Result<Response<Body>, Error> {
    // An id has no characters that a query would have to escape. Of several the last counts, as with NAT.
    let query = query.unwrap_or_default();
    let asked = query.split('&').filter_map(|pair| pair.strip_prefix("user_id=")).next_back();
    let identity = &host.config().identity;
    let (tenant, only) = match asked {
        // Whoever is verified sees nobody else.
        _ if identity.is_verified() => {
            let user = identity.user(&headers).map_err(|error| Error::no_user(&error))?;
            let own = asked.is_none_or(|id| user.to_string().eq_ignore_ascii_case(id));
            (user.tenant(), Some(host.registry().look(user).filter(|_| own)))
        }
        Some(id) => (0, Some(User::from_id(0, id).and_then(|user| host.registry().look(user)))),
        None => (0, None),
    };
    let visit = host.registry().visit(Some(tenant)).map_err(|refusal| Error::refused(&refusal))?;
    let Some(only) = only else {
        let mut walk = host.registry().walk(None);
        let (mut shard, mut total) = (Vec::new(), None);
        if host.registry().sessions() <= SORTED {
            while let Some(mut more) = walk.next_shard(None) {
                shard.append(&mut more);
            }
            shard.sort_by_key(|seen| seen.session.account().created());
            total = Some(shard.len());
        }
        let list = List::new(host.clone(), total);
        let all = All { list, walk, shard: shard.into_iter(), _visit: visit };
        let parts = stream::unfold(Some(all), |all| async { Some(all?.next().await) });
        return Ok(json(StatusCode::OK, Body::from_stream(parts)));
    };
    let mut list = List::new(host.clone(), Some(only.iter().count()));
    only.iter().for_each(|seen| list.add(seen));
    let figures = match (identity.is_verified(), &only) {
        (false, _) => (host.registry().live(), host.registry().parked()),
        (true, Some(seen)) => (usize::from(!seen.parked), usize::from(seen.parked)),
        (true, None) => (0, 0),
    };
    list.end(figures);
    Ok(json(StatusCode::OK, list.text))
}

/// The part of the answer that is written and not sent.
struct List {
    host: Arc<Host>,
    now: SystemTime,
    text: String,
    users: usize,
    /// True if the number of users is already written; else it is written at the end.
    is_counted: bool,
}

impl List {
    fn new(host: Arc<Host>, total: Option<usize>) -> Self {
        let now = SystemTime::now();
        let total = total.map(|total| format!(r#""total_active_users":{total},"#));
        let is_counted = total.is_some();
        let text = format!(r#"{{"timestamp":"{}",{}"users":["#, text(now), total.unwrap_or_default());
        Self { host, now, text, users: 0, is_counted }
    }

    fn add(&mut self, seen: &Seen) {
        if self.users > 0 {
            self.text.push(',');
        }
        self.users += 1;
        let functions = self.host.catalog().functions().len();
        // To write to a text cannot fail.
        let _ = write!(self.text, "{}", user(seen, self.now, functions));
    }

    fn end(&mut self, (live, parked): (usize, usize)) {
        self.text.push(']');
        if !self.is_counted {
            let _ = write!(self.text, r#","total_active_users":{}"#, self.users);
        }
        let _ = write!(self.text, r#","live":{live},"parked":{parked}}}"#);
    }
}

/// The answer with all users, part by part.
struct All {
    list: List,
    walk: Walk,
    /// The remaining users, of a shard or of all.
    shard: vec::IntoIter<Seen>,
    _visit: Visit,
}

impl All {
    /// The next part, and the rest, if there is more.
    async fn next(mut self) -> (Result<String, Infallible>, Option<Self>) {
        // Whoever sends it asks for the next part at once.
        yield_now().await;
        let mut looked_at = 0;
        for _ in 0..BATCH {
            let seen = loop {
                if let Some(seen) = self.shard.next() {
                    break seen;
                }
                if looked_at == SHARDS {
                    looked_at = 0;
                    yield_now().await;
                }
                looked_at += 1;
                let Some(shard) = self.walk.next_shard(None) else {
                    let registry = self.list.host.registry();
                    let figures = (registry.live(), registry.parked());
                    self.list.end(figures);
                    return (Ok(self.list.text), None);
                };
                self.shard = shard.into_iter();
            };
            self.list.add(&seen);
        }
        (Ok(std::mem::take(&mut self.list.text)), Some(self))
    }
}

pub(in crate::http) fn user(seen: &Seen, now: SystemTime, functions: usize) -> Value {
    let account = seen.session.account();
    let holds = seen.session.holds();
    let created = account.created();
    let last = now.checked_sub(seen.idle).unwrap_or(created);
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
fn text(time: SystemTime) -> String {
    timestamp(time).trim_end_matches('Z').to_owned()
}

/// The operations, for the API's description.
pub(super) fn describe(host: &Host) -> Value {
    let mut get = own("monitor_users", "What each live user has used.", &[(JSON, json!({"type": "object"}))]);
    get["parameters"] = json!([{"name": "user_id", "in": "query", "required": false, "schema": {"type": "string"}}]);
    // Whoever is verified sees themselves.
    if host.config().identity.is_verified() {
        get["security"] = security(host);
        get["responses"]["401"] = failure(NOBODY);
    }
    json!({"get": get})
}
