//! What was seen of one client: its callbacks, its connections, what was asked of it, what became of its sends.

use std::collections::BTreeMap;
use std::ops::Range;
use std::time::{Duration, Instant};

use bytes::Bytes;
use parley_proto::{DisconnectReason, Retry};

use super::handler::OWN;
use super::peers::SERVED;
use super::plan::{Cut, Plan};
use super::wire::{self, Reader, Seen};

/// What became of a frame that somebody wanted to send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    /// Its future is still there.
    Open,
    /// Its future was dropped.
    Dropped,
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
    /// So many `handle_disconnect` had begun when it was asked for: it belongs to the connection, or attempt, behind
    /// them.
    pub(super) epoch: usize,
    /// When it was asked for.
    pub(super) begun: Instant,
    /// Bytes that its connection had written when it was accepted, where that is known.
    pub(super) offset: usize,
    /// When it was answered.
    pub(super) answered: Option<Instant>,
    /// When it was seen on the wire, and what had been written of its connection by then.
    pub(super) left: Option<Instant>,
    pub(super) end: usize,
}

/// A callback that began.
#[derive(Debug)]
pub(super) struct Call {
    pub(super) name: &'static str,
    /// What it was given.
    pub(super) detail: String,
    pub(super) at: Instant,
    pub(super) tick: u64,
    /// When it returned. One that was dropped, or panicked, never does.
    pub(super) done: Option<(Instant, u64)>,
    /// Of `handle_disconnect`: what it was told, and what it answered.
    pub(super) reason: Option<DisconnectReason>,
    pub(super) retry: Option<Retry>,
}

impl Call {
    /// Whether it ran then.
    pub(super) fn is_running(&self, at: Instant) -> bool {
        self.at <= at && self.done.is_none_or(|(done, _)| done > at)
    }

    /// How long it ran, up to an end.
    pub(super) fn lasted(&self, end: Instant) -> Duration {
        let done = self.done.map_or(end, |(done, _)| done);
        done.min(end).saturating_duration_since(self.at)
    }
}

/// What somebody on this side asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ask {
    Connect,
    Reconnect,
    Disconnect,
    /// The end of the client, an error or a panic too.
    Stop,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Asked {
    pub(super) what: Ask,
    pub(super) at: Instant,
    pub(super) tick: u64,
}

/// An info that was accepted.
#[derive(Debug)]
pub(super) struct Info {
    pub(super) number: u32,
    pub(super) tick: u64,
    /// When it may come at the earliest: at once, or for a delayed one later.
    pub(super) due: Instant,
    pub(super) delayed: bool,
    /// When it was cancelled.
    pub(super) cancelled: Option<Instant>,
    /// When `handle_info` was called with it.
    pub(super) came: Option<Instant>,
}

impl Info {
    /// It counts to the queue.
    pub(super) fn waits(&self) -> bool {
        self.came.is_none() && self.cancelled.is_none()
    }

    /// It may do so: it was cancelled at the very moment when it was due.
    pub(super) fn may_wait(&self) -> bool {
        self.came.is_none() && self.cancelled.is_none_or(|at| at >= self.due)
    }
}

/// One connection, from the moment when TCP is there.
#[derive(Debug)]
pub(super) struct Conn {
    /// So many `handle_disconnect` had begun when it was opened.
    pub(super) epoch: usize,
    pub(super) opened: u64,
    /// When the response to the upgrade was read.
    pub(super) answered: Option<Instant>,
    /// `handle_connect` was called.
    pub(super) greeted: bool,
    /// It has returned.
    pub(super) open: Option<Instant>,
    pub(super) down: Reader,
    pub(super) up: Reader,
    /// What `handle_frame` and `handle_ping` were given.
    pub(super) got: Vec<Seen>,
    pub(super) got_bytes: usize,
    /// Somebody on this side asked for its end, or the client's.
    pub(super) asked: bool,
    /// How long callbacks have waited, all together, that ended while this was the last connection.
    pub(super) waited: Duration,
    /// When the transport was closed, and whether it took what it had not sent with it.
    pub(super) closed: Option<Instant>,
    pub(super) cut: Option<(Cut, Instant)>,
    /// The status with which the real server refused the upgrade.
    pub(super) refused: Option<u16>,
    /// When the client last read a byte.
    pub(super) last_read: Option<Instant>,
    /// When it last wrote one, before anybody asked for its end.
    pub(super) last_written: Option<Instant>,
    /// A write has been waiting since then.
    pub(super) stuck: Option<Instant>,
    /// Some write took less than it was offered.
    pub(super) blocked: bool,
    /// When one took all of it that came after such a one.
    pub(super) drained: Vec<Instant>,
    /// What `handle_connect` pushed.
    pub(super) greeting: Vec<(u32, u32)>,
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
}

/// Frames and infos take turns: what waited when one was done.
#[derive(Clone, Copy, Debug)]
pub(super) struct Turn {
    pub(super) was_info: bool,
    pub(super) infos: bool,
    pub(super) frames: bool,
}

#[derive(Debug, Default)]
pub(super) struct Record {
    pub(super) failures: Vec<String>,
    ticks: u64,
    /// Callbacks in the order in which they began.
    pub(super) calls: Vec<Call>,
    pub(super) running: Option<&'static str>,
    /// `handle_disconnect` that have begun.
    pub(super) epoch: usize,
    pub(super) asks: Vec<Asked>,
    pub(super) conns: Vec<Conn>,
    /// What the last of `handle_frame`, `handle_ping` and `handle_info` left behind.
    pub(super) turn: Option<Turn>,
    /// When sends last left the queue, or may have.
    pub(super) sends_moved: Option<Instant>,
    pub(super) panicked: bool,
    pub(super) erred: bool,
    /// The end is near: nobody asks for a connection any more.
    pub(super) winding_down: bool,
    /// Handles that keep the client alive.
    pub(super) handles: usize,
    /// So many there were when `terminate` was called.
    pub(super) handles_left: usize,
    pub(super) sends: BTreeMap<(u32, u32), Sending>,
    /// In the order in which they were accepted.
    pub(super) infos: Vec<Info>,
    /// The last thing that happened to infos: one came, or was cancelled.
    pub(super) infos_moved: Option<Instant>,
    /// Sends of infos that may wait for room.
    pub(super) infos_waiting: usize,
    pub(super) sleeps: usize,
    pub(super) ended: Option<Instant>,
    /// Attempts by the client's own count, at its end.
    pub(super) attempts: Option<u64>,
    numbers: BTreeMap<u32, u32>,
    /// What a callback pushed, and what it had sent before by its own handle: that goes first.
    pub(super) pushed_behind: Vec<((u32, u32), (u32, u32))>,
}

impl Record {
    /// The next of the numbers that say what came first, where the clock does not.
    pub(super) fn tick(&mut self) -> u64 {
        self.ticks += 1;
        self.ticks
    }

    /// The next number of a lane.
    pub(super) fn number(&mut self, lane: u32) -> u32 {
        let next = self.numbers.entry(lane).or_default();
        *next += 1;
        *next - 1
    }

    /// The last connection.
    pub(super) fn conn(&mut self) -> Option<&mut Conn> {
        self.conns.last_mut()
    }

    pub(super) fn open(&mut self) -> usize {
        let (epoch, opened) = (self.epoch, self.tick());
        self.conns.push(Conn {
            epoch,
            opened,
            answered: None,
            greeted: false,
            open: None,
            down: Reader::new(false),
            up: Reader::new(true),
            got: Vec::new(),
            got_bytes: 0,
            asked: false,
            waited: Duration::ZERO,
            closed: None,
            cut: None,
            refused: None,
            last_read: None,
            last_written: None,
            stuck: None,
            blocked: false,
            drained: Vec::new(),
            greeting: Vec::new(),
            served: Vec::new(),
            idled: false,
            unkind: false,
            clean: None,
            close_left: None,
            eof: None,
        });
        self.conns.len() - 1
    }

    /// Transports that are not closed.
    pub(super) fn open_conns(&self) -> usize {
        self.conns.iter().filter(|conn| conn.closed.is_none()).count()
    }

    pub(super) fn ask(&mut self, what: Ask, at: Instant) {
        let tick = self.tick();
        self.asks.push(Asked { what, at, tick });
        if what != Ask::Connect
            && let Some(conn) = self.conn()
        {
            conn.asked = true;
        }
    }

    /// The client has ended, or is about to without anybody's asking.
    pub(super) fn has_ended(&self) -> bool {
        self.ended.is_some() || self.calls.iter().any(|call| call.name == "terminate")
    }

    pub(super) fn is_asked(&self, what: Ask) -> bool {
        self.asks.iter().any(|asked| asked.what == what)
    }

    /// Whether nothing is accepted behind what was asked for.
    pub(super) fn is_closing(&self) -> bool {
        self.is_asked(Ask::Stop) || self.conns.last().is_some_and(|conn| conn.asked)
    }

    /// What was written: which sends were on the wire.
    pub(super) fn wrote(&mut self, index: usize, now: Instant, bytes: &[u8]) {
        self.sleeps = 0;
        self.sends_moved = Some(now);
        let Some(conn) = self.conns.get_mut(index) else { return };
        if !conn.asked {
            conn.last_written = Some(now);
        }
        let before = conn.up.frames.len();
        conn.up.feed(now, bytes);
        for seen in &conn.up.frames[before..] {
            if let Some(sending) = wire::parse(&seen.payload).and_then(|key| self.sends.get_mut(&key)) {
                (sending.left, sending.end) = (Some(now), conn.up.total);
            }
        }
        if conn.up.close.is_some() {
            conn.close_left.get_or_insert(now);
        }
    }

    /// The cost of what was accepted for these lanes and the transport has not taken.
    pub(super) fn backlog(&self, lanes: Range<u32>) -> usize {
        let waiting = self.sends.iter().filter(|((lane, _), sending)| {
            lanes.contains(lane)
                && sending.epoch == self.epoch
                && sending.left.is_none()
                && matches!(sending.fate, Fate::Accepted | Fate::Sent(_))
        });
        waiting.map(|(_, sending)| sending.cost).sum()
    }

    /// What `stats()` may say is queued: up to the bound, or one frame alone; the client's own handle knows no bound.
    pub(super) fn most_queued(&self, plan: &Plan) -> usize {
        let own =
            self.sends.iter().filter(|((lane, _), sending)| (OWN..SERVED).contains(lane) && sending.left.is_none());
        plan.send_queue.max(plan.big + 200) + own.map(|(_, sending)| sending.cost).sum::<usize>()
    }

    /// Whether a send may be in the queue, or wait for room in it.
    pub(super) fn has_open_sends(&self) -> bool {
        self.sends.values().any(|sending| {
            sending.epoch == self.epoch && sending.left.is_none() && matches!(sending.fate, Fate::Open | Fate::Dropped)
        })
    }

    /// What waits for `handle_frame` and `handle_ping`, but for pongs: those may be keepalive's.
    pub(super) fn has_frames(&self) -> bool {
        let Some(conn) = self.conns.last() else { return false };
        let count = |frames: &[Seen]| frames.iter().filter(|seen| seen.opcode != 10).count();
        let ending = conn.asked || conn.down.close.is_some() || conn.down.fault.is_some();
        conn.greeted && !ending && count(&conn.down.frames) > count(&conn.got)
    }

    /// One of them is done.
    pub(super) fn end_turn(&mut self, was_info: bool) {
        let infos = self.infos.iter().any(|info| !info.delayed && info.came.is_none());
        self.turn = Some(Turn { was_info, infos, frames: self.has_frames() });
    }

    /// An info was accepted, to come after so long.
    pub(super) fn accept_info(&mut self, number: u32, now: Instant, delay: Option<Duration>) {
        let (due, tick) = (now + delay.unwrap_or_default(), self.tick());
        self.infos.push(Info { number, tick, due, delayed: delay.is_some(), cancelled: None, came: None });
    }

    /// Infos that count to the queue, at least and at most.
    pub(super) fn infos_queued(&self) -> (usize, usize) {
        let count = |counts: fn(&Info) -> bool| self.infos.iter().filter(|info| counts(info)).count();
        (count(Info::waits), count(Info::may_wait))
    }

    /// What the last callback of that name was given.
    pub(super) fn detail(&self, name: &str) -> Option<&str> {
        self.calls.iter().rfind(|call| call.name == name).map(|call| &*call.detail)
    }

    pub(super) fn receive(&mut self, opcode: u8, payload: Bytes) {
        if let Some(conn) = self.conn() {
            conn.got_bytes += payload.len();
            conn.got.push(Seen { opcode, payload });
        }
    }
}
