//! Which connections a server has, and what it tells them: to go away, or that they are gone.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use slab::Slab;

use crate::connection::deadline;

/// How long a connection may take for its request before another may take its place.
const PATIENCE: Duration = Duration::from_secs(1);

/// Whether one more request may be under way.
pub(super) enum Turn {
    Now,
    /// When one ends, or at this time.
    At(Option<Instant>),
    Never,
}

/// All connections of one server.
#[derive(Default)]
pub(super) struct Census {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    live: Slab<Arc<Signal>>,
    /// Those that have sent no request yet, and since when; the oldest first.
    reading: BTreeMap<u64, (Arc<Signal>, Instant)>,
    /// How many there have been.
    began: u64,
    /// Those whose request waits for the application.
    deciding: usize,
    /// Undecided ones that the application has brought: the bound is not theirs.
    brought: usize,
    /// Those that have given way, and such of them as are not gone yet.
    displaced: u64,
    going: usize,
    /// No more are admitted.
    leaving: bool,
    /// Those who wait for room, or for the last connection.
    waiting: Vec<Waker>,
}

/// What a connection is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Notice {
    Stay,
    /// Close with 1001.
    Leave,
    /// The time for that is over.
    Gone,
}

/// A connection as its server knows it.
struct Signal {
    census: Arc<Census>,
    /// Its place among those that live. Of 32 bits, which takes no room beside the notice.
    key: u32,
    notice: AtomicU8,
    waker: Mutex<Option<Waker>>,
}

impl Signal {
    fn tell(&self, notice: Notice) -> Option<Waker> {
        self.notice.store(notice as u8, Ordering::SeqCst);
        self.waker.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

fn wake(wakers: impl IntoIterator<Item = Waker>) {
    wakers.into_iter().for_each(Waker::wake);
}

impl Census {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing foreign runs under the lock.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more connection; `None` while leaving, and beyond 2^32 of them.
    pub(super) fn admit(self: &Arc<Self>) -> Option<Permit> {
        let mut inner = self.lock();
        if inner.leaving {
            return None;
        }
        let place = inner.live.vacant_entry();
        let (census, key) = (self.clone(), u32::try_from(place.key()).ok()?);
        let signal = Arc::new(Signal { census, key, notice: AtomicU8::new(0), waker: Mutex::new(None) });
        place.insert(signal.clone());
        drop(inner);
        Some(Permit { signal, known: None, undecided: None })
    }

    /// One more request that is under way, and then waits for the application's answer.
    pub(super) fn undecided(self: &Arc<Self>, now: Instant, permit: &Permit) -> Undecided {
        let mut inner = self.lock();
        inner.began += 1;
        let number = inner.began;
        inner.reading.insert(number, (permit.signal.clone(), now));
        Undecided { census: self.clone(), counts: Counts::Reading(number) }
    }

    /// The same for a stream that the application has brought: it takes nobody's place, and gives its own to nobody.
    pub(super) fn brought(self: &Arc<Self>) -> Undecided {
        self.lock().brought += 1;
        Undecided { census: self.clone(), counts: Counts::Brought }
    }

    /// Whether there may be one more: in the place of that which has been silent for longest, if need be.
    pub(super) fn turn(&self, cx: &Context<'_>, now: Instant, connections: usize, undecided: usize) -> Turn {
        let mut inner = self.lock();
        if inner.leaving {
            return Turn::Never;
        }
        let there_is_room = inner.live.len() < connections;
        if there_is_room && inner.undecided() < undecided {
            return Turn::Now;
        }
        let _ = inner.wait::<()>(cx);
        if inner.undecided() < undecided && inner.live.len().saturating_sub(inner.going) < connections {
            return Turn::At(None); // somebody is on the way out
        }
        let due = inner.reading.first_key_value().map(|(_, &(_, since))| deadline(since, PATIENCE));
        if due.is_none_or(|due| due > now) {
            return Turn::At(due);
        }
        let oldest = inner.reading.pop_first();
        inner.displaced += 1;
        inner.going += 1;
        drop(inner);
        wake(oldest.and_then(|(_, (signal, _))| signal.tell(Notice::Gone)));
        if there_is_room { Turn::Now } else { Turn::At(None) }
    }

    /// Whether no more are admitted.
    pub(super) fn is_leaving(&self) -> bool {
        self.lock().leaving
    }

    /// Ready once no more are admitted.
    pub(super) fn poll_leaving(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.leaving { Poll::Ready(()) } else { inner.wait(cx) }
    }

    /// Ready once there is no connection.
    pub(super) fn poll_empty(&self, cx: &Context<'_>) -> Poll<()> {
        let mut inner = self.lock();
        if inner.live.is_empty() { Poll::Ready(()) } else { inner.wait(cx) }
    }

    /// Admits no more.
    pub(super) fn close(&self) {
        let mut inner = self.lock();
        inner.leaving = true;
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        wake(waiting);
    }

    /// Tells all, and says how many they are.
    pub(super) fn tell(&self, notice: Notice) -> usize {
        let signals: Vec<_> = self.lock().live.iter().map(|(_, signal)| signal.clone()).collect();
        wake(signals.iter().filter_map(|signal| signal.tell(notice)));
        signals.len()
    }

    /// Connections that have given way to newer ones.
    pub(super) fn displaced(&self) -> u64 {
        self.lock().displaced
    }

    /// Connections, and how many of them are undecided.
    pub(super) fn count(&self) -> (usize, usize) {
        let inner = self.lock();
        (inner.live.len(), inner.undecided() + inner.brought)
    }

    fn leave(&self, change: impl FnOnce(&mut Inner)) {
        let mut inner = self.lock();
        change(&mut inner);
        let waiting = std::mem::take(&mut inner.waiting);
        drop(inner);
        wake(waiting);
    }
}

impl Inner {
    fn undecided(&self) -> usize {
        self.reading.len() + self.deciding
    }

    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        if !self.waiting.iter().any(|waker| waker.will_wake(cx.waker())) {
            self.waiting.push(cx.waker().clone());
        }
        Poll::Pending
    }
}

/// A connection's place in the census, for as long as it lives.
pub(super) struct Permit {
    signal: Arc<Signal>,
    known: Option<Waker>,
    /// Its request, while that is read. It stops to count first: whoever waits for the last connection finds no request. Boxed:
    /// the permit stays.
    pub(super) undecided: Option<Box<Undecided>>,
}

impl Permit {
    /// What the connection is told; its task is woken when that changes.
    pub(super) fn notice(&mut self, cx: &Context<'_>) -> Notice {
        if !self.known.as_ref().is_some_and(|known| known.will_wake(cx.waker())) {
            self.known = Some(cx.waker().clone());
            *self.signal.waker.lock().unwrap_or_else(PoisonError::into_inner) = Some(cx.waker().clone());
        }
        match self.signal.notice.load(Ordering::SeqCst) {
            0 => Notice::Stay,
            1 => Notice::Leave,
            _ => Notice::Gone,
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.undecided = None;
        let Signal { census, key, .. } = &*self.signal;
        census.leave(|inner| drop(inner.live.try_remove(*key as usize)));
    }
}

/// Counts a request for as long as it has no answer.
pub(super) struct Undecided {
    census: Arc<Census>,
    counts: Counts,
}

/// As what a request counts.
enum Counts {
    /// It is not there yet: by its number.
    Reading(u64),
    Deciding,
    Brought,
    /// It has given way.
    Nothing,
}

impl Undecided {
    /// The request is there: the connection gives way to no other.
    pub(super) fn read(&mut self) {
        let Counts::Reading(number) = self.counts else { return };
        let mut inner = self.census.lock();
        // One that has given way counts no more; it is told so at its next turn.
        self.counts = match inner.reading.remove(&number) {
            Some(_) => {
                inner.deciding += 1;
                Counts::Deciding
            }
            None => Counts::Nothing,
        };
    }
}

impl Drop for Undecided {
    fn drop(&mut self) {
        self.census.leave(|inner| match self.counts {
            Counts::Reading(number) => inner.going -= usize::from(inner.reading.remove(&number).is_none()),
            Counts::Deciding => inner.deciding -= 1,
            Counts::Brought => inner.brought -= 1,
            Counts::Nothing => inner.going -= 1,
        });
    }
}
