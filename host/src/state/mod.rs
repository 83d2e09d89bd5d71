//! State: what a guest holds between calls, and how that is kept, undone, parked and made again.
//!
//! It knows memories and bytes: neither stores nor functions, sessions nor wires.
//!
//! # Layout
//!
//! * `carrel_examine`, a crate of its own: where a guest keeps its state, found out by looking at its code.
//! * [`Image`]: what all instances of a function begin with, by its content.
//! * [`Pages`]: which pages of an instance differ from its image, and which of them a call changes. [`Saved`]: what
//!   these held before the call. `pages::undo`: putting that back, piece by piece.
//! * [`Undone`]: an instance whose call has failed, without its store. [`Parking`] makes a [`Snapshot`] of it, its
//!   state as bytes.
//! * [`prices`]: what of this is on a call's bill.

mod image;
mod numbers;
mod pages;
pub(crate) mod prices;
mod saved;
mod snapshot;
mod undone;

pub(crate) use carrel_examine::{CODE, Examined, State, examine};
pub(crate) use image::Image;
pub(crate) use numbers::Numbers;
pub(crate) use pages::{Finding, Pages, SMALL};
pub(crate) use saved::Saved;
pub(crate) use snapshot::{Broken, PIECE, Snapshot};
pub(crate) use undone::{AT_ONCE, Gone, Parking, Undone};
