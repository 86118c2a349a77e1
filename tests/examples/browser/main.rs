//! Our side of the tests against a browser; `cargo xtask interop --browser` runs it.
//!
//! ```text
//! browser tokio|async-std plain             prints the page's URL, and when the browser has been there
//! browser tokio|async-std tls CERT KEY      a line a case: its name, and `ok` or what went wrong
//! ```
//!
//! The page tells what it has seen of each case; what the server has seen of it has to fit.

use std::collections::BTreeMap;
use std::future::pending;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures_util::FutureExt;
use http::header::CONTENT_TYPE;
use http::{HeaderValue, Request, Response, StatusCode};
use parley_async_std::AsyncStd;
use parley_proto::BoxError;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::driver::{Incoming, Platform, Server, ServerBuilder, Transport};
use parley_proto::handshake::{Acceptance, Origins};
use parley_tokio::Tokio;
use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::sync::Notify;

fn main() -> Result<(), BoxError> {
    let args: Vec<_> = std::env::args().skip(1).collect();
    let args: Vec<_> = args.iter().map(String::as_str).collect();
    let (runtime, tls) = match args[..] {
        [runtime, "plain"] => (runtime, None),
        [runtime, "tls", cert, key] => (runtime, Some(server_config(cert, key)?)),
        _ => return Err("usage: see the head of tests/examples/browser/main.rs".into()),
    };
    match runtime {
        "tokio" => tokio::runtime::Builder::new_current_thread().enable_all().build()?.block_on(serve::<Tokio>(tls)),
        "async-std" => async_std::task::block_on(serve::<AsyncStd>(tls)),
        _ => Err("the runtime is tokio or async-std".into()),
    }
}

fn server_config(cert: &str, key: &str) -> Result<Arc<ServerConfig>, BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
    let chain = vec![CertificateDer::from_pem_file(cert)?];
    Ok(Arc::new(config.with_no_client_auth().with_single_cert(chain, PrivateKeyDer::from_pem_file(key)?)?))
}

/// The paths of those cases of which the server sees more than the page tells.
const PATHS: [&str; 3] = ["/close-by-server", "/close-by-page", "/page-goes-away"];

/// How the connections to each path ended, as the server has seen it.
#[derive(Clone, Default)]
struct Ends(Arc<(Mutex<BTreeMap<String, String>>, Notify)>);

impl Ends {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, String>> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn put(&self, path: String, end: String) {
        self.lock().insert(path, end);
        self.0.1.notify_one();
    }

    /// Until a connection to this path has ended. Whoever runs this program bounds the wait.
    async fn wait_for(&self, path: &str) {
        while !self.lock().contains_key(path) {
            self.0.1.notified().await;
        }
    }

    /// The case, as the page has seen it, and as the server has.
    fn judge<P: Platform>(&self, case: &str, page: &str, server: &Server<P>) -> String {
        let expected: &[&str] = match case {
            "close by server" => &["4001 from the server clean"],
            "close by page" => &["4002 from the page clean"],
            // A page that is left may say so, or just go.
            "page goes away" => &["1001 clean", "1005 clean", "1006"],
            // To a page all failures look alike, so that only the server knows what it was.
            "other origin" if page == "ok" && server.stats().refused != 1 => {
                return format!("the server has refused {} origins", server.stats().refused);
            }
            _ => return page.to_owned(),
        };
        if page != "ok" {
            return page.to_owned();
        }
        let seen = self.lock().get(&format!("/{}", case.replace(' ', "-"))).cloned();
        match seen {
            Some(seen) if expected.contains(&&*seen) => page.to_owned(),
            seen => format!("the server has seen {seen:?}"),
        }
    }
}

async fn serve<P: Platform<ServerTls = Arc<ServerConfig>>>(tls: Option<Arc<ServerConfig>>) -> Result<(), BoxError> {
    let scheme = if tls.is_some() { "https" } else { "http" };
    let with_tls = |builder: ServerBuilder<P>| match &tls {
        Some(config) => builder.tls(config.clone()),
        None => builder,
    };
    let stranger = with_tls(Server::<P>::builder(Origins::same_host())).on_http(page("")).bind("127.0.0.1:0")?;
    let stranger_addr = stranger.local_addr().ok_or("a bound server has an address")?;
    let own = page(&format!("{scheme}://{stranger_addr}"));
    let server = with_tls(Server::<P>::builder(Origins::same_host())).on_http(own).bind("127.0.0.1:0")?;
    println!("{scheme}://{}", server.local_addr().ok_or("a bound server has an address")?);
    P::spawn(async move { while stranger.next().await.is_some() {} });

    let (ends, mut done) = (Ends::default(), Box::pin(pending().right_future()));
    loop {
        tokio::select! {
            incoming = server.next() => {
                let incoming = incoming.ok_or("the server was shut down")?;
                if incoming.request().path() == "/report" {
                    done = Box::pin(report(incoming, ends.clone(), &server).left_future());
                } else {
                    let ends = ends.clone();
                    P::spawn(async move {
                        // What becomes of it the page will tell.
                        let _ = talk(incoming, ends).await;
                    });
                }
            }
            outcome = &mut done => return outcome,
        }
    }
}

/// The page, which knows of a server of another origin.
fn page(stranger: &str) -> impl Fn(&Request<()>) -> Response<Bytes> + Send + Sync + 'static {
    let page = Bytes::from(include_str!("page.html").replace("OTHER_ORIGIN", stranger));
    move |request| match request.uri().path() {
        "/" => {
            let mut response = Response::new(page.clone());
            response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("text/html; charset=utf-8"));
            response
        }
        _ => {
            let mut response = Response::new(Bytes::new());
            *response.status_mut() = StatusCode::NOT_FOUND;
            response
        }
    }
}

/// What the page says of each case, with what was seen here.
async fn report<T, P>(incoming: Incoming<T, P>, ends: Ends, server: &Server<P>) -> Result<(), BoxError>
where
    T: Transport,
    P: Platform,
{
    let mut socket = incoming.into_websocket().await?;
    while let Some(frame) = socket.next().await {
        let Frame::Text(line) = frame? else { continue };
        let (case, page) = line.split_once('\t').ok_or("a line without a tab")?;
        if case == "done" {
            return Ok(());
        }
        // The page may be told of an end before the task that serves the other side is. Where it failed, there may be none.
        let path = format!("/{}", case.replace(' ', "-"));
        if page == "ok" && PATHS.contains(&&*path) {
            ends.wait_for(&path).await;
        }
        println!("{case}\t{}", ends.judge(case, page, server));
    }
    Err("the page has gone away".into())
}

async fn talk<T: Transport, P: Platform>(incoming: Incoming<T, P>, ends: Ends) -> Result<(), BoxError> {
    let path = incoming.request().path().to_owned();
    let mut reply = Acceptance::new();
    if incoming.request().subprotocols().any(|offered| offered == "v2") {
        reply = reply.subprotocol("v2");
    }
    let mut socket = incoming.into_websocket_with(reply).await?;
    while let Some(frame) = socket.next().await {
        match frame {
            Ok(_) if path == "/close-by-server" => {
                socket.close_with(CloseFrame::new(4001, "from the server")?).await?;
            }
            Ok(frame @ (Frame::Text(_) | Frame::Binary(_))) => socket.feed(frame).await?,
            Ok(_) => {}
            Err(_) => break,
        }
    }
    let closed = socket.closed().ok_or("an end has a reason")?;
    let reason = closed.close.as_ref().map_or("", |close| close.reason().as_str());
    let words =
        [closed.code().to_string(), reason.to_owned(), String::from(if closed.was_clean { "clean" } else { "" })];
    let words: Vec<_> = words.iter().map(String::as_str).filter(|word| !word.is_empty()).collect();
    ends.put(path, words.join(" "));
    Ok(())
}
