//! An extractor for axum: the opening handshake of a WebSocket. Copy it as it is.

use axum::body::Body;
use axum::extract::{FromRequest, Request};
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use hyper::upgrade::{OnUpgrade, Upgraded};
use hyper_util::rt::TokioIo;
use parley_tokio::{Acceptance, Config, Origins, Role};

/// What axum and hyper give for the TCP connection, TLS or not.
pub(crate) type WebSocket = parley_tokio::WebSocket<TokioIo<Upgraded>>;

/// A request to upgrade, which was checked: the handler may answer it with [`on_upgrade`](Self::on_upgrade).
pub(crate) struct Upgrade {
    /// The handshake as Parley sees it: path, headers, subprotocols on offer.
    pub(crate) request: parley_tokio::Request,
    stream: OnUpgrade,
}

impl<S: Send + Sync> FromRequest<S> for Upgrade {
    type Rejection = Response;

    async fn from_request(mut request: Request, _: &S) -> Result<Self, Response> {
        let stream = hyper::upgrade::on(&mut request);
        // What is no handshake is answered with 426, 400 or 405, as RFC 6455, section 4.2.1 has it.
        let request = parley_tokio::Request::from_http(&request).map_err(|error| error.to_http().map(Body::from))?;
        // A browser lets any page connect, with its user's cookies, so that the server has to look where it comes from.
        if !Origins::same_host().allow(&request) {
            return Err(StatusCode::FORBIDDEN.into_response());
        }
        Ok(Self { request, stream })
    }
}

impl Upgrade {
    /// The response, 101. Once it has left, the connection is `serve`'s, in a task of its own.
    pub(crate) fn on_upgrade<F>(self, config: Config, serve: impl FnOnce(WebSocket) -> F + Send + 'static) -> Response
    where
        F: Future<Output = Result<(), parley_tokio::Error>> + Send + 'static,
    {
        let (agreed, response) = match self.request.accept(&Acceptance::new()) {
            Ok(answer) => answer,
            Err(error) => return (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        };
        tokio::spawn(async move {
            let Ok(stream) = self.stream.await else { return }; // the client has gone before the response had left
            let outcome = match parley_tokio::upgraded(TokioIo::new(stream), Role::Server, agreed, config) {
                Ok(socket) => serve(socket).await,
                Err(error) => Err(error),
            };
            if let Err(error) = outcome {
                eprintln!("a WebSocket has ended: {error}");
            }
        });
        response.map(|()| Body::empty())
    }
}
