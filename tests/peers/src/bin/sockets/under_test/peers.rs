//! The other libraries on tokio, each in the fastest way that its documentation shows.

use std::future::Future;

use futures_util::{AsyncRead as FuturesRead, AsyncWrite as FuturesWrite};
use parley_peers::bench::batches;
use soketto::handshake::server::Response;
use tokio::io::{AsyncRead, AsyncWrite, BufReader, BufWriter};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::client::TlsStream as ClientTls;
use tokio_rustls::server::TlsStream as ServerTls;
use tokio_rustls::{TlsAcceptor, TlsConnector};
use tokio_util::compat::TokioAsyncReadCompatExt;

use super::messages::{Item, Message, Socket, echo, echo_naive, receive, send};
use super::{BoxError, MESSAGE_MOST, listening, raw, told, unknown};
use crate::job::{Job, Loop, Role, Task, from_hex};
use crate::tls::{self, Identity};
use crate::wire;

/// What a library that reads header by header gets for a buffer: it is fast with it, and holds it at rest.
const BUFFER: usize = 64 * 1024;

pub async fn run(job: &Job) -> Result<(), BoxError> {
    match job.role {
        Role::Server(way) => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            listening(listener.local_addr()?.port())?;
            let acceptor = match identity(job)? {
                Some(identity) => Some(TlsAcceptor::from(identity.server()?)),
                None => None,
            };
            loop {
                let stream = listener.accept().await?.0;
                stream.set_nodelay(true)?;
                match &acceptor {
                    None => serve(job, way, stream)?,
                    Some(acceptor) => serve_tls(job, stream, acceptor.clone())?,
                }
            }
        }
        Role::Client { port, task } => {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            match identity(job)? {
                None => {
                    raw::open(&mut stream, port).await?;
                    client(job, stream, task).await
                }
                Some(identity) => {
                    let connector = TlsConnector::from(identity.client()?);
                    client_tls(job, connector.connect(tls::name(), stream).await?, port, task).await
                }
            }
        }
        Role::Clients { .. } => Err(unknown(job)),
    }
}

fn identity(job: &Job) -> Result<Option<Identity>, BoxError> {
    if job.certificate.is_empty() {
        return Ok(None);
    }
    let [certificate, key] = [&job.certificate, &job.key].map(|digits| from_hex(digits).ok_or("no hexadecimal digits"));
    Ok(Some(Identity { certificate: certificate?, key: key? }))
}

/// Spawns a connection's task; what it needs for the opening handshake alone is boxed, and gone afterwards.
fn spawn<F>(stream: TcpStream, run: impl FnOnce(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = Result<(), BoxError>> + Send + 'static,
{
    tokio::spawn(told(async move {
        let mut stream = stream;
        Box::pin(raw::answer(&mut stream)).await?;
        run(stream).await
    }));
}

fn serve(job: &Job, way: Loop, stream: TcpStream) -> Result<(), BoxError> {
    match (job.library.as_str(), way) {
        ("tokio-tungstenite", Loop::Batched) => {
            spawn(stream, |stream| async { echo(tungstenite(stream, Side::Server).await).await });
        }
        ("tokio-tungstenite", Loop::Naive) => {
            spawn(stream, |stream| async { echo_naive(tungstenite(stream, Side::Server).await).await });
        }
        ("tokio-websockets", Loop::Batched) => spawn(stream, |stream| echo(tokio_websockets_server().serve(stream))),
        ("tokio-websockets", Loop::Naive) => {
            spawn(stream, |stream| echo_naive(tokio_websockets_server().serve(stream)))
        }
        ("yawc", Loop::Batched) => spawn(stream, |stream| async { echo(yawc(stream, Side::Server)?).await }),
        ("yawc", Loop::Naive) => spawn(stream, |stream| async { echo_naive(yawc(stream, Side::Server)?).await }),
        ("sockudo-ws", Loop::Batched) => spawn(stream, |stream| echo(sockudo(stream, Side::Server))),
        ("sockudo-ws", Loop::Naive) => spawn(stream, |stream| echo_naive(sockudo(stream, Side::Server))),
        // These have no way to tell that a read would wait: every reply is written by itself.
        ("fastwebsockets", Loop::Batched | Loop::Naive) => {
            spawn(stream, |stream| echo_fastwebsockets(fastwebsockets(stream, Side::Server)));
        }
        ("web-socket", Loop::Batched | Loop::Naive) => {
            spawn(stream, |stream| echo_web_socket(web_socket_server(stream)));
        }
        ("soketto", Loop::Batched | Loop::Naive) => {
            spawn(stream, |stream| echo_soketto(soketto(stream, Side::Server)));
        }
        (_, Loop::Accepting) => accept(job, stream)?,
        _ => return Err(unknown(job)),
    }
    Ok(())
}

/// With the library's own opening handshake.
fn accept(job: &Job, stream: TcpStream) -> Result<(), BoxError> {
    match job.library.as_str() {
        "tokio-tungstenite" => {
            tokio::spawn(told(async { echo(tokio_tungstenite::accept_async(stream).await?).await }));
        }
        "tokio-websockets" => {
            tokio::spawn(told(async { echo(tokio_websockets_server().accept(stream).await?.1).await }));
        }
        "sockudo-ws" => {
            tokio::spawn(told(async {
                let mut stream = stream;
                sockudo_ws::handshake::server_handshake(&mut stream).await?;
                echo(sockudo(stream, Side::Server)).await
            }));
        }
        "soketto" => {
            tokio::spawn(told(async {
                let mut server = soketto::handshake::Server::new(soketto_stream(stream));
                let key = server.receive_request().await?.key();
                server.send_response(&Response::Accept { key, protocol: None }).await?;
                echo_soketto(server.into_builder().finish()).await
            }));
        }
        _ => return Err(unknown(job)),
    }
    Ok(())
}

fn serve_tls(job: &Job, stream: TcpStream, acceptor: TlsAcceptor) -> Result<(), BoxError> {
    match job.library.as_str() {
        "tokio-tungstenite" => {
            tokio::spawn(told(async move {
                let stream: ServerTls<TcpStream> = acceptor.accept(stream).await?;
                echo(tokio_tungstenite::accept_async(stream).await?).await
            }));
        }
        "tokio-websockets" => {
            tokio::spawn(told(async move {
                let stream = acceptor.accept(stream).await?;
                echo(tokio_websockets_server().accept(stream).await?.1).await
            }));
        }
        _ => return Err(unknown(job)),
    }
    Ok(())
}

async fn client(job: &Job, stream: TcpStream, task: Task) -> Result<(), BoxError> {
    match job.library.as_str() {
        "tokio-tungstenite" => work(tungstenite(stream, Side::Client).await, task).await,
        "tokio-websockets" => {
            let builder = tokio_websockets::ClientBuilder::new().config(tokio_websockets_config());
            work(builder.take_over(stream), task).await
        }
        "yawc" => work(yawc(stream, Side::Client)?, task).await,
        "sockudo-ws" => work(sockudo(stream, Side::Client), task).await,
        "fastwebsockets" => work_fastwebsockets(fastwebsockets(stream, Side::Client), task).await,
        "web-socket" => work_web_socket(stream, task).await,
        "soketto" => work_soketto(soketto(stream, Side::Client), task).await,
        _ => Err(unknown(job)),
    }
}

async fn client_tls(job: &Job, stream: ClientTls<TcpStream>, port: u16, task: Task) -> Result<(), BoxError> {
    let uri = format!("wss://127.0.0.1:{port}/");
    match job.library.as_str() {
        "tokio-tungstenite" => work(tokio_tungstenite::client_async(uri, stream).await?.0, task).await,
        "tokio-websockets" => {
            let builder = tokio_websockets::ClientBuilder::new().uri(&uri)?.config(tokio_websockets_config());
            work(builder.connect_on(stream).await?.0, task).await
        }
        _ => Err(unknown(job)),
    }
}

async fn work<S: Socket>(socket: S, task: Task) -> Result<(), BoxError> {
    match task {
        Task::Receive { every, .. } => receive(socket, every).await,
        Task::Send { messages, size, flush_every, .. } => {
            send(socket, messages, wire::json(size, 0), flush_every).await
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    Client,
    Server,
}

// tungstenite

impl Message for tokio_tungstenite::tungstenite::Message {
    fn data(&self) -> Option<usize> {
        (self.is_text() || self.is_binary()).then(|| self.len())
    }

    fn text(text: String) -> Self {
        Self::text(text)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for tokio_tungstenite::WebSocketStream<S> {
    type Sent = tokio_tungstenite::tungstenite::Message;
}

async fn tungstenite(stream: TcpStream, side: Side) -> tokio_tungstenite::WebSocketStream<TcpStream> {
    use tokio_tungstenite::tungstenite::protocol::Role;
    let role = if side == Side::Client { Role::Client } else { Role::Server };
    tokio_tungstenite::WebSocketStream::from_raw_socket(stream, role, None).await
}

// tokio-websockets

impl Message for tokio_websockets::Message {
    fn data(&self) -> Option<usize> {
        (self.is_text() || self.is_binary()).then(|| self.as_payload().len())
    }

    fn text(text: String) -> Self {
        Self::text(text)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Socket for tokio_websockets::WebSocketStream<S> {
    type Sent = tokio_websockets::Message;
}

/// By default it flushes at 8 KiB.
fn tokio_websockets_config() -> tokio_websockets::Config {
    tokio_websockets::Config::default().flush_threshold(BUFFER)
}

fn tokio_websockets_server() -> tokio_websockets::ServerBuilder {
    tokio_websockets::ServerBuilder::new().config(tokio_websockets_config())
}

// yawc

impl Message for yawc::Frame {
    fn data(&self) -> Option<usize> {
        (!self.opcode().is_control()).then(|| self.payload().len())
    }

    fn text(text: String) -> Self {
        Self::text(text)
    }
}

impl Item for yawc::Frame {
    type Message = Self;
    fn message(self) -> Result<Self, BoxError> {
        Ok(self)
    }
}

impl Socket for yawc::WebSocket<TcpStream> {
    type Sent = yawc::Frame;
}

fn yawc(stream: TcpStream, side: Side) -> Result<yawc::WebSocket<TcpStream>, BoxError> {
    let role = if side == Side::Client { yawc::Role::Client } else { yawc::Role::Server };
    let options = yawc::Options::default().with_utf8().with_limits(MESSAGE_MOST, MESSAGE_MOST);
    Ok(yawc::WebSocket::from_stream(stream, role, options.with_backpressure_boundary(BUFFER))?)
}

// sockudo-ws

impl Message for sockudo_ws::Message {
    fn data(&self) -> Option<usize> {
        (self.is_text() || self.is_binary()).then(|| self.as_bytes().len())
    }

    fn text(text: String) -> Self {
        Self::text(text)
    }
}

impl Socket for sockudo_ws::WebSocketStream<TcpStream> {
    type Sent = sockudo_ws::Message;
}

fn sockudo(stream: TcpStream, side: Side) -> sockudo_ws::WebSocketStream<TcpStream> {
    let role = if side == Side::Client { sockudo_ws::Role::Client } else { sockudo_ws::Role::Server };
    sockudo_ws::WebSocketStream::from_raw(stream, role, sockudo_ws::Config::default())
}

// fastwebsockets

type FastWebSocket = fastwebsockets::FragmentCollector<TcpStream>;

fn fastwebsockets(stream: TcpStream, side: Side) -> FastWebSocket {
    let role = if side == Side::Client { fastwebsockets::Role::Client } else { fastwebsockets::Role::Server };
    fastwebsockets::FragmentCollector::new(fastwebsockets::WebSocket::after_handshake(stream, role))
}

async fn echo_fastwebsockets(mut socket: FastWebSocket) -> Result<(), BoxError> {
    use fastwebsockets::OpCode;
    loop {
        let frame = socket.read_frame().await?;
        match frame.opcode {
            OpCode::Text | OpCode::Binary => socket.write_frame(frame).await?,
            OpCode::Close => return Ok(()),
            _ => {}
        }
    }
}

async fn work_fastwebsockets(mut socket: FastWebSocket, task: Task) -> Result<(), BoxError> {
    use fastwebsockets::{Frame, OpCode, Payload};
    let text = if let Task::Send { size, .. } = task { wire::json(size, 0) } else { String::new() };
    let (mut count, mut sum) = (0, 0);
    let mut sent = Vec::new();
    loop {
        let frame = socket.read_frame().await?;
        if !matches!(frame.opcode, OpCode::Text | OpCode::Binary) {
            continue;
        }
        match task {
            Task::Receive { every, .. } => {
                count += 1;
                sum += frame.payload.len() as u64;
                if count == every {
                    socket.write_frame(Frame::text(Payload::Owned(sum.to_string().into_bytes()))).await?;
                    (count, sum) = (0, 0);
                }
            }
            Task::Send { messages, .. } => {
                for _ in 0..messages {
                    // The client masks in place.
                    sent.clear();
                    sent.extend_from_slice(text.as_bytes());
                    socket.write_frame(Frame::text(Payload::BorrowedMut(&mut sent))).await?;
                }
            }
        }
    }
}

// web-socket

type Buffered = BufReader<TcpStream>;

fn web_socket_server(stream: TcpStream) -> web_socket::WebSocket<Buffered> {
    web_socket::WebSocket::server(BufReader::with_capacity(BUFFER, stream))
}

/// The next message; it leaves it to its user to check text.
async fn next_web_socket(socket: &mut web_socket::WebSocket<Buffered>) -> Result<Option<Box<[u8]>>, BoxError> {
    use web_socket::{DataType, Event};
    loop {
        match socket.recv().await? {
            Event::Data { ty: DataType::Complete(kind), data } => {
                if kind.is_text() {
                    simdutf8::basic::from_utf8(&data)?;
                }
                return Ok(Some(data));
            }
            Event::Ping(data) => socket.send_pong(data).await?,
            Event::Pong(_) => {}
            Event::Close { .. } => return Ok(None),
            Event::Data { .. } => return Err("no fragments are sent".into()),
            Event::Error(error) => return Err(error.into()),
        }
    }
}

async fn echo_web_socket(mut socket: web_socket::WebSocket<Buffered>) -> Result<(), BoxError> {
    while let Some(data) = next_web_socket(&mut socket).await? {
        // All that the load sends is text.
        socket.send_raw(web_socket::Frame { fin: true, opcode: wire::TEXT, data: &data }).await?;
    }
    Ok(())
}

async fn work_web_socket(stream: TcpStream, task: Task) -> Result<(), BoxError> {
    let mut socket = web_socket::WebSocket::client(BufReader::with_capacity(BUFFER, stream));
    let text = if let Task::Send { size, .. } = task { wire::json(size, 0) } else { String::new() };
    let (mut count, mut sum) = (0, 0);
    while let Some(data) = next_web_socket(&mut socket).await? {
        match task {
            Task::Receive { every, .. } => {
                count += 1;
                sum += data.len() as u64;
                if count == every {
                    socket.send(sum.to_string().as_str()).await?;
                    (count, sum) = (0, 0);
                }
            }
            Task::Send { messages, .. } => {
                for _ in 0..messages {
                    socket.send(text.as_str()).await?;
                }
            }
        }
    }
    Ok(())
}

// soketto

type SokettoStream = tokio_util::compat::Compat<BufWriter<TcpStream>>;
type Soketto<S = SokettoStream> = (soketto::Sender<S>, soketto::Receiver<S>);

fn soketto_stream(stream: TcpStream) -> SokettoStream {
    BufWriter::with_capacity(BUFFER, stream).compat()
}

fn soketto(stream: TcpStream, side: Side) -> Soketto {
    let mode = if side == Side::Client { soketto::Mode::Client } else { soketto::Mode::Server };
    soketto::connection::Builder::new(soketto_stream(stream), mode).finish()
}

/// The next message is in `message`, not checked: that is left to the user.
async fn next_soketto<S>(receiver: &mut soketto::Receiver<S>, message: &mut Vec<u8>) -> Result<(), BoxError>
where
    S: FuturesRead + FuturesWrite + Unpin,
{
    message.clear();
    receiver.receive_data(message).await?;
    Ok(())
}

async fn echo_soketto<S>((mut sender, mut receiver): Soketto<S>) -> Result<(), BoxError>
where
    S: FuturesRead + FuturesWrite + Unpin,
{
    let mut message = Vec::new();
    loop {
        next_soketto(&mut receiver, &mut message).await?;
        sender.send_text(simdutf8::basic::from_utf8(&message)?).await?;
        sender.flush().await?;
    }
}

async fn work_soketto((mut sender, mut receiver): Soketto, task: Task) -> Result<(), BoxError> {
    let text = if let Task::Send { size, .. } = task { wire::json(size, 0) } else { String::new() };
    let (mut count, mut sum) = (0, 0);
    let mut message = Vec::new();
    loop {
        next_soketto(&mut receiver, &mut message).await?;
        match task {
            Task::Receive { every, .. } => {
                count += 1;
                sum += simdutf8::basic::from_utf8(&message)?.len() as u64;
                if count == every {
                    sender.send_text(sum.to_string()).await?;
                    sender.flush().await?;
                    (count, sum) = (0, 0);
                }
            }
            Task::Send { messages, flush_every, .. } => {
                for batch in batches(messages, flush_every) {
                    for _ in 0..batch {
                        sender.send_text(&text).await?;
                    }
                    sender.flush().await?;
                }
            }
        }
    }
}
