//! The loops for libraries whose connections are streams and sinks of messages.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Poll, ready};

use futures_util::{Sink, SinkExt, Stream, StreamExt};
use parley_peers::bench::batches;

use super::BoxError;

/// A library's message.
pub trait Message: Clone {
    /// The bytes of a data message; `None` for another.
    fn data(&self) -> Option<usize>;
    fn text(text: String) -> Self;
}

/// What a library's stream yields.
pub trait Item {
    type Message: Message;
    fn message(self) -> Result<Self::Message, BoxError>;
}

impl<M: Message, E: Into<BoxError>> Item for Result<M, E> {
    type Message = M;
    fn message(self) -> Result<M, BoxError> {
        self.map_err(Into::into)
    }
}

/// A connection as a stream and a sink.
pub trait Socket: Stream<Item: Item<Message = Self::Sent>> + Sink<Self::Sent, Error: Into<BoxError>> + Unpin {
    type Sent: Message;
}

fn boxed(error: impl Into<BoxError>) -> BoxError {
    error.into()
}

/// Sends everything back; the replies leave when there is nothing more to read.
pub async fn echo<S: Socket>(mut socket: S) -> Result<(), BoxError> {
    let mut reply = None;
    poll_fn(|cx| {
        loop {
            if reply.is_some() {
                ready!(Pin::new(&mut socket).poll_ready(cx)).map_err(boxed)?;
                if let Some(reply) = reply.take() {
                    Pin::new(&mut socket).start_send(reply).map_err(boxed)?;
                }
            }
            match Pin::new(&mut socket).poll_next(cx) {
                Poll::Ready(Some(item)) => reply = Some(item.message()?).filter(|message| message.data().is_some()),
                Poll::Ready(None) => return Poll::Ready(Ok(())),
                Poll::Pending => {
                    let _ = Pin::new(&mut socket).poll_flush(cx).map_err(boxed)?;
                    return Poll::Pending;
                }
            }
        }
    })
    .await
}

/// Sends everything back, one after the other.
pub async fn echo_naive<S: Socket>(mut socket: S) -> Result<(), BoxError> {
    while let Some(item) = socket.next().await {
        let message = item.message()?;
        if message.data().is_some() {
            socket.send(message).await.map_err(boxed)?;
        }
    }
    Ok(())
}

/// Receives, and says after every so many messages how much they were.
pub async fn receive<S: Socket>(mut socket: S, every: u64) -> Result<(), BoxError> {
    let (mut count, mut sum) = (0, 0);
    while let Some(item) = socket.next().await {
        if let Some(size) = item.message()?.data() {
            count += 1;
            sum += size as u64;
            if count == every {
                socket.send(S::Sent::text(sum.to_string())).await.map_err(boxed)?;
                (count, sum) = (0, 0);
            }
        }
    }
    Ok(())
}

/// Sends so many messages whenever one arrives.
pub async fn send<S: Socket>(mut socket: S, messages: u64, text: String, flush_every: u64) -> Result<(), BoxError> {
    let message = S::Sent::text(text);
    while let Some(item) = socket.next().await {
        if item.message()?.data().is_none() {
            continue;
        }
        for batch in batches(messages, flush_every) {
            if flush_every == 1 {
                socket.send(message.clone()).await.map_err(boxed)?;
                continue;
            }
            for _ in 0..batch {
                socket.feed(message.clone()).await.map_err(boxed)?;
            }
            socket.flush().await.map_err(boxed)?;
        }
    }
    Ok(())
}
