//! Text in pieces (RFC 6455, section 8.1): the validator says of every prefix what [`std::str::from_utf8`] says.

use parley_proto::codec::Utf8Validator;

use crate::input::pieces;

/// Up to this many bytes every cut in two is tried.
const SHORT: usize = 64;

/// Checks one input: two bytes that choose the cuts, then the text.
///
/// # Panics
///
/// If the validator and std disagree.
pub fn run(input: &[u8]) {
    let Some((&[longest, seed], text)) = input.split_first_chunk::<2>() else { return };
    check(text, &[text]);
    check(text, &pieces(text, longest, seed));
    if text.len() <= SHORT {
        for at in 0..=text.len() {
            check(text, &[&text[..at], &text[at..]]);
        }
    }
}

fn check(text: &[u8], pieces: &[&[u8]]) {
    let mut validator = Utf8Validator::new();
    let mut fed = 0;
    for piece in pieces {
        fed += piece.len();
        let std = std::str::from_utf8(&text[..fed]);
        // An error without a length is a character that may still become whole.
        let begins_a_text = std.is_ok_and(|_| true) || std.is_err_and(|error| error.error_len().is_none());
        assert_eq!(validator.feed(piece).is_ok(), begins_a_text, "{fed} bytes: std says {std:?}");
        if !begins_a_text {
            return;
        }
        assert_eq!(validator.is_boundary(), std.is_ok(), "{fed} bytes: std says {std:?}");
    }
    assert_eq!(validator.finish().is_ok(), std::str::from_utf8(text).is_ok());
    assert_eq!(validator, Utf8Validator::new(), "the next text begins afresh");
}
