//! Connections whose opening handshake another HTTP server has done: hyper or axum, say.

use std::fmt;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use http::StatusCode;

use super::super::pipe::Pipe;
use super::{
    AcceptError, Client, Error, Handle, Inner, Link, Permit, Platform, Server, StartError, Transport, WebSocket, serve,
};
use crate::Role;
use crate::connection::Connection;
use crate::driver::Clock;
use crate::driver::trace;
use crate::handler::Handler;
use crate::handshake::{Negotiated, Request};
use crate::session::Session;

impl<P: Platform> Server<P> {
    /// Checks a request that another HTTP server has read: it has to be an opening handshake, of a welcome origin.
    ///
    /// That server then sends the response of [`Request::accept`], and hands the upgraded stream to
    /// [`upgraded`](Self::upgraded), with what was agreed.
    ///
    /// # Errors
    ///
    /// The response to send instead: 400, 405 or 426 to what is no handshake (section 4.2.1), 403 to an origin that is not
    /// welcome (section 10.2), 503 while this server shuts down.
    #[expect(clippy::result_large_err, reason = "it is the response that the caller has to give anyway")]
    pub fn check<B>(&self, request: &http::Request<B>) -> Result<Request, http::Response<Bytes>> {
        let request = Request::from_http(request).map_err(|error| {
            Inner::<P>::count(&self.shared.counters.failed);
            error.to_http()
        })?;
        if self.shared.census.is_leaving() {
            return Err(refusal(StatusCode::SERVICE_UNAVAILABLE, "shutting down\n"));
        }
        if !self.shared.options.origins.allow(&request) {
            Inner::<P>::count(&self.shared.counters.refused);
            trace::refused(&request);
            return Err(refusal(StatusCode::FORBIDDEN, "this origin is not welcome\n"));
        }
        trace::requested(&request);
        Ok(request)
    }

    /// A connection over a stream whose opening handshake another HTTP server has done. The stream has to begin with the
    /// first frame. The server's options hold for it, but for the bounds on how many there are, and it takes part in
    /// [`shutdown`](Self::shutdown). The example `axum` in `tests` has what stands around it.
    ///
    /// # Errors
    ///
    /// [`AcceptError::ShuttingDown`]; the stream is dropped.
    pub fn upgraded<T: Transport>(&self, transport: T, agreed: Negotiated) -> Result<Upgraded<T, P>, AcceptError> {
        let permit = self.shared.census.admit().ok_or(AcceptError::ShuttingDown)?;
        Ok(Upgraded { transport, agreed, permit, server: self.shared.clone() })
    }
}

fn refusal(status: StatusCode, text: &'static str) -> http::Response<Bytes> {
    let mut response = http::Response::new(Bytes::from_static(text.as_bytes()));
    *response.status_mut() = status;
    response
}

/// A stream that another HTTP server has upgraded, for a handler or for a loop of one's own: see [`Server::upgraded`].
/// Dropped, it closes the stream without a word.
#[must_use = "nobody answers on it yet"]
pub struct Upgraded<T: Transport, P: Platform> {
    transport: T,
    agreed: Negotiated,
    permit: Permit,
    server: Arc<Inner<P>>,
}

impl<T: Transport, P: Platform> Upgraded<T, P> {
    /// What the opening handshake settled.
    #[must_use]
    pub fn agreed(&self) -> &Negotiated {
        &self.agreed
    }

    /// Gives the connection to a handler, as [`Incoming::accept`](super::Incoming::accept) does. It is too late for a
    /// response: an `init` that fails, or takes longer than the decision timeout, closes with 1011.
    ///
    /// Dropped before it resolves, the client runs on, detached.
    ///
    /// # Errors
    ///
    /// `init` failed, or the connection is gone.
    pub async fn accept<H, I>(self, handler: H) -> Result<Client<H, I, P>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        self.accept_with(|_| handler).await
    }

    /// [`accept`](Self::accept) with a handler that gets the client's own handle.
    ///
    /// # Errors
    ///
    /// As [`accept`](Self::accept).
    pub async fn accept_with<H, I>(self, make: impl FnOnce(Handle<I>) -> H) -> Result<Client<H, I, P>, StartError>
    where
        H: Handler<I>,
        I: Send + 'static,
    {
        let Self { transport, agreed, permit, server } = self;
        let (clock, facts) = (P::clock(), transport.facts());
        let session = Session::upgraded(clock.now(), agreed, facts, server.config.clone(), server.seed());
        let pipe = Pipe::over(transport, BytesMut::new());
        let client = serve::<T, P, H, I>(session, pipe, clock, &server, Some(Box::new(permit)), make);
        client.started().await?;
        Ok(client)
    }

    /// The connection, for a loop of one's own.
    ///
    /// # Errors
    ///
    /// The connection is gone.
    pub fn into_websocket(self) -> impl Future<Output = Result<WebSocket<T, P::Clock>, Error>> + use<T, P> {
        Box::pin(async move {
            let Self { transport, agreed, permit, server } = self;
            let (clock, facts) = (P::clock(), transport.facts());
            let seed = server.seed();
            let connection = Connection::upgraded(clock.now(), Role::Server, agreed, server.config.clone(), seed);
            let mut link = Box::new(Link::over(connection, transport, BytesMut::new(), clock));
            link.permit = Some(Box::new(permit));
            WebSocket::opened(link, facts).await
        })
    }
}

impl<T: Transport, P: Platform> fmt::Debug for Upgraded<T, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Upgraded").field("agreed", &self.agreed).finish_non_exhaustive()
    }
}
