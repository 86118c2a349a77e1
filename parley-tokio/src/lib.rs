//! WebSocket clients and servers as callbacks, for tokio.
//!
//! A client owns one connection: it dials, upgrades, answers pings, queues what is sent meanwhile, and closes in order.
//! What it does with the frames is a [`Handler`], of which every callback has a default. A [`Server`] accepts connections for
//! handlers of the same kind, and a [`WebSocket`] is one connection for a loop of one's own.
//!
//! ```no_run
//! use parley_tokio::{Action, BoxError, Client, Frame, Handler};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
//!         Ok(Action::Push(frame))
//!     }
//! }
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), BoxError> {
//! let client = Client::builder("ws://127.0.0.1:9001/")?.start(Echo).await?;
//! client.send_frame(Frame::text("hello")).await?;
//! client.stop().await;
//! let Echo = client.join().await?;
//! # Ok(())
//! # }
//! ```
//!
//! # Where to read on
//!
//! The [`guide`] has a page on each of: [getting started](guide::getting_started), [handlers](guide::handlers),
//! [reconnecting](guide::reconnecting), [backpressure](guide::backpressure), [closing](guide::closing), [TLS](guide::tls),
//! [servers](guide::servers), [testing](guide::testing), [telemetry](guide::telemetry), [limits and memory](guide::limits), and on coming from
//! [tungstenite](guide::from_tungstenite) or [Elixir's Parley](guide::from_elixir). Behind the pages stand the rules by which a
//! client behaves, numbered.
//!
//! # What runs where
//!
//! `start` spawns one task, `run` is the same client as a future for the user to spawn. Callbacks run inside it, never
//! two at a time; while one waits, the task goes on to read, write and keep time. Nothing else is spawned, but for two
//! things that block and go to tokio's threads for such work: the look-up of a name, and, once a client, loading the
//! trust roots. A look-up that runs cannot be stopped: where an attempt is given up, its answer is dropped when it comes.
//!
//! The tokio runtime needs its I/O and time drivers: `enable_all`, as `#[tokio::main]` has it. Time is tokio's, so that
//! a test may pause and advance it.
//!
//! # `wss://`
//!
//! TLS is rustls's. By default the operating system's trust roots decide, for the host in the URL; `Tls` adds roots,
//! a client certificate, another name, another crypto provider, or takes a whole configuration (`rustls` is
//! re-exported for that, in the version that fits).
//!
//! A TLS stream that ends without `close_notify` before the closing handshake is an error, never a clean end: somebody
//! may have cut it (RFC 8446, section 6.1).
//!
//! # Features
//!
//! | feature | default | |
//! |---|---|---|
//! | `tls` | yes | `wss://`, by rustls; without it such a URL is an error of the builder |
//! | `ring` | yes | the crypto provider |
//! | `aws-lc-rs` | | the crypto provider where `ring` is off |
//! | `webpki-roots` | | adds `Tls::webpki_roots`: Mozilla's trust roots, compiled in |
//! | `simd` | | what a server receives is unmasked with the widest instructions that the processor has, from 4 KiB on; needs Rust 1.89 |
//! | `tracing` | | spans and events: see [`parley_proto::telemetry`] |
//! | `testing` | | the module `testing`: handlers tested without a network, in virtual time |
//!
//! With `tls` but neither provider's feature, `Tls` has to be given a provider; with both features it is `ring`. rustls's
//! process-wide default is neither read nor set.
//!
//! # Below the client
//!
//! [`Tokio`] and [`Transport`] implement the two traits that the runtime-neutral driver of [`parley_proto`] asks for. They
//! are for those who write a driver of their own, or who wrap ours: every decision of the protocol is taken above them.

#![cfg_attr(docsrs, feature(doc_cfg))]

mod runtime;
mod socket;
#[cfg(feature = "tls")]
mod tls;
mod transport;

#[cfg(feature = "tls")]
pub use parley_proto::driver::rustls;

#[doc(inline)]
pub use parley_proto::guide;

pub use parley_proto::Role;
pub use parley_proto::codec::{
    Chunk, CloseCode, CloseFrame, CloseFrameError, Frame, FrameError, FrameRef, OpCode, PreparedFrame, Utf8Bytes,
};
pub use parley_proto::connection::{Closed, Config, Keepalive, Rtt};
pub use parley_proto::driver::{
    AcceptError, Broadcast, BroadcastStats, Delivered, Error, Handle, InfoError, JoinError, LookupError, MessageWriter,
    Part, Reply, ServerStats, Slow, StartError, Stats, Subscription, TcpOptions, TlsError, TransportFacts, lookup,
};
pub use parley_proto::handshake::{
    Acceptance, ApiMisuse, ClientRequest, HandshakeError, HeaderError, Negotiated, OriginError, Origins, Rejected,
    Rejection, Request, SubprotocolError, UrlError,
};
pub use parley_proto::session::{BuildError, ClientState, Jitter, Reconnect, TimerId};
#[cfg(feature = "testing")]
pub use parley_proto::testing;
pub use parley_proto::{
    Action, Answer, Attempt, BoxError, ChunkError, ConnectPhase, Connected, DisconnectReason, Handler, LimitError,
    Limits, NetworkError, ProtocolError, Retry, SendError, SharedError, StopReason,
};
#[doc(no_inline)]
pub use parley_proto::{bytes, http};
pub use runtime::{Timer, Tokio};
pub use socket::{client, connect, server, upgraded};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use transport::Transport;

use parley_proto::driver;
use tokio::net::TcpStream;

/// A client on tokio that was started; see [`driver::Client`].
pub type Client<H = (), I = ()> = driver::Client<H, I, Tokio>;
/// A client's options on tokio; see [`driver::ClientBuilder`].
pub type ClientBuilder = driver::ClientBuilder<Tokio>;
/// A server on tokio; see [`driver::Server`].
pub type Server = driver::Server<Tokio>;
/// A server's options on tokio; see [`driver::ServerBuilder`].
pub type ServerBuilder = driver::ServerBuilder<Tokio>;
/// A request that a server is to answer; see [`driver::Incoming`].
pub type Incoming<S = TcpStream> = driver::Incoming<Transport<S>, Tokio>;
/// A stream that another HTTP server has upgraded; see [`driver::Upgraded`].
pub type Upgraded<S = TcpStream> = driver::Upgraded<Transport<S>, Tokio>;
/// A connection on tokio, as a stream and a sink of frames; see [`driver::WebSocket`].
pub type WebSocket<S = TcpStream> = driver::WebSocket<Transport<S>, Timer>;
/// A connection's half that sends.
pub type WebSocketSender<S = TcpStream> = driver::WebSocketSender<Transport<S>, Timer>;
/// A connection's half that receives.
pub type WebSocketReceiver<S = TcpStream> = driver::WebSocketReceiver<Transport<S>, Timer>;
