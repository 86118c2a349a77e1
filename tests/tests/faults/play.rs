//! Plays a conversation against a `Connection`, with an application that does what the conversation says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::codec::Frame;
use parley_proto::connection::{Config, Connection, Event, State};
use parley_proto::handshake::{Acceptance, Rejection};
use parley_proto::{NetworkError, Role};

use super::corpus::{App, Conversation, request};

/// Seeds of both roles: keys and masks are the same in every play.
pub(crate) const SEED: [u8; 32] = [7; 32];

/// What comes behind the input.
#[derive(Clone, Copy, Debug)]
pub(crate) enum End {
    Eof,
    Reset,
    /// Nothing, until every deadline has passed.
    Silence,
}

#[derive(Debug, Default)]
pub(crate) struct Played {
    pub(crate) events: Vec<String>,
    /// How many terminal events there were, and what the last said: code, and whether it was clean.
    pub(crate) ends: usize,
    pub(crate) closed: Option<(u16, bool)>,
    wire: Vec<u8>,
}

impl Played {
    /// Head and frames as they left, but for pongs, of which a blocked output leaves out some.
    pub(crate) fn wire_without_pongs(&self) -> Vec<Vec<u8>> {
        let head = self.wire.windows(4).position(|end| end == b"\r\n\r\n").map_or(self.wire.len(), |at| at + 4);
        let (head, mut rest) = self.wire.split_at(head);
        let mut units = vec![head.to_vec()];
        while rest.len() >= 2 {
            let masked = if rest[1] & 0x80 != 0 { 4 } else { 0 };
            let (head, len) = match rest[1] & 0x7f {
                126 => (4, usize::from(u16::from_be_bytes([rest[2], rest[3]]))),
                127 => (10, u64::from_be_bytes(rest[2..10].try_into().unwrap()) as usize),
                len => (2, usize::from(len)),
            };
            let end = (head + masked + len).min(rest.len());
            let (frame, after) = rest.split_at(end);
            if frame[0] != 0x8a {
                // Masks are drawn in the order of the frames, pongs included: compare what they hide.
                let mut frame = frame.to_vec();
                if masked == 4 && frame.len() > head + 4 {
                    let key: Vec<_> = frame[head..head + 4].to_vec();
                    frame[head + 4..].iter_mut().zip(key.iter().cycle()).for_each(|(byte, key)| *byte ^= key);
                    frame[head..head + 4].fill(0);
                } else if masked == 4 {
                    frame.truncate(head);
                }
                units.push(frame);
            }
            rest = after;
        }
        units
    }
}

struct Player<'a, F> {
    conversation: &'a Conversation,
    connection: Connection,
    now: Instant,
    take: F,
    waiting: VecDeque<Frame>,
    /// Of a message that comes in parts.
    part: Vec<u8>,
    played: Played,
}

/// `take`: how many of so many bytes the transport takes.
pub(crate) fn play<'a>(
    conversation: &Conversation,
    pieces: impl IntoIterator<Item = &'a [u8]>,
    end: End,
    take: impl FnMut(usize) -> usize,
) -> Played {
    let now = Instant::now();
    let mut config = Config::new(conversation.role);
    (conversation.options)(&mut config);
    let deadline = now + Duration::from_secs(10);
    let connection = match conversation.role {
        Role::Client => {
            let request = request(conversation.subprotocol);
            Connection::client(&request, Arc::new(config), SEED, deadline)
        }
        Role::Server => Connection::server(Arc::new(config), SEED, deadline),
    };
    let mut player = Player {
        conversation,
        connection,
        now,
        take,
        waiting: VecDeque::new(),
        part: Vec::new(),
        played: Played::default(),
    };
    let mut input = BytesMut::new();
    // A client has asked before anybody answers.
    while player.connection.queued() > 0 {
        player.write();
    }
    for piece in pieces {
        if matches!(player.connection.state(), State::Closed) {
            break;
        }
        input.extend_from_slice(piece);
        loop {
            let before = input.len();
            player.connection.handle_input(now, &mut input);
            player.react();
            // What came behind a request is taken once that is answered.
            if input.len() == before || input.is_empty() {
                break;
            }
        }
        let most = conversation.input.len().max(70_000) + 1;
        assert!(input.len() <= most && player.connection.queued() <= 2 * most, "it holds more than it was given");
    }
    player.finish(end);
    player.played
}

impl<F: FnMut(usize) -> usize> Player<'_, F> {
    /// Takes all events, and does what the application does. Nothing is endless.
    fn react(&mut self) {
        for step in 0.. {
            assert!(step < 10_000, "events without end");
            self.send_waiting();
            self.write();
            let Some(event) = self.connection.poll_event() else { break };
            assert_eq!(self.played.ends, 0, "{event:?} behind the terminal event");
            match event {
                Event::Request(request) => {
                    self.note(format!("request {}", request.resource()));
                    let answered = match self.conversation.app {
                        App::Reject => {
                            self.connection.reject(self.now, Rejection::new(http::StatusCode::FORBIDDEN).unwrap())
                        }
                        _ => self.connection.accept(self.now, Acceptance::new()),
                    };
                    answered.unwrap();
                }
                Event::Http(request) => {
                    self.note(format!("plain {}", request.uri()));
                    self.connection.respond(self.now, &http::Response::new("page".into())).unwrap();
                }
                Event::Open(_) => self.note("open".to_owned()),
                Event::Chunk(chunk) => {
                    self.part.extend_from_slice(&chunk.payload);
                    if chunk.last {
                        let whole = std::mem::take(&mut self.part);
                        self.note(format!("parts of {} bytes, {:?}", whole.len(), whole.first()));
                    }
                }
                Event::Frame(frame) => self.frame(frame),
                Event::Closed(closed) => {
                    self.played.ends += 1;
                    self.played.closed = Some((closed.code(), closed.was_clean));
                    self.note(format!("closed {closed:?}"));
                }
                other => panic!("an event that no conversation has: {other:?}"),
            }
        }
    }

    fn frame(&mut self, frame: Frame) {
        let shown = if frame.len() < 100 {
            format!("{frame:?}")
        } else {
            format!("{:?}, {} bytes", frame.opcode(), frame.len())
        };
        self.note(shown);
        if frame.is_control() {
            return;
        }
        match self.conversation.app {
            App::Echo => self.waiting.push_back(frame),
            App::CloseOn(text) if frame == Frame::text(text) => {
                self.connection.close(self.now, &parley_proto::codec::CloseFrame::new(4000, "enough").unwrap());
            }
            App::CloseOn(_) | App::Reject => {}
        }
    }

    fn note(&mut self, what: String) {
        self.played.events.push(what);
    }

    /// What did not find room goes when there is some.
    fn send_waiting(&mut self) {
        while let Some(frame) = self.waiting.pop_front() {
            if !self.connection.has_room() && self.connection.state() == State::Open {
                return self.waiting.push_front(frame);
            }
            let _ = self.connection.send(self.now, frame); // refused behind a Close
        }
    }

    /// One write.
    fn write(&mut self) {
        let output: Vec<u8> = self.connection.transmit().iter().flatten().copied().collect();
        // A client's large payload is shown piece by piece.
        assert_eq!(output.is_empty(), self.connection.queued() == 0);
        assert!(output.len() <= self.connection.queued());
        let taken = (self.take)(output.len()).min(output.len());
        self.played.wire.extend_from_slice(&output[..taken]);
        if !output.is_empty() {
            self.connection.handle_written(self.now, taken);
        }
    }

    /// What is left leaves, the stream ends, and the deadlines pass.
    fn finish(&mut self, end: End) {
        let left = |player: &Self| player.connection.queued() > 0 || !player.waiting.is_empty();
        for step in 0.. {
            assert!(step < 1_000_000, "output without end");
            self.react();
            if !left(self) {
                break;
            }
        }
        match end {
            End::Eof => self.connection.handle_eof(self.now),
            End::Reset => {
                let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
                self.connection.handle_lost(self.now, NetworkError::from(reset));
            }
            End::Silence => {}
        }
        for step in 0.. {
            self.react();
            let _ = self.connection.poll_shutdown();
            if self.played.ends > 0 {
                break;
            }
            assert!(step < 20, "it does not end: {:?} {:?}", self.connection, self.played.events);
            let Some((at, _)) = self.connection.poll_timeout() else {
                panic!("nothing ends it: {:?}", self.connection)
            };
            self.now = self.now.max(at);
            self.connection.handle_timeout(self.now);
        }
        // And nothing comes after the end, whatever is called.
        self.connection.handle_input(self.now, &mut BytesMut::from(&b"\x81\x01x"[..]));
        self.connection.handle_timeout(self.now + Duration::from_secs(1_000_000));
        self.connection.handle_eof(self.now);
        assert!(self.connection.poll_event().is_none());
    }
}
