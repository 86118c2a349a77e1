//! URLs of ws and wss (RFC 6455, section 3) and the request made of one.
//!
//! Promises: no URL brings a line, a space or a control character into the head; what is dialled is what the head names; a URL put
//! together of the parts gives the same parts; the request is one that a server takes, for the same resource; `Debug` keeps the query.

use bytes::BytesMut;
use parley_proto::Limits;
use parley_proto::handshake::{ClientHandshake, ClientRequest, ServerHandshake};

use crate::naive;

/// Longer ones do not fit a head when they are percent-encoded.
const LONGEST: usize = 2000;
/// In a query, to be looked for where it must not be.
const SECRET: &str = "?s=kept_to_itself";

/// Checks one input, a URL.
///
/// # Panics
///
/// If a promise is broken.
pub fn run(input: &[u8]) {
    let Ok(url) = std::str::from_utf8(&input[..input.len().min(LONGEST)]) else { return };
    let Ok(request) = ClientRequest::new(url) else { return };
    let (host, port, resource) = (request.host(), request.port(), request.resource());
    assert!(resource.starts_with('/') && resource.bytes().all(|byte| byte.is_ascii_graphic()), "{resource:?}");
    assert!(!resource.contains(['#', '"', '<', '>', '\\']), "{resource:?}");
    assert!(!host.is_empty() && port != 0);
    assert!(host.bytes().all(|byte| byte.is_ascii_graphic() && !byte.is_ascii_uppercase()), "{host:?}");
    assert!(!host.contains(['/', '?', '@', '[', ']']), "{host:?}");

    let scheme = if request.is_secure() { "wss" } else { "ws" };
    let bracketed = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let mut again =
        ClientRequest::new(&format!("{scheme}://{bracketed}:{port}{resource}")).expect("the parts are legal");
    assert_eq!((again.host(), again.port(), again.resource()), (host, port, resource));
    assert_eq!(again.is_secure(), request.is_secure());

    let (_, head) = ClientHandshake::new(&request, [7; 16], &Limits::client());
    let (lines, rest) = naive::head(&head);
    assert!(rest.is_empty() && lines.len() <= 8, "{lines:?}");
    assert_eq!(lines[0], format!("GET {resource} HTTP/1.1"));
    let default_port = if request.is_secure() { 443 } else { 80 };
    let named = if port == default_port { bracketed.clone() } else { format!("{bracketed}:{port}") };
    assert_eq!(naive::field(&lines, "host"), Some(&*named));

    let asked = ServerHandshake::new(&Limits::server()).handle_input(&mut BytesMut::from(&*head));
    let asked = asked.expect("a request of ours is legal").expect("and whole");
    assert_eq!((asked.resource(), asked.host()), (resource, &*named));

    again.set_url(&format!("{scheme}://{bracketed}/{SECRET}")).expect("the parts are legal");
    assert!(!format!("{again:?}").contains("kept_to_itself"), "{again:?}");
}
