//! Proofs about stack pointers, compared with running the code.

use super::{Module, keeps};
use proptest::prelude::*;
use std::sync::LazyLock;
use wasmtime::{Config, Engine, Instance, Store};

/// Functions without a name or an export get an export, since what nobody can call does not count.
fn exported(functions: &str) -> String {
    let parts: Vec<_> = functions.split("(func (").enumerate().collect();
    let part = |(n, part): (usize, &str)| match n {
        0 => part.to_owned(),
        _ if part.starts_with("export") => format!("(func ({part}"),
        n => format!("(func (export \"{n}\") ({part}"),
    };
    parts.into_iter().map(part).collect()
}

/// A module with a stack pointer, a memory, and these functions.
fn module(functions: &str) -> Vec<u8> {
    let functions = exported(functions);
    let text = format!(r#"(module (memory 1) (global $sp (export "sp") (mut i32) (i32.const 4096)) {functions})"#);
    wat::parse_str(&text).unwrap_or_else(|error| panic!("{error}:\n{text}"))
}

/// Returns true if the stack pointer is proved to be left as it was found.
fn proved(functions: &str) -> bool {
    keeps(&Module::parse(&module(functions)).unwrap(), 0)
}

/// A function that takes a frame of 16 bytes, has its address in `$frame`, and gives the frame back.
fn framed(body: &str) -> String {
    format!(
        "(func $f (export \"f\") (param $n i32) (result i32) (local $frame i32) (local $other i32)
            (global.set $sp (local.tee $frame (i32.sub (global.get $sp) (i32.const 16))))
            {body}
            (global.set $sp (i32.add (local.get $frame) (i32.const 16)))
            (local.get $n))"
    )
}

const GIVE_BACK: &str = "(global.set $sp (i32.add (local.get $frame) (i32.const 16)))";

#[test]
fn a_frame_that_is_given_back_is_proved() {
    assert!(proved(&framed("")));
    assert!(proved(&framed("(i32.store (local.get $frame) (call $f (local.get $n)))")), "a call changes nothing");
    assert!(proved(
        "(func (global.set $sp (i32.add (i32.const -16) (global.get $sp))) (global.set $sp (i32.sub (global.get $sp) (i32.const -16))))"
    ));
    assert!(proved("(func (global.set $sp (global.get $sp)))"));
}

#[test]
fn a_frame_that_is_kept_is_not() {
    let take = "(global.set $sp (i32.sub (global.get $sp) (i32.const 16)))";
    assert!(!proved(&format!("(func {take})")));
    assert!(!proved(&framed(take)) || proved(&framed("")), "the frame's address says where to go back to");
    assert!(!proved(&format!("(func {take} (global.set $sp (i32.add (global.get $sp) (i32.const 12))))")));
    assert!(!proved("(func (global.set $sp (i32.const 4096)))"), "a number is not what was found");
    assert!(!proved("(func (param i32) (global.set $sp (local.get 0)))"));
    assert!(!proved("(func (global.set $sp (i32.load (i32.const 0))))"));
    assert!(!proved("(func (global.set $sp (i32.add (global.get $sp) (global.get $sp))))"));
    assert!(!proved("(func (global.set $sp (i32.sub (i32.const 0) (global.get $sp))))"));
}

#[test]
fn each_way_out_counts() {
    let early = |before: &str| framed(&format!("(if (local.get $n) (then {before} (return (i32.const 1))))"));
    assert!(proved(&early(GIVE_BACK)));
    assert!(!proved(&early("")));
    let branch = |before: &str| {
        framed(&format!("(block $out (block $in (br_if $in (local.get $n)) {before} (br $out)) {GIVE_BACK})"))
    };
    assert!(proved(&branch("")));
    let both = format!(
        "(func (param i32) (local $frame i32)
        (global.set $sp (local.tee $frame (i32.sub (global.get $sp) (i32.const 16))))
        (block $out (block $in (br_if $in (local.get 0)) {GIVE_BACK} (br $out)) HERE))"
    );
    assert!(proved(&both.replace("HERE", GIVE_BACK)));
    assert!(!proved(&both.replace("HERE", "")));
    assert!(!proved(&framed("(if (local.get $n) (then) (else (local.set $frame (i32.const 0))))")));
    let arms = "(func (param i32) (if (local.get 0)
        (then (global.set $sp (i32.sub (global.get $sp) (i32.const 8))) (global.set $sp (i32.add (global.get $sp) (i32.const 8))))
        (else HERE)))";
    assert!(proved(&arms.replace("HERE", "")));
    assert!(!proved(&arms.replace("HERE", "(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))")));
    let table = "(func (param i32) (local $frame i32) (local.set $frame (global.get $sp))
        (block $a (block $b (block $c
            (br_table $a $b $c (local.get 0)))
            HERE)
            (global.set $sp (local.get $frame))))";
    assert!(proved(&table.replace("HERE", "")));
    let kept = "(global.set $sp (i32.const 8)) (br $a)";
    assert!(!proved(&table.replace("HERE", kept)));
    let after_its_end = "(br $a) (global.set $sp (i32.const 8)) (loop (br 0)) (block) (if (i32.const 1) (then) (else))";
    assert!(proved(&table.replace("HERE", after_its_end)), "nobody comes there");
}

#[test]
fn a_way_that_ends_in_a_trap_leaves_nothing() {
    assert!(proved("(func (global.set $sp (i32.const 0)) unreachable)"));
    assert!(proved(&framed("(if (local.get $n) (then (global.set $sp (i32.const 0)) unreachable))")));
    assert!(proved("(func (global.set $sp (i32.const 0)) (loop (br 0)))"));
}

#[test]
fn a_frame_as_large_as_the_program_says_is_proved_by_what_was_saved() {
    let dynamic = "(global.set $sp (i32.and (i32.sub (global.get $sp) (local.get $n)) (i32.const -16)))";
    assert!(proved(&framed(dynamic)));
    assert!(!proved(&format!("(func (param $n i32) {dynamic})")));
    assert!(!proved(&framed(&format!("{dynamic} (local.set $frame (global.get $sp))"))));
}

#[test]
fn rounds_of_a_loop_must_find_what_the_first_one_found() {
    let counted = |body: &str| {
        framed(&format!(
            "(loop $again {body}
                (local.set $n (i32.sub (local.get $n) (i32.const 1)))
                (br_if $again (i32.gt_s (local.get $n) (i32.const 0))))"
        ))
    };
    assert!(proved(&counted("")));
    let within = "(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))
        (global.set $sp (i32.add (global.get $sp) (i32.const 8)))";
    assert!(proved(&counted(within)));
    assert!(!proved(&counted("(global.set $sp (i32.sub (global.get $sp) (i32.const 8)))")));
    // The frame's address is right in the first round alone.
    let second = "(global.set $sp (i32.sub (local.get $frame) (i32.const 0)))
        (local.set $frame (i32.add (local.get $frame) (local.get $n)))";
    assert!(!proved(&counted(second)));
    // A local that changes in an inner loop changes in the outer one too.
    let nested = "(local.set $other (i32.const 3))
        (loop $inner
            (local.set $frame (i32.add (local.get $frame) (i32.const 1)))
            (br_if $inner (local.tee $other (i32.sub (local.get $other) (i32.const 1)))))";
    assert!(!proved(&counted(nested)));
    // Two values that swap places from round to round.
    let swapped = "(func (param $n i32) (local $a i32) (local $b i32) (local $c i32)
        (local.set $a (global.get $sp))
        (loop $again
            (local.set $c (local.get $a)) (local.set $a (local.get $b)) (local.set $b (local.get $c))
            (br_if $again (local.tee $n (i32.shr_u (local.get $n) (i32.const 1)))))
        (global.set $sp (local.get $b)))";
    assert!(!proved(swapped));
}

#[test]
fn a_local_that_is_set_in_a_loop_and_never_found_by_a_round_is_what_it_was() {
    let reused = "(loop $again
        (if (local.get $n) (then (local.set $frame (i32.const 7)) (drop (call $f (local.get $frame))) unreachable))
        (br_if $again (call $f (i32.const 1))))";
    assert!(proved(&framed(reused)), "compilers use the frame's local again where it is not needed any more");
    let left = "(loop $again
        (if (local.get $n) (then (global.set $sp (i32.add (local.tee $frame (local.get $frame)) (i32.const 16)))
            (local.set $frame (i32.const 7)) (return (i32.const 1))))
        (br_if $again (call $f (i32.const 1))))";
    assert!(proved(&framed(left)));
}

#[test]
fn a_loops_parameters_are_another_rounds_too() {
    let parameter = "(func (param $n i32)
        (global.get $sp)
        (loop $again (param i32)
            (global.set $sp)
            (i32.const 7)
            (br_if $again (local.tee $n (i32.shr_u (local.get $n) (i32.const 1))))
            (drop)))";
    assert!(!proved(parameter));
}

#[test]
fn a_tail_call_is_a_way_out() {
    let tail = |before: &str| framed(&format!("(if (local.get $n) (then {before} (return_call $f (i32.const 0))))"));
    assert!(proved(&tail(GIVE_BACK)));
    assert!(!proved(&tail("")));
}

#[test]
fn what_a_post_return_gives_back_is_proved_for_both() {
    let pair = |take: i32, give: i32, more: &str| {
        proved(&format!(
            r#"(func $f (export "f") (result i32)
                (global.set $sp (i32.sub (global.get $sp) (i32.const {take}))) (global.get $sp))
            (func (export "cabi_post_f") (param i32)
                (global.set $sp (i32.add (global.get $sp) (i32.const {give})))) {more}"#
        ))
    };
    assert!(pair(16, 16, ""));
    assert!(!pair(16, 12, ""));
    assert!(!pair(16, 0, ""), "one alone");
    assert!(!pair(16, 16, "(func (drop (call $f)))"), "which calls only one of both");
    assert!(!pair(16, 16, "(table funcref (elem $f))"), "which could");
}

#[test]
fn what_the_start_takes_its_partner_does_not_give_back() {
    let moves = |name: &str, by: i32| {
        format!(r#"(func $f{by} (export "{name}") (global.set $sp (i32.add (global.get $sp) (i32.const {by}))))"#)
    };
    let pair = moves("f", -8) + &moves("cabi_post_f", 8);
    assert!(proved(&pair));
    assert!(!proved(&format!("{pair} (start $f-8)")));
}

#[test]
fn what_would_take_all_memory_to_prove_is_not_proved() {
    let locals = "(local i64)".repeat(1000);
    let deep = |depth: usize| {
        let body = "(block ".repeat(depth) + "(global.set $sp (global.get $sp))" + &")".repeat(depth);
        format!("(func {locals} {body})")
    };
    assert!(proved(&exported(&deep(100))));
    assert!(!proved(&exported(&deep(1100))));
}

#[test]
fn only_numbers_are_followed() {
    let global = |global: &str, function: &str| {
        let function = exported(function);
        let wasm = wat::parse_str(format!("(module (global $g (mut {global}) ({global}.const 0)) {function})"));
        keeps(&Module::parse(&wasm.unwrap()).unwrap(), 0)
    };
    let same = "(func (global.set $g (global.get $g)))";
    assert!(global("i64", same) && global("i32", same));
    assert!(!global("f32", same) && !global("f64", same));
    let wide = "(func (global.set $g (i64.add (global.get $g) (i64.const 0x100000000))))";
    assert!(!global("i64", wide));
}

/// Code, as text, that moves the stack pointer about.
fn code() -> impl Strategy<Value = String> {
    let local = || prop_oneof![4 => 0..2u32, 1 => 2..5u32].prop_map(|local| format!("$l{local}"));
    let by = || prop_oneof![Just(8), Just(-8), Just(16), Just(-16), Just(0)];
    let simple = prop_oneof![
        4 => by().prop_map(|by| format!("(global.set $sp (i32.add (global.get $sp) (i32.const {by})))")),
        2 => by().prop_map(|by| format!("(global.set $sp (i32.sub (global.get $sp) (i32.const {by})))")),
        4 => local().prop_map(|local| format!("(local.set {local} (global.get $sp))")),
        4 => (local(), by()).prop_map(|(local, by)| {
            format!("(global.set $sp (i32.add (local.get {local}) (i32.const {by})))")
        }),
        2 => (local(), local()).prop_map(|(to, from)| format!("(local.set {to} (local.get {from}))")),
        1 => (local(), by()).prop_map(|(local, by)| format!("(local.set {local} (i32.const {by}))")),
        1 => (0..4u32).prop_map(|depth| format!("(br_if {depth} (call $odd))")),
        1 => (0..4u32, 0..4u32).prop_map(|(a, b)| format!("(if (call $odd) (then (br_table {a} {b} (call $odd))))")),
        1 => Just("(if (call $odd) (then return))".to_owned()),
        1 => Just("(if (call $odd) (then unreachable))".to_owned()),
    ];
    let lines = |line: BoxedStrategy<String>| prop::collection::vec(line, 0..5).prop_map(|lines| lines.join("\n"));
    let nested = simple.prop_recursive(4, 40, 5, move |inner| {
        let (body, local) = (lines(inner.boxed()).boxed(), (0..2u32).prop_map(|local| format!("$l{local}")));
        prop_oneof![
            body.clone().prop_map(|body| format!("(block {body})")),
            body.clone().prop_map(|body| format!("(loop {body} (br_if 0 (call $odd)))")),
            (body.clone(), body.clone()).prop_map(|(a, b)| format!("(if (call $odd) (then {a}) (else {b}))")),
            body.clone().prop_map(|body| format!("(if (call $odd) (then {body}))")),
            (body.clone(), local).prop_map(|(body, local)| {
                format!("global.get $sp (loop (param i32) global.set $sp {body} local.get {local} (br_if 0 (call $odd)) drop)")
            }),
            // Most random code does not balance the pointer: this code does.
            (body, 2..5u32).prop_map(|(body, kept)| {
                format!("(local.set $l{kept} (global.get $sp)) (block {body}) (global.set $sp (local.get $l{kept}))")
            }),
        ]
    });
    prop::collection::vec(nested, 1..6).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2000, failure_persistence: None, ..ProptestConfig::default() })]

    /// A proved property holds in every run, on whichever path.
    #[test]
    fn what_is_proved_is_so(code in code(), ways in prop::collection::vec(any::<u32>(), 8)) {
        let functions = format!(
            r#"(global $ways (export "ways") (mut i32) (i32.const 0))
            (func $odd (result i32)
                (i32.and (global.get $ways) (i32.const 1))
                (global.set $ways (i32.shr_u (global.get $ways) (i32.const 1))))
            (func (export "f") (local $l0 i32) (local $l1 i32) (local $l2 i32) (local $l3 i32) (local $l4 i32)
                (block $a (block $b (block $c {code}))))"#
        );
        let wasm = module(&functions);
        if !keeps(&Module::parse(&wasm).unwrap(), 0) {
            return Ok(());
        }
        static ENGINE: LazyLock<Engine> = LazyLock::new(|| Engine::new(Config::new().consume_fuel(true)).unwrap());
        // A jump to a loop that takes a parameter may lack one.
        let Ok(compiled) = wasmtime::Module::new(&ENGINE, &wasm) else { return Ok(()) };
        for way in ways {
            let mut store = Store::new(&ENGINE, ());
            store.set_fuel(10_000).unwrap();
            let instance = Instance::new(&mut store, &compiled, &[]).unwrap();
            instance.get_global(&mut store, "ways").unwrap().set(&mut store, (way as i32).into()).unwrap();
            let f = instance.get_typed_func::<(), ()>(&mut store, "f").unwrap();
            if f.call(&mut store, ()).is_ok() {
                let sp = instance.get_global(&mut store, "sp").unwrap().get(&mut store).i32();
                prop_assert_eq!(sp, Some(4096), "by {:#b}", way);
            }
        }
    }
}
