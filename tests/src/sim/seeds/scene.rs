//! One client of a world: what was planned for it, and what was seen of it.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use parley_proto::SendError;
use parley_proto::codec::Frame;

use super::Mutation;
use super::dice::Dice;
use super::wire::{self, Reader, Seen};
use crate::sim::{Link, Sim, lock};

/// How the network fails a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Cut {
    Eof,
    Reset,
    /// Nothing comes any more, and what is written goes nowhere.
    Silence,
    /// Writes fail; reads do not.
    Writes,
}

/// Who listens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Peer {
    /// The library's server role.
    Real,
    /// A script that need not keep to the protocol.
    Raw,
    /// Nobody.
    Absent,
}

/// What was planned.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    pub(super) link: Link,
    /// Bytes that one read or write of the client moves at most.
    pub(super) chunk: usize,
    /// How often a read or write is not ready, in per cent.
    pub(super) pending: usize,
    /// For how long then, in milliseconds; 0: it is ready when asked again.
    pub(super) delay: usize,
    /// After so many bytes read (or written).
    pub(super) cut: Option<(usize, Cut)>,
    pub(super) peer: Peer,
    /// How often a callback is slow, pushes, closes and so on, in per cent.
    pub(super) lively: usize,
    /// How often a callback fails, panics, hangs, in per cent.
    pub(super) wicked: usize,
    pub(super) read_ahead: usize,
    pub(super) send_queue: usize,
    pub(super) info_queue: usize,
    pub(super) senders: usize,
    pub(super) ops: usize,
    pub(super) big: usize,
    /// When it is stopped at the latest.
    pub(super) horizon: Duration,
    pub(super) abort: bool,
    pub(super) jumps: bool,
    pub(super) connect_timeout: Duration,
}

impl Plan {
    pub(super) fn draw(dice: &mut Dice) -> Self {
        let calm = dice.chance(25);
        let brisk = dice.chance(20);
        let chunk = dice.pick(&[1, 2, 7, 100, 5000, usize::MAX, usize::MAX, usize::MAX]);
        let chunk = if brisk { usize::MAX } else { chunk };
        let link = Link {
            capacity: dice.pick(&[64, 1000, 16 * 1024, 64 * 1024]),
            chunk: dice.pick(&[1, 50, usize::MAX, usize::MAX]),
            staged: dice.chance(30),
        };
        let link = if brisk { Link { staged: link.staged, ..Link::default() } } else { link };
        let peer = match dice.below(100) {
            _ if calm => Peer::Real,
            0..65 => Peer::Real,
            65..95 => Peer::Raw,
            _ => Peer::Absent,
        };
        let at = dice.pick(&[50, 200, 600, 3000, 20_000]);
        let cut = (dice.below(at), dice.pick(&[Cut::Eof, Cut::Reset, Cut::Silence, Cut::Writes]));
        Self {
            link,
            chunk,
            pending: dice.pick(&[0, 10, 50]),
            delay: if brisk {
                20
            } else if chunk < 100 {
                dice.pick(&[0, 0, 5])
            } else {
                dice.pick(&[0, 0, 20, 300])
            },
            cut: (!calm && dice.chance(35)).then_some(cut),
            peer,
            lively: dice.pick(&[0, 10, 40]),
            wicked: if calm || dice.chance(60) { 0 } else { dice.pick(&[1, 5]) },
            read_ahead: dice.pick(&[256, 4096, 256 * 1024]),
            send_queue: dice.pick(&[200, 4096, 1024 * 1024]),
            info_queue: dice.pick(&[1, 5, 1024]),
            senders: dice.below(4),
            ops: dice.pick(&[3, 10, 30]),
            big: if chunk < 100 || link.chunk < 50 { 300 } else { dice.pick(&[60, 300, 5000, 70_000]) },
            horizon: dice.pick(&[Duration::ZERO, Duration::from_secs(2)]) + dice.millis(10_000),
            abort: !calm && dice.chance(4),
            jumps: !calm && dice.chance(15),
            connect_timeout: dice.pick(&[Duration::from_secs(10), Duration::from_secs(1)]),
        }
    }
}

/// What became of a frame that somebody wanted to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its future was dropped, or is still there.
    Open,
    /// In the queue.
    Accepted,
    /// With the operating system, since then.
    Sent(Instant),
    GivenBack,
    Lost,
}

#[derive(Debug)]
pub(super) struct Sending {
    pub(super) fate: Fate,
    pub(super) cost: usize,
}

#[derive(Debug)]
pub(super) struct Record {
    pub(super) failures: Vec<String>,
    /// Callbacks in the order in which they began, with what they were given.
    pub(super) calls: Vec<(&'static str, String)>,
    pub(super) running: Option<&'static str>,
    /// What `handle_frame` and `handle_ping` were given.
    pub(super) got: Vec<Seen>,
    pub(super) got_bytes: usize,
    pub(super) panicked: bool,
    pub(super) erred: bool,
    /// Somebody on this side asked for an end of the connection, or of the client.
    pub(super) asked: bool,
    /// Somebody asked for an end of the client.
    pub(super) stopped: bool,
    /// How long callbacks have waited, all together.
    pub(super) waited: Duration,
    pub(super) down: Reader,
    pub(super) up: Reader,
    pub(super) opened: usize,
    pub(super) open: usize,
    /// When the transport was closed, and whether it took what it had not sent with it.
    pub(super) closed: Option<Instant>,
    pub(super) cut: Option<Cut>,
    pub(super) sends: BTreeMap<(u32, u32), Sending>,
    /// What the real server got, and when.
    pub(super) served: Vec<(Seen, Instant)>,
    /// The server stopped reading for a while, or for good.
    pub(super) idled: bool,
    /// The peer did something that may lose bytes.
    pub(super) unkind: bool,
    /// Whether the real server saw both Closes.
    pub(super) clean: Option<bool>,
    /// When the client's Close was written.
    pub(super) close_left: Option<Instant>,
    /// When the stream to the client had ended.
    pub(super) eof: Option<Instant>,
    pub(super) sleeps: usize,
    pub(super) ended: Option<Instant>,
    numbers: BTreeMap<u32, u32>,
}

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) sim: Sim,
    pub(super) name: char,
    pub(super) plan: Plan,
    pub(super) mutation: Option<Mutation>,
    record: Mutex<Record>,
}

impl Scene {
    pub(super) fn new(sim: &Sim, name: char, plan: Plan, mutation: Option<Mutation>) -> Arc<Self> {
        let record = Record {
            failures: Vec::new(),
            calls: Vec::new(),
            running: None,
            got: Vec::new(),
            got_bytes: 0,
            panicked: false,
            erred: false,
            asked: false,
            stopped: false,
            waited: Duration::ZERO,
            down: Reader::new(false),
            up: Reader::new(true),
            opened: 0,
            open: 0,
            closed: None,
            cut: None,
            sends: BTreeMap::new(),
            served: Vec::new(),
            idled: false,
            unkind: false,
            clean: None,
            close_left: None,
            eof: None,
            sleeps: 0,
            ended: None,
            numbers: BTreeMap::new(),
        };
        Arc::new(Self { sim: sim.clone(), name, plan, mutation, record: Mutex::new(record) })
    }

    pub(super) fn record(&self) -> MutexGuard<'_, Record> {
        lock(&self.record)
    }

    pub(super) fn note(&self, line: &str) {
        self.sim.note(format!("{} {line}", self.name));
    }

    pub(super) fn is(&self, mutation: Mutation) -> bool {
        self.mutation == Some(mutation)
    }

    /// A rule of the guide does not hold.
    pub(super) fn fail(&self, rule: &str) {
        let line = format!("{} {rule}", self.name);
        self.sim.note(format!("FAILED {line}"));
        let mut record = self.record();
        if record.failures.len() < 10 {
            record.failures.push(line);
        }
    }

    pub(super) fn check(&self, holds: bool, rule: impl FnOnce() -> String) {
        if !holds {
            self.fail(&rule());
        }
    }

    /// A frame in a lane, whose even numbers are for data and whose odd ones for pings and pongs.
    pub(super) fn make(&self, dice: &mut Dice, lane: u32) -> (Frame, (u32, u32)) {
        let is_control = dice.chance(15);
        let lane = lane + u32::from(is_control);
        let seq = {
            let mut record = self.record();
            let next = record.numbers.entry(lane).or_default();
            *next += 1;
            *next - 1
        };
        let most = if is_control { 130 } else { dice.pick(&[1, 60, self.plan.big]) };
        let bytes = wire::payload(lane, seq, dice.below(most + 1));
        let text = || String::from_utf8_lossy(&bytes).into_owned();
        let frame = match (is_control, dice.chance(50)) {
            (true, true) => Frame::Ping(bytes.into()),
            (true, false) => Frame::Pong(bytes.into()),
            (false, true) => Frame::text(text()),
            (false, false) => Frame::Binary(bytes.into()),
        };
        (frame, (lane, seq))
    }

    pub(super) fn begin_send(&self, key: (u32, u32), frame: &Frame) {
        let cost = frame.len() + 32;
        self.record().sends.insert(key, Sending { fate: Fate::Open, cost });
    }

    /// What a send came to. `fate`: when it was accepted.
    pub(super) fn end_send(&self, key: (u32, u32), fate: Fate, outcome: &Result<(), SendError>) {
        let fate = match outcome {
            Ok(()) => fate,
            Err(SendError::Lost(_)) => Fate::Lost,
            Err(error) => {
                let own = error.frame().and_then(|frame| wire::parse(frame.payload())) == Some(key);
                self.check(own, || format!("{key:?} got another frame back than it gave"));
                Fate::GivenBack
            }
        };
        let over = {
            let mut record = self.record();
            if let Some(sending) = record.sends.get_mut(&key) {
                sending.fate = fate;
            }
            record.backlog()
        };
        let bound = self.plan.send_queue + 64 * 1024 + 2 * (self.plan.big + 200);
        self.check(over <= bound, || format!("{over} bytes wait to be sent, more than {bound}"));
    }

    /// A callback begins.
    pub(super) fn enter(self: &Arc<Self>, name: &'static str, detail: String) -> Running {
        self.note(&format!("{name} {detail}"));
        let (before, open) = {
            let mut record = self.record();
            record.calls.push((name, detail));
            (record.running.replace(name), record.open)
        };
        self.check(before.is_none(), || format!("3.8: {name} while {before:?} runs"));
        if matches!(name, "handle_disconnect" | "terminate") {
            self.check(open == 0, || format!("4.1: {name} while {open} transports are open"));
        }
        Running { scene: self.clone(), since: self.sim.now(), done: false }
    }
}

impl Record {
    /// The cost of what handles put into the queue and the transport has not taken.
    fn backlog(&self) -> usize {
        let handles = self.sends.iter().filter(|((lane, _), _)| *lane < 50);
        let accepted = handles.filter(|(_, sending)| matches!(sending.fate, Fate::Accepted | Fate::Sent(_)));
        let accepted: usize = accepted.map(|(_, sending)| sending.cost).sum();
        let keys = self.up.frames.iter().filter_map(|seen| wire::parse(&seen.payload));
        let left = keys.filter(|(lane, _)| *lane < 50).filter_map(|key| self.sends.get(&key));
        let left = left.filter(|sending| matches!(sending.fate, Fate::Accepted | Fate::Sent(_)));
        accepted.saturating_sub(left.map(|sending| sending.cost).sum())
    }

    pub(super) fn called(&self, name: &str) -> usize {
        self.calls.iter().filter(|(called, _)| *called == name).count()
    }

    pub(super) fn detail(&self, name: &str) -> Option<&str> {
        self.calls.iter().find(|(called, _)| *called == name).map(|(_, detail)| &**detail)
    }

    pub(super) fn receive(&mut self, opcode: u8, payload: Bytes) {
        self.got_bytes += payload.len();
        self.got.push(Seen { opcode, payload });
    }
}

/// A callback that runs; dropped before it is done, it was dropped by the client.
pub(super) struct Running {
    scene: Arc<Scene>,
    since: Instant,
    pub(super) done: bool,
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.scene.sim.now();
        let mut record = self.scene.record();
        record.waited += now.saturating_duration_since(self.since);
        let name = record.running.take().unwrap_or("?");
        drop(record);
        if !self.done {
            self.scene.note(&format!("{name} dropped"));
        }
    }
}
