//! Tests of divided instructions, which are compared with whole ones.

use super::*;
use proptest::prelude::*;
use std::sync::LazyLock;
use wasmparser::{Validator, WasmFeatures};
use wasmtime::{Config, Engine, Instance, Linker, Memory as Linear, MemoryType, Module, Store, Val};

static ENGINE: LazyLock<Engine> = LazyLock::new(|| {
    let mut config = Config::new();
    config.wasm_memory64(true).wasm_multi_memory(true);
    Engine::new(&config).unwrap()
});

/// A module as it was written, and with its instructions divided.
struct Both {
    before: Module,
    after: Module,
}

impl Both {
    fn of(wasm: &[u8]) -> Self {
        let [before, after] = [wasm, &divided(wasm).unwrap()].map(|wasm| Module::new(&ENGINE, wasm).unwrap());
        Self { before, after }
    }
}

static OF_EACH: LazyLock<Both> = LazyLock::new(|| Both::of(&each()));
static OF_TABLES: LazyLock<Both> = LazyLock::new(|| Both::of(&tables()));

/// Each instruction on memories: with addresses of 32 and of 64 bits, an empty one, and one from outside.
const EACH: &str = r#"(module
    (import "host" "memory" (memory $theirs 4)) (memory $own 4) (memory $wide i64 4) (memory $empty 0)
    (data $passive "PASSIVE") (data $active (memory $own) (i32.const 99) "active")
    (func (export "fill") (param i64 i64 i64)
        (memory.fill $own (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "fill-wide") (param i64 i64 i64)
        (memory.fill $wide (local.get 0) (i32.wrap_i64 (local.get 1)) (local.get 2)))
    (func (export "fill-empty") (param i64 i64 i64)
        (memory.fill $empty (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "copy") (param i64 i64 i64)
        (memory.copy (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "copy-own") (param i64 i64 i64)
        (memory.copy $own $own
            (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "copy-wide") (param i64 i64 i64)
        (memory.copy $wide $wide (local.get 0) (local.get 1) (local.get 2)))
    (func (export "narrow") (param i64 i64 i64)
        (memory.copy $own $wide (i32.wrap_i64 (local.get 0)) (local.get 1) (i32.wrap_i64 (local.get 2))))
    (func (export "widen") (param i64 i64 i64)
        (memory.copy $wide $own (local.get 0) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "init") (param i64 i64 i64)
        (memory.init $own $passive
            (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "dropped") (param i64 i64 i64)
        (memory.init $wide $active (local.get 0) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "of-known-size") (param i64 i64 i64)
        (memory.fill $own (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.const 65536))
        (memory.fill $wide (local.get 0) (i32.wrap_i64 (local.get 1)) (i64.const 65537)))
    (export "own" (memory $own)) (export "wide" (memory $wide)))"#;

fn each() -> Vec<u8> {
    let passive: String = (0..150_000).map(|byte| char::from(b'a' + (byte % 23) as u8)).collect();
    wat::parse_str(EACH.replace("PASSIVE", &passive)).unwrap()
}

/// Each instruction on tables, whose elements tell which of three functions they are, or none.
const TABLES: &str = r#"(module
    (table $own 100000 funcref) (table $wide i64 100000 funcref)
    (func $one) (func $two) (func $three)
    (elem $passive func FUNCTIONS) (elem $active (table $own) (i32.const 99) func $one $two)
    (elem $refs funcref (ref.func $two) (ref.null func))
    (func $element (param i64) (result funcref)
        (table.get $own (i32.rem_u (i32.wrap_i64 (local.get 0)) (i32.const 100000))))
    (func (export "begin")
        (table.init $own $passive (i32.const 5) (i32.const 0) (i32.const 40000))
        (table.init $wide $passive (i64.const 9000) (i32.const 0) (i32.const 40000)))
    (func (export "fill") (param i64 i64 i64)
        (table.fill $own (i32.wrap_i64 (local.get 0)) (call $element (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "fill-wide") (param i64 i64 i64)
        (table.fill $wide (local.get 0) (call $element (local.get 1)) (local.get 2)))
    (func (export "copy") (param i64 i64 i64)
        (table.copy (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "copy-wide") (param i64 i64 i64)
        (table.copy $wide $wide (local.get 0) (local.get 1) (local.get 2)))
    (func (export "narrow") (param i64 i64 i64)
        (table.copy $own $wide (i32.wrap_i64 (local.get 0)) (local.get 1) (i32.wrap_i64 (local.get 2))))
    (func (export "init") (param i64 i64 i64)
        (table.init $own $passive
            (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "init-wide") (param i64 i64 i64)
        (table.init $wide $refs (local.get 0) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (func (export "dropped") (param i64 i64 i64)
        (table.init $own $active
            (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2))))
    (export "one" (func $one)) (export "two" (func $two)) (export "three" (func $three))
    (export "own" (table $own)) (export "wide" (table $wide)))"#;

const IN_TABLES: [&str; 8] = ["fill", "fill-wide", "copy", "copy-wide", "narrow", "init", "init-wide", "dropped"];

fn tables() -> Vec<u8> {
    let functions = ["$one ", "$two ", "$three "].into_iter().cycle().take(40_000).collect::<String>();
    wat::parse_str(TABLES.replace("FUNCTIONS", &functions)).unwrap()
}

type Done = Vec<(bool, [u8; 32])>;

/// For each of these calls, true if it succeeds, and the hash of all memories after it.
fn run(module: &Module, calls: &[(&str, [i64; 3])]) -> Done {
    let mut store = Store::new(&ENGINE, ());
    let mut linker = Linker::new(&ENGINE);
    let theirs = Linear::new(&mut store, MemoryType::new(4, None)).unwrap();
    linker.define(&store, "host", "memory", theirs).unwrap();
    let instance = linker.instantiate(&mut store, module).unwrap();
    let memories = [Some(theirs), instance.get_memory(&mut store, "own"), instance.get_memory(&mut store, "wide")];
    for memory in memories.iter().flatten() {
        let bytes = memory.data_mut(&mut store);
        bytes.iter_mut().enumerate().for_each(|(at, byte)| *byte = (at / 251) as u8 ^ at as u8);
    }
    calls
        .iter()
        .map(|(name, arguments)| (call(&mut store, &instance, name, arguments), hash(&store, &memories)))
        .collect()
}

/// For each of these calls, true if it succeeds; and the function in each element of the tables at the end.
fn run_tables(module: &Module, calls: &[(&str, [i64; 3])]) -> (Vec<bool>, Vec<Option<usize>>) {
    let mut store = Store::new(&ENGINE, ());
    let instance = Instance::new(&mut store, module, &[]).unwrap();
    instance.get_func(&mut store, "begin").unwrap().call(&mut store, &[], &mut []).unwrap();
    let well = calls.iter().map(|(name, arguments)| call(&mut store, &instance, name, arguments)).collect();
    let functions = ["one", "two", "three"].map(|name| {
        let function = instance.get_func(&mut store, name).unwrap();
        function.to_raw(&mut store)
    });
    let mut elements = Vec::new();
    for name in ["own", "wide"] {
        let table = instance.get_table(&mut store, name).unwrap();
        for at in 0..table.size(&store) {
            let element = table.get(&mut store, at).unwrap();
            let raw = element.as_func().unwrap().map(|function| function.to_raw(&mut store));
            elements.push(raw.map(|raw| functions.iter().position(|known| *known == raw).unwrap()));
        }
    }
    (well, elements)
}

fn call(store: &mut Store<()>, instance: &Instance, name: &str, arguments: &[i64; 3]) -> bool {
    let arguments = arguments.map(Val::I64);
    instance.get_func(&mut *store, name).unwrap().call(store, &arguments, &mut []).is_ok()
}

fn hash(store: &Store<()>, memories: &[Option<Linear>]) -> [u8; 32] {
    let mut hasher = blake3::Hasher::new();
    for memory in memories.iter().flatten() {
        hasher.update(memory.data(store));
    }
    *hasher.finalize().as_bytes()
}

const NAMES: [&str; 11] = [
    "fill",
    "fill-wide",
    "fill-empty",
    "copy",
    "copy-own",
    "copy-wide",
    "narrow",
    "widen",
    "init",
    "dropped",
    "of-known-size",
];

/// Places and sizes about the edges of pieces, memories and numbers.
fn number() -> impl Strategy<Value = i64> {
    let near = |edge: i64| (-3..=3i64).prop_map(move |by| edge.wrapping_add(by));
    let piece = i64::from(BYTES);
    prop_oneof![
        near(0),
        near(piece),
        near(2 * piece),
        near(4 * piece),
        0..4 * piece,
        0..piece,
        near(1 << 32),
        near(i64::MAX),
        near(150_000),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_divided_does_the_same(
        calls in prop::collection::vec((prop::sample::select(&NAMES), [number(), number(), number()]), 1..40),
    ) {
        prop_assert_eq!(run(&OF_EACH.before, &calls), run(&OF_EACH.after, &calls));
    }
}

/// Places and sizes about the edges of pieces, tables and numbers.
fn element() -> impl Strategy<Value = i64> {
    let near = |edge: i64| (-3..=3i64).prop_map(move |by| edge.wrapping_add(by));
    let piece = i64::from(ELEMENTS);
    prop_oneof![near(0), near(piece), near(2 * piece), 0..100_000i64, near(100_000), near(40_000), near(1 << 32)]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 5, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_divided_does_the_same_to_tables(
        calls in
            prop::collection::vec((prop::sample::select(&IN_TABLES), [element(), element(), element()]), 1..40),
    ) {
        prop_assert_eq!(run_tables(&OF_TABLES.before, &calls), run_tables(&OF_TABLES.after, &calls));
    }
}

#[test]
fn elements_that_lap_over_are_as_they_were() {
    let (before, piece) = (tables(), i64::from(ELEMENTS));
    let after = divided(&before).unwrap();
    assert_eq!(functions(&after), functions(&before) + 9);
    Validator::new_with_features(WasmFeatures::all()).validate_all(&after).unwrap();
    let by = [1, 100, piece, piece + 1];
    let calls: Vec<_> = by
        .into_iter()
        .flat_map(|by| [[by, 0, 2 * piece + 7], [0, by, 2 * piece + 7]])
        .flat_map(|arguments| ["copy", "copy-wide"].map(|name| (name, arguments)))
        .collect();
    let done = run_tables(&OF_TABLES.before, &calls);
    assert!(done.0.iter().all(|well| *well));
    assert_eq!(done, run_tables(&OF_TABLES.after, &calls));
}

#[test]
fn copies_that_lap_over_are_as_they_were() {
    let piece = i64::from(BYTES);
    let by = [1, 100, piece - 1, piece, piece + 1];
    let calls: Vec<_> = by
        .into_iter()
        .flat_map(|by| [[by, 0, 2 * piece + 7], [0, by, 2 * piece + 7], [by, 5, 0], [5, by, piece + 1]])
        .flat_map(|arguments| ["copy", "copy-own", "copy-wide"].map(|name| (name, arguments)))
        .collect();
    let done = run(&OF_EACH.before, &calls);
    assert!(done.iter().all(|(well, _)| *well));
    assert_eq!(done, run(&OF_EACH.after, &calls));
}

#[test]
fn one_memory_under_two_names_is_copied_as_one() {
    let twice = r#"(module (import "host" "memory" (memory $a 4)) (import "host" "memory" (memory $b 4))
        (func (export "copy") (param i64 i64 i64)
            (memory.copy $a $b
                (i32.wrap_i64 (local.get 0)) (i32.wrap_i64 (local.get 1)) (i32.wrap_i64 (local.get 2)))))"#;
    let (both, piece) = (Both::of(&wat::parse_str(twice).unwrap()), i64::from(BYTES));
    let calls = [[100, 0, 2 * piece + 7], [0, 100, 2 * piece + 7], [piece, 3, 2 * piece]].map(|it| ("copy", it));
    assert_eq!(run(&both.before, &calls), run(&both.after, &calls));
}

/// A function that divides is given elements of the table's own type.
#[test]
fn tables_of_any_references_are_still_valid() {
    for of in ["funcref", "externref", "(ref null $t)", "(ref null func)", "(ref null extern)", "anyref"] {
        let module = format!(
            "(module (type $t (func)) (table $table 9 {of}) (func (param {of} i32)
                (table.fill $table (i32.const 0) (local.get 0) (local.get 1))
                (table.copy $table $table (i32.const 0) (i32.const 0) (local.get 1))))"
        );
        let module = wat::parse_str(module).unwrap();
        let divided = divided(&module).unwrap();
        // Fills with references that only guests with a garbage collector have are not divided.
        assert_eq!(functions(&divided), functions(&module) + if of == "anyref" { 1 } else { 2 }, "{of}");
        Validator::new_with_features(WasmFeatures::all()).validate_all(&divided).expect(of);
    }
}

fn functions(wasm: &[u8]) -> u32 {
    Sizes::of(wasm).unwrap().functions
}

#[test]
fn only_what_can_be_large_is_divided_and_each_kind_once() {
    let small = "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 65536)))
        (func (memory.copy (i32.const 0) (i32.const 1) (i32.const 100))))";
    let small = wat::parse_str(small).unwrap();
    assert!(matches!(divided(&small), Ok(Cow::Borrowed(same)) if same == small));
    let large = "(module (memory 1) (func (memory.fill (i32.const 0) (i32.const 1) (i32.const 65537)))
        (func (param i32) (memory.fill (i32.const 0) (i32.const 1) (local.get 0))
            (memory.copy (i32.const 0) (i32.const 1) (local.get 0))))";
    let large = wat::parse_str(large).unwrap();
    let divided = divided(&large).unwrap();
    assert_eq!(functions(&divided), functions(&large) + 2);
    Validator::new_with_features(WasmFeatures::all()).validate_all(&divided).unwrap();
}

#[test]
fn a_page_can_be_of_one_byte() {
    let tiny = "(module (memory 70000 (pagesize 1)) (func (export \"fill\") (param i64 i64 i64)
        (memory.fill (i32.wrap_i64 (local.get 0)) (i32.const 1) (i32.wrap_i64 (local.get 2)))))";
    let tiny = wat::parse_str(tiny).unwrap();
    let divided = divided(&tiny).unwrap();
    Validator::new_with_features(WasmFeatures::all()).validate_all(&divided).unwrap();
    let mut config = Config::new();
    config.wasm_custom_page_sizes(true);
    let engine = Engine::new(&config).unwrap();
    let module = Module::new(&engine, &divided).unwrap();
    let mut store = Store::new(&engine, ());
    let instance = Instance::new(&mut store, &module, &[]).unwrap();
    assert!(call(&mut store, &instance, "fill", &[0, 0, 70_000]));
    assert!(!call(&mut store, &instance, "fill", &[1, 0, 70_000]));
}
