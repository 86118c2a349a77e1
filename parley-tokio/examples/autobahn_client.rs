//! The client that the Autobahn TestSuite tests: `autobahn_client URL AGENT [parts]`. `cargo xtask autobahn` runs it: once
//! with whole messages, and once with such as it never has whole.

use parley_tokio::{Action, BoxError, Chunk, Client, ClientBuilder, Frame, Handle, Handler, Limits, MessageWriter};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<(), BoxError> {
    let mut args = std::env::args().skip(1);
    let (Some(url), Some(agent)) = (args.next(), args.next()) else {
        return Err("usage: autobahn_client URL AGENT [parts]".into());
    };
    let in_parts = args.next().as_deref() == Some("parts");
    // The suite closes without a code, which is no clean end: the handler comes back inside the error.
    let Count(count) = match builder(&format!("{url}/getCaseCount"))?.run(Count(0)).await {
        Ok(count) => count,
        Err(error) => error.into_handler().ok_or("the number of cases was lost")?,
    };
    println!("running {count} cases against {url}");
    for case in 1..=count {
        // Many cases end in an error on purpose: the suite judges, not we.
        let builder = builder(&format!("{url}/runCase?case={case}&agent={agent}"))?;
        if in_parts {
            let _ = builder.chunks_above(1).run_with(|own| EchoParts { own, message: None }).await;
        } else {
            let _ = builder.run(Echo).await;
        }
    }
    let _ = builder(&format!("{url}/updateReports?agent={agent}"))?.run(()).await;
    Ok(())
}

fn builder(url: &str) -> Result<ClientBuilder, BoxError> {
    Ok(Client::builder(url)?.limits(Limits::client().with_message(16 * 1024 * 1024)?))
}

/// Reads the number of cases.
struct Count(u32);

impl Handler for Count {
    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        if let Frame::Text(text) = frame {
            self.0 = text.parse()?;
        }
        Ok(Action::Continue)
    }
}

/// Sends every message back.
struct Echo;

impl Handler for Echo {
    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        Ok(match frame {
            Frame::Text(_) | Frame::Binary(_) => Action::Push(frame),
            _ => Action::Continue,
        })
    }
}

/// Sends every message back part by part.
struct EchoParts {
    own: Handle,
    message: Option<MessageWriter>,
}

impl Handler for EchoParts {
    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        Echo.handle_frame(frame).await
    }

    async fn handle_chunk(&mut self, chunk: Chunk) -> Result<Action, BoxError> {
        let mut message = match self.message.take() {
            Some(message) => message,
            None if chunk.text => self.own.begin_text().await,
            None => self.own.begin_binary().await,
        };
        if chunk.last {
            message.finish_with(chunk.payload).await?;
        } else {
            message.write(chunk.payload).await?;
            message.flush().await?; // so that no more is read than the peer takes
            self.message = Some(message);
        }
        Ok(Action::Continue)
    }
}
