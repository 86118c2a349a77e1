//! A handler that tells a test what it sees, and answers as the test wants.

use std::fmt;

use bytes::Bytes;
use parley_proto::codec::Frame;
use parley_proto::handshake::ClientRequest;
use parley_proto::{Action, Attempt, BoxError, Connected, DisconnectReason, Handler, Retry, StopReason};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

/// One callback.
#[derive(Clone, Debug)]
pub enum Seen {
    /// `init`
    Init,
    /// `prepare`, and what `Debug` shows of the request
    Prepare(String),
    /// `handle_connect`
    Connect(Connected),
    /// `handle_frame`
    Frame(Frame),
    /// `handle_ping`
    Ping(Bytes),
    /// `handle_info`
    Info(u32),
    /// `handle_disconnect`
    Disconnect(DisconnectReason),
    /// `terminate`
    Terminate(StopReason),
}

type Answer = Box<dyn FnMut(&Seen) -> Action + Send>;

/// The handler.
pub struct Recorder {
    seen: UnboundedSender<Seen>,
    answer: Answer,
}

impl fmt::Debug for Recorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Recorder")
    }
}

/// A handler that does nothing, and what it sees.
#[must_use]
pub fn recorder() -> (Recorder, Events) {
    answering(|_| Action::Continue)
}

/// A handler whose `handle_connect`, `handle_frame`, `handle_ping`, `handle_info` answer so, and what it sees.
#[must_use]
pub fn answering(answer: impl FnMut(&Seen) -> Action + Send + 'static) -> (Recorder, Events) {
    let (seen, events) = unbounded_channel();
    (Recorder { seen, answer: Box::new(answer) }, Events(events))
}

impl Recorder {
    fn see(&self, seen: Seen) {
        let _ = self.seen.send(seen); // the test may have seen enough
    }

    fn answer(&mut self, seen: Seen) -> Result<Action, BoxError> {
        self.see(seen.clone());
        Ok((self.answer)(&seen))
    }
}

impl Handler<u32> for Recorder {
    async fn init(&mut self) -> Result<(), BoxError> {
        self.see(Seen::Init);
        Ok(())
    }

    async fn prepare(&mut self, _: &Attempt, request: &mut ClientRequest) -> Result<(), BoxError> {
        self.see(Seen::Prepare(format!("{request:?}")));
        Ok(())
    }

    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        self.answer(Seen::Connect(connected.clone()))
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.answer(Seen::Frame(frame))
    }

    async fn handle_ping(&mut self, payload: Bytes) -> Result<Action, BoxError> {
        self.answer(Seen::Ping(payload))
    }

    async fn handle_info(&mut self, info: u32) -> Result<Action, BoxError> {
        self.answer(Seen::Info(info))
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.see(Seen::Disconnect(reason.clone()));
        Retry::Policy
    }

    async fn terminate(&mut self, reason: &StopReason) {
        self.see(Seen::Terminate(reason.clone()));
    }
}

/// What a [`Recorder`] sees, in order.
#[derive(Debug)]
pub struct Events(UnboundedReceiver<Seen>);

impl Events {
    /// The next callback.
    ///
    /// # Panics
    ///
    /// The handler is gone.
    pub async fn next(&mut self) -> Seen {
        self.0.recv().await.expect("the handler is gone")
    }

    /// What `handle_connect` was given, behind `init` and `prepare` at most.
    ///
    /// # Panics
    ///
    /// Another callback came.
    pub async fn connected(&mut self) -> Connected {
        loop {
            match self.next().await {
                Seen::Init | Seen::Prepare(_) => {}
                Seen::Connect(connected) => return connected,
                other => panic!("{other:?} instead of handle_connect"),
            }
        }
    }

    /// What `handle_frame` was given.
    ///
    /// # Panics
    ///
    /// Another callback came.
    pub async fn frame(&mut self) -> Frame {
        match self.next().await {
            Seen::Frame(frame) => frame,
            other => panic!("{other:?} instead of handle_frame"),
        }
    }

    /// What `handle_disconnect` was given, behind `init` and `prepare` at most.
    ///
    /// # Panics
    ///
    /// Another callback came.
    pub async fn disconnected(&mut self) -> DisconnectReason {
        loop {
            match self.next().await {
                Seen::Init | Seen::Prepare(_) => {}
                Seen::Disconnect(reason) => return reason,
                other => panic!("{other:?} instead of handle_disconnect"),
            }
        }
    }

    /// What `terminate` was given, behind `init` and `prepare` at most.
    ///
    /// # Panics
    ///
    /// Another callback came.
    pub async fn terminated(&mut self) -> StopReason {
        loop {
            match self.next().await {
                Seen::Init | Seen::Prepare(_) => {}
                Seen::Terminate(reason) => return reason,
                other => panic!("{other:?} instead of terminate"),
            }
        }
    }

    /// Waits until the handler is dropped.
    ///
    /// # Panics
    ///
    /// A callback came.
    pub async fn nothing_more(&mut self) {
        if let Some(seen) = self.0.recv().await {
            panic!("{seen:?} instead of nothing more");
        }
    }
}
