//! A [`Transport`] used by hand, without a driver.

use std::future::poll_fn;
use std::io::{self, IoSlice};

use bytes::BytesMut;
use parley_proto::driver::Transport;

/// One read into `window`; 0 is the end.
///
/// # Errors
///
/// The transport's.
pub async fn read(transport: &mut impl Transport, window: &mut BytesMut) -> io::Result<usize> {
    poll_fn(|cx| transport.poll_read(cx, window)).await
}

/// Reads until `len` bytes are there.
///
/// # Errors
///
/// The transport's; `UnexpectedEof` where it ends before.
pub async fn read_exact(transport: &mut impl Transport, len: usize) -> io::Result<BytesMut> {
    let mut got = BytesMut::new();
    while got.len() < len {
        got.reserve(len - got.len());
        if read(transport, &mut got).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(got)
}

/// Writes all of the slices and flushes.
///
/// # Errors
///
/// The transport's; `WriteZero` where it takes nothing.
pub async fn write_all(transport: &mut impl Transport, mut slices: &mut [IoSlice<'_>]) -> io::Result<()> {
    IoSlice::advance_slices(&mut slices, 0);
    while !slices.is_empty() {
        match poll_fn(|cx| transport.poll_write(cx, slices)).await? {
            0 => return Err(io::ErrorKind::WriteZero.into()),
            n => IoSlice::advance_slices(&mut slices, n),
        }
    }
    poll_fn(|cx| transport.poll_flush(cx)).await
}

/// Ends the outgoing direction.
///
/// # Errors
///
/// The transport's.
pub async fn shutdown(transport: &mut impl Transport) -> io::Result<()> {
    poll_fn(|cx| transport.poll_shutdown(cx)).await
}
