//! The simulated runtime as a whole platform: for the builders of clients and servers, whose ways in are functions
//! without a world in them. The world is the one that runs on this thread.

use std::cell::RefCell;
use std::fmt;
use std::future::{Future, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::task::{Poll, Waker};

use parley_proto::driver::{Platform, TcpOptions, TlsError, TlsFacts, Transport};

use super::net::{Fate, Listener, SimRuntime};
use super::{Sim, SimTransport, lock};
use crate::raw::RawConn;

thread_local! {
    static RUNNING: RefCell<Vec<Sim>> = const { RefCell::new(Vec::new()) };
}

/// While it lives, this world runs on this thread.
pub(super) struct Running;

impl Running {
    pub(super) fn enter(sim: &Sim) -> Self {
        RUNNING.with_borrow_mut(|running| running.push(sim.clone()));
        Self
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(RUNNING.with_borrow_mut(Vec::pop));
    }
}

impl Sim {
    /// The world that runs on this thread.
    #[must_use]
    pub fn running_here() -> Option<Self> {
        RUNNING.with_borrow(|running| running.last().cloned())
    }

    fn here() -> Self {
        Self::running_here().expect("a world runs on this thread")
    }

    /// The next accepts at this address give these errors, one after the other.
    ///
    /// # Panics
    ///
    /// If nobody listens there.
    pub fn fail_accepts(&self, addr: SocketAddr, errors: impl IntoIterator<Item = io::ErrorKind>) {
        let listener = self.listener(addr);
        let mut backlog = lock(&listener.backlog);
        backlog.errors.extend(errors);
        backlog.waker.take().into_iter().for_each(Waker::wake);
    }

    /// Connects by hand to whoever listens there.
    ///
    /// # Panics
    ///
    /// If nobody does.
    #[must_use]
    pub fn dial(&self, addr: SocketAddr) -> RawConn {
        RawConn::new(self.dial_transport(addr))
    }

    pub(crate) fn dial_transport(&self, addr: SocketAddr) -> SimTransport {
        self.connect(addr).expect("somebody listens")
    }

    /// Whoever listens there.
    ///
    /// # Panics
    ///
    /// If nobody does.
    #[must_use]
    pub fn listener(&self, addr: SocketAddr) -> Listener {
        let backlog = self.net(|net| net.listeners.get(&addr).cloned()).expect("somebody listens");
        Listener { addr, backlog }
    }
}

/// Where a server listens. Dropped, it refuses.
pub struct SimListener {
    sim: Sim,
    listener: Listener,
}

impl fmt::Debug for SimListener {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.listener.fmt(f)
    }
}

impl Drop for SimListener {
    fn drop(&mut self) {
        self.sim.net(|net| net.listeners.remove(&self.listener.addr));
        drop(std::mem::take(&mut lock(&self.listener.backlog).waiting));
    }
}

/// What every TLS handshake of a server comes to.
#[derive(Clone, Debug)]
pub struct SimServerTls(pub Fate<TlsFacts, TlsError>);

impl Platform for SimRuntime {
    type Tls = ();
    type Clock = Self;
    type Listener = SimListener;
    type ServerTls = SimServerTls;

    const TLS: bool = true;

    fn create((): ()) -> io::Result<Self> {
        Ok(Sim::here().runtime())
    }

    fn clock() -> Self {
        Sim::here().runtime()
    }

    fn is_running() -> bool {
        Sim::running_here().is_some()
    }

    fn spawn(task: impl Future<Output = ()> + Send + 'static) {
        drop(Sim::here().spawn(task));
    }

    fn bind(mut addr: SocketAddr) -> io::Result<SimListener> {
        let sim = Sim::here();
        if addr.port() == 0 {
            addr.set_port(sim.free_addr().port());
        }
        let listener = sim.listen(addr);
        Ok(SimListener { sim, listener })
    }

    fn local_addr(listener: &SimListener) -> io::Result<SocketAddr> {
        Ok(listener.listener.addr)
    }

    async fn accept(listener: &mut SimListener, _: &TcpOptions) -> io::Result<SimTransport> {
        poll_fn(|cx| {
            let error = lock(&listener.listener.backlog).errors.pop_front();
            match error {
                Some(error) => Poll::Ready(Err(error.into())),
                None => listener.listener.poll_accept(cx).map(Ok),
            }
        })
        .await
    }

    fn accept_tls(
        mut transport: SimTransport,
        tls: &SimServerTls,
    ) -> impl Future<Output = Result<SimTransport, TlsError>> + Send + 'static {
        let (sim, fate) = (Sim::here(), tls.0.clone());
        async move {
            let facts = transport.facts().with_tls(sim.fate(fate).await?);
            transport.set_facts(facts);
            Ok(transport)
        }
    }
}
