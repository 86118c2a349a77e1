//! Clients on tokio whose task is aborted, or whose runtime shuts down, while others hold handles to them.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::future::Future;
use std::pin::pin;
use std::task::{Context, Poll, Waker};
use std::thread;
use std::time::Duration;

use parley_tests::peers::{CA, Server, within_deadline};
use parley_tests::raw::RawConn;
use parley_tests::recorder::{Events, Recorder, Seen, recorder};
use parley_tokio::{
    BoxError, Client, ClientBuilder, ClientState, CloseFrame, DisconnectReason, Frame, Handle, Handler, Limits,
    SendError, StartError, StopReason, TcpOptions, Tls, lookup,
};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;
use tokio::task::{JoinHandle, yield_now};

/// How far the client has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The server does not answer the TLS handshake.
    Tls,
    /// The server does not answer the upgrade request.
    Upgrade,
    Open,
    /// The server takes nothing, and the queue is full.
    Blocked,
    /// The server does not answer the Close.
    Closing,
}

/// What becomes of its task.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Aborted,
    ShutdownBackground,
    ShutdownTimeout,
    Dropped,
}

fn current_thread() -> Runtime {
    Builder::new_current_thread().enable_all().build().unwrap()
}

fn multi_thread() -> Runtime {
    Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// A wait for an outcome, under way: the task has been polled.
async fn under_way<T: Send + 'static>(future: impl Future<Output = T> + Send + 'static) -> JoinHandle<T> {
    let (started, polled) = oneshot::channel();
    let task = tokio::spawn(async move {
        let mut future = pin!(future);
        let mut started = Some(started);
        std::future::poll_fn(|cx| {
            let poll = future.as_mut().poll(cx);
            let _ = started.take().map(|started| started.send(()));
            poll
        })
        .await
    });
    polled.await.unwrap();
    task
}

/// The server's end, once the client has come this far.
async fn reach(stage: Stage, server: &Server, handle: &Handle<u32>, events: &mut Events) -> RawConn {
    if matches!(stage, Stage::Tls | Stage::Upgrade) {
        while !matches!(events.next().await, Seen::Prepare(_)) {}
    }
    match stage {
        Stage::Tls => server.accept_tcp().await,
        Stage::Upgrade => {
            let mut peer = server.accept().await;
            peer.head().await;
            peer
        }
        Stage::Open | Stage::Blocked | Stage::Closing => {
            let mut peer = server.accept().await;
            peer.upgrade("").await;
            events.connected().await;
            if stage == Stage::Closing {
                handle.disconnect().await;
                assert_eq!(peer.frame().await.first, 0x88);
            }
            peer
        }
    }
}

/// What a client answers that was aborted.
async fn answers_as_aborted(handle: &Handle<u32>) {
    let frame = Frame::text("late");
    for outcome in [
        handle.send_frame(frame.clone()).await,
        handle.feed_frame(frame.clone()).await,
        handle.try_send_frame(frame.clone()),
    ] {
        assert!(matches!(outcome, Err(SendError::Stopped(back)) if back == frame));
    }
    assert!(matches!(handle.flush().await, Err(SendError::Lost(DisconnectReason::Local))));
    assert_eq!(handle.send_info(1).await.unwrap_err().into_info(), 1);
    assert_eq!(handle.send_info_after(Duration::from_secs(1), 2).unwrap_err().into_info(), 2);
    handle.connect().await;
    handle.reconnect(CloseFrame::normal()).await;
    handle.disconnect().await;
    handle.stop().await;
    assert!(matches!(handle.wait_for(ClientState::Connected).await, Err(StopReason::Aborted)));
    assert_eq!(handle.state(), ClientState::Stopped);
}

async fn ends(stage: Stage, end: End, inner: Runtime) {
    let case = format!("{stage:?} {end:?}");
    let name = format!("tokio ends: {case} {:?}", inner.handle().runtime_flavor());
    let server = Server::bind(stage == Stage::Tls).await;
    let (handler, mut events) = recorder();
    let builder = Client::builder(&server.url("/")).unwrap();
    let builder = builder.tls(Tls::new().root_certificate(CA.root())).name(&name);
    let builder = builder.limits(Limits::client().with_send_queue(1000).unwrap());
    let mut tcp = TcpOptions::default();
    tcp.send_buffer = Some(64 * 1024); // else the system takes megabytes that nobody reads
    let builder = builder.tcp(tcp);

    // A runtime of one thread needs one that runs it; told to, that gives it back.
    let (over, told) = oneshot::channel::<()>();
    let tasks = inner.handle().clone();
    let running = thread::spawn(move || {
        let _ = inner.block_on(told);
        inner
    });
    let (mut client, mut life) = (None, None);
    if end == End::Aborted {
        life = Some(tasks.spawn(builder.run(handler)));
        assert!(matches!(events.next().await, Seen::Init));
    } else {
        client = Some(tasks.spawn(start(builder, handler)).await.unwrap());
    }
    let handle = lookup::<u32>(&name).unwrap();
    let mut peer = reach(stage, &server, &handle, &mut events).await;

    // Whoever waits.
    let wait_for = handle.clone();
    let wait_for = under_way(async move { wait_for.wait_for(ClientState::Disconnected).await }).await;
    let (mut begun, mut back, mut flush) = (None, Vec::new(), None);
    if matches!(stage, Stage::Tls | Stage::Upgrade | Stage::Blocked) {
        let send = |frame: Frame| {
            let handle = handle.clone();
            under_way(async move { handle.send_frame(frame).await })
        };
        if stage == Stage::Blocked {
            begun = Some(send(Frame::binary(vec![0; 8 * 1024 * 1024])).await);
            while handle.stats().queued > 0 {
                yield_now().await;
            }
        }
        back.push(send(Frame::binary(vec![0; 900])).await);
        back.push(send(Frame::binary(vec![1; 900])).await); // for room
        let handle = handle.clone();
        flush = Some(under_way(async move { handle.flush().await }).await);
        assert!(back.iter().all(|task| !task.is_finished()), "{case}");
    }

    match end {
        End::Aborted => {
            let life = life.take().unwrap();
            life.abort();
            assert!(life.await.unwrap_err().is_cancelled());
            drop(over);
            running.join().unwrap().shutdown_background();
        }
        _ => {
            drop(over);
            let inner = running.join().unwrap();
            match end {
                End::ShutdownBackground => inner.shutdown_background(),
                End::ShutdownTimeout => {
                    thread::spawn(|| inner.shutdown_timeout(Duration::from_secs(60))).join().unwrap();
                }
                _ => thread::spawn(|| drop(inner)).join().unwrap(),
            }
        }
    }

    // They are answered.
    let outcome = wait_for.await.unwrap();
    assert!(matches!(outcome, Err(StopReason::Aborted)), "{case}: {outcome:?}");
    for (n, task) in back.into_iter().enumerate() {
        let outcome = task.await.unwrap();
        let n = u8::try_from(n).unwrap();
        assert!(
            matches!(&outcome, Err(SendError::Stopped(frame)) if *frame == Frame::binary(vec![n; 900])),
            "{case}: {n} {outcome:?}"
        );
    }
    for task in [begun, flush].into_iter().flatten() {
        assert!(matches!(task.await.unwrap(), Err(SendError::Lost(DisconnectReason::Local))), "{case}");
    }
    peer.end().await;
    handle.wait_for(ClientState::Stopped).await.unwrap();
    assert!(lookup::<u32>(&name).is_err(), "{case}: the name is free");
    if let Some(client) = client {
        let error = client.join().await.unwrap_err();
        assert!(matches!(error.reason(), StopReason::Aborted), "{case}: {error:?}");
        assert!(error.into_handler().is_none());
    }
    events.nothing_more().await;
    answers_as_aborted(&handle).await;
}

async fn start(builder: ClientBuilder, handler: Recorder) -> Client<Recorder, u32> {
    builder.start(handler).await.unwrap()
}

#[test]
fn whatever_ends_the_task_of_a_client_its_handles_are_answered() {
    for stage in [Stage::Tls, Stage::Upgrade, Stage::Open, Stage::Blocked, Stage::Closing] {
        for end in [End::Aborted, End::ShutdownBackground, End::ShutdownTimeout, End::Dropped] {
            for inner in [current_thread, multi_thread] {
                within_deadline(move || current_thread().block_on(ends(stage, end, inner())));
            }
        }
    }
}

#[test]
fn a_start_on_a_runtime_that_has_shut_down_is_aborted() {
    let inner = multi_thread();
    let gone = inner.handle().clone();
    drop(inner);
    let _entered = gone.enter();
    let start = Client::builder("ws://127.0.0.1:1/").unwrap().start::<_, ()>(());
    let started = pin!(start).poll(&mut Context::from_waker(Waker::noop()));
    assert!(matches!(started, Poll::Ready(Err(StartError::Aborted))), "{started:?}");
}

/// `init` waits, and says when it is called.
#[derive(Debug)]
struct Slow {
    called: Option<oneshot::Sender<()>>,
    go_on: Option<oneshot::Receiver<()>>,
}

impl Handler for Slow {
    async fn init(&mut self) -> Result<(), BoxError> {
        let _ = self.called.take().map(|called| called.send(()));
        match self.go_on.take() {
            Some(go_on) => Ok(go_on.await?),
            None => Ok(()),
        }
    }
}

#[test]
fn a_start_that_is_given_up_while_init_runs_detaches_the_client() {
    within_deadline(|| {
        current_thread().block_on(async {
            let server = Server::bind(false).await;
            let (called, init) = oneshot::channel();
            let (go_on, wait) = oneshot::channel();
            let handler = Slow { called: Some(called), go_on: Some(wait) };
            let start = tokio::spawn(Client::builder(&server.url("/")).unwrap().start(handler));
            init.await.unwrap();
            start.abort();
            assert!(start.await.unwrap_err().is_cancelled());
            go_on.send(()).unwrap();
            let mut peer = server.accept().await;
            peer.upgrade("").await;
            peer.shutdown().await;
            assert_eq!(peer.end().await, parley_tests::raw::End::Fin);
        });
    });
}
