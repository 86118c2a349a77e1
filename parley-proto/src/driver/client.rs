//! A client as its user holds it, and the future that is its life.

use std::fmt;
use std::future::{Future, poll_fn};
use std::io as std_io;
use std::marker::PhantomData;
use std::ops::Deref;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll, ready};

use super::handle::{Fate, Handle, Shared, Ticket};
use super::io::Io;
use super::runtime::Runtime;
use super::{End, Ending, drive};
use crate::error::{DisconnectReason, SharedError, StopReason};
use crate::handler::Handler;
use crate::handshake::ApiMisuse;
use crate::session::{ClientOptions, Session};

/// A client that has no handler yet: its own handle is there, for a handler that wants one.
pub struct Setup<I> {
    options: ClientOptions,
    shared: Arc<Shared<I>>,
}

impl<I: Send + 'static> Setup<I> {
    /// From the client's options.
    #[must_use]
    pub fn new(options: ClientOptions) -> Self {
        Self { shared: Shared::new(options.limits()), options }
    }

    /// The client's own handle.
    #[must_use]
    pub fn own_handle(&self) -> Handle<I> {
        Handle::new(self.shared.clone(), true)
    }

    /// The client, and the future that runs it; the adapter spawns the future.
    pub fn client<R, H>(self, runtime: R, handler: H) -> (Client<H, I>, impl Future<Output = ()> + Send + use<R, H, I>)
    where
        R: Runtime,
        H: Handler<I>,
    {
        let shared = self.shared.clone();
        client_of(self.into_io(runtime), shared, handler)
    }

    /// The client as one future, which resolves when it has ended. There is no handle but the client's own, so
    /// without reconnection it returns after its one connection.
    ///
    /// # Cancel safety
    ///
    /// Dropping the future aborts the client: the connection is closed at once, without a Close, everybody who waits is
    /// answered, and no callback runs. The handler is dropped with it.
    pub fn run<R, H>(
        self,
        runtime: R,
        handler: H,
    ) -> impl Future<Output = Result<H, JoinError<H>>> + Send + use<R, H, I>
    where
        R: Runtime,
        H: Handler<I>,
    {
        let life = Box::pin(drive(self.into_io(runtime), handler));
        async move { life.await.into_result() }
    }

    fn into_io<R: Runtime>(self, runtime: R) -> Io<R, I> {
        let name = self.options.name.clone();
        let (session, shared) = self.into_session(runtime.seed());
        Io::new(runtime, session, Ending::new(shared, name))
    }
}

/// A client, and the future that runs it.
pub(super) fn client_of<R, H, I>(
    io: Io<R, I>,
    shared: Arc<Shared<I>>,
    handler: H,
) -> (Client<H, I>, impl Future<Output = ()> + Send + Unpin + use<R, H, I>)
where
    R: Runtime,
    H: Handler<I>,
    I: Send + 'static,
{
    let guard = JoinGuard::<H, I> { shared: Some(shared.clone()), handler: PhantomData };
    let outcome = |outcome: Fate| outcome.downcast().map_or(None, |outcome| Some(*outcome));
    let client = Client { join: Join { handle: Handle::new(shared, false), outcome }, platform: PhantomData };
    (client, Life { drive: Box::pin(drive(io, handler)), guard })
}

/// The future of a client that can be joined. What drives it is boxed, to be held once, however often this is moved on.
struct Life<F, H: Send + 'static, I> {
    drive: Pin<Box<F>>,
    guard: JoinGuard<H, I>,
}

impl<F: Future<Output = End<H>>, H: Send + 'static, I> Future for Life<F, H, I> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let end = ready!(self.drive.as_mut().poll(cx));
        self.guard.hand_over(end.into_result());
        Poll::Ready(())
    }
}

impl<I> Setup<I> {
    pub(super) fn into_session(self, seed: [u8; 32]) -> (Session<I, Ticket>, Arc<Shared<I>>) {
        (Session::new(Arc::new(self.options), seed), self.shared)
    }
}

impl<I> fmt::Debug for Setup<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Setup").field("options", &self.options).finish_non_exhaustive()
    }
}

impl<H> End<H> {
    fn into_result(self) -> Result<H, JoinError<H>> {
        let ok = match self.reason {
            StopReason::Stopped => true,
            StopReason::Disconnected(_) => self.clean,
            _ => false,
        };
        match self.handler {
            Some(handler) if ok => Ok(handler),
            handler => Err(JoinError::new(self.reason, handler)),
        }
    }
}

/// A client that was started. It derefs to its [`Handle`]; dropping it detaches the client. `P` is the
/// [`Platform`](super::Platform) that it was built for.
pub struct Client<H, I = (), P = ()> {
    join: Join<H, I>,
    platform: PhantomData<fn() -> P>,
}

impl<H, I> Client<H, I> {
    /// The same as a client of this platform.
    pub(super) fn on<P>(self) -> Client<H, I, P> {
        Client { join: self.join, platform: PhantomData }
    }
}

impl<H, I, P> Client<H, I, P> {
    /// Waits until `init` has run.
    ///
    /// # Cancel safety
    ///
    /// Cancel-safe: it changes nothing.
    ///
    /// # Errors
    ///
    /// `init` failed or panicked, or the client's future was dropped.
    pub async fn started(&self) -> Result<(), StartError> {
        self.join.handle.wait_started().await.map_err(|reason| match reason {
            StopReason::Handler(error) => StartError::Init(error),
            StopReason::Panicked => StartError::Panicked,
            StopReason::NameInUse => StartError::NameInUse,
            StopReason::Disconnected(reason) => StartError::Disconnected(reason),
            _ => StartError::Aborted,
        })
    }

    /// Waits for the client's end, and gives the handler back. Gives up this handle: a client that is disconnected
    /// and has no other ends now.
    ///
    /// # Cancel safety
    ///
    /// Dropped, also before its first poll, it detaches the client, which lives on; its end can be waited for no more, and
    /// the handler is not handed back. Nothing that was sent is lost.
    ///
    /// # Errors
    ///
    /// The client ended otherwise than by `stop`, `Action::Stop`, or a clean close.
    pub async fn join(self) -> Result<H, JoinError<H>> {
        let Self { mut join, .. } = self;
        join.handle.give_up();
        let outcome = poll_fn(|cx| join.handle.shared().poll_join(cx)).await;
        (join.outcome)(outcome).expect("what was handed over is of the type that this handler was started with")
    }

    /// Another handle, for another task. Shorthand for cloning what this derefs to.
    #[must_use]
    pub fn handle(&self) -> Handle<I> {
        self.join.handle.clone()
    }
}

impl<H, I, P> Deref for Client<H, I, P> {
    type Target = Handle<I>;

    fn deref(&self) -> &Handle<I> {
        &self.join.handle
    }
}

impl<H, I, P> fmt::Debug for Client<H, I, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Client").field("state", &self.state()).finish_non_exhaustive()
    }
}

/// To wait for the client's end; dropped, it detaches the client.
struct Join<H, I> {
    handle: Handle<I>,
    /// What was handed over, with its type, which the handles do not know.
    outcome: fn(Fate) -> Option<Result<H, JoinError<H>>>,
}

impl<H, I> Drop for Join<H, I> {
    fn drop(&mut self) {
        self.handle.shared().detach();
    }
}

/// Tells whoever joins how the client has ended: if by nothing else, by its future being dropped.
struct JoinGuard<H: Send + 'static, I> {
    /// `None`: it was told.
    shared: Option<Arc<Shared<I>>>,
    handler: PhantomData<fn() -> H>,
}

impl<H: Send + 'static, I> JoinGuard<H, I> {
    fn hand_over(&mut self, outcome: Result<H, JoinError<H>>) {
        if let Some(shared) = self.shared.take() {
            shared.hand_over(Box::new(outcome));
        }
    }
}

impl<H: Send + 'static, I> Drop for JoinGuard<H, I> {
    fn drop(&mut self) {
        self.hand_over(Err(JoinError::new(StopReason::Aborted, None)));
    }
}

/// A client ended otherwise than it was told to. Send and Sync whatever the handler is.
pub struct JoinError<H> {
    reason: StopReason,
    handler: Mutex<Option<H>>,
}

impl<H> JoinError<H> {
    /// For an adapter whose runtime could not run the client.
    #[must_use]
    pub fn new(reason: StopReason, handler: Option<H>) -> Self {
        Self { reason, handler: Mutex::new(handler) }
    }

    /// Why the client ended.
    #[must_use]
    pub fn reason(&self) -> &StopReason {
        &self.reason
    }

    /// The handler; `None` after a panic, and when the client's future was dropped.
    #[must_use]
    pub fn into_handler(self) -> Option<H> {
        self.handler.into_inner().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<H> fmt::Debug for JoinError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("JoinError").field("reason", &self.reason).finish_non_exhaustive()
    }
}

impl<H> fmt::Display for JoinError<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.reason.fmt(f)
    }
}

impl<H> std::error::Error for JoinError<H> {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&self.reason)
    }
}

/// Why a client did not start. Nothing has connected.
#[derive(Debug)]
#[non_exhaustive]
pub enum StartError {
    /// There is no runtime to start it on.
    NoRuntime,
    /// The runtime cannot give what the client needs, such as unpredictable bytes.
    Runtime(std_io::Error),
    /// The handler's `init` returned this error.
    Init(SharedError),
    /// Another client has the name.
    NameInUse,
    /// The handler's `init` panicked.
    Panicked,
    /// Before `init` had run, the client's future was dropped, its runtime shut down, or its server did.
    Aborted,
    /// Server: the connection was gone before it was accepted.
    Disconnected(DisconnectReason),
    /// Server: the reply does not fit the request.
    Reply(ApiMisuse),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoRuntime => f.write_str("no runtime to start the client on"),
            Self::Runtime(error) => write!(f, "the runtime cannot run a client: {error}"),
            Self::Init(error) => write!(f, "init failed: {error}"),
            Self::NameInUse => f.write_str("another client has that name"),
            Self::Panicked => f.write_str("init panicked"),
            Self::Aborted => f.write_str("the client ended before init had run"),
            Self::Disconnected(reason) => reason.fmt(f),
            Self::Reply(error) => error.fmt(f),
        }
    }
}

impl std::error::Error for StartError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Runtime(error) => Some(error),
            Self::Init(error) => Some(error.get()),
            Self::Disconnected(reason) => Some(reason),
            Self::Reply(error) => Some(error),
            _ => None,
        }
    }
}
