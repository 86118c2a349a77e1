//! How many at a time, and errors of accepting.

use std::io::ErrorKind;

use parley_proto::Limits;
use parley_tests::sim::{Probe, Sim};

use super::*;

#[test]
fn no_more_connections_are_accepted_than_may_be() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_connections(2));
        let (first, one) = asked(&sim, &server).await;
        let (_second, two) = asked(&sim, &server).await;
        let one = one.into_websocket().await.unwrap();
        let _two = two.into_websocket().await.unwrap();
        let third = ask(&sim).await;
        sim.settle().await;
        assert_eq!((server.stats().connections, server.stats().accepted), (2, 3), "the third waits for its turn");
        drop((one, first));
        let three = server.next().await.unwrap();
        assert_eq!((server.stats().connections, server.stats().accepted), (2, 3));
        drop((three, third));
    });
}

#[test]
fn no_more_requests_are_undecided_than_may_be() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(2));
        let (_first, one) = asked(&sim, &server).await;
        let (_second, _two) = asked(&sim, &server).await;
        let _third = ask(&sim).await;
        let _fourth = ask(&sim).await;
        sim.settle().await;
        assert_eq!((server.stats().undecided, server.stats().accepted), (2, 3), "the third waits for its turn");
        let _socket = one.into_websocket().await.unwrap();
        let three = server.next().await.unwrap();
        sim.settle().await;
        assert_eq!((server.stats().undecided, server.stats().accepted), (2, 4));
        drop(three); // one that is answered makes room as well
        let four = server.next().await.unwrap();
        assert_eq!((server.stats().undecided, server.stats().accepted, server.stats().displaced), (2, 4, 0));
        drop(four);
    });
}

/// Peers that connect and say nothing, or half of something: whoever asks behind them waits for a second for each full house of
/// them, not for the handshake timeout.
#[test]
fn hazard_2_who_is_silent_slows_others_down_and_does_not_keep_them_out() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(16));
        let mut silent = Vec::new();
        for round in 0..64 {
            let mut peer = sim.dial(addr());
            if round % 2 == 0 {
                peer.send(&REQUEST[..40]).await;
            }
            silent.push(peer);
        }
        let (mut peer, incoming) = asked(&sim, &server).await;
        let _socket = incoming.into_websocket().await.unwrap();
        assert_eq!(status(&mut peer).await, 101);
        assert_eq!(sim.elapsed(), secs(4), "four times sixteen were before it");
        sim.settle().await;
        let stats = server.stats();
        assert_eq!((stats.undecided, stats.connections, stats.accepted), (15, 16, 65));
        assert_eq!((stats.displaced, stats.failed), (64 - 15, 64 - 15));
        // The others run into their own deadline, since nobody wants their place.
        sim.sleep(millis(3999)).await;
        assert_eq!(server.stats().undecided, 15);
        sim.sleep(millis(1001)).await;
        sim.settle().await;
        assert_eq!((server.stats().undecided, server.stats().failed), (0, 64));
        drop(silent);
    });
}

/// In one instant come more than may be: none gives way before it had its second.
#[test]
fn a_crowd_of_those_who_ask_is_served_in_order() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(4));
        let mut peers = Vec::new();
        for _ in 0..100 {
            peers.push(ask(&sim).await);
        }
        for mut peer in peers {
            let _socket = server.next().await.unwrap().into_websocket().await.unwrap();
            assert_eq!(status(&mut peer).await, 101);
            assert!(server.stats().undecided <= 4);
        }
        assert_eq!((sim.elapsed(), server.stats().displaced), (secs(0), 0));
    });
}

/// One that has sent its request waits for the application, whoever comes.
#[test]
fn who_has_asked_gives_way_to_nobody() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(2).decision_timeout(secs(60)));
        let (_peer, incoming) = asked(&sim, &server).await;
        let silent: Vec<_> = (0..10).map(|_| sim.dial(addr())).collect();
        let (_other, second) = asked(&sim, &server).await;
        assert_eq!(sim.elapsed(), secs(10));
        let _sockets = (incoming.into_websocket().await.unwrap(), second.into_websocket().await.unwrap());
        assert_eq!(server.stats().displaced, 10);
        drop(silent);
    });
}

#[test]
fn init_counts_to_the_undecided() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(1));
        let gate = parley_tests::sim::Gate::new();
        let (_peer, incoming) = asked(&sim, &server).await;
        let probe = Probe::new(&sim).on("init", parley_tests::sim::Reply::wait(&gate));
        let accepting = sim.spawn(incoming.accept(probe));
        let _other = ask(&sim).await;
        sim.settle().await;
        assert_eq!((server.stats().accepted, server.stats().undecided), (2, 1));
        gate.open();
        let _session = accepting.await.unwrap();
        let _incoming = server.next().await.unwrap();
    });
}

/// Too many open files, say: 5 ms, 10, 20 and so on, at most a second; a success begins anew.
#[test]
fn errors_of_accepting_pause_and_do_not_end_it() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        sim.listener(addr()).fail_accepts([ErrorKind::Other; 10]);
        let (_peer, _incoming) = asked(&sim, &server).await;
        assert_eq!(sim.elapsed(), millis(5 + 10 + 20 + 40 + 80 + 160 + 320 + 640 + 1000 + 1000));
        let before = sim.elapsed();
        sim.listener(addr()).fail_accepts([ErrorKind::Other]);
        let (_peer, _incoming) = asked(&sim, &server).await;
        assert_eq!(sim.elapsed() - before, millis(5));
        let before = sim.elapsed();
        sim.listener(addr()).fail_accepts([ErrorKind::ConnectionAborted; 100]);
        let (_peer, _incoming) = asked(&sim, &server).await;
        assert_eq!(sim.elapsed(), before, "those were about one connection each");
        assert_eq!(server.stats().accept_errors, 111);
    });
}

#[test]
fn a_server_that_pauses_stops_at_once() {
    Sim::new().run(async |sim| {
        let server = serve(any());
        sim.listener(addr()).fail_accepts([ErrorKind::Other; 9]);
        sim.sleep(millis(1300)).await;
        let before = sim.elapsed();
        assert_eq!(server.shutdown(secs(1)).await, 0);
        sim.settle().await;
        assert_eq!(sim.elapsed(), before);
        assert_eq!(sim.running(), 0);
    });
}

/// `Server::accept`: the bounds are not theirs.
#[test]
fn a_stream_of_ones_own_gives_way_to_nobody() {
    Sim::new().run(async |sim| {
        let server = std::sync::Arc::new(serve(any().max_handshakes(1)));
        let elsewhere = sim.listen(sim.free_addr());
        let mut peer = sim.dial(elsewhere.addr());
        let stream = elsewhere.accept_transport().await;
        let of = server.clone();
        let own = sim.spawn(async move { of.accept(stream).await.map(drop) });
        sim.sleep(millis(1500)).await;
        let _silent = sim.dial(addr());
        sim.sleep(millis(500)).await;
        peer.send(REQUEST).await;
        sim.settle().await;
        assert_eq!(server.stats().displaced, 0, "{:?}", server.stats());
        assert!(own.await.is_ok());
    });
}

#[test]
fn a_stream_of_ones_own_takes_no_place_of_the_listeners() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_handshakes(1).decision_timeout(secs(60)));
        let elsewhere = sim.listen(sim.free_addr());
        let mut peer = sim.dial(elsewhere.addr());
        peer.send(REQUEST).await;
        let _own = server.accept(elsewhere.accept_transport().await).await.unwrap();
        let _peer = ask(&sim).await;
        sim.settle().await;
        assert_eq!(server.stats().undecided, 2, "the listener's waits for the answer to the other");
    });
}

/// `max_handshakes`: "peers that connect and send no request slow others down, and do not keep them out"; each gives its place
/// after a second. Not where it is `max_connections` that they fill.
#[test]
fn the_silent_give_way_where_they_fill_the_connections_too() {
    Sim::new().run(async |sim| {
        let server = serve(any().max_connections(4));
        let _silent: Vec<_> = (0..4).map(|_| sim.dial(addr())).collect();
        let (_peer, _incoming) = asked(&sim, &server).await;
        assert!(sim.elapsed() <= secs(2), "after {:?}", sim.elapsed());
    });
}

#[test]
fn a_head_larger_than_a_window_is_read_where_the_limits_allow_it() {
    Sim::new().run(async |sim| {
        let limits = Limits::server().unlimited_head().unlimited_header_line();
        let server = serve(any().limits(limits));
        let mut peer = sim.dial(addr());
        // Beyond the largest window, so that no read ends where it does.
        let value = "v".repeat(200_000);
        let (line, rest) = REQUEST.split_at(b"GET /chat HTTP/1.1\r\n".len());
        let request = [line, format!("X-Large: {value}\r\n").as_bytes(), rest].concat();
        let client = sim.spawn(async move {
            peer.send(&request).await;
            peer
        });
        let incoming = server.next().await.unwrap();
        assert_eq!(incoming.request().headers()["x-large"], value);
        let _socket = incoming.into_websocket().await.unwrap();
        assert_eq!(status(&mut client.await).await, 101);
    });
}
