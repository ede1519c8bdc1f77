//! `cargo +nightly fuzz run index` in `kvstore`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| kvstore::layout::fuzz::index(bytes));
