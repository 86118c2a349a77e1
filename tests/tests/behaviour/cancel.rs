//! Sections 1 and 3.10 of the guide: each future of `Handle` and `Client` may be dropped wherever it stands. Nothing is
//! lost, doubled or torn by that, and nothing stays taken.

use std::future::Future;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Handle, InfoError};
use parley_proto::session::ClientState;
use parley_proto::{Action, Limits, SendError};
use parley_tests::raw;
use parley_tests::sim::{Fate, Gate, Link, Listener, Probe, Reply, Sim};

use crate::common::{Cut, GiveUp, Probed, addr, options, secs};

/// The bound of the queue, what each frame costs of it, and so how many it holds.
const BOUND: usize = 1000;
const COST: usize = 100;
const FRAMES: usize = BOUND / COST;
/// The bound of the infos.
const INFOS: usize = 4;
/// Begun at once, and more than a peer takes that does not read.
const BIG: &str = "binary of 100000 bytes";

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// What a row is asked of.
struct Subject {
    handle: Handle<String>,
    client: Option<Probed>,
}

/// What a future came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Got {
    Done,
    /// Refused: the frame or info was given back.
    Back,
    Lost,
}

/// What asking changes, once it has been accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Nothing,
    Frame,
    Info,
    Connects,
    Closes,
    Redials,
    Ends,
}

struct Row {
    name: &'static str,
    effect: Effect,
    /// Whether it waits once it was accepted.
    waits: bool,
    /// Whether it is a method of `Client`.
    client: bool,
    ask: fn(Subject) -> Boxed<Got>,
}

fn sent(outcome: Result<(), SendError>) -> Got {
    match outcome {
        Ok(()) => Got::Done,
        Err(SendError::Lost(_)) => Got::Lost,
        Err(error) => {
            assert!(error.frame().is_some(), "the frame comes back: {error}");
            Got::Back
        }
    }
}

fn informed(outcome: Result<(), InfoError<String>>) -> Got {
    if outcome.is_ok() { Got::Done } else { Got::Back }
}

macro_rules! row {
    ($name:literal, $effect:ident, $waits:literal, $client:literal, |$subject:ident| $ask:expr) => {
        Row {
            name: $name,
            effect: Effect::$effect,
            waits: $waits,
            client: $client,
            ask: |$subject| Box::pin(async move { $ask }),
        }
    };
}

const ROWS: &[Row] = &[
    row!("send_frame", Frame, true, false, |of| sent(of.handle.send_frame(frame("row")).await)),
    row!("feed_frame", Frame, false, false, |of| sent(of.handle.feed_frame(frame("row")).await)),
    row!("flush", Nothing, true, false, |of| sent(of.handle.flush().await)),
    row!("send_info", Info, false, false, |of| informed(of.handle.send_info("row".into()).await)),
    row!("connect", Connects, false, false, |of| {
        of.handle.connect().await;
        Got::Done
    }),
    row!("reconnect", Redials, false, false, |of| {
        of.handle.reconnect(CloseFrame::normal()).await;
        Got::Done
    }),
    row!("disconnect", Closes, false, false, |of| {
        of.handle.disconnect().await;
        Got::Done
    }),
    row!("disconnect_with", Closes, false, false, |of| {
        of.handle.disconnect_with(CloseFrame::going_away()).await;
        Got::Done
    }),
    row!("stop", Ends, false, false, |of| {
        of.handle.stop().await;
        Got::Done
    }),
    row!("stop_with", Ends, false, false, |of| {
        of.handle.stop_with(CloseFrame::going_away()).await;
        Got::Done
    }),
    row!("wait_for connected", Nothing, true, false, |of| done(of.handle.wait_for(ClientState::Connected).await)),
    row!("wait_for disconnected", Nothing, true, false, |of| done(of.handle.wait_for(ClientState::Disconnected).await)),
    row!("wait_for stopped", Nothing, true, false, |of| done(of.handle.wait_for(ClientState::Stopped).await)),
    row!("started", Nothing, true, true, |of| done(of.client.unwrap().started().await)),
    row!("join", Nothing, true, true, |of| done(of.client.unwrap().join().await)),
];

fn done<T>(_: T) -> Got {
    Got::Done
}

/// A frame that costs [`COST`].
fn frame(name: &str) -> Frame {
    Frame::text(format!("{name:-<68}"))
}

/// Where the client is when it is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Situation {
    /// Connected, and there is room.
    Open,
    /// The peer takes nothing, and both queues are full.
    Full,
    Connecting,
    /// Connecting, and both queues are full.
    ConnectingFull,
    Disconnected,
    /// By the own handle, in a callback.
    OwnGreeting,
    OwnOpen,
    OwnFull,
    OwnDisconnected,
}

use Situation::{Connecting, ConnectingFull, Disconnected, Full, Open, OwnDisconnected, OwnFull, OwnGreeting, OwnOpen};

impl Situation {
    const ALL: [Self; 9] =
        [Open, Full, Connecting, ConnectingFull, Disconnected, OwnGreeting, OwnOpen, OwnFull, OwnDisconnected];

    fn is_own(self) -> bool {
        matches!(self, OwnGreeting | OwnOpen | OwnFull | OwnDisconnected)
    }

    fn is_full(self) -> bool {
        matches!(self, Full | ConnectingFull | OwnFull)
    }
}

/// When a future is dropped.
#[derive(Clone, Copy, Debug)]
enum When {
    /// As soon as this poll has returned.
    Poll(usize),
    /// After so many polls, when it is woken for another.
    Wake(usize),
    /// While it waits and nothing happens, others waiting behind it.
    Quiet,
}

type Lines = Arc<Mutex<Vec<String>>>;

/// The name of a frame that came: its text without what fills it up.
fn name_of(frame: &raw::RawFrame) -> String {
    match frame.first {
        0x81 => String::from_utf8(frame.payload.clone()).unwrap().trim_end_matches('-').to_owned(),
        0x82 => format!("binary of {} bytes", frame.payload.len()),
        first => panic!("neither text nor binary: {first:#x}"),
    }
}

/// Takes one connection after the other; each opens at once and is read when `reads` is open.
async fn peers(listener: Listener, reads: Gate, seen: Lines) {
    loop {
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        reads.opened().await;
        loop {
            let frame = peer.frame().await;
            if frame.first == 0x88 {
                peer.send(&raw::frame(0x88, &frame.payload)).await;
                peer.shutdown().await;
                break;
            }
            seen.lock().unwrap().push(name_of(&frame));
        }
    }
}

/// True: another poll would not come.
fn drops(row: &Row, situation: Situation, when: When) -> bool {
    Sim::new().run(async |sim| {
        let case = format!("{} {situation:?} {when:?}", row.name);
        let (reads, infos, seen) = (Gate::new(), Gate::new(), Lines::default());
        let listener = sim.listen(addr());
        listener.set_link(Link::default().capacity(1000));
        if matches!(situation, Connecting | ConnectingFull) {
            sim.on_dial(addr(), Fate::After(secs(2), Ok(())));
        }
        sim.spawn(peers(listener, reads.clone(), seen.clone()));

        // The future under test, in the callback or in a task of its own.
        let give_up = Gate::new();
        let (cut, outcome) = (Cut::default(), Arc::new(Mutex::new(None)));
        let cut_at = match when {
            When::Poll(polls) => cut.clone().after(polls),
            When::Wake(polls) => cut.clone().before(polls),
            When::Quiet => cut.clone(),
        };
        let ask = row.ask;
        let run = {
            let (give_up, outcome) = (give_up.clone(), outcome.clone());
            move |subject: Subject| {
                let (give_up, outcome, cut_at) = (give_up.clone(), outcome.clone(), cut_at.clone());
                async move {
                    let got = GiveUp::new(ask(subject), cut_at, &give_up).await;
                    *outcome.lock().unwrap() = Some(got);
                }
            }
        };
        let mut options = options();
        options.connection.limits = Limits::client().with_send_queue(BOUND).unwrap().with_info_queue(INFOS).unwrap();
        let own = Reply::own({
            let run = run.clone();
            move |own| {
                let run = run(Subject { handle: own, client: None });
                async move {
                    run.await;
                    Reply::Act(Action::Continue)
                }
            }
        });
        let callback = if situation == OwnGreeting { "handle_connect" } else { "handle_info go" };
        let mut probe = Probe::new(&sim).on("handle_info hold", Reply::wait(&infos));
        if situation.is_own() {
            probe = probe.once(callback, own);
        }
        let client = sim.start_with(options, |own| probe.with_own(own)).await.unwrap();
        let handle = client.handle();
        let mut client = Some(client);

        // The situation.
        if !situation.is_full() {
            reads.open();
        }
        if !matches!(situation, Connecting | ConnectingFull) {
            handle.wait_for(ClientState::Connected).await.unwrap();
        }
        if matches!(situation, Disconnected | OwnDisconnected) {
            handle.disconnect().await;
            handle.wait_for(ClientState::Disconnected).await.unwrap();
        }
        let mut order = Vec::new();
        if situation.is_full() {
            if situation != ConnectingFull {
                handle.try_send_frame(Frame::binary(vec![0; 100_000])).unwrap();
                order.push(BIG.to_owned());
                sim.settle().await;
            }
            while handle.try_send_frame(frame(&format!("f{}", order.len()))).is_ok() {
                order.push(format!("f{}", order.len()));
            }
            assert!(order.len() >= FRAMES);
            if !situation.is_own() {
                handle.try_send_info("hold".into()).unwrap();
                sim.settle().await;
                while handle.try_send_info("filler".into()).is_ok() {}
            }
        }
        let fillers = order.clone();

        // One before it, itself, one behind it.
        let other = |name: &'static str| {
            let (frames, infos) = (handle.clone(), handle.clone());
            let frames = sim.spawn(async move { sent(frames.send_frame(frame(name)).await) });
            (name, frames, sim.spawn(async move { informed(infos.send_info(name.into()).await) }))
        };
        let ahead = other("ahead");
        sim.settle().await;
        if situation.is_own() {
            if situation != OwnGreeting {
                handle.try_send_info("go".into()).unwrap();
            }
        } else {
            let client = if row.client { client.take() } else { None };
            sim.spawn(run(Subject { handle: handle.clone(), client }));
        }
        sim.settle().await;
        let behind = other("behind");
        sim.settle().await;
        if matches!(when, When::Quiet) {
            give_up.open();
            sim.settle().await;
        }

        // All may go on.
        reads.open();
        infos.open();
        sim.sleep(secs(8)).await;
        give_up.open(); // what waits for what does not come
        sim.sleep(secs(8)).await;
        let got = outcome.lock().unwrap().take().unwrap_or_else(|| panic!("{case}: neither ready nor dropped"));
        let polls = cut.polls();
        let asked = polls > 0;
        let closes = asked && matches!(row.effect, Effect::Closes | Effect::Redials | Effect::Ends);

        // What became of the others.
        order.extend(["ahead", "row", "behind"].map(str::to_owned));
        let count = |name: &str| seen.lock().unwrap().iter().filter(|seen| *seen == name).count();
        let informed =
            |name: &str| sim.calls().iter().filter(|line| line.ends_with(&format!("handle_info {name}"))).count();
        let was_down = matches!(situation, Disconnected | OwnDisconnected);
        for (name, frames, infos) in [ahead, behind] {
            assert!(frames.is_done() && infos.is_done(), "{case}: {name} still waits");
            let (of_frame, of_info) = (frames.await, infos.await);
            match of_frame {
                Got::Done => assert_eq!(count(name), 1, "{case}: {name}"),
                Got::Back => assert_eq!(count(name), 0, "{case}: {name}"),
                Got::Lost => assert!(count(name) <= 1, "{case}: {name}"),
            }
            assert!(of_frame == Got::Done || closes || was_down, "{case}: {name} {of_frame:?}");
            let ended = asked && row.effect == Effect::Ends;
            assert!(of_info == Got::Done || ended, "{case}: info {name} {of_info:?}");
            assert!(informed(name) == 1 || ended && informed(name) == 0, "{case}: info {name}");
        }
        for filler in &fillers {
            assert!(count(filler) == 1 || closes && count(filler) == 0, "{case}: {filler} {}", count(filler));
        }
        let came = seen.lock().unwrap().clone();
        let places: Vec<_> = (came.iter())
            .filter(|name| !(situation.is_own() && *name == "row")) // it need not stand behind the others
            .map(|name| order.iter().position(|other| other == name).unwrap_or_else(|| panic!("{case}: {name}")))
            .collect();
        assert!(places.is_sorted(), "{case}: {came:?}");

        // And of itself.
        let (frames, infos) = (count("row"), informed("row"));
        match (row.effect, got) {
            (Effect::Frame, Some(Got::Done)) => assert_eq!(frames, 1, "{case}"),
            (Effect::Frame, Some(Got::Back)) => assert_eq!(frames, 0, "{case}"),
            (Effect::Frame, None) if row.waits && asked => assert!(frames <= 1, "{case}"),
            (Effect::Info, Some(Got::Done)) => assert_eq!(infos, 1, "{case}"),
            (Effect::Info, Some(Got::Back)) => assert_eq!(infos, 0, "{case}"),
            _ => assert_eq!((frames, infos), (0, 0), "{case}"),
        }
        if !matches!(row.effect, Effect::Nothing | Effect::Frame | Effect::Info) {
            assert_eq!(got.is_some(), asked, "{case}: accepted at the first poll");
        }
        assert_eq!(handle.stats().queued, 0, "{case}");
        let state = handle.state();
        let expected = match row.effect {
            Effect::Ends if asked => ClientState::Stopped,
            Effect::Closes if asked => ClientState::Disconnected,
            Effect::Connects | Effect::Redials if asked => ClientState::Connected,
            _ if was_down => ClientState::Disconnected,
            _ => ClientState::Connected,
        };
        assert_eq!(state, expected, "{case}");

        // It goes on as if nothing had been dropped: both queues can be filled up to their bounds.
        if state == ClientState::Stopped {
            assert!(matches!(handle.try_send_frame(frame("late")), Err(SendError::Stopped(_))), "{case}");
            client.unwrap().join().await.unwrap();
            return got.is_some();
        }
        handle.connect().await;
        handle.wait_for(ClientState::Connected).await.unwrap();
        sim.settle().await;
        seen.lock().unwrap().clear();
        let mut after = Vec::new();
        while handle.try_send_frame(frame(&format!("after {}", after.len()))).is_ok() {
            after.push(format!("after {}", after.len()));
        }
        assert_eq!((after.len(), handle.stats().queued), (FRAMES, BOUND as u64), "{case}");
        let fits = (0..).take_while(|_| handle.try_send_info("after".into()).is_ok()).count();
        assert_eq!(fits, INFOS, "{case}");
        let flush = handle.clone();
        let flush = sim.spawn(async move { flush.flush().await });
        let last = handle.clone();
        let last = sim.spawn(async move { last.send_frame(frame("last")).await });
        sim.sleep(secs(1)).await;
        assert!(flush.is_done() && last.is_done(), "{case}: somebody still waits");
        after.push("last".into());
        assert_eq!(*seen.lock().unwrap(), after, "{case}");
        assert_eq!(informed("after"), INFOS, "{case}");
        assert_eq!(handle.stats().queued, 0, "{case}");
        match when {
            When::Poll(at) | When::Wake(at) => got.is_some() || polls < at,
            When::Quiet => true,
        }
    })
}

/// One row, in every situation, dropped everywhere.
fn rule_holds(row: &Row) {
    for situation in Situation::ALL {
        if row.client && situation.is_own() {
            continue;
        }
        drops(row, situation, When::Quiet);
        for when in [When::Poll, When::Wake] {
            let ends = (0..1000).position(|polls| drops(row, situation, when(polls)));
            assert!(ends.is_some(), "{} is never ready: {situation:?}", row.name);
        }
    }
}

#[test]
fn rule_1_and_3_10_every_future_of_a_handle_may_be_dropped_anywhere() {
    for row in ROWS {
        rule_holds(row);
    }
}
