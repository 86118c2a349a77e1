//! Hands libFuzzer's inputs to [`parley_fuzz::server_handshake`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_fuzz::server_handshake::run(input));
