//! The server that the Autobahn TestSuite tests: `autobahn_server ADDR`, until it is killed. `cargo xtask autobahn` runs
//! it. Every message is sent back: by a handler, or under `/socket` by a loop around a `WebSocket`. A second server, at
//! another port, does the same without ever having a message whole.

use parley_async_std::{
    Action, BoxError, Chunk, Frame, Handle, Handler, Incoming, Limits, MessageWriter, Origins, Part, Server,
};

fn main() -> Result<(), BoxError> {
    async_std::task::block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    let Some(addr) = std::env::args().nth(1) else {
        return Err("usage: autobahn_server ADDR".into());
    };
    let limits = Limits::server().with_message(16 * 1024 * 1024)?;
    let whole = Server::builder(Origins::any()).limits(limits.clone()).bind(&addr)?;
    let in_parts = Server::builder(Origins::any()).limits(limits).chunks_above(1).bind("127.0.0.1:0")?;
    let [first, second] = [&whole, &in_parts].map(Server::local_addr);
    println!("listening on {}", first.ok_or("a bound server has an address")?);
    println!("in parts on {}", second.ok_or("a bound server has an address")?);
    async_std::task::spawn(async move {
        while let Some(incoming) = in_parts.next().await {
            // Many cases end in an error on purpose: the suite judges, not we.
            async_std::task::spawn(async move {
                if incoming.request().path() == "/socket" {
                    let _ = echo_parts(incoming).await;
                } else {
                    let make = |own| EchoParts { own, message: None };
                    let _ = incoming.accept_with(Default::default(), make).await;
                }
            });
        }
    });
    while let Some(incoming) = whole.next().await {
        async_std::task::spawn(async move {
            if incoming.request().path() == "/socket" {
                let _ = echo(incoming).await;
            } else {
                let _ = incoming.accept(Echo).await;
            }
        });
    }
    Ok(())
}

async fn echo(incoming: Incoming) -> Result<(), parley_async_std::Error> {
    let mut socket = incoming.into_websocket().await?;
    while let Some(frame) = socket.next().await {
        match frame? {
            frame @ (Frame::Text(_) | Frame::Binary(_)) => socket.feed(frame).await?, // leaves before the next wait
            Frame::Ping(_) | Frame::Pong(_) => {}
        }
    }
    Ok(())
}

async fn echo_parts(incoming: Incoming) -> Result<(), BoxError> {
    let mut socket = incoming.into_websocket().await?;
    while let Some(part) = socket.next_part().await {
        match part? {
            Part::Frame(frame @ (Frame::Text(_) | Frame::Binary(_))) => socket.feed(frame).await?,
            Part::Frame(_) => {}
            Part::Chunk(chunk) => socket.feed_chunk(chunk).await?,
        }
    }
    Ok(())
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
