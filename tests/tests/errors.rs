//! What errors say of themselves, and what they were caused by: an application's log has nothing else.

use std::error::Error as _;
use std::io;
use std::sync::Arc;

use http::StatusCode;
use http::header::{HOST, HeaderName};
use parley_proto::codec::{Chunk, Frame, FrameError};
use parley_proto::driver::{AcceptError, Error, InfoError, StartError, TlsError};
use parley_proto::handshake::{ApiMisuse, HandshakeError, HeaderError, SubprotocolError};
use parley_proto::session::BuildError;
use parley_proto::{
    BoxError, ChunkError, DisconnectReason, Limits, NetworkError, ProtocolError, SendError, SharedError, StopReason,
};

fn broken() -> NetworkError {
    io::Error::other("broken pipe").into()
}

fn own() -> SharedError {
    BoxError::from("my own").into()
}

/// An error says this, and names that as what caused it.
#[track_caller]
fn says(error: impl std::error::Error, words: &str, cause: Option<&str>) {
    assert_eq!(error.to_string(), words);
    assert_eq!(error.source().map(ToString::to_string).as_deref(), cause);
}

#[test]
fn a_disconnect_and_a_stop_name_their_cause() {
    let protocol = || DisconnectReason::Protocol(ProtocolError::Frame(FrameError::ReservedBits));
    let tls = || TlsError::ServerName("a b".to_owned());
    for (reason, cause) in [
        (DisconnectReason::Eof, None),
        (protocol(), Some(ProtocolError::Frame(FrameError::ReservedBits).to_string())),
        (DisconnectReason::Dns(broken()), Some("broken pipe".to_owned())),
        (DisconnectReason::Tcp(broken()), Some("broken pipe".to_owned())),
        (DisconnectReason::Tls(tls()), Some(tls().to_string())),
        (DisconnectReason::Prepare(own()), Some("my own".to_owned())),
    ] {
        assert_eq!(reason.source().map(ToString::to_string), cause, "{reason}");
    }
    let eof = DisconnectReason::Eof.to_string();
    says(StopReason::Stopped, "stopped", None);
    says(StopReason::Handler(own()), "stopped by the handler's error: my own", Some("my own"));
    says(StopReason::Disconnected(DisconnectReason::Eof), &eof, Some(&eof));
    let given_up = format!("given up after the last retry: {eof}");
    says(StopReason::MaxRetriesExceeded(DisconnectReason::Eof), &given_up, Some(&eof));
    says(StopReason::NameInUse, "another client has that name", None);
    says(StopReason::Runtime(broken()), "the runtime cannot run a client: broken pipe", Some("broken pipe"));
}

#[test]
fn a_frame_that_was_not_sent_comes_back_and_says_why() {
    let frame = || Frame::ping(vec![0; 126]);
    for (error, words) in [
        (SendError::Full(frame()), "the send queue is full"),
        (SendError::Disconnected(frame()), "not connected"),
        (SendError::Closing(frame()), "the connection is closing"),
        (SendError::Stopped(frame()), "the client has ended"),
        (SendError::ControlTooLong(frame()), "a control frame carries at most 125 bytes, not 126"),
        (SendError::OutOfTurn(frame()), "another message is being sent in parts"),
    ] {
        says(&error, words, None);
        assert_eq!(error.into_frame(), Some(frame()));
    }
    assert_eq!(SendError::Lost(DisconnectReason::Eof).into_frame(), None);
}

#[test]
fn a_part_that_was_not_sent_comes_back_and_says_why() {
    let chunk = || Chunk::text("part").first();
    for (error, words) in [
        (ChunkError::Full(chunk()), "there is no room for a part of a message"),
        (ChunkError::Disconnected(chunk()), "not connected"),
        (ChunkError::Closing(chunk()), "the connection is closing"),
        (ChunkError::Stopped(chunk()), "the client has ended"),
        (ChunkError::OutOfTurn(chunk()), "a part of a message out of order"),
        (ChunkError::NotUtf8(chunk()), "a part of a text that is not UTF-8"),
    ] {
        says(&error, words, None);
        assert_eq!(error.into_chunk(), Some(chunk()));
    }
    let lost = ChunkError::Lost(DisconnectReason::Eof);
    assert!(lost.to_string().ends_with(&DisconnectReason::Eof.to_string()), "{lost}");
    assert_eq!(lost.into_chunk(), None);
}

#[test]
fn a_web_socket_says_what_its_parts_say() {
    let eof = DisconnectReason::Eof.to_string();
    let send = || SendError::Full(Frame::text("x"));
    let chunk = || ChunkError::Full(Chunk::text("x"));
    for (error, words) in [
        (Error::from(BuildError::TlsNotBuiltIn), BuildError::TlsNotBuiltIn.to_string()),
        (Error::Disconnected(DisconnectReason::Eof), eof.clone()),
        (Error::from(send()), send().to_string()),
        (Error::Chunk(chunk()), chunk().to_string()),
        (Error::Reply(ApiMisuse::NoRequest), ApiMisuse::NoRequest.to_string()),
        (Error::Accept(AcceptError::Origin), AcceptError::Origin.to_string()),
    ] {
        says(&error, &words, Some(&words));
    }
    says(Error::Runtime(broken()), "the runtime cannot run a connection: broken pipe", Some("broken pipe"));
    assert_eq!(Error::from(send()).into_frame(), Some(Frame::text("x")));
    assert_eq!(Error::Chunk(chunk()).into_frame(), None);
    assert!(matches!(Error::Disconnected(DisconnectReason::Eof).reason(), Some(DisconnectReason::Eof)));
    assert!(Error::from(send()).reason().is_none());
}

#[test]
fn what_does_not_begin_says_why() {
    let eof = DisconnectReason::Eof.to_string();
    says(StartError::NoRuntime, "no runtime to start the client on", None);
    let runtime = StartError::Runtime(io::Error::other("broken pipe"));
    says(runtime, "the runtime cannot run a client: broken pipe", Some("broken pipe"));
    says(StartError::Init(own()), "init failed: my own", Some("my own"));
    says(StartError::NameInUse, "another client has that name", None);
    says(StartError::Panicked, "init panicked", None);
    says(StartError::Aborted, "the client ended before init had run", None);
    says(StartError::Disconnected(DisconnectReason::Eof), &eof, Some(&eof));
    let misuse = ApiMisuse::NoRequest.to_string();
    says(StartError::Reply(ApiMisuse::NoRequest), &misuse, Some(&misuse));

    says(AcceptError::ShuttingDown, "the server is shutting down", None);
    says(AcceptError::Handshake(DisconnectReason::Eof), &eof, Some(&eof));
    says(AcceptError::Origin, "the request's origin is not welcome", None);
    says(AcceptError::Answered, "the request asked for no upgrade", None);
}

#[test]
fn an_option_that_is_wrong_is_named() {
    let limit = Limits::client().with_message(0).unwrap_err();
    let words = limit.to_string();
    says(BuildError::from(limit), &words, Some(&words));
    says(BuildError::TlsNotBuiltIn, "wss:// needs the feature `tls`", None);
    says(BuildError::Header(HeaderError::Name), "bad name of a header field", Some("bad name of a header field"));
    let repeated = "the subprotocol is offered already";
    says(BuildError::Subprotocol(SubprotocolError::Repeated), repeated, Some(repeated));
    says(SubprotocolError::NotAToken, "the name of a subprotocol has to be a token", None);
    says(HeaderError::Reserved(HOST), "the header field `host` belongs to the handshake", None);
    let once = HeaderName::from_static("x-once");
    says(HeaderError::Repeated(once), "the header field `x-once` can be set once", None);
    says(ApiMisuse::SubprotocolNotOffered, "the client did not offer that subprotocol", None);
    says(ApiMisuse::RejectionStatus(StatusCode::OK), "a request cannot be rejected with 200", None);
}

#[test]
fn tls_and_frames_say_what_is_wrong() {
    let io = TlsError::Io(Arc::new(io::Error::other("cut off")));
    says(io, "TLS handshake interrupted: cut off", Some("cut off"));
    says(TlsError::unavailable("no roots"), "TLS is not available: no roots", Some("no roots"));
    says(TlsError::ServerName("a b".to_owned()), "`a b` is not a name that TLS can verify", None);
    says(FrameError::LengthNotMinimal, "payload length is not in its shortest form", None);
    says(FrameError::TooManyFragments { limit: 7 }, "message exceeds the limit of 7 fragments", None);
    says(FrameError::TooManyEmptyFragments { limit: 7 }, "message exceeds 7 empty fragments in a row", None);
    says(HandshakeError::Eof, "the transport ended during the opening handshake", None);
}

#[test]
fn an_info_that_was_refused_does_not_have_to_be_shown() {
    struct Secret;
    let (full, stopped) = (InfoError::Full(Secret), InfoError::Stopped(Secret));
    assert_eq!((format!("{full:?}"), format!("{stopped:?}")), ("Full(..)".to_owned(), "Stopped(..)".to_owned()));
    says(full, "the info queue is full", None);
}
