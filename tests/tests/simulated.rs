//! The scenarios on the simulated runtime: the same list as on the others, in memory, under a virtual clock.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use parley_tests::sim::Sim;

/// What the scenarios are about.
mod adapter {
    use parley_proto::Role;
    use parley_proto::connection::Config;
    use parley_proto::driver::{self, Error, Platform as _};
    use parley_proto::handshake::{ClientRequest, Negotiated, Origins};
    use parley_tests::sim::{Sim, SimClock, SimTransport, TlsTransport};

    pub(crate) use parley_proto::driver::Tls;
    pub(crate) use parley_tests::sim::TlsRuntime as Platform;

    pub(crate) type Client<H = (), I = ()> = driver::Client<H, I, Platform>;
    pub(crate) type ClientBuilder = driver::ClientBuilder<Platform>;
    pub(crate) type Server = driver::Server<Platform>;
    pub(crate) type ServerBuilder = driver::ServerBuilder<Platform>;
    pub(crate) type Incoming = driver::Incoming<TlsTransport, Platform>;
    pub(crate) type WebSocket<S = TlsTransport> = driver::WebSocket<S, SimClock>;

    pub(crate) fn platform(tls: Tls) -> Platform {
        Platform::create(tls).unwrap()
    }

    pub(crate) fn pair() -> (SimTransport, SimTransport) {
        Sim::running_here().unwrap().pair()
    }

    pub(crate) fn transport(stream: SimTransport) -> SimTransport {
        stream
    }

    pub(crate) async fn client(stream: SimTransport, request: ClientRequest) -> Result<WebSocket<SimTransport>, Error> {
        ClientBuilder::from(request).connect_over(stream).await
    }

    pub(crate) async fn server(stream: SimTransport, origins: Origins) -> Result<WebSocket<SimTransport>, Error> {
        driver::server::<Platform, _>(stream, origins).await
    }

    pub(crate) fn upgraded(
        stream: SimTransport,
        role: Role,
        agreed: Negotiated,
        config: Config,
    ) -> Result<WebSocket<SimTransport>, Error> {
        driver::upgraded::<Platform, _>(stream, role, agreed, config)
    }
}

#[macro_use]
#[path = "../src/scenarios/mod.rs"]
mod scenarios;

mod on_the_simulated_runtime {
    fn block_on(future: impl Future<Output = ()>) {
        super::Sim::new().run(async |_| future.await);
    }

    scenario_tests!();
}
