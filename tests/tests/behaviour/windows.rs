//! The buffers that reads are made into.

use parley_proto::codec::Frame;
use parley_proto::driver::Client;
use parley_proto::{Action, BoxError, Handler};
use parley_tests::raw::{self, RawConn};
use parley_tests::sim::{Link, Sim, Wire};

use crate::common::{addr, options};

/// What one read is given at most, while no large message is under way.
const LARGEST: usize = 128 * 1024;

/// A client, its peer, and the connection between them.
async fn open<H: Handler>(sim: &Sim, link: Link, handler: H) -> (Client<H>, RawConn, Wire) {
    let listener = sim.listen(addr());
    listener.set_link(link);
    let client = sim.start(options(), handler).await.unwrap_or_else(|error| panic!("{error}"));
    let mut peer = listener.accept().await;
    peer.upgrade("").await;
    (client, peer, listener.wire())
}

#[test]
fn a_read_never_gets_a_full_window() {
    // The pipe itself says so of every read, in all tests. Here a window ends at every place of a frame, with frames
    // that are kept, and so their windows.
    struct Keeps(Vec<Frame>);

    impl Handler for Keeps {
        async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
            self.0.push(frame);
            Ok(Action::Continue)
        }
    }

    let frames: Vec<u8> = (0..3000).flat_map(|n| raw::frame(0x82, &vec![0; 100 + n % 77])).collect();
    let large: Vec<u8> =
        [65_000, 65_522, 65_536, 200_000].iter().flat_map(|&n| raw::frame(0x82, &vec![1; n])).collect();
    let bytes = [&frames[..], &large, &frames].concat();
    for chunk in [7, 4096, 64 * 1024 - 7, 64 * 1024, usize::MAX] {
        for kept in [false, true] {
            Sim::new().run(async |sim| {
                let link = Link::default().capacity(256 * 1024).chunk(chunk);
                let (_keeps, mut keeps, _) = open(&sim, link, Keeps(Vec::new())).await;
                let (_takes, mut takes, _) = open(&sim, link, ()).await;
                let peer = if kept { &mut keeps } else { &mut takes };
                for part in bytes.chunks(64 * 1024 - 7) {
                    peer.send(part).await;
                    sim.settle().await; // an unfinished frame leaves its window
                }
                peer.send(&raw::frame(0x89, b"all")).await;
                assert_eq!(peer.frame().await.payload, b"all");
            });
        }
    }
}

/// What a read takes at most in these tests, and so that no read ends within a frame, the size of the frames.
const CHUNK: usize = 1024;

/// All but the end of a large message, which the client has read.
async fn begin_large(sim: &Sim, peer: &mut RawConn, wire: &Wire) -> Vec<u8> {
    sim.settle().await; // the answer to the upgrade is read
    let mut message = raw::frame(0x82, &vec![1; 8 * 1024 * CHUNK - 10]);
    let end = message.split_off(message.len() - CHUNK);
    peer.send(&message).await;
    sim.settle().await;
    assert!(wire.rooms_of_client().iter().any(|&room| room > LARGEST), "a large message has a large buffer");
    end
}

#[test]
fn a_large_buffer_is_not_read_into_behind_its_message() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, wire) = open(&sim, Link::default().chunk(CHUNK), ()).await;
        let end = begin_large(&sim, &mut peer, &wire).await;
        let before = wire.rooms_of_client().len();
        let behind = raw::frame(0x82, &[2; CHUNK - 4]).repeat(20);
        peer.send(&[&end[..], &behind, &raw::frame(0x89, b"all")].concat()).await;
        assert_eq!(peer.frame().await.payload, b"all");
        let rooms = wire.rooms_of_client().split_off(before);
        assert_eq!(rooms.len(), 1 + 20 + 1, "one of the message, then one a frame");
        assert!(rooms[1..].iter().all(|&room| room <= LARGEST), "{rooms:?}");
    });
}

#[test]
fn a_large_buffer_is_not_handed_on_to_other_connections() {
    Sim::new().run(async |sim| {
        let (_client, mut peer, wire) = open(&sim, Link::default().chunk(CHUNK), ()).await;
        let end = begin_large(&sim, &mut peer, &wire).await;
        peer.send(&[&end[..], &raw::frame(0x89, b"all")].concat()).await;
        assert_eq!(peer.frame().await.payload, b"all");
        let (_other, mut peer, wire) = open(&sim, Link::default(), ()).await;
        peer.send(&raw::frame(0x89, b"x")).await;
        assert_eq!(peer.frame().await.payload, b"x");
        let rooms = wire.rooms_of_client();
        assert!(rooms.iter().all(|&room| room <= LARGEST), "{rooms:?}");
    });
}
