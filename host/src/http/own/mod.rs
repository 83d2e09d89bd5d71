//! The host's own routes: when each is served, by what, and how it is described.
//!
//! A route's path is in [`Own`], and it has a file here: `session`, `monitor`, `health`, `metrics`, `openapi` and `docs`.
//! `described`: the parts of their descriptions.

mod described;
mod docs;
pub(super) mod health;
pub(super) mod metrics;
pub(super) mod monitor;
mod openapi;
mod session;

use crate::{Host, config::Own};
use axum::{
    Router,
    routing::{MethodFilter, get, on},
};
use serde_json::Value;
use std::sync::Arc;

/// The host's own routes that callers are served.
pub(crate) fn served(host: &Host) -> impl Iterator<Item = Own> {
    let config = host.config();
    Own::ALL.into_iter().filter(|own| match own {
        Own::Health | Own::Start | Own::OpenApi | Own::Docs => true,
        // If the operator has a listener, the figures are there.
        Own::Metrics => config.admin.is_none(),
        Own::Users => config.general.enable_per_user_monitoring,
        Own::Session => config.identity.gives_cookies(),
    })
}

/// A route, ready to serve.
pub(super) fn route(own: Own, host: &Arc<Host>) -> Router {
    let methods = match own {
        Own::Docs => return docs::routes().with_state(host.clone()),
        Own::Health => get(health::get),
        Own::Start => get(docs::start),
        Own::Metrics => get(metrics::get),
        Own::Users => get(monitor::users),
        Own::Session => on(MethodFilter::POST, session::issue).on(MethodFilter::DELETE, session::end),
        Own::OpenApi => {
            let described = served(host).filter_map(|own| Some((own.path(), describe(own, host)?)));
            openapi::route(host, described.collect())
        }
    };
    Router::new().route(own.path(), methods).with_state(host.clone())
}

/// A route's operations in the API's description; none, if it is no part of the API.
fn describe(own: Own, host: &Host) -> Option<Value> {
    match own {
        Own::Health => Some(health::describe()),
        Own::Start => Some(docs::describe()),
        Own::Metrics => Some(metrics::describe()),
        Own::Users => Some(monitor::describe(host)),
        Own::Session => Some(session::describe(host)),
        Own::OpenApi | Own::Docs => None,
    }
}
