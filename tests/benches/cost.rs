//! What a peer may send, twice as much of it each time, for `cargo xtask cost`: how the work grows with the bytes.
//!
//! ```text
//! cost list                 the rows, one a line: SUBJECT/CUT SIZE
//! cost run SUBJECT/CUT N    exactly so many units of it, for callgrind to count; 0 is what it costs to begin
//! ```
//!
//! A unit is about a byte (of a line, of a payload), a field, an element of a list, or a fragment. `whole` arrives in one piece,
//! `bytewise` a byte at a time, as its sender likes.

use std::hint::black_box;
use std::process::ExitCode;

use bytes::BytesMut;
use parley_proto::codec::{Decoder, Frame};
use parley_proto::handshake::{Acceptance, ClientHandshake, ClientRequest, ServerHandshake};
use parley_proto::{Limits, Role};

/// How the bytes of a subject come.
#[derive(Clone, Copy)]
enum Cut {
    Whole,
    Bytewise,
}

/// What is sent, how many units of it are the smaller size, and who reads it.
struct Subject {
    name: &'static str,
    size: usize,
    bytes: fn(usize) -> Vec<u8>,
    read: fn(&[u8], Cut),
}

const SUBJECTS: &[Subject] = &[
    Subject { name: "request-line", size: 8_192, bytes: request_line, read: request },
    Subject { name: "header-line", size: 8_192, bytes: header_line, read: request },
    Subject { name: "header-fields", size: 512, bytes: header_fields, read: request },
    Subject { name: "same-header-fields", size: 512, bytes: same_header_fields, read: request },
    Subject { name: "extensions", size: 1_024, bytes: extensions, read: request },
    Subject { name: "extension-parameters", size: 1_024, bytes: extension_parameters, read: request },
    Subject { name: "extension-lines", size: 512, bytes: extension_lines, read: request },
    Subject { name: "subprotocols", size: 1_024, bytes: subprotocols, read: request },
    Subject { name: "connection-tokens", size: 1_024, bytes: connection_tokens, read: request },
    Subject { name: "response-fields", size: 512, bytes: response_fields, read: response },
    // So large since glibc copies from 2 KiB on by a loop of its own, and from 16 KiB on by `rep movsb`, which is counted by the byte.
    Subject { name: "refusal-body", size: 65_536, bytes: refusal_body, read: response },
    Subject { name: "refusal-chunks", size: 1_024, bytes: refusal_chunks, read: response },
    Subject { name: "empty-fragments", size: 4_096, bytes: |n| fragments(n, b""), read: frames },
    Subject { name: "one-byte-fragments", size: 4_096, bytes: |n| fragments(n, b"a"), read: frames },
    Subject { name: "small-messages", size: 4_096, bytes: small_messages, read: frames },
    Subject { name: "pings", size: 4_096, bytes: pings, read: frames },
    Subject { name: "binary-payload", size: 32_768, bytes: |n| message(0x82, &vec![7; n]), read: frames },
    Subject { name: "ascii-payload", size: 32_768, bytes: |n| message(0x81, &vec![b'a'; n]), read: frames },
    Subject {
        name: "three-byte-payload",
        size: 8_192,
        bytes: |n| message(0x81, "語".repeat(n).as_bytes()),
        read: frames,
    },
];

const CUTS: [(&str, Cut); 2] = [("whole", Cut::Whole), ("bytewise", Cut::Bytewise)];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => {
            for subject in SUBJECTS {
                CUTS.iter().for_each(|(cut, _)| println!("{}/{cut} {}", subject.name, subject.size));
            }
        }
        ["run", row, units] => {
            let Some((subject, cut, units)) = find(row, units) else {
                eprintln!("no such row, or no number");
                return ExitCode::FAILURE;
            };
            (subject.read)(&(subject.bytes)(units), cut);
        }
        // With cargo's own `--bench` there is nothing to measure: instructions are counted from outside.
        [] | ["--bench"] => println!("counted by `cargo xtask cost`"),
        _ => {
            eprintln!("usage: cost list | run SUBJECT/CUT N");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

fn find(row: &str, units: &str) -> Option<(&'static Subject, Cut, usize)> {
    let (name, cut) = row.split_once('/')?;
    let subject = SUBJECTS.iter().find(|subject| subject.name == name)?;
    let (_, cut) = CUTS.iter().find(|(name, _)| *name == cut)?;
    Some((subject, *cut, units.parse().ok()?))
}

/// The pieces in which the bytes come, onto the end of a buffer that the reader takes from.
fn feed(bytes: &[u8], cut: Cut, mut reader: impl FnMut(&mut BytesMut)) {
    let size = match cut {
        Cut::Whole => bytes.len().max(1),
        Cut::Bytewise => 1,
    };
    let mut input = BytesMut::new();
    for piece in bytes.chunks(size) {
        input.extend_from_slice(piece);
        reader(&mut input);
    }
}

/// The limits are out of the way: it is the work that is measured.
fn no_limits(limits: Limits) -> Limits {
    limits
        .unlimited_head()
        .unlimited_header_line()
        .unlimited_headers()
        .unlimited_rejection_body()
        .unlimited_fragments()
        .unlimited_empty_fragments()
        .unlimited_read_ahead()
}

/// A request's head is read, what it offers is gone through, and it is accepted.
fn request(bytes: &[u8], cut: Cut) {
    let mut handshake = ServerHandshake::new(&no_limits(Limits::server()));
    let mut accepted = false;
    feed(bytes, cut, |input| {
        if let Some(request) = handshake.handle_input(input).expect("a good request") {
            black_box((request.extensions().count(), request.subprotocols().count()));
            black_box(handshake.accept(&Acceptance::new()).expect("nothing that was not offered"));
            accepted = true;
        }
    });
    assert!(accepted, "the head ends");
}

/// A response is read to its end, which is that of the stream.
fn response(bytes: &[u8], cut: Cut) {
    let request = ClientRequest::new("ws://a/").expect("a URL");
    let (mut handshake, head) = ClientHandshake::new(&request, [7; 16], &no_limits(Limits::client()));
    black_box(head);
    let mut refused = false;
    feed(bytes, cut, |input| {
        if !refused {
            refused = handshake.handle_input(input).is_err();
        }
    });
    if !refused {
        black_box(handshake.handle_eof());
    }
}

/// Every frame is read, and dropped.
fn frames(bytes: &[u8], cut: Cut) {
    let mut decoder = Decoder::new(Role::Server, &no_limits(Limits::server()));
    let mut messages = 0;
    feed(bytes, cut, |input| {
        decoder.decode(input, &mut |ping: &[u8]| {
            black_box(ping);
        });
        while let Some(frame) = decoder.poll() {
            messages += usize::from(!matches!(black_box(frame), Frame::Ping(_) | Frame::Pong(_)));
        }
    });
    assert_eq!(format!("{:?}", decoder.end()), format!("{:?}", closed().end()), "all was read, to the Close");
    assert!(messages > 0);
}

/// A decoder that has seen nothing but the Close with which all frames here end.
fn closed() -> Decoder {
    let mut decoder = Decoder::new(Role::Server, &Limits::server());
    decoder.decode(&mut BytesMut::from(&close()[..]), &mut |_: &[u8]| {});
    decoder
}

fn head(first_line: &str, fields: &str) -> Vec<u8> {
    format!(
        "{first_line}\r\nHost: a\r\nUpgrade: websocket\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\
         Sec-WebSocket-Version: 13\r\n{fields}\r\n"
    )
    .into_bytes()
}

fn get(fields: &str) -> Vec<u8> {
    head("GET / HTTP/1.1", &format!("Connection: Upgrade\r\n{fields}"))
}

fn request_line(n: usize) -> Vec<u8> {
    head(&format!("GET /{} HTTP/1.1", "a".repeat(n)), "Connection: Upgrade\r\n")
}

fn header_line(n: usize) -> Vec<u8> {
    get(&format!("x: {}\r\n", "a".repeat(n)))
}

fn header_fields(n: usize) -> Vec<u8> {
    get(&(0..n).map(|n| format!("name-{n:05}: {n}\r\n")).collect::<String>())
}

fn same_header_fields(n: usize) -> Vec<u8> {
    get(&"name: value\r\n".repeat(n))
}

fn extensions(n: usize) -> Vec<u8> {
    get(&format!("Sec-WebSocket-Extensions: {}last\r\n", "a; b=\"1\", ".repeat(n)))
}

fn extension_parameters(n: usize) -> Vec<u8> {
    get(&format!("Sec-WebSocket-Extensions: a{}\r\n", "; b=1".repeat(n)))
}

fn extension_lines(n: usize) -> Vec<u8> {
    get(&"Sec-WebSocket-Extensions: a; b\r\n".repeat(n))
}

fn subprotocols(n: usize) -> Vec<u8> {
    get(&format!("Sec-WebSocket-Protocol: {}last\r\n", (0..n).map(|n| format!("p{n:05}, ")).collect::<String>()))
}

fn connection_tokens(n: usize) -> Vec<u8> {
    head("GET / HTTP/1.1", &format!("Connection: {}Upgrade\r\n", "keep-alive, ".repeat(n)))
}

fn response_fields(n: usize) -> Vec<u8> {
    let fields: String = (0..n).map(|n| format!("name-{n:05}: {n}\r\n")).collect();
    format!("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n{fields}\r\n").into_bytes()
}

fn refusal_body(n: usize) -> Vec<u8> {
    format!("HTTP/1.1 403 Forbidden\r\nContent-Length: {n}\r\n\r\n{}", "a".repeat(n)).into_bytes()
}

fn refusal_chunks(n: usize) -> Vec<u8> {
    format!("HTTP/1.1 403 Forbidden\r\nTransfer-Encoding: chunked\r\n\r\n{}0\r\n\r\n", "1\r\na\r\n".repeat(n))
        .into_bytes()
}

/// One masked frame, with the key of the RFC's examples.
fn frame(wire: &mut Vec<u8>, first: u8, payload: &[u8]) {
    const KEY: [u8; 4] = [0x37, 0xfa, 0x21, 0x3d];
    wire.push(first);
    match payload.len() {
        len @ ..126 => wire.push(0x80 | len as u8),
        len @ 126..=0xffff => {
            wire.push(0x80 | 126);
            wire.extend_from_slice(&(len as u16).to_be_bytes());
        }
        len => {
            wire.push(0x80 | 127);
            wire.extend_from_slice(&(len as u64).to_be_bytes());
        }
    }
    wire.extend_from_slice(&KEY);
    wire.extend(payload.iter().zip(KEY.iter().cycle()).map(|(byte, key)| byte ^ key));
}

fn close() -> Vec<u8> {
    let mut wire = Vec::new();
    frame(&mut wire, 0x88, &1000_u16.to_be_bytes());
    wire
}

fn message(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    frame(&mut wire, first, payload);
    wire.extend(close());
    wire
}

fn fragments(n: usize, payload: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    frame(&mut wire, 0x01, b"a");
    (0..n).for_each(|_| frame(&mut wire, 0x00, payload));
    frame(&mut wire, 0x80, b"z");
    wire.extend(close());
    wire
}

fn small_messages(n: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    (0..=n).for_each(|_| frame(&mut wire, 0x81, b"hello"));
    wire.extend(close());
    wire
}

fn pings(n: usize) -> Vec<u8> {
    let mut wire = Vec::new();
    (0..n).for_each(|_| frame(&mut wire, 0x89, b"ping"));
    wire.extend(message(0x81, b"a"));
    wire
}
