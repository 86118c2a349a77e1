//! Section 4 of the guide, reconnecting: rules 4.16 to 4.19, with 3.2, 3.7 and 4.4; and timers (3.6).

use std::sync::Arc;
use std::time::Duration;

use parley_proto::codec::{CloseFrame, Frame, FrameError};
use parley_proto::driver::TlsError;
use parley_proto::session::{ClientOptions, ClientState, Reconnect};
use parley_proto::{Action, ConnectPhase, DisconnectReason, NetworkError, ProtocolError, Retry, SendError, StopReason};
use parley_tests::raw;
use parley_tests::sim::{Probe, Reply, Sim};

use crate::common::{Probed, addr, connected, connected_with, finish, millis, options, secs, since};

fn coming_back(reconnect: Reconnect) -> ClientOptions {
    let mut options = options();
    options.reconnect = Some(reconnect);
    options
}

/// When each attempt began, in milliseconds.
fn attempts(sim: &Sim) -> Vec<u64> {
    let prepared = sim.calls().into_iter().filter(|line| line.contains("ms prepare "));
    prepared.map(|line| line.split_once("ms").unwrap().0.parse().unwrap()).collect()
}

async fn start(sim: &Sim, reconnect: Reconnect, probe: Probe) -> Probed {
    sim.start_with(coming_back(reconnect), |own| probe.with_own(own)).await.unwrap()
}

#[test]
fn rule_4_16_the_delays_double_and_stay_within_the_upper_half() {
    Sim::new().run(async |sim| {
        let client = start(&sim, Reconnect::default(), Probe::new(&sim)).await; // nobody listens: refused
        sim.noted("prepare 9").await;
        let at = attempts(&sim);
        for (pair, seconds) in at.windows(2).zip([1, 2, 4, 8, 16, 30, 30, 30]) {
            let (delay, most) = (pair[1] - pair[0], seconds * 1000);
            assert!(delay >= most / 2 && delay <= most, "{delay} of {most}");
        }
        client.stop().await;
        client.join().await.unwrap();
    });
}

#[test]
fn rule_4_16_a_connection_that_lived_long_enough_starts_the_backoff_anew() {
    for (lives, anew) in [(secs(4), false), (secs(5), true)] {
        Sim::new().run(async |sim| {
            // Three refusals first, so that the next delay would be over 4 s.
            let client = start(&sim, Reconnect::default(), Probe::new(&sim)).await;
            sim.noted("prepare 3").await;
            sim.settle().await;
            let listener = sim.listen(addr());
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            sim.noted("handle_connect").await;
            sim.sleep(lives).await;
            let down = sim.elapsed();
            peer.shutdown().await;
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            let delay = sim.elapsed() - down;
            assert_eq!(delay <= secs(1), anew, "{delay:?}");
            client.wait_for(ClientState::Connected).await.unwrap();
            client.stop().await;
            finish(&mut peer, 1000).await;
            client.join().await.unwrap();
        });
    }
}

#[test]
fn rule_4_17_after_the_last_retry_the_client_ends() {
    Sim::new().run(async |sim| {
        let client = start(&sim, Reconnect::default().max_retries(2), Probe::new(&sim)).await;
        let error = client.join().await.unwrap_err();
        let StopReason::MaxRetriesExceeded(reason) = error.reason() else { panic!("{error}") };
        assert!(matches!(reason, DisconnectReason::Tcp(_)));
        assert!(error.into_handler().is_some());
        let calls = sim.calls();
        assert_eq!(attempts(&sim).len(), 3, "{calls:?}");
        assert_eq!(calls.iter().filter(|line| line.contains("handle_disconnect")).count(), 3, "{calls:?}");
        assert!(calls.last().unwrap().contains("terminate given up after the last retry"));
    });
}

#[test]
fn rule_4_17_an_attempt_that_is_forced_is_not_limited() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim)
            .once("handle_disconnect", Reply::Retry(Retry::Reconnect))
            .once("handle_disconnect", Reply::Retry(Retry::After(millis(70))));
        let client = start(&sim, Reconnect::default().max_retries(0), probe).await;
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::MaxRetriesExceeded(_)));
        let at = attempts(&sim);
        assert_eq!(at.len(), 3);
        assert!(at[1] - at[0] >= 500 && at[1] - at[0] <= 1000, "{at:?}");
        assert_eq!(at[2] - at[1], 70);
    });
}

#[test]
fn rule_4_17_an_attempt_after_a_delay_of_the_handlers_counts() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).once("handle_disconnect", Reply::Retry(Retry::After(millis(70))));
        let client = start(&sim, Reconnect::default().max_retries(1), probe).await;
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::MaxRetriesExceeded(_)));
        assert_eq!(attempts(&sim).len(), 2, "{:?}", sim.calls());
    });
}

#[test]
fn rule_4_18_a_local_disconnect_does_not_reconnect_unless_the_handler_says_so() {
    Sim::new().run(async |sim| {
        let options = coming_back(Reconnect::default());
        let (client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim)).await;
        client.disconnect().await;
        finish(&mut peer, 1000).await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(3600)).await;
        assert_eq!(attempts(&sim).len(), 1);
        assert_eq!(client.state(), ClientState::Disconnected);
        client.join().await.unwrap();
    });
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).once("handle_disconnect", Reply::Retry(Retry::After(secs(7))));
        let (client, mut peer, listener) = connected(&sim, probe).await; // also where the option is off
        client.disconnect().await;
        finish(&mut peer, 1000).await;
        let mut peer = listener.accept().await;
        assert_eq!(sim.elapsed(), secs(7));
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
    });
}

#[test]
fn rule_4_18_a_disconnect_while_the_peer_closes_keeps_the_reason_and_stays_down() {
    Sim::new().run(async |sim| {
        let options = coming_back(Reconnect::default());
        let (client, mut peer, _) = connected_with(&sim, options, Probe::new(&sim)).await;
        peer.send(&raw::frame(0x88, b"\x03\xe9")).await;
        peer.frame().await; // its answer: the client waits for the FIN now
        client.disconnect().await;
        sim.settle().await;
        peer.shutdown().await;
        sim.noted("handle_disconnect closed by the peer with").await;
        sim.sleep(secs(3600)).await;
        assert_eq!(attempts(&sim).len(), 1);
        client.join().await.unwrap();
    });
}

#[test]
fn rule_4_19_policy_tries_again_after_what_is_transient_only() {
    let close = |code: u16| DisconnectReason::Remote(Some(CloseFrame::new(code, "").unwrap()));
    let io = || NetworkError::from(std::io::Error::other("x"));
    let transient = [
        DisconnectReason::Remote(None),
        close(1000),
        close(1001),
        close(1011),
        close(1012),
        close(4000),
        DisconnectReason::Eof,
        DisconnectReason::Dns(io()),
        DisconnectReason::Tcp(io()),
        DisconnectReason::Tls(TlsError::Io(Arc::new(std::io::Error::other("x")))),
        DisconnectReason::ConnectTimeout(ConnectPhase::Upgrade),
    ];
    let lasting = [
        DisconnectReason::Local,
        DisconnectReason::Requested(CloseFrame::normal()),
        close(1002),
        close(1003),
        close(1007),
        close(1008),
        close(1009),
        close(1010),
        DisconnectReason::Protocol(ProtocolError::Frame(FrameError::ReservedBits)),
        DisconnectReason::Tls(TlsError::ServerName("x".into())),
    ];
    assert!(transient.iter().all(DisconnectReason::is_transient));
    assert!(!lasting.iter().any(DisconnectReason::is_transient));
}

#[test]
fn rule_4_19_statuses_and_retry_after() {
    let date = "Date: Sun, 06 Nov 1994 08:49:37 GMT\r\nRetry-After: Sun, 06 Nov 1994 08:51:37 GMT\r\n";
    let refusals = [
        (503, "", true),
        (429, "Retry-After: 120\r\n", true),
        (503, date, true),
        (408, "", true),
        (401, "", false),
        (404, "", false),
    ];
    for (status, header, again) in refusals {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let client = start(&sim, Reconnect::default(), Probe::new(&sim)).await;
            let mut peer = listener.accept().await;
            peer.head().await;
            peer.send(format!("HTTP/1.1 {status} No\r\n{header}Content-Length: 0\r\n\r\n").as_bytes()).await;
            sim.noted("handle_disconnect").await;
            if again {
                listener.accept().await;
                let waited = sim.elapsed();
                let floor = if header.is_empty() { Duration::ZERO } else { secs(120) };
                assert!(waited >= floor && waited <= floor + secs(1), "{status}: {waited:?}");
            } else {
                sim.sleep(secs(3600)).await;
                assert_eq!(attempts(&sim).len(), 1, "{status}");
            }
            client.stop().await;
            client.join().await.unwrap();
        });
    }
}

#[test]
fn rule_4_19_retry_after_is_at_most_five_minutes() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let _client = start(&sim, Reconnect::default(), Probe::new(&sim)).await;
        let mut peer = listener.accept().await;
        peer.head().await;
        peer.send(b"HTTP/1.1 503 No\r\nRetry-After: 86400\r\nContent-Length: 0\r\n\r\n").await;
        listener.accept().await;
        assert_eq!(sim.elapsed(), secs(300));
    });
}

#[test]
fn rule_3_7_a_handler_that_refreshes_its_token_answers_a_401_with_reconnect() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim)
            .preparing("authorization", "Bearer fresh")
            .once("handle_disconnect upgrade refused with status 401", Reply::Retry(Retry::Reconnect));
        let listener = sim.listen(addr());
        let client = start(&sim, Reconnect::default(), probe).await;
        let mut peer = listener.accept().await;
        peer.head().await;
        peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
        let mut peer = listener.accept().await;
        let head = peer.upgrade("").await;
        assert!(head.contains("Bearer fresh"), "{head}");
        client.wait_for(ClientState::Connected).await.unwrap();
    });
}

#[test]
fn rule_3_2_prepare_sees_the_number_the_last_reason_and_the_time() {
    Sim::new().run(async |sim| {
        let options = coming_back(Reconnect::default());
        let (client, mut peer, listener) = connected_with(&sim, options, Probe::new(&sim)).await;
        peer.shutdown().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let elapsed = sim.elapsed().as_millis();
        let line = format!("{elapsed}ms prepare 2 last stream ended without a Close elapsed {elapsed}ms");
        assert!(sim.calls().contains(&line), "{:?}", sim.calls());
        client.wait_for(ClientState::Connected).await.unwrap();
    });
}

#[test]
fn rule_4_4_disconnect_cancels_a_pending_retry_and_calls_nothing() {
    Sim::new().run(async |sim| {
        let client = start(&sim, Reconnect::default(), Probe::new(&sim)).await;
        sim.noted("handle_disconnect").await;
        sim.settle().await;
        assert_eq!(client.state(), ClientState::Disconnected);
        assert!(matches!(client.send_frame(Frame::text("x")).await, Err(SendError::Disconnected(_))));
        let before = sim.calls();
        client.disconnect().await;
        sim.sleep(secs(3600)).await;
        assert_eq!(sim.calls(), before);
    });
}

#[test]
fn rule_4_3_a_client_with_a_retry_pending_lives_on_without_a_handle() {
    Sim::new().run(async |sim| {
        let client = start(&sim, Reconnect::default().max_retries(3), Probe::new(&sim)).await;
        drop(client);
        sim.noted("terminate given up").await;
        assert_eq!(attempts(&sim).len(), 4);
    });
}

#[test]
fn rule_4_5_no_send_is_carried_to_the_next_attempt() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = start(&sim, Reconnect::default(), Probe::new(&sim)).await;
        let peer = listener.accept().await;
        let (sent, ()) = (client.feed_frame(Frame::text("lost")).await, peer.reset());
        sent.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.send_frame(Frame::text("new")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"new");
    });
}

#[test]
fn connect_skips_a_pending_delay_and_reconnect_closes_and_dials_again() {
    Sim::new().run(async |sim| {
        let (client, mut peer, listener) = connected(&sim, Probe::new(&sim)).await;
        client.connect().await; // nothing to do while connected
        client.reconnect(CloseFrame::new(4000, "again").unwrap()).await;
        finish(&mut peer, 4000).await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        assert_eq!(sim.elapsed(), secs(0), "at once");
        client.wait_for(ClientState::Connected).await.unwrap();
        let calls = since(sim.calls(), "handle_disconnect");
        assert!(calls[0].ends_with("disconnected by the application"), "{calls:?}");

        client.disconnect().await;
        finish(&mut peer, 1000).await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        sim.settle().await;
        client.connect().await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
    });
    Sim::new().run(async |sim| {
        let client = start(&sim, Reconnect::default().base(secs(30)), Probe::new(&sim)).await;
        sim.noted("handle_disconnect").await;
        sim.settle().await;
        let listener = sim.listen(addr());
        client.connect().await;
        listener.accept().await.upgrade("").await;
        assert_eq!(sim.elapsed(), secs(0));
    });
}

#[test]
fn an_action_can_ask_for_a_new_connection() {
    Sim::new().run(async |sim| {
        let again = Reply::Act(Action::Reconnect(CloseFrame::going_away()));
        let (client, mut peer, listener) = connected(&sim, Probe::new(&sim).once("handle_frame", again)).await;
        peer.send(&raw::frame(0x81, b"move")).await;
        finish(&mut peer, 1001).await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        assert!(sim.calls().iter().any(|line| line.contains("handle_disconnect disconnected by a callback")));
    });
}

#[test]
fn handle_disconnect_can_stay_down_though_a_new_connection_was_asked_for() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(Retry::Stay));
        let (client, mut peer, _) = connected(&sim, probe).await;
        client.reconnect(CloseFrame::normal()).await;
        finish(&mut peer, 1000).await;
        sim.sleep(secs(3600)).await;
        assert_eq!(attempts(&sim).len(), 1);
        client.join().await.unwrap();
    });
}

#[test]
fn rule_3_6_a_delayed_info_comes_when_it_is_due_in_every_state_and_can_be_cancelled() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.send_info_after(secs(2), "second".into()).unwrap();
        client.send_info_after(secs(1), "first".into()).unwrap();
        let never = client.send_info_after(secs(3), "never".into()).unwrap();
        client.send_info_after(secs(60), "while disconnected".into()).unwrap();
        sim.noted("handle_info second").await;
        client.cancel(never);
        client.disconnect().await;
        finish(&mut peer, 1000).await;
        sim.noted("handle_info while disconnected").await;
        let infos: Vec<_> = sim.calls().into_iter().filter(|line| line.contains("handle_info")).collect();
        let expected =
            ["1000ms handle_info first", "2000ms handle_info second", "60000ms handle_info while disconnected"];
        assert_eq!(infos, expected);
        // 4.3: the timer kept the client; now nothing does.
        client.join().await.unwrap();
    });
}

#[test]
fn rule_3_6_a_delayed_info_counts_to_the_queue_until_it_is_delivered_or_cancelled() {
    Sim::new().run(async |sim| {
        let mut options = options();
        options.connection.limits = options.connection.limits.with_info_queue(1).unwrap();
        let (client, _peer, _) = connected_with(&sim, options, Probe::new(&sim)).await;
        let id = client.send_info_after(secs(9), "one".into()).unwrap();
        assert!(client.try_send_info("two".into()).is_err());
        client.cancel(id);
        client.send_info("three".into()).await.unwrap();
        sim.noted("handle_info three").await;
    });
}

#[test]
fn rule_3_3_nothing_leaves_ahead_of_the_greeting_though_the_end_is_near() {
    // The peer's Close, an error, and a disconnect of our own, each before `handle_connect` has returned.
    for end in [&b"\x88\x02\x03\xe8"[..], b"\x83\x00", b""] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let probe = Probe::new(&sim).on("handle_connect", Reply::push("auth").after(secs(1)));
            let client = sim.start(options(), probe).await.unwrap();
            let handle = client.handle();
            let queued = sim.spawn(async move { handle.send_frame(Frame::text("queued")).await });
            let mut peer = listener.accept().await;
            peer.upgrade_with(end).await;
            sim.noted("handle_connect").await;
            if end.is_empty() {
                client.disconnect().await;
            }
            assert_eq!(peer.frame().await.payload, b"auth");
            assert_eq!(peer.frame().await.payload, b"queued", "the end takes effect behind it");
            assert_eq!(peer.frame().await.first, 0x88);
            queued.await.unwrap();
        });
    }
}

#[test]
fn rule_4_16_the_backoff_starts_anew_also_where_only_the_handler_retries() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(Retry::Reconnect));
        let (_client, mut peer, listener) = connected(&sim, probe).await;
        for _ in 0..8 {
            sim.sleep(secs(5)).await;
            let down = sim.elapsed();
            peer.shutdown().await;
            peer = listener.accept().await;
            peer.upgrade("").await;
            assert!(sim.elapsed() - down <= secs(1));
        }
    });
}

#[test]
fn rule_4_18_a_disconnect_that_handle_disconnect_was_not_told_of_has_the_last_word() {
    for retry in [Retry::Reconnect, Retry::After(secs(1)), Retry::Policy] {
        Sim::new().run(async |sim| {
            let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(retry).after(secs(2)));
            let options = coming_back(Reconnect::default());
            let (client, mut peer, _) = connected_with(&sim, options, probe).await;
            peer.shutdown().await;
            sim.noted("handle_disconnect stream ended").await;
            client.disconnect().await;
            sim.sleep(secs(3600)).await;
            assert_eq!(attempts(&sim).len(), 1);
        });
    }
}

#[test]
fn connect_behind_a_disconnect_is_not_lost() {
    Sim::new().run(async |sim| {
        let (client, mut peer, listener) = connected(&sim, Probe::new(&sim)).await;
        client.disconnect().await;
        client.connect().await;
        finish(&mut peer, 1000).await;
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
    });
}

#[test]
fn rule_4_5_a_send_that_waits_for_room_is_not_carried_to_the_next_attempt() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let mut options = options();
        options.connection.limits = options.connection.limits.with_send_queue(40).unwrap();
        let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(Retry::After(Duration::ZERO)));
        let client = sim.start(options, probe).await.unwrap();
        client.feed_frame(Frame::text("fills")).await.unwrap();
        let handle = client.handle();
        let waits = sim.spawn(async move { handle.send_frame(Frame::text("waits")).await });
        sim.settle().await;
        let peer = listener.accept().await;
        peer.reset();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let error = waits.await.unwrap_err();
        assert!(matches!(error, SendError::Disconnected(_)), "{error}");
    });
}

#[test]
fn rule_4_1_a_failed_upgrade_does_not_wait_for_another_callback() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let probe = Probe::new(&sim).on("handle_info", Reply::Act(Action::Continue).after(secs(60)));
        let client = sim.start(options(), probe).await.unwrap();
        let mut peer = listener.accept().await;
        client.send_info("slow".into()).await.unwrap();
        sim.noted("handle_info").await;
        peer.head().await;
        peer.send(b"HTTP/1.1 401 No\r\nContent-Length: 0\r\n\r\n").await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        assert_eq!(sim.elapsed(), secs(0));
        client.disconnect().await;
        sim.noted("handle_disconnect upgrade refused with status 401").await;
        assert_eq!(sim.elapsed(), secs(60), "callbacks do not overlap");
    });
}
