//! Attempts, one after another: the order of their callbacks, and when the next begins.
//!
//! ```text
//! init ─▶ ( prepare ─▶ [ handle_connect ─▶ frames and pings ] ─▶ handle_disconnect ─▶ delay )* ─▶ terminate
//! ```
//!
//! An attempt that is given up before its `prepare` was called shows itself by its number alone.

use std::time::{Duration, Instant};

use parley_proto::{ConnectPhase, DisconnectReason, Retry, StopReason};

use super::plan::Policy;
use super::record::{Ask, Asked, Call, Conn, Record};
use super::scene::Scene;

/// Where a client stands between two callbacks.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    New,
    Down,
    Prepared,
    Up,
    Ended,
}

/// The order of callbacks: 3.1 to 3.4, 3.11, 4.1, 4.2.
pub(super) fn order(scene: &Scene, record: &Record, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    let mut place = Place::New;
    // Attempts that have begun, and those that `handle_disconnect` was told of.
    let (mut number, mut told) = (0, 0);
    for call in &record.calls {
        let (name, was) = (call.name, place);
        place = match (was, name) {
            (Place::New, "init") => Place::Down,
            (Place::Down, "prepare") => {
                let next: u64 = call.detail.parse().unwrap_or_default();
                if next != told + 1 {
                    broken.push(format!("4.1: handle_disconnect ran {told} times before attempt {next}"));
                }
                number = next;
                Place::Prepared
            }
            (Place::Prepared, "handle_connect") | (Place::Up, "handle_frame" | "handle_ping") => Place::Up,
            (Place::Down | Place::Prepared | Place::Up, "handle_disconnect") => {
                told += 1;
                if told < number || was == Place::Down && told <= number {
                    broken.push(format!("4.1: handle_disconnect for the {told}. time, in attempt {number}"));
                }
                Place::Down
            }
            (Place::New | Place::Ended, "handle_info") => {
                broken.push(format!("3.6: {name} outside of the client's life"));
                was
            }
            (_, "handle_info") => was,
            (Place::Down | Place::Prepared | Place::Up, "terminate") => Place::Ended,
            _ => {
                broken.push(format!("3.1, 3.3, 4.1: {name} out of order"));
                return;
            }
        };
    }
    let mut first = record.calls.iter().filter_map(|call| Some((call.tick, call.reason.as_ref()?)));
    if let Some((tick, early)) = first.next()
        && scene.plan.policy.is_none()
        && is_early(record, early, tick)
    {
        broken.push(format!("4.2: handle_disconnect ran, and nothing was ever reached: {early}"));
    }
    let aborted = matches!(reason, Some(StopReason::Aborted));
    let Some(attempts) = record.attempts.filter(|_| !aborted) else { return };
    // The last attempt may have ended with the client.
    if attempts != told && attempts != told + 1 {
        broken.push(format!("4.1: handle_disconnect ran {told} times in {attempts} attempts"));
    }
    let asked = record.is_asked(Ask::Stop);
    if attempts != told && !asked && !is_hopeless(scene, record, reason, attempts) {
        broken.push("4.1: a lost connection without handle_disconnect".to_owned());
    }
}

/// Rule 4.2: the very first attempt, which reached nothing.
fn is_hopeless(scene: &Scene, record: &Record, reason: Option<&StopReason>, attempts: u64) -> bool {
    let Some(StopReason::Disconnected(reason)) = reason else { return false };
    let unsaid = record.conns.iter().all(|conn| !conn.up.past_head);
    scene.plan.policy.is_none() && attempts == 1 && is_early(record, reason, u64::MAX) && unsaid
}

/// In DNS, TCP, or TLS, as far as was seen up to then.
fn is_early(record: &Record, reason: &DisconnectReason, until: u64) -> bool {
    use ConnectPhase::{Dns, Tcp, Tls};
    match reason {
        DisconnectReason::Dns(_) | DisconnectReason::Tls(_) | DisconnectReason::ConnectTimeout(Dns | Tcp | Tls) => true,
        DisconnectReason::Tcp(_) => record.conns.iter().all(|conn| conn.opened > until),
        _ => false,
    }
}

/// What has to come behind a `handle_disconnect`.
enum Next {
    /// An attempt, so much later.
    Attempt(Duration, Duration),
    /// None, unless somebody asks for it.
    Nothing,
    /// The end of the client.
    End,
    /// That depends on what cannot be seen from here.
    Anything,
}

/// When the next attempt begins, if it does: 4.16 to 4.19, 3.7.
pub(super) fn delays(scene: &Scene, record: &Record, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    let mut backoff = Backoff { policy: scene.plan.policy, retries: vec![0] };
    let mut began = 0;
    for (index, call) in record.calls.iter().enumerate() {
        match call.name {
            "prepare" => began = call.tick,
            "handle_disconnect" => {
                let mine = |conn: &&Conn| began > 0 && conn.opened > began && conn.opened < call.tick;
                let conn = record.conns.iter().rfind(mine);
                backoff.lived(call, conn);
                if let (Some(retry), Some(told), Some((at, tick))) = (call.retry, &call.reason, call.done) {
                    let next = record.calls[index..].iter().find(|call| call.name == "prepare");
                    let until = next.map_or(u64::MAX, |next| next.tick);
                    let after: Vec<_> = between(record, tick, until).collect();
                    let before: Vec<_> = between(record, began, tick).collect();
                    let known = began > 0 && before.iter().chain(&after).all(|asked| asked.at != at);
                    let expected = backoff.next(retry, told, &before, call.tick, known);
                    let follow = Follow { scene, record, at, next, after: &after, reason };
                    follow.check(expected, told, broken);
                } else {
                    backoff.unsure();
                }
                began = 0;
            }
            _ => {}
        }
    }
}

fn between(record: &Record, from: u64, to: u64) -> impl Iterator<Item = Asked> {
    record.asks.iter().filter(move |asked| asked.tick > from && asked.tick < to).copied()
}

/// What the client's backoff may be: what cannot be told from outside is kept as several.
struct Backoff {
    policy: Option<Policy>,
    retries: Vec<u32>,
}

impl Backoff {
    /// A connection has ended before this callback.
    fn lived(&mut self, call: &Call, conn: Option<&Conn>) {
        let Some((conn, answered)) = conn.and_then(|conn| Some((conn, conn.answered?))) else { return };
        let uptime = self.policy.unwrap_or(Policy::OFF).uptime;
        let most = call.at.saturating_duration_since(answered);
        let least = conn.closed.map_or(most, |closed| closed.saturating_duration_since(answered));
        if least >= uptime && conn.greeted {
            self.retries = vec![0];
        } else if most >= uptime {
            self.retries.push(0);
        }
    }

    /// One retry more, or not.
    fn unsure(&mut self) {
        let more: Vec<_> = self.retries.iter().map(|n| n + 1).collect();
        self.retries.extend(more);
        self.retries.sort_unstable();
        self.retries.dedup();
    }

    /// One retry more, and the bounds of its delay.
    fn retry(&mut self, floor: Duration) -> Next {
        let policy = self.policy.unwrap_or(Policy::OFF);
        let bounds = self.retries.iter().map(|n| policy.bounds(*n));
        let (least, most) = bounds.reduce(|a, b| (a.0.min(b.0), a.1.max(b.1))).unwrap_or_default();
        self.count();
        Next::Attempt(least.max(floor), most.max(floor))
    }

    fn count(&mut self) {
        self.retries.iter_mut().for_each(|n| *n += 1);
    }

    fn next(&mut self, retry: Retry, reason: &DisconnectReason, asks: &[Asked], told: u64, known: bool) -> Next {
        let floor = retry_after(reason);
        let dials = match asks {
            _ if !known => None,
            [] => Some(false),
            [asked] => match asked.what {
                Ask::Reconnect => Some(true),
                Ask::Connect if asked.tick > told => Some(true),
                Ask::Disconnect if retry == Retry::Policy => return Next::Nothing,
                _ => None,
            },
            _ => None,
        };
        let Some(dials) = dials else {
            self.unsure();
            return Next::Anything;
        };
        match retry {
            Retry::Stop => Next::End,
            Retry::Stay => Next::Nothing,
            Retry::After(delay) => {
                self.count();
                Next::Attempt(delay, delay)
            }
            Retry::Reconnect => self.retry(floor),
            Retry::Policy if dials => Next::Attempt(Duration::ZERO, Duration::ZERO),
            Retry::Policy => match self.policy {
                Some(policy) if reason.is_transient() => match policy.most {
                    Some(most) if self.retries.iter().all(|n| *n >= most) => Next::End,
                    Some(most) if self.retries.iter().any(|n| *n >= most) => {
                        self.unsure();
                        Next::Anything
                    }
                    _ => self.retry(floor),
                },
                _ => Next::Nothing,
            },
            _ => Next::Anything,
        }
    }
}

/// Rule 4.19: how long the server wants to be left alone.
fn retry_after(reason: &DisconnectReason) -> Duration {
    let DisconnectReason::Rejected(rejected) = reason else { return Duration::ZERO };
    let seconds = rejected.headers.get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    Duration::from_secs(seconds.unwrap_or(0))
}

/// What followed a `handle_disconnect`.
struct Follow<'a> {
    scene: &'a Scene,
    record: &'a Record,
    /// When it returned.
    at: Instant,
    next: Option<&'a Call>,
    /// What was asked for between it and the next attempt, or the end.
    after: &'a [Asked],
    reason: Option<&'a StopReason>,
}

impl Follow<'_> {
    fn check(&self, expected: Next, told: &DisconnectReason, broken: &mut Vec<String>) {
        let dialled = self.after.iter().any(|asked| matches!(asked.what, Ask::Connect | Ask::Reconnect));
        let ended = |until: Instant| {
            let mut ends = self.after.iter().filter(|asked| matches!(asked.what, Ask::Disconnect | Ask::Stop));
            ends.any(|asked| asked.at <= until)
        };
        let cancelled = self.after.iter().find(|asked| asked.what == Ask::Disconnect).map(|asked| asked.at);
        let end = self.record.ended.unwrap_or(self.at);
        let slack = Duration::from_millis(1);
        self.by_hand(&expected, broken);
        match (expected, self.next) {
            (Next::Anything, _) => {}
            (Next::Attempt(least, most), Some(next)) => {
                let delay = next.at.saturating_duration_since(self.at);
                let late = delay > most + slack && !self.scene.plan.jumps && !self.is_busy(self.at + most);
                let before = |at: Instant| at < next.at && at < self.at + least && !self.is_busy(at);
                if !dialled && cancelled.is_some_and(before) {
                    broken.push(format!("4.4: an attempt though it was cancelled behind: {told}"));
                }
                if !dialled && (delay < least || late) {
                    broken.push(format!("4.16: an attempt after {delay:?}, not {least:?} to {most:?}, behind: {told}"));
                }
            }
            (Next::Attempt(_, most), None) => {
                if !self.scene.plan.jumps
                    && !ended(self.at + most + slack)
                    && !self.is_busy(self.at + most)
                    && end > self.at + most + slack
                {
                    broken.push(format!("4.16: no attempt within {most:?} behind: {told}"));
                }
                if !ended(end) && end <= self.at + most && !self.record.is_asked(Ask::Stop) {
                    broken.push(format!("4.3: an end with a retry pending behind: {told}"));
                }
            }
            (Next::Nothing, Some(_)) if !dialled => {
                broken.push(format!("4.18, 4.19: an attempt that nobody wanted behind: {told}"));
            }
            (Next::Nothing, _) => {}
            (Next::End, Some(_)) => broken.push(format!("4.17: an attempt behind the last: {told}")),
            (Next::End, None) => {
                let well = match self.reason {
                    Some(StopReason::Disconnected(reason) | StopReason::MaxRetriesExceeded(reason)) => {
                        reason.to_string() == told.to_string()
                    }
                    _ => self.record.is_asked(Ask::Stop),
                };
                if !well {
                    broken.push(format!("4.17: another end than the one behind: {told}"));
                }
            }
        }
    }

    /// Rule 4.4: `connect` skips the delay, and so does `reconnect` while disconnected.
    fn by_hand(&self, expected: &Next, broken: &mut Vec<String>) {
        let least = match expected {
            Next::Attempt(least, _) => *least,
            Next::Nothing => Duration::MAX,
            Next::End | Next::Anything => return,
        };
        let Some(asked) = self.after.first().filter(|asked| matches!(asked.what, Ask::Connect | Ask::Reconnect)) else {
            return;
        };
        let early = asked.at > self.at && asked.at.saturating_duration_since(self.at) < least;
        let late = self.next.is_none_or(|next| next.at > asked.at + Duration::from_millis(1));
        let alone = self.after.iter().filter(|other| other.at == asked.at).count() == 1;
        if early && late && alone && !self.is_busy(asked.at) && !self.scene.plan.jumps {
            broken.push("4.4: connect did not skip the delay".to_owned());
        }
    }

    /// Another callback was in the way then.
    fn is_busy(&self, at: Instant) -> bool {
        self.record.calls.iter().any(|call| call.name == "handle_info" && call.is_running(at))
    }
}
