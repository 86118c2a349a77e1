//! Hands libFuzzer's inputs to [`parley_fuzz::joined`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::joined::run(input));
