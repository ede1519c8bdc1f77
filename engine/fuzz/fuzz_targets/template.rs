//! `cargo +nightly fuzz run template` in `engine`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| engine::template_fuzz::template(bytes));
