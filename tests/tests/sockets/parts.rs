//! Messages in parts: received and sent by a `WebSocket`, received by a handler.

use std::sync::{Arc, Mutex};

use parley_proto::codec::{Chunk, Frame};
use parley_proto::driver::{Error, Part};
use parley_proto::session::ClientOptions;
use parley_proto::{Action, BoxError, ChunkError, Handler, SendError};
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::cancel::cut;
use super::{BINARY, TEXT, addr, connected, dial_with};

fn in_parts(above: usize) -> ClientOptions {
    let mut options = ClientOptions::new("ws://10.0.0.1/").unwrap();
    options.connection.chunks_above = Some(above);
    options
}

#[test]
fn a_socket_yields_parts_or_puts_them_together() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().chunk(1000));
        let task = sim.spawn({
            let sim = sim.clone();
            async move { dial_with(&sim, in_parts(100)).await.unwrap() }
        });
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let mut socket = task.await;

        peer.send(&[raw::frame(TEXT, b"small"), raw::frame(BINARY, &[7; 10_000])].concat()).await;
        assert_eq!(socket.next_part().await.unwrap().unwrap(), Part::Frame(Frame::text("small")));
        let (mut got, mut parts) = (Vec::new(), 0);
        loop {
            let Part::Chunk(chunk) = socket.next_part().await.unwrap().unwrap() else { panic!("not a part") };
            assert_eq!((chunk.text, chunk.first), (false, parts == 0));
            got.extend_from_slice(&chunk.payload);
            parts += 1;
            if chunk.last {
                break;
            }
        }
        assert_eq!(got, [7; 10_000]);
        assert!(parts > 1, "in one piece");

        peer.send(&raw::frame(TEXT, &[b'x'; 5_000])).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("x".repeat(5_000)));
    });
}

#[test]
fn a_message_is_sent_in_parts_and_nothing_comes_between() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        socket.feed_chunk(Chunk::text("\u{20ac}".as_bytes()[..2].to_vec()).first()).await.unwrap();
        let error = socket.send(Frame::text("between")).await.unwrap_err();
        assert!(matches!(error, Error::Send(SendError::OutOfTurn(_))), "{error:?}");
        for out_of_turn in [Chunk::text("a").first(), Chunk::binary("a"), Chunk::binary("a").last()] {
            let error = socket.feed_chunk(out_of_turn.clone()).await.unwrap_err();
            assert!(matches!(&error, Error::Chunk(ChunkError::OutOfTurn(chunk)) if *chunk == out_of_turn), "{error:?}");
        }
        let error = socket.feed_chunk(Chunk::text("a")).await.unwrap_err();
        assert!(matches!(error, Error::Chunk(ChunkError::NotUtf8(_))), "{error:?}");
        socket.send(Frame::ping("between")).await.unwrap();
        socket.feed_chunk(Chunk::text("\u{20ac}".as_bytes()[2..].to_vec()).last()).await.unwrap();
        socket.send(Frame::text("behind")).await.unwrap();
        let error = socket.feed_chunk(Chunk::text("a").last()).await.unwrap_err();
        assert!(matches!(error, Error::Chunk(ChunkError::OutOfTurn(_))), "no message has begun: {error:?}");

        let mut frames = Vec::new();
        for _ in 0..4 {
            let frame = peer.frame().await;
            frames.push((frame.first, frame.payload));
        }
        let euro = "\u{20ac}".as_bytes();
        let expected = [(0x01, &euro[..2]), (0x89, b"between"), (0x80, &euro[2..]), (0x81, b"behind")];
        assert_eq!(frames, expected.map(|(first, payload)| (first, payload.to_vec())));
    });
}

#[derive(Clone, Default)]
struct Gather(Arc<Mutex<Vec<String>>>);

impl Handler for Gather {
    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.0.lock().unwrap().push(format!("whole {}", frame.len()));
        Ok(Action::Continue)
    }

    async fn handle_chunk(&mut self, chunk: Chunk) -> Result<Action, BoxError> {
        if chunk.first {
            self.0.lock().unwrap().push("begin".to_owned());
        }
        if chunk.last {
            self.0.lock().unwrap().push("end".to_owned());
            return Ok(Frame::text("got it").into());
        }
        Ok(Action::Continue)
    }
}

#[test]
fn a_handler_gets_big_messages_in_parts_and_small_ones_whole() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let gather = Gather::default();
        let client = sim.start(in_parts(10), gather.clone()).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        peer.send(&raw::frame(TEXT, b"0123456789")).await;
        peer.send(&raw::frame(TEXT, &[b'x'; 300_000])).await;
        assert_eq!(peer.frame().await.payload, b"got it");
        peer.send(&raw::frame(0x01, b"frag")).await;
        peer.send(&raw::frame(0x80, b"ment")).await;
        assert_eq!(peer.frame().await.payload, b"got it");
        assert_eq!(*gather.0.lock().unwrap(), ["whole 10", "begin", "end", "begin", "end"]);
        assert_eq!(client.stats().frames_received, 3, "messages, not parts");
        client.stop().await;
        peer.frame().await;
    });
}

#[test]
fn what_one_way_of_receiving_has_begun_the_other_does_not_mix_up() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let task = sim.spawn({
            let sim = sim.clone();
            async move { dial_with(&sim, in_parts(0)).await.unwrap() }
        });
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let mut socket = task.await;

        // Begun in parts: what follows is no message of its own.
        peer.send(&[raw::frame(0x01, b"pay 1"), raw::frame(0x80, b" to bob")].concat()).await;
        assert!(matches!(socket.next_part().await.unwrap().unwrap(), Part::Chunk(chunk) if chunk.first));
        peer.send(&raw::frame(TEXT, b"whole")).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("whole"));

        // Begun as a whole, and given up: it does not stick to the next one.
        peer.send(&raw::frame(0x01, &"\u{20ac}".as_bytes()[..2])).await;
        let early = {
            let mut next = std::pin::pin!(socket.next());
            std::future::poll_fn(|cx| std::task::Poll::Ready(next.as_mut().poll(cx).is_ready())).await
        };
        assert!(!early, "the message is not complete");
        peer.send(&raw::frame(0x80, &"\u{20ac}".as_bytes()[2..])).await;
        assert!(matches!(socket.next_part().await.unwrap().unwrap(), Part::Chunk(chunk) if chunk.last));
        peer.send(&raw::frame(TEXT, b"clean")).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("clean"));
    });
}

struct Whole;

impl Handler for Whole {}

#[test]
fn a_handler_that_takes_no_parts_is_told_instead_of_losing_them() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start::<_, ()>(in_parts(10), Whole).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        peer.send(&raw::frame(TEXT, b"more than ten bytes")).await;
        assert_eq!(peer.frame().await.payload[..2], 1011_u16.to_be_bytes());
        drop(peer);
        let Err(error) = client.join().await else { panic!("a clean end") };
        assert!(error.to_string().contains("handle_chunk"), "{error}");
    });
}

/// Dropped at any poll, `next_part` loses no part, and `feed_chunk` sends its part whole or not at all.
#[test]
fn parts_are_not_lost_by_futures_that_are_dropped() {
    for polls in 0..4 {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            listener.set_link(Link::default().capacity(24).chunk(5));
            let task = sim.spawn({
                let sim = sim.clone();
                async move { dial_with(&sim, in_parts(10)).await.unwrap() }
            });
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            let mut socket = task.await;
            let all = (0..200).collect::<Vec<u8>>();
            let writer = sim.spawn({
                let bytes = raw::frame(BINARY, &all);
                async move {
                    peer.send(&bytes).await;
                    peer
                }
            });
            let (mut got, mut given_up) = (Vec::new(), 0);
            while got.len() < all.len() {
                match cut(socket.next_part(), polls).await {
                    Some(part) => {
                        let Part::Chunk(chunk) = part.unwrap().unwrap() else { panic!("not a part") };
                        got.extend_from_slice(&chunk.payload);
                    }
                    None => {
                        given_up += 1;
                        sim.settle().await;
                        if polls == 0 {
                            let Some(Ok(Part::Chunk(chunk))) = socket.next_part().await else { panic!("not a part") };
                            got.extend_from_slice(&chunk.payload);
                        }
                    }
                }
            }
            assert_eq!(got, all);
            assert!(polls > 1 || given_up > 0, "it never had to wait");

            // The first part blocks the output, so that the others wait for room.
            let mut peer = writer.await;
            let part = |byte: u8| Chunk::binary(vec![byte; 40_000]);
            let mut sent = 1;
            socket.feed_chunk(part(1).first()).await.unwrap();
            for byte in 2..6 {
                match cut(socket.feed_chunk(part(byte)), polls.min(1)).await {
                    Some(outcome) => {
                        outcome.unwrap();
                        sent += 1;
                    }
                    None => break,
                }
            }
            assert!((1..=2).contains(&sent), "{sent}");
            let read = sim.spawn(async move {
                let mut frames: Vec<(u8, u8, usize)> = Vec::new();
                while frames.last().is_none_or(|(first, ..)| *first < 0x80) {
                    let frame = peer.frame().await;
                    assert!(frame.payload.iter().all(|byte| *byte == frame.payload[0]), "torn");
                    frames.push((frame.first, frame.payload[0], frame.payload.len()));
                }
                frames
            });
            socket.feed_chunk(part(9).last()).await.unwrap();
            socket.flush().await.unwrap();
            let frames = read.await;
            assert!((sent + 1..=sent + 2).contains(&frames.len()), "one that was given up may have been accepted");
            assert_eq!(frames.last(), Some(&(0x80, 9, 40_000)));
            assert!(frames.iter().map(|(_, byte, _)| byte).is_sorted());
        });
    }
}
