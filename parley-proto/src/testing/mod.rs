//! The test kit (feature `testing`): handlers, servers and `WebSocket`s without a network, in virtual time.
//!
//! A [`Sim`] is a world on one thread: it runs the very driver that runs in production, over links in memory, under a
//! clock that jumps. Nothing sleeps and nothing is left to chance, so that a test of an hour takes milliseconds and does
//! the same things every time. Who waits for what can never come, or spins, panics at once, with a message that says so.
//!
//! ```
//! use std::time::Duration;
//!
//! use parley_proto::codec::{CloseFrame, Frame};
//! use parley_proto::driver::Handle;
//! use parley_proto::session::TimerId;
//! use parley_proto::testing::Sim;
//! use parley_proto::{Action, BoxError, Connected, Handler};
//!
//! const EVERY: Duration = Duration::from_secs(30);
//!
//! /// Sends a beat every 30 s, and dials anew when the last one was not acknowledged.
//! struct Heartbeat {
//!     own: Handle<Beat>,
//!     timer: Option<TimerId>,
//!     acked: bool,
//! }
//!
//! struct Beat;
//!
//! impl Heartbeat {
//!     fn new(own: Handle<Beat>) -> Self {
//!         Self { own, timer: None, acked: true }
//!     }
//!
//!     fn schedule(&mut self) -> Result<(), BoxError> {
//!         if let Some(last) = self.timer.replace(self.own.send_info_after(EVERY, Beat)?) {
//!             self.own.cancel(last); // that of the connection before
//!         }
//!         Ok(())
//!     }
//! }
//!
//! impl Handler<Beat> for Heartbeat {
//!     async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
//!         self.acked = true;
//!         self.schedule()?;
//!         Ok(Action::Continue)
//!     }
//!
//!     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
//!         self.acked |= frame == Frame::text("ack");
//!         Ok(Action::Continue)
//!     }
//!
//!     async fn handle_info(&mut self, _: Beat) -> Result<Action, BoxError> {
//!         if !self.acked {
//!             return Ok(Action::Reconnect(CloseFrame::normal()));
//!         }
//!         self.acked = false;
//!         self.schedule()?;
//!         Ok(Frame::text("beat").into())
//!     }
//! }
//!
//! # fn main() {
//! Sim::new().run(async |sim| {
//!     let listener = sim.listen("feed.example:80");
//!     let builder = sim.client("ws://feed.example/v1").unwrap();
//!     let client = builder.start_with(Heartbeat::new).await.unwrap();
//!     let mut peer = listener.accept().await;
//!     assert_eq!(peer.request().path(), "/v1");
//!
//!     // An hour of beats, each of them acknowledged.
//!     for _ in 0..120 {
//!         assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
//!         peer.send(Frame::text("ack"));
//!     }
//!     assert_eq!(sim.elapsed(), Duration::from_secs(3600));
//!
//!     // One is not: at the next the client closes, and comes back.
//!     assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
//!     assert_eq!(peer.next_frame().await, None);
//!     assert_eq!(peer.closed().await.code(), 1000);
//!     let mut peer = listener.accept().await;
//!     assert_eq!(sim.elapsed(), Duration::from_secs(3660));
//!     assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
//!
//!     client.stop().await;
//!     client.join().await.unwrap();
//! });
//! # }
//! ```
//!
//! # What is simulated, and what is not
//!
//! Time, tasks, names, connections. [`Sim::client`] is the builder of any adapter, with the same methods and defaults, and
//! a handler that was written for `parley-tokio` or `parley-async-std` runs unchanged, as long as its callbacks wait
//! for nothing but this library: `send_info_after` in place of the runtime's own timers. A callback that awaits tokio's
//! `sleep`, or a socket, finds no runtime here. Nor does the thread wait for other threads: what a callback awaits has
//! to be done by a task of this world ([`Sim::spawn`]).
//!
//! There is no TLS: with `wss://` the bytes stay plain, and the handshake comes to what [`Sim::on_tls`] was told.
//!
//! A panic in a callback ends its client, here as elsewhere. Assert in the test, or look at what `join` returns.
//!
//! # Faults
//!
//! | what happens | how |
//! |---|---|
//! | the name is not found, or late | [`Sim::on_resolve`] |
//! | the connection is refused | nobody [listens](Sim::listen), or the [`Listener`] was dropped |
//! | packets are swallowed | [`Sim::on_dial`] with [`Fate::Never`] |
//! | the certificate is bad | [`Sim::on_tls`] |
//! | the upgrade is refused | [`Listener::reject`] |
//! | the server is no WebSocket server | [`Listener::accept_transport`], and bytes by hand |
//! | it sends garbage | [`Peer::send_bytes`] |
//! | it dies | [`Peer::hang_up`], [`Peer::reset`] |
//! | it hangs | [`Peer::stall`] |
//! | the link is slow, or cuts everything into pieces | [`Listener::set_link`] with a [`Link`] |
//! | writes or reads fail | [`Wire::fail_client_writes`], [`Wire::fail_client_reads`] by [`Peer::wire`] |
//! | the computer slept | [`Sim::jump`] |
//!
//! # Servers and sockets
//!
//! A server's handler is tested by a client in the same world, and a `WebSocket` likewise:
//!
//! ```
//! use parley_proto::codec::Frame;
//! use parley_proto::handshake::Origins;
//! use parley_proto::testing::Sim;
//! use parley_proto::{Action, BoxError, Handler};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
//!         Ok(Action::Push(frame))
//!     }
//! }
//!
//! Sim::new().run(async |sim| {
//!     let server = sim.server(Origins::same_host()).listen(sim.listen("chat.example:80")).unwrap();
//!     let serving = sim.spawn(async move { server.next().await.unwrap().accept(Echo).await });
//!
//!     let mut socket = sim.connect("ws://chat.example/").await.unwrap();
//!     socket.send(Frame::text("hello")).await.unwrap();
//!     assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
//!     socket.close().await.unwrap();
//!     serving.await.unwrap().join().await.unwrap();
//! });
//! ```

// executor   tasks in the order in which they were woken, one thread; time passes only when all of them wait
// net        names, addresses and TLS with the fate that the test gave them; listeners
// pipe       two in-memory streams back to back: bounded, slow if need be, with FIN, reset and errors
// platform   the runtime as the driver and the builders of clients and servers want it
// peer       the server role of `Connection` in a task, which carries out what a test orders

mod executor;
mod net;
mod peer;
mod pipe;
mod platform;

pub use executor::{Sim, SimClock, Task};
pub use net::{Fate, Listener};
pub use peer::Peer;
pub use pipe::{Link, SimTransport, Wire};
pub use platform::{SimRuntime, SimServerTls};

use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::driver;

/// A client in a [`Sim`]; see [`driver::Client`].
pub type Client<H = (), I = ()> = driver::Client<H, I, SimRuntime>;
/// A client's options in a [`Sim`]; see [`driver::ClientBuilder`].
pub type ClientBuilder = driver::ClientBuilder<SimRuntime>;
/// A server in a [`Sim`]; see [`driver::Server`].
pub type Server = driver::Server<SimRuntime>;
/// A server's options in a [`Sim`]; see [`driver::ServerBuilder`].
pub type ServerBuilder = driver::ServerBuilder<SimRuntime>;
/// A request that a server is to answer; see [`driver::Incoming`].
pub type Incoming = driver::Incoming<SimTransport, SimRuntime>;
/// A connection in a [`Sim`], as a stream and a sink of frames; see [`driver::WebSocket`].
pub type WebSocket = driver::WebSocket<SimTransport, SimClock>;

/// No lock is held while foreign code runs, so that a panic leaves nothing half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
