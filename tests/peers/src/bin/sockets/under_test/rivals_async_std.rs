//! The other libraries on async-std, and bytes without framing.

use async_std::io::{ReadExt, WriteExt};
use async_std::net::{TcpListener, TcpStream};
use async_std::task;
use async_tungstenite::WebSocketStream;
use async_tungstenite::tungstenite::protocol::Role as Side;

use super::messages::{Socket, echo, echo_naive, receive, send};
use super::raw::{Arrivals, BUFFER, departures};
use super::{BoxError, listening, told, unknown};
use crate::job::{Job, Loop, Role, Task};
use crate::wire;

impl Socket for WebSocketStream<TcpStream> {
    // The same type as that of tokio-tungstenite: both are made of one tungstenite.
    type Sent = async_tungstenite::tungstenite::Message;
}

pub async fn run(job: &Job) -> Result<(), BoxError> {
    match (job.library.as_str(), job.role.clone()) {
        (library @ ("async-tungstenite" | "raw-tcp"), Role::Server(way)) => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            listening(listener.local_addr()?.port())?;
            loop {
                let stream = listener.accept().await?.0;
                match (library, way) {
                    ("raw-tcp", _) => task::spawn(told(echo_raw(stream))),
                    (_, Loop::Naive) => task::spawn(told(async { echo_naive(server(stream).await?).await })),
                    _ => task::spawn(told(async { echo(server(stream).await?).await })),
                };
            }
        }
        (library @ ("async-tungstenite" | "raw-tcp"), Role::Client { port, task }) => {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            stream.write_all(wire::request(port).as_bytes()).await?;
            wire::opened(&read_head(&mut stream).await?)?;
            if library == "raw-tcp" {
                return client_raw(stream, task).await;
            }
            let socket = WebSocketStream::from_raw_socket(stream, Side::Client, None).await;
            match task {
                Task::Receive { every, .. } => receive(socket, every).await,
                Task::Send { messages, size, flush_every, .. } => {
                    send(socket, messages, wire::json(size, 0), flush_every).await
                }
            }
        }
        _ => Err(unknown(job)),
    }
}

async fn server(mut stream: TcpStream) -> Result<WebSocketStream<TcpStream>, BoxError> {
    stream.set_nodelay(true)?;
    Box::pin(answer(&mut stream)).await?;
    Ok(WebSocketStream::from_raw_socket(stream, Side::Server, None).await)
}

async fn answer(stream: &mut TcpStream) -> Result<(), BoxError> {
    let head = read_head(stream).await?;
    Ok(stream.write_all(wire::response(&head)?.as_bytes()).await?)
}

/// Reads no byte behind the head.
async fn read_head(stream: &mut TcpStream) -> Result<String, BoxError> {
    let mut head = vec![0; 4096];
    loop {
        let count = stream.peek(&mut head).await?;
        if let Some(end) = wire::head_end(&head[..count]) {
            head.truncate(end);
            stream.read_exact(&mut head).await?;
            return Ok(String::from_utf8(head)?);
        }
        if count == 0 || count == head.len() {
            return Err("a head without an end".into());
        }
        task::yield_now().await;
    }
}

async fn echo_raw(mut stream: TcpStream) -> Result<(), BoxError> {
    stream.set_nodelay(true)?;
    answer(&mut stream).await?;
    let mut buffer = vec![0; BUFFER];
    loop {
        match stream.read(&mut buffer).await? {
            0 => return Ok(()),
            count => stream.write_all(&buffer[..count]).await?,
        }
    }
}

async fn client_raw(mut stream: TcpStream, task: Task) -> Result<(), BoxError> {
    let mut buffer = vec![0; BUFFER];
    match task {
        Task::Receive { every, size, .. } => {
            let mut arrivals = Arrivals::new(every, size);
            loop {
                match stream.read(&mut buffer).await? {
                    0 => return Ok(()),
                    count if arrivals.complete(count)? => stream.write_all(&arrivals.ack).await?,
                    _ => {}
                }
            }
        }
        Task::Send { messages, size, flush_every, .. } => {
            let [batch, rest] = departures(size, [flush_every, messages % flush_every]);
            loop {
                if stream.read(&mut buffer).await? == 0 {
                    return Ok(());
                }
                for _ in 0..messages / flush_every {
                    stream.write_all(&batch).await?;
                }
                stream.write_all(&rest).await?;
            }
        }
    }
}
