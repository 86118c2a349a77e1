//! Streams that another HTTP server has upgraded, in the care of a server of ours.

use std::sync::Arc;

use parley_proto::codec::Frame;
use parley_proto::driver::{AcceptError, StartError};
use parley_proto::handshake::{Acceptance, Negotiated};
use parley_proto::{DisconnectReason, StopReason};
use parley_tests::raw::End;
use parley_tests::sim::{Gate, Reply};

use super::*;

/// The request as such a server has read it.
fn request(origin: Option<&str>) -> http::Request<()> {
    let mut request = http::Request::get("/chat")
        .header("host", "example.com")
        .header("upgrade", "websocket")
        .header("connection", "Upgrade")
        .header("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ==")
        .header("sec-websocket-version", "13")
        .header("sec-websocket-protocol", "v1");
    if let Some(origin) = origin {
        request = request.header("origin", origin);
    }
    request.body(()).unwrap()
}

fn agreed(server: &Server) -> Negotiated {
    let checked = server.check(&request(None)).unwrap();
    checked.accept(&Acceptance::new().subprotocol("v1")).unwrap().0
}

fn unbound() -> Server {
    any().build().unwrap()
}

/// A stream that is up: the peer's end, and ours.
async fn stream(sim: &Sim) -> (RawConn, SimTransport) {
    let listener = sim.listen(sim.free_addr());
    let peer = sim.dial(listener.addr());
    (peer, listener.accept_transport().await)
}

#[test]
fn what_is_not_to_be_upgraded_gets_its_response() {
    Sim::new().run(async |_| {
        let server = Server::builder(Origins::same_host()).build().unwrap();
        let checked = server.check(&request(Some("https://example.com"))).unwrap();
        assert_eq!(checked.path(), "/chat");
        assert_eq!(server.check(&request(Some("https://example.org"))).unwrap_err().status(), 403);
        let plain = http::Request::get("/chat").header("host", "example.com").body(()).unwrap();
        let response = server.check(&plain).unwrap_err();
        assert_eq!(
            (response.status().as_u16(), &response.headers()["sec-websocket-version"]),
            (426, &"13".parse().unwrap())
        );
        let stats = server.stats();
        assert_eq!((stats.refused, stats.failed, stats.connections), (1, 1, 0), "{stats:?}");
        server.shutdown(secs(1)).await;
        assert_eq!(server.check(&request(None)).unwrap_err().status(), 503);
    });
}

#[test]
fn a_handler_serves_it() {
    Sim::new().run(async |sim| {
        let server = unbound();
        let (mut peer, transport) = stream(&sim).await;
        peer.send(&text("early")).await;
        let upgraded = server.upgraded(transport, agreed(&server)).unwrap();
        assert_eq!(upgraded.agreed().subprotocol(), Some("v1"));
        let probe = Probe::new(&sim).on("handle_frame", Reply::push("yes")).on("handle_connect", Reply::push("hello"));
        let session = upgraded.accept_with(|own| probe.with_own(own)).await.unwrap();
        assert_eq!(server.stats().connections, 1);
        assert_eq!(peer.frame().await.payload, b"hello");
        assert_eq!(peer.frame().await.payload, b"yes");
        session.feed_frame(Frame::text("from outside")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"from outside");
        peer.send(&close(1000)).await;
        assert_eq!(close_code(&mut peer).await, 1000);
        assert_eq!(peer.end().await, End::Fin);
        peer.shutdown().await;
        session.join().await.unwrap();
        assert_eq!(sim.calls()[..3], ["0ms init", "0ms handle_connect 101 v1", "0ms handle_frame text early"]);
        sim.settle().await;
        assert_empty(&server);
    });
}

#[test]
fn a_loop_of_ones_own_serves_it() {
    Sim::new().run(async |sim| {
        let server = unbound();
        let (mut peer, transport) = stream(&sim).await;
        let mut socket = server.upgraded(transport, agreed(&server)).unwrap().into_websocket().await.unwrap();
        assert_eq!(socket.connected().subprotocol(), Some("v1"));
        assert_eq!(server.stats().connections, 1);
        peer.send(&text("hello")).await;
        assert_eq!(socket.next().await.unwrap().unwrap(), Frame::text("hello"));
        socket.send(Frame::text("there")).await.unwrap();
        assert_eq!(peer.frame().await.payload, b"there");
        peer.send(&close(1000)).await;
        peer.shutdown().await;
        assert!(socket.next().await.is_none());
        assert_eq!(close_code(&mut peer).await, 1000);
        sim.settle().await;
        assert_empty(&server);
    });
}

#[test]
fn it_takes_part_in_a_shutdown() {
    for handled in [false, true] {
        Sim::new().run(async |sim| {
            let server = Arc::new(unbound());
            let (mut peer, transport) = stream(&sim).await;
            let upgraded = server.upgraded(transport, agreed(&server)).unwrap();
            let (_, late) = stream(&sim).await;
            let probe = Probe::new(&sim);
            let serving = sim.spawn(async move {
                if handled {
                    upgraded.accept(probe).await.unwrap().join().await.unwrap();
                } else {
                    assert!(upgraded.into_websocket().await.unwrap().next().await.is_none());
                }
            });
            sim.settle().await;
            let down = sim.spawn({
                let server = server.clone();
                async move { server.shutdown(secs(30)).await }
            });
            assert_eq!(close_code(&mut peer).await, 1001);
            peer.send(&close(1001)).await;
            peer.shutdown().await;
            assert_eq!(down.await, 0);
            serving.await;
            let agreed = Negotiated::new(http::StatusCode::SWITCHING_PROTOCOLS, http::HeaderMap::new());
            assert!(matches!(server.upgraded(late, agreed), Err(AcceptError::ShuttingDown)));
            assert_empty(&server);
        });
    }
}

/// Where a request that waits would get 500.
#[test]
fn an_init_that_fails_or_takes_too_long_closes_with_1011() {
    for stuck in [false, true] {
        Sim::new().run(async |sim| {
            let server = unbound();
            let (mut peer, transport) = stream(&sim).await;
            let upgraded = server.upgraded(transport, agreed(&server)).unwrap();
            let gate = Gate::new();
            let reply = if stuck { Reply::wait(&gate) } else { Reply::Fail("no") };
            let accepting = sim.spawn(upgraded.accept(Probe::new(&sim).on("init", reply)));
            assert_eq!(close_code(&mut peer).await, 1011);
            assert_eq!(sim.elapsed(), if stuck { secs(10) } else { secs(0) });
            peer.shutdown().await;
            match accepting.await.unwrap_err() {
                StartError::Init(error) => assert!(!stuck && error.to_string() == "no", "{error}"),
                error => assert!(stuck, "{error:?}"),
            }
            assert!(!sim.calls().iter().any(|call| call.contains("connect")), "{:?}", sim.calls());
            sim.settle().await;
            assert_empty(&server);
        });
    }
}

#[test]
fn a_peer_that_has_gone_is_noticed() {
    Sim::new().run(async |sim| {
        let server = unbound();
        let (mut peer, transport) = stream(&sim).await;
        peer.shutdown().await;
        let session = server.upgraded(transport, agreed(&server)).unwrap().accept(Probe::new(&sim)).await.unwrap();
        let error = session.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Disconnected(DisconnectReason::Eof)), "{error}");
        sim.settle().await;
        assert_empty(&server);
    });
}
