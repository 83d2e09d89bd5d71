//! What a guest's file may take of the host before it runs.
//!
//! Who starts the host may not trust who wrote a guest. Its file is read up to a size, its code is compiled within a
//! time, and what its tables begin with is bounded, since wasmtime makes that while it compiles, and so is the size of each function. What an instance then
//! takes is for the limits of instances, which hold for the first one as for all others.

use super::guest::Refused;
use crate::config;
use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, RandomState},
    io,
    path::Path,
    sync::mpsc::{self, RecvTimeoutError},
    thread,
    time::Duration,
};
use wasmparser::{
    CanonicalFunction, Parser, Payload, PrimitiveValType, Validator, WasmFeatures,
    component_types::{ComponentDefinedType, ComponentDefinedTypeId, ComponentFuncTypeId, ComponentValType},
    types::TypesRef,
};

/// Elements that all tables of a guest may begin with. A few bytes can ask for ten millions of them in each of a hundred
/// tables, for which wasmtime takes more than a gigabyte as it compiles; compilers' guests have some thousands.
const TABLES: u64 = 1_000_000;
/// Characters of a guest's own text that are shown in a message.
const SHOWN: usize = 200;

/// Reads a file that has no more than so many bytes.
pub(super) fn read(file: &Path, most: usize) -> Result<Vec<u8>, Refused> {
    config::read_file(file, most).map_err(|error| match error.kind() {
        io::ErrorKind::FileTooLarge => Refused::new(
            format!("has more than {most} bytes, which is what `limits.guest_size` allows"),
            "build it without debug information, or allow more",
        ),
        _ => Refused { why: format!("cannot be read: {error}"), hint: None },
    })
}

/// Checks what compiling would take too much memory for, with functions of so many bytes at the most. What cannot be
/// read is for others to tell.
///
/// What the compiler holds grows with the function that it compiles, each of its threads with one: three megabytes of
/// loops took seven gigabytes before their time was over.
pub(super) fn check(wasm: &[u8], most: Option<usize>) -> Result<(), Refused> {
    let mut elements = 0u64;
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { return Ok(()) };
        match payload {
            Payload::TableSection(tables) => {
                for table in tables {
                    let Ok(table) = table else { return Ok(()) };
                    elements = elements.saturating_add(table.ty.initial);
                }
            }
            Payload::CodeSectionEntry(body) if most.is_some_and(|most| body.range().len() > most) => {
                let (size, most) = (body.range().len(), most.unwrap_or_default());
                return Err(Refused::new(
                    format!(
                        "has a function of {size} bytes, and `limits.guest_function_size` allows {most}: to compile it \
                         takes a thousand times as much memory, or more"
                    ),
                    "have it compiled for size, or split the function; or allow more, if you trust who wrote it",
                ));
            }
            _ => {}
        }
    }
    if elements > TABLES {
        return Err(Refused::new(
            format!("has tables that begin with {elements} elements, and {TABLES} are allowed"),
            "a table can grow when it is needed",
        ));
    }
    Ok(())
}

/// Does work that `what` names on a thread of its own, and waits for it for so long.
///
/// It cannot be stopped: what takes too long goes on until the process ends, which is soon, as the host does not start.
pub(super) fn within<T: Send + 'static>(
    time: Option<Duration>,
    (what, hint): (&str, &str),
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, Refused> {
    let (done, doing) = mpsc::channel();
    let thread = thread::Builder::new().name("carrel-compiler".into()).spawn(move || done.send(work()));
    let failed =
        |why: &str| Refused { why: format!("cannot be used, as the host failed to {what}: {why}"), hint: None };
    thread.map_err(|error| failed(&error.to_string()))?;
    let panicked = "it panicked";
    let Some(time) = time else { return doing.recv().map_err(|_| failed(panicked)) };
    doing.recv_timeout(time).map_err(|error| match error {
        RecvTimeoutError::Disconnected => failed(panicked),
        RecvTimeoutError::Timeout => Refused::new(
            format!("takes longer to {what} than `limits.guest_compile_time` allows, which is {time:?}"),
            hint,
        ),
    })
}

/// Checks that no texts are passed between components inside of a guest.
///
/// The engine copies and converts such a text itself, in one go: that uses no fuel, however long the text is, and nothing
/// can interrupt it. All else that passes is copied by code that pays for each item. A component that is passed nothing
/// but what the host gives it is fine, and so is what it gives the host: so only functions are told that one component
/// gives (lifts) and another one may be given (lowers), which need types of the same shape for that.
pub(super) fn check_texts(wasm: &[u8]) -> Result<(), Refused> {
    if !has_parts(wasm) {
        return Ok(());
    }
    let mut validator = Validator::new_with_features(WasmFeatures::all());
    let mut shapes = Shapes { known: HashMap::new(), hasher: RandomState::new() };
    let (mut lifted, mut lowered) = (HashSet::new(), HashSet::new());
    for payload in Parser::new(0).parse_all(wasm) {
        let Ok(payload) = payload else { return Ok(()) };
        let before = validator.types(0).map_or(0, |types| types.component_function_count());
        // Functions' bodies are for the compiler.
        if validator.payload(&payload).is_err() {
            return Ok(());
        }
        let Payload::ComponentCanonicalSection(section) = &payload else { continue };
        let Some(types) = validator.types(0) else { continue };
        let mut next = before;
        for function in section.clone() {
            match function {
                Ok(CanonicalFunction::Lift { .. }) => {
                    lifted.insert(shapes.function(types, types.component_function_at(next)));
                    next += 1;
                }
                Ok(CanonicalFunction::Lower { func_index, .. }) => {
                    lowered.insert(shapes.function(types, types.component_function_at(func_index)));
                }
                _ => {}
            }
        }
    }
    // A type with texts can stand for one without, if they are in cases that the other one lacks.
    let passes =
        |(shape, text): &(u64, bool)| lifted.contains(&(*shape, true)) || (*text && lifted.contains(&(*shape, false)));
    if lowered.iter().any(passes) {
        return Err(Refused::new(
            "is made of components that pass texts (`string`) to each other, which uses no fuel however long they are",
            "pass `list<u8>`, or link the parts into one component",
        ));
    }
    Ok(())
}

/// True if components inside of this one lift or lower functions.
fn has_parts(wasm: &[u8]) -> bool {
    let mut components = Vec::new();
    for payload in Parser::new(0).parse_all(wasm) {
        match payload {
            Ok(Payload::ComponentSection { .. }) => components.push(true),
            Ok(Payload::ModuleSection { .. }) => components.push(false),
            Ok(Payload::End(_)) => drop(components.pop()),
            Ok(Payload::ComponentCanonicalSection(_)) if components.contains(&true) => return true,
            Ok(_) => {}
            Err(_) => return false,
        }
    }
    false
}

/// The shapes of types, as numbers: two types one of which can stand for the other have the same. Variants can stand for
/// ones with fewer cases, so that all of them are alike.
struct Shapes {
    known: HashMap<ComponentDefinedTypeId, (u64, bool)>,
    hasher: RandomState,
}

impl Shapes {
    /// The shape of a function, and whether texts are in it.
    fn function(&mut self, types: TypesRef<'_>, id: ComponentFuncTypeId) -> (u64, bool) {
        let function = &types[id];
        let names: Vec<_> = function.params.iter().map(|(name, _)| name.as_str()).collect();
        let all = function.params.iter().map(|(_, ty)| *ty).chain(function.result);
        let (parts, text) = self.parts(types, all);
        (self.hasher.hash_one((names, function.result.is_some(), parts)), text)
    }

    fn parts(&mut self, types: TypesRef<'_>, parts: impl IntoIterator<Item = ComponentValType>) -> (Vec<u64>, bool) {
        let parts: Vec<_> = parts.into_iter().map(|part| self.value(types, part)).collect();
        (parts.iter().map(|part| part.0).collect(), parts.iter().any(|part| part.1))
    }

    fn value(&mut self, types: TypesRef<'_>, ty: ComponentValType) -> (u64, bool) {
        let id = match ty {
            ComponentValType::Primitive(primitive) => return self.primitive(primitive),
            ComponentValType::Type(id) => id,
        };
        if let Some(known) = self.known.get(&id) {
            return *known;
        }
        let shape = match &types[id] {
            ComponentDefinedType::Primitive(primitive) => self.primitive(*primitive),
            ComponentDefinedType::Record(record) => {
                let names: Vec<_> = record.fields.keys().map(|name| name.as_str()).collect();
                let (parts, text) = self.parts(types, record.fields.values().copied());
                (self.hasher.hash_one(("record", names, parts)), text)
            }
            ComponentDefinedType::Tuple(tuple) => self.shape("tuple", types, tuple.types.iter().copied()),
            ComponentDefinedType::List { element, .. } => self.shape("list", types, [*element]),
            ComponentDefinedType::Option { ty, .. } => self.shape("option", types, [*ty]),
            ComponentDefinedType::Result { ok, err, .. } => {
                let kind = if ok.is_some() { "result of" } else { "result" };
                self.shape(kind, types, ok.iter().chain(err).copied())
            }
            ComponentDefinedType::Variant(variant) => {
                let (_, text) = self.parts(types, variant.cases.values().filter_map(|case| case.ty));
                (self.hasher.hash_one("variant"), text)
            }
            ComponentDefinedType::Map { key, value, .. } => self.shape("map", types, [*key, *value]),
            ComponentDefinedType::FixedLengthList { element, .. } => self.shape("fixed list", types, [*element]),
            // Handles, names without parts, and what cannot be used.
            _ => (self.hasher.hash_one("other"), false),
        };
        self.known.insert(id, shape);
        shape
    }

    fn primitive(&self, primitive: PrimitiveValType) -> (u64, bool) {
        let text = matches!(primitive, PrimitiveValType::String | PrimitiveValType::ErrorContext);
        (self.hasher.hash_one(primitive.to_string()), text)
    }

    fn shape(
        &mut self,
        kind: &str,
        types: TypesRef<'_>,
        parts: impl IntoIterator<Item = ComponentValType>,
    ) -> (u64, bool) {
        let (parts, text) = self.parts(types, parts);
        (self.hasher.hash_one((kind, parts)), text)
    }
}

/// A text of a guest, cut to what fits a message.
pub(super) fn shown(text: &str) -> String {
    match text.char_indices().nth(SHOWN) {
        Some((end, _)) => format!("{}...", &text[..end]),
        None => text.to_owned(),
    }
}
