//! The code that instances are made from: a compiled guest, and a function of it.

use super::{Context, contract::GuestIndices};
use crate::{grants::Grants, state::State};
use carrel_arena::Frames;
use std::sync::Arc;
use wasmtime::component::InstancePre;

/// A linked component and the indices of its exports, from which instances are made.
#[derive(Clone)]
pub(crate) struct Linked {
    pre: InstancePre<Context>,
    exports: GuestIndices,
    frames: Frames,
}

impl Linked {
    /// # Errors
    ///
    /// The component lacks an export of the contract.
    pub(crate) fn new(pre: InstancePre<Context>) -> wasmtime::Result<Self> {
        Ok(Self { exports: GuestIndices::new(&pre)?, frames: Frames::of(pre.component()), pre })
    }

    pub(super) fn pre(&self) -> &InstancePre<Context> {
        &self.pre
    }

    pub(super) fn exports(&self) -> &GuestIndices {
        &self.exports
    }

    /// The most stack that any one of its functions takes.
    fn frames(&self) -> Frames {
        self.frames
    }
}

/// A compiled guest.
pub(crate) struct Code {
    /// The whole guest.
    pub(super) whole: Linked,
    /// The guest's shell, which runs no start code and writes no data: for instances restored from known memories.
    /// The whole guest, if it has none.
    pub(super) shell: Linked,
    /// The location of the guest's state, or the reasons why its instances cannot be restored from their memories.
    pub(crate) state: Result<State, Vec<String>>,
}

impl Code {
    pub(crate) fn new(whole: Linked, shell: Option<Linked>, state: Result<State, Vec<String>>) -> Self {
        Self { shell: shell.unwrap_or_else(|| whole.clone()), whole, state }
    }

    pub(crate) fn engine(&self) -> &wasmtime::Engine {
        self.whole.pre().engine()
    }

    /// The most stack of any one of the guest's functions; the shell has no start code.
    pub(crate) fn frames(&self) -> Frames {
        if self.whole.frames() == Frames::Small { self.shell.frames() } else { Frames::Any }
    }
}

/// A function, as instances of it are made.
#[derive(Clone, Copy)]
pub(crate) struct Blueprint<'a> {
    pub(crate) name: &'a Arc<str>,
    pub(crate) code: &'a Code,
    /// The configuration, as JSON text.
    pub(crate) config: &'a String,
    pub(crate) grants: &'a Arc<Grants>,
}
