//! The way from other tasks to a client: one queue, a short lock, a wake when the driver sleeps.

mod message;

use std::any::Any;
use std::collections::VecDeque;
use std::fmt;
use std::future::poll_fn;
use std::mem;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use slab::Slab;

pub use message::MessageWriter;

use super::broadcast::{Delivery, Receiver, Slow};
use super::stats::{Published, Stats};

use crate::Limits;
use crate::codec::{CloseFrame, Frame, FrameRef, MAX_CONTROL, PreparedFrame};
use crate::error::{SendError, StopReason};
use crate::session::{ClientState, Command, Fed, Losses, QUEUE_KEPT, TimerId, cost, cost_prepared, cost_ref};
use crate::sparse::Sparse;

/// Names a waiting send in [`Inner::slots`].
pub(super) type Ticket = usize;

/// What the handles and the driver of one client share.
pub(super) struct Shared<I> {
    inner: Mutex<Inner<I>>,
    /// Something is in `inner` that the driver has not seen.
    dirty: AtomicBool,
    /// The driver waits for a wake.
    asleep: AtomicBool,
    /// Handles that keep a disconnected client alive: all but its own.
    handles: AtomicU32,
    pub(super) stats: Published,
}

struct Inner<I> {
    /// Frames that nobody waits for, from handles but the client's own. All of them come before all of `commands`.
    fed: Fed,
    commands: Sparse<Command<I, Ticket>>,
    frames: Gate,
    info_limit: usize,
    /// `None` for a client that has used none of it.
    seldom: Option<Box<Seldom>>,
    slots: Slots,
    state: ClientState,
    closing: bool,
    started: bool,
    /// Nobody can join any more.
    detached: bool,
    /// Counts the ends of connections and attempts, round and round: a send that waits for room is not carried over one.
    epoch: u32,
    /// `None` while the client lives and nobody waits for its end.
    end: Option<Box<End>>,
    /// Tasks that wait for a state; `None` while nobody does. Most clients are watched once, while they start.
    watchers: Option<Box<Slab<Waker>>>,
    driver: Option<Waker>,
}

/// A client's end, and whoever joins it.
#[derive(Default)]
struct End {
    /// Why; `None` while the client lives.
    reason: Option<StopReason>,
    join: Option<Join>,
}

/// What a client's handler has come to, of a type that who hands it over and who takes it know.
pub(super) type Fate = Box<dyn Any + Send>;

enum Join {
    Waits(Waker),
    Ended(Fate),
}

/// What few clients need: for infos, messages in parts, and broadcasts; and what was lost.
struct Seldom {
    infos: Gate,
    /// One message in parts at a time,
    writers: Gate,
    /// and of its parts so much.
    parts: Gate,
    /// The last message's number; that of the last delayed info; and the last that a broadcast was given.
    messages: u64,
    timers: u64,
    broadcasts: u64,
    losses: Losses,
}

impl Seldom {
    fn new(info_limit: usize) -> Box<Self> {
        let (infos, writers, parts) = (Gate::new(info_limit), Gate::new(1), Gate::new(message::PARTS));
        Box::new(Self { infos, writers, parts, messages: 0, timers: 0, broadcasts: 0, losses: Losses::default() })
    }
}

/// Those who wait for an outcome, by their tickets. Boxed once somebody does: the handles of many clients never send.
#[derive(Default)]
struct Slots(Option<Box<Slab<Slot>>>);

impl Slots {
    fn insert(&mut self, slot: Slot) -> Ticket {
        self.0.get_or_insert_default().insert(slot)
    }

    fn get_mut(&mut self, ticket: Ticket) -> Option<&mut Slot> {
        self.0.as_mut()?.get_mut(ticket)
    }

    fn remove(&mut self, ticket: Ticket) {
        self.0.as_mut().and_then(|slots| slots.try_remove(ticket));
    }

    fn tickets(&self) -> Vec<Ticket> {
        self.0.iter().flat_map(|slots| slots.iter()).map(|(ticket, _)| ticket).collect()
    }
}

/// A send that waits for its outcome.
enum Slot {
    Waiting(Option<Waker>),
    Settled(Result<(), SendError>),
    /// Its future was dropped: the frame is sent all the same.
    Forgotten,
}

/// A bound, and the tasks that wait for room in arrival order.
struct Gate {
    used: usize,
    limit: usize,
    /// `None` while nobody waits.
    #[expect(clippy::box_collection, reason = "nearly always it is empty")]
    queue: Option<Box<VecDeque<(u64, Waker)>>>,
}

impl Gate {
    fn new(limit: usize) -> Self {
        Self { used: 0, limit, queue: None }
    }

    /// An empty queue takes anything, however large.
    fn fits(&self, cost: usize) -> bool {
        self.used == 0 || self.used.saturating_add(cost) <= self.limit
    }

    /// Without waiting; behind those who wait.
    fn try_enter(&mut self, cost: usize) -> bool {
        let enters = self.queue.is_none() && self.fits(cost);
        if enters {
            self.used += cost;
        }
        enters
    }

    /// Ready with whoever may find room next, to be woken once the lock is free.
    fn poll_enter(&mut self, place: &mut Option<u64>, cost: usize, cx: &Context<'_>) -> Poll<Option<Waker>> {
        let first = match place {
            None => self.queue.is_none(),
            Some(id) => self.front().is_some_and(|(front, _)| front == id),
        };
        if first && self.fits(cost) {
            self.used += cost;
            return Poll::Ready(self.leave(place));
        }
        match place {
            None => {
                let queue = self.queue.get_or_insert_default();
                // No number is used twice while the last of the queue has it; an empty one begins anew.
                let next = queue.back().map_or(0, |(last, _)| last + 1);
                queue.push_back((next, cx.waker().clone()));
                *place = Some(next);
            }
            Some(id) => {
                let mut queue = self.queue.iter_mut().flat_map(|queue| queue.iter_mut());
                if let Some((_, waker)) = queue.find(|(waiting, _)| waiting == id) {
                    waker.clone_from(cx.waker());
                }
            }
        }
        Poll::Pending
    }

    /// Gives up a place in the queue; whoever is first now may find room.
    fn leave(&mut self, place: &mut Option<u64>) -> Option<Waker> {
        let id = place.take()?;
        let queue = self.queue.as_mut()?;
        match queue.iter().position(|(waiting, _)| *waiting == id)? {
            0 => drop(queue.pop_front()), // whoever enters is the first
            at => drop(queue.remove(at)),
        }
        if queue.is_empty() {
            self.queue = None;
        }
        self.first()
    }

    fn release(&mut self, cost: usize) -> Option<Waker> {
        self.used = self.used.saturating_sub(cost);
        if cost > 0 { self.first() } else { None }
    }

    fn first(&self) -> Option<Waker> {
        self.front().map(|(_, waker)| waker.clone())
    }

    fn front(&self) -> Option<&(u64, Waker)> {
        self.queue.as_ref()?.front()
    }

    /// Whoever waits.
    fn waiting(&self) -> impl Iterator<Item = &Waker> {
        self.queue.iter().flat_map(|queue| queue.iter().map(|(_, waker)| waker))
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl<I> Shared<I> {
    pub(super) fn new(limits: &Limits) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                fed: Fed::default(),
                commands: Sparse::new(),
                frames: Gate::new(limits.send_queue()),
                info_limit: limits.info_queue(),
                seldom: None,
                slots: Slots::default(),
                state: ClientState::Disconnected,
                closing: false,
                started: false,
                detached: false,
                epoch: 0,
                end: None,
                watchers: None,
                driver: None,
            }),
            dirty: AtomicBool::new(true),
            asleep: AtomicBool::new(false),
            handles: AtomicU32::new(0),
            stats: Published::default(),
        })
    }

    fn lock(&self) -> MutexGuard<'_, Inner<I>> {
        // No callback runs under the lock, so a panic cannot leave it half-way.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something was put into `inner`, which the caller has unlocked.
    fn notify(&self) {
        self.dirty.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            let waker = self.lock().driver.clone();
            if let Some(waker) = waker {
                waker.wake();
            }
        }
    }

    /// Puts a command in, and sees to it that the driver looks.
    fn put(&self, mut inner: MutexGuard<'_, Inner<I>>, command: Command<I, Ticket>) {
        inner.commands.push_back(command);
        self.tell(inner);
    }

    /// Something was put in: sees to it that the driver looks.
    #[inline(always)]
    fn tell(&self, inner: MutexGuard<'_, Inner<I>>) {
        // Looked at under the lock: if it is dirty already, the driver has yet to take what is there, with this, and whoever made
        // it dirty wakes it.
        let is_first = !self.dirty.load(Ordering::Relaxed);
        drop(inner);
        if is_first {
            self.notify();
        }
    }

    /// The client's numbers.
    pub(super) fn numbers(&self) -> Stats {
        let inner = self.lock();
        let (parts, losses) =
            inner.seldom.as_ref().map(|seldom| (seldom.parts.used, seldom.losses)).unwrap_or_default();
        let queued = inner.frames.used + parts;
        drop(inner);
        self.stats.load(queued, losses)
    }

    // ---- the driver's side

    /// The driver runs: nobody has to wake it.
    pub(super) fn awake(&self) {
        self.asleep.store(false, Ordering::SeqCst);
    }

    /// The driver is about to wait. False: something has come in meanwhile.
    pub(super) fn sleep(&self, cx: &Context<'_>, known: &mut Option<Waker>) -> bool {
        if !known.as_ref().is_some_and(|waker| waker.will_wake(cx.waker())) {
            *known = Some(cx.waker().clone());
            self.lock().driver = Some(cx.waker().clone());
        }
        self.asleep.store(true, Ordering::SeqCst);
        !self.dirty.load(Ordering::SeqCst)
    }

    pub(super) fn is_dirty(&self) -> bool {
        self.dirty.load(Ordering::Relaxed)
    }

    /// Takes what was fed, and the commands behind that, if there is anything; says whether any handle is left. All that was
    /// taken before is done.
    pub(super) fn take(&self, taken: &mut Option<Box<Taken<I>>>) -> bool {
        self.dirty.store(false, Ordering::SeqCst);
        let mut inner = self.lock();
        if !(inner.fed.is_empty() && inner.commands.is_empty()) {
            let Taken { fed, commands } = &mut **taken.get_or_insert_default();
            mem::swap(&mut inner.fed, fed);
            mem::swap(&mut inner.commands, commands);
        }
        drop(inner);
        self.handles.load(Ordering::SeqCst) > 0
    }

    /// Makes room for what has left the queues.
    pub(super) fn release(&self, frames: usize, parts: usize, infos: usize) {
        let mut inner = self.lock();
        let first = inner.frames.release(frames);
        let seldom = inner.seldom.as_mut().map(|seldom| [seldom.parts.release(parts), seldom.infos.release(infos)]);
        drop(inner);
        wake(first.into_iter().chain(seldom.into_iter().flatten().flatten()));
    }

    pub(super) fn tell_losses(&self, losses: Losses) {
        self.lock().seldom().losses = losses;
    }

    pub(super) fn settle(&self, ticket: Ticket, outcome: Result<(), SendError>) {
        let waker = self.lock().answer(ticket, outcome);
        wake(waker);
    }

    pub(super) fn publish(&self, state: ClientState, closing: bool) {
        let mut inner = self.lock();
        inner.closing = closing || inner.commands.iter().any(Command::closes);
        if inner.state != state {
            inner.state = state;
            let mut waiting = inner.watchers();
            if state == ClientState::Disconnected {
                // What was accepted for this connection is to be seen before the next begins, though its sender was stopped
                // before it could say that it is there.
                self.dirty.fetch_or(!(inner.fed.is_empty() && inner.commands.is_empty()), Ordering::SeqCst);
                inner.epoch = inner.epoch.wrapping_add(1);
                let parts = inner.seldom.iter().flat_map(|seldom| seldom.parts.waiting());
                waiting.extend(inner.frames.waiting().chain(parts).cloned());
            }
            drop(inner);
            wake(waiting);
        }
    }

    /// `init` has succeeded.
    pub(super) fn started(&self) {
        let mut inner = self.lock();
        inner.started = true;
        let watchers = inner.watchers();
        drop(inner);
        wake(watchers);
    }

    /// The client has ended: everybody who waits is answered, some with these. The first reason stays.
    pub(super) fn end(&self, reason: StopReason, outcomes: impl IntoIterator<Item = (Ticket, Result<(), SendError>)>) {
        let mut inner = self.lock();
        inner.state = ClientState::Stopped;
        inner.end.get_or_insert_default().reason.get_or_insert(reason);
        let mut wakers = inner.watchers();
        for (ticket, outcome) in outcomes {
            wakers.extend(inner.answer(ticket, outcome));
        }
        let fed = mem::take(&mut inner.fed);
        let mut unseen = inner.commands.take();
        for command in &mut unseen {
            if let Command::Send { frame, ticket: Some(ticket), .. } = command {
                let frame = mem::replace(frame, Frame::Binary(Bytes::new()));
                wakers.extend(inner.answer(*ticket, Err(SendError::Stopped(frame))));
            }
        }
        let reason = inner.lost();
        for ticket in inner.slots.tickets() {
            wakers.extend(inner.answer(ticket, Err(SendError::Lost(reason.clone()))));
        }
        let Inner { frames, seldom, .. } = &mut *inner;
        let seldom = seldom.iter_mut().flat_map(|seldom| [&mut seldom.infos, &mut seldom.writers, &mut seldom.parts]);
        for gate in [frames].into_iter().chain(seldom) {
            wakers.extend(gate.queue.take().into_iter().flat_map(|queue| *queue).map(|(_, waker)| waker));
        }
        drop(inner);
        wake(wakers);
        drop((fed, unseen)); // infos, and payloads of the user's own, may do anything when they are dropped
    }

    // ---- the end, for whoever joins

    /// The future is over, with this for whoever joins; dropped if nobody can.
    pub(super) fn hand_over(&self, outcome: Fate) {
        let mut inner = self.lock();
        if inner.detached {
            drop(inner);
            return drop(outcome); // a handler may do anything when it is dropped
        }
        let waits = inner.end.get_or_insert_default().join.replace(Join::Ended(outcome));
        drop(inner);
        if let Some(Join::Waits(waker)) = waits {
            waker.wake();
        }
    }

    /// What was handed over, once.
    pub(super) fn poll_join(&self, cx: &Context<'_>) -> Poll<Fate> {
        let mut inner = self.lock();
        let end = inner.end.get_or_insert_default();
        match end.join.take() {
            Some(Join::Ended(outcome)) => Poll::Ready(outcome),
            _ => {
                end.join = Some(Join::Waits(cx.waker().clone()));
                Poll::Pending
            }
        }
    }

    /// Nobody will join.
    pub(super) fn detach(&self) {
        let mut inner = self.lock();
        inner.detached = true;
        let join = inner.end.as_mut().and_then(|end| end.join.take());
        drop(inner);
        drop(join); // with a handler in it, as above
    }
}

/// What the driver has taken and carries out.
pub(super) struct Taken<I> {
    pub(super) fed: Fed,
    pub(super) commands: Sparse<Command<I, Ticket>>,
}

impl<I> Default for Taken<I> {
    fn default() -> Self {
        Self { fed: Fed::default(), commands: Sparse::new() }
    }
}

impl<I> Taken<I> {
    /// All is done: of the room for a burst little is kept.
    pub(super) fn shrink(&mut self) {
        self.fed.shrink();
        self.commands.shrink_to(QUEUE_KEPT);
    }
}

impl<I: Send> Receiver for Shared<I> {
    fn number(&self) -> u64 {
        let mut inner = self.lock();
        let broadcasts = &mut inner.seldom().broadcasts;
        *broadcasts += 1;
        *broadcasts
    }

    fn deliver(&self, from: u64, frame: &PreparedFrame, slow: &Slow, wakers: &mut Vec<Waker>) -> Delivery {
        let mut inner = self.lock();
        if inner.closing || !matches!(inner.state, ClientState::Connecting | ClientState::Connected) {
            return Delivery::Missed;
        }
        let cost = cost_prepared(frame);
        // That others wait for room does not make a receiver slow that has some.
        let delivery = if inner.frames.fits(cost) {
            inner.frames.used += cost;
            inner.commands.push_back(Command::SendPrepared { frame: frame.clone(), from, skips: None });
            Delivery::Queued
        } else {
            match slow {
                Slow::Drop => return Delivery::Dropped,
                Slow::Close(_) if inner.state == ClientState::Connecting => return Delivery::Dropped, // it cannot be quicker
                Slow::Skip => {
                    inner.skip_to(frame, from, cost);
                    Delivery::Skipped
                }
                Slow::Close(close) => {
                    inner.closing = true;
                    inner.commands.extend([Command::Skip(from), Command::Disconnect(close.clone())]);
                    Delivery::Closed
                }
            }
        };
        self.dirty.store(true, Ordering::SeqCst);
        if self.asleep.swap(false, Ordering::SeqCst) {
            wakers.extend(inner.driver.clone());
        }
        delivery
    }
}

impl<I> Inner<I> {
    /// A frame of a broadcast takes the place of those that wait. Of those that the driver has not seen it replaces the last, so
    /// that there is no more of them however long that takes; the rest is the outbox's part.
    fn skip_to(&mut self, newest: &PreparedFrame, broadcast: u64, cost: usize) {
        let unseen = self.commands.iter_mut().rev().find_map(|command| match command {
            Command::SendPrepared { frame, from, skips } if *from == broadcast => Some((frame, skips)),
            _ => None,
        });
        self.frames.used += cost;
        match unseen {
            Some((frame, skips)) => {
                self.frames.used -= cost_prepared(frame);
                (*frame, *skips) = (newest.clone(), Some(skips.unwrap_or(0) + 1));
            }
            None => {
                self.commands.push_back(Command::SendPrepared {
                    frame: newest.clone(),
                    from: broadcast,
                    skips: Some(0),
                });
            }
        }
    }

    /// Why the client has ended, if it has.
    fn stopped(&self) -> Option<&StopReason> {
        self.end.as_ref()?.reason.as_ref()
    }

    fn seldom(&mut self) -> &mut Seldom {
        self.seldom.get_or_insert_with(|| Seldom::new(self.info_limit))
    }

    /// Whom a change of state concerns.
    fn watchers(&self) -> Vec<Waker> {
        self.watchers.iter().flat_map(|watchers| watchers.iter()).map(|(_, waker)| waker.clone()).collect()
    }

    /// Settles a waiting send, once; a forgotten one is forgotten for good.
    fn answer(&mut self, ticket: Ticket, outcome: Result<(), SendError>) -> Option<Waker> {
        match self.slots.get_mut(ticket)? {
            Slot::Settled(_) => None,
            Slot::Forgotten => {
                self.slots.remove(ticket);
                None
            }
            slot @ Slot::Waiting(_) => match mem::replace(slot, Slot::Settled(outcome)) {
                Slot::Waiting(waker) => waker,
                _ => None,
            },
        }
    }

    /// Nobody waits for this any more. True: the driver is to be told.
    fn abandon(&mut self, ticket: Ticket, flush: bool) -> bool {
        let is_it = |command: &Command<I, Ticket>| matches!(command, Command::Flush { ticket: other, .. } | Command::FlushMessage { ticket: other, .. } if *other == ticket);
        match self.slots.get_mut(ticket) {
            None => {}
            Some(Slot::Settled(_) | Slot::Forgotten) => self.slots.remove(ticket),
            Some(slot @ Slot::Waiting(_)) if !flush => *slot = Slot::Forgotten,
            Some(slot @ Slot::Waiting(_)) => {
                // Flushes have no bound: one that stayed would stay as long as output is blocked.
                if let Some(at) = self.commands.iter().rposition(is_it) {
                    self.commands.remove(at);
                    self.slots.remove(ticket);
                } else {
                    *slot = Slot::Forgotten;
                    self.commands.push_back(Command::Forget(ticket));
                    return true;
                }
            }
        }
        false
    }

    /// Why a frame that was under way at the end is lost.
    fn lost(&self) -> crate::DisconnectReason {
        match self.stopped() {
            Some(StopReason::Disconnected(reason)) => reason.clone(),
            _ => crate::DisconnectReason::Local,
        }
    }

    /// Why a frame cannot be accepted now, if so.
    fn refusal(&self, own: bool, frame: FrameRef<'_>) -> Option<fn(Frame) -> SendError> {
        match self.state {
            ClientState::Stopped => Some(SendError::Stopped),
            ClientState::Disconnected => Some(SendError::Disconnected),
            _ if self.closing => Some(SendError::Closing),
            ClientState::Connecting if own => Some(SendError::Disconnected),
            _ if frame.opcode().is_control() && frame.len() > MAX_CONTROL => Some(SendError::ControlTooLong),
            _ => None,
        }
    }

    /// Takes room for a frame that goes to what is fed, if it is refused by nothing and comes behind nothing.
    #[inline(always)]
    fn enters_now(&mut self, own: bool, frame: FrameRef<'_>) -> bool {
        let is_next = !own && self.commands.is_empty();
        is_next && self.refusal(false, frame).is_none() && self.frames.try_enter(cost_ref(frame))
    }

    /// Takes room for a frame, if there is any. What a callback sends is never refused for lack of it.
    fn enter(&mut self, own: bool, frame: &Frame) -> bool {
        let cost = cost(frame);
        if own {
            self.frames.used += cost;
        }
        own || self.frames.try_enter(cost)
    }
}

/// Reaches one client, from any task. Cheap to clone.
///
/// A client's own handle (from `start_with`, `run_with`) is for use inside its callbacks: there nothing waits for a
/// connection or for room, and it does not keep a disconnected client alive. Its clones are own handles too.
pub struct Handle<I = ()> {
    shared: Arc<Shared<I>>,
    own: bool,
}

impl<I> Clone for Handle<I> {
    fn clone(&self) -> Self {
        Self::new(self.shared.clone(), self.own)
    }
}

impl<I> Drop for Handle<I> {
    fn drop(&mut self) {
        self.give_up();
    }
}

impl<I> fmt::Debug for Handle<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handle").field("own", &self.own).field("state", &self.shared.lock().state).finish()
    }
}

/// Why an info was not accepted. It gives the info back.
#[derive(Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum InfoError<I> {
    /// As many wait as are allowed.
    Full(I),
    /// The client has ended.
    Stopped(I),
}

impl<I> InfoError<I> {
    /// The info.
    pub fn into_info(self) -> I {
        match self {
            Self::Full(info) | Self::Stopped(info) => info,
        }
    }
}

impl<I> fmt::Display for InfoError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "the info queue is full",
            Self::Stopped(_) => "the client has ended",
        })
    }
}

impl<I> fmt::Debug for InfoError<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Full(_) => "Full(..)",
            Self::Stopped(_) => "Stopped(..)",
        })
    }
}

impl<I> std::error::Error for InfoError<I> {}

impl<I> Handle<I> {
    pub(super) fn shared(&self) -> &Arc<Shared<I>> {
        &self.shared
    }

    pub(super) fn new(shared: Arc<Shared<I>>, own: bool) -> Self {
        if !own {
            shared.handles.fetch_add(1, Ordering::SeqCst);
        }
        Self { shared, own }
    }

    /// From now on it keeps no disconnected client alive.
    pub(super) fn give_up(&mut self) {
        if !mem::replace(&mut self.own, true) && self.shared.handles.fetch_sub(1, Ordering::SeqCst) == 1 {
            self.shared.notify();
        }
    }

    /// Sends a frame, and waits until the operating system has all of it.
    ///
    /// While connecting it waits for the connection.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped while it waits for room, it gives up its place and nothing is sent; dropped later, the frame
    /// is sent whole all the same. The frame does not come back from a future that is dropped.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; it gives the frame back unless its encoding had begun.
    pub async fn send_frame(&self, frame: Frame) -> Result<(), SendError> {
        let ticket = self.accept(frame, true).await?;
        Outcome { shared: &self.shared, ticket, flush: false }.wait().await
    }

    /// Accepts a frame once there is room, without waiting for it to be written.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before it returns, it gives up its place and nothing is sent.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; it gives the frame back.
    pub fn feed_frame(&self, frame: Frame) -> impl Future<Output = Result<(), SendError>> + use<'_, I> {
        Feed { handle: self, frame: Some(frame), wait: |frame| self.accept(frame, false), waiting: None }
    }

    /// Accepts a frame that nobody waits for, if there is nothing to wait for, to refuse, or to come behind; else it comes back.
    #[inline(always)]
    fn accept_now(&self, frame: Frame) -> Option<Frame> {
        let mut inner = self.shared.lock();
        if inner.enters_now(self.own, (&frame).into()) {
            if Fed::is_small((&frame).into()) {
                inner.fed.push_copy((&frame).into());
                self.shared.tell(inner);
                drop(frame); // unlocked: dropping a payload of the user's own may do anything
            } else {
                inner.fed.push(frame);
                self.shared.tell(inner);
            }
            return None;
        }
        Some(frame)
    }

    /// [`feed_frame`](Self::feed_frame) for a payload that somebody else holds, a buffer that is used again, say: it is copied,
    /// which costs less than to share it for up to 1 KiB.
    ///
    /// # Cancel safety
    ///
    /// As [`feed_frame`](Self::feed_frame).
    ///
    /// # Errors
    ///
    /// See [`SendError`]; it has a copy of the frame.
    #[inline]
    pub async fn feed_ref(&self, frame: FrameRef<'_>) -> Result<(), SendError> {
        if self.accept_small(frame) { Ok(()) } else { self.feed_frame(frame.to_frame()).await }
    }

    /// As `accept_now`, a small message.
    #[inline(always)]
    fn accept_small(&self, frame: FrameRef<'_>) -> bool {
        let mut inner = self.shared.lock();
        let accepted = Fed::is_small(frame) && inner.enters_now(self.own, frame);
        if accepted {
            inner.fed.push_copy(frame);
            self.shared.tell(inner);
        }
        accepted
    }

    /// [`feed_ref`](Self::feed_ref) for many at once, in their order: for small messages from other tasks, the cheapest way.
    ///
    /// As many as there is room for are accepted together; for the next of them it waits, as `feed_ref` does. Those that were
    /// accepted are taken off the front of `frames`.
    ///
    /// ```
    /// # use parley_proto::codec::FrameRef;
    /// # use parley_proto::driver::Handle;
    /// # use parley_proto::SendError;
    /// async fn quotes(client: &Handle, prices: &[String]) -> Result<(), SendError> {
    ///     let frames: Vec<_> = prices.iter().map(|price| FrameRef::text(price)).collect();
    ///     client.feed_all(&mut &frames[..]).await?;
    ///     client.flush().await
    /// }
    /// ```
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before it returns, what is left in `frames` was not accepted.
    ///
    /// # Errors
    ///
    /// See [`SendError`]; it has a copy of the first that was not accepted, which is the first of `frames` as well.
    pub async fn feed_all(&self, frames: &mut &[FrameRef<'_>]) -> Result<(), SendError> {
        loop {
            self.accept_first(frames);
            let [first, behind @ ..] = *frames else { return Ok(()) };
            self.feed_frame(first.to_frame()).await?;
            *frames = behind;
        }
    }

    /// [`accept_small`](Self::accept_small) for as many as it would accept.
    fn accept_first(&self, frames: &mut &[FrameRef<'_>]) {
        let before = frames.len();
        let mut inner = self.shared.lock();
        while let [first, behind @ ..] = *frames {
            if !(Fed::is_small(*first) && inner.enters_now(self.own, *first)) {
                break;
            }
            inner.fed.push_copy(*first);
            *frames = behind;
        }
        if frames.len() < before {
            self.shared.tell(inner);
        }
    }

    /// Accepts a frame now, or never.
    ///
    /// # Errors
    ///
    /// `Full`, `Disconnected`, `Closing`, `Stopped`, `ControlTooLong`, each with the frame.
    pub fn try_send_frame(&self, frame: Frame) -> Result<(), SendError> {
        let Some(frame) = self.accept_now(frame) else { return Ok(()) };
        let mut inner = self.shared.lock();
        if let Some(refusal) = inner.refusal(self.own, (&frame).into()) {
            return Err(refusal(frame));
        }
        if !inner.enter(self.own, &frame) {
            return Err(SendError::Full(frame));
        }
        self.shared.put(inner, Command::Send { frame, ticket: None, own: self.own });
        Ok(())
    }

    /// Waits until all that was accepted before has been taken by the operating system.
    ///
    /// Through the client's own handle it does not wait for a connection, nor for what waits for one. Between the parts of a
    /// message of one's own it is [`MessageWriter::flush`] that is wanted: this one waits for what waits for its end, too.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped, it leaves nothing behind, and what was accepted is sent all the same.
    ///
    /// # Errors
    ///
    /// [`SendError::Lost`] when a connection ended before, or closed, and what was accepted for it was dropped.
    pub async fn flush(&self) -> Result<(), SendError> {
        let ticket = {
            let mut inner = self.shared.lock();
            if inner.stopped().is_some() {
                return Err(SendError::Lost(inner.lost()));
            }
            let ticket = inner.slots.insert(Slot::Waiting(None));
            self.shared.put(inner, Command::Flush { ticket, own: self.own });
            ticket
        };
        Outcome { shared: &self.shared, ticket, flush: true }.wait().await
    }

    /// Waits for room and accepts the frame. The ticket means something only if `settled`.
    async fn accept(&self, frame: Frame, settled: bool) -> Result<Ticket, SendError> {
        let cost = cost(&frame);
        let mut entry = Entry { shared: &self.shared, place: None, gate: |inner| &mut inner.frames };
        let mut frame = Some(frame);
        let mut epoch = None;
        poll_fn(|cx| {
            let mut inner = self.shared.lock();
            let Some(waiting) = frame.take() else { return Poll::Pending }; // polled again after the end
            if inner.stopped().is_none() && *epoch.get_or_insert(inner.epoch) != inner.epoch {
                return Poll::Ready(Err(SendError::Disconnected(waiting)));
            }
            if let Some(refusal) = inner.refusal(self.own, (&waiting).into()) {
                return Poll::Ready(Err(refusal(waiting))); // the place is given up on drop
            }
            let mut next = None;
            if self.own {
                inner.frames.used += cost;
            } else {
                match inner.frames.poll_enter(&mut entry.place, cost, cx) {
                    Poll::Ready(first) => next = first,
                    Poll::Pending => {
                        frame = Some(waiting);
                        return Poll::Pending;
                    }
                }
            }
            let ticket = settled.then(|| inner.slots.insert(Slot::Waiting(None)));
            if ticket.is_none() && !self.own && inner.commands.is_empty() {
                // As `accept_now`: what comes behind it need not be a command either.
                inner.fed.push(waiting);
                self.shared.tell(inner);
            } else {
                self.shared.put(inner, Command::Send { frame: waiting, ticket, own: self.own });
            }
            wake(next);
            Poll::Ready(Ok(ticket.unwrap_or(usize::MAX)))
        })
        .await
    }

    /// Sends an info to the handler's `handle_info`, once there is room.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: dropped before it returns, it gives up its place and nothing is sent.
    ///
    /// # Errors
    ///
    /// `Stopped` with the info; through the client's own handle also `Full`.
    pub async fn send_info(&self, info: I) -> Result<(), InfoError<I>> {
        if self.own {
            return self.try_send_info(info);
        }
        let mut entry = Entry { shared: &self.shared, place: None, gate: |inner| &mut inner.seldom().infos };
        let mut info = Some(info);
        poll_fn(|cx| {
            let mut inner = self.shared.lock();
            let Some(waiting) = info.take() else { return Poll::Pending };
            if inner.stopped().is_some() {
                return Poll::Ready(Err(InfoError::Stopped(waiting)));
            }
            let Poll::Ready(next) = inner.seldom().infos.poll_enter(&mut entry.place, 1, cx) else {
                info = Some(waiting);
                return Poll::Pending;
            };
            self.shared.put(inner, Command::Info(waiting));
            wake(next);
            Poll::Ready(Ok(()))
        })
        .await
    }

    /// Sends an info now, or not.
    ///
    /// # Errors
    ///
    /// `Full` or `Stopped`, with the info.
    pub fn try_send_info(&self, info: I) -> Result<(), InfoError<I>> {
        let mut inner = self.shared.lock();
        if inner.stopped().is_some() {
            return Err(InfoError::Stopped(info));
        }
        if !inner.seldom().infos.try_enter(1) {
            return Err(InfoError::Full(info));
        }
        self.shared.put(inner, Command::Info(info));
        Ok(())
    }

    /// Sends an info to `handle_info` after `delay`; it counts to the queue of infos until it is delivered. Disconnected
    /// or not, it comes, unless the client ends before.
    ///
    /// # Errors
    ///
    /// `Full` or `Stopped`, with the info.
    pub fn send_info_after(&self, delay: Duration, info: I) -> Result<TimerId, InfoError<I>> {
        let mut inner = self.shared.lock();
        if inner.stopped().is_some() {
            return Err(InfoError::Stopped(info));
        }
        if !inner.seldom().infos.try_enter(1) {
            return Err(InfoError::Full(info));
        }
        let timers = &mut inner.seldom().timers;
        *timers += 1;
        let id = TimerId(*timers);
        self.shared.put(inner, Command::InfoAfter { id, delay, info });
        Ok(id)
    }

    /// Forgets a delayed info, if its time has not come yet.
    pub fn cancel(&self, id: TimerId) {
        self.command(Command::Cancel(id));
    }

    /// Begins an attempt now, and skips the delay before one; while a connection is closing, one follows it. Nothing to
    /// do while connecting or connected. Resolves when accepted; [`wait_for`](Self::wait_for)`(Connected)` waits for more.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn connect(&self) {
        self.command(Command::Connect);
    }

    /// Closes the connection with this, behind all that was accepted before, or abandons the attempt under way, and
    /// dials again, unless `handle_disconnect` decides otherwise. While disconnected it is [`connect`](Self::connect).
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn reconnect(&self, close: CloseFrame) {
        self.command(Command::Reconnect(close));
    }

    /// Closes the connection with 1000 behind all that was accepted before, or abandons the attempt under way; the
    /// client lives on, disconnected. Idempotent. Resolves when accepted;
    /// [`wait_for`](Self::wait_for)`(Disconnected)` waits for more.
    ///
    /// A name look-up that is under way in the operating system cannot be stopped, only ignored. While `init` runs, it is
    /// the first attempt that does not begin.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn disconnect(&self) {
        self.disconnect_with(CloseFrame::normal()).await;
    }

    /// [`disconnect`](Self::disconnect) with a code and reason of the caller's.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn disconnect_with(&self, close: CloseFrame) {
        self.command(Command::Disconnect(close));
    }

    /// Closes the connection with 1000 behind all that was accepted before, then ends the client, without
    /// `handle_disconnect`. Resolves when accepted; `join` waits for the end.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn stop(&self) {
        self.stop_with(CloseFrame::normal()).await;
    }

    /// [`stop`](Self::stop) with a code and reason of the caller's.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: accepted at the first poll, it never waits. A future that was never polled asks for nothing.
    pub async fn stop_with(&self, close: CloseFrame) {
        self.command(Command::Stop(close));
    }

    /// [`stop_with`](Self::stop_with), which never waits.
    pub(super) fn ask_to_stop(&self, close: CloseFrame) {
        self.command(Command::Stop(close));
    }

    fn command(&self, command: Command<I, Ticket>) {
        let mut inner = self.shared.lock();
        if inner.commands.back().is_some_and(|last| command.repeats(last)) {
            return; // else a task that goes on asking grows the queue while a callback keeps the driver
        }
        if inner.stopped().is_none() {
            // Nothing is accepted behind a close, though the driver has not seen it yet. What it does to a client in
            // these states changes what is published, which puts this right.
            inner.closing |=
                command.closes() && matches!(inner.state, ClientState::Connecting | ClientState::Connected);
            inner.commands.push_back(command);
            drop(inner);
            self.shared.notify();
        }
    }

    /// The client's numbers, as plain ones.
    #[must_use]
    pub fn stats(&self) -> Stats {
        self.shared.numbers()
    }

    /// The client's state at this moment.
    #[must_use]
    pub fn state(&self) -> ClientState {
        self.shared.lock().state
    }

    /// Waits until the client is in `state`. A state that came and went between two looks is missed.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: it changes nothing.
    ///
    /// # Errors
    ///
    /// Why the client ended, when it can never be in that state again.
    pub async fn wait_for(&self, state: ClientState) -> Result<(), StopReason> {
        self.shared
            .watch(|inner| match inner.stopped() {
                _ if inner.state == state => Some(Ok(())),
                Some(reason) => Some(Err(reason.clone())),
                None => None,
            })
            .await
    }

    /// Waits until `init` has run.
    pub(super) async fn wait_started(&self) -> Result<(), StopReason> {
        self.shared
            .watch(|inner| match inner.stopped() {
                _ if inner.started => Some(Ok(())),
                Some(reason) => Some(Err(reason.clone())),
                None => None,
            })
            .await
    }
}

impl<I> Shared<I> {
    /// Looks at `inner` now and after every change of state.
    async fn watch<R>(&self, look: impl Fn(&Inner<I>) -> Option<R>) -> R {
        let mut watcher = Watcher { shared: self, key: None };
        poll_fn(|cx| {
            let mut inner = self.lock();
            if let Some(found) = look(&inner) {
                return Poll::Ready(found);
            }
            let watchers = inner.watchers.get_or_insert_default();
            match watcher.key.and_then(|key| watchers.get_mut(key)) {
                Some(waker) => waker.clone_from(cx.waker()),
                None => watcher.key = Some(watchers.insert(cx.waker().clone())),
            }
            Poll::Pending
        })
        .await
    }
}

/// A task that waits for a state, forgotten on drop.
struct Watcher<'a, I> {
    shared: &'a Shared<I>,
    key: Option<usize>,
}

impl<I> Drop for Watcher<'_, I> {
    fn drop(&mut self) {
        if let Some(key) = self.key {
            let mut inner = self.shared.lock();
            inner.watchers.as_mut().and_then(|watchers| watchers.try_remove(key));
            inner.watchers.take_if(|watchers| watchers.is_empty());
        }
    }
}

/// A place in a gate's queue, given up on drop.
struct Entry<'a, I> {
    shared: &'a Shared<I>,
    place: Option<u64>,
    gate: fn(&mut Inner<I>) -> &mut Gate,
}

impl<I> Drop for Entry<'_, I> {
    fn drop(&mut self) {
        if self.place.is_some() {
            let next = (self.gate)(&mut self.shared.lock()).leave(&mut self.place);
            wake(next);
        }
    }
}

/// A frame that is fed. Inlined into who waits, lest the usual frame come to the queue by way of memory; all else is behind one
/// call.
struct Feed<'a, I, W, F> {
    handle: &'a Handle<I>,
    frame: Option<Frame>,
    wait: W,
    /// For a frame that could not be accepted at once.
    waiting: Option<Pin<Box<F>>>,
}

impl<I, W, F> Future for Feed<'_, I, W, F>
where
    W: Fn(Frame) -> F + Unpin,
    F: Future<Output = Result<Ticket, SendError>>,
{
    type Output = Result<(), SendError>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let feed = self.get_mut();
        match feed.frame.take() {
            None => feed.poll_waiting(cx, None),
            Some(frame) => match feed.handle.accept_now(frame) {
                None => Poll::Ready(Ok(())),
                refused => feed.poll_waiting(cx, refused),
            },
        }
    }
}

impl<I, W, F> Feed<'_, I, W, F>
where
    W: Fn(Frame) -> F,
    F: Future<Output = Result<Ticket, SendError>>,
{
    #[inline(never)]
    fn poll_waiting(&mut self, cx: &mut Context<'_>, frame: Option<Frame>) -> Poll<Result<(), SendError>> {
        if let Some(frame) = frame {
            self.waiting = Some(Box::pin((self.wait)(frame)));
        }
        let Some(waiting) = &mut self.waiting else { return Poll::Pending }; // polled again after the end
        waiting.as_mut().poll(cx).map_ok(drop)
    }
}

/// A waiting send or flush. Dropped, a send goes on, and its slot is freed when the outcome comes; a flush is taken back.
struct Outcome<'a, I> {
    shared: &'a Shared<I>,
    ticket: Ticket,
    flush: bool,
}

impl<I> Outcome<'_, I> {
    async fn wait(self) -> Result<(), SendError> {
        poll_fn(|cx| {
            let mut inner = self.shared.lock();
            let Some(slot) = inner.slots.get_mut(self.ticket) else { return Poll::Pending };
            match mem::replace(slot, Slot::Waiting(Some(cx.waker().clone()))) {
                Slot::Settled(outcome) => {
                    *slot = Slot::Settled(Ok(())); // removed by drop
                    Poll::Ready(outcome)
                }
                _ => Poll::Pending,
            }
        })
        .await
    }
}

impl<I> Drop for Outcome<'_, I> {
    fn drop(&mut self) {
        let mut inner = self.shared.lock();
        let tell = inner.abandon(self.ticket, self.flush);
        drop(inner);
        if tell {
            self.shared.notify();
        }
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::sync::Weak;
    use std::task::Wake;

    use super::*;

    fn poll<F: Future>(future: Pin<&mut F>, waker: &Waker) -> Poll<F::Output> {
        future.poll(&mut Context::from_waker(waker))
    }

    /// What was fed, and the commands behind that.
    fn take(shared: &Shared<()>) -> (Vec<Frame>, VecDeque<Command<(), Ticket>>) {
        let mut taken = None;
        shared.take(&mut taken);
        let Taken { mut fed, mut commands } = taken.map_or_else(Taken::default, |taken| *taken);
        (fed.take(), commands.take())
    }

    #[test]
    fn a_wait_for_a_state_that_is_given_up_is_forgotten() {
        let shared: Arc<Shared<()>> = Shared::new(&Limits::client());
        let handle = Handle::new(shared.clone(), false);
        let waits = || shared.lock().watchers.as_ref().map_or(0, |watchers| watchers.len());
        {
            let mut connected = pin!(handle.wait_for(ClientState::Connected));
            let mut connecting = pin!(handle.wait_for(ClientState::Connecting));
            for _ in 0..3 {
                assert!(poll(connected.as_mut(), Waker::noop()).is_pending());
                assert!(poll(connecting.as_mut(), Waker::noop()).is_pending());
            }
            assert_eq!(waits(), 2, "one each, however often they are polled");
            shared.publish(ClientState::Connecting, false);
            assert_eq!(poll(connecting.as_mut(), Waker::noop()).map(|outcome| outcome.is_ok()), Poll::Ready(true));
            assert!(poll(connected.as_mut(), Waker::noop()).is_pending(), "this one waits on");
        }
        assert_eq!(waits(), 0);
        shared.end(StopReason::Stopped, []);
        assert_eq!(waits(), 0);
    }

    /// Notes whether the lock was free when it was woken.
    struct Looks {
        shared: Weak<Shared<()>>,
        woken: Mutex<Vec<bool>>,
    }

    impl Wake for Looks {
        fn wake(self: Arc<Self>) {
            let free = self.shared.upgrade().is_some_and(|shared| shared.inner.try_lock().is_ok());
            self.woken.lock().unwrap_or_else(PoisonError::into_inner).push(free);
        }
    }

    #[test]
    fn a_flush_that_is_given_up_leaves_nothing_behind() {
        let shared: Arc<Shared<()>> = Shared::new(&Limits::client());
        let handle = Handle::new(shared.clone(), false);
        let slots = || shared.lock().slots.tickets().len();
        for _ in 0..100 {
            // The driver has not seen it,
            assert!(poll(pin!(handle.flush()), Waker::noop()).is_pending());
            assert_eq!((slots(), shared.lock().commands.len()), (0, 0));
            // or has, and is told to forget it.
            {
                let mut flush = pin!(handle.flush());
                assert!(poll(flush.as_mut(), Waker::noop()).is_pending());
                assert!(matches!(take(&shared).1.pop_front(), Some(Command::Flush { .. })));
                assert_eq!(slots(), 1);
            }
            let mut seen = take(&shared).1;
            let Some(Command::Forget(ticket)) = seen.pop_front() else { panic!("nothing to forget") };
            shared.settle(ticket, Ok(()));
            assert_eq!((slots(), seen.len()), (0, 0));
        }
        // One that is settled meanwhile.
        {
            let mut flush = pin!(handle.flush());
            assert!(poll(flush.as_mut(), Waker::noop()).is_pending());
            shared.settle(0, Ok(()));
        }
        assert_eq!(slots(), 0);
    }

    fn connected() -> Arc<Shared<()>> {
        let shared = Shared::new(&Limits::client());
        shared.publish(ClientState::Connected, false);
        shared
    }

    fn feed(handle: &Handle<()>, text: &'static str) {
        assert!(matches!(poll(pin!(handle.feed_frame(Frame::text(text))), Waker::noop()), Poll::Ready(Ok(()))));
    }

    #[test]
    fn what_is_fed_keeps_its_place_among_what_else_is_asked_for() {
        let shared = connected();
        let handle = Handle::new(shared.clone(), false);
        let own = Handle::new(shared.clone(), true);
        for _ in 0..2 {
            feed(&handle, "first");
            handle.try_send_frame(Frame::text("second")).unwrap();
            own.try_send_frame(Frame::text("third")).unwrap();
            feed(&handle, "fourth");
            handle.try_send_info(()).unwrap();
            handle.try_send_frame(Frame::text("fifth")).unwrap();
            let (fed, seen) = take(&shared);
            assert_eq!(fed, ["first", "second"].map(Frame::text));
            let behind: Vec<_> = seen
                .into_iter()
                .map(|command| match command {
                    Command::Send { frame, ticket: None, own } => Some((frame, own)),
                    Command::Info(()) => None,
                    other => panic!("{other:?}"),
                })
                .collect();
            let sent = |text, own| Some((Frame::text(text), own));
            assert_eq!(behind, [sent("third", true), sent("fourth", false), None, sent("fifth", false)]);
        }
    }

    #[test]
    fn what_waited_is_fed_as_what_did_not() {
        let payload = [7; 10];
        let frames = [FrameRef::binary(&payload); 100];
        let room = 10 * cost_ref(frames[0]);
        let shared = Shared::new(&Limits::client().with_send_queue(room).unwrap());
        shared.publish(ClientState::Connected, false);
        let handle = Handle::new(shared.clone(), false);
        let mut counts = Vec::new();
        let mut rest = &frames[..];
        let mut feed = pin!(handle.feed_all(&mut rest));
        while poll(feed.as_mut(), Waker::noop()).is_pending() {
            let (fed, commands) = take(&shared);
            counts.push((fed.len(), commands.len()));
            shared.release(room, 0, 0);
        }
        assert!(counts.iter().all(|(_, commands)| *commands == 0), "{counts:?}");
    }

    #[test]
    fn many_are_fed_as_far_as_there_is_room_and_on_in_their_order() {
        let payloads: Vec<Vec<u8>> = (0..9).map(|n| vec![n; [10, 2000, 100][usize::from(n) % 3]]).collect();
        let mut frames: Vec<FrameRef<'_>> = payloads.iter().map(|payload| FrameRef::binary(payload)).collect();
        frames.insert(5, FrameRef::ping(b"?"));
        let room = frames[..4].iter().map(|&frame| cost_ref(frame)).sum();
        let shared = Shared::new(&Limits::client().with_send_queue(room).unwrap());
        shared.publish(ClientState::Connected, false);
        let handle = Handle::new(shared.clone(), false);
        let taken = || {
            let (fed, commands) = take(&shared);
            let sent = commands.into_iter().filter_map(|command| match command {
                Command::Send { frame, .. } => Some(frame),
                _ => None,
            });
            fed.into_iter().chain(sent).collect::<Vec<Frame>>()
        };
        let (mut seen, mut turns) = (Vec::new(), 0);
        let mut rest = &frames[..];
        let mut feed = pin!(handle.feed_all(&mut rest));
        while poll(feed.as_mut(), Waker::noop()).is_pending() {
            let some = taken();
            assert!(!some.is_empty(), "it waits though there is room");
            shared.release(some.iter().map(cost).sum(), 0, 0);
            seen.extend(some);
            turns += 1;
        }
        seen.extend(taken());
        assert!(turns > 1 && frames.iter().copied().eq(seen.iter().map(FrameRef::from)), "{turns} turns");
        assert!(matches!(poll(pin!(handle.feed_all(&mut &[][..])), Waker::noop()), Poll::Ready(Ok(()))));
    }

    #[test]
    fn the_first_frame_that_is_fed_wakes_the_driver_and_no_other() {
        let shared = connected();
        let looks = Arc::new(Looks { shared: Arc::downgrade(&shared), woken: Mutex::default() });
        let waker = Waker::from(looks.clone());
        let handle = Handle::new(shared.clone(), false);
        for before in [0, 3, 3] {
            assert_eq!(take(&shared).0.len(), before);
            assert!(shared.sleep(&Context::from_waker(&waker), &mut None));
            feed(&handle, "first");
            feed(&handle, "second");
            feed(&handle, "third");
            assert_eq!(mem::take(&mut *looks.woken.lock().unwrap()), [true]);
        }
    }

    /// Its sender was stopped before it could say that it is there.
    #[test]
    fn what_was_fed_for_a_connection_is_seen_before_the_next() {
        let shared = connected();
        take(&shared);
        shared.lock().fed.push_copy(FrameRef::text("late"));
        assert!(!shared.is_dirty());
        shared.publish(ClientState::Disconnected, false);
        assert!(shared.is_dirty());
    }

    #[test]
    fn what_is_asked_for_again_and_again_is_queued_once() {
        let shared: Arc<Shared<()>> = Shared::new(&Limits::client());
        let handle = Handle::new(shared.clone(), false);
        let id = handle.send_info_after(Duration::from_secs(1), ()).unwrap();
        for _ in 0..100 {
            handle.cancel(id);
        }
        macro_rules! ask {
            ($($method:ident($($close:expr)?)),*) => {
                $(for _ in 0..100 {
                    assert!(poll(pin!(handle.$method($($close)?)), Waker::noop()).is_ready());
                })*
            };
        }
        ask!(disconnect(), connect(), reconnect(CloseFrame::going_away()), disconnect_with(CloseFrame::going_away()));
        handle.try_send_info(()).unwrap();
        ask!(disconnect(), stop(), stop_with(CloseFrame::going_away()));
        let seen = take(&shared).1;
        let kinds: Vec<_> = seen.iter().map(mem::discriminant).collect();
        assert_eq!(seen.len(), 9, "{seen:?}");
        assert!(kinds.windows(2).all(|two| two[0] != two[1]));
        assert!(matches!(&seen[8], Command::Stop(close) if u16::from(close.code()) == 1000), "the first one's Close");
    }

    /// The driver may be a long time in coming, kept by a callback.
    #[test]
    fn a_slow_one_that_skips_holds_one_frame_beside_its_queue() {
        let limits = Limits::client().with_send_queue(100).unwrap();
        let shared: Arc<Shared<()>> = Shared::new(&limits);
        shared.publish(ClientState::Connected, false);
        let from = shared.number();
        let frame = |text: &str| PreparedFrame::new(&Frame::text(text.to_owned())).unwrap();
        let mut wakers = Vec::new();
        let mut outcomes = Vec::new();
        for round in 0..10 {
            outcomes.push(shared.deliver(from, &frame(&format!("{round}")), &Slow::Skip, &mut wakers));
        }
        assert_eq!(outcomes.iter().filter(|outcome| matches!(outcome, Delivery::Queued)).count(), 3);
        let seen = take(&shared).1;
        let texts: Vec<_> = seen
            .iter()
            .map(|command| match command {
                Command::SendPrepared { frame, skips, .. } => (frame.to_frame(), *skips),
                other => panic!("{other:?}"),
            })
            .collect();
        let expected = [("0", None), ("1", None), ("9", Some(7))].map(|(text, skips)| (Frame::text(text), skips));
        assert_eq!(texts, expected);
        assert_eq!(shared.numbers().queued, 3 * 33);
        // The queue is full all the same: the next one is a skip of its own.
        shared.deliver(from, &frame("10"), &Slow::Skip, &mut wakers);
        let seen = take(&shared).1;
        assert!(matches!(seen.back(), Some(Command::SendPrepared { skips: Some(0), .. })));
        assert_eq!(shared.numbers().queued, 3 * 33 + 34, "until the driver has dropped what it skips");
    }

    #[test]
    fn no_waker_runs_under_the_lock() {
        let limits = Limits::client().with_send_queue(1).unwrap().with_info_queue(1).unwrap();
        let shared: Arc<Shared<()>> = Shared::new(&limits);
        let looks = Arc::new(Looks { shared: Arc::downgrade(&shared), woken: Mutex::default() });
        let waker = Waker::from(looks.clone());
        let taken = || mem::take(&mut *looks.woken.lock().unwrap_or_else(PoisonError::into_inner));
        let handle = Handle::new(shared.clone(), false);

        // The driver sleeps, and is woken by what comes in.
        take(&shared);
        assert!(shared.sleep(&Context::from_waker(&waker), &mut None));
        handle.try_send_info(()).unwrap();
        assert_eq!(taken(), [true]);

        // A change of state.
        let mut state = pin!(handle.wait_for(ClientState::Stopped));
        assert!(poll(state.as_mut(), &waker).is_pending());
        shared.publish(ClientState::Connected, false);
        assert_eq!(taken(), [true]);

        // A send that waits for its outcome, and two that wait for room, and one more that gives up.
        let mut sent = pin!(handle.send_frame(Frame::text("a")));
        assert!(poll(sent.as_mut(), &waker).is_pending());
        let (mut first, mut second) = (pin!(handle.feed_frame(Frame::text(""))), pin!(handle.send_info(())));
        assert!(poll(first.as_mut(), &waker).is_pending());
        assert!(poll(second.as_mut(), &waker).is_pending());
        shared.settle(0, Ok(()));
        assert_eq!(taken(), [true]);
        shared.release(usize::MAX, 0, 1);
        assert_eq!(taken(), [true, true]);
        {
            let mut given_up = pin!(handle.feed_frame(Frame::text("c")));
            assert!(poll(given_up.as_mut(), &waker).is_pending());
        }
        assert!(taken().iter().all(|&free| free));

        // The end.
        shared.end(StopReason::Stopped, []);
        let woken = taken();
        assert!(woken.len() >= 3 && woken.iter().all(|&free| free), "{woken:?}");
    }
}
