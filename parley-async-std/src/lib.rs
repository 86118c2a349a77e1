//! WebSocket clients and servers as callbacks, for async-std.
//!
//! A client owns one connection: it dials, upgrades, answers pings, queues what is sent meanwhile, and closes in order.
//! What it does with the frames is a [`Handler`], of which every callback has a default. A [`Server`] accepts connections for
//! handlers of the same kind, and a [`WebSocket`] is one connection for a loop of one's own.
//!
//! ```no_run
//! use parley_async_std::{Action, BoxError, Client, Frame, Handler};
//!
//! struct Echo;
//!
//! impl Handler for Echo {
//!     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
//!         Ok(Action::Push(frame))
//!     }
//! }
//!
//! # fn main() -> Result<(), BoxError> {
//! # async_std::task::block_on(async {
//! let client = Client::builder("ws://127.0.0.1:9001/")?.start(Echo).await?;
//! client.send_frame(Frame::text("hello")).await?;
//! client.stop().await;
//! let Echo = client.join().await?;
//! # Ok(())
//! # })
//! # }
//! ```
//!
//! async-std has been discontinued in favour of smol; what that means for the choice of this crate is in its README.
//! The names are those of `parley-tokio`, so that a handler moves from one to the other unchanged; and so do the snippets of the
//! [`guide`], which are written for that crate.
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
//! `start` spawns one task of async-std, `run` is the same client as a future for the user to spawn. Callbacks run inside
//! it, never two at a time; while one waits, the task goes on to read, write and keep time. Nothing else is spawned, but
//! for two things that block and go to async-std's threads for such work: the look-up of a name, and, once a client,
//! loading the trust roots. A look-up that runs cannot be stopped: where an attempt is given up, its answer is dropped
//! when it comes.
//!
//! async-std starts its threads when they are first needed: [`StartError::NoRuntime`] never comes of this crate. Sockets
//! and timers are async-io's, the reactor of async-std and smol alike, so that the future of `run` works on smol's
//! executors too, or on any other.
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
//! [`AsyncStd`] and [`Transport`] implement the two traits that the runtime-neutral driver of [`parley_proto`] asks for.
//! They are for those who write a driver of their own, or who wrap ours: every decision of the protocol is taken above
//! them. [`Transport::new`] takes any stream of futures-io; the example `smol` runs a client over smol's.

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
pub use runtime::{AsyncStd, Timer};
pub use socket::{client, connect, server, upgraded};
#[cfg(feature = "tls")]
pub use tls::Tls;
pub use transport::Transport;

use std::net::TcpStream;

use async_io::Async;
use parley_proto::driver;

/// A client on async-std that was started; see [`driver::Client`].
pub type Client<H = (), I = ()> = driver::Client<H, I, AsyncStd>;
/// A client's options on async-std; see [`driver::ClientBuilder`].
pub type ClientBuilder = driver::ClientBuilder<AsyncStd>;
/// A server on async-std; see [`driver::Server`].
pub type Server = driver::Server<AsyncStd>;
/// A server's options on async-std; see [`driver::ServerBuilder`].
pub type ServerBuilder = driver::ServerBuilder<AsyncStd>;
/// A request that a server is to answer; see [`driver::Incoming`].
pub type Incoming<S = Async<TcpStream>> = driver::Incoming<Transport<S>, AsyncStd>;
/// A stream that another HTTP server has upgraded; see [`driver::Upgraded`].
pub type Upgraded<S = Async<TcpStream>> = driver::Upgraded<Transport<S>, AsyncStd>;
/// A connection on async-std, as a stream and a sink of frames; see [`driver::WebSocket`].
pub type WebSocket<S = Async<TcpStream>> = driver::WebSocket<Transport<S>, Timer>;
/// A connection's half that sends.
pub type WebSocketSender<S = Async<TcpStream>> = driver::WebSocketSender<Transport<S>, Timer>;
/// A connection's half that receives.
pub type WebSocketReceiver<S = Async<TcpStream>> = driver::WebSocketReceiver<Transport<S>, Timer>;
