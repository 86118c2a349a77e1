//! One client of a world, as all that plays in it knows it.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, Instant};

use parley_proto::codec::Frame;
use parley_proto::driver::InfoError;
use parley_proto::{DisconnectReason, Retry, SendError};

use super::Mutation;
use super::handler::PUSHED;
use super::peers::SERVED;
use super::plan::Plan;
use super::record::{Ask, Call, Conn, Fate, Info, Record, Sending, Turn};
use super::wire;
use crate::dice::Dice;
use crate::sim::{Sim, Task, lock};

#[derive(Debug)]
pub(super) struct Scene {
    pub(super) sim: Sim,
    pub(super) name: char,
    pub(super) plan: Plan,
    pub(super) mutation: Option<Mutation>,
    record: Mutex<Record>,
    /// The peer's ends of connections.
    pub(super) peers: Mutex<Vec<Task<()>>>,
}

impl Scene {
    pub(super) fn new(sim: &Sim, name: char, plan: Plan, mutation: Option<Mutation>) -> Arc<Self> {
        let (record, peers) = (Mutex::default(), Mutex::default());
        Arc::new(Self { sim: sim.clone(), name, plan, mutation, record, peers })
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

    /// Somebody asks for something.
    pub(super) fn ask(&self, who: &str, what: Ask) {
        self.note(&format!("{who} asks: {what:?}"));
        self.record().ask(what, self.sim.now());
    }

    /// A frame in a lane, whose even numbers are for data and whose odd ones for pings and pongs.
    pub(super) fn make(&self, dice: &mut Dice, lane: u32) -> (Frame, (u32, u32)) {
        let is_control = dice.chance(15);
        let lane = lane + u32::from(is_control);
        let seq = self.record().number(lane);
        let most = match is_control {
            true => 130,
            false if self.plan.pressed => dice.pick(&[60, self.plan.big, self.plan.big]),
            false => dice.pick(&[1, 60, self.plan.big]),
        };
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
        let (cost, begun) = (frame.len() + 32, self.sim.now());
        let mut record = self.record();
        let epoch = record.epoch;
        let sending = Sending { fate: Fate::Open, cost, epoch, begun, offset: 0, answered: None, left: None, end: 0 };
        record.sends.insert(key, sending);
    }

    /// A send was given up before its outcome.
    pub(super) fn drop_send(&self, key: (u32, u32)) {
        if let Some(sending) = self.record().sends.get_mut(&key) {
            sending.fate = Fate::Dropped;
        }
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
        let now = self.sim.now();
        let (over, empty) = {
            let mut record = self.record();
            // Accepted at this moment, with nothing that holds it back.
            let conn = record.conns.last().filter(|conn| conn.greeted && record.running != Some("handle_connect"));
            let offset = conn.filter(|_| fate == Fate::Accepted).map_or(0, |conn| conn.up.total);
            if let Some(sending) = record.sends.get_mut(&key) {
                (sending.fate, sending.offset) = (fate, offset);
                sending.answered = Some(now);
            }
            let still = record.sends_moved.is_none_or(|moved| moved < now) && !record.has_open_sends();
            (record.backlog(0..50), still && record.backlog(0..u32::MAX) == 0)
        };
        let full = matches!(outcome, Err(SendError::Full(_)));
        self.check(!(full && empty), || format!("{key:?} found an empty queue full"));
        let bound = self.plan.send_queue + 64 * 1024 + 2 * (self.plan.big + 200);
        self.check(over <= bound, || format!("{over} bytes wait to be sent, more than {bound}"));
    }

    /// What became of an info that was sent.
    pub(super) fn end_info(&self, number: u32, delay: Option<Duration>, outcome: &Result<(), InfoError<u32>>) {
        let (now, most) = (self.sim.now(), self.plan.info_queue);
        let broken = {
            let mut record = self.record();
            let stale = record.infos_moved.is_none_or(|moved| moved < now) && record.infos_waiting == 0;
            match outcome {
                Ok(()) => {
                    record.accept_info(number, now, delay);
                    record.infos_queued().0 > most
                }
                Err(InfoError::Full(_)) => stale && record.infos_queued().1 < most,
                Err(_) => !record.is_asked(Ask::Stop) && !record.has_ended(),
            }
        };
        self.check(!broken, || format!("3.6: info {number} was answered with {outcome:?}"));
    }

    /// A delayed info was cancelled.
    pub(super) fn cancel(&self, number: u32) {
        self.note(&format!("info {number} is cancelled"));
        let now = self.sim.now();
        let mut record = self.record();
        record.infos_moved = Some(now);
        // What was due already comes all the same.
        let cancelled = |info: &&mut Info| info.number == number && info.waits() && now <= info.due;
        if let Some(info) = record.infos.iter_mut().find(cancelled) {
            info.cancelled = Some(now);
        }
    }

    /// `handle_info` is called.
    pub(super) fn came(&self, number: u32) {
        let now = self.sim.now();
        let rule = {
            let mut record = self.record();
            record.infos_moved = Some(now);
            let first = record.infos.iter().find(|info| !info.delayed && info.came.is_none()).map(|info| info.number);
            match record.infos.iter_mut().find(|info| info.number == number) {
                None => Some("that nobody sent"),
                Some(info) if info.came.is_some() => Some("for the second time"),
                Some(info) => {
                    info.came = Some(now);
                    match info.cancelled {
                        _ if info.due > now => Some("too early"),
                        Some(cancelled) if cancelled < info.due => Some("that was cancelled in time"),
                        _ if !info.delayed && first != Some(number) => Some("out of order"),
                        _ => None,
                    }
                }
            }
        };
        self.check(rule.is_none(), || format!("3.6: info {number} came {}", rule.unwrap_or_default()));
    }

    /// A callback begins.
    pub(super) fn enter(self: &Arc<Self>, name: &'static str, detail: String) -> Running {
        self.note(&format!("{name} {detail}"));
        let at = self.sim.now();
        let delivers = matches!(name, "handle_frame" | "handle_ping" | "handle_info");
        let (before, open, call) = {
            let mut record = self.record();
            record.sends_moved = record.sends_moved.filter(|_| name != "handle_disconnect").or(Some(at));
            let tick = record.tick();
            record.calls.push(Call { name, detail, at, tick, done: None, reason: None, retry: None });
            match name {
                "handle_disconnect" => record.epoch += 1,
                "terminate" => record.handles_left = record.handles,
                "handle_connect" => record.conn().into_iter().for_each(|conn| conn.greeted = true),
                _ => {}
            }
            (record.running.replace(name), record.open_conns(), record.calls.len() - 1)
        };
        self.check(before.is_none(), || format!("3.8: {name} while {before:?} runs"));
        if delivers {
            self.takes_turns(name);
        } else {
            self.record().turn = None;
        }
        if matches!(name, "handle_disconnect" | "terminate") {
            self.check(open == 0, || format!("4.1: {name} while {open} transports are open"));
        }
        Running { scene: self.clone(), since: at, call, done: false }
    }
}

impl Scene {
    /// Rules 3.6 and 3.9: frames and infos alternate, and none comes while callbacks have pushed too much.
    fn takes_turns(&self, name: &'static str) {
        let (turn, pushed, up) = {
            let mut record = self.record();
            let well = |conn: &&Conn| {
                let over = conn.down.close.is_some() || conn.down.fault.is_some() || conn.eof.is_some();
                !over && !conn.asked && conn.cut.is_none() && conn.closed.is_none()
            };
            let up = record.conns.last().filter(well).is_some();
            let still = record.has_frames(); // unless a close was asked for meanwhile
            let turn = record.turn.take().map(|turn| Turn { frames: turn.frames && still, ..turn });
            (turn, record.backlog(PUSHED..SERVED), up)
        };
        let is_info = name == "handle_info";
        let fair =
            turn.is_none_or(|turn| turn.was_info != is_info || !(if is_info { turn.frames } else { turn.infos }));
        self.check(fair, || format!("3.6: {name} for the second time, and the other kind waited: {turn:?}"));
        let bound = self.plan.send_queue + 64 * 1024 + 2 * (self.plan.big + 200); // one half written, one over
        self.check(!up || pushed < bound, || format!("3.9: {name} with {pushed} bytes pushed, {bound} at most"));
    }
}

/// A callback that runs; dropped before it is done, it was dropped by the client.
pub(super) struct Running {
    scene: Arc<Scene>,
    since: Instant,
    call: usize,
    pub(super) done: bool,
}

impl Running {
    /// What `handle_disconnect` is told.
    pub(super) fn told(&self, reason: &DisconnectReason) {
        self.scene.record().calls[self.call].reason = Some(reason.clone());
    }

    /// What it answers.
    pub(super) fn answers(self, retry: Retry) -> Retry {
        self.scene.note(&format!("answers {retry:?}"));
        self.scene.record().calls[self.call].retry = Some(retry);
        retry
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let now = self.scene.sim.now();
        let mut record = self.scene.record();
        if let Some(conn) = record.conn() {
            conn.waited += now.saturating_duration_since(self.since);
        }
        let name = record.running.take().unwrap_or("?");
        if self.done {
            let tick = record.tick();
            record.calls[self.call].done = Some((now, tick));
            match name {
                "handle_frame" | "handle_ping" => record.end_turn(false),
                "handle_info" => record.end_turn(true),
                "handle_connect" => record.conn().into_iter().for_each(|conn| conn.open = Some(now)),
                _ => {}
            }
        }
        drop(record);
        if !self.done {
            self.scene.note(&format!("{name} dropped"));
        }
    }
}
