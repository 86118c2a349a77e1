//! The application: tasks that use the client's handles as they like, and the one that ends it.

use std::future::{Future, poll_fn};
use std::pin::pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use parley_proto::codec::{CloseFrame, FrameRef};
use parley_proto::driver::Handle;
use parley_proto::session::ClientState;

use super::Mutation;
use super::handler::told;
use super::peers::within;
use super::record::{Ask, Fate};
use super::scene::Scene;
use crate::dice::Dice;
use crate::sim::Sim;

/// Waits for the future, or drops it midway.
async fn maybe<T>(sim: &Sim, dice: &mut Dice, future: impl Future<Output = T>) -> Option<T> {
    match dice.below(10) {
        0 => {
            let mut left = dice.below(3);
            let mut future = pin!(future);
            poll_fn(|cx| match future.as_mut().poll(cx) {
                Poll::Ready(outcome) => Poll::Ready(Some(outcome)),
                Poll::Pending if left == 0 => Poll::Ready(None),
                Poll::Pending => {
                    left -= 1;
                    Poll::Pending
                }
            })
            .await
        }
        1 => within(sim, dice.millis(300), future).await,
        _ => Some(future.await),
    }
}

/// One task: a handle, and a number of things done with it. Ends in how long the last of them took after the end.
pub(super) async fn sender(scene: Arc<Scene>, handle: Handle<u32>, lane: u32, mut dice: Dice) {
    let sim = scene.sim.clone();
    let pace = if scene.plan.pressed { 1 } else { dice.pick(&[1, 50, 500]) };
    let mut info = lane * 1000;
    let mut timers = Vec::new();
    for _ in 0..scene.plan.ops {
        info += 1;
        if dice.chance(60) {
            sim.sleep(dice.millis(pace)).await;
        }
        let since = sim.now();
        let op = dice.below(100);
        match op {
            0..70 => {
                let (frame, key) = scene.make(&mut dice, lane);
                scene.begin_send(key, &frame);
                if scene.is(Mutation::SendSkipped) && dice.chance(10) {
                    scene.end_send(key, Fate::Sent(sim.now()), &Ok(()));
                    continue;
                }
                if scene.is(Mutation::SendTwice) && dice.chance(10) {
                    drop(handle.try_send_frame(frame.clone()));
                }
                let mut fate = Fate::Accepted;
                let outcome = match op {
                    0..30 => {
                        let outcome = maybe(&sim, &mut dice, handle.send_frame(frame)).await;
                        fate = Fate::Sent(sim.now());
                        outcome
                    }
                    30..40 => maybe(&sim, &mut dice, handle.feed_frame(frame)).await,
                    40..50 => maybe(&sim, &mut dice, handle.feed_ref(FrameRef::from(&frame))).await,
                    _ => Some(handle.try_send_frame(frame)),
                };
                match outcome {
                    Some(outcome) => {
                        scene.end_send(key, fate, &outcome);
                        scene.note(&format!("send {key:?}: {}", told(&outcome)));
                    }
                    None => {
                        scene.drop_send(key);
                        scene.note(&format!("send {key:?}: dropped"));
                    }
                }
            }
            70..80 => drop(maybe(&sim, &mut dice, handle.flush()).await),
            80..88 => {
                scene.record().infos_waiting += 1;
                let outcome = maybe(&sim, &mut dice, handle.send_info(info)).await;
                scene.record().infos_waiting -= 1;
                outcome.iter().for_each(|outcome| scene.end_info(info, None, outcome));
            }
            88..91 => scene.end_info(info, None, &handle.try_send_info(info)),
            91..94 => {
                let delay = dice.pick(&[Duration::ZERO, dice.clone().millis(300), Duration::from_secs(3)]);
                let outcome = handle.send_info_after(delay, info);
                timers.extend(outcome.as_ref().ok().map(|id| (info, *id)));
                scene.end_info(info, Some(delay), &outcome.map(drop));
            }
            94..96 if !timers.is_empty() => {
                let (info, id) = timers.swap_remove(dice.below(timers.len()));
                handle.cancel(id);
                scene.cancel(info);
            }
            94..97 => {
                let state = dice.pick(&[ClientState::Connected, ClientState::Disconnected, ClientState::Stopped]);
                drop(within(&sim, dice.millis(500), handle.wait_for(state)).await);
            }
            97..99 if scene.plan.lively > 0 && dice.chance(if scene.plan.pressed { 4 } else { 60 }) => {
                let what = dice.pick(&[Ask::Connect, Ask::Reconnect, Ask::Disconnect, Ask::Stop]);
                let what = if scene.record().winding_down { Ask::Stop } else { what };
                ask(&scene, &handle, what).await;
            }
            _ => sim.settle().await,
        }
        let (queued, most) = (handle.stats().queued, scene.record().most_queued(&scene.plan));
        scene.check(queued <= most as u64, || format!("4.5: {queued} bytes are queued, at most {most} may be"));
        let (ended, now) = (scene.record().ended, sim.now());
        if let Some(ended) = ended {
            let late = op < 90 && now > ended.max(since);
            scene.check(!late, || format!("3.12: what waited was answered {:?} after the end", now - ended));
        }
    }
    scene.record().handles -= 1; // it goes with this function
}

pub(super) async fn ask(scene: &Scene, handle: &Handle<u32>, what: Ask) {
    scene.ask("app", what);
    match what {
        Ask::Connect => handle.connect().await,
        Ask::Reconnect => handle.reconnect(CloseFrame::normal()).await,
        Ask::Disconnect => handle.disconnect().await,
        Ask::Stop => handle.stop().await,
    }
}
