//! A handler behind an accepted connection, and the server's side of a closing handshake.

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::{Action, DisconnectReason, Retry, StopReason};
use parley_tests::raw::End;
use parley_tests::sim::{Gate, Probe, Reply, Sim};

use super::*;

#[test]
fn frames_that_came_with_the_request_are_delivered() {
    for handled in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let mut peer = sim.dial(addr());
            peer.send(&[REQUEST, &text("one"), &text("two"), &close(1000)].concat()).await;
            peer.shutdown().await;
            let incoming = server.next().await.unwrap();
            if handled {
                let probe = Probe::new(&sim).on("handle_frame", Reply::push("got"));
                incoming.accept(probe).await.unwrap().join().await.unwrap();
                assert_eq!(sim.calls()[2..4], ["0ms handle_frame text one", "0ms handle_frame text two"]);
                assert_eq!(status(&mut peer).await, 101);
                assert_eq!(peer.frame().await.payload, b"got");
                assert_eq!(peer.frame().await.payload, b"got");
            } else {
                let mut socket = incoming.into_websocket().await.unwrap();
                assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("one"));
                assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("two"));
                assert!(socket.next().await.is_none());
                assert!(socket.closed().unwrap().was_clean);
                assert_eq!(status(&mut peer).await, 101);
            }
            assert_eq!(close_code(&mut peer).await, 1000);
            assert_eq!(peer.end().await, End::Fin);
            sim.settle().await;
            assert_empty(&server);
        });
    }
}

/// `connect` does nothing, whatever `handle_disconnect` says an end is the end, and it runs once.
#[test]
fn a_session_never_dials() {
    let retries = [Retry::Policy, Retry::Stay, Retry::Reconnect, Retry::After(secs(1)), Retry::Stop];
    for retry in retries {
        for eof in [false, true] {
            Sim::new().run(async |sim| {
                let server = serve(any());
                let probe = Probe::new(&sim).on("handle_disconnect", Reply::Retry(retry));
                let (mut peer, session) = served(&sim, &server, probe).await;
                let handle = session.handle();
                handle.connect().await;
                if !eof {
                    peer.send(&close(1000)).await;
                }
                peer.shutdown().await;
                sim.noted("handle_disconnect").await;
                handle.connect().await;
                let joined = session.join().await;
                assert_eq!(joined.is_ok(), !eof && !matches!(retry, Retry::Stop), "{joined:?}");
                if let Err(error) = joined {
                    let reason = error.reason();
                    assert!(matches!(reason, StopReason::Disconnected(DisconnectReason::Eof)) || !eof, "{reason:?}");
                }
                let calls = sim.calls();
                let names: Vec<_> = calls.iter().map(|call| call.split(' ').nth(1).unwrap()).collect();
                assert_eq!(names, ["init", "handle_connect", "handle_disconnect", "terminate"]);
                assert_eq!(sim.elapsed(), secs(0));
                sim.settle().await;
                assert_empty(&server);
            });
        }
    }
}

#[test]
fn a_reconnect_of_a_session_closes_it_and_no_more() {
    for by_action in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let close_frame = CloseFrame::new(4001, "again").unwrap();
            let probe = Probe::new(&sim).on("handle_frame", Reply::Act(Action::Reconnect(close_frame.clone())));
            let (mut peer, session) = served(&sim, &server, probe).await;
            if by_action {
                peer.send(&text("come back")).await;
            } else {
                session.reconnect(close_frame).await;
            }
            assert_eq!(close_code(&mut peer).await, 4001);
            peer.send(&close(4001)).await;
            peer.shutdown().await;
            let _ended = session.join().await;
            assert_eq!(sim.calls().iter().filter(|call| call.contains("handle_disconnect")).count(), 1);
            sim.settle().await;
            assert_empty(&server);
        });
    }
}

#[test]
fn an_error_of_a_callback_closes_with_1011() {
    for reply in [Reply::Fail("no"), Reply::Panic] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let (mut peer, session) = served(&sim, &server, Probe::new(&sim).on("handle_frame", reply.clone())).await;
            peer.send(&text("x")).await;
            assert_eq!(close_code(&mut peer).await, 1011);
            peer.send(&close(1011)).await;
            peer.shutdown().await;
            session.join().await.unwrap_err();
            sim.settle().await;
            assert_empty(&server);
        });
    }
}

/// A session that nobody holds goes on until its connection has ended.
#[test]
fn a_session_that_is_detached_is_served_to_its_end() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let gate = Gate::new();
        let (mut peer, incoming) = asked(&sim, &server).await;
        let probe = Probe::new(&sim).on("init", Reply::wait(&gate)).on("handle_frame", Reply::push("yes"));
        let accepting = sim.spawn(incoming.accept(probe));
        sim.noted("init").await;
        accepting.cancel();
        sim.sleep(secs(1)).await;
        gate.open();
        assert_eq!(status(&mut peer).await, 101);
        for _ in 0..2 {
            peer.send(&text("?")).await;
            assert_eq!(peer.frame().await.payload, b"yes");
            sim.sleep(secs(3)).await;
        }
        peer.send(&close(1000)).await;
        peer.shutdown().await;
        sim.noted("terminate").await;
        sim.settle().await;
        assert_empty(&server);
    });
}

/// The server's half of it: our direction ends at once behind our Close, what comes is drained, then it is over.
#[test]
fn rule_4_12_a_server_ends_its_direction_at_once_and_drains() {
    for (handled, ours) in [(false, false), (false, true), (true, false), (true, true)] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let (mut peer, incoming) = asked(&sim, &server).await;
            let wire = sim.listener(addr()).wire();
            let served = sim.spawn({
                let (sim, probe) = (sim.clone(), Probe::new(&sim));
                async move {
                    if handled {
                        let session = incoming.accept(probe).await.unwrap();
                        sim.settle().await;
                        if ours {
                            session.stop().await;
                        }
                        session.join().await.unwrap();
                    } else {
                        let mut socket = incoming.into_websocket().await.unwrap();
                        if ours {
                            socket.close().await.unwrap();
                        }
                        assert!(socket.next().await.is_none());
                        assert!(socket.closed().unwrap().was_clean);
                    }
                }
            });
            assert_eq!(status(&mut peer).await, 101);
            if ours {
                assert_eq!(close_code(&mut peer).await, 1000);
                assert!(!wire.is_ended_by_peer(), "not before the peer's Close");
            }
            peer.send(&close(1000)).await;
            if !ours {
                assert_eq!(close_code(&mut peer).await, 1000);
            }
            assert_eq!(peer.end().await, End::Fin);
            assert_eq!(sim.elapsed(), secs(0), "at once");
            peer.send(&[b'x'; 1000]).await; // unread, it would turn the end into a reset
            sim.sleep(secs(1)).await;
            assert!(!served.is_done());
            assert_eq!(wire.unread_by_peer(), 0, "drained");
            peer.shutdown().await;
            served.await;
            assert_eq!(sim.elapsed(), secs(1));
        });
    }
}

#[test]
fn rule_4_12_a_server_drains_until_the_deadline() {
    Sim::new().run(async |sim| {
        let server = serve(any().close_timeout(secs(2)));
        let (mut peer, incoming) = asked(&sim, &server).await;
        let mut socket = incoming.into_websocket().await.unwrap();
        assert_eq!(status(&mut peer).await, 101);
        peer.send(&close(1000)).await;
        assert!(socket.next().await.is_none());
        assert_eq!(sim.elapsed(), secs(2));
        assert!(socket.closed().unwrap().was_clean);
        assert_eq!(close_code(&mut peer).await, 1000);
    });
}
