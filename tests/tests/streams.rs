//! Streams that do all that a stream may: calls that wait, take little, are interrupted, end early or fail, under the
//! `WebSocket`s of both adapters, in both roles.
//!
//! A client and a server of the same adapter talk over two ends in memory. Each end has a plan for the calls that are made on it.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::collections::VecDeque;
use std::io::{self, ErrorKind, IoSlice};
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll, Waker};

use parley_proto::codec::Frame;
use tokio::io::ReadBuf;

/// What a call does. `Ready` of [`Some`] bound moves at most so many bytes.
#[derive(Clone, Copy, Debug)]
enum Turn {
    Ready(Option<usize>),
    /// Pending, and woken at once.
    Wait,
    Fail(ErrorKind),
    /// `Ok(0)`: the end of what is read, or a stream that takes nothing.
    Nothing,
}

#[derive(Clone, Debug)]
enum Plan {
    /// Every call does what it can.
    Fair,
    /// Waits, short moves and interruptions, drawn anew for each call.
    Random(Random),
    /// Fair but for one call, by its number.
    Once(usize, Turn),
    /// A byte a call.
    Bytewise,
}

/// SplitMix64.
#[derive(Clone, Debug)]
struct Random(u64);

impl Random {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        (z ^ (z >> 31)) % n
    }
}

/// One direction.
#[derive(Default)]
struct Pipe {
    bytes: VecDeque<u8>,
    /// Nothing more will come, or nobody will read.
    ended: bool,
    gone: bool,
    reader: Option<Waker>,
}

impl Pipe {
    fn wake(&mut self) {
        if let Some(reader) = self.reader.take() {
            reader.wake();
        }
    }
}

/// What a plan was asked for.
#[derive(Default)]
struct Calls {
    made: usize,
    /// The call that was to go wrong has been made.
    hit: bool,
}

/// One end of a stream, for tokio and for futures-io.
struct End {
    incoming: Arc<Mutex<Pipe>>,
    outgoing: Arc<Mutex<Pipe>>,
    plan: Plan,
    calls: Arc<Mutex<Calls>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap()
}

/// Two ends, with a plan each.
fn ends(client: Plan, server: Plan) -> (End, End) {
    let (up, down) = (Arc::<Mutex<Pipe>>::default(), Arc::<Mutex<Pipe>>::default());
    let client = End { incoming: down.clone(), outgoing: up.clone(), plan: client, calls: Arc::default() };
    let server = End { incoming: up, outgoing: down, plan: server, calls: Arc::default() };
    (client, server)
}

impl End {
    fn turn(&mut self) -> Turn {
        let mut calls = lock(&self.calls);
        let number = calls.made;
        calls.made += 1;
        match &mut self.plan {
            Plan::Fair => Turn::Ready(None),
            Plan::Bytewise => Turn::Ready(Some(1)),
            Plan::Once(at, turn) if *at == number => {
                calls.hit = true;
                *turn
            }
            Plan::Once(..) => Turn::Ready(None),
            Plan::Random(random) => match random.below(10) {
                0..=2 => Turn::Wait,
                3 | 4 => Turn::Fail(ErrorKind::Interrupted),
                5 => Turn::Ready(None),
                _ => Turn::Ready(Some(1 + random.below(40) as usize)),
            },
        }
    }

    fn read(&mut self, cx: &Context<'_>, room: usize) -> Poll<io::Result<Vec<u8>>> {
        let bound = match self.turn() {
            Turn::Ready(bound) => bound.unwrap_or(room),
            Turn::Wait => return wait(cx),
            Turn::Fail(kind) => return Poll::Ready(Err(kind.into())),
            Turn::Nothing => return Poll::Ready(Ok(Vec::new())),
        };
        let mut pipe = lock(&self.incoming);
        if pipe.bytes.is_empty() && !pipe.ended {
            pipe.reader = Some(cx.waker().clone());
            return Poll::Pending;
        }
        let n = pipe.bytes.len().min(room).min(bound);
        Poll::Ready(Ok(pipe.bytes.drain(..n).collect()))
    }

    fn write(&mut self, cx: &Context<'_>, slices: &[IoSlice<'_>]) -> Poll<io::Result<usize>> {
        let bound = match self.turn() {
            Turn::Ready(bound) => bound.unwrap_or(usize::MAX),
            Turn::Wait => return wait(cx),
            Turn::Fail(kind) => return Poll::Ready(Err(kind.into())),
            Turn::Nothing => return Poll::Ready(Ok(0)),
        };
        let mut pipe = lock(&self.outgoing);
        if pipe.gone || pipe.ended {
            return Poll::Ready(Err(ErrorKind::BrokenPipe.into()));
        }
        let bytes: Vec<u8> = slices.iter().flat_map(|slice| slice.iter().copied()).take(bound).collect();
        pipe.bytes.extend(&bytes);
        pipe.wake();
        Poll::Ready(Ok(bytes.len()))
    }

    fn flush(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.turn() {
            Turn::Wait => wait(cx),
            Turn::Fail(kind) => Poll::Ready(Err(kind.into())),
            Turn::Ready(_) | Turn::Nothing => Poll::Ready(Ok(())),
        }
    }

    fn shutdown(&mut self, cx: &Context<'_>) -> Poll<io::Result<()>> {
        match self.turn() {
            Turn::Wait => wait(cx),
            Turn::Fail(kind) => Poll::Ready(Err(kind.into())),
            Turn::Ready(_) | Turn::Nothing => {
                let mut pipe = lock(&self.outgoing);
                pipe.ended = true;
                pipe.wake();
                Poll::Ready(Ok(()))
            }
        }
    }
}

fn wait<T>(cx: &Context<'_>) -> Poll<io::Result<T>> {
    cx.waker().wake_by_ref();
    Poll::Pending
}

impl Drop for End {
    fn drop(&mut self) {
        lock(&self.incoming).gone = true;
        let mut outgoing = lock(&self.outgoing);
        outgoing.ended = true;
        outgoing.wake();
    }
}

impl tokio::io::AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        self.read(cx, buffer.remaining()).map_ok(|bytes| buffer.put_slice(&bytes))
    }
}

impl tokio::io::AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown(cx)
    }
}

impl futures_io::AsyncRead for End {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        self.read(cx, buffer.len()).map_ok(|bytes| {
            buffer[..bytes.len()].copy_from_slice(&bytes);
            bytes.len()
        })
    }
}

impl futures_io::AsyncWrite for End {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.write(cx, &[IoSlice::new(bytes)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.write(cx, slices)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.flush(cx)
    }

    fn poll_close(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.shutdown(cx)
    }
}

/// Small, empty, large enough to be sent by reference, and of a length with an extended field.
fn messages() -> Vec<Frame> {
    vec![
        Frame::text("hello"),
        Frame::binary(Vec::new()),
        Frame::binary(vec![7; 300]),
        Frame::text("größer als ein Byte"),
        Frame::binary((0..20_000_u32).map(|n| n as u8).collect::<Vec<_>>()),
        Frame::text("the last"),
    ]
}

/// How one side fared.
#[derive(Debug)]
struct Side {
    got: Vec<Frame>,
    clean: bool,
}

/// Every call that a plan can spoil: those of a fair run, and some more.
const CALLS: usize = 200;

/// The tests on one adapter.
macro_rules! streams {
    ($runtime:ident, $adapter:ident, $block_on:expr) => {
        mod $runtime {
            use std::future::Future;
            use std::pin::pin;

            use futures_util::future::join;
            use parley_proto::handshake::Origins;
            use $adapter::{Client, Transport, WebSocket};

            use super::*;

            fn block_on<T>(future: impl Future<Output = T>) -> T {
                $block_on(future)
            }

            async fn dial(end: End) -> Option<WebSocket<End>> {
                Client::builder("ws://a/").unwrap().connect_over(Transport::new(end)).await.ok()
            }

            fn is_clean(socket: &WebSocket<End>) -> bool {
                socket.closed().is_some_and(|closed| closed.was_clean)
            }

            /// Sends all, reads as many, and closes. `polls` bounds the polls of every `next` before it is dropped and made anew.
            async fn client(end: End, polls: usize) -> Side {
                let mut got = Vec::new();
                let Some(mut socket) = dial(end).await else { return Side { got, clean: false } };
                for frame in messages() {
                    if socket.send(frame).await.is_err() {
                        break;
                    }
                }
                while got.len() < messages().len() {
                    match cut(socket.next(), polls).await {
                        None => give_way().await,
                        Some(Some(Ok(frame))) => got.push(frame),
                        Some(Some(Err(_)) | None) => break,
                    }
                }
                let _ended = socket.close().await;
                while let Some(item) = socket.next().await {
                    got.extend(item);
                }
                assert!(socket.next().await.is_none());
                assert!(socket.send(Frame::text("late")).await.is_err());
                Side { got, clean: is_clean(&socket) }
            }

            /// Echoes to the end.
            async fn server(end: End, polls: usize) -> Side {
                let mut got = Vec::new();
                let Ok(mut socket) = $adapter::server(end, Origins::any()).await else {
                    return Side { got, clean: false };
                };
                loop {
                    match cut(socket.next(), polls).await {
                        None => give_way().await,
                        Some(Some(Ok(frame))) => {
                            got.push(frame.clone());
                            let _refused = socket.send(frame).await;
                        }
                        Some(Some(Err(_))) => {}
                        Some(None) => break,
                    }
                }
                Side { got, clean: is_clean(&socket) }
            }

            async fn cut<F: Future>(future: F, polls: usize) -> Option<F::Output> {
                let mut future = pin!(future);
                let mut left = polls;
                std::future::poll_fn(|cx| match future.as_mut().poll(cx) {
                    Poll::Ready(output) => Poll::Ready(Some(output)),
                    Poll::Pending if left == 0 => Poll::Ready(None),
                    Poll::Pending => {
                        left -= 1;
                        Poll::Pending
                    }
                })
                .await
            }

            /// A turn for the other side.
            async fn give_way() {
                let mut given = false;
                std::future::poll_fn(|cx| {
                    if std::mem::replace(&mut given, true) {
                        return Poll::Ready(());
                    }
                    cx.waker().wake_by_ref();
                    Poll::Pending
                })
                .await;
            }

            fn run(client_plan: Plan, server_plan: Plan, polls: usize) -> (Side, Side) {
                let (near, far) = ends(client_plan, server_plan);
                block_on(join(client(near, polls), server(far, polls)))
            }

            fn whole(what: &str, (client, server): (Side, Side)) {
                assert_eq!(client.got, messages(), "{what}");
                assert_eq!(server.got, messages(), "{what}");
                assert!(client.clean && server.clean, "{what}");
            }

            #[test]
            fn short_interrupted_and_pending_calls_change_nothing() {
                whole("fair", run(Plan::Fair, Plan::Fair, usize::MAX));
                whole("bytewise", run(Plan::Bytewise, Plan::Bytewise, usize::MAX));
                for seed in 0..60 {
                    let (near, far) = (Plan::Random(Random(seed)), Plan::Random(Random(!seed)));
                    whole(&format!("seed {seed}"), run(near, far, usize::MAX));
                }
            }

            #[test]
            fn receives_that_are_dropped_at_any_poll_lose_nothing() {
                for polls in 0..12 {
                    for seed in 0..8 {
                        let (near, far) = (Plan::Random(Random(seed)), Plan::Random(Random(!seed)));
                        whole(&format!("seed {seed}, {polls} polls"), run(near, far, polls));
                    }
                }
            }

            /// Whatever call fails, both sides end, and what they got is what was sent, as far as it goes.
            fn at_every_call(turn: Turn) {
                for is_client in [true, false] {
                    for at in 0.. {
                        assert!(at < CALLS, "the plan never runs out");
                        let once = Plan::Once(at, turn);
                        let (near, far) = if is_client { ends(once, Plan::Fair) } else { ends(Plan::Fair, once) };
                        let calls = if is_client { near.calls.clone() } else { far.calls.clone() };
                        let (client, server) = block_on(join(client(near, usize::MAX), server(far, usize::MAX)));
                        for side in [&client, &server] {
                            assert!(messages().starts_with(&side.got), "{turn:?} at {at}: {side:?}");
                        }
                        assert!(client.got.len() <= server.got.len(), "{turn:?} at {at}");
                        if !lock(&calls).hit {
                            whole("no call was spoilt", (client, server));
                            break;
                        }
                    }
                }
            }

            #[test]
            fn a_reset_at_any_call_ends_both_sides() {
                at_every_call(Turn::Fail(ErrorKind::ConnectionReset));
            }

            #[test]
            fn an_early_end_at_any_call_ends_both_sides() {
                at_every_call(Turn::Nothing);
            }

            /// A call that is interrupted, or would have to wait, is none that fails.
            #[test]
            fn an_interruption_at_any_call_changes_nothing() {
                for turn in [Turn::Fail(ErrorKind::Interrupted), Turn::Wait] {
                    for at in 0..40 {
                        whole(&format!("{turn:?} at {at}"), run(Plan::Once(at, turn), Plan::Fair, usize::MAX));
                        whole(&format!("{turn:?} at {at}"), run(Plan::Fair, Plan::Once(at, turn), usize::MAX));
                    }
                }
            }
        }
    };
}

streams!(tokio_streams, parley_tokio, |future| {
    tokio::runtime::Builder::new_current_thread().enable_all().start_paused(true).build().unwrap().block_on(future)
});
streams!(async_std_streams, parley_async_std, async_std::task::block_on);

/// Below TLS an interruption is not to be seen above: a handshake would fail, and what TLS has taken be sent once more.
#[test]
fn tls_over_a_stream_in_pieces_doubles_nothing() {
    use futures_util::future::join;
    use parley_async_std::{AsyncStd, Tls, Transport};
    use parley_proto::driver::TlsTarget;
    use parley_tests::{ca::Ca, io};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const LEN: usize = 100_000;
    let ca = Ca::new("the streams' CA");
    let acceptor = tokio_rustls::TlsAcceptor::from(ca.server_config(&[]));
    for seed in 0..20 {
        let (near, far) = ends(Plan::Random(Random(seed)), Plan::Fair);
        let runtime = AsyncStd::new().unwrap().with_tls(Tls::with_config(ca.client_config().into()));
        let client = async {
            let target = TlsTarget::new("localhost");
            let mut transport = runtime.start_tls_over(Transport::new(near), &target).await.unwrap();
            let sent: Vec<u8> = (0..LEN).map(|n| n as u8).collect();
            io::write_all(&mut transport, &mut [IoSlice::new(&sent)]).await.unwrap();
            assert!(io::read_exact(&mut transport, LEN).await.unwrap() == sent, "seed {seed}");
        };
        let server = async {
            let mut stream = acceptor.accept(far).await.unwrap();
            let mut received = vec![0; LEN];
            stream.read_exact(&mut received).await.unwrap();
            stream.write_all(&received).await.unwrap();
            stream.flush().await.unwrap();
        };
        async_std::task::block_on(join(client, server));
    }
}
