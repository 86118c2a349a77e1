//! Tasks, the clock, and the journal.
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
use std::pin::{Pin, pin};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Wake, Waker};
use std::time::{Duration, Instant};

use super::lock;
use super::net::Net;
use super::platform::Running as Entered;

/// Polls without time passing, after which a task is taken to spin.
const SPIN: usize = 1_000_000;
/// The future of [`Sim::run_until`], which is not among the tasks.
const MAIN: usize = usize::MAX;

/// A world of its own: executor, clock, network, journal. Clones are the same world.
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
    tasks: Vec<Option<Running>>,
    sleeps: BTreeMap<(Instant, u64), Waker>,
    /// Who waits until nothing else can happen, and whether that is so.
    settlers: Vec<(Waker, Arc<AtomicBool>)>,
    watchers: Vec<Waker>,
    next: u64,
    polls: usize,
    steps: u64,
    journal: Vec<(Duration, String)>,
}

struct Running {
    future: Pin<Box<dyn Future<Output = ()> + Send>>,
    ready: Arc<Ready>,
    waker: Waker,
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

    /// Runs the world until this future is ready, then drops what still runs.
    ///
    /// # Panics
    ///
    /// If nothing can happen any more, or a task spins.
    pub fn run_until<T>(&self, main: impl AsyncFnOnce(Self) -> T) -> T {
        let _entered = Entered::enter(self);
        let ready = Arc::new(Ready { id: MAIN, queued: AtomicBool::new(false), queue: self.0.ready.clone() });
        ready.wake_by_ref();
        let waker = Waker::from(ready.clone());
        let mut main = pin!(main(self.clone()));
        let outcome = loop {
            match self.pop() {
                Some(MAIN) => {
                    ready.queued.store(false, Ordering::SeqCst);
                    self.count_poll();
                    if let Poll::Ready(outcome) = main.as_mut().poll(&mut Context::from_waker(&waker)) {
                        break outcome;
                    }
                }
                Some(id) => self.poll_task(id),
                None => {
                    assert!(self.pass_time(), "nothing can happen any more\n{}", self.journal().join("\n"));
                }
            }
        };
        self.clear();
        outcome
    }

    /// Polls one task, or lets time pass to the next sleep. False: nothing can happen any more.
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
        self.count_poll();
        let waker = running.waker.clone();
        if running.future.as_mut().poll(&mut Context::from_waker(&waker)).is_pending()
            && let Some(slot) = lock(&self.0.inner).tasks.get_mut(id)
        {
            *slot = Some(running);
        }
    }

    fn count_poll(&self) {
        let mut inner = lock(&self.0.inner);
        inner.polls += 1;
        inner.steps += 1;
        let spins = inner.polls > SPIN;
        drop(inner);
        assert!(!spins, "a task spins\n{}", self.journal().join("\n"));
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
    pub fn spawn<T: Send + 'static>(&self, future: impl Future<Output = T> + Send + 'static) -> Task<T> {
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
        inner.tasks.push(Some(Running { future: Box::pin(future), ready, waker }));
        Task { sim: self.clone(), id, slot }
    }

    /// The present moment.
    #[must_use]
    pub fn now(&self) -> Instant {
        self.0.epoch + self.elapsed()
    }

    /// The clock goes on by so much at once: sleeps that end meanwhile are late.
    pub fn jump(&self, by: Duration) {
        lock(&self.0.inner).elapsed += by;
    }

    /// Polls of tasks so far.
    #[must_use]
    pub fn steps(&self) -> u64 {
        lock(&self.0.inner).steps
    }

    /// Sleeps that somebody waits for.
    #[must_use]
    pub fn sleeping(&self) -> usize {
        lock(&self.0.inner).sleeps.len()
    }

    /// Drops all that still runs.
    pub fn clear(&self) {
        let _entered = Entered::enter(self); // what is dropped may still spawn
        let tasks = mem::take(&mut lock(&self.0.inner).tasks);
        drop(tasks);
    }

    /// Spawned tasks that have not ended.
    #[must_use]
    pub fn running(&self) -> usize {
        lock(&self.0.inner).tasks.iter().flatten().count()
    }

    /// How long the world has been running.
    #[must_use]
    pub fn elapsed(&self) -> Duration {
        lock(&self.0.inner).elapsed
    }

    /// Waits for virtual time to pass.
    pub async fn sleep(&self, duration: Duration) {
        let until = self.now() + duration;
        let mut alarm = Alarm::new(self.clone());
        poll_fn(|cx| alarm.poll(cx, until)).await;
    }

    /// Waits until nothing else can happen without time passing.
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

    /// Writes a line into the journal.
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

    /// The journal without the network: the callbacks.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.journal().into_iter().filter(|line| !line.contains("ms net ")).collect()
    }

    /// Waits for a line that begins with `line`, its time left aside.
    pub async fn noted(&self, line: &str) {
        poll_fn(|cx| {
            let mut inner = lock(&self.0.inner);
            if inner.journal.iter().any(|(_, noted)| noted.starts_with(line)) {
                return Poll::Ready(());
            }
            inner.watchers.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
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

/// One sleep at a time.
pub(super) struct Alarm {
    sim: Sim,
    key: Option<(Instant, u64)>,
}

impl Alarm {
    pub(super) fn new(sim: Sim) -> Self {
        Self { sim, key: None }
    }

    pub(super) fn poll(&mut self, cx: &Context<'_>, until: Instant) -> Poll<()> {
        self.clear();
        if until <= self.sim.now() {
            return Poll::Ready(());
        }
        let key = (until, self.sim.number());
        lock(&self.sim.0.inner).sleeps.insert(key, cx.waker().clone());
        self.key = Some(key);
        Poll::Pending
    }

    fn clear(&mut self) {
        if let Some(key) = self.key.take() {
            lock(&self.sim.0.inner).sleeps.remove(&key);
        }
    }
}

impl Drop for Alarm {
    fn drop(&mut self) {
        self.clear();
    }
}

/// A future that runs beside the others. As a future it waits for the outcome; dropped, the other runs on.
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
