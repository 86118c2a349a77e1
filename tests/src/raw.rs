//! Peers by hand: what a test wants on the wire, byte for byte, whatever the library would say to it.
//!
//! Nothing here comes from the library under test: the accept key, the frames and their masks are made again, so that
//! a mistake in one of them shows.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! use parley_tests::raw::{self, End, RawConn, RawServer};
//!
//! let server = RawServer::bind().await;
//! let addr = server.addr();
//! let script = tokio::spawn(async move {
//!     let mut peer = server.accept().await;
//!     peer.upgrade("").await;
//!     peer.send(&raw::frame(0x81, b"hello")).await; // FIN, text
//!     assert_eq!(peer.frame().await.first, 0x88); // FIN, Close
//!     peer.shutdown().await;
//!     assert_eq!(peer.end().await, End::Fin);
//!     peer
//! });
//!
//! // Here a client would be started for `server.url("/")`; this one is by hand as well.
//! let mut client = RawConn::dial(addr).await;
//! client.send(b"GET / HTTP/1.1\r\nHost: a\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n").await;
//! let head = client.head().await;
//! assert_eq!(raw::header(&head, "sec-websocket-accept"), Some("s3pPLMBiTxaQ9kYGzzhZRbK+xOo="));
//! assert_eq!(client.frame().await.payload, b"hello");
//! client.send(&raw::masked_frame(0x88, [1, 2, 3, 4], b"\x03\xe8")).await;
//! client.shutdown().await;
//! assert!(script.await.unwrap().received().starts_with(b"GET / HTTP/1.1\r\n"));
//! # }
//! ```

use std::fmt;
use std::io::{self, ErrorKind};
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use rustls::{ClientConfig, ServerConfig};
use sha1::{Digest, Sha1};
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector, TlsStream};

use crate::sim::{SimStream, SimTransport};

/// A listener on loopback whose connections a test plays by hand. Dropping it refuses further ones.
pub struct RawServer {
    listener: TcpListener,
    tls: Option<TlsAcceptor>,
}

impl fmt::Debug for RawServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawServer").field("url", &self.url("/")).finish()
    }
}

impl RawServer {
    /// For `ws://`, on a port of the system's choice.
    pub async fn bind() -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        Self { listener, tls: None }
    }

    /// For `wss://`: see [`Ca::server_config`](crate::ca::Ca::server_config).
    pub async fn bind_tls(config: Arc<ServerConfig>) -> Self {
        Self { tls: Some(config.into()), ..Self::bind().await }
    }

    /// Where it listens.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("a bound socket has an address")
    }

    /// The URL of `path` (which begins with a slash) here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.tls.is_some() { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.addr())
    }

    /// The next connection, its TLS handshake done.
    pub async fn accept(&self) -> RawConn {
        let stream = self.accept_tcp().await;
        match &self.tls {
            None => RawConn::new(stream),
            Some(tls) => RawConn::accept_tls(stream, tls).await.expect("a TLS handshake"),
        }
    }

    /// The next connection as it is: under `wss://` the TLS handshake is the test's to spoil.
    pub async fn accept_tcp(&self) -> TcpStream {
        let (stream, _) = self.listener.accept().await.expect("a connection");
        stream.set_nodelay(true).expect("a socket option");
        stream
    }
}

/// One connection, of either side.
///
/// Dropping it sends a FIN (a reset where bytes lie unread) and, under TLS, no `close_notify`: to the other side the
/// stream was cut.
pub struct RawConn {
    stream: Box<dyn Stream>,
    received: Vec<u8>,
    /// What of `received` a method has returned already.
    taken: usize,
}

pub(crate) trait Stream: AsyncRead + AsyncWrite + Send + Unpin {
    /// What closes it is a reset.
    fn reset(&self);
}

impl Stream for TcpStream {
    fn reset(&self) {
        SockRef::from(self).set_linger(Some(Duration::ZERO)).expect("a socket option");
    }
}

impl<S: Stream> Stream for TlsStream<S> {
    fn reset(&self) {
        self.get_ref().0.reset();
    }
}

impl Stream for SimStream {
    fn reset(&self) {
        self.0.reset();
    }
}

/// How a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// In order: a FIN, under TLS after `close_notify`.
    Fin,
    /// Under TLS: a FIN alone.
    Cut,
    /// A reset.
    Reset,
}

/// A frame as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RawFrame {
    /// FIN, RSV1 to 3, opcode.
    pub first: u8,
    /// There in frames from a client.
    pub masking_key: Option<[u8; 4]>,
    /// Unmasked.
    pub payload: Vec<u8>,
}

impl fmt::Debug for RawConn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RawConn").field("received", &self.received.len()).field("taken", &self.taken).finish()
    }
}

impl RawConn {
    pub(crate) fn new(stream: impl Stream + 'static) -> Self {
        Self { stream: Box::new(stream), received: Vec::new(), taken: 0 }
    }

    /// A connection of a simulated world.
    pub(crate) fn in_world(transport: SimTransport) -> Self {
        Self::new(SimStream(transport))
    }

    /// A client's end.
    pub async fn dial(addr: SocketAddr) -> Self {
        Self::new(dial(addr).await)
    }

    /// The same under TLS.
    pub async fn dial_tls(addr: SocketAddr, config: ClientConfig) -> Self {
        Self::connect_tls(dial(addr).await, config, addr).await.expect("a TLS handshake")
    }

    /// The server's end of a TLS handshake.
    pub(crate) async fn accept_tls(stream: impl Stream + 'static, tls: &TlsAcceptor) -> io::Result<Self> {
        Ok(Self::new(TlsStream::from(tls.accept(stream).await?)))
    }

    /// The client's end, for the server at this address.
    pub(crate) async fn connect_tls(
        stream: impl Stream + 'static,
        tls: ClientConfig,
        addr: SocketAddr,
    ) -> io::Result<Self> {
        let connector = TlsConnector::from(Arc::new(tls));
        Ok(Self::new(TlsStream::from(connector.connect(addr.ip().into(), stream).await?)))
    }

    /// Everything that ever came from the other side.
    #[must_use]
    pub fn received(&self) -> &[u8] {
        &self.received
    }

    /// Writes these bytes at once.
    pub async fn send(&mut self, bytes: &[u8]) {
        self.try_send(bytes).await.expect("the peer is there");
    }

    /// The same where the peer may be gone.
    ///
    /// # Errors
    ///
    /// The stream's.
    pub async fn try_send(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.stream.write_all(bytes).await?;
        self.stream.flush().await
    }

    /// The next `len` bytes.
    pub async fn receive(&mut self, len: usize) -> Vec<u8> {
        while self.received.len() - self.taken < len {
            assert_ne!(self.fill().await.expect("the peer is there"), 0, "ended {len} bytes too early");
        }
        let from = self.taken;
        self.taken += len;
        self.received[from..self.taken].to_vec()
    }

    /// An HTTP head, up to and with its empty line.
    pub async fn head(&mut self) -> String {
        self.try_head().await.expect("the peer is there")
    }

    /// The same where the peer may go before its end.
    ///
    /// # Errors
    ///
    /// The stream's; its end is `UnexpectedEof`.
    pub async fn try_head(&mut self) -> io::Result<String> {
        let end = loop {
            if let Some(at) = self.received[self.taken..].windows(4).position(|four| four == b"\r\n\r\n") {
                break at + 4;
            }
            if self.fill().await? == 0 {
                return Err(ErrorKind::UnexpectedEof.into());
            }
        };
        Ok(String::from_utf8(self.receive(end).await).expect("a head in ASCII"))
    }

    /// Reads the request and accepts it, with these further header lines (each with its CRLF). Returns the request.
    pub async fn upgrade(&mut self, lines: &str) -> String {
        let head = self.head().await;
        self.send(switching_protocols(&head, lines).as_bytes()).await;
        head
    }

    /// Reads the request and accepts it, with these bytes in the same write.
    pub async fn upgrade_with(&mut self, behind: &[u8]) {
        let response = switching_protocols(&self.head().await, "");
        self.send(&[response.as_bytes(), behind].concat()).await;
    }

    /// The next frame, of any length, masked or not.
    pub async fn frame(&mut self) -> RawFrame {
        let [first, second] = self.array().await;
        let len = match second & 0x7f {
            126 => u16::from_be_bytes(self.array().await).into(),
            127 => u64::from_be_bytes(self.array().await),
            len => len.into(),
        };
        let masking_key = if second & 0x80 == 0 { None } else { Some(self.array().await) };
        let mut payload = self.receive(len.try_into().expect("a length of this machine")).await;
        mask(masking_key.unwrap_or_default(), &mut payload);
        RawFrame { first, masking_key, payload }
    }

    /// Reads to the end; what came is in [`received`](Self::received).
    pub async fn end(&mut self) -> End {
        loop {
            match self.fill().await {
                Ok(0) => return End::Fin,
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::UnexpectedEof => return End::Cut,
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return End::Reset,
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Ends the outgoing direction in order; reading goes on. That the peer is gone already is no fault.
    pub async fn shutdown(&mut self) {
        drop(self.stream.shutdown().await);
    }

    /// Resets the connection.
    pub fn reset(self) {
        self.stream.reset();
    }

    async fn fill(&mut self) -> io::Result<usize> {
        self.stream.read_buf(&mut self.received).await
    }

    async fn array<const N: usize>(&mut self) -> [u8; N] {
        self.receive(N).await.try_into().expect("as many as asked for")
    }
}

async fn dial(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).await.expect("the server accepts");
    stream.set_nodelay(true).expect("a socket option");
    stream
}

/// The response of section 4.2.2 to this request, with further header lines (each with its CRLF).
#[must_use]
pub fn switching_protocols(request: &str, lines: &str) -> String {
    let key = header(request, "sec-websocket-key").expect("the request has a key");
    let accept = accept_key(key);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
         Sec-WebSocket-Accept: {accept}\r\n{lines}\r\n"
    )
}

/// What `Sec-WebSocket-Accept` has to be for this `Sec-WebSocket-Key`.
#[must_use]
pub fn accept_key(key: &str) -> String {
    let digest = Sha1::new().chain_update(key).chain_update("258EAFA5-E914-47DA-95CA-C5AB0DC85B11").finalize();
    BASE64_STANDARD.encode(digest)
}

/// The value of the first line with this name in an HTTP head, without the blanks around it.
#[must_use]
pub fn header<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().skip(1).find_map(|line| {
        let (this, value) = line.split_once(':')?;
        this.eq_ignore_ascii_case(name).then(|| value.trim())
    })
}

/// A frame as a server sends it: `first` is FIN, RSV1 to 3 and opcode (`0x81` a whole text message).
#[must_use]
pub fn frame(first: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = start(first, 0, payload.len());
    frame.extend_from_slice(payload);
    frame
}

/// A frame as a client sends it.
#[must_use]
pub fn masked_frame(first: u8, masking_key: [u8; 4], payload: &[u8]) -> Vec<u8> {
    let mut frame = start(first, 0x80, payload.len());
    frame.extend_from_slice(&masking_key);
    let from = frame.len();
    frame.extend_from_slice(payload);
    mask(masking_key, &mut frame[from..]);
    frame
}

fn start(first: u8, mask_bit: u8, len: usize) -> Vec<u8> {
    match len {
        0..126 => vec![first, mask_bit | len as u8],
        126..0x1_0000 => [&[first, mask_bit | 126][..], &(len as u16).to_be_bytes()].concat(),
        _ => [&[first, mask_bit | 127][..], &(len as u64).to_be_bytes()].concat(),
    }
}

fn mask(key: [u8; 4], payload: &mut [u8]) {
    for (byte, key) in payload.iter_mut().zip(key.iter().cycle()) {
        *byte ^= key;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ca::Ca;

    async fn pair() -> (RawConn, RawConn) {
        let server = RawServer::bind().await;
        let (client, server) = tokio::join!(RawConn::dial(server.addr()), server.accept());
        (client, server)
    }

    #[test]
    fn the_key_of_section_1_3_is_accepted() {
        assert_eq!(accept_key("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }

    #[test]
    fn the_frames_of_section_5_7() {
        assert_eq!(frame(0x81, b"Hello"), [0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f]);
        assert_eq!(
            masked_frame(0x81, [0x37, 0xfa, 0x21, 0x3d], b"Hello"),
            [0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58]
        );
        assert_eq!(frame(0x82, &[0; 256])[..4], [0x82, 0x7e, 0x01, 0x00]);
        assert_eq!(frame(0x82, &[0; 65536])[..10], [0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0]);
    }

    #[tokio::test]
    async fn frames_of_every_length_form_arrive() {
        let (mut client, mut server) = pair().await;
        for len in [0, 125, 126, 65535, 65536] {
            let payload = vec![b'x'; len];
            let bytes = masked_frame(0x82, [1, 2, 3, 4], &payload);
            let ((), got) = tokio::join!(client.send(&bytes), server.frame());
            assert_eq!(got, RawFrame { first: 0x82, masking_key: Some([1, 2, 3, 4]), payload });
        }
    }

    #[tokio::test]
    async fn ends_are_told_apart() {
        let (mut client, mut server) = pair().await;
        client.send(b"rest").await;
        client.shutdown().await;
        assert_eq!(server.end().await, End::Fin);
        assert_eq!(server.received(), b"rest");

        let (client, mut server) = pair().await;
        client.reset();
        assert_eq!(server.end().await, End::Reset);
    }

    #[tokio::test]
    async fn a_tls_stream_that_is_cut_is_told_from_one_that_is_shut() {
        let ca = Ca::new("raw");
        let server = RawServer::bind_tls(ca.server_config(&[])).await;
        assert!(server.url("/x").starts_with("wss://127.0.0.1:") && server.url("/x").ends_with("/x"));
        let connector = TlsConnector::from(Arc::new(ca.client_config()));
        for (shut, end) in [(true, End::Fin), (false, End::Cut)] {
            let dial = async {
                let tcp = TcpStream::connect(server.addr()).await.unwrap();
                RawConn::new(TlsStream::from(connector.connect("localhost".try_into().unwrap(), tcp).await.unwrap()))
            };
            let (mut client, mut peer) = tokio::join!(dial, server.accept());
            peer.send(b"last").await;
            if shut {
                peer.shutdown().await;
            }
            drop(peer);
            assert_eq!(client.end().await, end);
            assert_eq!(client.received(), b"last");
        }
    }
}
