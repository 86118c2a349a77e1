//! Clients at random: the real driver between an application, a network and peers that do as a seed says, and the
//! guide's rules checked on every run.
//!
//! ```text
//! app     tasks with handles ──▶ driver ◀── handler    callbacks that wait, push, close, fail, panic
//!                                  │
//! wild    runtime, transport: cuts, resets, EOF, silence, late, by the byte
//!                                  │
//! peers   the library's server, or a script without manners, for each connection
//!
//! plan     what is drawn for a client before its world begins
//! names    a client's name, as others see it
//! record   what was seen of it, by connection and by callback
//! check, retries   what has to hold when it has ended
//! ```
//!
//! One seed is one world, and does the same every time: [`run`] gives the same [trace](Run::trace), byte for byte.
//! That the checks can fail is proved by the [mutations](Mutation): each makes the driver look broken in one way.

mod app;
mod check;
mod handler;
mod names;
mod peers;
mod plan;
mod reasons;
mod record;
mod retries;
mod scene;
mod wild;
mod wire;

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use parley_proto::Limits;
use parley_proto::connection::Keepalive;
use parley_proto::driver::{Setup, TlsError, TlsFacts};
use parley_proto::session::ClientOptions;

use self::handler::Wilful;
use self::names::Name;
use self::peers::within;
use self::plan::{Peer, Plan, Policy};
use self::record::Ask;
use self::scene::Scene;
use self::wild::WildRuntime;
use super::{Fate, Sim, Task, lock};
use crate::dice::Dice;

/// Every run has come to its end by then.
const LONGEST: Duration = Duration::from_secs(600);
/// Polls of tasks in one run.
const MOST_STEPS: u64 = 1_000_000;

/// What one seed came to.
#[derive(Clone, Debug)]
pub struct Run {
    /// The rules that did not hold.
    pub failures: Vec<String>,
    /// All that happened, a line each.
    pub trace: Vec<String>,
}

macro_rules! mutations {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One way in which a driver could be broken.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        #[non_exhaustive]
        pub enum Mutation { $($(#[$doc])* $name,)* }

        impl Mutation {
            /// All there are.
            pub const ALL: &[Self] = &[$(Self::$name),*];
        }
    };
}

mutations! {
    /// A byte that arrived is lost.
    ReadDropsByte,
    /// What one read brought is seen twice.
    ReadTwice,
    /// What two reads brought is seen in the wrong order.
    ReadSwapped,
    /// A bit of what arrived is flipped.
    ReadFlipsBit,
    /// A read that has to wait is never woken.
    ReadNeverWakes,
    /// The end of the stream is not seen.
    EofSwallowed,
    /// A byte is said to be written, and is not.
    WriteDropsByte,
    /// One write is made twice.
    WriteTwice,
    /// A write that has to wait is never woken.
    WriteNeverWakes,
    /// What waits to be flushed is said to be flushed.
    FlushLies,
    /// No timer is ever due.
    SleepNever,
    /// Every timer is due at once.
    SleepForEver,
    /// The transport is kept.
    NeverClosed,
    /// One frame does not reach the handler.
    FrameSkipped,
    /// One frame reaches it twice.
    FrameTwice,
    /// Two frames reach it in the wrong order.
    FramesSwapped,
    /// One info reaches it twice.
    InfoTwice,
    /// A push is forgotten.
    PushLost,
    /// The end of a connection is not told.
    DisconnectSkipped,
    /// It is told twice.
    DisconnectTwice,
    /// The end of a client is not told to it.
    TerminateSkipped,
    /// A send is said to have left, and was forgotten.
    SendSkipped,
    /// A frame is sent twice.
    SendTwice,
}

impl fmt::Display for Mutation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

/// The world of one seed, from its beginning to its end.
#[must_use]
pub fn run(seed: u64) -> Run {
    run_with(seed, None)
}

/// The same with a driver that is broken in this way.
#[must_use]
pub fn run_with(seed: u64, mutation: Option<Mutation>) -> Run {
    // The library keeps buffers by thread: what a seed does must not depend on what ran before.
    let world = thread::Builder::new().name(format!("seed {seed}")).spawn(move || world(seed, mutation));
    match world.map(thread::JoinHandle::join) {
        Ok(Ok(run)) => run,
        Ok(Err(_)) => Run { failures: vec!["the world itself panicked".to_owned()], trace: Vec::new() },
        Err(error) => Run { failures: vec![format!("no thread: {error}")], trace: Vec::new() },
    }
}

fn world(seed: u64, mutation: Option<Mutation>) -> Run {
    let sim = Sim::new();
    let mut dice = Dice::new(seed);
    let jumps = dice.chance(10);
    let mut scenes = Vec::new();
    let mut tasks = Vec::new();
    for index in 0..dice.pick(&[1u8, 1, 2]) {
        let mut dice = dice.fork();
        let mut plan = Plan::draw(&mut dice);
        plan.jumps = jumps;
        let scene = Scene::new(&sim, char::from(b'A' + index), plan, mutation);
        sim.note(format!("{} {:?}", scene.name, scene.plan));
        tasks.push(sim.spawn(play(scene.clone(), index, dice)));
        scenes.push(scene);
    }
    if jumps {
        tasks.push(sim.spawn(jumper(sim.clone(), dice.fork())));
    }

    let mut failures = Vec::new();
    while !tasks.iter().all(Task::is_done) {
        match catch_unwind(AssertUnwindSafe(|| sim.step())) {
            Ok(true) if sim.elapsed() > LONGEST => failures.push("no end in time".to_owned()),
            Ok(true) if sim.steps() > MOST_STEPS => failures.push("no end in so many steps".to_owned()),
            Ok(true) => continue,
            Ok(false) => failures.push("nothing can happen any more, and there is no end".to_owned()),
            Err(_) => failures.push("a panic that is not the application's".to_owned()),
        }
        break;
    }
    if failures.is_empty() {
        if sim.running() > 0 {
            failures.push(format!("{} tasks are left", sim.running()));
        }
        if sim.sleeping() > 0 {
            failures.push(format!("{} timers are left", sim.sleeping()));
        }
    }
    failures.iter().for_each(|failure| sim.note(format!("FAILED {failure}")));
    let trace = sim.journal();
    sim.clear();
    for scene in scenes {
        failures.append(&mut scene.record().failures);
    }
    Run { failures, trace }
}

/// The clock goes on by seconds or hours at once, as it does on a machine that slept.
async fn jumper(sim: Sim, mut dice: Dice) {
    for _ in 0..3 {
        sim.sleep(dice.millis(5000)).await;
        let by = dice.millis(30_000);
        sim.note(format!("clock jumps by {}ms", by.as_millis()));
        sim.jump(by);
    }
}

/// Names, addresses, TLS: as the dice have it. The URL.
fn network(scene: &Scene, index: u8, dice: &mut Dice) -> (String, SocketAddr) {
    let sim = &scene.sim;
    let addr = SocketAddr::from(([10, 0, 0, index + 1], 80));
    let late = |dice: &mut Dice| dice.pick(&[1, 5, 200, 4000]);
    let mean = scene.plan.cut.is_some() || scene.plan.peer != Peer::Real;
    let bad = if mean { 8 } else { 0 };
    if dice.chance(50) {
        let after = Duration::from_millis(late(dice));
        let fate = match dice.chance(bad) {
            true => dice.pick(&[Some(Err(io::ErrorKind::TimedOut)), None]),
            false => Some(Ok(())),
        };
        sim.on_dial(addr, fate.map_or(Fate::Never, |outcome| Fate::After(after, outcome)));
    }
    let is_secure = dice.chance(15);
    if is_secure {
        let facts = TlsFacts::new(None, None, Vec::new());
        sim.on_tls(match dice.below(100) {
            n if n >= bad => Fate::After(Duration::from_millis(late(dice)), Ok(facts)),
            n if n % 2 == 0 => Fate::Never,
            _ => Fate::Now(Err(TlsError::ServerName("no".to_owned()))),
        });
    }
    let scheme = if is_secure { "wss" } else { "ws" };
    if dice.chance(50) && !is_secure {
        return (format!("{scheme}://10.0.0.{}/", index + 1), addr);
    }
    let name = format!("{}.test", scene.name.to_ascii_lowercase());
    let dead = SocketAddr::from(([10, 0, 1, index + 1], 80));
    let mut addresses = vec![addr];
    if dice.chance(30) {
        addresses.insert(0, dead);
        if dice.chance(30) {
            sim.on_dial(dead, Fate::Never);
        }
    }
    let after = Duration::from_millis(late(dice));
    sim.on_resolve(
        &name,
        match dice.below(100) {
            n if n >= bad => Fate::After(after, Ok(addresses)),
            n if n % 3 == 0 => Fate::Never,
            n if n % 3 == 1 => Fate::After(after, Err(io::ErrorKind::NotFound)),
            _ => Fate::Now(Ok(Vec::new())),
        },
    );
    let port = if is_secure { ":80" } else { "" };
    (format!("{scheme}://{name}{port}/"), addr)
}

fn options(scene: &Scene, url: &str) -> ClientOptions {
    let plan = &scene.plan;
    let mut options = ClientOptions::new(url).expect("a URL");
    options.connect_timeout = plan.connect_timeout;
    options.reconnect = plan.policy.map(Policy::options);
    let limits = Limits::client()
        .with_read_ahead(plan.read_ahead)
        .and_then(|limits| limits.with_send_queue(plan.send_queue))
        .and_then(|limits| limits.with_info_queue(plan.info_queue));
    let keepalive = plan.keepalive.map(|(interval, timeout)| Keepalive::new(interval, timeout));
    options.connection.keepalive = keepalive.map(|keepalive| keepalive.expect("times above zero"));
    options.connection.write_timeout = plan.write_timeout;
    options.connection.limits = limits.expect("limits above zero");
    options
}

/// One client and its peer, from start to end.
async fn play(scene: Arc<Scene>, index: u8, mut dice: Dice) {
    let sim = scene.sim.clone();
    let (url, addr) = network(&scene, index, &mut dice);
    let mut peer = Vec::new();
    if scene.plan.peer != Peer::Absent {
        let listener = sim.listen(addr);
        listener.set_link(scene.plan.link);
        peer.push(sim.spawn(peers::serve(scene.clone(), listener, dice.fork())));
    }
    if scene.plan.outages {
        peer.push(sim.spawn(peers::outages(sim.clone(), addr, dice.fork())));
    }
    let mut options = options(&scene, &url);
    let name = scene.plan.named.then(|| Name::new(&scene));
    options.name = name.as_ref().map(|name| name.text().to_owned());
    let setup = Setup::new(options);
    let own = setup.own_handle();
    let handler = Wilful::new(&scene, dice.fork(), own.clone());
    let (client, life) = setup.client(WildRuntime::new(&scene, dice.fork()), handler);
    let life = sim.spawn(life);
    let handle = client.handle();
    let begun = sim.now();
    let started = within(&sim, scene.plan.horizon, client.started()).await;
    scene.note(&format!("started: {:?}", started.as_ref().map(Result::is_ok)));

    if let (Some(name), Some(Ok(()))) = (&name, &started) {
        name.taken(client.state()).await;
    }

    let mut senders = Vec::new();
    scene.record().handles = scene.plan.senders + 1;
    for sender in 0..scene.plan.senders {
        let lane = 10 + 2 * sender as u32;
        senders.push(sim.spawn(app::sender(scene.clone(), handle.clone(), lane, dice.fork())));
    }
    let rest = scene.plan.horizon.saturating_sub(sim.now().saturating_duration_since(begun));
    sim.sleep(rest).await;
    drop(handle);

    let asked = sim.now();
    let mut bound = None;
    if scene.plan.abort {
        scene.ask("its task is aborted, which", Ask::Stop);
        life.cancel();
    } else if scene.plan.wicked == 0 && dice.chance(50) {
        scene.record().winding_down = true;
        app::ask(&scene, &client, Ask::Disconnect).await;
        if let Some(name) = &name {
            senders.push(sim.spawn(name.clone().stop(dice.millis(4000)))); // nothing else ends it
        }
    } else {
        app::ask(&scene, &client, Ask::Stop).await;
        bound = Some(Duration::from_secs(10));
    }
    scene.record().handles -= 1;
    let outcome = client.join().await;
    name.iter().for_each(Name::free);
    let now = sim.now();
    {
        let mut record = scene.record();
        record.ended = Some(now);
        record.attempts = Some(own.stats().attempts);
    }
    let reason = outcome.as_ref().err().map(parley_proto::driver::JoinError::reason);
    scene.note(&format!("ended: {}", reason.map_or("well".to_owned(), ToString::to_string)));
    let took = now.saturating_duration_since(asked);
    let in_time = scene.plan.jumps || bound.is_none_or(|bound| took <= bound);
    scene.check(in_time, || format!("4.9: the end came {took:?} after stop"));
    for sender in senders {
        sender.await;
    }
    sim.settle().await; // whatever was dialled is accepted
    peer.into_iter().for_each(Task::cancel);
    let served = std::mem::take(&mut *lock(&scene.peers));
    for connection in served {
        connection.await;
    }
    check::ended(&scene, reason);
}
