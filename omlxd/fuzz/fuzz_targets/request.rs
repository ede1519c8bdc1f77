//! `cargo +nightly fuzz run request` in `omlxd`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| omlxd::api::fuzz::request(bytes));
