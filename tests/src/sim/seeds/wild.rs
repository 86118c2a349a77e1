//! The runtime and the transport with what may happen to them.
//!
//! ```text
//! driver ─ mutations ─ reader (what passed, see wire) ─ faults of the network ─ SimTransport
//! ```

use std::future::Future;
use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Instant;

use bytes::BytesMut;
use parley_proto::driver::{Clock, Runtime, TcpOptions, TlsError, TlsTarget, Transport, TransportFacts};

use super::Mutation;
use super::plan::Cut;
use super::record::{Ask, Conn};
use super::scene::Scene;
use crate::dice::Dice;
use crate::sim::stream::window as exactly;
use crate::sim::{SimClock, SimRuntime, SimTransport};

/// Sleeps of one client without a byte read or written, after which its driver is taken to spin.
const SPIN: usize = 5_000;

pub(super) struct WildRuntime {
    inner: SimRuntime,
    scene: Arc<Scene>,
    dice: Dice,
}

impl WildRuntime {
    pub(super) fn new(scene: &Arc<Scene>, dice: Dice) -> Self {
        Self { inner: scene.sim.runtime(), scene: scene.clone(), dice }
    }
}

impl Clock for WildRuntime {
    fn now(&self) -> Instant {
        self.inner.now()
    }

    fn poll_sleep(&mut self, cx: &mut Context<'_>, until: Instant) -> Poll<()> {
        let sleeps = {
            let mut record = self.scene.record();
            record.sleeps += 1;
            record.sleeps
        };
        if sleeps > SPIN {
            if sleeps == SPIN + 1 {
                self.scene.fail("the driver spins on its timer");
            }
            return Poll::Pending;
        }
        match self.scene.mutation {
            Some(Mutation::SleepNever) => Poll::Pending,
            Some(Mutation::SleepForEver) => Poll::Ready(()),
            _ => self.inner.poll_sleep(cx, until),
        }
    }
}

impl Runtime for WildRuntime {
    type Transport = WildTransport;

    fn seed(&self) -> [u8; 32] {
        let mut dice = self.dice.clone();
        std::array::from_fn(|_| dice.roll() as u8)
    }

    fn resolve(&self, host: &str, port: u16) -> impl Future<Output = io::Result<Vec<SocketAddr>>> + Send + 'static {
        self.inner.resolve(host, port)
    }

    fn dial(
        &self,
        addr: SocketAddr,
        options: &TcpOptions,
    ) -> impl Future<Output = io::Result<WildTransport>> + Send + 'static {
        let dial = self.inner.dial(addr, options);
        let (scene, mut dice) = (self.scene.clone(), self.dice.clone());
        async move {
            let inner = dial.await?;
            let index = scene.record().open();
            let dice = Dice::new(dice.roll() ^ index as u64); // another fate for each
            Ok(WildTransport::new(inner, scene, index, dice))
        }
    }

    fn start_tls(
        &self,
        transport: WildTransport,
        target: &TlsTarget,
    ) -> impl Future<Output = Result<WildTransport, TlsError>> + Send + 'static {
        let WildTransport { inner, wild } = transport;
        let tls = self.inner.start_tls(inner, target);
        async move { Ok(WildTransport { inner: tls.await?, wild }) }
    }
}

/// The client's end of a connection.
pub(super) struct WildTransport {
    inner: SimTransport,
    wild: Wild,
}

struct Wild {
    scene: Arc<Scene>,
    /// Which connection of the client's it is.
    index: usize,
    /// Where and how the network is to fail it.
    doom: Option<(usize, Cut)>,
    dice: Dice,
    reads: Lag,
    writes: Lag,
    read: usize,
    written: usize,
    cut: Option<Cut>,
    mutant: Mutant,
}

/// A direction that is not always ready.
struct Lag {
    clock: SimClock,
    until: Option<Instant>,
}

/// What the mutations of a transport remember.
#[derive(Default)]
struct Mutant {
    /// Chunks until it strikes.
    left: usize,
    kept: Vec<u8>,
    done: bool,
    /// A write has been waiting since then.
    since: Option<Instant>,
}

impl WildTransport {
    fn new(inner: SimTransport, scene: Arc<Scene>, index: usize, mut dice: Dice) -> Self {
        let doom = match index {
            0 => scene.plan.cut,
            _ => dice.chance(scene.plan.rough).then(|| Cut::draw(&mut dice)),
        };
        let lag = || Lag { clock: scene.sim.clock(), until: None };
        let (reads, writes) = (lag(), lag());
        let mutant = Mutant { left: 1 + dice.below(4), ..Mutant::default() };
        let wild = Wild { scene, index, doom, dice, reads, writes, read: 0, written: 0, cut: None, mutant };
        Self { inner, wild }
    }
}

impl WildTransport {
    fn write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let Self { inner, wild } = self;
        let cut = wild.cut(wild.written);
        if matches!(cut, Some(Cut::Eof | Cut::Reset | Cut::Writes)) {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        if wild.scene.is(Mutation::WriteNeverWakes) && wild.written > 300 {
            // Ready when it is asked again later; but nobody is told to.
            let now = wild.scene.sim.now();
            match wild.mutant.since {
                Some(since) if since < now => wild.mutant.since = None,
                _ => {
                    wild.mutant.since = Some(now);
                    return Poll::Pending;
                }
            }
        }
        if wild.writes.poll(cx, &wild.scene, &mut wild.dice).is_pending() {
            return Poll::Pending;
        }
        let most = wild.room(wild.written);
        let chunk: Vec<u8> = bytes.iter().flat_map(|slice| slice.iter().copied()).take(most.min(64 * 1024)).collect();
        let mut out = chunk.clone();
        if wild.written > 300 {
            if wild.strikes(Mutation::WriteDropsByte) {
                out.pop();
            } else if wild.strikes(Mutation::WriteTwice) {
                out.extend_from_slice(&chunk);
            }
        }
        let changed = out.len() != chunk.len();
        if matches!(cut, Some(Cut::Silence | Cut::Unexpected)) {
            if wild.written > wild.scene.plan.link.capacity {
                return Poll::Pending;
            }
        } else if changed {
            // What the mutation made is written whole, whatever the link has room for.
            let _ = inner.poll_write(cx, &[IoSlice::new(&out)]);
        } else {
            match inner.poll_write(cx, &[IoSlice::new(&out)]) {
                Poll::Ready(Ok(n)) => out.truncate(n),
                other => return other,
            }
        }
        let n = if changed { chunk.len() } else { out.len() };
        wild.written += n;
        let now = wild.scene.sim.now();
        wild.scene.record().wrote(wild.index, now, &out);
        Poll::Ready(Ok(n))
    }
}

impl Drop for Wild {
    fn drop(&mut self) {
        if self.scene.is(Mutation::NeverClosed) {
            return;
        }
        let now = self.scene.sim.now();
        self.seen(|conn| conn.closed = Some(now));
    }
}

impl Lag {
    fn poll(&mut self, cx: &mut Context<'_>, scene: &Scene, dice: &mut Dice) -> Poll<()> {
        if let Some(until) = self.until {
            if self.clock.poll_sleep(cx, until).is_pending() {
                return Poll::Pending;
            }
            self.until = None;
            return Poll::Ready(());
        }
        if !dice.chance(scene.plan.pending) {
            return Poll::Ready(());
        }
        if scene.plan.delay == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        let until = scene.sim.now() + dice.millis(scene.plan.delay);
        self.until = Some(until);
        self.clock.poll_sleep(cx, until)
    }
}

impl Wild {
    fn seen<T>(&self, note: impl FnOnce(&mut Conn) -> T) -> T {
        note(&mut self.scene.record().conns[self.index])
    }

    /// Whether the network fails here, and how.
    fn cut(&mut self, at: usize) -> Option<Cut> {
        if let (None, Some((most, how))) = (self.cut, self.doom)
            && at >= most
        {
            self.cut = Some(how);
            let now = self.scene.sim.now();
            self.seen(|conn| conn.cut = Some((how, now)));
            self.scene.note(&format!("net cut: {how:?}"));
        }
        self.cut
    }

    /// How many bytes may pass before the cut.
    fn room(&mut self, at: usize) -> usize {
        let most = self.scene.plan.chunk;
        let most = if most > 1 && self.dice.chance(30) { 1 + self.dice.below(most.min(1000)) } else { most };
        match self.doom {
            Some((cut, _)) if at < cut => most.min(cut - at),
            _ => most,
        }
    }

    /// The stream has ended.
    fn end(&self) -> Poll<io::Result<usize>> {
        let now = self.scene.sim.now();
        self.seen(|conn| *conn.eof.get_or_insert(now));
        if self.scene.is(Mutation::EofSwallowed) { Poll::Pending } else { Poll::Ready(Ok(0)) }
    }

    /// Whether a mutation strikes at this chunk.
    fn strikes(&mut self, mutation: Mutation) -> bool {
        if !self.scene.is(mutation) || self.mutant.done {
            return false;
        }
        self.mutant.left = self.mutant.left.saturating_sub(1);
        self.mutant.done = self.mutant.left == 0;
        self.mutant.done
    }
}

impl Transport for WildTransport {
    fn poll_read(&mut self, cx: &mut Context<'_>, window: &mut BytesMut) -> Poll<io::Result<usize>> {
        let Self { inner, wild } = self;
        match wild.cut(wild.read) {
            Some(Cut::Eof) => return wild.end(),
            Some(Cut::Reset) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            Some(Cut::Unexpected) => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
            Some(Cut::Silence) => return Poll::Pending,
            Some(Cut::Writes) | None => {}
        }
        if wild.reads.poll(cx, &wild.scene, &mut wild.dice).is_pending() {
            return Poll::Pending;
        }
        let room = window.capacity() - window.len();
        assert!(room > 0, "the driver never passes a full window");
        let most = wild.room(wild.read).min(room);
        let mut chunk = exactly(most.min(64 * 1024));
        let mut quiet = Context::from_waker(std::task::Waker::noop());
        let context = if wild.scene.is(Mutation::ReadNeverWakes) && wild.read > 150 { &mut quiet } else { &mut *cx };
        match inner.poll_read(context, &mut chunk) {
            Poll::Pending => return Poll::Pending,
            Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
            Poll::Ready(Ok(0)) => return wild.end(),
            Poll::Ready(Ok(n)) => wild.read += n,
        }
        read(wild, &chunk);
        let mut chunk = chunk.to_vec();
        if wild.read > chunk.len() + 100 {
            mutate_read(wild, &mut chunk, room);
        }
        if chunk.is_empty() {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        window.extend_from_slice(&chunk);
        Poll::Ready(Ok(chunk.len()))
    }

    fn poll_write(&mut self, cx: &mut Context<'_>, bytes: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let outcome = self.write(cx, bytes);
        let offered: usize = bytes.iter().map(|slice| slice.len()).sum();
        let now = self.wild.scene.sim.now();
        self.wild.seen(|conn| match &outcome {
            Poll::Ready(Ok(n)) => {
                if *n == offered && conn.stuck.take().is_some() {
                    conn.drained.push(now);
                } else if *n < offered {
                    conn.stuck = Some(now);
                    conn.blocked = true;
                }
            }
            Poll::Ready(Err(_)) => {}
            Poll::Pending => {
                conn.stuck.get_or_insert(now);
                conn.blocked = true;
            }
        });
        outcome
    }

    fn poll_flush(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Self { inner, wild } = self;
        match wild.cut {
            Some(Cut::Silence | Cut::Unexpected) => return Poll::Ready(Ok(())),
            Some(_) => return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
            None if wild.scene.is(Mutation::FlushLies) && wild.written > 300 => return Poll::Ready(Ok(())),
            None => {}
        }
        inner.poll_flush(cx)
    }

    fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.wild.cut.is_some() {
            return Poll::Ready(Ok(()));
        }
        if self.wild.scene.plan.bad_shutdown {
            return Poll::Ready(Err(io::ErrorKind::NotConnected.into()));
        }
        self.inner.poll_shutdown(cx)
    }

    fn facts(&self) -> TransportFacts {
        self.inner.facts()
    }
}

/// The client has this now, and may not hold more than its bound.
fn read(wild: &Wild, chunk: &[u8]) {
    let (plan, now) = (&wild.scene.plan, wild.scene.sim.now());
    let (held, free) = {
        let mut record = wild.scene.record();
        record.sleeps = 0;
        let free = record.panicked || record.erred || record.is_asked(Ask::Stop);
        let conn = &mut record.conns[wild.index];
        conn.last_read = Some(now);
        conn.down.feed(now, chunk);
        if conn.down.past_head {
            conn.answered.get_or_insert(now);
        }
        let held = conn.down.bytes.saturating_sub(conn.got_bytes);
        (held, free || conn.asked || conn.down.fault.is_some())
    };
    let bound = plan.read_ahead + 64 * 1024 + 80_000;
    wild.scene.check(free || held <= bound, || format!("3.8: {held} bytes read and not delivered"));
}

fn mutate_read(wild: &mut Wild, chunk: &mut Vec<u8>, room: usize) {
    if !wild.mutant.kept.is_empty() && chunk.len() + wild.mutant.kept.len() <= room {
        chunk.append(&mut wild.mutant.kept);
    }
    if wild.strikes(Mutation::ReadDropsByte) {
        chunk.pop();
    } else if chunk.len() * 2 <= room && wild.strikes(Mutation::ReadTwice) {
        chunk.extend_from_within(..);
    } else if wild.strikes(Mutation::ReadSwapped) {
        wild.mutant.kept = std::mem::take(chunk);
    } else if wild.strikes(Mutation::ReadFlipsBit) {
        chunk[0] ^= 1;
    }
}
