//! 4. An instance: one function of one session, in a store of its own.
//!
//! # What must always hold
//!
//! * One [`wasmtime::Store`] for each instance. A trap makes its whole store unusable, so a function that crashes
//!   must not share one with the function that called it.
//! * An instance runs only while somebody holds it exclusively, with an [`Allowance`](crate::limits::Allowance)
//!   for that call alone. Between calls it holds nothing of its session.
//! * A host function gives the guest an error of the contract, never a Rust error: that would be a trap. The one
//!   exception is a guest that passes a limit in a function that has no error to give, and it shall stop.
//!
//! # Layout
//!
//! * [`Engine`]: how wasmtime is set up, its memories and stacks, and the clock that stops guests.
//! * `context`: what a store holds besides the guest: its `wasi`, with what is [granted](crate::grants), its `memory`
//!   limit, the call that is `running`; and, while an image is made, a `watch`.
//! * `code`: the compiled guest and the function that instances are made of. `services`: what an instance asks of the
//!   call that runs in it. `siblings`: calls of other functions, which `relay` runs; `stopped`: those of them that were
//!   stopped, which `stops` lets a guest pass on.
//! * `make`: making an instance, and the image of it. `call`: calling it. `run`: whatever runs in a store, within an
//!   allowance.
//! * `revive`: a store for an instance that was undone; what it holds is [`state`](crate::state)'s.
//! * `sources`: where guests get randomness and time from. `work`: what the host does for a guest, which `pay` takes off
//!   its fuel.
//! * [`Stop`]: why a guest was stopped, which `cause` finds in an error of wasmtime. `guest_error`: why it has no output,
//!   where it was not. `imports`: what a guest may import. `log`: its stdout and stderr.
//! * `contract`: the types that wasmtime makes of `wit/`.

mod call;
mod cause;
mod code;
mod context;
mod contract;
mod emitter;
mod engine;
mod files;
mod guest_error;
mod imports;
mod log;
mod make;
mod making;
mod memory;
mod metered;
mod open_files;
mod pay;
mod polls;
mod relay;
mod revive;
mod run;
mod running;
mod services;
mod siblings;
mod sources;
mod stop;
mod stopped;
mod stops;
mod wasi;
mod watch;
mod work;

pub(crate) use call::Instance;
pub(crate) use code::{Blueprint, Code, Linked};
pub(crate) use context::Context;
pub(crate) use contract::{
    carrel::function::functions::CallError,
    carrel::function::types::{Description, Json},
};
pub(crate) use emitter::{Chunk, Emitter};
pub use engine::Engine;
pub(crate) use guest_error::GuestError;
pub(crate) use imports::{OFFERED, is_offered, linker};
pub(crate) use make::{Told, describe};
pub(crate) use making::Making;
pub(crate) use metered::Metered;
pub(crate) use relay::{Returned, SiblingCall, SiblingRelay};
pub(crate) use running::{Phase, Running};
pub(crate) use services::{Invocation, NotCalled, Services, UnclaimedFuel};
pub use stop::{Stop, StopKind};
pub(crate) use work::STOPPED;
