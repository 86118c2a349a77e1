//! Hands libFuzzer's inputs to [`parley_fuzz::client_handshake`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::client_handshake::run(input));
