//! Guests that are an attack as files: refused when the host starts, within a time, in a message that fits a screen.
//!
//! Guests that loop when they are started or described, and files that are no guests, are in `guests`.

use super::guests::guest;
use carrel_tests::Test;
use serde_json::json;
use std::{
    path::Path,
    time::{Duration, Instant},
};

/// The longest time that a refusal may take on a busy machine, including compilation where it gets that far.
const IN_TIME: Duration = Duration::from_secs(20);

async fn refused(test: Test, file: &Path) -> String {
    let began = Instant::now();
    let told = test.set("guests", json!([file])).set("limits.fuel_per_call", "20M").refused().await;
    assert!(began.elapsed() < IN_TIME, "it took {:?}: {told}", began.elapsed());
    assert!(told.len() < 2000, "{} bytes: {}", told.len(), &told[..2000]);
    assert!(told.starts_with("test.yml:") && told.contains("guests.0: "), "{told}");
    told
}

async fn refused_bytes(test: Test, wasm: &[u8]) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.wasm");
    std::fs::write(&file, wasm).expect("a file");
    refused(test, &file).await
}

async fn refused_text(component: &str) -> String {
    refused_bytes(Test::new(), &wat::parse_str(component).expect("a component")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_too_many_parts_is_refused() {
    let module = |parts: &str| format!("(component (core module $m {parts}) (core instance (instantiate $m)))");
    let instances = "(core instance (instantiate $m))".repeat(10_000);
    for (component, why) in [
        (format!("(component (core module $m) {instances})"), "instances count exceeds limit"),
        (module(&"(memory 1)".repeat(10_000)), "memories count exceeds limit"),
        (module(&"(table 1000000 funcref)".repeat(3)), "tables that begin with 3000000 elements, and 1000000 are"),
        (
            module(
                &(0..100)
                    .map(|n| format!("(table $t{n} 10000000 funcref) (elem (table $t{n}) (i32.const 1000000) func $f)"))
                    .chain(["(func $f)".to_owned()])
                    .collect::<String>(),
            ),
            "tables that begin with 1000000000 elements",
        ),
    ] {
        let told = refused_text(&component).await;
        assert!(told.contains(why), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_component_of_many_parts_is_read_in_time() {
    // Valid, and so refused for what they lack.
    let (types, exports) = ("(type (tuple u8 u16))".repeat(100_000), 0..10_000);
    let exports: String = exports.map(|n| format!("(export \"e{n}\" (func $f))")).collect();
    let lifts = "(core instance $i (instantiate $m)) (func $f (canon lift (core func $i \"f\")))";
    for component in [
        format!("(component {types})"),
        format!("(component (core module $m (func (export \"f\"))) {lifts} {exports})"),
        format!("(component (core module {}))", "(func)".repeat(10_000)),
    ] {
        let told = refused_text(&component).await;
        assert!(told.contains("does not export `carrel:function/function@0.1.0`"), "{told}");
    }
    let imports: String = (0..10_000).map(|n| format!("(import \"i{n}\" (func))")).collect();
    let told = refused_text(&format!("(component {imports})")).await;
    assert!(told.contains("imports `i0`, `i1`, `i2`") && told.contains("and 9992 more, which the host"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_instance_that_starts_too_large_is_refused() {
    let memories = |count: usize, pages: usize| {
        guest("", "unreachable")
            .replace("(func $start", &format!("{} (func $start", format!("(memory {pages})").repeat(count)))
    };
    for (count, pages) in [(1, 65_535), (60, 1000)] {
        let told = refused_text(&memories(count, pages)).await;
        assert!(told.contains("of memory, and `limits.memory_per_instance` allows 67108864"), "{told}");
    }
    // Each memory takes a place that instances of others could have.
    let told = refused_text(&memories(99, 0)).await;
    assert!(told.contains("was stopped when it was asked to describe itself"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_too_large_or_no_file_is_not_read() {
    let small = Test::new().set("limits.guest_size", 2000);
    let told = refused_bytes(small.clone(), &[0; 2001]).await;
    assert!(told.contains("guest.wasm has more than 2000 bytes, which is what `limits.guest_size` allows"), "{told}");
    let told = refused_bytes(small, &[0; 2000]).await;
    assert!(told.contains("is not WebAssembly"), "{told}");
    let told = refused(Test::new(), Path::new("/dev/zero")).await;
    assert!(told.contains("/dev/zero cannot be read: it is no file"), "{told}");
}

/// Megabytes of memory and many seconds to compile: it is refused before.
#[tokio::test(flavor = "multi_thread")]
async fn a_function_that_is_too_large_is_not_compiled() {
    let component = |body: String| {
        let text = format!("(component (core module (func) (func (param i32) {body}) (func)))");
        wat::parse_str(text).expect("a component")
    };
    let loops = |count: usize| component("(loop (br_if 0 (i32.eqz (local.get 0))))".repeat(count));
    let told = refused_bytes(Test::new(), &loops(70_000)).await;
    assert!(told.contains("has a function of 560002 bytes, and `limits.guest_function_size` allows 524288"), "{told}");
    // The code of others does not count.
    let adds = |size: usize| component("(drop (i32.const 0))".repeat(size / 3) + &"(nop)".repeat(size % 3));
    let test = Test::new().set("limits.guest_function_size", 2000);
    let told = refused_bytes(test.clone(), &adds(1999)).await;
    assert!(told.contains("has a function of 2001 bytes"), "{told}");
    let told = refused_bytes(test, &adds(1998)).await;
    assert!(told.contains("does not export `carrel:function/function@0.1.0`"), "{told}");
}

/// Code whose compilation takes more than quadratic time.
#[tokio::test(flavor = "multi_thread")]
async fn a_guest_that_takes_too_long_to_compile_is_refused() {
    let loops = "(loop (br_if 0 (i32.eqz (local.get 0))))".repeat(3000);
    let component = format!("(component (core module (func (param i32) {loops})))");
    let test = Test::new().set("limits.guest_compile_time", "20ms").set("guest_cache", "off");
    let told = refused_bytes(test, &wat::parse_str(component).expect("a component")).await;
    assert!(
        told.contains("takes more processor time to compile than `limits.guest_compile_time` allows, which is 20ms"),
        "{told}"
    );
}

/// A guest that describes itself with this name and this input schema, takes any configuration and refuses any input.
fn describing(name: &str, schema: &str) -> String {
    let text = |text: &str| text.bytes().map(|byte| format!("\\{byte:02x}")).collect::<String>();
    let (name_at, schema_at) = (0x1000, 0x1000 + name.len().next_multiple_of(16));
    let pages = 1 + (schema_at + schema.len()) / 65536;
    let record = format!("i32 {name_at} {} 0x110 1 0x120 2 {schema_at} {} 0x120 2", name.len(), schema.len());
    guest("", "(i32.const 16)")
        .replace(
            "(memory (export \"memory\") 1)",
            &format!(
                "(memory (export \"memory\") {pages}) (data (i32.const 16) ({record})) (data (i32.const 0x110) \".\")
                (data (i32.const 0x120) \"{{}}\") (data (i32.const 0x50) (i32 1 0 0x110 1))
                (data (i32.const {name_at}) \"{}\") (data (i32.const {schema_at}) \"{}\")",
                text(name),
                text(schema)
            ),
        )
        .replace("(param i32 i32) (result i32) unreachable", "(param i32 i32) (result i32) (i32.const 0x50)")
        .replacen("(result i32) (i32.const 0x50)", "(result i32) (i32.const 0x40)", 1)
}

/// A schema in which each definition refers to the next one twice.
fn doubling(times: usize) -> String {
    let pair = |n: usize| json!({"allOf": [{"$ref": format!("#/$defs/{n}")}, {"$ref": format!("#/$defs/{n}")}]});
    let mut definitions: serde_json::Map<_, _> = (0..times).map(|n| (n.to_string(), pair(n + 1))).collect();
    definitions.insert(times.to_string(), json!({"type": "object"}));
    json!({"$ref": "#/$defs/0", "$defs": definitions}).to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_description_that_is_an_attack_is_refused() {
    for (name, schema, why) in [
        ("bomb", "[".repeat(200_000), "gives a input-schema that is no JSON Schema: recursion limit"),
        ("bomb", " ".repeat(1_000_000), "no JSON Schema: it has 1000000 bytes, and 262144 are allowed"),
        ("bomb", r#"{"pattern": "^(?:(a|a)*\\1b|a+!)$"}"#.to_owned(), "cannot be matched in a time that grows with"),
        ("bomb", r#"{"patternProperties": {"a(?!b)": true}}"#.to_owned(), "no JSON Schema"),
        ("bomb", doubling(60), "no JSON Schema: it refers to its own parts too often"),
        ("bomb", "{".to_owned(), "no JSON Schema: EOF"),
        ("bomb", "\"".to_owned() + &"x".repeat(4_000_000), "was stopped when it was asked to describe itself"),
        (&"x".repeat(100_000), "{}".to_owned(), "calls itself \"xxx"),
        ("\n\u{1b}[2J", "{}".to_owned(), "calls itself \"\\n\\u{1b}[2J\""),
    ] {
        let told = refused_text(&describing(name, &schema)).await;
        assert!(told.contains(why), "{told}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_takes_long_is_not_looked_at_for_a_caller() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.wasm");
    std::fs::write(&file, wat::parse_str(describing("bomb", &doubling(18))).expect("a component")).expect("a file");
    let test = Test::new().set("guests", json!([file])).set("functions.it", json!({"_type": "bomb"}));
    let server = test.endpoint("/it", "it").start().await;
    let began = Instant::now();
    let error = server.user("alice").at("/it").call(vec!["x"; 10_000].into()).await.error(422, "invalid_input");
    assert_eq!(error["detail"][0]["msg"], ".", "the guest's own word");
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
}

/// A pattern that takes a backtracking engine thousands of years, and here no noticeable time.
#[tokio::test(flavor = "multi_thread")]
async fn a_pattern_with_many_ways_through_a_text_takes_no_time() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("guest.wasm");
    let pattern = json!({"pattern": "^(?:(a|a)*b|(a*)*c)$"});
    let schema = json!({"type": "array", "items": {"allOf": vec![pattern; 60]}}).to_string();
    std::fs::write(&file, wat::parse_str(describing("ways", &schema)).expect("a component")).expect("a file");
    let test = Test::new().set("guests", json!([file])).set("functions.it", json!({"_type": "ways"}));
    let server = test.endpoint("/it", "it").start().await;
    let began = Instant::now();
    let error = server.user("alice").at("/it").call(json!(["a".repeat(120)])).await.error(422, "invalid_input");
    assert_eq!((error["detail"].as_array().map(Vec::len), &error["detail"][0]["loc"]), (Some(20), &json!(["body", 0])));
    server.nobody().at("/it").call(json!(["a".repeat(120)])).await.error(401, "identity_required");
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
}

/// A guest of two components, the first of which gives the second one's `call` so many items again and again.
fn composed(ty: &str, encoding: &str, items: usize, times: usize) -> String {
    let inner = format!(
        "(component $inner
            (core module $m (memory (export \"memory\") 64)
                (func (export \"realloc\") (param i32 i32 i32 i32) (result i32) (i32.const 4096))
                (func (export \"f\") (param i32 i32)))
            (core instance $i (instantiate $m))
            (func (export \"f\") (param \"s\" {ty}) (canon lift (core func $i \"f\")
                (memory (core memory $i \"memory\")) (realloc (core func $i \"realloc\")) {encoding})))
        (instance $in (instantiate $inner))"
    );
    let main = describing("composed", "{}")
        .replacen(
            "(component",
            &format!(
                "(component $main
                (import \"in\" (instance $in (export \"f\" (func (param \"s\" {ty})))))
                (core module $mem (memory (export \"memory\") 40))
                (core instance $mem (instantiate $mem))
                (alias core export $mem \"memory\" (core memory $memory))
                (core func $f (canon lower (func $in \"f\") (memory $memory)))"
            ),
            1,
        )
        .replace(
            "(memory (export \"memory\") 1)",
            "(import \"host\" \"f\" (func $f (param i32 i32))) (import \"mem\" \"memory\" (memory 40))
            (export \"memory\" (memory 0))",
        )
        .replace(
            "(func (export \"call\") (param i32 i32) (result i32) (i32.const 0x50))",
            &format!(
                "(func (export \"call\") (param i32 i32) (result i32) (local $n i32)
                (loop (call $f (i32.const 0) (i32.const {items})) (br_if 0 (i32.lt_u
                    (local.tee $n (i32.add (local.get $n) (i32.const 1))) (i32.const {times}))))
                (i32.const 0x50))"
            ),
        )
        .replace(
            "(core instance $i (instantiate $m))",
            "(core instance $i (instantiate $m (with \"mem\" (instance $mem))
                (with \"host\" (instance (export \"f\" (func $f))))))",
        );
    format!(
        "(component {inner} {main}
        (instance $g (instantiate $main (with \"in\" (instance $in))))
        (alias export $g \"carrel:function/function@0.1.0\" (instance $its))
        (export \"carrel:function/function@0.1.0\" (instance $its)))"
    )
}

/// Values other than texts are copied by code that pays for it.
#[tokio::test(flavor = "multi_thread")]
async fn what_components_inside_of_a_guest_pass_to_each_other_uses_fuel_for_each_item() {
    for (ty, items, times) in [("(list u8)", 1_000_000, 3), ("(list u64)", 200_000, 30), ("(list u8)", 0, 100_000)] {
        let folder = tempfile::tempdir().expect("a folder");
        let file = folder.path().join("guest.wasm");
        let component = composed(ty, "", items, times);
        std::fs::write(&file, wat::parse_str(component).expect("a component")).expect("a file");
        let test = Test::new().set("guests", json!([file])).set("functions.it", json!({"_type": "composed"}));
        let server = test.set("limits.fuel_per_call", "1000M").endpoint("/it", "it").start().await;
        let alice = server.user("alice").at("/it");
        alice.call(json!(null)).await.error(422, "invalid_input");
        let began = Instant::now();
        let reply = alice.call(json!(null)).await;
        let (took, fuel) = (began.elapsed(), reply.fuel());
        reply.error(422, "invalid_input");
        println!("{ty} {items} x {times}: {fuel} units, {:.2} ns each", took.as_nanos() as f64 / fuel as f64);
        assert!(fuel >= (items * times) as u64, "{ty}: {fuel}");
    }
}
