//! Functions: guests that the configuration names, checked and compiled before the host serves.
//!
//! # Layout
//!
//! * `config`: the parts of the configuration that functions are made of.
//! * [`Guest`]: a compiled component, with its description and source. `builtin`: the three that come with Carrel.
//!   `cache`: compiled guests on disk. `bounds`: limits on a guest's file before it runs.
//! * [`Catalog`]: the functions of a configuration, checked: each exists, takes its configuration, and refers only to
//!   others that exist, in no circle. `references` finds a configuration's references; `forms` reads its values in
//!   the forms that NAT takes.
//! * `schema`: JSON Schemas. `readings`: places for inputs that are held against them.

mod bounds;
mod builtin;
mod cache;
mod catalog;
mod compiled;
mod config;
mod forms;
mod guest;
mod readings;
mod references;
mod refused;
pub(crate) mod schema;

pub(crate) use cache::finish_writing;
pub(crate) use catalog::load_guests;
pub use catalog::{Catalog, Function};
pub use config::{FunctionConfig, GuestCache, GuestPath, WORKFLOW};
pub(crate) use config::{Wanted, read_functions, read_guests};
pub use guest::{Guest, GuestSource};
pub(crate) use readings::Readings;

/// Loads a guest, as a file that the configuration names is loaded.
#[cfg(any(test, fuzzing))]
pub(crate) async fn load_one(
    engine: &crate::instance::Engine,
    lane: &crate::scheduler::Lane,
    limits: &crate::limits::Limits,
    wasm: &[u8],
) -> Result<Guest, String> {
    let linker = crate::instance::linker(engine.wasmtime()).map_err(|error| error.to_string())?;
    let cache = cache::Cache::open(&GuestCache::Off);
    let loader = guest::Loader { engine, linker, cache, limits, lane };
    let loaded = loader.load(GuestSource::File("fuzz.wasm".into()), wasm.into()).await;
    loaded.map_err(|refused| format!("{} {}", refused.why, refused.hint.unwrap_or_default()))
}

/// Examines a component. A valid one must stay valid.
#[cfg(any(test, fuzzing))]
pub(crate) fn examine_one(wasm: &[u8]) {
    let valid =
        |wasm: &[u8]| wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all()).validate_all(wasm);
    if valid(wasm).is_ok() {
        let crate::state::Examined { wasm, shell, .. } = crate::state::examine(wasm);
        for after in [Some(wasm.as_ref()), shell.as_deref()].into_iter().flatten() {
            let after = valid(after);
            assert!(after.is_ok(), "{:?}", after.err());
        }
    } else {
        crate::state::examine(wasm);
    }
}
