//! `stats()`: the numbers of a client, and what rules 3.6, 3.9 and 4.5 say is counted.

use parley_proto::Action;
use parley_proto::codec::Frame;
use parley_tests::raw;
use parley_tests::sim::{Probe, Reply, Sim};

use crate::common::{addr, connected, finish, millis, options};

#[test]
fn frames_and_bytes_are_counted_each_way() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        sim.settle().await;
        let before = client.stats();
        assert_eq!((before.attempts, before.frames_received, before.frames_sent), (1, 0, 0));
        client.send_frame(Frame::text("hello")).await.unwrap();
        peer.frame().await;
        peer.send(&[raw::frame(0x81, b"one"), raw::frame(0x89, b"")].concat()).await;
        sim.noted("handle_ping").await;
        assert_eq!(peer.frame().await.first, 0x8a);
        sim.settle().await;
        let after = client.stats();
        assert_eq!(after.frames_sent, 1, "the pong is not the application's");
        assert_eq!(after.frames_received, 2);
        assert_eq!(after.bytes_received - before.bytes_received, 5 + 2);
        assert_eq!(after.bytes_sent - before.bytes_sent, (2 + 4 + 5) + (2 + 4));
        assert_eq!((after.queued, after.dropped, after.refused), (0, 0, 0));
        client.stop().await;
        finish(&mut peer, 1000).await;
    });
}

#[test]
fn the_round_trip_time_of_keepalive_is_told() {
    Sim::new().run(async |sim| {
        let (client, mut peer, _) = connected(&sim, Probe::new(&sim)).await;
        assert_eq!(client.stats().rtt, None);
        let ping = peer.frame().await; // after the interval of silence
        sim.sleep(millis(30)).await;
        peer.send(&raw::frame(0x8a, &ping.payload)).await;
        sim.settle().await;
        let rtt = client.stats().rtt.unwrap();
        assert_eq!((rtt.last, rtt.smoothed, rtt.min), (millis(30), millis(30), millis(30)));
    });
}

#[test]
fn rule_3_6_and_3_9_refused_pushes_are_counted() {
    Sim::new().run(async |sim| {
        let probe = Probe::new(&sim)
            .once("handle_info", Reply::Act(Action::Push(Frame::ping(vec![0; 126]))))
            .once("handle_info", Reply::push("too late"));
        let (client, mut peer, _) = connected(&sim, probe).await;
        client.send_info("a".into()).await.unwrap();
        sim.noted("handle_info a").await;
        client.disconnect().await;
        finish(&mut peer, 1000).await;
        sim.noted("handle_disconnect").await;
        client.send_info("b".into()).await.unwrap();
        sim.noted("handle_info b").await;
        sim.settle().await;
        assert_eq!(client.stats().refused, 2);
    });
}

#[test]
fn rule_4_5_frames_that_were_accepted_and_lost_are_counted() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Probe::new(&sim)).await.unwrap();
        let mut peer = listener.accept().await;
        client.feed_frame(Frame::text("one")).await.unwrap();
        client.try_send_frame(Frame::text("two")).unwrap();
        sim.settle().await;
        assert_eq!(client.stats().queued, 2 * (3 + 32));
        peer.head().await;
        peer.send(b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n").await;
        sim.noted("handle_disconnect").await;
        sim.settle().await;
        let stats = client.stats();
        assert_eq!((stats.dropped, stats.queued, stats.frames_sent), (2, 0, 0));
    });
}
