//! Hands libFuzzer's inputs to [`parley_fuzz::connection`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::connection::run(input));
