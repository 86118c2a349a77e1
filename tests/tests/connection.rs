//! `Connection` by itself, both roles: bytes, chunks, ends, and any order of calls.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use parley_proto::Role;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Closed, Config, Connection, ConnectionError, Event, Initiator, Shutdown, State, Timer};
use parley_proto::handshake::{Acceptance, ClientRequest, Negotiated};
use parley_tests::raw;
use parley_tests::sim::describe;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

fn config(role: Role) -> Arc<Config> {
    Arc::new(Config::new(role))
}

/// An open connection, its first event taken.
fn open(role: Role) -> Connection {
    open_at(Instant::now(), role)
}

fn open_at(now: Instant, role: Role) -> Connection {
    let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new());
    let mut connection = Connection::upgraded(now, role, agreed, config(role), [1; 32]);
    assert!(matches!(connection.poll_event(), Some(Event::Open(_))));
    connection
}

/// A frame as this end's peer sends it.
fn from_peer(role: Role, first: u8, payload: &[u8]) -> Vec<u8> {
    match role {
        Role::Client => raw::frame(first, payload),
        Role::Server => raw::masked_frame(first, [1, 2, 3, 4], payload),
    }
}

fn input(connection: &mut Connection, now: Instant, bytes: &[u8]) {
    connection.handle_input(now, &mut BytesMut::from(bytes));
}

/// All output, taken.
fn output(connection: &mut Connection, now: Instant) -> Vec<u8> {
    let mut all = Vec::new();
    while connection.queued() > 0 {
        let bytes: Vec<u8> = connection.transmit().iter().flatten().copied().collect();
        connection.handle_written(now, bytes.len());
        all.extend(bytes);
    }
    all
}

fn closed(connection: &mut Connection) -> Closed {
    loop {
        match connection.poll_event().unwrap() {
            Event::Closed(closed) => {
                assert!(connection.poll_event().is_none(), "it is the last");
                return *closed;
            }
            Event::Frame(_) => {}
            event => panic!("{event:?}"),
        }
    }
}

/// The frames in what a client wrote, unmasked: first byte and payload.
fn unmasked(mut bytes: &[u8]) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    while let [first, second, rest @ ..] = bytes {
        let len = usize::from(second & 0x7f);
        assert!(len < 126 && second & 0x80 != 0);
        let (key, rest) = rest.split_at(4);
        let payload = rest[..len].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect();
        frames.push((*first, payload));
        bytes = &rest[len..];
    }
    frames
}

mod closing_handshake {
    use super::*;

    #[test]
    fn a_server_sends_the_bytes_of_section_5_5_1() {
        let now = Instant::now();
        let mut server = open(Role::Server);
        server.close(now, &CloseFrame::new(1001, "bye").unwrap());
        assert_eq!(output(&mut server, now), b"\x88\x05\x03\xe9bye");
        server.close(now, &CloseFrame::normal());
        assert_eq!(output(&mut server, now), b"", "a second call changes nothing");
        assert_eq!(server.poll_shutdown(), None, "the peer's Close is to come");
        input(&mut server, now, &from_peer(Role::Server, 0x88, b"\x03\xe9"));
        assert_eq!(server.poll_shutdown(), Some(Shutdown::Write), "the server ends TCP first");
        server.handle_eof(now);
        let end = closed(&mut server);
        assert!(end.was_clean && end.initiator == Initiator::Local);
        assert_eq!((end.code(), server.poll_shutdown()), (1001, Some(Shutdown::Close)));
    }

    #[test]
    fn a_client_masks_its_close() {
        let now = Instant::now();
        let mut client = open(Role::Client);
        client.close(now, &CloseFrame::normal());
        let bytes = output(&mut client, now);
        assert_eq!(bytes[..2], [0x88, 0x82]);
        assert_eq!(unmasked(&bytes), [(0x88, b"\x03\xe8".to_vec())]);
        input(&mut client, now, b"\x88\x02\x03\xe8");
        assert_eq!(client.poll_shutdown(), None, "it waits for the server's FIN");
        assert_eq!(client.poll_timeout(), Some((now + Duration::from_secs(5), Timer::Close)));
        client.handle_eof(now);
        assert!(closed(&mut client).was_clean);
    }

    #[test]
    fn the_transport_is_shut_down_when_the_close_has_left() {
        let now = Instant::now();
        let mut server = open(Role::Server);
        input(&mut server, now, &from_peer(Role::Server, 0x88, b"\x03\xe8"));
        assert!(server.poll_event().is_none());
        assert_eq!((server.queued(), server.poll_shutdown()), (4, None));
        server.handle_written(now, 3);
        assert_eq!(server.poll_shutdown(), None);
        server.handle_written(now, 1);
        assert_eq!((server.poll_shutdown(), server.poll_shutdown()), (Some(Shutdown::Write), None));
    }

    #[test]
    fn an_empty_close_is_answered_by_an_empty_close() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            let mut connection = open(role);
            input(&mut connection, now, &from_peer(role, 0x88, b""));
            assert!(connection.poll_event().is_none());
            let bytes = output(&mut connection, now);
            assert_eq!(bytes.len(), if role == Role::Client { 6 } else { 2 });
            connection.handle_eof(now);
            let end = closed(&mut connection);
            assert_eq!((end.code(), end.was_clean, end.initiator), (1005, true, Initiator::Remote));
        }
    }

    #[test]
    fn an_error_is_answered_by_its_code_and_nothing_more_is_read() {
        let now = Instant::now();
        let mut server = open(Role::Server);
        input(&mut server, now, b"\x81\x01x");
        assert_eq!(server.state(), State::Open, "it takes effect in its turn");
        assert!(server.poll_event().is_none());
        assert_eq!((server.state(), output(&mut server, now)), (State::Closing, b"\x88\x02\x03\xea".to_vec()));
        input(&mut server, now, &from_peer(Role::Server, 0x88, b"\x03\xe8"));
        server.handle_eof(now);
        let end = closed(&mut server);
        assert!(!end.was_clean && matches!(end.error, Some(ConnectionError::Protocol(_))));
        assert_eq!(end.code(), 1006);
    }

    #[test]
    fn a_peer_that_closes_while_we_do() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            let mut connection = open(role);
            input(&mut connection, now, &from_peer(role, 0x88, b"\x03\xe9"));
            connection.close(now, &CloseFrame::normal());
            let bytes = output(&mut connection, now);
            assert_eq!(bytes.len(), if role == Role::Client { 8 } else { 4 }, "one Close");
            connection.handle_eof(now);
            let end = closed(&mut connection);
            assert!(end.was_clean);
            assert_eq!(end.code(), 1001);
        }
    }
}

mod sending {
    use super::*;
    use parley_proto::codec::{Chunk, PreparedFrame};
    use parley_proto::{ChunkError, SendError};

    /// What the three ways to send answer.
    fn refusals(connection: &mut Connection) -> [String; 3] {
        let (now, frame) = (Instant::now(), Frame::text("x"));
        let prepared = PreparedFrame::new(&frame).unwrap();
        let chunk = Chunk::text("x").first();
        [
            format!("{:?}", connection.send(now, frame).unwrap_err()),
            format!("{:?}", connection.send_prepared(now, &prepared).unwrap_err()),
            format!("{:?}", connection.send_chunk(now, chunk).unwrap_err()),
        ]
    }

    /// The same, as it should be.
    fn refused(frame: fn(Frame) -> SendError, chunk: fn(Chunk) -> ChunkError) -> [String; 3] {
        let frame = format!("{:?}", frame(Frame::text("x")));
        [frame.clone(), frame, format!("{:?}", chunk(Chunk::text("x").first()))]
    }

    #[test]
    fn what_is_refused_says_why_and_comes_back() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            let request = ClientRequest::new("ws://a/").unwrap();
            let mut connecting = match role {
                Role::Client => Connection::client(&request, config(role), [2; 32], now),
                Role::Server => Connection::server(config(role), [2; 32], now),
            };
            assert_eq!(refusals(&mut connecting), refused(SendError::Disconnected, ChunkError::Disconnected));

            let mut full = open(role);
            full.send(now, Frame::binary(vec![0; 64 * 1024])).unwrap();
            assert!(!full.has_room());
            assert_eq!(refusals(&mut full), refused(SendError::Full, ChunkError::Full));

            let mut in_parts = open(role);
            in_parts.send_chunk(now, Chunk::text("x").first()).unwrap();
            assert_eq!(refusals(&mut in_parts), refused(SendError::OutOfTurn, ChunkError::OutOfTurn));
            let ping = PreparedFrame::new(&Frame::ping("x")).unwrap();
            in_parts.send_prepared(now, &ping).unwrap();
            in_parts.send(now, Frame::ping("x")).unwrap();

            let mut closing = open(role);
            closing.close(now, &CloseFrame::normal());
            assert_eq!(refusals(&mut closing), refused(SendError::Closing, ChunkError::Closing));
            closing.abort(now);
            assert_eq!(refusals(&mut closing), refused(SendError::Closing, ChunkError::Closing));
        }
    }

    #[test]
    fn there_is_room_while_less_than_64_kib_wait() {
        for (payload, has_room) in [(64 * 1024 - 5, true), (64 * 1024 - 4, false)] {
            let mut server = open(Role::Server);
            let end = server.send(Instant::now(), Frame::binary(vec![0; payload])).unwrap();
            assert_eq!((end, server.has_room()), (payload as u64 + 4, has_room), "header and payload");
        }
    }

    #[test]
    fn parts_have_to_be_in_order_of_one_kind_and_utf8() {
        let now = Instant::now();
        let mut server = open(Role::Server);
        let out_of_turn = |server: &mut Connection, chunk: Chunk| matches!(server.send_chunk(now, chunk.clone()), Err(ChunkError::OutOfTurn(back)) if back == chunk);
        let not_utf8 = |server: &mut Connection, chunk: Chunk| matches!(server.send_chunk(now, chunk.clone()), Err(ChunkError::NotUtf8(back)) if back == chunk);
        assert!(out_of_turn(&mut server, Chunk::text("x")), "none has begun");
        server.send_chunk(now, Chunk::text("caf").first()).unwrap();
        assert!(out_of_turn(&mut server, Chunk::text("x").first()), "one is under way");
        assert!(out_of_turn(&mut server, Chunk::binary("x")), "it is a text");
        assert!(not_utf8(&mut server, Chunk::text(&b"\xff"[..])));
        assert!(not_utf8(&mut server, Chunk::text(&b"\xc3"[..]).last()), "it ends inside a character");
        server.send_chunk(now, Chunk::text(&b"\xc3"[..])).unwrap();
        server.send_chunk(now, Chunk::text(&b"\xa9"[..]).last()).unwrap();
        assert!(out_of_turn(&mut server, Chunk::text("x").last()), "it has ended");
        assert_eq!(output(&mut server, now), b"\x01\x03caf\x00\x01\xc3\x80\x01\xa9");
    }

    #[test]
    fn a_control_frame_above_125_bytes_is_refused() {
        let now = Instant::now();
        let mut client = open(Role::Client);
        client.send(now, Frame::ping(vec![0; 125])).unwrap();
        let ping = Frame::ping(vec![0; 126]);
        assert!(matches!(client.send(now, ping.clone()), Err(SendError::ControlTooLong(back)) if back == ping));
        client.send(now, Frame::binary(vec![0; 126])).unwrap();
    }
}

mod input {
    use super::*;

    #[test]
    fn the_hint_tells_what_the_frame_under_way_lacks() {
        let now = Instant::now();
        let mut client = open(Role::Client);
        let mut bytes = BytesMut::from(&b"\x82\x05ab"[..]);
        client.handle_input(now, &mut bytes);
        assert_eq!(client.read_hint(), 3);
        bytes.extend_from_slice(b"cde");
        client.handle_input(now, &mut bytes);
        assert_eq!((client.read_hint(), bytes.len()), (0, 0));
    }

    #[test]
    fn small_frames_are_copied_out_of_the_input_when_that_is_asked_for() {
        let now = Instant::now();
        for asked in [true, false] {
            let mut client = open(Role::Client);
            client.set_copy_small(asked);
            let mut bytes = BytesMut::from(&raw::frame(0x82, b"small").repeat(1000)[..]);
            let window = bytes.as_ptr_range();
            client.handle_input(now, &mut bytes);
            let Some(Event::Frame(frame)) = client.poll_event() else { panic!("a frame has come") };
            assert_eq!(!window.contains(&frame.payload().as_ptr()), asked);
        }
    }
}

#[test]
fn its_debug_output_tells_the_state_and_no_payload() {
    let mut server = open(Role::Server);
    server.send(Instant::now(), Frame::text("secret")).unwrap();
    let shown = format!("{server:?}");
    assert!(shown.contains("role: Server, state: Open, queued: 8"), "{shown}");
    assert!(!shown.contains("secret"), "{shown}");
}

mod ends {
    use super::*;

    #[test]
    fn what_ended_a_connection_is_said_in_words() {
        let reset = ConnectionError::Network(lost());
        assert!(reset.to_string().contains("reset"), "{reset}");
        assert_eq!(ConnectionError::Eof.to_string(), "the stream ended without a Close");
        assert_eq!(ConnectionError::KeepaliveTimeout.to_string(), "the peer did not answer a ping");
    }

    #[test]
    fn a_close_while_a_request_waits_answers_it_with_503() {
        let now = Instant::now();
        let mut server = Connection::server(config(Role::Server), [2; 32], now + Duration::from_secs(5));
        input(
            &mut server,
            now,
            b"GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
              Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n",
        );
        assert!(matches!(server.poll_event(), Some(Event::Request(_))));
        server.close(now, &CloseFrame::normal());
        assert!(output(&mut server, now).starts_with(b"HTTP/1.1 503 "));
        assert_eq!(server.poll_shutdown(), Some(Shutdown::Write));
        server.handle_eof(now);
        assert!(matches!(closed(&mut server).error, Some(ConnectionError::Refused)));
    }

    fn lost() -> parley_proto::NetworkError {
        std::io::Error::from(std::io::ErrorKind::ConnectionReset).into()
    }

    /// A connection in each state, by name.
    fn in_states(role: Role, now: Instant) -> Vec<(&'static str, Connection)> {
        let deadline = now + Duration::from_secs(5);
        let request = ClientRequest::new("ws://a/").unwrap();
        let connecting = match role {
            Role::Client => Connection::client(&request, config(role), [2; 32], deadline),
            Role::Server => Connection::server(config(role), [2; 32], deadline),
        };
        let mut closing_us = open(role);
        closing_us.close(now, &CloseFrame::normal());
        output(&mut closing_us, now);
        let mut closing_them = open(role);
        input(&mut closing_them, now, &from_peer(role, 0x88, b"\x03\xe8"));
        assert!(closing_them.poll_event().is_none());
        output(&mut closing_them, now);
        let mut pending = open(role);
        input(&mut pending, now, &[from_peer(role, 0x81, b"x"), from_peer(role, 0x88, b"\x03\xe8")].concat());
        vec![
            ("connecting", connecting),
            ("open", open(role)),
            ("closing, by us", closing_us),
            ("closing, by them", closing_them),
            ("open, with a Close behind a frame", pending),
        ]
    }

    /// Whoever begins: what the peer sends afterwards is dropped, and buys it no time.
    #[test]
    fn hazard_12_a_flood_while_closing_is_dropped_and_does_not_put_off_the_deadline() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            for peer_begins in [false, true] {
                let mut connection = open(role);
                if peer_begins {
                    input(&mut connection, now, &from_peer(role, 0x88, b"\x03\xe8"));
                    assert!(connection.poll_event().is_none());
                } else {
                    connection.close(now, &CloseFrame::normal());
                }
                output(&mut connection, now);
                let flood = [from_peer(role, 0x81, b"late"), from_peer(role, 0x89, b"late")].concat();
                for millis in 0..5_000 {
                    let now = now + Duration::from_millis(millis);
                    input(&mut connection, now, &flood);
                    connection.handle_timeout(now);
                    assert!(connection.poll_event().is_none(), "{role:?}, after {millis} ms");
                    output(&mut connection, now);
                    assert_eq!(connection.state(), State::Closing);
                }
                connection.handle_timeout(now + Duration::from_secs(5));
                assert_eq!(closed(&mut connection).was_clean, peer_begins);
            }
        }
    }

    #[test]
    fn hazard_13_eof_in_every_state() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            for (state, mut connection) in in_states(role, now) {
                connection.handle_eof(now);
                if state == "open, with a Close behind a frame" {
                    assert!(matches!(connection.poll_event(), Some(Event::Frame(_))));
                    assert!(connection.send(now, Frame::text("answer")).is_ok());
                    assert!(connection.poll_event().is_none());
                    assert!(!output(&mut connection, now).is_empty(), "the answer and our Close still leave");
                }
                let end = closed(&mut connection);
                let clean = matches!(state, "closing, by them" | "open, with a Close behind a frame");
                assert_eq!(end.was_clean, clean, "{role:?}, {state}");
                assert_eq!(matches!(end.error, Some(ConnectionError::Eof)), !clean, "{role:?}, {state}");
                assert_eq!(connection.poll_shutdown(), Some(Shutdown::Close));
                assert_eq!(connection.state(), State::Closed);
            }
        }
    }

    #[test]
    fn hazard_13_a_lost_transport_in_every_state() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            for (state, mut connection) in in_states(role, now) {
                connection.handle_lost(now, lost());
                let end = closed(&mut connection);
                assert_eq!(end.was_clean, state == "closing, by them", "{role:?}, {state}");
                let keeps_code = matches!(state, "closing, by them" | "open, with a Close behind a frame");
                assert_eq!(end.code(), if keeps_code { 1000 } else { 1006 }, "{role:?}, {state}");
                assert_eq!(matches!(end.error, Some(ConnectionError::Network(_))), !keeps_code);
                assert_eq!(connection.poll_shutdown(), Some(Shutdown::Abort));
            }
        }
    }

    #[test]
    fn an_end_is_not_clean_when_our_close_has_not_left() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            for asked in [true, false] {
                let ends: [fn(&mut Connection, Instant); 3] = [
                    |connection, now| connection.handle_lost(now, lost()),
                    |connection, now| connection.handle_timeout(now + Duration::from_secs(5)),
                    Connection::abort,
                ];
                for end in ends {
                    let mut connection = open(role);
                    if asked {
                        connection.close(now, &CloseFrame::normal());
                    }
                    input(&mut connection, now, &from_peer(role, 0x88, b"\x03\xe8"));
                    assert!(connection.poll_event().is_none());
                    connection.handle_written(now, 1);
                    end(&mut connection, now);
                    let closed = closed(&mut connection);
                    assert_eq!((closed.was_clean, closed.code()), (false, 1000), "{role:?}");
                }
            }
        }
    }

    #[test]
    fn the_deadline_in_every_state() {
        let now = Instant::now();
        for role in [Role::Client, Role::Server] {
            for (state, mut connection) in in_states(role, now) {
                let (at, timer) = connection.poll_timeout().unwrap();
                assert_eq!(timer == Timer::Keepalive, state == "open");
                connection.handle_timeout(at - Duration::from_millis(1));
                assert_ne!(connection.state(), State::Closed, "an early call is harmless");
                connection.handle_timeout(at);
                if state == "open" {
                    assert_eq!(connection.state(), State::Open, "the peer is asked, and has time to answer");
                    output(&mut connection, at);
                    connection.handle_timeout(at + Duration::from_secs(20));
                }
                if state == "open, with a Close behind a frame" {
                    assert_eq!(connection.state(), State::Closing, "it takes effect, delivered or not");
                    output(&mut connection, at);
                    connection.handle_timeout(at + Duration::from_secs(5));
                }
                assert_eq!(connection.state(), State::Closed, "{role:?}, {state}");
                closed(&mut connection);
                connection.handle_timeout(at + Duration::from_secs(60));
                assert!(connection.poll_timeout().is_none());
            }
        }
    }

    #[test]
    fn hazard_24_a_clock_that_goes_back_is_harmless() {
        let now = Instant::now() + Duration::from_secs(3600);
        for role in [Role::Client, Role::Server] {
            let mut connection = open(role);
            connection.send(now, Frame::text("x")).unwrap();
            let before = now - Duration::from_secs(1800);
            output(&mut connection, before);
            input(&mut connection, before, &from_peer(role, 0x89, b""));
            connection.handle_timeout(before);
            connection.close(now, &CloseFrame::normal());
            connection.handle_timeout(before);
            assert_eq!(connection.poll_timeout(), Some((now + Duration::from_secs(5), Timer::Close)));
            input(&mut connection, before, &from_peer(role, 0x88, b"\x03\xe8"));
            connection.handle_eof(before);
            output(&mut connection, before);
            assert!(closed(&mut connection).was_clean);
        }
    }
}

fn any_frame() -> impl Strategy<Value = Frame> {
    prop_oneof![
        4 => "[a-zé]{0,200}".prop_map(Frame::text),
        4 => vec(any::<u8>(), 0..200).prop_map(Frame::binary),
        1 => (1000..3000_usize).prop_map(|len| Frame::binary(vec![7; len])),
        2 => vec(any::<u8>(), 0..=125).prop_map(Frame::ping),
        1 => vec(any::<u8>(), 0..=125).prop_map(Frame::pong),
    ]
}

/// Who begins the closing handshake, if anybody.
fn any_closer() -> impl Strategy<Value = Option<Role>> {
    prop_oneof![Just(None), Just(Some(Role::Client)), Just(Some(Role::Server))]
}

/// One event in a line.
fn line(event: Event) -> String {
    match event {
        Event::Request(request) => format!("request {}", request.resource()),
        Event::Open(agreed) => format!("open {:?}", agreed.subprotocol()),
        Event::Frame(frame) => format!("{} {:?}", describe(&frame), frame.payload()),
        Event::Closed(closed) => format!("closed {} {} {:?}", closed.code(), closed.was_clean, closed.initiator),
        event => panic!("{event:?}"),
    }
}

/// Two ends and what is between them.
struct Joined {
    now: Instant,
    ends: [Connection; 2],
    /// What is under way to each end, and what it holds of an unfinished frame.
    wires: [Vec<u8>; 2],
    held: [BytesMut; 2],
    /// The peer's end of that direction.
    fin: [bool; 2],
    events: [Vec<String>; 2],
}

impl Joined {
    fn new(request: &ClientRequest) -> Self {
        let now = Instant::now();
        let deadline = now + Duration::from_secs(5);
        Self {
            now,
            ends: [
                Connection::client(request, config(Role::Client), [1; 32], deadline),
                Connection::server(config(Role::Server), [2; 32], deadline),
            ],
            wires: Default::default(),
            held: Default::default(),
            fin: [false; 2],
            events: Default::default(),
        }
    }

    /// Takes events and output of an end; server: accepts.
    fn serve(&mut self, end: usize) {
        while let Some(event) = self.ends[end].poll_event() {
            if let Event::Request(_) = &event {
                let chat = Acceptance::new().subprotocol("chat");
                self.ends[end].accept(self.now, chat).unwrap();
            }
            self.events[end].push(line(event));
        }
        let bytes = output(&mut self.ends[end], self.now);
        self.wires[1 - end].extend(bytes);
        if self.ends[end].poll_shutdown().is_some() {
            self.fin[1 - end] = true;
        }
    }

    /// Moves up to `n` bytes to an end. False: there was nothing to move.
    fn carry(&mut self, end: usize, n: usize) -> bool {
        if self.ends[end].state() == State::Closed {
            self.wires[end].clear();
        }
        let n = n.min(self.wires[end].len());
        if n == 0 {
            if std::mem::take(&mut self.fin[end]) {
                self.ends[end].handle_eof(self.now);
                return true;
            }
            return false;
        }
        self.held[end].extend(self.wires[end].drain(..n));
        self.ends[end].handle_input(self.now, &mut self.held[end]);
        true
    }

    /// Until nothing moves; the chunks over and over.
    fn run(&mut self, chunks: &[usize]) {
        let mut chunks = chunks.iter().copied().cycle();
        self.serve(0);
        self.serve(1);
        loop {
            let mut moved = false;
            for end in [1, 0] {
                moved |= self.carry(end, chunks.next().unwrap());
                self.serve(end);
            }
            if !moved {
                return;
            }
        }
    }
}

/// The events of both ends when each sends its frames and one closes, everything cut like this.
fn events(frames: [&[Frame]; 2], closer: Option<Role>, chunks: &[usize]) -> [Vec<String>; 2] {
    let mut request = ClientRequest::new("ws://a/chat?x").unwrap();
    request.subprotocol("chat").unwrap();
    let mut joined = Joined::new(&request);
    joined.run(chunks);
    for (end, frames) in frames.into_iter().enumerate() {
        for frame in frames {
            joined.ends[end].send(joined.now, frame.clone()).unwrap();
        }
    }
    joined.run(chunks);
    match closer {
        None => {}
        Some(Role::Client) => joined.ends[0].close(joined.now, &CloseFrame::going_away()),
        Some(Role::Server) => joined.ends[1].close(joined.now, &CloseFrame::going_away()),
    }
    joined.run(chunks);
    joined.events
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn every_chunking_gives_the_same_events_at_both_ends(
        ours in vec(any_frame(), 0..12),
        theirs in vec(any_frame(), 0..12),
        closer in any_closer(),
        chunks in vec(prop_oneof![Just(1_usize), 1..10_usize, 1..5000_usize], 1..20),
    ) {
        let whole = events([&ours, &theirs], closer, &[usize::MAX]);
        let cut = events([&ours, &theirs], closer, &chunks);
        prop_assert_eq!(&cut, &whole);

        // What one sent the other got, in order; a pong for each ping comes behind.
        let [client, server] = whole;
        for (got, sent, back) in [(&server, &ours, &theirs), (&client, &theirs, &ours)] {
            let sent = sent.iter().map(|frame| format!("{} {:?}", describe(frame), frame.payload()));
            let pings = back.iter().filter(|frame| matches!(frame, Frame::Ping(_)));
            let pongs = pings.map(|ping| Frame::pong(ping.payload().clone()));
            let pongs = pongs.map(|frame| format!("{} {:?}", describe(&frame), frame.payload()));
            let expected: Vec<String> = sent.chain(pongs).collect();
            let opened = got.iter().position(|line| line.starts_with("open")).unwrap() + 1;
            let mut seen = got[opened..].to_vec();
            let end = seen.pop_if_closed();
            prop_assert_eq!(end.is_some(), closer.is_some());
            prop_assert!(end.is_none_or(|end| end.starts_with("closed 1001 true")));
            seen.sort();
            let mut expected = expected;
            expected.sort();
            prop_assert_eq!(seen, expected);
        }
    }

    #[test]
    fn output_taken_a_byte_at_a_time_is_the_same_output(
        frames in vec(any_frame(), 0..12),
        close in any::<bool>(),
        role in prop_oneof![Just(Role::Client), Just(Role::Server)],
    ) {
        let now = Instant::now();
        let written = |at_a_time: usize| {
            let mut connection = open(role);
            for frame in &frames {
                connection.send(now, frame.clone()).unwrap();
            }
            if close {
                connection.close(now, &CloseFrame::normal());
            }
            let mut all = Vec::new();
            while connection.queued() > 0 {
                let next: Vec<u8> = connection.transmit().iter().flatten().copied().take(at_a_time).collect();
                connection.handle_written(now, next.len());
                connection.handle_written(now, 0);
                all.extend(next);
            }
            prop_assert_eq!(connection.written(), all.len() as u64);
            Ok(all)
        };
        prop_assert_eq!(written(1)?, written(usize::MAX)?);
    }
}

trait PopIfClosed {
    fn pop_if_closed(&mut self) -> Option<String>;
}

impl PopIfClosed for Vec<String> {
    fn pop_if_closed(&mut self) -> Option<String> {
        if self.last()?.starts_with("closed") { self.pop() } else { None }
    }
}

/// What can be done to a connection.
#[derive(Clone, Copy, Debug)]
enum Op {
    Text,
    Ping,
    PeerCloses,
    PeerErrs,
    Poll,
    Send,
    Close,
    Written(usize),
    Eof,
    Lost,
    Wait(u64),
    Discard,
    Shutdown,
    Abort,
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        4 => Just(Op::Text),
        2 => Just(Op::Ping),
        2 => Just(Op::PeerCloses),
        1 => Just(Op::PeerErrs),
        4 => Just(Op::Poll),
        4 => Just(Op::Send),
        1 => Just(Op::Close),
        4 => (0..200_usize).prop_map(Op::Written),
        1 => Just(Op::Eof),
        1 => Just(Op::Lost),
        2 => (0..7_u64).prop_map(Op::Wait),
        1 => (15..35_u64).prop_map(Op::Wait),
        1 => Just(Op::Discard),
        2 => Just(Op::Shutdown),
        1 => Just(Op::Abort),
    ]
}

/// What an open connection should be like, in a few words.
#[derive(Debug)]
struct Model {
    state: State,
    /// Frames that wait to be polled.
    frames: usize,
    discards: bool,
    /// Parsed behind the frames, while open.
    pending: Option<Parsed>,
    /// Seen by now.
    received: bool,
    failed: bool,
    /// It ended before our Close had left.
    cut: bool,
    eof: bool,
    /// When `pending` takes effect all the same, in half seconds.
    effect: Option<u64>,
    deadline: Option<u64>,
    /// When the last bytes came.
    heard: u64,
    /// A ping of the connection's own waits for an answer since then.
    asked: Option<u64>,
    /// Output waits, and the peer took the last of it then.
    blocked: Option<u64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Parsed {
    Close,
    Error,
}

impl Model {
    fn parsed(&mut self, parsed: Parsed, now: u64) {
        match self.state {
            State::Open if self.pending.is_none() => {
                self.pending = Some(parsed);
                self.effect = Some(2 * now + 5);
                self.deadline = Some(now + 5);
            }
            State::Closing if !self.received && !self.failed => match parsed {
                Parsed::Close => self.received = true,
                Parsed::Error => {
                    self.failed = true;
                    self.end();
                }
            },
            _ => {}
        }
    }

    fn takes_effect(&mut self) {
        match self.pending.take() {
            Some(Parsed::Close) => self.received = true,
            Some(Parsed::Error) => self.failed = true,
            None => {}
        }
        (self.state, self.effect) = (State::Closing, None);
    }

    /// When keepalive or the write stall is due.
    fn liveness(&self) -> Option<u64> {
        match (self.blocked, self.asked) {
            _ if self.state != State::Open || self.pending.is_some() => None,
            (Some(blocked), _) => Some(blocked + 30),
            (None, Some(asked)) => Some(asked + 20),
            (None, None) => Some(self.heard + 20),
        }
    }

    fn arrives(&mut self, now: u64) {
        if self.state == State::Open && self.pending.is_none() {
            (self.heard, self.asked) = (now, None);
        }
    }

    fn written(&mut self, n: usize, left: usize, now: u64) {
        if left > 0 {
            if n > 0 || self.blocked.is_none() {
                self.blocked = Some(now);
            }
        } else if self.blocked.take().is_some() {
            self.asked = self.asked.and(Some(now));
        }
    }

    fn end(&mut self) {
        (self.state, self.effect, self.deadline) = (State::Closed, None, None);
    }
}

fn run_model(role: Role, ops: &[Op]) -> Result<(), TestCaseError> {
    let start = Instant::now();
    let (mut clock, mut ended) = (0, 0);
    let mut connection = open_at(start, role);
    let mut held = BytesMut::new();
    let mut model = Model {
        state: State::Open,
        frames: 0,
        discards: false,
        pending: None,
        received: false,
        failed: false,
        cut: false,
        eof: false,
        effect: None,
        deadline: None,
        heard: 0,
        asked: None,
        blocked: None,
    };
    for op in ops.iter().copied().chain([Op::Abort]).chain([Op::Poll; 200]) {
        let (before, queued) = (model.state, connection.queued());
        let now = start + Duration::from_secs(clock);
        let arrives = |first, payload: &[u8], held: &mut BytesMut, connection: &mut Connection| {
            held.extend_from_slice(&from_peer(role, first, payload));
            connection.handle_input(now, held);
        };
        match op {
            Op::Text | Op::Ping => {
                arrives(if matches!(op, Op::Text) { 0x81 } else { 0x89 }, b"x", &mut held, &mut connection);
                model.arrives(clock);
                if model.state == State::Open && model.pending.is_none() && !model.discards {
                    model.frames += 1;
                }
            }
            Op::PeerCloses => {
                arrives(0x88, b"\x03\xe8", &mut held, &mut connection);
                model.parsed(Parsed::Close, clock);
            }
            Op::PeerErrs => {
                arrives(0x83, b"", &mut held, &mut connection);
                model.parsed(Parsed::Error, clock);
            }
            Op::Poll => {
                let event = connection.poll_event();
                if model.frames > 0 {
                    model.frames -= 1;
                    prop_assert!(matches!(event, Some(Event::Frame(_))));
                } else if model.state == State::Closed && ended == 0 {
                    ended += 1;
                    let Some(Event::Closed(closed)) = event else { panic!("{event:?}") };
                    prop_assert_eq!(closed.was_clean, model.received && !model.failed && !model.cut);
                } else {
                    prop_assert!(event.is_none());
                    if model.state == State::Open && model.pending.is_some() {
                        model.takes_effect();
                    }
                }
            }
            Op::Send => {
                let sent = connection.send(now, Frame::text("x")).is_ok();
                prop_assert_eq!(sent, model.state == State::Open);
            }
            Op::Close => {
                connection.close(now, &CloseFrame::normal());
                if model.state == State::Open {
                    model.takes_effect();
                    model.deadline.get_or_insert(clock + 5);
                }
                if model.state != State::Closed {
                    (model.frames, model.discards) = (0, true);
                }
            }
            Op::Written(n) => {
                let offered = connection.queued();
                let n = n.min(offered);
                connection.handle_written(now, n);
                model.written(n, offered - n, clock); // a pong that waited comes after what was offered
            }
            Op::Eof => {
                connection.handle_eof(now);
                match model.state {
                    State::Open if model.pending.is_none() => model.end(),
                    State::Open | State::Closing => model.eof = true,
                    _ => {}
                }
                if model.state == State::Closing && !model.received {
                    model.failed = true;
                }
            }
            Op::Lost => {
                connection.handle_lost(now, std::io::Error::other("lost").into());
                if model.state == State::Closing && !model.received {
                    model.failed = true;
                }
                model.end();
            }
            Op::Wait(seconds) => {
                clock += seconds;
                let asks = model.blocked.is_none() && model.asked.is_none();
                if model.liveness().is_some_and(|at| at <= clock) {
                    if asks { model.asked = Some(clock) } else { model.end() }
                }
                connection.handle_timeout(start + Duration::from_secs(clock));
                if model.effect.is_some_and(|at| at <= 2 * clock) {
                    model.takes_effect();
                }
                if model.deadline.is_some_and(|at| at <= clock) {
                    model.end();
                }
            }
            Op::Discard => {
                connection.discard_input();
                (model.frames, model.discards) = (0, true);
            }
            Op::Shutdown => {
                let shutdown = connection.poll_shutdown();
                prop_assert!(shutdown.is_none() || model.state != State::Open);
            }
            Op::Abort => {
                connection.abort(now);
                if model.state == State::Open {
                    model.received = false;
                }
                model.end();
            }
        }
        if before != State::Closed && model.state == State::Closed {
            // A Close that is sent and given up in one call has not left either.
            model.cut = queued > 0 || before == State::Open;
        }
        if model.state == State::Closing && model.eof && connection.queued() == 0 {
            model.end();
        }
        prop_assert_eq!(connection.state(), model.state, "after {:?}", op);
        let armed = model.deadline.is_some() || model.liveness().is_some();
        prop_assert_eq!(connection.poll_timeout().is_some(), armed, "after {:?}", op);
    }
    prop_assert_eq!(ended, 1, "one terminal event");
    prop_assert!(connection.poll_event().is_none());
    prop_assert!(connection.queued() == 0 || connection.poll_shutdown().is_none());
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    /// In milliseconds, a clock that jumps a day or goes back as it likes.
    #[test]
    fn hazard_24_whatever_the_clock_does_a_timer_fires_once_and_the_end_comes_once(
        role in prop_oneof![Just(Role::Client), Just(Role::Server)],
        steps in vec((prop_oneof![0..60_000_u64, 0..86_400_000_u64], 0..6_u8), 0..60),
    ) {
        let start = Instant::now();
        let mut connection = open_at(start, role);
        let mut ended = 0;
        for (millis, step) in steps {
            let now = start + Duration::from_millis(millis);
            match step {
                0 => input(&mut connection, now, &from_peer(role, 0x81, b"x")),
                1 => drop(connection.send(now, Frame::text("x"))),
                2 => drop(output(&mut connection, now)),
                3 if millis % 4 == 0 => connection.close(now, &CloseFrame::normal()),
                _ => {
                    let is_due = connection.poll_timeout().is_some_and(|(at, _)| at <= now);
                    let before = (connection.state(), connection.queued(), connection.poll_timeout());
                    connection.handle_timeout(now);
                    let after = (connection.state(), connection.queued(), connection.poll_timeout());
                    prop_assert!(is_due || before == after, "nothing was due: {:?}, {:?}", before, after);
                    prop_assert!(after.2.is_none_or(|(at, _)| at > now), "due again at once: {:?}", after);
                    connection.handle_timeout(now);
                    prop_assert_eq!((connection.state(), connection.queued(), connection.poll_timeout()), after);
                }
            }
            while let Some(event) = connection.poll_event() {
                ended += usize::from(matches!(event, Event::Closed(_)));
            }
        }
        connection.abort(start);
        ended += std::iter::from_fn(|| connection.poll_event()).filter(|event| matches!(event, Event::Closed(_))).count();
        prop_assert_eq!(ended, 1);
    }

    #[test]
    fn hazard_12_any_order_of_calls_ends_in_one_event(
        role in prop_oneof![Just(Role::Client), Just(Role::Server)],
        ops in vec(any_op(), 0..40),
    ) {
        run_model(role, &ops)?;
    }
}

#[test]
fn a_pong_that_waited_is_not_itself_blocked_until_it_is_offered() {
    let ops = [Op::Wait(20), Op::Written(0), Op::Ping, Op::Written(14), Op::Wait(30)];
    run_model(Role::Client, &ops).unwrap();
}
