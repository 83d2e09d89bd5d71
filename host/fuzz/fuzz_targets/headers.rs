//! The headers of a request: see `carrel::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carrel::fuzzing::headers(data));
