//! What has to hold when a client has ended, by the numbers of the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parley_proto::{Retry, StopReason};

use super::plan::Peer;
use super::record::{Ask, Conn, Fate, Record};
use super::scene::Scene;
use super::wire::{self, Seen};
use super::{reasons, retries};

/// `reason`: of the error that `join` gave, if it gave one.
pub(super) fn ended(scene: &Scene, reason: Option<&StopReason>) {
    let mut broken = Vec::new();
    {
        let record = scene.record();
        end(&record, reason, &mut broken);
        infos(scene, &record, &mut broken);
        left_alone(scene, &record, &mut broken);
        retries::order(scene, &record, reason, &mut broken);
        retries::delays(scene, &record, reason, &mut broken);
        reasons::told(scene, &record, &mut broken);
        let mut wire = BTreeMap::new();
        for conn in &record.conns {
            received(scene, &record, conn, reason, &mut broken);
            written(scene, &record, conn, &mut wire, &mut broken);
            closed(scene, conn, &mut broken);
            reasons::deadlines(scene, conn, &mut broken);
            reasons::pongs(scene, &record, conn, &mut broken);
            reasons::codes(&record, conn, &mut broken);
        }
        sent(&record, &wire, &mut broken);
        answered(&record, &mut broken);
        if record.open_conns() != 0 {
            broken.push("3.12: a transport is open at the end".to_owned());
        }
        if let Some(name) = record.running {
            broken.push(format!("{name} still runs"));
        }
    }
    broken.iter().for_each(|rule| scene.fail(rule));
}

/// How the client ended, and that everybody is told the same.
fn end(record: &Record, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            broken.push(rule.to_owned());
        }
    };
    let aborted = matches!(reason, Some(StopReason::Aborted));
    let stopped = record.is_asked(Ask::Stop);
    let no_init = record.calls.len() <= 1 && stopped;
    let terminated = record.detail("terminate");
    if !(record.panicked || no_init || aborted) {
        must(terminated.is_some(), "3.11: no terminate");
    }
    match (reason, terminated) {
        (Some(reason), Some(told)) if !record.panicked && !aborted => {
            must(reason.to_string() == told, "terminate and join tell different reasons");
        }
        _ => {}
    }
    must(!record.panicked || matches!(reason, Some(StopReason::Panicked)) || aborted, "3.12: join hides a panic");
    let disconnected = record.detail("handle_disconnect");
    match reason {
        None => {
            let well = terminated.is_none_or(|told| told == "stopped");
            must(!well || stopped, "an end that nobody asked for");
            // Disconnected while init ran, it made no attempt that could be lost.
            let idle = record.is_asked(Ask::Disconnect) && record.detail("prepare").is_none();
            must(well || idle || terminated == disconnected, "4.3: an end with another reason than the last");
        }
        Some(StopReason::Panicked) => must(record.panicked, "a panic that nobody saw"),
        Some(StopReason::Handler(_)) => must(record.erred, "an error that no callback returned"),
        Some(StopReason::Disconnected(reason) | StopReason::MaxRetriesExceeded(reason)) => {
            if let Some(told) = disconnected {
                must(told == reason.to_string(), "4.3: an end with another reason than the last");
            }
        }
        Some(StopReason::Aborted) => must(stopped, "3.12: an abort that nobody asked for"),
        Some(_) => must(false, "an end of an unknown kind"),
    }
}

/// Every info that was accepted has come, unless the client ended before it could.
fn infos(scene: &Scene, record: &Record, broken: &mut Vec<String>) {
    let terminated = record.calls.iter().find(|call| call.name == "terminate").map(|call| call.at);
    let stopped = record.asks.iter().filter(|asked| asked.what == Ask::Stop).map(|asked| asked.at).min();
    let Some(end) = terminated.into_iter().chain(stopped).min() else { return };
    let busy: Duration = record.calls.iter().map(|call| call.lasted(end)).sum();
    // Callbacks wait also for what was pushed to leave.
    let free = scene.plan.send_queue < 1024 * 1024 || scene.plan.jumps;
    for info in record.infos.iter().filter(|info| info.waits()) {
        let late = end.saturating_duration_since(info.due);
        if late > busy + Duration::from_secs(1) && !free {
            broken.push(format!("3.6: info {} was accepted, due {late:?} before the end, and never came", info.number));
        }
    }
}

/// Rule 4.3: a client ends by itself once nothing is left that it could live for.
fn left_alone(scene: &Scene, record: &Record, broken: &mut Vec<String>) {
    let Some(end) = record.calls.iter().find(|call| call.name == "terminate") else { return };
    let wanted = record.calls.iter().rev().find_map(|call| call.retry) == Some(Retry::Stop);
    let alone = record.detail("handle_disconnect") == Some(&end.detail);
    if !alone || wanted {
        return;
    }
    if record.infos.iter().any(|info| info.waits() && info.tick < end.tick) {
        broken.push("4.3: the client ended, and infos waited".to_owned());
    }
    if record.handles_left > 0 {
        broken.push(format!("4.3: the client ended, and {} handles were left", record.handles_left));
    }
    if scene.plan.named {
        broken.push("4.3: the client ended, and had a name".to_owned());
    }
}

/// Of a ping: sent by an endpoint itself.
fn is_keepalive(seen: &Seen) -> bool {
    seen.opcode == 9 && seen.payload.len() == 8 && wire::parse(&seen.payload).is_none()
}

/// What came in: all of it, once, in order.
fn received(scene: &Scene, record: &Record, conn: &Conn, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    // The pongs that answer keepalive's pings are not the handler's.
    let pings: Vec<_> = conn.up.frames.iter().filter(|seen| is_keepalive(seen)).map(|ping| &ping.payload).collect();
    let came = conn.down.frames.iter().filter(|seen| seen.opcode != 10 || !pings.contains(&&seen.payload));
    let (got, came) = (&conn.got, &came.cloned().collect::<Vec<_>>());
    if got.len() > came.len() || *got != came[..got.len()] {
        let at = got.iter().zip(came).take_while(|(got, came)| got == came).count();
        broken.push(format!("3.4: frame {at} of {} is not the one that arrived (of {})", got.len(), came.len()));
        return;
    }
    let excused = conn.asked
        || record.panicked
        || record.erred
        || conn.waited > Duration::from_millis(2400)
        || scene.plan.jumps
        || scene.plan.send_queue < 1024 * 1024
        || matches!(reason, Some(StopReason::Aborted));
    if !excused && conn.greeted && got.len() != came.len() {
        broken.push(format!("4.11: {} frames arrived, {} were delivered", came.len(), got.len()));
    }
}

/// What one connection wrote: each frame at most once, in order, whole. `last` holds what was written before, with the
/// last number and the epoch of each lane.
fn written(
    scene: &Scene,
    record: &Record,
    conn: &Conn,
    last: &mut BTreeMap<(usize, u32), u32>,
    broken: &mut Vec<String>,
) {
    let up = &conn.up;
    if let Some(fault) = up.fault {
        broken.push(format!("the client wrote {fault}"));
    }
    if up.trailing {
        broken.push("5.5.1: the client wrote behind its Close".to_owned());
    }
    let mut pings = conn.down.frames.iter().filter(|seen| seen.opcode == 9);
    let mut keys = BTreeSet::new();
    for seen in &up.frames {
        let key = wire::parse(&seen.payload).filter(|(lane, _)| *lane < 90);
        let Some((lane, seq)) = key else {
            if is_keepalive(seen) {
                continue;
            }
            if seen.opcode != 10 || !pings.any(|ping| ping.payload == seen.payload) {
                broken.push("4.10: the client wrote what nobody sent, or a pong to no ping".to_owned());
            }
            continue;
        };
        let epoch = record.sends.get(&(lane, seq)).map_or(conn.epoch, |sending| sending.epoch);
        if epoch != conn.epoch {
            broken.push(format!("4.5: {:?} was carried to another connection", (lane, seq)));
        }
        let before = (0..=epoch).rev().find_map(|epoch| last.get(&(epoch, lane)));
        if before.is_some_and(|before| *before >= seq) {
            broken.push(format!("3.9: frame {seq} of lane {lane} twice or out of order"));
        }
        last.insert((epoch, lane), seq);
        keys.insert((lane, seq));
    }
    leaves_in_order(record, conn, broken);
    let closed_by_us = up.close.is_some() && conn.down.close.is_none() && conn.down.fault.is_none();
    // What waits for a `handle_connect` that will not run is given back.
    let all = closed_by_us && conn.greeted && !record.panicked && !record.erred && conn.cut.is_none();
    let lost = record
        .sends
        .iter()
        .filter(|(key, sending)| sending.epoch == conn.epoch && sending.fate == Fate::Accepted && !keys.contains(key));
    if all {
        broken.extend(lost.map(|(key, _)| format!("4.9: {key:?} was accepted before our Close, and lost")));
    }
    // The answers to its own pings the server keeps to itself, but for those that come late.
    let own: BTreeSet<_> =
        conn.down.frames.iter().filter(|seen| is_keepalive(seen)).map(|seen| &seen.payload).collect();
    let counts = |seen: &&Seen| seen.opcode != 10 || !own.contains(&seen.payload);
    let arrived: Vec<_> = conn.served.iter().map(|(seen, _)| seen).filter(counts).collect();
    if !up.frames.iter().filter(counts).take(arrived.len()).eq(arrived.iter().copied()) {
        broken.push("the server got something else than the client wrote".to_owned());
    }
    let served: BTreeSet<_> = conn.served.iter().filter_map(|(seen, _)| wire::parse(&seen.payload)).collect();
    for (key, sending) in record.sends.iter().filter(|(key, _)| keys.contains(key)) {
        let ready = conn.open.map_or(sending.begun, |open| open.max(sending.begun));
        let waited = sending.left.map_or(Duration::ZERO, |left| left.saturating_duration_since(ready));
        let light = is_calm(scene, conn) && scene.plan.is_quick() && scene.plan.big <= 300 && scene.plan.wicked == 0;
        let most = if scene.plan.delay == 0 { 0 } else { 500 };
        if light && waited > Duration::from_millis(most) {
            broken.push(format!("{key:?} waited for {waited:?}, and nothing was in its way"));
        }
        let Fate::Sent(at) = sending.fate else { continue };
        let long_ago = conn.closed.is_some_and(|closed| closed > at + Duration::from_secs(3));
        if is_calm(scene, conn) && long_ago && !served.contains(key) {
            broken.push(format!("{key:?} was sent, and never arrived"));
        }
    }
}

/// What leaves ahead of what: 3.3, 4.9.
fn leaves_in_order(record: &Record, conn: &Conn, broken: &mut Vec<String>) {
    let keys: Vec<_> = conn.up.frames.iter().filter_map(|seen| wire::parse(&seen.payload)).collect();
    if let Some(at) = keys.iter().rposition(|key| conn.greeting.contains(key))
        && let Some(ahead) = keys[..at].iter().find(|(lane, _)| *lane < 50)
    {
        broken.push(format!("3.3: {ahead:?} left ahead of what handle_connect pushed"));
    }
    let place = |key: &(u32, u32)| keys.iter().position(|other| other == key);
    for (pushed, own) in &record.pushed_behind {
        if place(own).zip(place(pushed)).is_some_and(|(own, pushed)| pushed < own) {
            broken.push(format!("3.10: {pushed:?} was pushed, and left ahead of {own:?}, which was sent before"));
        }
    }
    // A ping or pong has before it what was begun, which is encoded, and others of its kind.
    let controls = keys.iter().filter(|(lane, _)| lane % 2 == 1).count();
    let largest = conn.up.frames.iter().map(|seen| seen.payload.len()).max().unwrap_or(0);
    let most = 64 * 1024 + 2 * (largest + 14) + 140 * (controls + conn.down.frames.len());
    for key in keys.iter().filter(|(lane, _)| lane % 2 == 1) {
        let Some(sending) = record.sends.get(key).filter(|sending| sending.offset > 0) else { continue };
        let passed = sending.end.saturating_sub(sending.offset);
        if passed > most {
            broken.push(format!("4.9: {passed} bytes left between {key:?} and the call, at most {most} were begun"));
        }
    }
}

/// Each send is answered once its connection, or attempt, is over.
fn answered(record: &Record, broken: &mut Vec<String>) {
    let ends: Vec<_> = record.calls.iter().filter(|call| call.name == "handle_disconnect").collect();
    for (key, sending) in &record.sends {
        let Some((end, _)) = ends.get(sending.epoch).and_then(|call| call.done) else { continue };
        let end = end.max(sending.begun);
        let late = match sending.fate {
            Fate::Dropped => None,
            Fate::Open => Some("never".to_owned()),
            _ => sending.answered.filter(|at| *at > end).map(|at| format!("{:?} too late", at - end)),
        };
        if let Some(late) = late {
            broken.push(format!("4.5: {key:?} was answered {late}: handle_disconnect had run"));
        }
    }
}

fn is_calm(scene: &Scene, conn: &Conn) -> bool {
    conn.cut.is_none() && !conn.unkind && !conn.idled && scene.plan.peer == Peer::Real
}

/// How one connection ended.
fn closed(scene: &Scene, conn: &Conn, broken: &mut Vec<String>) {
    let plan = &scene.plan;
    let well = is_calm(scene, conn) && plan.is_quick();
    let patient = well && plan.wicked == 0 && !plan.abort;
    if patient && conn.up.close.is_some() && conn.clean != Some(true) {
        broken.push("4.9: both sides were well, and our Close was not answered".to_owned());
    }
    if patient && conn.greeted && conn.up.close.is_none() {
        broken.push("4.9: both sides were well, and the client did not close".to_owned());
    }
    let late = |since: Option<Instant>, millis| {
        let most = Duration::from_millis(millis);
        since.zip(conn.closed).is_some_and(|(since, closed)| closed > since + most)
    };
    if well && late(conn.close_left, 1000) {
        broken.push("4.12: the client had closed, and waited on for a server that was well".to_owned());
    }
    if !plan.jumps && late(conn.eof, 5001) {
        broken.push("4.13: the stream had ended, and the client waited on".to_owned());
    }
}

/// What became of the sends: nothing left that was given back, all that was accepted before one that left.
fn sent(record: &Record, last: &BTreeMap<(usize, u32), u32>, broken: &mut Vec<String>) {
    for (key, sending) in &record.sends {
        let before = last.get(&(sending.epoch, key.0)).is_some_and(|most| key.1 < *most);
        match sending.fate {
            Fate::Sent(_) if sending.left.is_none() => broken.push(format!("{key:?} was said to be sent, and was not")),
            Fate::GivenBack if sending.left.is_some() => broken.push(format!("{key:?} was given back, and sent")),
            Fate::Accepted if sending.left.is_none() && before => {
                broken.push(format!("{key:?} was lost, and later ones were sent"));
            }
            _ => {}
        }
    }
}
