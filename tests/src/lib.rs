//! What the behaviour tests share: certificates, peers, and transports by hand.

pub mod ca;
pub mod io;
