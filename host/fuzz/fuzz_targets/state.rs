//! Guests of which each is valid, made up by wasm-smith: the fuzzer's bytes are its choices.
#![no_main]

use libfuzzer_sys::{
    Corpus,
    arbitrary::{self, Unstructured},
    fuzz_target,
};
use wasm_encoder::{Component, RawSection};
use wasm_smith::{Config, Module};

fuzz_target!(|data: &[u8]| -> Corpus {
    match component(&mut Unstructured::new(data)) {
        Ok(component) => {
            carrel::fuzzing::state(&component);
            Corpus::Keep
        }
        Err(_) => Corpus::Reject,
    }
});

/// A component with some core modules.
fn component(choices: &mut Unstructured<'_>) -> arbitrary::Result<Vec<u8>> {
    let mut component = Component::new();
    for _ in 0..choices.int_in_range(1..=2)? {
        let config = Config { max_globals: 6, max_funcs: 20, gc_enabled: false, ..choices.arbitrary::<Config>()? };
        let module = Module::new(config, choices)?.to_bytes();
        // A core module is a section of a component as it is.
        component.section(&RawSection { id: 1, data: &module });
    }
    Ok(component.finish())
}
