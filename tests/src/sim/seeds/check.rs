//! What has to hold when a client has ended, by the numbers of the guide.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use parley_proto::{ConnectPhase, DisconnectReason, StopReason};

use super::scene::{Fate, Peer, Record, Scene};
use super::wire::{self, Seen};

/// `reason`: of the error that `join` gave, if it gave one.
pub(super) fn ended(scene: &Scene, reason: Option<&StopReason>) {
    let mut broken = Vec::new();
    {
        let record = scene.record();
        callbacks(&record, reason, &mut broken);
        received(scene, &record, reason, &mut broken);
        sent(scene, &record, &mut broken);
        if record.open != 0 {
            broken.push("3.12: a transport is open at the end".to_owned());
        }
        if record.opened > 1 {
            broken.push(format!("{} connections without reconnection", record.opened));
        }
        if let Some(name) = record.running {
            broken.push(format!("{name} still runs"));
        }
    }
    broken.iter().for_each(|rule| scene.fail(rule));
}

fn callbacks(record: &Record, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    let mut must = |holds: bool, rule: &str| {
        if !holds {
            broken.push(rule.to_owned());
        }
    };
    let names: Vec<_> = record.calls.iter().map(|(name, _)| *name).collect();
    let at = |name: &str| names.iter().position(|called| *called == name);
    let aborted = matches!(reason, Some(StopReason::Aborted));
    if !(aborted && names.is_empty()) {
        must(names.first() == Some(&"init"), "3.1: init comes first");
    }
    for once in ["init", "prepare", "handle_connect", "handle_disconnect", "terminate"] {
        must(record.called(once) <= 1, &format!("{once} more than once"));
    }
    must(at("terminate").is_none_or(|at| at + 1 == names.len()), "3.11: terminate comes last");
    must(at("handle_connect").is_none_or(|at| names[..at].contains(&"prepare")), "3.2: prepare before handle_connect");
    let last = at("handle_disconnect").unwrap_or(names.len());
    for (index, name) in names.iter().enumerate() {
        if matches!(*name, "handle_frame" | "handle_ping") {
            let between = at("handle_connect").is_some_and(|at| at < index) && index < last;
            must(between, &format!("3.3: {name} outside of a connection"));
        }
    }
    if let (Some(connect), Some(disconnect)) = (at("handle_connect"), at("handle_disconnect")) {
        must(connect < disconnect, "4.1: handle_disconnect before handle_connect");
    }

    let mut infos: BTreeMap<u32, u32> = BTreeMap::new();
    for (_, info) in record.calls.iter().filter(|(name, _)| *name == "handle_info") {
        let info: u32 = info.parse().unwrap_or_default();
        let before = infos.insert(info / 1000, info);
        must(before.is_none_or(|before| before < info), "3.6: an info twice or out of order");
    }

    let no_init = record.calls.len() <= 1 && (record.erred || record.stopped || aborted);
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
            let stopped = terminated.is_none_or(|told| told == "stopped");
            must(!stopped || record.stopped, "an end that nobody asked for");
            // Disconnected while init ran, it made no attempt that could be lost.
            let idle = record.asked && at("prepare").is_none();
            must(stopped || idle || terminated == disconnected, "4.3: an end with another reason than the last");
        }
        Some(StopReason::Panicked) => must(record.panicked, "a panic that nobody saw"),
        Some(StopReason::Handler(_)) => must(record.erred, "an error that no callback returned"),
        Some(StopReason::Disconnected(reason)) => match disconnected {
            Some(told) => must(told == reason.to_string(), "4.3: an end with another reason than the last"),
            None => {
                use ConnectPhase::{Dns, Tcp, Tls};
                let early = matches!(
                    reason,
                    DisconnectReason::Dns(_)
                        | DisconnectReason::Tcp(_)
                        | DisconnectReason::Tls(_)
                        | DisconnectReason::ConnectTimeout(Dns | Tcp | Tls)
                );
                must(early && at("handle_connect").is_none(), "4.1: a lost connection without handle_disconnect");
            }
        },
        Some(StopReason::Aborted) => {}
        Some(_) => must(false, "an end of an unknown kind"),
    }
}

/// Of a ping that the client sent: by itself.
fn is_keepalive(seen: &Seen) -> bool {
    seen.opcode == 9 && seen.payload.len() == 8 && wire::parse(&seen.payload).is_none()
}

/// What came in: all of it, once, in order.
fn received(scene: &Scene, record: &Record, reason: Option<&StopReason>, broken: &mut Vec<String>) {
    // The pongs that answer keepalive's pings are not the handler's.
    let pings: Vec<_> = record.up.frames.iter().filter(|seen| is_keepalive(seen)).map(|ping| &ping.payload).collect();
    let came = record.down.frames.iter().filter(|seen| seen.opcode != 10 || !pings.contains(&&seen.payload));
    let (got, came) = (&record.got, &came.cloned().collect::<Vec<_>>());
    if got.len() > came.len() || *got != came[..got.len()] {
        let at = got.iter().zip(came).take_while(|(got, came)| got == came).count();
        broken.push(format!("3.4: frame {at} of {} is not the one that arrived (of {})", got.len(), came.len()));
        return;
    }
    let excused = record.asked
        || record.panicked
        || record.erred
        || record.waited > Duration::from_millis(2400)
        || scene.plan.jumps
        || scene.plan.send_queue < 1024 * 1024
        || matches!(reason, Some(StopReason::Aborted));
    if !excused && record.called("handle_connect") == 1 && got.len() != came.len() {
        broken.push(format!("4.11: {} frames arrived, {} were delivered", came.len(), got.len()));
    }
}

/// What went out: each at most once, in order, whole; nothing that was given back; all that was accepted before one
/// that went out.
fn sent(scene: &Scene, record: &Record, broken: &mut Vec<String>) {
    let up = &record.up;
    if let Some(fault) = up.fault {
        broken.push(format!("the client wrote {fault}"));
    }
    if up.trailing {
        broken.push("5.5.1: the client wrote behind its Close".to_owned());
    }
    let mut pings = record.down.frames.iter().filter(|seen| seen.opcode == 9);
    let mut last: BTreeMap<u32, u32> = BTreeMap::new();
    let mut keys = BTreeSet::new();
    for seen in &up.frames {
        let key = wire::parse(&seen.payload).filter(|(lane, _)| *lane < 90);
        let Some((lane, seq)) = key else {
            if is_keepalive(seen) {
                continue;
            }
            if seen.opcode != 10 || !pings.any(|ping| ping.payload == seen.payload) {
                broken.push("the client wrote what nobody sent, or a pong to no ping".to_owned());
            }
            continue;
        };
        if last.insert(lane, seq).is_some_and(|before| before >= seq) {
            broken.push(format!("3.9: frame {seq} of lane {lane} twice or out of order"));
        }
        keys.insert((lane, seq));
    }
    let closed_by_us = up.close.is_some() && record.down.close.is_none() && record.down.fault.is_none();
    // What waits for a `handle_connect` that will not run is given back.
    let all = closed_by_us
        && record.called("handle_connect") > 0
        && !record.panicked
        && !record.erred
        && record.cut.is_none();
    let calm = record.cut.is_none() && !record.unkind && !record.idled && scene.plan.peer == Peer::Real;
    let plan = &scene.plan;
    let quick = plan.chunk >= 1000 && plan.link.chunk >= 1000 && plan.delay <= 20;
    let quick = quick && plan.link.capacity >= 16 * 1024 && !plan.jumps;
    if calm && quick && plan.wicked == 0 && !plan.abort && up.close.is_some() && record.clean != Some(true) {
        broken.push("4.9: both sides were well, and our Close was not answered".to_owned());
    }
    if calm && quick && plan.wicked == 0 && !plan.abort && record.called("handle_connect") > 0 && up.close.is_none() {
        broken.push("4.9: both sides were well, and the client did not close".to_owned());
    }
    let late = |since: Option<Instant>, millis| {
        let most = Duration::from_millis(millis);
        since.zip(record.closed).is_some_and(|(since, closed)| closed > since + most)
    };
    if calm && quick && late(record.close_left, 1000) {
        broken.push("4.12: the client had closed, and waited on for a server that was well".to_owned());
    }
    if !plan.jumps && late(record.eof, 5001) {
        broken.push("4.13: the stream had ended, and the client waited on".to_owned());
    }
    let served: BTreeSet<_> = record.served.iter().filter_map(|(seen, _)| wire::parse(&seen.payload)).collect();
    for (key, sending) in &record.sends {
        let left = keys.contains(key);
        let before = last.get(&key.0).is_some_and(|most| key.1 < *most);
        match sending.fate {
            Fate::Sent(_) if !left => broken.push(format!("{key:?} was said to be sent, and was not")),
            Fate::GivenBack if left => broken.push(format!("{key:?} was given back, and sent")),
            Fate::Accepted if !left && before => broken.push(format!("{key:?} was lost, and later ones were sent")),
            Fate::Accepted if !left && all => {
                broken.push(format!("4.9: {key:?} was accepted before our Close, and lost"));
            }
            Fate::Sent(at) => {
                let long_ago = record.closed.is_some_and(|closed| closed > at + Duration::from_secs(3));
                if calm && long_ago && !served.contains(key) {
                    broken.push(format!("{key:?} was sent, and never arrived"));
                }
            }
            _ => {}
        }
    }
    let arrived = record.served.iter().map(|(seen, _)| seen);
    if record.served.len() > up.frames.len() || !arrived.eq(&up.frames[..record.served.len()]) {
        broken.push("the server got something else than the client wrote".to_owned());
    }
}
