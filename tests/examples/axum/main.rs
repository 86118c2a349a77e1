//! A WebSocket as one route of an axum server, beside ordinary ones.
//!
//! ```text
//! cargo run -p parley-tests --example axum                             talks to itself, and ends
//! cargo run -p parley-tests --example axum -- --serve 127.0.0.1:8080   serves until Ctrl-C
//! ```

mod upgrade;

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use axum::Router;
use axum::extract::{FromRef, State};
use axum::response::Response;
use axum::routing::{any, get};
use parley_tokio::{Action, BoxError, Frame, Handler, Limits, Origins, Server};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use upgrade::Upgrade;

/// What the routes share.
#[derive(Clone)]
struct App {
    /// The messages echoed so far.
    echoed: Arc<AtomicU64>,
    /// It listens nowhere: axum does, and hands it the upgraded streams. It has the options, and sees them off.
    server: Arc<Server>,
}

/// For the extractor.
impl FromRef<App> for Arc<Server> {
    fn from_ref(app: &App) -> Self {
        app.server.clone()
    }
}

fn router(app: App) -> Router {
    Router::new()
        .route("/", get(async || "There is a WebSocket at /ws, and a count of its messages at /echoed.\n"))
        .route("/echoed", get(async |State(app): State<App>| app.echoed.load(Ordering::Relaxed).to_string()))
        .route("/ws", any(ws))
        .with_state(app)
}

async fn ws(State(app): State<App>, upgrade: Upgrade) -> Response {
    upgrade.serve(Echo { echoed: app.echoed })
}

/// One connection.
struct Echo {
    echoed: Arc<AtomicU64>,
}

impl Handler for Echo {
    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        if let Frame::Pong(_) = frame {
            return Ok(Action::Continue);
        }
        self.echoed.fetch_add(1, Ordering::Relaxed);
        Ok(Action::Push(frame))
    }
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

fn app() -> Result<App, BoxError> {
    // A browser lets any page connect, with its user's cookies: pages of other sites are refused.
    let server = Server::builder(Origins::same_host()).limits(Limits::server().with_message(64 * 1024)?).build()?;
    Ok(App { echoed: Arc::default(), server: Arc::new(server) })
}

async fn serve(addr: &str) -> Result<(), BoxError> {
    let app = app()?;
    let listener = TcpListener::bind(addr).await?;
    println!("listening on http://{}/", listener.local_addr()?);
    let interrupt = async { _ = tokio::signal::ctrl_c().await };
    axum::serve(listener, router(app.clone())).with_graceful_shutdown(interrupt).await?;
    app.server.shutdown(Duration::from_secs(5)).await; // axum does not wait for what was upgraded
    Ok(())
}

async fn talk_to_itself() -> Result<(), BoxError> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let addr = listener.local_addr()?;
    let router = router(app()?);
    tokio::spawn(async move { axum::serve(listener, router).await });

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
