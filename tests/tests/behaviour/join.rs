//! Sections 1 and 5 of the guide: what `join` gives, the reasons, and what the types promise.

use std::cell::Cell;
use std::error::Error;
use std::future::Future;

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Client, Handle, JoinError, Setup, StartError};
use parley_proto::session::ClientState;
use parley_proto::{Action, BoxError, DisconnectReason, Handler, Limits, SendError, StopReason};
use parley_tests::raw;
use parley_tests::sim::{Link, Probe, Reply, Sim, SimRuntime};

use crate::common::{addr, close_of, connected, finish, options, secs};

fn send<T: Send>(value: T) -> T {
    value
}

/// Send, not Sync.
#[derive(Debug)]
struct Unshared(Cell<u8>);

impl Handler<u8> for Unshared {
    async fn handle_info(&mut self, info: u8) -> Result<Action, BoxError> {
        self.0.set(info);
        Ok(Action::Stop)
    }
}

const _: () = {
    const fn sync<T: Send + Sync>() {}
    const fn handle<T: Clone + Send + Sync>() {}
    const fn send<T: Send>() {}
    const fn error<T: Error>() {}
    handle::<Handle<()>>();
    handle::<Handle<Cell<u8>>>();
    send::<Client<Unshared, u8>>();
    sync::<JoinError<Unshared>>();
    error::<JoinError<Unshared>>();
    sync::<StartError>();
    sync::<SendError>();
    sync::<DisconnectReason>();
    sync::<StopReason>();
};

#[test]
fn rule_1_the_future_of_run_is_send_and_the_info_type_is_inferred() {
    fn run(runtime: SimRuntime) -> impl Future<Output = Result<Unshared, JoinError<Unshared>>> + Send + 'static {
        send(Setup::new(options()).run(runtime, Unshared(Cell::new(0))))
    }
    Sim::new().run(async |sim| {
        drop(run(sim.runtime()));
        let listener = sim.listen(addr());
        let client = sim.start(options(), Unshared(Cell::new(0))).await.unwrap();
        let client = send(client);
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        client.send_info(7).await.unwrap();
        finish(&mut peer, 1000).await;
        assert_eq!(client.join().await.unwrap().0.get(), 7, "the handler is handed back");
    });
}

#[test]
fn rule_1_join_is_ok_after_stop_and_after_the_action_stop() {
    for by_handle in [true, false] {
        Sim::new().run(async |sim| {
            let (client, mut peer, _) =
                connected(&sim, Probe::new(&sim).on("handle_frame", Reply::Act(Action::Stop))).await;
            if by_handle {
                client.stop_with(CloseFrame::new(4000, "").unwrap()).await;
                // Even if the peer never answers.
                assert_eq!(close_of(&peer.frame().await).0, 4000);
            } else {
                peer.send(&raw::frame(0x81, b"x")).await;
                finish(&mut peer, 1000).await;
            }
            client.join().await.unwrap();
        });
    }
}

#[test]
fn rule_1_stop_sends_all_that_was_accepted_before_it() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.try_send_frame(Frame::text("last")).unwrap();
        client.stop().await;
        client.stop().await;
        assert!(matches!(client.send_frame(Frame::text("late")).await, Err(SendError::Closing(_))));
        assert_eq!(peer.frame().await.payload, b"last");
        finish(&mut peer, 1000).await;
        let handle = client.handle();
        client.join().await.unwrap();
        handle.stop().await;
        handle.disconnect().await;
        assert!(matches!(handle.flush().await, Err(SendError::Lost(_))));
        assert!(matches!(handle.try_send_frame(Frame::text("x")), Err(SendError::Stopped(_))));
    });
}

#[test]
fn rule_1_join_tells_a_clean_close_from_others() {
    // The peer's Close, its answer to ours, and whether the end by 4.3 is clean.
    let cases: [(Option<u16>, bool); 4] = [(Some(1000), true), (Some(1001), true), (Some(1011), false), (None, false)];
    for (code, clean) in cases {
        Sim::new().run(async |sim| {
            let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
            let payload = code.map_or(Vec::new(), |code| code.to_be_bytes().to_vec());
            peer.send(&raw::frame(0x88, &payload)).await;
            peer.shutdown().await;
            match client.join().await {
                Ok(_) => assert!(clean, "{code:?}"),
                Err(error) => {
                    assert!(!clean, "{code:?}");
                    assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Remote(_))));
                    assert!(error.into_handler().is_some());
                }
            }
        });
    }
}

#[test]
fn rule_1_an_end_by_local_is_clean() {
    Sim::new().run(async |sim| {
        let (client, _peer, _) = connected(&sim, Probe::new(&sim)).await;
        client.disconnect().await;
        client.join().await.unwrap();
        assert_eq!(sim.elapsed(), secs(5), "also without the peer's Close");
    });
}

#[test]
fn rule_1_a_client_whose_future_is_dropped_is_aborted() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let setup = Setup::new(options());
        let (client, life) = setup.client(sim.runtime(), Probe::new(&sim));
        let life = sim.spawn(life);
        client.started().await.unwrap();
        let mut peer = listener.accept().await;
        let handle = client.handle();
        let send = sim.spawn(async move { handle.send_frame(Frame::text("x")).await });
        sim.settle().await;
        life.cancel();
        assert!(send.await.is_err());
        peer.end().await;
        assert_eq!(client.state(), ClientState::Stopped);
        assert!(matches!(client.wait_for(ClientState::Connected).await, Err(StopReason::Aborted)));
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Aborted));
        assert!(error.into_handler().is_none());
        assert!(!sim.calls().iter().any(|line| line.contains("terminate")), "no callback runs");
    });
}

#[test]
fn rule_5_what_an_aborted_client_had_not_begun_comes_back() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(200).unwrap();
        let (client, life) = Setup::new(options).client(sim.runtime(), Probe::new(&sim));
        let life = sim.spawn(life);
        client.started().await.unwrap();
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        client.wait_for(ClientState::Connected).await.unwrap();
        let send = |frame: Frame| {
            let handle = client.handle();
            sim.spawn(async move { handle.send_frame(frame).await })
        };
        let begun = send(Frame::binary(vec![0; 100_000]));
        sim.settle().await;
        let queued = send(Frame::binary(vec![1; 150]));
        sim.settle().await;
        let waits_for_room = send(Frame::binary(vec![2; 150]));
        let flush = client.handle();
        let flush = sim.spawn(async move { flush.flush().await });
        sim.settle().await;
        life.cancel();
        sim.settle().await;
        assert!(matches!(begun.await, Err(SendError::Lost(DisconnectReason::Local))), "its fate is unknown");
        for (waiting, byte) in [(queued, 1), (waits_for_room, 2)] {
            let outcome = waiting.await;
            assert!(
                matches!(&outcome, Err(SendError::Stopped(frame)) if *frame == Frame::binary(vec![byte; 150])),
                "{outcome:?}"
            );
        }
        assert!(matches!(flush.await, Err(SendError::Lost(DisconnectReason::Local))));
        let join = client.join().await;
        assert!(matches!(join.unwrap_err().reason(), StopReason::Aborted));
        peer.end().await;
    });
}

#[test]
fn rule_1_start_fails_where_the_future_is_dropped_or_init_panics() {
    Sim::new().run(async |sim| {
        let (client, life) = Setup::new(options()).client(sim.runtime(), Probe::new(&sim));
        drop(life);
        assert!(matches!(client.started().await, Err(StartError::Aborted)));
        let error = sim.start(options(), Probe::new(&sim).on("init", Reply::Panic)).await.unwrap_err();
        assert!(matches!(error, StartError::Panicked));
    });
}

#[test]
fn rule_1_a_send_that_is_given_up_is_wholly_sent_or_not_at_all() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let handle = client.handle();
        let accepted = sim.spawn(async move { handle.send_frame(Frame::text("accepted")).await });
        sim.settle().await;
        accepted.cancel();
        drop(client.send_frame(Frame::text("never polled")));
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        assert_eq!(peer.frame().await.payload, b"accepted");
        client.send_frame(Frame::text("next")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"next");
    });
}

#[test]
fn rule_5_infos_dropped_at_the_end_may_use_their_handle() {
    /// It uses its handle when it is dropped.
    struct Uses(Sim, Handle<Uses>);

    impl Drop for Uses {
        fn drop(&mut self) {
            let _ = (self.1.state(), self.1.try_send_frame(Frame::text("x")), self.1.clone());
            self.0.note("dropped");
        }
    }

    #[derive(Debug)]
    struct Slow;

    impl Handler<Uses> for Slow {
        async fn handle_info(&mut self, info: Uses) -> Result<Action, BoxError> {
            info.0.note("handle_info");
            std::future::pending().await
        }
    }

    // One is with the callback, one with the driver, one not yet seen by it.
    for stopped in [true, false] {
        Sim::new().run(async |sim| {
            let (client, life) = Setup::new(options()).client(sim.runtime(), Slow);
            sim.on_dial(addr(), parley_tests::sim::Fate::Never);
            let life = sim.spawn(life);
            client.started().await.unwrap();
            let info = || Uses(sim.clone(), client.handle());
            for _ in 0..2 {
                client.send_info(info()).await.unwrap_or_else(|_| panic!("there is room"));
                sim.settle().await;
            }
            assert_eq!(sim.calls(), ["0ms handle_info"]);
            if stopped {
                client.stop().await;
                client.send_info(info()).await.unwrap_or_else(|_| panic!("there is room"));
                client.join().await.unwrap();
                drop(life);
            } else {
                client.send_info(info()).await.unwrap_or_else(|_| panic!("there is room"));
                life.cancel();
                let error = client.join().await.unwrap_err();
                assert!(matches!(error.reason(), StopReason::Aborted));
            }
            let calls = sim.calls();
            assert!(calls.len() == 4 && calls[1..].iter().all(|line| line.ends_with("dropped")), "{calls:?}");
        });
    }
}

#[test]
fn rule_5_reasons_are_typed_displayed_and_cloned() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim).on("prepare", Reply::Fail("token expired"));
        let client = sim.start(options(), probe).await.unwrap();
        let error = client.join().await.unwrap_err();
        let StopReason::Disconnected(reason) = error.reason().clone() else { panic!("{error}") };
        assert!(matches!(&reason, DisconnectReason::Prepare(error) if error.to_string() == "token expired"));
        assert_eq!(reason.to_string(), "prepare failed: token expired");
        assert_eq!(reason.source().unwrap().to_string(), "token expired", "the handler's own error is in there");
        assert_eq!(error.source().unwrap().to_string(), reason.to_string());
    });
}
