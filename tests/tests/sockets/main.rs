//! `WebSocket`: a connection as a stream and a sink, on the simulated runtime.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

mod basics;
mod cancel;
mod ends;
mod halves;
mod keepalive;
mod lent;
mod parts;

use std::net::SocketAddr;

use parley_proto::driver::{Error, WebSocket, WebSocketReceiver, WebSocketSender};
use parley_proto::session::ClientOptions;
use parley_tests::raw::RawConn;
use parley_tests::sim::{Link, Listener, Sim, SimRuntime, SimTransport};

type Socket = WebSocket<SimTransport, SimRuntime>;
type Sender = WebSocketSender<SimTransport, SimRuntime>;
type Receiver = WebSocketReceiver<SimTransport, SimRuntime>;

const TEXT: u8 = 0x81;
const BINARY: u8 = 0x82;
const CLOSE: u8 = 0x88;
const PING: u8 = 0x89;
const PONG: u8 = 0x8a;

fn addr() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

async fn dial(sim: &Sim) -> Result<Socket, Error> {
    dial_with(sim, ClientOptions::new("ws://10.0.0.1/").unwrap()).await
}

async fn dial_with(sim: &Sim, options: ClientOptions) -> Result<Socket, Error> {
    WebSocket::connect(sim.runtime(), sim.runtime(), options).await
}

/// A socket, the peer's end, and the listener.
async fn connected(sim: &Sim, link: Link) -> (Socket, RawConn, Listener) {
    connected_in_parts(sim, link, None).await
}

/// The same, where messages of more than so many bytes come in parts.
async fn connected_in_parts(sim: &Sim, link: Link, chunks_above: Option<usize>) -> (Socket, RawConn, Listener) {
    let listener = sim.listen(addr());
    listener.set_link(link);
    let mut options = ClientOptions::new("ws://10.0.0.1/").unwrap();
    options.connection.chunks_above = chunks_above;
    let task = sim.spawn({
        let sim = sim.clone();
        async move { dial_with(&sim, options).await.unwrap() }
    });
    let mut peer = listener.accept().await;
    peer.upgrade("").await;
    (task.await, peer, listener)
}
