//! A client without a task of async-std's: on smol's executor, over smol's TCP streams.
//!
//! ```text
//! cargo run -p parley-async-std --example smol -- ws://127.0.0.1:9001/
//! ```
//!
//! `ClientBuilder::run` alone works on smol as it is. What this shows is how a client runs over a stream of your own: a
//! [`Runtime`] that wraps [`AsyncStd`], takes time, randomness and TLS from it, and opens connections by itself. A
//! stream through a proxy, a tunnel or a Unix socket takes the same form.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::task::{Context, Poll};
use std::time::Instant;

use parley_async_std::{Action, AsyncStd, BoxError, Connected, Frame, Handler, Transport};
use parley_proto::driver::{Clock, Runtime, Setup, TcpOptions, TlsError, TlsTarget, TransportFacts};
use parley_proto::session::ClientOptions;
use smol::net::TcpStream;

fn main() -> Result<(), BoxError> {
    let url = std::env::args().nth(1).ok_or("usage: smol URL")?;
    // `Client::builder` offers the same options by its methods.
    let setup = Setup::new(ClientOptions::new(&url)?);
    smol::block_on(setup.run(Smol(AsyncStd::new()?), Greeter))?;
    Ok(())
}

/// Greets, prints what comes back, and ends.
struct Greeter;

impl Handler for Greeter {
    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        println!("connected to {:?}", connected.transport.peer_addr);
        Ok(Frame::text("hello").into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        println!("{frame:?}");
        Ok(Action::Stop)
    }
}

struct Smol(AsyncStd);

impl Clock for Smol {
    fn now(&self) -> Instant {
        self.0.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.0.poll_sleep(cx, until)
    }
}

impl Runtime for Smol {
    type Transport = Transport<TcpStream>;

    fn seed(&self) -> [u8; 32] {
        self.0.seed()
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        let host = host.to_owned();
        async move { smol::net::resolve((host.as_str(), port)).await }
    }

    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<Self::Transport>> + Send + 'static {
        let nodelay = options.nodelay;
        async move {
            let stream = TcpStream::connect(addr).await?;
            stream.set_nodelay(nodelay)?;
            Ok(Transport::new(stream).with_facts(addresses))
        }
    }

    fn start_tls(
        &self,
        transport: Self::Transport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<Self::Transport, TlsError>> + Send + 'static {
        self.0.start_tls_over(transport, target)
    }
}

fn addresses(stream: &TcpStream) -> TransportFacts {
    TransportFacts::new(stream.local_addr().ok(), stream.peer_addr().ok())
}
