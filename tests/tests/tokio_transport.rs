//! The tokio adapter below the driver, and what only tokio's clock can do.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::future::{Future, poll_fn};
use std::task::{Context, Poll, Waker};
use std::time::{Duration, Instant};

use parley_proto::driver::Clock;
use parley_tokio::Tokio;

mod adapter {
    pub(crate) use parley_tokio::{Tls, Tokio as Platform};

    pub(crate) fn platform(tls: Tls) -> Platform {
        Platform::new().unwrap().with_tls(tls)
    }
}

#[macro_use]
#[path = "../src/transports.rs"]
mod transports;

fn block_on(future: impl Future<Output = ()>) {
    tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap().block_on(future);
}

transport_tests!();

fn poll_sleep(tokio: &mut Tokio, until: Instant) -> Poll<()> {
    tokio.poll_sleep(&mut Context::from_waker(Waker::noop()), until)
}

#[tokio::test(start_paused = true)]
async fn a_sleep_fires_on_a_paused_clock() {
    let mut tokio = Tokio::new().unwrap();
    let start = tokio.now();
    let until = start + Duration::from_secs(3600);
    assert_eq!(poll_sleep(&mut tokio, until), Poll::Pending);
    tokio::time::advance(Duration::from_secs(3599)).await;
    assert_eq!(poll_sleep(&mut tokio, until), Poll::Pending);
    tokio::time::advance(Duration::from_secs(1)).await;
    assert_eq!(poll_sleep(&mut tokio, until), Poll::Ready(()));
    assert_eq!(tokio.now(), until);
}

#[tokio::test(start_paused = true)]
async fn a_later_moment_replaces_an_earlier_one_on_a_paused_clock() {
    let mut tokio = Tokio::new().unwrap();
    let start = tokio.now();
    assert_eq!(poll_sleep(&mut tokio, start + Duration::from_secs(1)), Poll::Pending);
    let until = start + Duration::from_secs(3600);
    poll_fn(|cx| tokio.poll_sleep(cx, until)).await;
    assert_eq!(tokio.now(), until);
    // And once more, from a timer that has fired.
    let until = until + Duration::from_secs(1);
    assert_eq!(poll_sleep(&mut tokio, until), Poll::Pending);
    poll_fn(|cx| tokio.poll_sleep(cx, until)).await;
    assert_eq!(tokio.now(), until);
}
