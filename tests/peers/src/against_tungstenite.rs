//! The same frames for Parley and for tungstenite (RFC 6455, section 5): the same messages, and the same end but for what
//! [`Difference`] lists.
//!
//! An input is one of `parley_fuzz::decoder`; the cuts in it are of no interest here.

use std::io::{self, Read, Write};

use bytes::BytesMut;
use parley_fuzz::decoder::{CLIENT, HEAD};
use parley_proto::codec::{Decoder, End, Frame, FrameError};
use parley_proto::{Limits, Role};
use tungstenite::protocol::{WebSocket, WebSocketConfig};
use tungstenite::{Error, Message};

/// Zeros behind the frames, more than any of them may have of payload: they fill the one whose header says that it is illegal.
const FILLING: usize = 2048;

/// How the two may differ on an input that Parley refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Difference {
    /// tungstenite takes a length that is not in its shortest form (section 5.2: "the minimal number of bytes MUST be used"), that of
    /// a control frame too, whose length Parley refuses by its form alone.
    LongerLength,
    /// It refuses 1014, which was registered with IANA after the RFC, and Parley takes it. In both, what is refused ends the
    /// stream: there it is a Close with 1002 of its own.
    CloseCode,
    /// It has no bound on fragments without payload.
    EmptyFragments,
}

impl Difference {
    fn of(error: &FrameError) -> Option<Self> {
        match error {
            FrameError::LengthNotMinimal | FrameError::ControlTooLong => Some(Self::LongerLength),
            FrameError::CloseCodeInvalid(_) => Some(Self::CloseCode),
            FrameError::TooManyEmptyFragments { .. } => Some(Self::EmptyFragments),
            _ => None,
        }
    }
}

/// What there is behind the messages.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Behind {
    /// There could be more.
    Nothing,
    /// A Close, with code and reason.
    Close(Option<(u16, Vec<u8>)>),
    /// A violation.
    Error(String),
}

/// Compares the two on one input.
///
/// # Panics
///
/// If they differ otherwise than listed.
pub fn run(input: &[u8]) {
    let Some((&[flags, message, ..], wire)) = input.split_first_chunk::<HEAD>() else { return };
    let role = if flags & CLIENT != 0 { Role::Client } else { Role::Server };
    let limit = 1 + 4 * usize::from(message);

    let (ours, end) = parley(role, limit, wire);
    let difference = match &end {
        Some(End::Error(error)) => Difference::of(error),
        Some(End::Close(Some(close))) if close.code().get() == 1014 => Some(Difference::CloseCode),
        _ => None,
    };
    let (theirs, behind) = tungstenite(role, limit, wire);
    match (&end, difference) {
        (_, Some(Difference::CloseCode)) => {
            assert_eq!(ours, theirs);
            let refused = Behind::Close(Some((1002, b"Protocol violation".to_vec())));
            // It looks at the reason first, which may be wrong as well.
            let wrong = matches!(behind, Behind::Error(_)) && matches!(end, Some(End::Error(_)));
            assert!(behind == refused || wrong, "{end:?}, and to tungstenite {behind:?}");
        }
        (_, Some(_)) => assert!(theirs.starts_with(&ours), "{difference:?}: {ours:?}, {theirs:?}"),
        (None, _) => assert_eq!((ours, Behind::Nothing), (theirs, behind)),
        (Some(End::Close(close)), _) => {
            let close = close.as_ref().map(|close| (close.code().get(), close.reason().as_bytes().to_vec()));
            assert_eq!((ours, Behind::Close(close)), (theirs, behind));
        }
        (Some(End::Error(error)), _) => {
            assert_eq!(ours, theirs, "{error}, {behind:?}");
            let behind = match behind {
                // It has yet to see the end of a frame whose header, or whose first bytes, are enough for Parley.
                Behind::Nothing => {
                    let (filled, behind) = tungstenite(role, limit, &[wire, &[0; FILLING]].concat());
                    assert_eq!(ours, filled, "{error}, {behind:?}");
                    behind
                }
                behind => behind,
            };
            assert!(matches!(behind, Behind::Error(_)), "{error}, and to tungstenite {behind:?}");
        }
    }
}

fn parley(role: Role, limit: usize, wire: &[u8]) -> (Vec<Frame>, Option<End>) {
    let limits = Limits::server().with_message(limit).expect("neither 0 nor usize::MAX");
    let mut decoder = Decoder::new(role, &limits);
    decoder.decode(&mut BytesMut::from(wire), &mut |_| {});
    let frames = std::iter::from_fn(|| decoder.poll()).collect();
    (frames, decoder.end().cloned())
}

fn tungstenite(role: Role, limit: usize, wire: &[u8]) -> (Vec<Frame>, Behind) {
    let role = match role {
        Role::Client => tungstenite::protocol::Role::Client,
        Role::Server => tungstenite::protocol::Role::Server,
    };
    let config = WebSocketConfig::default().max_message_size(Some(limit)).max_frame_size(Some(limit.max(125)));
    let mut socket = WebSocket::from_raw_socket(Wire(wire), role, Some(config));
    let mut frames = Vec::new();
    let behind = loop {
        frames.push(match socket.read() {
            Ok(Message::Text(text)) => Frame::text(text.as_str().to_owned()),
            Ok(Message::Binary(bytes)) => Frame::binary(bytes),
            Ok(Message::Ping(bytes)) => Frame::ping(bytes),
            Ok(Message::Pong(bytes)) => Frame::pong(bytes),
            Ok(Message::Close(close)) => {
                break Behind::Close(close.map(|close| (close.code.into(), close.reason.as_bytes().to_vec())));
            }
            Ok(Message::Frame(frame)) => panic!("{frame:?} is raw"),
            Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => break Behind::Nothing,
            Err(error) => break Behind::Error(error.to_string()),
        });
    };
    (frames, behind)
}

/// What the peer sent, then silence; what is answered is of no interest.
struct Wire<'a>(&'a [u8]);

impl Read for Wire<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.0.is_empty() { Err(io::ErrorKind::WouldBlock.into()) } else { self.0.read(buffer) }
    }
}

impl Write for Wire<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
