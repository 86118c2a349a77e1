//! Section 4 of the guide, disconnected and connecting: rules 4.1 to 4.6.

use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::Duration;

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Setup, TlsError};
use parley_proto::session::{ClientOptions, ClientState};
use parley_proto::{ConnectPhase, DisconnectReason, Limits, Retry, SendError, StopReason};
use parley_tests::raw;
use parley_tests::sim::{Fate, Gate, Link, Probe, Reply, Sim};

use crate::common::{addr, connected, finish, millis, options, secs, since};

const NAMED: &str = "ws://echo.test/";
const SECURE: &str = "wss://echo.test/";

fn named(url: &str) -> ClientOptions {
    ClientOptions::new(url).unwrap()
}

#[test]
fn rule_4_1_the_transport_is_closed_before_handle_disconnect_runs() {
    // By the peer's FIN, its Close, its mistake, a reset; and by us.
    let ends: [&[u8]; 4] = [b"", b"\x88\x02\x03\xe8", b"\x83\x00", b"reset"];
    for end in ends {
        Sim::new().run(async |sim| {
            let (_client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
            if end == b"reset" {
                peer.reset();
            } else {
                peer.send(end).await;
                peer.shutdown().await;
                sim.noted("net closed").await;
            }
            sim.noted("handle_disconnect").await;
            sim.settle().await;
            let end = since(sim.journal(), "net closed");
            assert_eq!(end.len(), 2, "one handle_disconnect: {end:?}");
            assert!(end[1].starts_with("0ms handle_disconnect"));
        });
    }
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.disconnect().await;
        finish(&mut peer, 1000).await;
        sim.noted("handle_disconnect").await;
        assert_eq!(
            since(sim.journal(), "net closed"),
            ["0ms net closed", "0ms handle_disconnect disconnected by the application"]
        );
    });
}

#[test]
fn rule_4_1_the_transport_is_closed_while_a_callback_still_runs() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (_client, mut peer, listener) =
            connected(&sim, Probe::new(&sim).on("handle_frame", Reply::wait(&gate))).await;
        peer.send(&raw::frame(0x81, b"x")).await;
        peer.shutdown().await;
        sim.noted("net closed").await;
        assert!(listener.wire().is_closed_by_client());
        gate.open();
        sim.noted("handle_disconnect").await;
    });
}

#[test]
fn rule_4_2_the_first_attempt_that_reaches_nothing_ends_the_client_without_handle_disconnect() {
    type Tell = fn(&Sim);
    let cases: [(&str, Tell, &str, u64); 8] = [
        (NAMED, |_| {}, "name resolution failed: entity not found", 0),
        (
            NAMED,
            |sim| sim.on_resolve("echo.test", Fate::Now(Ok(vec![]))),
            "name resolution failed: the host has no address",
            0,
        ),
        (NAMED, |sim| sim.on_resolve("echo.test", Fate::Never), "connect timeout during DNS", 10),
        (NAMED, |sim| sim.on_resolve("echo.test", Fate::Now(Ok(vec![addr()]))), "TCP failed: connection refused", 0),
        (
            NAMED,
            |sim| {
                sim.on_resolve("echo.test", Fate::Now(Ok(vec![addr()])));
                sim.on_dial(addr(), Fate::Never);
            },
            "connect timeout during TCP",
            10,
        ),
        (SECURE, |sim| sim.on_tls(Fate::Never), "connect timeout during TLS", 10),
        (
            SECURE,
            |sim| sim.on_tls(Fate::Now(Err(TlsError::Io(Arc::new(Error::from(ErrorKind::UnexpectedEof)))))),
            "TLS handshake interrupted: unexpected end of file",
            0,
        ),
        (
            SECURE,
            |sim| sim.on_tls(Fate::Now(Err(TlsError::Handshake("unknown issuer".into_error())))),
            "TLS handshake failed: unknown issuer",
            0,
        ),
    ];
    for (url, tell, reason, time) in cases {
        Sim::new().run(async |sim| {
            let _listener = (url == SECURE).then(|| {
                sim.on_resolve("echo.test", Fate::Now(Ok(vec!["10.0.0.1:443".parse().unwrap()])));
                sim.listen("10.0.0.1:443".parse().unwrap())
            });
            tell(&sim);
            let client = sim.start(named(url), Probe::new(&sim)).await.unwrap();
            let handle = client.handle();
            let send = sim.spawn(async move { handle.send_frame(Frame::text("waits")).await });
            let error = client.join().await.unwrap_err();
            assert_eq!(error.to_string(), reason);
            assert!(matches!(error.reason(), StopReason::Disconnected(_)));
            assert!(error.into_handler().is_some());
            assert_eq!(sim.elapsed(), secs(time));
            let ms = time * 1000;
            assert_eq!(
                since(sim.calls(), "prepare"),
                ["0ms prepare 1 last none elapsed 0ms".to_owned(), format!("{ms}ms terminate {reason}")]
            );
            let error = send.await.unwrap_err();
            assert_eq!(error.into_frame(), Some(Frame::text("waits")));
        });
    }
}

trait IntoError {
    fn into_error(self) -> Arc<dyn std::error::Error + Send + Sync>;
}

impl IntoError for &'static str {
    fn into_error(self) -> Arc<dyn std::error::Error + Send + Sync> {
        Box::<dyn std::error::Error + Send + Sync>::from(self).into()
    }
}

#[test]
fn rule_4_2_everything_else_goes_to_handle_disconnect_and_the_client_lives_on() {
    let answers: [(&str, &str, u64); 6] = [
        ("HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno", "upgrade refused with status 401", 0),
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n", "upgrade refused with status 403", 0),
        ("HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n", "protocol error", 0),
        ("HTTP/1.1 101 Switch", "stream ended without a Close", 0),
        ("reset", "TCP failed: connection reset", 0),
        ("silence", "connect timeout during upgrade", 10),
    ];
    for (answer, reason, time) in answers {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
            let mut peer = listener.accept().await;
            peer.head().await;
            let _peer = match answer {
                "reset" => {
                    peer.reset();
                    None
                }
                "silence" => Some(peer),
                answer => {
                    peer.send(answer.as_bytes()).await;
                    peer.shutdown().await;
                    Some(peer)
                }
            };
            sim.noted("handle_disconnect").await;
            let calls = since(sim.calls(), "handle_disconnect");
            assert!(calls[0].starts_with(&format!("{}ms handle_disconnect {reason}", time * 1000)), "{calls:?}");
            sim.settle().await;
            assert_eq!(client.state(), ClientState::Disconnected, "it lives on");
            assert_eq!(sim.calls().len(), 3, "one handle_disconnect");
        });
    }
}

#[test]
fn rule_4_2_user_code_sees_the_refusal() {
    use parley_proto::Handler;

    #[derive(Debug)]
    struct Refused(Sim);

    impl Handler for Refused {
        async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
            let DisconnectReason::Rejected(rejected) = reason else { panic!("{reason}") };
            assert_eq!(rejected.status, 401);
            assert_eq!(rejected.headers.get("www-authenticate").unwrap(), "Bearer");
            assert_eq!(rejected.body.len(), 4096, "the first 4 KiB of the body");
            self.0.note("seen");
            Retry::Stop
        }
    }

    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Refused(sim.clone())).await.unwrap();
        let mut peer = listener.accept().await;
        peer.head().await;
        peer.send(b"HTTP/1.1 401 No\r\nWWW-Authenticate: Bearer\r\nContent-Length: 9000\r\n\r\n").await;
        peer.try_send(&[b'x'; 9000]).await.ok();
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Rejected(_))));
        sim.noted("seen").await;
    });
}

#[test]
fn rule_4_2_a_refusal_that_is_cut_off_keeps_its_status() {
    for reset in [true, false] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
            let mut peer = listener.accept().await;
            peer.head().await;
            peer.send(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 100\r\n\r\nexpired").await;
            sim.settle().await;
            assert_eq!(listener.wire().unread_by_client(), 0);
            if reset {
                peer.reset();
            } else {
                peer.shutdown().await;
            }
            sim.noted("handle_disconnect upgrade refused with status 401").await;
            let error = client.join().await.unwrap_err();
            let StopReason::Disconnected(DisconnectReason::Rejected(rejected)) = error.reason() else {
                panic!("{error}")
            };
            assert_eq!(rejected.body, "expired", "what there was of the body");
        });
    }
}

#[test]
fn rule_4_2_addresses_are_tried_in_turn_within_the_one_deadline() {
    let [silent, refusing, good] = ["10.0.0.2:80", "10.0.0.3:80", "10.0.0.1:80"].map(|addr| addr.parse().unwrap());
    Sim::new().run(async |sim| {
        sim.on_resolve("echo.test", Fate::Now(Ok(vec![silent, refusing, good])));
        sim.on_dial(silent, Fate::Never);
        let listener = sim.listen(good);
        let client = sim.start(named(NAMED), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        let head = peer.upgrade("").await;
        assert_eq!(raw::header(&head, "host"), Some("echo.test"));
        client.wait_for(ClientState::Connected).await.unwrap();
        assert_eq!(
            since(sim.journal(), "net resolve"),
            [
                "0ms net resolve echo.test:80",
                "0ms net dial 10.0.0.2:80",
                "3333ms net dial given up",
                "3333ms net dial 10.0.0.3:80",
                "3333ms net dial 10.0.0.1:80",
                "3333ms handle_connect 101 -",
            ]
        );
    });
}

#[test]
fn rule_4_3_a_client_that_nobody_can_reach_ends_with_its_last_reason() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        let handle = client.handle();
        drop(client); // detaches
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(60)).await;
        assert_eq!(handle.state(), ClientState::Disconnected, "a handle keeps it");
        handle.send_info("alive".into()).await.unwrap();
        sim.noted("handle_info alive").await;
        drop(handle);
        sim.noted("terminate stream ended without a Close").await;
    });
}

#[test]
fn rule_4_3_dropping_the_client_detaches_it_while_connected() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        drop(client);
        for _ in 0..3 {
            // The client's keepalive asks whether the peer is there.
            let ping = peer.frame().await;
            assert_eq!(ping.first, 0x89);
            peer.send(&raw::frame(0x8a, &ping.payload)).await;
        }
        assert_eq!(sim.elapsed(), secs(60));
        peer.send(&raw::frame(0x81, b"still here")).await;
        sim.noted("handle_frame text still here").await;
    });
}

#[test]
fn rule_4_3_the_own_handle_does_not_count() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let setup = Setup::new(options());
        let own = setup.own_handle();
        let life = sim.spawn(setup.run(sim.runtime(), Probe::new(&sim)));
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        peer.send(&raw::frame(0x88, b"\x03\xe9")).await;
        peer.shutdown().await;
        assert!(life.await.is_ok(), "run returns after its one connection");
        assert_eq!(own.state(), ClientState::Stopped);
        assert_eq!(
            since(sim.calls(), "handle_disconnect"),
            ["0ms handle_disconnect closed by the peer with 1001", "0ms terminate closed by the peer with 1001"]
        );
    });
}

#[test]
fn rule_4_3_infos_that_wait_are_delivered_before_the_end() {
    Sim::new().run(async |sim| {
        let gate = Gate::new();
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim).on("handle_disconnect", Reply::wait(&gate))).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        client.send_info("last".into()).await.unwrap();
        drop(client);
        gate.open();
        sim.noted("terminate").await;
        assert_eq!(
            since(sim.calls(), "goes on")[1..],
            ["0ms handle_info last", "0ms terminate stream ended without a Close"]
        );
    });
}

#[test]
fn rule_4_4_sends_give_disconnected_at_once_with_the_frame() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.shutdown().await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        let frame = Frame::text("x");
        for outcome in [
            client.send_frame(frame.clone()).await,
            client.feed_frame(frame.clone()).await,
            client.try_send_frame(frame.clone()),
        ] {
            assert!(matches!(outcome, Err(SendError::Disconnected(back)) if back == frame));
        }
        client.flush().await.unwrap();
    });
}

#[test]
fn rule_4_4_disconnect_calls_nothing_while_disconnected() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        client.disconnect().await;
        client.disconnect_with(CloseFrame::going_away()).await;
        client.send_info("after".into()).await.unwrap();
        sim.noted("handle_info after").await;
        assert_eq!(since(sim.calls(), "handle_disconnect").len(), 2);
    });
}

#[test]
fn rule_4_4_a_disconnect_while_init_runs_cancels_the_first_attempt() {
    // By the own handle, in an `init` that waits behind it or does not; by another task.
    for (how, waits) in [("own", false), ("own", true), ("other", true)] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let gate = Gate::new();
            let setup = Setup::new(options());
            let own = setup.own_handle();
            let init = Reply::own(move |own| async move {
                if how == "own" {
                    own.disconnect().await;
                }
                Reply::Act(parley_proto::Action::Continue)
            });
            let init = if waits { Reply::wait(&gate) } else { init };
            let (client, life) = setup.client(sim.runtime(), Probe::new(&sim).with_own(own.clone()).on("init", init));
            sim.spawn(life);
            if waits {
                sim.noted("init").await;
                if how == "own" {
                    own.disconnect().await;
                } else {
                    client.disconnect().await;
                }
                sim.settle().await;
                gate.open();
            }
            client.started().await.unwrap();
            assert_eq!(client.state(), ClientState::Disconnected);
            sim.sleep(secs(60)).await;
            assert!(!sim.journal().iter().any(|line| line.contains("prepare") || line.contains("net dial")), "{how}");
            assert!(!sim.calls().iter().any(|line| line.contains("handle_disconnect")), "there was nothing to end");
            client.send_info("alive".into()).await.unwrap();
            sim.noted("handle_info alive").await;
            // It is as any client that is disconnected.
            client.connect().await;
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            client.wait_for(ClientState::Connected).await.unwrap();
            client.disconnect().await;
            finish(&mut peer, 1000).await;
            client.join().await.unwrap();
        });
    }
}

#[test]
fn rule_4_4_a_client_disconnected_while_init_runs_ends_cleanly_when_nobody_can_reach_it() {
    Sim::new().run(async |sim| {
        let init = Reply::own(async |own| {
            own.disconnect().await;
            Reply::Act(parley_proto::Action::Continue)
        });
        let setup = Setup::new(options());
        let probe = Probe::new(&sim).with_own(setup.own_handle()).on("init", init);
        assert!(setup.run(sim.runtime(), probe).await.is_ok());
        assert_eq!(sim.calls(), ["0ms init", "0ms init goes on", "0ms terminate disconnected by the application"]);
    });
}

#[test]
fn rule_4_4_what_is_asked_for_last_while_init_runs_decides() {
    for (asks, attempt) in [("dc", true), ("cd", false), ("dr", true), ("rd", false), ("r", true), ("c", true)] {
        Sim::new().run(async |sim| {
            let _listener = sim.listen(addr());
            let init = Reply::own(move |own| async move {
                for ask in asks.chars() {
                    match ask {
                        'd' => own.disconnect().await,
                        'c' => own.connect().await,
                        _ => own.reconnect(CloseFrame::normal()).await,
                    }
                }
                Reply::Act(parley_proto::Action::Continue)
            });
            let probe = Probe::new(&sim).on("init", init);
            let client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
            let state = if attempt { ClientState::Connecting } else { ClientState::Disconnected };
            assert_eq!(client.state(), state, "{asks}");
            sim.settle().await;
            assert_eq!(
                sim.calls().iter().filter(|line| line.contains("prepare")).count(),
                usize::from(attempt),
                "{asks}"
            );
        });
    }
}

#[test]
fn rule_4_5_sends_wait_in_arrival_order_and_go_out_after_the_push_of_handle_connect() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        sim.on_dial(addr(), Fate::After(secs(2), Ok(())));
        let client = sim.start(options(), Probe::new(&sim).on("handle_connect", Reply::push("auth"))).await.unwrap();
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::text("1")).await });
        sim.settle().await;
        client.try_send_frame(Frame::text("2")).unwrap();
        client.feed_frame(Frame::text("3")).await.unwrap();
        let mut peer = listener.accept().await;
        client.try_send_frame(Frame::text("4")).unwrap();
        assert!(!send.is_done());
        peer.upgrade("").await;
        send.await.unwrap();
        for text in ["auth", "1", "2", "3", "4"] {
            assert_eq!(peer.frame().await.payload, text.as_bytes());
        }
        assert_eq!(sim.elapsed(), secs(2));
    });
}

#[test]
fn rule_4_5_the_queue_is_bounded_while_connecting() {
    Sim::new().run(async |sim| {
        sim.on_dial(addr(), Fate::Never);
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(1000).unwrap();
        let client = sim.start(options, Probe::new(&sim)).await.unwrap();
        client.try_send_frame(Frame::binary(vec![0; 900])).unwrap();
        assert!(matches!(client.try_send_frame(Frame::binary(vec![1; 900])), Err(SendError::Full(_))));
        let handle = client.handle();
        let waits = sim.spawn(async move { handle.feed_frame(Frame::binary(vec![2; 900])).await });
        sim.settle().await;
        assert!(!waits.is_done());
        client.disconnect().await;
        let error = waits.await.unwrap_err();
        assert!(matches!(error, SendError::Disconnected(frame) if frame.len() == 900), "none hangs");
    });
}

#[test]
fn rule_4_5_waiting_senders_get_disconnected_after_handle_disconnect_ran() {
    for by_us in [true, false] {
        Sim::new().run(async |sim| {
            let gate = Gate::new();
            let listener = sim.listen(addr());
            let probe = Probe::new(&sim).on("handle_disconnect", Reply::wait(&gate));
            let client = sim.start(options(), probe).await.unwrap();
            let sends: Vec<_> = ["1", "2"]
                .map(|text| {
                    let (sim, handle) = (sim.clone(), client.handle());
                    sim.clone().spawn(async move {
                        let outcome = handle.send_frame(Frame::text(text)).await;
                        sim.note(format!("sender {text}"));
                        outcome
                    })
                })
                .into();
            let mut peer = listener.accept().await;
            sim.settle().await;
            if by_us {
                client.disconnect().await;
            } else {
                peer.head().await;
                peer.send(b"HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n").await;
            }
            sim.noted("handle_disconnect").await;
            sim.settle().await;
            assert!(sends.iter().all(|send| !send.is_done()));
            gate.open();
            for send in sends {
                let error = send.await.unwrap_err();
                assert!(matches!(error, SendError::Disconnected(_)));
            }
            assert_eq!(
                since(sim.calls(), "goes on"),
                ["0ms handle_disconnect goes on", "0ms sender 1", "0ms sender 2"]
            );
        });
    }
}

#[test]
fn rule_4_6_disconnect_aborts_the_attempt_in_every_phase() {
    for phase in [ConnectPhase::Prepare, ConnectPhase::Dns, ConnectPhase::Tcp, ConnectPhase::Tls, ConnectPhase::Upgrade]
    {
        Sim::new().run(async |sim| {
            let secure = "10.0.0.1:443".parse().unwrap();
            let listener = sim.listen(secure);
            sim.on_resolve(
                "echo.test",
                if phase == ConnectPhase::Dns { Fate::Never } else { Fate::Now(Ok(vec![secure])) },
            );
            if phase == ConnectPhase::Tcp {
                sim.on_dial(secure, Fate::Never);
            }
            if phase == ConnectPhase::Tls {
                sim.on_tls(Fate::Never);
            }
            let mut probe = Probe::new(&sim);
            if phase == ConnectPhase::Prepare {
                probe = probe.on("prepare", Reply::wait(&Gate::new()));
            }
            let client = sim.start(named(SECURE), probe).await.unwrap();
            sim.settle().await;
            assert_eq!(client.state(), ClientState::Connecting);
            sim.sleep(millis(1)).await;
            client.disconnect().await;
            client.wait_for(ClientState::Disconnected).await.unwrap();
            sim.noted("handle_disconnect disconnected by the application").await;
            sim.settle().await;
            assert_eq!(sim.elapsed(), millis(1), "at once");
            let last = sim.journal().into_iter().rev().nth(1).unwrap();
            let given_up = match phase {
                ConnectPhase::Prepare => "1ms prepare dropped",
                ConnectPhase::Dns => "1ms net resolve given up",
                ConnectPhase::Tcp => "1ms net dial given up",
                _ => "1ms net closed",
            };
            assert_eq!(last, given_up);
            drop(listener);
            assert!(client.join().await.is_ok(), "an end by Local is clean");
        });
    }
}

#[test]
fn rule_4_6_stop_aborts_the_attempt_without_handle_disconnect() {
    Sim::new().run(async |sim| {
        sim.on_dial(addr(), Fate::Never);
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::text("x")).await });
        sim.settle().await;
        client.stop().await;
        client.join().await.unwrap();
        assert_eq!(sim.calls()[2..], ["0ms terminate stopped"]);
        assert_eq!(send.await.unwrap_err().into_frame(), Some(Frame::text("x")));
    });
}

#[test]
fn rule_4_the_connect_timeout_is_one_deadline_over_all_phases() {
    Sim::new().run(async |sim| {
        let secure = "10.0.0.1:443".parse().unwrap();
        let listener = sim.listen(secure);
        sim.on_resolve("echo.test", Fate::After(secs(2), Ok(vec![secure])));
        sim.on_dial(secure, Fate::After(secs(2), Ok(())));
        sim.on_tls(Fate::After(secs(2), Ok(parley_proto::driver::TlsFacts::new(None, None, Vec::new()))));
        let probe = Probe::new(&sim).on("prepare", Reply::Act(parley_proto::Action::Continue).after(secs(2)));
        let mut options = named(SECURE);
        options.connect_timeout = secs(9);
        let _client = sim.start(options, probe).await.unwrap();
        let mut peer = listener.accept().await;
        peer.head().await;
        assert_eq!(sim.elapsed(), secs(8));
        sim.noted("handle_disconnect connect timeout during upgrade").await;
        assert_eq!(sim.elapsed(), secs(9));
    });
}

#[test]
fn rule_4_timeouts_may_be_of_any_length() {
    let [silent, good] = ["10.0.0.2:80", "10.0.0.1:80"].map(|addr| addr.parse().unwrap());
    Sim::new().run(async |sim| {
        sim.on_resolve("echo.test", Fate::Now(Ok(vec![silent, good])));
        sim.on_dial(silent, Fate::Never);
        let listener = sim.listen(good);
        let mut options = named(NAMED);
        options.connect_timeout = Duration::MAX;
        options.connection.close_timeout = Duration::MAX;
        let client = sim.start(options, Probe::new(&sim).on("terminate", Reply::wait(&Gate::new()))).await.unwrap();
        let mut peer = listener.accept().await;
        sim.sleep(secs(1_000_000)).await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.stop().await;
        sim.sleep(secs(1_000_000)).await;
        assert!(!listener.wire().is_closed_by_client());
        finish(&mut peer, 1000).await;
        sim.noted("terminate").await;
        sim.sleep(secs(1_000_000)).await;
        assert!(!sim.calls().iter().any(|line| line.contains("dropped")));
    });
}

#[test]
fn rule_4_the_states_as_handles_see_them() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().chunk(1));
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        client.wait_for(ClientState::Connecting).await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        peer.shutdown().await;
        client.wait_for(ClientState::Disconnected).await.unwrap();
        let handle = client.handle();
        let never = sim.spawn(async move { handle.wait_for(ClientState::Connected).await });
        sim.settle().await;
        client.stop().await;
        client.wait_for(ClientState::Stopped).await.unwrap();
        assert!(matches!(never.await, Err(StopReason::Stopped)));
    });
}
