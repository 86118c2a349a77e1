//! Rules 3.4, 3.8 and 4.15 of the guide where they speak of a silent or a stuck peer, and keepalive.

use parley_proto::codec::Frame;
use parley_proto::connection::Keepalive;
use parley_proto::handshake::Acceptance;
use parley_proto::session::ClientState;
use parley_proto::{DisconnectReason, Limits, SendError, StopReason};
use parley_tests::raw::{self, RawConn};
use parley_tests::sim::{Gate, Link, Probe, Reply, Server, Sim};

use crate::common::{addr, connected, connected_with, millis, options, secs, since};

/// Reads a ping of the client's own keepalive.
async fn pinged(peer: &mut RawConn) -> Vec<u8> {
    let ping = peer.frame().await;
    assert_eq!((ping.first, ping.payload.len()), (0x89, 8));
    ping.payload
}

#[test]
fn keepalive_pings_a_silent_peer_and_gives_it_up() {
    Sim::new().run(async |sim| {
        let (client, mut peer, listener) = connected(&sim, Probe::new(&sim)).await;
        pinged(&mut peer).await;
        assert_eq!(sim.elapsed(), secs(20));
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert_eq!(sim.elapsed(), secs(40));
        assert!(listener.wire().is_closed_by_client());
        sim.noted("handle_disconnect keepalive timeout: the peer did not answer a ping").await;
        let error = client.join().await.unwrap_err();
        let StopReason::Disconnected(reason) = error.reason() else { panic!("{error}") };
        assert!(matches!(reason, DisconnectReason::KeepaliveTimeout) && reason.is_transient());
    });
}

#[test]
fn keepalive_can_be_set_and_turned_off() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.keepalive = Some(Keepalive::new(secs(2), secs(1)).unwrap());
        let (_client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim)).await;
        pinged(&mut peer).await;
        sim.noted("handle_disconnect keepalive timeout").await;
        assert_eq!(sim.elapsed(), secs(3));
    });
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.keepalive = None;
        let (client, _peer, listener) = connected_with(&sim, options, Probe::new(&sim)).await;
        sim.sleep(secs(3600)).await;
        assert_eq!((client.state(), listener.wire().unread_by_peer()), (ClientState::Connected, 0));
    });
}

#[test]
fn keepalive_of_both_ends_keeps_an_idle_connection() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut server = Server::accept_from(&sim, &listener).await;
        server.open(Acceptance::new()).await;
        let life = sim.spawn({
            let sim = sim.clone();
            async move {
                sim.sleep(secs(3605)).await;
                client.send_frame(Frame::text("still here")).await.unwrap();
                client
            }
        });
        loop {
            // The client's pings are events of the server; its own are answered and are none of the client's callbacks' pongs.
            match server.frame().await {
                Frame::Ping(payload) => assert_eq!(payload.len(), 8),
                frame => break assert_eq!(frame, Frame::text("still here")),
            }
        }
        assert_eq!(sim.elapsed(), secs(3605));
        assert!(!sim.calls().iter().any(|line| line.contains("handle_frame")), "no pong was delivered");
        assert_eq!(life.await.state(), ClientState::Connected);
    });
}

#[test]
fn rule_3_4_pongs_that_answer_our_own_keepalive_are_not_delivered() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        let payload = pinged(&mut peer).await;
        peer.send(&[raw::frame(0x8a, &payload), raw::frame(0x8a, b"unasked"), raw::frame(0x81, b"x")].concat()).await;
        sim.noted("handle_frame text x").await;
        assert_eq!(
            since(sim.calls(), "handle_connect")[1..],
            ["20000ms handle_frame pong unasked", "20000ms handle_frame text x"]
        );
    });
}

#[test]
fn rule_3_8_keepalive_goes_on_beside_a_callback_that_waits() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let probe = Probe::new(&sim).once("handle_frame", Reply::wait(&gate));
        let (_client, mut peer, _) = connected(&sim, probe).await;
        peer.send(&raw::frame(0x81, b"x")).await;
        for n in 1..=3 {
            let payload = pinged(&mut peer).await;
            assert_eq!(sim.elapsed(), secs(20 * n));
            peer.send(&raw::frame(0x8a, &payload)).await;
        }
        pinged(&mut peer).await;
        sim.sleep(secs(20)).await;
        gate.open();
        sim.noted("handle_disconnect keepalive timeout").await;
        assert_eq!(sim.elapsed(), secs(100));
    });
}

#[test]
fn rule_3_8_while_reading_is_paused_the_keepalive_deadline_stands_still() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let mut options = options();
        options.connection.limits = Limits::client().with_read_ahead(100).unwrap();
        let probe = Probe::new(&sim).once("handle_frame binary", Reply::wait(&gate));
        let (client, mut peer, listener) = connected_with(&sim, options, probe).await;
        // The first is in the callback, the second fills the bound.
        peer.send(&[raw::frame(0x82, &[0; 100]), raw::frame(0x82, &[0; 100])].concat()).await;
        sim.sleep(secs(500)).await;
        assert_eq!((client.state(), listener.wire().unread_by_peer()), (ClientState::Connected, 0), "no ping either");
        gate.open();
        pinged(&mut peer).await;
        assert_eq!(sim.elapsed(), secs(520), "afresh, from when reading went on");
        sim.noted("handle_disconnect keepalive timeout").await;
        assert_eq!(sim.elapsed(), secs(540));
        assert_eq!(since(sim.calls(), "goes on").len(), 1 + 1 + 1, "both frames were delivered");
    });
}

#[test]
fn rule_3_8_a_peer_that_dribbles_is_alive() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, listener) = connected(&sim, Probe::new(&sim)).await;
        for byte in raw::frame(0x81, b"slowly") {
            sim.sleep(secs(19)).await;
            peer.send(&[byte]).await;
        }
        sim.noted("handle_frame text slowly").await;
        assert_eq!(listener.wire().unread_by_peer(), 0, "it was never asked");
    });
}

#[test]
fn rule_4_9_a_keepalive_ping_goes_ahead_of_data_that_is_not_begun() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        for n in 0..3 {
            client.feed_frame(Frame::binary(vec![n; 64 * 1024])).await.unwrap();
        }
        // Output is blocked when the ping is due: none is sent before the peer takes something.
        sim.sleep(secs(25)).await;
        let mut firsts = Vec::new();
        for _ in 0..3 {
            firsts.push(peer.frame().await.first);
        }
        assert_eq!(firsts, [0x82; 3], "what is begun goes first, and while output is blocked nothing is asked");
        pinged(&mut peer).await;
        assert_eq!(sim.elapsed(), secs(25));
    });
}

#[test]
fn rule_4_15_a_peer_that_takes_no_byte_for_30_s_is_a_write_timeout() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        sim.sleep(secs(5)).await;
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; 2000])).await });
        sim.sleep(secs(30) - millis(1)).await;
        assert!(!send.is_done());
        peer.send(&raw::frame(0x81, b"before it")).await;
        let error = send.await.unwrap_err();
        assert_eq!(sim.elapsed(), secs(35));
        assert!(matches!(error, SendError::Lost(DisconnectReason::WriteTimeout)), "{error}");
        sim.noted("handle_disconnect write timeout: the peer took no output for too long").await;
        assert!(since(sim.calls(), "handle_frame")[0].contains("text before it"));
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::WriteTimeout)));
        drop(peer);
    });
}

#[test]
fn rule_4_15_a_peer_that_takes_a_byte_every_29_s_is_none() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100).chunk(1));
        let mut options = options();
        options.connection.keepalive = None;
        let client = sim.start(options, Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let handle = client.handle();
        // A header of 8 bytes, and the pipe holds 100.
        let send = sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; 130])).await });
        for _ in 0..38 {
            sim.sleep(secs(29)).await;
            assert!(!send.is_done());
            peer.receive(1).await;
        }
        send.await.unwrap();
        assert_eq!(client.state(), ClientState::Connected);
    });
}
