//! What an application or a peer does next, chosen by an input.

use std::time::{Duration, Instant};

use bytes::Bytes;
use parley_proto::Role;
use parley_proto::codec::{Chunk, CloseFrame, Frame};

use crate::input::Input;
use crate::naive;

/// So many operations are made of one input; together with the payloads' sizes this bounds what a run holds.
pub(crate) const OPERATIONS: usize = 400;

/// A payload: given in the input, or as long as it says, up to 128 KiB.
pub(crate) fn payload(input: &mut Input<'_>) -> Vec<u8> {
    match input.byte() {
        0xFF => vec![b'z'; 2 * usize::from(input.word())],
        n => input.bytes(n.into()).to_vec(),
    }
}

/// A frame of the application's; pings and pongs may be too long.
pub(crate) fn frame(input: &mut Input<'_>) -> Frame {
    let (kind, payload) = (input.byte(), payload(input));
    match kind % 4 {
        0 => Frame::text(String::from_utf8_lossy(&payload).into_owned()),
        1 => Frame::binary(payload),
        2 => Frame::ping(payload),
        _ => Frame::pong(payload),
    }
}

/// A part of a message, in order or not.
pub(crate) fn chunk(input: &mut Input<'_>) -> Chunk {
    let flags = input.byte();
    let payload = Bytes::from(payload(input));
    Chunk { payload, text: flags & 0x1 != 0, first: flags & 0x2 != 0, last: flags & 0x4 != 0 }
}

/// A Close that may be sent.
pub(crate) fn close(input: &mut Input<'_>) -> CloseFrame {
    let code = [1000, 1001, 1011, 3000, 4999][usize::from(input.byte() % 5)];
    let reason: String = String::from_utf8_lossy(input.counted()).chars().take(40).collect();
    CloseFrame::new(code, reason).unwrap_or_else(|_| CloseFrame::normal())
}

/// A frame of the peer of `role`, masked as it has to be; what is in it is the input's choice.
pub(crate) fn peer_frame(input: &mut Input<'_>, role: Role) -> Vec<u8> {
    let first = match input.byte() {
        // What is legal shall be common.
        n @ 0..0xC0 => [0x81, 0x82, 0x89, 0x8A, 0x88, 0x01, 0x02, 0x00, 0x80][usize::from(n % 9)],
        n => n << 4 | input.byte() & 0xF,
    };
    let payload = payload(input);
    naive::frame(first, &payload, (role == Role::Server).then_some([1, 2, 3, 4]))
}

/// Another moment than `now`: later, at or just before what is due, or earlier.
pub(crate) fn time(input: &mut Input<'_>, now: Instant, due: Option<Instant>) -> Instant {
    let kind = input.byte();
    let span = Duration::from_millis(1 << (kind >> 2).min(40));
    match kind % 4 {
        0 => now + span,
        1 => due.unwrap_or(now),
        2 => due.map_or(now, |due| due - Duration::from_millis(1)),
        _ => now.checked_sub(span).unwrap_or(now),
    }
}
