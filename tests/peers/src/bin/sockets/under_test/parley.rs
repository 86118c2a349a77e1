//! Parley, as its guide shows, on either runtime: the adapters' types are the same ones.

use std::future::pending;
use std::sync::Arc;

use futures_util::future::join_all;
use parley_peers::bench::batches;
use parley_proto::codec::{Frame, FrameRef, OpCode, Utf8Bytes};
use parley_proto::driver::rustls::ServerConfig;
use parley_proto::driver::{Client, ClientBuilder, Handle, Incoming, Platform, Server, Tls, WebSocket};
use parley_proto::handshake::Origins;
use parley_proto::{Action, Answer, Handler, Limits};

use super::{BoxError, MESSAGE_MOST, listening, told};
use crate::job::{Job, Loop, Role, Task, from_hex};
use crate::tls::Identity;
use crate::wire;

type Socket<P> = WebSocket<<P as parley_proto::driver::Runtime>::Transport, <P as Platform>::Clock>;
type Request<P> = Incoming<<P as parley_proto::driver::Runtime>::Transport, P>;

pub async fn run<P>(job: &Job) -> Result<(), BoxError>
where
    P: Platform<Tls = Tls, ServerTls = Arc<ServerConfig>>,
{
    match job.role {
        Role::Server(way) => serve::<P>(job, way).await,
        Role::Client { port, task: Task::Receive { every, callbacks, .. } } => {
            let builder = builder::<P>(job, port)?;
            match callbacks {
                false => receive::<P>(builder.connect().await?, every).await,
                true => {
                    let handler = Receive { every, count: 0, sum: 0 };
                    Ok(builder.start::<_, ()>(handler).await?.join().await.map(drop)?)
                }
            }
        }
        Role::Client { port, task: Task::Send { messages, size, flush_every, by_handle } } => {
            let builder = builder::<P>(job, port)?;
            let text = Utf8Bytes::from(wire::json(size, 0));
            match by_handle {
                0 => send::<P>(builder.connect().await?, messages, text, flush_every).await,
                _ => send_beside::<P>(builder, messages, text, flush_every, by_handle).await,
            }
        }
        Role::Clients { port, count, callbacks } => clients::<P>(job, port, count, callbacks).await,
    }
}

fn builder<P>(job: &Job, port: u16) -> Result<ClientBuilder<P>, BoxError>
where
    P: Platform<Tls = Tls>,
{
    if job.certificate.is_empty() {
        return Ok(Client::<(), (), P>::builder(&format!("ws://127.0.0.1:{port}/"))?);
    }
    let certificate = from_hex(&job.certificate).ok_or("no hexadecimal digits")?;
    let identity = Identity { certificate, key: Vec::new() };
    let builder = Client::<(), (), P>::builder(&format!("wss://127.0.0.1:{port}/"))?;
    Ok(builder.tls(Tls::with_config(identity.client()?)))
}

async fn serve<P>(job: &Job, way: Loop) -> Result<(), BoxError>
where
    P: Platform<ServerTls = Arc<ServerConfig>>,
{
    let limits = Limits::server().with_message(MESSAGE_MOST)?;
    let mut builder = Server::<P>::builder(Origins::any()).limits(limits).max_connections(20_000);
    if !job.certificate.is_empty() {
        let [certificate, key] = [&job.certificate, &job.key].map(|digits| from_hex(digits));
        let (certificate, key) = certificate.zip(key).ok_or("no hexadecimal digits")?;
        builder = builder.tls(Identity { certificate, key }.server()?);
    }
    let server = builder.bind("127.0.0.1:0")?;
    listening(server.local_addr().ok_or("a bound server has an address")?.port())?;
    while let Some(incoming) = server.next().await {
        match way {
            Loop::Batched | Loop::Accepting => P::spawn(told(echo::<P>(incoming))),
            Loop::Naive => P::spawn(told(echo_naive::<P>(incoming, false))),
            Loop::Corked => P::spawn(told(echo_naive::<P>(incoming, true))),
            Loop::Callbacks => P::spawn(told(async { incoming.accept::<_, ()>(Echo).await.map(drop) })),
        }
    }
    Ok(())
}

/// What is fed leaves when the next frame has to be waited for.
async fn echo<P: Platform>(incoming: Request<P>) -> Result<(), BoxError> {
    let mut socket = incoming.into_websocket().await?;
    while let Some(message) = socket.next_with_reply().await {
        let (frame, reply) = message?;
        if !frame.opcode().is_control() {
            reply.feed_ref(frame)?;
        }
    }
    Ok(())
}

async fn echo_naive<P: Platform>(incoming: Request<P>, auto_cork: bool) -> Result<(), BoxError> {
    let mut socket = incoming.into_websocket().await?;
    socket.set_auto_cork(auto_cork);
    while let Some(frame) = socket.next().await {
        match frame? {
            frame @ (Frame::Text(_) | Frame::Binary(_)) => socket.send(frame).await?,
            Frame::Ping(_) | Frame::Pong(_) => {}
        }
    }
    Ok(())
}

struct Echo;

impl Handler for Echo {
    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        if frame.opcode().is_control() { Answer::Continue } else { Answer::Push(frame) }
    }
}

async fn receive<P: Platform>(mut socket: Socket<P>, every: u64) -> Result<(), BoxError> {
    let (mut count, mut sum) = (0, 0);
    while let Some(frame) = socket.next_ref().await {
        let frame = frame?;
        if matches!(frame.opcode(), OpCode::Text | OpCode::Binary) {
            count += 1;
            sum += frame.payload().len() as u64;
            if count == every {
                socket.send(Frame::text(sum.to_string())).await?;
                (count, sum) = (0, 0);
            }
        }
    }
    Ok(())
}

struct Receive {
    every: u64,
    count: u64,
    sum: u64,
}

impl Handler for Receive {
    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        self.count += 1;
        self.sum += frame.len() as u64;
        if self.count < self.every {
            return Answer::Continue;
        }
        self.count = 0;
        Action::Push(Frame::text(std::mem::take(&mut self.sum).to_string())).into()
    }
}

async fn send<P: Platform>(
    mut socket: Socket<P>,
    messages: u64,
    text: Utf8Bytes,
    flush_every: u64,
) -> Result<(), BoxError> {
    let frame = Frame::Text(text);
    while let Some(go) = socket.next().await {
        if !matches!(go?, Frame::Text(_)) {
            continue;
        }
        for batch in batches(messages, flush_every) {
            if flush_every == 1 {
                socket.send(frame.clone()).await?;
                continue;
            }
            for _ in 0..batch {
                socket.feed_ref(FrameRef::from(&frame)).await?;
            }
            socket.flush().await?;
        }
    }
    Ok(())
}

/// Tells the task beside it to send.
struct Go(tokio::sync::mpsc::UnboundedSender<()>);

impl Handler for Go {
    async fn handle_frame(&mut self, _: Frame) -> Result<Action, BoxError> {
        self.0.send(())?;
        Ok(Action::Continue)
    }
}

async fn send_beside<P: Platform>(
    builder: ClientBuilder<P>,
    messages: u64,
    text: Utf8Bytes,
    flush_every: u64,
    at_once: usize,
) -> Result<(), BoxError> {
    let (go, mut told_to) = tokio::sync::mpsc::unbounded_channel();
    let client = builder.start::<_, ()>(Go(go)).await?;
    let handle: Handle<()> = client.handle();
    // A task like any other: the one that the runtime was started with is woken by way of the reactor.
    P::spawn(told(async move {
        let frames = vec![FrameRef::text(&text); flush_every as usize];
        while told_to.recv().await.is_some() {
            for batch in batches(messages, flush_every) {
                for mut some in frames[..batch as usize].chunks(at_once) {
                    match some {
                        [one] => handle.feed_ref(*one).await?,
                        _ => handle.feed_all(&mut some).await?,
                    }
                }
                handle.flush().await?;
            }
        }
        Ok::<_, BoxError>(())
    }));
    client.join().await?;
    Ok(())
}

/// Many clients, each a task.
async fn clients<P>(job: &Job, port: u16, count: usize, callbacks: bool) -> Result<(), BoxError>
where
    P: Platform<Tls = Tls>,
{
    let mut kept = Vec::new();
    // So many dial at a time: the other side's backlog is bounded.
    for _ in 0..count.div_ceil(100) {
        let builders = (0..count.min(100)).map(|_| builder::<P>(job, port)).collect::<Result<Vec<_>, _>>()?;
        if callbacks {
            let started = join_all(builders.into_iter().map(|builder| builder.start::<_, ()>(Echo))).await;
            let started = started.into_iter().collect::<Result<Vec<_>, _>>()?;
            for client in &started {
                client.wait_for(parley_proto::session::ClientState::Connected).await?;
            }
            kept.extend(started);
        } else {
            let sockets = join_all(builders.into_iter().map(ClientBuilder::connect)).await;
            for socket in sockets {
                let mut socket = socket?;
                P::spawn(told(async move {
                    while let Some(frame) = socket.next().await {
                        socket.feed(frame?).await?;
                    }
                    Ok::<_, BoxError>(())
                }));
            }
        }
    }
    pending().await
}
