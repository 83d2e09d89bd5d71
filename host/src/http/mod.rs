//! 1. HTTP: routes, and errors as callers see them.
//!
//! # Layout
//!
//! * [`App`]: what is served, apart from any socket: all `routes`, which are those of `endpoints` and the host's `own`.
//!   `paths` that are written otherwise; `cors`. [`serve`]: sockets, and a shutdown that drains. [`Listeners`]: the
//!   listening sockets. `front`: the steps before and after the routes. `wire`: a connection's bytes, and its caller.
//!   `progress`: finds connections that make none. `held`: a connection's memory.
//! * `call`: a route to a function, from bytes to bytes; what is `asked`. `stream`: the same, as server-sent events.
//!   `bill`: a call's cost, as headers.
//! * `error`: every error's status, code and body. `invalid_input`: NAT's list of wrong fields; `json`: finds errors
//!   in JSON; `echo`: a caller's JSON, sent back.
//! * `accept`: the form of an answer that is asked for.
//! * `own`: the host's own routes, each with a file; `answer`: their answers. [`admin`]: the operator's.

mod accept;
mod admin;
mod answer;
mod app;
mod asked;
mod bill;
mod call;
mod cors;
mod echo;
mod endpoints;
mod error;
mod front;
mod held;
mod invalid_input;
mod json;
mod listeners;
mod own;
mod paths;
mod progress;
mod routes;
mod server;
mod stream;
mod wire;

pub use admin::admin;
pub use app::App;
pub(crate) use endpoints::endpoints;
pub use listeners::Listeners;
pub(crate) use own::served;
pub use routes::app;
pub use server::{serve, serve_operator};

/// Asserts that `json::check` agrees with `serde_json`, except on numbers too large to be read, which are JSON.
/// Returns true if the text is JSON.
#[cfg(any(test, fuzzing))]
pub(crate) fn compare_json(text: &str) -> bool {
    let read = serde_json::from_str::<serde_json::Value>(text);
    let too_large = || matches!(&read, Err(error) if error.to_string().starts_with("number out of range"));
    let checked = json::check(text);
    assert!(checked.is_ok() == read.is_ok() || too_large(), "{text:?}: {checked:?}, {read:?}");
    checked.is_ok()
}
