//! The public test kit, `parley_proto::testing`: used as a user would, and its own promises.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::io::ErrorKind;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::Duration;

use futures_util::FutureExt;
use http::StatusCode;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Handle, StartError, TlsError};
use parley_proto::handshake::{Acceptance, Origins, Rejection};
use parley_proto::session::{Reconnect, TimerId};
use parley_proto::testing::{Fate, Link, Sim};
use parley_proto::{Action, BoxError, Connected, DisconnectReason, Handler, Retry};

const SECOND: Duration = Duration::from_secs(1);
const EVERY: Duration = Duration::from_secs(30);

/// Sends a beat every 30 s, and dials anew when the last one was not acknowledged.
struct Heartbeat {
    own: Handle<Beat>,
    timer: Option<TimerId>,
    acked: bool,
}

struct Beat;

impl Heartbeat {
    fn new(own: Handle<Beat>) -> Self {
        Self { own, timer: None, acked: true }
    }

    fn schedule(&mut self) -> Result<(), BoxError> {
        if let Some(last) = self.timer.replace(self.own.send_info_after(EVERY, Beat)?) {
            self.own.cancel(last);
        }
        Ok(())
    }
}

impl Handler<Beat> for Heartbeat {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.acked = true;
        self.schedule()?;
        Ok(Action::Continue)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.acked |= frame == Frame::text("ack");
        Ok(Action::Continue)
    }

    async fn handle_info(&mut self, _: Beat) -> Result<Action, BoxError> {
        if !self.acked {
            return Ok(Action::Reconnect(CloseFrame::normal()));
        }
        self.acked = false;
        self.schedule()?;
        Ok(Frame::text("beat").into())
    }
}

/// Notes why it was disconnected.
struct Noting(Sim);

impl Handler for Noting {
    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.0.note(format!("disconnected: {reason:?}"));
        Retry::Policy
    }
}

#[test]
fn a_heartbeat_beats_through_an_hour_and_comes_back_when_it_is_not_acknowledged() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("feed.example:80");
        let client = sim.client("ws://feed.example/v1").unwrap().start_with(Heartbeat::new).await.unwrap();
        let mut peer = listener.accept().await;
        let mut beats = 0;
        while sim.elapsed() < Duration::from_secs(3600) {
            assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
            peer.send(Frame::text("ack"));
            beats += 1;
        }
        assert_eq!((beats, sim.elapsed()), (120, Duration::from_secs(3600)));

        assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
        assert_eq!(peer.next_frame().await, None);
        assert_eq!(peer.closed().await.code(), 1000);
        let mut peer = listener.accept().await;
        assert_eq!(sim.elapsed(), Duration::from_secs(3660));
        assert_eq!(peer.next_frame().await, Some(Frame::text("beat")));
        client.stop().await;
        client.join().await.unwrap();
    });
}

#[test]
fn a_peer_lives_while_the_test_waits() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        let client = sim.client("ws://a.example/").unwrap().start(()).await.unwrap();
        let mut peer = listener.accept().await;
        sim.sleep(Duration::from_secs(3600)).await; // the client's keepalive is answered
        client.send_frame(Frame::text("still here")).await.unwrap();
        assert_eq!(peer.next_frame().await, Some(Frame::text("still here")));
        assert!(peer.next_ping().await.is_some());
        peer.send(Frame::Ping("p".into()));
        assert_eq!(peer.next_pong().await, Some("p".into()));
    });
}

/// How a client that does not reconnect ends when this is done to it.
fn ended_by(what: impl AsyncFnOnce(&Sim, &mut parley_proto::testing::Peer)) -> (Sim, String) {
    let sim = Sim::new();
    sim.run(async |sim| {
        let listener = sim.listen("a.example:80");
        let client = sim.client("ws://a.example/").unwrap().start(Noting(sim.clone())).await.unwrap();
        let mut peer = listener.accept().await;
        what(&sim, &mut peer).await;
        drop(client.join().await);
    });
    let journal = sim.journal();
    (sim, journal.into_iter().find(|line| line.contains("disconnected")).unwrap())
}

#[test]
fn every_fault_of_a_connection_ends_it_for_its_reason() {
    let (_, eof) = ended_by(async |_, peer| peer.hang_up());
    assert_eq!(eof, "0ms disconnected: Eof");
    let (_, reset) = ended_by(async |_, peer| peer.reset());
    assert!(reset.contains("Tcp") && reset.contains("ConnectionReset"), "{reset}");
    let (_, garbage) = ended_by(async |_, peer| peer.send_bytes("garbage"));
    assert!(garbage.contains("Protocol(Frame("), "{garbage}");
    let (_, half) = ended_by(async |_, peer| {
        peer.send_bytes(b"\x81\x05hel".as_slice());
        peer.hang_up();
    });
    assert_eq!(half, "0ms disconnected: Eof");
    let (_, closed) = ended_by(async |_, peer| peer.close(CloseFrame::normal()));
    assert!(closed.contains("Remote"), "{closed}");
    let (_, reads) = ended_by(async |_, peer| peer.wire().fail_client_reads(ErrorKind::TimedOut));
    assert!(reads.contains("TimedOut"), "{reads}");
    let (sim, stalled) = ended_by(async |_, peer| peer.stall());
    assert_eq!(stalled, "40000ms disconnected: KeepaliveTimeout");
    assert_eq!(sim.elapsed(), 40 * SECOND);
}

#[test]
fn a_peer_that_is_dropped_hangs_up() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        let mut socket = {
            let (socket, mut peer) = tokio::join!(sim.connect("ws://a.example/"), listener.accept());
            peer.send(Frame::text("bye"));
            socket.unwrap()
        };
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("bye"));
        let error = socket.next().await.unwrap().unwrap_err();
        assert!(matches!(error.reason(), Some(DisconnectReason::Eof)), "{error:?}");
    });
}

#[test]
fn dialling_fails_as_it_was_told_and_heals() {
    Sim::new().run(async |sim| {
        let failed = async |url: &str| format!("{:?}", sim.connect(url).await.unwrap_err());
        assert!(failed("ws://nowhere.example/").await.contains("Dns"));
        let listener = sim.listen("a.example:443");
        sim.on_tls(Fate::fail(TlsError::unavailable("not today")));
        assert!(failed("wss://a.example/").await.contains("not today"));
        sim.on_dial(listener.addr(), Fate::Never);
        assert!(failed("wss://a.example/").await.contains("ConnectTimeout"));
        assert_eq!(sim.elapsed(), 10 * SECOND);
        sim.on_resolve("a.example", Fate::fail(ErrorKind::TimedOut).after(SECOND));
        assert!(failed("wss://A.example/").await.contains("TimedOut"));
        assert_eq!(sim.elapsed(), 11 * SECOND);
        sim.heal();
        let (socket, request) = tokio::join!(
            sim.connect("wss://a.example/"),
            listener.reject(Rejection::new(StatusCode::UNAUTHORIZED).unwrap())
        );
        assert!(format!("{:?}", socket.unwrap_err()).contains("401"));
        assert_eq!(request.path(), "/");
        drop(listener);
        assert!(failed("wss://a.example/").await.contains("ConnectionRefused"));
    });
}

#[test]
fn what_a_reply_says_reaches_the_client() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        let dialling = sim.client("ws://a.example/").unwrap().subprotocol("v2").unwrap().connect();
        let reply = Acceptance::new().subprotocol("v2");
        let (socket, _peer) = tokio::join!(dialling, listener.accept_with(reply));
        assert_eq!(socket.unwrap().connected().subprotocol(), Some("v2"));
    });
}

#[test]
fn a_connection_that_ends_before_its_request_is_passed_over() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        let mut early = sim.dial(listener.addr()).unwrap();
        early.write(b"GET / HT").await.unwrap();
        drop(early);
        let (socket, peer) = tokio::join!(sim.connect("ws://a.example/second"), listener.accept());
        assert_eq!(peer.request().path(), "/second");
        drop(socket);
    });
}

#[test]
fn a_slow_link_takes_its_time_and_keeps_the_order() {
    Sim::new().run(async |sim| {
        let (mut client, mut peer) = sim.pair(Link::default().latency(2 * SECOND).rate(10));
        client.write(b"ten bytes!").await.unwrap();
        client.write(b"12345").await.unwrap();
        drop(client);
        assert_eq!(peer.read().await.unwrap(), "ten bytes!");
        assert_eq!(sim.elapsed(), 3 * SECOND);
        assert_eq!(peer.read().await.unwrap(), "12345");
        assert_eq!(sim.elapsed(), Duration::from_millis(3500));
        assert_eq!(peer.read().await.unwrap(), "");
        assert_eq!(sim.elapsed(), Duration::from_millis(3500));
    });
}

#[test]
fn a_client_works_over_a_slow_link_in_pieces() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        listener.set_link(Link::default().chunk(3).latency(SECOND / 4));
        let mut socket = {
            let (socket, mut peer) = tokio::join!(sim.connect("ws://a.example/"), listener.accept());
            peer.send(Frame::text("in pieces, and late"));
            peer.close(CloseFrame::normal());
            let mut socket = socket.unwrap();
            assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("in pieces, and late"));
            assert!(socket.next().await.is_none());
            assert!(peer.closed().await.was_clean);
            socket
        };
        assert!(socket.next().await.is_none());
        assert!(sim.elapsed() >= SECOND, "{:?}", sim.elapsed());
    });
}

#[test]
fn a_client_reconnects_by_its_policy_in_virtual_time() {
    Sim::new().run(async |sim| {
        let client = sim.client("ws://later.example/").unwrap().reconnect(Reconnect::default());
        let client = client.start(()).await.unwrap();
        sim.sleep(Duration::from_secs(600)).await; // nobody knows the name
        let listener = sim.listen("later.example:80");
        let peer = listener.accept().await;
        assert!(client.stats().attempts > 3);
        drop(peer);
        let _again = listener.accept().await;
    });
}

#[test]
fn a_server_and_its_client_share_a_world() {
    Sim::new().run(async |sim| {
        let server = sim.server(Origins::same_host()).listen(sim.listen("chat.example:80")).unwrap();
        let taken = sim.spawn(async move { server.next().await.unwrap().into_websocket().await.unwrap() });
        let mut client = sim.connect("ws://chat.example/").await.unwrap();
        let mut served = taken.await;
        client.send(Frame::text("hello")).await.unwrap();
        assert_eq!(served.next().await.unwrap().unwrap(), Frame::text("hello"));
    });
}

/// What a test is told that hangs.
fn told(main: impl AsyncFnOnce(Sim)) -> String {
    let sim = Sim::new();
    let panic = catch_unwind(AssertUnwindSafe(|| sim.run(main))).unwrap_err();
    *panic.downcast::<String>().unwrap()
}

#[test]
fn a_wait_in_vain_says_where_it_is_and_for_what() {
    let told = told(async |sim| {
        let listener = sim.listen("10.0.0.1:80");
        let client = sim.client("ws://10.0.0.1/").unwrap().keepalive(None).start(()).await.unwrap();
        let mut peer = listener.accept().await;
        sim.spawn(async move { peer.next_frame().await }).await;
        drop(client);
    });
    assert!(told.starts_with("nothing can happen any more, at "), "{told}");
    let here = format!("{}:{}", file!(), line!() - 4);
    assert!(told.contains(&here), "{told}");
    assert!(told.contains("waits for a message from the client at 10.0.0.1:80"), "{told}");
    assert!(told.contains("the task that was spawned at "), "{told}");
    assert!(told.contains("0ms net dial 10.0.0.1:80"), "{told}");
}

#[test]
fn a_wait_beside_keepalive_ends_as_well() {
    let told = told(async |sim| {
        sim.sleep(Duration::from_secs(14 * 24 * 3600)).await; // as long as one likes
        let listener = sim.listen("10.0.0.1:80");
        let _client = sim.client("ws://10.0.0.1/").unwrap().start(()).await.unwrap();
        let mut peer = listener.accept().await;
        peer.next_frame().await;
    });
    assert!(told.starts_with("a week of waiting, and no end: at 18144"), "{told}");
    assert!(told.contains("waits for a message from the client at 10.0.0.1:80"), "{told}");
}

#[test]
fn a_connection_that_the_client_has_given_up_is_passed_over() {
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        assert!(sim.connect("ws://a.example/first").await.is_err()); // after its connect timeout
        let (socket, peer) = tokio::join!(sim.connect("ws://a.example/second"), listener.accept());
        assert_eq!(peer.request().path(), "/second");
        drop(socket);
    });
}

#[test]
fn a_task_that_spins_is_named() {
    let told = told(async |sim| {
        sim.spawn(async {
            loop {
                tokio::task::yield_now().await;
            }
        })
        .await;
    });
    assert!(told.starts_with("the task that was spawned at "), "{told}");
    assert!(told.contains(" spins: "), "{told}");
}

#[test]
fn two_cannot_listen_at_one_place() {
    let told = told(async |sim| {
        let _first = sim.listen("a.example:80");
        let _second = sim.listen("A.example:80");
    });
    assert!(told.contains("cannot listen at \"A.example:80\""), "{told}");
}

#[test]
fn a_client_outside_of_a_world_is_told_that_there_is_no_runtime() {
    let sim = Sim::new();
    let started = sim.client("ws://a.example/").unwrap().start(()).now_or_never().unwrap();
    assert!(matches!(started, Err(StartError::NoRuntime)), "{started:?}");
}
