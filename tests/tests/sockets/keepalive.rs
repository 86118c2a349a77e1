//! Keepalive of a socket whose application is away for long: from when a ping leaves, it has its time.

use std::time::Duration;

use parley_proto::Limits;
use parley_proto::codec::Frame;
use parley_tests::raw;
use parley_tests::sim::{Link, Sim};

use super::*;

#[test]
fn a_ping_that_was_due_while_nobody_polled_has_its_time() {
    Sim::new().run(async |sim| {
        let (mut socket, mut peer, _listener) = connected(&sim, Link::default().capacity(1000)).await;
        let sending = sim.spawn(async move {
            socket.send(Frame::binary(vec![0; 5000])).await.unwrap();
            socket
        });
        sim.sleep(Duration::from_secs(25)).await;
        assert_eq!(peer.frame().await.payload.len(), 5000);
        let mut socket = sending.await;
        sim.sleep(Duration::from_secs(35)).await; // the application does something else
        let reading = sim.spawn(async move {
            let next = socket.next().await;
            (next.map(|frame| frame.map_err(|error| format!("{error}"))), socket)
        });
        let ping = peer.frame().await;
        assert_eq!((ping.first, sim.elapsed()), (PING, Duration::from_secs(60)));
        let _ = peer.try_send(&[raw::frame(PONG, &ping.payload), raw::frame(TEXT, b"x")].concat()).await;
        assert_eq!(reading.await.0, Some(Ok(Frame::text("x"))));
    });
}

#[test]
fn behind_a_pause_of_reading_the_wait_starts_afresh() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let mut options = ClientOptions::new("ws://10.0.0.1/").unwrap();
        options.connection.limits = Limits::client().with_read_ahead(100).unwrap();
        let task = sim.spawn({
            let sim = sim.clone();
            async move { dial_with(&sim, options).await.unwrap() }
        });
        let mut peer = listener.accept().await;
        peer.upgrade("").await;
        let mut socket = task.await;
        peer.send(&[raw::frame(BINARY, &[0; 100]), raw::frame(BINARY, &[0; 100])].concat()).await;
        socket.next().await.unwrap().unwrap();
        sim.sleep(Duration::from_secs(500)).await;
        socket.next().await.unwrap().unwrap();
        let _reading = sim.spawn(async move { drop(socket.next().await) });
        assert_eq!(peer.frame().await.first, PING);
        assert_eq!(sim.elapsed(), Duration::from_secs(520), "afresh, from when reading went on");
    });
}
