//! The scenarios on tokio, on both of its schedulers, and what only a user of tokio can do.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use parley_tests::peers::{self, on_peers, within_deadline};
use parley_tests::recorder::recorder;
use parley_tokio::{
    Client, ClientRequest, ClientState, Frame, Origins, SendError, Server, StartError, StopReason, Transport,
    WebSocket, client,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::{Builder, Runtime};

/// What the scenarios are about.
mod adapter {
    use parley_tokio::Transport;
    pub(crate) use parley_tokio::{
        Client, ClientBuilder, Incoming, Server, ServerBuilder, Tls, Tokio as Platform, WebSocket, client, server,
        upgraded,
    };
    use tokio::io::DuplexStream;

    pub(crate) fn platform(tls: Tls) -> Platform {
        Platform::new().unwrap().with_tls(tls)
    }

    /// A few bytes at a time.
    pub(crate) fn pair() -> (DuplexStream, DuplexStream) {
        tokio::io::duplex(256)
    }

    pub(crate) fn transport(stream: DuplexStream) -> Transport<DuplexStream> {
        Transport::new(stream)
    }
}

#[macro_use]
#[path = "../src/scenarios/mod.rs"]
mod scenarios;

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

mod on_tokio_current_thread {
    fn block_on(future: impl Future<Output = ()>) {
        super::current_thread().block_on(future);
    }

    scenario_tests!();
}

mod on_tokio_multi_thread {
    fn block_on(future: impl Future<Output = ()>) {
        super::multi_thread().block_on(future);
    }

    scenario_tests!();
}

#[test]
fn a_client_started_outside_a_runtime_is_an_error() {
    let start = Client::builder("ws://127.0.0.1:1/").unwrap().start::<_, ()>(());
    let started = pin!(start).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(started, Poll::Ready(Err(StartError::NoRuntime))), "{started:?}");

    let mut made = false;
    let start = Client::builder("ws://127.0.0.1:1/").unwrap().start_with::<_, ()>(|_| made = true);
    let started = pin!(start).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(started, Poll::Ready(Err(StartError::NoRuntime))), "{started:?}");
    assert!(!made, "no handler was made for a client that cannot start");
}

/// A runtime that shuts down drops its tasks: whoever waits is answered, elsewhere.
#[test]
fn a_runtime_that_shuts_down_aborts_its_clients() {
    within_deadline(|| {
        let outer = current_thread();
        outer.block_on(async {
            let inner = multi_thread();
            let server = peers::Server::bind(false).await;
            let (handler, mut events) = recorder();
            let builder = Client::builder(&server.url("/")).unwrap();
            let client = inner.spawn(async { builder.start(handler).await.unwrap() }).await.unwrap();
            let mut peer = server.accept().await;
            peer.upgrade("").await;
            events.connected().await;
            let handle = client.handle();
            let waiting = inner.spawn({
                let handle = handle.clone();
                async move { handle.wait_for(ClientState::Disconnected).await }
            });

            inner.shutdown_background();
            peer.end().await;
            events.nothing_more().await;
            let error = client.join().await.unwrap_err();
            assert!(matches!(error.reason(), StopReason::Aborted), "{error:?}");
            assert!(error.into_handler().is_none());
            assert_eq!(handle.state(), ClientState::Stopped);
            let refused = handle.send_frame(Frame::text("late")).await;
            assert!(matches!(refused, Err(SendError::Stopped(frame)) if frame == Frame::text("late")));
            drop(waiting);
        });
    });
}

#[test]
fn an_aborted_task_closes_its_connection() {
    within_deadline(|| {
        current_thread().block_on(async {
            let server = peers::Server::bind(false).await;
            let (handler, mut events) = recorder();
            let task = tokio::spawn(Client::builder(&server.url("/")).unwrap().run(handler));
            let mut peer = server.accept().await;
            let request = peer.upgrade("").await;
            events.connected().await;
            task.abort();
            assert!(task.await.unwrap_err().is_cancelled());
            events.nothing_more().await;
            peer.end().await;
            assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
        });
    });
}

/// Peers and clients have runtimes of their own here; for users they usually share one.
#[tokio::test]
async fn client_and_server_share_a_runtime() {
    let server = parley_tests::echo::EchoServer::bind(None).await;
    let (handler, mut events) = recorder();
    let client = Client::builder(&server.url("/")).unwrap().start(handler).await.unwrap();
    client.send_frame(Frame::text("hello")).await.unwrap();
    events.connected().await;
    assert_eq!(events.frame().await, Frame::text("hello"));
    client.stop().await;
    client.join().await.unwrap();
    on_peers(async {}).await;
}

/// Four tasks on four threads, through a stream that holds a few bytes: nobody misses a wake.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn halves_of_both_sides_on_many_threads() {
    async fn both<S>(socket: WebSocket<S>) -> WebSocket<S>
    where
        S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
    {
        let (mut sender, mut receiver) = socket.split();
        let frame = |n: usize| Frame::binary(vec![n as u8; n * 7919 % 1500]);
        let sending = tokio::spawn(async move {
            for n in 0..300 {
                match n % 3 {
                    0 => sender.feed(frame(n)).await.unwrap(),
                    _ => sender.send(frame(n)).await.unwrap(),
                }
            }
            sender.flush().await.unwrap();
            sender
        });
        let receiving = tokio::spawn(async move {
            for n in 0..300 {
                assert_eq!(receiver.next().await.unwrap().unwrap(), frame(n));
            }
            receiver
        });
        let (sender, receiver) = (sending.await.unwrap(), receiving.await.unwrap());
        sender.reunite(receiver).unwrap()
    }
    for buffer in [7, 64, 100_000] {
        let (near, far) = tokio::io::duplex(buffer);
        let server = Server::builder(Origins::any()).build().unwrap();
        let request = ClientRequest::new("ws://example.com/").unwrap();
        let (client, socket) = tokio::join!(client(near, request), async {
            server.accept(Transport::new(far)).await.unwrap().into_websocket().await.unwrap()
        });
        let exchange = async { tokio::join!(both(client.unwrap()), both(socket)) };
        let (mut client, mut socket) = tokio::time::timeout(Duration::from_secs(60), exchange).await.unwrap();
        let (closed, next) = tokio::join!(client.close(), socket.next());
        closed.unwrap();
        assert!(next.is_none());
    }
}
