//! What the tests begin with.

use std::future::Future;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use parley_proto::driver::Client;
use parley_proto::session::ClientOptions;
use parley_tests::raw::{self, RawConn, RawFrame};
use parley_tests::sim::{Gate, Listener, Probe, Sim};

pub(crate) const URL: &str = "ws://10.0.0.1/";

/// A client of a [`Probe`].
pub(crate) type Probed = Client<Probe, String>;

/// Where [`URL`] leads.
pub(crate) fn addr() -> SocketAddr {
    "10.0.0.1:80".parse().unwrap()
}

pub(crate) fn options() -> ClientOptions {
    ClientOptions::new(URL).unwrap()
}

pub(crate) const fn secs(n: u64) -> Duration {
    Duration::from_secs(n)
}

pub(crate) const fn millis(n: u64) -> Duration {
    Duration::from_millis(n)
}

/// A client that is connected, the peer's end, and the listener.
pub(crate) async fn connected(sim: &Sim, probe: Probe) -> (Probed, RawConn, Listener) {
    connected_with(sim, options(), probe).await
}

pub(crate) async fn connected_with(sim: &Sim, options: ClientOptions, probe: Probe) -> (Probed, RawConn, Listener) {
    let listener = sim.listen(addr());
    let client = sim.start_with(options, |own| probe.with_own(own)).await.unwrap();
    let mut peer = listener.accept().await;
    peer.upgrade("").await;
    sim.noted("handle_connect").await;
    (client, peer, listener)
}

/// The journal's lines from the first that has this text on.
pub(crate) fn since(calls: Vec<String>, text: &str) -> Vec<String> {
    calls.into_iter().skip_while(|line| !line.contains(text)).collect()
}

/// Code and reason of a Close that has a code.
pub(crate) fn close_of(frame: &RawFrame) -> (u16, String) {
    assert_eq!(frame.first, 0x88, "a Close was expected: {frame:?}");
    let (code, reason) = frame.payload.split_first_chunk().unwrap();
    (u16::from_be_bytes(*code), String::from_utf8(reason.to_vec()).unwrap())
}

/// The server's part of a closing handshake that the client begins with `code`.
pub(crate) async fn finish(peer: &mut RawConn, code: u16) {
    assert_eq!(close_of(&peer.frame().await).0, code);
    peer.send(&raw::frame(0x88, &code.to_be_bytes())).await;
    peer.shutdown().await;
}

/// After how many polls a future is dropped, and how many there were.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut {
    polls: Arc<AtomicUsize>,
    after: Option<usize>,
    before: Option<usize>,
}

impl Cut {
    /// As soon as this many polls have returned.
    pub(crate) fn after(self, polls: usize) -> Self {
        Self { after: Some(polls), ..self }
    }

    /// In place of the poll that follows so many.
    pub(crate) fn before(self, polls: usize) -> Self {
        Self { before: Some(polls), ..self }
    }

    pub(crate) fn polls(&self) -> usize {
        self.polls.load(Ordering::SeqCst)
    }
}

/// Polls a future until it is ready, or dropped: at the cut, or when the gate opens. `None` then.
pub(crate) struct GiveUp<F> {
    future: Option<Pin<Box<F>>>,
    cut: Cut,
    gate: Pin<Box<dyn Future<Output = ()> + Send>>,
}

impl<F: Future> GiveUp<F> {
    pub(crate) fn new(future: F, cut: Cut, gate: &Gate) -> Self {
        let gate = gate.clone();
        Self { future: Some(Box::pin(future)), cut, gate: Box::pin(async move { gate.opened().await }) }
    }
}

impl<F: Future> Future for GiveUp<F> {
    type Output = Option<F::Output>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let polls = self.cut.polls();
        let cut = Some(polls) == self.cut.before || self.cut.after == Some(polls);
        if !cut && self.gate.as_mut().poll(cx).is_pending() {
            let polls = self.cut.polls.fetch_add(1, Ordering::SeqCst) + 1;
            if let Some(outcome) = self.future.as_mut().map(|future| future.as_mut().poll(cx)) {
                match outcome {
                    Poll::Ready(outcome) => return Poll::Ready(Some(outcome)),
                    Poll::Pending if self.cut.after == Some(polls) => {}
                    Poll::Pending => return Poll::Pending,
                }
            }
        }
        self.future = None;
        Poll::Ready(None)
    }
}
