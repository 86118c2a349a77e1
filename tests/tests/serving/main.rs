//! The server role on the simulated runtime: every deadline, bound and end, with peers by hand.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

mod bounds;
mod broadcast;
mod deadlines;
mod dropped;
mod sessions;
mod shutdown;
mod upgraded;

use std::net::SocketAddr;
use std::time::Duration;

use parley_proto::driver::{self, Client};
use parley_proto::handshake::Origins;
use parley_tests::raw::{self, RawConn};
use parley_tests::sim::{Probe, Sim, SimRuntime, SimTransport};

type Server = driver::Server<SimRuntime>;
type ServerBuilder = driver::ServerBuilder<SimRuntime>;
type Incoming = driver::Incoming<SimTransport, SimRuntime>;
type Session = Client<Probe, String, SimRuntime>;

const TEXT: u8 = 0x81;
const CLOSE: u8 = 0x88;
const KEY: [u8; 4] = [1, 2, 3, 4];

const REQUEST: &[u8] = b"GET /chat HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

fn addr() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

fn any() -> ServerBuilder {
    Server::builder(Origins::any())
}

fn serve(builder: ServerBuilder) -> Server {
    builder.bind("10.0.0.1:80").unwrap()
}

/// A client by hand whose request is out.
async fn ask(sim: &Sim) -> RawConn {
    let mut peer = sim.dial(addr());
    peer.send(REQUEST).await;
    peer
}

/// The same, and what the server makes of it.
async fn asked(sim: &Sim, server: &Server) -> (RawConn, Incoming) {
    let peer = ask(sim).await;
    (peer, server.next().await.unwrap())
}

/// A client by hand that is served by a probe.
async fn served(sim: &Sim, server: &Server, probe: Probe) -> (RawConn, Session) {
    let (mut peer, incoming) = asked(sim, server).await;
    let session = incoming.accept_with(Default::default(), |own| probe.with_own(own)).await.unwrap();
    assert_eq!(status(&mut peer).await, 101);
    (peer, session)
}

/// A response's status. Its body, where one is announced, has come whole.
async fn status(peer: &mut RawConn) -> u16 {
    let head = peer.head().await;
    let len = raw::header(&head, "content-length").map_or(0, |len| len.parse().unwrap());
    peer.receive(len).await;
    head.split(' ').nth(1).unwrap().parse().unwrap()
}

fn text(payload: &str) -> Vec<u8> {
    raw::masked_frame(TEXT, KEY, payload.as_bytes())
}

fn close(code: u16) -> Vec<u8> {
    raw::masked_frame(CLOSE, KEY, &code.to_be_bytes())
}

/// The code of a Close.
async fn close_code(peer: &mut RawConn) -> u16 {
    let frame = peer.frame().await;
    assert_eq!(frame.first, CLOSE, "{frame:?}");
    u16::from_be_bytes(frame.payload[..2].try_into().unwrap())
}

/// No connection is left, and no request.
#[track_caller]
fn assert_empty(server: &Server) {
    let stats = server.stats();
    assert_eq!((stats.connections, stats.undecided), (0, 0), "{stats:?}");
}
