//! Carrel: a host that gives every user a private, sandboxed, stateful copy of the functions they call.
//!
//! # Follow one request
//!
//! `POST /generate`, cookie `nat-session=alice`, body `{"command":"note","action":"add","param1":"milk"}`
//!
//! 1. [`http`] takes the bytes, bounded, and finds the route's function: the workflow. It does not parse the body.
//! 2. [`identity`] turns the headers into a user: an opaque id, never the credential.
//! 3. [`session`] finds alice's session, or makes one, if there may be another. A session runs one call at a time, in
//!    the order in which they came; its queue is bounded. `call` is that call, until its answer.
//! 4. [`instance`]: the session's instance of the function, a wasmtime store of its own, made on first use. It gets its
//!    allowance of fuel, time and memory ([`limits`]), and runs `call(input)`.
//! 5. The guest calls `functions.call("notepad", ..)`, and the call runs alice's notepad, another store, on what is
//!    left of the same allowance.
//! 6. The answer goes back as it is; what it cost goes to the session's account and into a header.
//! 7. If the call is stopped, by a trap, a limit, or a caller who goes away, it never happened: every instance that it
//!    touched is as it was before, and the caller gets an error with a stable code that names the limit's key.
//!
//! Meanwhile sessions that are idle are parked: snapshots of their instances stay, and the next request wakes them.
//! Later a sweep drops them, and can never race with a request. On SIGTERM the host takes no more requests, lets calls
//! end, and leaves.
//!
//! # Layout
//!
//! A module imports only modules below it: `tests/all/structure.rs` has their order, and `host/docs/architecture.md` the
//! picture. Besides those above, `state` is what guests hold between calls: what an instance is made of, undone to and
//! parked as. [`grants`] is what a function may reach outside of its sandbox, [`settings`] the tools that read a
//! configuration, [`config`] all of it, [`Host`] what it makes, `cli` the commands, [`prove`] attacks on all of it,
//! [`observe`] the log and the figures.
//!
//! Two crates stand below: [`carrel_arena`], memories and stacks as slots of a few large mappings, and
//! [`carrel_examine`], which looks at guests' code.

// The names by which the fuzz targets know this crate and the fuzzer's.
#[cfg(test)]
pub(crate) extern crate arbitrary;
#[cfg(test)]
extern crate self as carrel;
#[cfg(test)]
extern crate self as libfuzzer_sys;
#[cfg(test)]
pub(crate) use fuzz_targets::{Corpus, fuzz_target};

mod call;
pub mod cli;
pub mod config;
pub mod function;
#[cfg(test)]
mod fuzz_targets;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod grants;
mod host;
pub mod http;
pub mod identity;
pub mod instance;
pub mod limits;
pub mod observe;
pub mod prove;
pub mod session;
pub mod settings;
mod state;
mod tls;

pub use host::Host;
