//! Names of clients: one registry in the process, for all adapters.

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use super::handle::{Handle, Shared};

type Registry = BTreeMap<String, Arc<dyn Any + Send + Sync>>;

static REGISTRY: Mutex<Registry> = Mutex::new(BTreeMap::new());

fn registry() -> MutexGuard<'static, Registry> {
    // Nothing that could panic runs under the lock.
    REGISTRY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A name that is taken, free again on drop.
pub(super) struct Name(String);

impl Name {
    /// `None`: another client has it.
    pub(super) fn take<I: Send + 'static>(name: &str, shared: &Arc<Shared<I>>) -> Option<Self> {
        let mut registry = registry();
        if registry.contains_key(name) {
            return None;
        }
        registry.insert(name.to_owned(), shared.clone());
        Some(Self(name.to_owned()))
    }
}

impl Drop for Name {
    fn drop(&mut self) {
        let client = registry().remove(&self.0);
        drop(client); // with the lock free: what it holds may be the user's
    }
}

/// A handle to the client that has this name. It counts as any other: a named client lives on without one.
///
/// # Errors
///
/// No client has the name, or its infos are of another type than `I`.
pub fn lookup<I: Send + 'static>(name: &str) -> Result<Handle<I>, LookupError> {
    let client = registry().get(name).cloned().ok_or(LookupError::NotFound)?;
    let shared = client.downcast::<Shared<I>>().map_err(|_| LookupError::OtherInfo)?;
    Ok(Handle::new(shared, false))
}

/// Why [`lookup`] found no handle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupError {
    /// No client has that name; it may have ended.
    NotFound,
    /// The client with that name takes infos of another type.
    OtherInfo,
}

impl fmt::Display for LookupError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "no client has that name",
            Self::OtherInfo => "the client with that name takes infos of another type",
        })
    }
}

impl std::error::Error for LookupError {}
