//! Who is in which room, and what was said there lately.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use parley_tokio::{Frame, Handle, SendError};

use crate::visitor::Notice;
use crate::wire::Refusal;

/// These are there though nobody is in them. Any other room comes with its first member, and goes with its last.
const ALWAYS_THERE: [&str; 3] = ["lobby", "random", "rust"];
/// So many at a time.
const ROOMS: usize = 50;
/// What a newcomer gets to read.
const HISTORY: usize = 50;

/// A connection, as others reach it.
pub(crate) type Member = Handle<Notice>;

/// All rooms. Nothing waits under the lock: frames are put into the members' queues, each of which has its bound.
#[derive(Clone)]
pub(crate) struct Rooms(Arc<Mutex<House>>);

struct House {
    rooms: BTreeMap<String, Room>,
    /// Of the last message, in milliseconds since 1970.
    last: u64,
}

#[derive(Default)]
struct Room {
    members: BTreeMap<String, Member>,
    history: VecDeque<Frame>,
}

impl Room {
    /// A frame for everybody here. Its bytes are shared, not copied.
    fn tell(&self, frame: &Frame) {
        for member in self.members.values() {
            send(member, frame.clone());
        }
    }
}

fn send(member: &Member, frame: Frame) {
    if let Err(SendError::Full(_)) = member.try_send_frame(frame) {
        let _ = member.try_send_info(Refusal::TooSlow);
    } // any other error: it is about to leave
}

impl House {
    /// How many are in each room has changed.
    fn tell_counts(&self) {
        let counts: String =
            self.rooms.iter().map(|(name, room)| format!("\t{name}\t{}", room.members.len())).collect();
        let frame = Frame::text(format!("rooms{counts}"));
        self.rooms.values().for_each(|room| room.tell(&frame));
    }

    /// The time, but never the same twice, nor an earlier one when the clock is set back: pages go by it.
    fn time(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.last = u64::try_from(now).unwrap_or(u64::MAX).max(self.last + 1);
        self.last
    }
}

impl Default for Rooms {
    fn default() -> Self {
        let rooms = ALWAYS_THERE.map(|name| (name.to_owned(), Room::default())).into();
        Self(Arc::new(Mutex::new(House { rooms, last: 0 })))
    }
}

impl Rooms {
    /// Takes a seat in a room, which is made if need be.
    pub(crate) fn enter(&self, room: &str, name: &str, member: &Member) -> Result<Seat, Refusal> {
        let mut house = self.lock();
        if !house.rooms.contains_key(room) && house.rooms.len() >= ROOMS {
            return Err(Refusal::TooManyRooms);
        }
        let here = house.rooms.entry(room.to_owned()).or_default();
        if here.members.contains_key(name) {
            return Err(Refusal::NameTaken);
        }
        here.tell(&Frame::text(format!("joined\t{name}")));
        here.members.insert(name.to_owned(), member.clone());
        let names: String = here.members.keys().map(|name| format!("\t{name}")).collect();
        send(member, Frame::text(format!("here\t{room}{names}")));
        here.history.iter().for_each(|said| send(member, said.clone()));
        house.tell_counts();
        Ok(Seat { rooms: self.clone(), room: room.to_owned(), name: name.to_owned() })
    }

    fn lock(&self) -> MutexGuard<'_, House> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A place in a room. Dropped, it is free again, and the others are told.
pub(crate) struct Seat {
    rooms: Rooms,
    room: String,
    name: String,
}

impl Seat {
    /// Says something to all in the room, the speaker included.
    pub(crate) fn say(&self, text: &str) {
        let mut house = self.rooms.lock();
        let time = house.time();
        let Some(here) = house.rooms.get_mut(&self.room) else { return };
        let said = Frame::text(format!("said\t{time}\t{}\t{text}", self.name));
        here.tell(&said);
        here.history.push_back(said);
        if here.history.len() > HISTORY {
            here.history.pop_front();
        }
    }

    /// Shows the others that something is being written.
    pub(crate) fn type_on(&self) {
        if let Some(here) = self.rooms.lock().rooms.get(&self.room) {
            here.tell(&Frame::text(format!("typing\t{}", self.name)));
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut house = self.rooms.lock();
        let Some(here) = house.rooms.get_mut(&self.room) else { return };
        here.members.remove(&self.name);
        here.tell(&Frame::text(format!("left\t{}", self.name)));
        if here.members.is_empty() && !ALWAYS_THERE.contains(&self.room.as_str()) {
            house.rooms.remove(&self.room);
        }
        house.tell_counts();
    }
}
