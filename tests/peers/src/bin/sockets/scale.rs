//! Many connections: what they cost at rest, to open, and around a burst.

use std::collections::VecDeque;
use std::io::{self, Write};
use std::net::{TcpListener, TcpStream};
use std::time::Instant;

use parley_peers::bench::Run;

use crate::job::{Job, Loop, Role};
use crate::load::{self, Echo};
use crate::process::Process;
use crate::rows::{CALLBACKS, Column, Effort, PARLEY, PEERS, sample};
use crate::wire::{self, From};

/// What a process may need at a time.
pub const OPEN_FILES: u64 = 20_000;

const CONNECTIONS: usize = 10_000;
const CONNECTIONS_QUICK: usize = 1_000;

/// Connections that are being opened at a time.
const AT_A_TIME: usize = 100;

/// Those that have an opening handshake of their own for a bare stream; the others leave it to hyper or to their user.
const ACCEPTING: [&str; 4] = ["sockudo-ws", "tokio-tungstenite", "tokio-websockets", "soketto"];

const IDLE: &str = "idle connection, tokio";
const CONNECT: &str = "connect, tokio";
const BURST: &str = "memory around a burst, tokio";

const BURST_CONNECTIONS: usize = 1_000;
const BURST_SIZE: usize = 256 * 1024;

/// What is measured here.
pub const NAMES: [(&str, &str); 7] = [
    (IDLE, "resident, 10,000 after a message each"),
    (CONNECT, "server, CPU"),
    (CONNECT, "server, time, the load's included"),
    (CONNECT, "client, CPU"),
    (BURST, "1,000 connections, before"),
    (BURST, "256 KiB under way on each"),
    (BURST, "after all were answered"),
];

/// Measures all rows that are wanted, and says what could not be.
pub fn measure(effort: Effort, run: &mut Run, wanted: &dyn Fn(&str, &str) -> bool) -> Vec<String> {
    let count = if effort.quick { CONNECTIONS_QUICK } else { CONNECTIONS };
    let mut failures = Vec::new();
    let mut kept = |what: &str, column: &str, result: io::Result<()>| {
        failures.extend(result.err().map(|error| format!("{what}: {column}: {error}")));
    };
    let any = |group: &str| NAMES.iter().any(|(of, row)| *of == group && wanted(group, row));
    let peers = || PEERS.iter().take(effort.peers()).copied();
    if any(IDLE) {
        eprintln!("{IDLE}: {count} connections");
        for column in [PARLEY, CALLBACKS].into_iter().chain(peers()) {
            kept(IDLE, column.name, idle(column, count, run));
        }
        for (name, callbacks) in [("parley-client", false), ("parley-client-callbacks", true)] {
            kept(IDLE, name, idle_clients(name, callbacks, count, run));
        }
    }
    if any(CONNECT) {
        eprintln!("{CONNECT}: {count} connections");
        let accepting = || peers().filter(|column| ACCEPTING.contains(&column.name));
        let columns: Vec<_> = [PARLEY, CALLBACKS].into_iter().chain(accepting()).collect();
        let backwards = columns.iter().rev();
        for column in columns.iter().chain(backwards.filter(|_| !effort.quick)) {
            kept(CONNECT, column.name, connect(*column, count, run));
        }
    }
    if any(BURST) {
        eprintln!("{BURST}");
        let count = if effort.quick { BURST_CONNECTIONS / 10 } else { BURST_CONNECTIONS };
        for column in [PARLEY, CALLBACKS].into_iter().chain(peers()) {
            kept(BURST, column.name, burst(column, count, run));
        }
    }
    failures
}

fn server(column: Column, way: Loop) -> io::Result<(Process, u16)> {
    let way = if column.name == CALLBACKS.name { Loop::Callbacks } else { way };
    let mut process = Process::start(&Job::new(column.library, "tokio", Role::Server(way)))?;
    let port = process.port()?;
    Ok((process, port))
}

/// Opens so many connections as fast as the server takes them.
fn storm(port: u16, count: usize) -> io::Result<Vec<TcpStream>> {
    let mut opening = VecDeque::new();
    let mut open = Vec::with_capacity(count);
    for _ in 0..count {
        let mut stream = load::reach(port)?;
        stream.write_all(wire::request(port).as_bytes())?;
        opening.push_back(stream);
        if opening.len() >= AT_A_TIME {
            open.extend(opened(&mut opening)?);
        }
    }
    while !opening.is_empty() {
        open.extend(opened(&mut opening)?);
    }
    Ok(open)
}

fn opened(opening: &mut VecDeque<TcpStream>) -> io::Result<Option<TcpStream>> {
    let Some(mut stream) = opening.pop_front() else { return Ok(None) };
    wire::opened(&wire::read_head(&mut stream)?)?;
    Ok(Some(stream))
}

/// One message on each, which comes back.
fn warm(connections: Vec<TcpStream>) -> io::Result<Echo> {
    Echo::new(connections, 1, 32, false)
}

fn per(bytes: u64, count: usize) -> f64 {
    bytes as f64 / count as f64
}

fn idle(column: Column, count: usize, run: &mut Run) -> io::Result<()> {
    let (process, port) = server(column, Loop::Batched)?;
    // What is there once and for all is there now.
    let first = warm(storm(port, 1)?)?;
    process.cpu_at_rest()?;
    let before = process.memory("VmRSS")?;
    let all = warm(storm(port, count)?)?;
    process.cpu_at_rest()?;
    let bytes = process.memory("VmRSS")?.saturating_sub(before);
    run.add(sample(IDLE, NAMES[0].1, column.name, "B", per(bytes, count)));
    drop((first, all));
    Ok(())
}

/// The load is the server here: it sends a message to each client, which sends it back.
fn idle_clients(name: &str, callbacks: bool, count: usize, run: &mut Run) -> io::Result<()> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    let port = listener.local_addr()?.port();
    // One by itself first: what is there once and for all.
    let job = |count| Job::new("parley", "tokio", Role::Clients { port, count, callbacks });
    let alone = Process::start(&job(1))?;
    let one = answer_all(&listener, 1)?;
    alone.cpu_at_rest()?;
    let before = alone.memory("VmRSS")?;
    drop((alone, one));

    let process = Process::start(&job(count))?;
    let start = process.cpu()?;
    let mut streams = answer_all(&listener, count)?;
    let spent = process.cpu_at_rest()? - start;
    let column = if callbacks { CALLBACKS.name } else { PARLEY.name };
    run.add(sample(CONNECT, NAMES[3].1, column, "ns", spent.as_secs_f64() * 1e9 / count as f64));
    let payload = wire::json(32, 0);
    let mut message = Vec::new();
    wire::frame(&mut message, From::Server, payload.as_bytes());
    for stream in &mut streams {
        stream.write_all(&message)?;
    }
    for stream in &mut streams {
        let mut back = Vec::new();
        let mut buffer = [0; 64];
        loop {
            let got = io::Read::read(stream, &mut buffer)?;
            back.extend_from_slice(&buffer[..got]);
            match wire::parse(&back, From::Client)? {
                Some((said, _)) if said == payload.as_bytes() => break,
                None if got > 0 => {}
                _ => return Err(io::Error::other("what came back is not what was sent")),
            }
        }
    }
    process.cpu_at_rest()?;
    let bytes = process.memory("VmRSS")?.saturating_sub(before);
    run.add(sample(IDLE, NAMES[0].1, name, "B", per(bytes, count)));
    Ok(())
}

fn answer_all(listener: &TcpListener, count: usize) -> io::Result<Vec<TcpStream>> {
    (0..count)
        .map(|_| {
            let mut stream = load::accept(listener)?;
            wire::answer(&mut stream)?;
            Ok(stream)
        })
        .collect()
}

fn connect(column: Column, count: usize, run: &mut Run) -> io::Result<()> {
    let (process, port) = server(column, Loop::Accepting)?;
    let first = storm(port, AT_A_TIME)?;
    let before = process.cpu_at_rest()?;
    let start = Instant::now();
    let all = storm(port, count)?;
    let time = start.elapsed();
    let spent = process.cpu_at_rest()? - before;
    let each = |time: std::time::Duration| time.as_secs_f64() * 1e9 / count as f64;
    run.add(sample(CONNECT, NAMES[1].1, column.name, "ns", each(spent)));
    run.add(sample(CONNECT, NAMES[2].1, column.name, "ns", each(time)));
    drop((first, all));
    Ok(())
}

/// A big message on each connection, of which the last byte waits until all the others have arrived.
fn burst(column: Column, count: usize, run: &mut Run) -> io::Result<()> {
    let (process, port) = server(column, Loop::Batched)?;
    let mut connections = storm(port, count)?;
    let mut message = Vec::new();
    wire::frame(&mut message, From::Client, wire::json(BURST_SIZE, 0).as_bytes());
    let (last, most) = message.split_last().ok_or_else(|| io::Error::other("an empty frame"))?;
    let mut back = Vec::new();
    wire::frame(&mut back, From::Server, wire::json(BURST_SIZE, 0).as_bytes());

    let mut add = |row: &str, process: &Process| {
        process.cpu_at_rest()?;
        run.add(sample(BURST, row, column.name, "B", per(process.memory("VmRSS")?, count)));
        Ok::<_, io::Error>(())
    };
    add(NAMES[4].1, &process)?;
    for stream in &mut connections {
        stream.write_all(most)?;
    }
    add(NAMES[5].1, &process)?;
    let mut buffer = vec![0; back.len()];
    for stream in &mut connections {
        stream.write_all(&[*last])?;
        io::Read::read_exact(stream, &mut buffer)?;
        if buffer != back {
            return Err(io::Error::other("what came back is not what was sent"));
        }
    }
    add(NAMES[6].1, &process)
}
