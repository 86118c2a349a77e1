//! What the page and the server say to each other: a text message is a line of words, with tabs between them.
//!
//! ```text
//! page ─▶ server   join ROOM NAME   say TEXT   typing
//! server ─▶ page   here ROOM NAME...        the page is in that room, with these people; then what was said there lately
//!                  joined NAME   left NAME   typing NAME
//!                  said TIME NAME TEXT      TIME in milliseconds since 1970, never the same for two messages
//!                  rooms (ROOM PEOPLE)...
//! ```

use std::collections::BTreeSet;
use std::fmt;

use parley_tokio::{CloseCode, CloseFrame, CloseFrameError, Frame};

/// What a page asks for.
pub(crate) enum Request<'a> {
    Join { room: &'a str, name: &'a str },
    Say(&'a str),
    Typing,
}

impl<'a> Request<'a> {
    pub(crate) fn parse(line: &'a str) -> Result<Self, Refusal> {
        let (verb, rest) = line.split_once('\t').unwrap_or((line, ""));
        match (verb, rest) {
            ("join", who) => match who.split_once('\t') {
                Some((room, name)) if is_name(room) && is_name(name) => Ok(Self::Join { room, name }),
                _ => Err(Refusal::BadName),
            },
            ("say", text) if !text.trim().is_empty() && !text.contains(char::is_control) => Ok(Self::Say(text)),
            ("typing", "") => Ok(Self::Typing),
            _ => Err(Refusal::NotARequest),
        }
    }
}

/// What the server says.
pub(crate) enum Line<'a> {
    Here { room: &'a str, names: &'a BTreeSet<String> },
    Joined(&'a str),
    Left(&'a str),
    Typing(&'a str),
    Said { time: u64, name: &'a str, text: &'a str },
    Rooms(&'a [(&'a str, usize)]),
}

impl From<Line<'_>> for Frame {
    fn from(line: Line<'_>) -> Self {
        Self::text(match line {
            Line::Here { room, names } => names.iter().fold(format!("here\t{room}"), |line, name| line + "\t" + name),
            Line::Joined(name) => format!("joined\t{name}"),
            Line::Left(name) => format!("left\t{name}"),
            Line::Typing(name) => format!("typing\t{name}"),
            Line::Said { time, name, text } => format!("said\t{time}\t{name}\t{text}"),
            Line::Rooms(rooms) => {
                rooms.iter().fold("rooms".to_owned(), |line, (name, people)| line + &format!("\t{name}\t{people}"))
            }
        })
    }
}

/// Of a room or a person: fits in a line, has no tab in it, and nothing that is invisible or turns text around.
fn is_name(name: &str) -> bool {
    let may_be_inside = |c: char| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_' | '.');
    (1..=24).contains(&name.chars().count()) && name.chars().all(may_be_inside) && name.trim() == name
}

/// Why a visitor is sent away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    BadName,
    NameTaken,
    TooManyRooms,
    NotARequest,
    NotText,
    TooFast,
    TooSlow,
    NeverJoined,
}

impl Refusal {
    /// 4000 to 4999 are for applications to give a meaning (RFC 6455, section 7.4.2); the page knows ours.
    fn code(self) -> CloseCode {
        match self {
            Self::BadName => 4000.into(),
            Self::NameTaken => 4001.into(),
            Self::TooManyRooms => 4002.into(),
            Self::NotText => CloseCode::UNSUPPORTED_DATA,
            Self::NotARequest | Self::TooFast | Self::NeverJoined => CloseCode::POLICY_VIOLATION,
            Self::TooSlow => CloseCode::TRY_AGAIN_LATER,
        }
    }

    pub(crate) fn to_close(self) -> Result<CloseFrame, CloseFrameError> {
        CloseFrame::new(self.code(), self.to_string())
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::BadName => "names are 1 to 24 letters and digits, with spaces, - _ and . between them",
            Self::NameTaken => "somebody of that name is in that room already",
            Self::TooManyRooms => "there are too many rooms already",
            Self::NotARequest => "not a request of this chat",
            Self::NotText => "text only",
            Self::TooFast => "too many messages at a time",
            Self::TooSlow => "too slow for all that is said here",
            Self::NeverJoined => "joined no room",
        })
    }
}
