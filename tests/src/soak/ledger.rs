//! What both ends of each connection have seen, and whether that fits together.
//!
//! Both ends are in this process, so that they write into one [`Pair`]. What can be judged on the spot is: a number that comes
//! out of turn, a message that was given back. The rest is judged when both ends have told how they ended.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::fmt::{self, Write};
use std::mem;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use parley_proto::DisconnectReason;
use parley_proto::connection::{Closed, Initiator};

use super::CLOSE_TIMEOUT;
use super::message::{Label, Side, Stream};
use super::proxy::Fate;

/// What is kept of a connection's history, for the report of a violation.
const HISTORY: usize = 48;
/// Violations that are kept in full.
const VIOLATIONS: usize = 8;

/// No lock is held while foreign code runs, so that a panic leaves nothing half-way.
pub(super) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All connections of a run.
#[derive(Default)]
pub(super) struct Ledger {
    last_id: AtomicU64,
    /// Those of which not both ends have told their end.
    pairs: Mutex<HashMap<u64, Arc<Pair>>>,
    totals: Mutex<Totals>,
    strays: Mutex<Strays>,
    violations: Mutex<Vec<String>>,
    violated: AtomicU64,
    /// Connections cannot be expected to come about any more.
    ebbs: AtomicBool,
}

/// What was sent while its client went from one connection to the next: see [`Ledger::crossed`].
#[derive(Default)]
struct Strays {
    crossed: HashSet<Label>,
    arrived: Vec<Label>,
}

/// Numbers of all connections that are over.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    pub(super) attempts: u64,
    pub(super) opened: u64,
    pub(super) messages: u64,
    pub(super) pings: u64,
    pub(super) bytes: u64,
    pub(super) settled: u64,
    pub(super) given_back: u64,
    pub(super) strays: u64,
    /// Connections that ended in turn at one side, so that everything was expected to be there.
    pub(super) in_turn: u64,
    /// Those that nothing disturbed, and that were closed politely.
    pub(super) harmless: u64,
    /// Those that would be, but for a close timeout that came one byte at a time.
    pub(super) too_slow: u64,
    pub(super) ends: BTreeMap<(&'static str, String), u64>,
    pub(super) fates: BTreeMap<&'static str, u64>,
}

/// One connection, from the attempt on.
pub(super) struct Pair {
    id: u64,
    ledger: Arc<Ledger>,
    born: Instant,
    state: Mutex<State>,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.id)
    }
}

#[derive(Default)]
struct State {
    fate: Option<Fate>,
    /// The proxy did more than its fate says: the server was not there, say.
    hurt: bool,
    /// It pings so soon that a slow machine looks dead.
    hasty: bool,
    halves: [Half; 2],
    /// Codes with which another task may close this client's connections, of which this is one.
    elsewhere: Option<Arc<Mutex<Vec<u16>>>>,
    bytes: u64,
    history: VecDeque<(u64, Option<Side>, String)>,
    forgotten: usize,
}

/// What one end has done and seen.
#[derive(Default)]
struct Half {
    begun: bool,
    open: bool,
    end: Option<End>,
    sent: [Sent; 6],
    /// By stream of the peer's: the number that comes next.
    got: [u32; 6],
    /// The number of the next pong at the earliest.
    pongs: u32,
    /// Codes with which it closes.
    asked: Vec<u16>,
    /// When the first of them was asked for.
    closing: Option<Instant>,
    /// The close timeout was over when it ended.
    timed_out: bool,
    /// While the server was leaving.
    late: bool,
}

/// What one stream of one end has sent.
#[derive(Default)]
struct Sent {
    /// Handed to the library.
    offered: u32,
    /// Taken by the operating system, by the library's word: all before this number.
    settled: u32,
    /// Accepted before this Close was asked for: all before this number.
    before_close: Option<(u16, u32)>,
    /// Given back: their numbers are free again.
    returned: u32,
    /// May be on the wire or not: a send that was given up.
    unsure: Vec<u32>,
}

/// How one end tells that the connection has ended.
#[derive(Clone, Debug)]
pub(super) enum End {
    /// The peer closed with this code.
    Remote {
        code: u16,
        clean: bool,
    },
    /// This side closed.
    Local {
        clean: bool,
    },
    /// The client was stopped, or ended by an error of its own.
    Stopped,
    /// The application dropped it, or its callback panicked.
    Dropped,
    /// Server: the request was refused with this status.
    Refused(u16),
    Failed(DisconnectReason),
}

impl From<&DisconnectReason> for End {
    fn from(reason: &DisconnectReason) -> Self {
        match reason {
            DisconnectReason::Local | DisconnectReason::Requested(_) | DisconnectReason::Abandoned => {
                Self::Local { clean: true }
            }
            DisconnectReason::Remote(close) => {
                Self::Remote { code: close.as_ref().map_or(1005, |close| close.code().get()), clean: true }
            }
            other => Self::Failed(other.clone()),
        }
    }
}

impl From<&Closed> for End {
    fn from(closed: &Closed) -> Self {
        match (&closed.error, closed.initiator) {
            (Some(_), _) => Self::Failed(closed.reason()),
            (None, Initiator::Local) => Self::Local { clean: closed.was_clean },
            (None, Initiator::Remote) => Self::Remote { code: closed.code(), clean: closed.was_clean },
        }
    }
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Remote { code, .. } if (4000..).contains(code) => f.write_str("closed by the peer, 4000 and up"),
            Self::Remote { code, .. } => write!(f, "closed by the peer, {code}"),
            Self::Local { .. } => f.write_str("closed by this side"),
            Self::Stopped => f.write_str("stopped"),
            Self::Dropped => f.write_str("dropped, or a panic"),
            Self::Refused(status) => write!(f, "refused with {status}"),
            Self::Failed(DisconnectReason::Rejected(rejected)) => {
                write!(f, "refused with {}", rejected.status.as_u16())
            }
            Self::Failed(DisconnectReason::Tcp(error)) => write!(f, "TCP: {:?}", error.kind()),
            Self::Failed(reason) => reason.fmt(f),
        }
    }
}

impl Ledger {
    /// A connection that a client is about to try.
    pub(super) fn attempt(self: &Arc<Self>, hasty: bool, elsewhere: Option<Arc<Mutex<Vec<u16>>>>) -> Arc<Pair> {
        let id = self.last_id.fetch_add(1, Ordering::Relaxed) + 1;
        let state = State { hasty, elsewhere, ..State::default() };
        let pair = Arc::new(Pair { id, ledger: self.clone(), born: Instant::now(), state: Mutex::new(state) });
        lock(&self.pairs).insert(id, pair.clone());
        lock(&pair.state).half(Side::Client).begun = true;
        pair
    }

    /// The connection of this number, if not both its ends are over.
    pub(super) fn find(&self, id: u64) -> Option<Arc<Pair>> {
        lock(&self.pairs).get(&id).cloned()
    }

    /// A client's handle may send a message while one connection ends and the next is under way: it bears the number of the
    /// one and travels on the other. The sender tells of it here when it sees that.
    pub(super) fn crossed(&self, label: Label) {
        lock(&self.strays).crossed.insert(label);
    }

    /// Servers are leaving: attempts may fail from here on.
    pub(super) fn ebb(&self, ebbs: bool) {
        self.ebbs.store(ebbs, Ordering::SeqCst);
    }

    pub(super) fn ebbs(&self) -> bool {
        self.ebbs.load(Ordering::SeqCst)
    }

    /// Something is not as promised.
    pub(super) fn violation(&self, what: String) {
        self.violated.fetch_add(1, Ordering::SeqCst);
        let mut violations = lock(&self.violations);
        if violations.len() < VIOLATIONS {
            eprintln!("violation: {what}");
            violations.push(what);
        }
    }

    pub(super) fn violated(&self) -> u64 {
        self.violated.load(Ordering::SeqCst)
    }

    pub(super) fn violations(&self) -> Vec<String> {
        lock(&self.violations).clone()
    }

    pub(super) fn totals(&self) -> Totals {
        lock(&self.totals).clone()
    }

    /// How many connections have not told both ends, though their client has begun.
    pub(super) fn open(&self) -> usize {
        let pairs: Vec<_> = lock(&self.pairs).values().cloned().collect();
        pairs.iter().filter(|pair| lock(&pair.state).is_under_way()).count()
    }

    /// Nothing is under way any more: what is left is judged. Says which connections have not ended.
    pub(super) fn settle(&self) {
        let pairs = mem::take(&mut *lock(&self.pairs));
        for pair in pairs.into_values() {
            if lock(&pair.state).is_under_way() {
                pair.violation("it has not ended at both sides, though all clients and servers have");
            }
            self.judge(&pair);
        }
        let strays = mem::take(&mut *lock(&self.strays));
        lock(&self.totals).strays += strays.arrived.len() as u64;
        let mut seen = HashSet::new();
        for label in strays.arrived {
            if !strays.crossed.contains(&label) {
                self.violation(format!("{label} arrived on another connection, and was not sent between the two"));
            }
            if !seen.insert(label) {
                self.violation(format!("{label} arrived twice"));
            }
        }
    }

    fn judge(&self, pair: &Pair) {
        let state = lock(&pair.state);
        let mut findings = Vec::new();
        let mut in_turn = false;
        for side in [Side::Client, Side::Server] {
            in_turn |= state.judge(side, self.ebbs(), &mut findings);
        }
        let mut totals = lock(&self.totals);
        totals.attempts += 1;
        totals.opened += u64::from(state.halves[0].open);
        totals.in_turn += u64::from(in_turn);
        totals.harmless += u64::from(state.was_harmless());
        totals.too_slow += u64::from(state.was_too_slow());
        totals.bytes += state.bytes;
        *totals.fates.entry(state.fate.as_ref().map_or("never reached", Fate::name)).or_default() += 1;
        for (name, half) in [("client", &state.halves[0]), ("server", &state.halves[1])] {
            if let Some(end) = &half.end {
                let end = if half.open { end.to_string() } else { format!("not opened: {end}") };
                *totals.ends.entry((name, end)).or_default() += 1;
            }
            for stream in Stream::ALL {
                let got = u64::from(half.got[stream as usize]);
                *if stream == Stream::Ping { &mut totals.pings } else { &mut totals.messages } += got;
                let sent = &half.sent[stream as usize];
                totals.settled += u64::from(sent.settled);
                totals.given_back += u64::from(sent.returned);
            }
        }
        drop(totals);
        drop(state);
        findings.iter().for_each(|finding| pair.violation(finding));
    }
}

impl State {
    fn half(&mut self, side: Side) -> &mut Half {
        &mut self.halves[side as usize]
    }

    fn is_under_way(&self) -> bool {
        self.halves.iter().any(|half| half.begun && half.end.is_none())
    }

    /// Nothing disturbed it: whatever it ends by was asked for by one of the two.
    fn was_harmless(&self) -> bool {
        let politely = |half: &Half| half.open && !matches!(half.end, Some(End::Dropped) | None);
        self.fate.as_ref().is_some_and(Fate::is_harmless)
            && !self.hurt
            && !self.was_too_slow()
            && self.halves.iter().all(politely)
    }

    /// A closing handshake one byte at a time, behind what was sent before it, may take longer than it has on a busy machine.
    fn was_too_slow(&self) -> bool {
        matches!(self.fate, Some(Fate::Trickle(_))) && self.halves.iter().any(|half| half.timed_out)
    }

    /// Whether what this side has seen fits what the other did. True: it ended with the other's Close, in turn.
    fn judge(&self, side: Side, ebbs: bool, findings: &mut Vec<String>) -> bool {
        let half = &self.halves[side as usize];
        let peer = &self.halves[side.peer() as usize];
        let mut found = |what: String| findings.push(format!("{side:?}: {what}"));
        for stream in Stream::ALL {
            let (got, sent) = (half.got[stream as usize], &peer.sent[stream as usize]);
            if got > sent.offered {
                found(format!("got {got} messages of {stream:?}, of which {} were sent", sent.offered));
            }
        }
        if side == Side::Client && half.open && !peer.begun {
            found("is connected, and the server has not seen its request".to_owned());
        }
        let Some(end) = &half.end else { return false };
        if let End::Failed(DisconnectReason::Protocol(error)) = end {
            // A stream that is cut within the handshake is not the library's either.
            if half.open || self.fate.as_ref().is_none_or(Fate::is_harmless) {
                found(format!("protocol error: {error}"));
            }
        }
        let harmless = self.was_harmless();
        match end {
            End::Remote { code, clean } => {
                let elsewhere = peer_asked_elsewhere(self, side);
                if !peer.asked.contains(code) && !elsewhere.contains(code) {
                    found(format!("was closed with {code}, which the peer did not ask for"));
                }
                if harmless && !clean {
                    found("both Closes have passed, and the end is not clean".to_owned());
                }
                if let Some(End::Remote { .. }) = peer.end {
                    found("both sides say that the other closed".to_owned());
                }
                for stream in Stream::ALL {
                    let (got, sent) = (half.got[stream as usize], &peer.sent[stream as usize]);
                    if let Some(missing) = (got..sent.settled).find(|seq| !sent.unsure.contains(seq)) {
                        found(format!(
                            "saw the peer's Close and not {stream:?} {missing}, which was sent before it (got {got} of {})",
                            sent.settled
                        ));
                    }
                    if let Some((asked, before)) = sent.before_close {
                        let missing = (got..before).find(|seq| !sent.unsure.contains(seq));
                        if let (true, Some(missing)) = (asked == *code, missing) {
                            found(format!(
                                "saw the Close {code} and not {stream:?} {missing}, which was accepted before it (got {got} of {before})"
                            ));
                        }
                    }
                }
                return true;
            }
            End::Local { clean } => {
                if harmless && !clean {
                    found("nothing disturbed the closing handshake, and the end is not clean".to_owned());
                }
            }
            End::Failed(reason) if harmless => {
                // One that is stopped when it has given up the peer is not told so any more.
                let gave_up = |half: &Half| {
                    matches!(half.end, Some(End::Failed(DisconnectReason::KeepaliveTimeout) | End::Stopped))
                };
                if !(self.hasty && self.halves.iter().any(gave_up)) {
                    let peer = peer.end.as_ref().map(ToString::to_string).unwrap_or_default();
                    found(format!("failed, though nothing disturbed it: {reason}; the peer: {peer}"));
                }
            }
            End::Failed(reason) if side == Side::Client && !half.open && !self.hurt => {
                let excused = ebbs || half.late || !self.fate.as_ref().is_some_and(Fate::is_harmless);
                match (&peer.end, reason) {
                    _ if excused => {}
                    (Some(End::Refused(status)), DisconnectReason::Rejected(rejected))
                        if rejected.status.as_u16() == *status => {}
                    (Some(End::Dropped | End::Stopped | End::Local { .. }), _) => {}
                    (peer, _) => found(format!("its attempt failed for no reason: {reason}; the server: {peer:?}")),
                }
            }
            End::Failed(_) | End::Stopped | End::Dropped | End::Refused(_) => {}
        }
        false
    }
}

/// Codes that another task of the peer's may have closed with.
fn peer_asked_elsewhere(state: &State, side: Side) -> Vec<u16> {
    match (&state.elsewhere, side) {
        (Some(codes), Side::Server) => lock(codes).clone(),
        _ => Vec::new(),
    }
}

impl Pair {
    pub(super) fn id(&self) -> u64 {
        self.id
    }

    pub(super) fn label(&self, side: Side, stream: Stream, seq: u32) -> Label {
        Label { id: self.id, side, stream, seq }
    }

    /// A violation on this connection, with what is known of it.
    pub(super) fn violation(&self, what: &str) {
        let mut text = format!("connection {}: {what}\n", self.id);
        let state = lock(&self.state);
        let _ = writeln!(text, "  the proxy: {:?}{}", state.fate, if state.hurt { ", and more" } else { "" });
        let _ = writeln!(text, "  keepalive: {}", if state.hasty { "hasty" } else { "patient" });
        for (side, half) in ["client", "server"].iter().zip(&state.halves) {
            let _ = writeln!(
                text,
                "  {side}: begun {}, open {}, end {:?}, asked {:?}, got {:?}",
                half.begun, half.open, half.end, half.asked, half.got
            );
            for (stream, sent) in Stream::ALL.iter().zip(&half.sent).filter(|(_, sent)| sent.offered > 0) {
                let Sent { offered, settled, before_close, returned, unsure } = sent;
                let _ = writeln!(
                    text,
                    "    {stream:?}: offered {offered}, settled {settled}, before the Close {before_close:?}, given back {returned}, unsure {unsure:?}"
                );
            }
        }
        if state.forgotten > 0 {
            let _ = writeln!(text, "  … {} earlier events …", state.forgotten);
        }
        for (at, side, event) in &state.history {
            let side = side.map_or("proxy", |side| if side == Side::Client { "client" } else { "server" });
            let _ = writeln!(text, "  {at:>6} ms {side}: {event}");
        }
        drop(state);
        self.ledger.violation(text);
    }

    /// Something to remember, should there be a violation.
    pub(super) fn note(&self, side: Option<Side>, event: impl Into<String>) {
        self.note_in(&mut lock(&self.state), side, event.into());
    }

    fn note_in(&self, state: &mut State, side: Option<Side>, event: String) {
        if state.history.len() == HISTORY {
            state.history.pop_front();
            state.forgotten += 1;
        }
        let at = self.born.elapsed().as_millis().try_into().unwrap_or(u64::MAX);
        state.history.push_back((at, side, event));
    }

    /// What the proxy has in mind.
    pub(super) fn fated(&self, fate: Fate) {
        let mut state = lock(&self.state);
        self.note_in(&mut state, None, format!("{fate:?}"));
        if state.fate.replace(fate).is_some() {
            drop(state);
            self.violation("the proxy has seen its request twice");
        }
    }

    /// The proxy could not do what it should.
    pub(super) fn hurt(&self, what: &str) {
        let mut state = lock(&self.state);
        state.hurt = true;
        self.note_in(&mut state, None, what.to_owned());
    }

    /// The server has its request.
    pub(super) fn requested(&self) {
        let mut state = lock(&self.state);
        let again = mem::replace(&mut state.half(Side::Server).begun, true);
        self.note_in(&mut state, Some(Side::Server), "request".to_owned());
        drop(state);
        if again {
            self.violation("the server has seen its request twice");
        }
    }

    pub(super) fn opened(&self, side: Side) {
        let mut state = lock(&self.state);
        let half = state.half(side);
        let wrong = half.open || half.end.is_some();
        half.open = true;
        self.note_in(&mut state, Some(side), "open".to_owned());
        drop(state);
        if wrong {
            self.violation("it was opened twice, or after its end");
        }
    }

    /// This side will close with that.
    pub(super) fn asked(&self, side: Side, code: u16) {
        let mut state = lock(&self.state);
        let half = state.half(side);
        half.asked.push(code);
        half.closing.get_or_insert_with(Instant::now);
        self.note_in(&mut state, Some(side), format!("closes with {code}"));
    }

    /// This side asks for a Close now, behind what was accepted of these streams.
    pub(super) fn closes_behind(&self, side: Side, code: u16, streams: &[Stream]) {
        let mut state = lock(&self.state);
        for stream in streams {
            let sent = &mut state.half(side).sent[*stream as usize];
            sent.before_close.get_or_insert((code, sent.offered));
        }
    }

    /// The number of the next message; it is about to be sent.
    pub(super) fn offer(&self, side: Side, stream: Stream) -> Label {
        let mut state = lock(&self.state);
        let sent = &mut state.half(side).sent[stream as usize];
        sent.offered += 1;
        self.label(side, stream, sent.offered - 1)
    }

    /// The operating system has this one, and all before.
    pub(super) fn settled(&self, Label { side, stream, seq, .. }: Label) {
        let mut state = lock(&self.state);
        let sent = &mut state.half(side).sent[stream as usize];
        sent.settled = sent.settled.max(seq + 1);
    }

    /// The operating system has all of this stream that was accepted.
    pub(super) fn flushed(&self, side: Side, stream: Stream) {
        let mut state = lock(&self.state);
        let sent = &mut state.half(side).sent[stream as usize];
        sent.settled = sent.offered;
    }

    /// The last message was given back: it was not sent, and its number is free.
    pub(super) fn given_back(&self, Label { side, stream, seq, .. }: Label, why: &str) {
        let mut state = lock(&self.state);
        let arrived = state.half(side.peer()).got[stream as usize] > seq;
        let sent = &mut state.half(side).sent[stream as usize];
        sent.returned += 1;
        sent.offered = seq;
        self.note_in(&mut state, Some(side), format!("{stream:?} {seq} given back: {why}"));
        drop(state);
        if arrived {
            self.violation(&format!("{stream:?} {seq} was given back ({why}), and arrived"));
        }
    }

    /// This message may be on its way or not.
    pub(super) fn unsure(&self, Label { side, stream, seq, .. }: Label, why: &str) {
        let mut state = lock(&self.state);
        state.half(side).sent[stream as usize].unsure.push(seq);
        self.note_in(&mut state, Some(side), format!("{stream:?} {seq} may be sent or not: {why}"));
    }

    /// A message has come to `side`. Gives its label, if it is to be answered.
    pub(super) fn received(&self, side: Side, payload: &[u8]) -> Option<Label> {
        if payload.is_empty() {
            self.count_empty(side);
            return None;
        }
        let label = match Label::read(payload) {
            Ok(label) => label,
            Err(damage) => {
                self.violation(&format!("{side:?}: {damage}"));
                return None;
            }
        };
        if label.id != self.id {
            match (label.side, label.stream) {
                (Side::Client, Stream::Sent | Stream::Ping) if side == Side::Server => {
                    lock(&self.ledger.strays).arrived.push(label);
                }
                _ => self.violation(&format!("{side:?}: got {label}")),
            }
            return None;
        }
        let (stream, seq) = (label.stream, label.seq);
        let mut state = lock(&self.state);
        state.bytes += payload.len() as u64;
        let sent = &state.halves[side.peer() as usize].sent[stream as usize];
        let half = &state.halves[side as usize];
        let next = half.got[stream as usize];
        let wrong = if label.side == side {
            Some("it is its own".to_owned())
        } else if seq < next {
            Some(format!("{next} would be next: it was doubled, or overtaken"))
        } else if let Some(missing) = (next..seq).find(|missing| !sent.unsure.contains(missing)) {
            Some(format!("{missing} is missing before it"))
        } else if seq >= sent.offered {
            Some(format!("only {} were sent", sent.offered))
        } else if half.end.is_some() {
            Some("it came after the end".to_owned())
        } else {
            None
        };
        state.half(side).got[stream as usize] = next.max(seq + 1);
        drop(state);
        match wrong {
            None => Some(label),
            Some(wrong) => {
                self.violation(&format!("{side:?}: got {label}: {wrong}"));
                None
            }
        }
    }

    /// A ping has come to `side`: one of the application's, or the peer's keepalive, which has eight bytes of its own.
    pub(super) fn pinged(&self, side: Side, payload: &[u8]) {
        if payload.len() != 8 {
            self.received(side, payload);
        }
    }

    fn count_empty(&self, side: Side) {
        let mut state = lock(&self.state);
        state.half(side).got[Stream::Empty as usize] += 1;
    }

    /// A pong has come to `side`: pings may have been skipped, but none is answered twice, nor out of order.
    pub(super) fn pong(&self, side: Side, payload: &[u8]) {
        let Ok(label) = Label::read(payload) else {
            return self.violation(&format!("{side:?}: a pong that answers no ping"));
        };
        if label.id != self.id {
            return; // its ping was a stray
        }
        let mut state = lock(&self.state);
        let half = state.half(side);
        let offered = half.sent[Stream::Ping as usize].offered;
        let wrong = label.side != side || label.seq < half.pongs || label.seq >= offered;
        half.pongs = label.seq + 1;
        drop(state);
        if wrong {
            self.violation(&format!("{side:?}: a pong for {label}, which was answered or not sent"));
        }
    }

    pub(super) fn has_ended(&self, side: Side) -> bool {
        lock(&self.state).halves[side as usize].end.is_some()
    }

    /// The end that `side` was told, of which there is one.
    pub(super) fn ended(&self, side: Side, end: End) {
        let mut state = lock(&self.state);
        self.note_in(&mut state, Some(side), format!("end: {end:?}"));
        let ebbs = self.ledger.ebbs();
        let half = state.half(side);
        half.late = ebbs;
        half.timed_out = half.closing.is_some_and(|closing| closing.elapsed() >= CLOSE_TIMEOUT);
        let again = half.end.replace(end).is_some();
        // A client's end alone says nothing: its request may still be on its way.
        let over = state.halves.iter().all(|half| half.end.is_some());
        drop(state);
        if again {
            self.violation(&format!("{side:?}: it has ended twice"));
        }
        let pair = if over { lock(&self.ledger.pairs).remove(&self.id) } else { None };
        if let Some(pair) = pair {
            self.ledger.judge(&pair);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SENT: Stream = Stream::Sent;

    /// A connection that is up, and that the proxy leaves alone.
    fn open() -> (Arc<Ledger>, Arc<Pair>) {
        let ledger = Arc::new(Ledger::default());
        let pair = ledger.attempt(false, None);
        pair.fated(Fate::Plain);
        pair.requested();
        pair.opened(Side::Server);
        pair.opened(Side::Client);
        (ledger, pair)
    }

    fn send(pair: &Pair) -> Label {
        pair.offer(Side::Client, SENT)
    }

    fn arrive(pair: &Pair, label: Label) {
        pair.received(Side::Server, label.message(10).as_bytes());
    }

    /// The client closes, and both are told.
    fn close(pair: &Pair) {
        pair.asked(Side::Client, 4000);
        pair.ended(Side::Client, End::Local { clean: true });
        pair.ended(Side::Server, End::Remote { code: 4000, clean: true });
    }

    #[test]
    fn what_arrives_in_order_and_ends_well_is_no_violation() {
        let (ledger, pair) = open();
        for _ in 0..3 {
            let label = send(&pair);
            arrive(&pair, label);
            pair.settled(label);
        }
        pair.closes_behind(Side::Client, 4000, &[SENT]);
        close(&pair);
        ledger.settle();
        assert_eq!((ledger.violated(), ledger.open(), ledger.find(pair.id()).is_some()), (0, 0, false));
        let totals = ledger.totals();
        assert_eq!((totals.messages, totals.in_turn, totals.harmless), (3, 1, 1));
    }

    #[test]
    fn a_message_that_is_lost_between_two_is_seen() {
        let (ledger, pair) = open();
        let _lost = send(&pair);
        arrive(&pair, send(&pair));
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn a_message_that_comes_twice_is_seen() {
        let (ledger, pair) = open();
        let label = send(&pair);
        arrive(&pair, label);
        arrive(&pair, label);
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn a_message_that_was_given_back_and_arrives_is_seen() {
        let (ledger, pair) = open();
        let label = send(&pair);
        pair.given_back(label, "for a test");
        arrive(&pair, label);
        assert_eq!(ledger.violated(), 1);
        let (ledger, pair) = open();
        let label = send(&pair);
        arrive(&pair, label);
        pair.given_back(label, "for a test");
        assert!(ledger.violated() > 0);
    }

    #[test]
    fn a_send_that_was_given_up_may_be_missing() {
        let (ledger, pair) = open();
        pair.unsure(send(&pair), "for a test");
        let label = send(&pair);
        arrive(&pair, label);
        pair.settled(label);
        pair.unsure(send(&pair), "for a test");
        pair.flushed(Side::Client, SENT);
        close(&pair);
        assert_eq!(ledger.violated(), 0);
    }

    #[test]
    fn a_message_that_comes_behind_the_end_is_seen() {
        let (ledger, pair) = open();
        pair.ended(Side::Server, End::Dropped);
        arrive(&pair, send(&pair));
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn what_was_settled_and_is_missing_behind_the_peers_close_is_seen() {
        let (ledger, pair) = open();
        pair.settled(send(&pair));
        close(&pair);
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn what_was_accepted_before_a_close_and_is_missing_is_seen() {
        let (ledger, pair) = open();
        send(&pair);
        pair.closes_behind(Side::Client, 4000, &[SENT]);
        close(&pair);
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn a_code_that_nobody_asked_for_is_seen() {
        let (ledger, pair) = open();
        pair.ended(Side::Client, End::Local { clean: true });
        pair.ended(Side::Server, End::Remote { code: 4000, clean: true });
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn two_sides_that_were_both_closed_by_the_other_are_seen() {
        let (ledger, pair) = open();
        for side in [Side::Client, Side::Server] {
            pair.asked(side, 4000);
            pair.ended(side, End::Remote { code: 4000, clean: true });
        }
        assert!(ledger.violated() > 0);
    }

    #[test]
    fn a_failure_without_a_cause_is_seen() {
        for end in [End::Failed(DisconnectReason::Eof), End::Local { clean: false }] {
            let (ledger, pair) = open();
            pair.ended(Side::Client, end);
            pair.ended(Side::Server, End::Local { clean: true });
            assert_eq!(ledger.violated(), 1);
        }
    }

    #[test]
    fn a_failure_under_a_proxy_that_cuts_is_none_of_ours() {
        let ledger = Arc::new(Ledger::default());
        let pair = ledger.attempt(false, None);
        pair.fated(Fate::Cut { up: true, after: 1 });
        pair.requested();
        pair.opened(Side::Server);
        pair.opened(Side::Client);
        let label = send(&pair);
        pair.settled(label);
        pair.ended(Side::Client, End::Failed(DisconnectReason::Eof));
        pair.ended(Side::Server, End::Failed(DisconnectReason::Eof));
        assert_eq!(ledger.violated(), 0);
    }

    #[test]
    fn a_second_end_and_one_that_does_not_come_are_seen() {
        let (ledger, pair) = open();
        pair.ended(Side::Client, End::Dropped);
        pair.ended(Side::Client, End::Dropped);
        assert_eq!((ledger.violated(), ledger.open()), (1, 1));
        ledger.settle();
        assert_eq!(ledger.violated(), 2);
    }

    #[test]
    fn an_attempt_that_fails_for_no_reason_is_seen() {
        let ledger = Arc::new(Ledger::default());
        let pair = ledger.attempt(false, None);
        pair.fated(Fate::Plain);
        pair.ended(Side::Client, End::Failed(DisconnectReason::Eof));
        ledger.settle();
        assert_eq!(ledger.violated(), 1);
    }

    #[test]
    fn a_close_timeout_is_excused_where_bytes_come_one_at_a_time_and_nowhere_else() {
        for (fate, late, violated) in
            [(Fate::Trickle(9), true, 0), (Fate::Trickle(9), false, 1), (Fate::Plain, true, 1), (Fate::Plain, false, 1)]
        {
            let (ledger, pair) = open();
            lock(&pair.state).fate = Some(fate);
            pair.asked(Side::Client, 4000);
            pair.ended(Side::Client, End::Stopped);
            lock(&pair.state).half(Side::Client).timed_out = late;
            let reset = std::io::Error::from(std::io::ErrorKind::ConnectionReset);
            pair.ended(Side::Server, End::Failed(DisconnectReason::Tcp(reset.into())));
            assert_eq!(ledger.violated(), violated);
            assert_eq!(ledger.totals().too_slow, u64::from(violated == 0));
        }
    }

    #[test]
    fn a_hasty_client_may_have_given_up_its_peer_and_nobody_else() {
        let gave_up = || End::Failed(DisconnectReason::KeepaliveTimeout);
        for (hasty, end, violated) in [
            (true, gave_up(), 0),
            (true, End::Stopped, 0),
            (true, End::Local { clean: true }, 1),
            (false, gave_up(), 2),
            (false, End::Stopped, 1),
        ] {
            let (ledger, pair) = open();
            lock(&pair.state).hasty = hasty;
            pair.ended(Side::Client, end);
            pair.ended(Side::Server, End::Failed(DisconnectReason::Eof));
            assert_eq!(ledger.violated(), violated);
        }
    }

    #[test]
    fn a_message_on_another_connection_has_to_be_one_that_was_sent_between_the_two() {
        let (ledger, first) = open();
        let second = ledger.attempt(false, None);
        let labels = [send(&first), send(&first), send(&first)];
        ledger.crossed(labels[0]);
        ledger.crossed(labels[1]);
        arrive(&second, labels[0]);
        arrive(&second, labels[1]);
        second.requested();
        for pair in [&first, &second] {
            pair.ended(Side::Client, End::Dropped);
            pair.ended(Side::Server, End::Dropped);
        }
        assert_eq!(ledger.violated(), 0);
        arrive(&second, labels[1]);
        arrive(&second, labels[2]);
        ledger.settle();
        assert_eq!(ledger.violated(), 2, "one came twice, one was not sent in between");
    }
}
