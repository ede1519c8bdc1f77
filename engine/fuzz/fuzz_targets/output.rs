//! `cargo +nightly fuzz run output` in `engine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::fuzz::output(bytes));
