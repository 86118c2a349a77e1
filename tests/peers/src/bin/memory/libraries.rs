//! Each library as its users see it: a connection whose handshake is done, over a [`Wire`].
//!
//! Each has its fastest settings that a user can choose: buffers of 64 KiB where they can be set, no compression, no keepalive
//! where that costs; and UTF-8 is checked, by the one who calls where the library does not.

use std::pin::pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use futures_util::{SinkExt, StreamExt};
use parley_proto::Role as ParleyRole;
use parley_proto::codec::{Frame, FrameRef, OpCode, Utf8Bytes};
use parley_proto::connection::{Config, Connection, Event};
use parley_proto::handshake::Negotiated;
use parley_proto::http::{HeaderMap, StatusCode};

use super::shapes::{Kind, Message, Role};
use super::wire::Wire;

/// Buffers that can be set are as large as the largest read.
const BUFFER: usize = 64 * 1024;
/// Above all messages here.
const LIMIT: usize = 16 * 1024 * 1024;

/// A library with a connection in one role.
pub trait Library: Sized + 'static {
    const NAME: &'static str;
    /// A message, ready to be sent as often as one likes.
    type Outgoing: 'static;

    fn open(role: Role, wire: Wire) -> Self;
    /// The next message, whole and checked.
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8]));
    fn outgoing(message: &Message) -> Self::Outgoing;
    /// Queues a message, where the library can; else it writes it.
    async fn feed(&mut self, message: &Self::Outgoing);
    async fn flush(&mut self);
    /// Sends a message at once.
    async fn send(&mut self, message: &Self::Outgoing) {
        self.feed(message).await;
        self.flush().await;
    }
}

/// Runs a future that waits for nothing but itself.
pub fn block_on<F: Future>(future: F) -> F::Output {
    /// Libraries yield after so much work; more often than this none does.
    const POLLS: u32 = 100_000_000;
    let mut future = pin!(future);
    let mut cx = Context::from_waker(Waker::noop());
    for _ in 0..POLLS {
        if let Poll::Ready(output) = future.as_mut().poll(&mut cx) {
            return output;
        }
    }
    panic!("it waits for what never comes");
}

/// A message for those who want a `str`.
pub enum Plain {
    Text(String),
    Binary(Bytes),
}

impl Plain {
    fn new(message: &Message) -> Self {
        match message.kind {
            Kind::Text => Self::Text(utf8(&message.payload).to_owned()),
            Kind::Binary => Self::Binary(message.payload.clone()),
        }
    }
}

fn utf8(text: &[u8]) -> &str {
    simdutf8::basic::from_utf8(text).expect("the peer sends UTF-8")
}

// ---- Parley

fn parley_role(role: Role) -> ParleyRole {
    match role {
        Role::Server => ParleyRole::Server,
        Role::Client => ParleyRole::Client,
    }
}

/// Without keepalive, as the others: where nothing comes for 20 s, a ping would be counted with what is sent.
fn parley_config(role: ParleyRole) -> Config {
    let mut config = Config::new(role);
    config.keepalive = None;
    config
}

fn agreed() -> Negotiated {
    Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new())
}

fn parley_frame(message: &Message) -> Frame {
    match message.kind {
        Kind::Text => Frame::Text(Utf8Bytes::try_from(message.payload.clone()).expect("text is UTF-8")),
        Kind::Binary => Frame::Binary(message.payload.clone()),
    }
}

#[inline]
fn parley_seen(frame: FrameRef<'_>, seen: &mut impl FnMut(Kind, &[u8])) {
    match frame.opcode() {
        OpCode::Text => seen(Kind::Text, frame.payload()),
        OpCode::Binary => seen(Kind::Binary, frame.payload()),
        other => panic!("{other:?}"),
    }
}

/// It is lent what it receives, or gets frames that it may keep.
pub struct Parley<const LENT: bool>(parley_tokio::WebSocket<Wire>);

impl<const LENT: bool> Library for Parley<LENT> {
    const NAME: &'static str = if LENT { "parley" } else { "parley-owned" };
    type Outgoing = Frame;

    fn open(role: Role, wire: Wire) -> Self {
        let role = parley_role(role);
        Self(parley_tokio::upgraded(wire, role, agreed(), parley_config(role)).expect("there is a runtime"))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        if LENT {
            return parley_seen(self.0.next_ref().await.expect("a frame").expect("no error"), seen);
        }
        let frame = self.0.next().await.expect("a frame").expect("no error");
        parley_seen(FrameRef::from(&frame), seen);
    }

    fn outgoing(message: &Message) -> Frame {
        parley_frame(message)
    }

    #[inline]
    async fn feed(&mut self, message: &Frame) {
        self.0.feed_ref(FrameRef::from(message)).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &Frame) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

pub struct ParleyAsyncStd(parley_async_std::WebSocket<Wire>);

impl Library for ParleyAsyncStd {
    const NAME: &'static str = "parley-async-std";
    type Outgoing = Frame;

    fn open(role: Role, wire: Wire) -> Self {
        let role = parley_role(role);
        Self(parley_async_std::upgraded(wire, role, agreed(), parley_config(role)).expect("there is a runtime"))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        parley_seen(self.0.next_ref().await.expect("a frame").expect("no error"), seen);
    }

    fn outgoing(message: &Message) -> Frame {
        parley_frame(message)
    }

    #[inline]
    async fn feed(&mut self, message: &Frame) {
        self.0.feed_ref(FrameRef::from(message)).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &Frame) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

/// `Connection` alone, with a window as its documentation has it.
pub struct ParleyProto {
    connection: Connection,
    now: Instant,
    window: BytesMut,
    wire: Wire,
}

impl Library for ParleyProto {
    const NAME: &'static str = "parley-proto";
    type Outgoing = Frame;

    fn open(role: Role, wire: Wire) -> Self {
        let (role, now) = (parley_role(role), Instant::now());
        let mut connection = Connection::upgraded(now, role, agreed(), Arc::new(parley_config(role)), [7; 32]);
        assert!(matches!(connection.poll_event(), Some(Event::Open(_))));
        Self { connection, now, window: BytesMut::with_capacity(BUFFER), wire }
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        loop {
            match self.connection.poll_event() {
                Some(Event::Frame(frame)) => return parley_seen(FrameRef::from(&frame), seen),
                Some(event) => panic!("{event:?}"),
                None => {
                    // A window, or what the frame lacks; no more than as much again as there is.
                    let held = self.window.len();
                    let lacking = self.connection.read_hint().min(held.max(BUFFER));
                    self.window.reserve(lacking.max(BUFFER.saturating_sub(held)).max(1));
                    let room = self.window.capacity() - held;
                    self.window.extend_from_slice(self.wire.give(room));
                    self.connection.handle_input(self.now, &mut self.window);
                }
            }
        }
    }

    fn outgoing(message: &Message) -> Frame {
        parley_frame(message)
    }

    #[inline]
    async fn feed(&mut self, message: &Frame) {
        if !self.connection.has_room() {
            self.flush().await;
        }
        self.connection.send(self.now, message.clone()).expect("there is room");
    }

    #[inline]
    async fn flush(&mut self) {
        while !self.connection.transmit().is_empty() {
            let written = self.wire.accept(self.connection.transmit().iter());
            self.connection.handle_written(self.now, written);
        }
    }
}

// ---- tungstenite and what stands on it

fn tungstenite_config() -> tungstenite::protocol::WebSocketConfig {
    tungstenite::protocol::WebSocketConfig::default().read_buffer_size(BUFFER).write_buffer_size(BUFFER)
}

fn tungstenite_role(role: Role) -> tungstenite::protocol::Role {
    match role {
        Role::Server => tungstenite::protocol::Role::Server,
        Role::Client => tungstenite::protocol::Role::Client,
    }
}

fn tungstenite_message(message: &Message) -> tungstenite::Message {
    match message.kind {
        Kind::Text => tungstenite::Message::Text(message.payload.clone().try_into().expect("text is UTF-8")),
        Kind::Binary => tungstenite::Message::Binary(message.payload.clone()),
    }
}

fn tungstenite_seen(message: &tungstenite::Message, seen: &mut impl FnMut(Kind, &[u8])) {
    match message {
        tungstenite::Message::Text(text) => seen(Kind::Text, text.as_bytes()),
        tungstenite::Message::Binary(payload) => seen(Kind::Binary, payload),
        other => panic!("{other:?}"),
    }
}

pub struct Tungstenite(tungstenite::WebSocket<Wire>);

impl Library for Tungstenite {
    const NAME: &'static str = "tungstenite";
    type Outgoing = tungstenite::Message;

    fn open(role: Role, wire: Wire) -> Self {
        let config = Some(tungstenite_config());
        Self(tungstenite::WebSocket::from_raw_socket(wire, tungstenite_role(role), config))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        tungstenite_seen(&self.0.read().expect("no error"), seen);
    }

    fn outgoing(message: &Message) -> tungstenite::Message {
        tungstenite_message(message)
    }

    #[inline]
    async fn feed(&mut self, message: &tungstenite::Message) {
        self.0.write(message.clone()).expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().expect("it is open");
    }
}

pub struct TokioTungstenite(tokio_tungstenite::WebSocketStream<Wire>);

impl Library for TokioTungstenite {
    const NAME: &'static str = "tokio-tungstenite";
    type Outgoing = tungstenite::Message;

    fn open(role: Role, wire: Wire) -> Self {
        let config = Some(tungstenite_config());
        Self(block_on(tokio_tungstenite::WebSocketStream::from_raw_socket(wire, tungstenite_role(role), config)))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        tungstenite_seen(&self.0.next().await.expect("a message").expect("no error"), seen);
    }

    fn outgoing(message: &Message) -> tungstenite::Message {
        tungstenite_message(message)
    }

    #[inline]
    async fn feed(&mut self, message: &tungstenite::Message) {
        self.0.feed(message.clone()).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &tungstenite::Message) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

pub struct AsyncTungstenite(async_tungstenite::WebSocketStream<Wire>);

impl Library for AsyncTungstenite {
    const NAME: &'static str = "async-tungstenite";
    type Outgoing = tungstenite::Message;

    fn open(role: Role, wire: Wire) -> Self {
        let config = Some(tungstenite_config());
        Self(block_on(async_tungstenite::WebSocketStream::from_raw_socket(wire, tungstenite_role(role), config)))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        tungstenite_seen(&self.0.next().await.expect("a message").expect("no error"), seen);
    }

    fn outgoing(message: &Message) -> tungstenite::Message {
        tungstenite_message(message)
    }

    #[inline]
    async fn feed(&mut self, message: &tungstenite::Message) {
        self.0.feed(message.clone()).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        SinkExt::flush(&mut self.0).await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &tungstenite::Message) {
        SinkExt::send(&mut self.0, message.clone()).await.expect("it is open");
    }
}

// ---- the others

/// It has no output buffer: every frame is a write.
pub struct FastWebSockets {
    socket: fastwebsockets::FragmentCollector<Wire>,
    /// Where a client's payload is copied to, to be masked in place.
    scratch: Vec<u8>,
    masks: bool,
}

impl Library for FastWebSockets {
    const NAME: &'static str = "fastwebsockets";
    type Outgoing = Message;

    fn open(role: Role, wire: Wire) -> Self {
        let its_role = match role {
            Role::Server => fastwebsockets::Role::Server,
            Role::Client => fastwebsockets::Role::Client,
        };
        let socket = fastwebsockets::WebSocket::after_handshake(wire, its_role);
        let socket = fastwebsockets::FragmentCollector::new(socket);
        Self { socket, scratch: Vec::new(), masks: role == Role::Client }
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        let frame = self.socket.read_frame().await.expect("no error");
        match frame.opcode {
            fastwebsockets::OpCode::Text => seen(Kind::Text, &frame.payload),
            fastwebsockets::OpCode::Binary => seen(Kind::Binary, &frame.payload),
            _ => panic!("neither text nor binary"),
        }
    }

    fn outgoing(message: &Message) -> Message {
        message.clone()
    }

    #[inline]
    async fn feed(&mut self, message: &Message) {
        let opcode = match message.kind {
            Kind::Text => fastwebsockets::OpCode::Text,
            Kind::Binary => fastwebsockets::OpCode::Binary,
        };
        let payload = if self.masks {
            self.scratch.clear();
            self.scratch.extend_from_slice(&message.payload);
            fastwebsockets::Payload::BorrowedMut(&mut self.scratch)
        } else {
            fastwebsockets::Payload::Borrowed(&message.payload)
        };
        let frame = fastwebsockets::Frame::new(true, opcode, None, payload);
        self.socket.write_frame(frame).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {}
}

pub struct TokioWebSockets(tokio_websockets::WebSocketStream<Wire>);

impl Library for TokioWebSockets {
    const NAME: &'static str = "tokio-websockets";
    type Outgoing = tokio_websockets::Message;

    fn open(role: Role, wire: Wire) -> Self {
        let config = tokio_websockets::Config::default().flush_threshold(BUFFER);
        Self(match role {
            Role::Server => tokio_websockets::ServerBuilder::new().config(config).serve(wire),
            Role::Client => tokio_websockets::ClientBuilder::new().config(config).take_over(wire),
        })
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        let message = self.0.next().await.expect("a message").expect("no error");
        let kind = if message.is_text() { Kind::Text } else { Kind::Binary };
        assert!(message.is_text() || message.is_binary());
        seen(kind, message.as_payload());
    }

    fn outgoing(message: &Message) -> tokio_websockets::Message {
        match message.kind {
            Kind::Text => tokio_websockets::Message::text(message.payload.clone()),
            Kind::Binary => tokio_websockets::Message::binary(message.payload.clone()),
        }
    }

    #[inline]
    async fn feed(&mut self, message: &tokio_websockets::Message) {
        self.0.feed(message.clone()).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &tokio_websockets::Message) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

pub struct Yawc(yawc::WebSocket<Wire>);

impl Library for Yawc {
    const NAME: &'static str = "yawc";
    type Outgoing = yawc::Frame;

    fn open(role: Role, wire: Wire) -> Self {
        let role = match role {
            Role::Server => yawc::Role::Server,
            Role::Client => yawc::Role::Client,
        };
        let options = yawc::Options::default()
            .without_compression()
            .with_utf8()
            .with_limits(LIMIT, LIMIT)
            .with_read_buffer_capacity(BUFFER)
            .with_write_buffer_capacity(BUFFER)
            .with_backpressure_boundary(BUFFER);
        Self(yawc::WebSocket::from_stream(wire, role, options).expect("the options fit"))
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        let frame = self.0.next_frame().await.expect("no error");
        match frame.opcode() {
            yawc::OpCode::Text => seen(Kind::Text, frame.payload()),
            yawc::OpCode::Binary => seen(Kind::Binary, frame.payload()),
            other => panic!("{other:?}"),
        }
    }

    fn outgoing(message: &Message) -> yawc::Frame {
        match message.kind {
            Kind::Text => yawc::Frame::text(message.payload.clone()),
            Kind::Binary => yawc::Frame::binary(message.payload.clone()),
        }
    }

    #[inline]
    async fn feed(&mut self, message: &yawc::Frame) {
        self.0.feed(message.clone()).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &yawc::Frame) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

pub struct Sockudo(sockudo_ws::WebSocketStream<Wire>);

impl Library for Sockudo {
    const NAME: &'static str = "sockudo-ws";
    type Outgoing = sockudo_ws::Message;

    fn open(role: Role, wire: Wire) -> Self {
        let config = sockudo_ws::Config::builder()
            .max_payload_length(LIMIT)
            .write_buffer_size(BUFFER)
            .auto_ping(false)
            .idle_timeout(0)
            .build();
        Self(match role {
            Role::Server => sockudo_ws::WebSocketStream::server(wire, config),
            Role::Client => sockudo_ws::WebSocketStream::client(wire, config),
        })
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        match self.0.next().await.expect("a message").expect("no error") {
            sockudo_ws::Message::Text(text) => seen(Kind::Text, &text),
            sockudo_ws::Message::Binary(payload) => seen(Kind::Binary, &payload),
            other => panic!("{other:?}"),
        }
    }

    fn outgoing(message: &Message) -> sockudo_ws::Message {
        match message.kind {
            Kind::Text => sockudo_ws::Message::Text(message.payload.clone()),
            Kind::Binary => sockudo_ws::Message::Binary(message.payload.clone()),
        }
    }

    #[inline]
    async fn feed(&mut self, message: &sockudo_ws::Message) {
        self.0.feed(message.clone()).await.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.0.flush().await.expect("it is open");
    }

    #[inline]
    async fn send(&mut self, message: &sockudo_ws::Message) {
        self.0.send(message.clone()).await.expect("it is open");
    }
}

type Buffered = futures_util::io::BufReader<futures_util::io::BufWriter<Wire>>;

/// It reads and writes in small pieces, and wants buffers around the stream.
pub struct Soketto {
    sender: soketto::Sender<Buffered>,
    receiver: soketto::Receiver<Buffered>,
    message: Vec<u8>,
}

impl Library for Soketto {
    const NAME: &'static str = "soketto";
    type Outgoing = Plain;

    fn open(role: Role, wire: Wire) -> Self {
        let mode = match role {
            Role::Server => soketto::connection::Mode::Server,
            Role::Client => soketto::connection::Mode::Client,
        };
        let wire = futures_util::io::BufWriter::with_capacity(BUFFER, wire);
        let wire = futures_util::io::BufReader::with_capacity(BUFFER, wire);
        let (sender, receiver) = soketto::connection::Builder::new(wire, mode).finish();
        Self { sender, receiver, message: Vec::new() }
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        self.message.clear();
        let data = self.receiver.receive_data(&mut self.message).await.expect("no error");
        if data.is_text() {
            seen(Kind::Text, utf8(&self.message).as_bytes());
        } else {
            seen(Kind::Binary, &self.message);
        }
    }

    fn outgoing(message: &Message) -> Plain {
        Plain::new(message)
    }

    #[inline]
    async fn feed(&mut self, message: &Plain) {
        let sent = match message {
            Plain::Text(text) => self.sender.send_text(text).await,
            Plain::Binary(payload) => self.sender.send_binary(payload).await,
        };
        sent.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {
        self.sender.flush().await.expect("it is open");
    }
}

/// It reads in small pieces, and wants a buffer around the stream; every frame is a write.
pub struct WebSocketCrate {
    socket: web_socket::WebSocket<tokio::io::BufReader<Wire>>,
    message: Vec<u8>,
}

impl Library for WebSocketCrate {
    const NAME: &'static str = "web-socket";
    type Outgoing = Plain;

    fn open(role: Role, wire: Wire) -> Self {
        let wire = tokio::io::BufReader::with_capacity(BUFFER, wire);
        let socket = match role {
            Role::Server => web_socket::WebSocket::server(wire),
            Role::Client => web_socket::WebSocket::client(wire),
        };
        Self { socket, message: Vec::new() }
    }

    #[inline]
    async fn receive(&mut self, seen: &mut impl FnMut(Kind, &[u8])) {
        use web_socket::{DataType, Event, MessageType, Stream};
        let mut whole = |kind, payload: &[u8]| match kind {
            MessageType::Text => seen(Kind::Text, utf8(payload).as_bytes()),
            MessageType::Binary => seen(Kind::Binary, payload),
        };
        loop {
            match self.socket.recv().await.expect("no error") {
                Event::Data { ty: DataType::Complete(kind), data } => return whole(kind, &data),
                Event::Data { ty: DataType::Stream(part), data } => {
                    self.message.extend_from_slice(&data);
                    if let Stream::End(kind) = part {
                        whole(kind, &self.message);
                        return self.message.clear();
                    }
                }
                other => panic!("{other:?}"),
            }
        }
    }

    fn outgoing(message: &Message) -> Plain {
        Plain::new(message)
    }

    #[inline]
    async fn feed(&mut self, message: &Plain) {
        let sent = match message {
            Plain::Text(text) => self.socket.send(text.as_str()).await,
            Plain::Binary(payload) => self.socket.send(&payload[..]).await,
        };
        sent.expect("it is open");
    }

    #[inline]
    async fn flush(&mut self) {}
}
