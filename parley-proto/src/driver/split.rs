//! The two halves of a [`WebSocket`], for two tasks.

use std::fmt;
use std::future::poll_fn;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use futures_core::Stream;
use futures_sink::Sink;

use super::runtime::{Clock, Transport};
use super::socket::{Error, Part, WebSocket};
use crate::codec::{Chunk, CloseFrame, Frame};
use crate::connection::{Closed, Rtt};

/// Locked for the time of one poll, never across a wait. Each poll registers its own task, and what one half does for
/// the other wakes it, so that neither needs the other to be polled.
struct Shared<T, C>(Arc<Mutex<WebSocket<T, C>>>);

impl<T, C> Shared<T, C> {
    fn lock(&self) -> MutexGuard<'_, WebSocket<T, C>> {
        // A poll that panicked leaves a transport in an unknown state, and nothing that a lock could protect.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The half that sends: a [`Sink`] of [`Frame`]s. See [`WebSocket`].
pub struct WebSocketSender<T, C>(Shared<T, C>);

/// The half that receives: a [`Stream`] of [`Frame`]s. See [`WebSocket`].
///
/// Pongs and the reply to a Close leave by it, and keepalive runs in it: without [`next`](Self::next) being polled the
/// sender's half keeps all this up only while it waits itself.
pub struct WebSocketReceiver<T, C>(Shared<T, C>);

impl<T: Transport, C: Clock> WebSocket<T, C> {
    /// Two halves, for two tasks. The connection is dropped with the second.
    ///
    /// `StreamExt::split` of futures-util works as well, but its sink holds a frame back until it is polled again: the
    /// answer to the last frame before a Close may then come too late, and is refused.
    #[must_use]
    pub fn split(self) -> (WebSocketSender<T, C>, WebSocketReceiver<T, C>) {
        let socket = Arc::new(Mutex::new(self));
        (WebSocketSender(Shared(socket.clone())), WebSocketReceiver(Shared(socket)))
    }
}

impl<T: Transport, C: Clock> WebSocketSender<T, C> {
    /// As [`WebSocket::send`], but that it always writes: whether the other half will soon is not known here, whatever
    /// [`set_auto_cork`](WebSocket::set_auto_cork) was told. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::send`].
    pub async fn send(&mut self, frame: Frame) -> Result<(), Error> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// As [`WebSocket::feed`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::feed`].
    pub async fn feed(&mut self, frame: Frame) -> Result<(), Error> {
        let mut frame = Some(frame);
        poll_fn(|cx| {
            // Under one lock: the other half's pongs take room too.
            let mut socket = self.0.lock();
            socket.poll_room(cx).map(|()| frame.take().map_or(Ok(()), |frame| socket.start(frame)))
        })
        .await
    }

    /// As [`WebSocket::feed_chunk`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::feed_chunk`].
    pub async fn feed_chunk(&mut self, chunk: Chunk) -> Result<(), Error> {
        let mut chunk = Some(chunk);
        poll_fn(|cx| {
            let mut socket = self.0.lock();
            socket.poll_room(cx).map(|()| chunk.take().map_or(Ok(()), |chunk| socket.start_chunk(chunk)))
        })
        .await
    }

    /// As [`WebSocket::flush`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::flush`].
    pub async fn flush(&mut self) -> Result<(), Error> {
        poll_fn(|cx| self.0.lock().poll_flushed(cx)).await
    }

    /// As [`WebSocket::close`]: the receiver then yields no more. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::close`].
    pub async fn close(&mut self) -> Result<(), Error> {
        self.close_with(CloseFrame::normal()).await
    }

    /// As [`WebSocket::close_with`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::close_with`].
    pub async fn close_with(&mut self, close: CloseFrame) -> Result<(), Error> {
        poll_fn(|cx| self.0.lock().poll_closed(cx, &close)).await
    }

    /// As [`WebSocket::closed`].
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.0.lock().closed().cloned()
    }

    /// As [`WebSocket::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.0.lock().rtt()
    }

    /// The whole again, from its two halves.
    ///
    /// # Errors
    ///
    /// The halves of two different sockets, given back.
    pub fn reunite(
        self,
        receiver: WebSocketReceiver<T, C>,
    ) -> Result<WebSocket<T, C>, (Self, WebSocketReceiver<T, C>)> {
        if !Arc::ptr_eq(&self.0.0, &receiver.0.0) {
            return Err((self, receiver));
        }
        drop(receiver);
        match Arc::try_unwrap(self.0.0) {
            Ok(socket) => Ok(socket.into_inner().unwrap_or_else(PoisonError::into_inner)),
            Err(_) => unreachable!("there are two halves, and one was dropped"),
        }
    }
}

impl<T: Transport, C: Clock> WebSocketReceiver<T, C> {
    /// As [`WebSocket::next`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::next`].
    pub async fn next(&mut self) -> Option<Result<Frame, Error>> {
        poll_fn(|cx| self.0.lock().poll_next_frame(cx)).await
    }

    /// As [`WebSocket::next_part`]. Cancel-safe.
    ///
    /// # Errors
    ///
    /// As [`WebSocket::next`].
    pub async fn next_part(&mut self) -> Option<Result<Part, Error>> {
        poll_fn(|cx| self.0.lock().poll_next_part(cx)).await
    }

    /// As [`WebSocket::closed`].
    #[must_use]
    pub fn closed(&self) -> Option<Closed> {
        self.0.lock().closed().cloned()
    }

    /// As [`WebSocket::rtt`].
    #[must_use]
    pub fn rtt(&self) -> Option<Rtt> {
        self.0.lock().rtt()
    }
}

impl<T: Transport, C: Clock> Stream for WebSocketReceiver<T, C> {
    type Item = Result<Frame, Error>;

    fn poll_next(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.lock().poll_next_frame(cx)
    }
}

/// As the [`WebSocket`]'s.
impl<T: Transport, C: Clock> Sink<Frame> for WebSocketSender<T, C> {
    type Error = Error;

    fn poll_ready(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.lock().poll_promise(cx).map(Ok)
    }

    fn start_send(self: Pin<&mut Self>, frame: Frame) -> Result<(), Error> {
        self.0.lock().start(frame)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.lock().poll_flushed(cx)
    }

    fn poll_close(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
        self.0.lock().poll_closed(cx, &CloseFrame::normal())
    }
}

impl<T, C> fmt::Debug for WebSocketSender<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebSocketSender").field(&*self.0.lock()).finish()
    }
}

impl<T, C> fmt::Debug for WebSocketReceiver<T, C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WebSocketReceiver").field(&*self.0.lock()).finish()
    }
}
