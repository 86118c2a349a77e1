//! The two hot loops alone: masking against a copy, UTF-8 against the standard library.
//!
//! Of Parley's UTF-8 this is the public validator, which can stop anywhere; the decoder's own check of whole messages has less to do.

use std::hint::black_box;

use bytes::Bytes;
use parley_peers::bench::Contender;
use parley_proto::codec::{Utf8Validator, apply_mask};

use super::shapes::{CJK, WORDS, repeated};

const KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];
/// What the offsets count from: a line of most caches, and the longest SIMD register.
const ALIGNMENT: usize = 64;

pub struct Row {
    pub group: &'static str,
    pub name: String,
    pub contenders: Vec<Contender>,
}

pub fn rows() -> Vec<Row> {
    let mut rows = Vec::new();
    for offset in [0, 3] {
        for (length, name) in
            [(16, "16 B"), (125, "125 B"), (1024, "1 KiB"), (64 * 1024, "64 KiB"), (1024 * 1024, "1 MiB")]
        {
            let place = if offset == 0 { "aligned".to_owned() } else { format!("off by {offset}") };
            rows.push(Row { group: "mask", name: format!("{name}, {place}"), contenders: masks(length, offset) });
        }
    }
    for (alphabet, language) in [(WORDS, "ASCII"), (CJK, "CJK")] {
        for (length, name) in [(32, "32 B"), (125, "125 B"), (1024, "1 KiB"), (64 * 1024, "64 KiB")] {
            let text = Bytes::from(repeated(alphabet, length));
            rows.push(Row { group: "utf8", name: format!("{name} {language}"), contenders: checks(&text) });
        }
    }
    rows
}

/// A buffer with room for `length` bytes from `start` on, which is `offset` bytes past an aligned address.
fn placed(length: usize, offset: usize) -> (Vec<u8>, usize) {
    let buffer = vec![b'x'; length + 2 * ALIGNMENT];
    let start = buffer.as_ptr().align_offset(ALIGNMENT) + offset;
    assert_eq!((buffer[start..].as_ptr().addr() - offset) % ALIGNMENT, 0);
    (buffer, start)
}

fn masks(length: usize, offset: usize) -> Vec<Contender> {
    fn contender(
        library: &'static str,
        length: usize,
        offset: usize,
        mut mask: impl FnMut(&mut [u8]) + 'static,
    ) -> Contender {
        let (mut buffer, start) = placed(length, offset);
        mask(&mut buffer[start..start + length]);
        if library != "memcpy" {
            let by_the_letter: Vec<u8> = KEY.iter().cycle().map(|key| key ^ b'x').take(length).collect();
            assert!(buffer[start..start + length] == by_the_letter, "{library} masks");
        }
        Contender::new(library, move |messages| {
            for _ in 0..messages {
                mask(black_box(&mut buffer[start..start + length]));
            }
            black_box(&buffer);
        })
    }
    let (source, start) = placed(length, offset);
    vec![
        contender("parley", length, offset, |bytes| apply_mask(KEY, 0, bytes)),
        contender("memcpy", length, offset, move |bytes| bytes.copy_from_slice(&source[start..start + bytes.len()])),
        contender("fastwebsockets", length, offset, |bytes| fastwebsockets::unmask(bytes, KEY)),
        contender("yawc", length, offset, |bytes| yawc::mask::apply_mask(bytes, KEY)),
        contender("sockudo-ws", length, offset, |bytes| sockudo_ws::mask::apply_mask(bytes, KEY)),
    ]
}

fn checks(text: &Bytes) -> Vec<Contender> {
    fn contender(library: &'static str, text: &Bytes, check: impl Fn(&[u8]) -> bool + 'static) -> Contender {
        assert!(check(text), "{library} takes UTF-8");
        assert!(!check(&text[..text.len() - 1].iter().copied().chain([0xFF]).collect::<Vec<_>>()), "{library} checks");
        let text = text.clone();
        Contender::new(library, move |messages| {
            for _ in 0..messages {
                assert!(check(black_box(&text)));
            }
        })
    }
    vec![
        contender("parley", text, |bytes| {
            let mut validator = Utf8Validator::new();
            validator.feed(bytes).is_ok() && validator.finish().is_ok()
        }),
        contender("std", text, |bytes| std::str::from_utf8(bytes).is_ok()),
        contender("simdutf8", text, |bytes| simdutf8::basic::from_utf8(bytes).is_ok()),
    ]
}
