//! An extractor for axum: the opening handshake of a WebSocket. Copy it as it is.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{FromRef, FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper::upgrade::OnUpgrade;
use hyper_util::rt::TokioIo;
use parley_tokio::{Acceptance, Handler, Server, Transport};

/// A request that Parley's server has checked: the handshake, its origin, and whether the server still takes any.
pub(crate) struct Upgrade {
    server: Arc<Server>,
    request: parley_tokio::Request,
    stream: OnUpgrade,
}

impl<S> FromRequest<S> for Upgrade
where
    Arc<Server>: FromRef<S>,
    S: Send + Sync,
{
    /// What says no: 426 to what is no WebSocket, 403 to the page of another site, and so on.
    type Rejection = Response;

    async fn from_request(mut request: Request, state: &S) -> Result<Self, Response> {
        let server = Arc::<Server>::from_ref(state);
        let stream = hyper::upgrade::on(&mut request);
        let request = server.check(&request).map_err(|response| response.map(Body::from))?;
        Ok(Self { server, request, stream })
    }
}

impl Upgrade {
    /// The response, 101. Once it has left, the handler serves the connection, in a task of its own.
    pub(crate) fn serve(self, handler: impl Handler) -> Response {
        let Self { server, request, stream } = self;
        // A subprotocol of those in `request` would be chosen here. Without one, an acceptance fits any request.
        let (agreed, response) = match request.accept(&Acceptance::new()) {
            Ok(accepted) => accepted,
            Err(misuse) => return (StatusCode::INTERNAL_SERVER_ERROR, misuse.to_string()).into_response(),
        };
        tokio::spawn(async move {
            let Ok(stream) = stream.await else { return }; // the client has gone before the response had left
            if let Ok(upgraded) = server.upgraded(Transport::new(TokioIo::new(stream)), agreed) {
                let _ = upgraded.accept(handler).await; // how it ends, the handler is told
            } // or the server shuts down
        });
        response.map(|()| Body::empty())
    }
}
