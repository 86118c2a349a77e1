//! Frames that are decoded and not yet polled.

use std::collections::VecDeque;

use bytes::Bytes;

use super::{Frame, Utf8Bytes};

/// What a span holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Binary,
    Ping,
    Pong,
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
}

/// Frames in order of arrival: spans, and the chunks of input that they are parts of.
///
/// ```text
/// spans    [ 0 .. next ) polled      [ next .. len ) waiting
/// chunks   `chunk` is that of span `next`, those of later spans are in `chunks`
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
    /// See [`Queue::backlog`].
    backlog: usize,
}

impl Queue {
    /// What one frame counts for beside its payload.
    const BOOKKEEPING: usize = size_of::<Span>();
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
        self.spans.push(Span { start, len, kind, copied, last: false });
    }

    /// Gives the spans that refer to the window their chunk.
    pub(super) fn cut(&mut self, chunk: Bytes) {
        let Some(last) = self.spans.last_mut() else { return };
        last.last = true;
        if self.uncut == self.next {
            self.chunk = chunk;
        } else {
            self.chunks.push_back(chunk);
        }
        self.uncut = self.spans.len();
    }

    /// Takes the first frame. There has to be one, and no span without a chunk.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<Frame> {
        let span = *self.spans.get(self.next)?;
        self.next += 1;
        self.backlog -= span.len + Self::BOOKKEEPING;
        let payload = if span.last || span.copied {
            self.take_unusual(span)
        } else {
            self.chunk.slice(span.start..span.start + span.len)
        };
        Some(match span.kind {
            Kind::Text => Frame::Text(Utf8Bytes::from_validated(payload)),
            Kind::Binary => Frame::Binary(payload),
            Kind::Ping => Frame::Ping(payload),
            Kind::Pong => Frame::Pong(payload),
        })
    }

    /// The payload of a span that takes its chunk with it, or is copied out of it.
    #[inline(never)]
    fn take_unusual(&mut self, span: Span) -> Bytes {
        let end = span.start + span.len;
        if !span.last {
            return Bytes::copy_from_slice(&self.chunk[span.start..end]);
        }
        let chunk = std::mem::replace(&mut self.chunk, self.chunks.pop_front().unwrap_or_default());
        if span.copied { Bytes::copy_from_slice(&chunk[span.start..end]) } else { rest(chunk, span.start, end) }
    }

    /// Forgets the spans that were polled, if they are most of them: each span is moved once at most on average.
    pub(super) fn compact(&mut self) {
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
