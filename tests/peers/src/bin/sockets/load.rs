//! The load: sockets by hand on a core of their own, frames that were encoded before, replies that are counted by their bytes.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::AsFd;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::tls::{TlsClient, TlsServer};
use crate::wire::{self, From};

/// Whatever takes longer has failed.
pub const PATIENCE: Duration = Duration::from_secs(10);

const READ: usize = 256 * 1024;

/// From here a batch does not fit the sockets' buffers, so that it is written and read at the same time.
const BIG: usize = 128 * 1024;

/// Rounds of messages with one process under test.
pub trait Load {
    /// One round, after which the process has nothing left to do: how many messages it has handled.
    fn round(&mut self) -> io::Result<u64>;

    /// How long each reply took, since this was last asked.
    fn take_times(&mut self) -> Vec<Duration> {
        Vec::new()
    }
}

/// A byte stream to a process under test: TCP, or TLS over it.
pub trait Wire: Read + Write {
    fn tcp(&self) -> &TcpStream;
}

impl Wire for TcpStream {
    fn tcp(&self) -> &TcpStream {
        self
    }
}

/// A connection to a server, opened.
///
/// # Errors
///
/// The socket's, or the server refuses.
pub fn connect(port: u16) -> io::Result<TcpStream> {
    let mut stream = reach(port)?;
    wire::open(&mut stream, port)?;
    Ok(stream)
}

/// A connection to a server before its opening handshake.
///
/// # Errors
///
/// The socket's.
pub fn reach(port: u16) -> io::Result<TcpStream> {
    patient(TcpStream::connect(("127.0.0.1", port))?)
}

/// Neither Nagle's delay nor a wait without end.
fn patient(stream: TcpStream) -> io::Result<TcpStream> {
    stream.set_nodelay(true)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    Ok(stream)
}

/// The next connection of a client, before its opening handshake.
///
/// # Errors
///
/// The listener's, or nobody comes in time.
pub fn accept(listener: &TcpListener) -> io::Result<TcpStream> {
    await_input(listener)?;
    patient(listener.accept()?.0)
}

fn await_input(descriptor: &impl AsFd) -> io::Result<()> {
    await_flags(descriptor, PollFlags::POLLIN)
}

fn await_flags(descriptor: &impl AsFd, flags: PollFlags) -> io::Result<()> {
    let timeout = PollTimeout::try_from(PATIENCE).map_err(io::Error::other)?;
    match poll(&mut [PollFd::new(descriptor.as_fd(), flags)], timeout)? {
        0 => Err(io::ErrorKind::TimedOut.into()),
        _ => Ok(()),
    }
}

/// Batches of messages to an echo server, on any number of connections: each gets its next batch when it has sent back the last.
pub struct Echo<S = TcpStream> {
    connections: Vec<S>,
    depth: u64,
    /// A batch.
    out: Vec<u8>,
    /// What comes back for it.
    back: Vec<u8>,
    /// Batches a round, on each connection.
    batches: usize,
    buffer: Vec<u8>,
    /// Of each batch on the first connection: from the write to the last byte that came back.
    times: Vec<Duration>,
}

impl<S: Wire> Echo<S> {
    /// `raw`: what comes back is what was sent, without a look at the frames.
    ///
    /// # Errors
    ///
    /// What the server sends back is wrong, or nothing comes in time.
    pub fn new(connections: Vec<S>, depth: usize, size: usize, raw: bool) -> io::Result<Self> {
        let (mut out, mut back) = (Vec::new(), Vec::new());
        for number in 0..depth {
            let payload = wire::json(size, number as u64);
            wire::frame(&mut out, From::Client, payload.as_bytes());
            let from = if raw { From::Client } else { From::Server };
            wire::frame(&mut back, from, payload.as_bytes());
        }
        let messages = connections.len() * depth;
        let batches = (4096 / messages).clamp(1, 64).min((16 * 1024 * 1024 / out.len()).max(1));
        let times = Vec::new();
        let mut echo = Self { connections, depth: depth as u64, out, back, batches, buffer: vec![0; READ], times };
        for number in 0..echo.connections.len() {
            echo.check(number)?;
        }
        Ok(echo)
    }

    /// One batch, every byte of which is compared.
    fn check(&mut self, number: usize) -> io::Result<()> {
        let mut back = Vec::new();
        let (out, length) = (&self.out, self.back.len());
        exchange(&mut self.connections[number], out, length, &mut self.buffer, |bytes| back.extend_from_slice(bytes))?;
        match back == self.back {
            true => Ok(()),
            false => Err(io::Error::other("what came back is not what was sent")),
        }
    }
}

impl<S: Wire> Load for Echo<S> {
    fn round(&mut self) -> io::Result<u64> {
        let Self { connections, out, back, batches, buffer, .. } = self;
        if let [connection] = connections.as_mut_slice() {
            for _ in 0..*batches {
                let start = Instant::now();
                exchange(connection, out, back.len(), buffer, |_| ())?;
                self.times.push(start.elapsed());
            }
        } else {
            for connection in connections.iter_mut() {
                connection.write_all(out)?;
            }
            for batch in 1..=*batches {
                for connection in connections.iter_mut() {
                    read(connection, back.len(), buffer, |_| ())?;
                    if batch < *batches {
                        connection.write_all(out)?;
                    }
                }
            }
        }
        Ok(self.connections.len() as u64 * self.batches as u64 * self.depth)
    }

    fn take_times(&mut self) -> Vec<Duration> {
        std::mem::take(&mut self.times)
    }
}

/// Writes `out` and reads so many bytes.
fn exchange<S: Wire>(
    stream: &mut S,
    out: &[u8],
    length: usize,
    buffer: &mut [u8],
    mut seen: impl FnMut(&[u8]),
) -> io::Result<()> {
    if out.len() <= BIG {
        stream.write_all(out)?;
        stream.flush()?;
        return read(stream, length, buffer, seen);
    }
    stream.tcp().set_nonblocking(true)?;
    let (mut written, mut got) = (0, 0);
    while written < out.len() || got < length {
        let mut moved = false;
        if written < out.len()
            && let Some(count) = unless_blocked(stream.write(&out[written..]))?
        {
            written += count;
            moved = true;
        }
        if got < length
            && let Some(count) = unless_blocked(stream.read(buffer))?
        {
            seen(&buffer[..count]);
            got += count;
            moved = true;
        }
        if !moved {
            let flags = if written < out.len() { PollFlags::POLLIN | PollFlags::POLLOUT } else { PollFlags::POLLIN };
            await_flags(stream.tcp(), flags)?;
        }
    }
    stream.tcp().set_nonblocking(false)?;
    exactly(got, length)
}

fn unless_blocked(result: io::Result<usize>) -> io::Result<Option<usize>> {
    match result {
        Ok(0) => Err(io::ErrorKind::UnexpectedEof.into()),
        Ok(count) => Ok(Some(count)),
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(None),
        Err(error) => Err(error),
    }
}

/// Reads so many bytes, and finds that there are no more.
fn read(stream: &mut impl Read, length: usize, buffer: &mut [u8], mut seen: impl FnMut(&[u8])) -> io::Result<()> {
    let mut got = 0;
    while got < length {
        match stream.read(buffer)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count => {
                seen(&buffer[..count]);
                got += count;
            }
        }
    }
    exactly(got, length)
}

fn exactly(got: usize, length: usize) -> io::Result<()> {
    match got == length {
        true => Ok(()),
        false => Err(io::Error::other(format!("{got} bytes came back, and not {length}"))),
    }
}

/// Messages to a client, which says what it has got after every `every` of them.
pub struct Source<S = TcpStream> {
    stream: S,
    /// So many messages, encoded.
    block: Vec<u8>,
    blocks: u64,
    every: u64,
    /// The sum of the sizes of `every` messages.
    sum: u64,
}

impl<S: Wire + 'static> Source<S> {
    pub fn boxed(stream: S, payloads: &[String], every: u64) -> Box<dyn Load> {
        Box::new(Self::new(stream, payloads, every))
    }

    /// The payloads of `every` messages are `payloads`, over and over.
    fn new(stream: S, payloads: &[String], every: u64) -> Self {
        let mut block = Vec::new();
        payloads.iter().for_each(|payload| wire::frame(&mut block, From::Server, payload.as_bytes()));
        let blocks = every / payloads.len() as u64;
        let sum = payloads.iter().map(|payload| payload.len() as u64).sum::<u64>() * blocks;
        Self { stream, block, blocks, every: blocks * payloads.len() as u64, sum }
    }
}

impl<S: Wire> Load for Source<S> {
    fn round(&mut self) -> io::Result<u64> {
        for _ in 0..self.blocks {
            self.stream.write_all(&self.block)?;
        }
        self.stream.flush()?;
        let mut input = Vec::new();
        let mut buffer = [0; 256];
        loop {
            let count = unless_blocked(self.stream.read(&mut buffer))?.unwrap_or(0);
            input.extend_from_slice(&buffer[..count]);
            if let Some((payload, length)) = wire::parse(&input, From::Client)? {
                let said = String::from_utf8(payload).map_err(io::Error::other)?;
                return match length == input.len() && said == self.sum.to_string() {
                    true => Ok(self.every),
                    false => Err(io::Error::other(format!("{said} bytes arrived, and not {}", self.sum))),
                };
            }
        }
    }
}

/// Takes what a client sends when it is told to.
pub struct Drain<S = TcpStream> {
    stream: S,
    go: Vec<u8>,
    messages: u64,
    payload: String,
    buffer: Vec<u8>,
    /// Whether the frames are those of a WebSocket client, and not yet looked at.
    check: bool,
}

impl<S: Wire + 'static> Drain<S> {
    pub fn boxed(stream: S, messages: u64, size: usize) -> Box<dyn Load> {
        Box::new(Self::new(stream, messages, size))
    }

    fn new(stream: S, messages: u64, size: usize) -> Self {
        let mut go = Vec::new();
        wire::frame(&mut go, From::Server, b"go");
        Self { stream, go, messages, payload: wire::json(size, 0), buffer: vec![0; READ], check: true }
    }
}

impl<S: Wire> Load for Drain<S> {
    fn round(&mut self) -> io::Result<u64> {
        let mut one = Vec::new();
        wire::frame(&mut one, From::Client, self.payload.as_bytes());
        let length = one.len() * self.messages as usize;
        self.stream.write_all(&self.go)?;
        self.stream.flush()?;
        let mut all = Vec::new();
        let check = std::mem::take(&mut self.check);
        read(&mut self.stream, length, &mut self.buffer, |bytes| {
            if check {
                all.extend_from_slice(bytes);
            }
        })?;
        let mut rest = all.as_slice();
        while let Some((payload, length)) = wire::parse(rest, From::Client)? {
            if payload != self.payload.as_bytes() {
                return Err(io::Error::other("a message arrived that was not sent"));
            }
            rest = &rest[length..];
        }
        match rest.is_empty() {
            true => Ok(self.messages),
            false => Err(io::Error::other("what arrived does not end with a frame")),
        }
    }
}

impl Wire for TlsClient {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}

impl Wire for TlsServer {
    fn tcp(&self) -> &TcpStream {
        &self.sock
    }
}
