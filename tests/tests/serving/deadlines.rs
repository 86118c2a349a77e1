//! What takes too long.

use parley_proto::DisconnectReason;
use parley_proto::driver::{StartError, TlsError};
use parley_tests::raw::End;
use parley_tests::sim::{Fate, Gate, Link, Probe, Reply, Sim, SimServerTls};

use super::*;

#[test]
fn a_peer_that_says_nothing_is_dropped_after_the_handshake_timeout() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let mut peer = sim.dial(addr());
        assert_eq!(peer.end().await, End::Fin);
        assert_eq!(sim.elapsed(), secs(5));
        assert_eq!(server.stats().failed, 1);
        assert_empty(&server);
    });
}

/// Hazard: a byte every now and then keeps no handshake alive.
#[test]
fn hazard_2_a_peer_that_asks_byte_by_byte_is_dropped_after_the_handshake_timeout() {
    Sim::new().run(async |sim| {
        let server = serve(any().handshake_timeout(secs(3)));
        let mut peer = sim.dial(addr());
        for byte in REQUEST {
            if peer.try_send(&[*byte]).await.is_err() {
                break;
            }
            sim.sleep(millis(500)).await;
        }
        assert_eq!(sim.elapsed(), millis(3500), "the first byte that found nobody");
        assert_empty(&server);
    });
}

#[test]
fn the_handshake_timeout_covers_tls() {
    Sim::new().run(async |sim| {
        let server = serve(any().tls(SimServerTls(Fate::Never)));
        let mut peer = sim.dial(addr());
        sim.settle().await;
        assert_eq!((server.stats().connections, server.stats().undecided), (1, 1));
        assert_eq!(peer.end().await, End::Fin);
        assert_eq!(sim.elapsed(), secs(5));
        assert_empty(&server);
    });
    Sim::new().run(async |sim| {
        let error = TlsError::Io(std::sync::Arc::new(std::io::ErrorKind::InvalidData.into()));
        let server = serve(any().tls(SimServerTls(Fate::After(secs(1), Err(error)))));
        assert_eq!(sim.dial(addr()).end().await, End::Fin);
        assert_eq!((sim.elapsed(), server.stats().failed), (secs(1), 1));
        assert_empty(&server);
    });
    Sim::new().run(async |sim| {
        let facts = driver::TlsFacts::new(None, None, Vec::new());
        let server = serve(any().tls(SimServerTls(Fate::After(secs(1), Ok(facts)))));
        let (_peer, incoming) = asked(&sim, &server).await;
        assert!(incoming.transport().tls.is_some());
    });
}

/// The answer is whole though the pipe holds a few bytes at a time, plain and as under TLS.
#[test]
fn a_request_that_nobody_answers_gets_503_after_the_decision_timeout() {
    for link in [Link::default(), Link::default().capacity(16).chunk(7), Link::default().capacity(16).staged()] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            sim.listener(addr()).set_link(link);
            let (mut peer, incoming) = asked(&sim, &server).await;
            let begun = sim.elapsed();
            assert_eq!(status(&mut peer).await, 503);
            assert_eq!(sim.elapsed() - begun, secs(10));
            assert_eq!(peer.end().await, End::Fin);
            peer.shutdown().await;
            sim.settle().await;
            let error = incoming.into_websocket().await.unwrap_err();
            assert!(matches!(error.reason(), Some(DisconnectReason::ConnectTimeout(_))), "{error:?}");
            assert_empty(&server);
        });
    }
}

#[test]
fn a_request_that_was_answered_in_the_queue_is_not_given_out() {
    for gone in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any());
            let mut late = ask(&sim).await;
            sim.sleep(secs(5)).await;
            let mut in_time = ask(&sim).await;
            sim.sleep(secs(6)).await;
            assert_eq!(status(&mut late).await, 503);
            if gone {
                late.shutdown().await;
                sim.settle().await;
            }
            let _socket = server.next().await.unwrap().into_websocket().await.unwrap();
            assert_eq!(status(&mut in_time).await, 101);
            assert_eq!(server.stats().undecided, 0);
        });
    }
}

#[test]
fn a_request_that_is_accepted_while_its_503_leaves_is_not_accepted() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let (mut peer, incoming) = asked(&sim, &server).await;
        sim.sleep(secs(11)).await; // answered, and the peer has yet to end its direction
        let error = incoming.accept(Probe::new(&sim)).await.unwrap_err();
        assert!(matches!(error, StartError::Disconnected(DisconnectReason::ConnectTimeout(_))), "{error:?}");
        assert_eq!(status(&mut peer).await, 503);
        assert_eq!(peer.end().await, End::Fin);
        peer.shutdown().await;
        sim.settle().await;
        assert!(sim.calls().is_empty(), "{:?}", sim.calls());
        assert_empty(&server);
    });
}

#[test]
fn a_request_that_is_dropped_gets_503() {
    for link in [Link::default(), Link::default().capacity(16).chunk(7), Link::default().capacity(16).staged()] {
        for half_closed in [false, true] {
            Sim::new().run(async |sim| {
                let server = serve(any());
                sim.listener(addr()).set_link(link);
                let (mut peer, incoming) = asked(&sim, &server).await;
                if half_closed {
                    peer.shutdown().await;
                }
                drop(incoming);
                sim.settle().await;
                assert_eq!(status(&mut peer).await, 503);
                assert_eq!(peer.end().await, End::Fin);
                peer.shutdown().await;
                sim.settle().await;
                assert_empty(&server);
            });
        }
    }
}

/// One row a way in which `init` does not succeed.
#[test]
fn an_init_that_does_not_succeed_is_answered() {
    type Check = fn(&StartError) -> bool;
    let rows: [(Reply, u16, u64, Check); 3] = [
        (Reply::Fail("no"), 500, 0, |error| matches!(error, StartError::Init(_))),
        (Reply::Panic, 500, 0, |error| matches!(error, StartError::Panicked)),
        (Reply::wait(&Gate::new()), 503, 10, |error| matches!(error, StartError::Disconnected(_))),
    ];
    for (reply, code, after, check) in rows {
        for link in [Link::default(), Link::default().capacity(16).chunk(7), Link::default().capacity(16).staged()] {
            Sim::new().run(async |sim| {
                let server = serve(any());
                sim.listener(addr()).set_link(link);
                let (mut peer, incoming) = asked(&sim, &server).await;
                let begun = sim.elapsed();
                let probe = Probe::new(&sim).on("init", reply.clone());
                let accepting = sim.spawn(incoming.accept(probe));
                assert_eq!(status(&mut peer).await, code);
                assert_eq!(sim.elapsed() - begun, secs(after));
                assert_eq!(peer.end().await, End::Fin);
                peer.shutdown().await;
                let error = accepting.await.unwrap_err();
                assert!(check(&error), "{error:?}");
                sim.settle().await;
                assert_empty(&server);
                assert!(!sim.calls().iter().any(|call| call.contains("terminate")), "{:?}", sim.calls());
            });
        }
    }
}

/// A refusal that the peer does not take, or behind which it stays, is over after the close timeout.
#[test]
fn a_refusal_ends_with_the_close_timeout() {
    for takes in [false, true] {
        Sim::new().run(async |sim| {
            let server = serve(any().close_timeout(secs(2)));
            sim.listener(addr()).set_link(Link::default().capacity(16));
            let (mut peer, incoming) = asked(&sim, &server).await;
            drop(incoming);
            let begun = sim.elapsed();
            if takes {
                assert_eq!(status(&mut peer).await, 503);
            }
            sim.sleep(millis(1999) - (sim.elapsed() - begun)).await;
            assert_eq!(server.stats().connections, 1);
            sim.sleep(millis(1)).await;
            sim.settle().await;
            assert_empty(&server);
            drop(peer);
        });
    }
}
