//! A market-data client and a feed that misbehaves: it loses ticks, drops the connection, stalls, and falls silent. The
//! client notices each of these in its own way, and has the prices again a moment later.
//!
//! ```text
//! cargo run -p parley-tokio --example ticker
//! ```

mod book;
mod feed;

use std::time::{Duration, Instant};

use book::{Applied, Book, Message};
use parley_tokio::{
    Action, BoxError, Client, CloseCode, CloseFrame, Connected, DisconnectReason, Frame, Handle, Handler, Keepalive,
    Origins, Reconnect, Retry, Server,
};

/// How often the client looks whether ticks still come, and how long none is too long. In a quiet market it would be longer.
const HEARTBEAT: Duration = Duration::from_millis(100);
const STALLED: Duration = Duration::from_millis(600);

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let log = Timeline(Instant::now());
    let server = Server::bind("127.0.0.1:0", Origins::same_host())?;
    let url = format!("ws://{}/", server.local_addr().ok_or("a bound server has an address")?);
    let feed = tokio::spawn(feed::run(server, log));

    let client = Client::builder(&url)?
        // A client of a distant feed keeps the defaults: 1 s, doubling to 30 s, and a ping after 20 s of silence.
        .reconnect(Reconnect::default().base(Duration::from_millis(100)))
        .keepalive(Some(Keepalive::new(Duration::from_millis(150), Duration::from_millis(250))?))
        .start_with(|own| Ticker { log, own, book: Book::default(), last_tick: None, tally: Tally::default() })
        .await?;
    let watcher = client.handle(); // the numbers can still be read when the client has ended
    let Ticker { book, tally, .. } = client.join().await?;
    feed.await??;

    log.line("main", &format!("the last prices are {book}"));
    let Tally { connections, ticks, gaps, snapshots } = tally;
    log.line("main", &format!("connections {connections}, ticks {ticks}, gaps {gaps}, snapshots {snapshots}"));
    let stats = watcher.stats();
    log.line("main", &format!("frames received {}, sent {}", stats.frames_received, stats.frames_sent));
    Ok(())
}

/// Keeps a book of prices that has no gaps. It outlives its connections.
struct Ticker {
    log: Timeline,
    /// The client's own handle: here the way to set timers.
    own: Handle<Heartbeat>,
    book: Book,
    /// When the last tick came, or else the connection; `None` while there is none.
    last_tick: Option<Instant>,
    tally: Tally,
}

/// What the handler tells itself from time to time.
struct Heartbeat;

#[derive(Default)]
struct Tally {
    connections: u32,
    ticks: u32,
    gaps: u32,
    snapshots: u32,
}

impl Handler<Heartbeat> for Ticker {
    async fn init(&mut self) -> Result<(), BoxError> {
        self.own.send_info_after(HEARTBEAT, Heartbeat)?;
        Ok(())
    }

    /// A subscription does not outlive the connection it was made on, so that each begins with one.
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.tally.connections += 1;
        self.last_tick = Some(Instant::now());
        self.book.invalidate();
        self.line("is connected, and subscribes");
        Ok(Frame::text("subscribe").into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        let Frame::Text(text) = frame else { return Ok(Action::Continue) };
        self.last_tick = Some(Instant::now());
        // A feed that makes no sense ends the client, by `?`: another connection would not help.
        match Message::parse(&text)? {
            Message::Tick { sequence, symbol, price } => match self.book.tick(sequence, symbol, price) {
                Applied::Moved => {
                    self.tally.ticks += 1;
                    self.line(&format!("tick {sequence}: {symbol} {price}"));
                }
                Applied::Gap { missing } => {
                    self.tally.gaps += 1;
                    self.line(&format!("gap before tick {sequence}: asks for a snapshot, since {missing} are missing"));
                    return Ok(Frame::text("snapshot").into());
                }
                Applied::Ignored => self.line(&format!("tick {sequence}: ignored, a snapshot is due")),
            },
            Message::Snapshot { sequence, quotes } => {
                self.tally.snapshots += 1;
                let missed = match self.book.snapshot(sequence, &quotes) {
                    Some(missed) => format!(", makes up for {missed} ticks"),
                    None => String::new(),
                };
                self.line(&format!("snapshot {sequence}: {}{missed}", self.book));
            }
            Message::Closed => {
                self.line("the market has closed");
                return Ok(Action::Stop);
            }
        }
        Ok(Action::Continue)
    }

    /// Keepalive sees a peer that is gone. One that is there, answers pings and sends no ticks is the application's to see.
    async fn handle_info(&mut self, Heartbeat: Heartbeat) -> Result<Action, BoxError> {
        self.own.send_info_after(HEARTBEAT, Heartbeat)?;
        if self.last_tick.is_none_or(|at| at.elapsed() < STALLED) {
            return Ok(Action::Continue);
        }
        self.last_tick = None;
        let answer = match self.own.stats().rtt {
            Some(rtt) => format!("the feed answers pings in {:.1} ms", rtt.last.as_secs_f64() * 1000.0),
            None => "no ping was answered".to_owned(),
        };
        self.line(&format!("no ticks, though {answer}: gives this connection up"));
        Ok(Action::Reconnect(CloseFrame::new(CloseCode::POLICY_VIOLATION, "no ticks")?))
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.last_tick = None;
        self.line(&format!("has lost its connection: {reason}"));
        Retry::Policy
    }
}

impl Ticker {
    fn line(&self, what: &str) {
        self.log.line("client", what);
    }
}

/// Lines with the time since the start.
#[derive(Clone, Copy)]
struct Timeline(Instant);

impl Timeline {
    fn line(self, who: &str, what: &str) {
        println!("{:6} ms  {who:6}  {what}", self.0.elapsed().as_millis());
    }
}
