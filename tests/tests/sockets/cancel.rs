//! Futures that are dropped after each of their polls: nothing is lost, doubled or torn, on the wire and in what was
//! received, and what follows works.

use std::future::poll_fn;
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::Config;
use parley_proto::driver::{Runtime, TcpOptions, TlsFacts};
use parley_proto::handshake::ClientRequest;
use parley_proto::{Role, SendError};
use parley_tests::raw::{self, End};
use parley_tests::sim::{Fate, Link, Sim};

use super::*;

/// Polls a future so many times, then drops it. `None` then.
pub(crate) async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut left = polls;
    let mut future = pin!(future);
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Undivided, or in halves.
enum Ends {
    Whole(Box<Socket>),
    Halves(Sender, Receiver),
}

/// The same method of whichever has it.
macro_rules! either {
    ($ends:expr, $sender:ident | $receiver:ident, $call:ident($($argument:expr),*)) => {
        match $ends {
            Ends::Whole(socket) => socket.$call($($argument),*).await,
            #[allow(unused_variables, reason = "one of the two halves has the method")]
            Ends::Halves($sender, $receiver) => either!(@ $sender | $receiver, $call($($argument),*)),
        }
    };
    (@ $sender:ident | $receiver:ident, next()) => { $receiver.next().await };
    (@ $sender:ident | $receiver:ident, $call:ident($($argument:expr),*)) => { $sender.$call($($argument),*).await };
}

impl Ends {
    async fn next(&mut self) -> Option<Result<Frame, Error>> {
        either!(self, sender | receiver, next())
    }

    async fn send(&mut self, frame: Frame) -> Result<(), Error> {
        either!(self, sender | receiver, send(frame))
    }

    async fn feed(&mut self, frame: Frame) -> Result<(), Error> {
        either!(self, sender | receiver, feed(frame))
    }

    async fn flush(&mut self) -> Result<(), Error> {
        either!(self, sender | receiver, flush())
    }

    async fn close_with(&mut self, close: CloseFrame) -> Result<(), Error> {
        either!(self, sender | receiver, close_with(close))
    }

    async fn close(&mut self) -> Result<(), Error> {
        either!(self, sender | receiver, close())
    }
}

/// The method that is dropped.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Method {
    Next,
    Send,
    Feed,
    Flush,
    Close,
    CloseWith,
}

/// What goes on meanwhile.
struct Scene {
    name: &'static str,
    link: fn() -> Link,
    /// The sizes of what was fed before.
    fed: &'static [usize],
    /// What the peer writes, each part a millisecond after the one before.
    parts: fn() -> Vec<Vec<u8>>,
    /// The data frames in that.
    receives: fn() -> Vec<Frame>,
    peer_closes: bool,
}

fn three() -> Vec<Frame> {
    (0..3).map(|n| Frame::binary(vec![n; 40])).collect()
}

fn three_raw() -> Vec<Vec<u8>> {
    three().iter().map(|frame| raw::frame(BINARY, frame.payload())).collect()
}

const SCENES: &[Scene] = &[
    Scene { name: "room", link: Link::default, fed: &[10, 300], parts: three_raw, receives: three, peer_closes: false },
    Scene {
        name: "a pipe of a few bytes",
        link: || Link::default().capacity(24).chunk(5),
        fed: &[10, 100],
        parts: three_raw,
        receives: three,
        peer_closes: false,
    },
    Scene {
        name: "as under TLS",
        link: || Link::default().capacity(24).staged(),
        fed: &[10, 300],
        parts: three_raw,
        receives: three,
        peer_closes: false,
    },
    Scene {
        name: "no room",
        link: || Link::default().capacity(4000).staged(),
        fed: &[300, 70_000],
        parts: three_raw,
        receives: three,
        peer_closes: false,
    },
    Scene {
        name: "a big message under way",
        link: || Link::default().capacity(8000),
        fed: &[30_000],
        parts: || {
            let bytes = raw::frame(BINARY, &[7; 30_000]);
            bytes.chunks(9000).map(<[u8]>::to_vec).collect()
        },
        receives: || vec![Frame::binary(vec![7; 30_000])],
        peer_closes: false,
    },
    Scene {
        name: "control frames within a message",
        link: || Link::default().capacity(50).chunk(9),
        fed: &[10],
        parts: || {
            vec![
                [raw::frame(0x02, &[1; 20]), raw::frame(PING, b"1")].concat(),
                [raw::frame(0x00, &[1; 20]), raw::frame(PING, b"2"), raw::frame(PONG, b"3")].concat(),
                [raw::frame(PING, b"4"), raw::frame(0x80, &[1; 20]), raw::frame(PING, b"5")].concat(),
            ]
        },
        receives: || vec![Frame::binary(vec![1; 60])],
        peer_closes: false,
    },
    Scene {
        name: "a peer that closes",
        link: || Link::default().capacity(100).chunk(20).staged(),
        fed: &[10, 200],
        parts: || [three_raw(), vec![raw::frame(CLOSE, &4000_u16.to_be_bytes())]].concat(),
        receives: three,
        peer_closes: true,
    },
];

/// The peer writes its parts, then reads to the Close, answers it, and ends.
async fn peer(sim: Sim, mut peer: RawConn, parts: Vec<Vec<u8>>, closes: bool) -> (Vec<raw::RawFrame>, End) {
    for part in parts {
        sim.sleep(Duration::from_millis(1)).await;
        peer.send(&part).await;
    }
    let mut frames = Vec::new();
    while frames.last().is_none_or(|frame: &raw::RawFrame| frame.first != CLOSE) {
        frames.push(peer.frame().await);
    }
    if !closes {
        drop(peer.try_send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await);
    }
    peer.shutdown().await;
    let end = peer.end().await;
    (frames, end)
}

/// True: the method completed within so many polls.
async fn run(sim: &Sim, scene: &Scene, method: Method, halves: bool, polls: usize) -> bool {
    let context = format!("{method:?} in {} halves {halves} after {polls}", scene.name);
    let (mut socket, conn, _listener) = connected(sim, (scene.link)()).await;
    let mut sent: Vec<(usize, bool)> = Vec::new(); // the sizes, and whether it has to arrive
    for size in scene.fed {
        socket.feed(Frame::binary(vec![*size as u8; *size])).await.unwrap();
        sent.push((*size, true));
    }
    let peer = sim.spawn(peer(sim.clone(), conn, (scene.parts)(), scene.peer_closes));
    let mut ends = if halves {
        let (sender, receiver) = socket.split();
        Ends::Halves(sender, receiver)
    } else {
        Ends::Whole(Box::new(socket))
    };
    let mut received = Vec::new();
    let closes = matches!(method, Method::Close | Method::CloseWith) && polls > 0;
    let closing = scene.peer_closes || closes;

    // In a task of its own: what goes on afterwards has another waker.
    let (mut ends, outcome) = sim
        .spawn(async move {
            let frame = Frame::binary(vec![77; 77]);
            let outcome = match method {
                Method::Next => cut(ends.next(), polls).await.map(|next| next.unwrap().map(Some)),
                Method::Send => cut(ends.send(frame), polls).await.map(|sent| sent.map(|()| None)),
                Method::Feed => cut(ends.feed(frame), polls).await.map(|fed| fed.map(|()| None)),
                Method::Flush => cut(ends.flush(), polls).await.map(|flushed| flushed.map(|()| None)),
                Method::Close => cut(ends.close(), polls).await.map(|closed| closed.map(|()| None)),
                Method::CloseWith => {
                    let close = CloseFrame::new(3000, "cut").unwrap();
                    cut(ends.close_with(close), polls).await.map(|closed| closed.map(|()| None))
                }
            };
            (ends, outcome)
        })
        .await;
    let completed = outcome.is_some();
    let accepted = match outcome {
        Some(Ok(frame)) => {
            received.extend(frame);
            true
        }
        Some(Err(Error::Send(SendError::Closing(_)))) if closing => false,
        Some(Err(error)) => panic!("{context}: {error:?}"),
        None => false,
    };
    if matches!(method, Method::Send | Method::Feed) && (accepted || !completed) {
        sent.push((77, accepted));
    }

    match ends.send(Frame::binary(vec![88; 88])).await {
        Ok(()) => sent.push((88, true)),
        Err(error) => {
            assert!(closing, "{context}: {error:?}");
            if error.into_frame().is_none() {
                sent.push((88, false)); // it was accepted, and the connection has ended since
            }
        }
    }
    let wanted = (scene.receives)();
    let data = |frame: &Frame| matches!(frame, Frame::Binary(_));
    while !closes && received.iter().filter(|frame| data(frame)).count() < wanted.len() {
        received.push(ends.next().await.unwrap_or_else(|| panic!("{context}: ended early")).unwrap());
    }
    ends.close().await.unwrap();
    assert!(ends.next().await.is_none(), "{context}");
    let (frames, end) = peer.await;

    // The wire: all that was accepted, in order, once, whole; then one Close.
    let mut left = sent.iter().copied();
    for frame in frames.iter().filter(|frame| frame.first == BINARY) {
        let len = frame.payload.len();
        assert!(frame.payload.iter().all(|byte| *byte == len as u8), "{context}: torn");
        loop {
            let (size, must) = left.next().unwrap_or_else(|| panic!("{context}: {len} bytes too many, of {sent:?}"));
            if size == len {
                break;
            }
            assert!(!must, "{context}: {size} bytes were lost, of {sent:?}");
        }
    }
    assert!(left.all(|(_, must)| !must), "{context}: lost, of {sent:?}");
    assert_eq!(frames.iter().filter(|frame| frame.first == CLOSE).count(), 1, "{context}");
    if method == Method::CloseWith && polls > 0 && !scene.peer_closes {
        assert_eq!(frames.last().unwrap().payload, b"\x0b\xb8cut", "{context}");
    }
    let pongs: Vec<_> = frames.iter().filter(|frame| frame.first == PONG).map(|frame| &frame.payload).collect();
    assert!(pongs.windows(2).all(|two| two[0] < two[1]), "{context}: {pongs:?}");
    assert_eq!(end, End::Fin, "{context}");

    // What was received: each once, in order; all of it unless our Close came first.
    let got: Vec<_> = received.iter().filter(|frame| data(frame)).cloned().collect();
    assert_eq!(got, wanted[..got.len()], "{context}");
    let pings: Vec<_> = received.iter().filter(|frame| matches!(frame, Frame::Ping(_))).map(Frame::payload).collect();
    assert!(pings.windows(2).all(|two| two[0] < two[1]), "{context}: {pings:?}");
    completed
}

fn at_every_poll(method: Method) {
    for scene in SCENES {
        for halves in [false, true] {
            for polls in 0.. {
                assert!(polls < 2000, "{method:?} in {} never completes", scene.name);
                if Sim::new().run(async |sim| run(&sim, scene, method, halves, polls).await) {
                    break;
                }
            }
        }
    }
}

#[test]
fn hazard_23_next_may_be_dropped_at_every_poll() {
    at_every_poll(Method::Next);
}

#[test]
fn hazard_23_send_may_be_dropped_at_every_poll() {
    at_every_poll(Method::Send);
}

#[test]
fn hazard_23_feed_may_be_dropped_at_every_poll() {
    at_every_poll(Method::Feed);
}

#[test]
fn hazard_23_flush_may_be_dropped_at_every_poll() {
    at_every_poll(Method::Flush);
}

#[test]
fn hazard_23_close_may_be_dropped_at_every_poll() {
    at_every_poll(Method::Close);
}

#[test]
fn hazard_23_close_with_may_be_dropped_at_every_poll() {
    at_every_poll(Method::CloseWith);
}

/// The attempt is given up: no sleep and no transport is left, and another one succeeds.
#[test]
fn hazard_23_connect_may_be_dropped_at_every_poll() {
    for link in [Link::default(), Link::default().capacity(24).chunk(5), Link::default().capacity(24).staged()] {
        for polls in 0.. {
            assert!(polls < 2000, "it never completes");
            let completed = Sim::new().run(async |sim| {
                let listener = sim.listen("10.0.0.1:443".parse().unwrap());
                listener.set_link(link);
                let soon = Duration::from_millis(2);
                sim.on_resolve("a.example", Fate::After(soon, Ok(vec!["10.0.0.1:443".parse().unwrap()])));
                sim.on_dial("10.0.0.1:443".parse().unwrap(), Fate::After(soon, Ok(())));
                sim.on_tls(Fate::After(soon, Ok(TlsFacts::new(None, None, Vec::new()))));
                let options = ClientOptions::new("wss://a.example/").unwrap();
                let peers = sim.spawn(async move {
                    loop {
                        let mut peer = listener.accept().await;
                        let Ok(head) = peer.try_head().await else { continue };
                        let response = raw::switching_protocols(&head, "");
                        let early = [response.as_bytes(), &raw::frame(TEXT, b"early")].concat();
                        if peer.try_send(&early).await.is_err() {
                            continue;
                        }
                        peer.end().await;
                    }
                });
                let (first, sleeping) = sim
                    .spawn({
                        let (sim, options) = (sim.clone(), options.clone());
                        async move {
                            let first = cut(dial_with(&sim, options), polls).await;
                            (first, sim.sleeping())
                        }
                    })
                    .await;
                let completed = first.is_some();
                if !completed {
                    assert_eq!(sleeping, 0, "after {polls}");
                }
                let mut socket = match first {
                    Some(socket) => socket.unwrap(),
                    None => dial_with(&sim, options).await.unwrap(),
                };
                assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("early"));
                drop(socket);
                sim.settle().await;
                peers.cancel();
                assert_eq!((sim.sleeping(), sim.running()), (0, 0), "after {polls}");
                completed
            });
            if completed {
                assert!(polls > 3);
                break;
            }
        }
    }
}

#[test]
fn hazard_23_the_handshake_over_a_stream_of_the_users_own_may_be_dropped_at_every_poll() {
    for link in [Link::default(), Link::default().capacity(24).chunk(5), Link::default().capacity(24).staged()] {
        for polls in 0.. {
            assert!(polls < 2000, "it never completes");
            let completed = Sim::new().run(async |sim| {
                let listener = sim.listen(addr());
                listener.set_link(link);
                let transport = sim.runtime().dial(addr(), &TcpOptions::default()).await.unwrap();
                let mut peer = listener.accept().await;
                let peer = sim.spawn(async move {
                    if let Ok(head) = peer.try_head().await {
                        let _ = peer.try_send(raw::switching_protocols(&head, "").as_bytes()).await;
                    }
                    peer
                });
                let request = ClientRequest::new("ws://a/").unwrap();
                let config = Arc::new(Config::new(Role::Client));
                let timeout = Duration::from_secs(3);
                let client = Socket::client(sim.runtime(), transport, &request, config, timeout, [3; 32]);
                let outcome = cut(client, polls).await;
                let completed = outcome.is_some();
                if let Some(socket) = outcome {
                    let mut socket = socket.unwrap();
                    let mut peer = peer.await;
                    peer.send(&raw::frame(TEXT, b"hello")).await;
                    assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
                } else {
                    let mut peer = peer.await;
                    let _ended = peer.end().await;
                }
                assert_eq!(sim.sleeping(), 0, "after {polls}");
                completed
            });
            if completed {
                break;
            }
        }
    }
}
