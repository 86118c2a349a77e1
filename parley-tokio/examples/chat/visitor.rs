//! One connection: what it asks for, and what it may.

use std::time::{Duration, Instant};

use parley_tokio::{Action, BoxError, Connected, Frame, Handle, Handler};

use crate::QUEUE_LIMIT;
use crate::rooms::{Rooms, Seat};
use crate::wire::{Refusal, Request};

/// Requests that a visitor may send in a second. A flood is read no further, and its sender is sent away.
const RATE_LIMIT: u32 = 10;
/// How long a connection may be there without joining a room.
const JOIN_WITHIN: Duration = Duration::from_secs(10);

/// What a visitor's handler tells itself later: a room has to be joined by now.
pub(crate) struct JoinByNow;

pub(crate) struct Visitor {
    rooms: Rooms,
    /// The client's own handle: it subscribes to what is said in rooms, and sets the timer.
    own: Handle<JoinByNow>,
    /// The room where it is. It lies here to be dropped when the connection ends, however that does.
    seat: Option<Seat>,
    pace: Pace,
}

impl Visitor {
    pub(crate) fn new(rooms: Rooms, own: Handle<JoinByNow>) -> Self {
        Self { rooms, own, seat: None, pace: Pace::new() }
    }
}

impl Handler<JoinByNow> for Visitor {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.own.send_info_after(JOIN_WITHIN, JoinByNow)?;
        Ok(Action::Continue)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        match self.serve(&frame) {
            Ok(()) => Ok(Action::Continue),
            Err(refusal) => Ok(Action::StopWith(refusal.to_close()?)),
        }
    }

    async fn handle_info(&mut self, JoinByNow: JoinByNow) -> Result<Action, BoxError> {
        match self.seat {
            Some(_) => Ok(Action::Continue),
            None => Ok(Action::StopWith(Refusal::NeverJoined.to_close()?)),
        }
    }
}

impl Visitor {
    fn serve(&mut self, frame: &Frame) -> Result<(), Refusal> {
        self.pace.step()?;
        let Frame::Text(line) = frame else { return Err(Refusal::NotText) };
        match (Request::parse(line)?, &self.seat) {
            (Request::Join { room, name }, _) => {
                // What a client's own handle sends is never refused for lack of room: who joins again and again without
                // reading what was said there has to be noticed here.
                if self.own.stats().queued > QUEUE_LIMIT as u64 {
                    return Err(Refusal::TooSlow);
                }
                self.seat = None; // it leaves one room before it enters another, or the same again
                self.seat = Some(self.rooms.enter(room, name, &self.own)?);
            }
            (Request::Say(text), Some(seat)) => seat.say(text),
            (Request::Typing, Some(seat)) => seat.type_on(),
            (Request::Say(_) | Request::Typing, None) => return Err(Refusal::NotARequest),
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
