//! Lives of connections and sessions, operation by operation.

use std::io;

use parley_fuzz::connection::{self, CHUNKS, CLIENT, NO_KEEPALIVE, PLAIN_HTTP, SMALL_LIMITS, UPGRADED};

use crate::Corpus;

/// What the peer sends, as `choices::peer_frame` reads it.
const TEXT: u8 = 0;
const PING: u8 = 2;
const CLOSE_FRAME: u8 = 4;
const TEXT_BEGUN: u8 = 5;
const CONTINUED_AND_DONE: u8 = 8;
/// To whatever is due, as `choices::time` reads it.
const DUE: u8 = 1;

pub(crate) fn write() -> io::Result<()> {
    connection()?;
    joined()?;
    session()
}

fn connection() -> io::Result<()> {
    use connection::op::*;
    let corpus = Corpus::of("connection")?;
    let text = [PEER_FRAME, TEXT, 2, b'h', b'i'];
    let ping = [PEER_FRAME, PING, 1, b'p'];
    let close = [PEER_FRAME, CLOSE_FRAME, 2, 0x03, 0xE8];
    let send = [SEND, 0, 3, b'y', b'e', b's'];
    let opens = [WRITTEN_ALL, PEER_HANDSHAKE, POLL, ANSWER, 0, POLL_ALL];
    for (name, operations) in [
        ("receives", [text.as_slice(), &ping, &[POLL_ALL, WRITTEN_ALL]].concat()),
        ("sends", [send.as_slice(), &[SEND, 1, 0xFF, 0x50, 0, WRITTEN, 0, 9, WRITTEN_ALL]].concat()),
        ("sends-what-it-may-not", vec![SEND, 2, 200, SEND_CHUNK, 0, 1, b'x']),
        ("sends-in-parts", vec![SEND_CHUNK, 3, 1, 0xC3, SEND, 2, 0, SEND_CHUNK, 5, 1, 0xA9, WRITTEN_ALL]),
        ("prepared", vec![SEND_PREPARED, 0, 2, b'a', b'b', WRITTEN_ALL]),
        ("closes", [send.as_slice(), &[CLOSE, 0, 0, WRITTEN_ALL], &close, &[EOF, SHUTDOWN, POLL_ALL]].concat()),
        ("is-closed", [text.as_slice(), &close, &[POLL_ALL, WRITTEN_ALL, SHUTDOWN, EOF, POLL_ALL, SHUTDOWN]].concat()),
        ("errs", [text.as_slice(), &[PEER_BYTES, 2, 0x83, 0x80, POLL_ALL, WRITTEN_ALL, TIME, DUE, POLL_ALL]].concat()),
        ("lost-behind-a-close", [close.as_slice(), &[POLL_ALL, LOST, POLL_ALL, SHUTDOWN]].concat()),
        ("fragments", vec![PEER_FRAME, TEXT_BEGUN, 1, b'a', PEER_FRAME, CONTINUED_AND_DONE, 1, b'b', POLL_ALL]),
        ("keeps-alive", vec![TIME, DUE, WRITTEN_ALL, TIME, DUE, POLL_ALL]),
        ("stalls", [send.as_slice(), &[WRITTEN, 0, 1, TIME, DUE, POLL_ALL]].concat()),
        ("pings-while-blocked", [send.as_slice(), &[WRITTEN, 0, 1], &ping, &ping, &[WRITTEN_ALL]].concat()),
        ("clock-goes-back", [[TIME, 63].as_slice(), &text, &[TIME, 2, TIME, DUE, CLOSE, 0, 0, TIME, 35]].concat()),
        ("takes-nothing", [text.as_slice(), &close, &[TIME, DUE, TIME, DUE, POLL_ALL]].concat()),
        ("discards", [text.as_slice(), &[DISCARD], &text, &close, &[POLL_ALL]].concat()),
        ("aborts", [send.as_slice(), &[ABORT, POLL_ALL, SHUTDOWN]].concat()),
        ("rejects", vec![PEER_HANDSHAKE, POLL, ANSWER, 2, WRITTEN_ALL, SHUTDOWN, EOF]),
        ("answers-nothing", vec![PEER_HANDSHAKE, TIME, DUE, WRITTEN_ALL, TIME, DUE, POLL_ALL]),
    ] {
        for (role, flags) in [("client", CLIENT), ("server", 0)] {
            corpus.write(&format!("{role}-{name}"), &[[flags].as_slice(), &opens, &operations].concat())?;
            let flags = flags | UPGRADED | SMALL_LIMITS | CHUNKS | NO_KEEPALIVE;
            corpus.write(&format!("{role}-upgraded-{name}"), &[[flags].as_slice(), &operations].concat())?;
        }
    }
    let plain = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
    let answered = [POLL, ANSWER, 3, 2, b'o', b'k', WRITTEN_ALL];
    let plain = [[PLAIN_HTTP, PEER_BYTES, plain.len() as u8].as_slice(), plain, &answered].concat();
    corpus.write("server-plain-request", &plain)?;
    let refused = b"HTTP/1.1 503 No\r\nContent-Length: 9\r\n\r\nnot";
    corpus.write("client-refused", &[[CLIENT, PEER_BYTES, refused.len() as u8].as_slice(), refused, &[LOST]].concat())
}

fn joined() -> io::Result<()> {
    use parley_fuzz::joined::op::*;
    let corpus = Corpus::of("joined")?;
    let all = [WRITTEN_ALL, AT_SERVER | ARRIVES_ALL, AT_SERVER | POLL, AT_SERVER | WRITTEN_ALL, ARRIVES_ALL, POLL];
    let ours = [SEND, 0, 2, b'h', b'i', SEND, 2, 1, b'p'];
    let theirs = [AT_SERVER | SEND, 1, 0xFF, 0x50, 0, AT_SERVER | SEND, 0, 2, 0xC3, 0xA9];
    let parts = [SEND_CHUNK, 3, 1, 0xC3, SEND, 2, 0, SEND_CHUNK, 5, 1, 0xA9];
    for (name, operations) in [
        ("nothing", vec![]),
        ("both-send", [ours.as_slice(), &theirs, &all, &all].concat()),
        ("parts", parts.to_vec()),
        (
            "bytewise",
            [ours.as_slice(), &[WRITTEN, 0, 3, AT_SERVER | ARRIVES, 0, 1, AT_SERVER | ARRIVES, 0, 2]].concat(),
        ),
        ("both-close", [ours.as_slice(), &[CLOSE, 0, 0, AT_SERVER | CLOSE, 3, 1, b'r']].concat()),
        ("server-closes", [ours.as_slice(), &theirs, &[AT_SERVER | CLOSE, 4, 0]].concat()),
        ("cut-off", [ours.as_slice(), &theirs, &[WRITTEN, 0, 5, AT_SERVER | EOF]].concat()),
        ("reset", [theirs.as_slice(), &[AT_SERVER | WRITTEN, 0, 200, LOST]].concat()),
        ("keeps-alive", vec![TIME, DUE, TIME, DUE]),
    ] {
        corpus.write(name, &[all.as_slice(), &operations].concat())?;
    }
    Ok(())
}

fn session() -> io::Result<()> {
    use parley_fuzz::session::op::*;
    use parley_fuzz::session::{ACCEPTED, ADDRESS, CHUNKS, DROPPED, EAGER, RECONNECTS, SECURE, SMALL_LIMITS};
    let corpus = Corpus::of("session")?;
    let begins = [POLL, RETURN, 0, POLL, RETURN, 0, POLL];
    let opens = [begins.as_slice(), &[STEP, POLL, STEP, POLL, STEP, FLUSHED, UPGRADE, POLL, RETURN, 0, POLL]].concat();
    let accepts = [POLL, RETURN, 0, POLL, FLUSHED, RETURN, 0, POLL];
    let text = [PEER_FRAME, TEXT, 2, b'h', b'i', POLL];
    let send = [SEND, 0, 1, b's', POLL];
    let (disconnect, stop, reconnect) = ([ASK, 2, 0, 0], [ASK, 3, 0, 0], [ASK, 1, 0, 0]);
    for (name, operations) in [
        ("echoes", [text.as_slice(), &[RETURN, 6, POLL, FLUSHED, POLL]].concat()),
        ("pushes-much", [text.as_slice(), &[RETURN, 8, POLL], &text, &[RETURN, 0, WRITTEN, 0, 9]].concat()),
        ("sends-and-flushes", [send.as_slice(), &[FLUSH, 0, WRITTEN, 0, 3, FLUSHED, POLL]].concat()),
        (
            "sends-much",
            vec![SEND, 0, 0xFF, 0xFF, 0xFF, SEND, 0, 0xFF, 0x50, 0, SEND, 1, 1, b'p', FLUSH, 1, FORGET, FLUSHED],
        ),
        ("sends-in-parts", vec![SEND_CHUNK, 0, 1, b'a', 0, SEND, 1, 0, SEND_CHUNK, 4, 1, b'b', 0, FLUSHED, POLL]),
        ("gives-up-a-message", vec![SEND_CHUNK, 0, 1, b'a', 0, FLUSHED, ABANDON, FLUSHED, POLL]),
        ("broadcasts", vec![SEND_PREPARED, 1, 1, b'a', SEND_PREPARED, 5, 1, b'b', SEND_PREPARED, 9, 0, FLUSHED]),
        (
            "disconnects",
            [send.as_slice(), &disconnect, &[FLUSHED, PEER_FRAME, CLOSE_FRAME, 2, 0x03, 0xE8, EOF, POLL]].concat(),
        ),
        ("reconnects", [reconnect.as_slice(), &[FLUSHED, EOF, POLL, RETURN, 0, POLL, RETURN, 0, POLL, STEP]].concat()),
        ("stops-in-a-callback", [text.as_slice(), &stop, &send, &[FLUSHED, TIME, DUE, POLL]].concat()),
        ("infos", [text.as_slice(), &[INFO, INFO, RETURN, 0, POLL, RETURN, 7, POLL, FLUSHED]].concat()),
        (
            "is-closed",
            [text.as_slice(), &[PEER_FRAME, CLOSE_FRAME, 2, 0x03, 0xE9, RETURN, 6, FLUSHED, EOF, POLL]].concat(),
        ),
        ("is-lost", [send.as_slice(), &[LOST, POLL, RETURN, 0, TIME, DUE, POLL, RETURN, 0, POLL, STEP_FAILS]].concat()),
        ("errs", [text.as_slice(), &[PEER_BYTES, 2, 0x83, 0x80, RETURN, 14, POLL, FLUSHED, TIME, DUE]].concat()),
        ("panics", [text.as_slice(), &[RETURN, 15, POLL, FLUSHED, POLL]].concat()),
        ("keeps-alive", vec![TIME, DUE, FLUSHED, TIME, DUE, POLL, RETURN, 1, UNREACHABLE, 1, POLL]),
        ("stalls", [send.as_slice(), &[WRITTEN, 0, 1, TIME, DUE, POLL]].concat()),
    ] {
        for (life, flags, opening) in [
            ("client", ADDRESS, opens.as_slice()),
            ("secure-client", SECURE | RECONNECTS | EAGER, &opens),
            ("client-dropped", SMALL_LIMITS | CHUNKS | DROPPED, &opens),
            ("server", ACCEPTED, &accepts),
            ("server-eager", ACCEPTED | EAGER | SMALL_LIMITS | CHUNKS, &accepts),
        ] {
            corpus.write(&format!("{life}-{name}"), &[[flags].as_slice(), opening, &operations].concat())?;
        }
    }
    for (name, operations) in [
        ("fails-to-dial", [begins.as_slice(), &[STEP, POLL, STEP_FAILS, POLL, STEP_FAILS, POLL]].concat()),
        ("waits-for-addresses", [begins.as_slice(), &send, &[STEP, POLL, TIME, DUE, POLL, TIME, DUE, POLL]].concat()),
        ("is-disconnected-while-it-dials", [begins.as_slice(), &send, &disconnect, &[POLL, RETURN, 0, POLL]].concat()),
        ("is-stopped-before-init", [stop.as_slice(), &[POLL, RETURN, 0, POLL]].concat()),
        ("fails-in-init", vec![POLL, RETURN, 14, POLL]),
        ("prepares-too-long", vec![POLL, RETURN, 0, POLL, TIME, DUE, POLL, RETURN, 0, POLL]),
    ] {
        corpus.write(&format!("client-{name}"), &[[RECONNECTS].as_slice(), &operations].concat())?;
        corpus.write(&format!("server-{name}"), &[[ACCEPTED | EAGER].as_slice(), &operations].concat())?;
    }
    Ok(())
}
