//! The handler: it says what it sees, and answers by chance.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame, FrameRef};
use parley_proto::driver::Handle;
use parley_proto::handshake::ClientRequest;
use parley_proto::session::ClientState;
use parley_proto::{Action, Answer, Attempt, BoxError, Connected, DisconnectReason, Handler, Retry, StopReason};

use super::Mutation;
use super::record::{Ask, Fate};
use super::scene::{Running, Scene};
use crate::dice::Dice;
use crate::sim::describe;

/// Lanes of what a callback pushes, and of what it sends by its own handle.
pub(super) const PUSHED: u32 = 50;
pub(super) const OWN: u32 = 60;

pub(super) struct Wilful {
    scene: Arc<Scene>,
    dice: Dice,
    own: Handle<u32>,
    is_up: bool,
    infos: u32,
    infos_seen: u32,
    kept: Option<Frame>,
    frames: usize,
    /// What is pushed from here, for a frame that was lent.
    answer: Option<Frame>,
    /// What the callback that was lent a frame has sent by its own handle.
    sent_own: Option<(u32, u32)>,
    /// `handle_connect` is about to return.
    greets: bool,
    /// So many more attempts are forced.
    forces: usize,
}

impl Wilful {
    pub(super) fn new(scene: &Arc<Scene>, dice: Dice, own: Handle<u32>) -> Self {
        let (scene, forces) = (scene.clone(), scene.plan.forces);
        Self {
            scene,
            dice,
            own,
            is_up: false,
            infos: 0,
            infos_seen: 0,
            kept: None,
            frames: 0,
            answer: None,
            sent_own: None,
            greets: false,
            forces,
        }
    }

    /// Waits, fails, panics or hangs, or none of it.
    async fn live(&mut self, running: &mut Running) -> Result<(), BoxError> {
        let (lively, wicked) = (self.scene.plan.lively, self.scene.plan.wicked);
        if self.dice.chance(lively) {
            match self.dice.below(4) {
                0 => self.scene.sim.settle().await,
                1 => self.scene.sim.sleep(self.dice.millis(20)).await,
                2 => self.scene.sim.sleep(self.dice.millis(400)).await,
                _ => self.use_own().await,
            }
        }
        if self.dice.chance(wicked) {
            match self.dice.below(4) {
                0 => self.panic(),
                1 => {
                    self.scene.sim.sleep(Duration::from_secs(4)).await;
                }
                2 => std::future::pending().await,
                _ => {
                    running.done = true;
                    self.scene.note("fails");
                    return Err("as planned".into());
                }
            }
        }
        running.done = true;
        Ok(())
    }

    fn panic(&mut self) -> ! {
        self.scene.record().panicked = true;
        self.ask(Ask::Stop);
        self.scene.note("panics");
        // As a panic, without the words on standard error.
        std::panic::resume_unwind(Box::new("as planned"))
    }

    /// [`live_or_fail`](Self::live_or_fail) of a callback that cannot wait.
    fn live_at_once(&mut self, running: &mut Running) -> Result<(), BoxError> {
        let (lively, wicked) = (self.scene.plan.lively, self.scene.plan.wicked);
        if self.dice.chance(lively) {
            let (frame, key) = self.scene.make(&mut self.dice, OWN);
            self.scene.begin_send(key, &frame);
            let outcome = self.own.try_send_frame(frame);
            self.scene.end_send(key, Fate::Accepted, &outcome);
            self.scene.note(&format!("own send {key:?}: {}", told(&outcome)));
            self.sent_own = outcome.is_ok().then_some(key);
        }
        if self.dice.chance(wicked) {
            if self.dice.chance(50) {
                self.panic();
            }
            self.scene.note("fails");
            self.scene.record().erred = true;
            self.ask(Ask::Stop);
        }
        running.done = true;
        if self.scene.record().erred { Err("as planned".into()) } else { Ok(()) }
    }

    /// What handles are told agrees with the callback that runs.
    fn in_state(&self, state: ClientState) {
        let told = self.own.state();
        self.scene.check(told == state, || format!("4: handles are told {told:?}, and it is {state:?}"));
    }

    /// By its own handle nothing waits for a connection or for room.
    async fn use_own(&mut self) {
        for _ in 0..=self.dice.below(3) {
            let (frame, key) = self.scene.make(&mut self.dice, OWN);
            self.scene.begin_send(key, &frame);
            let (since, mut may_wait) = (self.scene.sim.now(), false);
            let (fate, outcome) = match self.dice.below(3) {
                0 => (Fate::Accepted, self.own.try_send_frame(frame)),
                1 => (Fate::Accepted, self.own.feed_frame(frame).await),
                _ => {
                    may_wait = self.is_up; // for the transport
                    let outcome = self.own.send_frame(frame).await;
                    (Fate::Sent(self.scene.sim.now()), outcome)
                }
            };
            let at_once = may_wait || self.scene.sim.now() == since;
            self.scene.check(at_once, || format!("3.10: {key:?} waited for a connection or for room"));
            self.scene.end_send(key, fate, &outcome);
            self.scene.note(&format!("own send {key:?}: {}", told(&outcome)));
        }
        match self.dice.below(12) {
            0 => {
                self.scene.note("own flush");
                let outcome = self.own.flush().await;
                self.scene.note(&format!("own flush: {}", told(&outcome)));
            }
            1 => {
                self.infos += 1;
                let outcome = self.own.send_info(self.infos).await;
                self.scene.end_info(self.infos, None, &outcome);
            }
            6 => {
                self.infos += 1;
                let delay = self.dice.millis(1000);
                let outcome = self.own.send_info_after(delay, self.infos).map(drop);
                self.scene.end_info(self.infos, Some(delay), &outcome);
            }
            2 => {
                self.ask(Ask::Disconnect);
                self.own.disconnect().await;
            }
            3 => {
                self.ask(Ask::Stop);
                self.own.stop().await;
            }
            4 if self.may_come_back() => {
                self.ask(Ask::Reconnect);
                self.own.reconnect(CloseFrame::normal()).await;
            }
            5 if self.may_come_back() => {
                self.ask(Ask::Connect);
                self.own.connect().await;
            }
            _ => {}
        }
    }

    fn ask(&self, what: Ask) {
        self.scene.ask("handler", what);
    }

    fn may_come_back(&self) -> bool {
        !self.scene.record().winding_down
    }

    fn retry(&mut self) -> Retry {
        if !self.may_come_back() {
            return self.dice.pick(&[Retry::Stay, Retry::Stay, Retry::Stop]);
        }
        let retry = match self.dice.below(12) {
            0..5 => Retry::Policy,
            5..7 => Retry::Reconnect,
            7..9 => Retry::After(Duration::from_millis(self.dice.pick(&[0, 1, 60, 3000]))),
            9..11 => Retry::Stay,
            _ => Retry::Stop,
        };
        if matches!(retry, Retry::Reconnect | Retry::After(_)) {
            if self.forces == 0 {
                return Retry::Policy;
            }
            self.forces -= 1;
        }
        retry
    }

    fn push(&mut self) -> Frame {
        let (frame, key) = self.scene.make(&mut self.dice, PUSHED);
        let asked = self.scene.record().is_closing(); // nothing is accepted behind a Close
        if self.is_up && !asked && !(frame.is_control() && frame.len() > 125) {
            self.scene.begin_send(key, &frame);
            self.scene.end_send(key, Fate::Accepted, &Ok(()));
            let is_control = |key: (u32, u32)| key.0 % 2 == 1;
            if let Some(own) = self.sent_own.take_if(|own| is_control(*own) == is_control(key)) {
                self.scene.record().pushed_behind.push((key, own));
            }
            if self.greets {
                self.scene.record().conn().into_iter().for_each(|conn| conn.greeting.push(key));
            }
        }
        self.scene.note(&format!("pushes {key:?}"));
        frame
    }

    fn act(&mut self) -> Action {
        if !self.dice.chance(self.scene.plan.lively) {
            return Action::Continue;
        }
        // Under pressure it is the pushes that matter.
        let least = if self.scene.plan.pressed && self.dice.chance(90) { 2 } else { 0 };
        let action = match self.dice.below(40).max(least) {
            0 if self.may_come_back() && self.dice.chance(60) => {
                self.ask(Ask::Reconnect);
                return Action::Reconnect(CloseFrame::normal());
            }
            0 => {
                self.ask(Ask::Disconnect);
                return Action::Disconnect(CloseFrame::normal());
            }
            1 => {
                self.ask(Ask::Stop);
                return if self.dice.chance(50) { Action::Stop } else { Action::StopWith(CloseFrame::normal()) };
            }
            2..22 => Action::Push(self.push()),
            _ => Action::PushAll((0..self.dice.below(5)).map(|_| self.push()).collect()),
        };
        if self.scene.is(Mutation::PushLost) && self.is_up && self.dice.chance(30) {
            return Action::Continue;
        }
        action
    }

    /// For a callback whose error ends the client.
    async fn live_or_fail(&mut self, running: &mut Running) -> Result<(), BoxError> {
        let outcome = self.live(running).await;
        if outcome.is_err() {
            self.scene.record().erred = true;
            self.ask(Ask::Stop);
        }
        outcome
    }

    async fn received(&mut self, name: &'static str, opcode: u8, frame: Frame) -> Result<Action, BoxError> {
        let mut running = self.scene.enter(name, describe(&frame));
        let payload = frame.into_payload();
        self.scene.record().receive(opcode, payload);
        self.live_or_fail(&mut running).await?;
        Ok(self.act())
    }
}

/// The outcome of a send in a word.
pub(super) fn told<T>(outcome: &Result<(), T>) -> &'static str
where
    T: std::error::Error,
{
    if outcome.is_ok() { "ok" } else { "failed" }
}

impl Handler<u32> for Wilful {
    async fn init(&mut self) -> Result<(), BoxError> {
        let mut running = self.scene.enter("init", String::new());
        if self.dice.chance(50) {
            running.done = true;
            return Ok(());
        }
        self.live_or_fail(&mut running).await
    }

    async fn prepare(&mut self, attempt: &Attempt, _request: &mut ClientRequest) -> Result<(), BoxError> {
        let last = attempt.last.as_ref().map(ToString::to_string);
        let known = self.scene.record().detail("handle_disconnect").map(ToOwned::to_owned);
        self.scene.check(last == known, || format!("3.2: the last reason was {known:?}, and not {last:?}"));
        let mut running = self.scene.enter("prepare", attempt.number.to_string());
        self.in_state(ClientState::Connecting);
        self.live(&mut running).await // it fails the attempt, not the client
    }

    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        let status = connected.negotiated.status().as_u16();
        let mut running = self.scene.enter("handle_connect", status.to_string());
        self.in_state(ClientState::Connected);
        self.is_up = true;
        self.live_or_fail(&mut running).await?;
        self.greets = true;
        let action = self.act();
        self.greets = false;
        Ok(action)
    }

    fn handle_frame_ref<'a>(&'a mut self, frame: FrameRef<'a>) -> Answer<'a> {
        if self.scene.mutation.is_some() || self.dice.chance(50) {
            return Answer::Pass;
        }
        let frame = frame.to_frame();
        let mut running = self.scene.enter("handle_frame", describe(&frame));
        self.scene.record().receive(frame.opcode().bits(), frame.into_payload());
        self.sent_own = None;
        if let Err(error) = self.live_at_once(&mut running) {
            return Answer::Return(Err(error));
        }
        match self.act() {
            Action::Push(frame) => Answer::Push(FrameRef::from(&*self.answer.insert(frame))),
            Action::Continue => Answer::Continue,
            action => action.into(),
        }
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        let opcode = frame.opcode().bits();
        self.frames += 1;
        match self.scene.mutation {
            Some(Mutation::FrameSkipped) if self.frames == 2 => return Ok(Action::Continue),
            Some(Mutation::FrameTwice) if self.frames == 2 => {
                self.received("handle_frame", opcode, frame.clone()).await?;
            }
            Some(Mutation::FramesSwapped) if self.frames == 2 => {
                self.kept = Some(frame);
                return Ok(Action::Continue);
            }
            _ => {}
        }
        let action = self.received("handle_frame", opcode, frame).await;
        if let Some(kept) = self.kept.take() {
            return self.received("handle_frame", 2, kept).await;
        }
        action
    }

    async fn handle_ping(&mut self, payload: Bytes) -> Result<Action, BoxError> {
        self.received("handle_ping", 9, Frame::Ping(payload)).await
    }

    async fn handle_info(&mut self, info: u32) -> Result<Action, BoxError> {
        self.infos_seen += 1;
        if self.scene.is(Mutation::InfoTwice) && self.infos_seen == 2 {
            self.scene.enter("handle_info", info.to_string()).done = true;
            self.scene.came(info);
        }
        let mut running = self.scene.enter("handle_info", info.to_string());
        self.scene.came(info);
        self.live_or_fail(&mut running).await?;
        Ok(self.act())
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        if self.scene.is(Mutation::DisconnectSkipped) {
            return Retry::Policy;
        }
        let mut running = self.scene.enter("handle_disconnect", reason.to_string());
        running.told(reason);
        self.in_state(ClientState::Disconnected);
        self.is_up = false;
        let _no_error_to_return = self.live(&mut running).await;
        let retry = self.retry();
        let retry = running.answers(retry);
        if self.scene.is(Mutation::DisconnectTwice) {
            self.scene.enter("handle_disconnect", reason.to_string()).done = true;
        }
        retry
    }

    async fn terminate(&mut self, reason: &StopReason) {
        if self.scene.is(Mutation::TerminateSkipped) {
            return;
        }
        let mut running = self.scene.enter("terminate", reason.to_string());
        let _no_error_to_return = self.live(&mut running).await;
    }
}
