//! The feed: one subscriber at a time, and a script of what goes wrong.
//!
//! ```text
//! subscriber ─▶ feed   subscribe   snapshot
//! feed ─▶ subscriber   snapshot SEQUENCE (SYMBOL PRICE)...   tick SEQUENCE SYMBOL PRICE   closed
//! ```

use std::fmt;
use std::time::Duration;

use parley_tokio::{Error, Frame, Server, WebSocket};

use crate::Timeline;

/// The time from one tick to the next.
const PACE: Duration = Duration::from_millis(40);

enum Step {
    /// Sends a tick.
    Tick,
    /// A tick gets lost on its way out: the subscriber sees a gap.
    Lose,
    /// Sends no tick any more, though the connection is fine: pings are answered.
    Stall,
    /// Does nothing any more: neither reads nor writes, like a machine without power.
    Freeze,
    /// Ends the connection without a Close.
    Drop,
    /// Says that this was all.
    Finish,
}
use Step::{Drop, Finish, Freeze, Lose, Stall, Tick};

/// What happens on each connection.
const SCRIPT: [&[Step]; 4] = [
    &[Tick, Tick, Tick, Lose, Lose, Tick, Tick, Tick, Tick, Drop],
    &[Tick, Tick, Tick, Stall],
    &[Tick, Tick, Tick, Freeze],
    &[Tick, Tick, Tick, Tick, Finish],
];

/// Serves one connection after the other, as the script says.
pub(crate) async fn run(server: Server, log: Timeline) -> Result<(), Error> {
    let mut market = Market::open();
    let mut frozen = Vec::new();
    for steps in SCRIPT {
        let Some(incoming) = server.next().await else { break };
        let mut socket = incoming.into_websocket().await?;
        if let Err(error) = serve(&mut socket, steps, &mut market, log).await {
            log.line("feed", &format!("has lost its subscriber: {error}"));
        }
        if let [.., Freeze] = steps {
            frozen.push(socket); // any other is dropped here
        }
        for _ in 0..6 {
            market.tick(); // it goes on while nobody listens
        }
    }
    Ok(())
}

async fn serve(socket: &mut WebSocket, steps: &[Step], market: &mut Market, log: Timeline) -> Result<(), Error> {
    for step in steps {
        answer_for(PACE, socket, market).await?;
        match step {
            Tick => socket.send(market.tick()).await?,
            Lose => {
                log.line("feed", "loses a tick");
                market.tick();
            }
            Stall => {
                log.line("feed", "sends no more ticks");
                until_closed(socket).await?;
            }
            Freeze => log.line("feed", "is silent from here on"),
            Drop => log.line("feed", "drops the connection"),
            Finish => {
                socket.send(Frame::text("closed")).await?;
                until_closed(socket).await?;
            }
        }
    }
    Ok(())
}

/// Answers the subscriber's requests for so long. Whatever it asks for, it gets a snapshot.
async fn answer_for(time: Duration, socket: &mut WebSocket, market: &Market) -> Result<(), Error> {
    let until = tokio::time::Instant::now() + time;
    loop {
        tokio::select! {
            () = tokio::time::sleep_until(until) => return Ok(()),
            frame = socket.next() => match frame {
                Some(Ok(Frame::Text(_))) => socket.send(market.snapshot()).await?,
                Some(frame) => _ = frame?,
                None => return Ok(()), // it has gone: sending will say so
            },
        }
    }
}

/// Lets the subscriber close. Whoever does not call `next` answers no ping either.
async fn until_closed(socket: &mut WebSocket) -> Result<(), Error> {
    while let Some(frame) = socket.next().await {
        frame?;
    }
    Ok(())
}

/// Prices that move, and the number of their last move.
struct Market {
    sequence: u64,
    quotes: [(&'static str, Price); 2],
}

impl Market {
    fn open() -> Self {
        Self { sequence: 100, quotes: [("EUR/USD", Price(1_0840)), ("GBP/USD", Price(1_2710))] }
    }

    fn tick(&mut self) -> Frame {
        self.sequence += 1;
        let which = usize::from(self.sequence % 3 == 0);
        let (symbol, price) = &mut self.quotes[which];
        price.0 = price.0 + 4 - (self.sequence * 7 % 9) as u32; // anything that looks like a market
        Frame::text(format!("tick {} {symbol} {price}", self.sequence))
    }

    fn snapshot(&self) -> Frame {
        let quotes: String = self.quotes.iter().map(|(symbol, price)| format!(" {symbol} {price}")).collect();
        Frame::text(format!("snapshot {}{quotes}", self.sequence))
    }
}

/// In units of 0.0001, since prices are no floats.
struct Price(u32);

impl fmt::Display for Price {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{:04}", self.0 / 10_000, self.0 % 10_000)
    }
}
