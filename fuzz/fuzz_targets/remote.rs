#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| calve::fuzzing::remote(data));
