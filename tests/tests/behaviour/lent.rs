//! Section 3 of the guide, where a handler is lent its messages.

use bytes::Bytes;
use parley_proto::codec::{Frame, FrameRef, OpCode};
use parley_proto::driver::Handle;
use parley_proto::session::ClientState;
use parley_proto::{Action, Answer, BoxError, Handler, SendError, StopReason};
use parley_tests::raw::{self, RawConn};
use parley_tests::sim::{Link, Sim};

use crate::common::{addr, close_of, finish, options};

/// Deals with texts at once, as they say; all else it has as frames. It notes what it sees.
struct Borrower {
    sim: Sim,
    own: Handle<()>,
    answer: Vec<u8>,
}

impl Handler for Borrower {
    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        if frame.opcode() != OpCode::Text {
            return Answer::Pass;
        }
        let text = frame.as_str().unwrap();
        self.sim.note(format!("lent {}", &text[..text.len().min(20)]));
        match text {
            "own" => {
                self.own.try_send_frame(Frame::text("by its own handle")).unwrap();
                Answer::Push(FrameRef::text("pushed"))
            }
            "own answer" => {
                self.answer.extend(0..9);
                Answer::Push(FrameRef::binary(&self.answer))
            }
            "a part" => Answer::Push(FrameRef::binary(&frame.payload()[2..])),
            "several" => Action::PushAll(vec![Frame::text("one"), Frame::text("two")]).into(),
            "too long a ping" => Answer::Push(FrameRef::ping(&[0; 126])),
            "stop" => Action::Stop.into(),
            "fail" => Answer::Return(Err("it was told to".into())),
            "panic" => panic!("it was told to"),
            "nothing" => Answer::Continue,
            _ => Answer::Push(frame),
        }
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.sim.note(format!("given {:?} of {}", frame.opcode(), frame.len()));
        Ok(if frame.is_control() { Action::Continue } else { frame.into() })
    }
}

async fn connected(sim: &Sim, link: Link) -> (parley_proto::driver::Client<Borrower>, RawConn) {
    let listener = sim.listen(addr());
    listener.set_link(link);
    let make = |own| Borrower { sim: sim.clone(), own, answer: Vec::new() };
    let client = sim.start_with(options(), make).await.unwrap();
    let mut peer = listener.accept().await;
    peer.upgrade("").await;
    (client, peer)
}

#[test]
fn rule_3_4_messages_are_lent_in_their_order_and_what_is_passed_is_given() {
    let large = "large ".repeat(4000);
    for chunk in [1 << 20, 700, 13] {
        Sim::new().run(async |sim| {
            let (client, mut peer) = connected(&sim, Link::default().chunk(chunk)).await;
            let texts = ["a", "nothing", "own answer", &large, "a part", "several", "b"];
            let mut wire = raw::frame(0x82, b"first");
            for (number, text) in texts.iter().enumerate() {
                wire.extend(raw::frame(0x81, text.as_bytes()));
                wire.extend([raw::frame(0x89, &[number as u8]), raw::frame(0x8a, &[7; 3])].concat());
            }
            wire.extend(
                [raw::frame(0x01, b"in "), raw::frame(0x80, b"fragments"), raw::frame(0x82, &[1; 9000])].concat(),
            );
            let sending = sim.spawn(async move {
                peer.send(&wire).await;
                peer
            });
            let mut peer = sending.await;
            let expected: [(u8, &[u8]); 10] = [
                (0x82, b"first"),
                (0x81, b"a"),
                (0x82, &[0, 1, 2, 3, 4, 5, 6, 7, 8]),
                (0x81, large.as_bytes()),
                (0x82, b"part"),
                (0x81, b"one"),
                (0x81, b"two"),
                (0x81, b"b"),
                (0x81, b"in fragments"),
                (0x82, &[1; 9000]),
            ];
            let (mut pongs, mut frames) = (Vec::new(), Vec::new());
            while frames.len() < expected.len() {
                let frame = peer.frame().await;
                match frame.first {
                    0x8a => pongs.push(frame.payload),
                    first => frames.push((first, frame.payload)),
                }
            }
            for ((first, payload), expected) in frames.iter().zip(expected) {
                assert!((*first, &payload[..]) == expected, "{first:x} of {} bytes, {chunk}", payload.len());
            }
            assert_eq!(pongs.len(), texts.len(), "pings are answered");
            let calls: Vec<_> = sim.calls().into_iter().filter(|line| line.contains(" lent ")).collect();
            assert_eq!(calls.len(), texts.len() + 1, "{calls:?}");
            let given = sim.calls().into_iter().filter(|line| line.contains(" given ")).count();
            assert_eq!(given, texts.len() + 2, "pongs and binary messages");
            let stats = client.stats();
            assert_eq!(stats.frames_received, (3 * texts.len() + 3) as u64);
            assert_eq!((stats.frames_sent, stats.dropped, stats.refused), (expected.len() as u64, 0, 0));
        });
    }
}

#[test]
fn rule_3_10_what_a_lent_message_has_sent_by_a_handle_goes_before_what_it_pushes() {
    Sim::new().run(async |sim| {
        let (_client, mut peer) = connected(&sim, Link::default()).await;
        peer.send(&[raw::frame(0x81, b"own"), raw::frame(0x81, b"behind")].concat()).await;
        for expected in ["by its own handle", "pushed", "behind"] {
            assert_eq!(peer.frame().await.payload, expected.as_bytes());
        }
    });
}

#[test]
fn a_push_that_cannot_be_sent_is_counted_though_it_was_lent() {
    Sim::new().run(async |sim| {
        let (client, mut peer) = connected(&sim, Link::default()).await;
        peer.send(&[raw::frame(0x81, b"too long a ping"), raw::frame(0x81, b"next")].concat()).await;
        assert_eq!(peer.frame().await.payload, b"next");
        assert_eq!(client.stats().refused, 1);
    });
}

#[test]
fn what_a_handle_feeds_by_reference_leaves_in_its_place_or_comes_back_as_a_copy() {
    Sim::new().run(async |sim| {
        let (client, mut peer) = connected(&sim, Link::default()).await;
        let (small, large) = (vec![1; 1024], vec![2; 1025]);
        let sent = [FrameRef::text("a"), FrameRef::binary(&small), FrameRef::binary(&large), FrameRef::text("b")];
        for frame in sent {
            client.feed_ref(frame).await.unwrap();
            client.feed_frame(frame.to_frame()).await.unwrap();
        }
        client.feed_ref(FrameRef::ping(b"?")).await.unwrap();
        client.feed_all(&mut &sent[..]).await.unwrap();
        client.flush().await.unwrap();
        let mut arrived = Vec::new();
        for _ in 0..13 {
            let frame = peer.frame().await;
            arrived.push((frame.first, frame.payload));
        }
        arrived.retain(|(first, _)| *first != 0x89);
        let expected = sent
            .iter()
            .flat_map(|frame| [frame; 2])
            .chain(&sent)
            .map(|frame| (0x80 | frame.opcode().bits(), frame.payload().to_vec()));
        assert!(arrived == expected.collect::<Vec<_>>());

        let refused = client.feed_ref(FrameRef::ping(&[0; 126])).await.unwrap_err();
        assert!(matches!(refused, SendError::ControlTooLong(ping) if ping.len() == 126));
        client.disconnect().await;
        let refused = client.feed_ref(FrameRef::text("late")).await.unwrap_err();
        assert!(matches!(refused, SendError::Closing(frame) if frame == Frame::text("late")));
        let late = [FrameRef::text("first"), FrameRef::text("second")];
        let mut rest = &late[..];
        let refused = client.feed_all(&mut rest).await.unwrap_err();
        assert_eq!(rest, late);
        assert!(matches!(refused, SendError::Closing(frame) if frame == Frame::text("first")));
    });
}

#[test]
fn a_peer_that_takes_nothing_stops_what_is_lent_to_a_handler_that_answers() {
    Sim::new().run(async |sim| {
        let (client, mut peer) = connected(&sim, Link::default().capacity(1000)).await;
        let message = raw::frame(0x81, &[b'x'; 1000]);
        let sending = sim.spawn(async move {
            for _ in 0..4000 {
                peer.send(&message).await;
            }
            peer
        });
        sim.settle().await;
        let seen = client.stats().frames_received;
        // What may be encoded ahead, and what may wait in the queue of pushes: no more callbacks than that.
        let bound = (64 * 1024 + options().connection.limits.send_queue()) / 1000 + 100;
        assert!(!sending.is_done() && seen > 64 && seen < bound as u64, "{seen} of {bound}");
        drop(client);
    });
}

/// The socket takes all that it is shown.
#[test]
fn rule_4_10_pings_between_the_pieces_of_a_large_message_are_all_answered() {
    for len in (240..330).step_by(6).map(|kib| kib * 1024) {
        Sim::new().run(async |sim| {
            let (client, mut peer) = connected(&sim, Link::default().capacity(4 << 20)).await;
            client.wait_for(ClientState::Connected).await.unwrap();
            let shared = Bytes::from(vec![7; len]); // so that a copy is masked, piece by piece
            client.try_send_frame(Frame::Binary(shared.clone())).unwrap();
            peer.send(&[raw::frame(0x89, b"1"), raw::frame(0x89, b"2"), raw::frame(0x89, b"3")].concat()).await;
            let (mut pongs, mut data) = (Vec::new(), 0);
            while data == 0 || pongs.last().is_none_or(|last: &Vec<u8>| last != b"3") {
                match peer.frame().await {
                    frame if frame.first == 0x8a => pongs.push(frame.payload),
                    frame => data += frame.payload.len(),
                }
            }
            assert_eq!((data, pongs.len()), (shared.len(), 3), "{pongs:?}");
        });
    }
}

#[test]
fn a_lent_message_may_stop_fail_or_panic() {
    for (text, code) in [("stop", 1000), ("fail", 1011), ("panic", 1011)] {
        Sim::new().run(async |sim| {
            let (client, mut peer) = connected(&sim, Link::default()).await;
            peer.send(&[raw::frame(0x81, b"a"), raw::frame(0x81, text.as_bytes()), raw::frame(0x81, b"b")].concat())
                .await;
            assert_eq!(peer.frame().await.payload, b"a");
            if text == "stop" {
                finish(&mut peer, code).await;
                client.join().await.unwrap();
            } else {
                assert_eq!(close_of(&peer.frame().await).0, code);
                peer.send(&raw::frame(0x88, &code.to_be_bytes())).await;
                peer.shutdown().await;
                let error = client.join().await.err().unwrap();
                match text {
                    "panic" => assert!(matches!(error.reason(), StopReason::Panicked)),
                    _ => assert!(matches!(error.reason(), StopReason::Handler(_))),
                }
            }
            let lent = sim.calls().into_iter().filter(|line| line.contains(" lent ")).count();
            assert_eq!(lent, 2, "none behind the end");
        });
    }
}
