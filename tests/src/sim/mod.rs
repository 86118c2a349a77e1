//! The test kit of the library, `parley_proto::testing`, and what our own tests add to it.
//!
//! ```text
//! world      the kit's `Sim` with clients by their options, and peers byte by byte (see `raw`)
//! stream     a simulated connection as a stream in tokio's terms
//! server     the server role of `Connection`, driven by hand: nothing happens there unless a test waits for it
//! tls        the same platform with real TLS over the links
//! probe      a handler that writes each callback into the journal and answers as it was told
//! seeds      all of it at random, one world a seed, with the guide's rules checked
//! ```
//!
//! ```
//! use std::time::Duration;
//! use parley_tests::sim::Sim;
//!
//! Sim::new().run(async |sim| {
//!     let task = sim.spawn({
//!         let sim = sim.clone();
//!         async move { sim.sleep(Duration::from_secs(3600)).await }
//!     });
//!     task.await;
//!     assert_eq!(sim.elapsed(), Duration::from_secs(3600));
//! });
//! ```

mod probe;
pub mod seeds;
mod server;
mod stream;
mod tls;
mod world;

pub use parley_proto::testing::{Fate, Link, SimClock, SimRuntime, SimServerTls, SimTransport, Task, Wire};
pub use probe::{Gate, Probe, Reply, describe};
pub use server::Server;
pub use stream::SimStream;
pub use tls::{TlsRuntime, TlsTransport};
pub use world::{Listener, Sim};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// No lock is held while foreign code runs, so that a panic leaves nothing half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
