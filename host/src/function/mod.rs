//! 5. Functions: guests that the configuration names, and how they call each other.
//!
//! # Layout
//!
//! * [`Guest`]: a compiled component, what it says of itself, and where it comes from. `builtin`: the three that come
//!   with Carrel. `cache`: compiled guests on disk. `bounds`: what its file may take of the host before it runs.
//! * [`Catalog`]: the functions of a configuration, checked: each exists, takes its configuration, and refers only to
//!   others that exist, in no circle. `references` finds what a configuration refers to.
//! * `state`: where a guest keeps its state, found out by looking at its code.
//! * `schema`: JSON Schemas. `sibling`: a function calls another one of the same user.

mod bounds;
mod builtin;
mod cache;
mod catalog;
mod guest;
mod references;
pub(crate) mod schema;
pub(crate) mod sibling;
mod state;

pub(crate) use catalog::load_guests;
pub use catalog::{Catalog, Function};
pub use guest::{Guest, GuestSource};
