//! `cargo +nightly fuzz run events` in `omlxd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omlxd::api::fuzz::events(bytes));
