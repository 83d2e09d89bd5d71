//! What wit-bindgen makes of `wit/`. Used by [`export!`](crate::export), not by authors.
#![allow(missing_docs, unsafe_code, clippy::all, unused_qualifications)]

wit_bindgen::generate!({
    path: "../../wit",
    world: "guest",
    pub_export_macro: true,
    default_bindings_module: "carrel_guest::bindings",
});

pub use carrel::function::{functions, output, session};
pub use exports::carrel::function::function::{Description, Error, Guest};
