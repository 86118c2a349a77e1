//! What a connection holds, counted by the allocator: hazards 1, 2, 9, 15, 16 and 17, and the promise that nothing is
//! allocated by an announced length.
//!
//! The formula, as `Limits` states it: what a connection holds is at most
//!
//! ```text
//!   message under way   twice its bytes that have come (a buffer at most doubles), at most twice `message`
//! + read ahead          `read_ahead`, or one message that is larger
//! + output              64 KiB encoded ahead, and one frame; pongs up to 256 KiB for one that never writes; 128 KiB of
//!                       masked output behind a client's large frame
//! + send queue          `send_queue`, or one frame that is larger (of handles)
//! + a constant          some KiB
//! ```
//!
//! Sampled between the steps, in one thread at a time; what a reallocation holds for its moment is not in it.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::alloc::System;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use parley_proto::codec::{Frame, FrameRef};
use parley_proto::connection::{Config, Connection, ENCODE_AHEAD, Event};
use parley_proto::handshake::{ClientRequest, Negotiated, Origins};
use parley_proto::session::{ClientOptions, ClientState};
use parley_proto::{Answer, Handler, Limits, Role};
use parley_tests::raw::{frame, masked_frame};
use parley_tests::sim::{Link, Sim};
use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

const KIB: usize = 1024;
/// All of them take an optimised build, as CI makes one.
const MILLION: u32 = if cfg!(debug_assertions) { 50_000 } else { 1_000_000 };
/// All that is not a buffer: the connection itself, its decoder, small queues; and the pools that a thread keeps.
const CONSTANT: usize = 16 * KIB;

/// One test at a time: the allocator counts for all threads.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What is held beyond what was held when this was made.
struct Held(Region<'static, System>);

impl Held {
    fn from_now() -> Self {
        Self(Region::new(ALLOCATOR))
    }

    fn bytes(&self) -> usize {
        let change = self.0.change();
        change.bytes_allocated.saturating_sub(change.bytes_deallocated)
    }

    #[track_caller]
    fn at_most(&self, bytes: usize, what: &str) {
        let held = self.bytes();
        assert!(held <= bytes, "{what}: {held} bytes are held, at most {bytes} may be");
    }
}

fn open(role: Role, limits: Limits) -> Connection {
    let mut config = Config::new(role);
    config.limits = limits;
    let agreed = Negotiated::new(http::StatusCode::SWITCHING_PROTOCOLS, http::HeaderMap::new());
    Connection::upgraded(Instant::now(), role, agreed, Arc::new(config), [7; 32])
}

/// Feeds one piece, and lets the application have what came of it. True: the connection has ended, or begun to.
fn feed(connection: &mut Connection, now: Instant, input: &mut BytesMut, piece: &[u8]) -> Vec<Event> {
    input.extend_from_slice(piece);
    connection.handle_input(now, input);
    std::iter::from_fn(|| connection.poll_event()).collect()
}

fn is_closing(connection: &Connection) -> bool {
    !matches!(connection.state(), parley_proto::connection::State::Open)
}

/// The header of a masked frame whose payload is announced as `len` bytes.
fn announce(first: u8, len: u64) -> Vec<u8> {
    let mut header = vec![first, 0xff];
    header.extend(len.to_be_bytes());
    header.extend([0; 4]);
    header
}

#[test]
fn hazard_9_nothing_is_allocated_by_an_announced_length() {
    let _alone = alone();
    let now = Instant::now();
    for (announced, within) in [
        (16 << 20, true),
        ((16 << 20) + 1, false),
        (1 << 40, false),
        (i64::MAX as u64, false),
        (1 << 63, false),
        (u64::MAX, false),
    ] {
        let mut server = open(Role::Server, Limits::server().with_message(16 << 20).unwrap());
        while server.poll_event().is_some() {}
        let held = Held::from_now();
        let mut input = BytesMut::new();
        assert!(feed(&mut server, now, &mut input, &announce(0x82, announced)).is_empty() || !within);
        held.at_most(CONSTANT, "the header alone");
        assert_eq!(is_closing(&server), !within, "{announced}");
        if within {
            // It grows with what comes, at most doubling.
            let mut came = 0;
            for _ in 0..1000 {
                came += 1000;
                assert!(feed(&mut server, now, &mut input, &[0; 1000]).is_empty());
                held.at_most(2 * came + CONSTANT, "a message under way");
            }
        }
    }
}

/// Without limits too.
#[test]
fn without_a_limit_nothing_is_allocated_by_an_announced_length_either() {
    let _alone = alone();
    let now = Instant::now();
    let mut server = open(Role::Server, Limits::server().unlimited_message().unlimited_read_ahead());
    while server.poll_event().is_some() {}
    let held = Held::from_now();
    let mut input = BytesMut::new();
    for piece in [announce(0x02, 1 << 40), vec![0; 1000]] {
        assert!(feed(&mut server, now, &mut input, &piece).is_empty());
        held.at_most(2 * piece.len() + CONSTANT, "a message under way");
    }
    assert!(!is_closing(&server));
}

/// However it is cut, what is held is the message's bytes, not the fragments.
#[test]
fn hazard_16_a_million_fragments_of_a_byte_cost_their_bytes() {
    let _alone = alone();
    let now = Instant::now();
    for payload in [&b"x"[..], b""] {
        let limits = Limits::server().with_fragments(2_000_000).unwrap().with_empty_fragments(2_000_000).unwrap();
        let mut server = open(Role::Server, limits.with_message(2 << 20).unwrap());
        while server.poll_event().is_some() {}
        let held = Held::from_now();
        let mut input = BytesMut::new();
        assert!(feed(&mut server, now, &mut input, &masked_frame(0x02, [1; 4], payload)).is_empty());
        let fragment = masked_frame(0x00, [2; 4], payload);
        for fragments in 1..MILLION as usize {
            assert!(feed(&mut server, now, &mut input, &fragment).is_empty());
            if fragments % 10_000 == 0 {
                held.at_most(2 * payload.len() * fragments + CONSTANT, "a message under way");
            }
        }
        let events = feed(&mut server, now, &mut input, &masked_frame(0x80, [3; 4], payload));
        let [Event::Frame(message)] = &events[..] else { panic!("{events:?}") };
        assert_eq!(message.len(), (MILLION as usize + 1) * payload.len());
    }
    // By default there are not so many.
    for (payload, most) in [(&b"x"[..], 131_072), (b"", 1_024)] {
        let mut server = open(Role::Server, Limits::server());
        let mut input = BytesMut::new();
        feed(&mut server, now, &mut input, &masked_frame(0x02, [1; 4], b"x"));
        let fragment = masked_frame(0x00, [2; 4], payload);
        let mut fragments = 1;
        while !is_closing(&server) {
            feed(&mut server, now, &mut input, &fragment);
            fragments += 1;
        }
        assert_eq!(fragments, if payload.is_empty() { most + 2 } else { most + 1 }, "the first that is too many");
    }
}

/// While nothing can be written one pong waits, the newest.
#[test]
fn hazard_15_a_million_pings_while_output_is_blocked_leave_memory_flat() {
    let _alone = alone();
    let now = Instant::now();
    let mut server = open(Role::Server, Limits::server());
    while server.poll_event().is_some() {}
    server.send(now, Frame::text("blocks")).unwrap();
    server.handle_written(now, 1);
    let held = Held::from_now();
    let mut input = BytesMut::new();
    for ping in 0..MILLION {
        let events = feed(&mut server, now, &mut input, &masked_frame(0x89, [1; 4], &ping.to_be_bytes()));
        assert_eq!(events.len(), 1);
        if ping % 10_000 == 0 {
            held.at_most(CONSTANT, "pings");
        }
    }
    assert_eq!(server.queued(), 7, "what was there before");
    server.handle_written(now, 7);
    let output: Vec<u8> = server.transmit().iter().flatten().copied().collect();
    assert_eq!(output, frame(0x8a, &(MILLION - 1).to_be_bytes()));
}

/// An application that never writes at all is bounded too.
#[test]
fn hazard_15_a_million_pings_to_one_that_never_writes_are_bounded() {
    let _alone = alone();
    let now = Instant::now();
    let mut server = open(Role::Server, Limits::server());
    while server.poll_event().is_some() {}
    let held = Held::from_now();
    let mut input = BytesMut::new();
    for _ in 0..MILLION {
        feed(&mut server, now, &mut input, &masked_frame(0x89, [1; 4], &[9; 125]));
        held.at_most(2 * 4 * ENCODE_AHEAD + CONSTANT, "pongs");
    }
}

/// Pongs that nobody asked for are delivered, and that is all.
#[test]
fn hazard_15_a_million_pongs_leave_memory_flat_and_are_not_answered() {
    let _alone = alone();
    let now = Instant::now();
    let mut server = open(Role::Server, Limits::server());
    while server.poll_event().is_some() {}
    let held = Held::from_now();
    let mut input = BytesMut::new();
    for pong in 0_u32..1_000_000 {
        let events = feed(&mut server, now, &mut input, &masked_frame(0x8a, [1; 4], &pong.to_be_bytes()));
        assert_eq!(events.len(), 1);
        if pong % 10_000 == 0 {
            held.at_most(CONSTANT, "pongs");
        }
    }
    assert_eq!(server.queued(), 0);
}

#[test]
fn hazard_17_a_peer_that_never_reads_is_sent_no_more_than_the_bound() {
    let _alone = alone();
    let now = Instant::now();
    let mut client = open(Role::Client, Limits::client());
    while client.poll_event().is_some() {}
    let held = Held::from_now();
    let mut accepted = 0;
    for _ in 0..100_000 {
        accepted += usize::from(client.send(now, Frame::binary(vec![7; 1000])).is_ok());
    }
    assert_eq!(accepted, ENCODE_AHEAD.div_ceil(1008));
    held.at_most(2 * ENCODE_AHEAD + CONSTANT, "output");
    // One large frame goes in when there is room, whatever its size, and then nothing.
    let mut server = open(Role::Server, Limits::server());
    let large = Bytes::from(vec![7; 1 << 20]);
    let accepted = (0..100).filter(|_| server.send(now, Frame::Binary(large.clone())).is_ok()).count();
    assert_eq!(accepted, 1);
}

/// An application that does not take its frames: reading pauses, and what is held is what was read.
#[test]
fn hazard_17_an_application_that_takes_nothing_stops_the_reading() {
    let _alone = alone();
    let now = Instant::now();
    for size in [0, 1, 100, 5_000, 100_000] {
        let mut server = open(Role::Server, Limits::server());
        while server.poll_event().is_some() {}
        let held = Held::from_now();
        let mut input = BytesMut::with_capacity(64 * KIB);
        let bytes = masked_frame(0x82, [1; 4], &vec![7; size]);
        let mut read = 0;
        while server.wants_input() {
            input.extend_from_slice(&bytes);
            server.handle_input(now, &mut input);
            read += bytes.len();
            assert!(read < 16 << 20, "it never pauses");
        }
        // Each frame has its bookkeeping counted to the bound; the buffers of large ones may have grown to twice their size.
        held.at_most(2 * (256 * KIB + size) + 3 * CONSTANT, &format!("frames of {size} bytes that wait"));
        let waiting = std::iter::from_fn(|| server.poll_event()).count();
        assert_eq!(waiting, read / bytes.len());
    }
}

/// What waits at a time may be a thousand times what usually does.
#[test]
fn a_burst_through_a_handle_leaves_little_behind() {
    struct Silent;
    impl Handler for Silent {}

    let _alone = alone();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let server = parley_tokio::Server::builder(Origins::any()).bind("127.0.0.1:0").unwrap();
        let url = format!("ws://{}/", server.local_addr().unwrap());
        let (tell, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut socket = server.next().await.unwrap().into_websocket().await.unwrap();
            let mut count = 0;
            while let Some(Ok(frame)) = socket.next().await {
                match frame {
                    Frame::Text(_) => tell.send(std::mem::take(&mut count)).unwrap(),
                    _ => count += 1,
                }
            }
        });
        let client = parley_tokio::Client::builder(&url).unwrap().start::<_, ()>(Silent).await.unwrap();
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut burst = async |frames, payload: Bytes| {
            for _ in 0..frames {
                client.feed_frame(Frame::Binary(payload.clone())).await.unwrap(); // does not let the client's task have a turn
            }
            client.send_frame(Frame::text("that was it")).await.unwrap();
            assert_eq!(arrived.recv().await, Some(frames));
        };
        burst(100, Bytes::from(vec![0; 5_000])).await; // the thread's pools are filled
        let held = Held::from_now();
        // What the connection encodes ahead, and more.
        for frames in [8_000, 30_000] {
            burst(frames, Bytes::new()).await;
            held.at_most(4 * CONSTANT, &format!("{frames} frames that have left"));
        }
        client.stop().await;
        client.join().await.unwrap();
    });
}

#[test]
fn hazard_2_ten_thousand_slow_handshakes_hold_what_they_have_sent() {
    let _alone = alone();
    const HANDSHAKES: usize = 10_000;
    let now = Instant::now();
    let config = Arc::new(Config::new(Role::Server));
    let head = b"GET /chat HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nX-Padding: aaaaaaaaaaaaaaaaaaaaaa";
    let held = Held::from_now();
    let mut slow: Vec<_> = (0..HANDSHAKES)
        .map(|_| (Connection::server(config.clone(), [7; 32], now + Duration::from_secs(5)), BytesMut::new()))
        .collect();
    for byte in head.chunks(1) {
        for (connection, input) in &mut slow {
            assert!(feed(connection, now, input, byte).is_empty());
        }
    }
    let each = held.bytes() / HANDSHAKES;
    assert!(each <= size_of::<(Connection, BytesMut)>() + 2 * head.len() + KIB, "{each} bytes each");
    for (connection, _) in &mut slow {
        connection.handle_timeout(now + Duration::from_secs(5));
        assert!(matches!(connection.poll_event(), Some(Event::Closed(_))));
    }
}

/// A head that never ends is refused at its bound, in both roles, and holds no more than that.
#[test]
fn hazard_1_a_head_without_end_is_refused_at_its_bound() {
    let _alone = alone();
    let now = Instant::now();
    let deadline = now + Duration::from_secs(10);
    let request = ClientRequest::new("ws://localhost/").unwrap();
    for role in [Role::Client, Role::Server] {
        let held = Held::from_now();
        let config = Arc::new(Config::new(role));
        let (mut connection, first) = match role {
            Role::Client => {
                (Connection::client(&request, config, [7; 32], deadline), "HTTP/1.1 101 Switching Protocols")
            }
            Role::Server => (Connection::server(config, [7; 32], deadline), "GET / HTTP/1.1"),
        };
        let mut input = BytesMut::new();
        assert!(feed(&mut connection, now, &mut input, format!("{first}\r\n").as_bytes()).is_empty());
        let mut sent = first.len() + 2;
        while connection.wants_input() && matches!(connection.state(), parley_proto::connection::State::Connecting) {
            feed(&mut connection, now, &mut input, b"X-A: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa"); // one line
            sent += 60;
            held.at_most(2 * 16 * KIB + CONSTANT, "a head");
            assert!(sent < 64 * KIB, "no bound");
        }
        assert!(sent <= 16 * KIB + 60);
    }
}

/// What one connection at rest holds, its task, its transport and its timer included, after a message each way.
mod at_rest {
    use std::io::{Read, Write};
    use std::net::{SocketAddr, TcpListener, TcpStream};
    use std::thread;

    use parley_proto::handshake::Origins;
    use parley_tests::peers::within_deadline;
    use parley_tests::raw::switching_protocols;
    use parley_tokio::{Action, BoxError, Client, Handler, Server, WebSocket};
    use tokio::sync::oneshot;

    use super::*;

    /// So many connections are there before it counts: the pools and the runtime's lists have their size then.
    const BEFORE: usize = 64;
    const COUNTED: usize = 128;
    /// Vectors of the runtime and of the census that double meanwhile.
    const SHARE: usize = 128;

    struct Echo;

    impl Handler for Echo {
        async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
            Ok(Action::Push(frame))
        }
    }

    async fn echo(mut socket: WebSocket) {
        while let Some(Ok(frame)) = socket.next().await {
            if socket.send(frame).await.is_err() {
                return;
            }
        }
    }

    fn head(stream: &mut TcpStream) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            let mut byte = [0];
            stream.read_exact(&mut byte).unwrap();
            head.push(byte[0]);
        }
        String::from_utf8(head).unwrap()
    }

    fn exchange(stream: &mut TcpStream, frame: &[u8], answer: usize) {
        stream.write_all(frame).unwrap();
        stream.read_exact(&mut vec![0; answer]).unwrap();
    }

    fn dial(server: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(server).unwrap();
        let request = format!(
            "GET /chat HTTP/1.1\r\nHost: {server}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
             User-Agent: a browser's takes about a hundred bytes, which are kept for whoever asks for the headers\r\n\
             Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).unwrap();
        assert!(head(&mut stream).starts_with("HTTP/1.1 101 "));
        exchange(&mut stream, &masked_frame(0x81, [7; 4], &[b'x'; 32]), 2 + 32);
        stream
    }

    fn accept(listener: &TcpListener) -> TcpStream {
        let (mut stream, _) = listener.accept().unwrap();
        let response = switching_protocols(&head(&mut stream), "");
        stream.write_all(response.as_bytes()).unwrap();
        exchange(&mut stream, &frame(0x81, &[b'x'; 32]), 6 + 32);
        stream
    }

    /// Runs the peers on a thread of their own, and waits for them. The task of the last echo has gone back to sleep then:
    /// this one runs on the same thread.
    async fn peers(make: impl Fn() -> TcpStream + Send + 'static, count: usize) -> Vec<TcpStream> {
        let (done, peers) = oneshot::channel();
        let thread = thread::spawn(move || done.send((0..count).map(|_| make()).collect()));
        let peers = peers.await.unwrap();
        assert!(thread.join().unwrap().is_ok());
        peers
    }

    fn run(test: impl Future<Output = ()> + Send + 'static) {
        let _alone = alone();
        within_deadline(|| tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(test));
    }

    /// What a server does with its connections.
    #[derive(Clone, Copy)]
    enum Way {
        Echoes,
        Handles,
        /// It sends something, and is never polled again.
        Writes,
    }

    fn server(way: Way, most: usize) {
        run(async move {
            let server = Arc::new(Server::bind("127.0.0.1:0", Origins::any()).unwrap());
            let addr = server.local_addr().unwrap();
            let accepting = server.clone();
            tokio::spawn(async move {
                while let Some(incoming) = accepting.next().await {
                    tokio::spawn(async move {
                        match way {
                            Way::Handles => drop(incoming.accept::<_, ()>(Echo).await.unwrap()),
                            Way::Echoes => echo(incoming.into_websocket().await.unwrap()).await,
                            Way::Writes => {
                                let mut socket = incoming.into_websocket().await.unwrap();
                                socket.send(Frame::binary(vec![b'x'; 32])).await.unwrap();
                                std::future::pending::<()>().await;
                            }
                        }
                    });
                }
            });
            let before = peers(move || dial(addr), BEFORE).await;
            let held = Held::from_now();
            let counted = peers(move || dial(addr), COUNTED).await;
            held.at_most(COUNTED * (most + SHARE), "connections at rest");
            assert_eq!(server.stats().connections, before.len() + counted.len());
        });
    }

    fn client(callbacks: bool, most: usize) {
        run(async move {
            let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
            let url = format!("ws://{}/chat", listener.local_addr().unwrap());
            let mut clients = Vec::with_capacity(BEFORE + COUNTED);
            let mut kept = Vec::with_capacity(BEFORE + COUNTED);
            let mut held = None;
            for count in [BEFORE, COUNTED] {
                held = Some(Held::from_now());
                for _ in 0..count {
                    let builder = Client::<(), ()>::builder(&url).unwrap();
                    match callbacks {
                        true => clients.push(builder.start::<_, ()>(Echo).await.unwrap()),
                        false => drop(tokio::spawn(async { echo(builder.connect().await.unwrap()).await })),
                    }
                }
                let listener = listener.clone();
                kept.extend(peers(move || accept(&listener), count).await);
            }
            held.unwrap().at_most(COUNTED * (most + SHARE), "connections at rest");
        });
    }

    #[test]
    fn a_websocket_of_a_server_holds_two_and_a_half_kib() {
        server(Way::Echoes, 5 * KIB / 2);
    }

    #[test]
    fn a_websocket_that_is_only_written_holds_no_more() {
        server(Way::Writes, 5 * KIB / 2);
    }

    #[test]
    fn a_handler_of_a_server_holds_two_and_a_half_kib() {
        server(Way::Handles, 5 * KIB / 2);
    }

    #[test]
    fn a_websocket_of_a_client_holds_two_and_a_half_kib() {
        client(false, 5 * KIB / 2);
    }

    #[test]
    fn a_handler_of_a_client_holds_two_and_a_half_kib() {
        client(true, 5 * KIB / 2);
    }
}

/// Answers each message with its first bytes, out of what is lent.
struct Head(usize);

impl Handler for Head {
    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        let payload = frame.payload();
        Answer::Push(FrameRef::binary(&payload[..self.0.min(payload.len())]))
    }
}

/// Small answers of one read each would keep a window each, those to big messages all of these.
#[test]
fn hazard_17_answers_that_wait_keep_little_more_than_they_are() {
    let _alone = alone();
    for (message, behind, answer, messages) in [(500, 7_490, 500, 600), (1024 * KIB, 0, 8 * KIB, 100)] {
        Sim::new().run(async |sim| {
            let listener = sim.listen("10.0.0.1:80".parse().unwrap());
            listener.set_link(Link::default().capacity(message + behind + 20));
            let options = ClientOptions::new("ws://10.0.0.1/").unwrap();
            let bound = options.limits().send_queue() + ENCODE_AHEAD + options.limits().read_ahead() + 2 * message;
            let client = sim.start::<_, ()>(options, Head(answer)).await.unwrap();
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            client.wait_for(ClientState::Connected).await.unwrap();
            let wire = [frame(0x82, &vec![b'x'; message]), frame(0x8a, &[]), frame(0x82, &vec![b'y'; behind])].concat();
            let held = Held::from_now();
            for _ in 0..messages {
                peer.send(&wire).await; // it never reads
            }
            held.at_most(2 * bound, &format!("{messages} answers of {answer} bytes"));
            drop(client);
        });
    }
}
