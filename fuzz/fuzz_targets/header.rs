//! Hands libFuzzer's inputs to [`parley_fuzz::header`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::header::run(input));
