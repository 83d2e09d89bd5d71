//! Tests of moved globals.

use super::*;
use proptest::prelude::*;
use wasmtime::{Engine, Instance, Linker, Store, Val};

fn wasm(text: &str) -> Vec<u8> {
    wat::parse_str(text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// A module with its changing globals in a memory, and their number.
fn moved(wasm: &[u8]) -> (Vec<u8>, usize) {
    let module = Module::parse(wasm).unwrap();
    let globals = changing(&module);
    assert!(globals.iter().all(|global| can_be_moved(&module, *global) == Ok(())));
    let moved = move_to_memory(wasm, &module, &globals).unwrap();
    assert!(changing(&Module::parse(&moved).unwrap()).is_empty(), "nothing is left to move");
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
            (func $f{n} (export \"{n}\") (global.set $g{n} (i32.add (global.get $g{n}) (i32.const 1))))"
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
    let module = Module::parse(&kept).unwrap();
    assert!(changing(&module).is_empty());
    assert_eq!(module.set_at_start().into_iter().collect::<Vec<_>>(), [3]);
    let again = wasm(
        "(module (global $g (mut i32) (i32.const 0)) (func $init (global.set $g (i32.const 7))) (start $init)
            (func (export \"f\") (call $init)))",
    );
    assert_eq!(changing(&Module::parse(&again).unwrap()), [0], "the start function is called by others too");
}

#[test]
fn what_cannot_be_moved_is_told() {
    let why = |global: &str| {
        let text = format!("(module {global} (func (export \"f\") (param funcref) (global.set 0 (local.get 0))))");
        let text = if global.contains("funcref") { text } else { text.replace("funcref", "i32") };
        let wasm = wasm(&text);
        let module = Module::parse(&wasm).unwrap();
        assert_eq!(changing(&module), [0]);
        can_be_moved(&module, 0)
    };
    assert_eq!(why("(global (mut i32) (i32.const 0))"), Ok(()));
    assert_eq!(why(r#"(global (export "g") (mut i32) (i32.const 0))"#), Err("modules share it"));
    assert_eq!(why(r#"(import "a" "g" (global (mut i32)))"#), Err("modules share it"));
    assert_eq!(why("(global (mut funcref) (ref.null func))"), Err("it is a reference, which is no memory"));
    let starts = wasm(
        r#"(module (import "a" "g" (global i32)) (global (mut i32) (global.get 0))
            (func (export "f") (global.set 1 (i32.const 1))))"#,
    );
    let module = Module::parse(&starts).unwrap();
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
