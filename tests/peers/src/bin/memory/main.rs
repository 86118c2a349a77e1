//! Parley and the other libraries in memory: what a message costs to receive and to send, without sockets.
//!
//! ```text
//! memory --out FILE [--append] [--quick] [--half] [--row PART]    measures, and writes the figures to a JSON file
//! memory --run LIBRARY ROW MESSAGES                               exactly so many messages, for a profiler
//! memory --list                                                   the rows, one a line, with their groups
//! ```
//!
//! Every library runs on the same bytes through its own connection type, with a transport that is always ready. What it receives is
//! compared with what was sent, all of it once, and its length ever after; what it sends is parsed once, and counted ever after.

mod libraries;
mod loops;
mod shapes;
mod wire;

use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parley_peers::bench::{Contender, Effort, Report, Run, Sample, batches, compete};

use libraries::{
    AsyncTungstenite, FastWebSockets, Library, Parley, ParleyAsyncStd, ParleyProto, Sockudo, Soketto, TokioTungstenite,
    TokioWebSockets, Tungstenite, WebSocketCrate, Yawc, block_on,
};
use shapes::{CJK, JSON, MIXED, Message, Role, Shape, WORDS, framed_length, parsed};
use wire::Wire;

const READ: usize = 64 * 1024;
/// What one TCP segment carries over Ethernet.
const SEGMENT: usize = 1448;
/// Messages that leave in one write.
const BATCH: u64 = 64;
const MIB: usize = 1024 * 1024;

/// What is measured in one row of messages.
#[derive(Clone, Copy)]
enum Work {
    Receive { shape: Shape, read: usize },
    Send { shape: Shape, batch: u64 },
}

struct Row {
    name: &'static str,
    role: Role,
    work: Work,
}

const fn receive(name: &'static str, role: Role, shape: Shape) -> Row {
    Row { name, role, work: Work::Receive { shape, read: READ } }
}

const fn send(name: &'static str, role: Role, shape: Shape, batch: u64) -> Row {
    Row { name, role, work: Work::Send { shape, batch } }
}

const SMALL: Shape = Shape::text(JSON, 128, 128);

const ROWS: &[Row] = &[
    receive("server, text 8-125 B", Role::Server, Shape::text(WORDS, 8, 125)),
    receive("server, binary 16 B", Role::Server, Shape::binary(16)),
    receive("server, text 1 KiB ASCII", Role::Server, Shape::text(WORDS, 1024, 1024)),
    receive("server, text 1 KiB CJK", Role::Server, Shape::text(CJK, 1024, 1024)),
    receive("server, text 4 KiB in 8 fragments", Role::Server, Shape::text(WORDS, 4096, 4096).in_fragments(8)),
    receive("server, binary 64 KiB", Role::Server, Shape::binary(64 * 1024)),
    receive("server, text 64 KiB mixed", Role::Server, Shape::text(MIXED, 64 * 1024, 64 * 1024)),
    receive("server, binary 1 MiB", Role::Server, Shape::binary(MIB)),
    receive("client, JSON 100-200 B", Role::Client, Shape::text(JSON, 100, 200)),
    Row {
        name: "client, JSON, reads of 1448 B",
        role: Role::Client,
        work: Work::Receive { shape: Shape::text(JSON, 100, 200), read: SEGMENT },
    },
    receive("client, binary 64 KiB", Role::Client, Shape::binary(64 * 1024)),
    send("server, 128 B, flush each", Role::Server, SMALL, 1),
    send("server, 128 B, flush by 64", Role::Server, SMALL, BATCH),
    send("client, 128 B, flush each", Role::Client, SMALL, 1),
    send("client, 128 B, flush by 64", Role::Client, SMALL, BATCH),
    send("server, 64 KiB", Role::Server, Shape::binary(64 * 1024), 1),
    send("client, 64 KiB", Role::Client, Shape::binary(64 * 1024), 1),
    send("client, 1 MiB", Role::Client, Shape::binary(MIB), 1),
];

type Make = fn(&Row) -> Contender;

const LENT: &str = Parley::<true>::NAME;
const OWNED: &str = Parley::<false>::NAME;

const LIBRARIES: &[(&str, Make)] = &[
    (LENT, Row::contender::<Parley<true>>),
    (OWNED, Row::contender::<Parley<false>>),
    (ParleyProto::NAME, Row::contender::<ParleyProto>),
    (ParleyAsyncStd::NAME, Row::contender::<ParleyAsyncStd>),
    (Tungstenite::NAME, Row::contender::<Tungstenite>),
    (TokioTungstenite::NAME, Row::contender::<TokioTungstenite>),
    (AsyncTungstenite::NAME, Row::contender::<AsyncTungstenite>),
    (FastWebSockets::NAME, Row::contender::<FastWebSockets>),
    (TokioWebSockets::NAME, Row::contender::<TokioWebSockets>),
    (Yawc::NAME, Row::contender::<Yawc>),
    (Sockudo::NAME, Row::contender::<Sockudo>),
    (Soketto::NAME, Row::contender::<Soketto>),
    (WebSocketCrate::NAME, Row::contender::<WebSocketCrate>),
];

impl Row {
    fn group(&self) -> &'static str {
        match self.work {
            Work::Receive { .. } => "receive",
            Work::Send { .. } => "send",
        }
    }

    fn contender<L: Library>(&self) -> Contender {
        match self.work {
            Work::Receive { shape, read } => receiver::<L>(self.role, shape, read),
            Work::Send { shape, batch } => sender::<L>(self.role, shape, batch),
        }
    }

    fn contenders(&self) -> Vec<Contender> {
        let same = |name: &str| matches!(self.work, Work::Send { .. }) && name == OWNED;
        LIBRARIES.iter().filter(|(name, _)| !same(name)).map(|(_, contender)| contender(self)).collect()
    }

    fn contender_of(&self, library: &str) -> Option<Contender> {
        LIBRARIES.iter().find(|(name, _)| *name == library).map(|(_, contender)| contender(self))
    }
}

/// Receives, after it has seen every message of the shape come through whole.
fn receiver<L: Library>(role: Role, shape: Shape, read: usize) -> Contender {
    let mut library = L::open(role, Wire::new(shape.wire(role), read));
    let messages = shape.messages();
    for message in &messages {
        let mut seen = None;
        block_on(library.receive(&mut |kind, payload| seen = Some((kind, payload.to_vec()))));
        let (kind, payload) = seen.expect("a message");
        assert!((kind, &payload[..]) == (message.kind, &message.payload[..]), "{} got another message", L::NAME);
    }
    let lengths: Vec<usize> = messages.iter().map(|message| message.payload.len()).collect();
    let mut next = 0;
    Contender::new(L::NAME, move |messages| {
        let mut received = 0;
        block_on(async {
            for _ in 0..messages {
                library.receive(&mut |_, payload| received += payload.len() as u64).await;
            }
        });
        assert_eq!(received, sum(&lengths, &mut next, messages), "{} lost something", L::NAME);
    })
}

/// The lengths of so many messages from number `next` on, which moves on behind them.
fn sum(lengths: &[usize], next: &mut usize, messages: u64) -> u64 {
    let all: u64 = lengths.iter().map(|length| *length as u64).sum();
    let count = lengths.len() as u64;
    let rest = (messages % count) as usize;
    let some: u64 = lengths.iter().cycle().skip(*next).take(rest).map(|length| *length as u64).sum();
    *next = (*next + rest) % lengths.len();
    messages / count * all + some
}

/// Sends one message over and over, after some of it has been parsed.
fn sender<L: Library>(role: Role, shape: Shape, batch: u64) -> Contender {
    let wire = Wire::new([].into(), READ);
    let written = wire.written();
    let mut library = L::open(role, wire);
    // Memory that is never freed: counting who refers to it would be part of every library's figure that takes payloads over.
    let Message { kind, payload } = shape.messages().swap_remove(0);
    let message = Message { kind, payload: Bytes::from_static(Vec::from(payload).leak()) };
    let outgoing = L::outgoing(&message);
    let mut run = move |messages| {
        block_on(async {
            if batch == 1 {
                for _ in 0..messages {
                    library.send(&outgoing).await;
                }
                return;
            }
            for batch in batches(messages, batch) {
                for _ in 0..batch {
                    library.feed(&outgoing).await;
                }
                library.flush().await;
            }
        });
    };

    written.keep();
    run(3);
    let sent = parsed(role, &written.take_kept());
    assert!(sent.len() == 3 && sent.iter().all(|(sent, _)| *sent == message), "{} sent something else", L::NAME);
    if role == Role::Client {
        let keys: Vec<_> = sent.iter().map(|(_, key)| *key).collect();
        assert!(keys[0] != keys[1] && keys[1] != keys[2], "{} masks with one key", L::NAME);
    }
    let (_, before) = written.totals();
    run(BATCH);
    let (_, after) = written.totals();
    let mark = (batch == BATCH && after - before >= BATCH).then_some("w");

    let length = framed_length(role, message.payload.len());
    let contender = Contender::new(L::NAME, move |messages| {
        let (before, _) = written.totals();
        run(messages);
        let (after, _) = written.totals();
        assert_eq!(after - before, messages * length, "{} lost something", L::NAME);
    });
    Contender { mark, ..contender }
}

/// The command line.
struct Options {
    out: Option<String>,
    append: bool,
    quick: bool,
    half: bool,
    row: Option<String>,
    list: bool,
    run: Option<(String, String, u64)>,
}

impl Options {
    fn parse(mut words: impl Iterator<Item = String>) -> Option<Self> {
        let mut options =
            Self { out: None, append: false, quick: false, half: false, row: None, list: false, run: None };
        while let Some(word) = words.next() {
            match word.as_str() {
                "--out" => options.out = Some(words.next()?),
                "--append" => options.append = true,
                "--quick" => options.quick = true,
                "--half" => options.half = true,
                "--row" => options.row = Some(words.next()?),
                "--list" => options.list = true,
                "--run" => options.run = Some((words.next()?, words.next()?, words.next()?.parse().ok()?)),
                _ => return None,
            }
        }
        Some(options)
    }

    fn effort(&self, group: &str) -> Effort {
        let (rounds, milliseconds) = match (self.quick, group) {
            (true, "receive" | "send") => (6, 5),
            (true, _) => (6, 2),
            (false, "receive" | "send") => (32, 20),
            (false, _) => (32, 8),
        };
        let rounds = if self.half { rounds / 2 } else { rounds };
        Effort { rounds, per_round: Duration::from_millis(milliseconds) }
    }
}

fn main() -> ExitCode {
    // Timers of tokio want to know their runtime, though none is ever due here.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let _inside = runtime.enter();
    sockudo_ws::init_clock();

    let Some(options) = Options::parse(std::env::args().skip(1)) else {
        eprintln!(
            "usage: memory --out FILE [--append] [--quick] [--half] [--row PART] | --run LIBRARY ROW MESSAGES | --list"
        );
        return ExitCode::FAILURE;
    };
    if options.list {
        ROWS.iter().for_each(|row| println!("{}: {}", row.group(), row.name));
        loops::rows().iter().for_each(|row| println!("{}: {}", row.group, row.name));
        return ExitCode::SUCCESS;
    }
    if let Some((library, row, messages)) = &options.run {
        let contender = ROWS.iter().filter(|candidate| candidate.name == row).find_map(|row| row.contender_of(library));
        let Some(mut contender) = contender else {
            eprintln!("no such library or row");
            return ExitCode::FAILURE;
        };
        (contender.run)(*messages);
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(options: &Options) -> Result<(), String> {
    let started = Instant::now();
    let mut run = Run::start("memory", options.quick);
    let wanted = |group: &str, name: &str| {
        options.row.as_ref().is_none_or(|part| format!("{group}: {name}").contains(part.as_str()))
    };
    for row in ROWS.iter().filter(|row| wanted(row.group(), row.name)) {
        compare(&mut run, options, row.group(), row.name, row.contenders());
    }
    for row in loops::rows().into_iter().filter(|row| wanted(row.group, &row.name)) {
        compare(&mut run, options, row.group, &row.name, row.contenders);
    }
    eprintln!("in memory: {} figures in {:.0} s", run.samples.len(), started.elapsed().as_secs_f32());
    match &options.out {
        Some(file) => run.write(Path::new(file), options.append),
        None => {
            print!("{}", Report::new(vec![run]).text());
            Ok(())
        }
    }
}

fn compare(run: &mut Run, options: &Options, group: &str, row: &str, mut contenders: Vec<Contender>) {
    eprintln!("{group}: {row}");
    let values = compete(&mut contenders, options.effort(group));
    for (contender, values) in contenders.iter().zip(values) {
        run.add(Sample {
            group: group.to_owned(),
            row: row.to_owned(),
            library: contender.library.to_owned(),
            unit: "ns".to_owned(),
            values,
            mark: contender.mark.map(str::to_owned),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_sum_goes_on_where_the_last_one_ended() {
        let mut next = 0;
        let lengths = [1, 10, 100];
        assert_eq!(sum(&lengths, &mut next, 2), 11);
        assert_eq!(sum(&lengths, &mut next, 2), 101);
        assert_eq!(sum(&lengths, &mut next, 7), 232);
    }
}
