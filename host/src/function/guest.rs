//! A guest: a compiled component, with its description and source.

use super::{
    bounds,
    cache::Cache,
    compiled::Compiled,
    refused::Refused,
    schema::{self, Schema},
};
use crate::{
    instance::{self, Code, Context, Engine, Linked},
    limits::Limits,
    scheduler::{Lane, Permit},
};
use serde_json::Value;
use std::{fmt, path::PathBuf, sync::Arc};
use wasmtime::component::{Component, Linker};

/// A compiled component that exports `carrel:function/function`.
pub struct Guest {
    /// The name that a configuration gives as `_type`.
    pub name: String,
    /// The guest's purpose, in a sentence.
    pub summary: String,
    /// The guest's source.
    pub source: GuestSource,
    /// The schema of a function's own keys.
    pub config_schema: Schema,
    /// The schema of a function's input.
    pub input_schema: Schema,
    /// The schema of a function's output.
    pub output_schema: Schema,
    /// The size of the guest's WebAssembly, in bytes.
    pub size: usize,
    pub(crate) code: Code,
}

impl fmt::Debug for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Guest").field("name", &self.name).field("source", &self.source).finish_non_exhaustive()
    }
}

/// The source of a guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GuestSource {
    /// Built into Carrel.
    BuiltIn,
    /// A file that the configuration names, or that is in a folder that it names.
    File(PathBuf),
}

impl fmt::Display for GuestSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::BuiltIn => f.write_str("built in"),
            Self::File(path) => write!(f, "{}", path.display()),
        }
    }
}

/// The most imports listed in an error; once these are mended, the next run lists more.
const TOLD: usize = 8;

/// Loads guests: holds what loading needs.
pub(super) struct Loader<'a> {
    pub(super) engine: &'a Engine,
    pub(super) linker: Linker<Context>,
    pub(super) cache: Cache,
    pub(super) limits: &'a Limits,
    pub(super) lane: &'a Lane,
}

impl Loader<'_> {
    /// Compiles a component, checks that it is a guest, and asks for its description.
    pub(super) async fn load(&self, source: GuestSource, wasm: Arc<[u8]>) -> Result<Guest, Refused> {
        let size = wasm.len();
        is_component(&wasm)?;
        // The built-in guests are not bounded.
        let (function_size, time) = match source {
            GuestSource::BuiltIn => (None, None),
            GuestSource::File(_) => (Some(self.limits.guest_function_size), Some(self.limits.guest_compile_time)),
        };
        bounds::check(&wasm, function_size)?;
        let (engine, cache) = (self.engine.wasmtime().clone(), self.cache.clone());
        let compile = ("compile", "smaller functions compile faster; a guest that was compiled once is in the cache");
        let compiled = bounds::within(time, compile, move |workers| cache.compile(&engine, &wasm, workers))?;
        let Compiled { whole, shell, state, .. } = compiled.map_err(|error| Refused {
            why: format!("is not a valid component: {:#}", error.root_cause()),
            hint: None,
        })?;
        let pre = self.link(&whole)?;
        let shell = shell.map(|shell| self.link(&shell)).transpose()?;
        let label: Arc<str> = source.to_string().into();
        // No tenant has anything to do yet: the first one's turns will do.
        let permit = Arc::new(Permit::new(self.lane.clone(), 0));
        let described = instance::describe(&pre, label, self.limits, permit).await;
        let described = described.map_err(|stop| {
            let why = format!("was stopped when it was asked to describe itself: it {}", stop.kind);
            match stop.kind.limit() {
                Some(limit) => Refused::new(why, format!("`describe` runs within the limits, too: {}", limit.key)),
                None => Refused::new(why, "`describe` should only give its record; run the guest's own tests"),
            }
        })?;
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        let starts = described.name.starts_with(|c: char| c.is_ascii_lowercase());
        if !starts || described.name.len() > 64 || !described.name.chars().all(plain) {
            return Err(Refused::new(
                format!("calls itself {:?}", bounds::shown(&described.name)),
                "a guest's name has lower-case letters, digits and underscores, a letter first, 64 at the most",
            ));
        }
        let texts = [
            ("config-schema", described.config_schema),
            ("input-schema", described.input_schema),
            ("output-schema", described.output_schema),
        ];
        let reading = ("read its schemas", "smaller schemas, with fewer patterns, are read faster");
        let schemas = bounds::within(time, reading, |_| texts.map(|(what, json)| (what, Schema::parse(&json))))?;
        let [config_schema, input_schema, output_schema] = schemas.map(|(what, schema)| {
            schema.map_err(|error| {
                let why = format!("gives a {what} that is no JSON Schema: {}", bounds::shown(&error));
                Refused::new(why, "see `describe` in wit/")
            })
        });
        let guest = Guest {
            config_schema: config_schema?,
            input_schema: input_schema?,
            output_schema: output_schema?,
            name: described.name,
            summary: described.summary,
            source,
            size,
            code: Code::new(pre, shell, state),
        };
        if !schema::describes_an_object(guest.config_schema.value()) {
            return Err(Refused::new("gives a config-schema that is not of an object", "see `describe` in wit/"));
        }
        Ok(guest)
    }

    fn link(&self, component: &Component) -> Result<Linked, Refused> {
        self.check_imports(component)?;
        let linked = self.linker.instantiate_pre(component).map_err(|error| {
            Refused::new(
                format!("imports what does not fit what the host gives: {:#}", error.root_cause()),
                "build it against the wit/ folder of this version of Carrel",
            )
        })?;
        Linked::new(linked).map_err(|error| {
            Refused::new(
                format!("does not export `carrel:function/function@0.1.0`: {:#}", error.root_cause()),
                "implement the world `guest` of wit/; in Rust, carrel_guest::export!(YourFunction) does",
            )
        })
    }

    fn check_imports(&self, component: &Component) -> Result<(), Refused> {
        let engine = self.engine.wasmtime();
        let ty = component.component_type();
        let names = ty.imports(engine).map(|(name, _)| name).filter(|name| !instance::is_offered(name));
        let mut names: Vec<_> = names.map(|name| format!("`{}`", bounds::shown(name))).collect();
        if names.is_empty() {
            return Ok(());
        }
        let more = names.len().saturating_sub(TOLD);
        if more > 0 {
            names.truncate(TOLD);
            names.push(format!("and {more} more"));
        }
        Err(Refused::new(
            format!("imports {}, which the host does not give", names.join(", ")),
            format!("it gives, with carrel: at version 0.1 and wasi: at 0.2: {}", instance::OFFERED.join(", ")),
        ))
    }
}

impl Guest {
    /// The schemas as one JSON object, for `carrel info`.
    pub fn schemas(&self) -> Value {
        serde_json::json!({
            "config": self.config_schema.value(),
            "input": self.input_schema.value(),
            "output": self.output_schema.value(),
        })
    }
}

/// Refuses bytes that cannot be a component.
fn is_component(wasm: &[u8]) -> Result<(), Refused> {
    const CORE_MODULE: &[u8] = b"\0asm\x01\0\0\0";
    if wasm.starts_with(CORE_MODULE) {
        return Err(Refused::new(
            "is a core WebAssembly module, and a guest is a component",
            "build it for the target wasm32-wasip2, or make a component of it with `wasm-tools component new`",
        ));
    }
    if !wasm.starts_with(b"\0asm") {
        return Err(Refused::new("is not WebAssembly", "a guest is a .wasm file that a compiler wrote"));
    }
    Ok(())
}
