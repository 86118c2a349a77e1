//! What the tests share: certificates, transports by hand, peers by hand and by the library, a handler that tells what
//! it sees, and a simulated runtime.
//!
//! `scenarios` is no module here: each runtime's test includes it, see there.

pub mod ca;
mod dice;
pub mod echo;
#[cfg(doctest)]
pub mod guide;
pub mod io;
pub mod peers;
pub mod raw;
pub mod recorder;
pub mod sim;
pub mod soak;

/// The examples of the README are tests too.
#[cfg(doctest)]
#[doc = include_str!("../../README.md")]
pub struct Readme;

/// And those of the crates' own.
#[cfg(doctest)]
#[doc = include_str!("../../parley-proto/README.md")]
pub struct ReadmeOfProto;

/// …
#[cfg(doctest)]
#[doc = include_str!("../../parley-tokio/README.md")]
pub struct ReadmeOfTokio;

/// …
#[cfg(doctest)]
#[doc = include_str!("../../parley-async-std/README.md")]
pub struct ReadmeOfAsyncStd;
