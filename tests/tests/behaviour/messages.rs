//! Messages that a task sends in parts through a handle.

use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Broadcast, Slow};
use parley_proto::session::{ClientState, Reconnect};
use parley_proto::{ChunkError, DisconnectReason, SendError};
use parley_tests::raw::RawConn;
use parley_tests::sim::{Gate, Link, Probe, Reply, Sim};

use crate::common::{addr, close_of, connected, connected_with, finish, options, secs};

const FIRST_TEXT: u8 = 0x01;
const FIRST_BINARY: u8 = 0x02;
const MIDDLE: u8 = 0x00;
const LAST: u8 = 0x80;
const TEXT: u8 = 0x81;
const PING: u8 = 0x89;

/// The next frames: first byte and payload.
async fn frames(peer: &mut RawConn, count: usize) -> Vec<(u8, Vec<u8>)> {
    let mut frames = Vec::new();
    for _ in 0..count {
        let frame = peer.frame().await;
        frames.push((frame.first, frame.payload));
    }
    frames
}

fn raw(first: u8, payload: &str) -> (u8, Vec<u8>) {
    (first, payload.as_bytes().to_vec())
}

#[test]
fn parts_leave_as_they_come_and_only_control_frames_go_between_them() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let mut message = client.begin_text().await;
        message.write("Gr\u{fc}").await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [raw(FIRST_TEXT, "Gr\u{fc}")]);
        client.feed_frame(Frame::text("behind")).await.unwrap();
        client.feed_frame(Frame::ping("between")).await.unwrap();
        message.write("\u{df}").await.unwrap();
        assert_eq!(frames(&mut peer, 2).await, [raw(PING, "between"), raw(MIDDLE, "\u{df}")]);
        let read = async { frames(&mut peer, 2).await };
        let (finished, read) = tokio::join!(message.finish_with("e"), read);
        finished.unwrap();
        assert_eq!(read, [raw(LAST, "e"), raw(TEXT, "behind")]);
        let stats = client.stats();
        assert_eq!((stats.frames_sent, stats.queued), (3, 0), "one message, however many parts");
    });
}

#[test]
fn write_waits_while_64_kib_wait() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let handle = client.handle();
        let gate = Gate::new();
        let parts = 1000;
        let task = sim.spawn({
            let gate = gate.clone();
            async move {
                let mut message = handle.begin_binary().await;
                for number in 0..parts {
                    message.write(vec![number as u8; 1000]).await.unwrap();
                }
                gate.open();
                message.finish().await.unwrap();
            }
        });
        sim.settle().await;
        assert!(!task.is_done());
        // 64 KiB are encoded ahead, as many wait, and the pipe holds a little.
        let queued = client.stats().queued;
        assert!((63 * 1024..=64 * 1024).contains(&queued), "{queued}");
        let mut got = 0;
        loop {
            let frame = peer.frame().await;
            assert!(client.stats().queued <= 64 * 1024);
            match (got, frame.first) {
                (_, LAST) => break,
                (0, first) => assert_eq!(first, FIRST_BINARY),
                (_, first) => assert_eq!(first, MIDDLE),
            }
            assert_eq!(frame.payload, vec![got as u8; 1000]);
            got += 1;
        }
        assert_eq!(got, parts);
        task.await;
    });
}

#[test]
fn a_part_that_is_no_utf8_is_refused_and_the_message_goes_on() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let mut message = client.begin_text().await;
        message.write(&b"\xe2\x82"[..]).await.unwrap(); // two thirds of a euro sign
        let error = message.write("?").await.unwrap_err();
        assert!(matches!(&error, ChunkError::NotUtf8(chunk) if chunk.payload == "?"), "{error:?}");
        message.write(&b"\xac"[..]).await.unwrap();
        // Nor may it end inside a character.
        message.write(&b"\xe2"[..]).await.unwrap();
        let error = message.finish().await.unwrap_err();
        assert!(matches!(error, ChunkError::NotUtf8(_)), "{error:?}");
        // It was given up by that.
        for _ in 0..3 {
            assert!(peer.frame().await.first < LAST);
        }
        assert_eq!(close_of(&peer.frame().await).0, 1011);
    });
}

#[test]
fn a_message_of_which_nothing_has_left_is_taken_back() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        drop(client.begin_binary().await); // nothing was written at all
        let mut message = client.begin_binary().await;
        message.write("waits for the connection").await.unwrap();
        client.feed_frame(Frame::text("behind")).await.unwrap();
        drop(message);
        let mut second = client.begin_binary().await;
        second.write("a second one").await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        assert_eq!(frames(&mut peer, 2).await, [raw(TEXT, "behind"), raw(FIRST_BINARY, "a second one")]);
        second.finish().await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [raw(LAST, "")]);
        assert_eq!(client.stats().queued, 0);
    });
}

#[test]
fn a_message_that_is_given_up_half_way_closes_the_connection() {
    for reconnect in [false, true] {
        Sim::new().run(async |sim| {
            let mut options = options();
            options.reconnect = reconnect.then(Reconnect::default);
            let (client, mut peer, listener) = connected_with(&sim, options, Probe::new(&sim)).await;
            let mut message = client.begin_binary().await;
            message.write("half").await.unwrap();
            let handle = client.handle();
            let behind = sim.spawn(async move { handle.send_frame(Frame::text("behind")).await });
            sim.settle().await;
            drop(message);
            assert_eq!(frames(&mut peer, 1).await, [raw(FIRST_BINARY, "half")]);
            finish(&mut peer, 1011).await;
            let given_back = behind.await.unwrap_err();
            assert!(matches!(&given_back, SendError::Closing(frame) if *frame == Frame::text("behind")));
            sim.noted("handle_disconnect").await;
            if reconnect {
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                client.send_frame(Frame::text("again")).await.unwrap();
                assert_eq!(frames(&mut peer, 1).await, [raw(TEXT, "again")]);
            } else {
                sim.sleep(secs(60)).await;
                assert_eq!(client.state(), ClientState::Disconnected);
            }
            assert_eq!(client.stats().queued, 0);
        });
    }
}

#[test]
fn a_close_that_is_asked_for_does_not_wait_for_the_end_of_a_message() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let mut message = client.begin_text().await;
        message.write("half").await.unwrap();
        let (first, second) = (client.handle(), client.handle());
        let behind = sim.spawn(async move { first.send_frame(Frame::text("behind")).await });
        let flush = sim.spawn(async move { second.flush().await });
        sim.settle().await;
        assert!(!behind.is_done() && !flush.is_done(), "they wait for its end");
        client.disconnect_with(CloseFrame::going_away()).await;
        let error = message.write("late").await.unwrap_err();
        assert!(matches!(&error, ChunkError::Closing(chunk) if chunk.payload == "late"), "{error:?}");
        assert_eq!(frames(&mut peer, 1).await, [raw(FIRST_TEXT, "half")]);
        finish(&mut peer, 1001).await;
        assert!(matches!(behind.await, Err(SendError::Closing(_))));
        assert!(matches!(flush.await, Err(SendError::Lost(_))));
        sim.noted("handle_disconnect").await;
        drop(message); // changes nothing
        sim.settle().await;
        assert_eq!((client.state(), client.stats().queued), (ClientState::Disconnected, 0));
    });
}

#[test]
fn a_message_does_not_go_on_on_another_connection() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.reconnect = Some(Reconnect::default());
        let (client, mut peer, listener) = connected_with(&sim, options, Probe::new(&sim)).await;
        let mut message = client.begin_text().await;
        message.write("half").await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [raw(FIRST_TEXT, "half")]);
        peer.reset();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let error = message.write("the other half").await.unwrap_err();
        assert!(matches!(error, ChunkError::Disconnected(_)), "{error:?}");
        drop(message);
        client.send_frame(Frame::text("whole")).await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [raw(TEXT, "whole")]);
        let stats = client.stats();
        assert_eq!((stats.attempts, stats.queued), (2, 0));
    });
}

#[test]
fn who_waits_for_the_last_part_is_told_that_the_connection_was_lost() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let handle = client.handle();
        let task = sim.spawn(async move {
            let mut message = handle.begin_binary().await;
            message.write(vec![0; 100_000]).await?;
            message.write(vec![0; 1000]).await?;
            message.finish().await
        });
        sim.settle().await;
        assert!(!task.is_done());
        peer.reset();
        let error = task.await.unwrap_err();
        assert!(matches!(&error, ChunkError::Lost(DisconnectReason::Tcp(_))), "{error:?}");
        sim.noted("handle_disconnect").await;
        sim.settle().await;
        assert_eq!(client.stats().queued, 0);
    });
}

#[test]
fn a_second_message_in_parts_waits_for_the_first() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let mut first = client.begin_text().await;
        first.write("1").await.unwrap();
        let (one, two) = (client.handle(), client.handle());
        let second = sim.spawn(async move { one.begin_binary().await.finish_with("2").await });
        let third = sim.spawn(async move { two.begin_binary().await.finish_with("3").await });
        sim.settle().await;
        assert!(!second.is_done() && !third.is_done());
        {
            // One that gives up its place holds up nobody.
            let mut given_up = pin!(client.begin_text());
            assert!(given_up.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        }
        first.finish().await.unwrap();
        second.await.unwrap();
        third.await.unwrap();
        let all = frames(&mut peer, 4).await;
        assert_eq!(all, [raw(FIRST_TEXT, "1"), raw(LAST, ""), raw(0x82, "2"), raw(0x82, "3")]);
    });
}

#[test]
fn rule_3_10_a_message_in_parts_by_its_own_handle_waits_for_nothing() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let greet = Reply::own(async |own| {
            let mut message = own.begin_binary().await;
            for _ in 0..10 {
                // More than a pipe, a buffer and the bound of parts hold: a flush is what waits for the peer.
                message.write(vec![7; 30_000]).await.unwrap();
            }
            assert!(matches!(own.begin_text().await.write("two at once").await, Err(ChunkError::OutOfTurn(_))));
            own.flush().await.unwrap();
            message.finish().await.unwrap();
            Reply::push("then")
        });
        let probe = |own| Probe::new(&sim).with_own(own).on("handle_connect", greet);
        let client = sim.start_with(options(), probe).await.unwrap();
        client.feed_frame(Frame::text("last")).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let all = frames(&mut peer, 13).await;
        assert_eq!(all[0].0, FIRST_BINARY);
        assert!(all[1..10].iter().all(|frame| frame.0 == MIDDLE && frame.1.len() == 30_000));
        assert_eq!(all[10..], [raw(LAST, ""), raw(TEXT, "then"), raw(TEXT, "last")]);
        sim.settle().await;
        assert_eq!(client.stats().queued, 0);
    });
}

#[test]
fn a_client_that_has_ended_gives_the_part_back() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let handle = client.handle();
        let mut message = handle.begin_text().await;
        let waiting = sim.spawn({
            let handle = handle.clone();
            async move { handle.begin_text().await.write("b").await }
        });
        client.stop().await;
        finish(&mut peer, 1000).await;
        client.join().await.unwrap();
        assert!(matches!(message.write("a").await, Err(ChunkError::Stopped(chunk)) if chunk.payload == "a"));
        assert!(matches!(waiting.await, Err(ChunkError::Stopped(chunk)) if chunk.payload == "b"));
        assert!(matches!(handle.begin_binary().await.finish().await, Err(ChunkError::Stopped(_))));
    });
}

/// Dropped at any poll, a part is sent whole or not at all, and the message goes on.
#[test]
fn a_write_that_is_dropped_leaves_the_message_whole() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut message = client.begin_binary().await;
        message.write(vec![1; 100_000]).await.unwrap(); // begun
        sim.settle().await;
        message.write(vec![2; 60_000]).await.unwrap(); // waits
        {
            let mut write = pin!(message.write(vec![3; 10_000]));
            let poll = write.as_mut().poll(&mut Context::from_waker(Waker::noop()));
            assert!(matches!(poll, Poll::Pending));
        }
        let read = async { frames(&mut peer, 4).await };
        let rest = async {
            message.write(vec![4; 20_000]).await.unwrap();
            message.finish_with(vec![5; 5]).await.unwrap();
        };
        let (all, ()) = tokio::join!(read, rest);
        let lengths: Vec<_> = all.iter().map(|(_, payload)| (payload[0], payload.len())).collect();
        assert_eq!(lengths, [(1, 100_000), (2, 60_000), (4, 20_000), (5, 5)]);
        assert_eq!(client.stats().queued, 0);
    });
}

#[test]
fn rule_3_3_a_greeting_in_parts_goes_ahead_of_a_message_in_parts_that_waited() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let greet = Reply::own(async |own| {
            own.begin_text().await.finish_with("auth").await.unwrap();
            Reply::push("then")
        });
        let probe = |own| Probe::new(&sim).with_own(own).on("handle_connect", greet);
        let client = sim.start_with(options(), probe).await.unwrap();
        let handle = client.handle();
        let waited = sim.spawn(async move { handle.begin_text().await.finish_with("waited").await });
        sim.settle().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        sim.sleep(secs(1)).await;
        assert_eq!(client.stats().frames_sent, 3, "nothing leaves, for ever");
        let all = frames(&mut peer, 3).await;
        assert_eq!(all[0].1, b"auth");
        waited.await.unwrap();
    });
}

#[test]
fn a_flush_between_parts_returns_whether_or_not_the_connection_was_there() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let handle = client.handle();
        let task = sim.spawn(async move {
            let mut message = handle.begin_text().await;
            message.write("a").await.unwrap();
            handle.flush().await.unwrap();
            message.finish().await.unwrap();
        });
        sim.settle().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        assert_eq!(frames(&mut peer, 1).await, [(0x01, b"a".to_vec())]);
        sim.sleep(secs(1)).await;
        assert!(task.is_done(), "the flush waits for the end of the message, which waits for the flush");
    });
}

#[test]
fn rule_3_10_a_flush_by_its_own_handle_between_parts_returns_though_output_was_blocked() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let greet = Reply::own(async |own| {
            own.try_send_frame(Frame::binary(vec![0; 100_000])).unwrap();
            let mut message = own.begin_text().await;
            message.write("a").await.unwrap();
            own.flush().await.unwrap();
            message.finish().await.unwrap();
            Reply::push("then")
        });
        let probe = |own| Probe::new(&sim).with_own(own).on("handle_connect", greet);
        let client = sim.start_with(options(), probe).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        frames(&mut peer, 2).await;
        sim.sleep(secs(1)).await;
        assert_eq!(client.stats().frames_sent, 3, "handle_connect hangs");
    });
}

#[test]
fn rule_4_18_a_message_given_up_behind_a_disconnect_does_not_reconnect() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.reconnect = Some(Reconnect::default());
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options, Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut message = client.begin_binary().await;
        message.write(vec![0; 100_000]).await.unwrap();
        sim.settle().await;
        client.disconnect().await;
        assert!(matches!(message.write("late").await, Err(ChunkError::Closing(_))));
        drop(message);
        sim.settle().await;
        assert_eq!(peer.frame().await.first, 0x02);
        let close = peer.frame().await;
        assert_eq!(close_of(&close).0, 1000);
        peer.send(&parley_tests::raw::frame(0x88, &1000u16.to_be_bytes())).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(60)).await;
        assert_eq!((client.state(), client.stats().attempts), (ClientState::Disconnected, 1));
    });
}

#[test]
fn a_ping_of_a_broadcast_goes_between_the_parts() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim)).await;
        let room = Broadcast::new(Slow::Drop);
        let _subscription = room.subscribe(&client);
        let mut message = client.begin_text().await;
        message.write("a").await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [(0x01, b"a".to_vec())]);
        room.send(&Frame::ping("p")).unwrap();
        message.finish().await.unwrap();
        assert_eq!(frames(&mut peer, 2).await, [(0x89, b"p".to_vec()), (0x80, b"".to_vec())]);
    });
}

#[test]
fn rule_4_9_a_ping_of_a_broadcast_goes_ahead_of_data_that_has_not_begun() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let room = Broadcast::new(Slow::Drop);
        let _subscription = room.subscribe(&client);
        client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        client.feed_frame(Frame::text("data")).await.unwrap();
        room.send(&Frame::ping("p")).unwrap();
        let all = frames(&mut peer, 3).await;
        assert_eq!((all[1].0, all[2].0), (0x89, 0x81));
    });
}

/// What is accepted is sent, or counted as dropped.
#[test]
fn a_frame_that_is_skipped_before_the_driver_saw_it_counts_as_dropped() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = options.connection.limits.with_send_queue(4096).unwrap();
        let (client, mut peer, _listener) = connected_with(&sim, options, Probe::new(&sim)).await;
        let room = Broadcast::new(Slow::Skip);
        let _subscription = room.subscribe(&client);
        for number in 0..10 {
            room.send(&Frame::text(format!("{number:0900}"))).unwrap();
        }
        sim.settle().await;
        let (of_room, stats) = (room.stats(), client.stats());
        assert_eq!(of_room.queued + of_room.skipped, 10);
        let _ = peer.frame().await;
        assert_eq!(stats.frames_sent + stats.dropped, 10, "{stats:?} {of_room:?}");
    });
}

#[test]
fn rule_3_10_a_ping_by_its_own_handle_between_parts_of_the_greeting_leaves() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let greet = Reply::own(async |own| {
            let mut message = own.begin_text().await;
            message.write("a").await.unwrap();
            own.send_frame(Frame::ping("p")).await.unwrap();
            message.finish().await.unwrap();
            Reply::push("then")
        });
        let probe = |own| Probe::new(&sim).with_own(own).on("handle_connect", greet);
        let client = sim.start_with(options(), probe).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        sim.sleep(Duration::from_secs(1)).await;
        assert_eq!(client.stats().frames_sent, 3, "handle_connect hangs");
        let all = frames(&mut peer, 3).await;
        assert_eq!(all[1].0, 0x89);
    });
}

/// Who waits for room and was not polled since is no reason to call a receiver slow whose queue is empty.
#[test]
fn a_receiver_with_an_empty_queue_is_not_slow() {
    use std::pin::pin;
    use std::task::{Context, Waker};
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = options.connection.limits.with_send_queue(4096).unwrap();
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options, Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let room = Broadcast::new(Slow::Close(CloseFrame::normal()));
        let _subscription = room.subscribe(&client);
        client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        sim.settle().await;
        client.feed_frame(Frame::binary(vec![0; 4000])).await.unwrap();
        let mut waits = pin!(client.feed_frame(Frame::binary(vec![0; 1000])));
        assert!(waits.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
        frames(&mut peer, 2).await; // the peer has read all there is
        sim.settle().await;
        assert_eq!(client.stats().queued, 0);
        let delivered = room.send(&Frame::text("small")).unwrap();
        assert_eq!((delivered.queued, delivered.closed), (1, 0), "its queue is empty");
    });
}

#[test]
fn what_the_peers_close_cuts_off_behind_an_open_message_is_closing() {
    Sim::new().run(async |sim| {
        let told = std::sync::Arc::new(std::sync::Mutex::new(None));
        let note = told.clone();
        let answer = Reply::own(move |own| {
            let note = note.clone();
            async move {
                let outcome = own.send_frame(Frame::text("answer")).await;
                *note.lock().unwrap() = Some(format!("{outcome:?}"));
                Reply::push("then")
            }
        });
        let (client, mut peer, _listener) = connected(&sim, Probe::new(&sim).on("handle_frame", answer)).await;
        let mut message = client.begin_text().await;
        message.write("a").await.unwrap();
        assert_eq!(frames(&mut peer, 1).await, [(0x01, b"a".to_vec())]);
        peer.send(
            &[parley_tests::raw::frame(0x81, b"?"), parley_tests::raw::frame(0x88, &1000u16.to_be_bytes())].concat(),
        )
        .await;
        sim.sleep(secs(20)).await;
        let told = told.lock().unwrap().clone().unwrap();
        assert!(told.contains("Closing") || told.contains("Lost"), "{told}");
    });
}

#[test]
fn a_close_takes_back_a_message_that_has_not_begun_and_sends_what_was_accepted_behind_it() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        let mut message = client.begin_text().await;
        message.write("a").await.unwrap(); // waits
        client.feed_frame(Frame::text("accepted")).await.unwrap();
        client.disconnect().await;
        let all = frames(&mut peer, 2).await;
        assert_eq!(all[1], (0x81, b"accepted".to_vec()));
        drop(message);
    });
}

/// The other way round: the user has asked for a new connection.
#[test]
fn a_message_given_up_behind_a_reconnect_does_not_cancel_it() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut message = client.begin_binary().await;
        message.write(vec![0; 100_000]).await.unwrap();
        sim.settle().await;
        client.reconnect(CloseFrame::normal()).await;
        assert!(matches!(message.write("late").await, Err(ChunkError::Closing(_))));
        drop(message);
        sim.settle().await;
        assert_eq!(peer.frame().await.first, 0x02);
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        peer.send(&parley_tests::raw::frame(0x88, &1000u16.to_be_bytes())).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(5)).await;
        assert_eq!(client.stats().attempts, 2);
    });
}
