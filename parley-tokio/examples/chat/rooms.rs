//! Who is in which room, and what was said there lately.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use parley_tokio::{Broadcast, CloseFrameError, Frame, Handle, Slow, Subscription};

use crate::wire::{Line, Refusal};

/// These are there though nobody is in them. Any other room comes with its first member, and goes with its last.
const ALWAYS_THERE: [&str; 3] = ["lobby", "random", "rust"];
/// So many at a time.
const ROOMS: usize = 50;
/// What a newcomer gets to read.
const HISTORY: usize = 50;

/// All rooms. Nothing waits under the lock: a broadcast puts its frame into the queues of those who listen.
#[derive(Clone)]
pub(crate) struct Rooms(Arc<Mutex<House>>);

struct House {
    rooms: BTreeMap<String, Room>,
    /// To all in all rooms.
    everybody: Broadcast,
    /// What becomes of those who do not keep up.
    slow: Slow,
    /// Of the last message, in milliseconds since 1970.
    last: u64,
}

struct Room {
    names: BTreeSet<String>,
    members: Broadcast,
    history: VecDeque<Frame>,
}

impl Room {
    fn new(slow: &Slow) -> Self {
        Self { names: BTreeSet::new(), members: Broadcast::new(slow.clone()), history: VecDeque::new() }
    }
}

fn tell(who: &Broadcast, what: impl Into<Frame>) {
    let _ = who.send(&what.into()); // refuses nothing but pings and pongs that are too long
}

impl House {
    /// How many are in each room has changed.
    fn tell_counts(&self) {
        let counts: Vec<_> = self.rooms.iter().map(|(name, room)| (name.as_str(), room.names.len())).collect();
        tell(&self.everybody, Line::Rooms(&counts));
    }

    /// The time, but never the same twice, nor an earlier one when the clock is set back: pages go by it.
    fn time(&mut self) -> u64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_millis());
        self.last = u64::try_from(now).unwrap_or(u64::MAX).max(self.last + 1);
        self.last
    }
}

impl Rooms {
    pub(crate) fn new() -> Result<Self, CloseFrameError> {
        let slow = Slow::Close(Refusal::TooSlow.to_close()?);
        let rooms = ALWAYS_THERE.map(|name| (name.to_owned(), Room::new(&slow))).into();
        let everybody = Broadcast::new(slow.clone());
        Ok(Self(Arc::new(Mutex::new(House { rooms, everybody, slow, last: 0 }))))
    }

    /// Takes a seat in a room, which is made if need be. `visitor` is a client's own handle: what it sends here is in its
    /// queue before anything that is told to the room from now on.
    pub(crate) fn enter<I: Send + 'static>(
        &self,
        room: &str,
        name: &str,
        visitor: &Handle<I>,
    ) -> Result<Seat, Refusal> {
        let mut house = self.lock();
        let House { rooms, everybody, slow, .. } = &mut *house;
        let is_full = rooms.len() >= ROOMS;
        let here = match rooms.entry(room.to_owned()) {
            Entry::Occupied(there) => there.into_mut(),
            Entry::Vacant(_) if is_full => return Err(Refusal::TooManyRooms),
            Entry::Vacant(free) => free.insert(Room::new(slow)),
        };
        if !here.names.insert(name.to_owned()) {
            return Err(Refusal::NameTaken);
        }
        tell(&here.members, Line::Joined(name));
        for frame in [Line::Here { room, names: &here.names }.into()].into_iter().chain(here.history.iter().cloned()) {
            let _ = visitor.try_send_frame(frame); // if its connection is closing, so will the seat be left
        }
        let in_room = here.members.subscribe(visitor);
        let in_house = everybody.subscribe(visitor);
        house.tell_counts();
        Ok(Seat { rooms: self.clone(), room: room.to_owned(), name: name.to_owned(), in_room, _in_house: in_house })
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
    in_room: Subscription,
    _in_house: Subscription,
}

impl Seat {
    /// Says something to all in the room, the speaker included.
    pub(crate) fn say(&self, text: &str) {
        let mut house = self.rooms.lock();
        let time = house.time();
        let Some(here) = house.rooms.get_mut(&self.room) else { return };
        let said = Frame::from(Line::Said { time, name: &self.name, text });
        tell(&here.members, said.clone());
        here.history.push_back(said);
        if here.history.len() > HISTORY {
            here.history.pop_front();
        }
    }

    /// Shows the others that something is being written.
    pub(crate) fn type_on(&self) {
        if let Some(here) = self.rooms.lock().rooms.get(&self.room) {
            let _ = here.members.send_to_others(&self.in_room, &Line::Typing(&self.name).into());
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut house = self.rooms.lock();
        let Some(here) = house.rooms.get_mut(&self.room) else { return };
        here.names.remove(&self.name);
        let _ = here.members.send_to_others(&self.in_room, &Line::Left(&self.name).into());
        if here.names.is_empty() && !ALWAYS_THERE.contains(&self.room.as_str()) {
            house.rooms.remove(&self.room);
        }
        house.tell_counts();
    }
}
