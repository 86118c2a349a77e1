//! One frame to many: who gets it, in what order, and what becomes of the slow.

use parley_proto::Limits;
use parley_proto::codec::{CloseCode, CloseFrame, Frame, PreparedFrame};
use parley_proto::driver::{Broadcast, Slow, Subscription};
use parley_tests::sim::{Gate, Link, Reply};

use super::*;

/// What a receiver may have waiting.
const QUEUE: usize = 4 * 1024;
/// The payload of a frame of which four fit the queue.
const PAYLOAD: usize = 900;

/// A number in front, so that a receiver can tell frames apart.
fn numbered(number: usize) -> Frame {
    Frame::text(format!("{number:0PAYLOAD$}"))
}

fn number(payload: &[u8]) -> usize {
    std::str::from_utf8(payload).unwrap().parse().unwrap()
}

/// A server whose clients take nothing that they do not read.
fn narrow(sim: &Sim) -> Server {
    let server = serve(any().limits(Limits::server().with_send_queue(QUEUE).unwrap()));
    sim.listener(addr()).set_link(Link::default().capacity(64));
    server
}

async fn member(sim: &Sim, server: &Server, room: &Broadcast) -> (RawConn, Session, Subscription) {
    let (peer, session) = served(sim, server, Probe::new(sim)).await;
    let subscription = room.subscribe(&session);
    (peer, session, subscription)
}

async fn texts(peer: &mut RawConn, count: usize) -> Vec<Vec<u8>> {
    let mut texts = Vec::new();
    for _ in 0..count {
        let frame = peer.frame().await;
        assert_eq!(frame.first, TEXT);
        texts.push(frame.payload);
    }
    texts
}

#[test]
fn all_who_have_subscribed_get_it_and_nobody_else() {
    Sim::new().run(async |sim| {
        let (server, room) = (serve(any()), Broadcast::new(Slow::Drop));
        let (mut first, _one, own) = member(&sim, &server, &room).await;
        let (mut second, _two, leaving) = member(&sim, &server, &room).await;
        let (mut third, three) = served(&sim, &server, Probe::new(&sim)).await;
        assert_eq!(room.len(), 2);

        assert_eq!(room.send(&Frame::text("both")).unwrap().queued, 2);
        assert_eq!(room.send_to_others(&own, &Frame::text("second")).unwrap().queued, 1);
        drop(leaving);
        assert_eq!(room.send(&Frame::text("first")).unwrap().queued, 1);
        three.send_frame(Frame::text("third")).await.unwrap();

        assert_eq!(texts(&mut first, 2).await, [b"both".as_slice(), b"first"]);
        assert_eq!(texts(&mut second, 2).await, [b"both".as_slice(), b"second"]);
        assert_eq!(texts(&mut third, 1).await, [b"third"]);
        drop(own);
        assert!(room.is_empty());
        assert_eq!(room.send(&Frame::text("nobody")).unwrap(), Default::default());
        let stats = room.stats();
        assert_eq!((stats.frames, stats.queued), (4, 4));
    });
}

/// The others do not notice, and get everything.
async fn one_is_slow(sim: &Sim, slow: Slow) -> (RawConn, Session, Broadcast, usize) {
    let (server, room) = (narrow(sim), Broadcast::new(slow));
    let (mut quick, _session, _subscription) = member(sim, &server, &room).await;
    let (tardy, session, subscription) = member(sim, &server, &room).await;
    sim.spawn(async move {
        std::future::pending::<()>().await;
        drop(subscription);
    });
    // What is encoded ahead and what the transport takes, and then twice the queue.
    let all = (64 * 1024 + 2 * QUEUE) / PAYLOAD;
    for sent in 0..all {
        let delivered = room.send(&numbered(sent)).unwrap();
        assert_eq!(delivered.queued + delivered.dropped + delivered.skipped + delivered.closed + delivered.missed, 2);
        assert!(delivered.queued >= 1, "{delivered:?}");
        assert_eq!(number(&texts(&mut quick, 1).await[0]), sent);
    }
    (tardy, session, room, all)
}

#[test]
fn a_slow_one_misses_frames_where_they_are_dropped() {
    Sim::new().run(async |sim| {
        let (mut tardy, session, room, all) = one_is_slow(&sim, Slow::Drop).await;
        let stats = room.stats();
        assert!(stats.dropped > 0, "{stats:?}");
        assert_eq!((stats.queued + stats.dropped) as usize, 2 * all);
        // It gets what was accepted, in order, and then what is sent from now on.
        let accepted = all - stats.dropped as usize;
        let got: Vec<_> = texts(&mut tardy, accepted).await.iter().map(|text| number(text)).collect();
        assert_eq!(got, (0..accepted).collect::<Vec<_>>());
        assert_eq!(room.send(&numbered(all)).unwrap().dropped, 0);
        assert_eq!(number(&texts(&mut tardy, 1).await[0]), all);
        sim.settle().await;
        assert_eq!((session.stats().queued, session.stats().dropped), (0, 0));
    });
}

#[test]
fn a_slow_one_gets_the_newest_where_it_skips() {
    Sim::new().run(async |sim| {
        let (mut tardy, session, room, all) = one_is_slow(&sim, Slow::Skip).await;
        let stats = room.stats();
        assert!(stats.skipped > 0, "{stats:?}");
        assert_eq!((stats.queued + stats.skipped) as usize, 2 * all);
        let queued = session.stats().queued as usize;
        assert!(queued <= QUEUE + PAYLOAD + 32, "{queued}");
        let (mut got, mut last) = (Vec::new(), 0);
        while last + 1 < all {
            last = number(&texts(&mut tardy, 1).await[0]);
            got.push(last);
        }
        assert!(got.is_sorted_by(|before, after| before < after), "{got:?}");
        assert!(got.len() < all);
        sim.settle().await;
        let stats = session.stats();
        assert_eq!((stats.queued, stats.dropped as usize), (0, all - got.len()));
    });
}

/// Ahead of what it has not been sent: a Close behind all of that would not reach it.
#[test]
fn a_slow_one_is_closed_with_the_code_that_was_chosen() {
    for code in [CloseCode::POLICY_VIOLATION, CloseCode::TRY_AGAIN_LATER] {
        Sim::new().run(async |sim| {
            let slow = Slow::Close(CloseFrame::new(code, "too slow").unwrap());
            let (mut tardy, session, room, all) = one_is_slow(&sim, slow).await;
            let stats = room.stats();
            assert_eq!(stats.closed, 1, "{stats:?}");
            assert_eq!((stats.queued + stats.closed + stats.missed) as usize, 2 * all);
            let mut got = 0;
            let close = loop {
                let frame = tardy.frame().await;
                if frame.first == CLOSE {
                    break frame;
                }
                assert_eq!(number(&frame.payload), got);
                got += 1;
            };
            assert!(got * PAYLOAD >= 64 * 1024 - PAYLOAD && got < all, "{got}");
            assert_eq!(close.payload[..2], u16::from(code).to_be_bytes());
            assert_eq!(&close.payload[2..], b"too slow");
            tardy.send(&super::close(code.get())).await;
            tardy.shutdown().await;
            session.join().await.unwrap();
        });
    }
}

#[test]
fn frames_of_ones_own_keep_their_place_among_those_of_a_broadcast() {
    Sim::new().run(async |sim| {
        let (server, room) = (serve(any()), Broadcast::new(Slow::Drop));
        sim.listener(addr()).set_link(Link::default().capacity(64));
        let (mut peer, session, _subscription) = member(&sim, &server, &room).await;
        let wide = "x".repeat(100 * 1024);
        session.try_send_frame(Frame::text(wide.clone())).unwrap(); // so that all that follows has to wait
        for round in 0..100 {
            room.send(&Frame::text(format!("{round} to all"))).unwrap();
            session.try_send_frame(Frame::text(format!("{round} to one"))).unwrap();
        }
        assert_eq!(peer.frame().await.payload, wide.as_bytes());
        for round in 0..100 {
            let got = texts(&mut peer, 2).await;
            assert_eq!(got, [format!("{round} to all").into_bytes(), format!("{round} to one").into_bytes()]);
        }
    });
}

#[test]
fn who_has_no_connection_misses_it() {
    Sim::new().run(async |sim| {
        let (server, room) = (serve(any()), Broadcast::new(Slow::Drop));
        let (mut peer, session, subscription) = member(&sim, &server, &room).await;
        session.disconnect().await;
        assert_eq!(room.send(&Frame::text("late")).unwrap().missed, 1, "nothing is accepted behind a close");
        assert_eq!(close_code(&mut peer).await, 1000);
        peer.send(&close(1000)).await;
        peer.shutdown().await;
        session.join().await.unwrap();
        assert_eq!(room.send(&Frame::text("too late")).unwrap().missed, 1);
        drop(subscription);
        assert_eq!(room.send(&Frame::text("nobody")).unwrap().missed, 0);
    });
}

#[test]
fn what_is_sent_while_handle_connect_runs_waits_for_what_that_pushes() {
    Sim::new().run(async |sim| {
        let (server, room, gate) = (serve(any()), Broadcast::new(Slow::Drop), Gate::new());
        let probe = Probe::new(&sim).on("handle_connect", Reply::push("welcome").behind(&gate));
        let (mut peer, incoming) = asked(&sim, &server).await;
        let session = incoming.accept(probe).await.unwrap();
        assert_eq!(status(&mut peer).await, 101);
        let _subscription = room.subscribe(&session);
        assert_eq!(room.send(&Frame::text("news")).unwrap().queued, 1);
        sim.settle().await;
        gate.open();
        assert_eq!(texts(&mut peer, 2).await, [b"welcome".as_slice(), b"news"]);
    });
}

#[test]
fn a_frame_that_is_too_long_for_a_control_frame_is_refused() {
    let room = Broadcast::new(Slow::Drop);
    assert!(room.send(&Frame::ping(vec![0; 126])).is_err());
    assert_eq!(room.stats().frames, 0);
    assert_eq!(room.send_prepared(&PreparedFrame::new(&Frame::ping("")).unwrap()).queued, 0);
}
