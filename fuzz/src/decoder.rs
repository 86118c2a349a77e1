//! The frame decoder under any bytes in any pieces (RFC 6455, section 5).
//!
//! ```text
//!  input   0        1         2          3          4 ..
//!        +--------+---------+----------+----------+------------------------+
//!        | flags  | message | longest  | seed of  | what the peer sends    |
//!        |        | limit   | piece    | the cuts |                        |
//!        +--------+---------+----------+----------+------------------------+
//!          message limit: 1 + 4 times the byte if SMALL_LIMITS is set, else the default
//!          longest piece: 1 + the square of the byte
//! ```
//!
//! Promises: the same bytes give the same frames, pings and end, whole and cut, polled early and late; no more payload comes out than
//! bytes went in; text is UTF-8; messages and what is held of them stay within the limits; after an end nothing more comes.

use bytes::BytesMut;
use parley_proto::codec::{Decoder, End, Frame, FrameRef};
use parley_proto::{Limits, Role};

use crate::input::pieces;

/// Bytes of an input before what the peer sends.
pub const HEAD: usize = 4;
/// Flag: decodes as a client does, what a server sends.
pub const CLIENT: u8 = 0x1;
/// Flag: the message limit is small, so that short inputs reach it.
pub const SMALL_LIMITS: u8 = 0x2;
/// Flag: frames are not taken out before the last byte is in.
pub const LATE: u8 = 0x4;
/// Flag: small payloads are copied.
pub const COPY_SMALL: u8 = 0x8;
/// No flag.
pub const DEFAULT_LIMITS: u8 = 0x0;

/// Bytes of the longest header: the first two, a 64-bit length, a masking key.
const LONGEST_HEADER: usize = 14;
/// What the decoder counts for a frame that waits, beside its payload; a loose bound.
const BOOKKEEPING: usize = 64;

/// Checks the promises on one input.
///
/// # Panics
///
/// If one is broken.
pub fn run(input: &[u8]) {
    let Some((&[flags, message, longest, seed], wire)) = input.split_first_chunk::<HEAD>() else { return };
    let role = if flags & CLIENT != 0 { Role::Client } else { Role::Server };
    let limits = limits(role, flags, message);

    let whole = decoded(Decoder::new(role, &limits), role, &limits, &[wire], false);

    let pieces = pieces(wire, longest, seed);
    let mut decoder = Decoder::new(role, &limits);
    decoder.set_copy_small(flags & COPY_SMALL != 0);
    let cut = decoded(decoder, role, &limits, &pieces, flags & LATE != 0);
    assert_eq!(whole, cut, "cut into {:?}", pieces.iter().map(|piece| piece.len()).collect::<Vec<_>>());

    let mut decoder = Decoder::new(role, &limits);
    decoder.discard_frames();
    let discarded = decoded(decoder, role, &limits, &pieces, false);
    assert_eq!(discarded, Decoded { frames: Vec::new(), ..whole.clone() }, "without the frames");

    check(&whole, &limits, wire.len());
}

fn check(decoded: &Decoded, limits: &Limits, received: usize) {
    for frame in &decoded.frames {
        match frame {
            Frame::Text(text) => {
                assert!(std::str::from_utf8(text.as_bytes()).is_ok(), "text that is not UTF-8");
                assert!(text.len() <= limits.message(), "a message above the limit");
            }
            Frame::Binary(bytes) => assert!(bytes.len() <= limits.message(), "a message above the limit"),
            Frame::Ping(bytes) | Frame::Pong(bytes) => assert!(bytes.len() <= 125, "a long control frame"),
        }
    }
    let payload: usize = decoded.frames.iter().map(|frame| payload_of(frame).len()).sum();
    assert!(payload <= received, "more payload than bytes");
    let pings = decoded.frames.iter().filter(|frame| matches!(frame, Frame::Ping(_)));
    assert!(
        pings.map(payload_of).eq(decoded.pings.iter().map(Vec::as_slice)),
        "pings reported are not the pings received"
    );
}

fn limits(role: Role, flags: u8, message: u8) -> Limits {
    let limits = match role {
        Role::Client => Limits::client(),
        Role::Server => Limits::server(),
    };
    if flags & SMALL_LIMITS == 0 {
        return limits;
    }
    let set = || limits.with_message(1 + 4 * usize::from(message))?.with_fragments(8)?.with_empty_fragments(2);
    set().expect("none of these is 0 or usize::MAX")
}

#[derive(Clone, Debug, PartialEq)]
struct Decoded {
    frames: Vec<Frame>,
    pings: Vec<Vec<u8>>,
    end: Option<End>,
}

fn decoded(mut decoder: Decoder, role: Role, limits: &Limits, pieces: &[&[u8]], late: bool) -> Decoded {
    let most_held = limits.message().max(125) + LONGEST_HEADER;
    let mut input = BytesMut::new();
    let mut received = 0;
    let mut frames = Vec::new();
    let mut pings = Vec::new();
    for piece in pieces {
        input.extend_from_slice(piece);
        received += piece.len();
        decoder.decode(&mut input, &mut |ping: &[u8]| pings.push(ping.to_vec()));
        assert!(input.len() <= most_held, "more than one frame is left");
        assert!(decoder.read_hint() <= most_held, "a frame above the limit is waited for");
        // No frame has less than two bytes.
        assert!(decoder.backlog() <= received + BOOKKEEPING * (received / 2), "more is waiting than came");
        if !late {
            frames.extend(std::iter::from_fn(|| decoder.poll()));
            assert_eq!(decoder.backlog(), 0, "all is polled");
        }
    }
    // What waited is lent, what did not is given: the same frames.
    frames.extend(std::iter::from_fn(|| decoder.poll_ref().map(FrameRef::to_frame)));
    let end = decoder.end().cloned();
    if end.is_some() {
        // A ping, a text: neither may come through any more.
        let masked = [0x89, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0].as_slice();
        let unmasked = [0x89, 0x00, 0x81, 0x00].as_slice();
        input.clear();
        input.extend_from_slice(if role == Role::Server { masked } else { unmasked });
        decoder.decode(&mut input, &mut |_| panic!("a ping after the end"));
        assert!(input.is_empty(), "input after the end is kept");
        assert_eq!(decoder.poll(), None, "a frame after the end");
        assert_eq!(decoder.end(), end.as_ref(), "the end has changed");
    }
    Decoded { frames, pings, end }
}

fn payload_of(frame: &Frame) -> &[u8] {
    match frame {
        Frame::Text(text) => text.as_bytes(),
        Frame::Binary(bytes) | Frame::Ping(bytes) | Frame::Pong(bytes) => bytes,
    }
}
