//! Hands libFuzzer's inputs to [`parley_fuzz::close`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::close::run(input));
