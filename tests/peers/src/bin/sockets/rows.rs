//! The rows, and how they are measured.

use std::io;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use parley_peers::bench::{Report, Run, Sample, median};

use crate::job::{Job, Loop, Role, Task, to_hex};
use crate::load::{self, Drain, Echo, Load, Source};
use crate::process::{self, Process};
use crate::tls::Identity;
use crate::under_test::BoxError;
use crate::{scale, wire};

const KIB: usize = 1024;
pub const MIB: usize = 1024 * KIB;

/// A column of a row: what is started for it.
#[derive(Clone, Copy, Debug)]
pub struct Column {
    pub name: &'static str,
    pub library: &'static str,
    pub way: Way,
}

/// What a column does otherwise than the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// As fast as the library can.
    Fastest,
    /// One reply after the other.
    Naive,
    /// The same with `auto_cork`.
    Corked,
    /// Parley's callbacks.
    Callbacks,
    /// Parley's handle, from a task beside the client.
    Handle,
    /// The same, with all that is flushed together fed together.
    HandleAll,
}

const fn column(name: &'static str) -> Column {
    Column { name, library: name, way: Way::Fastest }
}

const fn ours(name: &'static str, way: Way) -> Column {
    Column { name, library: "parley", way }
}

pub const RAW: Column = column("raw-tcp");
pub const PARLEY: Column = column("parley");
const CORKED: Column = ours("parley-corked", Way::Corked);
pub const CALLBACKS: Column = ours("parley-callbacks", Way::Callbacks);
const HANDLE: Column = ours("parley-handle", Way::Handle);
const HANDLE_ALL: Column = ours("parley-handle-all", Way::HandleAll);
/// Those that are up in a quick run stand first.
pub const PEERS: [Column; 7] = [
    column("sockudo-ws"),
    column("yawc"),
    column("tokio-tungstenite"),
    column("tokio-websockets"),
    column("fastwebsockets"),
    column("soketto"),
    column("web-socket"),
];
const ASYNC_STD: [Column; 1] = [column("async-tungstenite")];
const WITH_TLS: [Column; 2] = [column("tokio-tungstenite"), column("tokio-websockets")];

fn columns(lists: &[&[Column]]) -> Vec<Column> {
    lists.concat()
}

/// What is measured of a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Figure {
    /// CPU time of the process under test, a message.
    Cpu,
    /// From a message to its reply, the median.
    Latency,
    /// Time a message, while the load keeps the process busy.
    Time,
}

#[derive(Clone, Copy, Debug)]
enum Work {
    Echo {
        connections: usize,
        depth: usize,
        size: usize,
    },
    /// Size 0: 100 to 200 bytes.
    Receive {
        size: usize,
    },
    Send {
        size: usize,
        flush_every: u64,
    },
}

struct Row {
    group: &'static str,
    name: &'static str,
    runtime: &'static str,
    tls: bool,
    figure: Figure,
    /// The runtime's threads; 0 for one that is the caller's own.
    workers: usize,
    work: Work,
    columns: Vec<Column>,
}

fn row(group: &'static str, name: &'static str, work: Work, columns: Vec<Column>) -> Row {
    Row { group, name, runtime: "tokio", tls: false, figure: Figure::Cpu, workers: 0, work, columns }
}

const ECHO: &str = "echo server, tokio";
const CLIENT: &str = "client, tokio";
const ECHO_ASYNC_STD: &str = "echo server, async-std";
const CLIENT_ASYNC_STD: &str = "client, async-std";
const TLS: &str = "TLS, tokio";
/// One connection's depth stays the same, the figure should.
const BY_CONNECTIONS: &str = "echo by connections, depth 8, 128 B";
/// The figure should grow like the size.
const BY_SIZE: &str = "echo by size";
/// The load shares the second core with the second worker.
const BY_WORKERS: &str = "echo by threads, 64 connections, depth 64, 128 B";

fn echo(connections: usize, depth: usize, size: usize) -> Work {
    Work::Echo { connections, depth, size }
}

fn rows() -> Vec<Row> {
    let all = || columns(&[&[RAW, PARLEY, CORKED, CALLBACKS], &PEERS]);
    let plain = || columns(&[&[RAW, PARLEY], &PEERS]);
    let naive = || {
        let mut columns = columns(&[&[PARLEY, CORKED], &PEERS]);
        columns.iter_mut().filter(|column| column.way == Way::Fastest).for_each(|column| column.way = Way::Naive);
        columns
    };
    let receivers = || columns(&[&[RAW, PARLEY, CALLBACKS], &PEERS]);
    let mut rows = vec![
        row(ECHO, "depth 64, 32 B", echo(1, 64, 32), all()),
        row(ECHO, "depth 64, 128 B", echo(1, 64, 128), all()),
        row(ECHO, "depth 512, 128 B", echo(1, 512, 128), all()),
        row(ECHO, "100 connections, depth 8, 128 B", echo(100, 8, 128), all()),
        row(ECHO, "100 connections, depth 1, 128 B", echo(100, 1, 128), plain()),
        row(ECHO, "depth 4, 64 KiB", echo(1, 4, 64 * KIB), plain()),
        row(ECHO, "depth 2, 1 MiB", echo(1, 2, MIB), plain()),
        row(ECHO, "one send().await a message, depth 64, 128 B", echo(1, 64, 128), naive()),
        Row { figure: Figure::Latency, ..row(ECHO, "ping-pong, 32 B, latency", echo(1, 1, 32), all()) },
        row(CLIENT, "receive JSON 100-200 B", Work::Receive { size: 0 }, receivers()),
        row(CLIENT, "receive 64 KiB", Work::Receive { size: 64 * KIB }, receivers()),
        row(CLIENT, "send 128 B, flush each", Work::Send { size: 128, flush_every: 1 }, plain()),
        row(CLIENT, "send 128 B, flush by 64", Work::Send { size: 128, flush_every: 64 }, {
            columns(&[&[RAW, PARLEY, HANDLE, HANDLE_ALL], &PEERS])
        }),
        row(CLIENT, "send 64 KiB", Work::Send { size: 64 * KIB, flush_every: 1 }, plain()),
    ];
    let async_std = || columns(&[&[RAW, PARLEY, CALLBACKS], &ASYNC_STD]);
    rows.extend(
        [
            row(ECHO_ASYNC_STD, "depth 64, 128 B", echo(1, 64, 128), async_std()),
            row(ECHO_ASYNC_STD, "depth 512, 128 B", echo(1, 512, 128), async_std()),
            row(ECHO_ASYNC_STD, "100 connections, depth 8, 128 B", echo(100, 8, 128), async_std()),
            row(ECHO_ASYNC_STD, "depth 4, 64 KiB", echo(1, 4, 64 * KIB), async_std()),
            row(CLIENT_ASYNC_STD, "receive JSON 100-200 B", Work::Receive { size: 0 }, async_std()),
            row(CLIENT_ASYNC_STD, "receive 64 KiB", Work::Receive { size: 64 * KIB }, async_std()),
            row(CLIENT_ASYNC_STD, "send 128 B, flush by 64", Work::Send { size: 128, flush_every: 64 }, {
                columns(&[&[RAW, PARLEY, HANDLE, HANDLE_ALL], &ASYNC_STD])
            }),
        ]
        .map(|row| Row { runtime: "async-std", ..row }),
    );
    let tls = || columns(&[&[PARLEY, CALLBACKS], &WITH_TLS]);
    rows.extend(
        [
            row(TLS, "echo, depth 64, 128 B", echo(1, 64, 128), tls()),
            row(TLS, "receive JSON 100-200 B", Work::Receive { size: 0 }, tls()),
        ]
        .map(|row| Row { tls: true, ..row }),
    );
    let few = || columns(&[&[RAW, PARLEY, CALLBACKS], &PEERS[..2]]);
    rows.extend([
        row(BY_CONNECTIONS, "1 connection", echo(1, 8, 128), few()),
        row(BY_CONNECTIONS, "10 connections", echo(10, 8, 128), few()),
        row(BY_CONNECTIONS, "100 connections", echo(100, 8, 128), few()),
        row(BY_CONNECTIONS, "1,000 connections", echo(1_000, 8, 128), few()),
        row(BY_CONNECTIONS, "10,000 connections", echo(10_000, 8, 128), few()),
        row(BY_SIZE, "16 B, depth 4,096", echo(1, 4_096, 16), few()),
        row(BY_SIZE, "128 B, depth 512", echo(1, 512, 128), few()),
        row(BY_SIZE, "1 KiB, depth 64", echo(1, 64, KIB), few()),
        row(BY_SIZE, "8 KiB, depth 8", echo(1, 8, 8 * KIB), few()),
        row(BY_SIZE, "64 KiB, depth 1", echo(1, 1, 64 * KIB), few()),
        row(BY_SIZE, "512 KiB, depth 1", echo(1, 1, 512 * KIB), few()),
        row(BY_SIZE, "1 MiB, depth 1", echo(1, 1, MIB), few()),
    ]);
    for (workers, cpu, time) in [(1, "1 worker, CPU", "1 worker, time"), (2, "2 workers, CPU", "2 workers, time")] {
        let threads = |name| Row { workers, ..row(BY_WORKERS, name, echo(64, 64, 128), few()) };
        rows.push(threads(cpu));
        rows.push(Row { figure: Figure::Time, ..threads(time) });
    }
    rows
}

/// How long is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Values a column; even, so that every column has as many backwards as forwards.
    pub rounds: usize,
    /// What one round of one column takes.
    pub per_round: Duration,
    pub quick: bool,
}

impl Effort {
    /// How many of [`PEERS`] there are in a row.
    pub fn peers(self) -> usize {
        if self.quick { 4 } else { PEERS.len() }
    }
}

/// A column that is up, and ready for its load.
struct Contender {
    column: Column,
    process: Process,
    load: Box<dyn Load>,
}

impl Contender {
    fn start(row: &Row, column: Column, identity: &Identity) -> io::Result<Self> {
        match row.work {
            Work::Echo { connections, depth, size } => {
                let mut process = Process::start(&row.job(column, Role::Server(column.way.echo()), identity, true))?;
                let port = process.port()?;
                let raw = column.library == RAW.library;
                let load: Box<dyn Load> = if row.tls {
                    let mut stream = identity.over_client(load::reach(port)?)?;
                    wire::open(&mut stream, port)?;
                    Box::new(Echo::new(vec![stream], depth, size, raw)?)
                } else {
                    let streams: io::Result<Vec<_>> = (0..connections).map(|_| load::connect(port)).collect();
                    Box::new(Echo::new(streams?, depth, size, raw)?)
                };
                Ok(Self { column, process, load })
            }
            Work::Receive { size } => {
                let payloads = wire::payloads(size);
                let messages = (2 * MIB / payloads.iter().map(String::len).sum::<usize>()).max(1) * payloads.len();
                let every = messages as u64;
                let task = Task::Receive { every, size, callbacks: column.way == Way::Callbacks };
                Self::client(
                    row,
                    column,
                    identity,
                    task,
                    |stream| Source::boxed(stream, &payloads, every),
                    |stream| Source::boxed(stream, &payloads, every),
                )
            }
            Work::Send { size, flush_every } => {
                let messages = (512 * KIB / size).max(64) as u64;
                let by_handle = match column.way {
                    Way::Handle => 1,
                    Way::HandleAll => flush_every as usize,
                    _ => 0,
                };
                let task = Task::Send { messages, size, flush_every, by_handle };
                Self::client(
                    row,
                    column,
                    identity,
                    task,
                    |stream| Drain::boxed(stream, messages, size),
                    |stream| Drain::boxed(stream, messages, size),
                )
            }
        }
    }

    fn client(
        row: &Row,
        column: Column,
        identity: &Identity,
        task: Task,
        plain: impl FnOnce(std::net::TcpStream) -> Box<dyn Load>,
        tls: impl FnOnce(crate::tls::TlsServer) -> Box<dyn Load>,
    ) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let port = listener.local_addr()?.port();
        let process = Process::start(&row.job(column, Role::Client { port, task }, identity, false))?;
        let mut stream = load::accept(&listener)?;
        let load = if row.tls {
            let mut stream = identity.over_server(stream)?;
            wire::answer(&mut stream)?;
            tls(stream)
        } else {
            wire::answer(&mut stream)?;
            plain(stream)
        };
        Ok(Self { column, process, load })
    }

    /// One value: rounds of messages for so long.
    fn measure(&mut self, figure: Figure, length: Duration) -> io::Result<f64> {
        let before = self.process.cpu_at_rest()?;
        let start = Instant::now();
        let mut messages = 0;
        while messages == 0 || start.elapsed() < length {
            messages += self.load.round()?;
        }
        let time = start.elapsed();
        let times = self.load.take_times();
        let spent = self.process.cpu_at_rest()? - before;
        match figure {
            Figure::Cpu => Ok(spent.as_secs_f64() * 1e9 / messages as f64),
            Figure::Time => Ok(time.as_secs_f64() * 1e9 / messages as f64),
            Figure::Latency => {
                let times: Vec<_> = times.iter().map(|time| time.as_secs_f64() * 1e9).collect();
                median(&times).ok_or_else(|| io::Error::other("no reply was timed"))
            }
        }
    }
}

impl Way {
    fn echo(self) -> Loop {
        match self {
            Self::Fastest | Self::Handle | Self::HandleAll => Loop::Batched,
            Self::Naive => Loop::Naive,
            Self::Corked => Loop::Corked,
            Self::Callbacks => Loop::Callbacks,
        }
    }
}

impl Row {
    fn job(&self, column: Column, role: Role, identity: &Identity, server: bool) -> Job {
        let mut job = Job::new(column.library, self.runtime, role);
        job.workers = self.workers;
        if self.tls {
            job.certificate = to_hex(&identity.certificate);
            if server {
                job.key = to_hex(&identity.key);
            }
        }
        job
    }

    fn measure(&self, effort: Effort, identity: &Identity, run: &mut Run) -> Vec<String> {
        let left_out = &PEERS[effort.peers()..];
        let columns = self.columns.iter().filter(|column| !left_out.iter().any(|other| other.name == column.name));
        let columns: Vec<_> = columns.copied().collect();
        // So many connections are too many for all columns at a time: they are measured one after the other.
        let at_a_time = if self.connections() > 1_000 { 1 } else { columns.len() };
        columns.chunks(at_a_time).flat_map(|columns| self.compare(columns, effort, identity, run)).collect()
    }

    fn connections(&self) -> usize {
        if let Work::Echo { connections, .. } = self.work { connections } else { 1 }
    }

    fn compare(&self, columns: &[Column], effort: Effort, identity: &Identity, run: &mut Run) -> Vec<String> {
        let mut failures = Vec::new();
        let mut contenders = Vec::new();
        for column in columns {
            let started = Contender::start(self, *column, identity).and_then(|mut contender| {
                contender.measure(self.figure, effort.per_round / 2)?; // warms up
                Ok(contender)
            });
            match started {
                Ok(contender) => contenders.push(contender),
                Err(error) => failures.push(format!("{}, {}: {}: {error}", self.group, self.name, column.name)),
            }
        }
        for round in 0..effort.rounds {
            if round % 2 == 1 {
                contenders.reverse();
            }
            contenders.retain_mut(|contender| {
                let name = contender.column.name;
                match contender.measure(self.figure, effort.per_round) {
                    Ok(value) => run.add(sample(self.group, self.name, name, "ns", value)),
                    Err(error) => {
                        failures.push(format!("{}, {}: {name}: {error}", self.group, self.name));
                        return false;
                    }
                }
                true
            });
            if round % 2 == 1 {
                contenders.reverse();
            }
        }
        failures
    }
}

pub fn sample(group: &str, row: &str, library: &str, unit: &str, value: f64) -> Sample {
    Sample {
        group: group.to_owned(),
        row: row.to_owned(),
        library: library.to_owned(),
        unit: unit.to_owned(),
        values: vec![value],
        mark: None,
    }
}

#[derive(Debug, Default)]
struct Options {
    out: Option<String>,
    append: bool,
    quick: bool,
    half: bool,
    row: Option<String>,
    list: bool,
    /// A column, a row, seconds.
    run: Option<(String, String, f64)>,
}

impl Options {
    fn parse(args: &[String]) -> Option<Self> {
        let mut options = Self::default();
        let mut args = args.iter();
        while let Some(arg) = args.next() {
            match arg.as_str() {
                "--out" => options.out = Some(args.next()?.clone()),
                "--append" => options.append = true,
                "--quick" => options.quick = true,
                "--half" => options.half = true,
                "--row" => options.row = Some(args.next()?.clone()),
                "--list" => options.list = true,
                "--run" => {
                    options.run = Some((args.next()?.clone(), args.next()?.clone(), args.next()?.parse().ok()?));
                }
                _ => return None,
            }
        }
        Some(options)
    }

    fn effort(&self) -> Effort {
        let (rounds, per_round) = match (self.quick, self.half) {
            (true, _) => (2, 10),
            (false, true) => (4, 40),
            (false, false) => (8, 40),
        };
        Effort { rounds, per_round: Duration::from_millis(per_round), quick: self.quick }
    }
}

/// No row is begun later than this.
const LIMIT: Duration = Duration::from_secs(600);

const USAGE: &str = "\
usage: sockets [--out FILE [--append]] [--quick] [--half] [--row PART]
       sockets --run COLUMN ROW SECONDS       one column of one row, for a profiler: it prints the process under test
       sockets --list";

/// One column of one row, called "group: row".
fn alone(column: &str, row: &str, length: Duration, identity: &Identity) -> Result<(), BoxError> {
    let rows = rows();
    let row = rows.iter().find(|known| format!("{}: {}", known.group, known.name) == row).ok_or("no such row")?;
    let column = row.columns.iter().find(|known| known.name == column).ok_or("no such column in this row")?;
    let mut contender = Contender::start(row, *column, identity)?;
    println!("process {}", contender.process.id());
    println!("{:.1} ns", contender.measure(row.figure, length)?);
    Ok(())
}

/// The command line: measures what is asked for, and writes it down.
///
/// # Errors
///
/// Wrong arguments; a column that could not be measured.
pub fn run(args: &[String]) -> Result<(), BoxError> {
    let options = Options::parse(args).ok_or(USAGE)?;
    let wanted = |group: &str, row: &str| {
        options.row.as_ref().is_none_or(|part| format!("{group}: {row}").contains(part.as_str()))
    };
    if options.list {
        rows().iter().for_each(|row| println!("{}: {}", row.group, row.name));
        scale::NAMES.iter().for_each(|(group, row)| println!("{group}: {row}"));
        return Ok(());
    }
    let mut run = Run::start("sockets", options.quick);
    process::raise_open_files(scale::OPEN_FILES)?;
    process::pin(&[process::LOAD])?;
    let started = Instant::now();
    let identity = Identity::fresh()?;
    if let Some((column, row, seconds)) = &options.run {
        return alone(column, row, Duration::from_secs_f64(*seconds), &identity);
    }
    let mut failures = Vec::new();
    let short_of_time = |row: &Row| options.quick && row.connections() > 1_000;
    for row in rows().iter().filter(|row| wanted(row.group, row.name) && !short_of_time(row)) {
        let began = Instant::now();
        if started.elapsed() > LIMIT {
            failures.push(format!("{}, {}: no time is left", row.group, row.name));
            continue;
        }
        failures.extend(row.measure(options.effort(), &identity, &mut run));
        eprintln!("{}: {}: {:.1} s", row.group, row.name, began.elapsed().as_secs_f32());
        // What has been measured is not lost with what fails later.
        if let (Some(file), false) = (&options.out, options.append) {
            run.clone().write(Path::new(file), false)?;
        }
    }
    failures.extend(scale::measure(options.effort(), &mut run, &wanted));
    eprintln!("over loopback: {} figures in {:.0} s", run.samples.len(), started.elapsed().as_secs_f32());
    match &options.out {
        Some(file) => run.write(Path::new(file), options.append)?,
        None => print!("{}", Report::new(vec![run]).text()),
    }
    match failures.is_empty() {
        true => Ok(()),
        false => Err(failures.join("\n").into()),
    }
}
