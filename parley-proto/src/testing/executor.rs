//! Tasks, the clock, and the journal.
//!
//! The epoch is the one moment of the real clock that is ever read here: an `Instant` comes from nowhere else. All later
//! ones are counted from it.
//!
//! ```text
//! step   a task is ready      ─▶ poll it
//!        else somebody settles ─▶ wake them, at the same time
//!        else a sleep is due   ─▶ move the clock to the earliest
//!        else                  ─▶ nothing can happen any more
//! ```

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::future::{Future, poll_fn};
use std::mem;
use std::panic::Location;
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::lock;
use super::net::Net;
use super::platform::Running as Entered;
use crate::driver::Clock;

/// Polls without time passing, after which a task is taken to spin.
const SPIN: usize = 1_000_000;
/// So long a test may wait, in virtual time, without a sleep or an event of its own: keepalive would go on for ever.
const PATIENCE: Duration = Duration::from_secs(7 * 24 * 3600);
/// And in so many steps at least: one far timer is no keepalive.
const PATIENT_STEPS: u32 = 10_000;
/// The future of [`Sim::run`], which is not among the tasks.
const MAIN: usize = usize::MAX;
/// Lines of the journal in the message of a panic.
const LAST_LINES: usize = 60;

/// A world of its own: one thread of tasks, a virtual clock, a network in memory, a journal. Clones are the same world.
///
/// Time stands still while any task has something to do, and jumps to the next timer when none has. So an hour costs
/// what happens in it, and the same test does the same things at the same times, always. See the [module](super).
#[derive(Clone)]
pub struct Sim(Arc<World>);

struct World {
    epoch: Instant,
    inner: Mutex<Inner>,
    ready: Arc<Mutex<VecDeque<usize>>>,
    net: Mutex<Net>,
}

#[derive(Default)]
struct Inner {
    elapsed: Duration,
    /// Until when somebody is asleep who wants to be, or when somebody last had what it waited for.
    content: Duration,
    /// How often the clock has moved since.
    moves: u32,
    tasks: Vec<Option<Running>>,
    sleeps: BTreeMap<(Instant, u64), Waker>,
    /// Who waits until nothing else can happen, and whether that is so.
    settlers: Vec<(Waker, Arc<AtomicBool>)>,
    watchers: Vec<Waker>,
    /// Who waits for what, for the message of a panic.
    waits: BTreeMap<u64, String>,
    next: u64,
    polls: usize,
    steps: u64,
    journal: Vec<(Duration, String)>,
}

struct Running {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    ready: Arc<Ready>,
    waker: Waker,
    origin: Origin,
}

/// Who spawned a task.
#[derive(Clone, Copy)]
enum Origin {
    Test(&'static Location<'static>),
    /// A client, a server, a scripted peer.
    Library,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Test(at) => write!(f, "the task that was spawned at {at}"),
            Self::Library => f.write_str("a task of a client, server or peer"),
        }
    }
}

struct Ready {
    id: usize,
    queued: AtomicBool,
    queue: Arc<Mutex<VecDeque<usize>>>,
}

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.wake_by_ref();
    }

    fn wake_by_ref(self: &Arc<Self>) {
        if !self.queued.swap(true, Ordering::SeqCst) {
            lock(&self.queue).push_back(self.id);
        }
    }
}

impl Default for Sim {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Sim").field("elapsed", &self.elapsed()).finish_non_exhaustive()
    }
}

impl Sim {
    /// An empty world, at the time 0.
    #[must_use]
    pub fn new() -> Self {
        Self(Arc::new(World {
            epoch: Instant::now(),
            inner: Mutex::default(),
            ready: Arc::default(),
            net: Mutex::default(),
        }))
    }

    /// Runs the world until this future is ready, then drops what still runs: clients, servers, tasks, peers.
    ///
    /// Clients and servers live in here alone: a builder outside of it is told that there is no runtime.
    ///
    /// # Panics
    ///
    /// If nothing can happen any more, although the future is not ready: the message says who waits, for what, and what
    /// happened last. If all that happens for a week of virtual time is the like of keepalive: while nobody
    /// [sleeps](Self::sleep), and nothing arrives that somebody waits for at a [`Peer`](super::Peer) or a
    /// [`Listener`](super::Listener). If a task is polled a million times without time passing. And with what a task panics with; but
    /// a panic in a handler's callback ends its client, and is in what [`join`](crate::driver::Client::join) returns.
    pub fn run<T>(&self, main: impl AsyncFnOnce(Self) -> T) -> T {
        let _entered = Entered::enter(self);
        let ready = Arc::new(Ready { id: MAIN, queued: AtomicBool::new(false), queue: self.0.ready.clone() });
        ready.wake_by_ref();
        let waker = Waker::from(ready.clone());
        let mut main = pin!(main(self.clone()));
        let outcome = loop {
            match self.pop() {
                Some(MAIN) => {
                    ready.queued.store(false, Ordering::SeqCst);
                    self.count_poll("the test's own future");
                    if let Poll::Ready(outcome) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        break outcome;
                    }
                }
                Some(id) => self.poll_task(id),
                None => {
                    assert!(self.pass_time(), "nothing can happen any more, {}", self.report());
                    assert!(self.is_in_time(), "a week of waiting, and no end: {}", self.report());
                }
            }
        };
        self.clear();
        outcome
    }

    /// Polls one task, or lets time pass to the next timer: for those who want to look in between, in place of
    /// [`run`](Self::run). False: nothing can happen any more.
    ///
    /// # Panics
    ///
    /// As the task does; if it spins.
    pub fn step(&self) -> bool {
        let _entered = Entered::enter(self);
        match self.pop() {
            Some(id) => {
                self.poll_task(id);
                true
            }
            None => self.pass_time(),
        }
    }

    /// The task that is next.
    fn pop(&self) -> Option<usize> {
        lock(&self.0.ready).pop_front()
    }

    fn poll_task(&self, id: usize) {
        let running = lock(&self.0.inner).tasks.get_mut(id).and_then(Option::take);
        let Some(mut running) = running else { return }; // finished, or cancelled
        running.ready.queued.store(false, Ordering::SeqCst);
        self.count_poll(running.origin);
        let waker = running.waker.clone();
        if running.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            && let Some(slot) = lock(&self.0.inner).tasks.get_mut(id)
        {
            *slot = Some(running);
        }
    }

    fn count_poll(&self, who: impl fmt::Display) {
        let spins = {
            let mut inner = lock(&self.0.inner);
            inner.polls += 1;
            inner.steps += 1;
            inner.polls > SPIN
        };
        assert!(!spins, "{who} spins: {SPIN} polls in no time, {}", self.report());
    }

    fn is_in_time(&self) -> bool {
        let inner = lock(&self.0.inner);
        inner.elapsed <= inner.content.saturating_add(PATIENCE) || inner.moves < PATIENT_STEPS
    }

    /// What a test that hangs is told.
    fn report(&self) -> String {
        let mut report = format!("at {:?} of virtual time", self.elapsed());
        {
            let inner = lock(&self.0.inner);
            let tasks = inner.tasks.iter().flatten();
            let tests = tasks.filter(|task| matches!(task.origin, Origin::Test(_)));
            let tasks = tests.map(|task| format!("{} has not ended", task.origin));
            for line in inner.waits.values().cloned().chain(tasks) {
                report += &format!("\n  {line}");
            }
        }
        let journal = self.journal();
        report += "\nthe journal's last lines:";
        for line in &journal[journal.len().saturating_sub(LAST_LINES)..] {
            report += &format!("\n  {line}");
        }
        report
    }

    /// All tasks wait: those who wait for just that go on, else the clock does.
    fn pass_time(&self) -> bool {
        let woken: Vec<Waker> = {
            let mut inner = lock(&self.0.inner);
            if !inner.settlers.is_empty() {
                let settled = mem::take(&mut inner.settlers).into_iter();
                settled.inspect(|(_, settled)| settled.store(true, Ordering::SeqCst)).map(|(waker, _)| waker).collect()
            } else if let Some((&(at, _), _)) = inner.sleeps.first_key_value() {
                inner.elapsed = inner.elapsed.max(at.saturating_duration_since(self.0.epoch));
                inner.polls = 0;
                inner.moves = if inner.elapsed <= inner.content { 0 } else { inner.moves.saturating_add(1) };
                let later = inner.sleeps.split_off(&(at + Duration::from_nanos(1), 0));
                mem::replace(&mut inner.sleeps, later).into_values().collect()
            } else {
                return false;
            }
        };
        woken.into_iter().for_each(Waker::wake);
        true
    }

    /// Runs a future beside the others. What it panics with, the test panics with.
    #[track_caller]
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        self.spawn_as(Origin::Test(Location::caller()), future)
    }

    /// Runs a future of the library beside the others.
    pub(super) fn spawn_own(&self, future: impl Future<Output = ()> + Send + 'static) {
        drop(self.spawn_as(Origin::Library, future));
    }

    fn spawn_as<T: Send + 'static>(&self, origin: Origin, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
        let slot = Arc::new(Mutex::new(Slot { outcome: None, waker: None }));
        let of_task = slot.clone();
        let future = async move {
            let outcome = future.await;
            let waker = {
                let mut slot = lock(&of_task);
                slot.outcome = Some(outcome);
                slot.waker.take()
            };
            waker.into_iter().for_each(Waker::wake);
        };
        let mut inner = lock(&self.0.inner);
        let id = inner.tasks.len();
        let ready = Arc::new(Ready { id, queued: AtomicBool::new(false), queue: self.0.ready.clone() });
        ready.wake_by_ref();
        let waker = ready.clone().into();
        inner.tasks.push(Some(Running { future: Box::pin(future), ready, waker, origin }));
        Task { sim: self.clone(), id, slot }
    }

    /// The present moment of the virtual clock.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.epoch + self.elapsed()
    }

    /// The clock goes on by so much at once, as after a computer's sleep: timers that end meanwhile are late.
    pub fn jump(&self, by: Duration) {
        let mut inner = lock(&self.0.inner);
        inner.elapsed += by;
        inner.content = inner.content.max(inner.elapsed);
    }

    /// Polls of tasks so far: what a test looks at that asserts how little happens.
    #[must_use]
    pub fn steps(&self) -> u64 {
        lock(&self.0.inner).steps
    }

    /// Timers that somebody waits for.
    #[must_use]
    pub fn sleeping(&self) -> usize {
        lock(&self.0.inner).sleeps.len()
    }

    /// Drops all tasks that still run.
    pub fn clear(&self) {
        let _entered = Entered::enter(self); // what is dropped may still spawn
        let tasks = mem::take(&mut lock(&self.0.inner).tasks);
        drop(tasks);
    }

    /// Tasks that have not ended; each client, server and connection has one or more of its own.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.0.inner).tasks.iter().flatten().count()
    }

    /// How long the world has been running, in virtual time.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        lock(&self.0.inner).elapsed
    }

    /// Waits for virtual time to pass.
    pub async fn sleep(&self, duration: Duration) {
        let until = {
            let mut inner = lock(&self.0.inner);
            let until = inner.elapsed + duration;
            inner.content = inner.content.max(until);
            self.0.epoch + until
        };
        let mut clock = self.clock();
        poll_fn(|cx| clock.poll_sleep(cx, until)).await;
    }

    /// Waits until nothing else can happen without time passing: whatever was sent has arrived (on a link without
    /// latency), and every callback that could run has run.
    pub async fn settle(&self) {
        let settled = Arc::new(AtomicBool::new(false));
        let mut registered = false;
        poll_fn(|cx| {
            if !mem::replace(&mut registered, true) {
                lock(&self.0.inner).settlers.push((cx.waker().clone(), settled.clone()));
            } else if settled.load(Ordering::SeqCst) {
                return Poll::Ready(());
            }
            Poll::Pending // woken for what it waited for before
        })
        .await;
    }

    /// Writes a line into the journal, for [`noted`](Self::noted) and [`journal`](Self::journal): a handler that is to be
    /// looked into can have a clone of the world.
    pub fn note(&self, line: impl Into<String>) {
        let watchers = {
            let mut inner = lock(&self.0.inner);
            let elapsed = inner.elapsed;
            inner.journal.push((elapsed, line.into()));
            mem::take(&mut inner.watchers)
        };
        watchers.into_iter().for_each(Waker::wake);
    }

    /// All that happened, each line with its time in milliseconds. What the network saw begins with `net`.
    #[must_use]
    pub fn journal(&self) -> Vec<String> {
        lock(&self.0.inner).journal.iter().map(|(at, line)| format!("{}ms {line}", at.as_millis())).collect()
    }

    /// Waits for a line that begins with `line`, its time left aside; it may be there already.
    #[track_caller]
    pub fn noted(&self, line: &str) -> impl Future<Output = ()> + Send {
        let at = Location::caller();
        let poll = move |cx: &mut Context<'_>| {
            let mut inner = lock(&self.0.inner);
            if inner.journal.iter().any(|(_, noted)| noted.starts_with(line)) {
                return Poll::Ready(());
            }
            inner.watchers.push(cx.waker().clone());
            Poll::Pending
        };
        self.wait(at, move || format!("the line {line:?} in the journal"), poll)
    }

    /// A wait that says where it is and for what, if it turns out to be in vain.
    pub(super) async fn wait<T>(
        &self,
        at: &Location<'_>,
        what: impl FnOnce() -> String,
        mut poll: impl FnMut(&mut Context<'_>) -> Poll<T>,
    ) -> T {
        let (mut what, mut wait) = (Some(what), None);
        poll_fn(|cx| {
            let outcome = poll(cx);
            if outcome.is_ready() {
                let mut inner = lock(&self.0.inner);
                inner.content = inner.content.max(inner.elapsed);
            }
            if let (true, Some(what)) = (outcome.is_pending(), what.take()) {
                wait = Some(Wait::new(self, format!("{at} waits for {}", what())));
            }
            outcome
        })
        .await
    }

    /// A clock of this world.
    #[must_use]
    pub fn clock(&self) -> SimClock {
        SimClock { sim: self.clone(), key: None }
    }

    /// The next of a series of numbers.
    pub(super) fn number(&self) -> u64 {
        let mut inner = lock(&self.0.inner);
        inner.next += 1;
        inner.next
    }

    pub(super) fn net<T>(&self, use_net: impl FnOnce(&mut Net) -> T) -> T {
        use_net(&mut lock(&self.0.net))
    }
}

/// An entry in the table of waits.
struct Wait<'a> {
    sim: &'a Sim,
    key: u64,
}

impl<'a> Wait<'a> {
    fn new(sim: &'a Sim, line: String) -> Self {
        let key = sim.number();
        lock(&sim.0.inner).waits.insert(key, line);
        Self { sim, key }
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        lock(&self.sim.0.inner).waits.remove(&self.key);
    }
}

/// The world's clock, for one waiter at a time.
pub struct SimClock {
    pub(super) sim: Sim,
    key: Option<(Instant, u64)>,
}

impl SimClock {
    fn clear(&mut self) {
        if let Some(key) = self.key.take() {
            let waker = lock(&self.sim.0.inner).sleeps.remove(&key);
            drop(waker); // not under the lock
        }
    }
}

impl Clock for SimClock {
    fn now(&self) -> Instant {
        self.sim.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        self.clear();
        if until <= self.sim.now() {
            return Poll::Ready(());
        }
        let key = (until, self.sim.number());
        lock(&self.sim.0.inner).sleeps.insert(key, cx.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }
}

impl Drop for SimClock {
    fn drop(&mut self) {
        self.clear();
    }
}

impl fmt::Debug for SimClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SimClock").field("sim", &self.sim).finish_non_exhaustive()
    }
}

/// A future that runs beside the others: see [`Sim::spawn`]. As a future it waits for the outcome; dropped, the other
/// runs on.
pub struct Task<T> {
    sim: Sim,
    id: usize,
    slot: Arc<Mutex<Slot<T>>>,
}

struct Slot<T> {
    outcome: Option<T>,
    waker: Option<Waker>,
}

impl<T> Task<T> {
    /// Whether the outcome is there, and not yet taken.
    #[must_use]
    pub fn is_done(&self) -> bool {
        lock(&self.slot).outcome.is_some()
    }

    /// Drops the future where it stands.
    pub fn cancel(self) {
        let running = lock(&self.sim.0.inner).tasks.get_mut(self.id).and_then(Option::take);
        drop(running);
    }
}

impl<T> Future for Task<T> {
    type Output = T;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<T> {
        let mut slot = lock(&self.slot);
        match slot.outcome.take() {
            Some(outcome) => Poll::Ready(outcome),
            None => {
                slot.waker = Some(cx.waker().clone());
                Poll::Pending
            }
        }
    }
}

impl<T> fmt::Debug for Task<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Task").field("id", &self.id).field("done", &self.is_done()).finish()
    }
}
