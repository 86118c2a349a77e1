//! The conversations: what a peer sends, what the application does, how it ends.

use std::sync::Arc;
use std::time::{Duration, Instant};

use parley_proto::connection::{Config, Connection};
use parley_proto::handshake::ClientRequest;
use parley_proto::{Limits, Role};
use parley_tests::raw::{frame, masked_frame, switching_protocols};

use super::play::SEED;

/// What the application does with messages.
#[derive(Clone, Copy, Debug)]
pub(crate) enum App {
    Echo,
    /// Closes with 4000 at this text.
    CloseOn(&'static str),
    /// Server: refuses the request with 403.
    Reject,
}

pub(crate) struct Conversation {
    pub(crate) name: String,
    /// Ours.
    pub(crate) role: Role,
    pub(crate) options: fn(&mut Config),
    pub(crate) subprotocol: Option<&'static str>,
    pub(crate) app: App,
    pub(crate) input: Vec<u8>,
    /// The peer's Close, legal and on an open connection, ends here: from then on an end is clean.
    pub(crate) close_end: Option<usize>,
    /// Close code and whether it was clean, when the stream ends behind the input.
    pub(crate) outcome: (u16, bool),
}

const REQUEST: &str = "GET /chat HTTP/1.1\r\nHost: localhost\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n";

/// What a client of ours asks for.
pub(crate) fn request(subprotocol: Option<&str>) -> ClientRequest {
    let mut request = ClientRequest::new("ws://localhost/chat").unwrap();
    if let Some(name) = subprotocol {
        request.subprotocol(name).unwrap();
    }
    request
}

/// The head that it sends for that, with the seed of the plays.
fn asked(subprotocol: Option<&'static str>) -> String {
    let request = request(subprotocol);
    let now = Instant::now();
    let connection =
        Connection::client(&request, Arc::new(Config::new(Role::Client)), SEED, now + Duration::from_secs(1));
    String::from_utf8(connection.transmit().iter().flatten().copied().collect()).unwrap()
}

fn plain(_: &mut Config) {}

/// A conversation in the making. It ends unclean, with 1006, until told otherwise.
struct Making(Conversation);

impl Making {
    fn new(name: &str, role: Role, input: Vec<u8>) -> Self {
        let name = format!("{name} ({role:?})");
        let (app, options, outcome) = (App::Echo, plain as fn(&mut Config), (1006, false));
        Self(Conversation { name, role, options, subprotocol: None, app, input, close_end: None, outcome })
    }

    /// Behind a handshake that is as it should be.
    fn open(name: &str, role: Role) -> Self {
        match role {
            Role::Server => Self::new(name, role, REQUEST.into()),
            Role::Client => Self::new(name, role, switching_protocols(&asked(None), "").into()),
        }
    }

    /// A frame as the peer of this role sends it.
    fn frame(mut self, first: u8, payload: &[u8]) -> Self {
        self.0.input.extend(match self.0.role {
            Role::Server => masked_frame(first, [0x12, 0x34, 0x56, 0x78], payload),
            Role::Client => frame(first, payload),
        });
        self
    }

    fn text(self, text: &str) -> Self {
        self.frame(0x81, text.as_bytes())
    }

    /// The peer's Close: the first that counts.
    fn close(self, code: u16, reason: &str) -> Self {
        let payload = [&code.to_be_bytes()[..], reason.as_bytes()].concat();
        let mut closed = self.frame(0x88, &payload);
        closed.0.close_end.get_or_insert(closed.0.input.len());
        closed.0.outcome = (code, true);
        closed
    }

    fn raw(mut self, bytes: &[u8]) -> Self {
        self.0.input.extend_from_slice(bytes);
        self
    }

    fn app(mut self, app: App) -> Self {
        self.0.app = app;
        self
    }

    fn options(mut self, options: fn(&mut Config)) -> Self {
        self.0.options = options;
        self
    }

    fn ends(mut self, code: u16, clean: bool) -> Conversation {
        self.0.outcome = (code, clean);
        self.0
    }
}

impl From<Making> for Conversation {
    fn from(making: Making) -> Self {
        making.0
    }
}

/// All of them.
pub(crate) fn conversations() -> Vec<Conversation> {
    let mut all = Vec::new();
    for role in [Role::Client, Role::Server] {
        let open = |name| Making::open(name, role);
        all.extend::<[Conversation; 20]>([
            // Whole conversations.
            open("nothing is said, then closed").close(1000, "").into(),
            open("a text").text("hello").close(1000, "bye").into(),
            open("many small messages").many(50).close(1001, "").into(),
            open("empty messages").text("").frame(0x82, b"").close(1000, "").into(),
            open("lengths of 125, 126 and 127 bytes").sized(125).sized(126).sized(127).close(1000, "").into(),
            open("a message of 70,000 bytes").sized(70_000).close(1000, "").into(),
            open("characters of all lengths").text("a\u{e9}\u{20ac}\u{1f44b}").close(1000, "\u{20ac}").into(),
            open("fragments").frame(0x01, b"Hel").frame(0x00, b"").frame(0x80, b"lo").close(1000, "").into(),
            open("a character over fragments").frame(0x01, b"\xe2\x82").frame(0x80, b"\xac").close(1000, "").into(),
            open("pings between fragments")
                .frame(0x02, b"a")
                .frame(0x89, b"1")
                .frame(0x00, b"b")
                .frame(0x8a, b"none asked for")
                .frame(0x89, b"2")
                .frame(0x80, b"c")
                .close(1000, "")
                .into(),
            open("pings of all sizes").frame(0x89, b"").frame(0x89, &[7; 125]).close(1000, "").into(),
            open("a close without a code").without_code(),
            open("a close with a code of the application").close(4999, "by the application").into(),
            open("a close with a code of the registry").close(3000, "").into(),
            open("data behind the close").text("before").close(1000, "").text("behind").into(),
            open("two closes").close(1000, "first").close(1001, "second").ends(1000, true),
            open("we close, and the peer answers")
                .app(App::CloseOn("enough"))
                .text("go on")
                .text("enough")
                .text("on its way already")
                .close(4000, "")
                .into(),
            open("we close, and the peer says something else")
                .app(App::CloseOn("enough"))
                .text("enough")
                .close(1001, "going anyway")
                .into(),
            open("we close, and no answer comes").app(App::CloseOn("enough")).text("enough").ends(1006, false),
            open("a text, and an end without a close").text("cut").ends(1006, false),
        ]);
        all.extend::<[Conversation; 4]>([
            // In parts.
            open("a message in parts").options(in_parts).sized(5_000).text("s").close(1000, "").into(),
            open("fragments in parts").options(in_parts).frame(0x01, b"ab").frame(0x80, b"c").close(1000, "").into(),
            open("a character over parts").options(in_parts).text("\u{20ac}\u{20ac}\u{20ac}").close(1000, "").into(),
            open("parts that are no UTF-8").options(in_parts).frame(0x81, b"0123456789\xff").ends(1006, false),
        ]);
        // What breaks a rule, each behind a message that is delivered.
        let broken: [(&str, &[u8], &[u8]); 20] = [
            ("RSV1", &[0xc1, 0x00], &[0xc1, 0x80, 0, 0, 0, 0]),
            ("RSV2 and RSV3", &[0xb1, 0x00], &[0xb1, 0x80, 0, 0, 0, 0]),
            ("opcode 3", &[0x83, 0x00], &[0x83, 0x80, 0, 0, 0, 0]),
            ("opcode 11", &[0x8b, 0x00], &[0x8b, 0x80, 0, 0, 0, 0]),
            ("the wrong masking", &[0x81, 0x80, 0, 0, 0, 0], &[0x81, 0x00]),
            ("a ping in fragments", &[0x09, 0x00], &[0x09, 0x80, 0, 0, 0, 0]),
            ("a ping of 126 bytes", &[0x89, 126, 0, 126], &[0x89, 0xfe, 0, 126, 0, 0, 0, 0]),
            ("nothing to continue", &[0x80, 0x00], &[0x80, 0x80, 0, 0, 0, 0]),
            (
                "a message within a message",
                &[0x01, 0x00, 0x81, 0x00],
                &[0x01, 0x80, 0, 0, 0, 0, 0x81, 0x80, 0, 0, 0, 0],
            ),
            ("a length of 16 bits too long", &[0x82, 126, 0, 125], &[0x82, 0xfe, 0, 125, 0, 0, 0, 0]),
            (
                "a length of 64 bits too long",
                &[0x82, 127, 0, 0, 0, 0, 0, 0, 0xff, 0xff],
                &[0x82, 0xff, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 0],
            ),
            ("bit 63", &[0x82, 127, 0x80, 0, 0, 0, 0, 0, 0, 0], &[0x82, 0xff, 0x80, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
            (
                "a length beyond all limits",
                &[0x82, 127, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff],
                &[0x82, 0xff, 0x7f, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0],
            ),
            ("a text that is no UTF-8", &[0x81, 0x02, 0xc0, 0xaf], &[0x81, 0x82, 0, 0, 0, 0, 0xc0, 0xaf]),
            ("a text that ends in a character", &[0x81, 0x01, 0xe2], &[0x81, 0x81, 0, 0, 0, 0, 0xe2]),
            ("a close of one byte", &[0x88, 0x01, 0x03], &[0x88, 0x81, 0, 0, 0, 0, 0x03]),
            ("a close with 1005", &[0x88, 0x02, 0x03, 0xed], &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xed]),
            ("a close with 999", &[0x88, 0x02, 0x03, 0xe7], &[0x88, 0x82, 0, 0, 0, 0, 0x03, 0xe7]),
            ("a close with 5000", &[0x88, 0x02, 0x13, 0x88], &[0x88, 0x82, 0, 0, 0, 0, 0x13, 0x88]),
            (
                "a close whose reason is no UTF-8",
                &[0x88, 0x03, 0x03, 0xe8, 0xff],
                &[0x88, 0x83, 0, 0, 0, 0, 0x03, 0xe8, 0xff],
            ),
        ];
        for (name, to_client, to_server) in broken {
            let bytes = if role == Role::Client { to_client } else { to_server };
            all.push(open(name).text("before").raw(bytes).ends(1006, false));
        }
        // Limits.
        all.extend::<[Conversation; 3]>([
            open("a message above the limit").options(small).sized(101).ends(1006, false),
            open("a message in fragments above the limit")
                .options(small)
                .frame(0x02, &[0; 60])
                .frame(0x80, &[0; 41])
                .ends(1006, false),
            open("a message at the limit").options(small).sized(100).close(1000, "").into(),
        ]);
    }
    all.extend(handshakes());
    all
}

fn in_parts(config: &mut Config) {
    config.chunks_above = Some(8);
}

fn small(config: &mut Config) {
    config.limits = Limits::client().with_message(100).unwrap();
}

/// Handshakes that come to nothing, or to something unusual.
fn handshakes() -> Vec<Conversation> {
    let server = |name: &str, request: String| Making::new(name, Role::Server, request.into());
    let without = |text: &str| REQUEST.replace(text, "");
    let key = "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    let mut all: Vec<Conversation> = vec![
        server("a rejection", REQUEST.into()).app(App::Reject).raw(b"\x81\x80....").into(),
        server("no key", without(key)).into(),
        server("no host", without("Host: localhost\r\n")).into(),
        server("another version", REQUEST.replace("13", "8")).into(),
        server("a POST", REQUEST.replace("GET", "POST")).into(),
        server("HTTP/1.0", REQUEST.replace("HTTP/1.1", "HTTP/1.0")).into(),
        server("a page", "GET /page HTTP/1.1\r\nHost: a\r\n\r\n".into())
            .options(|config| config.plain_http = true)
            .into(),
        server("a page that nobody serves", "GET /page HTTP/1.1\r\nHost: a\r\n\r\n".into()).into(),
        server("a space before a colon", REQUEST.replace("Host:", "Host :")).into(),
        server("a bare CR", REQUEST.replace("localhost", "local\rhost")).into(),
        server("a field that is folded", REQUEST.replace("localhost", "local\r\n host")).into(),
        server("a body", REQUEST.replace("Host:", "Content-Length: 3\r\nHost:")).raw(b"abc").into(),
        server("no HTTP at all", "\x16\x03\x01\x02\x00".into()).into(),
        server("a head without end", "GET /".to_owned() + &"a".repeat(20_000)).into(),
        server("empty lines before the request", format!("\r\n{REQUEST}")).into(),
        server(
            "names and tokens in other letters",
            REQUEST
                .to_lowercase()
                .replace("get /chat http", "GET /chat HTTP")
                .replace("dghlihnhbxbszsbub25jzq", "dGhlIHNhbXBsZSBub25jZQ"),
        )
        .text("hello")
        .close(1000, "")
        .into(),
    ];
    let client = |name: &str, response: String| Making::new(name, Role::Client, response.into());
    let switched = switching_protocols(&asked(None), "");
    let with = |lines: &str| switching_protocols(&asked(None), lines);
    all.extend::<[Conversation; 13]>([
        client("a 401 with a body", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 2\r\n\r\nno".into()).into(),
        client("a 500 in chunks", "HTTP/1.1 500 Oops\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nno\r\n0\r\n\r\n".into())
            .into(),
        client("a 302", "HTTP/1.1 302 Found\r\nLocation: /\r\nContent-Length: 0\r\n\r\n".into()).into(),
        client("a 503 that ends with the stream", "HTTP/1.1 503 Busy\r\n\r\ncome back".into()).into(),
        client("interim responses", format!("HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n{switched}"))
            .close(1000, "")
            .into(),
        client("interim responses without end", "HTTP/1.1 103 Early Hints\r\n\r\n".repeat(6)).into(),
        client("another accept", switched.replace("Sec-WebSocket-Accept: ", "Sec-WebSocket-Accept: A")).into(),
        client("no upgrade", switched.replace("Upgrade: websocket\r\n", "")).into(),
        client("HTTP/1.0", switched.replace("HTTP/1.1", "HTTP/1.0")).into(),
        client("a subprotocol that nobody offered", with("Sec-WebSocket-Protocol: chat\r\n")).into(),
        client("an extension that nobody offered", with("Sec-WebSocket-Extensions: permessage-deflate\r\n")).into(),
        client("no HTTP at all", "SSH-2.0-OpenSSH_9.2\r\n".into()).into(),
        client("a head without end", "HTTP/1.1 101 Switching Protocols\r\nX: ".to_owned() + &"a".repeat(20_000)).into(),
    ]);
    let mut agreed = Making::new(
        "a subprotocol that was offered",
        Role::Client,
        switching_protocols(&asked(Some("chat")), "Sec-WebSocket-Protocol: chat\r\n").into(),
    );
    agreed.0.subprotocol = Some("chat");
    all.push(agreed.text("hello").close(1000, "").into());
    all
}

impl Making {
    fn sized(self, len: usize) -> Self {
        self.frame(0x82, &vec![b'x'; len])
    }

    fn many(mut self, count: usize) -> Self {
        for number in 0..count {
            self = self.text(&format!("message {number}"));
        }
        self
    }

    /// A Close without a payload: 1005, which never goes over the wire.
    fn without_code(self) -> Conversation {
        let mut closed = self.frame(0x88, b"");
        closed.0.close_end = Some(closed.0.input.len());
        closed.ends(1005, true)
    }
}
