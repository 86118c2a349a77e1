//! Handles, messages in parts and broadcasts at random, over links that block and break: nothing doubled, torn or out of
//! order on the wire, and nothing left in a queue.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::sync::{Arc, Mutex};
use std::time::Duration;

use parley_proto::codec::Frame;
use parley_proto::driver::{Broadcast, Handle, Slow};
use parley_proto::session::{ClientState, Reconnect};
use parley_proto::testing::{Link, Sim};
use parley_proto::{Action, BoxError, Connected, Handler, Limits};
use rand::rngs::ChaCha12Rng;
use rand::{RngExt, SeedableRng};

fn body(tag: &str, len: usize) -> String {
    format!("{tag}:{len}:{}", "x".repeat(len))
}

fn check(text: &str) -> String {
    let mut parts = text.splitn(3, ':');
    let (tag, len, body) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
    assert_eq!(len.parse::<usize>().unwrap(), body.len(), "{tag}");
    tag.to_owned()
}

/// Greets in parts, now and then, with what may stand between them.
struct Greeter {
    own: Handle,
    rng: ChaCha12Rng,
    greetings: u32,
}

impl Handler for Greeter {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.greetings += 1;
        if self.rng.random_range(0..2) == 0 {
            let all = body(&format!("greeting-{}", self.greetings), self.rng.random_range(0..60_000)).into_bytes();
            let mut message = self.own.begin_text().await;
            for part in all.chunks(self.rng.random_range(1000..40_000)) {
                // The connection may be gone by now, or another message be open.
                if message.write(part.to_vec()).await.is_err() {
                    return Ok(Action::Continue);
                }
                match self.rng.random_range(0..5) {
                    0 => drop(message.flush().await),
                    2 => drop(self.own.flush().await),
                    1 => drop(self.own.send_frame(Frame::ping("greeting")).await),
                    _ => {}
                }
            }
            let _ = message.finish().await;
        }
        Ok(Action::Continue)
    }
}

fn walk(seed: u64, faults: bool) {
    let mut rng = ChaCha12Rng::seed_from_u64(seed);
    Sim::new().run(async |sim| {
        let listener = sim.listen("a.example:80");
        let capacity = [100, 5_000, 65_536][rng.random_range(0..3)];
        listener.set_link(Link::default().capacity(capacity));
        let client = sim
            .client("ws://a.example/")
            .unwrap()
            .limits(Limits::client().with_send_queue(8192).unwrap())
            .reconnect(Reconnect::default().base(Duration::from_millis(100)))
            .start_with(|own| Greeter { own, rng: ChaCha12Rng::seed_from_u64(!seed), greetings: 0 })
            .await
            .unwrap();
        let room = Broadcast::new(if seed.is_multiple_of(2) { Slow::Skip } else { Slow::Drop });
        let subscription = room.subscribe(&client);
        let (got, finished) = (Arc::new(Mutex::new(Vec::new())), Arc::new(Mutex::new(Vec::new())));
        let peers = {
            let (sim2, got) = (sim.clone(), got.clone());
            let mut rng = ChaCha12Rng::seed_from_u64(seed ^ 0xabcdef);
            sim.spawn(async move {
                loop {
                    let mut peer = listener.accept().await;
                    let mut left = if faults { rng.random_range(1..40) } else { u32::MAX };
                    loop {
                        if rng.random_range(0..5) == 0 {
                            peer.stall();
                            sim2.sleep(Duration::from_millis(rng.random_range(0..300))).await;
                            peer.resume();
                        }
                        let Some(frame) = peer.next_frame().await else {
                            let closed = peer.closed().await;
                            let code = closed.close.as_ref().map(|close| u16::from(close.code()));
                            assert!(!matches!(code, Some(1002 | 1007)), "{closed:?}");
                            assert!(!format!("{closed:?}").contains("Protocol"), "{closed:?}");
                            break;
                        };
                        let Frame::Text(text) = frame else { panic!() };
                        got.lock().unwrap().push(check(&text));
                        left -= 1;
                        if left == 0 {
                            if rng.random_range(0..2) == 0 {
                                peer.reset();
                            } else {
                                peer.hang_up();
                            }
                            break;
                        }
                    }
                }
            })
        };
        let mut tasks = Vec::new();
        for worker in 0..4 {
            let (handle, room, sim2, finished) = (client.handle(), room.clone(), sim.clone(), finished.clone());
            let mut rng = ChaCha12Rng::seed_from_u64(seed * 31 + worker);
            tasks.push(sim.spawn(async move {
                for number in 0..25 {
                    let tag = format!("{worker}-{number}");
                    match rng.random_range(0..9) {
                        0 | 1 => {
                            let len = rng.random_range(0..3000);
                            let _ = handle.feed_frame(Frame::text(body(&tag, len))).await;
                        }
                        2 => {
                            let len = rng.random_range(0..3000);
                            if handle.send_frame(Frame::text(body(&tag, len))).await.is_ok() {
                                finished.lock().unwrap().push(tag);
                            }
                        }
                        3 | 4 => {
                            let mut message = handle.begin_text().await;
                            let all = body(&tag, rng.random_range(0..60_000)).into_bytes();
                            let mut ok = true;
                            let give_up = rng.random_range(0..6) == 0;
                            for part in all.chunks(rng.random_range(1000..40_000)) {
                                if message.write(part.to_vec()).await.is_err() {
                                    ok = false;
                                    break;
                                }
                                if rng.random_range(0..8) == 0 {
                                    let _ = message.flush().await; // for no more than these parts: it ends
                                }
                                if rng.random_range(0..3) == 0 {
                                    sim2.sleep(Duration::from_millis(rng.random_range(0..50))).await;
                                }
                                if give_up && rng.random_range(0..3) == 0 {
                                    ok = false;
                                    break;
                                }
                            }
                            if ok && message.finish().await.is_ok() {
                                finished.lock().unwrap().push(tag);
                            }
                        }
                        5 => drop(handle.try_send_frame(Frame::ping(tag))),
                        6 => {
                            let _ = room.send(&Frame::text(body(&tag, rng.random_range(0..2000))));
                        }
                        7 => drop(handle.flush().await),
                        _ => sim2.sleep(Duration::from_millis(rng.random_range(0..200))).await,
                    }
                }
            }));
        }
        for task in tasks {
            task.await;
        }
        sim.sleep(Duration::from_secs(60)).await;
        sim.settle().await;
        let state = client.state();
        let stats = client.stats();
        assert_eq!(stats.queued, 0, "{state:?} {stats:?}");
        if !faults && state == ClientState::Connected {
            let got = got.lock().unwrap();
            for tag in finished.lock().unwrap().iter() {
                assert_eq!(got.iter().filter(|other| *other == tag).count(), 1, "{tag}");
            }
        }
        let got = got.lock().unwrap().clone();
        let mut sorted = got.clone();
        sorted.sort();
        sorted.dedup();
        assert_eq!(sorted.len(), got.len(), "doubled");
        drop(subscription);
        peers.cancel();
    });
}

#[test]
fn nothing_is_doubled_torn_or_left_behind() {
    let seeds = if cfg!(debug_assertions) { 40 } else { 2_000 };
    for seed in 0..seeds {
        for faults in [false, true] {
            let walked = std::panic::catch_unwind(|| walk(seed, faults));
            assert!(walked.is_ok(), "in the walk {seed}, with faults: {faults}");
        }
    }
}
