//! Frames on the wire: RFC 6455, section 5.
//!
//! [`FrameHeader`] and [`apply_mask`] serve who wants frames and nothing else.

mod close;
mod error;
mod frame;
mod header;
mod mask;
mod opcode;
mod utf8;

pub use close::{CloseCode, CloseFrame, CloseFrameError};
pub use error::FrameError;
pub use frame::{Frame, Utf8Bytes};
pub use header::{FrameHeader, Rsv};
pub use mask::apply_mask;
pub use opcode::OpCode;
pub use utf8::Utf8Validator;
