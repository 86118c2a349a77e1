//! Our side of the tests against other libraries; `cargo xtask interop` runs it against `xtask/interop/peer.*`.
//!
//! ```text
//! interop certificates FOLDER               writes ca.pem, cert.pem and key.pem
//! interop tokio|async-std server CERT KEY   prints the addresses of ws:// and wss://, and serves until it is killed
//! interop tokio|async-std client URL CA     prints a line a case: its name, and `ok` or what went wrong
//! interop tokio|async-std idle URL CA       the same, through a proxy that gives up after two idle seconds
//! ```

use std::fmt::Write;
use std::future::Future;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use parley_async_std::AsyncStd;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::Keepalive;
use parley_proto::driver::{
    Client, ClientBuilder, Clock, Handle, Incoming, Platform, Server, Tls, Transport, WebSocket,
};
use parley_proto::handshake::{Acceptance, Origins, Rejection};
use parley_proto::session::Reconnect;
use parley_proto::{Action, BoxError, Connected, DisconnectReason, Handler, Retry};
use parley_tests::ca::Ca;
use parley_tokio::Tokio;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

fn main() -> Result<(), BoxError> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let tokio = || tokio::runtime::Builder::new_current_thread().enable_all().build();
    match args[..] {
        ["certificates", folder] => certificates(Path::new(folder)),
        ["tokio", "server", cert, key] => tokio()?.block_on(serve::<Tokio>(cert, key)),
        ["tokio", "client", url, ca] => tokio()?.block_on(call::<Tokio>(url, ca)),
        ["tokio", "idle", url, _] => tokio()?.block_on(idle::<Tokio>(url)),
        ["async-std", "idle", url, _] => async_std::task::block_on(idle::<AsyncStd>(url)),
        ["async-std", "server", cert, key] => async_std::task::block_on(serve::<AsyncStd>(cert, key)),
        ["async-std", "client", url, ca] => async_std::task::block_on(call::<AsyncStd>(url, ca)),
        _ => Err("usage: see the head of tests/examples/interop.rs".into()),
    }
}

fn certificates(folder: &Path) -> Result<(), BoxError> {
    let ca = Ca::new("interop");
    let (chain, key) = ca.issue(&["localhost", "127.0.0.1"]);
    for (name, label, der) in [
        ("ca.pem", "CERTIFICATE", &*ca.root()),
        ("cert.pem", "CERTIFICATE", &*chain[0]),
        ("key.pem", "PRIVATE KEY", key.secret_der()),
    ] {
        let mut pem = format!("-----BEGIN {label}-----\n");
        for line in BASE64_STANDARD.encode(der).as_bytes().chunks(64) {
            writeln!(pem, "{}", str::from_utf8(line)?)?;
        }
        writeln!(pem, "-----END {label}-----")?;
        std::fs::write(folder.join(name), pem)?;
    }
    Ok(())
}

fn mebibyte() -> Bytes {
    (0..1024 * 1024_u32).map(|n| (n % 251) as u8).collect()
}

// The server: a handler for each connection.

async fn serve<P>(cert: &str, key: &str) -> Result<(), BoxError>
where
    P: Platform<ServerTls = Arc<ServerConfig>>,
{
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let chain = vec![CertificateDer::from_pem_file(cert)?];
    let config = config.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?;
    let plain = Server::<P>::bind("127.0.0.1:0", Origins::any())?;
    let secure = Server::<P>::builder(Origins::any()).tls(Arc::new(config)).bind("127.0.0.1:0")?;
    let addr = |server: &Server<P>| server.local_addr().ok_or("a bound server has an address");
    println!("ws://{} wss://{}", addr(&plain)?, addr(&secure)?);
    P::spawn(async move { accept_all(plain).await });
    accept_all(secure).await;
    Ok(())
}

async fn accept_all<P: Platform>(server: Server<P>) {
    while let Some(incoming) = server.next().await {
        P::spawn(async move {
            // What becomes of it the peer will tell.
            let _ = accept(incoming).await;
        });
    }
}

async fn accept<T: Transport, P: Platform>(incoming: Incoming<T, P>) -> Result<(), BoxError> {
    let path = incoming.request().path().to_owned();
    if path == "/refuse" {
        incoming.reject(Rejection::new(http::StatusCode::UNAUTHORIZED)?.body("no token\n"));
        return Ok(());
    }
    let mut reply = Acceptance::new();
    if incoming.request().subprotocols().any(|offered| offered == "v2") {
        reply = reply.subprotocol("v2");
    }
    incoming.accept_with(reply, |own| Peer { path, own }).await?;
    Ok(())
}

struct Peer {
    path: String,
    own: Handle,
}

impl Handler for Peer {
    async fn handle_connect(&mut self, connected: &Connected) -> Result<Action, BoxError> {
        Ok(match &*self.path {
            "/ping" => Frame::Ping(Bytes::from_static(b"are you there")).into(),
            "/fragments" => {
                let mut message = self.own.begin_text().await;
                for part in ["frag", "", "ment"] {
                    message.write(part).await?;
                }
                message.finish_with("ed").await?;
                Action::Continue
            }
            "/subprotocol" => Frame::text(connected.subprotocol().unwrap_or_default().to_owned()).into(),
            _ => Action::Continue,
        })
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        Ok(match frame {
            Frame::Pong(payload) if self.path == "/ping" && payload == "are you there" => Frame::text("pong").into(),
            Frame::Text(_) | Frame::Binary(_) if self.path == "/close" => {
                Action::StopWith(CloseFrame::new(4001, "server")?)
            }
            Frame::Text(_) | Frame::Binary(_) => frame.into(),
            Frame::Ping(_) | Frame::Pong(_) => Action::Continue,
        })
    }
}

// The client: a loop around a `WebSocket` for each case.

async fn call<P: Platform<Tls = Tls>>(url: &str, ca: &str) -> Result<(), BoxError> {
    let root = CertificateDer::from_pem_file(ca)?;
    let connect = async |path: &str, subprotocols: &[&str]| {
        let mut builder = Client::<(), (), P>::builder(&format!("{url}{path}"))?;
        for &subprotocol in subprotocols {
            builder = builder.subprotocol(subprotocol)?;
        }
        builder.tls(Tls::new().root_certificate(root.clone())).connect().await
    };
    let open = async |path: &str| connect(path, &[]).await;

    case("text", async || echo(open("/echo").await?, Frame::text("grüße")).await).await;
    case("binary", async || echo(open("/echo").await?, Frame::binary((0..=255).collect::<Vec<u8>>())).await).await;
    case("1 MiB", async || echo(open("/echo").await?, Frame::Binary(mebibyte())).await).await;
    case("fragmented", async || {
        let mut socket = open("/fragments").await?;
        expect(&mut socket, Frame::text("fragmented")).await?;
        end(socket).await
    })
    .await;
    case("ping to server", async || {
        let mut socket = open("/echo").await?;
        socket.send(Frame::Ping(Bytes::from_static(b"hello?"))).await?;
        expect(&mut socket, Frame::Pong(Bytes::from_static(b"hello?"))).await?;
        end(socket).await
    })
    .await;
    case("ping from server", async || {
        let mut socket = open("/ping").await?;
        expect(&mut socket, Frame::Ping(Bytes::from_static(b"are you there"))).await?;
        expect(&mut socket, Frame::text("pong")).await?;
        end(socket).await
    })
    .await;
    case("close by client", async || {
        let mut socket = open("/echo").await?;
        socket.close_with(CloseFrame::new(4000, "client")?).await?;
        closed(&socket, 4000)
    })
    .await;
    case("close by server", async || {
        let mut socket = open("/close").await?;
        socket.send(Frame::text("now")).await?;
        if let Some(frame) = socket.next().await {
            return Err(format!("not the end: {frame:?}").into());
        }
        closed(&socket, 4001)
    })
    .await;
    case("subprotocol", async || {
        let mut socket = connect("/subprotocol", &["v1", "v2"]).await?;
        if socket.connected().subprotocol() != Some("v2") {
            return Err("v2 was not chosen".into());
        }
        expect(&mut socket, Frame::text("v2")).await?;
        end(socket).await
    })
    .await;
    case("401", async || match open("/refuse").await {
        Ok(_) => Err("it was accepted".into()),
        Err(error) => match error.reason() {
            Some(DisconnectReason::Rejected(rejected)) if rejected.status == 401 => Ok(()),
            _ => Err(error.into()),
        },
    })
    .await;
    Ok(())
}

// A client that says nothing for longer than a proxy waits.

/// More than twice what the proxy waits.
const IDLE: Duration = Duration::from_secs(5);

async fn idle<P: Platform<Tls = Tls>>(url: &str) -> Result<(), BoxError> {
    let url = format!("{url}/echo");
    let builder = || Client::<(), (), P>::builder(&url);
    let run = async |builder: ClientBuilder<P>, patient| {
        let make = |own| Idle { own, patient, connections: 0, lost: Vec::new() };
        Ok::<_, BoxError>(builder.run_with(make).await?)
    };
    case("kept by keepalive", async || {
        let keepalive = Keepalive::new(IDLE / 10, IDLE)?;
        let idle = run(builder()?.keepalive(Some(keepalive)), true).await?;
        if idle.lost.is_empty() { Ok(()) } else { Err(format!("lost: {:?}", idle.lost).into()) }
    })
    .await;
    case("lost without", async || match run(builder()?.keepalive(None), true).await {
        Ok(_) => Err("it was kept".into()),
        Err(error) if error.to_string().contains("without a Close") => Ok(()),
        Err(error) => Err(error),
    })
    .await;
    case("comes back", async || {
        let idle = run(builder()?.keepalive(None).reconnect(Reconnect::default()), false).await?;
        match idle.lost[..] {
            [DisconnectReason::Eof] => Ok(()),
            ref lost => Err(format!("lost: {lost:?}").into()),
        }
    })
    .await;
    Ok(())
}

/// Says nothing for a while, then sees whether the connection still serves. One that is not patient does so at once on its
/// second connection.
struct Idle {
    own: Handle<()>,
    patient: bool,
    connections: u32,
    lost: Vec<DisconnectReason>,
}

impl Handler for Idle {
    async fn handle_connect(&mut self, _: &Connected) -> Result<Action, BoxError> {
        self.connections += 1;
        let delay = if self.patient || self.connections == 1 { IDLE } else { Duration::ZERO };
        self.own.send_info_after(delay, ())?;
        Ok(Action::Continue)
    }

    async fn handle_info(&mut self, (): ()) -> Result<Action, BoxError> {
        Ok(Frame::text("still there").into())
    }

    async fn handle_frame(&mut self, frame: Frame) -> Result<Action, BoxError> {
        Ok(if frame == Frame::text("still there") { Action::Stop } else { Action::Continue })
    }

    async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
        self.lost.push(reason.clone());
        Retry::Policy
    }
}

async fn case<F: Future<Output = Result<(), BoxError>>>(name: &str, case: impl FnOnce() -> F) {
    match case().await {
        Ok(()) => println!("{name}\tok"),
        Err(error) => println!("{name}\t{error}"),
    }
}

async fn echo<T: Transport, C: Clock>(mut socket: WebSocket<T, C>, frame: Frame) -> Result<(), BoxError> {
    socket.send(frame.clone()).await?;
    expect(&mut socket, frame).await?;
    end(socket).await
}

async fn expect<T: Transport, C: Clock>(socket: &mut WebSocket<T, C>, expected: Frame) -> Result<(), BoxError> {
    match socket.next().await {
        Some(Ok(frame)) if frame == expected => Ok(()),
        Some(Ok(frame)) => Err(format!("another frame, of {} bytes", frame.len()).into()),
        Some(Err(error)) => Err(error.into()),
        None => Err("the end".into()),
    }
}

async fn end<T: Transport, C: Clock>(mut socket: WebSocket<T, C>) -> Result<(), BoxError> {
    socket.close().await?;
    closed(&socket, 1000)
}

fn closed<T: Transport, C: Clock>(socket: &WebSocket<T, C>, code: u16) -> Result<(), BoxError> {
    match socket.closed() {
        Some(closed) if closed.was_clean && closed.code() == code => Ok(()),
        end => Err(format!("{end:?}").into()),
    }
}
