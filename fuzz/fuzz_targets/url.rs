//! Hands libFuzzer's inputs to [`parley_fuzz::url`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::url::run(input));
