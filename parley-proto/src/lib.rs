//! WebSocket (RFC 6455) as a sans-IO core, and one async driver that runs it on any runtime.
//!
//! Most users want an adapter, `parley-tokio` or `parley-async-std`: there a [`Handler`] and a URL are a client. This
//! crate is what all adapters share, for those who write another, who test, or who bring their own loop:
//!
//! | module | what it is | what is absent from it |
//! |---|---|---|
//! | [`codec`] | frames on the wire (sections 5, 7.4, 8.1) | connections |
//! | [`handshake`] | the upgrade over HTTP/1.1 (section 4) | frames |
//! | [`connection`] | one connection of either role (sections 4 to 7) | sockets, clocks, randomness |
//! | [`session`] | one client's life: dial, queue, callbacks, end | the same |
//! | [`driver`] | the loop, generic over [`Runtime`](driver::Runtime) and [`Transport`](driver::Transport) | a runtime |
//! | `testing` (feature `testing`) | a runtime in memory with a virtual clock, and scripted peers, for tests | real time, sockets |
//!
//! The [`guide`] has pages for users of the adapters, one on [writing another](guide::adapter), and the rules by which a client
//! behaves, numbered.
//!
//! # Features
//!
//! All are off by default. Adapters have features of the same names, and switch them on here.
//!
//! | feature | |
//! |---|---|
//! | `tls` | [`driver::Tls`], [`driver::TlsClient`]: the options of TLS, and the rustls configuration made of them |
//! | `ring` | the crypto provider |
//! | `aws-lc-rs` | the crypto provider where `ring` is off |
//! | `webpki-roots` | adds `Tls::webpki_roots`: Mozilla's trust roots, compiled in |
//! | `testing` | the module `testing`: a simulated world for tests of handlers |
//! | `simd` | what a server receives is unmasked with the widest instructions that the processor has, from 4 KiB on; needs Rust 1.89 |
//! | `tracing` | spans and events: see [`telemetry`] |
//!
//! A feature adds to the API, and changes nothing of how the rest behaves.
//!
//! # A loop of one's own
//!
//! Time comes in as an argument, bytes come in and go out as slices. A blocking client over any stream:
//!
//! ```
//! use std::io::{self, Read, Write};
//! use std::sync::Arc;
//! use std::time::{Duration, Instant};
//!
//! use bytes::BytesMut;
//! use parley_proto::Role;
//! use parley_proto::codec::{CloseFrame, Frame};
//! use parley_proto::connection::{Config, Connection, Event, Shutdown};
//! use parley_proto::handshake::ClientRequest;
//!
//! /// Sends one text, prints what comes back, and closes. `seed` is 32 bytes from the operating system.
//! fn talk<S: Read + Write>(mut stream: S, request: &ClientRequest, seed: [u8; 32]) -> io::Result<()> {
//!     let deadline = Instant::now() + Duration::from_secs(10);
//!     let mut connection = Connection::client(request, Arc::new(Config::new(Role::Client)), seed, deadline);
//!     let (mut input, mut read) = (BytesMut::new(), [0; 4096]);
//!     loop {
//!         while let Some(event) = connection.poll_event() {
//!             match event {
//!                 Event::Open(_) => {
//!                     let _ = connection.send(Instant::now(), Frame::text("hello"));
//!                 }
//!                 Event::Frame(frame) => {
//!                     println!("{frame:?}");
//!                     connection.close(Instant::now(), &CloseFrame::normal());
//!                 }
//!                 Event::Closed(closed) => println!("closed with {}", closed.code()),
//!                 _ => {}
//!             }
//!         }
//!         while !connection.transmit().is_empty() {
//!             let output: Vec<u8> = connection.transmit().iter().flatten().copied().collect();
//!             stream.write_all(&output)?;
//!             connection.handle_written(Instant::now(), output.len());
//!         }
//!         if let Some(Shutdown::Close | Shutdown::Abort) = connection.poll_shutdown() {
//!             return Ok(());
//!         }
//!         // A real loop would also wake at `connection.poll_timeout()`.
//!         match stream.read(&mut read)? {
//!             0 => connection.handle_eof(Instant::now()),
//!             n => {
//!                 input.extend_from_slice(&read[..n]);
//!                 connection.handle_input(Instant::now(), &mut input);
//!             }
//!         }
//!     }
//! }
//! ```

#![cfg_attr(docsrs, feature(doc_cfg))]

pub mod codec;
pub mod connection;
pub mod driver;
mod error;
pub mod guide;
mod handler;
pub mod handshake;
mod limits;
mod pool;
pub mod session;
mod sparse;
pub mod telemetry;
#[cfg(feature = "testing")]
pub mod testing;
pub mod transport;

// Their types are in what this crate takes and gives.
#[doc(no_inline)]
pub use {bytes, http};

pub use error::{
    BoxError, ChunkError, ConnectPhase, DisconnectReason, NetworkError, ProtocolError, SendError, SharedError,
    StopReason,
};
pub use handler::{Action, Answer, Attempt, Connected, Handler, Retry};
pub use limits::{LimitError, Limits};

/// Which side of a connection an endpoint is (RFC 6455, section 1.2): clients mask what they send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// Dials, sends masked frames, receives unmasked ones.
    Client,
    /// Accepts, sends unmasked frames, receives masked ones.
    Server,
}
