//! The one async loop, generic over [`Runtime`] and [`Transport`]: it carries out what the session wants and runs the
//! handler's callbacks beside the I/O, in one task, without naming a runtime.
//!
//! An adapter makes a [`Setup`], and spawns the future of [`Setup::client`] or hands out that of [`Setup::run`]; how to write one
//! is in the [guide](crate::guide::adapter).

mod broadcast;
mod builder;
mod census;
mod client;
mod handle;
mod io;
mod link;
mod names;
mod pipe;
mod runtime;
mod server;
mod socket;
mod split;
mod stats;
#[cfg(feature = "tls")]
mod tls;
mod trace;

use std::convert::{Infallible, identity};
use std::future::{Future, poll_fn};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

pub use broadcast::{Broadcast, BroadcastStats, Delivered, Slow, Subscription};
pub use builder::{ClientBuilder, upgraded};
#[cfg(feature = "tls")]
pub use rustls;

pub use client::{Client, JoinError, Setup, StartError};
pub use handle::{Handle, InfoError, MessageWriter};
pub use names::{LookupError, lookup};
pub use runtime::{Clock, Platform, Runtime, Transport};
pub use server::{AcceptError, Incoming, Server, ServerBuilder, ServerStats, Upgraded, server};
pub use socket::{Error, Part, Reply, WebSocket};
pub use split::{WebSocketReceiver, WebSocketSender};
pub use stats::Stats;
#[cfg(feature = "tls")]
pub use tls::{Tls, TlsClient};

pub use crate::transport::{TcpOptions, TlsError, TlsFacts, TlsTarget, TransportFacts};

use crate::error::{SendError, StopReason};
use crate::handler::Handler;
use crate::session::{Call, Returned};
use io::{Io, Next, Offered};

/// How a client's life ended, with its handler unless a callback panicked.
struct End<H> {
    reason: StopReason,
    clean: bool,
    handler: Option<H>,
}

/// A client at work. The futures below refer to both by one word: each would keep two.
struct Driven<R: Runtime, H, I> {
    io: Io<R, I>,
    handler: H,
}

/// Drives one client to its end. All of it is in this future, which is to be boxed.
fn drive<R, H, I>(io: Io<R, I>, handler: H) -> impl Future<Output = End<H>> + Send
where
    R: Runtime,
    H: Handler<I>,
    I: Send + 'static,
{
    let mut client = Driven { io, handler };
    async move {
        if let Err(reason) = client.io.ending.take_name() {
            client.io.ending.end(reason.clone());
            return End { reason, clean: false, handler: Some(client.handler) };
        }
        let span = client.io.trace.span.clone();
        let caught = {
            let mut life = pin!(live(&mut client));
            // One catch around a whole wake-up costs nothing a frame.
            poll_fn({
                let span = span.clone(); // nothing without the feature, where a reference would be a word
                move |cx| match catch_unwind(AssertUnwindSafe(|| span.in_scope(|| life.as_mut().poll(cx)))) {
                    Ok(poll) => poll.map(Result::err),
                    Err(_) => Poll::Ready(None),
                }
            })
            .await
        };
        // Moved on: under its name it would be kept while the connection is closed after a panic.
        let Some(reason) = identity(caught) else {
            // What a panic left half-way is not used again, and its own destructor may panic too.
            let _ = catch_unwind(AssertUnwindSafe(move || drop(client.handler)));
            client.io.session.called(client.io.now, Returned::Panicked);
            let reason = poll_fn(|cx| span.in_scope(|| poll_end(&mut client.io, cx))).await;
            return client.io.end(reason, None);
        };
        client.io.end(reason, Some(client.handler))
    }
}

impl<R: Runtime, I> Io<R, I> {
    fn end<H>(&mut self, reason: StopReason, handler: Option<H>) -> End<H> {
        let clean = self.session.ended_cleanly();
        self.ending.end(reason.clone());
        End { reason, clean, handler }
    }
}

/// After a panic: the connection is closed, no callback runs.
fn poll_end<R: Runtime, I: Send + 'static>(io: &mut Io<R, I>, cx: &mut Context<'_>) -> Poll<StopReason> {
    match io.poll_next(cx) {
        Poll::Ready(Next::Stopped(reason)) => Poll::Ready(reason),
        Poll::Ready(Next::Call(_) | Next::Message) => unreachable!("a session that panicked calls nothing"),
        Poll::Pending => Poll::Pending,
    }
}

/// Marks the client as ended; its name is free by then.
struct Ending<I> {
    shared: Arc<handle::Shared<I>>,
    /// Boxed: few have one.
    name: Option<Box<Named>>,
}

/// A client's name, which is taken when it begins.
enum Named {
    Wanted(String),
    Taken(#[expect(dead_code, reason = "it is dropped")] names::Name),
}

impl<I> Ending<I> {
    fn new(shared: Arc<handle::Shared<I>>, name: Option<String>) -> Self {
        Self { shared, name: name.map(Named::Wanted).map(Box::new) }
    }

    fn wanted_name(&self) -> Option<&str> {
        match self.name.as_deref()? {
            Named::Wanted(name) => Some(name),
            Named::Taken(_) => None,
        }
    }

    fn end(&mut self, reason: StopReason) {
        self.name = None;
        self.shared.end(reason, []);
    }

    /// Its future is dropped; with what became of those who wait.
    fn abort(&mut self, outcomes: impl IntoIterator<Item = (handle::Ticket, Result<(), SendError>)>) {
        self.name = None;
        self.shared.end(StopReason::Aborted, outcomes);
    }
}

impl<I: Send + 'static> Ending<I> {
    fn take_name(&mut self) -> Result<(), StopReason> {
        if let Some(wanted) = self.wanted_name() {
            let name = names::Name::take(wanted, &self.shared).ok_or(StopReason::NameInUse)?;
            self.name = Some(Box::new(Named::Taken(name)));
        }
        Ok(())
    }
}

/// Callback after callback, until the session says that the client has ended: an error is the reason of that.
#[expect(clippy::manual_async_fn, reason = "an async fn stores its arguments twice")]
fn live<R, H, I>(client: &mut Driven<R, H, I>) -> impl Future<Output = Result<Infallible, StopReason>> + Send
where
    R: Runtime,
    H: Handler<I>,
    I: Send + 'static,
{
    async move {
        loop {
            // Told apart before anything waits, and the rarer callbacks by themselves: what one wait of several keeps takes room
            // beside that of each.
            let Some(call) = poll_fn(|cx| client.io.poll_next(cx)).await.into_call()? else {
                // The messages of one read, without a look at anything else.
                'messages: loop {
                    match client.io.lend_message(&mut client.handler) {
                        Offered::Nothing => break,
                        Offered::Passed => {}
                        Offered::Done => continue,
                    }
                    // Nothing holds the message but the callback that is made of it here: what is named is kept, and moved.
                    let returned = {
                        let callback = pin!(client.handler.handle_frame(match client.io.poll_message() {
                            Some(message) => message,
                            None => break 'messages,
                        }));
                        beside(&mut client.io, callback).await
                    };
                    client.io.acted(returned);
                }
                continue;
            };
            run(client, call).await;
        }
    }
}

/// A callback that is not for a message.
#[expect(clippy::manual_async_fn, reason = "an async fn stores its arguments twice")]
fn run<R, H, I>(client: &mut Driven<R, H, I>, call: Call<I>) -> impl Future<Output = ()> + Send
where
    R: Runtime,
    H: Handler<I>,
    I: Send + 'static,
{
    async move {
        match call {
            Call::Frame(frame) => {
                let returned = beside(&mut client.io, pin!(client.handler.handle_ping(frame.into_payload()))).await;
                client.io.acted(returned);
            }
            Call::Chunk(chunk) => {
                let returned = beside(&mut client.io, pin!(client.handler.handle_chunk(*chunk))).await;
                client.io.acted(returned);
            }
            Call::Info(info) => {
                let returned = beside(&mut client.io, pin!(client.handler.handle_info(info))).await;
                client.io.acted(returned);
            }
            Call::Connect(connected) => {
                let returned = beside(&mut client.io, pin!(client.handler.handle_connect(&connected))).await;
                client.io.acted(returned);
            }
            Call::Init => {
                let returned = beside(&mut client.io, pin!(client.handler.init())).await;
                let started = matches!(returned, Some(Ok(())));
                client.io.take_commands(); // what was asked for meanwhile decides whether an attempt follows
                client.io.called(returned.map_or(Returned::Dropped, Returned::Init));
                if started {
                    client.io.offer();
                    client.io.tell(); // the client is connecting when `start` returns: what is sent then waits
                    client.io.ending.shared.started();
                }
            }
            Call::Prepare(mut call) => {
                let (attempt, request) = &mut *call;
                let returned = beside(&mut client.io, pin!(client.handler.prepare(attempt, request))).await;
                let returned = match returned {
                    Some(outcome) => Returned::Prepare(outcome.map(|()| Box::new(call.1))),
                    None => Returned::Dropped,
                };
                client.io.called(returned);
            }
            Call::Disconnect(reason) => {
                let returned = beside(&mut client.io, pin!(client.handler.handle_disconnect(&reason))).await;
                client.io.take_commands(); // what was meant for the connection that is lost is not for the next
                client.io.called(returned.map_or(Returned::Dropped, Returned::Retry));
            }
            Call::Terminate(reason) => {
                let returned = beside(&mut client.io, pin!(client.handler.terminate(&reason))).await;
                client.io.called(returned.map_or(Returned::Dropped, |()| Returned::Terminated));
            }
        }
    }
}

/// Polls a callback, and the I/O beside it whenever it waits. One that is ready at once costs a call. `None`: the
/// session wanted it dropped.
///
/// Not the callback itself but a pin of it: whatever is handed a future to own moves it.
struct Beside<'a, R: Runtime, I, F> {
    io: &'a mut Io<R, I>,
    callback: Pin<&'a mut F>,
}

fn beside<'a, R: Runtime, I, F>(io: &'a mut Io<R, I>, callback: Pin<&'a mut F>) -> Beside<'a, R, I, F> {
    Beside { io, callback }
}

impl<R: Runtime, I: Send + 'static, F: Future> Future for Beside<'_, R, I, F> {
    type Output = Option<F::Output>;

    #[inline(always)]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let Self { io, callback } = self.get_mut();
        io.resume();
        match callback.as_mut().poll(cx) {
            Poll::Ready(returned) => Poll::Ready(Some(returned)),
            Poll::Pending if io.poll_beside(cx) => Poll::Ready(None),
            Poll::Pending => Poll::Pending,
        }
    }
}
