//! Hands libFuzzer's inputs to [`parley_fuzz::session`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::session::run(input));
