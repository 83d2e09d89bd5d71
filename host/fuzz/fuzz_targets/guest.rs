//! Files of guests: see `carrel::fuzzing`.
#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| carrel::fuzzing::guest(data));
