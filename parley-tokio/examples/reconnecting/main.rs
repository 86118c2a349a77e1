//! A server dies and comes back; the client notices, waits, dials again and subscribes anew.
//!
//! ```text
//! cargo run -p parley-tokio --example reconnecting
//! ```

#[path = "../client/server.rs"]
mod server;

use std::time::{Duration, Instant};

use parley_tokio::{
    Action, Attempt, BoxError, Client, ClientRequest, ClientState, Connected, DisconnectReason, Frame, Handler, Jitter,
    Reconnect, Retry,
};
use server::Server;
use tokio::sync::mpsc;

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let timeline = Timeline(Instant::now());
    let (subscribed, mut subscriptions) = mpsc::channel(1);

    let server = Server::bind(([127, 0, 0, 1], 0).into()).await?;
    let addr = server.addr();
    timeline.line("server", "is up");

    // A patient client of a distant server would keep the defaults: 1 s, doubling to 30 s.
    let backoff = Reconnect::default().base(Duration::from_millis(100)).jitter(Jitter::Half);
    let client = Client::builder(&format!("ws://{addr}/feed"))?
        .reconnect(backoff)
        .start(Subscriber { timeline, subscribed })
        .await?;
    subscriptions.recv().await;

    drop(server);
    timeline.line("server", "is killed");
    client.wait_for(ClientState::Disconnected).await?;
    tokio::time::sleep(Duration::from_millis(500)).await;

    let server = Server::bind(addr).await?;
    timeline.line("server", "is up again");
    subscriptions.recv().await;

    let stats = client.stats();
    let summary =
        format!("{} attempts, {} frames sent, {} received", stats.attempts, stats.frames_sent, stats.frames_received);
    client.stop().await;
    client.join().await?;
    server.finished().await?;
    timeline.line("client", &format!("has ended: {summary}"));
    Ok(())
}

/// Asks for its feed on every connection: a subscription does not outlive the connection it was made on.
struct Subscriber {
    timeline: Timeline,
    subscribed: mpsc::Sender<()>,
}

impl Handler for Subscriber {
    async fn prepare(&mut self, attempt: &Attempt, _request: &mut ClientRequest) -> Result<(), BoxError> {
        self.timeline.line("client", &format!("dials, attempt {}", attempt.number));
        Ok(())
    }

    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.timeline.line("client", "is connected, and subscribes");
        Ok(Frame::text("subscribe: prices").into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        self.timeline.line("client", &format!("has got {frame:?}"));
        self.subscribed.send(()).await?;
        Ok(Action::Continue)
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.timeline.line("client", &format!("is disconnected: {reason}"));
        Retry::Policy
    }
}

#[derive(Clone, Copy)]
struct Timeline(Instant);

impl Timeline {
    fn line(self, who: &str, what: &str) {
        println!("{:6} ms  {who} {what}", self.0.elapsed().as_millis());
    }
}
