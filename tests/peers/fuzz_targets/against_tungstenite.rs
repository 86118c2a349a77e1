//! Hands libFuzzer's inputs to [`parley_peers::against_tungstenite`].

#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| parley_peers::against_tungstenite::run(input));
