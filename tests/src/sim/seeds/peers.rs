//! Who is at the other end: the library's server role, or a script without manners.

use std::collections::VecDeque;
use std::future::{Future, poll_fn};
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use bytes::BytesMut;
use http::StatusCode;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Config, Event, Keepalive};
use parley_proto::driver::Transport;
use parley_proto::handshake::{Acceptance, Rejection};
use parley_proto::{Role, SendError};

use super::plan::Peer;
use super::scene::Scene;
use super::wire::{self, Seen};
use crate::dice::Dice;
use crate::raw;
use crate::sim::{Fate, Listener, Server, Sim, SimTransport, lock};

/// Lanes of what a peer sends by itself.
pub(super) const SERVED: u32 = 90;
/// The lane of the pings among it that are many.
const PINGED: u32 = 99;

/// The future's outcome, if it has one in time.
pub(super) async fn within<T>(sim: &Sim, time: Duration, future: impl Future<Output = T>) -> Option<T> {
    let mut future = pin!(future);
    let mut sleep = pin!(sim.sleep(time));
    poll_fn(|cx| match future.as_mut().poll(cx) {
        Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
        Poll::Pending => sleep.as_mut().poll(cx).map(|()| None),
    })
    .await
}

/// A task for each connection, in the order in which the client dials them.
pub(super) async fn serve(scene: Arc<Scene>, listener: Listener, mut dice: Dice) {
    for index in 0.. {
        let transport = listener.accept_transport().await;
        let (of_task, dice) = (scene.clone(), dice.fork());
        let task = if scene.plan.peer == Peer::Real {
            scene.sim.spawn(real(of_task, index, transport, dice))
        } else {
            scene.sim.spawn(rude(of_task, index, transport, dice))
        };
        lock(&scene.peers).push(task);
    }
}

/// Nobody listens for a while, and again.
pub(super) async fn outages(sim: Sim, addr: SocketAddr, mut dice: Dice) {
    loop {
        sim.sleep(dice.millis(4000)).await;
        sim.note("net is away");
        let fate = dice.pick(&[Some(io::ErrorKind::ConnectionRefused), Some(io::ErrorKind::HostUnreachable), None]);
        sim.on_dial(addr, fate.map_or(Fate::Never, |kind| Fate::Now(Err(kind))));
        sim.sleep(dice.millis(6000)).await;
        sim.note("net is back");
        sim.on_dial(addr, Fate::Now(Ok(())));
    }
}

/// A status that refuses the upgrade, and how long the client shall stay away.
fn refusal(dice: &mut Dice) -> (u16, Option<u64>) {
    match dice.below(6) {
        0 => (401, None),
        1 => (404, None),
        2 => (503, None),
        3 => (429, Some(1)),
        _ => (503, Some(dice.pick(&[0, 2, 5]))),
    }
}

async fn real(scene: Arc<Scene>, index: usize, transport: SimTransport, mut dice: Dice) {
    let sim = scene.sim.clone();
    let mut config = Config::new(Role::Server);
    let most = Duration::from_secs(100); // it is in no hurry to give up
    config.keepalive = scene.plan.server_keepalive.map(|every| Keepalive::new(every, most).expect("above zero"));
    let mut server = Server::over(&sim, transport, config);
    match server.next().await {
        Event::Request(_) => {}
        _ => return,
    }
    if dice.chance(20) {
        sim.sleep(dice.millis(3000)).await;
    }
    if dice.chance(scene.plan.refuses) {
        let (status, after) = refusal(&mut dice);
        scene.note(&format!("server refuses: {status} {after:?}"));
        scene.record().conns[index].refused = Some(status);
        let status = StatusCode::from_u16(status).expect("a status");
        let mut reply = Rejection::new(status).expect("a status that refuses").body("no");
        if let Some(after) = after {
            reply = reply.header("Retry-After", after.to_string()).expect("a header");
        }
        if server.try_reject(reply).is_ok() {
            server.end().await;
        }
        return;
    }
    if server.accept(Acceptance::default()).is_err() {
        return; // the clock has jumped beyond its deadline
    }
    let echoes = dice.pick(&[0, 50, 100]);
    let pushes = dice.pick(&[0, 2, 20, 60]);
    let closes = dice.chance(20);
    let rude = (scene.plan.cut.is_some() || scene.plan.rough > 0) && dice.chance(30);
    let lulls = scene.plan.pressed || dice.chance(15);
    let mut rounds = dice.below(40);
    let mut waiting: VecDeque<Frame> = VecDeque::new();
    let mut is_open = false;
    loop {
        while is_open && let Some(frame) = waiting.pop_front() {
            match server.try_send(frame) {
                Ok(()) => {}
                Err(SendError::Full(frame)) => {
                    waiting.push_front(frame);
                    break;
                }
                Err(_) => waiting.clear(),
            }
        }
        let busy = rounds > 0 || !waiting.is_empty();
        let pause = if busy { dice.millis(200) } else { Duration::from_secs(3600) };
        let event = if busy { within(&sim, pause, server.next()).await } else { Some(server.next().await) };
        match event {
            Some(Event::Open(_)) => is_open = true,
            Some(Event::Frame(frame)) => {
                let opcode = match frame {
                    Frame::Text(_) => 1,
                    Frame::Binary(_) => 2,
                    Frame::Ping(_) => 9,
                    Frame::Pong(_) => 10,
                };
                let payload = frame.payload().clone();
                scene.note(&format!("served {}", crate::sim::describe(&frame)));
                scene.record().conns[index].served.push((Seen { opcode, payload }, sim.now()));
                if !frame.is_control() && waiting.len() < 100 && dice.chance(echoes) {
                    waiting.push_back(frame);
                }
            }
            Some(Event::Closed(closed)) => {
                scene.record().conns[index].clean = Some(closed.was_clean);
                scene.note(&format!("served to the end: {} clean {}", closed.code(), closed.was_clean));
                if let Some(error) = closed.error
                    && matches!(error, parley_proto::connection::ConnectionError::Protocol(_))
                {
                    scene.fail(&format!("the server saw a fault: {error}"));
                }
                return;
            }
            Some(Event::Request(_)) | Some(_) => return scene.fail("a second request"),
            None if rounds == 0 => {}
            None => {
                rounds -= 1;
                if dice.chance(scene.plan.deaf) && dice.chance(30) {
                    scene.record().conns[index].idled = true;
                    scene.note("server stops reading");
                    sim.sleep(Duration::from_secs(60)).await;
                }
                if lulls && dice.chance(20) {
                    scene.record().conns[index].idled = true;
                    scene.note("server idles");
                    sim.sleep(dice.millis(4000)).await;
                }
                for _ in 0..dice.below(pushes + 1) {
                    waiting.push_back(if dice.chance(scene.plan.pings) {
                        ping(&scene, &mut dice)
                    } else {
                        scene.make(&mut dice, SERVED).0
                    });
                }
                waiting.retain(|frame| !(frame.is_control() && frame.len() > 125));
                if rounds == 0 && closes {
                    let codes = [1000, 1001, 1008, 3000];
                    let close = CloseFrame::new(dice.pick(&codes), "").expect("a code that may be sent");
                    scene.record().conns[index].unkind = true; // what comes behind its Close is dropped
                    scene.note("server closes");
                    server.close(&close);
                } else if rounds == 0 && rude {
                    scene.record().conns[index].unkind = true;
                    scene.note("server resets");
                    return server.reset();
                }
            }
        }
    }
}

fn ping(scene: &Scene, dice: &mut Dice) -> Frame {
    let seq = scene.record().number(PINGED);
    Frame::Ping(wire::payload(PINGED, seq, dice.below(126)).into())
}

/// Reads what comes; `None`: the end.
async fn read(transport: &mut SimTransport) -> Option<BytesMut> {
    let mut window = BytesMut::with_capacity(4096);
    let n = poll_fn(|cx| Transport::poll_read(transport, cx, &mut window)).await;
    n.is_ok_and(|n| n > 0).then_some(window)
}

async fn write(transport: &mut SimTransport, mut bytes: &[u8]) -> bool {
    while !bytes.is_empty() {
        match poll_fn(|cx| Transport::poll_write(transport, cx, &[IoSlice::new(bytes)])).await {
            Ok(n) => bytes = &bytes[n..],
            Err(_) => return false,
        }
    }
    poll_fn(|cx| Transport::poll_flush(transport, cx)).await.is_ok()
}

/// Replies to the upgrade as it likes, then sends what it likes.
async fn rude(scene: Arc<Scene>, index: usize, mut transport: SimTransport, mut dice: Dice) {
    let sim = scene.sim.clone();
    scene.record().conns[index].unkind = true;
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match read(&mut transport).await {
            Some(bytes) => head.extend_from_slice(&bytes),
            None => return,
        }
        if dice.chance(2) {
            return transport.reset();
        }
    }
    let head = String::from_utf8_lossy(&head).into_owned();
    let mut out = raw::switching_protocols(&head, "").into_bytes();
    match dice.below(12) {
        0 if dice.chance(50) => {
            out = b"HTTP/1.1 503 Later\r\nRetry-After: 2\r\nContent-Length: 0\r\n\r\n".to_vec();
        }
        0 => out = b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno".to_vec(),
        1 => out = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n".to_vec(),
        2 => out = (0..200).map(|_| dice.below(256) as u8).collect(),
        3 => out.clear(),
        4 => out.truncate(dice.below(100)),
        _ => {}
    }
    for _ in 0..dice.below(6) {
        append(&scene, &mut dice, &mut out);
    }
    let mut rounds = dice.below(10);
    while write(&mut transport, &out).await && rounds > 0 {
        rounds -= 1;
        out.clear();
        sim.sleep(dice.millis(400)).await;
        append(&scene, &mut dice, &mut out);
    }
    match dice.below(5) {
        0 => transport.reset(),
        1 => {} // closed without a word, with a reset where bytes lie unread
        2 => drop(poll_fn(|cx| Transport::poll_shutdown(&mut transport, cx)).await),
        3 => {
            // It neither reads nor ends.
            sim.sleep(Duration::from_secs(200)).await;
        }
        _ => while read(&mut transport).await.is_some() {},
    }
}

/// Something to send: most of it in order.
fn append(scene: &Scene, dice: &mut Dice, out: &mut Vec<u8>) {
    let fin = 0x80;
    if dice.chance(scene.plan.pings) {
        for _ in 0..dice.below(20) {
            out.extend(raw::frame(fin | 9, ping(scene, dice).payload()));
        }
    }
    match dice.below(24) {
        0 => out.extend(raw::frame(fin | 8, b"\x03\xe8")),
        1 => out.extend(raw::frame(fin | 8, b"")),
        2 => out.extend(raw::frame(fin | 8, b"\x03\xed")), // 1005, which may not be sent
        3 => out.extend(raw::frame(fin | 3, b"reserved")),
        4 => out.extend(raw::frame(fin | 1, b"\xff\xfe")),
        5 => out.extend(raw::masked_frame(fin | 1, [1, 2, 3, 4], b"masked")),
        6 => out.extend(&raw::frame(fin | 2, &[7; 200])[..50]),
        7 => out.extend(raw::frame(9, b"a ping in fragments")),
        8 => out.extend((0..50).map(|_| dice.below(256) as u8)),
        9 => {
            let (frame, _) = scene.make(dice, SERVED + 4);
            let payload = frame.payload();
            let at = dice.below(payload.len() + 1);
            let opcode = if matches!(frame, Frame::Text(_)) { 1 } else { 2 };
            out.extend(raw::frame(opcode, &payload[..at]));
            out.extend(raw::frame(fin | 9, &wire::payload(SERVED + 3, at as u32, 0)));
            out.extend(raw::frame(0, b""));
            out.extend(raw::frame(fin, &payload[at..]));
        }
        _ => {
            let (frame, _) = scene.make(dice, SERVED);
            let opcode = match frame {
                Frame::Text(_) => 1,
                Frame::Binary(_) => 2,
                Frame::Ping(_) => 9,
                Frame::Pong(_) => 10,
            };
            out.extend(raw::frame(fin | opcode, frame.payload()));
        }
    }
}
