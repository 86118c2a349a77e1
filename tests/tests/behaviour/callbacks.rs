//! Section 3 of the guide: the callbacks.

use std::io::ErrorKind;

use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Handle, InfoError, StartError};
use parley_proto::session::ClientState;
use parley_proto::{Action, BoxError, Handler, Limits, Retry, SendError, StopReason};
use parley_tests::raw::{self, End};
use parley_tests::sim::{Fate, Gate, Link, Probe, Reply, Sim};

use crate::common::{addr, close_of, connected, connected_with, finish, millis, options, secs, since};

#[test]
fn rule_3_1_init_runs_once_before_connecting() {
    Sim::new().run(async |sim| {
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
    Sim::new().run(async |sim| {
        let _listener = sim.listen(addr());
        let error = sim.start(options(), Probe::new(&sim).on("init", Reply::Fail("no key"))).await.unwrap_err();
        assert!(matches!(error, StartError::Init(error) if error.to_string() == "no key"));
        sim.settle().await;
        assert_eq!(sim.journal(), ["0ms init"], "no dial, no terminate");
    });
}

#[test]
fn rule_3_2_prepare_changes_the_request() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let _client = sim.start(options(), Probe::new(&sim).preparing("x-token", "fresh")).await.unwrap();
        let head = listener.accept().await.upgrade("").await;
        assert_eq!(raw::header(&head, "x-token"), Some("fresh"));
    });
}

#[test]
fn rule_3_2_prepare_runs_in_the_state_connecting_and_inside_the_connect_timeout() {
    Sim::new().run(async |sim| {
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
    Sim::new().run(async |sim| {
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

#[test]
fn rule_3_2_prepare_is_dropped_by_a_disconnect() {
    Sim::new().run(async |sim| {
        let client = sim.start(options(), Probe::new(&sim).on("prepare", Reply::wait(&Gate::new()))).await.unwrap();
        sim.noted("prepare").await;
        client.disconnect().await;
        sim.noted("handle_disconnect").await;
        assert_eq!(
            since(sim.journal(), "prepare dropped"),
            ["0ms prepare dropped", "0ms handle_disconnect disconnected by the application"]
        );
    });
}

#[test]
fn rule_3_2_an_error_of_prepare_goes_to_handle_disconnect() {
    Sim::new().run(async |sim| {
        let client = sim.start(options(), Probe::new(&sim).on("prepare", Reply::Fail("no token"))).await.unwrap();
        sim.noted("handle_disconnect").await;
        assert_eq!(
            sim.journal()[1..],
            ["0ms prepare 1 last none elapsed 0ms", "0ms handle_disconnect prepare failed: no token"]
        );
        assert_eq!(client.state(), ClientState::Disconnected);
    });
}

#[test]
fn rule_3_3_handle_connect_sees_the_answer_to_the_upgrade() {
    use parley_proto::driver::TransportFacts;
    use parley_proto::{BoxError, Connected, Handler};

    struct Facts(Sim);

    impl Handler for Facts {
        async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
            assert_eq!(connected.negotiated.status(), 101);
            assert_eq!(connected.headers().get("x-node").unwrap(), "7");
            assert_eq!(connected.subprotocol(), Some("b"));
            assert!(connected.negotiated.extensions().is_empty());
            let local = "127.0.0.1:50000".parse().unwrap();
            assert_eq!(connected.transport, TransportFacts::new(Some(local), Some(addr())));
            self.0.note("looked");
            Ok(Action::Continue)
        }
    }

    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let options = options().subprotocol("a").unwrap().subprotocol("b").unwrap();
        let _client = sim.start(options, Facts(sim.clone())).await.unwrap();
        listener.accept().await.upgrade("X-Node: 7\r\nSec-WebSocket-Protocol: b\r\n").await;
        sim.noted("looked").await;
    });
}

#[test]
fn rule_3_3_what_handle_connect_pushes_leaves_before_frames_queued_while_connecting() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let gate = Gate::new();
        let pushes = Reply::Act(vec![Frame::text("auth"), Frame::text("subscribe")].into());
        let probe = Probe::new(&sim).on("handle_connect", pushes.behind(&gate));
        let client = sim.start(options(), probe).await.unwrap();
        client.try_send_frame(Frame::text("early")).unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        sim.noted("handle_connect").await;
        client.try_send_frame(Frame::ping("still connecting")).unwrap();
        sim.settle().await;
        assert_eq!(listener.wire().unread_by_peer(), 0, "all wait for handle_connect");
        gate.open();
        assert_eq!(peer.frame().await.payload, b"auth");
        assert_eq!(peer.frame().await.payload, b"subscribe");
        assert_eq!(peer.frame().await.payload, b"still connecting");
        assert_eq!(peer.frame().await.payload, b"early");
    });
}

#[test]
fn rule_3_3_not_even_a_ping_leaves_ahead_of_a_greeting_that_is_long() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let pushes = vec![Frame::binary(vec![0; 70_000]), Frame::text("subscribe")];
        let probe = Probe::new(&sim).on("handle_connect", Reply::Act(pushes.into()));
        let client = sim.start(options(), probe).await.unwrap();
        client.try_send_frame(Frame::ping("early")).unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        assert_eq!(peer.frame().await.payload.len(), 70_000); // as much as is begun at once
        assert_eq!(peer.frame().await.payload, b"subscribe");
        assert_eq!(peer.frame().await.payload, b"early");
    });
}

#[test]
fn rule_3_5_the_pong_leaves_when_handle_ping_first_waits() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) =
            connected(&sim, Probe::new(&sim).on("handle_ping", Reply::wait(&Gate::new()))).await;
        peer.send(&raw::frame(0x89, b"you there")).await;
        let pong = peer.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"you there"[..]));
        assert_eq!(sim.calls().last().unwrap(), "0ms handle_ping you there");
    });
}

#[test]
fn rule_3_5_the_pong_is_queued_before_what_handle_ping_pushes() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_ping", Reply::push("after"))).await;
        peer.send(&raw::frame(0x89, b"")).await;
        assert_eq!(peer.frame().await.first, 0x8a);
        assert_eq!(peer.frame().await.payload, b"after");
    });
}

#[test]
fn rule_3_6_infos_are_delivered_in_every_state() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        sim.on_dial(addr(), Fate::After(secs(1), Ok(())));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        client.send_info("dialling".into()).await.unwrap();
        let mut peer = listener.accept().await;
        client.send_info("upgrading".into()).await.unwrap();
        sim.noted("handle_info upgrading").await;
        peer.upgrade("").await;
        sim.noted("handle_connect").await;
        client.send_info("connected".into()).await.unwrap();
        sim.noted("handle_info connected").await;
        peer.shutdown().await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        client.try_send_info("disconnected".into()).unwrap();
        sim.noted("handle_info disconnected").await;
        assert_eq!(
            sim.calls()[2..],
            [
                "0ms handle_info dialling",
                "1000ms handle_info upgrading",
                "1000ms handle_connect 101 -",
                "1000ms handle_info connected",
                "1000ms handle_disconnect stream ended without a Close",
                "1000ms handle_info disconnected",
            ]
        );
        client.stop().await;
        client.wait_for(ClientState::Stopped).await.unwrap();
        assert!(matches!(client.send_info("late".into()).await, Err(InfoError::Stopped(info)) if info == "late"));
    });
}

#[test]
fn rule_3_6_infos_alternate_with_frames() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, _) =
            connected(&sim, Probe::new(&sim).once("handle_frame text 0", Reply::wait(&gate))).await;
        for n in ["0", "1", "2", "3"] {
            peer.send(&raw::frame(0x81, n.as_bytes())).await;
        }
        sim.noted("handle_frame text 0").await;
        for n in ["a", "b", "c"] {
            client.send_info(n.into()).await.unwrap();
        }
        gate.open();
        sim.noted("handle_info c").await;
        sim.settle().await;
        assert_eq!(
            since(sim.calls(), "goes on")[1..],
            [
                "0ms handle_info a",
                "0ms handle_frame text 1",
                "0ms handle_info b",
                "0ms handle_frame text 2",
                "0ms handle_info c",
                "0ms handle_frame text 3",
            ]
        );
    });
}

#[test]
fn rule_3_6_infos_do_not_wait_for_the_frames_of_a_read() {
    Sim::new().run(async |sim| {
        let info = Reply::own(async |own| {
            own.send_info("x".into()).await.unwrap();
            Reply::Act(Action::Continue)
        });
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).once("handle_frame text 0", info)).await;
        peer.send(&[raw::frame(0x81, b"0"), raw::frame(0x81, b"1"), raw::frame(0x81, b"2")].concat()).await;
        sim.noted("handle_frame text 2").await;
        assert_eq!(
            since(sim.calls(), "goes on")[1..],
            ["0ms handle_info x", "0ms handle_frame text 1", "0ms handle_frame text 2"]
        );
    });
}

#[test]
fn rule_3_6_infos_do_not_starve_the_io() {
    struct Busy(Handle<u64>);

    impl Handler<u64> for Busy {
        async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
            Ok(frame.into())
        }

        async fn handle_info(&mut self, info: u64) -> Result<Action, BoxError> {
            assert!(info < 100_000, "the I/O starves");
            self.0.try_send_info(info + 1)?; // there is always one more
            Ok(Action::Continue)
        }
    }

    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start_with(options(), Busy).await.unwrap();
        client.try_send_info(0).unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        peer.send(&raw::frame(0x81, b"x")).await;
        assert_eq!(peer.frame().await.payload, b"x");
        client.send_frame(Frame::text("y")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"y");
        client.stop().await;
        finish(&mut peer, 1000).await;
        client.join().await.unwrap();
    });
}

#[test]
fn rule_3_6_the_queue_holds_1024_infos() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let probe = Probe::new(&sim).once("handle_info first", Reply::wait(&gate));
        let (client, _peer, _) = connected(&sim, probe).await;
        client.try_send_info("first".into()).unwrap();
        sim.noted("handle_info first").await;
        for n in 0..1024 {
            client.try_send_info(format!("{n}")).unwrap();
        }
        assert!(matches!(client.try_send_info("one more".into()), Err(InfoError::Full(info)) if info == "one more"));
        let waiting = sim.spawn({
            let handle = client.handle();
            async move { handle.send_info("waited".into()).await }
        });
        sim.settle().await;
        assert!(!waiting.is_done());
        gate.open();
        waiting.await.unwrap();
        sim.noted("handle_info waited").await;
        assert_eq!(sim.calls().len(), 3 + 1 + 1 + 1024 + 1);
    });
}

#[test]
fn rule_3_6_a_push_while_not_connected_is_refused_and_a_disconnect_changes_nothing() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim)
            .on("handle_info push", Reply::push("lost"))
            .on("handle_info disconnect", Reply::Act(Action::Disconnect(CloseFrame::normal())));
        let (client, mut peer, _) = connected(&sim, probe).await;
        peer.shutdown().await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        client.send_info("push".into()).await.unwrap();
        client.send_info("disconnect".into()).await.unwrap();
        client.send_info("end".into()).await.unwrap();
        sim.noted("handle_info end").await;
        sim.settle().await;
        assert_eq!(
            since(sim.calls(), "handle_info push"),
            ["0ms handle_info push", "0ms handle_info disconnect", "0ms handle_info end"]
        );
        assert_eq!(client.state(), ClientState::Disconnected);
        assert_eq!(peer.end().await, End::Fin);
        assert_eq!(peer.received().windows(4).filter(|four| four == b"\r\n\r\n").count(), 1, "the request alone");
    });
}

#[test]
fn rule_3_6_an_action_of_handle_info_while_connecting_aborts_the_attempt() {
    Sim::new().run(async |sim| {
        sim.on_dial(addr(), Fate::Never);
        let close = CloseFrame::new(4000, "enough").unwrap();
        let probe = Probe::new(&sim).on("handle_info", Reply::Act(Action::Disconnect(close)));
        let client = sim.start(options(), probe).await.unwrap();
        client.send_info("go".into()).await.unwrap();
        sim.noted("handle_disconnect disconnected by a callback with 4000 (enough)").await;
        assert!(sim.journal().contains(&"0ms net dial given up".into()));
    });
}

#[test]
fn rule_3_7_policy_and_stay_leave_the_client_disconnected() {
    for retry in [Retry::Policy, Retry::Stay] {
        Sim::new().run(async |sim| {
            let (client, mut peer, _) =
                connected(&sim, Probe::new(&sim).on("handle_disconnect", Reply::Retry(retry))).await;
            peer.shutdown().await;
            sim.noted("handle_disconnect").await;
            sim.sleep(secs(3600)).await;
            assert_eq!(client.state(), ClientState::Disconnected);
            assert_eq!(since(sim.calls(), "handle_connect").len(), 2, "no attempt, no other callback");
            client.send_info("alive".into()).await.unwrap();
            sim.noted("handle_info alive").await;
        });
    }
}

#[test]
fn rule_3_7_stop_ends_the_client_with_the_reason() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(Retry::Stop));
        let (client, mut peer, _) = connected(&sim, probe).await;
        peer.send(&raw::frame(0x88, b"\x03\xe8")).await;
        peer.shutdown().await;
        let error = client.join().await.unwrap_err();
        assert_eq!(error.to_string(), "closed by the peer with 1000");
        assert!(matches!(error.reason(), StopReason::Disconnected(_)));
        assert!(error.into_handler().is_some());
        assert_eq!(
            since(sim.calls(), "handle_disconnect"),
            ["0ms handle_disconnect closed by the peer with 1000", "0ms terminate closed by the peer with 1000"]
        );
    });
}

#[test]
fn rule_3_8_callbacks_never_overlap_while_output_commands_and_timers_go_on() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, _) =
            connected(&sim, Probe::new(&sim).once("handle_frame text slow", Reply::wait(&gate))).await;
        peer.send(&[raw::frame(0x81, b"slow"), raw::frame(0x81, b"next")].concat()).await;
        sim.noted("handle_frame text slow").await;
        client.send_info("info".into()).await.unwrap();
        client.send_frame(Frame::text("out")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"out", "commands and output go on");
        peer.send(&raw::frame(0x89, b"alive")).await;
        assert_eq!(peer.frame().await.first, 0x8a, "reading goes on");
        client.disconnect().await;
        assert_eq!(close_of(&peer.frame().await), (1000, String::new()));
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert_eq!(sim.elapsed(), secs(5), "the close timeout goes on");
        assert_eq!(since(sim.calls(), "text slow").len(), 1, "no callback beside the one that waits");
        gate.open();
        sim.noted("handle_disconnect").await;
        sim.noted("handle_info").await;
    });
}

#[test]
fn rule_3_8_reading_pauses_at_256_kib_of_undelivered_bytes() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (_client, mut peer, listener) =
            connected(&sim, Probe::new(&sim).once("handle_frame", Reply::wait(&gate))).await;
        let frames =
            [&[raw::frame(0x82, &[0; 1000]).as_slice(); 999].concat()[..], &raw::frame(0x89, b"behind")].concat();
        let writer = sim.spawn(async move {
            peer.send(&frames).await;
            peer
        });
        sim.settle().await;
        assert!(!writer.is_done());
        let read = listener.wire().read_by_client();
        // Each frame counts some bytes of bookkeeping too; the last read may bring a pipe's fill more.
        assert!((250_000..256 * 1024 + 64 * 1024).contains(&read), "{read}");
        assert_eq!(listener.wire().unread_by_client(), 64 * 1024, "nothing is read while reading is paused");
        assert_eq!(listener.wire().unread_by_peer(), 0, "the ping behind the data is not answered");
        gate.open();
        let mut peer = writer.await;
        let pong = peer.frame().await;
        assert_eq!((pong.first, &pong.payload[..]), (0x8a, &b"behind"[..]), "it is on resuming");
        sim.noted("handle_ping").await;
        assert_eq!(since(sim.calls(), "handle_frame").len(), 999 + 1 + 1);
    });
}

#[test]
fn rule_3_8_one_larger_message_is_allowed() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).once("handle_frame", Reply::wait(&gate))).await;
        peer.send(&raw::frame(0x81, b"x")).await;
        peer.send(&raw::frame(0x82, &vec![7; 1024 * 1024])).await;
        sim.settle().await;
        gate.open();
        sim.noted("handle_frame binary of 1048576 bytes").await;
    });
}

#[test]
fn rule_3_8_after_a_local_close_the_driver_reads_again_and_discards() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, listener) =
            connected(&sim, Probe::new(&sim).once("handle_frame", Reply::wait(&gate))).await;
        let frames = raw::frame(0x82, &[0; 1000]).repeat(600);
        let writer = sim.spawn(async move {
            peer.send(&frames).await;
            peer
        });
        sim.settle().await;
        assert!(!writer.is_done(), "reading is paused");
        client.disconnect().await;
        let mut peer = writer.await;
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        sim.settle().await;
        assert_eq!(listener.wire().unread_by_client(), 0);
        peer.send(&raw::frame(0x88, b"\x03\xe8")).await;
        peer.shutdown().await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert_eq!(sim.elapsed(), secs(0), "the closing handshake was done, not timed out");
        gate.open();
        sim.noted("handle_disconnect").await;
        assert_eq!(
            since(sim.calls(), "goes on")[1..],
            ["0ms handle_disconnect disconnected by the application"],
            "what was read and not delivered is dropped"
        );
    });
}

#[test]
fn rule_3_8_it_reads_and_discards_while_the_close_still_waits_behind_data() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, listener) =
            connected(&sim, Probe::new(&sim).once("handle_frame", Reply::wait(&gate))).await;
        for _ in 0..3 {
            client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        }
        peer.send(&raw::frame(0x81, b"slow")).await;
        sim.noted("handle_frame text slow").await;
        let frames = raw::frame(0x82, &[0; 1000]).repeat(600);
        let writer = sim.spawn(async move {
            peer.send(&frames).await;
            peer
        });
        sim.settle().await;
        assert!(!writer.is_done(), "reading is paused");
        client.disconnect().await;
        let mut peer = writer.await;
        assert_eq!((sim.elapsed(), listener.wire().unread_by_peer()), (secs(0), 64 * 1024), "output is blocked");
        for _ in 0..3 {
            assert_eq!(peer.frame().await.payload.len(), 100_000);
        }
        finish(&mut peer, 1000).await;
        gate.open();
        sim.noted("handle_disconnect disconnected by the application").await;
        assert_eq!(since(sim.calls(), "goes on").len(), 2);
    });
}

/// Frames of 1,000 bytes, pushed one by one.
fn kilobyte() -> Reply {
    Reply::Act(Frame::binary(Bytes::from_static(&[0; 1000])).into())
}

#[test]
fn rule_3_9_a_push_is_never_refused_for_lack_of_room_and_the_next_callback_waits() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(4 * 1024).unwrap();
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1024));
        let client = sim.start(options, Probe::new(&sim).on("handle_info", kilobyte())).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        for n in 0..200 {
            client.send_info(format!("{n}")).await.unwrap();
        }
        sim.settle().await;
        // 1 KiB in the pipe, 64 KiB encoded, 4 KiB in the queue: the rest of the callbacks wait.
        let calls = sim.calls().len() - 3;
        assert!((67..=72).contains(&calls), "{calls}");
        for _ in 0..200 {
            assert_eq!(peer.frame().await.payload, [0; 1000], "no push is lost");
        }
        assert_eq!(sim.calls().len(), 3 + 200);
    });
}

#[test]
fn rule_3_9_what_a_callback_sends_itself_counts_to_the_bound_of_pushes() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(4 * 1024).unwrap();
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1024));
        let sends = Reply::own(async |own| {
            own.try_send_frame(Frame::binary(Bytes::from_static(&[0; 1000]))).unwrap();
            Reply::Act(Action::Continue)
        });
        let probe = Probe::new(&sim).on("handle_info", sends);
        let client = sim.start_with(options, |own| probe.with_own(own)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        for n in 0..200 {
            client.send_info(format!("{n}")).await.unwrap();
        }
        sim.settle().await;
        let calls = since(sim.calls(), "handle_info").len() / 2; // each says that it goes on
        assert!((67..=72).contains(&calls), "as for pushes: {calls}");
        for _ in 0..200 {
            assert_eq!(peer.frame().await.payload, [0; 1000], "none is lost");
        }
        assert_eq!(since(sim.calls(), "handle_info").len(), 2 * 200);
    });
}

#[test]
fn rule_3_9_a_frame_larger_than_the_bound_is_accepted_when_the_queue_is_empty() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(1000).unwrap();
        let push = Reply::Act(Frame::binary(vec![1; 5000]).into());
        let (client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim).on("handle_info", push)).await;
        client.send_info("go".into()).await.unwrap();
        assert_eq!(peer.frame().await.payload, [1; 5000]);
        client.try_send_frame(Frame::binary(vec![2; 5000])).unwrap();
        let error = client.try_send_frame(Frame::binary(vec![3; 5000])).unwrap_err();
        assert!(matches!(error, SendError::Full(frame) if frame.len() == 5000));
        assert_eq!(peer.frame().await.payload, [2; 5000]);
    });
}

#[test]
fn rule_3_9_a_pushed_control_frame_over_125_bytes_is_refused_and_the_connection_stays() {
    Sim::new().run(async |sim| {
        let pushes = vec![Frame::ping(vec![0; 126]), Frame::ping(vec![0; 125]), Frame::text("stays")];
        let (client, mut peer, _) =
            connected(&sim, Probe::new(&sim).on("handle_info", Reply::Act(pushes.into()))).await;
        client.send_info("go".into()).await.unwrap();
        assert_eq!(peer.frame().await.payload, [0; 125]);
        assert_eq!(peer.frame().await.payload, b"stays");
        let error = client.send_frame(Frame::pong(vec![0; 126])).await.unwrap_err();
        assert!(matches!(error, SendError::ControlTooLong(frame) if frame.len() == 126));
        assert_eq!(client.state(), ClientState::Connected);
    });
}

/// What each way to send through the client's own handle comes to.
async fn own_sends(own: Handle<String>) -> String {
    let word = |outcome: Result<(), SendError>| match outcome {
        Ok(()) => "ok",
        Err(SendError::Disconnected(_)) => "disconnected",
        Err(SendError::Full(_)) => "full",
        Err(_) => "other",
    };
    let sent = word(own.send_frame(Frame::text("send")).await);
    let fed = word(own.feed_frame(Frame::text("feed")).await);
    let tried = word(own.try_send_frame(Frame::text("try")));
    let flushed = word(own.flush().await);
    format!("send {sent}, feed {fed}, try {tried}, flush {flushed}")
}

/// A reply that notes what the own handle's sends came to.
fn note_own_sends(sim: &Sim) -> Reply {
    let sim = sim.clone();
    Reply::own(move |own| {
        let sim = sim.clone();
        async move {
            let outcomes = own_sends(own).await;
            sim.note(outcomes);
            Reply::Act(Action::Continue)
        }
    })
}

#[test]
fn rule_3_10_through_the_own_handle_nothing_waits_for_a_connection() {
    for callback in ["init", "prepare", "handle_disconnect", "handle_info"] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let probe = Probe::new(&sim).on(callback, note_own_sends(&sim));
            let client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
            // Somebody else's frame waits for the connection.
            let waiting = client.try_send_frame(Frame::text("other"));
            client.send_info("x".into()).await.unwrap();
            let mut peer = listener.accept().await;
            if callback == "handle_info" {
                sim.noted("send").await;
            }
            peer.upgrade("").await;
            peer.shutdown().await;
            sim.noted("send disconnected, feed disconnected, try disconnected, flush ok").await;
            assert_eq!(sim.elapsed(), secs(0));
            drop(waiting);
        });
    }
}

#[test]
fn rule_3_10_a_send_through_the_own_handle_leaves_at_once_while_handle_connect_runs() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let probe = Probe::new(&sim).on("handle_connect", note_own_sends(&sim));
        let client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
        client.try_send_frame(Frame::text("other")).unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        sim.noted("send ok, feed ok, try ok, flush ok").await;
        for text in ["send", "feed", "try", "other"] {
            assert_eq!(peer.frame().await.payload, text.as_bytes());
        }
    });
}

#[test]
fn rule_3_10_what_a_callback_sends_and_what_it_pushes_leave_in_order() {
    Sim::new().run(async |sim| {
        let reply = Reply::own(async |own| {
            own.try_send_frame(Frame::text("sent")).unwrap();
            Reply::push("pushed")
        });
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_frame", reply)).await;
        peer.send(&raw::frame(0x81, b"x").repeat(2)).await;
        for text in ["sent", "pushed", "sent", "pushed"] {
            assert_eq!(peer.frame().await.payload, text.as_bytes());
        }
    });
}

#[test]
fn rule_3_10_a_disconnect_inside_a_callback_drops_what_was_received_behind() {
    Sim::new().run(async |sim| {
        let reply = Reply::own(async |own| {
            own.disconnect().await;
            Reply::Act(Action::Continue)
        });
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_frame", reply)).await;
        peer.send(&raw::frame(0x81, b"x").repeat(2)).await;
        finish(&mut peer, 1000).await;
        sim.noted("handle_disconnect").await;
        assert_eq!(since(sim.calls(), "goes on")[1..], ["0ms handle_disconnect disconnected by the application"]);
    });
}

#[test]
fn rule_3_10_through_the_own_handle_nothing_waits_for_room() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(1000).unwrap().with_info_queue(1).unwrap();
        let feeds = Reply::own({
            let sim = sim.clone();
            move |own| {
                let sim = sim.clone();
                async move {
                    for _ in 0..200 {
                        own.feed_frame(Frame::binary(vec![0; 1000])).await.unwrap();
                    }
                    own.send_info("one".into()).await.unwrap();
                    let full = own.send_info("two".into()).await;
                    assert!(matches!(full, Err(InfoError::Full(info)) if info == "two"));
                    sim.note("fed");
                    Reply::Act(Action::Continue)
                }
            }
        });
        let (_client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim).on("handle_frame", feeds)).await;
        peer.send(&raw::frame(0x81, b"go")).await;
        sim.noted("fed").await;
        for _ in 0..200 {
            assert_eq!(peer.frame().await.payload.len(), 1000);
        }
    });
}

#[test]
fn rule_3_10_disconnect_and_stop_resolve_when_accepted_inside_every_callback() {
    for callback in ["prepare", "handle_connect", "handle_frame", "handle_ping", "handle_info", "handle_disconnect"] {
        Sim::new().run(async |sim| {
            let reply = Reply::own({
                let sim = sim.clone();
                move |own| {
                    let sim = sim.clone();
                    async move {
                        own.disconnect().await;
                        own.stop().await;
                        sim.note("resolved");
                        Reply::Act(Action::Continue)
                    }
                }
            });
            let listener = sim.listen(addr());
            let probe = Probe::new(&sim).once(callback, reply);
            let client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
            let peer = sim.spawn(async move {
                if callback == "prepare" {
                    return;
                }
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                if callback != "handle_connect" && callback != "handle_info" {
                    peer.send(&[raw::frame(0x81, b"x"), raw::frame(0x89, b"")].concat()).await;
                }
                if callback == "handle_disconnect" {
                    return peer.shutdown().await; // an end without a Close, which is not answered by one
                }
                while peer.frame().await.first != 0x88 {}
                peer.send(&raw::frame(0x88, b"\x03\xe8")).await;
                peer.shutdown().await;
            });
            if callback == "handle_info" {
                client.wait_for(ClientState::Connected).await.unwrap();
                client.send_info("x".into()).await.unwrap();
            }
            sim.noted("resolved").await;
            client.join().await.unwrap();
            assert_eq!(sim.elapsed(), secs(0), "{callback}");
            drop(peer);
        });
    }
}

#[test]
fn rule_3_11_terminate_runs_once_and_last_whenever_the_client_ends() {
    // By a stop while connected.
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.stop().await;
        finish(&mut peer, 1000).await;
        client.join().await.unwrap();
        assert_eq!(since(sim.calls(), "handle_connect")[1..], ["0ms terminate stopped"], "no handle_disconnect");
    });
    // By the first attempt.
    Sim::new().run(async |sim| {
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        client.join().await.unwrap_err();
        assert_eq!(sim.calls()[2..], ["0ms terminate TCP failed: connection refused"]);
    });
    // By an error of a callback.
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_info", Reply::Fail("broken"))).await;
        client.send_info("x".into()).await.unwrap();
        finish(&mut peer, 1011).await;
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Handler(error) if error.to_string() == "broken"));
        assert_eq!(since(sim.calls(), "terminate"), ["0ms terminate stopped by the handler's error: broken"]);
    });
}

#[test]
fn rule_3_11_terminate_is_bounded_by_the_close_timeout() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim).on("terminate", Reply::wait(&Gate::new()))).await;
        sim.sleep(secs(1)).await;
        client.stop().await;
        finish(&mut peer, 1000).await;
        client.join().await.unwrap();
        assert_eq!(since(sim.calls(), "terminate"), ["1000ms terminate stopped", "6000ms terminate dropped"]);
    });
}

#[test]
fn rule_3_11_terminate_does_not_run_where_init_did_not_succeed() {
    for stop_first in [true, false] {
        Sim::new().run(async |sim| {
            let probe = Probe::new(&sim).on("init", Reply::wait(&Gate::new()));
            let setup = parley_proto::driver::Setup::new(options());
            let own = setup.own_handle();
            if stop_first {
                own.stop().await;
            }
            let life = sim.spawn(setup.run(sim.runtime(), probe));
            if !stop_first {
                sim.noted("init").await;
                own.stop().await;
            }
            assert!(life.await.is_ok());
            let calls = sim.calls();
            assert!(!calls.iter().any(|line| line.contains("terminate")), "{calls:?}");
            assert_eq!(sim.elapsed(), if stop_first { secs(0) } else { secs(5) });
        });
    }
}

#[test]
fn rule_3_11_a_callback_still_running_at_the_close_deadline_is_dropped() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) =
            connected(&sim, Probe::new(&sim).on("handle_frame", Reply::wait(&Gate::new()))).await;
        peer.send(&raw::frame(0x81, b"x")).await;
        sim.noted("handle_frame").await;
        client.stop().await;
        finish(&mut peer, 1000).await;
        client.join().await.unwrap();
        assert_eq!(since(sim.calls(), "dropped"), ["5000ms handle_frame dropped", "5000ms terminate stopped"]);
    });
}

#[test]
fn rule_3_12_a_panic_fails_the_connection_with_1011_and_answers_all_who_wait() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(100));
        let client = sim.start(options(), Probe::new(&sim).on("handle_info", Reply::Panic)).await.unwrap();
        let bystander = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let mut other = listener.accept().await;
        other.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        bystander.wait_for(ClientState::Connected).await.unwrap();

        let mut sends = Vec::new();
        for len in [200_000, 2000] {
            let handle = client.handle();
            sends.push(sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; len])).await }));
        }
        sim.settle().await;
        client.send_info("now".into()).await.unwrap();
        sim.noted("handle_info now").await;
        assert_eq!(peer.frame().await.payload.len(), 200_000);
        assert_eq!(peer.frame().await.payload.len(), 2000);
        finish(&mut peer, 1011).await;
        for send in sends {
            send.await.unwrap();
        }
        let handle = client.handle();
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Panicked));
        assert!(error.into_handler().is_none());
        assert!(matches!(handle.send_frame(Frame::text("late")).await, Err(SendError::Stopped(_))));
        assert_eq!(since(sim.calls(), "handle_info").len(), 1, "no callback runs after it");

        bystander.send_frame(Frame::text("untouched")).await.unwrap();
        assert_eq!(other.frame().await.payload, b"untouched");
    });
}

#[test]
fn rule_3_12_a_panic_is_reported_from_every_callback() {
    for callback in
        ["init", "prepare", "handle_connect", "handle_frame", "handle_ping", "handle_disconnect", "terminate"]
    {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let setup = parley_proto::driver::Setup::new(options());
            let life = sim.spawn(setup.run(sim.runtime(), Probe::new(&sim).on(callback, Reply::Panic)));
            let _peer = sim.spawn(async move {
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                peer.send(&[raw::frame(0x81, b"x"), raw::frame(0x89, b"")].concat()).await;
                peer.shutdown().await;
                peer.end().await;
            });
            let error = life.await.unwrap_err();
            assert!(matches!(error.reason(), StopReason::Panicked), "{callback}: {error}");
            assert!(sim.calls().last().unwrap().contains(callback), "no callback runs after it");
        });
    }
}

#[test]
fn rule_3_12_the_waiting_are_answered_when_the_peer_takes_nothing() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim).on("handle_info", Reply::Panic)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut sends = Vec::new();
        for _ in 0..2 {
            let handle = client.handle();
            sends.push(sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; 100_000])).await }));
        }
        sim.settle().await;
        client.send_info("now".into()).await.unwrap();
        let mut outcomes = Vec::new();
        for send in sends {
            outcomes.push(send.await.unwrap_err());
        }
        assert!(matches!(outcomes[0], SendError::Lost(_)), "its encoding had begun: {}", outcomes[0]);
        assert!(outcomes.pop().unwrap().into_frame().is_some_and(|frame| frame.len() == 100_000), "this one's had not");
        assert_eq!(sim.elapsed(), secs(5), "the panic's Close had its time");
        assert!(matches!(client.join().await.unwrap_err().reason(), StopReason::Panicked));
    });
}

#[test]
fn rule_3_the_actions_of_callbacks() {
    // Each callback's action: the Close on the wire, and how the client goes on.
    let cases = [
        (Reply::Act(Action::Disconnect(CloseFrame::new(4001, "bye").unwrap())), (4001, "bye"), true),
        (Reply::Act(Action::Stop), (1000, ""), false),
        (Reply::Act(Action::StopWith(CloseFrame::going_away())), (1001, ""), false),
        (Reply::Fail("broken"), (1011, ""), false),
    ];
    for (reply, (code, reason), lives) in cases {
        for callback in ["handle_connect", "handle_frame", "handle_ping", "handle_info"] {
            Sim::new().run(async |sim| {
                let (client, mut peer, _) =
                    connected(&sim, Probe::new(&sim).on(callback, reply.clone().after(millis(1)))).await;
                match callback {
                    "handle_frame" => peer.send(&raw::frame(0x81, b"x")).await,
                    "handle_ping" => peer.send(&raw::frame(0x89, b"x")).await,
                    "handle_info" => client.send_info("x".into()).await.unwrap(),
                    _ => {}
                }
                if callback == "handle_ping" {
                    assert_eq!(peer.frame().await.first, 0x8a);
                }
                assert_eq!(close_of(&peer.frame().await), (code, reason.to_owned()));
                peer.send(&raw::frame(0x88, &code.to_be_bytes())).await;
                peer.shutdown().await;
                if lives {
                    sim.noted("handle_disconnect disconnected by a callback with 4001 (bye)").await;
                    assert_eq!(client.state(), ClientState::Disconnected);
                } else {
                    let outcome = client.join().await;
                    assert_eq!(outcome.is_ok(), code != 1011);
                    assert_eq!(since(sim.calls(), "goes on").len(), 2, "terminate alone");
                }
            });
        }
    }
}

#[test]
fn rule_3_callbacks_have_defaults_and_an_empty_impl_is_a_client() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), ()).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        peer.send(&[raw::frame(0x81, b"x"), raw::frame(0x89, b"y")].concat()).await;
        assert_eq!(peer.frame().await.payload, b"y");
        client.send_info(()).await.unwrap();
        client.send_frame(Frame::text("z")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"z");
        peer.reset();
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert_eq!(client.join().await.unwrap_err().to_string(), format!("TCP failed: {}", ErrorKind::ConnectionReset));
    });
}
