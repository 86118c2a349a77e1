//! Hands libFuzzer's inputs to [`parley_fuzz::utf8`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::utf8::run(input));
