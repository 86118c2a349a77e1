//! Frames that are decoded and not yet polled.

use std::collections::VecDeque;

use bytes::Bytes;

use super::decoder::Message;
use super::{Chunk, Frame, FrameRef, OpCode, Utf8Bytes};

/// What a span holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
    /// A part of a message; what more is to be said of it is in [`Queue::parts`].
    Part,
}

impl Kind {
    #[inline(always)]
    fn frame_ref(self, payload: &[u8]) -> FrameRef<'_> {
        let opcode = match self {
            Self::Text => OpCode::Text,
            Self::Binary | Self::Part => OpCode::Binary,
            Self::Ping => OpCode::Ping,
            Self::Pong => OpCode::Pong,
        };
        FrameRef::of_kind(opcode, payload)
    }
}

/// An answer to what was lent is a part of the same memory if it has so many bytes,
const MIN_KEPT: usize = 8 * 1024;
/// and keeps at most so many times as much. A window of 64 KiB is eight times the smallest.
const MOST_KEPT: usize = 8;

/// A frame that is lent, and the memory that it lies in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lent<'a> {
    pub(crate) frame: FrameRef<'a>,
    within: &'a Bytes,
}

impl<'a> Lent<'a> {
    /// `frame` as one of its own: without a copy, if it is large, and a good part of the memory that it would keep.
    #[inline(always)]
    pub(crate) fn own(&self, frame: FrameRef<'_>) -> Box<Frame> {
        own(self.within, frame.opcode(), frame.payload())
    }
}

/// Of arguments that go in registers: a reference to a frame that is lent would have it, and all that is beside it, in memory,
/// also where this is not called.
#[cold]
#[inline(never)]
fn own(within: &Bytes, opcode: OpCode, payload: &[u8]) -> Box<Frame> {
    let (all, part) = (within.as_ptr_range(), payload.as_ptr_range());
    // What waits to be sent counts by its length alone: it must not keep many times as much.
    let is_worth_it = payload.len() >= MIN_KEPT && payload.len() >= within.len() / MOST_KEPT;
    let is_within = is_worth_it && all.start <= part.start && part.end <= all.end;
    let owned = if is_within { within.slice_ref(payload) } else { Bytes::copy_from_slice(payload) };
    Box::new(FrameRef::of_kind(opcode, payload).with_payload(owned))
}

impl<'a> From<&'a Frame> for Lent<'a> {
    fn from(frame: &'a Frame) -> Self {
        Self { frame: frame.into(), within: frame.payload() }
    }
}

/// The payload of one frame, as a part of a chunk.
#[derive(Clone, Copy, Debug)]
struct Span {
    /// Where the payload starts in its chunk.
    start: usize,
    len: usize,
    kind: Kind,
    /// Copied out of the chunk rather than sliced.
    copied: bool,
    /// The last of its chunk: it takes the chunk with it, which spares a reference count.
    last: bool,
    /// A whole message that is neither: a slice, and nothing else to be looked at.
    plain: bool,
}

/// Frames in order of arrival: spans, and the chunks of input that they are parts of.
///
/// ```text
/// spans    [ 0 .. next ) polled      [ next .. len ) waiting
/// chunks   `chunk` is that of span `next` (while `held`, of the one before), those of later spans are in `chunks`
/// ```
///
/// While frames are decoded, the spans from `uncut` on have no chunk yet: they refer to the window. Hence
/// `next <= uncut <= len`, and `uncut == len` between calls of the decoder.
#[derive(Debug, Default)]
pub(crate) struct Queue {
    spans: Vec<Span>,
    next: usize,
    uncut: usize,
    chunk: Bytes,
    chunks: VecDeque<Bytes>,
    /// Of each span that is a part of a message: whether that is a text, begins with it, ends with it.
    parts: VecDeque<[bool; 3]>,
    /// A frame on its way out, between [`advance`](Self::advance) and whoever asked for it; or one that is lent, while `held`.
    front: Option<Frame>,
    /// What was lent last was `front`, or else the last span of `chunk`: that is held until the next frame is asked for.
    held: bool,
    /// See [`Queue::backlog`].
    backlog: usize,
    /// For the next message in fragments: nothing is in it.
    pub(super) spare: Option<Box<Message>>,
}

impl Queue {
    /// What one frame counts for beside its payload: its span, and a chunk, since it may have come in a read of its own.
    const BOOKKEEPING: usize = size_of::<Span>() + size_of::<Bytes>();
    /// A queue that has grown beyond so many spans is not kept for reuse.
    const MAX_KEPT: usize = 4096;

    /// Bytes of payload that wait, and what they cost to keep track of.
    #[inline]
    pub(super) fn backlog(&self) -> usize {
        self.backlog
    }

    #[inline]
    pub(super) fn is_empty(&self) -> bool {
        self.next == self.spans.len()
    }

    /// Whether some spans wait for their chunk.
    #[inline]
    pub(super) fn has_uncut(&self) -> bool {
        self.uncut < self.spans.len()
    }

    /// Appends a frame whose payload is `len` bytes from `start` on in the window.
    #[inline]
    pub(super) fn push(&mut self, kind: Kind, start: usize, len: usize, copied: bool) {
        self.backlog += len + Self::BOOKKEEPING;
        let plain = matches!(kind, Kind::Text | Kind::Binary) && !copied;
        self.spans.push(Span { start, len, kind, copied, last: false, plain });
    }

    /// Gives the spans that refer to the window their chunk.
    pub(super) fn cut(&mut self, chunk: Bytes) {
        debug_assert!(!self.held, "`compact` came before");
        let Some(last) = self.spans.last_mut() else { return };
        (last.last, last.plain) = (true, false);
        if self.uncut == self.next {
            self.chunk = chunk;
        } else {
            self.chunks.push_back(chunk);
        }
        self.uncut = self.spans.len();
    }

    /// Appends a part of a message.
    pub(super) fn push_part(&mut self, [text, first, last]: [bool; 3], start: usize, len: usize, copied: bool) {
        self.parts.push_back([text, first, last]);
        self.push(Kind::Part, start, len, copied);
    }

    /// Takes the first frame; `None` where a part of a message is first. No span is without a chunk.
    ///
    /// It is inlined into whoever waits for the frame, and makes it there: a frame that comes through memory, written in
    /// parts and read as a whole, is waited for longer than it took to decode.
    #[inline(always)]
    pub(super) fn pop(&mut self) -> Option<Frame> {
        self.pop_if(|kind| kind != Kind::Part)
    }

    /// [`pop`](Self::pop), without a part in the count of who refers to the chunk.
    #[inline(always)]
    pub(super) fn pop_lent(&mut self) -> Option<Lent<'_>> {
        let Span { start, len, kind, plain, .. } = *self.spans.get(self.next)?;
        if !plain {
            return if kind == Kind::Part { None } else { self.pop_any_lent() };
        }
        self.forget_lent();
        self.count_out(len);
        Some(Lent { frame: kind.frame_ref(&self.chunk[start..start + len]), within: &self.chunk })
    }

    /// What [`pop_message`](Self::pop_message) would take, where it lies.
    #[inline(always)]
    pub(super) fn lend_message(&self) -> Option<Lent<'_>> {
        debug_assert!(!self.held, "what is lent here stays in its place");
        let Span { start, len, kind, .. } = *self.spans.get(self.next)?;
        if matches!(kind, Kind::Part | Kind::Ping) {
            return None;
        }
        Some(Lent { frame: kind.frame_ref(&self.chunk[start..start + len]), within: &self.chunk })
    }

    /// Whoever was lent the first frame is done with it, and nobody else wants it.
    #[inline(always)]
    pub(super) fn skip(&mut self) {
        let Some(&Span { len, last, .. }) = self.spans.get(self.next) else { return };
        self.forget_lent();
        self.count_out(len);
        if last {
            self.next_chunk();
        }
    }

    #[inline(never)]
    fn next_chunk(&mut self) -> Bytes {
        std::mem::replace(&mut self.chunk, self.chunks.pop_front().unwrap_or_default())
    }

    /// The next is asked for: whoever was lent the last has no use for it any more.
    #[inline(always)]
    pub(super) fn forget_lent(&mut self) {
        if self.held {
            self.drop_lent();
        }
    }

    #[inline(never)]
    fn drop_lent(&mut self) {
        self.held = false;
        if self.front.take().is_none() {
            self.next_chunk();
        }
    }

    /// [`pop_lent`](Self::pop_lent) for what is not a plain message. Nothing is copied for one who does not keep it.
    #[inline(never)]
    fn pop_any_lent(&mut self) -> Option<Lent<'_>> {
        self.forget_lent();
        let Span { start, len, kind, last, .. } = *self.spans.get(self.next)?;
        self.count_out(len);
        self.held = last;
        self.shrink_if_empty();
        Some(Lent { frame: kind.frame_ref(&self.chunk[start..start + len]), within: &self.chunk })
    }

    /// A frame that was put together elsewhere, until the next is asked for.
    pub(super) fn lend(&mut self, frame: Frame) -> Lent<'_> {
        self.forget_lent();
        self.held = true;
        Lent::from(&*self.front.insert(frame))
    }

    /// [`pop`](Self::pop) takes one.
    #[inline(always)]
    pub(super) fn is_frame_next(&self) -> bool {
        self.spans.get(self.next).is_some_and(|span| span.kind != Kind::Part)
    }

    /// Takes the first frame unless it is a ping.
    #[inline(always)]
    pub(super) fn pop_message(&mut self) -> Option<Frame> {
        self.pop_if(|kind| !matches!(kind, Kind::Part | Kind::Ping))
    }

    /// [`pop_message`](Self::pop_message) takes one.
    pub(super) fn is_message_next(&self) -> bool {
        self.spans.get(self.next).is_some_and(|span| !matches!(span.kind, Kind::Part | Kind::Ping))
    }

    #[inline(always)]
    fn pop_if(&mut self, wanted: impl FnOnce(Kind) -> bool) -> Option<Frame> {
        let Span { start, len, kind, plain, .. } = *self.spans.get(self.next)?;
        if !plain {
            return if wanted(kind) { self.pop_any() } else { None };
        }
        self.forget_lent();
        self.count_out(len);
        let payload = self.chunk.slice(start..start + len);
        Some(if kind == Kind::Text { Frame::Text(Utf8Bytes::from_validated(payload)) } else { Frame::Binary(payload) })
    }

    /// By way of `front`, where it can be read as it was written.
    #[inline(always)]
    fn pop_any(&mut self) -> Option<Frame> {
        self.advance();
        self.front.take()
    }

    /// Takes the first frame out of the spans, whatever it is.
    #[inline(never)]
    fn advance(&mut self) {
        self.forget_lent();
        let Some(&span) = self.spans.get(self.next) else { return };
        let payload = self.take(span);
        self.front = Some(match span.kind {
            Kind::Text => Frame::Text(Utf8Bytes::from_validated(payload)),
            Kind::Ping => Frame::Ping(payload),
            Kind::Pong => Frame::Pong(payload),
            Kind::Binary | Kind::Part => Frame::Binary(payload),
        });
        self.shrink_if_empty();
    }

    /// Whoever has the last frame may take its time.
    fn shrink_if_empty(&mut self) {
        if self.is_empty() && self.spans.capacity() > Self::MAX_KEPT {
            (self.spans, self.next, self.uncut) = (Vec::new(), 0, 0);
        }
    }

    /// Takes the first part of a message, if that is first.
    pub(super) fn pop_part(&mut self) -> Option<Chunk> {
        let span = *self.spans.get(self.next)?;
        if span.kind != Kind::Part {
            return None;
        }
        self.forget_lent();
        let [text, first, last] = self.parts.pop_front()?;
        Some(Chunk { payload: self.take(span), text, first, last })
    }

    /// The first span, of `len` bytes, is polled.
    #[inline]
    fn count_out(&mut self, len: usize) {
        self.next += 1;
        self.backlog -= len + Self::BOOKKEEPING;
    }

    /// The payload of the first span.
    fn take(&mut self, span: Span) -> Bytes {
        self.count_out(span.len);
        let end = span.start + span.len;
        if !span.last {
            let slice = &self.chunk[span.start..end];
            return if span.copied { Bytes::copy_from_slice(slice) } else { self.chunk.slice_ref(slice) };
        }
        let chunk = self.next_chunk();
        if span.copied { Bytes::copy_from_slice(&chunk[span.start..end]) } else { rest(chunk, span.start, end) }
    }

    /// Forgets the spans that were polled, if they are most of them: each span is moved once at most on average.
    pub(super) fn compact(&mut self) {
        self.forget_lent();
        if self.next > self.spans.len() / 2 {
            self.spans.drain(..self.next);
            self.uncut -= self.next;
            self.next = 0;
        }
    }

    /// Empties it. Says whether it is of a size worth keeping.
    pub(crate) fn reset(&mut self) -> bool {
        self.spans.clear();
        self.chunk = Bytes::new();
        self.chunks.clear();
        self.parts = VecDeque::new();
        (self.front, self.held) = (None, false);
        (self.next, self.uncut, self.backlog) = (0, 0, 0);
        self.spans.capacity() <= Self::MAX_KEPT && self.chunks.capacity() <= Self::MAX_KEPT
    }
}

/// `chunk[start..end]`, without touching its reference count.
#[inline]
fn rest(mut chunk: Bytes, start: usize, end: usize) -> Bytes {
    use bytes::Buf;
    chunk.truncate(end);
    chunk.advance(start);
    chunk
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A queue with so many frames of a byte in one chunk.
    fn queue(frames: usize) -> Queue {
        let mut queue = Queue::default();
        append(&mut queue, frames);
        queue
    }

    fn append(queue: &mut Queue, frames: usize) {
        for start in 0..frames {
            queue.push(Kind::Binary, start, 1, false);
        }
        queue.cut((0..frames).map(|byte| byte as u8).collect());
    }

    fn polled(queue: &mut Queue, frames: usize) -> Vec<u8> {
        (0..frames).map(|_| queue.pop().unwrap().payload()[0]).collect()
    }

    #[test]
    fn what_was_lent_is_given_up_when_the_next_is_asked_for() {
        let next: [fn(&mut Queue); 4] = [
            |queue| assert!(queue.pop().is_some()),
            |queue| assert!(queue.pop_lent().is_some()),
            |queue| assert!(queue.pop_message().is_some()),
            |queue| queue.compact(),
        ];
        for ask in next {
            let large = Bytes::from(vec![1; 100_000]);
            let mut queue = Queue::default();
            queue.push(Kind::Binary, 0, large.len(), false);
            queue.cut(large.clone());
            append(&mut queue, 3);
            assert_eq!(queue.pop_lent().unwrap().frame.payload(), large);
            assert!(!large.is_unique());
            ask(&mut queue);
            assert!(large.is_unique());
        }
    }

    #[test]
    fn polled_spans_are_forgotten_once_they_are_most_of_all() {
        for (first, next) in [(0, 0), (10, 10), (49, 49), (51, 0), (99, 0)] {
            let mut queue = queue(100);
            let mut bytes = polled(&mut queue, first);
            queue.compact();
            let len = 100 - first + next;
            assert_eq!((queue.next, queue.uncut, queue.spans.len()), (next, len, len));
            append(&mut queue, 20);
            bytes.extend(polled(&mut queue, 120 - first));
            assert_eq!(bytes, (0..100).chain(0..20).collect::<Vec<u8>>());
            assert!(queue.is_empty() && queue.backlog() == 0);
        }
    }

    #[test]
    fn room_for_a_burst_is_given_up_with_its_last_frame_lent_or_not() {
        for lends in [false, true] {
            let mut queue = queue(Queue::MAX_KEPT + 1);
            for _ in 0..=Queue::MAX_KEPT {
                assert!(if lends { queue.pop_lent().is_some() } else { queue.pop().is_some() });
            }
            assert!(queue.spans.capacity() <= Queue::MAX_KEPT, "lent: {lends}");
        }
    }

    #[test]
    fn a_queue_that_grew_large_is_not_worth_keeping() {
        let mut small = queue(Queue::MAX_KEPT);
        assert!(small.reset());
        assert!(small.is_empty() && small.backlog() == 0);
        assert!(!queue(Queue::MAX_KEPT + 1).reset());
        let mut chunks = queue(1);
        chunks.chunks.reserve(Queue::MAX_KEPT + 1);
        assert!(!chunks.reset());
    }
}
