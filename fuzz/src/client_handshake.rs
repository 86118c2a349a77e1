//! A client's opening handshake (RFC 6455, section 4.1): the request that it sends, and any response in any pieces.
//!
//! ```text
//!  input   flags | longest piece | seed of the cuts | field name | field value | subprotocol | what the server sends
//!                                                     each behind a byte that says how long it is
//! ```
//!
//! The key is the one of section 1.3, whose answer is known.
//!
//! Promises: the request has no more lines than fields, whatever they hold; the same response gives the same outcome, whole and cut;
//! a connection opens only behind a 101 with the right answer and with nothing that was not offered; what follows a head is left;
//! limits hold; an outcome stays.

use bytes::BytesMut;
use parley_proto::Limits;
use parley_proto::handshake::{ClientFailure, ClientHandshake, ClientRequest, Negotiated};

use crate::input::{Input, pieces};
use crate::naive;

/// Flag: limits are small, so that short inputs reach them.
pub const SMALL_LIMITS: u8 = 0x1;
/// Of section 1.3.
const KEY_BYTES: [u8; 16] = *b"the sample nonce";
/// What answers it.
const ACCEPT: &str = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=";

type Outcome = Result<Option<Negotiated>, ClientFailure>;

/// Checks the promises on one input.
///
/// # Panics
///
/// If one is broken.
pub fn run(input: &[u8]) {
    let mut input = Input::new(input);
    let (flags, longest, seed) = (input.byte(), input.byte(), input.byte());
    let limits = limits(flags);
    let request = request(&mut input);
    let wire = input.rest();

    let (whole, left) = outcome(&request, &limits, &[wire]);
    let (cut, left_then) = outcome(&request, &limits, &pieces(wire, longest, seed));
    assert_eq!(whole, cut);
    if let Ok(Some(agreed)) = &whole {
        assert_eq!(left, left_then);
        opened(agreed, &request, &limits, wire, left.len());
    }
    if let Err(ClientFailure::Rejected(rejected)) = &whole {
        assert!(rejected.body.len() <= limits.rejection_body(), "more of a body than the limit");
        assert!(rejected.headers.len() <= limits.headers(), "more fields than the limit");
        assert_ne!(rejected.status.as_u16() / 100, 1, "an interim response is no answer");
    }
}

/// Limits by the flags, for both handshakes.
pub(crate) fn limits(flags: u8) -> Limits {
    if flags & SMALL_LIMITS == 0 {
        return Limits::client();
    }
    let set = || Limits::client().with_head(400)?.with_header_line(80)?.with_headers(8)?.with_rejection_body(20);
    set().expect("none of these is 0 or usize::MAX")
}

fn request(input: &mut Input<'_>) -> ClientRequest {
    let mut request = ClientRequest::new("ws://a/chat").expect("a URL");
    let (name, value, subprotocol) = (input.counted(), input.counted(), input.counted());
    let mut fields =
        ["host", "upgrade", "connection", "sec-websocket-key", "sec-websocket-version", "user-agent"].to_vec();
    let added = request.header(name, value).is_ok();
    let name = String::from_utf8_lossy(name).to_ascii_lowercase();
    if added && !["host", "user-agent"].contains(&&*name) {
        fields.push(&name);
    }
    if request.subprotocol(String::from_utf8_lossy(subprotocol)).is_ok() {
        fields.push("sec-websocket-protocol");
    }
    let (_, head) = ClientHandshake::new(&request, KEY_BYTES, &Limits::client());
    let lines = lossy_lines(&head);
    let mut names: Vec<_> =
        lines[1..].iter().map(|line| line.split(':').next().unwrap_or_default().to_lowercase()).collect();
    names.sort();
    fields.sort_unstable();
    assert_eq!(names, fields, "a head has other lines than fields");
    assert_eq!(lines[0], "GET /chat HTTP/1.1");
    request
}

/// The lines of a head, whose values may have bytes beyond ASCII; the whole of it, and nothing behind it.
pub(crate) fn lossy_lines(head: &[u8]) -> Vec<String> {
    let head: String = head.iter().map(|byte| if byte.is_ascii() { char::from(*byte) } else { '?' }).collect();
    let (lines, rest) = naive::head(head.as_bytes());
    assert!(rest.is_empty(), "a head ends before its end");
    lines.into_iter().map(str::to_owned).collect()
}

fn outcome(request: &ClientRequest, limits: &Limits, pieces: &[&[u8]]) -> (Outcome, BytesMut) {
    let (mut handshake, _) = ClientHandshake::new(request, KEY_BYTES, limits);
    let mut input = BytesMut::new();
    let mut outcome = Ok(None);
    for piece in pieces {
        input.extend_from_slice(piece);
        if !matches!(outcome, Ok(None)) {
            continue; // they are frames, or nobody's
        }
        outcome = handshake.handle_input(&mut input);
        if let Ok(None) = outcome {
            assert!(input.len() <= limits.head(), "more is held than a head may have");
        }
    }
    match &outcome {
        Ok(None) => {
            let at_deadline = handshake.clone().handle_deadline();
            let at_eof = handshake.handle_eof();
            assert!(at_deadline.is_none_or(|failure| failure == at_eof));
            assert_eq!(handshake.handle_input(&mut input), Err(at_eof), "an end stays");
        }
        Ok(Some(_)) => assert_eq!(handshake.handle_input(&mut BytesMut::from(&b"x"[..])), Ok(None)),
        Err(failure) => {
            assert_eq!(handshake.handle_input(&mut input).as_ref(), Err(failure), "a failure stays");
            assert_eq!(handshake.handle_deadline().as_ref(), Some(failure));
            assert_eq!(&handshake.handle_eof(), failure);
        }
    }
    (outcome, input)
}

fn opened(agreed: &Negotiated, request: &ClientRequest, limits: &Limits, wire: &[u8], left: usize) {
    let consumed = &wire[..wire.len() - left];
    assert!(consumed.ends_with(b"\r\n\r\n"), "it opens behind a head");
    let answers = consumed.windows(ACCEPT.len()).any(|window| window == ACCEPT.as_bytes());
    assert!(answers && consumed.starts_with(b"HTTP/1.1 1"), "it opens by a 101 with the answer to the key");
    assert_eq!(agreed.status().as_u16(), 101);
    assert!(agreed.headers().len() <= limits.headers());
    assert!(agreed.extensions().is_empty(), "none was offered");
    let offered = |name: &str| request.subprotocols().iter().any(|offered| offered == name);
    assert!(agreed.subprotocol().is_none_or(offered), "{:?} was not offered", agreed.subprotocol());
}
