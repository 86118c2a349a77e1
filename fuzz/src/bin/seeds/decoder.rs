//! Frames as one peer sends them, written once for both roles: masked to a server, as they are to a client.

use std::io;

use parley_fuzz::decoder::{CLIENT, DEFAULT_LIMITS, HEAD, LATE, SMALL_LIMITS};
use parley_fuzz::naive::frame;

use crate::Corpus;

/// The masking key of RFC 6455, section 5.7.
const MASKING_KEY: [u8; 4] = [0x37, 0xFA, 0x21, 0x3D];

const FIN: u8 = 0x80;
const CONTINUATION: u8 = 0x0;
const TEXT: u8 = 0x1;
const BINARY: u8 = 0x2;
const CLOSE: u8 = 0x8;
const PING: u8 = 0x9;
const PONG: u8 = 0xA;

type Frames<'a> = &'a [(u8, &'a [u8])];

pub(crate) fn write() -> io::Result<()> {
    let corpus = Corpus::of("decoder")?;
    let write = |name: &str, head: [u8; HEAD], wire: &[u8]| corpus.write(name, &[head.as_slice(), wire].concat());
    let kib = [b'k'; 1024];

    let seeds: &[(&str, Frames<'_>)] = &[
        // Section 5.7, in its order.
        ("text-hello", &[(FIN | TEXT, b"Hello")]),
        ("text-in-two-fragments", &[(TEXT, b"Hel"), (FIN | CONTINUATION, b"lo")]),
        ("ping-and-pong", &[(FIN | PING, b"Hello"), (FIN | PONG, b"Hello")]),
        ("binary-256", &[(FIN | BINARY, &kib[..256])]),
        // Lengths on both sides of their forms.
        ("binary-125-126", &[(FIN | BINARY, &kib[..125]), (FIN | BINARY, &kib[..126])]),
        ("empty-messages", &[(FIN | TEXT, b""), (FIN | BINARY, b""), (FIN | PING, b"")]),
        // Fragments, and what may come between them.
        (
            "ping-between-fragments",
            &[(TEXT, b"a"), (FIN | PING, b"p"), (CONTINUATION, b"b"), (FIN | CONTINUATION, b"c")],
        ),
        ("close-between-fragments", &[(BINARY, b"a"), (FIN | CLOSE, &[0x03, 0xE8])]),
        ("empty-fragments", &[(TEXT, b""), (CONTINUATION, b""), (CONTINUATION, b""), (FIN | CONTINUATION, b"")]),
        ("many-fragments", &[(BINARY, b"1"), (CONTINUATION, b"2"), (CONTINUATION, b"3"), (CONTINUATION, b"4")]),
        (
            "two-messages-of-fragments",
            &[(TEXT, b"a"), (FIN | CONTINUATION, b"b"), (BINARY, b"c"), (FIN | CONTINUATION, b"d")],
        ),
        ("message-of-1-kib-twice", &[(FIN | TEXT, &kib), (TEXT, &kib), (FIN | CONTINUATION, &kib)]),
        ("no-message-to-continue", &[(FIN | CONTINUATION, b"a")]),
        ("message-within-a-message", &[(TEXT, b"a"), (FIN | TEXT, b"b")]),
        // UTF-8, section 8.1.
        ("utf8-of-all-lengths", &[(FIN | TEXT, "$\u{A3}\u{20AC}\u{10348}".as_bytes())]),
        ("utf8-cut-within-a-character", &[(TEXT, &[0xE2, 0x82]), (FIN | CONTINUATION, &[0xAC])]),
        ("utf8-cut-by-a-ping", &[(TEXT, &[0xF0, 0x90]), (FIN | PING, b""), (FIN | CONTINUATION, &[0x8D, 0x88])]),
        ("utf8-unfinished", &[(FIN | TEXT, &[0x61, 0xE2, 0x82])]),
        ("utf8-overlong", &[(FIN | TEXT, &[0x61, 0xC0, 0x80])]),
        ("utf8-surrogate", &[(TEXT, &[0xED]), (FIN | CONTINUATION, &[0xA0, 0x80])]),
        ("utf8-above-10ffff", &[(FIN | TEXT, &[0xF4, 0x90, 0x80, 0x80])]),
        ("utf8-bad-after-many", &[(FIN | TEXT, &[&kib[..200], &[0xFF]].concat())]),
        ("utf8-bad-in-binary", &[(FIN | BINARY, &[0xFF, 0xFE])]),
        // Close frames, section 5.5.1 and 7.4.
        ("close-without-code", &[(FIN | CLOSE, b"")]),
        ("close-1000-with-reason", &[(FIN | CLOSE, b"\x03\xE8going away")]),
        ("close-then-more", &[(FIN | CLOSE, &[0x03, 0xE9]), (FIN | TEXT, b"late")]),
        ("close-with-half-a-code", &[(FIN | CLOSE, &[0x03])]),
        ("close-1005", &[(FIN | CLOSE, &[0x03, 0xED])]),
        ("close-4999", &[(FIN | CLOSE, &[0x13, 0x87])]),
        ("close-reason-not-utf8", &[(FIN | CLOSE, &[0x03, 0xE8, 0xC3, 0x28])]),
        // What section 5.2 and 5.5 refuse.
        ("reserved-bit", &[(FIN | 0x40 | TEXT, b"a")]),
        ("reserved-opcode", &[(FIN | 0x3, b"a")]),
        ("ping-fragmented", &[(PING, b"a")]),
        ("ping-too-long", &[(FIN | PING, &kib[..126])]),
    ];
    for (name, frames) in seeds {
        let to_server: Vec<u8> = encoded(frames, Some(MASKING_KEY));
        let to_client: Vec<u8> = encoded(frames, None);
        // Pieces of up to 17 bytes for one role, of single bytes for the other.
        write(&format!("server-{name}"), [DEFAULT_LIMITS, 0, 4, 1], &to_server)?;
        write(&format!("client-{name}"), [CLIENT | SMALL_LIMITS | LATE, 0xFF, 0, 2], &to_client)?;
    }

    // Headers that no encoder would write.
    for (name, flags, wire) in [
        ("server-mask-missing", 0, b"\x81\x01a".as_slice()),
        ("client-mask-unexpected", CLIENT, b"\x81\x81\x37\xFA\x21\x3D\x56"),
        ("client-length-16-not-minimal", CLIENT, b"\x82\x7E\x00\x7D"),
        ("client-length-64-not-minimal", CLIENT, b"\x82\x7F\x00\x00\x00\x00\x00\x00\xFF\xFF"),
        ("client-length-64-bit-63", CLIENT, b"\x82\x7F\x80\x00\x00\x00\x00\x00\x00\x00"),
        ("client-length-64-largest", CLIENT, b"\x82\x7F\x7F\xFF\xFF\xFF\xFF\xFF\xFF\xFFabc"),
        ("client-header-unfinished", CLIENT, b"\x82\x7E\x01"),
        ("server-nothing", 0, b""),
    ] {
        write(name, [flags, 0, 3, 3], wire)?;
    }
    // The shortest payload with a 64-bit length; once is enough, for it is big.
    let wire = frame(FIN | BINARY, &[0x42; 65_536], None);
    write("client-binary-64-kib", [CLIENT, 0, 80, 4], &wire)
}

fn encoded(frames: Frames<'_>, key: Option<[u8; 4]>) -> Vec<u8> {
    frames.iter().flat_map(|(first, payload)| frame(*first, payload, key)).collect()
}
