//! What clients and sessions of a server have in common: a handler that checks and answers, and what other tasks send by a handle.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Handle, Platform};
use parley_proto::handshake::ClientRequest;
use parley_proto::{
    Action, Attempt, BoxError, ChunkError, Connected, DisconnectReason, Handler, Retry, SendError, StopReason,
};

use super::ledger::{End, Ledger, Pair, lock};
use super::message::{Label, Side, Stream, size};
use super::{proxy, sleep};
use crate::dice::Dice;

/// What other tasks ask of a handler.
#[derive(Clone, Copy, Debug)]
pub(super) enum Order {
    /// Push so many messages.
    Push(usize),
    /// Send so many by the client's own handle.
    Own(usize),
    Disconnect(u16),
    Reconnect(u16),
    Stop(u16),
    Fail,
    Panic,
}

/// What a handler and the task beside it share.
#[derive(Debug, Default)]
pub(super) struct Seat {
    /// The connection as its handler sees it: from the beginning of an attempt until its end was told.
    now: Mutex<Option<Arc<Pair>>>,
    /// Codes that the task beside closes with: which connection they meet, it cannot know.
    pub(super) asked: Arc<Mutex<Vec<u16>>>,
    /// How often `terminate` has run.
    pub(super) terminated: Mutex<usize>,
    /// How often `handle_disconnect` has run.
    pub(super) ends: AtomicU64,
    /// Frames and pings that callbacks were given.
    pub(super) heard: AtomicU64,
    /// The client shall not come back.
    pub(super) leaves: AtomicBool,
}

impl Seat {
    pub(super) fn of(pair: &Arc<Pair>) -> Self {
        Self { now: Mutex::new(Some(pair.clone())), ..Self::default() }
    }

    pub(super) fn now(&self) -> Option<Arc<Pair>> {
        lock(&self.now).clone()
    }

    fn is(&self, pair: &Arc<Pair>) -> bool {
        lock(&self.now).as_ref().is_some_and(|now| Arc::ptr_eq(now, pair))
    }
}

/// A Close with a code of ours.
pub(super) fn close(code: u16) -> CloseFrame {
    CloseFrame::new(code, "soak").unwrap_or_else(|_| CloseFrame::normal())
}

/// A code for a Close that a callback asks for; other tasks use 4000 and up.
pub(super) fn code_of_a_callback(dice: &mut Dice) -> u16 {
    4500 + dice.below(400) as u16
}

/// A code for a Close that another task asks for.
pub(super) fn code(dice: &mut Dice) -> u16 {
    4000 + dice.below(400) as u16
}

/// Whose panics are wanted.
pub(super) struct WantedPanic;

/// A handler on either side: it checks what comes, answers, and does what it is told.
pub(super) struct Worker {
    side: Side,
    ledger: Arc<Ledger>,
    seat: Arc<Seat>,
    own: Handle<Order>,
    dice: Dice,
    /// The connection, until its end was told.
    pair: Option<Arc<Pair>>,
    /// Whether it is up.
    open: bool,
    /// It pings so soon that a slow machine looks dead.
    hasty: bool,
    fails_init: bool,
}

impl Worker {
    /// For a client: it makes a connection of each attempt.
    pub(super) fn client(ledger: Arc<Ledger>, seat: Arc<Seat>, own: Handle<Order>, dice: Dice, hasty: bool) -> Self {
        Self { side: Side::Client, ledger, seat, own, dice, pair: None, open: false, hasty, fails_init: false }
    }

    /// For a connection that a server accepts.
    pub(super) fn server(
        ledger: Arc<Ledger>,
        pair: Arc<Pair>,
        seat: Arc<Seat>,
        own: Handle<Order>,
        dice: Dice,
        fails_init: bool,
    ) -> Self {
        let side = Side::Server;
        Self { side, ledger, seat, own, dice, pair: Some(pair), open: false, hasty: false, fails_init }
    }

    /// Some messages to push, empty ones among them.
    fn pushes(&mut self, pair: &Pair, messages: usize) -> Vec<Frame> {
        (0..messages)
            .map(|_| {
                if self.dice.chance(10) {
                    pair.offer(self.side, Stream::Empty);
                    return if self.dice.chance(50) { Frame::text("") } else { Frame::binary(Bytes::new()) };
                }
                let size = size(&mut self.dice);
                pair.offer(self.side, Stream::Push).frame(size)
            })
            .collect()
    }

    async fn send_own(&mut self, pair: &Pair, messages: usize) {
        for _ in 0..messages {
            let label = pair.offer(self.side, Stream::Own);
            let frame = label.frame(size(&mut self.dice));
            let payload = frame.payload().clone();
            match self.own.send_frame(frame).await {
                Ok(()) => pair.settled(label),
                Err(error) => {
                    refused(pair, label, &payload, error);
                    return;
                }
            }
        }
    }

    fn is_up(&self) -> Option<Arc<Pair>> {
        self.pair.clone().filter(|_| self.open)
    }

    fn end(&mut self, end: End) -> bool {
        self.open = false;
        *lock(&self.seat.now) = None;
        match self.pair.take() {
            Some(pair) => {
                pair.ended(self.side, end);
                true
            }
            None => false,
        }
    }

    /// A Close by this callback, if there is something to close.
    fn closes(&self, code: u16) {
        if let Some(pair) = &self.pair {
            pair.asked(self.side, code);
        }
    }
}

impl Handler<Order> for Worker {
    async fn init(&mut self) -> Result<(), BoxError> {
        if self.fails_init {
            self.end(End::Refused(500));
            return Err("this one is refused".into());
        }
        Ok(())
    }

    async fn prepare(&mut self, _: &Attempt, request: &mut ClientRequest) -> Result<(), BoxError> {
        if let Some(pair) = &self.pair {
            pair.violation("its client begins another attempt, and it has not ended");
        }
        let pair = self.ledger.attempt(self.hasty, Some(self.seat.asked.clone()));
        request.set_header(proxy::HEADER, pair.id().to_string())?;
        *lock(&self.seat.now) = Some(pair.clone());
        self.pair = Some(pair);
        Ok(())
    }

    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        let Some(pair) = self.pair.clone() else {
            self.ledger.violation("a client is connected without an attempt".to_owned());
            return Ok(Action::Stop);
        };
        pair.opened(self.side);
        self.open = true;
        let messages = self.dice.below(4);
        Ok(self.pushes(&pair, messages).into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.seat.heard.fetch_add(1, Ordering::SeqCst);
        let Some(pair) = self.is_up() else {
            self.ledger.violation(format!("the {:?}: a frame while not connected", self.side));
            return Ok(Action::Continue);
        };
        if let Frame::Pong(payload) = &frame {
            pair.pong(self.side, payload);
            return Ok(Action::Continue);
        }
        let Some(label) = pair.received(self.side, frame.payload()) else { return Ok(Action::Continue) };
        match self.dice.below(100) {
            0 => {
                self.send_own(&pair, 1).await;
                Ok(Action::Continue)
            }
            1 => {
                sleep_here(&self.own).await; // later frames wait
                Ok(Action::Continue)
            }
            2..60 if label.stream == Stream::Sent => Ok(echo(&pair, self.side, &frame).into()),
            _ => Ok(Action::Continue),
        }
    }

    async fn handle_ping(&mut self, payload: Bytes) -> Result<Action, BoxError> {
        self.seat.heard.fetch_add(1, Ordering::SeqCst);
        match self.is_up() {
            Some(pair) => pair.pinged(self.side, &payload),
            None => self.ledger.violation(format!("the {:?}: a ping while not connected", self.side)),
        }
        Ok(Action::Continue)
    }

    async fn handle_info(&mut self, order: Order) -> Result<Action, BoxError> {
        match order {
            Order::Push(messages) => match self.is_up() {
                Some(pair) => return Ok(self.pushes(&pair, messages).into()),
                None => return Ok(Frame::text("nobody gets this").into()), // refused: nothing is connected
            },
            Order::Own(messages) => {
                if let Some(pair) = self.is_up() {
                    self.send_own(&pair, messages).await;
                }
            }
            // Carried out behind the last disconnect it would win, and nobody could end what comes of it.
            Order::Reconnect(code) if !self.seat.leaves.load(Ordering::SeqCst) => {
                self.closes(code);
                return Ok(Action::Reconnect(close(code)));
            }
            Order::Disconnect(code) | Order::Reconnect(code) => {
                self.closes(code);
                return Ok(Action::Disconnect(close(code)));
            }
            Order::Stop(code) => {
                self.closes(code);
                return Ok(Action::StopWith(close(code)));
            }
            Order::Fail => {
                self.closes(1011);
                return Err("this was asked for".into());
            }
            Order::Panic => {
                self.closes(1011);
                std::panic::resume_unwind(Box::new(WantedPanic)); // without a word on the terminal
            }
        }
        Ok(Action::Continue)
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.seat.ends.fetch_add(1, Ordering::SeqCst);
        // An attempt that is given up before `prepare` has run had no connection yet; its client counts attempts and ends.
        let unprepared = self.side == Side::Client && matches!(reason, DisconnectReason::Local);
        if !self.end(reason.into()) && !unprepared {
            self.ledger.violation(format!("the {:?}: an end of no connection, or its second: {reason}", self.side));
        }
        match self.dice.below(100) {
            _ if self.seat.leaves.load(Ordering::SeqCst) => Retry::Stay,
            0..10 => Retry::Reconnect,
            10..15 => Retry::After(self.dice.millis(300)),
            15..17 => Retry::Stay,
            _ => Retry::Policy,
        }
    }

    async fn terminate(&mut self, _: &StopReason) {
        *lock(&self.seat.terminated) += 1;
        self.end(End::Stopped);
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        self.end(End::Dropped);
    }
}

/// The answer to a message: as long, under a number of its own.
pub(super) fn echo(pair: &Pair, side: Side, frame: &Frame) -> Frame {
    pair.offer(side, Stream::Echo).frame(frame.len())
}

/// A callback that takes its time, in steps of the client's own: an info would come later.
async fn sleep_here(own: &Handle<Order>) {
    for _ in 0..3 {
        let _ = own.flush().await; // what was sent before, or the end
    }
}

/// A send has failed: what came back was not sent.
fn refused(pair: &Pair, label: Label, payload: &Bytes, error: SendError) {
    let why = error.to_string();
    match error {
        SendError::Lost(_) => pair.note(Some(label.side), format!("{:?} {} lost: {why}", label.stream, label.seq)),
        SendError::ControlTooLong(_) | SendError::OutOfTurn(_) => {
            pair.violation(&format!("{label} was refused for no reason: {why}"));
        }
        error => {
            if error.frame().is_none_or(|frame| frame.payload() != payload) {
                pair.violation(&format!("{label} came back changed: {why}"));
            }
            pair.given_back(label, &why);
        }
    }
}

/// What a task beside a handler sends.
pub(super) struct Sender<'a> {
    pub(super) side: Side,
    pub(super) ledger: &'a Ledger,
    pub(super) seat: &'a Seat,
    pub(super) handle: &'a Handle<Order>,
}

impl Sender<'_> {
    /// Some messages, in one of the ways that there are.
    pub(super) async fn burst<P: Platform>(&self, dice: &mut Dice) {
        let Some(pair) = self.seat.now() else { return };
        let messages = 1 + dice.below(8);
        match dice.below(10) {
            0..4 => self.send::<P>(&pair, dice, messages).await,
            4..7 => self.feed(&pair, dice, messages).await,
            7..9 => self.try_send(&pair, dice, messages),
            _ => self.send_in_parts(&pair, dice).await,
        }
    }

    /// A message on its way: with its label, and its payload to compare.
    fn next(&self, pair: &Pair, dice: &mut Dice) -> (Label, Frame, Bytes) {
        let label = pair.offer(self.side, Stream::Sent);
        let frame = label.frame(size(dice));
        let payload = frame.payload().clone();
        (label, frame, payload)
    }

    /// Whether all that was done since was done on this connection. Else the message may travel on the next one.
    fn stays(&self, pair: &Arc<Pair>, label: Label) -> bool {
        let stays = self.seat.is(pair);
        if !stays && self.side == Side::Client {
            pair.unsure(label, "the connection has ended meanwhile");
            self.ledger.crossed(label);
        }
        stays
    }

    /// Whether to go on.
    fn outcome(
        &self,
        pair: &Arc<Pair>,
        label: Label,
        payload: &Bytes,
        outcome: Result<(), SendError>,
        settled: bool,
    ) -> bool {
        match outcome {
            Ok(()) => {
                let stays = self.stays(pair, label);
                if stays && settled {
                    pair.settled(label);
                }
                stays
            }
            Err(error) => {
                if error.frame().is_none() {
                    self.stays(pair, label);
                }
                refused(pair, label, payload, error);
                false
            }
        }
    }

    async fn send<P: Platform>(&self, pair: &Arc<Pair>, dice: &mut Dice, messages: usize) {
        for _ in 0..messages {
            let (label, frame, payload) = self.next(pair, dice);
            let send = self.handle.send_frame(frame);
            let outcome = if dice.chance(10) {
                tokio::select! {
                    outcome = send => Some(outcome),
                    () = sleep::<P>(dice.millis(5)) => None,
                }
            } else {
                Some(send.await)
            };
            match outcome {
                Some(outcome) => {
                    if !self.outcome(pair, label, &payload, outcome, true) {
                        return;
                    }
                }
                None => {
                    // Whole or not at all; which, nobody says.
                    pair.unsure(label, "given up");
                    self.ledger.crossed(label);
                    if !self.seat.is(pair) {
                        return;
                    }
                }
            }
        }
    }

    async fn feed(&self, pair: &Arc<Pair>, dice: &mut Dice, messages: usize) {
        for _ in 0..messages {
            let (label, frame, payload) = self.next(pair, dice);
            let outcome = self.handle.feed_frame(frame).await;
            if !self.outcome(pair, label, &payload, outcome, false) {
                return;
            }
        }
        if self.handle.flush().await.is_ok() && self.seat.is(pair) {
            pair.flushed(self.side, Stream::Sent);
        }
    }

    fn try_send(&self, pair: &Arc<Pair>, dice: &mut Dice, messages: usize) {
        for _ in 0..messages {
            let (label, frame, payload) = self.next(pair, dice);
            let outcome = self.handle.try_send_frame(frame);
            if !self.outcome(pair, label, &payload, outcome, false) {
                return;
            }
        }
    }

    /// One message, a part at a time.
    async fn send_in_parts(&self, pair: &Arc<Pair>, dice: &mut Dice) {
        let label = pair.offer(self.side, Stream::Sent);
        let message = Bytes::from(label.message(size(dice)));
        let parts = 1 + dice.below(5);
        let mut writer =
            if dice.chance(50) { self.handle.begin_text().await } else { self.handle.begin_binary().await };
        let mut outcome = Ok(());
        for part in message.chunks(message.len().div_ceil(parts)) {
            outcome = writer.write(message.slice_ref(part)).await;
            if outcome.is_err() {
                break;
            }
        }
        let outcome = match outcome {
            Ok(()) => writer.finish().await,
            Err(error) => Err(error),
        };
        match outcome {
            Ok(()) => {
                if self.stays(pair, label) {
                    pair.settled(label);
                }
            }
            Err(ChunkError::NotUtf8(_) | ChunkError::OutOfTurn(_) | ChunkError::Full(_)) => {
                pair.violation(&format!("{label} in parts was refused for no reason"));
            }
            // The peer has some of it or nothing, and no message is whole without its end.
            Err(ChunkError::Disconnected(_) | ChunkError::Closing(_) | ChunkError::Stopped(_)) => {
                pair.given_back(label, "a part of it came back");
            }
            Err(_) => drop(self.stays(pair, label)),
        }
    }

    /// Begins a message and does not finish it: the connection is closed with 1011.
    pub(super) async fn abandon(&self, dice: &mut Dice) {
        let Some(pair) = self.seat.now() else { return };
        lock(&self.seat.asked).push(1011);
        pair.asked(self.side, 1011);
        let mut writer = self.handle.begin_binary().await;
        for _ in 0..2 {
            if writer.write(vec![b'-'; 1 + dice.below(20_000)]).await.is_err() {
                return;
            }
        }
    }

    pub(super) fn ping(&self) {
        let Some(pair) = self.seat.now() else { return };
        let label = pair.offer(self.side, Stream::Ping);
        let frame = label.ping();
        let payload = frame.payload().clone();
        let outcome = self.handle.try_send_frame(frame);
        self.outcome(&pair, label, &payload, outcome, false);
    }

    /// A Close of this task's own: all that it has sent goes before it.
    pub(super) fn closes(&self, code: u16) {
        lock(&self.seat.asked).push(code);
        if let Some(pair) = self.seat.now() {
            pair.asked(self.side, code);
            pair.closes_behind(self.side, code, &[Stream::Sent]);
        }
    }

    /// An order for the handler, unless it is busy.
    pub(super) fn order(&self, order: Order) {
        let _ = self.handle.try_send_info(order); // it is full, or has ended
    }
}

/// A pause between two things that a task does.
pub(super) fn pause(dice: &mut Dice) -> Duration {
    dice.millis(900)
}
