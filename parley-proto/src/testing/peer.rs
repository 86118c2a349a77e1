//! A scripted server: the server role of [`Connection`] in a task of its own, which a test gives orders.
//!
//! The task owns connection and transport; orders go in and frames come out through a mailbox, whose lock is never held
//! while a waker is called.

use std::collections::VecDeque;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io::IoSlice;
use std::panic::Location;
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};

use super::executor::SimClock;
use super::{Listener, Sim, SimTransport, Wire, lock};
use crate::Role;
use crate::codec::{CloseFrame, Frame};
use crate::connection::{Closed, Config, Connection, Event, Shutdown};
use crate::driver::{Clock, Transport};
use crate::handshake::{Acceptance, Rejection, Request};

/// Bytes of a read.
const WINDOW: usize = 16 * 1024;
/// For how long a client may take with its request: the patience is the client's to test, not the peer's.
const PATIENCE: Duration = Duration::from_secs(24 * 3600);

impl Listener {
    /// The next client, its request accepted without a subprotocol. Connections that ended before their request was
    /// whole, or that the client has given up while they waited here, are passed over.
    ///
    /// Not cancel-safe: dropped, it may take a connection with it.
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = Peer> + Send {
        self.accept_with(Acceptance::new())
    }

    /// The next client, its request accepted by this reply: with a subprotocol, or with header fields.
    ///
    /// # Panics
    ///
    /// If the reply does not fit the request: its subprotocol was not offered, say.
    #[track_caller]
    pub fn accept_with(&self, reply: Acceptance) -> impl Future<Output = Peer> + Send {
        let at = Location::caller();
        async move {
            let (mut pump, request, wire) = self.requested(at).await;
            let now = pump.clock.now();
            if let Err(error) = pump.connection.accept(now, reply) {
                panic!("{at}: the reply does not fit the request: {error}");
            }
            let mailbox = pump.mailbox.clone();
            self.sim.spawn_own(pump.run());
            Peer { sim: self.sim.clone(), place: self.place.clone(), mailbox, request, wire }
        }
    }

    /// The next client, its request refused by this reply.
    #[track_caller]
    pub fn reject(&self, reply: Rejection) -> impl Future<Output = Request> + Send {
        let at = Location::caller();
        async move {
            let (mut pump, request, _) = self.requested(at).await;
            let now = pump.clock.now();
            pump.connection.reject(now, reply).expect("a request is waiting");
            self.sim.spawn_own(pump.run());
            request
        }
    }

    async fn requested(&self, at: &'static Location<'static>) -> (Pump, Request, Wire) {
        loop {
            let transport = self.next_transport(at).await;
            let wire = transport.wire();
            let mut pump = Pump::new(&self.sim, transport);
            let what = || format!("the request of the client at {}", self.place);
            match self.sim.wait(at, what, |cx| pump.poll_request(cx)).await {
                Some(request) if !wire.is_closed_by_client() => return (pump, request, wire),
                _ => {}
            }
        }
    }
}

/// The server's end of a connection, played by a test: see [`Listener::accept`].
///
/// It lives beside the test, as a server would: while the test does something else, or waits for an hour, it reads,
/// answers pings and Closes (unless it is [stalled](Self::stall)), and keeps what it received. It sends no pings of its
/// own and has no deadline but for the closing handshake.
///
/// Messages, pings and pongs wait in a queue each, so that the client's keepalive does not get in the way of its messages.
/// Orders are carried out in their turn, before any time passes; those that come too late, since the connection has
/// ended, do nothing. Dropped, it [hangs up](Self::hang_up).
pub struct Peer {
    sim: Sim,
    place: Arc<str>,
    mailbox: Arc<Mutex<Mailbox>>,
    request: Request,
    wire: Wire,
}

impl Peer {
    /// The client's request: path, header fields, subprotocols.
    #[must_use]
    pub fn request(&self) -> &Request {
        &self.request
    }

    /// The next text or binary message of the client; `None`: the connection has ended, however. Cancel-safe.
    #[track_caller]
    pub fn next_frame(&mut self) -> impl Future<Output = Option<Frame>> + Send {
        self.next("a message", |mailbox| &mut mailbox.messages)
    }

    /// The payload of the client's next ping, which was answered when it came; `None`: the connection has ended.
    /// Cancel-safe.
    #[track_caller]
    pub fn next_ping(&mut self) -> impl Future<Output = Option<Bytes>> + Send {
        self.next("a ping", |mailbox| &mut mailbox.pings)
    }

    /// The payload of the client's next pong; `None`: the connection has ended. Cancel-safe.
    #[track_caller]
    pub fn next_pong(&mut self) -> impl Future<Output = Option<Bytes>> + Send {
        self.next("a pong", |mailbox| &mut mailbox.pongs)
    }

    /// The messages that are here and were not taken yet.
    #[must_use]
    pub fn take_frames(&mut self) -> Vec<Frame> {
        lock(&self.mailbox).messages.drain(..).collect()
    }

    /// Waits until the connection has ended, and says how this side saw it. Messages that were not taken stay.
    #[track_caller]
    pub fn closed(&mut self) -> impl Future<Output = Closed> + Send {
        let at = Location::caller();
        let what = || format!("the end of the connection to {}", self.place);
        self.sim.wait(at, what, |cx| {
            let mut mailbox = lock(&self.mailbox);
            match mailbox.closed.clone() {
                Some(closed) => Poll::Ready(closed),
                None => mailbox.wait(cx),
            }
        })
    }

    /// Sends a frame.
    pub fn send(&mut self, frame: Frame) {
        self.order(Order::Send(frame));
    }

    /// Sends bytes as they are: half a frame, a malformed one, garbage. They come behind what was sent before; a pong that
    /// is sent meanwhile may come between two calls.
    pub fn send_bytes(&mut self, bytes: impl Into<Bytes>) {
        self.order(Order::Bytes(bytes.into()));
    }

    /// Begins the closing handshake. What comes of it is in [`closed`](Self::closed).
    pub fn close(&mut self, close: CloseFrame) {
        self.order(Order::Close(close));
    }

    /// Ends the stream without a Close, behind what was sent before: the client sees
    /// [`Eof`](crate::DisconnectReason::Eof). Nothing that arrives later is kept.
    pub fn hang_up(&mut self) {
        self.order(Order::HangUp);
    }

    /// Closes with a reset, at once: what the client has not read is lost.
    pub fn reset(&mut self) {
        self.order(Order::Reset);
    }

    /// Stops reading: pings and Closes go unanswered, and the client's writes fill the link. Sending goes on.
    pub fn stall(&mut self) {
        self.order(Order::Stall(true));
    }

    /// Goes on reading.
    pub fn resume(&mut self) {
        self.order(Order::Stall(false));
    }

    /// A hand on the connection: for reads and writes of the client that fail.
    #[must_use]
    pub fn wire(&self) -> &Wire {
        &self.wire
    }

    fn order(&self, order: Order) {
        let waker = {
            let mut mailbox = lock(&self.mailbox);
            mailbox.orders.push_back(order);
            mailbox.pump.take()
        };
        waker.into_iter().for_each(Waker::wake);
    }

    #[track_caller]
    fn next<T>(
        &mut self,
        what: &'static str,
        queue: fn(&mut Mailbox) -> &mut VecDeque<T>,
    ) -> impl Future<Output = Option<T>> + Send
    where
        T: Send,
    {
        let at = Location::caller();
        let (place, mailbox) = (&self.place, &self.mailbox);
        let what = move || format!("{what} from the client at {place}");
        self.sim.wait(at, what, move |cx| {
            let mut mailbox = lock(mailbox);
            match queue(&mut mailbox).pop_front() {
                Some(item) => Poll::Ready(Some(item)),
                None if mailbox.closed.is_some() => Poll::Ready(None),
                None => mailbox.wait(cx),
            }
        })
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        self.order(Order::HangUp);
    }
}

impl fmt::Debug for Peer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let closed = lock(&self.mailbox).closed.clone();
        f.debug_struct("Peer").field("place", &self.place).field("closed", &closed).finish_non_exhaustive()
    }
}

enum Order {
    Send(Frame),
    Bytes(Bytes),
    Close(CloseFrame),
    HangUp,
    Reset,
    Stall(bool),
}

/// Between a [`Peer`] and its task.
#[derive(Default)]
struct Mailbox {
    orders: VecDeque<Order>,
    pump: Option<Waker>,
    messages: VecDeque<Frame>,
    pings: VecDeque<Bytes>,
    pongs: VecDeque<Bytes>,
    closed: Option<Closed>,
    waiting: Vec<Waker>,
}

impl Mailbox {
    fn wait<T>(&mut self, cx: &Context<'_>) -> Poll<T> {
        self.waiting.push(cx.waker().clone());
        Poll::Pending
    }
}

/// A peer's task.
struct Pump {
    connection: Connection,
    /// `None`: it is closed.
    transport: Option<SimTransport>,
    window: BytesMut,
    /// What is to be written, scripted bytes among the connection's.
    out: BytesMut,
    clock: SimClock,
    /// The end of our direction is to follow `out`, and what then.
    ending: Option<Shutdown>,
    stalled: bool,
    /// It has hung up: it reads to the end of the stream, and keeps nothing.
    gone: bool,
    mailbox: Arc<Mutex<Mailbox>>,
}

impl Pump {
    fn new(sim: &Sim, transport: SimTransport) -> Self {
        let mut config = Config::new(Role::Server);
        config.keepalive = None;
        Self {
            connection: Connection::server(Arc::new(config), [0; 32], sim.now() + PATIENCE),
            transport: Some(transport),
            window: BytesMut::new(),
            out: BytesMut::new(),
            clock: sim.clock(),
            ending: None,
            stalled: false,
            gone: false,
            mailbox: Arc::default(),
        }
    }

    /// Runs to the end of the connection.
    async fn run(mut self) {
        poll_fn(|cx| {
            loop {
                let mut progress = self.obey(cx);
                while let Some(event) = self.connection.poll_event() {
                    self.deliver(event);
                    progress = true;
                }
                progress |= self.turn(cx);
                if self.transport.is_none() && !progress {
                    return Poll::Ready(());
                }
                if !progress {
                    return Poll::Pending;
                }
            }
        })
        .await;
    }

    /// The client's request; `None`: the connection has ended before it.
    fn poll_request(&mut self, cx: &mut Context<'_>) -> Poll<Option<Request>> {
        loop {
            match self.connection.poll_event() {
                Some(Event::Request(request)) => return Poll::Ready(Some(*request)),
                Some(_) => return Poll::Ready(None), // its end: nothing else comes before a request
                None if !self.turn(cx) => return Poll::Pending,
                None => {}
            }
        }
    }

    /// Carries out what the test has ordered. Whether there was something.
    fn obey(&mut self, cx: &Context<'_>) -> bool {
        let orders = {
            let mut mailbox = lock(&self.mailbox);
            mailbox.pump = Some(cx.waker().clone());
            std::mem::take(&mut mailbox.orders)
        };
        let some = !orders.is_empty();
        self.collect(); // what the connection had to say comes first: its reply to the request, say
        for order in orders {
            let now = self.clock.now();
            match order {
                Order::Send(frame) => {
                    let _refused = self.connection.send(now, frame); // the connection is over, as the test sees by `closed`
                }
                Order::Bytes(bytes) if self.transport.is_some() && self.ending.is_none() => self.out.extend(bytes),
                Order::Bytes(_) => {}
                Order::Close(close) => self.connection.close(now, &close),
                Order::HangUp => {
                    self.gone = true;
                    self.stalled = false;
                    self.connection.abort(now);
                    self.ending.get_or_insert(Shutdown::Write);
                }
                Order::Reset => {
                    self.transport.take().iter().for_each(SimTransport::reset);
                    self.connection.abort(now);
                }
                Order::Stall(stalled) => self.stalled = stalled,
            }
            self.collect();
        }
        some
    }

    /// What the connection wants to send comes behind what is to be sent already.
    fn collect(&mut self) {
        while self.connection.queued() > 0 {
            let before = self.out.len();
            self.connection.transmit().iter().for_each(|slice| self.out.extend_from_slice(slice));
            let now = self.clock.now();
            self.connection.handle_written(now, self.out.len() - before);
        }
    }

    fn deliver(&self, event: Event) {
        let waiting = {
            let mut mailbox = lock(&self.mailbox);
            match event {
                Event::Frame(Frame::Ping(payload)) => mailbox.pings.push_back(payload),
                Event::Frame(Frame::Pong(payload)) => mailbox.pongs.push_back(payload),
                Event::Frame(message) => mailbox.messages.push_back(message),
                Event::Closed(closed) => mailbox.closed = Some(*closed),
                _ => {}
            }
            std::mem::take(&mut mailbox.waiting)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// One turn of I/O and time. Whether it got anywhere.
    fn turn(&mut self, cx: &mut Context<'_>) -> bool {
        self.collect();
        let mut progress = self.write(cx);
        if let Some(how) = self.connection.poll_shutdown()
            && !self.gone
        {
            self.ending = Some(how);
            progress = true;
        }
        progress |= self.end(cx);
        progress |= !self.stalled && self.read(cx);
        if let Some((at, _)) = self.connection.poll_timeout()
            && self.clock.poll_sleep(cx, at).is_ready()
        {
            let now = self.clock.now();
            self.connection.handle_timeout(now);
            progress = true;
        }
        progress
    }

    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        let Some(transport) = &mut self.transport else { return false };
        let mut progress = false;
        while !self.out.is_empty() {
            match transport.poll_write(cx, &[IoSlice::new(&self.out)]) {
                Poll::Ready(Ok(n)) => self.out.advance(n),
                Poll::Ready(Err(error)) => {
                    self.out.clear();
                    self.connection.handle_lost(now, error.into());
                }
                Poll::Pending => break,
            }
            progress = true;
        }
        let _ = transport.poll_flush(cx); // a failure is seen by the next write or read
        progress
    }

    /// Ends our direction, once all is written, and closes the transport if that is what the connection wants.
    fn end(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(how) = self.ending else { return false };
        let Some(transport) = &mut self.transport else { return false };
        if how == Shutdown::Abort {
            self.transport = None;
            return true;
        }
        if !self.out.is_empty() || transport.poll_shutdown(cx).is_pending() {
            return false;
        }
        if how == Shutdown::Close {
            self.transport = None;
        }
        self.ending = None;
        true
    }

    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.clock.now();
        let Some(transport) = &mut self.transport else { return false };
        if !self.gone && !self.connection.wants_input() {
            return false;
        }
        self.window.reserve(WINDOW);
        match transport.poll_read(cx, &mut self.window) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0) | Err(_)) if self.gone => self.transport = None,
            Poll::Ready(Ok(_)) if self.gone => self.window.clear(),
            Poll::Ready(Ok(0)) => self.connection.handle_eof(now),
            Poll::Ready(Ok(_)) => self.connection.handle_input(now, &mut self.window),
            Poll::Ready(Err(error)) => self.connection.handle_lost(now, error.into()),
        }
        true
    }
}
