//! The data path in memory, for `cargo xtask bench`: what one message costs to receive and to send, per layer and role.
//!
//! ```text
//! data_path list                 the rows, one a line
//! data_path run ROW MESSAGES     exactly so many messages, for callgrind to count
//! data_path time [--quick]       nanoseconds a message, medians of interleaved rounds
//! ```
//!
//! Receiving starts with the copy of a read (at most 64 KiB) into the window, and ends when the frame is dropped. Sending ends when
//! the bytes, handed out for one write of 64 messages, are reported as written.

use std::hint::black_box;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use http::{HeaderMap, StatusCode};
use parley_proto::codec::{Decoder, Encoder, Frame};
use parley_proto::connection::{Config, Connection, Event, State};
use parley_proto::handshake::Negotiated;
use parley_proto::{Limits, Role};

/// Bytes that one read gives at most.
const READ: usize = 64 * 1024;
/// A read is copied in pieces of this size. From 2 KiB on glibc copies by one `rep movsb`, which callgrind counts once a byte.
const COPY: usize = 1024;
/// Messages that leave in one write.
const BATCH: u64 = 64;
/// Messages on the wire before it repeats: lengths are drawn anew for each.
const DISTINCT: usize = 4_096;

/// A row: a message shape, through one layer, in one role.
struct Row {
    name: &'static str,
    prepare: fn() -> Box<dyn FnMut(u64)>,
}

/// One layer below the other.
const ROWS: &[Row] = &[
    Row { name: "codec/server-receive-text-8-125", prepare: || receive::<Codec>(Role::Server, TEXT_8_125) },
    Row { name: "codec/client-receive-json-100-200", prepare: || receive::<Codec>(Role::Client, JSON_100_200) },
    Row { name: "codec/server-receive-text-1024", prepare: || receive::<Codec>(Role::Server, TEXT_1024) },
    Row { name: "codec/server-receive-text-4096-by-8", prepare: || receive::<Codec>(Role::Server, TEXT_4096_BY_8) },
    Row { name: "codec/client-send-128-by-64", prepare: || send::<Codec>(Role::Client) },
    Row { name: "codec/server-send-128-by-64", prepare: || send::<Codec>(Role::Server) },
    Row { name: "connection/server-receive-text-8-125", prepare: || receive::<Whole>(Role::Server, TEXT_8_125) },
    Row { name: "connection/client-receive-json-100-200", prepare: || receive::<Whole>(Role::Client, JSON_100_200) },
    Row { name: "connection/client-send-128-by-64", prepare: || send::<Whole>(Role::Client) },
    Row { name: "connection/server-send-128-by-64", prepare: || send::<Whole>(Role::Server) },
];

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["list"] => ROWS.iter().for_each(|row| println!("{}", row.name)),
        ["run", name, messages] => {
            let row = ROWS.iter().find(|row| row.name == *name);
            let (Some(row), Ok(messages)) = (row, messages.parse()) else {
                eprintln!("no such row, or no number of messages");
                return ExitCode::FAILURE;
            };
            (row.prepare)()(messages);
        }
        // Without words, or with cargo's own `--bench`, it is a bench like any other.
        [] | ["time" | "--bench"] => time(31, Duration::from_millis(30)),
        ["time", "--quick"] => time(7, Duration::from_millis(10)),
        _ => {
            eprintln!("usage: data_path list | run ROW MESSAGES | time [--quick]");
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}

/// Runs the rows in turn, `rounds` times, so that a disturbance hits them all alike, and prints the medians.
fn time(rounds: usize, per_round: Duration) {
    let mut running: Vec<_> = ROWS.iter().map(|row| (row.name, (row.prepare)(), 1_024_u64, Vec::new())).collect();
    for (_, run, messages, _) in &mut running {
        // As many messages as fill a round, found by doubling.
        loop {
            let start = Instant::now();
            run(*messages);
            if start.elapsed() >= per_round {
                break;
            }
            *messages *= 2;
        }
    }
    for _ in 0..rounds {
        for (_, run, messages, figures) in &mut running {
            let start = Instant::now();
            run(*messages);
            figures.push(start.elapsed().as_secs_f64() * 1e9 / *messages as f64);
        }
    }
    println!("nanoseconds a message, medians of {rounds} rounds");
    for (name, _, _, mut figures) in running {
        figures.sort_by(f64::total_cmp);
        println!("  {name:42} {:>8.1}", figures[figures.len() / 2]);
    }
}

/// What a peer sends: messages with lengths from `shortest` to `longest`, each in so many fragments.
#[derive(Clone, Copy)]
struct Shape {
    alphabet: &'static [u8],
    shortest: usize,
    longest: usize,
    fragments: usize,
}

const WORDS: &[u8] = b"the quick brown fox jumps over the lazy dog; ";
const JSON: &[u8] = br#"{"e":"trade","s":"BTCUSDT","p":"64123.45","q":"0.00210","T":1732492800000,"m":true},"#;

const TEXT_8_125: Shape = Shape { alphabet: WORDS, shortest: 8, longest: 125, fragments: 1 };
const JSON_100_200: Shape = Shape { alphabet: JSON, shortest: 100, longest: 200, fragments: 1 };
const TEXT_1024: Shape = Shape { alphabet: WORDS, shortest: 1024, longest: 1024, fragments: 1 };
const TEXT_4096_BY_8: Shape = Shape { alphabet: WORDS, shortest: 4096, longest: 4096, fragments: 8 };

/// SplitMix64: lengths and masking keys that are the same in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }

    fn between(&mut self, low: usize, high: usize) -> usize {
        low + (self.next() % (high - low + 1) as u64) as usize
    }
}

impl Shape {
    /// [`DISTINCT`] messages as the peer of `role` puts them on the wire, and the end of each there.
    fn wire(self, role: Role) -> (Vec<u8>, Vec<usize>) {
        let mut random = Random(1);
        let mut wire = Vec::new();
        let mut ends = Vec::with_capacity(DISTINCT);
        for _ in 0..DISTINCT {
            let length = random.between(self.shortest, self.longest);
            let payload: Vec<u8> = self.alphabet.iter().copied().cycle().take(length).collect();
            for (number, fragment) in payload.chunks(length.div_ceil(self.fragments)).enumerate() {
                let fin = if number + 1 == self.fragments { 0x80 } else { 0 };
                let opcode = if number == 0 { 0x1 } else { 0x0 };
                let key = (role == Role::Server).then(|| (random.next() as u32).to_be_bytes());
                frame_onto(&mut wire, fin | opcode, key, fragment);
            }
            ends.push(wire.len());
        }
        (wire, ends)
    }
}

/// One frame of at most 64 KiB, written without the library.
fn frame_onto(wire: &mut Vec<u8>, first: u8, masking_key: Option<[u8; 4]>, payload: &[u8]) {
    let mask_bit = if masking_key.is_some() { 0x80 } else { 0 };
    wire.push(first);
    if payload.len() < 126 {
        wire.push(mask_bit | payload.len() as u8);
    } else {
        wire.push(mask_bit | 126);
        wire.extend_from_slice(&(payload.len() as u16).to_be_bytes());
    }
    let key = masking_key.unwrap_or_default();
    wire.extend(masking_key.iter().flatten());
    wire.extend(payload.iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key));
}

fn limits(role: Role) -> Limits {
    match role {
        Role::Client => Limits::client(),
        Role::Server => Limits::server(),
    }
}

/// The wire of a shape, cut into reads that go on over its end, until a number of messages has been in them.
struct Reads {
    wire: Vec<u8>,
    ends: Vec<usize>,
    /// Where the next read starts, and the first message that has not been read to its end.
    at: usize,
    next: usize,
}

impl Reads {
    fn new(role: Role, shape: Shape) -> Self {
        let (wire, ends) = shape.wire(role);
        Self { wire, ends, at: 0, next: 0 }
    }

    /// The bytes of the next read, which ends with message number `left` from here if it comes to it.
    fn read(&mut self, room: usize, left: u64) -> &[u8] {
        let most = self.wire.len().min(self.at + room);
        let last = usize::try_from(left).map_or(self.ends.len(), |left| self.ends.len().min(self.next + left));
        let end = most.min(self.ends[last - 1]);
        let start = std::mem::replace(&mut self.at, end);
        while self.ends.get(self.next).is_some_and(|message_end| *message_end <= end) {
            self.next += 1;
        }
        if end == self.wire.len() {
            (self.at, self.next) = (0, 0);
        }
        &self.wire[start..end]
    }
}

/// One layer of the stack, as a bench sees it.
trait Layer: 'static {
    fn new(role: Role) -> Self;
    /// Takes what was read.
    fn input(&mut self, window: &mut BytesMut);
    /// Whether there was another frame.
    fn next(&mut self) -> bool;
    fn send(&mut self, frame: Frame);
    /// Writes all there is.
    fn write(&mut self);
    /// Panics if the connection has failed.
    fn check(&self);
}

struct Codec(Decoder, Encoder);

impl Layer for Codec {
    fn new(role: Role) -> Self {
        Self(Decoder::new(role, &limits(role)), Encoder::new(role, [7; 32]))
    }

    #[inline]
    fn input(&mut self, window: &mut BytesMut) {
        self.0.decode(window, &mut |ping: &[u8]| {
            black_box(ping);
        });
    }

    #[inline]
    fn next(&mut self) -> bool {
        self.0.poll().map(|frame| black_box(&frame).len()).is_some()
    }

    #[inline]
    fn send(&mut self, frame: Frame) {
        self.1.frame(frame);
    }

    #[inline]
    fn write(&mut self) {
        let written = self.1.transmit().iter().map(|slice| black_box(slice).len()).sum();
        self.1.advance(written);
    }

    fn check(&self) {
        assert!(self.0.end().is_none(), "{:?}", self.0.end());
    }
}

struct Whole(Connection, Instant);

impl Layer for Whole {
    fn new(role: Role) -> Self {
        let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new());
        let mut connection = Connection::upgraded(Instant::now(), role, agreed, Arc::new(Config::new(role)), [7; 32]);
        assert!(matches!(connection.poll_event(), Some(Event::Open(_))));
        Self(connection, Instant::now())
    }

    #[inline]
    fn input(&mut self, window: &mut BytesMut) {
        self.0.handle_input(self.1, window);
    }

    #[inline]
    fn next(&mut self) -> bool {
        self.0.poll_event().map(|event| black_box(&event) as *const Event).is_some()
    }

    #[inline]
    fn send(&mut self, frame: Frame) {
        self.0.send(self.1, frame).expect("a batch fits");
    }

    #[inline]
    fn write(&mut self) {
        let written = self.0.transmit().iter().map(|slice| black_box(slice).len()).sum();
        self.0.handle_written(self.1, written);
    }

    fn check(&self) {
        assert_eq!(self.0.state(), State::Open);
    }
}

fn receive<L: Layer>(role: Role, shape: Shape) -> Box<dyn FnMut(u64)> {
    let mut layer = L::new(role);
    let mut reads = Reads::new(role, shape);
    let mut window = BytesMut::with_capacity(READ);
    Box::new(move |messages| {
        let mut left = messages;
        while left > 0 {
            // Free again, since the frames of the last read are gone.
            let room = READ - window.len();
            window.reserve(room);
            for piece in reads.read(room, left).chunks(COPY) {
                window.extend_from_slice(piece);
            }
            layer.input(&mut window);
            while layer.next() {
                left -= 1;
            }
        }
        layer.check();
    })
}

fn send<L: Layer>(role: Role) -> Box<dyn FnMut(u64)> {
    let mut layer = L::new(role);
    let payload: Bytes = JSON.iter().copied().cycle().take(128).collect::<Vec<_>>().into();
    Box::new(move |messages| {
        for number in 1..=messages {
            layer.send(Frame::Binary(payload.clone()));
            if number % BATCH == 0 || number == messages {
                layer.write();
            }
        }
    })
}
