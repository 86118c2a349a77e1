//! From messages to bytes: RFC 6455, sections 5.2, 5.3 and 6.1.

use std::fmt;
use std::io::IoSlice;

use bytes::{Buf, Bytes};
use rand::rngs::ChaCha12Rng;
use rand::{Rng, SeedableRng};

use super::header::{FIN, KEY, MAX_CONTROL, MAX_HEADER, put_header};
use super::{CloseFrame, Frame, FrameRef, OpCode, PreparedFrame, mask};
use crate::sparse::Sparse;
use crate::{Role, pool};

/// Payloads of this many bytes and more are not copied into the output buffer but queued beside it.
const LARGE: usize = 8 * 1024;
/// A client's payload that others share has to be copied anyway: up to this many bytes to the output buffer, which is
/// reused, rather than to fresh memory.
const LARGE_SHARED: usize = 64 * 1024;
/// The size in bytes in which an output buffer starts.
const BUFFER: usize = 4 * 1024;
/// That of one which holds no more than the headers of large frames. It is kept until the connection rests.
const HEADERS: usize = 64;

/// Room for the header of a message that goes past the output buffer, and its payload if that fits.
pub(crate) const HEAD: usize = 256;

/// What a client sends of a large payload that others share is masked so many bytes at a time, while they leave.
const PIECE: usize = 128 * 1024;

/// A payload that is queued by reference.
#[derive(Debug)]
struct Large {
    /// It goes out once the buffer is taken up to here.
    at: usize,
    /// What has not left of it.
    payload: Bytes,
    /// It is not masked, since others share it: what leaves is a copy, piece by piece.
    key: Option<[u8; KEY]>,
}

/// The next bytes of the first payload that leaves in pieces, masked.
#[derive(Default)]
struct Piece {
    /// Initialised all along; what waits is `bytes[start..end]`.
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Piece {
    fn waits(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// The front of `payload`. A piece is a whole number of keys, so that the key fits the next one, too.
    fn fill(&mut self, key: [u8; KEY], payload: &[u8]) {
        let payload = &payload[..payload.len().min(PIECE)];
        if self.bytes.len() < payload.len() {
            self.bytes.resize(payload.len(), 0);
        }
        mask::copy_masked(key, payload, &mut self.bytes[..payload.len()]);
        (self.start, self.end) = (0, payload.len());
    }
}

/// The outgoing half of a connection: the bytes that the transport has not taken yet.
///
/// Everything is encoded behind what is there. [`transmit`](Self::transmit) shows what to write next,
/// [`advance`](Self::advance) says how much of it was taken. Offsets count all bytes that were ever encoded: what is
/// below [`written`](Self::written) has left.
///
/// ```
/// use parley_proto::Role;
/// use parley_proto::codec::{Encoder, Frame};
///
/// let mut encoder = Encoder::new(Role::Server, [0; 32]);
/// let end = encoder.frame(Frame::text("Hello"));
/// assert_eq!(encoder.transmit().iter().collect::<Vec<_>>(), [b"\x81\x05Hello"]);
/// encoder.advance(7);
/// assert_eq!((encoder.written(), encoder.queued()), (end, 0));
/// ```
pub struct Encoder {
    /// Initialised all along; what waits is `buffer[start..filled]`. One that has grown goes back to the pool as soon as it is
    /// empty, one of [`BUFFER`] bytes may stay until the connection rests.
    ///
    /// ```text
    /// buffer   [ taken | waits ... | room ... ]
    ///          0     start      filled      len
    /// ```
    buffer: Vec<u8>,
    start: usize,
    filled: usize,
    /// In order; `start <= at <= filled` holds for each.
    large: Sparse<Large>,
    /// Of the first in `large`, if that has a key. With room for the next one until the connection rests.
    piece: Option<Box<Piece>>,
    written: u64,
    end: u64,
    seed: [u8; 32],
    /// Where masking keys come from; servers have none (section 5.1).
    keys: Option<Box<Keys>>,
}

/// The masking keys of one connection: ChaCha12 keyed with its seed, word by word.
///
/// The generator makes 64 words at a time, and holds them in 320 bytes. While the task that drives the connection waits,
/// a few words are kept instead, so that one on which a message is sent now and then need not make 64 for each; the generator
/// stays where many were drawn since the wait before.
struct Keys {
    /// Words that were drawn from the generator up to the last wait, those in `spare` included.
    drawn: u64,
    /// What is left of them: the last `left`, which come before all that the generator makes.
    spare: [u32; SPARE],
    left: u8,
    /// Stands at `drawn`, but for what was drawn from it since the last wait. Only while `left` is 0.
    generator: Option<Box<ChaCha12Rng>>,
}

/// Words that are kept of a generator that is dropped.
const SPARE: usize = 8;
/// From so many words between two waits on, the generator is kept.
const BUSY: u64 = 32;

impl Keys {
    fn new() -> Self {
        Self { drawn: 0, spare: [0; SPARE], left: 0, generator: None }
    }

    #[inline]
    fn next_u32(&mut self, seed: &[u8; 32]) -> u32 {
        match &mut self.generator {
            Some(generator) => generator.next_u32(),
            None => self.next_spare(seed),
        }
    }

    #[inline(never)]
    fn next_spare(&mut self, seed: &[u8; 32]) -> u32 {
        if self.left > 0 {
            let word = self.spare[SPARE - usize::from(self.left)];
            self.left -= 1;
            return word;
        }
        let mut generator = ChaCha12Rng::from_seed(*seed);
        generator.set_word_pos(self.drawn.into());
        self.generator.insert(Box::new(generator)).next_u32()
    }

    #[inline]
    fn rest(&mut self) {
        if self.generator.is_some() {
            self.drop_generator();
        }
    }

    #[inline(never)]
    fn drop_generator(&mut self) {
        let before = self.drawn;
        let Some(generator) = &mut self.generator else { return };
        self.drawn = generator.get_word_pos() as u64; // a word a frame: they fit
        if self.drawn - before < BUSY {
            self.spare = std::array::from_fn(|_| generator.next_u32());
            self.left = SPARE as u8;
            self.drawn += SPARE as u64;
            self.generator = None;
        }
    }
}

impl fmt::Debug for Encoder {
    /// Without payload or keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Encoder")
            .field("written", &self.written)
            .field("end", &self.end)
            .field("masks", &self.keys.is_some())
            .finish_non_exhaustive()
    }
}

impl Encoder {
    /// The encoder of an endpoint in `role`: clients mask, servers do not (section 5.1).
    ///
    /// A client's masking keys grow out of `seed`, which has to come from a strong source: they must not be
    /// predictable (section 5.3). A server makes no use of it.
    #[must_use]
    pub fn new(role: Role, seed: [u8; 32]) -> Self {
        Self {
            buffer: Vec::new(),
            start: 0,
            filled: 0,
            large: Sparse::new(),
            piece: None,
            written: 0,
            end: 0,
            seed,
            keys: match role {
                Role::Client => Some(Box::new(Keys::new())),
                Role::Server => None,
            },
        }
    }

    /// Encodes a message, ping or pong in one frame. Returns the offset of its end.
    ///
    /// A ping or pong above 125 bytes would break section 5.5; to refuse it is the caller's part.
    #[inline]
    pub fn frame(&mut self, frame: Frame) -> u64 {
        debug_assert!(!frame.is_control() || frame.len() <= MAX_CONTROL);
        let first = FIN | frame.opcode().bits();
        self.encode(first, frame.into_payload())
    }

    /// [`frame`](Self::frame) for a message that is copied anyway; false for others, of which nothing is encoded.
    #[inline(always)]
    pub(crate) fn small_message(&mut self, frame: FrameRef<'_>) -> bool {
        if frame.opcode().is_control() || frame.payload().len() >= LARGE {
            return false;
        }
        self.encode_small(FIN | frame.opcode().bits(), frame.payload());
        true
    }

    /// What to write of a message at once, while nothing else waits: neither is it copied to the output buffer, nor is that
    /// buffer needed. [`take_offer`](Self::take_offer) has to follow. `None`: it is better encoded.
    #[inline(always)]
    pub(crate) fn offer<'a>(&mut self, frame: &'a Frame, head: &'a mut [u8; HEAD]) -> Option<[&'a [u8]; 2]> {
        debug_assert!(self.queued() == 0);
        let payload = frame.payload();
        let len = payload.len();
        let (copied, referred) = if len <= HEAD - MAX_HEADER { (len, 0) } else { (0, len) };
        if frame.is_control() || referred > 0 && (referred < LARGE || self.keys.is_some()) {
            return None;
        }
        let key = self.next_key();
        let header = put_header(head, FIN | frame.opcode().bits(), len, key);
        put_payload(key, &payload[..copied], &mut head[header..header + copied]);
        Some([&head[..header + copied], &payload[copied..]])
    }

    /// The transport has taken `n` bytes of an offer, which was of this frame; says whether that was all. The rest of it waits.
    #[inline]
    pub(crate) fn take_offer(&mut self, offer: [&[u8]; 2], frame: &Frame, n: usize) -> bool {
        let [head, large] = offer;
        debug_assert!(n <= head.len() + large.len(), "the transport took more than there was");
        self.end += n as u64;
        self.written += n as u64;
        let took_all = n >= head.len() + large.len();
        if !took_all {
            self.raw(&head[n.min(head.len())..]);
            if !large.is_empty() {
                self.raw_shared(frame.payload().slice(n.saturating_sub(head.len())..));
            }
        }
        took_all
    }

    /// As [`frame`](Self::frame), with what was encoded already where that will do: a server's.
    pub fn prepared(&mut self, frame: &PreparedFrame) -> u64 {
        match self.keys {
            None => self.raw_shared(frame.as_bytes().clone()),
            Some(_) => self.frame(frame.to_frame()),
        }
    }

    /// Encodes one fragment of a message: `opcode` is the message's in the first, `Continuation` in the others; `fin`
    /// marks the last (section 5.4). Returns the offset of its end. The order is the caller's part.
    pub fn fragment(&mut self, opcode: OpCode, fin: bool, payload: Bytes) -> u64 {
        debug_assert!(!opcode.is_control());
        self.encode(if fin { FIN } else { 0 } | opcode.bits(), payload)
    }

    /// Encodes a close frame; `None`: without a code (section 5.5.1). Returns the offset of its end.
    pub fn close(&mut self, close: Option<&CloseFrame>) -> u64 {
        let mut payload = [0; MAX_CONTROL];
        let mut room = &mut payload[..];
        if let Some(close) = close {
            close.encode(&mut room);
        }
        let len = MAX_CONTROL - room.len();
        self.encode_small(FIN | OpCode::Close.bits(), &payload[..len])
    }

    /// Appends bytes as they are, such as the head of a handshake. Returns the offset of their end.
    pub fn raw(&mut self, bytes: &[u8]) -> u64 {
        self.room(bytes.len())[..bytes.len()].copy_from_slice(bytes);
        self.fill(bytes.len())
    }

    /// [`raw`](Self::raw), by reference where that is worth it: the body of a response, which many connections may share.
    pub(crate) fn raw_shared(&mut self, bytes: Bytes) -> u64 {
        if bytes.len() < LARGE {
            return self.raw(&bytes);
        }
        self.end += bytes.len() as u64;
        self.large.push_back(Large { at: self.filled, payload: bytes, key: None });
        self.end
    }

    /// 16 unpredictable bytes for a client's handshake key (section 4.1), from the generator of the masking keys.
    /// Servers need none: theirs are zero.
    pub fn nonce(&mut self) -> [u8; 16] {
        let mut nonce = [0; 16];
        if let Some(keys) = &mut self.keys {
            nonce.chunks_exact_mut(4).for_each(|bytes| bytes.copy_from_slice(&keys.next_u32(&self.seed).to_le_bytes()));
        }
        nonce
    }

    /// The seed, of which stream 0 gives the masking keys.
    pub(crate) fn seed(&self) -> &[u8; 32] {
        &self.seed
    }

    /// Bytes that are encoded and not yet taken.
    #[inline]
    #[must_use]
    pub fn queued(&self) -> usize {
        // All of them are in memory, hence the difference fits.
        (self.end - self.written) as usize
    }

    /// The offset at which the next frame starts: all bytes that were ever encoded.
    #[inline]
    #[must_use]
    pub fn end(&self) -> u64 {
        self.end
    }

    /// The offset up to which bytes were taken.
    #[inline]
    #[must_use]
    pub fn written(&self) -> u64 {
        self.written
    }

    /// What to write next.
    #[inline]
    #[must_use]
    pub fn transmit(&self) -> Transmit<'_> {
        Transmit { encoder: self }
    }

    /// The first `n` bytes of [`transmit`](Self::transmit) were taken. More than there are count as all of them.
    pub fn advance(&mut self, n: usize) {
        self.take(n);
        self.release_if_empty();
    }

    /// [`advance`](Self::advance) that may keep a small buffer for what comes next, until [`rest`](Self::rest) or
    /// [`release_if_empty`](Self::release_if_empty); says whether `n` was all that was shown.
    pub(crate) fn take(&mut self, n: usize) -> bool {
        debug_assert!(n <= self.queued(), "the transport took more than there was");
        let in_pieces = self.keys.is_some() && !self.large.is_empty();
        let shown = if in_pieces { self.transmit().iter().map(<[u8]>::len).sum() } else { self.queued() };
        let took_all = n >= shown;
        let mut n = n.min(self.queued());
        self.written += n as u64;
        if self.written == self.end {
            self.emptied();
            return took_all;
        }
        while n > 0 {
            let until = self.large.front().map_or(self.filled, |large| large.at);
            let taken = n.min(until - self.start);
            self.start += taken;
            n -= taken;
            if let Some(Large { payload, key, .. }) = self.large.front_mut() {
                let piece = self.piece.as_deref_mut().filter(|_| key.is_some());
                let taken = n.min(piece.as_ref().map_or(payload.len(), |piece| piece.waits().len()));
                payload.advance(taken);
                n -= taken;
                if let Some(piece) = piece {
                    piece.start += taken;
                }
                if payload.is_empty() && self.start == until {
                    self.large.pop_front();
                }
                self.fill_piece();
            }
        }
        took_all
    }

    /// Masks the next piece of what is at the front, if it leaves in pieces and what was masked of it has left.
    fn fill_piece(&mut self) {
        let Some(Large { key: Some(key), payload, .. }) = self.large.front() else { return };
        let piece = self.piece.get_or_insert_default();
        if piece.waits().is_empty() {
            piece.fill(*key, payload);
        }
    }

    /// Drops what is not yet taken; offsets go on from [`written`](Self::written).
    pub fn clear(&mut self) {
        self.end = self.written;
        self.emptied();
        self.release_if_empty();
    }

    /// Everything is taken: hold no payload, and no large buffer.
    fn emptied(&mut self) {
        (self.start, self.filled) = (0, 0);
        self.large.clear();
        if let Some(piece) = &mut self.piece {
            piece.end = piece.start;
        }
        if self.buffer.len() > BUFFER {
            self.release_if_empty();
        }
    }

    /// Nothing waits: the buffer goes back to the pool, unless it is too small for that.
    #[inline]
    pub(crate) fn release_if_empty(&mut self) {
        if self.filled == 0 && self.buffer.len() > HEADERS {
            self.release();
        }
    }

    #[inline(never)]
    fn release(&mut self) {
        pool::give_output(std::mem::take(&mut self.buffer));
    }

    /// Nothing will be encoded soon: no buffer and no room for what is large are held, and of the masking keys no more than where
    /// the next comes from, unless many were drawn lately.
    #[inline]
    pub(crate) fn rest(&mut self) {
        if self.filled == 0 && !self.buffer.is_empty() {
            self.release_if_empty();
            self.buffer = Vec::new();
        }
        self.large.rest();
        self.piece.take_if(|piece| piece.waits().is_empty());
        if let Some(keys) = &mut self.keys {
            keys.rest();
        }
    }

    #[inline]
    fn encode(&mut self, first: u8, payload: Bytes) -> u64 {
        if payload.len() < LARGE { self.encode_small(first, &payload) } else { self.encode_large(first, payload) }
    }

    /// Header and payload go to the buffer; masked in the same pass.
    #[inline]
    fn encode_small(&mut self, first: u8, payload: &[u8]) -> u64 {
        let key = self.next_key();
        let room = self.room(MAX_HEADER + payload.len());
        let header = put_header(room, first, payload.len(), key);
        put_payload(key, payload, &mut room[header..header + payload.len()]);
        self.fill(header + payload.len())
    }

    /// A client's, for one frame.
    #[inline(always)]
    fn next_key(&mut self) -> Option<[u8; KEY]> {
        self.keys.as_mut().map(|keys| keys.next_u32(&self.seed).to_le_bytes())
    }

    /// The header goes to the buffer, the payload beside it. A client masks it where it is if no one else has a part
    /// in it, else in a copy, as it leaves.
    #[inline(never)]
    fn encode_large(&mut self, first: u8, payload: Bytes) -> u64 {
        if self.keys.is_some() && payload.len() <= LARGE_SHARED && !payload.is_unique() {
            return self.encode_small(first, &payload);
        }
        let key = self.next_key();
        if self.buffer.is_empty() {
            self.buffer = vec![0; HEADERS];
        }
        let header = put_header(self.room(MAX_HEADER), first, payload.len(), key);
        let (payload, key) = match key {
            None => (payload, None),
            Some(key) => match payload.try_into_mut() {
                Ok(mut payload) => {
                    mask::apply_mask(key, 0, &mut payload);
                    (payload.freeze(), None)
                }
                Err(payload) => (payload, Some(key)),
            },
        };
        self.fill(header);
        self.end += payload.len() as u64;
        self.large.push_back(Large { at: self.filled, payload, key });
        if key.is_some() {
            self.fill_piece();
        }
        self.end
    }

    /// The free part of the buffer, at least `len` bytes of it.
    #[inline]
    fn room(&mut self, len: usize) -> &mut [u8] {
        if self.buffer.len() - self.filled < len {
            self.grow(len);
        }
        &mut self.buffer[self.filled..]
    }

    /// Makes room for `len` bytes: a buffer from the pool, by moving what waits to the front, or by growing.
    #[cold]
    #[inline(never)]
    fn grow(&mut self, len: usize) {
        if self.buffer.is_empty() {
            self.buffer = pool::output();
        }
        // Move only what is less than what it makes room for, so that each byte is moved once on average.
        if self.start > self.filled / 2 {
            self.buffer.copy_within(self.start..self.filled, 0);
            self.filled -= self.start;
            for large in self.large.iter_mut() {
                large.at -= self.start;
            }
            self.start = 0;
        }
        let needed = self.filled.saturating_add(len);
        if self.buffer.len() < needed {
            self.buffer.resize(needed.max(self.buffer.len().saturating_mul(2)).max(BUFFER), 0);
        }
    }

    /// The first `len` bytes of the free part are filled now.
    #[inline]
    fn fill(&mut self, len: usize) -> u64 {
        self.filled += len;
        self.end += len as u64;
        self.end
    }
}

/// A small payload behind its header, masked in the same pass.
#[inline]
fn put_payload(key: Option<[u8; KEY]>, payload: &[u8], out: &mut [u8]) {
    match key {
        Some(key) => mask::copy_masked(key, payload, out),
        None => out.copy_from_slice(payload),
    }
}

/// What an [`Encoder`] has to write next, in order.
#[derive(Clone, Copy, Debug)]
pub struct Transmit<'a> {
    encoder: &'a Encoder,
}

impl<'a> Transmit<'a> {
    /// Whether there is nothing to write.
    #[inline]
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes that wait, all together. [`iter`](Self::iter) may have less, but never nothing: the rest comes behind an
    /// [`advance`](Encoder::advance).
    #[inline]
    #[must_use]
    pub fn len(&self) -> usize {
        self.encoder.queued()
    }

    /// The pieces, none of them empty. The last may be the beginning of a large payload that is masked as it leaves.
    #[inline]
    pub fn iter(&self) -> impl Iterator<Item = &'a [u8]> + use<'a> {
        let encoder = self.encoder;
        Pieces { encoder, start: encoder.start, large: 0, payload: &[], ended: false }
    }

    /// All of it, if that is one piece of the buffer.
    #[inline]
    pub(crate) fn contiguous(&self) -> Option<&'a [u8]> {
        let Encoder { buffer, start, filled, large, .. } = self.encoder;
        if large.is_empty() { buffer.get(*start..*filled) } else { None }
    }

    /// Puts the first pieces into `slices`, as many as fit, and returns their number.
    pub fn fill<'b>(&self, slices: &mut [IoSlice<'b>]) -> usize
    where
        'a: 'b,
    {
        let mut filled = 0;
        for (slice, piece) in slices.iter_mut().zip(self.iter()) {
            *slice = IoSlice::new(piece);
            filled += 1;
        }
        filled
    }
}

/// See [`Transmit::iter`]: by turns of the buffer and of what is queued beside it.
struct Pieces<'a> {
    encoder: &'a Encoder,
    /// What comes next of the buffer,
    start: usize,
    /// and beside it.
    large: usize,
    /// Comes before both.
    payload: &'a [u8],
    /// Nothing but that comes any more.
    ended: bool,
}

impl<'a> Iterator for Pieces<'a> {
    type Item = &'a [u8];

    #[inline]
    fn next(&mut self) -> Option<&'a [u8]> {
        loop {
            let payload = std::mem::take(&mut self.payload);
            if !payload.is_empty() {
                return Some(payload);
            }
            if self.ended {
                return None;
            }
            let Encoder { buffer, filled, large, piece, .. } = self.encoder;
            let end = match large.get(self.large) {
                None => {
                    self.ended = true;
                    *filled
                }
                Some(Large { at, payload, key }) => {
                    self.large += 1;
                    self.payload = payload;
                    if key.is_some() {
                        // Nothing goes behind it before its end. There is a piece of the one at the front alone.
                        let is_front = self.large == 1;
                        let piece = piece.as_ref().filter(|_| is_front).map_or(&[][..], |piece| piece.waits());
                        (self.payload, self.ended) = (piece, true);
                    }
                    *at
                }
            };
            let piece = &buffer[self.start..end];
            self.start = end;
            if !piece.is_empty() {
                return Some(piece);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{CloseCode, FrameHeader};
    use proptest::prelude::*;
    use rand::Rng;
    use std::collections::HashSet;

    fn server() -> Encoder {
        Encoder::new(Role::Server, [0; 32])
    }

    fn client() -> Encoder {
        Encoder::new(Role::Client, [7; 32])
    }

    fn pending(encoder: &Encoder) -> Vec<u8> {
        encoder.transmit().iter().collect::<Vec<_>>().concat()
    }

    fn taken(encoder: &mut Encoder) -> Vec<u8> {
        let mut all = Vec::new();
        while !encoder.transmit().is_empty() {
            let bytes = pending(encoder);
            assert!(!bytes.is_empty(), "there is always something to write");
            encoder.advance(bytes.len());
            all.extend(bytes);
        }
        all
    }

    /// The header of the frame at the front, its payload unmasked, and what comes after it.
    fn split(bytes: &[u8]) -> (FrameHeader, Vec<u8>, &[u8]) {
        let (header, start) = FrameHeader::decode(bytes).unwrap().unwrap();
        let end = start + header.payload_len as usize;
        let mut payload = bytes[start..end].to_vec();
        mask::apply_mask(header.masking_key.unwrap_or_default(), 0, &mut payload);
        (header, payload, &bytes[end..])
    }

    /// Section 5.7.
    #[test]
    fn the_examples_of_the_rfc() {
        let mut server = server();
        server.frame(Frame::text("Hello"));
        assert_eq!(taken(&mut server), [0x81, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F]);
        server.fragment(OpCode::Text, false, Bytes::from_static(b"Hel"));
        server.fragment(OpCode::Continuation, true, Bytes::from_static(b"lo"));
        assert_eq!(taken(&mut server), [0x01, 0x03, 0x48, 0x65, 0x6C, 0x80, 0x02, 0x6C, 0x6F]);
        server.frame(Frame::ping("Hello"));
        assert_eq!(taken(&mut server), [0x89, 0x05, 0x48, 0x65, 0x6C, 0x6C, 0x6F]);
        server.frame(Frame::binary(vec![1; 256]));
        assert_eq!(taken(&mut server)[..5], [0x82, 0x7E, 0x01, 0x00, 1]);
        server.frame(Frame::binary(vec![1; 65536]));
        assert_eq!(taken(&mut server)[..11], [0x82, 0x7F, 0, 0, 0, 0, 0, 1, 0, 0, 1]);
        server.close(Some(&CloseFrame::new(CloseCode::NORMAL, "bye").unwrap()));
        server.close(None);
        assert_eq!(taken(&mut server), [0x88, 0x05, 0x03, 0xE8, 0x62, 0x79, 0x65, 0x88, 0x00]);
    }

    #[test]
    fn a_prepared_frame_goes_out_like_the_frame_itself_at_the_same_offsets() {
        let frame = Frame::text("Hello");
        let prepared = PreparedFrame::new(&frame).unwrap();
        for new in [server, client] {
            let (mut one, mut other) = (new(), new());
            for _ in 0..2 {
                assert_eq!(one.prepared(&prepared), other.frame(frame.clone()));
            }
            assert_eq!(taken(&mut one), taken(&mut other));
        }
    }

    #[test]
    fn its_debug_output_tells_the_offsets_and_no_payload() {
        let mut encoder = client();
        encoder.raw(b"secret");
        let shown = format!("{encoder:?}");
        assert!(shown.contains("written: 0") && shown.contains("end: 6"), "{shown}");
        assert!(!shown.contains("secret"), "{shown}");
    }

    #[test]
    fn clients_mask_every_kind_of_frame() {
        let mut client = client();
        client.frame(Frame::text("Hello"));
        client.frame(Frame::pong(""));
        client.fragment(OpCode::Binary, false, Bytes::from_static(b"ab"));
        client.close(Some(&CloseFrame::new(CloseCode::NORMAL, "bye").unwrap()));
        client.close(None);
        let bytes = taken(&mut client);
        let mut rest = &bytes[..];
        for expected in [&b"Hello"[..], b"", b"ab", b"\x03\xE8bye", b""] {
            let (header, payload, after) = split(rest);
            assert!(header.masking_key.is_some());
            assert_eq!(payload, expected);
            rest = after;
        }
        assert!(rest.is_empty());
    }

    #[test]
    fn hazard_20_every_frame_has_a_key_of_its_own() {
        let mut client = client();
        let mut keys = HashSet::new();
        for _ in 0..100_000 {
            client.frame(Frame::binary(""));
            let bytes = taken(&mut client);
            keys.insert(<[u8; 4]>::try_from(&bytes[2..]).unwrap());
        }
        // A few of so many are equal by chance.
        assert!(keys.len() > 99_900);
        assert_ne!(Encoder::new(Role::Client, [1; 32]).nonce(), Encoder::new(Role::Client, [2; 32]).nonce());
    }

    #[test]
    fn keys_are_the_words_of_one_generator_however_often_it_is_dropped() {
        let mut generator = ChaCha12Rng::from_seed([7; 32]);
        let mut keys = Keys::new();
        for words in (0..100).chain([1, 64, 65]) {
            for _ in 0..words {
                assert_eq!(keys.next_u32(&[7; 32]), generator.next_u32());
            }
            keys.rest();
            let is_kept = keys.generator.is_some();
            assert!(if words < BUSY { !is_kept } else { is_kept || words < BUSY + SPARE as u64 }, "{words} words");
            if words == 65 {
                keys.rest();
                assert!(keys.generator.is_none(), "nothing was sent any more");
            }
        }
    }

    #[test]
    fn a_client_at_rest_holds_no_generator() {
        let mut client = client();
        client.frame(Frame::text("one"));
        assert!(client.keys.as_ref().is_some_and(|keys| keys.generator.is_some()));
        client.rest();
        assert!(client.keys.is_some_and(|keys| keys.generator.is_none()));
    }

    #[test]
    fn all_lengths_around_the_boundaries_are_encoded_in_both_roles() {
        for len in [0, 1, 15, 16, 17, 125, 126, 127, LARGE - 1, LARGE, LARGE + 1, 65535, 65536, 200_000] {
            let plain: Vec<u8> = (0..len).map(|i| (i % 251) as u8).collect();
            for mut encoder in [server(), client()] {
                let shared = Bytes::from(plain.clone());
                encoder.frame(Frame::binary(shared.clone()));
                let end = encoder.frame(Frame::binary(plain.clone()));
                assert_eq!(end, encoder.queued() as u64);
                let bytes = taken(&mut encoder);
                let (first, payload, rest) = split(&bytes);
                assert_eq!((first.payload_len, &payload), (len as u64, &plain));
                let (_, payload, rest) = split(rest);
                assert_eq!((&payload, rest.len()), (&plain, 0));
                assert_eq!(shared, plain, "a payload that is shared is not touched");
            }
        }
    }

    #[test]
    fn large_payloads_are_not_copied() {
        let payload = Bytes::from(vec![1; LARGE]);
        let mut server = server();
        server.frame(Frame::binary(payload.clone()));
        assert_eq!(server.transmit().iter().nth(1).unwrap().as_ptr(), payload.as_ptr());

        let small = Bytes::from(vec![1; LARGE - 1]);
        let mut server = self::server();
        server.frame(Frame::binary(small));
        assert_eq!(server.transmit().iter().count(), 1, "small ones are, beside their header");

        let owned = Bytes::from(vec![1; LARGE]);
        let address = owned.as_ptr();
        let mut client = client();
        client.frame(Frame::binary(owned));
        assert_eq!(client.transmit().iter().nth(1).unwrap().as_ptr(), address);
    }

    /// Up to 64 KiB to the output buffer, which is used again.
    #[test]
    fn a_client_masks_a_payload_that_others_share_in_a_copy() {
        for (len, pieces) in [(LARGE, 1), (LARGE_SHARED, 1), (LARGE_SHARED + 1, 2)] {
            let shared = Bytes::from(vec![1; len]);
            let mut client = client();
            client.frame(Frame::binary(shared.clone()));
            assert_eq!(client.transmit().iter().count(), pieces, "{len} bytes");
            assert!(client.transmit().iter().all(|piece| !shared.as_ptr_range().contains(&piece.as_ptr())));
        }
    }

    /// Never so much as a second copy of it, and nothing behind it before its end.
    #[test]
    fn a_payload_that_others_share_is_masked_as_it_leaves() {
        let plain: Vec<u8> = (0..2 * PIECE + 100).map(|i| (i % 251) as u8).collect();
        let shared = Bytes::from(plain);
        let lens = [LARGE_SHARED + 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 100];
        for step in [1000, PIECE, 3 * PIECE] {
            let mut encoder = client();
            for len in lens {
                encoder.frame(Frame::text("between"));
                encoder.frame(Frame::binary(shared.slice(..len)));
                encoder.frame(Frame::binary(vec![1; LARGE]));
            }
            let mut bytes = Vec::new();
            while !encoder.transmit().is_empty() {
                let mut next = pending(&encoder);
                assert!(!next.is_empty() && next.len() <= PIECE + 2 * LARGE, "{} bytes", next.len());
                next.truncate(step);
                encoder.advance(next.len());
                bytes.extend(next);
            }
            let mut rest = &bytes[..];
            for len in lens {
                for expected in [&b"between"[..], &shared[..len], &[1; LARGE]] {
                    let (_, payload, behind) = split(rest);
                    assert!(payload == expected, "{len} bytes by {step}");
                    rest = behind;
                }
            }
            assert!(rest.is_empty());
            assert!(encoder.piece.as_ref().is_some_and(|piece| piece.bytes.len() == PIECE));
            encoder.rest();
            assert!(encoder.piece.is_none(), "at rest no room is held for a piece");
        }
    }

    /// However it is taken, and what is shown and not taken is shown again: TLS may have seen it.
    #[test]
    fn what_is_shown_stays_as_it_is_until_it_is_taken() {
        let mut dice = ChaCha12Rng::from_seed([3; 32]);
        let mut below = |most: usize| dice.next_u32() as usize % most;
        let shared = Bytes::from((0..5 * PIECE).map(|i| (i * 7 % 251) as u8).collect::<Vec<u8>>());
        for round in 0..100 {
            let mut encoder = if round % 4 == 0 { server() } else { client() };
            let (mut bytes, mut expected, mut shown) = (Vec::new(), Vec::new(), Vec::new());
            for step in 0.. {
                if step < 60 && below(3) == 0 {
                    let most = [200, 10_000, 70_000, PIECE + 10, 4 * PIECE][below(5)];
                    let len = below(most + 1);
                    let payload = shared.slice(below(PIECE)..).slice(..len);
                    expected.push(payload.clone());
                    match below(3) {
                        0 => encoder.frame(Frame::Binary(payload)),
                        1 => encoder.frame(Frame::binary(payload.to_vec())),
                        _ => encoder.prepared(&PreparedFrame::new(&Frame::Binary(payload)).unwrap()),
                    };
                }
                if below(4) == 0 {
                    encoder.rest();
                }
                let now = pending(&encoder);
                assert!(now.starts_with(&shown), "what was shown has changed");
                assert_eq!(now.is_empty(), encoder.transmit().is_empty());
                if now.is_empty() && step >= 60 {
                    break;
                }
                let most = [1, 3, 1000, 50_000, PIECE, now.len()][below(6)].min(now.len());
                let n = if step < 60 { below(most + 1) } else { now.len() };
                assert_eq!(encoder.take(n), n == now.len(), "whether all that was shown was taken");
                bytes.extend_from_slice(&now[..n]);
                shown = now[n..].to_vec();
            }
            let mut rest = &bytes[..];
            for payload in &expected {
                let (_, arrived, behind) = split(rest);
                assert!(arrived == *payload, "round {round}");
                rest = behind;
            }
            assert!(rest.is_empty());
        }
    }

    #[test]
    fn what_leaves_in_pieces_may_be_dropped_on_its_way() {
        let shared = Bytes::from(vec![7; 3 * PIECE]);
        let mut encoder = client();
        encoder.frame(Frame::binary(shared.clone()));
        encoder.advance(PIECE + 1000);
        encoder.clear();
        encoder.frame(Frame::text("behind"));
        encoder.frame(Frame::binary(shared.clone()));
        encoder.rest();
        let bytes = taken(&mut encoder);
        let (_, text, rest) = split(&bytes);
        let (_, payload, rest) = split(rest);
        assert!(text == b"behind" && payload == shared && rest.is_empty());
    }

    #[test]
    fn shared_bytes_go_out_as_they_are_and_large_ones_by_reference() {
        for (len, copied) in [(0, true), (1, true), (LARGE - 1, true), (LARGE, false), (LARGE + 1, false)] {
            let body = Bytes::from(vec![b'x'; len]);
            let mut encoder = server();
            assert_eq!(encoder.raw(b"head"), 4);
            assert_eq!(encoder.raw_shared(body.clone()), 4 + len as u64);
            assert_eq!(encoder.raw(b"tail"), 8 + len as u64);
            let referred = encoder.transmit().iter().any(|piece| piece.as_ptr() == body.as_ptr());
            assert_eq!(referred, !copied, "{len} bytes");
            assert_eq!(taken(&mut encoder), [b"head", &body[..], b"tail"].concat());
        }
    }

    #[test]
    fn at_rest_it_holds_nothing() {
        let mut encoder = client();
        encoder.frame(Frame::text("a"));
        encoder.frame(Frame::binary(vec![0; LARGE]));
        assert!(!encoder.transmit().is_empty());
        encoder.advance(encoder.queued());
        assert_eq!((encoder.buffer.capacity(), encoder.large.len()), (0, 0), "neither buffer nor payload");
        assert!(encoder.transmit().is_empty());
        encoder.rest();
        assert_eq!(encoder.large.capacity(), 0);
    }

    #[test]
    fn clear_drops_what_is_not_taken() {
        let mut encoder = server();
        encoder.raw(b"0123456789");
        encoder.frame(Frame::binary(vec![0; LARGE]));
        encoder.advance(4);
        encoder.clear();
        assert_eq!((encoder.written(), encoder.end(), encoder.queued()), (4, 4, 0));
        assert_eq!(encoder.raw(b"ab"), 6);
        assert_eq!(pending(&encoder), b"ab");
    }

    #[test]
    fn a_buffer_that_never_empties_does_not_grow() {
        let mut encoder = server();
        encoder.raw(&[0; 100]);
        for _ in 0..10_000 {
            encoder.raw(&[0; 100]);
            encoder.advance(100);
        }
        assert_eq!(encoder.buffer.len(), BUFFER);
    }

    #[test]
    fn what_waits_is_moved_only_to_make_room_for_more_than_it_is() {
        for (taken, start, len) in [(100, 100, 2 * BUFFER), (BUFFER - 100, 0, BUFFER)] {
            let mut encoder = server();
            encoder.raw(&[0; BUFFER]);
            encoder.advance(taken);
            encoder.raw(&vec![0; taken]);
            assert_eq!((encoder.start, encoder.buffer.len()), (start, len), "of {BUFFER} bytes {taken} are taken");
        }
    }

    #[test]
    fn slices_are_filled_in_order_as_far_as_they_go() {
        let mut encoder = server();
        for _ in 0..2 {
            encoder.frame(Frame::binary(vec![0; LARGE]));
        }
        let mut slices = [IoSlice::new(&[]); 8];
        assert_eq!(encoder.transmit().fill(&mut slices), 4);
        assert_eq!(slices.map(|slice| slice.len()), [4, LARGE, 4, LARGE, 0, 0, 0, 0]);
        assert_eq!(encoder.transmit().fill(&mut slices[..3]), 3);
    }

    proptest! {
        #[test]
        fn bytes_leave_in_order_however_they_are_taken(
            ops in prop::collection::vec((0usize..4, prop_oneof![0usize..300, LARGE - 2..LARGE + 3], 0usize..20_000), 1..60),
        ) {
            let mut encoder = server();
            let (mut expected, mut left) = (Vec::new(), Vec::new());
            for (i, (op, len, n)) in ops.into_iter().enumerate() {
                let payload = vec![i as u8; len];
                match op {
                    0 => {
                        expected.extend_from_slice(&payload);
                        encoder.raw(&payload);
                    }
                    1 | 2 => {
                        let header = FrameHeader {
                            fin: true,
                            rsv: Default::default(),
                            opcode: OpCode::Binary,
                            masking_key: None,
                            payload_len: len as u64,
                        };
                        header.encode(&mut expected);
                        expected.extend_from_slice(&payload);
                        encoder.frame(Frame::binary(payload));
                    }
                    _ => {
                        let n = n.min(encoder.queued());
                        left.extend_from_slice(&pending(&encoder)[..n]);
                        encoder.advance(n);
                    }
                }
                prop_assert_eq!(encoder.end(), expected.len() as u64);
                prop_assert_eq!(encoder.written(), left.len() as u64);
                prop_assert_eq!(encoder.transmit().len(), pending(&encoder).len());
            }
            left.extend(taken(&mut encoder));
            prop_assert_eq!(left, expected);
        }
    }
}
