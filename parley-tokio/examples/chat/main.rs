//! A chat: rooms, who is in them, and a page for the browser. Open the URL that it prints in two windows.
//!
//! ```text
//! cargo run -p parley-tokio --example chat [-- ADDR]
//! ```
//!
//! Stop it by Ctrl-C and start it again: the pages say so, and come back by themselves.

mod rooms;
mod visitor;
mod wire;

use std::pin::pin;
use std::time::Duration;

use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, HeaderValue};
use http::{Request, Response, StatusCode};
use parley_tokio::{Acceptance, BoxError, Incoming, Limits, Origins, Rejection, Server};
use rooms::Rooms;
use visitor::Visitor;

/// Bytes of a message. A longer one fails its sender's connection with 1009, before it is held whole.
const MESSAGE_LIMIT: usize = 2 * 1024;
/// Bytes that may wait for one visitor beyond what the system has taken. Whoever is so far behind will not catch up.
const QUEUE_LIMIT: usize = 256 * 1024;

#[tokio::main]
async fn main() -> Result<(), BoxError> {
    let addr = std::env::args().nth(1).unwrap_or_else(|| "127.0.0.1:8080".to_owned());
    // A page of another site may not speak in a visitor's name. Programs send no `Origin`, and are welcome.
    let server = Server::builder(Origins::same_host())
        .on_http(page)
        .limits(Limits::server().with_message(MESSAGE_LIMIT)?.with_send_queue(QUEUE_LIMIT)?)
        .max_connections(1_000)
        .bind(&addr)?;
    println!("open http://{}/", server.local_addr().ok_or("a bound server has an address")?);

    let rooms = Rooms::new()?;
    let mut interrupt = pin!(tokio::signal::ctrl_c());
    loop {
        tokio::select! {
            Some(incoming) = server.next() => {
                tokio::spawn(visit(incoming, rooms.clone()));
            }
            _ = &mut interrupt => break,
        }
    }
    println!("closing {} connections", server.stats().connections);
    server.shutdown(Duration::from_secs(5)).await; // each gets 1001, and its page tries again until we are back
    Ok(())
}

async fn visit(incoming: Incoming, rooms: Rooms) -> Result<(), BoxError> {
    if incoming.request().path() != "/chat" {
        incoming.reject(Rejection::new(StatusCode::NOT_FOUND)?);
        return Ok(());
    }
    // The client lives on in a task of its own when its `Client` is dropped here.
    incoming.accept_with(Acceptance::new(), |own| Visitor::new(rooms, own)).await?;
    Ok(())
}

/// What the page may do: run our script, and talk to us. Should a message ever become code, the browser refuses to run it.
const PAGE_MAY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src data:; connect-src 'self'; \
                        base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// Answers what is no WebSocket.
fn page(request: &Request<()>) -> Response<Bytes> {
    let (status, kind, body) = match request.uri().path() {
        "/" => (StatusCode::OK, "text/html; charset=utf-8", include_str!("page.html")),
        "/page.css" => (StatusCode::OK, "text/css; charset=utf-8", include_str!("page.css")),
        "/page.js" => (StatusCode::OK, "text/javascript; charset=utf-8", include_str!("page.js")),
        _ => (StatusCode::NOT_FOUND, "text/plain", "there is nothing here\n"),
    };
    let mut response = Response::new(Bytes::from_static(body.as_bytes()));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static(PAGE_MAY));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    response
}
