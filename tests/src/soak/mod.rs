//! A long run over sockets: many clients through a proxy that delays, cuts and resets, on two runtimes at a time.
//!
//! ```text
//!  client ── sockets and handlers ── proxy ── one of two servers: sockets and handlers
//!     └────────── Pair: what each end sent, got and was told ─────────┘
//! ```
//!
//! Messages bear a connection's number, a number of their own and a checksum, so that each end knows what comes next. When both
//! ends of a connection have told how they ended, the two stories are held against each other (`ledger`). Every so often is a
//! low tide: all clients end, the servers shut down, and the process must hold what it held at the last one (`measure`).
//!
//! What is checked, of what the library promises:
//!
//! - messages of one source arrive in order, none lost between two that arrive, none twice, none changed, none after the end;
//! - what was given back has not arrived;
//! - who is closed by the peer has all that the peer's sends and flushes had settled before, and all that was accepted before
//!   the Close, where a handle asked for it;
//! - a Close has the code that the peer asked for, and not both sides say that the other began;
//! - where the proxy only delays and both sides close, both ends are clean; an attempt fails for a reason that somebody had;
//! - each side of a connection ends once, each client is terminated once, and ends as it was told to;
//! - pongs answer pings, none twice and none out of order;
//! - nothing hangs: after each round all tasks end, and the servers have to drop nobody;
//! - resident memory and file descriptors are flat.

mod client;
mod ledger;
mod measure;
mod message;
mod proxy;
mod server;
mod talk;
mod worker;

use std::fmt;
use std::future::poll_fn;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use parley_proto::driver::{Clock, Platform, Server};
use parley_proto::handshake::Origins;
use tokio::sync::mpsc;
use tokio::time::timeout;

use self::ledger::{Ledger, Totals};
use self::measure::{Sample, Tide};
use self::proxy::{Fate, Proxy};
use crate::dice::Dice;

/// Of both sides. Half of it is what a peer's Close may wait for callbacks; the proxy stalls for less.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(30);
/// Of both sides, so that a loaded machine alone makes none fail.
const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(45);
/// For a round to end, and for a server to shut down, above the close timeout.
const EBB: Duration = Duration::from_secs(90);
/// How long the proxy swallows what it is given, where it does.
const HOLE: Duration = Duration::from_secs(5);
/// Between two looks at the process in a round.
const LOOK: Duration = Duration::from_secs(10);

/// How long, how many, and which.
#[derive(Clone, Debug)]
pub struct Options {
    /// After the warm-up; the last round is brought to its end.
    pub length: Duration,
    /// Between two low tides.
    pub round: Duration,
    /// Clients at a time.
    pub connections: usize,
    /// What the proxy and the applications draw from.
    pub seed: u64,
}

/// What a run has come to.
pub struct Report {
    options: Options,
    totals: Totals,
    samples: Vec<Sample>,
    violations: Vec<String>,
    violated: u64,
}

impl Report {
    /// Whether all is as promised.
    #[must_use]
    pub fn passed(&self) -> bool {
        self.violated == 0
    }

    /// Connections that have been open.
    #[must_use]
    pub fn opened(&self) -> u64 {
        self.totals.opened
    }

    /// Messages that have arrived.
    #[must_use]
    pub fn messages(&self) -> u64 {
        self.totals.messages
    }

    /// What is not as promised: the first few.
    #[must_use]
    pub fn violations(&self) -> &[String] {
        &self.violations
    }
}

impl fmt::Debug for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Totals {
            attempts,
            opened,
            messages,
            pings,
            bytes,
            settled,
            given_back,
            strays,
            in_turn,
            harmless,
            too_slow,
            ends,
            fates,
        } = &self.totals;
        let Options { length, round, connections, seed } = &self.options;
        writeln!(f, "{connections} clients for {length:.0?}, a low tide every {round:.0?}, seed {seed}")?;
        writeln!(f, "  connections      {opened} opened, of {attempts} attempts")?;
        writeln!(f, "  messages         {messages} arrived ({} MiB), and {pings} pings", bytes >> 20)?;
        writeln!(
            f,
            "  sends            {settled} settled, {given_back} given back, {strays} went to the next connection"
        )?;
        writeln!(
            f,
            "  judged           {in_turn} ends by the peer's Close, {harmless} connections that nothing disturbed, not {too_slow} closed too slowly"
        )?;
        writeln!(f, "  the proxy")?;
        for name in Fate::NAMES.iter().copied().chain(["never reached"]) {
            writeln!(f, "    {:>8}  {name}", fates.get(name).copied().unwrap_or_default())?;
        }
        for side in ["client", "server"] {
            writeln!(f, "  ends, as the {side} was told")?;
            for ((of, end), count) in ends {
                if *of == side {
                    writeln!(f, "    {count:>8}  {end}")?;
                }
            }
        }
        measure::print(f, &self.samples)?;
        match self.violated {
            0 => write!(f, "nothing lost, doubled or leaked"),
            violated => write!(f, "{violated} violations"),
        }
    }
}

/// One tide: servers, and clients until it is over.
struct Round {
    ledger: Arc<Ledger>,
    url: String,
    length: Duration,
    over: AtomicBool,
    /// Dropped with the last task of the round.
    _alive: mpsc::Sender<()>,
}

impl Round {
    fn is_over(&self) -> bool {
        self.over.load(Ordering::SeqCst)
    }
}

/// A pause on whatever runtime.
async fn sleep<P: Platform>(time: Duration) {
    let mut clock = P::clock();
    let until = clock.now() + time;
    poll_fn(|cx| clock.poll_sleep(cx, until)).await;
}

/// A whole run, on tokio's runtime: half of the clients and servers are on platform `A`, half on `B`.
///
/// # Errors
///
/// No socket could be had.
pub async fn run<A: Platform, B: Platform>(options: Options) -> io::Result<Report> {
    let ledger = Arc::new(Ledger::default());
    let proxy =
        Proxy::bind(ledger.clone(), options.seed, 4 * options.connections + 64, HOLE.min(options.round)).await?;
    let mut dice = Dice::new(options.seed);
    let mut samples = Vec::new();
    let started = Instant::now();

    // The runtimes' threads and tables, and all code once.
    let few = options.connections.min(32);
    let warm_up = options.round.min(Duration::from_secs(2));
    let mut sound = round::<A, B>(&ledger, &proxy, &mut dice, few, warm_up, 0, started, &mut Vec::new()).await?;
    let base = measure::files_at_rest().await;
    let begun = Instant::now();
    let mut number = 0;
    while sound && begun.elapsed() < options.length {
        number += 1;
        let length = options.round;
        sound = round::<A, B>(&ledger, &proxy, &mut dice, options.connections, length, number, started, &mut samples)
            .await?;
        if sound && !measure::files_are(base).await {
            ledger.violation(format!(
                "{:?} file descriptors are open at low tide, {base:?} were before",
                measure::files()
            ));
            sound = false;
        }
        samples.push(Sample::take(started, Tide::Low, 0));
        println!("round {number}: {}, {} connections so far", samples[samples.len() - 1], ledger.totals().opened);
    }
    for (tide, what) in measure::growth(&samples) {
        ledger.violation(format!("resident memory grows, at {tide:?} tide: {what}"));
    }
    Ok(Report {
        options,
        totals: ledger.totals(),
        samples,
        violations: ledger.violations(),
        violated: ledger.violated(),
    })
}

/// One round, from its servers' start to their end. False: it has not come to its end.
#[expect(clippy::too_many_arguments, reason = "it is the body of the loop above")]
async fn round<A: Platform, B: Platform>(
    ledger: &Arc<Ledger>,
    proxy: &Proxy,
    dice: &mut Dice,
    clients: usize,
    length: Duration,
    number: usize,
    started: Instant,
    samples: &mut Vec<Sample>,
) -> io::Result<bool> {
    let (alive, mut all_gone) = mpsc::channel(1);
    let over = AtomicBool::new(false);
    let round = Arc::new(Round { ledger: ledger.clone(), url: proxy.url(), length, over, _alive: alive });
    ledger.ebb(false);
    let servers = (listen::<A>(clients)?, listen::<B>(clients)?);
    proxy.lead_to([servers.0.local_addr(), servers.1.local_addr()].into_iter().flatten().collect());
    A::spawn(server::serve(servers.0.clone(), round.clone(), dice.fork()));
    B::spawn(server::serve(servers.1.clone(), round.clone(), dice.fork()));
    for place in 0..clients {
        let (round, dice) = (round.clone(), dice.fork());
        if place % 2 == 0 {
            A::spawn(client::place::<A>(round, dice));
        } else {
            B::spawn(client::place::<B>(round, dice));
        }
    }

    // In between each place has its client, or is between two.
    let looks = (length.as_secs() / LOOK.as_secs()).max(1) as u32;
    for _ in 0..looks {
        tokio::time::sleep(length / looks / 2).await;
        samples.push(Sample::take(started, Tide::High, proxy.connections()));
        tokio::time::sleep(length / looks / 2).await;
    }
    round.over.store(true, Ordering::SeqCst);
    // In turns, the clients leave first, or the servers.
    let clients_first = number % 2 != 1;
    if clients_first {
        let until = Instant::now() + EBB;
        while ledger.open() > 0 && Instant::now() < until {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
    ledger.ebb(true);
    proxy.lead_to(Vec::new());
    let limit = CLOSE_TIMEOUT + EBB;
    let dropped = tokio::join!(servers.0.shutdown(limit), servers.1.shutdown(limit));
    if dropped != (0, 0) {
        ledger.violation(format!("{dropped:?} connections had to be dropped by the servers' shutdown"));
    }
    drop((round, servers));
    let gone = timeout(EBB, async {
        let _ = all_gone.recv().await; // nobody sends
        proxy.rests().await;
    });
    let ended = gone.await.is_ok();
    if !ended {
        ledger.violation(format!(
            "round {number} does not end: {} connections open, {} at the proxy",
            ledger.open(),
            proxy.connections()
        ));
    }
    ledger.settle();
    Ok(ended && ledger.violated() == 0)
}

fn listen<P: Platform>(clients: usize) -> io::Result<Arc<Server<P>>> {
    let builder = Server::<P>::builder(Origins::any())
        .close_timeout(CLOSE_TIMEOUT)
        .handshake_timeout(HANDSHAKE_TIMEOUT)
        .max_handshakes(4 * clients + 64);
    Ok(Arc::new(builder.bind("127.0.0.1:0")?))
}
