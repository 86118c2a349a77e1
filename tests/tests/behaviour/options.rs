//! Section 2 of the guide: options, as the server sees them.

use parley_proto::codec::Frame;
use parley_proto::handshake::{Acceptance, Rejection, UrlPart};
use parley_proto::session::{BuildError, ClientOptions, ClientState};
use parley_proto::{DisconnectReason, Handler, Retry};
use parley_tests::raw;
use parley_tests::sim::{Fate, Probe, Server, Sim};

use crate::common::{addr, options, secs};

/// The request that a client with these options sends to `addr`.
fn request(options: ClientOptions, at: &str) -> String {
    Sim::new().run(async |sim| {
        let at = at.parse().unwrap();
        sim.on_resolve("echo.test", Fate::Now(Ok(vec![at])));
        let listener = sim.listen(at);
        let _client = sim.start(options, ()).await.unwrap();
        listener.accept().await.head().await
    })
}

fn named(url: &str) -> ClientOptions {
    ClientOptions::new(url).unwrap()
}

#[test]
fn rule_2_default_ports_an_empty_path_and_the_query() {
    let head = request(named("ws://echo.test"), "10.0.0.1:80");
    assert!(head.starts_with("GET / HTTP/1.1\r\n"));
    assert_eq!(raw::header(&head, "host"), Some("echo.test"));
    assert!(raw::header(&head, "user-agent").is_some_and(|agent| agent.to_ascii_lowercase().starts_with("parley")));

    let head = request(named("wss://echo.test/a/b?c=d&e=%20"), "10.0.0.1:443");
    assert!(head.starts_with("GET /a/b?c=d&e=%20 HTTP/1.1\r\n"));

    let head = request(named("ws://echo.test:8080?x"), "10.0.0.1:8080");
    assert!(head.starts_with("GET /?x HTTP/1.1\r\n"));
    assert_eq!(raw::header(&head, "host"), Some("echo.test:8080"));

    let head = request(named("ws://[::1]:9/"), "[::1]:9");
    assert_eq!(raw::header(&head, "host"), Some("[::1]:9"));
}

#[test]
fn rule_2_user_info_becomes_basic_authorization_unless_one_is_given() {
    // RFC 7617, section 2.
    let head = request(named("ws://Aladdin:open%20sesame@echo.test/"), "10.0.0.1:80");
    assert_eq!(raw::header(&head, "authorization"), Some("Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ=="));
    assert!(!head.contains("Aladdin"), "nowhere else");
    let options = named("ws://Aladdin:secret@echo.test/").header("authorization", "Bearer x").unwrap();
    let head = request(options, "10.0.0.1:80");
    assert_eq!(head.to_ascii_lowercase().matches("authorization:").count(), 1);
    assert_eq!(raw::header(&head, "authorization"), Some("Bearer x"));
}

#[test]
fn rule_2_headers_are_sent_in_order_and_host_may_be_overridden() {
    let options = options().header("x-b", "1").unwrap().header("x-a", "2").unwrap().header("x-b", "3").unwrap();
    let head = request(options.header("host", "other.test").unwrap(), "10.0.0.1:80");
    let sent: Vec<&str> = head.lines().filter(|line| line.to_ascii_lowercase().starts_with("x-")).collect();
    assert_eq!(sent, ["x-b: 1", "x-a: 2", "x-b: 3"]);
    assert_eq!(raw::header(&head, "host"), Some("other.test"));
    assert_eq!(head.to_ascii_lowercase().matches("\r\nhost:").count(), 1);
}

#[test]
fn rule_2_bad_options_are_typed_errors() {
    let part = |url: &str| match ClientOptions::new(url) {
        Err(BuildError::Url(error)) => error.part(),
        other => panic!("{other:?}"),
    };
    assert_eq!(part("http://echo.test/"), UrlPart::Scheme);
    assert_eq!(part("ws://echo.test/#top"), UrlPart::Fragment);
    assert_eq!(part("ws://bücher.test/"), UrlPart::Host);
    assert!(matches!(options().header("x", "a\r\nb: c"), Err(BuildError::Header(_))));
    assert!(matches!(options().header("sec-websocket-key", "x"), Err(BuildError::Header(_))));
    assert!(matches!(options().subprotocol("a b"), Err(BuildError::Subprotocol(_))));
    assert!(matches!(options().subprotocol("a").unwrap().subprotocol("a"), Err(BuildError::Subprotocol(_))));
}

#[test]
fn rule_2_secrets_are_not_shown() {
    let options = named("ws://user:secret@echo.test/p?token=secret").header("cookie", "secret").unwrap();
    assert!(!format!("{options:?}").contains("secret"));
    let setup = parley_proto::driver::Setup::<()>::new(options);
    assert!(!format!("{setup:?}").contains("secret"));
}

#[test]
fn rule_2_subprotocols_are_offered_in_order_and_the_agreed_one_reaches_handle_connect() {
    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let options = options().subprotocol("b").unwrap().subprotocol("a").unwrap();
        let client = sim.start(options, Probe::new(&sim)).await.unwrap();
        let mut server = Server::accept_from(&sim, &listener).await;
        let request = server.open(Acceptance::new().subprotocol("a")).await;
        assert_eq!(request.subprotocols().collect::<Vec<_>>(), ["b", "a"]);
        let task = sim.spawn(async move { server.frame().await });
        sim.noted("handle_connect 101 a").await;
        client.send_frame(Frame::text("x")).await.unwrap();
        assert_eq!(task.await, Frame::text("x"));
    });
}

#[test]
fn rule_2_an_answer_that_was_not_offered_fails_the_handshake() {
    for line in ["Sec-WebSocket-Protocol: b\r\n", "Sec-WebSocket-Extensions: permessage-deflate\r\n"] {
        Sim::new().run(async |sim| {
            let listener = sim.listen(addr());
            let options = options().subprotocol("a").unwrap();
            let client = sim.start(options, Probe::new(&sim)).await.unwrap();
            let mut peer = listener.accept().await;
            peer.upgrade(line).await;
            sim.noted("handle_disconnect protocol error").await;
            assert_eq!(client.state(), ClientState::Disconnected);
        });
    }
}

#[test]
fn rule_2_prepare_may_change_url_headers_and_subprotocols() {
    use parley_proto::handshake::ClientRequest;
    use parley_proto::{Attempt, BoxError};

    struct Fresh;

    impl Handler for Fresh {
        async fn prepare(&mut self, attempt: &Attempt, request: &mut ClientRequest) -> Result<(), BoxError> {
            assert_eq!((attempt.number, attempt.elapsed), (1, secs(0)));
            assert!(attempt.last.is_none());
            request.set_url("ws://echo.test:8080/new")?;
            request.set_header("x-token", "fresh")?;
            request.clear_subprotocols().subprotocol("v2")?;
            Ok(())
        }
    }

    Sim::new().run(async |sim| {
        let at = "10.0.0.9:8080".parse().unwrap();
        sim.on_resolve("echo.test", Fate::Now(Ok(vec![at])));
        let listener = sim.listen(at);
        let options = options().header("x-token", "stale").unwrap().subprotocol("v1").unwrap();
        let _client = sim.start(options, Fresh).await.unwrap();
        let mut server = Server::accept_from(&sim, &listener).await;
        let request = server.open(Acceptance::new().subprotocol("v2")).await;
        assert_eq!((request.path(), request.host()), ("/new", "echo.test:8080"));
        assert_eq!(request.headers().get_all("x-token").iter().collect::<Vec<_>>(), ["fresh"]);
    });
}

#[test]
fn rule_2_a_servers_refusal_reaches_the_client() {
    #[derive(Debug)]
    struct Sees;

    impl Handler for Sees {
        async fn handle_disconnect(&mut self, reason: &DisconnectReason) -> Retry {
            let DisconnectReason::Rejected(rejected) = reason else { panic!("{reason}") };
            assert_eq!((rejected.status.as_u16(), &rejected.body[..]), (403, &b"no entry"[..]));
            Retry::Stop
        }
    }

    Sim::new().run(async |sim| {
        let listener = sim.listen(addr());
        let client = sim.start(options(), Sees).await.unwrap();
        let mut server = Server::accept_from(&sim, &listener).await;
        server.request().await;
        server.reject(Rejection::new(403.try_into().unwrap()).unwrap().body("no entry"));
        let server = sim.spawn(async move { server.end().await });
        assert_eq!(client.join().await.unwrap_err().to_string(), "upgrade refused with status 403 Forbidden");
        assert_eq!(server.await, (1006, false));
    });
}
