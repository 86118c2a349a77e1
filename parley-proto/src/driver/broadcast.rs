//! One frame to many clients: encoded once, and never held up by the slowest of them.

use std::fmt;
use std::mem;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use slab::Slab;

use super::handle::{Handle, Shared};
use crate::codec::{CloseFrame, Frame, PreparedFrame};
use crate::error::SendError;

/// What becomes of a receiver that does not keep up: of which the [send queue](crate::Limits::send_queue) has no room for
/// the frame.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Slow {
    /// It does not get this frame.
    Drop,
    /// It gets this frame, in place of all of the same broadcast that it has yet to be sent: for values of which only the
    /// newest counts, such as prices. What the newest replaces may have been queued before frames that others sent to this
    /// receiver; the order among those of the broadcast stays.
    Skip,
    /// It is disconnected with this Close, ahead of what it has yet to be sent of the broadcast: 1008 (policy violation) or
    /// 1013 (try again later) say why. It is read only by one that reads on within the close timeout; to another the
    /// connection just ends.
    Close(CloseFrame),
}

/// Sends frames to many clients at once.
///
/// A frame is encoded once, for as many servers' connections as have subscribed; each queues a reference to the same
/// bytes. (Clients, which mask, encode it each for themselves.) Sending never waits: a receiver that is slow is dealt with
/// as [`Slow`] says, the others do not notice.
///
/// All receivers see the frames of one broadcast in the same order, whoever sends them; a frame that one's handle sends
/// before or after keeps its place among them. A clone is the same broadcast.
///
/// ```
/// use parley_proto::driver::{Broadcast, Slow, Subscription};
/// use parley_proto::{Action, BoxError, Connected, Handler};
/// use parley_proto::codec::{CloseCode, CloseFrame, Frame};
/// # use parley_proto::driver::Handle;
///
/// /// One member of a room: `Server` gives it its handle by `accept_with`.
/// struct Member {
///     room: Broadcast,
///     own: Handle,
///     subscription: Option<Subscription>,
/// }
///
/// impl Handler for Member {
///     async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
///         self.subscription = Some(self.room.subscribe(&self.own)); // until it is dropped
///         Ok(Action::Continue)
///     }
///
///     async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
///         if let Frame::Text(_) = &frame {
///             self.room.send(&frame)?; // to all members, this one included
///         }
///         Ok(Action::Continue)
///     }
/// }
///
/// let room = Broadcast::new(Slow::Close(CloseFrame::new(CloseCode::TRY_AGAIN_LATER, "too slow")?));
/// # assert_eq!(room.send(&Frame::text("nobody listens"))?.queued, 0);
/// # Ok::<(), BoxError>(())
/// ```
#[derive(Clone)]
pub struct Broadcast {
    slow: Slow,
    hub: Arc<Mutex<Hub>>,
}

#[derive(Default)]
struct Hub {
    receivers: Slab<Member>,
    /// Whom to wake once the lock is free; kept for its room.
    wakers: Vec<Waker>,
    stats: BroadcastStats,
}

struct Member {
    receiver: Arc<dyn Receiver>,
    /// What the receiver calls this broadcast.
    number: u64,
}

/// What a broadcast has done since it was made. One frame to three receivers counts three times but for `frames`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BroadcastStats {
    /// Frames sent.
    pub frames: u64,
    /// Accepted by a receiver's queue.
    pub queued: u64,
    /// Not accepted, the receiver being slow ([`Slow::Drop`]).
    pub dropped: u64,
    /// Accepted in place of others, the receiver being slow ([`Slow::Skip`]).
    pub skipped: u64,
    /// Receivers disconnected for being slow ([`Slow::Close`]).
    pub closed: u64,
    /// Not accepted, the receiver having no connection, or one that closes.
    pub missed: u64,
}

/// What became of one frame of a broadcast: how many receivers of each kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Delivered {
    /// Their queues have accepted it.
    pub queued: usize,
    /// They are slow, and do not get it.
    pub dropped: usize,
    /// They are slow, and get it in place of others.
    pub skipped: usize,
    /// They are slow, and are disconnected.
    pub closed: usize,
    /// They have no connection, or one that closes.
    pub missed: usize,
}

/// What became of a frame at one receiver.
#[derive(Clone, Copy)]
pub(super) enum Delivery {
    Queued,
    Dropped,
    Skipped,
    Closed,
    Missed,
}

/// A client as a broadcast sees it, whatever its infos are.
pub(super) trait Receiver: Send + Sync {
    /// A number for one more broadcast.
    fn number(&self) -> u64;

    /// Queues a frame. Whoever is to be woken goes to `wakers`.
    fn deliver(&self, from: u64, frame: &PreparedFrame, slow: &Slow, wakers: &mut Vec<Waker>) -> Delivery;
}

impl Broadcast {
    /// A broadcast without receivers.
    #[must_use]
    pub fn new(slow: Slow) -> Self {
        Self { slow, hub: Arc::default() }
    }

    fn lock(&self) -> MutexGuard<'_, Hub> {
        lock(&self.hub)
    }

    /// Makes a client a receiver, until the subscription is dropped. Frames that are sent while it has no connection miss
    /// it; those sent while it connects wait for that, like any other's.
    ///
    /// It keeps the client neither alive nor reachable. Who subscribes twice gets everything twice.
    pub fn subscribe<I: Send + 'static>(&self, handle: &Handle<I>) -> Subscription {
        let receiver: Arc<Shared<I>> = handle.shared().clone();
        let number = receiver.number();
        let key = self.lock().receivers.insert(Member { receiver, number });
        Subscription { hub: self.hub.clone(), key }
    }

    /// Sends a frame to all receivers, without waiting.
    ///
    /// # Errors
    ///
    /// [`SendError::ControlTooLong`] for a ping or pong above 125 bytes; what becomes of it at a receiver is no error.
    pub fn send(&self, frame: &Frame) -> Result<Delivered, SendError> {
        Ok(self.send_prepared(&PreparedFrame::new(frame)?))
    }

    /// Sends a frame to all receivers but one.
    ///
    /// # Errors
    ///
    /// As for [`send`](Self::send).
    pub fn send_to_others(&self, than: &Subscription, frame: &Frame) -> Result<Delivered, SendError> {
        let own = Arc::ptr_eq(&self.hub, &than.hub).then_some(than.key);
        Ok(self.deliver(&PreparedFrame::new(frame)?, own))
    }

    /// Sends what is encoded already, to several broadcasts say.
    pub fn send_prepared(&self, frame: &PreparedFrame) -> Delivered {
        self.deliver(frame, None)
    }

    fn deliver(&self, frame: &PreparedFrame, except: Option<usize>) -> Delivered {
        let mut hub = self.lock();
        let mut delivered = Delivered::default();
        let mut wakers = mem::take(&mut hub.wakers);
        for (key, member) in &hub.receivers {
            if Some(key) == except {
                continue;
            }
            *match member.receiver.deliver(member.number, frame, &self.slow, &mut wakers) {
                Delivery::Queued => &mut delivered.queued,
                Delivery::Dropped => &mut delivered.dropped,
                Delivery::Skipped => &mut delivered.skipped,
                Delivery::Closed => &mut delivered.closed,
                Delivery::Missed => &mut delivered.missed,
            } += 1;
        }
        hub.stats.count(&delivered);
        drop(hub);
        // A waker is foreign code: it runs without the lock.
        wakers.drain(..).for_each(Waker::wake);
        self.lock().wakers = wakers;
        delivered
    }

    /// How many receivers there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.lock().receivers.len()
    }

    /// Whether there is no receiver.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Its numbers.
    #[must_use]
    pub fn stats(&self) -> BroadcastStats {
        self.lock().stats
    }
}

impl BroadcastStats {
    fn count(&mut self, delivered: &Delivered) {
        let Delivered { queued, dropped, skipped, closed, missed } = *delivered;
        self.frames += 1;
        self.queued += queued as u64;
        self.dropped += dropped as u64;
        self.skipped += skipped as u64;
        self.closed += closed as u64;
        self.missed += missed as u64;
    }
}

impl fmt::Debug for Broadcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Broadcast").field("slow", &self.slow).field("receivers", &self.len()).finish_non_exhaustive()
    }
}

fn lock(hub: &Mutex<Hub>) -> MutexGuard<'_, Hub> {
    // Nothing foreign runs under the lock.
    hub.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A receiver's place in a [`Broadcast`], given up on drop. A handler keeps it beside its state, and so leaves when it goes.
///
/// Clients that live on disconnected keep their place: what is sent meanwhile misses them.
#[must_use = "dropped, it ends"]
pub struct Subscription {
    hub: Arc<Mutex<Hub>>,
    key: usize,
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").finish_non_exhaustive()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        let member = lock(&self.hub).receivers.try_remove(self.key);
        drop(member); // without the lock: it may be the last to hold the client's queue, infos and all
    }
}
