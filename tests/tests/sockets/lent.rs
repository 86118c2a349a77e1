//! Frames that are lent, out of the socket and into it: the same as those that are given.

use parley_proto::SendError;
use parley_proto::codec::{Chunk, Frame, FrameRef, OpCode};
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::cancel::cut;
use super::*;

/// What a peer sends, and what is to be received of it: every kind of frame, of every size that is handled in its own way.
fn script() -> (Vec<u8>, Vec<(OpCode, Vec<u8>)>) {
    let (mut wire, mut expected) = (Vec::new(), Vec::new());
    for (number, len) in
        [0, 1, 5, 125, 126, 1000, 1025, 4100, 70_000, 3, 200_000, 7].into_iter().cycle().take(60).enumerate()
    {
        let payload: Vec<u8> = (0..len).map(|at| b'a' + ((at + number) % 26) as u8).collect();
        let (first, opcode) = match number % 5 {
            0 | 3 => (TEXT, OpCode::Text),
            1 => (BINARY, OpCode::Binary),
            2 if len <= 125 => (PING, OpCode::Ping),
            4 if len <= 125 => (PONG, OpCode::Pong),
            _ => {
                let (head, tail) = payload.split_at(len / 3);
                wire.extend([raw::frame(0x01, head), raw::frame(PING, b"between"), raw::frame(0x80, tail)].concat());
                expected.extend([(OpCode::Ping, b"between".to_vec()), (OpCode::Text, payload)]);
                continue;
            }
        };
        wire.extend(raw::frame(first, &payload));
        expected.push((opcode, payload));
    }
    (wire, expected)
}

#[test]
fn what_is_lent_is_what_would_be_given() {
    let (wire, expected) = script();
    for (chunk, lent, parts) in
        [(1 << 20, 1, None), (1 << 20, 2, None), (977, 1, None), (5000, 3, Some(500)), (31, 2, Some(0))]
    {
        Sim::new().run(async |sim| {
            let (mut socket, mut peer, _listener) = connected_in_parts(&sim, Link::default().chunk(chunk), parts).await;
            let sending = sim.spawn({
                let wire = wire.clone();
                async move {
                    peer.send(&wire).await;
                    peer
                }
            });
            for (number, (opcode, payload)) in expected.iter().enumerate() {
                if number % lent == 0 {
                    // Dropped after each poll that finds nothing, it takes nothing.
                    let frame = loop {
                        if let Some(next) =
                            cut(async { socket.next_ref().await.unwrap().map(FrameRef::to_frame) }, 2).await
                        {
                            break next.unwrap();
                        }
                    };
                    assert_eq!((frame.opcode(), &frame.payload()[..]), (*opcode, &payload[..]), "frame {number}");
                    assert_eq!(FrameRef::from(&frame).as_str().is_some(), *opcode == OpCode::Text);
                } else {
                    let frame = socket.next().await.unwrap().unwrap();
                    assert_eq!((frame.opcode(), &frame.payload()[..]), (*opcode, &payload[..]), "frame {number}");
                }
            }
            let mut peer = sending.await;
            assert!(cut(socket.next_ref(), 1).await.is_none(), "nothing more");
            peer.send(&raw::frame(TEXT, b"last")).await;
            assert_eq!(socket.next_ref().await.unwrap().unwrap().as_str(), Some("last"));
            drop(peer);
            assert!(matches!(*socket.next_ref().await.unwrap().unwrap_err(), Error::Disconnected(_)));
            assert!(socket.next_ref().await.is_none(), "it is told once");
        });
    }
}

#[test]
fn what_was_lent_is_given_up_before_more_is_read() {
    let frame = raw::frame(BINARY, &[7; 60_000]);
    Sim::new().run(async |sim| {
        let link = Link::default().chunk(1 << 20).capacity(1 << 20);
        let (mut socket, mut peer, _listener) = connected(&sim, link).await;
        peer.send(&frame.repeat(10)).await;
        let mut addresses = Vec::new();
        for _ in 0..10 {
            addresses.push(socket.next_ref().await.unwrap().unwrap().payload().as_ptr() as usize);
        }
        addresses.dedup();
        assert_eq!(addresses.len(), 1, "one window serves for all");
    });
}

#[test]
fn a_clean_end_is_none_behind_what_is_lent() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        peer.send(&[raw::frame(BINARY, &[1, 2]), raw::frame(CLOSE, &1000_u16.to_be_bytes())].concat()).await;
        peer.shutdown().await;
        assert_eq!(socket.next_ref().await.unwrap().unwrap(), FrameRef::binary(&[1, 2]));
        assert!(socket.next_ref().await.is_none());
        assert!(socket.closed().unwrap().was_clean);
    });
}

#[test]
fn what_is_fed_by_reference_leaves_as_what_is_given() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        let (short, long) = ("short".to_owned(), vec![7; 100_000]);
        socket.feed_ref(FrameRef::text(&short)).await.unwrap();
        socket.feed_ref(FrameRef::binary(&long)).await.unwrap();
        let ping = Frame::ping("alive?");
        socket.feed_ref(FrameRef::from(&ping)).await.unwrap();
        let (flushed, ()) = futures_util::future::join(socket.flush(), async {
            for (first, payload) in [(TEXT, short.as_bytes()), (BINARY, &long), (PING, b"alive?")] {
                let frame = peer.frame().await;
                assert!((frame.first, &frame.payload[..]) == (first, payload));
            }
        })
        .await;
        flushed.unwrap();

        let long = [0; 126];
        let refused = socket.feed_ref(FrameRef::from(&Frame::ping(long.to_vec()))).await.unwrap_err();
        assert!(
            matches!(&refused, Error::Send(SendError::ControlTooLong(frame)) if frame.payload()[..] == long),
            "{refused:?}"
        );
    });
}

#[test]
fn what_one_socket_lends_another_sends() {
    Sim::new().run(async |sim| {
        let (mut from, mut source, listener) = connected(&sim, Link::default()).await;
        drop(listener);
        let (mut to, mut sink, _listener) = connected(&sim, Link::default()).await;
        source.send(&[raw::frame(TEXT, b"a"), raw::frame(BINARY, &[0; 20_000]), raw::frame(PONG, b"b")].concat()).await;
        for (first, len) in [(TEXT, 1), (BINARY, 20_000), (PONG, 1)] {
            to.feed_ref(from.next_ref().await.unwrap().unwrap()).await.unwrap();
            to.flush().await.unwrap();
            let frame = sink.frame().await;
            assert_eq!((frame.first, frame.payload.len()), (first, len));
        }
    });
}

#[test]
fn what_is_lent_may_be_answered_with_itself_or_something_else() {
    let (wire, expected) = script();
    for (chunk, parts) in [(1 << 20, None), (977, None), (31, Some(0))] {
        Sim::new().run(async |sim| {
            let (mut socket, mut peer, _listener) =
                connected_in_parts(&sim, Link::default().chunk(chunk).capacity(1 << 24), parts).await;
            let sending = sim.spawn({
                let wire = wire.clone();
                async move {
                    peer.send(&wire).await;
                    peer
                }
            });
            for (number, (opcode, payload)) in expected.iter().enumerate() {
                loop {
                    let next = async {
                        let (frame, reply) = socket.next_with_reply().await.unwrap().unwrap();
                        assert_eq!((frame.opcode(), frame.payload()), (*opcode, &payload[..]), "frame {number}");
                        match number % 4 {
                            _ if opcode.is_control() => {}
                            0 | 1 => reply.feed_ref(frame).unwrap(),
                            2 => reply.feed_ref(FrameRef::binary(&frame.payload()[frame.len() / 2..])).unwrap(),
                            _ => reply.feed(Frame::text("of its own")).unwrap(),
                        }
                    };
                    if cut(next, 2).await.is_some() {
                        break;
                    }
                }
            }
            let mut peer = sending.await;
            let flushing = sim.spawn(async move {
                socket.flush().await.unwrap();
                socket
            });
            for (number, (opcode, payload)) in expected.iter().enumerate().filter(|(_, (kind, _))| !kind.is_control()) {
                let frame = loop {
                    match peer.frame().await {
                        frame if frame.first == PONG => {}
                        frame => break frame,
                    }
                };
                let expected: (u8, &[u8]) = match number % 4 {
                    0 | 1 => (0x80 | opcode.bits(), payload),
                    2 => (BINARY, &payload[payload.len() / 2..]),
                    _ => (TEXT, b"of its own"),
                };
                assert!((frame.first, &frame.payload[..]) == expected, "the answer to frame {number}");
            }
            let mut socket = flushing.await;
            drop(peer);
            assert!(matches!(*socket.next_with_reply().await.unwrap().unwrap_err(), Error::Disconnected(_)));
            assert!(socket.next_with_reply().await.is_none(), "it is told once");
        });
    }
}

#[test]
fn nothing_is_lent_for_an_answer_while_there_is_no_room_for_one() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1000)).await;
        let message = raw::frame(BINARY, &[1; 500]);
        let mut answered = 0;
        loop {
            peer.send(&message).await;
            let Some((frame, reply)) = cut(socket.next_with_reply(), 1).await.map(|next| next.unwrap().unwrap()) else {
                break;
            };
            reply.feed_ref(frame).unwrap();
            answered += 1;
            assert!(answered * 500 < 64 * 1024 + 3000, "it goes on though nothing leaves");
        }
        assert!(answered > 100);
        // The reader comes back: so does what was left.
        let reading = sim.spawn(async move {
            for _ in 0..=answered {
                assert_eq!(peer.frame().await.payload.len(), 500);
            }
            peer
        });
        let (frame, reply) = socket.next_with_reply().await.unwrap().unwrap();
        reply.feed_ref(frame).unwrap();
        socket.flush().await.unwrap();
        drop(reading.await);
    });
}

#[test]
fn what_answers_the_frames_of_one_read_leaves_with_112_kib() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1 << 20)).await;
        peer.send(&raw::frame(BINARY, b"?").repeat(1000)).await;
        let mut answered = 0;
        loop {
            let (_, reply) = socket.next_with_reply().await.unwrap().unwrap();
            if let Some(first) = cut(peer.frame(), 1).await {
                assert_eq!(first.payload, [1; 1000]);
                break;
            }
            reply.feed_ref(FrameRef::binary(&[1; 1000])).unwrap();
            answered += 1;
        }
        assert_eq!(answered, (112 * 1024_usize).div_ceil(8 + 1000));
    });
}

#[test]
fn an_answer_that_cannot_be_sent_is_given_back() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        peer.send(&[raw::frame(BINARY, b"one"), raw::frame(BINARY, b"two")].concat()).await;
        let (_, reply) = socket.next_with_reply().await.unwrap().unwrap();
        let refused = reply.feed_ref(FrameRef::ping(&[0; 126])).unwrap_err();
        assert!(matches!(&refused, Error::Send(SendError::ControlTooLong(ping)) if ping.len() == 126), "{refused:?}");
        // In the middle of a message in parts only control frames may go.
        let chunk = Chunk { payload: "begun ".into(), text: true, first: true, last: false };
        socket.feed_chunk(chunk).await.unwrap();
        let (frame, reply) = socket.next_with_reply().await.unwrap().unwrap();
        let refused = reply.feed_ref(frame).unwrap_err();
        assert_eq!(refused.into_frame(), Some(Frame::binary("two")));
        peer.send(&raw::frame(PING, b"?")).await;
        let (frame, reply) = socket.next_with_reply().await.unwrap().unwrap();
        assert_eq!(frame, FrameRef::ping(b"?"));
        reply.feed_ref(FrameRef::pong(b"unasked")).unwrap();
        socket.flush().await.unwrap();
        for (first, payload) in [(0x01, &b"begun "[..]), (PONG, b"?"), (PONG, b"unasked")] {
            let frame = peer.frame().await;
            assert_eq!((frame.first, &frame.payload[..]), (first, payload));
        }
    });
}
