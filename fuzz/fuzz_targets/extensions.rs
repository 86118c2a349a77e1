//! Hands libFuzzer's inputs to [`parley_fuzz::extensions`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::extensions::run(input));
