//! What the behaviour tests share: certificates, transports by hand, peers by hand.

pub mod ca;
pub mod io;
pub mod raw;
