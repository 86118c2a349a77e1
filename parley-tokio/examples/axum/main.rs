//! A WebSocket as one route of an axum server, beside ordinary ones.
//!
//! ```text
//! cargo run -p parley-tokio --example axum                             talks to itself, and ends
//! cargo run -p parley-tokio --example axum -- --serve 127.0.0.1:8080   serves until Ctrl-C
//! ```

mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::extract::State;
use axum::response::Response;
use axum::routing::{any, get};
use parley_tokio::{BoxError, Config, Error, Frame, LimitError, Limits, Role};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade::{Upgrade, WebSocket};

/// What the routes share.
#[derive(Clone)]
struct App {
    /// The messages echoed so far.
    echoed: Arc<AtomicU64>,
    /// Of each WebSocket.
    config: Config,
}

fn app() -> Result<Router, LimitError> {
    let mut config = Config::new(Role::Server);
    config.limits = Limits::server().with_message(64 * 1024)?;
    Ok(Router::new()
        .route("/", get(async || "There is a WebSocket at /ws, and a count of its messages at /echoed.\n"))
        .route("/echoed", get(async |State(app): State<App>| app.echoed.load(Ordering::Relaxed).to_string()))
        .route("/ws", any(ws))
        .with_state(App { echoed: Arc::default(), config }))
}

async fn ws(State(app): State<App>, upgrade: Upgrade) -> Response {
    upgrade.on_upgrade(app.config, async move |socket| echo(socket, &app.echoed).await)
}

async fn echo(mut socket: WebSocket, echoed: &AtomicU64) -> Result<(), Error> {
    while let Some(frame) = socket.next().await {
        match frame? {
            message @ (Frame::Text(_) | Frame::Binary(_)) => {
                socket.feed(message).await?; // leaves when there is nothing more to read
                echoed.fetch_add(1, Ordering::Relaxed);
            }
            Frame::Ping(_) | Frame::Pong(_) => {} // a ping is answered already
        }
    }
    Ok(()) // after a closing handshake
}

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    match (args.next().as_deref(), args.next()) {
        (None, _) => talk_to_itself().await,
        (Some("--serve"), Some(addr)) => serve(&addr).await,
        _ => Err("usage: axum [--serve ADDR]".into()),
    }
}

async fn serve(addr: &str) -> Result<(), BoxError> {
    let listener = TcpListener::bind(addr).await?;
    println!("listening on http://{}/", listener.local_addr()?);
    let interrupt = async { _ = tokio::signal::ctrl_c().await };
    axum::serve(listener, app()?).with_graceful_shutdown(interrupt).await?;
    Ok(())
}

async fn talk_to_itself() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let app = app()?;
    tokio::spawn(async move { axum::serve(listener, app).await });

    println!("GET /        {}", page(addr, "/").await?);
    let mut socket = parley_tokio::connect(&format!("ws://{addr}/ws")).await?;
    println!("GET /ws      {}", socket.connected().negotiated.status());
    for text in ["hello", "from", "one port"] {
        socket.send(Frame::text(text)).await?;
        println!("             {:?}", socket.next().await.ok_or("the server has closed")??);
    }
    socket.close().await?;
    println!("             closed with {}", socket.closed().map_or(1006, |closed| closed.code()));
    println!("GET /echoed  {}", page(addr, "/echoed").await?);
    Ok(())
}

/// Any HTTP client would do.
async fn page(addr: SocketAddr, path: &str) -> Result<String, BoxError> {
    let mut stream = TcpStream::connect(addr).await?;
    stream.write_all(format!("GET {path} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\r\n").as_bytes()).await?;
    let mut response = String::new();
    stream.read_to_string(&mut response).await?;
    let (_, body) = response.split_once("\r\n\r\n").ok_or("no HTTP response")?;
    Ok(body.trim_end().to_owned())
}
