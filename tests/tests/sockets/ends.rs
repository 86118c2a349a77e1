//! What is said about an end: by whom, how often, and of what was lost.

use std::io::ErrorKind;

use parley_proto::DisconnectReason;
use parley_proto::codec::{CloseFrame, Frame};
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::*;

/// The peer closes and takes nothing of what was sent: the close timeout ends it, and what was sent is lost.
#[test]
fn a_flush_does_not_say_that_what_was_cut_off_has_left() {
    for staged in [false, true] {
        for peer_closes in [false, true] {
            Sim::new().run_until(async |sim| {
                let link = Link::default().capacity(1024);
                let (mut socket, mut peer, _listener) =
                    connected(&sim, if staged { link.staged() } else { link }).await;
                socket.feed(Frame::binary(vec![0; 10_000])).await.unwrap();
                if peer_closes {
                    peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
                    assert!(socket.next().await.is_none());
                } else {
                    socket.close().await.unwrap();
                }
                let error = socket.flush().await.unwrap_err();
                match error.reason().unwrap() {
                    DisconnectReason::Remote(_) => assert!(peer_closes),
                    DisconnectReason::Local => assert!(!peer_closes),
                    reason => panic!("{reason}"),
                }
            });
        }
    }
}

#[test]
fn a_send_fails_when_its_frame_is_cut_off() {
    Sim::new().run_until(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1024)).await;
        let (mut sender, mut receiver) = socket.split();
        let sending = sim.spawn(async move { sender.send(Frame::binary(vec![0; 10_000])).await });
        sim.settle().await;
        peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
        assert!(receiver.next().await.is_none());
        sending.await.unwrap_err();
    });
}

#[test]
fn frames_before_an_error_are_delivered_though_the_writer_saw_it_first() {
    for kind in [None, Some(ErrorKind::ConnectionReset)] {
        Sim::new().run_until(async |sim| {
            let (socket, mut peer, listener) = connected(&sim, Link::default().capacity(1024)).await;
            let (mut sender, mut receiver) = socket.split();
            peer.send(&[raw::frame(TEXT, b"1"), raw::frame(TEXT, b"2")].concat()).await;
            let sending = sim.spawn(async move { sender.send(Frame::binary(vec![0; 10_000])).await });
            sim.settle().await;
            match kind {
                None => peer.shutdown().await,
                Some(kind) => listener.wire().fail_client_reads(kind),
            }
            sending.await.unwrap_err();
            assert_eq!(receiver.next().await.unwrap().unwrap(), Frame::text("1"));
            assert_eq!(receiver.next().await.unwrap().unwrap(), Frame::text("2"));
            receiver.next().await.unwrap().unwrap_err();
            assert!(receiver.next().await.is_none());
        });
    }
}

#[test]
fn a_half_has_room_or_waits_whatever_the_other_half_answers() {
    Sim::new().run_until(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        let (mut sender, mut receiver) = socket.split();
        let reading = sim.spawn(async move {
            let mut pings = 0;
            while let Some(frame) = receiver.next().await {
                frame.unwrap();
                pings += 1;
            }
            pings
        });
        let sending = sim.spawn(async move {
            for n in 0..50 {
                sender.feed(Frame::binary(vec![n; 30_000])).await.unwrap();
            }
            sender.close_with(CloseFrame::normal()).await.unwrap();
        });
        for _ in 0..50 {
            peer.send(&raw::frame(PING, &[b'p'; 120]).repeat(100)).await;
        }
        let mut got = Vec::new();
        loop {
            let frame = peer.frame().await;
            match frame.first {
                BINARY => got.push(frame.payload[0]),
                PONG => {}
                _ => break assert_eq!(frame.first, CLOSE),
            }
        }
        assert_eq!(got, (0..50).collect::<Vec<_>>());
        peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
        peer.shutdown().await;
        sending.await;
        assert!(reading.await <= 5000);
    });
}
