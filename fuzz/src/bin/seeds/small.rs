//! What is no stream of frames: headers, heads, URLs, lists, texts.

use std::io;

use parley_fuzz::client_handshake::SMALL_LIMITS;

use crate::Corpus;

/// The head of section 1.2, with the key of section 1.3, in the middle of which more fields may come.
const REQUEST: [&str; 2] = [
    "GET /chat HTTP/1.1\r\nHost: server.example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
     Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n",
    "Sec-WebSocket-Version: 13\r\n\r\n",
];
const RESPONSE: [&str; 2] = [
    "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n",
    "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n",
];

pub(crate) fn write() -> io::Result<()> {
    header()?;
    client_handshake()?;
    server_handshake()?;
    let extensions = Corpus::of("extensions")?;
    for (name, lines) in [
        ("one", "permessage-deflate"),
        ("section-9-1", "deflate-stream\nmux; max-channels=4; flow-control, deflate-stream"),
        ("quoted", "private-extension; a=\"b\"; c=\"\\d\" , d"),
        ("empty-elements", " ,\t, a;b = c ,,"),
        ("unfinished", "a; b=\"c"),
        ("spaces-in-quotes", "a; b=\" c\""),
        ("none", ","),
    ] {
        extensions.write(name, lines.as_bytes())?;
    }
    let url = Corpus::of("url")?;
    for (name, text) in [
        ("plain", "ws://example.com"),
        ("secure-with-port", "wss://example.com:8443/chat?room=1"),
        ("ipv6", "WS://[2001:DB8::1]:80/"),
        ("user-info", "wss://us%65r:p%3Ass@Example.COM/a b"),
        ("percent-encoded", "ws://a/\u{E9}\"<>%20^{|}?\u{1F600}"),
        ("query-without-path", "ws://a?x"),
        ("fragment", "ws://a/#b"),
        ("two-at-signs", "ws://a@b@c/"),
        ("line-break", "ws://a/\r\nX: y"),
    ] {
        url.write(name, text.as_bytes())?;
    }
    let utf8 = Corpus::of("utf8")?;
    for (name, text) in [
        ("all-lengths", "$\u{A3}\u{20AC}\u{10348}".as_bytes()),
        ("ends-of-ranges", "\u{7F}\u{80}\u{7FF}\u{800}\u{D7FF}\u{E000}\u{FFFF}\u{10000}\u{10FFFF}".as_bytes()),
        ("overlong", b"a\xC0\x80"),
        ("surrogate", b"a\xED\xA0\x80"),
        ("above-10ffff", b"a\xF4\x90\x80\x80"),
        ("unfinished", b"abc\xF0\x90\x8D"),
        ("bad-after-many", &[[b'a'; 200].as_slice(), b"\xFF"].concat()),
        ("long", &"gr\u{FC}n ".repeat(200).into_bytes()),
    ] {
        utf8.write(name, &[[4, 1].as_slice(), text].concat())?;
    }
    let close = Corpus::of("close")?;
    for (name, payload) in [
        ("empty", b"".as_slice()),
        ("half-a-code", b"\x03"),
        ("code-1000", b"\x03\xE8"),
        ("code-1005", b"\x03\xED"),
        ("code-1014", b"\x03\xF6"),
        ("code-2999", b"\x0B\xB7"),
        ("code-3000-with-reason", b"\x0B\xB8because"),
        ("reason-not-utf8", b"\x03\xE8\xC3\x28"),
        ("longest", &[b"\x03\xE8".as_slice(), &[b'r'; 123]].concat()),
        ("too-long", &[b"\x03\xE8".as_slice(), &[b'r'; 124]].concat()),
    ] {
        close.write(name, payload)?;
    }
    Ok(())
}

fn header() -> io::Result<()> {
    let corpus = Corpus::of("header")?;
    for (name, bytes) in [
        ("text-masked", b"\x81\x85\x37\xFA\x21\x3D".as_slice()),
        ("length-16", b"\x82\x7E\x01\x00"),
        ("length-64", b"\x82\x7F\x00\x00\x00\x00\x00\x01\x00\x00"),
        ("length-64-masked", b"\x02\xFF\x00\x00\x00\x00\x00\x01\x00\x00\x01\x02\x03\x04"),
        ("length-16-not-minimal", b"\x82\x7E\x00\x7D"),
        ("length-64-not-minimal", b"\x82\x7F\x00\x00\x00\x00\x00\x00\xFF\xFF"),
        ("length-bit-63", b"\x82\x7F\x80"),
        ("reserved-bits", b"\xF1\x00"),
        ("ping-too-long", b"\x89\x7E"),
        ("close-in-fragments", b"\x08"),
        ("reserved-opcode", b"\x83\x00"),
    ] {
        corpus.write(name, bytes)?;
    }
    Ok(())
}

fn counted(parts: &[&str]) -> Vec<u8> {
    parts.iter().flat_map(|part| std::iter::once(part.len() as u8).chain(part.bytes())).collect()
}

fn client_handshake() -> io::Result<()> {
    let corpus = Corpus::of("client_handshake")?;
    let seed =
        |flags, parts: [&str; 3], wire: &str| [[flags, 3, 1].as_slice(), &counted(&parts), wire.as_bytes()].concat();
    let response = |fields: &str| RESPONSE.join(fields);
    let plain = ["origin", "http://a", "chat"];
    for (name, wire) in [
        ("opens", response("")),
        ("opens-and-frames", response("") + "\u{1}\u{0}"),
        ("subprotocol", response("Sec-WebSocket-Protocol: chat\r\n")),
        ("subprotocol-not-offered", response("Sec-WebSocket-Protocol: other\r\n")),
        ("extension", response("Sec-WebSocket-Extensions: permessage-deflate\r\n")),
        ("many-tokens", response("Upgrade: h2c, WebSocket/13\r\nConnection: , keep-alive,UPGRADE\r\n")),
        ("interim", "HTTP/1.1 100 Continue\r\n\r\n".to_owned() + &response("")),
        ("wrong-accept", response("").replace("s3p", "S3p")),
        ("http-1-0", response("").replace("1.1", "1.0")),
        ("rejected", "HTTP/1.1 401 Unauthorized\r\nContent-Length: 5\r\n\r\nsorry".to_owned()),
        ("rejected-until-eof", "HTTP/1.0 503 No\r\n\r\nnot now".to_owned()),
        (
            "rejected-in-chunks",
            "HTTP/1.1 404 No\r\nTransfer-Encoding: gzip, chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n".to_owned(),
        ),
        ("folded", response("X: a\r\n b\r\n")),
        ("bare-line-feed", response("X: a\n")),
    ] {
        corpus.write(name, &seed(0, plain, &wire))?;
        corpus.write(&format!("small-limits-{name}"), &seed(SMALL_LIMITS, ["x", "y", ""], &wire))?;
    }
    corpus.write("line-break-in-a-value", &seed(0, ["x-a", "b\r\nX-C: d", "a b"], &response("")))?;
    corpus.write("host-of-its-own", &seed(0, ["host", "example.com:81", "chat.v2"], &response("")))
}

fn server_handshake() -> io::Result<()> {
    let corpus = Corpus::of("server_handshake")?;
    let seed =
        |flags, parts: [&str; 2], wire: &str| [[flags, 3, 1].as_slice(), &counted(&parts), wire.as_bytes()].concat();
    let request = |fields: &str| REQUEST.join(fields);
    for (name, wire) in [
        ("asks", request("")),
        ("asks-with-frames", request("") + "\u{1}\u{0}"),
        ("subprotocols", request("Sec-WebSocket-Protocol: chat, superchat\r\nSec-WebSocket-Protocol: x\r\n")),
        ("subprotocol-twice", request("Sec-WebSocket-Protocol: chat, chat\r\n")),
        ("extensions", request("Sec-WebSocket-Extensions: a; b=\"c\", d\r\n")),
        ("origin", request("Origin: http://example.com\r\n")),
        ("absolute-target", request("").replace("/chat", "ws://other/?q")),
        ("host-twice", request("Host: b\r\n")),
        ("body", request("Content-Length: 1\r\n")),
        ("version-8", request("").replace("Version: 13", "Version: 8")),
        ("post", request("").replace("GET", "POST")),
        ("http-1-0", request("").replace("1.1", "1.0")),
        ("plain", "GET /health HTTP/1.1\r\nHost: a\r\n\r\n".to_owned()),
        ("plain-head", "HEAD / HTTP/1.0\r\n\r\n".to_owned()),
        ("space-before-colon", request("X : a\r\n")),
        ("bare-carriage-return", request("X: a\rb\r\n")),
        ("line-of-100", request(&format!("X: {}\r\n", "a".repeat(100)))),
        ("fields-20", request(&"X: a\r\n".repeat(20))),
    ] {
        corpus.write(name, &seed(0, ["server", "example"], &wire))?;
        corpus.write(&format!("small-limits-{name}"), &seed(SMALL_LIMITS, ["x", ""], &wire))?;
    }
    corpus.write("line-break-in-a-value", &seed(0, ["x-a", "b\r\nX-C: d"], &request("")))
}
