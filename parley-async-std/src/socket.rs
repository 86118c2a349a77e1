//! Connections for a loop of one's own: short ways for what needs no options.

use futures_io::{AsyncRead, AsyncWrite};
use parley_proto::Role;
use parley_proto::connection::Config;
use parley_proto::driver;
use parley_proto::handshake::{ClientRequest, Negotiated, Origins};

use crate::{AsyncStd, Client, ClientBuilder, Error, Transport, WebSocket};

/// Connects to a URL, `ws://` or `wss://`, without options; [`ClientBuilder::connect`] has them.
///
/// ```no_run
/// # async fn example() -> Result<(), parley_async_std::Error> {
/// use parley_async_std::Frame;
///
/// let mut socket = parley_async_std::connect("wss://example.com/chat").await?;
/// socket.send(Frame::text("hello")).await?;
/// while let Some(frame) = socket.next().await {
///     println!("{:?}", frame?);
/// }
/// println!("closed with {}", socket.closed().map_or(1006, |closed| closed.code()));
/// # Ok(())
/// # }
/// ```
///
/// # Errors
///
/// As [`ClientBuilder::connect`], and [`Error::Build`].
pub async fn connect(url: &str) -> Result<WebSocket, Error> {
    Client::builder(url)?.connect().await
}

/// The client side of the opening handshake over a stream of the user's own, within 10 s;
/// [`ClientBuilder::connect_over`] has options.
///
/// # Errors
///
/// As [`ClientBuilder::connect_over`].
pub async fn client<S>(stream: S, request: ClientRequest) -> Result<WebSocket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    ClientBuilder::from(request).connect_over(Transport::new(stream)).await
}

/// The server side of the opening handshake over a stream of the user's own, within 5 s: whatever is asked for is
/// accepted, if its origin is welcome. [`Server::accept`](crate::Server) shows the request first, and has options.
///
/// # Errors
///
/// [`Error::Accept`]: there was no request to accept; [`Error::Runtime`].
pub async fn server<S>(stream: S, origins: Origins) -> Result<WebSocket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    driver::server::<AsyncStd, _>(Transport::new(stream), origins).await
}

/// A connection over a stream whose opening handshake was done elsewhere, by hyper or axum say. The stream has to begin
/// with the first frame. [`Server::upgraded`](crate::Server) is for servers: it has options, origins, handlers and a shutdown.
///
/// # Errors
///
/// [`Error::Runtime`]: no runtime, or no unpredictable bytes.
pub fn upgraded<S>(stream: S, role: Role, agreed: Negotiated, config: Config) -> Result<WebSocket<S>, Error>
where
    S: AsyncRead + AsyncWrite + Send + Unpin + 'static,
{
    driver::upgraded::<AsyncStd, _>(Transport::new(stream), role, agreed, config)
}
