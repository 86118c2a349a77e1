//! Rules 3.11, 3.12, 4.3 and section 5 of the guide: a client whose future is dropped, wherever it stands.

use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::Event;
use parley_proto::driver::{Handle, InfoError, LookupError, Setup, StartError, lookup};
use parley_proto::handshake::Acceptance;
use parley_proto::session::{ClientOptions, ClientState};
use parley_proto::{Action, DisconnectReason, Limits, SendError, StopReason};
use parley_tests::sim::{Fate, Gate, Link, Listener, Probe, Reply, Server, Sim, describe};

use crate::common::{Cut, GiveUp, addr, millis, options, secs};

/// What is ready at the first poll.
fn at_once<T>(future: impl Future<Output = T>) -> T {
    match pin!(future).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(value) => value,
        Poll::Pending => panic!("it hangs"),
    }
}

/// Whatever is asked of a client that was aborted is answered at once.
fn answers_as_aborted(handle: &Handle<String>) {
    let frame = || Frame::text("late");
    assert_eq!(handle.state(), ClientState::Stopped);
    for outcome in
        [at_once(handle.send_frame(frame())), at_once(handle.feed_frame(frame())), handle.try_send_frame(frame())]
    {
        assert!(matches!(outcome, Err(SendError::Stopped(back)) if back == frame()));
    }
    assert!(matches!(at_once(handle.flush()), Err(SendError::Lost(DisconnectReason::Local))));
    let infos = [
        at_once(handle.send_info("late".into())),
        handle.try_send_info("late".into()),
        handle.send_info_after(secs(1), "late".into()).map(drop),
    ];
    assert!(infos.into_iter().all(|outcome| outcome == Err(InfoError::Stopped("late".into()))));
    at_once(handle.connect());
    at_once(handle.reconnect(CloseFrame::normal()));
    at_once(handle.disconnect());
    at_once(handle.stop());
    for state in [ClientState::Disconnected, ClientState::Connecting, ClientState::Connected] {
        assert!(matches!(at_once(handle.wait_for(state)), Err(StopReason::Aborted)));
    }
    at_once(handle.wait_for(ClientState::Stopped)).unwrap();
}

type Lines = Arc<Mutex<Vec<String>>>;

/// A server that takes its time, and bears whatever the client does.
async fn server(sim: Sim, listener: Listener, seen: Lines) {
    loop {
        let mut server = Server::accept_from(&sim, &listener).await;
        loop {
            match server.next().await {
                Event::Request(_) => {
                    sim.sleep(millis(100)).await;
                    let _ = server.accept(Acceptance::default()); // the client may be gone
                }
                Event::Open(_) => {
                    for n in 0..3 {
                        let _ = server.try_send(Frame::text(format!("{n}")));
                    }
                    let _ = server.try_send(Frame::ping("p"));
                    sim.sleep(secs(1)).await; // meanwhile it takes nothing
                }
                Event::Frame(frame) => {
                    seen.lock().unwrap().push(describe(&frame));
                }
                Event::Closed(closed) => {
                    sim.note(format!("net server closed {}", closed.code()));
                    break;
                }
                _ => {}
            }
        }
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ends {
    /// By a stop.
    Stop,
    /// By a callback that panics.
    Panic,
}

/// A life with two connections, all kinds of waiting, and this end; or cut short. True: it was not.
fn life(ends: Ends, cut: Cut) -> bool {
    const NAME: &str = "ends: a life";
    Sim::new().run(async |sim| {
        let case = format!("{ends:?} {cut:?}");
        let seen = Lines::default();
        sim.on_resolve("echo.test", Fate::After(millis(100), Ok(vec![addr()])));
        sim.on_dial(addr(), Fate::After(millis(100), Ok(())));
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(8000).chunk(2000));
        sim.spawn(server(sim.clone(), listener, seen.clone()));

        let mut options = ClientOptions::new("ws://echo.test/").unwrap();
        options.name = Some(NAME.into());
        options.connection.limits = Limits::client().with_send_queue(1000).unwrap().with_info_queue(4).unwrap();
        let pause = |time| Reply::Act(Action::Continue).after(millis(time));
        let own = Reply::own(async |own| {
            let _ = own.send_frame(Frame::text("own")).await;
            let _ = own.flush().await;
            Reply::Act(Action::Continue)
        });
        let setup = Setup::new(options);
        let mut probe = Probe::new(&sim).with_own(setup.own_handle());
        for callback in ["init", "prepare", "handle_connect", "handle_info 0", "handle_disconnect", "terminate"] {
            probe = probe.on(callback, pause(50));
        }
        probe = probe.on("handle_frame text 1", own).on("handle_ping", Reply::push("pushed"));
        if ends == Ends::Panic {
            probe = probe.on("handle_info last", Reply::Panic);
        }
        let (client, life) = setup.client(sim.runtime(), probe);
        let handle = client.handle();
        let dropped = sim.spawn({
            let (sim, cut) = (sim.clone(), cut.clone());
            async move {
                let whole = GiveUp::new(life, cut, &Gate::new()).await.is_some();
                sim.note(if whole { "whole" } else { "cut" });
                whole
            }
        });

        // Whoever waits.
        let mut waiting = Vec::new();
        let mut wait = |name: String, future: Pin<Box<dyn Future<Output = String> + Send>>| {
            let sim = sim.clone();
            waiting.push((
                name.clone(),
                sim.clone().spawn(async move {
                    let outcome = future.await;
                    sim.note(format!("waiter {name}: {outcome}"));
                    outcome
                }),
            ));
        };
        for n in 0..15 {
            let handle = handle.clone();
            wait(
                format!("text w{n}"),
                Box::pin(async move {
                    let _ = handle.wait_for(ClientState::Connecting).await;
                    match handle.send_frame(Frame::text(format!("w{n}"))).await {
                        Ok(()) => "sent".into(),
                        Err(error) => error.to_string(),
                    }
                }),
            );
        }
        for n in 0..15 {
            let handle = handle.clone();
            let len = if n == 0 { 80_000 } else { 100 + n };
            wait(
                format!("binary of {len} bytes"),
                Box::pin(async move {
                    let _ = handle.wait_for(ClientState::Connected).await;
                    match handle.send_frame(Frame::binary(vec![0; len])).await {
                        Ok(()) => "sent".into(),
                        Err(error) => error.to_string(),
                    }
                }),
            );
        }
        for n in 0..8 {
            let handle = handle.clone();
            wait(
                format!("info {n}"),
                Box::pin(async move {
                    match handle.send_info(format!("{}", n % 2)).await {
                        Ok(()) => "sent".into(),
                        Err(error) => error.to_string(),
                    }
                }),
            );
        }
        for (name, state) in [("flush 0", ClientState::Connecting), ("flush 1", ClientState::Connected)] {
            let handle = handle.clone();
            wait(
                name.into(),
                Box::pin(async move {
                    let _ = handle.wait_for(state).await;
                    format!("{:?}", handle.flush().await)
                }),
            );
        }
        {
            let handle = handle.clone();
            wait(
                "stopped".into(),
                Box::pin(async move { format!("{:?}", handle.wait_for(ClientState::Stopped).await) }),
            );
        }

        // The application, which notices nothing of a cut.
        sim.sleep(millis(2500)).await;
        handle.disconnect().await;
        sim.sleep(secs(1)).await;
        handle.connect().await;
        sim.sleep(secs(2)).await;
        match ends {
            Ends::Stop => handle.stop().await,
            Ends::Panic => drop(handle.send_info("last".into()).await),
        }
        sim.sleep(secs(20)).await;
        let whole = dropped.await;

        let journal = sim.journal();
        for (name, outcome) in waiting {
            assert!(outcome.is_done(), "{case}: {name} still waits\n{}", journal.join("\n"));
            let outcome = outcome.await;
            let count = seen.lock().unwrap().iter().filter(|seen| **seen == name).count();
            assert!(count <= 1, "{case}: {name} came twice");
            let given_back = [SendError::Stopped, SendError::Disconnected, SendError::Closing];
            if given_back.iter().any(|error| error(Frame::text("")).to_string() == outcome) {
                assert_eq!(count, 0, "{case}: {name} came, and was given back");
            }
        }
        assert_eq!(handle.state(), ClientState::Stopped, "{case}");
        assert_eq!(lookup::<String>(NAME).unwrap_err(), LookupError::NotFound, "{case}");
        let of = |text: &str| journal.iter().filter(|line| line.contains(text)).count();
        let connections = of("net dial 10.0.0.1:80") - of("net dial given up");
        assert_eq!((of("net closed"), of("net server closed")), (connections, connections), "{case}");
        let started = client.started().await;
        let end = client.join().await;
        if whole {
            match ends {
                Ends::Stop => drop(end.unwrap()),
                Ends::Panic => assert!(matches!(end.unwrap_err().reason(), StopReason::Panicked), "{case}"),
            }
            assert_eq!(of("ms terminate"), if ends == Ends::Stop { 2 } else { 0 }, "{case}: and that it goes on");
            return true;
        }
        // What was called before the cut was dropped with it, and nothing was called after.
        let after = journal.iter().skip_while(|line| !line.ends_with("ms cut")).skip(1);
        for line in after {
            let line = line.split_once("ms ").unwrap().1;
            assert!(line.starts_with("waiter ") || line.starts_with("net server closed"), "{case}: {line}");
        }
        match started {
            Err(StartError::Aborted) => assert_eq!(of("init goes on"), 0, "{case}"),
            started => started.unwrap(),
        }
        let error = end.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Aborted), "{case}: {error}");
        assert!(error.into_handler().is_none());
        answers_as_aborted(&handle);
        false
    })
}

#[test]
fn rule_3_11_3_12_and_5_the_future_of_a_client_may_be_dropped_anywhere() {
    for ends in [Ends::Stop, Ends::Panic] {
        let after = (0..10_000).position(|polls| life(ends, Cut::default().after(polls)));
        let before = (0..10_000).position(|polls| life(ends, Cut::default().before(polls)));
        assert!(after.is_some_and(|polls| polls > 40) && before.is_some_and(|polls| polls > 40));
    }
}

#[test]
fn rule_4_3_the_future_of_run_may_be_dropped_anywhere() {
    let whole = |cut: Cut| {
        Sim::new().run(async |sim| {
            let seen = Lines::default();
            let listener = sim.listen(addr());
            let setup = Setup::new(options());
            let own = setup.own_handle();
            let probe =
                Probe::new(&sim).on("handle_frame text 1", Reply::Act(Action::Disconnect(CloseFrame::normal())));
            let run = GiveUp::new(setup.run(sim.runtime(), probe), cut, &Gate::new());
            let run = sim.spawn(run);
            sim.spawn(server(sim.clone(), listener, seen));
            sim.sleep(secs(20)).await;
            assert!(run.is_done());
            let ended = run.await;
            let of = |text: &str| sim.journal().iter().filter(|line| line.contains(text)).count();
            assert_eq!(of("net closed"), of("net server closed"));
            match ended {
                Some(ended) => assert!(ended.is_ok(), "it returns after its one connection"),
                None => answers_as_aborted(&own),
            }
            of("ms terminate") == 1
        })
    };
    assert!((0..100).position(|polls| whole(Cut::default().after(polls))).is_some_and(|polls| polls > 3));
    assert!((0..100).position(|polls| whole(Cut::default().before(polls))).is_some_and(|polls| polls > 3));
}
