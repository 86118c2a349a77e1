//! The server that the Autobahn TestSuite tests: `autobahn_server ADDR`, until it is killed. `cargo xtask autobahn` runs
//! it. Every message is sent back: by a handler, or under `/socket` by a loop around a `WebSocket`.

use parley_async_std::{Action, BoxError, Frame, Handler, Incoming, Limits, Origins, Server};

fn main() -> Result<(), BoxError> {
    async_std::task::block_on(serve())
}

async fn serve() -> Result<(), BoxError> {
    let Some(addr) = std::env::args().nth(1) else {
        return Err("usage: autobahn_server ADDR".into());
    };
    let limits = Limits::server().with_message(16 * 1024 * 1024)?;
    let server = Server::builder(Origins::any()).limits(limits).bind(&addr)?;
    println!("listening on {}", server.local_addr().ok_or("a bound server has an address")?);
    while let Some(incoming) = server.next().await {
        // Many cases end in an error on purpose: the suite judges, not we.
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
