//! No WebSocket at all: bytes as they come, on tokio. What it takes is what the kernel and the runtime take.

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{BoxError, listening, told, unknown};
use crate::job::{Job, Role, Task};
use crate::wire::{self, From};

pub const BUFFER: usize = 64 * 1024;

pub async fn run(job: &Job) -> Result<(), BoxError> {
    match job.role {
        Role::Server(_) => {
            let listener = TcpListener::bind("127.0.0.1:0").await?;
            listening(listener.local_addr()?.port())?;
            loop {
                let stream = listener.accept().await?.0;
                tokio::spawn(told(echo(stream)));
            }
        }
        Role::Client { port, task } => {
            let mut stream = TcpStream::connect(("127.0.0.1", port)).await?;
            stream.set_nodelay(true)?;
            open(&mut stream, port).await?;
            client(stream, task).await
        }
        Role::Clients { .. } => Err(unknown(job)),
    }
}

/// The server's side of the opening handshake by hand, for libraries that leave it to another.
pub async fn answer(stream: &mut TcpStream) -> Result<(), BoxError> {
    let head = read_head(stream).await?;
    Ok(stream.write_all(wire::response(&head)?.as_bytes()).await?)
}

/// The client's side.
pub async fn open(stream: &mut TcpStream, port: u16) -> Result<(), BoxError> {
    stream.write_all(wire::request(port).as_bytes()).await?;
    Ok(wire::opened(&read_head(stream).await?)?)
}

/// Reads no byte behind the head: the other side waits for what comes of it, or its first frames wait in the socket.
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
        tokio::task::yield_now().await;
    }
}

async fn echo(mut stream: TcpStream) -> Result<(), BoxError> {
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

async fn client(mut stream: TcpStream, task: Task) -> Result<(), BoxError> {
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

/// It is the bytes that say how many messages have come.
pub struct Arrivals {
    /// Bytes until the next acknowledgement.
    left: u64,
    /// Bytes from one to the next.
    every: u64,
    pub ack: Vec<u8>,
}

impl Arrivals {
    pub fn new(every: u64, size: usize) -> Self {
        let payloads = wire::payloads(size);
        let times = every / payloads.len() as u64;
        let sum = times * payloads.iter().map(|payload| payload.len() as u64).sum::<u64>();
        let (mut block, mut ack) = (Vec::new(), Vec::new());
        payloads.iter().for_each(|payload| wire::frame(&mut block, From::Server, payload.as_bytes()));
        wire::frame(&mut ack, From::Client, sum.to_string().as_bytes());
        let every = times * block.len() as u64;
        Self { left: every, every, ack }
    }

    /// Counts some more: whether the acknowledgement is due.
    pub fn complete(&mut self, count: usize) -> Result<bool, BoxError> {
        self.left = self.left.checked_sub(count as u64).ok_or("more than was to come")?;
        let complete = self.left == 0;
        if complete {
            self.left = self.every;
        }
        Ok(complete)
    }
}

/// So many messages each, as they leave.
pub fn departures(size: usize, counts: [u64; 2]) -> [Vec<u8>; 2] {
    let mut one = Vec::new();
    wire::frame(&mut one, From::Client, wire::json(size, 0).as_bytes());
    counts.map(|count| one.repeat(count as usize))
}
