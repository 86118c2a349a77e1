//! Hands libFuzzer's inputs to [`parley_fuzz::decoder`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::decoder::run(input));
