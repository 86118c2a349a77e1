//! Two tasks on one connection: each is woken for what it waits for, whoever of the two does it.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{Sink, SinkExt, Stream, StreamExt, stream};
use parley_proto::codec::Frame;
use parley_proto::connection::Keepalive;
use parley_proto::{DisconnectReason, SendError};
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::*;

const LINKS: [fn() -> Link; 4] = [
    Link::default,
    || Link::default().capacity(64).chunk(7),
    || Link::default().capacity(64).staged(),
    || Link::default().capacity(500).chunk(100).staged(),
];

/// Frames of many sizes, numbered.
fn frames(n: u8) -> Vec<Frame> {
    (0..n).map(|n| Frame::binary(vec![n; 1 + usize::from(n) * 37])).collect()
}

type Read = Box<dyn Stream<Item = Result<Frame, Error>> + Send + Unpin>;
type Write = Box<dyn Sink<Frame, Error = Error> + Send + Unpin>;

type Split = fn(Socket) -> (Write, Read);

/// The ways to divide a socket: its own halves, and those of futures-util.
const SPLITS: [(&str, Split); 2] = [
    ("split", |socket| {
        let (sender, receiver) = Socket::split(socket);
        (Box::new(sender), Box::new(receiver))
    }),
    ("StreamExt::split", |socket| {
        let (sink, stream) = StreamExt::split(socket);
        (Box::new(sink), Box::new(stream))
    }),
];

/// Both directions at full tilt through pipes of a few bytes; who begins, and who is slow, differs.
#[test]
fn both_directions_at_once() {
    for (name, split) in SPLITS {
        for (number, link) in LINKS.iter().enumerate() {
            for order in 0..8 {
                Sim::new().run(async |sim| {
                    let (socket, peer, _listener) = connected(&sim, link()).await;
                    let (mut sink, mut stream) = split(socket);
                    let nap = |on: bool| {
                        let sim = sim.clone();
                        async move {
                            if on {
                                sim.sleep(Duration::from_millis(3)).await;
                            }
                        }
                    };
                    let (reads_late, writes_late, peer_late) = (order & 1 != 0, order & 2 != 0, order & 4 != 0);
                    let reading = async move {
                        let mut got = Vec::new();
                        while let Some(frame) = stream.next().await {
                            got.push(frame.unwrap());
                        }
                        (got, stream)
                    };
                    let writing = async move {
                        sink.send_all(&mut stream::iter(frames(60).into_iter().map(Ok))).await.unwrap();
                        sink
                    };
                    let (first, second) = (nap(reads_late), nap(writes_late));
                    let reading = sim.spawn(async move {
                        first.await;
                        reading.await
                    });
                    let writing = sim.spawn(async move {
                        second.await;
                        writing.await
                    });
                    nap(peer_late).await;
                    let mut peer = peer;
                    for frame in frames(60) {
                        peer.send(&raw::frame(BINARY, frame.payload())).await;
                        let got = peer.frame().await;
                        assert_eq!(
                            (got.first, &got.payload[..]),
                            (BINARY, &frame.payload()[..]),
                            "{name} {number} {order}"
                        );
                    }
                    let sink = writing.await;
                    peer.send(&raw::frame(CLOSE, b"")).await;
                    assert_eq!(peer.frame().await.first, CLOSE);
                    peer.shutdown().await;
                    let (got, stream) = reading.await;
                    assert_eq!(got, frames(60), "{name} {number} {order}");
                    assert!(sim.elapsed() < Duration::from_millis(10), "{name} {number} {order}: {:?}", sim.elapsed());
                    drop((sink, stream));
                });
            }
        }
    }
}

/// Neither side of the wire reads before it has written: each half goes on by itself.
#[test]
fn a_reader_that_is_not_polled_does_not_hold_up_a_writer_and_the_other_way_round() {
    for (name, split) in SPLITS {
        Sim::new().run(async |sim| {
            let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(64)).await;
            let (mut sink, mut stream) = split(socket);
            let writing = sim.spawn(async move {
                sink.send(Frame::binary(vec![1; 10_000])).await.unwrap();
                sink
            });
            peer.send(&raw::frame(BINARY, &[2; 10_000])).await; // though nobody reads there
            assert_eq!(peer.frame().await.payload.len(), 10_000, "{name}");
            let mut sink = writing.await;
            assert_eq!(stream.next().await.unwrap().unwrap().len(), 10_000);
            let reading = sim.spawn(async move { stream.next().await.unwrap().unwrap() });
            sink.feed(Frame::text("fed")).await.unwrap();
            peer.send(&raw::frame(TEXT, b"wakes the reader")).await;
            assert_eq!(reading.await, Frame::text("wakes the reader"));
            sink.flush().await.unwrap();
            assert_eq!(peer.frame().await.payload, b"fed");
        });
    }
}

/// A writer that waits for room hears of the peer's Close though none of its bytes have left.
#[test]
fn a_writer_that_waits_for_room_is_refused_as_soon_as_the_reader_sees_a_close() {
    for (name, split) in SPLITS {
        Sim::new().run(async |sim| {
            let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(64)).await;
            let (mut sink, mut stream) = split(socket);
            sink.feed(Frame::binary(vec![1; 100_000])).await.unwrap();
            let reading = sim.spawn(async move {
                let next = stream.next().await;
                (next, stream)
            });
            sim.settle().await;
            let writing = sim.spawn(async move {
                let refused = sink.send(Frame::text("late")).await;
                (refused, sink)
            });
            sim.settle().await;
            peer.send(&raw::frame(CLOSE, b"")).await;
            let (refused, sink) = writing.await;
            assert!(matches!(refused, Err(Error::Send(SendError::Closing(_)))), "{name} {refused:?}");
            assert_eq!(sim.elapsed(), Duration::ZERO, "{name}");
            assert!(reading.await.0.is_none());
            drop(sink);
        });
    }
}

/// The Close stands behind a frame, so that the writer does not read on: only the reader can tell it.
#[test]
fn a_writer_that_waits_for_room_hears_of_a_close_that_the_reader_gets_to() {
    Sim::new().run(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(64)).await;
        let (mut sender, mut receiver) = socket.split();
        sender.feed(Frame::binary(vec![1; 100_000])).await.unwrap();
        let writing = sim.spawn(async move { sender.feed(Frame::text("late")).await });
        peer.send(&[raw::frame(TEXT, b"last"), raw::frame(CLOSE, b"")].concat()).await;
        sim.settle().await;
        assert_eq!(receiver.next().await.unwrap().unwrap(), Frame::text("last"));
        let reading = sim.spawn(async move { receiver.next().await });
        let refused = writing.await;
        assert!(matches!(refused, Err(Error::Send(SendError::Closing(_)))), "{refused:?}");
        assert_eq!(sim.elapsed(), Duration::ZERO);
        drop(reading);
    });
}

/// The reader flushes too, and tells the writer what has come of it.
#[test]
fn a_writer_that_waits_for_a_flush_hears_of_one_that_the_reader_made() {
    for looks in 1..6 {
        Sim::new().run(async |sim| {
            let (socket, mut peer, listener) = connected(&sim, Link::default()).await;
            let (mut sender, mut receiver) = socket.split();
            let reading = sim.spawn(async move { while receiver.next().await.is_some() {} });
            sim.settle().await;
            listener.wire().hold_client_flushes(looks);
            let writing = sim.spawn(async move { sender.send(Frame::text("out")).await });
            sim.settle().await;
            for _ in 0..looks {
                peer.send(&raw::frame(PONG, b"")).await;
                sim.settle().await;
            }
            assert!(writing.is_done(), "{looks}");
            writing.await.unwrap();
            drop(reading);
        });
    }
}

/// Timers go on whichever half waits: a ping, the write stall, the close timeout.
#[test]
fn timers_run_in_whichever_half_waits() {
    type Wait = fn(Socket, &Sim) -> parley_tests::sim::Task<Option<Error>>;
    let rows: [(&str, Wait); 4] = [
        ("reader", |socket, sim| {
            let (sender, mut receiver) = socket.split();
            sim.spawn(async move {
                let next = receiver.next().await;
                drop(sender);
                next.and_then(Result::err)
            })
        }),
        ("writer", |socket, sim| {
            let (mut sender, receiver) = socket.split();
            sim.spawn(async move {
                let flushed = sender.close().await;
                drop(receiver);
                flushed.err()
            })
        }),
        ("sender", |socket, sim| {
            let (mut sender, receiver) = socket.split();
            sim.spawn(async move {
                let sent = sender.send(Frame::binary(vec![0; 300_000])).await;
                drop(receiver);
                sent.err()
            })
        }),
        ("both", |socket, sim| {
            let (mut sender, mut receiver) = socket.split();
            let reading = sim.spawn(async move { receiver.next().await });
            let writing = sim.spawn(async move { sender.send(Frame::binary(vec![0; 300_000])).await });
            sim.spawn(async move {
                let (read, written) = (reading.await, writing.await);
                read.and_then(Result::err).or(written.err())
            })
        }),
    ];
    for (name, wait) in rows {
        Sim::new().run(async |sim| {
            let mut options = ClientOptions::new("ws://10.0.0.1/").unwrap();
            options.connection.keepalive =
                Some(Keepalive::new(Duration::from_secs(3), Duration::from_secs(4)).unwrap());
            options.connection.write_timeout = Duration::from_secs(9);
            let listener = sim.listen(addr());
            listener.set_link(Link::default().capacity(1000));
            let task = sim.spawn({
                let sim = sim.clone();
                async move { dial_with(&sim, options).await.unwrap() }
            });
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            let error = wait(task.await, &sim).await;
            let reason = error.as_ref().and_then(Error::reason);
            let (right, after) = match name {
                "reader" => (matches!(reason, Some(DisconnectReason::KeepaliveTimeout)), 7),
                "writer" => (reason.is_none(), 5),
                _ => (matches!(reason, Some(DisconnectReason::WriteTimeout)), 9),
            };
            assert!(right, "{name}: {error:?}");
            assert_eq!(sim.elapsed(), Duration::from_secs(after), "{name}");
        });
    }
}

/// One half, and then the other, moves from task to task: the newest is woken.
#[test]
fn a_half_that_moves_to_another_task_is_woken_there() {
    Sim::new().run(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(64)).await;
        let (mut sender, mut receiver) = socket.split();
        for round in 0..4_u8 {
            let reading = sim.spawn(async move {
                let frame = receiver.next().await;
                (frame.unwrap().unwrap(), receiver)
            });
            let writing = sim.spawn(async move {
                sender.send(Frame::binary(vec![round; 1000])).await.unwrap();
                sender
            });
            sim.settle().await;
            if round % 2 == 0 {
                peer.send(&raw::frame(BINARY, &[round])).await;
                receiver = reading.await.1;
                assert_eq!(peer.frame().await.payload, vec![round; 1000]);
                sender = writing.await;
            } else {
                assert_eq!(peer.frame().await.payload, vec![round; 1000]);
                sender = writing.await;
                peer.send(&raw::frame(BINARY, &[round])).await;
                receiver = reading.await.1;
            }
        }
    });
}

/// More than a task's share in one direction does not starve the other, nor other tasks.
#[test]
fn hazard_15_a_flood_leaves_turns_to_others() {
    Sim::new().run(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1 << 22).chunk(1 << 16)).await;
        let (mut sender, mut receiver) = socket.split();
        peer.send(&raw::frame(BINARY, &[0; 1000]).repeat(2000)).await;
        let turns = sim.steps();
        let reading = sim.spawn(async move {
            for _ in 0..2000 {
                receiver.next().await.unwrap().unwrap();
            }
            receiver
        });
        let _receiver = reading.await;
        assert!(sim.steps() - turns >= 2_000_000 / (256 * 1024), "it yields");
        let turns = sim.steps();
        sender.send(Frame::binary(vec![0; 2_000_000])).await.unwrap();
        assert!(sim.steps() - turns >= 2_000_000 / (256 * 1024), "it yields");
    });
}

#[test]
fn forward_echoes_to_the_end() {
    for (name, split) in SPLITS {
        for link in LINKS {
            Sim::new().run(async |sim| {
                let (socket, mut peer, listener) = connected(&sim, link()).await;
                let (sink, stream) = split(socket);
                let echo = stream.filter(|frame| {
                    let data = !matches!(frame, Ok(Frame::Ping(_) | Frame::Pong(_)));
                    async move { data }
                });
                let echoing = sim.spawn(Box::pin(echo).forward(sink));
                let mut writes = Vec::new();
                for frame in frames(40) {
                    writes.extend(raw::frame(BINARY, frame.payload()));
                    writes.extend(raw::frame(PING, &frame.payload()[..1]));
                }
                let close = raw::frame(CLOSE, &1001_u16.to_be_bytes());
                let with_the_last = name == "split"; // futures-util's sink holds the last echo back until it is too late
                if with_the_last {
                    writes.extend(&close);
                }
                let mut all = Vec::new();
                for part in writes.chunks(50) {
                    peer.send(part).await;
                    sim.settle().await;
                    while peer_has(&listener) {
                        all.push(peer.frame().await);
                    }
                }
                if !with_the_last {
                    peer.send(&close).await;
                }
                while all.last().is_none_or(|frame: &raw::RawFrame| frame.first != CLOSE) {
                    all.push(peer.frame().await);
                }
                peer.shutdown().await;
                echoing.await.unwrap();
                let data: Vec<_> =
                    all.iter().filter(|frame| frame.first == BINARY).map(|frame| frame.payload.clone()).collect();
                let sent: Vec<_> = frames(40).iter().map(|frame| frame.payload().to_vec()).collect();
                assert_eq!(data, sent, "{name}");
                let pongs: Vec<_> =
                    all.iter().filter(|frame| frame.first == PONG).map(|frame| frame.payload[0]).collect();
                assert!(pongs.is_sorted() && pongs.last() == Some(&39), "{name}: {pongs:?}");
            });
        }
    }
}

fn peer_has(listener: &Listener) -> bool {
    listener.wire().unread_by_peer() > 0
}

/// The combinators on the undivided socket.
#[test]
fn a_socket_is_a_stream_and_a_sink_for_futures_util() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default().capacity(64)).await;
        let talking = sim.spawn(async move {
            SinkExt::feed(&mut socket, Frame::text("one")).await.unwrap();
            SinkExt::send(&mut socket, Frame::text("two")).await.unwrap();
            let got: Vec<_> = (&mut socket).take(2).map(Result::unwrap).collect().await;
            let mut more = stream::iter([Ok(Frame::text("three"))]);
            socket.send_all(&mut more).await.unwrap();
            SinkExt::close(&mut socket).await.unwrap();
            assert!(StreamExt::next(&mut socket).await.is_none());
            got
        });
        assert_eq!(peer.frame().await.payload, b"one");
        assert_eq!(peer.frame().await.payload, b"two");
        peer.send(&[raw::frame(TEXT, b"a"), raw::frame(PONG, b"b")].concat()).await;
        assert_eq!(peer.frame().await.payload, b"three");
        assert_eq!(peer.frame().await.first, CLOSE);
        peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
        peer.shutdown().await;
        assert_eq!(talking.await, [Frame::text("a"), Frame::Pong(Bytes::from_static(b"b"))]);
    });
}

/// The other half may be a long time in coming: what a half sends leaves at once.
#[test]
fn a_half_does_not_leave_to_the_other_what_it_sends() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        socket.set_auto_cork(true);
        let (mut sender, mut receiver) = socket.split();
        peer.send(&[raw::frame(TEXT, b"1"), raw::frame(TEXT, b"2")].concat()).await;
        let first = receiver.next().await.unwrap().unwrap();
        sender.send(first).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"1", "though the second is at hand");
    });
}
