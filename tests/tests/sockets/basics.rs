//! Both ways, both ends, and the little that comes in between.

use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::Error;
use parley_proto::{DisconnectReason, SendError};
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::*;

#[test]
fn frames_go_both_ways_and_a_clean_end_is_none() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        socket.send(Frame::text("hello")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"hello");
        peer.send(&raw::frame(TEXT, b"there")).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("there"));
        peer.send(&raw::frame(CLOSE, &4000_u16.to_be_bytes())).await;
        peer.shutdown().await;
        assert!(socket.next().await.is_none());
        assert!(socket.next().await.is_none(), "and none comes after it");
        let closed = socket.closed().unwrap();
        assert_eq!((closed.code(), closed.was_clean), (4000, true));
        let error = socket.send(Frame::text("late")).await.unwrap_err();
        assert!(matches!(&error, Error::Send(SendError::Closing(frame)) if *frame == Frame::text("late")), "{error:?}");
    });
}

#[test]
fn an_end_without_a_close_is_an_error_once_behind_the_frames() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        peer.send(&raw::frame(TEXT, b"last")).await;
        peer.shutdown().await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("last"));
        let error = socket.next().await.unwrap().unwrap_err();
        assert!(matches!(error, Error::Disconnected(DisconnectReason::Eof)), "{error:?}");
        assert!(socket.next().await.is_none());
        assert!(matches!(socket.flush().await, Err(Error::Disconnected(DisconnectReason::Eof))));
    });
}

#[test]
fn a_pong_leaves_with_the_read_though_nobody_polls_again() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        peer.send(&[raw::frame(TEXT, b"first"), raw::frame(PING, b"alive?")].concat()).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("first"));
        let pong = peer.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (PONG, &b"alive?"[..]));
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::Ping(Bytes::from_static(b"alive?")));
    });
}

#[test]
fn closing_waits_for_the_peer_at_most_for_the_close_timeout() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        socket.feed(Frame::text("before")).await.unwrap();
        let close = CloseFrame::new(3000, "done").unwrap();
        let before = sim.now();
        socket.close_with(close).await.unwrap();
        assert_eq!(sim.now() - before, Duration::from_secs(5));
        assert!(!socket.closed().unwrap().was_clean);
        assert_eq!(peer.frame().await.payload, b"before");
        assert_eq!(peer.frame().await.payload, b"\x0b\xb8done");
    });
}

/// Neither side reads before it has written more than the pipe holds: reading goes on while a send waits.
#[test]
fn two_that_send_before_they_read_do_not_wait_for_each_other() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1024)).await;
        let task = sim.spawn(async move {
            peer.send(&raw::frame(TEXT, &[b'a'; 4000])).await;
            let got = peer.frame().await.payload.len();
            (peer, got)
        });
        socket.send(Frame::binary(vec![0; 100_000])).await.unwrap();
        assert_eq!(task.await.1, 100_000);
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("a".repeat(4000)));
    });
}

#[test]
fn halves_work_in_two_tasks() {
    Sim::new().run(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(512)).await;
        let (mut sender, mut receiver) = socket.split();
        let reader = sim.spawn(async move {
            let mut got = Vec::new();
            while let Some(frame) = receiver.next().await {
                got.push(frame.unwrap());
            }
            (got, receiver)
        });
        let writer = sim.spawn(async move {
            for n in 0..100_u8 {
                sender.send(Frame::binary(vec![n; 300])).await.unwrap();
            }
            sender
        });
        for n in 0..100_u8 {
            assert_eq!(peer.frame().await.payload, vec![n; 300]);
            peer.send(&raw::frame(TEXT, n.to_string().as_bytes())).await;
        }
        let mut sender = writer.await;
        let closing = sim.spawn(async move {
            sender.close().await.unwrap();
            sender
        });
        assert_eq!(peer.frame().await.first, CLOSE);
        peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
        peer.shutdown().await;
        let sender = closing.await;
        let (got, receiver) = reader.await;
        assert!(got.len() <= 100, "those that came after the Close are dropped");
        let socket = sender.reunite(receiver).unwrap();
        assert!(socket.closed().unwrap().was_clean);
    });
}

#[test]
fn auto_cork_lets_replies_wait_for_each_other() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, listener) = connected(&sim, Link::default()).await;
        socket.set_auto_cork(true);
        peer.send(&[raw::frame(TEXT, b"1"), raw::frame(TEXT, b"2")].concat()).await;
        let first = socket.next().await.unwrap().unwrap();
        socket.send(first).await.unwrap();
        assert_eq!(listener.wire().unread_by_peer(), 0, "the second is at hand");
        let second = socket.next().await.unwrap().unwrap();
        socket.send(second).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"1");
        assert_eq!(peer.frame().await.payload, b"2");
    });
}

#[test]
fn a_refusal_is_an_error_of_connect() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let task = sim.spawn({
            let sim = sim.clone();
            async move { dial(&sim).await.unwrap_err() }
        });
        let mut peer = listener.accept().await;
        peer.head().await;
        peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno").await;
        let error = task.await;
        let Some(DisconnectReason::Rejected(rejected)) = error.reason() else { panic!("{error:?}") };
        assert_eq!(rejected.status, 401);
    });
    Sim::new().run(async |sim| {
        let error = dial(&sim).await.unwrap_err();
        assert!(matches!(error.reason(), Some(DisconnectReason::Tcp(_))), "{error:?}");
    });
}
