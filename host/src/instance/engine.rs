//! The setup of wasmtime, and the clock that stops guests.

use crate::{
    limits::memory,
    scheduler::{Lane, SLOW_TICK, TICK, TICKS_UNTIL_SLOW},
};
use carrel_arena::{Memories, Stacks};
use std::{thread, time::Duration};
use wasmtime::Config;

/// Stack that a guest's code may use. Rust guests keep most of theirs in linear memory. The host may use the rest of
/// [`memory::STACK`]: its functions run on the guest's stack.
const WASM_STACK: usize = memory::STACK / 2;
/// Free slots of one size may keep one part in so many of all memory, to be reused quickly.
const FREE: usize = 64;
/// The time that the clock's thread may run at once: it needs next to nothing.
const TICKERS_SLICE: Duration = Duration::from_micros(100);

/// A wasmtime engine with host-owned memories and stacks, and the clock that stops its guests.
///
/// The clock runs for as long as the engine is used.
#[derive(Clone)]
pub struct Engine {
    wasmtime: wasmtime::Engine,
    memories: Memories,
    stacks: Stacks,
}

impl Engine {
    /// An engine for instances of up to `memory_per_instance` bytes, of which all may take `memory` bytes together,
    /// and whose calls run in this lane.
    ///
    /// # Errors
    ///
    /// The system gives the process too few addresses, or no thread for the clock.
    pub(crate) fn new(memory_per_instance: usize, memory: usize, lane: &Lane) -> Result<Self, String> {
        let too_few = |error| {
            format!("cannot reserve addresses for the instances' memory: {error}; is `ulimit -v` set? It must not be")
        };
        let memories = Memories::keeping(memory_per_instance, memory / FREE).map_err(too_few)?;
        let stacks = Stacks::new(memory::STACK).map_err(too_few)?;
        Self::with(memories, stacks, lane)
    }

    /// An engine with so few memories and stacks that they can be used up.
    #[cfg(test)]
    pub(crate) fn with_slots(memories: usize, stacks: usize, lane: &Lane) -> Self {
        let memories = Memories::with_slots(256 << 10, memories).unwrap();
        let stacks = Stacks::with_slots(memory::STACK, stacks).unwrap();
        Self::with(memories, stacks, lane).unwrap()
    }

    fn with(memories: Memories, stacks: Stacks, lane: &Lane) -> Result<Self, String> {
        let mut config = Config::new();
        // Memories and stacks are slots of a few large mappings, so that users cost no mappings; accesses to memories
        // are bounds-checked by code, since slots have no guard pages.
        carrel_arena::configure(&mut config, &memories, &stacks);
        config
            // Fuel counts, epochs measure time: see `limits`.
            .consume_fuel(true)
            .epoch_interruption(true)
            .max_wasm_stack(WASM_STACK)
            // A session runs one call at a time in a store anyway.
            .concurrency_support(false);
        let wasmtime = wasmtime::Engine::new(&config).map_err(|error| format!("cannot set up wasmtime: {error:#}"))?;
        let (ticking, lane) = (wasmtime.weak(), lane.clone());
        let tick = move || {
            // A guest that computes may have the ticker's processor, and must not keep it from stopping that very
            // guest.
            if let Err(error) = carrel_arena::run_sooner(TICKERS_SLICE) {
                tracing::debug!(%error, "the clock's thread cannot be run sooner than others");
            }
            let mut alone = 0;
            while let Some(engine) = ticking.upgrade() {
                engine.increment_epoch();
                drop(engine);
                alone = if lane.was_met() { 0 } else { TICKS_UNTIL_SLOW.min(alone + 1) };
                thread::sleep(if alone == TICKS_UNTIL_SLOW { SLOW_TICK } else { TICK });
            }
        };
        let ticker = thread::Builder::new().name("carrel-ticker".into()).spawn(tick);
        ticker.map_err(|error| format!("cannot start the thread that stops guests: {error}"))?;
        Ok(Self { wasmtime, memories, stacks })
    }

    pub(crate) fn wasmtime(&self) -> &wasmtime::Engine {
        &self.wasmtime
    }

    /// Linear memories, of all instances.
    pub fn memories(&self) -> &Memories {
        &self.memories
    }

    /// Fiber stacks, of all instances.
    pub fn stacks(&self) -> &Stacks {
        &self.stacks
    }

    /// Returns true if an error says that the host has no room for another instance.
    pub(super) fn is_full(error: &wasmtime::Error) -> bool {
        carrel_arena::Error::is_exhausted(error)
    }
}

impl std::fmt::Debug for Engine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Engine").field("memories", &self.memories()).field("stacks", &self.stacks()).finish()
    }
}
