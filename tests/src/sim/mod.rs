//! A runtime made of nothing but memory: the driver runs on it as on any other, under a clock that a test owns.
//!
//! ```text
//! executor   tasks in the order in which they were woken, one thread; time passes only when all of them wait
//! net        names, addresses and TLS with the fate that the test gave them
//! platform   the runtime as the builders of clients and servers want it
//! pipe       two in-memory streams back to back: bounded, with FIN, reset and errors
//! server     the server role of `Connection` at the other end (for bytes by hand see `raw`)
//! tls        the same platform with real TLS over the pipes
//! probe      a handler that writes each callback into the journal and answers as it was told
//! seeds      all of it at random, one world a seed, with the guide's rules checked
//! ```
//!
//! Nothing sleeps and nothing is left to chance: the same test does the same things at the same virtual times. A test
//! that waits for what can never come panics at once, and so does a task that spins.
//!
//! ```
//! use std::time::Duration;
//! use parley_tests::sim::Sim;
//!
//! Sim::new().run_until(async |sim| {
//!     let task = sim.spawn({
//!         let sim = sim.clone();
//!         async move { sim.sleep(Duration::from_secs(3600)).await }
//!     });
//!     task.await;
//!     assert_eq!(sim.elapsed(), Duration::from_secs(3600));
//! });
//! ```

mod executor;
mod net;
mod pipe;
mod platform;
mod probe;
pub mod seeds;
mod server;
mod tls;

pub use executor::{Sim, Task};
pub use net::{Fate, Listener, SimRuntime};
pub use pipe::{Link, SimTransport, Wire};
pub use platform::{SimListener, SimServerTls};
pub use probe::{Gate, Probe, Reply, describe};
pub use server::Server;
pub use tls::{TlsRuntime, TlsTransport};

use std::sync::{Mutex, MutexGuard, PoisonError};

/// No lock is held while foreign code runs, so that a panic leaves nothing half-way.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
