//! The guide's rules, each by tests that bear its number: the real driver on the simulated runtime.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

mod callbacks;
mod cancel;
mod closing;
mod common;
mod ends;
mod join;
mod lent;
mod liveness;
mod messages;
mod names;
mod options;
mod reconnecting;
mod sending;
mod states;
mod stats;
mod stuck;
mod windows;
