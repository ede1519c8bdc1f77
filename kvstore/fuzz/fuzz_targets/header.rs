//! `cargo +nightly fuzz run header` in `kvstore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kvstore::layout::fuzz::header(bytes));
