//! How many at a time, and errors of accepting.

use std::io::ErrorKind;

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
        assert_eq!((server.stats().connections, server.stats().accepted), (2, 2));
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
        let silent = sim.dial(addr());
        let (_peer, incoming) = asked(&sim, &server).await;
        let _third = ask(&sim).await;
        let _fourth = ask(&sim).await;
        sim.settle().await;
        assert_eq!((server.stats().undecided, server.stats().accepted), (2, 2));
        let _socket = incoming.into_websocket().await.unwrap();
        let third = server.next().await.unwrap();
        assert_eq!((server.stats().undecided, server.stats().accepted), (2, 3));
        drop(silent); // one that leaves makes room as well
        let fourth = server.next().await.unwrap();
        assert_eq!((server.stats().undecided, server.stats().connections), (2, 3));
        drop((third, fourth));
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
        assert_eq!(server.stats().accepted, 1);
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
