//! The types that wasmtime makes of `wit/`. Exports are called through them; imports are in `imports`, by hand, since
//! a sibling call needs the caller's store.
#![allow(missing_docs, clippy::all, unused_qualifications)]

wasmtime::component::bindgen!({
    path: "../wit",
    world: "guest",
    exports: { default: async },
    require_store_data_send: true,
});

use super::Context;
use carrel_arena::Frames;
pub use exports::carrel::function::function::Error;
use wasmtime::component::InstancePre;

/// A linked component and the indices of its exports, from which instances are made.
#[derive(Clone)]
pub struct Linked {
    pre: InstancePre<Context>,
    exports: GuestIndices,
    frames: Frames,
}

impl Linked {
    /// # Errors
    ///
    /// The component lacks an export of the contract.
    pub fn new(pre: InstancePre<Context>) -> wasmtime::Result<Self> {
        Ok(Self { exports: GuestIndices::new(&pre)?, frames: Frames::of(pre.component()), pre })
    }

    pub fn pre(&self) -> &InstancePre<Context> {
        &self.pre
    }

    pub fn exports(&self) -> &GuestIndices {
        &self.exports
    }

    /// The most stack that any one of its functions takes.
    pub fn frames(&self) -> Frames {
        self.frames
    }
}
