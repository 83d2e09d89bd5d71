//! The types that wasmtime makes of `wit/`. Exports are called through them; imports are in `imports`, by hand, since
//! a sibling call needs the caller's store.
#![allow(missing_docs, clippy::all, unused_qualifications)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "guest",
    exports: { default: async },
    require_store_data_send: true,
});

pub use exports::carrel::function::function::Error;
