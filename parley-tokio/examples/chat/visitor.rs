//! One connection: what it asks for, and what it may.

use std::time::{Duration, Instant};

use parley_tokio::{Acceptance, Action, BoxError, Connected, Frame, Handle, Handler, Incoming};
use tokio::sync::oneshot;

use crate::rooms::{Member, Rooms, Seat};
use crate::wire::{Refusal, Request};

/// Requests that a visitor may send in a second. A flood is read no further, and its sender is sent away.
const RATE_LIMIT: u32 = 10;
/// How long a connection may be there without joining a room.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// What reaches a visitor's handler from elsewhere: it has to go, for this reason.
pub(crate) type Notice = Refusal;

pub(crate) struct Visitor {
    rooms: Rooms,
    /// The client's own handle: here the way to set a timer.
    own: Handle<Notice>,
    /// The way for others to reach this one, and then the same. It comes from outside, since the own handle does not
    /// know a full queue.
    arrival: Option<oneshot::Receiver<Member>>,
    member: Option<Member>,
    /// In the room where it is. Dropped with all of this when the connection ends, however it does.
    seat: Option<Seat>,
    pace: Pace,
}

impl Visitor {
    pub(crate) async fn welcome(incoming: Incoming, rooms: Rooms) -> Result<(), BoxError> {
        let (give, arrival) = oneshot::channel();
        let make = |own| Self { rooms, own, arrival: Some(arrival), member: None, seat: None, pace: Pace::new() };
        let client = incoming.accept_with(Acceptance::new(), make).await?;
        let _ = give.send(client.handle()); // it may have gone already
        Ok(()) // the client lives on, in a task of its own
    }
}

impl Handler<Notice> for Visitor {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        if let Some(arrival) = self.arrival.take() {
            self.member = Some(arrival.await?); // no frame is delivered before this returns
        }
        self.own.send_info_after(JOIN_WITHIN, Refusal::NeverJoined)?;
        Ok(Action::Continue)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        match self.serve(&frame) {
            Ok(()) => Ok(Action::Continue),
            Err(refusal) => Ok(Action::StopWith(refusal.to_close()?)),
        }
    }

    async fn handle_info(&mut self, notice: Notice) -> Result<Action, BoxError> {
        match notice {
            Refusal::NeverJoined if self.seat.is_some() => Ok(Action::Continue),
            refusal => Ok(Action::StopWith(refusal.to_close()?)),
        }
    }
}

impl Visitor {
    fn serve(&mut self, frame: &Frame) -> Result<(), Refusal> {
        self.pace.step()?;
        let Frame::Text(line) = frame else { return Err(Refusal::NotText) };
        match (Request::parse(line)?, &self.seat, &self.member) {
            (Request::Join { room, name }, _, Some(member)) => {
                self.seat = None; // it leaves one room before it enters another, or the same again
                self.seat = Some(self.rooms.enter(room, name, member)?);
            }
            (Request::Say(text), Some(seat), _) => seat.say(text),
            (Request::Typing, Some(seat), _) => seat.type_on(),
            _ => return Err(Refusal::NotARequest), // not before joining
        }
        Ok(())
    }
}

/// Counts requests, by the second.
struct Pace {
    since: Instant,
    requests: u32,
}

impl Pace {
    fn new() -> Self {
        Self { since: Instant::now(), requests: 0 }
    }

    fn step(&mut self) -> Result<(), Refusal> {
        if self.since.elapsed() >= Duration::from_secs(1) {
            *self = Self::new();
        }
        self.requests += 1;
        if self.requests > RATE_LIMIT { Err(Refusal::TooFast) } else { Ok(()) }
    }
}
