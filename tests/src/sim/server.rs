//! The server role of [`Connection`] at the other end of a pipe.

use std::fmt;
use std::future::poll_fn;
use std::io::IoSlice;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::BytesMut;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Config, Connection, Event, Shutdown};
use parley_proto::driver::{Clock, Transport};
use parley_proto::handshake::{Acceptance, ApiMisuse, Rejection, Request};
use parley_proto::{Role, SendError};

use super::{Listener, Sim, SimClock, SimTransport};

/// Bytes of a read.
const WINDOW: usize = 16 * 1024;

/// One connection's server end. It reads, writes and keeps time only while a method of it is awaited.
pub struct Server {
    sim: Sim,
    connection: Connection,
    transport: Option<SimTransport>,
    window: BytesMut,
    clock: SimClock,
    /// The end of our direction is under way.
    ending: bool,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Server").field("connection", &self.connection).finish_non_exhaustive()
    }
}

impl Server {
    /// The next client of a listener, before its request.
    pub async fn accept_from(sim: &Sim, listener: &Listener) -> Self {
        Self::accept_with(sim, listener, Config::new(Role::Server)).await
    }

    /// The same with a configuration of its own.
    pub async fn accept_with(sim: &Sim, listener: &Listener, config: Config) -> Self {
        Self::over(sim, listener.accept_transport().await, config)
    }

    /// The end of a connection that was accepted already.
    pub(super) fn over(sim: &Sim, transport: SimTransport, config: Config) -> Self {
        let deadline = sim.now() + std::time::Duration::from_secs(5);
        Self {
            connection: Connection::server(Arc::new(config), [0; 32], deadline),
            sim: sim.clone(),
            transport: Some(transport),
            window: BytesMut::new(),
            clock: sim.clock(),
            ending: false,
        }
    }

    /// The next event.
    pub async fn next(&mut self) -> Event {
        poll_fn(|cx| self.poll_next(cx)).await
    }

    /// The client's request.
    ///
    /// # Panics
    ///
    /// If something else comes.
    pub async fn request(&mut self) -> Request {
        match self.next().await {
            Event::Request(request) => *request,
            event => panic!("a request was expected, not {event:?}"),
        }
    }

    /// The next frame.
    ///
    /// # Panics
    ///
    /// If something else comes.
    pub async fn frame(&mut self) -> Frame {
        match self.next().await {
            Event::Frame(frame) => frame,
            event => panic!("a frame was expected, not {event:?}"),
        }
    }

    /// Takes the request, accepts it, and waits until the connection is open.
    ///
    /// # Panics
    ///
    /// If the reply does not fit the request.
    pub async fn open(&mut self, reply: Acceptance) -> Request {
        let request = self.request().await;
        self.connection.accept(self.sim.now(), reply).expect("a reply that fits the request");
        match self.next().await {
            Event::Open(_) => request,
            event => panic!("the connection was expected to open, not {event:?}"),
        }
    }

    /// Refuses the request that was taken.
    ///
    /// # Panics
    ///
    /// If none was.
    pub fn reject(&mut self, reply: Rejection) {
        self.connection.reject(self.sim.now(), reply).expect("a request is waiting");
    }

    /// Queues a frame; it leaves while a method is awaited.
    ///
    /// # Panics
    ///
    /// If the connection does not take it.
    pub fn send(&mut self, frame: Frame) {
        self.connection.send(self.sim.now(), frame).expect("an open connection with room");
    }

    /// Queues a frame, if the connection takes it.
    ///
    /// # Errors
    ///
    /// The connection's: it is full, or not open.
    pub fn try_send(&mut self, frame: Frame) -> Result<(), SendError> {
        self.connection.send(self.sim.now(), frame).map(drop)
    }

    /// Accepts the request that was taken.
    ///
    /// # Errors
    ///
    /// None is waiting, or not any more; or the reply does not fit it.
    pub fn accept(&mut self, reply: Acceptance) -> Result<(), ApiMisuse> {
        self.connection.accept(self.sim.now(), reply)
    }

    /// Refuses the request that was taken.
    ///
    /// # Errors
    ///
    /// None is waiting, or not any more.
    pub fn try_reject(&mut self, reply: Rejection) -> Result<(), ApiMisuse> {
        self.connection.reject(self.sim.now(), reply)
    }

    /// Closes with a reset. Nothing comes after it.
    pub fn reset(mut self) {
        self.transport.take().iter().for_each(SimTransport::reset);
    }

    /// Begins the closing handshake.
    pub fn close(&mut self, close: &CloseFrame) {
        self.connection.close(self.sim.now(), close);
    }

    /// Runs to the end and gives the last event's word on it; `true` if both Closes were seen.
    pub async fn end(&mut self) -> (u16, bool) {
        loop {
            if let Event::Closed(closed) = self.next().await {
                return (closed.code(), closed.was_clean);
            }
        }
    }

    fn poll_next(&mut self, cx: &mut Context<'_>) -> Poll<Event> {
        loop {
            let now = self.sim.now();
            if let Some(event) = self.connection.poll_event() {
                self.write(cx);
                return Poll::Ready(event);
            }
            let mut progress = self.write(cx);
            if let Some(how) = self.connection.poll_shutdown() {
                match how {
                    Shutdown::Write => self.ending = true,
                    Shutdown::Close | Shutdown::Abort => self.transport = None,
                }
                progress = true;
            }
            progress |= self.read(cx);
            if let Some((at, _)) = self.connection.poll_timeout()
                && self.clock.poll_sleep(cx, at).is_ready()
            {
                self.connection.handle_timeout(now);
                progress = true;
            }
            if !progress {
                return Poll::Pending;
            }
        }
    }

    fn write(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.sim.now();
        let Some(transport) = &mut self.transport else { return false };
        let mut progress = false;
        while self.connection.queued() > 0 {
            let mut slices = [IoSlice::new(&[]); 8];
            let count = self.connection.transmit().fill(&mut slices);
            match transport.poll_write(cx, &slices[..count]) {
                Poll::Ready(Ok(n)) => self.connection.handle_written(now, n),
                Poll::Ready(Err(error)) => {
                    self.connection.handle_lost(now, error.into());
                    return true;
                }
                Poll::Pending => {
                    self.connection.handle_written(now, 0);
                    break;
                }
            }
            progress = true;
        }
        let _ = transport.poll_flush(cx);
        if self.ending && self.connection.queued() == 0 && transport.poll_shutdown(cx).is_ready() {
            self.ending = false;
        }
        progress
    }

    fn read(&mut self, cx: &mut Context<'_>) -> bool {
        let now = self.sim.now();
        let Some(transport) = &mut self.transport else { return false };
        if !self.connection.wants_input() {
            return false;
        }
        self.window.reserve(WINDOW);
        match transport.poll_read(cx, &mut self.window) {
            Poll::Pending => return false,
            Poll::Ready(Ok(0)) => self.connection.handle_eof(now),
            Poll::Ready(Ok(_)) => self.connection.handle_input(now, &mut self.window),
            Poll::Ready(Err(error)) => self.connection.handle_lost(now, error.into()),
        }
        true
    }
}
