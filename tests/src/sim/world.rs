//! The kit's world and listener with what our tests want of them besides: clients by their options, whatever the platform,
//! and peers byte by byte.

use std::fmt;
use std::net::SocketAddr;
use std::ops::Deref;

use parley_proto::Handler;
use parley_proto::driver::{Client, Handle, Setup, StartError};
use parley_proto::session::ClientOptions;
use parley_proto::testing::{self, Link, SimTransport};

use crate::raw::RawConn;

/// A [`testing::Sim`], which it derefs to.
#[derive(Clone, Default)]
pub struct Sim(testing::Sim);

impl Deref for Sim {
    type Target = testing::Sim;

    fn deref(&self) -> &testing::Sim {
        &self.0
    }
}

impl fmt::Debug for Sim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl Sim {
    /// An empty world, at the time 0.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// See [`testing::Sim::run`].
    ///
    /// # Panics
    ///
    /// As that does.
    pub fn run<T>(&self, main: impl AsyncFnOnce(Self) -> T) -> T {
        self.0.run(async |sim| main(Self(sim)).await)
    }

    /// The world that runs on this thread.
    #[must_use]
    pub fn running_here() -> Option<Self> {
        testing::Sim::running_here().map(Self)
    }

    /// Listens on an address.
    ///
    /// # Panics
    ///
    /// If somebody does already.
    #[must_use]
    #[track_caller]
    pub fn listen(&self, addr: SocketAddr) -> Listener {
        Listener(self.0.listen(addr))
    }

    /// Whoever listens there.
    ///
    /// # Panics
    ///
    /// If nobody does.
    #[must_use]
    pub fn listener(&self, addr: SocketAddr) -> Listener {
        Listener(self.0.listener(addr).expect("somebody listens"))
    }

    /// The two ends of a connection that nobody has dialled.
    #[must_use]
    pub fn pair(&self) -> (SimTransport, SimTransport) {
        self.0.pair(Link::default())
    }

    /// Connects by hand to whoever listens there.
    ///
    /// # Panics
    ///
    /// If nobody does.
    #[must_use]
    pub fn dial(&self, addr: SocketAddr) -> RawConn {
        RawConn::in_world(self.dial_transport(addr))
    }

    pub(crate) fn dial_transport(&self, addr: SocketAddr) -> SimTransport {
        self.0.dial(addr).expect("somebody listens")
    }

    /// Starts a client here.
    ///
    /// # Errors
    ///
    /// The handler's `init` failed.
    pub async fn start<H, I>(&self, options: ClientOptions, handler: H) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.start_with(options, |_| handler).await
    }

    /// Starts a client whose handler gets the client's own handle.
    ///
    /// # Errors
    ///
    /// The handler's `init` failed.
    pub async fn start_with<H, I>(
        &self,
        options: ClientOptions,
        make: impl FnOnce(Handle<I>) -> H,
    ) -> Result<Client<H, I>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let setup = Setup::new(options);
        let handler = make(setup.own_handle());
        let (client, life) = setup.client(self.runtime(), handler);
        drop(self.spawn(life));
        client.started().await?;
        Ok(client)
    }

    /// The journal without the network: the callbacks.
    #[must_use]
    pub fn calls(&self) -> Vec<String> {
        self.journal().into_iter().filter(|line| !line.contains("ms net ")).collect()
    }
}

/// A [`testing::Listener`], which it derefs to.
#[derive(Debug)]
pub struct Listener(testing::Listener);

impl Deref for Listener {
    type Target = testing::Listener;

    fn deref(&self) -> &testing::Listener {
        &self.0
    }
}

impl Listener {
    /// The next connection, to be played by hand.
    #[track_caller]
    pub fn accept(&self) -> impl Future<Output = RawConn> + Send {
        let accepted = self.accept_transport();
        async move { RawConn::in_world(accepted.await) }
    }
}
