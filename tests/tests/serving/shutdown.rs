//! Seeing everybody off, whatever they are at.

use std::pin::pin;
use std::sync::{Arc, Mutex};
use std::task::{Context, Wake};

use parley_proto::codec::Frame;
use parley_proto::driver::{AcceptError, StartError};
use parley_proto::{DisconnectReason, StopReason};
use parley_tests::raw::End;
use parley_tests::sim::{Fate, Gate, Link, Probe, Reply, Sim, SimServerTls};

use super::*;

#[test]
fn a_request_that_is_under_way_is_dropped() {
    for tls in [false, true] {
        Sim::new().run(async |sim| {
            let builder = if tls { any().tls(SimServerTls(Fate::Never)) } else { any() };
            let server = serve(builder);
            let mut peer = sim.dial(addr());
            peer.send(&REQUEST[..30]).await;
            sim.settle().await;
            assert_eq!(server.shutdown(secs(1)).await, 0);
            assert_eq!(sim.elapsed(), secs(0));
            assert_ne!(peer.end().await, End::Cut);
            assert_empty(&server);
            assert_eq!(sim.running(), 0);
        });
    }
}

/// Whoever waits for the last connection is woken when it goes, on another thread maybe, and looks at once.
#[test]
fn no_request_outlives_the_last_connection() {
    struct Looks(Arc<Server>, Mutex<Vec<(usize, usize)>>);

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            let stats = self.0.stats();
            self.1.lock().unwrap().push((stats.connections, stats.undecided));
        }
    }

    Sim::new().run(async |sim| {
        let server = Arc::new(serve(any()));
        let mut peer = sim.dial(addr());
        peer.send(&REQUEST[..30]).await;
        sim.settle().await;
        let looks = Arc::new(Looks(server.clone(), Mutex::default()));
        let waker = looks.clone().into();
        let mut down = pin!(server.shutdown(secs(1)));
        assert!(down.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        sim.settle().await;
        assert_empty(&server);
        let looks = looks.1.lock().unwrap();
        assert!(
            !looks.is_empty() && !looks.iter().any(|&(connections, undecided)| undecided > connections),
            "{looks:?}"
        );
    });
}

/// Queued, or with the application.
#[test]
fn an_undecided_request_gets_503() {
    for taken in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            sim.listener(addr()).set_link(Link::default().capacity(16));
            let mut peer = ask(&sim).await;
            sim.settle().await;
            let incoming = if taken { server.next().await } else { None };
            let server = Arc::new(server);
            let down = sim.spawn({
                let server = server.clone();
                async move { server.shutdown(secs(3)).await }
            });
            assert_eq!(status(&mut peer).await, 503);
            peer.shutdown().await;
            assert_eq!(down.await, 0);
            assert!(server.next().await.is_none());
            if let Some(incoming) = incoming {
                incoming.into_websocket().await.unwrap_err();
            }
            assert_empty(&server);
            assert_eq!(sim.running(), 0);
        });
    }
}

#[test]
fn an_init_that_runs_is_answered_with_503() {
    for stuck in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let gate = Gate::new();
            let (mut peer, incoming) = asked(&sim, &server).await;
            let accepting = sim.spawn(incoming.accept(Probe::new(&sim).on("init", Reply::wait(&gate))));
            sim.noted("init").await;
            let server = Arc::new(server);
            let down = sim.spawn({
                let server = server.clone();
                async move { server.shutdown(secs(30)).await }
            });
            sim.settle().await;
            if !stuck {
                gate.open();
            }
            assert_eq!(status(&mut peer).await, 503);
            assert_eq!(sim.elapsed(), if stuck { secs(5) } else { secs(0) });
            peer.shutdown().await;
            assert_eq!(down.await, 0);
            match accepting.await {
                Err(error) => assert!(stuck && matches!(error, StartError::Aborted), "{error:?}"),
                Ok(session) => drop(session.join().await.unwrap()),
            }
            assert_eq!(sim.calls().iter().any(|call| call.contains("terminate")), !stuck, "{:?}", sim.calls());
            assert_empty(&server);
            assert_eq!(sim.running(), 0);
        });
    }
}

#[test]
fn a_session_closes_with_1001_behind_what_was_sent() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let (mut peer, session) = served(&sim, &server, Probe::new(&sim)).await;
        session.feed_frame(Frame::text("before")).await.unwrap();
        let down = sim.spawn(async move { server.shutdown(secs(30)).await });
        assert_eq!(peer.frame().await.payload, b"before");
        assert_eq!(close_code(&mut peer).await, 1001);
        peer.send(&close(1001)).await;
        peer.shutdown().await;
        assert_eq!(down.await, 0);
        assert_eq!(sim.elapsed(), secs(0));
        session.join().await.unwrap();
        assert_eq!(sim.calls(), ["0ms init", "0ms handle_connect 101 -", "0ms terminate stopped"]);
    });
}

#[test]
fn a_callback_that_is_stuck_is_dropped_with_the_limit_or_the_close_timeout() {
    for (limit, left) in [(2, 1), (30, 0)] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let probe = Probe::new(&sim).on("handle_frame", Reply::wait(&Gate::new()));
            let (mut peer, session) = served(&sim, &server, probe).await;
            peer.send(&text("wait")).await;
            sim.noted("handle_frame").await;
            assert_eq!(server.shutdown(secs(limit)).await, left);
            sim.settle().await;
            assert_eq!(sim.elapsed(), secs(limit.min(5)));
            assert_empty(&server);
            let joined = session.join().await;
            match left {
                1 => assert!(matches!(joined.unwrap_err().reason(), StopReason::Aborted)),
                _ => drop(joined.unwrap()),
            }
            assert_eq!(close_code(&mut peer).await, 1001);
        });
    }
}

/// Whichever half waits, in a task of its own.
#[test]
fn a_socket_closes_with_1001_wherever_it_is_polled() {
    for waits in ["next", "send", "both"] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            sim.listener(addr()).set_link(Link::default().capacity(1024));
            let (mut peer, incoming) = asked(&sim, &server).await;
            let (mut sender, mut receiver) = incoming.into_websocket().await.unwrap().split();
            assert_eq!(status(&mut peer).await, 101);
            let reading =
                sim.spawn(async move { if waits == "send" { Ok(receiver) } else { Err(receiver.next().await) } });
            let writing = sim.spawn(async move {
                if waits != "next" {
                    sender.send(Frame::binary(vec![0; 100_000])).await.unwrap();
                    sender.send(Frame::text("late")).await.unwrap_err();
                    sender.close().await.unwrap();
                }
                sender
            });
            sim.settle().await;
            let down = sim.spawn(async move { server.shutdown(secs(4)).await });
            sim.settle().await;
            if waits != "next" {
                assert_eq!(peer.frame().await.payload.len(), 100_000);
            }
            assert_eq!(close_code(&mut peer).await, 1001);
            peer.send(&close(1001)).await;
            peer.shutdown().await;
            drop((writing.await, reading.await.map_err(|next| assert!(next.is_none()))));
            assert_eq!(down.await, 0);
            assert_eq!(sim.elapsed(), secs(0));
        });
    }
}

#[test]
fn a_socket_that_nobody_polls_is_gone_when_it_is_polled_after_the_limit() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let (mut peer, incoming) = asked(&sim, &server).await;
        let mut socket = incoming.into_websocket().await.unwrap();
        socket.feed(Frame::text("never")).await.unwrap();
        assert_eq!(server.shutdown(secs(1)).await, 1);
        assert!(socket.next().await.is_none());
        socket.flush().await.unwrap_err();
        assert_eq!(status(&mut peer).await, 101);
        assert_eq!(peer.end().await, End::Fin);
        assert!(!peer.received().ends_with(b"never"));
        drop(socket);
        assert_empty(&server);
    });
}

#[test]
fn a_stream_of_the_users_own_is_refused_afterwards() {
    Sim::new().run(async |sim| {
        let server = any().build().unwrap();
        server.shutdown(secs(1)).await;
        let listener = sim.listen(addr());
        let _peer = sim.dial(addr());
        let error = server.accept(listener.accept_transport().await).await.unwrap_err();
        assert!(matches!(error, AcceptError::ShuttingDown));
    });
}

#[test]
fn a_server_that_is_dropped_accepts_no_more_and_leaves_the_others_alone() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let (mut peer, session) = served(&sim, &server, Probe::new(&sim).on("handle_frame", Reply::push("yes"))).await;
        let mut waiting = ask(&sim).await;
        sim.settle().await;
        drop(server);
        sim.settle().await;
        assert_eq!(status(&mut waiting).await, 503);
        waiting.shutdown().await;
        peer.send(&text("still?")).await;
        assert_eq!(peer.frame().await.payload, b"yes");
        peer.send(&close(1000)).await;
        peer.shutdown().await;
        session.join().await.unwrap();
        sim.settle().await;
        assert_eq!(sim.running(), 0);
        let refused = sim.spawn({
            let client = Client::<(), (), SimRuntime>::builder("ws://10.0.0.1/").unwrap();
            client.connect()
        });
        assert!(matches!(refused.await.unwrap_err().reason(), Some(DisconnectReason::Tcp(_))));
    });
}

/// What was queued is neither sent, nor queued any more: it counts as dropped.
#[test]
fn nothing_is_queued_in_a_session_that_was_dropped() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        sim.listener(addr()).set_link(Link::default().capacity(64));
        let (_peer, session) = served(&sim, &server, Probe::new(&sim)).await;
        session.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
        sim.settle().await;
        session.feed_frame(Frame::text("waits")).await.unwrap();
        sim.settle().await;
        let handle = session.handle();
        assert_eq!(server.shutdown(secs(0)).await, 1);
        let _ = session.join().await;
        let stats = handle.stats();
        assert_eq!((stats.queued, stats.dropped), (0, 1), "{stats:?}");
    });
}
