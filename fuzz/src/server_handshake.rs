//! A server's opening handshake (RFC 6455, section 4.2): any request in any pieces, and the answers to it.
//!
//! ```text
//!  input   flags | longest piece | seed of the cuts | field name | field value | what the client sends
//!                                                     each behind a byte that says how long it is
//! ```
//!
//! Promises: the same request gives the same outcome, whole and cut; what follows a head is left; limits hold; an outcome stays; all
//! answers are heads with no more lines than fields, and with as much of a body as they say; a client takes the 101.

use bytes::{Bytes, BytesMut};
use http::StatusCode;
use parley_proto::Limits;
use parley_proto::handshake::{
    Acceptance, ApiMisuse, ClientHandshake, ClientRequest, Rejection, Request, ServerHandshake, ServerRefusal,
};

use crate::client_handshake::{limits, lossy_lines};
use crate::input::{Input, pieces};
use crate::naive;

/// Checks the promises on one input.
///
/// # Panics
///
/// If one is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (flags, longest, seed) = (input.byte(), input.byte(), input.byte());
    let limits = limits(flags);
    let field = (input.counted(), input.counted());
    let wire = input.rest();

    let (whole, mut handshake, left) = outcome(&limits, &[wire]);
    let (cut, _, left_then) = outcome(&limits, &pieces(wire, longest, seed));
    assert_eq!(whole, cut);
    match &whole {
        Ok(None) => {
            assert_eq!(handshake.accept(&Acceptance::new()), Err(ApiMisuse::NoRequest));
            assert!(handshake.respond(&http::Response::default()).is_err());
        }
        Ok(Some(request)) => {
            assert_eq!(left, left_then);
            assert!(wire[..wire.len() - left.len()].ends_with(b"\r\n\r\n"), "a request ends with its head");
            asked(request, &limits);
            accepted(request, &handshake, field);
            rejected(handshake, field);
        }
        Err(refusal) => refused(refusal, handshake, field),
    }
}

type Outcome = Result<Option<Request>, ServerRefusal>;

fn outcome(limits: &Limits, pieces: &[&[u8]]) -> (Outcome, ServerHandshake, BytesMut) {
    let mut handshake = ServerHandshake::new(limits);
    let mut input = BytesMut::new();
    let mut outcome = Ok(None);
    for piece in pieces {
        input.extend_from_slice(piece);
        if matches!(outcome, Ok(None)) {
            outcome = handshake.handle_input(&mut input);
            assert!(!matches!(outcome, Ok(None)) || input.len() <= limits.head(), "more is held than a head may have");
        }
    }
    match &outcome {
        Ok(None) => {}
        Ok(Some(_)) => assert_eq!(handshake.handle_input(&mut BytesMut::from(&b"x"[..])), Ok(None)),
        Err(refusal) => assert_eq!(handshake.handle_input(&mut input).as_ref(), Err(refusal), "a refusal stays"),
    }
    (outcome, handshake, input)
}

fn asked(request: &Request, limits: &Limits) {
    let resource = request.resource();
    assert!(resource.starts_with('/') && resource.bytes().all(|byte| byte.is_ascii_graphic()), "{resource:?}");
    assert_eq!(
        request.query().map_or(request.path().to_owned(), |query| format!("{}?{query}", request.path())),
        resource
    );
    assert!(request.host().bytes().all(|byte| byte.is_ascii_graphic()), "{:?}", request.host());
    assert!(request.headers().len() <= limits.headers());
    let mut names: Vec<_> = request.subprotocols().collect();
    let offered = names.len();
    names.sort_unstable();
    names.dedup();
    assert_eq!(names.len(), offered, "a subprotocol twice");
}

fn accepted(request: &Request, handshake: &ServerHandshake, (name, value): (&[u8], &[u8])) {
    let mut pending = handshake.clone();
    let never = Acceptance::new().subprotocol("not, offered");
    assert_eq!(pending.accept(&never), Err(ApiMisuse::SubprotocolNotOffered));

    let mut fields = vec!["connection", "sec-websocket-accept", "upgrade"];
    let mut reply = Acceptance::new();
    if let Some(subprotocol) = request.subprotocols().last() {
        reply = reply.subprotocol(subprotocol);
        fields.push("sec-websocket-protocol");
    }
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if let Ok(with_field) = reply.clone().header(&*name, value) {
        reply = with_field;
        fields.push(&name);
    }
    let (agreed, head) = pending.accept(&reply).expect("it waits on after a mistake");
    assert_eq!(agreed.subprotocol(), request.subprotocols().last());
    assert_eq!(pending.accept(&reply), Err(ApiMisuse::NoRequest), "there is one answer");
    let lines = lossy_lines(&head);
    assert_eq!(lines[0], "HTTP/1.1 101 Switching Protocols");
    assert_eq!(names(&lines), sorted(fields), "a head has other lines than fields");

    // The answer to the key of section 1.3 is what a client with that key waits for.
    if request.headers()["sec-websocket-key"] == "dGhlIHNhbXBsZSBub25jZQ==" {
        let mut client = ClientRequest::new("ws://a/").expect("a URL");
        for subprotocol in request.subprotocols() {
            client.subprotocol(subprotocol).expect("a token, once");
        }
        let limits = Limits::client().with_header_line(16 * 1024).expect("neither 0 nor usize::MAX");
        let (mut client, _) = ClientHandshake::new(&client, *b"the sample nonce", &limits);
        let taken = client.handle_input(&mut BytesMut::from(&*head)).expect("a client takes it").expect("it is whole");
        assert_eq!(taken.subprotocol(), agreed.subprotocol());
    }
}

fn rejected(mut pending: ServerHandshake, (name, value): (&[u8], &[u8])) {
    let mut reply = Rejection::new(StatusCode::FORBIDDEN).expect("a status that rejects").body("no\r\n\r\n");
    let mut fields = vec!["connection", "content-length"];
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if let Ok(with_field) = reply.clone().header(&*name, value) {
        reply = with_field;
        fields.push(&name);
    }
    let response = pending.reject(&reply).expect("the request waits");
    let lines = response_lines(&response, true);
    assert_eq!(names(&lines), sorted(fields), "a head has other lines than fields");
}

fn refused(refusal: &ServerRefusal, mut handshake: ServerHandshake, (name, value): (&[u8], &[u8])) {
    let lines = response_lines(&refusal.response, false);
    let status = lines[0].split(' ').nth(1).and_then(|status| status.parse().ok());
    assert!(matches!(status, Some(400 | 405 | 414 | 426 | 431 | 505)), "{lines:?}");
    assert_eq!(refusal.error.to_http().status().as_u16(), status.unwrap_or_default());
    let mut response = http::Response::new(Bytes::from_static(b"page"));
    // What a map holds, a head can.
    if let (Ok(name), Ok(value)) = (http::HeaderName::from_bytes(name), http::HeaderValue::from_bytes(value)) {
        response.headers_mut().insert(name, value);
    }
    let answered = handshake.respond(&response);
    assert_eq!(answered.is_ok(), refusal.request.is_some(), "only a plain request is answered otherwise");
    if let (Ok(answer), Some(request)) = (answered, &refusal.request) {
        assert!(["GET", "HEAD"].contains(&request.method().as_str()) && request.uri().path().starts_with('/'));
        let lines = response_lines(&answer, request.method() == "GET");
        assert!(lines.len() <= 4, "{lines:?}");
        assert!(handshake.respond(&response).is_err(), "there is one answer");
    }
}

/// The lines of a whole response that ends its connection, and whose body is as long as it says, or absent.
fn response_lines(response: &[u8], with_body: bool) -> Vec<String> {
    let end = response.windows(4).position(|four| four == b"\r\n\r\n").expect("a response has a head") + 4;
    let lines = lossy_lines(&response[..end]);
    let borrowed: Vec<_> = lines.iter().map(String::as_str).collect();
    let length: usize = naive::field(&borrowed, "content-length").and_then(|len| len.parse().ok()).expect("a length");
    assert!(naive::field(&borrowed, "connection").is_some_and(|value| value.starts_with("close")), "{lines:?}");
    let body = response.len() - end;
    assert!(body == length || body == 0 && !with_body, "{length} bytes announced, {body} sent");
    lines
}

fn names(lines: &[String]) -> Vec<String> {
    let mut names: Vec<_> =
        lines[1..].iter().map(|line| line.split(':').next().unwrap_or_default().to_lowercase()).collect();
    names.sort();
    names
}

fn sorted(mut names: Vec<&str>) -> Vec<&str> {
    names.sort_unstable();
    names
}
