//! Sections 1 and 4 of the guide: what becomes of frames that other tasks send.

use parley_proto::codec::Frame;
use parley_proto::session::ClientState;
use parley_proto::{DisconnectReason, SendError};
use parley_tests::raw;
use parley_tests::sim::{Fate, Link, Probe, Reply, Sim};

use crate::common::{addr, options, secs};

/// A client whose peer takes only so many bytes until it reads.
macro_rules! narrow {
    ($sim:ident, $link:expr, $client:ident, $peer:ident, $listener:ident) => {
        let $listener = $sim.listen(addr());
        $listener.set_link($link);
        let $client = $sim.start(options(), Probe::new(&$sim)).await.unwrap();
        let mut $peer = $listener.accept().await;
        $peer.upgrade("").await;
        $client.wait_for(ClientState::Connected).await.unwrap();
    };
}

#[test]
fn rule_1_send_frame_resolves_once_the_system_has_all_of_it() {
    Sim::new().run(async |sim| {
        narrow!(sim, Link::default().capacity(1000), client, peer, _listener);
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; 2000])).await });
        sim.settle().await;
        assert!(!send.is_done());
        peer.receive(1008).await; // a header of 8 bytes, 2,000 of payload, less the 1,000 that the pipe still takes
        send.await.unwrap();
    });
}

#[test]
fn rule_1_what_is_written_and_not_flushed_is_not_with_the_system() {
    Sim::new().run(async |sim| {
        narrow!(sim, Link::default().capacity(1000).staged(), client, peer, listener);
        // One is in the pipe, the other in the stage before it.
        client.send_frame(Frame::binary(vec![0; 900])).await.unwrap();
        let (first, second) = (client.handle(), client.handle());
        let send = sim.spawn(async move { first.send_frame(Frame::binary(vec![0; 900])).await });
        sim.settle().await;
        let flush = sim.spawn(async move { second.flush().await });
        sim.settle().await;
        assert!(!send.is_done() && !flush.is_done());
        assert_eq!(listener.wire().unread_by_peer(), 1000);
        assert_eq!(peer.frame().await.payload.len(), 900);
        send.await.unwrap();
        flush.await.unwrap();
    });
}

#[test]
fn rule_1_a_flush_that_is_done_later_settles_the_send() {
    // Done at the second look of the turn that wrote; at a look of a later turn, which writes nothing.
    for looks in [1, usize::MAX] {
        Sim::new().run(async |sim| {
            narrow!(sim, Link::default(), client, _peer, listener);
            listener.wire().hold_client_flushes(looks);
            let handle = client.handle();
            let send = sim.spawn(async move { handle.send_frame(Frame::text("x")).await });
            sim.settle().await;
            assert!(looks == 1 || !send.is_done());
            listener.wire().let_client_flushes_go();
            sim.settle().await;
            assert!(send.is_done(), "flushed, and the sender still waits");
        });
    }
}

#[test]
fn rule_1_flush_waits_for_all_that_was_accepted_before_it() {
    Sim::new().run(async |sim| {
        narrow!(sim, Link::default().capacity(1000), client, peer, _listener);
        // The data is begun and blocks the output, so that the ping waits before it is begun.
        client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        sim.settle().await;
        client.feed_frame(Frame::ping("behind")).await.unwrap();
        let handle = client.handle();
        let flush = sim.spawn(async move { handle.flush().await });
        sim.settle().await;
        assert!(!flush.is_done());
        assert_eq!(peer.frame().await.payload.len(), 100_000);
        assert_eq!(peer.frame().await.payload, b"behind");
        flush.await.unwrap();
    });
}

#[test]
fn rule_1_flush_waits_for_frames_that_wait_for_the_connection() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        client.try_send_frame(Frame::ping("early")).unwrap();
        let handle = client.handle();
        let flush = sim.spawn(async move { handle.flush().await });
        let mut peer = listener.accept().await;
        sim.settle().await;
        assert!(!flush.is_done());
        peer.upgrade("").await;
        flush.await.unwrap();
        assert_eq!(peer.frame().await.payload, b"early");
        client.flush().await.unwrap();
        peer.send(&raw::frame(0x89, b"")).await;
        assert_eq!(peer.frame().await.first, 0x8a, "an idle flush leaves nothing behind");
    });
}

#[test]
fn rule_1_a_flush_behind_frames_that_were_dropped_is_lost() {
    Sim::new().run(async |sim| {
        sim.on_dial(addr(), Fate::Never);
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        client.feed_frame(Frame::text("accepted")).await.unwrap();
        client.disconnect().await;
        sim.noted("handle_disconnect").await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        sim.settle().await;
        assert_eq!(client.stats().dropped, 1);
        for _ in 0..2 {
            // Whoever asks is told.
            assert!(matches!(client.flush().await, Err(SendError::Lost(DisconnectReason::Local))));
        }

        // What a new attempt is given is another matter.
        let listener = sim.listen(addr());
        sim.on_dial(addr(), Fate::After(secs(1), Ok(())));
        client.connect().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.flush().await.unwrap();
    });
}

#[test]
fn rule_3_10_a_flush_by_its_own_handle_ends_on_a_connection_that_is_over() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(300).staged());
        let flush = Reply::own(async |own| {
            let outcome = own.flush().await;
            assert!(outcome.is_err(), "what was written was never flushed");
            Reply::push("none takes it")
        });
        let late = Reply::After(secs(1), Box::new(flush));
        let probe = |own| Probe::new(&sim).with_own(own).on("handle_frame", late);
        let client = sim.start_with(options(), probe).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        peer.send(&raw::frame(0x81, b"go")).await;
        sim.noted("handle_frame").await;
        // More than the pipe holds: the rest is written, and waits for a flush that never comes.
        client.feed_frame(Frame::Binary(vec![0; 400].into())).await.unwrap();
        sim.settle().await;
        peer.reset();
        sim.noted("handle_disconnect").await;
        assert_eq!(sim.elapsed(), secs(1));
    });
}
