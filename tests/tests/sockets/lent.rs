//! Frames that are lent, out of the socket and into it: the same as those that are given.

use parley_proto::SendError;
use parley_proto::codec::{Frame, FrameRef, OpCode};
use parley_proto::session::ClientOptions;
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
            let listener = sim.listen(addr());
            listener.set_link(Link::default().chunk(chunk));
            let mut options = ClientOptions::new("ws://10.0.0.1/").unwrap();
            options.connection.chunks_above = parts;
            let task = sim.spawn({
                let sim = sim.clone();
                async move { dial_with(&sim, options).await.unwrap() }
            });
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            let mut socket = task.await;
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
            assert!(matches!(socket.next_ref().await, Some(Err(Error::Disconnected(_)))));
            assert!(socket.next_ref().await.is_none(), "it is told once");
        });
    }
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
