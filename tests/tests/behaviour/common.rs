//! What the tests begin with.

use std::net::SocketAddr;
use std::time::Duration;

use parley_proto::driver::Client;
use parley_proto::session::ClientOptions;
use parley_tests::raw::RawConn;
use parley_tests::sim::{Listener, Probe, Sim};

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
