//! The main job: a handler, a URL, and frames both ways.
//!
//! Without arguments it starts a small echo server inside this process and talks to it:
//!
//! ```text
//! cargo run -p parley-tokio --example client
//! ```
//!
//! With a URL it talks to that server: lines of stdin are sent, what arrives is printed, Ctrl-C closes with 1000.
//!
//! ```text
//! cargo run -p parley-tokio --example client -- wss://example.com/chat
//! ```

mod server;

use std::time::Instant;

use bytes::Bytes;
use parley_tokio::{
    Action, Attempt, BoxError, Client, ClientRequest, ClientState, Connected, DisconnectReason, Frame, Handler, Retry,
    StopReason,
};
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    match std::env::args().nth(1) {
        None => embedded().await,
        Some(url) => real(&url).await,
    }
}

/// A server in this process, and everything a handler can see of one client's life.
async fn embedded() -> Result<(), BoxError> {
    let log = Log::new(18);
    let server = server::Server::bind(([127, 0, 0, 1], 0).into()).await?;
    let (seen, mut callbacks) = mpsc::channel(8);
    let mut next = async || callbacks.recv().await.ok_or("the client has ended early");

    log.line("main", "starting a client for the echo server in this process");
    let client = Client::builder(&format!("ws://{}/echo", server.addr()))?
        .header("x-example", "client")?
        .subprotocol("echo")?
        .start(Printer { log, seen, callbacks: 0 })
        .await?;
    next().await?;

    log.line("main", "sending a text message");
    client.send_frame(Frame::text("hello, world")).await?;
    next().await?;
    log.line("main", "sending a binary message");
    client.send_frame(Frame::binary(vec![0x01, 0x02, 0x03])).await?;
    next().await?;
    log.line("main", "sending a ping");
    client.send_frame(Frame::ping("are you there?")).await?;
    next().await?;
    log.line("main", "asking the server for a ping");
    client.send_frame(Frame::text("ping me")).await?;
    next().await?;
    log.line("main", "sending an info to the handler");
    client.send_info(Note("from another task")).await?;
    next().await?;
    log.line("main", "disconnecting");
    client.disconnect().await;
    next().await?;
    server.finished().await?;
    log.line("main", "stopping");
    client.stop().await;
    let handler = client.join().await?;
    log.line("main", &format!("the client has ended; its handler saw {} callbacks", handler.callbacks));
    Ok(())
}

/// A server elsewhere.
async fn real(url: &str) -> Result<(), BoxError> {
    let log = Log::new(0);
    let client = Client::builder(url)?.start(Talker { log }).await?;
    let mut lines = stdin_lines();
    let sender = client.handle();
    let input = async move {
        while let Some(line) = lines.recv().await {
            if let Err(error) = sender.send_frame(Frame::text(line)).await {
                log.line("stdin", &format!("not sent: {error}"));
                break;
            }
        }
        // stdin is at its end: what arrives is still printed, until the server closes or Ctrl-C.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        () = input => {}
        _ = tokio::signal::ctrl_c() => {
            log.line("main", "closing with 1000");
            client.stop().await;
        }
        // Or it has ended: the first attempt failed.
        _ = client.wait_for(ClientState::Disconnected) => {}
    }
    // The last handle goes: a client that is disconnected ends, well if it was closed in order.
    client.join().await?;
    Ok(())
}

/// The lines of stdin, read by a thread of its own: tokio's stdin would hold up the end of `main` until the next line.
fn stdin_lines() -> mpsc::Receiver<String> {
    let (lines, received) = mpsc::channel(1);
    std::thread::spawn(move || {
        for line in std::io::stdin().lines().map_while(Result::ok) {
            if lines.blocking_send(line).is_err() {
                break;
            }
        }
    });
    received
}

/// What other tasks send to the handler.
struct Note(&'static str);

/// Prints every callback as it happens, and tells `main`.
struct Printer {
    log: Log,
    seen: mpsc::Sender<()>,
    callbacks: u32,
}

impl Printer {
    fn line(&mut self, callback: &str, what: &str) {
        self.callbacks += 1;
        self.log.line(callback, what);
    }

    async fn tell(&self) -> Result<Action, BoxError> {
        self.seen.send(()).await?; // `?` works inside a callback: an error stops the client
        Ok(Action::Continue)
    }
}

impl Handler<Note> for Printer {
    async fn init(&mut self) -> Result<(), BoxError> {
        self.line("init", "");
        Ok(())
    }

    async fn prepare(&mut self, attempt: &Attempt, request: &mut ClientRequest) -> Result<(), BoxError> {
        self.line("prepare", &format!("attempt {} for {}", attempt.number, request.resource()));
        Ok(())
    }

    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        let subprotocol = connected.subprotocol().unwrap_or("none");
        self.line("handle_connect", &format!("{}, subprotocol {subprotocol}", connected.negotiated.status()));
        self.tell().await
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.line("handle_frame", &format!("{frame:?}"));
        self.tell().await
    }

    async fn handle_ping(&mut self, payload: Bytes) -> Result<Action, BoxError> {
        self.line("handle_ping", &format!("{payload:?}"));
        self.tell().await
    }

    async fn handle_info(&mut self, Note(note): Note) -> Result<Action, BoxError> {
        self.line("handle_info", note);
        self.tell().await
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.line("handle_disconnect", &reason.to_string());
        let _ = self.seen.send(()).await;
        Retry::Policy
    }

    async fn terminate(&mut self, reason: &StopReason) {
        self.line("terminate", &reason.to_string());
    }
}

/// Prints what arrives.
struct Talker {
    log: Log,
}

impl Handler for Talker {
    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        self.log.line("connected", &format!("{}", connected.negotiated.status()));
        Ok(Action::Continue)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        match &frame {
            Frame::Text(text) => self.log.line("text", text),
            other => self.log.line("frame", &format!("{other:?}")),
        }
        Ok(Action::Continue)
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.log.line("disconnected", &reason.to_string());
        Retry::Policy
    }
}

/// Lines with the time since the start.
#[derive(Clone, Copy)]
struct Log {
    start: Instant,
    width: usize,
}

impl Log {
    fn new(width: usize) -> Self {
        Self { start: Instant::now(), width }
    }

    fn line(self, who: &str, what: &str) {
        let millis = self.start.elapsed().as_secs_f64() * 1000.0;
        println!("{}", format!("{millis:8.1} ms  {who:width$} {what}", width = self.width).trim_end());
    }
}
