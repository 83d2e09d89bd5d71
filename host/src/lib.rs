//! Carrel: a host that gives every user a private, sandboxed, stateful copy of the functions they call.
//!
//! # Follow one request
//!
//! `POST /generate`, cookie `nat-session=alice`, body `{"command":"note","action":"add","param1":"milk"}`. Each step is
//! one file's.
//!
//! There:
//!
//! 1. `http/server.rs` accepts the connection and charges it to the host's memory.
//! 2. `http/front.rs` gets the request's head, and lets pass what names one host.
//! 3. `http/endpoints.rs` has the route's function: the workflow, here `assistant`.
//! 4. `identity/scheme.rs` turns the headers into a user: an opaque id, never the credential.
//! 5. `http/call.rs` asks whether the tenant may call this function, and takes the body, bounded. It does not parse it.
//! 6. `call/input.rs` charges the body to the tenant's memory while it comes, and then to the user's.
//! 7. `session/registry.rs` finds alice's session, or makes one, if there may be another.
//! 8. `call/admission.rs` waits for the session's turn: one call runs at a time, in the order in which they came.
//! 9. `call/outside.rs` makes the call, an object that has all of it until its answer, with its allowance of fuel and
//!    time.
//! 10. `call/transaction.rs` takes the instance out of its slot, and keeps what is needed to undo the call.
//! 11. `instance/make.rs` makes the instance, a wasmtime store of its own, if there is none: new, or of a snapshot.
//! 12. `instance/call.rs` runs the guest's `call(input)`.
//!
//! The assistant calls alice's notepad:
//!
//! 1. `instance/siblings.rs` is the import `functions.call`.
//! 2. `call/services.rs` finds the function in the session, and refuses circles.
//! 3. `call/run.rs` runs it as any function of a call, steps 10 to 12: in another store, on a part of what is left of the
//!    allowance.
//! 4. `instance/relay.rs` polls it meanwhile, off the assistant's stack, and hands over its output, or why there is none.
//!
//! And back:
//!
//! 1. `instance/run.rs` says how the run ended: well, or stopped by a trap, a limit, or a caller who went away.
//! 2. `call/run.rs` commits the function's changes, or aborts them: then it never happened, and every instance that the
//!    call touched is as it was.
//! 3. `call/outcome.rs` makes an answer of it.
//! 4. `session/account.rs` has the cost added to the session's.
//! 5. `session/tidy.rs` does what is left to do for the instances, and gives the turn to the next call.
//! 6. `http/bill.rs` writes what the call has cost to the answer's headers.
//! 7. `http/error.rs` has, if there is no output, the code and the limit's key.
//! 8. `http/wire.rs` sends the output as it is.
//!
//! Meanwhile sessions that are idle are parked: snapshots of their instances stay, and the next request wakes them.
//! Later a sweep drops them, and can never race with a request. On SIGTERM the host takes no more requests, lets calls
//! end, and leaves.
//!
//! # Layout
//!
//! A module imports only modules below it: `tests/all/structure.rs` has their order, and `host/docs/architecture.md` the
//! picture. Besides those above, [`limits`] is what each may use, `scheduler` whose turn it is among calls that run long,
//! and `state` is what guests hold between calls: what an instance is made of, undone to and
//! parked as. `grants` is what a function may reach outside of its sandbox, `settings` the tools that read a
//! configuration, [`config`] all of it, [`Host`] what it makes, `cli` the commands, [`prove`] attacks on all of it,
//! `observe` the log and the figures.
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
mod grants;
mod host;
pub mod http;
pub mod identity;
mod instance;
pub mod limits;
mod observe;
pub mod prove;
mod scheduler;
mod session;
mod settings;
mod state;
mod tls;

pub use host::Host;
