//! `Sec-WebSocket-Key` and `Sec-WebSocket-Accept`: RFC 6455, sections 1.3, 4.1 (item 7) and 4.2.2 (item 5.4).

use base64::Engine;
use base64::alphabet;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig, STANDARD};
use sha1::{Digest, Sha1};

const GUID: &[u8] = b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11";

/// Accepts a last digit whose unused bits are set: the key is opaque, and clients that draw 22 random digits exist.
const KEY_ENGINE: GeneralPurpose =
    GeneralPurpose::new(&alphabet::STANDARD, GeneralPurposeConfig::new().with_decode_allow_trailing_bits(true));

/// The value of `Sec-WebSocket-Key` for 16 random bytes.
pub(crate) fn key(nonce: [u8; 16]) -> String {
    STANDARD.encode(nonce)
}

/// The value of `Sec-WebSocket-Accept` that answers `key`.
pub(crate) fn accept(key: &str) -> String {
    STANDARD.encode(Sha1::new().chain_update(key).chain_update(GUID).finalize())
}

/// Whether `value` decodes to exactly 16 bytes.
pub(crate) fn is_key(value: &str) -> bool {
    // 24 digits decode to 16, 17 or 18 bytes.
    value.len() == 24 && KEY_ENGINE.decode_slice(value, &mut [0; 18]) == Ok(16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_example_of_section_1_3() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
        assert_eq!(key(*b"the sample nonce"), "dGhlIHNhbXBsZSBub25jZQ==");
    }

    #[test]
    fn a_key_decodes_to_16_bytes() {
        assert!(is_key(&key([0; 16])));
        assert!(is_key(&key([0xff; 16])));
        assert!(is_key("AAAAAAAAAAAAAAAAAAAAAB=="), "unused bits are set");
        for bad in [
            "",
            "AAAA",
            "AAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAAA=",
            "AAAAAAAAAAAAAAAAAAAAAAAA",
            "AAAAAAAAAAAAAAAAAAAAAA==AAAA",
            "AAAAAAAAAA==AAAAAAAAAA==",
            "AAAAAAAAAAAAAAAAAAAAA!==",
            "AAAAAAAAAAAA-AAAAAAAA_==",
            " AAAAAAAAAAAAAAAAAAAAAA=",
        ] {
            assert!(!is_key(bad), "{bad}");
        }
    }
}
