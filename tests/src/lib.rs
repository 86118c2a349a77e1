//! What the behaviour tests share: certificates, transports by hand, peers by hand, a simulated runtime.

pub mod ca;
pub mod io;
pub mod raw;
pub mod sim;
