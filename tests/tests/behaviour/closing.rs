//! Section 4 of the guide, connected: rules 4.7 to 4.15.

use std::time::Duration;

use std::io::ErrorKind;

use parley_proto::codec::{CloseFrame, CloseFrameError, Frame};
use parley_proto::driver::JoinError;
use parley_proto::session::ClientState;
use parley_proto::{Action, DisconnectReason, Limits, SendError, StopReason};
use parley_tests::raw::{self, End, switching_protocols};
use parley_tests::sim::{Gate, Link, Probe, Reply, Server, Sim};

use crate::common::{addr, close_of, connected, connected_with, finish, options, secs, since};

const CLOSE_1000: &[u8] = b"\x88\x02\x03\xe8";

fn text(text: &str) -> Vec<u8> {
    raw::frame(0x81, text.as_bytes())
}

#[test]
fn rule_4_7_frames_in_the_same_read_as_the_101_are_delivered() {
    // With what follows them in that read: nothing, the peer's Close, its FIN alone.
    for (tail, fin, reason) in [
        (&b""[..], false, None),
        (CLOSE_1000, true, Some("closed by the peer with 1000")),
        (b"", true, Some("stream ended without a Close")),
        (b"\x83\x00", true, Some("protocol error: ")),
    ] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let _client = sim.start(options(), Probe::new(&sim)).await.unwrap();
            let mut peer = listener.accept().await;
            let head = peer.head().await;
            let answer = switching_protocols(&head, "").into_bytes();
            peer.send(&[&answer, &text("one")[..], &raw::frame(0x89, b"two"), &text("three"), tail].concat()).await;
            if fin {
                peer.shutdown().await;
            }
            sim.noted(if fin { "handle_disconnect" } else { "handle_frame text three" }).await;
            let calls = since(sim.calls(), "handle_connect");
            assert_eq!(
                calls[..4],
                [
                    "0ms handle_connect 101 -",
                    "0ms handle_frame text one",
                    "0ms handle_ping two",
                    "0ms handle_frame text three"
                ]
            );
            let end = reason.map(|reason| format!("0ms handle_disconnect {reason}"));
            assert_eq!(calls.len(), 4 + usize::from(fin));
            assert!(calls[4..].iter().all(|line| line.starts_with(end.as_deref().unwrap_or("none"))), "{calls:?}");
        });
    }
}

#[test]
fn rule_4_7_however_the_bytes_are_cut() {
    for chunk in [1, 2, 3, 7, 100] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            listener.set_link(Link::default().chunk(chunk));
            let client = sim.start(options(), Probe::new(&sim).on("handle_frame", Reply::push("echo"))).await.unwrap();
            let mut peer = listener.accept().await;
            let head = peer.head().await;
            let mut answer = switching_protocols(&head, "").into_bytes();
            answer.extend([text("one"), text("two"), CLOSE_1000.to_vec()].concat());
            peer.send(&answer).await;
            for _ in 0..2 {
                assert_eq!(peer.frame().await.payload, b"echo");
            }
            assert_eq!(close_of(&peer.frame().await).0, 1000);
            peer.shutdown().await;
            assert!(client.join().await.is_ok());
        });
    }
}

#[test]
fn rule_4_8_a_protocol_error_fails_the_connection_with_its_code_and_is_reported_once() {
    let cases: [(&[u8], u16); 8] = [
        (b"\x83\x00", 1002),         // a reserved opcode
        (b"\xc1\x00", 1002),         // a reserved bit
        (b"\x81\x80\0\0\0\0", 1002), // masked
        (b"\x80\x00", 1002),         // a continuation of nothing
        (b"\x09\x00", 1002),         // a fragmented ping
        (b"\x88\x02\x03\xed", 1002), // a Close with 1005
        (b"\x81\x02\xc3\x28", 1007), // no UTF-8
        (b"\x82\x7e\x10\x00", 1009), // a message of 4,096 bytes
    ];
    for (bytes, code) in cases {
        Sim::new().run(async |sim| {
            let mut options = options();
            options.connection.limits = Limits::client().with_message(4095).unwrap();
            let (client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim)).await;
            peer.send(bytes).await;
            assert_eq!(close_of(&peer.frame().await), (code, String::new()));
            peer.send(&text("too late")).await;
            peer.shutdown().await;
            sim.noted("handle_disconnect protocol error").await;
            assert_eq!(peer.end().await, End::Fin);
            assert_eq!(since(sim.calls(), "handle_connect").len(), 2, "reported once, the rest dropped");
            let error = client.join().await.unwrap_err();
            assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Protocol(_))));
        });
    }
}

#[test]
fn rule_4_8_it_takes_effect_after_the_frames_before_it_and_their_pushes() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let probe = Probe::new(&sim).on("handle_frame", Reply::push("answer").behind(&gate));
        let (client, mut peer, listener) = connected(&sim, probe).await;
        peer.send(&[text("one"), text("two"), b"\x83\x00".to_vec()].concat()).await;
        sim.sleep(secs(1)).await;
        assert_eq!(listener.wire().unread_by_peer(), 0, "parsing ahead is not visible");
        client.send_frame(Frame::text("still open")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"still open");
        gate.open();
        assert_eq!(peer.frame().await.payload, b"answer");
        assert_eq!(peer.frame().await.payload, b"answer");
        assert_eq!(close_of(&peer.frame().await).0, 1002);
        peer.shutdown().await;
        sim.noted("handle_disconnect protocol error").await;
    });
}

#[test]
fn rule_4_8_it_takes_effect_at_the_latest_after_half_the_close_timeout() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let probe = Probe::new(&sim).on("handle_frame", Reply::push("refused").behind(&gate));
        let (client, mut peer, _) = connected(&sim, probe).await;
        peer.send(&[text("slow"), b"\x83\x00".to_vec()].concat()).await;
        assert_eq!(close_of(&peer.frame().await).0, 1002);
        assert_eq!(sim.elapsed(), Duration::from_millis(2500));
        let error = client.try_send_frame(Frame::text("late")).unwrap_err();
        assert!(matches!(error, SendError::Closing(_)));
        gate.open();
        sim.noted("handle_frame goes on").await;
        peer.shutdown().await;
        sim.noted("handle_disconnect protocol error").await;
        assert_eq!(peer.end().await, End::Fin);
    });
}

#[test]
fn rule_4_8_an_end_under_way_keeps_its_reason() {
    let by_callback = CloseFrame::new(4000, "").unwrap();
    let cases: [(&[u8], u16, &str); 3] = [
        (b"\x83\x00", 1002, "protocol error"),
        (b"\x88\x02\x03\xf3", 1011, "closed by the peer with 1011"),
        (b"\x81\x01x", 4000, "disconnected by a callback with 4000"),
    ];
    for (bytes, code, reason) in cases {
        Sim::new().run(async |sim| {
            let probe = Probe::new(&sim).on("handle_frame", Reply::Act(Action::Disconnect(by_callback.clone())));
            let (client, mut peer, _) = connected(&sim, probe).await;
            peer.send(bytes).await;
            assert_eq!(close_of(&peer.frame().await).0, code);
            client.disconnect().await;
            sim.settle().await;
            assert_eq!(client.state(), ClientState::Connected, "the peer's FIN is still to come");
            if code == 4000 {
                peer.send(b"\x88\x02\x0f\xa0").await;
            }
            peer.shutdown().await;
            sim.noted("handle_disconnect").await;
            let calls = since(sim.calls(), "handle_disconnect");
            assert!(calls[0].starts_with(&format!("0ms handle_disconnect {reason}")), "{calls:?}");
            assert_eq!(peer.end().await, End::Fin, "one Close");
        });
    }
}

#[test]
fn rule_4_9_pings_and_pongs_go_ahead_of_data_not_yet_begun() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        client.feed_frame(Frame::text("data")).await.unwrap();
        sim.settle().await;
        client.feed_frame(Frame::ping("1")).await.unwrap();
        client.feed_frame(Frame::pong("2")).await.unwrap();
        assert_eq!(peer.frame().await.payload.len(), 100_000);
        assert_eq!(peer.frame().await.payload, b"1");
        assert_eq!(peer.frame().await.payload, b"2");
        assert_eq!(peer.frame().await.payload, b"data");
    });
}

#[test]
fn rule_4_9_a_close_that_we_ask_for_follows_all_frames_accepted_before_it() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        for _ in 0..3 {
            client.try_send_frame(Frame::binary(vec![0; 100_000])).unwrap();
        }
        client.try_send_frame(Frame::text("last")).unwrap();
        client.disconnect_with(CloseFrame::new(4001, "done").unwrap()).await;
        for _ in 0..3 {
            assert_eq!(peer.frame().await.payload.len(), 100_000);
        }
        assert_eq!(peer.frame().await.payload, b"last");
        assert_eq!(close_of(&peer.frame().await), (4001, "done".into()));
        peer.send(CLOSE_1000).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect disconnected by the application").await;
    });
}

#[test]
fn rule_4_9_what_is_left_at_the_close_timeout_comes_back() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut sends = Vec::new();
        for len in [100_000, 5] {
            let handle = client.handle();
            sends.push(sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; len])).await }));
        }
        sim.sleep(secs(1)).await;
        client.disconnect().await;
        let (begun, waiting) = (sends.remove(0).await, sends.remove(0).await);
        assert_eq!(sim.elapsed(), secs(6), "counted from the call");
        assert!(matches!(begun, Err(SendError::Lost(DisconnectReason::Local))), "its fate is unknown: {begun:?}");
        assert_eq!(waiting.unwrap_err().into_frame(), Some(Frame::binary(vec![0; 5])));
        sim.noted("handle_disconnect disconnected by the application").await;
        peer.end().await;
        assert!(peer.received().len() < 100_000, "the rest is given up");
    });
}

#[test]
fn rule_4_9_a_failing_close_follows_the_pushes_and_drops_what_others_queued() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let gate = Gate::new();
        let probe = Probe::new(&sim).on("handle_frame", Reply::push("answer").behind(&gate));
        let client = sim.start(options(), probe).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let mut sends = Vec::new();
        for len in [100_000, 5] {
            let handle = client.handle();
            sends.push(sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; len])).await }));
        }
        sim.settle().await;
        peer.send(&[text("x"), b"\x83\x00".to_vec()].concat()).await;
        sim.noted("handle_frame").await;
        gate.open();
        let error = sends.pop().unwrap().await.unwrap_err();
        assert!(matches!(error, SendError::Closing(frame) if frame.len() == 5), "it was not begun");
        assert_eq!(peer.frame().await.payload.len(), 100_000);
        sends.pop().unwrap().await.unwrap();
        assert_eq!(peer.frame().await.payload, b"answer");
        assert_eq!(close_of(&peer.frame().await).0, 1002);
    });
}

#[test]
fn rule_4_10_every_ping_is_answered_in_order() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        let pings: Vec<u8> = (0..100_u8).flat_map(|n| raw::frame(0x89, &[n])).collect();
        peer.send(&pings).await;
        for n in 0..100 {
            let pong = peer.frame().await;
            assert_eq!((pong.first, pong.payload), (0x8a, vec![n]));
        }
    });
}

#[test]
fn rule_4_10_every_ping_of_a_burst_is_answered() {
    const PINGS: usize = 100_000;
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1024 * 1024));
        let _client = sim.start(options(), ()).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        // Empty ones, and so 32 Ki of them in a read: their pongs are three times as long.
        peer.send(&raw::frame(0x89, b"").repeat(PINGS)).await;
        peer.send(&raw::frame(0x89, b"last")).await;
        for _ in 0..PINGS {
            let pong = peer.frame().await;
            assert_eq!((pong.first, pong.payload.len()), (0x8a, 0));
        }
        assert_eq!(peer.frame().await.payload, b"last");
    });
}

#[test]
fn rule_4_10_while_output_is_blocked_the_newest_pong_alone_is_pending() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.feed_frame(Frame::binary(vec![0; 2000])).await.unwrap();
        sim.settle().await;
        for n in 0..100 {
            peer.send(&raw::frame(0x89, &[n])).await;
        }
        sim.noted("handle_ping c").await; // 99
        assert_eq!(peer.frame().await.payload.len(), 2000);
        assert_eq!(peer.frame().await.payload, [99]);
        peer.send(&raw::frame(0x89, b"again")).await;
        assert_eq!(peer.frame().await.payload, b"again", "nothing in between");
    });
}

#[test]
fn rule_4_11_the_code_of_the_peers_close_is_echoed_and_later_frames_are_dropped() {
    let cases: [(&[u8], &[u8], &str); 3] = [
        (b"\x03\xe8bye", b"\x03\xe8", "closed by the peer with 1000 (bye)"),
        (b"\x0f\xa4", b"\x0f\xa4", "closed by the peer with 4004"),
        (b"", b"", "closed by the peer without a code"),
    ];
    for (close, echo, reason) in cases {
        Sim::new().run(async |sim| {
            let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
            peer.send(&[text("before"), raw::frame(0x88, close), text("after"), raw::frame(0x89, b"")].concat()).await;
            let answer = peer.frame().await;
            assert_eq!((answer.first, &answer.payload[..]), (0x88, echo));
            peer.send(&text("later still")).await;
            peer.shutdown().await;
            assert_eq!(peer.end().await, End::Fin);
            sim.noted("handle_disconnect").await;
            assert_eq!(
                since(sim.calls(), "handle_frame"),
                ["0ms handle_frame text before".to_owned(), format!("0ms handle_disconnect {reason}")]
            );
        });
    }
}

#[test]
fn rule_4_11_frames_before_the_peers_close_are_answered_before_ours() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_frame", Reply::push("answer"))).await;
        peer.send(&[text("question"), CLOSE_1000.to_vec()].concat()).await;
        assert_eq!(peer.frame().await.payload, b"answer");
        assert_eq!(close_of(&peer.frame().await).0, 1000);
    });
}

#[test]
fn rule_4_11_between_our_close_and_theirs_frames_are_checked_and_not_delivered() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.disconnect().await;
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        peer.send(&[text("under way"), raw::frame(0x89, b"no answer")].concat()).await;
        sim.settle().await;
        peer.send(CLOSE_1000).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin, "no pong, no second Close");
        sim.noted("handle_disconnect").await;
        assert_eq!(since(sim.calls(), "handle_connect").len(), 2);
    });
}

#[test]
fn rule_4_11_an_error_between_the_closes_drops_tcp_without_a_second_close() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.disconnect().await;
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        peer.send(b"\x83\x00").await;
        assert_eq!(peer.end().await, End::Fin);
        sim.noted("handle_disconnect disconnected by the application").await;
        assert_eq!(sim.elapsed(), secs(0));
    });
}

#[test]
fn rule_4_11_a_local_close_drops_what_was_received_and_not_delivered() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, _) =
            connected(&sim, Probe::new(&sim).on("handle_frame", Reply::push("refused").behind(&gate))).await;
        peer.send(&[text("one"), text("two")].concat()).await;
        sim.noted("handle_frame").await;
        client.disconnect().await;
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        gate.open();
        sim.noted("handle_frame goes on").await;
        peer.send(CLOSE_1000).await;
        peer.shutdown().await;
        assert_eq!(peer.end().await, End::Fin, "the push is refused");
        sim.noted("handle_disconnect").await;
        assert_eq!(since(sim.calls(), "goes on").len(), 2, "the second frame is dropped");
    });
}

#[test]
fn rule_4_11_a_disconnect_while_disconnected_closes_nothing_later() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        // Asked for twice, the second time in the state that the first has brought about.
        client.disconnect().await;
        client.disconnect().await;
        sim.noted("handle_disconnect").await;
        assert!(matches!(client.try_send_frame(Frame::text("x")), Err(SendError::Disconnected(_))));
        drop(listener);
    });
}

#[test]
fn rule_4_11_frames_before_an_eof_or_an_error_reach_handle_frame_first_and_their_pushes_are_refused() {
    for reset in [false, true] {
        Sim::new().run(async |sim| {
            let gate = Gate::new();
            let probe = Probe::new(&sim).on("handle_frame", Reply::push("refused").behind(&gate));
            let (_client, mut peer, listener) = connected(&sim, probe).await;
            peer.send(&[text("one"), text("two")].concat()).await;
            sim.noted("handle_frame text one").await;
            if reset {
                listener.wire().fail_client_reads(ErrorKind::ConnectionReset);
            } else {
                peer.shutdown().await;
            }
            sim.noted("net closed").await;
            gate.open();
            sim.noted("handle_disconnect").await;
            let reason = if reset { "TCP failed: connection reset" } else { "stream ended without a Close" };
            assert_eq!(
                since(sim.calls(), "goes on"),
                [
                    "0ms handle_frame goes on".to_owned(),
                    "0ms handle_frame text two".to_owned(),
                    "0ms handle_frame goes on".to_owned(),
                    format!("0ms handle_disconnect {reason}")
                ]
            );
            assert_eq!(peer.end().await, End::Fin, "no push left");
        });
    }
}

#[test]
fn rule_4_12_the_client_waits_for_the_servers_fin_until_the_deadline() {
    for fin in [true, false] {
        Sim::new().run(async |sim| {
            let (client, mut peer, listener) = connected(&sim, Probe::new(&sim)).await;
            sim.sleep(secs(1)).await;
            client.disconnect().await;
            assert_eq!(close_of(&peer.frame().await).0, 1000);
            peer.send(CLOSE_1000).await;
            sim.sleep(secs(3)).await;
            assert!(!listener.wire().is_ended_by_client(), "the server ends TCP first");
            if fin {
                peer.shutdown().await;
            }
            sim.noted("net closed").await;
            assert_eq!(sim.elapsed(), secs(if fin { 4 } else { 6 }));
            assert_eq!(peer.end().await, End::Fin);
            sim.noted("handle_disconnect disconnected by the application").await;
        });
    }
}

#[test]
fn rule_4_12_the_server_shuts_down_writing_at_once_and_drains() {
    for by_server in [true, false] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
            let mut server = Server::accept_from(&sim, &listener).await;
            server.open(parley_proto::handshake::Acceptance::new()).await;
            client.wait_for(ClientState::Connected).await.unwrap();
            if by_server {
                // What the client has sent before it hears of the Close is drained: no reset, which would lose it.
                client.send_frame(Frame::text("under way")).await.unwrap();
                server.close(&CloseFrame::going_away());
            } else {
                client.disconnect().await;
            }
            let (code, was_clean) = server.end().await;
            assert_eq!((code, was_clean), (if by_server { 1001 } else { 1000 }, true));
            let reason = if by_server { "closed by the peer with 1001" } else { "disconnected by the application" };
            sim.noted(&format!("handle_disconnect {reason}")).await;
            assert_eq!(sim.elapsed(), secs(0), "no side waited for a deadline");
        });
    }
}

#[test]
fn rule_4_13_an_abrupt_eof_is_unclean_and_never_on_the_wire() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect stream ended without a Close").await;
        assert_eq!(peer.end().await, End::Fin);
        let error: JoinError<_> = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Eof)));
    });
}

#[test]
fn rule_4_13_a_timeout_of_the_close_does_not_change_the_reason() {
    // The peer's Close, and no FIN.
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.send(CLOSE_1000).await;
        sim.noted("handle_disconnect closed by the peer with 1000").await;
        assert_eq!(sim.elapsed(), secs(5));
        assert!(client.join().await.is_ok(), "both Closes were seen: it was clean");
    });
    // Our Close, and no answer.
    Sim::new().run(async |sim| {
        let close = CloseFrame::new(4000, "").unwrap();
        let probe = Probe::new(&sim).on("handle_frame", Reply::Act(Action::Disconnect(close)));
        let (client, mut peer, _) = connected(&sim, probe).await;
        peer.send(&text("x")).await;
        sim.noted("handle_disconnect disconnected by a callback with 4000").await;
        assert_eq!(sim.elapsed(), secs(5));
        assert!(client.join().await.is_err(), "the peer's Close was not seen");
    });
    // A protocol error, and no FIN.
    Sim::new().run(async |sim| {
        let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.send(b"\x83\x00").await;
        sim.noted("handle_disconnect protocol error").await;
        assert_eq!(sim.elapsed(), secs(5));
    });
}

#[test]
fn rule_4_13_the_close_timeout_is_absolute() {
    // The peer's Close stands behind frames that nobody takes; then comes nothing, a disconnect, or more input.
    for then in ["nothing", "disconnect", "input"] {
        Sim::new().run(async |sim| {
            let probe = Probe::new(&sim).on("handle_frame", Reply::wait(&Gate::new()));
            let (client, mut peer, _) = connected(&sim, probe).await;
            sim.sleep(secs(1)).await;
            peer.send(&[text("one"), text("two"), CLOSE_1000.to_vec()].concat()).await;
            sim.sleep(secs(1)).await;
            if then == "disconnect" {
                client.disconnect().await;
            }
            let (at, code) = (if then == "disconnect" { 2000 } else { 3500 }, close_of(&peer.frame().await).0);
            assert_eq!((sim.elapsed(), code), (Duration::from_millis(at), 1000), "half the time, or the call");
            while then == "input" && sim.elapsed() < secs(20) && peer.try_send(&text("more")).await.is_ok() {
                sim.sleep(Duration::from_millis(100)).await;
            }
            sim.noted("net closed").await;
            let closed = since(sim.journal(), "net closed").remove(0);
            assert_eq!(closed, "6000ms net closed", "{then}: 5 s from the peer's Close");
        });
    }
}

#[test]
fn rule_4_14_close_frames_that_must_not_be_sent_cannot_be_built() {
    for code in 0..=u16::MAX {
        let sendable = matches!(code, 1000..=1003 | 1007..=1014 | 3000..=4999);
        assert_eq!(CloseFrame::new(code, "").is_ok(), sendable, "{code}");
    }
    assert!(CloseFrame::new(1000, "x".repeat(123)).is_ok());
    assert_eq!(CloseFrame::new(1000, "x".repeat(124)), Err(CloseFrameError::ReasonTooLong { len: 124 }));
    assert!(CloseFrame::new(1000, "é".repeat(62)).is_err(), "bytes count, not characters");
}

#[test]
fn rule_4_15_a_failed_write_gives_the_sender_and_handle_disconnect_the_same_error() {
    Sim::new().run(async |sim| {
        let (client, _peer, listener) = connected(&sim, Probe::new(&sim)).await;
        listener.wire().fail_client_writes(ErrorKind::HostUnreachable);
        let error = client.send_frame(Frame::text("x")).await.unwrap_err();
        let SendError::Lost(DisconnectReason::Tcp(error)) = error else { panic!("{error}") };
        assert_eq!(error.kind(), ErrorKind::HostUnreachable);
        sim.noted("handle_disconnect TCP failed: host unreachable").await;
    });
}

#[test]
fn rule_4_15_a_failed_flush_counts_as_a_failed_write() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000).staged());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.feed_frame(Frame::binary(vec![0; 900])).await.unwrap();
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::binary(vec![0; 900])).await });
        sim.settle().await;
        assert!(!send.is_done());
        listener.wire().fail_client_writes(ErrorKind::BrokenPipe);
        assert!(matches!(send.await, Err(SendError::Lost(DisconnectReason::Tcp(_)))));
        sim.noted("handle_disconnect TCP failed: broken pipe").await;
    });
}

#[test]
fn rule_4_11_sends_after_a_close_get_closing() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        let frame = Frame::text("late");
        client.disconnect().await;
        for outcome in [
            client.try_send_frame(frame.clone()),
            client.feed_frame(frame.clone()).await,
            client.send_frame(frame.clone()).await,
        ] {
            assert!(matches!(&outcome, Err(SendError::Closing(back)) if *back == frame), "{outcome:?}");
        }
        finish(&mut peer, 1000).await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert!(matches!(client.try_send_frame(frame), Err(SendError::Disconnected(_))));
    });
    // By the peer.
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.send(CLOSE_1000).await;
        assert_eq!(close_of(&peer.frame().await).0, 1000);
        assert!(matches!(client.try_send_frame(Frame::text("late")), Err(SendError::Closing(_))));
        assert!(matches!(client.send_frame(Frame::text("late")).await, Err(SendError::Closing(_))));
    });
}
