//! Every bound on what one connection or client may hold, in one place.

use std::fmt;

/// Bounds on the memory that a peer or an application can make a connection hold.
///
/// A connection holds at most
///
/// | | |
/// |---|---|
/// | the message under way | twice its bytes that have come: a buffer at most doubles, and nothing is allocated by an announced length; so at most twice [`message`](Self::message) |
/// | received, not delivered | twice [`read_ahead`](Self::read_ahead), or one message that is larger |
/// | encoded, not written | 64 KiB and one frame, 112 KiB where each answers one that is [lent](crate::driver::WebSocket::next_with_reply); pongs up to 256 KiB where output is never written at all |
/// | accepted by handles, not encoded | [`send_queue`](Self::send_queue), or one frame that is larger; 64 KiB of a message that is sent in parts |
/// | infos | [`info_queue`](Self::info_queue) of the application's own |
/// | anything else | 2 to 4 KiB, at rest too, the task and the transport included; while it reads or writes, a window of 64 KiB and an output buffer from a pool that all connections of a thread share. Where a frame larger than a window comes behind one like it, its buffer is as large as that was, up to 1 MiB, from its header on |
///
/// What the application keeps of frames is its own affair: a payload may be a slice of a window of 64 KiB, which lives as
/// long as any part of it. Keep a copy of what is kept for long.
///
/// The guide says [when to change which](crate::guide::limits).
///
/// Every limit is finite and inclusive: a message of exactly [`message`](Self::message) bytes passes, one byte
/// more fails the connection with 1009. Start from [`Limits::client`] or [`Limits::server`] and change what differs:
///
/// ```
/// # use parley_proto::Limits;
/// let limits = Limits::client().with_message(1024 * 1024)?.with_send_queue(64 * 1024)?;
/// assert_eq!(limits.message(), 1024 * 1024);
/// # Ok::<(), parley_proto::LimitError>(())
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct Limits {
    head: usize,
    header_line: usize,
    headers: usize,
    rejection_body: usize,
    message: usize,
    fragments: usize,
    empty_fragments: usize,
    read_ahead: usize,
    send_queue: usize,
    info_queue: usize,
}

/// A limit was set to 0 or to `usize::MAX`, which would mean no limit at all.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LimitError {
    limit: &'static str,
    value: usize,
}

impl fmt::Display for LimitError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "limit `{}` cannot be {}: it has to be at least 1 and finite", self.limit, self.value)
    }
}

impl LimitError {
    /// A bound of another kind, such as a time, was set to zero.
    pub(crate) const fn zero(limit: &'static str) -> Self {
        Self { limit, value: 0 }
    }
}

impl std::error::Error for LimitError {}

macro_rules! limits {
    ($($(#[$doc:meta])* $name:ident, $with:ident, $unlimited:ident;)*) => {
        impl Limits {
            $(
                $(#[$doc])*
                #[must_use]
                pub fn $name(&self) -> usize {
                    self.$name
                }

                #[doc = concat!("Sets [`", stringify!($name), "`](Self::", stringify!($name), ").")]
                ///
                /// # Errors
                ///
                /// 0 and `usize::MAX` are refused: no limit has to be spelled out.
                pub fn $with(mut self, value: usize) -> Result<Self, LimitError> {
                    if value == 0 || value == usize::MAX {
                        return Err(LimitError { limit: stringify!($name), value });
                    }
                    self.$name = value;
                    Ok(self)
                }

                #[doc = concat!("Takes [`", stringify!($name), "`](Self::", stringify!($name), ") away, where something else bounds it.")]
                #[must_use]
                pub fn $unlimited(mut self) -> Self {
                    self.$name = usize::MAX;
                    self
                }
            )*
        }
    };
}

limits! {
    /// Bytes of a request's or response's head, all lines and the final empty one together. Default 16 KiB.
    head, with_head, unlimited_head;
    /// Bytes of one line of a head, its CRLF included. Default 8 KiB.
    header_line, with_header_line, unlimited_header_line;
    /// Header fields in one head. Default 100.
    headers, with_headers, unlimited_headers;
    /// Bytes kept of the body of a response that refuses the upgrade. No more is read. Default 4 KiB.
    rejection_body, with_rejection_body, unlimited_rejection_body;
    /// Payload bytes of one received message, all its fragments together; one frame's limit is the same.
    /// Default 16 MiB for clients, 1 MiB for servers. Above it: 1009.
    message, with_message, unlimited_message;
    /// Fragments of one received message. Default 131,072. Above it: 1008.
    fragments, with_fragments, unlimited_fragments;
    /// Fragments without payload in a row within one message. Default 1,024. Above it: 1008.
    empty_fragments, with_empty_fragments, unlimited_empty_fragments;
    /// Bytes received and not yet delivered to the application before reading pauses; each frame counts its
    /// bookkeeping too. One message larger than this is allowed. Default 256 KiB.
    read_ahead, with_read_ahead, unlimited_read_ahead;
    /// Payload bytes accepted for sending and not yet encoded; a larger frame is accepted by an empty queue.
    /// Default 1 MiB.
    send_queue, with_send_queue, unlimited_send_queue;
    /// Infos that wait for `handle_info`. Default 1,024.
    info_queue, with_info_queue, unlimited_info_queue;
}

/// Interim (1xx) responses that a client passes over before the final one; one more fails the handshake.
pub(crate) const INTERIM_RESPONSES: usize = 4;

impl Limits {
    /// The defaults of a client.
    #[must_use]
    pub const fn client() -> Self {
        Self {
            head: 16 * 1024,
            header_line: 8 * 1024,
            headers: 100,
            rejection_body: 4 * 1024,
            message: 16 * 1024 * 1024,
            fragments: 131_072,
            empty_fragments: 1_024,
            read_ahead: 256 * 1024,
            send_queue: 1024 * 1024,
            info_queue: 1_024,
        }
    }

    /// The defaults of a server: as a client's, but messages up to 1 MiB.
    #[must_use]
    pub const fn server() -> Self {
        Self { message: 1024 * 1024, ..Self::client() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn zero_and_unlimited_are_refused() {
        assert!(Limits::client().with_message(0).is_err());
        let error = Limits::client().with_head(usize::MAX).unwrap_err();
        assert!(error.to_string().contains("`head`"));
    }

    #[test]
    fn no_limit_has_to_be_spelled_out() {
        let limits = Limits::server().unlimited_message().unlimited_send_queue();
        assert_eq!((limits.message(), limits.send_queue()), (usize::MAX, usize::MAX));
        assert_eq!(limits.head(), Limits::server().head(), "the others stay");
    }
}
