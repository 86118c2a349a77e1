//! From bytes to messages: RFC 6455, sections 5.2 to 5.6 and 6.2.
//!
//! One call walks every whole frame of the window in one loop, in place: header, unmask, UTF-8. Each leaves a span;
//! then the window is cut once, and the frames that are polled are slices of what was cut off.
//!
//! ```text
//! window   [ frame | frame | frame | unfin ]
//!            span    span    span    stays at the front of the input
//! chunk    [-----------------------]          cut off, shared by the frames
//! ```
//!
//! A message that is wanted in parts ([`Decoder::set_chunks_above`]) is never put together: what arrives of it is queued
//! as it is.
//!
//! The fragments of a message are joined as they arrive, so that memory follows from the payload and never from their
//! number: inside the window by moving them up to one another, beyond it in a buffer of the message's own.

use std::fmt;
use std::ops::Range;

use bytes::{Buf, Bytes, BytesMut};

use super::header::{FIN, KEY, LENGTH_16, MASK, MAX_CONTROL, Prefix};
use super::queue::{Kind, Lent, Queue};
use super::{Chunk, CloseFrame, Frame, FrameError, FrameRef, OpCode, Utf8Validator, mask, utf8};
use crate::{Limits, Role, pool};

/// What is cut off below this size in bytes is copied, so that a frame that someone keeps does not keep a window.
const SMALL_CHUNK: usize = 4 * 1024;
/// With [`Decoder::set_copy_small`], payloads up to this size in bytes are copied.
const SMALL_FRAME: usize = 1024;

/// How the incoming frames end: nothing comes after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum End {
    /// The peer's close frame, with its code and reason if it gave one (section 5.5.1).
    Close(Option<CloseFrame>),
    /// The peer broke the protocol or went over a limit: fail the connection (section 7.1.7).
    Error(FrameError),
}

/// The message under way, from the header of its first fragment to the end of its last. Boxed: most messages are in one
/// piece, and every connection would have room for this.
#[derive(Debug)]
pub(crate) struct Message {
    kind: Kind,
    /// What has arrived in windows before this one, or before a control frame. Not empty.
    buffer: Option<BytesMut>,
    /// Bytes of payload that its fragments have announced so far; at most the limit.
    len: usize,
    fragments: usize,
    /// Fragments without payload since the last that had some.
    empty: usize,
    parts: Parts,
    /// The fragment under way, between two looks at it.
    fragment: Option<Fragment>,
}

impl Message {
    /// In the box that an earlier one has left, if there is one.
    #[inline]
    fn begin(queue: &mut Queue, opcode: OpCode, joins: bool) -> Box<Self> {
        let mut message = queue.spare.take().unwrap_or_default();
        message.kind = if opcode == OpCode::Text { Kind::Text } else { Kind::Binary };
        message.parts = if joins { Parts::No } else { Parts::First };
        (message.len, message.fragments, message.empty) = (0, 0, 0);
        message
    }
}

impl Default for Message {
    fn default() -> Self {
        let (kind, parts) = (Kind::Binary, Parts::No);
        Self { kind, buffer: None, len: 0, fragments: 0, empty: 0, parts, fragment: None }
    }
}

/// How much of a message has been queued in parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Parts {
    /// It is put together.
    No,
    /// It is wanted in parts, and none has come.
    First,
    Next,
}

/// A fragment whose header is consumed and whose payload is consumed as it arrives.
#[derive(Clone, Copy, Debug)]
struct Fragment {
    fin: bool,
    /// Turned to the next byte of payload.
    key: [u8; KEY],
    /// Bytes of payload that have not arrived.
    lacks: usize,
}

/// The incoming half of a connection after the handshake.
///
/// Give every piece of input to [`decode`](Self::decode), then [`poll`](Self::poll) until there is nothing, then look
/// at [`end`](Self::end). How the input is cut makes no difference to what comes out.
///
/// ```
/// use bytes::BytesMut;
/// use parley_proto::codec::{Decoder, Frame};
/// use parley_proto::{Limits, Role};
///
/// let mut decoder = Decoder::new(Role::Client, &Limits::client());
/// let mut input = BytesMut::from(&b"\x81\x05Hello\x82\x03ab"[..]);
/// decoder.decode(&mut input, &mut |_ping| {});
/// assert_eq!(decoder.poll(), Some(Frame::text("Hello")));
/// assert_eq!(decoder.poll(), None);
/// assert_eq!((&input[..], decoder.read_hint()), (&b"\x82\x03ab"[..], 1));
/// ```
pub struct Decoder {
    /// Present while frames wait, and until it is noticed that none does.
    queue: Option<Box<Queue>>,
    message: Option<Box<Message>>,
    /// Of the unfragmented message at the front of the input: bytes of payload that are unmasked and checked.
    scanned: usize,
    /// Of the same message, once its header was looked at: bytes of the input up to its end. Else 0.
    awaited: usize,
    /// Of the text under way, in fragments or not.
    utf8: Utf8Validator,
    end: Option<Box<End>>,
    lacking: usize,
    max_message: usize,
    max_fragments: usize,
    max_empty_fragments: usize,
    /// [`MASK`] if frames have to be masked, which is so if this end is the server (section 5.1), else 0.
    mask_bit: u8,
    copy_small: bool,
    discard: bool,
    /// Whole messages up to this size; bigger ones come in parts. `max_message` where none does.
    max_whole: usize,
    /// Whether messages are put together whose size is not announced.
    joins: bool,
}

impl fmt::Debug for Decoder {
    /// Without payload.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Decoder")
            .field("backlog", &self.backlog())
            .field("fragmented", &self.message.is_some())
            .field("lacking", &self.lacking)
            .field("end", &self.end)
            .finish_non_exhaustive()
    }
}

/// One walk through a window.
struct Walk<'a> {
    window: &'a mut [u8],
    /// Where the frame under the hand starts; what is before it is consumed.
    at: usize,
    /// The fragments of the message under way that are joined in the window. Ends at or before `at`.
    run: Range<usize>,
    queue: &'a mut Queue,
    on_control: &'a mut dyn FnMut(OpCode, &[u8]) -> bool,
    /// Payloads shorter than this are copied.
    copy_below: usize,
}

/// Why a step, or a walk, ends.
enum Stop {
    /// What is left is the beginning of a frame, or nothing.
    Incomplete,
    /// A message that is not in the window is complete. The walk goes on once it is queued.
    Message(Kind, Bytes),
    End(End),
}

impl Decoder {
    /// The decoder of an endpoint in `role`: servers expect masked frames, clients unmasked ones (section 5.1).
    ///
    /// Of the limits it obeys [`message`](Limits::message), [`fragments`](Limits::fragments) and
    /// [`empty_fragments`](Limits::empty_fragments).
    #[must_use]
    pub fn new(role: Role, limits: &Limits) -> Self {
        Self {
            queue: None,
            message: None,
            scanned: 0,
            awaited: 0,
            utf8: Utf8Validator::new(),
            end: None,
            lacking: 0,
            max_message: limits.message(),
            max_fragments: limits.fragments(),
            max_empty_fragments: limits.empty_fragments(),
            mask_bit: match role {
                Role::Server => MASK,
                Role::Client => 0,
            },
            copy_small: false,
            discard: false,
            max_whole: limits.message(),
            joins: true,
        }
    }

    /// Messages that are bigger than this, and all that come in fragments (their size is not known before their end),
    /// are queued in parts, see [`poll_chunk`](Self::poll_chunk); `None`: none is. For a decoder that has seen no input.
    pub fn set_chunks_above(&mut self, bytes: Option<usize>) {
        self.max_whole = bytes.map_or(self.max_message, |bytes| bytes.min(self.max_message));
        self.joins = bytes.is_none();
    }

    /// Takes every whole frame off the front of `input`.
    ///
    /// What stays there is the beginning of one frame: append what arrives next behind it and call again; its bytes
    /// must not change in between, for part of them may be unmasked. `on_ping` is called with the payload of each
    /// ping, in order, so that pongs need not wait for the application to poll (section 5.5.2).
    ///
    /// A frame is refused as soon as the bytes show that it breaks a rule, but never by its first byte alone: the
    /// mask bit, in the second, is looked at before the opcode. A limit is checked on the header; text inside an
    /// unfinished frame as it arrives.
    pub fn decode(&mut self, input: &mut BytesMut, on_ping: &mut dyn FnMut(&[u8])) {
        self.decode_with(input, &mut |opcode, payload| {
            if opcode == OpCode::Ping {
                on_ping(payload);
            }
            true
        });
    }

    /// [`decode`](Self::decode) that calls with pings and pongs, and queues those for which the answer is true.
    pub(crate) fn decode_with(&mut self, input: &mut BytesMut, on_control: &mut dyn FnMut(OpCode, &[u8]) -> bool) {
        if self.end.is_some() {
            input.clear();
            return;
        }
        if input.is_empty() {
            return;
        }
        let mut begun = None;
        if self.awaited > 0 {
            match self.scan(input) {
                Ok(None) => return,
                Ok(complete) => begun = complete,
                Err(error) => return self.end_with(End::Error(error), input),
            }
        }
        let mut queue = self.queue.take().unwrap_or_else(pool::queue);
        queue.compact();
        loop {
            let copy_below = if self.copy_small && input.len() >= SMALL_CHUNK { SMALL_FRAME + 1 } else { 0 };
            let mut walk = Walk {
                window: &mut input[..],
                at: 0,
                run: 0..0,
                queue: &mut queue,
                on_control: &mut *on_control,
                copy_below,
            };
            if let Some((kind, payload)) = begun.take() {
                walk.queue.push(kind, payload.start, payload.len(), payload.len() < copy_below);
                walk.at = payload.end;
            }
            let stop = self.walk(&mut walk);
            let consumed = walk.at;
            cut(input, consumed, &mut queue);
            match stop {
                Stop::Incomplete => break,
                Stop::Message(kind, payload) => {
                    queue.push(kind, 0, payload.len(), false);
                    queue.cut(payload);
                }
                Stop::End(end) => {
                    self.end_with(end, input);
                    break;
                }
            }
        }
        if queue.is_empty() && self.awaited == 0 {
            pool::give_queue(queue);
        } else {
            self.queue = Some(queue);
        }
    }

    /// More of the unfinished message at the front of the input, whose header is there, and was found right. Where that is all of
    /// it: what kind it is of, and where its payload is.
    fn scan(&mut self, input: &mut [u8]) -> Result<Option<(Kind, Range<usize>)>, FrameError> {
        let present = input.len().min(self.awaited);
        let prefix = Prefix::decode(input[0], input[1])?;
        let start = prefix.header_len();
        let (header, payload) = input[..present].split_at_mut(start);
        let kind = if prefix.opcode == OpCode::Text { Kind::Text } else { Kind::Binary };
        let key = mask::rotated(self.key(header), self.scanned);
        open(kind, self.mask_bit, &mut self.utf8, key, &mut payload[self.scanned..])?;
        self.lacking = self.awaited - present;
        if self.lacking > 0 {
            self.scanned = payload.len();
            return Ok(None);
        }
        self.utf8.finish()?;
        (self.scanned, self.awaited) = (0, 0);
        Ok(Some((kind, start..present)))
    }

    /// Nothing is decoded any more.
    fn end_with(&mut self, end: End, input: &mut BytesMut) {
        self.end = Some(Box::new(end));
        (self.message, self.scanned, self.awaited, self.lacking) = (None, 0, 0, 0);
        input.clear();
    }

    /// The next part of a message, where [`poll`](Self::poll) has nothing because of it.
    pub fn poll_chunk(&mut self) -> Option<Chunk> {
        let queue = self.queue.as_deref_mut()?;
        let chunk = queue.pop_part();
        self.release_if_empty();
        chunk
    }

    /// The next message, ping or pong; `None` as well when the next is a [part](Self::poll_chunk) of a message.
    #[inline(always)]
    pub fn poll(&mut self) -> Option<Frame> {
        let frame = self.queue.as_deref_mut()?.pop();
        if frame.is_none() {
            self.release_if_empty();
        }
        frame
    }

    /// [`poll`](Self::poll), but the frame is lent and not given. What it lies in is held until the next is asked for.
    ///
    /// ```
    /// # use bytes::BytesMut;
    /// # use parley_proto::codec::{Decoder, OpCode};
    /// # use parley_proto::{Limits, Role};
    /// let mut decoder = Decoder::new(Role::Client, &Limits::client());
    /// decoder.decode(&mut BytesMut::from(&b"\x81\x05Hello\x82\x02ab"[..]), &mut |_ping| {});
    /// let mut lengths = 0;
    /// while let Some(frame) = decoder.poll_ref() {
    ///     lengths += frame.payload().len();
    /// }
    /// assert_eq!(lengths, 7);
    /// ```
    #[inline]
    pub fn poll_ref(&mut self) -> Option<FrameRef<'_>> {
        if !self.is_frame_next() {
            self.release_if_empty();
        }
        self.next_lent().map(|lent| lent.frame)
    }

    /// [`poll`](Self::poll) for who polls otherwise where there is nothing.
    #[inline(always)]
    pub(crate) fn next_frame(&mut self) -> Option<Frame> {
        self.queue.as_deref_mut()?.pop()
    }

    /// [`poll_ref`](Self::poll_ref) for who polls otherwise where there is nothing.
    #[inline(always)]
    pub(crate) fn next_lent(&mut self) -> Option<Lent<'_>> {
        self.queue.as_deref_mut()?.pop_lent()
    }

    /// Whoever was lent a frame has no use for it any more.
    #[inline]
    pub(crate) fn forget_lent(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.forget_lent();
        }
    }

    /// Lends a frame as [`poll_ref`](Self::poll_ref) does.
    pub(crate) fn lend(&mut self, frame: Frame) -> Lent<'_> {
        self.queue.get_or_insert_with(pool::queue).lend(frame)
    }

    /// [`poll`](Self::poll) has something.
    #[inline(always)]
    pub(crate) fn is_frame_next(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_frame_next())
    }

    /// [`poll`](Self::poll) for all but a ping.
    #[inline(always)]
    pub(crate) fn poll_message(&mut self) -> Option<Frame> {
        self.queue.as_deref_mut()?.pop_message()
    }

    /// Lends what [`poll_message`](Self::poll_message) would give. It stays the next, until [`skip`](Self::skip).
    #[inline(always)]
    pub(crate) fn lend_message(&self) -> Option<Lent<'_>> {
        self.queue.as_ref()?.lend_message()
    }

    /// Drops the next frame, which was lent.
    #[inline(always)]
    pub(crate) fn skip(&mut self) {
        if let Some(queue) = &mut self.queue {
            queue.skip();
        }
    }

    /// [`poll_message`](Self::poll_message) has something.
    pub(crate) fn is_message_next(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| queue.is_message_next())
    }

    /// How the frames end, once it is known. It comes after all that [`poll`](Self::poll) still has; input that
    /// follows is dropped.
    #[inline]
    #[must_use]
    pub fn end(&self) -> Option<&End> {
        self.end.as_deref()
    }

    /// Bytes that are decoded and not yet polled: each frame's payload and some 56 bytes of bookkeeping.
    #[inline]
    #[must_use]
    pub fn backlog(&self) -> usize {
        self.queue.as_ref().map_or(0, |queue| queue.backlog())
    }

    /// Whether [`poll`](Self::poll) or [`poll_chunk`](Self::poll_chunk) has something.
    #[inline]
    #[must_use]
    pub fn has_frames(&self) -> bool {
        self.queue.as_ref().is_some_and(|queue| !queue.is_empty())
    }

    /// How many bytes the frame under way lacks; 0: unknown, or none is under way.
    ///
    /// It is what the peer has announced, up to [`Limits::message`]: a reason to read more at a time, never to
    /// reserve all of it.
    #[inline]
    #[must_use]
    pub fn read_hint(&self) -> usize {
        self.lacking
    }

    /// Drops the frames that wait, and queues none from now on. They are still parsed and checked:
    /// [`end`](Self::end) tells how the connection ends, and pings are still reported.
    pub fn discard_frames(&mut self) {
        self.discard = true;
        self.awaited = 0;
        self.release();
        if let Some(message) = &mut self.message {
            message.buffer = None;
        }
    }

    /// Whether payloads of up to 1 KiB are copied out of the window. Default off: they are slices of it.
    ///
    /// A slice is cheaper, but one that is kept keeps its whole window alive.
    pub fn set_copy_small(&mut self, on: bool) {
        self.copy_small = on;
    }

    #[inline]
    pub(crate) fn holds_queue(&self) -> bool {
        self.queue.is_some()
    }

    /// Holds no queue when there is nothing in it. A frame that is polled leaves it to the next poll, which finds nothing, or
    /// to whoever waits before that.
    #[inline(never)]
    pub(crate) fn release_if_empty(&mut self) {
        if !self.has_frames() {
            self.release();
        }
    }

    /// Gives the queue back.
    fn release(&mut self) {
        if let Some(queue) = self.queue.take() {
            pool::give_queue(queue);
        }
    }

    /// Whether a frame that comes next may take the short-cut of [`whole_message`].
    fn is_between_messages(&self) -> bool {
        self.message.is_none() && self.scanned == 0 && !self.discard
    }

    /// Goes through the frames of a window, until what is left is not a whole frame or the window has to be cut.
    fn walk(&mut self, walk: &mut Walk<'_>) -> Stop {
        let mut short_cut = self.is_between_messages();
        loop {
            if short_cut {
                let (max, walk) = (self.max_whole, &mut *walk);
                let whole = if self.mask_bit != 0 {
                    mask::by_widest!(by => walk_whole_messages::<true>(by, max, walk))
                } else {
                    walk_whole_messages::<false>(mask::Common, max, walk)
                };
                if let Err(error) = whole {
                    return Stop::End(End::Error(error));
                }
            }
            match self.step(walk) {
                Ok(None) => short_cut = self.is_between_messages(),
                Ok(Some(stop)) => {
                    self.spill(walk);
                    return stop;
                }
                Err(error) => return Stop::End(End::Error(error)),
            }
        }
    }

    /// The key at the end of a header; zeros, which change nothing, in frames that are not masked.
    #[inline]
    fn key(&self, header: &[u8]) -> [u8; KEY] {
        match header.last_chunk() {
            Some(key) if self.mask_bit != 0 => *key,
            _ => [0; KEY],
        }
    }

    /// Any one frame, or the part of it that is here. `None`: it is consumed, go on.
    #[inline(never)]
    fn step(&mut self, walk: &mut Walk<'_>) -> Result<Option<Stop>, FrameError> {
        if let Some(message) = &mut self.message {
            if let Some(fragment) = message.fragment {
                message.fragment = None;
                return self.step_fragment(walk, fragment);
            }
        }
        self.lacking = 0;
        let rest = &walk.window[walk.at..];
        let [first, second, extended @ ..] = rest else { return Ok(Some(Stop::Incomplete)) };
        let prefix = self.vet(*first, *second)?;
        let Some(payload_len) = prefix.payload_len(extended)? else { return Ok(Some(Stop::Incomplete)) };
        let before = self.message.as_ref().map_or(0, |message| message.len);
        // A control frame is held by 125 bytes, not by the limit of messages.
        let (before, limit) = if prefix.opcode.is_control() { (0, MAX_CONTROL) } else { (before, self.max_message) };
        let len = payload_within(payload_len, before, limit)?;
        let start = prefix.header_len();
        let Some(header) = rest.get(..start) else { return Ok(Some(Stop::Incomplete)) };
        let key = self.key(header);

        match prefix.opcode {
            OpCode::Close | OpCode::Ping | OpCode::Pong => self.step_control(walk, prefix.opcode, key, start, len),
            opcode @ (OpCode::Text | OpCode::Binary) if prefix.fin && !self.discard && len <= self.max_whole => {
                let kind = if opcode == OpCode::Text { Kind::Text } else { Kind::Binary };
                self.step_whole(walk, kind, key, start, len)
            }
            opcode => {
                let message = match &mut self.message {
                    Some(message) => message,
                    none => none.insert(Message::begin(walk.queue, opcode, self.joins)),
                };
                // `payload_within` and `vet` have held the sums against the limits.
                message.len += len;
                message.fragments += 1;
                message.empty = if len == 0 { message.empty + 1 } else { 0 };
                // What `discard_frames` found unfinished at the front of the input is unmasked as far as `scanned`.
                let scanned = std::mem::take(&mut self.scanned);
                walk.at += start + scanned;
                let fragment = Fragment { fin: prefix.fin, key: mask::rotated(key, scanned), lacks: len - scanned };
                self.step_fragment(walk, fragment)
            }
        }
    }

    /// All that the first two bytes can be refused for.
    fn vet(&self, first: u8, second: u8) -> Result<Prefix, FrameError> {
        // Section 5.1, and before the opcode: it binds control frames as well.
        match (second & MASK, self.mask_bit) {
            (0, MASK) => return Err(FrameError::MaskMissing),
            (MASK, 0) => return Err(FrameError::MaskUnexpected),
            _ => {}
        }
        let prefix = Prefix::decode(first, second)?;
        if !prefix.rsv.is_none() {
            return Err(FrameError::ReservedBits);
        }
        if prefix.opcode.is_control() {
            return Ok(prefix);
        }
        // Section 5.4: fragments of one message are not interleaved with those of another.
        match (&self.message, prefix.opcode) {
            (None, OpCode::Continuation) => return Err(FrameError::UnexpectedContinuation),
            (Some(_), OpCode::Text | OpCode::Binary) => return Err(FrameError::ExpectedContinuation),
            _ => {}
        }
        if let Some(message) = &self.message {
            if message.fragments >= self.max_fragments {
                return Err(FrameError::TooManyFragments { limit: self.max_fragments });
            }
            if prefix.length == 0 && message.empty >= self.max_empty_fragments {
                return Err(FrameError::TooManyEmptyFragments { limit: self.max_empty_fragments });
            }
        }
        Ok(prefix)
    }

    /// A control frame, which may come between the fragments of a message (section 5.4).
    fn step_control(
        &mut self,
        walk: &mut Walk<'_>,
        opcode: OpCode,
        key: [u8; KEY],
        start: usize,
        len: usize,
    ) -> Result<Option<Stop>, FrameError> {
        let start = walk.at + start;
        let present = walk.window.len() - start;
        if present < len {
            self.lacking = len - present;
            return Ok(Some(Stop::Incomplete));
        }
        // Fragments that follow would be moved up over this frame's payload.
        self.spill(walk);
        let payload = &mut walk.window[start..start + len];
        mask::apply_mask(key, 0, payload);
        let kind = match opcode {
            OpCode::Ping => Kind::Ping,
            OpCode::Pong => Kind::Pong,
            _ => return Ok(Some(Stop::End(End::Close(CloseFrame::decode(payload)?)))),
        };
        let queued = (walk.on_control)(opcode, payload);
        if queued && !self.discard {
            walk.queue.push(kind, start, len, len < walk.copy_below);
        }
        walk.at = start + len;
        Ok(None)
    }

    /// A message in one frame: it stays in the input until it is whole, so that it can be cut out of it.
    fn step_whole(
        &mut self,
        walk: &mut Walk<'_>,
        kind: Kind,
        key: [u8; KEY],
        start: usize,
        len: usize,
    ) -> Result<Option<Stop>, FrameError> {
        let start = walk.at + start;
        let present = len.min(walk.window.len() - start);
        let payload = &mut walk.window[start + self.scanned..start + present];
        let key = mask::rotated(key, self.scanned);
        open(kind, self.mask_bit, &mut self.utf8, key, payload)?;
        if present < len {
            self.scanned = present;
            self.lacking = len - present;
            self.awaited = (start - walk.at).saturating_add(len);
            return Ok(Some(Stop::Incomplete));
        }
        self.scanned = 0;
        self.utf8.finish()?;
        walk.queue.push(kind, start, len, len < walk.copy_below);
        walk.at = start + len;
        Ok(None)
    }

    /// Payload of a fragment, from `walk.at` on: it joins what came before.
    fn step_fragment(&mut self, walk: &mut Walk<'_>, mut fragment: Fragment) -> Result<Option<Stop>, FrameError> {
        // In place: a message that is taken out and put back is moved twice a fragment.
        let Self { message: Some(message), utf8, lacking, mask_bit, discard, .. } = self else { return Ok(None) };
        let present = fragment.lacks.min(walk.window.len() - walk.at);
        let arrived = walk.at..walk.at + present;
        open(message.kind, *mask_bit, utf8, fragment.key, &mut walk.window[arrived.clone()])?;
        walk.at = arrived.end;
        if *discard {
            // Checked, and that is all.
        } else if message.parts != Parts::No {
            let last = fragment.fin && fragment.lacks == present;
            if last {
                utf8.finish()?; // a text that ends inside a character has no last part
            }
            if last || present > 0 {
                let (text, first) = (message.kind == Kind::Text, message.parts == Parts::First);
                walk.queue.push_part([text, first, last], arrived.start, present, present < walk.copy_below);
                message.parts = Parts::Next;
            }
        } else if let Some(buffer) = &mut message.buffer {
            buffer.extend_from_slice(&walk.window[arrived]);
        } else if walk.run.is_empty() {
            walk.run = arrived;
        } else {
            walk.window.copy_within(arrived, walk.run.end);
            walk.run.end += present;
        }

        fragment.lacks -= present;
        *lacking = fragment.lacks;
        if fragment.lacks > 0 {
            fragment.key = mask::rotated(fragment.key, present);
            message.fragment = Some(fragment);
            return Ok(Some(Stop::Incomplete));
        }
        if !fragment.fin {
            return Ok(None);
        }
        utf8.finish()?;
        let (kind, buffer, joined) = (message.kind, message.buffer.take(), message.parts == Parts::No);
        walk.queue.spare = self.message.take();
        if *discard || !joined {
            return Ok(None);
        }
        if let Some(buffer) = buffer {
            return Ok(Some(Stop::Message(kind, buffer.freeze())));
        }
        let run = std::mem::take(&mut walk.run);
        walk.queue.push(kind, run.start, run.len(), run.len() < walk.copy_below);
        Ok(None)
    }

    /// Moves the fragments that are joined in the window to the message's own buffer.
    fn spill(&mut self, walk: &mut Walk<'_>) {
        let run = std::mem::take(&mut walk.run);
        let Some(message) = self.message.as_mut().filter(|_| !run.is_empty()) else { return };
        message.buffer.get_or_insert_default().extend_from_slice(&walk.window[run]);
    }
}

/// Unmasks the next bytes of a message, and checks them if it is text. `key` is turned to the first of them.
fn open(
    kind: Kind,
    mask_bit: u8,
    utf8: &mut Utf8Validator,
    key: [u8; KEY],
    payload: &mut [u8],
) -> Result<(), FrameError> {
    match (kind, mask_bit) {
        (Kind::Text, 0) => {
            if !(utf8.is_boundary() && utf8::is_short_ascii(payload)) {
                utf8.feed(payload)?;
            }
        }
        (Kind::Text, _) => {
            let ascii = mask::unmask_is_ascii(key, payload);
            if !(ascii && utf8.is_boundary()) {
                utf8.feed(payload)?;
            }
        }
        (_, 0) => {}
        _ => mask::apply_mask(key, 0, payload),
    }
    Ok(())
}

/// Goes through the frames that may take the short-cut, up to the first that may not.
///
/// This loop is where a connection with small messages spends its time: what it needs is in locals.
#[inline(always)]
fn walk_whole_messages<const MASKED: bool>(
    by: impl mask::Wide,
    max: usize,
    walk: &mut Walk<'_>,
) -> Result<(), FrameError> {
    let queue = &mut *walk.queue;
    let mut rest = &mut walk.window[walk.at..];
    while let Some((kind, start, len)) = whole_message::<MASKED>(rest) {
        if len > max {
            break;
        }
        let (frame, after) = rest.split_at_mut(start + len);
        let (header, payload) = frame.split_at_mut(start);
        open_whole::<MASKED>(by, kind, header, payload)?;
        queue.push(kind, walk.at + start, len, len < walk.copy_below);
        walk.at += start + len;
        rest = after;
    }
    Ok(())
}

/// Unmasks the payload of a whole message, and checks it if it is text. `header` ends with the masking key.
#[inline(always)]
fn open_whole<const MASKED: bool>(
    by: impl mask::Wide,
    kind: Kind,
    header: &[u8],
    payload: &mut [u8],
) -> Result<(), FrameError> {
    match (header.last_chunk(), kind) {
        (Some(key), _) if MASKED => {
            let ascii = mask::unmask_is_ascii_by(by, *key, payload);
            if ascii || kind != Kind::Text { Ok(()) } else { utf8::check_any(payload) }
        }
        (_, Kind::Text) => utf8::check(payload),
        _ => Ok(()),
    }
}

/// The short-cut for the frame that nearly all of them are: a message in one piece, of up to 65535 bytes, all of it
/// in `rest`. Returns where its payload starts and how long it is.
///
/// `None` says nothing: the frame may be of another kind, unfinished, or wrong.
#[inline(always)]
fn whole_message<const MASKED: bool>(rest: &[u8]) -> Option<(Kind, usize, usize)> {
    const TEXT: u8 = FIN | OpCode::Text.bits();
    const BINARY: u8 = FIN | OpCode::Binary.bits();
    let [first, second, extended @ ..] = rest else { return None };
    let kind = match *first {
        TEXT => Kind::Text,
        BINARY => Kind::Binary,
        _ => return None,
    };
    let (mask_bit, key) = if MASKED { (MASK, KEY) } else { (0, 0) };
    let length = second ^ mask_bit;
    let (start, len) = if usize::from(length) <= MAX_CONTROL {
        (Prefix::LEN + key, usize::from(length))
    } else if length == LENGTH_16 {
        let len = usize::from(u16::from_be_bytes(*extended.first_chunk()?));
        if len <= MAX_CONTROL {
            return None;
        }
        (Prefix::LEN + 2 + key, len)
    } else {
        return None;
    };
    if rest.len() < start + len {
        return None;
    }
    Some((kind, start, len))
}

/// The payload length of a frame that follows `before` bytes of the same message, as a size in memory.
///
/// The only place where a length from the wire becomes a `usize`: what is within the limit fits.
fn payload_within(payload_len: u64, before: usize, limit: usize) -> Result<usize, FrameError> {
    match usize::try_from(payload_len) {
        Ok(len) if len <= limit.saturating_sub(before) => Ok(len),
        _ => Err(FrameError::MessageTooBig { limit }),
    }
}

/// Takes what is consumed off the front of `input`, as the chunk of the frames that lie in it.
fn cut(input: &mut BytesMut, consumed: usize, queue: &mut Queue) {
    if !queue.has_uncut() {
        input.advance(consumed);
    } else if consumed < SMALL_CHUNK {
        queue.cut(Bytes::copy_from_slice(&input[..consumed]));
        input.advance(consumed);
    } else {
        queue.cut(input.split_to(consumed).freeze());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{CloseCode, Encoder, FrameHeader, Rsv};
    use proptest::prelude::*;

    const HELLO: [u8; 5] = *b"Hello";
    const MASKED_HELLO: &[u8] = &[0x81, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];

    #[test]
    fn a_decoder_whose_frames_were_all_lent_holds_nothing() {
        let mut decoder = client();
        let mut input = BytesMut::with_capacity(64 * 1024);
        for byte in 0..3 {
            input.extend_from_slice(&frame(true, OpCode::Binary, None, &[byte; 5000]));
        }
        decoder.decode(&mut input, &mut |_| {});
        while decoder.poll_ref().is_some() {}
        assert!(decoder.queue.is_none());
        assert!(input.try_reclaim(64 * 1024), "the window is free");
    }

    #[test]
    fn a_decoder_that_found_no_whole_frame_holds_no_queue() {
        for input in [&b"\x81"[..], b"\x01\x05Hel", b"\x89\x00"] {
            let mut decoder = client();
            decoder.decode_with(&mut BytesMut::from(input), &mut |_, _| false);
            assert!(decoder.queue.is_none(), "{input:?}");
        }
    }

    #[test]
    fn the_rest_of_a_message_that_fits_copies_it_and_takes_what_follows() {
        for copy_small in [false, true] {
            let mut decoder = client();
            decoder.set_copy_small(copy_small);
            let wire =
                [unmasked(true, OpCode::Text, &[b'a'; 500]), unmasked(true, OpCode::Binary, &[7; 5000])].concat();
            let mut input = BytesMut::from(&wire[..100]);
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!((decoder.poll(), decoder.read_hint()), (None, 404));
            input.extend_from_slice(&wire[100..]);
            let memory = input.as_ptr() as usize..input.as_ptr() as usize + input.len();
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!((input.len(), decoder.read_hint()), (0, 0));
            let text = decoder.poll().unwrap();
            assert_eq!(memory.contains(&(text.payload().as_ptr() as usize)), !copy_small);
            assert_eq!((text.len(), decoder.poll().map(|frame| frame.len())), (500, Some(5000)));
        }
    }

    #[test]
    fn a_text_that_ends_inside_a_character_is_refused_with_its_last_byte_behind_the_frames_that_wait() {
        let wire = [unmasked(true, OpCode::Binary, b"ab"), unmasked(true, OpCode::Text, b"Hell\xC3")].concat();
        for at in 4 + 2..wire.len() {
            let mut decoder = client();
            let mut input = BytesMut::from(&wire[..at]);
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!(decoder.end(), None);
            input.extend_from_slice(&wire[at..]);
            input.extend_from_slice(&unmasked(true, OpCode::Text, b"never"));
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!(decoder.poll(), Some(Frame::binary(&b"ab"[..])));
            assert_eq!(
                (decoder.poll(), decoder.end(), input.len()),
                (None, Some(&End::Error(FrameError::InvalidUtf8)), 0)
            );
        }
    }

    #[test]
    fn frames_may_be_discarded_anywhere_in_one() {
        for masked in [false, true] {
            let key = masked.then_some([1, 2, 3, 4]);
            let wire =
                [frame(true, OpCode::Text, key, "\u{E9}\u{E9}abc".as_bytes()), frame(true, OpCode::Ping, key, b"p")]
                    .concat();
            for at in 0..wire.len() {
                for again in at..wire.len() {
                    let mut decoder = if masked { server() } else { client() };
                    let mut pings = 0;
                    let mut input = BytesMut::from(&wire[..at]);
                    decoder.decode(&mut input, &mut |_| pings += 1);
                    decoder.discard_frames();
                    input.extend_from_slice(&wire[at..again]);
                    decoder.decode(&mut input, &mut |_| pings += 1);
                    input.extend_from_slice(&wire[again..]);
                    decoder.decode(&mut input, &mut |_| pings += 1);
                    assert_eq!((pings, decoder.poll(), decoder.end(), input.len()), (1, None, None, 0), "{at} {again}");
                }
            }
        }
    }

    /// With whatever registers.
    #[test]
    fn a_whole_message_of_any_length_is_unmasked_where_it_begins() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        for len in (0..300_usize).chain([4095, 4096, 4097, 65_535]) {
            for bad in
                [None, Some(0), Some(len / 2), len.checked_sub(1)].into_iter().filter(|at| at.is_none_or(|at| at < len))
            {
                let mut text: Vec<u8> = (0..len).map(|at| b'a' + (at % 23) as u8).collect();
                if let Some(at) = bad {
                    text[at] = 0xFF;
                }
                let mut decoder = server();
                let mut input = BytesMut::from(
                    &[frame(true, OpCode::Binary, Some(key), &text), frame(true, OpCode::Text, Some(key), &text)]
                        .concat()[..],
                );
                decoder.decode(&mut input, &mut |_| {});
                assert_eq!(decoder.poll(), Some(Frame::binary(text.clone())), "{len} bytes");
                let (expected, end) = match String::from_utf8(text) {
                    Ok(text) => (Some(Frame::text(text)), None),
                    Err(_) => (None, Some(&End::Error(FrameError::InvalidUtf8))),
                };
                assert_eq!((decoder.poll(), decoder.end()), (expected, end), "{len} bytes");
            }
        }
    }

    #[test]
    fn bad_text_anywhere_in_a_long_message_is_found() {
        let key = [0x37, 0xFA, 0x21, 0x3D];
        for len in [4096, 4200, 70_000] {
            for at in [0, 1, 63, 64, 4000, len / 2, len - 65, len - 1] {
                let mut text = vec![b'a'; len];
                text[at] = 0xFF;
                let mut decoder = server();
                let mut input = BytesMut::from(&frame(true, OpCode::Text, Some(key), &text)[..]);
                decoder.decode(&mut input, &mut |_| {});
                assert_eq!((decoder.poll(), decoder.end()), (None, Some(&End::Error(FrameError::InvalidUtf8))));
            }
        }
    }

    fn client() -> Decoder {
        Decoder::new(Role::Client, &Limits::client())
    }

    fn server() -> Decoder {
        Decoder::new(Role::Server, &Limits::server())
    }

    /// All that comes out of a decoder.
    #[derive(Debug, Default, PartialEq)]
    struct Outcome {
        frames: Vec<Frame>,
        pings: Vec<Vec<u8>>,
        end: Option<End>,
    }

    impl Outcome {
        fn frames(frames: impl IntoIterator<Item = Frame>) -> Self {
            Self { frames: frames.into_iter().collect(), ..Self::default() }
        }

        fn error(error: FrameError) -> Self {
            Self { end: Some(End::Error(error)), ..Self::default() }
        }
    }

    /// Feeds `chunks` and polls after every one that `polls` says so for, and at last.
    fn decoded<'a>(
        mut decoder: Decoder,
        chunks: impl IntoIterator<Item = &'a [u8]>,
        mut polls: impl FnMut() -> bool,
    ) -> Outcome {
        let mut outcome = Outcome::default();
        let mut input = BytesMut::new();
        for chunk in chunks {
            input.extend_from_slice(chunk);
            decoder.decode(&mut input, &mut |ping| outcome.pings.push(ping.to_vec()));
            assert_eq!(decoder.has_frames(), decoder.backlog() > 0);
            if polls() {
                outcome.frames.extend(std::iter::from_fn(|| decoder.poll()));
            }
        }
        outcome.frames.extend(std::iter::from_fn(|| decoder.poll()));
        assert_eq!((decoder.backlog(), decoder.has_frames()), (0, false));
        outcome.end = decoder.end().cloned();
        outcome
    }

    /// At once, and byte by byte.
    #[track_caller]
    fn assert_decodes(new: impl Fn() -> Decoder, bytes: &[u8], expected: &Outcome) {
        assert_eq!(&decoded(new(), [bytes], || true), expected, "at once");
        assert_eq!(&decoded(new(), bytes.chunks(1), || true), expected, "byte by byte");
        assert_eq!(&decoded(new(), bytes.chunks(1), || false), expected, "byte by byte, polled at last");
    }

    fn frame(fin: bool, opcode: OpCode, key: Option<[u8; 4]>, payload: &[u8]) -> Vec<u8> {
        let header = FrameHeader { fin, rsv: Rsv::NONE, opcode, masking_key: key, payload_len: payload.len() as u64 };
        let mut out = Vec::new();
        header.encode(&mut out);
        let start = out.len();
        out.extend_from_slice(payload);
        mask::apply_mask(key.unwrap_or_default(), 0, &mut out[start..]);
        out
    }

    fn unmasked(fin: bool, opcode: OpCode, payload: &[u8]) -> Vec<u8> {
        frame(fin, opcode, None, payload)
    }

    /// What comes out of a decoder that is asked for parts.
    #[derive(Debug, PartialEq)]
    enum Out {
        Frame(Frame),
        Chunk(Chunk),
    }

    /// Feeds `pieces` to a decoder of parts, and polls after each.
    fn parts<'a>(mut decoder: Decoder, pieces: impl IntoIterator<Item = &'a [u8]>) -> (Vec<Out>, Option<End>) {
        let (mut out, mut input) = (Vec::new(), BytesMut::new());
        for piece in pieces {
            input.extend_from_slice(piece);
            decoder.decode(&mut input, &mut |_| {});
            while decoder.has_frames() {
                let frame = decoder.poll().map(Out::Frame);
                out.push(frame.or_else(|| decoder.poll_chunk().map(Out::Chunk)).unwrap());
            }
        }
        (out, decoder.end().cloned())
    }

    fn in_parts(role: Role, message: usize, above: usize) -> Decoder {
        let mut decoder = Decoder::new(role, &Limits::client().with_message(message).unwrap());
        decoder.set_chunks_above(Some(above));
        decoder
    }

    /// Puts parts together, and checks their order.
    fn joined(out: Vec<Out>) -> Vec<Frame> {
        let mut frames = Vec::new();
        let mut under_way: Option<(bool, Vec<u8>)> = None;
        for one in out {
            let Chunk { payload, text, first, last } = match one {
                Out::Chunk(chunk) => chunk,
                Out::Frame(frame) => {
                    assert!(under_way.is_none() || frame.is_control(), "{frame:?} inside a message");
                    frames.push(frame);
                    continue;
                }
            };
            assert_eq!(first, under_way.is_none());
            assert!(last || !payload.is_empty());
            let (is_text, mut message) = under_way.take().unwrap_or((text, Vec::new()));
            assert_eq!(is_text, text);
            message.extend_from_slice(&payload);
            match (last, text) {
                (false, _) => under_way = Some((text, message)),
                (true, true) => frames.push(Frame::text(String::from_utf8(message).unwrap())),
                (true, false) => frames.push(Frame::binary(message)),
            }
        }
        assert!(under_way.is_none());
        frames
    }

    #[test]
    fn a_big_message_comes_in_parts_as_it_arrives() {
        let bytes = [unmasked(true, OpCode::Text, b"small"), unmasked(true, OpCode::Text, b"bigger")].concat();
        let part = |payload: &'static [u8]| Chunk::text(payload);
        let small = || Out::Frame(Frame::text("small"));
        let pieces = [&bytes[..12], &bytes[12..14], &bytes[14..]];
        let expected =
            [small(), Out::Chunk(part(b"big").first()), Out::Chunk(part(b"ge")), Out::Chunk(part(b"r").last())];
        assert_eq!(parts(in_parts(Role::Client, 1000, 5), pieces).0, expected);
        let expected = [small(), Out::Chunk(part(b"bigger").first().last())];
        assert_eq!(parts(in_parts(Role::Client, 1000, 5), [&bytes[..]]).0, expected);
    }

    #[test]
    fn fragments_come_in_parts_whatever_their_size_and_pings_between_them() {
        let bytes = [
            unmasked(false, OpCode::Binary, b"a"),
            unmasked(false, OpCode::Continuation, b""),
            unmasked(true, OpCode::Ping, b"?"),
            unmasked(true, OpCode::Continuation, b""),
        ]
        .concat();
        for size in [1, 2, 100] {
            let expected = [
                Out::Chunk(Chunk::binary("a").first()),
                Out::Frame(Frame::ping("?")),
                Out::Chunk(Chunk::binary("").last()),
            ];
            assert_eq!(parts(in_parts(Role::Client, 1000, 100), bytes.chunks(size)).0, expected);
        }
    }

    #[test]
    fn limits_and_utf8_hold_over_all_parts() {
        let small = || in_parts(Role::Client, 4, 0);
        let bytes = [unmasked(false, OpCode::Binary, b"abc"), unmasked(true, OpCode::Continuation, b"de")].concat();
        let (out, end) = parts(small(), [&bytes[..]]);
        assert_eq!(out, [Out::Chunk(Chunk::binary("abc").first())]);
        assert_eq!(end, Some(End::Error(FrameError::MessageTooBig { limit: 4 })));

        let cut = [unmasked(false, OpCode::Text, b"\xe2\x82"), unmasked(true, OpCode::Continuation, b"\xac")].concat();
        assert_eq!(joined(parts(small(), [&cut[..]]).0), [Frame::text("\u{20ac}")]);
        for bad in [&b"\xe2\x82"[..], b"a\xff"] {
            let (out, end) = parts(small(), [&unmasked(true, OpCode::Text, bad)[..]]);
            assert_eq!((out, end), (Vec::new(), Some(End::Error(FrameError::InvalidUtf8))));
        }
    }

    proptest! {
        #[test]
        fn parts_put_together_are_the_messages(
            messages in prop::collection::vec((any::<bool>(), prop::collection::vec(any::<u8>(), 0..300), 1..100_usize), 0..6),
            masked: bool,
            above in 0..200_usize,
            cuts in prop::collection::vec(1..400_usize, 1..20),
        ) {
            let role = if masked { Role::Server } else { Role::Client };
            let key = masked.then_some([1, 2, 3, 4]);
            let mut bytes = Vec::new();
            for (text, payload, fragment) in &messages {
                let payload: Vec<u8> = if *text {
                    payload.iter().map(|&byte| char::from(byte)).collect::<String>().into_bytes()
                } else {
                    payload.clone()
                };
                let mut opcode = if *text { OpCode::Text } else { OpCode::Binary };
                let mut rest = &payload[..];
                loop {
                    let (part, after) = rest.split_at(rest.len().min(*fragment));
                    bytes.extend(frame(after.is_empty(), opcode, key, part));
                    bytes.extend(frame(true, OpCode::Ping, key, b"between"));
                    (opcode, rest) = (OpCode::Continuation, after);
                    if rest.is_empty() {
                        break;
                    }
                }
            }
            let whole = decoded(Decoder::new(role, &Limits::client()), [&bytes[..]], || true);
            let mut pieces = Vec::new();
            let (mut rest, mut cut) = (&bytes[..], cuts.iter().cycle());
            while !rest.is_empty() {
                let (piece, after) = rest.split_at(rest.len().min(*cut.next().unwrap()));
                pieces.push(piece);
                rest = after;
            }
            let (out, end) = parts(in_parts(role, 1 << 20, above), pieces);
            let data = |frames: Vec<Frame>| frames.into_iter().filter(|frame| !frame.is_control()).collect::<Vec<_>>();
            prop_assert_eq!(data(joined(out)), data(whole.frames));
            prop_assert_eq!(end, whole.end);
        }
    }

    /// Section 5.7.
    #[test]
    fn the_examples_of_the_rfc() {
        let text = Outcome::frames([Frame::text("Hello")]);
        assert_decodes(client, &[0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F], &text);
        assert_decodes(server, MASKED_HELLO, &text);
        assert_decodes(client, &[0x01, 0x03, 0x48, 0x65, 0x6C, 0x80, 0x02, 0x6C, 0x6F], &text);
        let ping = Outcome { pings: vec![HELLO.to_vec()], ..Outcome::frames([Frame::ping("Hello")]) };
        assert_decodes(client, &[0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F], &ping);
        let pong = [0x8A, 0x85, 0x37, 0xFA, 0x21, 0x3D, 0x7F, 0x9F, 0x4D, 0x51, 0x58];
        assert_decodes(server, &pong, &Outcome::frames([Frame::pong("Hello")]));
        let binary = |header: &[u8], len| ([header, &vec![7; len]].concat(), Outcome::frames([vec![7; len].into()]));
        let (bytes, expected) = binary(&[0x82, 0x7E, 0x01, 0x00], 256);
        assert_decodes(client, &bytes, &expected);
        let (bytes, expected) = binary(&[0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0], 65536);
        assert_decodes(client, &bytes, &expected);
    }

    #[test]
    fn all_lengths_around_the_boundaries_are_decoded() {
        for len in [0, 1, 2, 125, 126, 127, 4095, 4096, 8191, 8192, 8193, 20_000, 65535, 65536, 65537] {
            let payload = vec![b'x'; len];
            for opcode in [OpCode::Text, OpCode::Binary] {
                let expected = match opcode {
                    OpCode::Text => Frame::text(String::from_utf8(payload.clone()).unwrap()),
                    _ => Frame::binary(payload.clone()),
                };
                let expected = Outcome::frames([expected.clone(), expected]);
                let plain = unmasked(true, opcode, &payload).repeat(2);
                assert_eq!(decoded(client(), [&plain[..]], || true), expected);
                assert_eq!(decoded(client(), plain.chunks(1000), || true), expected);
                let masked = frame(true, opcode, Some([1, 2, 3, 4]), &payload).repeat(2);
                assert_eq!(decoded(server(), [&masked[..]], || true), expected);
                assert_eq!(decoded(server(), masked.chunks(1001), || true), expected);
            }
        }
    }

    #[test]
    fn hazard_8_every_fault_is_an_error_of_its_own() {
        let cases: [(&[u8], FrameError); 18] = [
            (&[0xC1, 0x00], FrameError::ReservedBits),
            (&[0xA9, 0x00], FrameError::ReservedBits),
            (&[0x83, 0x00], FrameError::ReservedOpCode(0x3)),
            (&[0x8B, 0x00], FrameError::ReservedOpCode(0xB)),
            (&[0x81, 0x80], FrameError::MaskUnexpected),
            // The mask bit comes first, also in control frames and with a reserved opcode.
            (&[0x88, 0x82], FrameError::MaskUnexpected),
            (&[0x8B, 0x80], FrameError::MaskUnexpected),
            (&[0x81, 126, 0, 125], FrameError::LengthNotMinimal),
            (&[0x81, 127, 0, 0, 0, 0, 0, 0], FrameError::LengthNotMinimal),
            (&[0x81, 127, 0x80], FrameError::LengthOverflow),
            (&[0x09, 0x00], FrameError::ControlFragmented),
            (&[0x89, 126], FrameError::ControlTooLong),
            (&[0x80, 0x00], FrameError::UnexpectedContinuation),
            (&[0x00, 0x00], FrameError::UnexpectedContinuation),
            (&[0x01, 0x00, 0x82, 0x00], FrameError::ExpectedContinuation),
            (&[0x81, 0x05, b'a', 0xFF], FrameError::InvalidUtf8),
            (&[0x88, 0x01, 0x03], FrameError::ClosePayloadTruncated),
            (&[0x88, 0x02, 0x03, 0xED], FrameError::CloseCodeInvalid(1005)),
        ];
        for (bytes, error) in cases {
            assert_decodes(client, bytes, &Outcome::error(error));
            let early = decoded(client(), [&bytes[..bytes.len() - 1]], || true);
            assert_eq!(early, Outcome::default(), "{error} shows in the last byte");
        }
        assert_decodes(server, &[0x81, 0x05], &Outcome::error(FrameError::MaskMissing));
        assert_decodes(server, &[0x89, 0x05], &Outcome::error(FrameError::MaskMissing));
        assert_decodes(client, &[0x88, 0x03, 0x03, 0xE8, 0xFF], &Outcome::error(FrameError::InvalidUtf8));
    }

    #[test]
    fn frames_before_a_fault_are_delivered_and_nothing_after_it() {
        let bytes = [&b"\x81\x01a\x89\x01p\x83\x00"[..], b"\x81\x01b"].concat();
        let expected = Outcome {
            frames: vec![Frame::text("a"), Frame::ping("p")],
            pings: vec![b"p".to_vec()],
            end: Some(End::Error(FrameError::ReservedOpCode(0x3))),
        };
        assert_decodes(client, &bytes, &expected);
    }

    #[test]
    fn a_close_frame_ends_the_frames_also_inside_a_message() {
        let bytes = b"\x01\x03Hel\x88\x05\x03\xE9bye\x80\x02lo\x81\x01x";
        let close = CloseFrame::new(CloseCode::GOING_AWAY, "bye").unwrap();
        assert_decodes(client, bytes, &Outcome { end: Some(End::Close(Some(close))), ..Outcome::default() });
        assert_decodes(client, b"\x88\x00", &Outcome { end: Some(End::Close(None)), ..Outcome::default() });
    }

    #[test]
    fn control_frames_may_come_between_fragments() {
        let bytes = b"\x01\x03Hel\x89\x02p1\x00\x00\x8A\x02p2\x00\x02lo\x89\x00\x80\x01!\x81\x01a";
        let frames = [Frame::ping("p1"), Frame::pong("p2"), Frame::ping(""), Frame::text("Hello!"), Frame::text("a")];
        let expected = Outcome { pings: vec![b"p1".to_vec(), vec![]], ..Outcome::frames(frames) };
        assert_decodes(client, bytes, &expected);
    }

    #[test]
    fn text_may_be_cut_inside_a_character() {
        let bytes = b"\x01\x02\xE2\x82\x80\x01\xAC";
        assert_decodes(client, bytes, &Outcome::frames([Frame::text("\u{20AC}")]));
        assert_decodes(client, b"\x01\x02\xE2\x82\x80\x00", &Outcome::error(FrameError::InvalidUtf8));
        assert_decodes(client, b"\x81\x02\xE2\x82", &Outcome::error(FrameError::InvalidUtf8));
        // The state of one message does not leak into the next.
        assert_decodes(client, b"\x02\x01\xE2\x80\x00\x81\x01a", &Outcome::frames([vec![0xE2].into(), "a".into()]));
    }

    #[test]
    fn hazard_9_the_message_limit_is_inclusive_and_read_off_the_header() {
        let limits = Limits::client().with_message(1000).unwrap();
        let new = || Decoder::new(Role::Client, &limits);
        let too_big = Outcome::error(FrameError::MessageTooBig { limit: 1000 });
        for len in [999, 1000] {
            let expected = Outcome::frames([Frame::binary(vec![0; len])]);
            assert_decodes(new, &unmasked(true, OpCode::Binary, &vec![0; len]), &expected);
            let halves =
                [unmasked(false, OpCode::Binary, &[0; 500]), unmasked(true, OpCode::Continuation, &vec![0; len - 500])];
            assert_decodes(new, &halves.concat(), &expected);
        }
        assert_decodes(new, &[0x82, 126, 0x03, 0xE9], &too_big);
        assert_decodes(new, &unmasked(true, OpCode::Binary, &[0; 1001]), &too_big);
        assert_decodes(new, &[0x82, 127, 0x7F, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF, 0xFF], &too_big);
        let sum = [unmasked(false, OpCode::Binary, &[0; 500]), vec![0x80, 126, 0x01, 0xF5]].concat();
        assert_decodes(new, &sum, &too_big);
        let sum = [unmasked(false, OpCode::Binary, &[0; 1]), vec![0x80, 127, 0x7F]].concat();
        let sum = [sum, vec![0xFF; 7]].concat();
        assert_decodes(new, &sum, &too_big);
    }

    #[test]
    fn a_control_frame_is_not_held_by_the_message_limit() {
        let limits = Limits::client().with_message(1).unwrap();
        let pong = unmasked(true, OpCode::Pong, &[0; 125]);
        assert_decodes(|| Decoder::new(Role::Client, &limits), &pong, &Outcome::frames([Frame::pong(vec![0; 125])]));
    }

    #[test]
    fn fragments_are_counted() {
        let limits = Limits::client().with_fragments(4).unwrap().with_empty_fragments(2).unwrap();
        let new = || Decoder::new(Role::Client, &limits);
        let message = |fragments: &[&[u8]]| {
            let last = fragments.len() - 1;
            let opcode = |i| if i == 0 { OpCode::Binary } else { OpCode::Continuation };
            fragments.iter().enumerate().flat_map(|(i, part)| unmasked(i == last, opcode(i), part)).collect::<Vec<_>>()
        };
        assert_decodes(new, &message(&[&b"a"[..]; 4]), &Outcome::frames([b"aaaa".to_vec().into()]));
        assert_decodes(new, &message(&[&b"a"[..]; 5]), &Outcome::error(FrameError::TooManyFragments { limit: 4 }));
        assert_decodes(new, &message(&[b"", b"", b"a", b""]), &Outcome::frames([b"a".to_vec().into()]));
        let error = FrameError::TooManyEmptyFragments { limit: 2 };
        assert_decodes(new, &message(&[b"a", b"", b"", b""]), &Outcome::error(error));
    }

    #[test]
    fn nothing_is_reserved_for_an_announced_length() {
        let limits = Limits::client().with_message(1 << 40).unwrap();
        for first in [0x82, 0x02] {
            let mut decoder = Decoder::new(Role::Client, &limits);
            let mut input = BytesMut::from(&[first, 127, 0, 0, 0, 1, 0, 0, 0, 0, 7][..]);
            let capacity = input.capacity();
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!(decoder.read_hint(), (1 << 32) - 1);
            assert!(input.capacity() <= capacity);
            let held = decoder
                .message
                .as_ref()
                .and_then(|message| message.buffer.as_ref())
                .map_or(0, |buffer| buffer.capacity());
            assert!(held < 100);
        }
    }

    #[test]
    fn memory_follows_from_the_payload_and_not_from_the_number_of_fragments() {
        let mut decoder = client();
        let mut input = BytesMut::from(&b"\x02\x00"[..]);
        decoder.decode(&mut input, &mut |_| {});
        for _ in 0..100_000 {
            input.extend_from_slice(b"\x00\x01a");
            decoder.decode(&mut input, &mut |_| {});
        }
        let buffer = decoder.message.as_ref().unwrap().buffer.as_ref().unwrap();
        assert_eq!(buffer.len(), 100_000);
        assert!(buffer.capacity() <= 200_000);
    }

    #[test]
    fn the_hint_tells_what_the_frame_under_way_lacks() {
        let mut decoder = client();
        let mut input = BytesMut::new();
        for (bytes, hint) in [
            (&b"\x82"[..], 0),
            (b"\x05ab", 3),
            (b"cde", 0),
            (b"\x89\x03a", 2),
            (b"bc\x02\x04a", 3),
            (b"bcd\x80\x02", 2),
            (b"ef", 0),
        ] {
            input.extend_from_slice(bytes);
            decoder.decode(&mut input, &mut |_| {});
            assert_eq!(decoder.read_hint(), hint, "after {bytes:?}");
        }
    }

    #[test]
    fn an_unfinished_message_stays_at_the_front_and_is_cut_out_without_a_copy() {
        let mut input = BytesMut::with_capacity(64 * 1024);
        let masked = frame(true, OpCode::Binary, Some([1, 2, 3, 4]), &[9; 10_000]);
        let mut decoder = server();
        input.extend_from_slice(&masked[..6000]);
        decoder.decode(&mut input, &mut |_| {});
        assert_eq!(input.len(), 6000);
        input.extend_from_slice(&masked[6000..]);
        let address = input[8..].as_ptr();
        decoder.decode(&mut input, &mut |_| {});
        let payload = decoder.poll().unwrap().into_payload();
        assert_eq!((payload.as_ptr(), &payload[..]), (address, &[9; 10_000][..]));
        assert!(input.is_empty());
    }

    #[test]
    fn small_frames_can_be_kept_without_their_window() {
        let mut decoder = client();
        decoder.set_copy_small(true);
        let mut window = BytesMut::with_capacity(64 * 1024);
        window.extend_from_slice(&unmasked(true, OpCode::Text, &[b'a'; 1024]).repeat(8));
        decoder.decode(&mut window, &mut |_| {});
        let kept: Vec<_> = std::iter::from_fn(|| decoder.poll()).collect();
        assert_eq!(kept.len(), 8);
        assert!(window.try_reclaim(64 * 1024));
    }

    /// At the edge, by each way through the decoder: a message in one read, in two, in fragments, in parts.
    #[test]
    fn payloads_of_up_to_1_kib_are_copied_when_that_is_asked_for_and_no_others() {
        let filler = unmasked(true, OpCode::Binary, &[0; SMALL_CHUNK]);
        for (asked, len, copied) in [(true, 1024, true), (true, 1025, false), (false, 1024, false)] {
            let whole = unmasked(true, OpCode::Binary, &vec![1; len]);
            let start = unmasked(false, OpCode::Binary, &vec![1; len - 1]);
            let fragments = [&start[..], &unmasked(true, OpCode::Continuation, &[1])].concat();
            let ways = [(&whole, 0, None), (&whole, 10, None), (&fragments, 0, None), (&whole, 0, Some(0))];
            for (way, (bytes, begun, chunks_above)) in ways.into_iter().enumerate() {
                let mut decoder = client();
                decoder.set_copy_small(asked);
                decoder.set_chunks_above(chunks_above);
                let mut input = BytesMut::with_capacity(64 * 1024);
                input.extend_from_slice(&bytes[..begun]);
                decoder.decode(&mut input, &mut |_| {});
                input.extend_from_slice(&bytes[begun..]);
                input.extend_from_slice(&filler);
                let window = input.as_ptr_range();
                decoder.decode(&mut input, &mut |_| {});
                let payload = match chunks_above {
                    None => decoder.poll().unwrap().into_payload(),
                    Some(_) => decoder.poll_chunk().unwrap().payload,
                };
                assert_eq!(payload, vec![1; len]);
                assert_eq!(!window.contains(&payload.as_ptr()), copied, "way {way}, {len} bytes, asked: {asked}");
            }
        }
    }

    #[test]
    fn pings_are_copied_out_of_a_window_when_that_is_asked_for() {
        for asked in [true, false] {
            let mut decoder = client();
            decoder.set_copy_small(asked);
            let mut input = BytesMut::from(&b"\x89\x03abc"[..]);
            input.extend_from_slice(&unmasked(true, OpCode::Binary, &[0; SMALL_CHUNK]));
            let window = input.as_ptr_range();
            decoder.decode(&mut input, &mut |_| {});
            let payload = decoder.poll().unwrap().into_payload();
            assert_eq!((&payload[..], !window.contains(&payload.as_ptr())), (&b"abc"[..], asked));
        }
    }

    /// With the whole payload there, so that the short-cut sees it first.
    #[test]
    fn a_whole_message_with_a_wrong_length_is_refused_like_its_header() {
        for (length, error) in [
            (&[126, 0, 5][..], FrameError::LengthNotMinimal),
            (&[126, 0, 125], FrameError::LengthNotMinimal),
            (&[127, 0, 0, 0, 0, 0, 0, 0, 200], FrameError::LengthNotMinimal),
            // Its first two bytes would do as a length of 16 bits.
            (&[127, 0, 200, 0, 0, 0, 0, 0, 0], FrameError::MessageTooBig { limit: Limits::client().message() }),
        ] {
            let bytes = [&[0x82][..], length, &[0; 300]].concat();
            assert_decodes(client, &bytes, &Outcome::error(error));
        }
    }

    #[test]
    fn its_debug_output_tells_the_state_and_no_payload() {
        let mut decoder = client();
        decoder.decode(&mut BytesMut::from(&b"\x81\x06secret\x01\x00"[..]), &mut |_| {});
        let shown = format!("{decoder:?}");
        assert!(shown.contains("fragmented: true") && shown.contains("backlog: "), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn a_small_read_does_not_keep_the_window() {
        let mut decoder = client();
        let mut window = BytesMut::with_capacity(64 * 1024);
        window.extend_from_slice(b"\x81\x05Hello\x82\x01a");
        decoder.decode(&mut window, &mut |_| {});
        assert!(window.try_reclaim(64 * 1024));
        assert_eq!(decoder.poll(), Some(Frame::text("Hello")));
    }

    #[test]
    fn what_is_cut_off_below_4_kib_is_copied_and_the_rest_is_not() {
        for (len, copied) in [(4095, true), (4096, false)] {
            let mut input = BytesMut::from(&unmasked(true, OpCode::Binary, &vec![7; len - 4])[..]);
            assert_eq!(input.len(), len);
            let window = input.as_ptr_range();
            let mut decoder = client();
            decoder.decode(&mut input, &mut |_| {});
            let payload = decoder.poll().unwrap().into_payload();
            assert_eq!((payload.len(), !window.contains(&payload.as_ptr())), (len - 4, copied));
        }
    }

    #[test]
    fn the_backlog_counts_payload_and_bookkeeping() {
        let mut decoder = client();
        let mut input = BytesMut::from(&b"\x81\x05Hello\x82\x00"[..]);
        decoder.decode(&mut input, &mut |_| {});
        let bookkeeping = (decoder.backlog() - 5) / 2;
        assert!((24..=64).contains(&bookkeeping));
        decoder.poll();
        assert_eq!(decoder.backlog(), bookkeeping);
        decoder.poll();
        assert_eq!(decoder.backlog(), 0);
    }

    #[test]
    fn frames_stay_in_order_when_more_arrive_before_all_are_polled() {
        let mut decoder = client();
        let (mut sent, mut polled) = (0, 0);
        for (arrive, poll) in [(10, 6), (5, 2), (7, 13), (1, 1), (3, 4)] {
            let mut input = BytesMut::new();
            for _ in 0..arrive {
                input.extend_from_slice(&[0x82, 1, sent]);
                sent += 1;
            }
            decoder.decode(&mut input, &mut |_| {});
            for _ in 0..poll {
                assert_eq!(decoder.poll(), Some(Frame::binary(vec![polled])));
                polled += 1;
            }
        }
        assert_eq!((decoder.poll(), polled), (None, sent));
    }

    #[test]
    fn discarded_frames_are_still_checked() {
        let start =
            [&unmasked(true, OpCode::Text, b"first")[..], &unmasked(true, OpCode::Text, &[b'x'; 50])[..20]].concat();
        for (rest, end) in [
            (&b"\x89\x01p\x81\x01w\x01\x01a\x80\x01b\x88\x00"[..], End::Close(None)),
            (b"\x81\x01\xFF", End::Error(FrameError::InvalidUtf8)),
            (b"\x00\x00", End::Error(FrameError::UnexpectedContinuation)),
        ] {
            let mut decoder = client();
            let mut input = BytesMut::from(&start[..]);
            decoder.decode(&mut input, &mut |_| {});
            decoder.discard_frames();
            assert_eq!((decoder.backlog(), decoder.poll()), (0, None));
            input.extend_from_slice(&[b'x'; 32]);
            input.extend_from_slice(rest);
            let mut pings = 0;
            decoder.decode(&mut input, &mut |_| pings += 1);
            assert_eq!(decoder.poll(), None);
            assert_eq!(decoder.end(), Some(&end));
            assert_eq!(pings, usize::from(end == End::Close(None)));
        }
    }

    #[test]
    fn a_discarded_message_is_consumed_as_it_arrives() {
        let mut decoder = server();
        decoder.discard_frames();
        let masked = frame(true, OpCode::Text, Some([1, 2, 3, 4]), &[b'a'; 1000]);
        let mut input = BytesMut::new();
        for chunk in masked.chunks(7) {
            input.extend_from_slice(chunk);
            decoder.decode(&mut input, &mut |_| {});
            assert!(input.len() < 14);
        }
        assert_eq!((decoder.end(), decoder.read_hint(), decoder.message.is_none()), (None, 0, true));
    }

    #[test]
    fn the_decoder_is_small_and_at_rest_holds_nothing() {
        assert!(size_of::<Decoder>() <= 200, "{}", size_of::<Decoder>());
        let mut decoder = client();
        let mut input = BytesMut::from(&b"\x01\x03Hel\x80\x02lo"[..]);
        decoder.decode(&mut input, &mut |_| {});
        assert!(decoder.poll().is_some() && !decoder.has_frames() && decoder.poll().is_none());
        assert!(decoder.queue.is_none() && decoder.message.is_none());
    }

    /// Pieces of streams, right and wrong.
    fn piece(masked: bool) -> impl Strategy<Value = Vec<u8>> {
        let key = any::<[u8; 4]>().prop_map(move |key| masked.then_some(key));
        let opcode = prop::sample::select(vec![
            OpCode::Text,
            OpCode::Text,
            OpCode::Binary,
            OpCode::Continuation,
            OpCode::Continuation,
            OpCode::Ping,
            OpCode::Pong,
        ]);
        let payload = prop_oneof![
            4 => ".{0,60}".prop_map(String::into_bytes),
            1 => prop::collection::vec(any::<u8>(), 0..20),
            1 => (100usize..140).prop_map(|len| vec![b'x'; len]),
            1 => (9000usize..9020).prop_map(|len| "\u{E9}\u{20AC}".repeat(len / 5).into_bytes()),
        ];
        let sound = (any::<bool>(), opcode, key, payload).prop_map(|(fin, opcode, key, mut payload)| {
            if opcode.is_control() {
                payload.truncate(MAX_CONTROL);
            }
            frame(fin || opcode.is_control(), opcode, key, &payload)
        });
        let close =
            any::<[u8; 4]>().prop_map(move |key| frame(true, OpCode::Close, masked.then_some(key), b"\x03\xE8bye"));
        prop_oneof![40 => sound, 1 => close, 1 => prop::collection::vec(any::<u8>(), 1..20)]
    }

    /// Messages in fragments, with control frames between them, and what they amount to.
    fn conversation(masked: bool) -> impl Strategy<Value = (Vec<u8>, Vec<Frame>)> {
        let payload = prop_oneof![4 => ".{0,50}", 1 => "[a-z\u{E9}\u{20AC}]{4000,5000}"];
        let cuts = prop::collection::vec(any::<prop::sample::Index>(), 0..4);
        let control = prop::option::of((any::<bool>(), prop::collection::vec(any::<u8>(), 0..30)));
        let message = (any::<bool>(), payload, cuts, control, any::<[u8; 4]>());
        prop::collection::vec(message, 0..12).prop_map(move |messages| {
            let (mut bytes, mut frames) = (Vec::new(), Vec::new());
            for (text, payload, cuts, control, key) in messages {
                let key = masked.then_some(key);
                let mut cuts: Vec<_> = cuts.into_iter().map(|cut| cut.index(payload.len() + 1)).collect();
                cuts.sort_unstable();
                cuts.push(payload.len());
                let mut start = 0;
                for (i, &end) in cuts.iter().enumerate() {
                    let opcode = match (i, text) {
                        (0, true) => OpCode::Text,
                        (0, false) => OpCode::Binary,
                        _ => OpCode::Continuation,
                    };
                    bytes.extend(frame(i + 1 == cuts.len(), opcode, key, &payload.as_bytes()[start..end]));
                    start = end;
                    if let (Some((ping, payload)), 0) = (&control, i) {
                        let opcode = if *ping { OpCode::Ping } else { OpCode::Pong };
                        bytes.extend(frame(true, opcode, key, payload));
                    }
                }
                let message = if text { Frame::text(payload) } else { Frame::binary(payload) };
                let control =
                    control.map(|(ping, payload)| if ping { Frame::ping(payload) } else { Frame::pong(payload) });
                if cuts.len() == 1 {
                    frames.push(message);
                    frames.extend(control);
                } else {
                    frames.extend(control);
                    frames.push(message);
                }
            }
            (bytes, frames)
        })
    }

    fn new(masked: bool, copy_small: bool) -> Decoder {
        let mut decoder = if masked { server() } else { client() };
        decoder.set_copy_small(copy_small);
        decoder
    }

    /// `bytes`, cut into pieces of `sizes`, over and over.
    fn chunked<'a>(bytes: &'a [u8], sizes: &'a [usize]) -> impl Iterator<Item = &'a [u8]> {
        let (mut rest, mut sizes) = (bytes, sizes.iter().cycle());
        std::iter::from_fn(move || {
            let (chunk, after) = rest.split_at((*sizes.next()?).min(rest.len()));
            rest = after;
            (!chunk.is_empty()).then_some(chunk)
        })
    }

    proptest! {
        #[test]
        fn every_message_survives_fragments_masks_and_chunks(
            (masked, (bytes, frames)) in any::<bool>().prop_flat_map(|masked| (Just(masked), conversation(masked))),
            sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..10_000], 1..8),
            copy_small: bool,
        ) {
            let outcome = decoded(new(masked, copy_small), chunked(&bytes, &sizes), || true);
            prop_assert_eq!(&outcome.frames, &frames);
            let pings: Vec<_> = frames.iter().filter(|frame| matches!(frame, Frame::Ping(_))).map(|frame| frame.payload().to_vec()).collect();
            prop_assert_eq!(outcome.pings, pings);
            prop_assert_eq!(outcome.end, None);
        }

        #[test]
        fn chunks_make_no_difference_to_streams_right_or_wrong(
            (masked, pieces) in any::<bool>()
                .prop_flat_map(|masked| (Just(masked), prop::collection::vec(piece(masked), 1..14))),
            sizes in prop::collection::vec(prop_oneof![1usize..20, 1usize..10_000], 1..8),
            polls in prop::collection::vec(any::<bool>(), 1..8),
            copy_small: bool,
        ) {
            let bytes = pieces.concat();
            let whole = decoded(new(masked, false), [&bytes[..]], || true);
            let mut polls = polls.into_iter().cycle();
            let parts = decoded(new(masked, copy_small), chunked(&bytes, &sizes), || polls.next().unwrap());
            prop_assert_eq!(&parts, &whole);
            prop_assert_eq!(decoded(new(masked, copy_small), bytes.chunks(1), || true), whole);
        }

        #[test]
        fn what_the_encoder_sends_arrives(
            masked: bool,
            messages in prop::collection::vec(prop_oneof![8 => ".{0,200}", 1 => "[a-z\u{E9}]{8000,9000}"], 0..8),
            seed: [u8; 32],
        ) {
            let mut encoder = Encoder::new(if masked { Role::Client } else { Role::Server }, seed);
            let frames: Vec<_> = messages.into_iter().map(Frame::text).collect();
            frames.iter().cloned().for_each(|frame| { encoder.frame(frame); });
            let bytes = encoder.transmit().iter().collect::<Vec<_>>().concat();
            prop_assert_eq!(decoded(new(masked, false), [&bytes[..]], || true), Outcome::frames(frames));
        }
    }
}
