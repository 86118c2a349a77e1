//! Lines of stdin are sent, what arrives is printed, the end of stdin closes with 1000.
//!
//! ```text
//! cargo run -p parley-async-std --example client_async_std -- ws://127.0.0.1:9001/
//! ```

use async_std::io::{self, prelude::BufReadExt};
use async_std::stream::StreamExt;
use parley_async_std::{Action, BoxError, Client, Connected, DisconnectReason, Frame, Handler, Retry};

fn main() -> Result<(), BoxError> {
    let url = std::env::args().nth(1).ok_or("usage: client_async_std URL")?;
    async_std::task::block_on(async {
        let client = Client::builder(&url)?.start(Printer).await?;
        let mut lines = io::BufReader::new(io::stdin()).lines();
        while let Some(line) = lines.next().await {
            client.send_frame(Frame::text(line?)).await?; // an error here: the connection is over
        }
        client.stop().await;
        client.join().await?;
        Ok(())
    })
}

/// Prints what arrives.
struct Printer;

impl Handler for Printer {
    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        println!("connected     {}", connected.negotiated.status());
        Ok(Action::Continue)
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        match frame {
            Frame::Text(text) => println!("text          {}", &*text),
            other => println!("frame         {other:?}"),
        }
        Ok(Action::Continue)
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        println!("disconnected  {reason}");
        Retry::Policy
    }
}
