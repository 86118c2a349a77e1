//! Why connections and attempts ended, and when they had to: what the handler was told against what was seen.

use std::time::{Duration, Instant};

use parley_proto::DisconnectReason;

use super::plan::{Cut, Peer};
use super::record::{Ask, Call, Conn, Record};
use super::scene::Scene;

/// Of closing handshakes: from our Close or the peer's on.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);
const SLACK: Duration = Duration::from_millis(1);

/// Each reason that `handle_disconnect` was told.
pub(super) fn told(scene: &Scene, record: &Record, broken: &mut Vec<String>) {
    let mut since: Option<Instant> = None;
    let mut prepared: Option<&Call> = None;
    for call in &record.calls {
        match (call.name, &call.reason) {
            ("prepare", _) => {
                since = since.or(Some(call.at));
                prepared = Some(call);
            }
            ("handle_disconnect", Some(reason)) => {
                let from = prepared.map_or(call.tick, |prepare| prepare.tick);
                let conn = record.conns.iter().rfind(|conn| conn.opened > from && conn.opened < call.tick);
                let begun = prepared.and(since);
                if !fits(scene, record, call, reason, conn, begun) {
                    broken.push(format!("4.8, 4.13, 4.15: nothing was seen of: {reason}"));
                }
                if let Some(prepare) = prepared {
                    in_time(scene, record, prepare, call, conn, broken);
                }
                prepared = None;
                since = call.done.map(|(at, _)| at);
            }
            _ => {}
        }
    }
}

/// Whether what was seen is a reason for what was told. `begun`: the attempt did not begin before.
fn fits(
    scene: &Scene,
    record: &Record,
    call: &Call,
    reason: &DisconnectReason,
    conn: Option<&Conn>,
    begun: Option<Instant>,
) -> bool {
    let plan = &scene.plan;
    let asked = |asked: Ask| record.is_asked(asked);
    let closed = conn.and_then(|conn| conn.closed).unwrap_or(call.at);
    let after = |since: Option<Instant>, time: Duration| {
        since.is_some_and(|since| closed.saturating_duration_since(since) >= time)
    };
    match reason {
        DisconnectReason::Local | DisconnectReason::Requested(_) => asked(Ask::Disconnect) || asked(Ask::Reconnect),
        DisconnectReason::Remote(close) => conn.and_then(|conn| conn.down.close.as_ref()).is_some_and(|payload| {
            let code = payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
            code == close.as_ref().map(|close| close.code().into())
        }),
        DisconnectReason::Rejected(rejected) => {
            conn.is_some_and(|conn| plan.peer == Peer::Raw || conn.refused == Some(rejected.status.as_u16()))
        }
        DisconnectReason::ConnectTimeout(_) => begun.is_none_or(|begun| call.at >= begun + plan.connect_timeout),
        DisconnectReason::KeepaliveTimeout => plan
            .keepalive
            .is_some_and(|(interval, timeout)| after(conn.and_then(|conn| conn.last_read), interval + timeout)),
        DisconnectReason::WriteTimeout => after(conn.and_then(|conn| conn.stuck), plan.write_timeout),
        DisconnectReason::Protocol(_) => plan.peer == Peer::Raw,
        DisconnectReason::Eof => {
            conn.is_some_and(|conn| conn.eof.is_some() || matches!(conn.cut, Some((Cut::Unexpected, _))))
        }
        DisconnectReason::Dns(_) | DisconnectReason::Tls(_) => conn.is_none_or(|conn| conn.answered.is_none()),
        // A server that saw no whole request for too long closes too.
        DisconnectReason::Tcp(_) => conn.is_none_or(|conn| {
            let cut = conn.cut.is_some_and(|(how, _)| how != Cut::Unexpected);
            cut || conn.unkind || conn.idled || conn.answered.is_none()
        }),
        _ => true,
    }
}

/// The whole attempt has one deadline (4.2, 4.6, section 2 of the contract).
fn in_time(scene: &Scene, record: &Record, prepare: &Call, call: &Call, conn: Option<&Conn>, broken: &mut Vec<String>) {
    if conn.is_some_and(|conn| conn.greeted || conn.answered.is_some()) || scene.plan.jumps {
        return;
    }
    let deadline = prepare.at + scene.plan.connect_timeout + SLACK;
    let busy = record.calls.iter().any(|other| other.name == "handle_info" && other.is_running(deadline));
    if call.at > deadline && !busy {
        broken.push(format!("an attempt took {:?}", call.at.saturating_duration_since(prepare.at)));
    }
    let given_up = record.asks.iter().find(|asked| {
        let during = asked.tick > prepare.tick && asked.tick < call.tick;
        during && matches!(asked.what, Ask::Disconnect | Ask::Reconnect)
    });
    let busy = |at| record.calls.iter().any(|other| other.name == "handle_info" && other.is_running(at));
    if given_up.is_some_and(|asked| call.at > asked.at + SLACK && !busy(asked.at)) {
        broken.push("4.6: an attempt went on though it was given up".to_owned());
    }
}

/// No connection outlives the peer that does not answer or does not take what is written.
pub(super) fn deadlines(scene: &Scene, conn: &Conn, broken: &mut Vec<String>) {
    let plan = &scene.plan;
    let Some(closed) = conn.closed.filter(|_| !plan.jumps) else { return };
    let late = |since: Instant, most: Duration| closed > since + most + CLOSE_TIMEOUT + SLACK;
    let handshake = plan.connect_timeout;
    if conn.stuck.is_some_and(|since| late(since, plan.write_timeout.max(handshake))) {
        broken.push("4.15: the peer took nothing, and the connection lived on".to_owned());
    }
    if let (Some((Cut::Silence, since)), Some((interval, timeout))) = (conn.cut, plan.keepalive) {
        // While output moves, keepalive stands still.
        let since = conn.last_written.map_or(since, |written| written.max(since));
        let most = interval + timeout + plan.write_timeout + handshake + conn.waited;
        if late(since, most) {
            broken.push("keepalive: the peer was silent, and the connection lived on".to_owned());
        }
    }
}

/// Rule 4.10: a ping is answered at once while output is not blocked, and the newest when it is so no more.
pub(super) fn pongs(scene: &Scene, record: &Record, conn: &Conn, broken: &mut Vec<String>) {
    let Some(closed) = conn.closed.filter(|_| conn.answered.is_some() && conn.cut.is_none()) else { return };
    let lived = |at: Instant| closed > at && conn.close_left.is_none_or(|left| left > at);
    let seen = conn.down.frames.iter().zip(&conn.down.times);
    let pings: Vec<_> = seen.filter(|(seen, at)| seen.opcode == 9 && lived(**at)).collect();
    let answered = |payload: &[u8]| {
        let mut pongs = conn.up.frames.iter().zip(&conn.up.times);
        pongs.find(|(pong, _)| pong.opcode == 10 && pong.payload == payload).map(|(_, at)| *at)
    };
    let reset = conn.unkind && conn.close_left.is_none();
    if !conn.blocked {
        for (ping, at) in &pings {
            if answered(&ping.payload) != Some(**at) && !reset {
                broken.push("4.10: a ping was not answered at once, and output was not blocked".to_owned());
                return;
            }
        }
    }
    // While output is blocked the newest takes the place of those before it.
    for (ping, at) in pings.iter().filter(|(ping, _)| scene.plan.big <= 300 && answered(&ping.payload).is_none()) {
        let Some(drained) = conn.drained.iter().find(|drained| **drained > **at) else { continue };
        let later = pings.iter().skip_while(|(other, _)| other != ping).skip(1).take_while(|(_, at)| **at <= *drained);
        let newer = later.into_iter().any(|(newer, _)| answered(&newer.payload).is_some());
        // Its pong may still have been on its way out.
        let went = conn.stuck.is_none() || conn.drained.iter().any(|later| later > drained);
        if !newer && went && lived(*drained) && !reset {
            broken.push("4.10: a ping was not answered, nor a newer one in its place".to_owned());
            return;
        }
    }
    let free = conn.asked || record.panicked || record.erred || conn.down.close.is_some() || conn.down.fault.is_some();
    if let Some((ping, _)) = pings.last()
        && !free
        && !reset
        && conn.stuck.is_none()
        && answered(&ping.payload).is_none()
    {
        broken.push("4.10: the newest ping was not answered when output had drained".to_owned());
    }
}

/// The code of our Close: what was asked for, the peer's own, or that of the fault (4.8, 4.11).
pub(super) fn codes(record: &Record, conn: &Conn, broken: &mut Vec<String>) {
    let code = |payload: &[u8]| payload.get(..2).map(|code| u16::from_be_bytes([code[0], code[1]]));
    let Some(ours) = conn.up.close.as_ref().map(|payload| code(payload)) else { return };
    let fits = match (&conn.down.close, conn.down.fault) {
        _ if conn.asked => matches!(ours, Some(1000)) || ours == Some(1011) && (record.erred || record.panicked),
        (None, None) => false,
        (Some(theirs), _) => ours == code(theirs) || ours == Some(1002),
        (None, Some(fault)) => ours == Some(if fault.starts_with("text") { 1007 } else { 1002 }),
    };
    // What was asked for may have come behind theirs.
    if !fits && !(conn.asked && (conn.down.close.is_some() || conn.down.fault.is_some())) {
        broken.push(format!("4.8, 4.11: our Close had the code {ours:?}"));
    }
}
