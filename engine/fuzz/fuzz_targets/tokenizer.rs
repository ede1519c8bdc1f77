//! `cargo +nightly fuzz run tokenizer` in `engine`.
#![no_main]

libfuzzer_sys::fuzz_target!(
    // libfuzzer's hook ends the process at any panic. Those of the `tokenizers` library are caught; the others
    // reach libfuzzer all the same.
    init: drop(std::panic::take_hook()),
    |bytes: &[u8]| engine::tokenizer_fuzz::tokenizer(bytes)
);
