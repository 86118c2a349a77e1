//! A small echo server: the server role of [`Connection`] over a tokio socket, by hand. It serves one client.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::Role;
use parley_proto::codec::Frame;
use parley_proto::connection::{Config, Connection, Event, Shutdown};
use parley_proto::handshake::Acceptance;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;

/// The running server. Dropped, it dies at once, and its client's connection with it.
pub(crate) struct Server {
    addr: SocketAddr,
    task: JoinHandle<io::Result<()>>,
}

impl Server {
    /// Listens on an address (port 0: any) and serves the first client.
    pub(crate) async fn bind(addr: SocketAddr) -> io::Result<Self> {
        let listener = TcpListener::bind(addr).await?;
        let addr = listener.local_addr()?;
        let task = tokio::spawn(async move {
            let (stream, _) = listener.accept().await?;
            serve(stream).await
        });
        Ok(Self { addr, task })
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Waits until its client has gone.
    pub(crate) async fn finished(mut self) -> io::Result<()> {
        (&mut self.task).await?
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(mut stream: TcpStream) -> io::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    // A server masks nothing, so its seed is of no consequence.
    let mut connection = Connection::server(Arc::new(Config::new(Role::Server)), [0; 32], deadline);
    let mut input = BytesMut::new();
    loop {
        while let Some(event) = connection.poll_event() {
            match event {
                Event::Request(request) => {
                    let reply = match request.subprotocols().next() {
                        Some(name) => Acceptance::new().subprotocol(name),
                        None => Acceptance::new(),
                    };
                    connection.accept(Instant::now(), reply).map_err(io::Error::other)?;
                    connection.handle_input(Instant::now(), &mut input);
                }
                Event::Frame(Frame::Text(text)) if &*text == "ping me" => {
                    connection.send(Instant::now(), Frame::ping("as you wish")).map_err(io::Error::other)?;
                }
                Event::Frame(frame @ (Frame::Text(_) | Frame::Binary(_))) => {
                    // A server for many clients would read on only while `has_room`: this one gives up.
                    connection.send(Instant::now(), frame).map_err(io::Error::other)?;
                }
                _ => {}
            }
        }
        let output: Vec<u8> = connection.transmit().iter().flatten().copied().collect();
        stream.write_all(&output).await?;
        connection.handle_written(Instant::now(), output.len());
        match connection.poll_shutdown() {
            Some(Shutdown::Write) => stream.shutdown().await?,
            Some(Shutdown::Close | Shutdown::Abort) => return Ok(()),
            None => {}
        }
        let wait = connection.poll_timeout().map(|(at, _)| tokio::time::Instant::from_std(at));
        let wait = wait.unwrap_or_else(|| tokio::time::Instant::now() + Duration::from_secs(60));
        tokio::select! {
            read = stream.read_buf(&mut input) => match read? {
                0 => connection.handle_eof(Instant::now()),
                _ => connection.handle_input(Instant::now(), &mut input),
            },
            () = tokio::time::sleep_until(wait) => connection.handle_timeout(Instant::now()),
        }
    }
}
