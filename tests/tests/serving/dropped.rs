//! Futures of the server that are dropped after each of their polls: no connection, request or task is left behind.

use std::future::poll_fn;
use std::pin::pin;
use std::task::Poll;

use parley_tests::raw::End;
use parley_tests::sim::{Gate, Link, Listener, Probe, Reply, Sim};

use super::*;

/// Polls a future so many times, then drops it. `None` then.
async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
    let mut left = polls;
    let mut future = pin!(future);
    poll_fn(|cx| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        match future.as_mut().poll(cx) {
            Poll::Ready(output) => Poll::Ready(Some(output)),
            Poll::Pending if left == 0 => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Runs it with ever more polls until the future completes.
fn at_every_poll(test: impl AsyncFn(&Sim, usize) -> bool) {
    for polls in 0.. {
        assert!(polls < 1000, "it never completes");
        let completed = Sim::new().run(async |sim| test(&sim, polls).await);
        if completed {
            assert!(polls > 0);
            return;
        }
    }
}

/// What is left of a connection when nobody wants it any more.
async fn over(sim: &Sim, server: &Server, mut peer: RawConn) {
    let ended = sim.spawn(async move {
        peer.end().await;
        peer.shutdown().await;
        peer
    });
    let peer = ended.await;
    sim.settle().await;
    assert_empty(server);
    drop(peer);
}

const TINY: [fn() -> Link; 3] =
    [Link::default, || Link::default().capacity(24).chunk(5), || Link::default().capacity(24).staged()];

#[test]
fn a_stream_of_the_users_own() {
    for link in TINY {
        at_every_poll(async |sim, polls| {
            let server = any().build().unwrap();
            let listener: Listener = sim.listen(addr());
            listener.set_link(link());
            let mut peer = sim.dial(addr());
            let transport = listener.accept_transport().await;
            let peer = sim.spawn(async move {
                let _ = peer.try_send(REQUEST).await;
                peer
            });
            let accepted = cut(server.accept(transport), polls).await;
            let completed = accepted.is_some();
            drop(accepted);
            over(sim, &server, peer.await).await;
            completed
        });
    }
}

#[test]
fn a_request_that_becomes_a_socket() {
    for link in TINY {
        at_every_poll(async |sim, polls| {
            let server = serve(any());
            sim.listener(addr()).set_link(link());
            let mut peer = sim.dial(addr());
            peer.send(&[REQUEST, &text("with it")].concat()).await;
            let incoming = server.next().await.unwrap();
            let reading = sim.spawn(async move {
                let end = peer.end().await;
                peer.shutdown().await;
                (peer, end)
            });
            let socket = cut(incoming.into_websocket(), polls).await;
            let completed = socket.is_some();
            drop(socket);
            let (peer, end) = reading.await;
            sim.settle().await;
            assert_empty(&server);
            let head = String::from_utf8_lossy(peer.received());
            match polls {
                0 => assert!(head.starts_with("HTTP/1.1 503 ") && end == End::Fin, "{head}"),
                _ => assert!("HTTP/1.1 101 ".starts_with(&head[..head.len().min(13)]), "{head}"),
            }
            completed
        });
    }
}

#[test]
fn a_request_that_is_given_to_a_handler() {
    for link in TINY {
        at_every_poll(async |sim, polls| {
            let server = serve(any());
            sim.listener(addr()).set_link(link());
            let mut peer = ask(sim).await;
            let incoming = server.next().await.unwrap();
            let gate = Gate::new();
            let probe = Probe::new(sim).on("init", Reply::wait(&gate)).on("handle_frame", Reply::push("yes"));
            sim.spawn({
                let (gate, sim) = (gate.clone(), sim.clone());
                async move {
                    sim.sleep(secs(1)).await;
                    gate.open();
                }
            });
            let session = cut(incoming.accept(probe), polls).await;
            let completed = session.is_some();
            drop(session);
            if polls == 0 {
                assert_eq!(status(&mut peer).await, 503);
            } else {
                assert_eq!(status(&mut peer).await, 101, "detached, it goes on");
                peer.send(&text("?")).await;
                assert_eq!(peer.frame().await.payload, b"yes");
                peer.send(&close(1000)).await;
            }
            over(sim, &server, peer).await;
            completed
        });
    }
}

/// A request that a dropped `next` was woken for goes to the next one.
#[test]
fn a_next_that_is_given_up_loses_no_request() {
    Sim::new().run(async |sim| {
        let server = std::sync::Arc::new(serve(any()));
        let waiting: Vec<_> = (0..3)
            .map(|_| {
                let server = server.clone();
                sim.spawn(async move { server.next().await.is_some() })
            })
            .collect();
        sim.settle().await;
        let _peers = [ask(&sim).await, ask(&sim).await];
        let mut waiting = waiting.into_iter();
        waiting.next().unwrap().cancel();
        for waiting in waiting {
            assert!(waiting.await);
        }
    });
}

#[test]
fn a_shutdown_that_is_given_up_goes_on_and_can_be_asked_for_again() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        let (mut peer, session) = served(&sim, &server, Probe::new(&sim)).await;
        assert!(cut(server.shutdown(secs(9)), 1).await.is_none());
        assert!(server.next().await.is_none());
        assert_eq!(close_code(&mut peer).await, 1001);
        sim.sleep(secs(1)).await;
        peer.send(&close(1001)).await;
        peer.shutdown().await;
        assert_eq!(server.shutdown(secs(9)).await, 0);
        session.join().await.unwrap();
        assert_empty(&server);
    });
}
