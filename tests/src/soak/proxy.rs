//! A TCP proxy that does to each connection what its number and the run's seed say.
//!
//! It reads the request for the connection's number, and then passes bytes on, or whatever its [`Fate`] is. What it holds of a
//! connection is bounded (a buffer each way), and so is how long it keeps one.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use socket2::SockRef;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout};

use super::ledger::{Ledger, Pair, lock};
use crate::dice::Dice;

/// The header of the request that has the connection's number.
pub(super) const HEADER: &str = "soak-connection";

/// No connection is kept for longer.
const LIFETIME: Duration = Duration::from_secs(120);
/// For a request to come.
const PATIENCE: Duration = Duration::from_secs(20);
/// What a request may have.
const HEAD: usize = 4096;
/// What is held each way.
const BUFFER: usize = 16 * 1024;
/// What becomes of a connection. Bytes are counted in the direction that the fate is about, from the request's first.
#[derive(Clone, Debug)]
pub(super) enum Fate {
    /// All is passed on as it comes.
    Plain,
    /// Each piece waits so long.
    Delay(Duration),
    /// The first so many bytes go one at a time, then as many in pieces of up to 64.
    Trickle(usize),
    /// After so many bytes nothing moves for a time.
    Stall { up: bool, after: usize, pause: Duration },
    /// After so many bytes both sides get a FIN.
    Cut { up: bool, after: usize },
    /// After so many bytes both sides get a reset.
    Reset { up: bool, after: usize },
    /// After so many bytes this direction gets a FIN; the other goes on.
    HalfClose { up: bool, after: usize },
    /// After so many bytes all is swallowed, both ways.
    Hole { up: bool, after: usize },
    /// The request is answered with a reset.
    Refuse,
}

impl Fate {
    pub(super) const NAMES: [&str; 9] =
        ["plain", "delay", "one byte at a time", "stall", "cut", "reset", "half-close", "black hole", "refuse"];

    pub(super) fn name(&self) -> &'static str {
        Self::NAMES[match self {
            Self::Plain => 0,
            Self::Delay(_) => 1,
            Self::Trickle(_) => 2,
            Self::Stall { .. } => 3,
            Self::Cut { .. } => 4,
            Self::Reset { .. } => 5,
            Self::HalfClose { .. } => 6,
            Self::Hole { .. } => 7,
            Self::Refuse => 8,
        }]
    }

    /// Whether all bytes and both ends of the stream come through.
    pub(super) fn is_harmless(&self) -> bool {
        matches!(self, Self::Plain | Self::Delay(_) | Self::Trickle(_) | Self::Stall { .. })
    }

    fn draw(dice: &mut Dice) -> Self {
        let up = dice.chance(50);
        // As often within the handshake as behind 100 KiB, and evenly in between.
        let most = 1 << (4 + dice.below(15));
        let after = 1 + dice.below(most);
        match dice.below(100) {
            0..28 => Self::Plain,
            28..42 => Self::Delay(dice.millis(20)),
            42..54 => Self::Trickle(dice.below(6000)),
            54..64 => Self::Stall { up, after, pause: dice.millis(2000) },
            64..76 => Self::Cut { up, after },
            76..88 => Self::Reset { up, after },
            88..95 => Self::HalfClose { up, after },
            95..98 => Self::Hole { up, after },
            _ => Self::Refuse,
        }
    }
}

/// The proxy, and how many connections it has.
#[derive(Debug)]
pub(super) struct Proxy {
    addr: SocketAddr,
    shared: Arc<Shared>,
    accepting: JoinHandle<()>,
}

#[derive(Debug)]
struct Shared {
    seed: u64,
    hole: Duration,
    /// Where the servers are, if there are any: a connection goes to one of them by its number.
    servers: Mutex<Vec<SocketAddr>>,
    connections: watch::Sender<usize>,
}

impl Proxy {
    /// On a port of the system's choice, for at most so many connections. A black hole is one for so long, and then resets.
    pub(super) async fn bind(ledger: Arc<Ledger>, seed: u64, most: usize, hole: Duration) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared { seed, hole, servers: Mutex::default(), connections: watch::Sender::new(0) });
        let accepting = tokio::spawn(accept(listener, shared.clone(), ledger, most));
        Ok(Self { addr, shared, accepting })
    }

    pub(super) fn url(&self) -> String {
        format!("ws://{}/", self.addr)
    }

    /// Where connections go from now on.
    pub(super) fn lead_to(&self, servers: Vec<SocketAddr>) {
        *lock(&self.shared.servers) = servers;
    }

    pub(super) fn connections(&self) -> usize {
        *self.shared.connections.borrow()
    }

    /// Waits until it has none.
    pub(super) async fn rests(&self) {
        let mut connections = self.shared.connections.subscribe();
        let _ = connections.wait_for(|connections| *connections == 0).await; // the sender lives as long as this
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

/// Counts a connection while it lives.
struct Counted(Arc<Shared>);

impl Counted {
    fn new(shared: &Arc<Shared>) -> Self {
        shared.connections.send_modify(|connections| *connections += 1);
        Self(shared.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        self.0.connections.send_modify(|connections| *connections -= 1);
    }
}

async fn accept(listener: TcpListener, shared: Arc<Shared>, ledger: Arc<Ledger>, most: usize) {
    loop {
        let mut connections = shared.connections.subscribe();
        let _ = connections.wait_for(|connections| *connections < most).await; // the sender is ours
        match listener.accept().await {
            Ok((client, _)) => {
                let counted = Counted::new(&shared);
                let ledger = ledger.clone();
                tokio::spawn(async move {
                    serve(client, &counted.0, &ledger).await;
                });
            }
            // Out of descriptors, say: the clients are told by their deadlines.
            Err(_) => sleep(Duration::from_millis(10)).await,
        }
    }
}

/// Both ends get a reset when they are dropped.
fn reset_on_drop(socket: &TcpStream) {
    let _ = SockRef::from(socket).set_linger(Some(Duration::ZERO)); // of a socket that is gone
}

async fn serve(mut client: TcpStream, shared: &Shared, ledger: &Arc<Ledger>) {
    let _ = client.set_nodelay(true); // of a socket that is gone
    let Ok(Some((id, head))) = timeout(PATIENCE, request(&mut client)).await else { return };
    let Some(pair) = ledger.find(id) else {
        return ledger.violation(format!("a request bears the number {id}, which is over or was never given"));
    };
    let mut dice = Dice::new(shared.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
    let fate = Fate::draw(&mut dice);
    pair.fated(fate.clone());
    let server = {
        let servers = lock(&shared.servers);
        servers.get(id as usize % servers.len().max(1)).copied()
    };
    if matches!(fate, Fate::Refuse) {
        return reset_on_drop(&client);
    }
    let server = match server {
        Some(addr) => TcpStream::connect(addr).await,
        None => Err(io::ErrorKind::ConnectionRefused.into()),
    };
    let server = match server {
        Ok(server) => server,
        Err(error) => {
            pair.hurt(&format!("no server: {error}"));
            return reset_on_drop(&client);
        }
    };
    let _ = server.set_nodelay(true); // as above
    if timeout(LIFETIME, pass(client, server, head, &fate, shared.hole, &pair)).await.is_err() {
        pair.hurt("kept for too long");
    }
}

/// The request so far as it has come, which is all of it, and the number in it.
async fn request(client: &mut TcpStream) -> Option<(u64, BytesMut)> {
    let mut head = BytesMut::with_capacity(512);
    loop {
        if client.read_buf(&mut head).await.ok()? == 0 || head.len() > HEAD {
            return None;
        }
        let text = str::from_utf8(&head).ok()?;
        if text.contains("\r\n\r\n") {
            let (_, rest) = text.split_once(&format!("{HEADER}: "))?;
            let id = rest.split("\r\n").next()?.parse().ok()?;
            return Some((id, head));
        }
    }
}

/// What one direction ended in.
enum Over {
    /// The end of the stream was passed on.
    Eof,
    /// The fate has come.
    Fated,
    /// One of the two is gone.
    Broken,
}

/// What a direction does at its so-manieth byte.
enum At {
    Nothing,
    Pause(usize, Duration),
    Stop(usize),
}

impl At {
    fn of(fate: &Fate, is_up: bool) -> Self {
        match *fate {
            Fate::Stall { up, after, pause } if up == is_up => Self::Pause(after, pause),
            Fate::Cut { up, after }
            | Fate::Reset { up, after }
            | Fate::HalfClose { up, after }
            | Fate::Hole { up, after }
                if up == is_up =>
            {
                Self::Stop(after)
            }
            _ => Self::Nothing,
        }
    }
}

async fn pass(client: TcpStream, server: TcpStream, head: BytesMut, fate: &Fate, hole: Duration, pair: &Pair) {
    // Where a task is given up, or the deadline comes, neither side is to take it for a good end.
    reset_on_drop(&client);
    reset_on_drop(&server);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let half_close = matches!(fate, Fate::HalfClose { .. });
    let broken = {
        let up = direction(&mut from_client, &mut to_server, head, At::of(fate, true), fate);
        let down = direction(&mut from_server, &mut to_client, BytesMut::new(), At::of(fate, false), fate);
        both(up, down, half_close).await
    };
    if let Over::Fated = broken {
        pair.note(None, "its fate has come");
        match fate {
            Fate::Cut { .. } => {
                let _ = tokio::join!(to_client.shutdown(), to_server.shutdown()); // where it is too late, so be it
                // Read on, or what comes would make a reset of it.
                let swallowed = async { tokio::join!(swallow(&mut from_client), swallow(&mut from_server)) };
                if timeout(PATIENCE, swallowed).await.is_ok() {
                    linger(&from_client);
                    linger(&from_server);
                }
            }
            Fate::Hole { .. } => {
                let swallowed = async { tokio::join!(swallow(&mut from_client), swallow(&mut from_server)) };
                let _ = timeout(hole, swallowed).await; // both may have left before
            }
            _ => {}
        }
    } else if let Over::Eof = broken {
        linger(&from_client);
        linger(&from_server);
    } else {
        pair.note(None, "one side is gone");
    }
    // Dropped, they would end their directions with a FIN, before a reset.
    to_client.forget();
    to_server.forget();
}

/// It ended well: dropping it shall send no reset.
fn linger(half: &OwnedReadHalf) {
    let _ = SockRef::from(half.as_ref()).set_linger(None); // of a socket that is gone
}

/// Runs both directions until both have passed their end on, or one ends otherwise.
async fn both(up: impl Future<Output = Over>, down: impl Future<Output = Over>, half_close: bool) -> Over {
    tokio::pin!(up, down);
    let (first, is_up) = tokio::select! {
        over = &mut up => (over, true),
        over = &mut down => (over, false),
    };
    match first {
        Over::Eof => {}
        Over::Fated if half_close => {}
        Over::Fated | Over::Broken => return first,
    }
    if is_up { down.await } else { up.await }
}

async fn swallow(from: &mut OwnedReadHalf) {
    let mut sink = [0; 1024];
    while from.read(&mut sink).await.is_ok_and(|read| read > 0) {}
}

/// Passes bytes on in one direction, beginning with these.
async fn direction(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, head: BytesMut, mut at: At, fate: &Fate) -> Over {
    let mut buffer = head;
    let mut passed = 0;
    loop {
        while !buffer.is_empty() {
            let mut piece = buffer.len();
            match *fate {
                Fate::Delay(pause) => sleep(pause).await,
                Fate::Trickle(bytes) if passed < bytes => piece = 1,
                Fate::Trickle(bytes) if passed < 2 * bytes => piece = piece.min(1 + passed % 64),
                _ => {}
            }
            match at {
                At::Stop(after) | At::Pause(after, _) if passed < after => piece = piece.min(after - passed),
                At::Nothing | At::Stop(_) | At::Pause(..) => {}
            }
            if to.write_all(&buffer[..piece]).await.is_err() {
                return Over::Broken;
            }
            buffer.advance(piece);
            passed += piece;
            match at {
                At::Stop(after) if passed >= after => return stop(from, to, fate).await,
                At::Pause(after, pause) if passed >= after => {
                    at = At::Nothing;
                    sleep(pause).await;
                }
                At::Nothing | At::Stop(_) | At::Pause(..) => {}
            }
        }
        buffer.reserve(BUFFER);
        match (&mut *from).take(BUFFER as u64).read_buf(&mut buffer).await {
            Ok(0) => return if to.shutdown().await.is_ok() { Over::Eof } else { Over::Broken },
            Ok(_) => {}
            Err(_) => return Over::Broken,
        }
    }
}

/// A direction has had its bytes. One that is closed alone takes what still comes, so that the other can go on.
async fn stop(from: &mut OwnedReadHalf, to: &mut OwnedWriteHalf, fate: &Fate) -> Over {
    if matches!(fate, Fate::HalfClose { .. }) {
        if to.shutdown().await.is_err() {
            return Over::Broken;
        }
        swallow(from).await;
    }
    Over::Fated
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a server gets of a hundred bytes and the end of the stream, and how its stream ends.
    async fn through(fate: Fate) -> (usize, Result<(), io::ErrorKind>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let pair = async || {
            let (dialled, accepted) = tokio::join!(TcpStream::connect(addr), listener.accept());
            (dialled.unwrap(), accepted.unwrap().0)
        };
        let ((mut client, to_proxy), (from_proxy, mut server)) = (pair().await, pair().await);
        let ledger = Arc::new(Ledger::default());
        let connection = ledger.attempt(false, None);
        let proxy = tokio::spawn(async move {
            let head = BytesMut::from(&[b'h'; 40][..]);
            pass(to_proxy, from_proxy, head, &fate, Duration::from_millis(1), &connection).await;
        });
        let _ = client.write_all(&[b'b'; 60]).await; // it may be too late
        let _ = client.shutdown().await;
        let mut got = Vec::new();
        let end = server.read_to_end(&mut got).await.map(drop).map_err(|error| error.kind());
        drop((client, server));
        proxy.await.unwrap();
        (got.len(), end)
    }

    #[tokio::test]
    async fn each_fate_passes_what_it_says_and_ends_as_it_says() {
        let (up, after, pause) = (true, 70, Duration::from_millis(1));
        let reset = Err(io::ErrorKind::ConnectionReset);
        assert_eq!(through(Fate::Plain).await, (100, Ok(())));
        assert_eq!(through(Fate::Delay(pause)).await, (100, Ok(())));
        assert_eq!(through(Fate::Trickle(50)).await, (100, Ok(())));
        assert_eq!(through(Fate::Stall { up, after, pause }).await, (100, Ok(())));
        assert_eq!(through(Fate::Cut { up, after }).await, (70, Ok(())));
        assert_eq!(through(Fate::HalfClose { up, after }).await, (70, Ok(())));
        assert_eq!(through(Fate::Reset { up, after: 5 }).await.1, reset);
        assert_eq!(through(Fate::Hole { up, after: 5 }).await.1, reset);
    }

    #[test]
    fn every_fate_is_drawn() {
        let mut dice = Dice::new(1);
        let drawn: std::collections::HashSet<_> = (0..1000).map(|_| Fate::draw(&mut dice).name()).collect();
        assert_eq!(drawn.len(), Fate::NAMES.len());
    }
}
