//! Texts that the components of one guest pass to each other, priced.
//!
//! The engine copies such a text from one memory to the other, and changes its encoding on the way, without fuel.
//! First the engine asks the receiving component for memory, by the function that its canonical options name as
//! `realloc`. So in a guest of several components each such function first uses fuel by the bytes asked for: in its
//! place, a module exports a function that counts down and then calls it.

use super::{
    lifts::Lifts,
    module::Module,
    rewrite::{add_missing, longer, modules, sections},
};
use std::{borrow::Cow, collections::BTreeSet};
use wasm_encoder::{
    CodeSection, ExportKind, ExportSection, Function, FunctionSection, RawSection, Section, SectionId, ValType,
};
use wasmparser::{BinaryReader, CompositeInnerType, ExportSectionReader, ExternalKind, Parser};

/// Rounds of counting for each text. A round is five units.
const TEXT: i32 = 16;
/// Bytes for each further round, as a power of two: 2.5 units a byte, for work of about one nanosecond.
const BYTES: i32 = 1;

/// The component, which has to be valid, with its functions for memory priced if several components in it pass texts.
pub(super) fn priced(wasm: &[u8]) -> wasmparser::Result<Cow<'_, [u8]>> {
    let mut lifts = Lifts::default();
    for payload in Parser::new(0).parse_all(wasm) {
        lifts.note(&payload?)?;
    }
    if lifts.components < 2 {
        return Ok(Cow::Borrowed(wasm));
    }
    let names = lifts.reallocs();
    modules(wasm, |module| of_module(module, &names))
}

/// The module with counting functions added, exported under these names in place of those that give memory; borrowed,
/// if it exports none.
fn of_module<'a>(wasm: &'a [u8], names: &BTreeSet<String>) -> wasmparser::Result<Cow<'a, [u8]>> {
    let module = Module::parse(wasm)?;
    let gives = names.iter().filter_map(|name| {
        let index = *module.exports.get(name)?;
        let ty = *module.functions.get(index as usize)?;
        is_realloc(&module.types.get(ty as usize)?.composite_type.inner).then_some((name, index, ty))
    });
    let found: Vec<_> = gives.collect();
    if found.is_empty() {
        return Ok(Cow::Borrowed(wasm));
    }
    let first = module.functions.len() as u32;
    let mut sections = sections(wasm)?;
    const FUNCTION: u8 = SectionId::Function as u8;
    const CODE: u8 = SectionId::Code as u8;
    const EXPORT: u8 = SectionId::Export as u8;
    // A module that has no function of its own exports one of another module.
    add_missing(&mut sections, &[FUNCTION, CODE]);
    let mut out = wasm[..8].to_vec();
    for (id, content) in &sections {
        let content = match *id {
            FUNCTION => {
                let mut more = FunctionSection::new();
                for (_, _, ty) in &found {
                    more.function(*ty);
                }
                longer(content, &more, found.len() as u32)?
            }
            CODE => {
                let mut more = CodeSection::new();
                for (_, index, _) in &found {
                    more.function(&counting(*index));
                }
                longer(content, &more, found.len() as u32)?
            }
            EXPORT => {
                let mut section = ExportSection::new();
                for export in ExportSectionReader::new(BinaryReader::new(content, 0))? {
                    let export = export?;
                    let counted = found.iter().position(|(name, ..)| *name == export.name);
                    let index = counted.map_or(export.index, |place| first + place as u32);
                    let kind = match export.kind {
                        ExternalKind::Func | ExternalKind::FuncExact => ExportKind::Func,
                        ExternalKind::Table => ExportKind::Table,
                        ExternalKind::Memory => ExportKind::Memory,
                        ExternalKind::Global => ExportKind::Global,
                        ExternalKind::Tag => ExportKind::Tag,
                    };
                    section.export(export.name, kind, index);
                }
                longer(&[0], &section, section.len())?
            }
            _ => content.clone(),
        };
        RawSection { id: *id, data: &content }.append_to(&mut out);
    }
    Ok(Cow::Owned(out))
}

/// `(old, old-size, align, new-size) -> address`, as the canonical ABI has it.
fn is_realloc(ty: &CompositeInnerType) -> bool {
    use wasmparser::ValType::I32;
    matches!(ty, CompositeInnerType::Func(ty) if ty.params() == [I32; 4] && ty.results() == [I32])
}

/// A function that counts down by the bytes asked for, and then calls another one.
fn counting(function: u32) -> Function {
    let mut body = Function::new([(1, ValType::I32)]);
    body.instructions().local_get(3).i32_const(BYTES).i32_shr_u().i32_const(TEXT).i32_add().local_set(4);
    body.instructions().loop_(wasm_encoder::BlockType::Empty);
    body.instructions().local_get(4).i32_const(1).i32_sub().local_tee(4).br_if(0).end();
    body.instructions().local_get(0).local_get(1).local_get(2).local_get(3).call(function).end();
    body
}

#[cfg(test)]
mod tests {
    use super::*;
    use wasmparser::{Payload, Validator, WasmFeatures};

    /// A component in which one component passes texts to another, whose module has these fields.
    fn composed(receiver: &str, realloc: &str) -> Vec<u8> {
        let text = format!(
            r#"(component
                (component $to
                    {receiver}
                    (func (export "f") (param "text" string)
                        (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc {realloc}))))
                (component $from
                    (import "f" (func $f (param "text" string)))
                    (core module $m (memory (export "memory") 1))
                    (core instance $i (instantiate $m))
                    (core func (canon lower (func $f) (memory (core memory $i "memory")))))
                (instance $to (instantiate $to))
                (instance (instantiate $from (with "f" (func $to "f")))))"#
        );
        wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    /// The number of modules with a counting function.
    fn counted(wasm: &[u8]) -> usize {
        let priced = priced(wasm).unwrap();
        Validator::new_with_features(WasmFeatures::all()).validate_all(&priced).unwrap();
        let code = |wasm: &[u8]| {
            let sections = Parser::new(0).parse_all(wasm);
            sections.filter(|it| matches!(it, Ok(Payload::CodeSectionEntry(_)))).count()
        };
        code(&priced) - code(wasm)
    }

    const GIVES: &str = r#"(param i32 i32 i32 i32) (result i32) (i32.const 8)"#;

    #[test]
    fn what_gives_memory_counts_wherever_it_comes_from() {
        let f = r#"(memory (export "memory") 1) (func (export "f") (param i32 i32))"#;
        let direct = format!(
            r#"(core module $m {f} (func (export "give") {GIVES}) (func (export "other") {GIVES}))
                (core instance $i (instantiate $m))"#
        );
        assert_eq!(counted(&composed(&direct, r#"(core func $i "give")"#)), 1);
        let renamed = format!(
            r#"(core module $m {f} (func (export "give") {GIVES})) (core instance $i (instantiate $m))
                (core instance $j (export "one" (func $i "give"))) (core instance $k (export "two" (func $j "one")))"#
        );
        assert_eq!(counted(&composed(&renamed, r#"(core func $k "two")"#)), 1);
        // A module without any function of its own hands on what it imports.
        let handed_on = format!(
            r#"(core module $m {f} (func (export "a") {GIVES})) (core instance $i (instantiate $m))
                (core module $n (import "m" "a" (func (param i32 i32 i32 i32) (result i32)))
                    (global (export "g") i32 (i32.const 1)) (export "give" (func 0)))
                (core instance $n (instantiate $n (with "m" (instance $i))))"#
        );
        assert_eq!(counted(&composed(&handed_on, r#"(core func $n "give")"#)), 1);
    }

    #[test]
    fn a_guest_of_one_component_stays_as_it_is() {
        let one = format!(
            r#"(component (core module $m (memory (export "memory") 1) (func (export "f") (param i32 i32))
                    (func (export "give") {GIVES}))
                (core instance $i (instantiate $m))
                (func (export "f") (param "text" string)
                    (canon lift (core func $i "f") (memory (core memory $i "memory")) (realloc (core func $i "give")))))"#
        );
        assert_eq!(counted(&wat::parse_str(one).unwrap()), 0);
    }
}
