//! What is said about an end: by whom, how often, and of what was lost.

use std::future::poll_fn;
use std::io::ErrorKind;
use std::pin::Pin;

use futures_util::Sink;
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
            Sim::new().run(async |sim| {
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

/// The end of the peer's direction comes with its Close, before ours has left the stream's own buffer.
#[test]
fn our_close_leaves_whole_though_the_peer_has_ended_its_direction() {
    for link in [Link::default().capacity(4).staged(), Link::default().capacity(4), Link::default()] {
        Sim::new().run(async |sim| {
            let (mut socket, mut peer, _listener) = connected(&sim, link).await;
            socket.feed(Frame::text("before")).await.unwrap();
            let next = sim.spawn(async move { (socket.next().await, socket) });
            peer.send(&raw::frame(CLOSE, &4001_u16.to_be_bytes())).await;
            peer.shutdown().await;
            sim.settle().await;
            assert_eq!(peer.frame().await.payload, b"before");
            let close = peer.frame().await;
            assert_eq!((close.first, &close.payload[..]), (CLOSE, &4001_u16.to_be_bytes()[..]));
            let (next, socket) = next.await;
            assert!(next.is_none() && socket.closed().unwrap().was_clean);
        });
    }
}

#[test]
fn a_send_fails_when_its_frame_is_cut_off() {
    Sim::new().run(async |sim| {
        let (socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1024)).await;
        let (mut sender, mut receiver) = socket.split();
        let sending = sim.spawn(async move { sender.send(Frame::binary(vec![0; 10_000])).await });
        sim.settle().await;
        peer.send(&raw::frame(CLOSE, &1000_u16.to_be_bytes())).await;
        assert!(receiver.next().await.is_none());
        sending.await.unwrap_err();
    });
}

/// Whatever one half was told, `close` of the other answers for itself; the stream tells an error once.
#[test]
fn both_halves_hear_of_an_error() {
    for reader_first in [true, false] {
        Sim::new().run(async |sim| {
            let (socket, mut peer, _listener) = connected(&sim, Link::default()).await;
            let (mut sender, mut receiver) = socket.split();
            peer.send(&raw::frame(TEXT, b"last")).await;
            peer.shutdown().await;
            if reader_first {
                assert_eq!(receiver.next().await.unwrap().unwrap(), Frame::text("last"));
                receiver.next().await.unwrap().unwrap_err();
            }
            assert!(matches!(
                sender.close().await.unwrap_err().reason(),
                Some(DisconnectReason::Eof | DisconnectReason::Local)
            ));
            sender.close().await.unwrap_err();
            if !reader_first {
                receiver.next().await.unwrap().unwrap_err();
            }
            assert!(receiver.next().await.is_none());
        });
    }
}

#[test]
fn frames_before_an_error_are_delivered_though_the_writer_saw_it_first() {
    for kind in [None, Some(ErrorKind::ConnectionReset)] {
        Sim::new().run(async |sim| {
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

/// A sink that has said that it is ready takes the frame, though pongs have filled the room meanwhile.
#[test]
fn a_sink_that_was_ready_takes_the_frame() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default()).await;
        socket.send(Frame::binary(vec![0; 65_528])).await.unwrap(); // fills the pipe to the last byte
        socket.feed(Frame::binary(vec![1; 60_000])).await.unwrap();
        poll_fn(|cx| Pin::new(&mut socket).poll_ready(cx)).await.unwrap();
        let pings: Vec<u8> = (0..400).flat_map(|_| raw::frame(PING, &[b'p'; 120])).collect();
        peer.send(&pings).await;
        for _ in 0..400 {
            socket.next().await.unwrap().unwrap();
        }
        Pin::new(&mut socket).start_send(Frame::text("promised")).unwrap();
        assert!(Pin::new(&mut socket).start_send(Frame::text("unasked")).is_err(), "one, not any number");
        let flushing = sim.spawn(async move {
            socket.flush().await.unwrap();
            socket
        });
        let mut frames = Vec::new();
        while frames.last().is_none_or(|frame: &raw::RawFrame| frame.payload != b"promised") {
            frames.push(peer.frame().await);
        }
        assert_eq!(frames.len(), 403);
        flushing.await;
    });
}

#[test]
fn a_half_has_room_or_waits_whatever_the_other_half_answers() {
    Sim::new().run(async |sim| {
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
