//! A handler for tests: it writes each callback into the journal and answers as it was told.

use std::fmt;
use std::future::{Future, poll_fn};
use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::task::{Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use parley_proto::codec::Frame;
use parley_proto::driver::Handle;
use parley_proto::handshake::ClientRequest;
use parley_proto::{Action, Attempt, BoxError, Connected, DisconnectReason, Handler, Retry, StopReason};

use super::{Sim, lock};

type Boxed<T> = Pin<Box<dyn Future<Output = T> + Send>>;

/// How a callback answers.
#[derive(Clone)]
pub enum Reply {
    /// With this action; what cannot return one just returns.
    Act(Action),
    /// With an error of this text.
    Fail(&'static str),
    /// With this, from `handle_disconnect`.
    Retry(Retry),
    /// By a panic.
    Panic,
    /// After so much time, with the other.
    After(Duration, Box<Reply>),
    /// When the gate is open, with the other. Says `… waits` and `… goes on` in the journal.
    Gate(Gate, Box<Reply>),
    /// After something with the client's own handle.
    Own(Arc<dyn Fn(Handle<String>) -> Boxed<Reply> + Send + Sync>),
}

impl Reply {
    /// A text message to push.
    #[must_use]
    pub fn push(text: &'static str) -> Self {
        Self::Act(Frame::text(text).into())
    }

    /// Continue once this gate is open.
    #[must_use]
    pub fn wait(gate: &Gate) -> Self {
        Self::Act(Action::Continue).behind(gate)
    }

    /// The same once this gate is open.
    #[must_use]
    pub fn behind(self, gate: &Gate) -> Self {
        Self::Gate(gate.clone(), Box::new(self))
    }

    /// The same after so much time.
    #[must_use]
    pub fn after(self, time: Duration) -> Self {
        Self::After(time, Box::new(self))
    }

    /// With the client's own handle: see [`Sim::start_with`].
    #[must_use]
    pub fn own<F>(run: impl Fn(Handle<String>) -> F + Send + Sync + 'static) -> Self
    where
        F: Future<Output = Self> + Send + 'static,
    {
        Self::Own(Arc::new(move |own| Box::pin(run(own))))
    }
}

impl fmt::Debug for Reply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Reply")
    }
}

/// Closed until it is opened, then open.
#[derive(Clone, Debug, Default)]
pub struct Gate(Arc<Mutex<(bool, Vec<Waker>)>>);

impl Gate {
    /// A closed one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Opens it for good.
    pub fn open(&self) {
        let waiting = {
            let mut gate = lock(&self.0);
            gate.0 = true;
            std::mem::take(&mut gate.1)
        };
        waiting.into_iter().for_each(Waker::wake);
    }

    /// Waits until it is open.
    pub async fn opened(&self) {
        poll_fn(|cx| {
            let mut gate = lock(&self.0);
            if gate.0 {
                return Poll::Ready(());
            }
            gate.1.push(cx.waker().clone());
            Poll::Pending
        })
        .await;
    }
}

/// A handler whose callbacks are lines of the journal, and whose answers are rules: the first whose line begins as
/// the callback's does. Without one it continues.
#[derive(Debug)]
pub struct Probe {
    sim: Sim,
    rules: Vec<Rule>,
    own: Option<Handle<String>>,
    headers: Vec<(&'static str, &'static str)>,
}

#[derive(Debug)]
struct Rule {
    line: &'static str,
    reply: Reply,
    /// It holds so many times more.
    left: usize,
}

impl Probe {
    /// One that continues.
    #[must_use]
    pub fn new(sim: &Sim) -> Self {
        Self { sim: sim.clone(), rules: Vec::new(), own: None, headers: Vec::new() }
    }

    /// Answers callbacks whose line begins with `line`.
    #[must_use]
    pub fn on(mut self, line: &'static str, reply: Reply) -> Self {
        self.rules.push(Rule { line, reply, left: usize::MAX });
        self
    }

    /// Answers the first such callback.
    #[must_use]
    pub fn once(mut self, line: &'static str, reply: Reply) -> Self {
        self.rules.push(Rule { line, reply, left: 1 });
        self
    }

    /// With the client's own handle.
    #[must_use]
    pub fn with_own(mut self, own: Handle<String>) -> Self {
        self.own = Some(own);
        self
    }

    /// `prepare` sets this header.
    #[must_use]
    pub fn preparing(mut self, name: &'static str, value: &'static str) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Notes the callback; its answer, once it is there. Dropped before, it notes that.
    async fn called(&mut self, line: String) -> Reply {
        self.sim.note(line.as_str());
        let rule = self.rules.iter_mut().find(|rule| rule.left > 0 && line.starts_with(rule.line));
        let Some(rule) = rule else { return Reply::Act(Action::Continue) };
        rule.left -= 1;
        let mut reply = rule.reply.clone();
        let name = line.split(' ').next().unwrap_or_default();
        loop {
            let dropped = Dropped { sim: self.sim.clone(), name: Some(name) };
            let next = match reply {
                Reply::After(time, next) => {
                    self.sim.sleep(time).await;
                    *next
                }
                Reply::Gate(gate, next) => {
                    gate.opened().await;
                    *next
                }
                Reply::Own(run) => {
                    let own = self.own.clone().expect("a probe with the client's own handle");
                    run(own).await
                }
                Reply::Panic => {
                    dropped.not();
                    panic!("the probe was told to")
                }
                reply => {
                    dropped.not();
                    return reply;
                }
            };
            dropped.not();
            self.sim.note(format!("{name} goes on"));
            reply = next;
        }
    }

    async fn action(&mut self, line: String) -> Result<Action, BoxError> {
        match self.called(line).await {
            Reply::Act(action) => Ok(action),
            Reply::Fail(error) => Err(error.into()),
            reply => panic!("no action: {reply:?}"),
        }
    }

    async fn outcome(&mut self, line: String) -> Result<(), BoxError> {
        self.action(line).await.map(drop)
    }
}

impl Handler<String> for Probe {
    async fn init(&mut self) -> Result<(), BoxError> {
        self.outcome("init".into()).await
    }

    async fn prepare(&mut self, attempt: &Attempt, request: &mut ClientRequest) -> Result<(), BoxError> {
        for (name, value) in &self.headers {
            request.set_header(*name, *value)?;
        }
        let last = attempt.last.as_ref().map_or("none".into(), |last| format!("{last}"));
        self.outcome(format!("prepare {} last {last} elapsed {}ms", attempt.number, attempt.elapsed.as_millis())).await
    }

    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        let status = connected.negotiated.status().as_u16();
        self.action(format!("handle_connect {status} {}", connected.subprotocol().unwrap_or("-"))).await
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.action(format!("handle_frame {}", describe(&frame))).await
    }

    async fn handle_ping(&mut self, payload: Bytes) -> Result<Action, BoxError> {
        self.action(format!("handle_ping {}", String::from_utf8_lossy(&payload))).await
    }

    async fn handle_info(&mut self, info: String) -> Result<Action, BoxError> {
        self.action(format!("handle_info {info}")).await
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        match self.called(format!("handle_disconnect {reason}")).await {
            Reply::Retry(retry) => retry,
            _ => Retry::Policy,
        }
    }

    async fn terminate(&mut self, reason: &StopReason) {
        self.called(format!("terminate {reason}")).await;
    }
}

/// A frame in a line: its kind, and its text or, above 40 bytes, its length.
#[must_use]
pub fn describe(frame: &Frame) -> String {
    let kind = match frame {
        Frame::Text(_) => "text",
        Frame::Binary(_) => "binary",
        Frame::Ping(_) => "ping",
        Frame::Pong(_) => "pong",
    };
    if frame.len() > 40 {
        return format!("{kind} of {} bytes", frame.len());
    }
    format!("{kind} {}", String::from_utf8_lossy(frame.payload()))
}

/// Says in the journal that a callback was dropped.
struct Dropped<'a> {
    sim: Sim,
    name: Option<&'a str>,
}

impl Dropped<'_> {
    fn not(mut self) {
        self.name = None;
    }
}

impl Drop for Dropped<'_> {
    fn drop(&mut self) {
        if let Some(name) = self.name {
            self.sim.note(format!("{name} dropped"));
        }
    }
}
