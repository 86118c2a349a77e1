//! An echo server: the library's own server role ([`Connection::server`]) over tokio's sockets.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::Role;
use parley_proto::codec::Frame;
use parley_proto::connection::{Config, Connection, Event, Shutdown};
use parley_proto::handshake::Acceptance;
use rustls::ServerConfig;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;

/// Sends every message back, on any number of connections, until it is dropped. Chooses the first subprotocol offered.
#[derive(Debug)]
pub struct EchoServer {
    addr: SocketAddr,
    secure: bool,
    task: JoinHandle<()>,
}

impl EchoServer {
    /// On a port of the system's choice; `wss://` with a configuration, `ws://` without.
    pub async fn bind(tls: Option<Arc<ServerConfig>>) -> Self {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.expect("loopback has a free port");
        let addr = listener.local_addr().expect("a bound socket has an address");
        let secure = tls.is_some();
        let tls = tls.map(TlsAcceptor::from);
        let task = tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.expect("a connection");
                let tls = tls.clone();
                // Whatever a connection ends in, its client sees it; here nobody asks.
                tokio::spawn(async move {
                    stream.set_nodelay(true)?;
                    match tls {
                        None => serve(stream).await,
                        Some(tls) => serve(tls.accept(stream).await?).await,
                    }
                });
            }
        });
        Self { addr, secure, task }
    }

    /// The URL of `path` (which begins with a slash) here.
    #[must_use]
    pub fn url(&self, path: &str) -> String {
        let scheme = if self.secure { "wss" } else { "ws" };
        format!("{scheme}://{}{path}", self.addr)
    }
}

impl Drop for EchoServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One connection, to its end.
async fn serve(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(30);
    // A server masks nothing: its seed is of no consequence.
    let mut connection = Connection::server(Arc::new(Config::new(Role::Server)), [0; 32], deadline);
    let mut input = BytesMut::new();
    loop {
        while connection.has_room() {
            let Some(event) = connection.poll_event() else { break };
            match event {
                Event::Request(request) => {
                    let mut reply = Acceptance::new();
                    if let Some(name) = request.subprotocols().next() {
                        reply = reply.subprotocol(name);
                    }
                    connection.accept(Instant::now(), reply).map_err(io::Error::other)?;
                    connection.handle_input(Instant::now(), &mut input);
                }
                Event::Frame(frame @ (Frame::Text(_) | Frame::Binary(_))) => {
                    connection.send(Instant::now(), frame).map_err(io::Error::other)?;
                }
                _ => {}
            }
        }
        let output: Vec<u8> = connection.transmit().iter().flatten().copied().collect();
        if !output.is_empty() {
            stream.write_all(&output).await?;
            stream.flush().await?;
            connection.handle_written(Instant::now(), output.len());
            continue; // there is room for more now
        }
        match connection.poll_shutdown() {
            Some(Shutdown::Write) => stream.shutdown().await?,
            Some(Shutdown::Close | Shutdown::Abort) => return Ok(()),
            None => {}
        }
        let wait = connection.poll_timeout().map_or_else(|| Instant::now() + Duration::from_secs(60), |(at, _)| at);
        tokio::select! {
            read = stream.read_buf(&mut input) => match read? {
                0 => connection.handle_eof(Instant::now()),
                _ => connection.handle_input(Instant::now(), &mut input),
            },
            () = tokio::time::sleep_until(wait.into()) => connection.handle_timeout(Instant::now()),
        }
    }
}
