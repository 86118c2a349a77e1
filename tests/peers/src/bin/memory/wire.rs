//! The transport of a library under test: what a peer has sent, over and over, and a place for what is sent to it.
//!
//! It is always ready, and copies in both directions, as a kernel would. It is a stream for blocking I/O, for tokio and for
//! futures-io alike.

use std::io::{self, IoSlice, Read, Write};
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex};
use std::task::{Context, Poll};

use tokio::io::ReadBuf;

/// What one write is copied into, piece by piece.
const SINK: usize = 64 * 1024;

/// What has been written, as its reader sees it.
#[derive(Default)]
pub struct Written {
    bytes: AtomicU64,
    calls: AtomicU64,
    keeps: AtomicBool,
    kept: Mutex<Vec<u8>>,
}

impl Written {
    /// Bytes, and calls that wrote any.
    pub fn totals(&self) -> (u64, u64) {
        (self.bytes.load(Relaxed), self.calls.load(Relaxed))
    }

    /// Keeps what is written from now on.
    pub fn keep(&self) {
        self.keeps.store(true, Relaxed);
    }

    /// What has been kept; no more is.
    pub fn take_kept(&self) -> Vec<u8> {
        self.keeps.store(false, Relaxed);
        std::mem::take(&mut self.kept.lock().expect("nobody panics with it"))
    }

    /// One thread writes: no addition that others have to see at once.
    fn count(&self, bytes: usize) {
        self.bytes.store(self.bytes.load(Relaxed) + bytes as u64, Relaxed);
        self.calls.store(self.calls.load(Relaxed) + 1, Relaxed);
    }
}

pub struct Wire {
    incoming: Arc<[u8]>,
    at: usize,
    /// The most that one read gives.
    read: usize,
    sink: Box<[u8]>,
    written: Arc<Written>,
}

impl Wire {
    /// Gives these bytes, which begin anew at their end, in reads of at most `read`.
    pub fn new(incoming: Arc<[u8]>, read: usize) -> Self {
        Self { incoming, at: 0, read, sink: vec![0; SINK].into(), written: Arc::default() }
    }

    pub fn written(&self) -> Arc<Written> {
        self.written.clone()
    }

    /// The bytes of one read into a buffer with so much room.
    pub fn give(&mut self, room: usize) -> &[u8] {
        let length = room.min(self.read).min(self.incoming.len() - self.at);
        let start = self.at;
        self.at = (start + length) % self.incoming.len().max(1);
        &self.incoming[start..start + length]
    }

    fn copy(&mut self, bytes: &[u8]) {
        for piece in bytes.chunks(SINK) {
            self.sink[..piece.len()].copy_from_slice(piece);
        }
        if self.written.keeps.load(Relaxed) {
            self.written.kept.lock().expect("nobody panics with it").extend_from_slice(bytes);
        }
    }

    /// One write: all is taken.
    pub fn accept<'a>(&mut self, slices: impl Iterator<Item = &'a [u8]>) -> usize {
        let mut length = 0;
        for slice in slices {
            self.copy(slice);
            length += slice.len();
        }
        self.written.count(length);
        length
    }
}

impl Read for Wire {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let bytes = self.give(buffer.len());
        buffer[..bytes.len()].copy_from_slice(bytes);
        Ok(bytes.len())
    }
}

impl Write for Wire {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        Ok(self.accept(std::iter::once(bytes)))
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(self.accept(slices.iter().map(|slice| &**slice)))
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl tokio::io::AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        buffer.put_slice(self.give(buffer.remaining()));
        Poll::Ready(Ok(()))
    }
}

impl tokio::io::AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write_vectored(slices))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

impl futures_util::AsyncRead for Wire {
    fn poll_read(mut self: Pin<&mut Self>, _: &mut Context<'_>, buffer: &mut [u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.read(buffer))
    }
}

impl futures_util::AsyncWrite for Wire {
    fn poll_write(mut self: Pin<&mut Self>, _: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write(bytes))
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(self.write_vectored(slices))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_close(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_are_cut_at_the_end_which_is_where_it_begins_anew() {
        let mut wire = Wire::new(Arc::from(&b"abcde"[..]), 4);
        assert_eq!(wire.give(3), b"abc");
        assert_eq!(wire.give(9), b"de");
        assert_eq!(wire.give(9), b"abcd");
    }

    #[test]
    fn writes_are_counted_and_kept_on_demand() {
        let mut wire = Wire::new(Arc::from(&b""[..]), 1);
        let written = wire.written();
        wire.write_all(b"not kept").unwrap();
        written.keep();
        wire.accept([&b"a"[..], b"bc"].into_iter());
        assert_eq!(written.totals(), (11, 2));
        assert_eq!(written.take_kept(), b"abc");
        assert_eq!(written.take_kept(), b"");
    }
}
