//! Grants: a function's access to things outside of its sandbox, as set by `allow` in the configuration.
//!
//! A guest has its memory, clocks and random numbers. By default that is all: no files, no environment, no arguments,
//! no sockets, nothing to read. A grant adds one thing for one function; the operator writes it in the configuration,
//! and the host lists it at start.
//!
//! # What must always hold
//!
//! * Grants are the same for all users of a function, so that its instances can share an initial image. Values and
//!   folders are part of that image's identity: see [`Grants::identify`].
//! * Values of the environment are secrets: nothing here shows them, neither to a log nor to an error.
//! * A folder is opened once, at the start. It stays the folder that the operator meant, even if its path is later
//!   replaced, and a hundred thousand instances share one descriptor.
//!
//! # Layout
//!
//! * [`Grants`], with the environment and the folders.
//! * `destination`: the hosts that may be called. `address`: the addresses that their names may stand for. `outgoing`: a
//!   request, from the check to the answer.

mod address;
mod destination;
mod granted;
mod outgoing;

pub use granted::Grants;
pub(crate) use outgoing::{FIELDS, Outgoing, TEXT};
