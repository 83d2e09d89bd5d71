//! The bodies of requests: see `carrel::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carrel::fuzzing::json(data));
