//! The scenarios on async-std and on smol's executor, and what only a user of async-std can do.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use parley_async_std::Client;
use parley_tests::peers::{Server, within_deadline};
use parley_tests::recorder::recorder;

/// What the scenarios are about.
mod adapter {
    use parley_async_std::Transport;
    pub(crate) use parley_async_std::{
        AsyncStd as Platform, Client, ClientBuilder, Incoming, Server, ServerBuilder, Tls, WebSocket, client, server,
        upgraded,
    };
    use smol::net::unix::UnixStream;

    pub(crate) fn platform(tls: Tls) -> Platform {
        Platform::new().unwrap().with_tls(tls)
    }

    pub(crate) fn pair() -> (UnixStream, UnixStream) {
        UnixStream::pair().unwrap()
    }

    pub(crate) fn transport(stream: UnixStream) -> Transport<UnixStream> {
        Transport::new(stream)
    }
}

#[macro_use]
#[path = "../src/scenarios/mod.rs"]
mod scenarios;

mod on_async_std {
    fn block_on(future: impl Future<Output = ()>) {
        async_std::task::block_on(future);
    }

    scenario_tests!();
}

/// Where nothing of async-std's is around the user's own code.
mod on_smol {
    fn block_on(future: impl Future<Output = ()>) {
        smol::block_on(future);
    }

    scenario_tests!();
}

#[test]
fn a_cancelled_task_closes_its_connection() {
    within_deadline(|| {
        async_std::task::block_on(async {
            let server = Server::bind(false).await;
            let (handler, mut events) = recorder();
            let task = async_std::task::spawn(Client::builder(&server.url("/")).unwrap().run(handler));
            let mut peer = server.accept().await;
            let request = peer.upgrade("").await;
            events.connected().await;
            assert!(task.cancel().await.is_none());
            events.nothing_more().await;
            peer.end().await;
            assert_eq!(peer.received(), request.as_bytes(), "no frame was sent");
        });
    });
}
