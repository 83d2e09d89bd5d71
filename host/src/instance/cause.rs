//! The cause of a stop, found in an error of wasmtime.

use super::{
    Engine, Stop, StopKind,
    memory::{MemoryLimit, NoHandle},
};
use crate::limits::Limits;
use wasmtime::{Trap, component::ResourceTableError};
use wasmtime_wasi::I32Exit;

/// Maps an error to a kind of stop, by what the memory's limit has refused in the store.
pub(super) fn cause(error: &wasmtime::Error, memory: &MemoryLimit, limits: &Limits) -> StopKind {
    if let Some(stop) = error.downcast_ref::<Stop>() {
        return stop.kind.clone();
    }
    // A guest that was refused memory and went on is stopped for its later fault.
    match error.downcast_ref() {
        Some(Trap::OutOfFuel) => return StopKind::out_of_fuel(limits),
        Some(Trap::Interrupt) => return StopKind::too_late(),
        _ => {}
    }
    if let (Some(ResourceTableError::Full), Some(no_handle)) = (error.downcast_ref(), memory.no_handle) {
        return match no_handle {
            NoHandle::Exhausted(needed) => StopKind::out_of_memory(needed, memory.limit),
            NoHandle::Full(full) => full.into(),
        };
    }
    if let Some(full) = memory.full {
        return full.into();
    }
    if Engine::is_full(error) || memory.no_place {
        return StopKind::HostFull;
    }
    if let Some(I32Exit(status)) = error.downcast_ref() {
        return StopKind::Crashed(format!("it exited with status {status}"));
    }
    // A guest that is refused memory mostly aborts, which looks like any other abort; so does an instance that
    // starts too large, which is no trap at all.
    let refused = memory.refused.map(|needed| StopKind::out_of_memory(needed, memory.limit));
    match error.downcast_ref() {
        Some(Trap::UnreachableCodeReached) => {
            refused.unwrap_or_else(|| StopKind::Crashed("it panicked or aborted".into()))
        }
        Some(Trap::StackOverflow) => StopKind::Crashed("its call stack overflowed".into()),
        Some(trap) => StopKind::Crashed(trap.to_string()),
        // The rest are the guest's breaches of the component model, such as text that is not UTF-8.
        None => refused.unwrap_or_else(|| StopKind::Crashed(error.root_cause().to_string())),
    }
}
