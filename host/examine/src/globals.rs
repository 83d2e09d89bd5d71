//! Globals that change between calls, moved to a linear memory of their own.
//!
//! Reads and writes of such a global become loads and stores at a constant address of a memory that is added to the
//! module; nothing else in the module changes its number. So the host, which owns linear memories, keeps globals with
//! the rest of an instance.

use super::{
    balance,
    module::Module,
    rewrite::{add_missing, bodies, instructions, longer, sections},
};
use std::collections::HashMap;
use wasm_encoder::{
    ConstExpr, DataSection, DataSegment, DataSegmentMode, Encode, Instruction, MemArg, MemorySection, MemoryType,
    RawSection, Section, SectionId, ValType as Encoded,
};
use wasmparser::{BinaryReader, FunctionBody, Operator, ValType};

/// Bytes that each global has in the memory: as many as the largest type has.
const CELL: u64 = 16;

/// The globals that may have another value between two calls than at the start.
pub(super) fn changing(module: &Module<'_>) -> Vec<u32> {
    module.set_globals().into_iter().filter(|global| !balance::keeps(module, *global)).collect()
}

/// Checks that a global can be moved; the error says why not.
pub(super) fn can_be_moved(module: &Module<'_>, global: u32) -> Result<(), &'static str> {
    let found = &module.globals[global as usize];
    if (global as usize) < module.imported_globals || found.exported {
        return Err("modules share it");
    }
    if matches!(found.ty, ValType::Ref(_)) {
        return Err("it is a reference, which is no memory");
    }
    match found.start {
        Some(_) => Ok(()),
        None => Err("it starts with another global's value"),
    }
}

/// Moves globals. Each must be movable.
pub(super) fn move_to_memory(wasm: &[u8], module: &Module<'_>, globals: &[u32]) -> wasmparser::Result<Vec<u8>> {
    let memory = module.imported_memories + module.memories;
    let cells = globals.iter().copied().zip(0..).collect();
    let moving = Moving { module, globals, cells, memory };
    let mut sections = sections(wasm)?;
    const MEMORY: u8 = SectionId::Memory as u8;
    const DATA_COUNT: u8 = SectionId::DataCount as u8;
    const CODE: u8 = SectionId::Code as u8;
    const DATA: u8 = SectionId::Data as u8;
    add_missing(&mut sections, &[MEMORY, DATA]);
    let mut out = wasm[..8].to_vec();
    for (id, content) in &sections {
        let content = match *id {
            MEMORY => moving.memory(content)?,
            DATA_COUNT => {
                let mut count = Vec::new();
                (BinaryReader::new(content, 0).read_var_u32()? + globals.len() as u32).encode(&mut count);
                count
            }
            CODE => moving.code(content)?,
            DATA => moving.data(content)?,
            _ => content.clone(),
        };
        RawSection { id: *id, data: &content }.append_to(&mut out);
    }
    Ok(out)
}

struct Moving<'a> {
    module: &'a Module<'a>,
    globals: &'a [u32],
    /// Each moved global's index among them.
    cells: HashMap<u32, u64>,
    /// The number of the memory that is added.
    memory: u32,
}

impl Moving<'_> {
    fn memory(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        let pages = (self.globals.len() as u64 * CELL).div_ceil(65536);
        let mut section = MemorySection::new();
        section.memory(MemoryType {
            minimum: pages,
            maximum: Some(pages),
            memory64: false,
            shared: false,
            page_size_log2: None,
        });
        longer(content, &section, 1)
    }

    /// The data section with a segment for each global's initial value added.
    fn data(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        let mut section = DataSection::new();
        for (index, global) in self.globals.iter().enumerate() {
            let start = self.module.globals[*global as usize].start.unwrap_or(0).to_le_bytes();
            let offset = ConstExpr::i32_const((index as u64 * CELL) as i32);
            let mode = DataSegmentMode::Active { memory_index: self.memory, offset: &offset };
            section.segment(DataSegment { mode, data: start });
        }
        longer(content, &section, self.globals.len() as u32)
    }

    fn code(&self, content: &[u8]) -> wasmparser::Result<Vec<u8>> {
        bodies(content, |index, body| {
            let params = self.module.params(self.module.imported_functions + index);
            self.function(body, params)
        })
    }

    /// Rewrites a function with loads and stores in place of its uses of the globals. A store takes its address
    /// first, so the value is kept in an added local of its type.
    fn function(&self, body: &FunctionBody<'_>, params: usize) -> wasmparser::Result<Vec<u8>> {
        let types = [
            (ValType::I32, Encoded::I32),
            (ValType::I64, Encoded::I64),
            (ValType::F32, Encoded::F32),
            (ValType::F64, Encoded::F64),
            (ValType::V128, Encoded::V128),
        ];
        let (bytes, start) = (body.as_bytes(), body.range().start);
        let mut groups = body.get_locals_reader()?;
        let (count, first_group) = (groups.get_count(), groups.original_position());
        let mut locals = params as u32;
        for _ in 0..count {
            locals += groups.read()?.0;
        }
        let code = body.get_operators_reader()?.original_position();
        let mut out = Vec::with_capacity(bytes.len() + 64);
        (count + types.len() as u32).encode(&mut out);
        out.extend_from_slice(&bytes[first_group - start..code - start]);
        for (_, ty) in types {
            1u32.encode(&mut out);
            ty.encode(&mut out);
        }
        let waiting = |ty: ValType| locals + types.iter().position(|(other, _)| *other == ty).unwrap_or(0) as u32;
        instructions(body, &mut out, |operator, out| {
            let (Operator::GlobalGet { global_index } | Operator::GlobalSet { global_index }) = *operator else {
                return false;
            };
            let Some(cell) = self.cells.get(&global_index) else { return false };
            let ty = self.module.globals[global_index as usize].ty;
            let place = MemArg { offset: cell * CELL, align: 2, memory_index: self.memory };
            let is_set = matches!(operator, Operator::GlobalSet { .. });
            if is_set {
                Instruction::LocalSet(waiting(ty)).encode(out);
            }
            Instruction::I32Const(0).encode(out);
            if is_set {
                Instruction::LocalGet(waiting(ty)).encode(out);
            }
            let access = match (ty, is_set) {
                (ValType::I32, true) => Instruction::I32Store(place),
                (ValType::I64, true) => Instruction::I64Store(place),
                (ValType::F32, true) => Instruction::F32Store(place),
                (ValType::F64, true) => Instruction::F64Store(place),
                (_, true) => Instruction::V128Store(place),
                (ValType::I32, false) => Instruction::I32Load(place),
                (ValType::I64, false) => Instruction::I64Load(place),
                (ValType::F32, false) => Instruction::F32Load(place),
                (ValType::F64, false) => Instruction::F64Load(place),
                (_, false) => Instruction::V128Load(place),
            };
            access.encode(out);
            true
        })?;
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use wasmtime::{Engine, Instance, Linker, Store, Val};

    fn wasm(text: &str) -> Vec<u8> {
        wat::parse_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
    }

    /// A module with its changing globals in a memory, and their number.
    fn moved(wasm: &[u8]) -> (Vec<u8>, usize) {
        let module = Module::read(wasm).unwrap();
        let globals = changing(&module);
        assert!(globals.iter().all(|global| can_be_moved(&module, *global) == Ok(())));
        let moved = move_to_memory(wasm, &module, &globals).unwrap();
        assert!(changing(&Module::read(&moved).unwrap()).is_empty(), "nothing is left to move");
        (moved, globals.len())
    }

    /// Calls a module's `f` with each of these arguments in turn: its results, or `None` for a trap.
    fn run(wasm: &[u8], arguments: &[i64]) -> Vec<Option<Vec<String>>> {
        let engine = Engine::default();
        let module = wasmtime::Module::new(&engine, wasm).unwrap();
        let mut store = Store::new(&engine, ());
        let mut linker = Linker::new(&engine);
        let memory = wasmtime::Memory::new(&mut store, wasmtime::MemoryType::new(1, None)).unwrap();
        linker.define(&store, "host", "memory", memory).unwrap();
        let instance = linker.instantiate(&mut store, &module).unwrap();
        arguments.iter().map(|argument| call(&mut store, &instance, *argument)).collect()
    }

    fn call(store: &mut Store<()>, instance: &Instance, argument: i64) -> Option<Vec<String>> {
        let f = instance.get_func(&mut *store, "f").unwrap();
        let mut results = vec![Val::I32(0); f.ty(&mut *store).results().len()];
        f.call(&mut *store, &[argument.into()], &mut results).ok()?;
        // Floats as their bits, so that NaNs compare too.
        Some(results.iter().map(|result| format!("{result:?}")).collect())
    }

    /// Asserts that both modules give the same, and that so many globals were moved.
    fn same(text: &str, arguments: &[i64], expected: usize) {
        let before = wasm(text);
        let (after, count) = moved(&before);
        assert_eq!(count, expected);
        let outcome = run(&before, arguments);
        assert!(outcome.iter().any(Option::is_some));
        assert_eq!(outcome, run(&after, arguments), "{text}");
    }

    #[test]
    fn a_global_of_each_type_of_number_is_the_same_in_memory() {
        let each = "(module
            (global $a (mut i32) (i32.const -5)) (global $b (mut i64) (i64.const 0x123456789abcdef))
            (global $c (mut f32) (f32.const -nan:0x200001)) (global $d (mut f64) (f64.const -0))
            (global $e (mut v128) (v128.const i64x2 -1 0x7fffffffffffffff)) (global $f i32 (i32.const 3))
            (func (export \"f\") (param $n i64) (result i32 i64 f32 f64 v128)
                (global.get $a) (global.get $b) (global.get $c) (global.get $d) (global.get $e)
                (global.set $a (i32.mul (global.get $a) (i32.add (global.get $f) (i32.wrap_i64 (local.get $n)))))
                (global.set $b (i64.rotl (i64.add (global.get $b) (local.get $n)) (i64.const 7)))
                (if (i64.gt_s (local.get $n) (i64.const 2))
                    (then (global.set $c (f32.add (f32.const 0.1) (f32.convert_i64_s (local.get $n))))))
                (global.set $d (f64.div (f64.convert_i64_s (local.get $n)) (global.get $d)))
                (global.set $e (i64x2.add (global.get $e) (i64x2.splat (local.get $n))))))";
        same(each, &[0, 1, 2, 3, -4, i64::MAX, i64::MIN, 5], 5);
    }

    #[test]
    fn values_and_locals_around_a_global_stay_as_they_are() {
        // The store's address comes before the value, which lies on others; locals are of several groups.
        let around = "(module (memory 1) (global $g (mut i64) (i64.const 40))
            (func $twice (param i64) (result i64) (i64.mul (local.get 0) (i64.const 2)))
            (func (export \"f\") (param $n i64) (result i64 i64) (local i32 i32) (local $x i64) (local f64 v128 f32)
                (local.get $n)
                (local.set $x (i64.const 7))
                (block (result i64)
                    (i64.const 100)
                    (global.set $g (call $twice (i64.add (local.get $x) (global.get $g))))
                    (br_if 0 (i64.eqz (i64.rem_s (local.get $n) (i64.const 2))))
                    (global.set $g (i64.sub (global.get $g) (local.get $n))))
                (i64.add (i64.add (global.get $g) (local.get $x)))))";
        same(around, &[1, 2, 3, 4, 5], 1);
    }

    #[test]
    fn a_trap_is_where_it_was() {
        let traps = "(module (global $g (mut i32) (i32.const 0))
            (func (export \"f\") (param $n i64) (result i32)
                (global.set $g (i32.add (global.get $g) (i32.const 1)))
                (if (i64.eqz (local.get $n)) (then unreachable))
                (global.get $g)))";
        same(traps, &[1, 0, 1, 0, 0, 1], 1);
    }

    #[test]
    fn what_is_numbered_keeps_its_number() {
        // Memories, imported and of its own; data, active and passive; segments that code names.
        let numbered = "(module (import \"host\" \"memory\" (memory $theirs 1)) (memory $mine 1 9)
            (global $g (mut i32) (i32.const 8)) (global $h (mut i32) (i32.const 1))
            (data $active (memory $mine) (i32.const 16) \"active\") (data $passive \"passive\")
            (table 2 funcref) (elem (i32.const 0) $one $two)
            (func $one (result i32) (i32.const 11)) (func $two (result i32) (i32.const 22))
            (func (export \"f\") (param $n i64) (result i32 i32 i32 i32)
                (memory.init $mine $passive (global.get $g) (i32.const 0) (i32.const 7))
                (memory.copy $theirs $mine (i32.const 0) (i32.const 0) (i32.const 64))
                (global.set $g (i32.add (global.get $g) (i32.const 3)))
                (global.set $h (i32.xor (global.get $h) (i32.const 1)))
                (i32.load $theirs (global.get $g)) (i32.load8_u $mine (i32.const 18))
                (drop (memory.grow $mine (i32.const 1))) (memory.size $mine)
                (call_indirect (result i32) (global.get $h))))";
        same(numbered, &[0; 6], 2);
    }

    #[test]
    fn more_globals_than_a_page_holds_are_moved() {
        let each = |n| {
            format!(
                "(global $g{n} (mut i32) (i32.const {n}))
                (func $f{n} (global.set $g{n} (i32.add (global.get $g{n}) (i32.const 1))))"
            )
        };
        let globals: String = (0..4100).map(each).collect();
        let many = format!(
            "(module {globals} (func (export \"f\") (param i64) (result i32 i32 i32)
                (call $f0) (call $f4095) (call $f4096) (global.get $g0) (global.get $g4095) (global.get $g4096)))"
        );
        same(&many, &[0, 0, 0], 4100);
    }

    #[test]
    fn a_module_without_memory_or_data_gets_both_in_their_places() {
        // Sections before and behind, of which custom ones may be anywhere.
        let bare = "(module (@custom \"first\" (before type) \"x\") (type (func (param i64) (result i32)))
            (table 1 funcref) (global $g (mut i32) (i32.const 0)) (export \"f\" (func $f))
            (start $nothing) (elem (i32.const 0) $f) (@custom \"middle\" (after code) \"y\")
            (func $nothing)
            (func $f (type 0) (global.set $g (i32.add (global.get $g) (i32.const 1))) (global.get $g))
            (@custom \"last\" (after last) \"z\"))";
        same(bare, &[0, 0, 0], 1);
    }

    #[test]
    fn what_does_not_change_between_calls_is_left_alone() {
        let kept = "(module (global i32 (i32.const 1)) (global $unset (mut i32) (i32.const 1))
            (global $sp (mut i32) (i32.const 4096)) (global $at-start (mut i32) (i32.const 0))
            (func $init (global.set $at-start (i32.const 7))) (start $init)
            (func (export \"f\") (param i64) (result i32)
                (global.set $sp (i32.sub (global.get $sp) (i32.const 16)))
                (global.set $sp (i32.add (global.get $sp) (i32.const 16)))
                (global.get $at-start)))";
        let kept = wasm(kept);
        let module = Module::read(&kept).unwrap();
        assert!(changing(&module).is_empty());
        assert_eq!(module.set_at_start().into_iter().collect::<Vec<_>>(), [3]);
        let again = wasm(
            "(module (global $g (mut i32) (i32.const 0)) (func $init (global.set $g (i32.const 7))) (start $init)
                (func (export \"f\") (call $init)))",
        );
        assert_eq!(changing(&Module::read(&again).unwrap()), [0], "the start function is called by others too");
    }

    #[test]
    fn what_cannot_be_moved_is_told() {
        let why = |global: &str| {
            let text = format!("(module {global} (func (param funcref) (global.set 0 (local.get 0))))");
            let text = if global.contains("funcref") { text } else { text.replace("funcref", "i32") };
            let wasm = wasm(&text);
            let module = Module::read(&wasm).unwrap();
            assert_eq!(changing(&module), [0]);
            can_be_moved(&module, 0)
        };
        assert_eq!(why("(global (mut i32) (i32.const 0))"), Ok(()));
        assert_eq!(why(r#"(global (export "g") (mut i32) (i32.const 0))"#), Err("modules share it"));
        assert_eq!(why(r#"(import "a" "g" (global (mut i32)))"#), Err("modules share it"));
        assert_eq!(why("(global (mut funcref) (ref.null func))"), Err("it is a reference, which is no memory"));
        let starts = wasm(
            r#"(module (import "a" "g" (global i32)) (global (mut i32) (global.get 0))
                (func (global.set 1 (i32.const 1))))"#,
        );
        let module = Module::read(&starts).unwrap();
        assert_eq!(can_be_moved(&module, 1), Err("it starts with another global's value"));
    }

    /// An expression of a type, with side effects, of globals `$i` and `$l` and a local `$n`.
    fn expression(wide: bool) -> impl Strategy<Value = String> {
        let (ty, global) = if wide { ("i64", "$l") } else { ("i32", "$i") };
        let local = if wide { "(local.get $n)" } else { "(i32.wrap_i64 (local.get $n))" };
        let leaf = prop_oneof![
            Just(format!("(global.get {global})")),
            Just(local.to_owned()),
            any::<i32>().prop_map(move |number| format!("({ty}.const {number})")),
        ];
        leaf.prop_recursive(4, 24, 3, move |inner| {
            let pair = (inner.clone(), inner.clone());
            prop_oneof![
                pair.clone().prop_map(move |(a, b)| format!("({ty}.add {a} {b})")),
                pair.clone().prop_map(move |(a, b)| format!("({ty}.xor {a} {b})")),
                pair.clone().prop_map(move |(a, b)| format!("({ty}.div_s {a} {b})")),
                // Sets a global with a value of the stack below it.
                pair.clone().prop_map(move |(a, b)| format!("{a} (global.set {global} {b})")),
                pair.clone().prop_map(move |(a, b)| {
                    format!("(if (result {ty}) (i64.eqz (local.get $n)) (then {a}) (else {b}))")
                }),
                inner.clone().prop_map(move |a| {
                    format!("(block (result {ty}) {a} (br_if 0 (i32.and (global.get $i) (i32.const 1))) ({ty}.const 9) {ty}.sub)")
                }),
                inner.prop_map(move |a| format!("(global.set {global} {a}) (global.get {global})")),
            ]
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig { cases: 300, failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn any_code_does_the_same_with_globals_in_memory(
            narrow in expression(false),
            wide in expression(true),
            arguments in prop::collection::vec(-3..3i64, 1..6),
        ) {
            let text = format!(
                "(module (global $i (mut i32) (i32.const 1)) (global $l (mut i64) (i64.const -1))
                    (func (export \"f\") (param $n i64) (result i32 i64 i32 i64) {narrow} {wide}
                        (global.get $i) (global.get $l)))"
            );
            let before = wasm(&text);
            let (after, _) = moved(&before);
            prop_assert_eq!(run(&before, &arguments), run(&after, &arguments), "{}", text);
        }
    }
}
