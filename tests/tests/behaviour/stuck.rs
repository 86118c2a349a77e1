//! Sections 3 and 5 of the guide: callbacks that wait for what cannot come, and clients that end all the same.

use std::io::ErrorKind;

use parley_proto::codec::Frame;
use parley_proto::session::ClientState;
use parley_proto::{Action, Limits, SendError};
use parley_tests::raw::{self, RawConn};
use parley_tests::sim::{Gate, Link, Listener, Probe, Reply, Sim};

use crate::common::{addr, connected, options, secs, since};

/// How a peer leaves that takes nothing any more, and when its client has closed the connection.
const LEAVES: [(&str, u64); 4] = [("fin", 0), ("reset", 0), ("close", 5), ("error", 5)];

async fn leave(how: &str, peer: &mut RawConn, listener: &Listener) {
    match how {
        "fin" => peer.shutdown().await,
        "reset" => {
            listener.wire().fail_client_writes(ErrorKind::BrokenPipe);
            listener.wire().fail_client_reads(ErrorKind::ConnectionReset);
        }
        "close" => peer.send(b"\x88\x02\x03\xe8").await,
        _ => peer.send(b"\x83\x00").await,
    }
}

#[test]
fn rule_3_10_a_callback_that_awaits_its_own_send_ends_with_the_connection() {
    for (how, time) in LEAVES {
        // What it awaits has begun, or waits behind what has.
        for begun in [true, false] {
            Sim::new().run(async |sim| {
                let awaits = Reply::own({
                    let sim = sim.clone();
                    move |own| {
                        let sim = sim.clone();
                        async move {
                            if !begun {
                                own.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
                            }
                            let outcome = match own.send_frame(Frame::binary(vec![0; 200_000])).await {
                                Err(SendError::Lost(_)) => "lost",
                                Err(SendError::Closing(frame)) if frame.len() == 200_000 => "given back",
                                other => panic!("{other:?}"),
                            };
                            sim.note(outcome);
                            Reply::Act(Action::Continue)
                        }
                    }
                });
                let listener = sim.listen(addr());
                listener.set_link(Link::default().capacity(1000));
                let probe = Probe::new(&sim).on("handle_frame", awaits);
                let client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                peer.send(&raw::frame(0x81, b"x")).await;
                sim.noted("handle_frame").await;
                sim.settle().await;
                leave(how, &mut peer, &listener).await;
                sim.noted("handle_disconnect").await;
                assert_eq!(sim.elapsed(), secs(time), "{how}");
                assert_eq!(client.state(), ClientState::Disconnected);
                // A Close of ours goes behind what callbacks sent, so that all of that begins.
                let outcome = if begun || time > 0 { "lost" } else { "given back" };
                assert!(since(sim.calls(), "handle_frame")[1].ends_with(outcome), "{how}: {:?}", sim.calls());
            });
        }
    }
}

#[test]
fn rule_3_10_a_callback_that_flushes_ends_with_the_connection() {
    for (how, time) in LEAVES {
        Sim::new().run(async |sim| {
            let flushes = Reply::own(async |own| {
                own.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
                own.feed_frame(Frame::binary(vec![0; 100_000])).await.unwrap();
                assert!(matches!(own.flush().await, Err(SendError::Lost(_))));
                Reply::Act(Action::Continue)
            });
            let listener = sim.listen(addr());
            listener.set_link(Link::default().capacity(1000));
            let probe = Probe::new(&sim).on("handle_frame", flushes);
            let _client = sim.start_with(options(), |own| probe.with_own(own)).await.unwrap();
            let mut peer = listener.accept().await;
            peer.upgrade("").await;
            peer.send(&raw::frame(0x81, b"x")).await;
            sim.noted("handle_frame").await;
            sim.settle().await;
            leave(how, &mut peer, &listener).await;
            sim.noted("handle_disconnect").await;
            assert_eq!(sim.elapsed(), secs(time), "{how}");
        });
    }
}

#[test]
fn rule_3_9_a_client_whose_pushes_are_over_their_bound_ends_with_the_peer() {
    for (how, time) in LEAVES {
        for own in [false, true] {
            Sim::new().run(async |sim| {
                let big = || Frame::binary(vec![0; 1000]);
                let reply = if own {
                    Reply::own(move |own| async move {
                        let _ = own.feed_frame(big()).await; // refused behind the end
                        Reply::Act(Action::Continue)
                    })
                } else {
                    Reply::Act(big().into())
                };
                let listener = sim.listen(addr());
                listener.set_link(Link::default().capacity(1024));
                let mut options = options();
                options.connection.limits = Limits::client().with_send_queue(4 * 1024).unwrap();
                let probe = Probe::new(&sim).on("handle_frame", reply);
                let _client = sim.start_with(options, |own| probe.with_own(own)).await.unwrap();
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                peer.send(&raw::frame(0x81, b"x").repeat(200)).await;
                sim.noted("handle_frame").await;
                sim.settle().await;
                let delivered =
                    |sim: &Sim| sim.calls().iter().filter(|line| line.contains("handle_frame text")).count();
                assert!(delivered(&sim) < 100, "the bound is reached");
                leave(how, &mut peer, &listener).await;
                sim.noted("handle_disconnect").await;
                assert_eq!(sim.elapsed(), secs(time), "{how}");
                assert!(time > 0 || delivered(&sim) == 200, "what came before an end without a Close is delivered");
            });
        }
    }
}

#[test]
fn rule_3_11_a_stop_ends_a_client_whose_callback_is_stuck() {
    for callback in ["prepare", "handle_connect", "handle_frame", "handle_ping", "handle_info", "handle_disconnect"] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let probe = Probe::new(&sim).on(callback, Reply::wait(&Gate::new()));
            let client = sim.start(options(), probe).await.unwrap();
            let handle = client.handle();
            let early = sim.spawn(async move { handle.send_frame(Frame::text("early")).await });
            let peer = sim.spawn(async move {
                let mut peer = listener.accept().await;
                peer.upgrade("").await;
                peer.send(&[raw::frame(0x81, b"x"), raw::frame(0x89, b"")].concat()).await;
                if callback == "handle_disconnect" {
                    peer.shutdown().await;
                }
                peer.end().await;
            });
            client.try_send_info("x".into()).unwrap();
            sim.noted(callback).await;
            sim.settle().await;
            let handle = client.handle();
            client.stop().await;
            client.join().await.unwrap();
            let time = if callback == "prepare" { 0 } else { 5000 }; // an attempt is given up at once
            let ends = [format!("{time}ms {callback} dropped"), format!("{time}ms terminate stopped")];
            assert_eq!(since(sim.calls(), "dropped"), ends);
            match (callback, early.await) {
                // What waits for `handle_connect` to return does not leave without what that would have sent (4.9).
                ("prepare" | "handle_connect", sent) => {
                    assert_eq!(sent.unwrap_err().into_frame(), Some(Frame::text("early")));
                }
                ("handle_disconnect", _) => {} // the peer left before it could be told whether it arrived
                (_, sent) => sent.unwrap(),    // it was accepted before the stop
            }
            assert!(matches!(handle.flush().await, Err(SendError::Lost(_))));
            drop(peer);
        });
    }
}

#[test]
fn rule_3_11_a_stop_behind_an_end_that_a_stuck_callback_holds_up() {
    for (how, time) in LEAVES {
        Sim::new().run(async |sim| {
            let probe = Probe::new(&sim).on("handle_frame", Reply::wait(&Gate::new()));
            let (client, mut peer, listener) = connected(&sim, probe).await;
            peer.send(&raw::frame(0x81, b"x").repeat(2)).await;
            sim.noted("handle_frame").await;
            leave(how, &mut peer, &listener).await;
            sim.noted("net closed").await;
            assert_eq!(sim.elapsed(), secs(time), "{how}: the callback does not hold up the transport");
            sim.sleep(secs(60)).await;
            assert_eq!(since(sim.calls(), "handle_frame").len(), 1);
            client.stop().await;
            client.join().await.unwrap();
            let at = time + 60 + 5;
            let ends = [format!("{at}000ms handle_frame dropped"), format!("{at}000ms terminate stopped")];
            assert_eq!(since(sim.calls(), "dropped"), ends);
        });
    }
}

#[test]
fn rule_3_7_sends_that_wait_are_answered_when_handle_disconnect_is_stuck_and_the_client_stops() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let stuck = Reply::wait(&Gate::new());
        let probe = Probe::new(&sim).on("handle_disconnect", stuck.clone()).on("terminate", stuck);
        let client = sim.start(options(), probe).await.unwrap();
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::text("x")).await });
        let mut peer = listener.accept().await;
        peer.shutdown().await;
        sim.noted("handle_disconnect").await;
        sim.sleep(secs(60)).await;
        assert!(!send.is_done());
        client.stop().await;
        assert_eq!(send.await.unwrap_err().into_frame(), Some(Frame::text("x")));
        assert_eq!(sim.elapsed(), secs(65));
        client.join().await.unwrap();
    });
}
