//! Frames on the wire: RFC 6455, section 5.
//!
//! [`Decoder`] and [`Encoder`] are the two halves of a connection's data path. [`FrameHeader`] and [`apply_mask`]
//! serve who wants frames and nothing else.

mod chunk;
mod close;
mod decoder;
mod encoder;
mod error;
mod frame;
mod header;
mod mask;
mod opcode;
mod prepared;
mod queue;
mod utf8;

pub use chunk::Chunk;
pub use close::{CloseCode, CloseFrame, CloseFrameError};
pub use decoder::{Decoder, End};
pub(crate) use encoder::HEAD;
pub use encoder::{Encoder, Transmit};
pub use error::FrameError;
pub use frame::{Frame, FrameRef, Utf8Bytes};
pub(crate) use header::MAX_CONTROL;
pub use header::{FrameHeader, Rsv};
pub use mask::apply_mask;
pub use opcode::OpCode;
pub use prepared::PreparedFrame;
pub(crate) use queue::{Lent, Queue};
pub use utf8::Utf8Validator;
