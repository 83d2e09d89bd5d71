//! Bindings of `wit/`, made by wit-bindgen: see `tests/bindings.rs`. Used by [`export!`](crate::export), not by authors.
#![allow(missing_docs, unsafe_code, clippy::all, unused_qualifications)]

include!("bindings/generated.rs");

pub use carrel::function::{functions, log, output, session, stops};
pub use exports::carrel::function::function::{Description, Error, Guest};
