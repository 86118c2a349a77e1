//! Section 3 of the guide: the callbacks.

use parley_proto::driver::StartError;
use parley_proto::session::ClientState;
use parley_tests::raw;
use parley_tests::sim::{Gate, Probe, Reply, Sim};

use crate::common::{addr, connected, options, secs};

#[test]
fn rule_3_1_init_runs_once_before_connecting() {
    Sim::new().run_until(async |sim| {
        let gate = Gate::new();
        let listener = sim.listen(addr());
        let probe = Probe::new(&sim).on("init", Reply::wait(&gate));
        let start = sim.spawn({
            let sim = sim.clone();
            async move { sim.start(options(), probe).await.unwrap() }
        });
        sim.settle().await;
        assert!(!start.is_done(), "start returns once init has run");
        assert_eq!(sim.journal(), ["0ms init"], "nothing connects before");

        gate.open();
        let client = start.await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.stop().await;
        assert_eq!(peer.frame().await.payload, 1000_u16.to_be_bytes());
        peer.send(&raw::frame(0x88, b"\x03\xe8")).await;
        peer.shutdown().await;
        client.join().await.unwrap();
        assert_eq!(
            sim.calls(),
            [
                "0ms init",
                "0ms init goes on",
                "0ms prepare 1 last none elapsed 0ms",
                "0ms handle_connect 101 -",
                "0ms terminate stopped"
            ]
        );
    });
}

#[test]
fn rule_3_1_an_error_of_init_is_returned_by_start_and_nothing_connects() {
    Sim::new().run_until(async |sim| {
        let _listener = sim.listen(addr());
        let error = sim.start(options(), Probe::new(&sim).on("init", Reply::Fail("no key"))).await.unwrap_err();
        assert!(matches!(error, StartError::Init(error) if error.to_string() == "no key"));
        sim.settle().await;
        assert_eq!(sim.journal(), ["0ms init"], "no dial, no terminate");
    });
}

#[test]
fn rule_3_2_prepare_changes_the_request() {
    Sim::new().run_until(async |sim| {
        let listener = sim.listen(addr());
        let _client = sim.start(options(), Probe::new(&sim).preparing("x-token", "fresh")).await.unwrap();
        let head = listener.accept().await.upgrade("").await;
        assert_eq!(raw::header(&head, "x-token"), Some("fresh"));
    });
}

#[test]
fn rule_3_2_prepare_runs_in_the_state_connecting_and_inside_the_connect_timeout() {
    Sim::new().run_until(async |sim| {
        let client = sim.start(options(), Probe::new(&sim).on("prepare", Reply::wait(&Gate::new()))).await.unwrap();
        client.wait_for(ClientState::Connecting).await.unwrap();
        sim.noted("handle_disconnect").await;
        assert_eq!(
            sim.journal(),
            [
                "0ms init",
                "0ms prepare 1 last none elapsed 0ms",
                "10000ms prepare dropped",
                "10000ms handle_disconnect connect timeout during prepare"
            ]
        );
        assert_eq!(client.state(), ClientState::Disconnected, "the client lives on");
    });
}

#[test]
fn rule_3_4_frames_of_every_kind_are_delivered_in_order_and_fragments_joined() {
    Sim::new().run_until(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.send(&raw::frame(0x81, b"one")).await;
        peer.send(&raw::frame(0x01, b"t")).await;
        sim.sleep(secs(1)).await;
        peer.send(&raw::frame(0x8a, b"p")).await;
        peer.send(&[raw::frame(0x00, b"w"), raw::frame(0x80, b"o"), raw::frame(0x82, b"three")].concat()).await;
        sim.noted("handle_frame binary").await;
        assert_eq!(
            sim.calls()[3..],
            [
                "0ms handle_frame text one",
                "1000ms handle_frame pong p",
                "1000ms handle_frame text two",
                "1000ms handle_frame binary three"
            ]
        );
    });
}
