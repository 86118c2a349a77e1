//! A client's name: taken once it has started, found by others, free when it has ended.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parley_proto::driver::{LookupError, Setup, StartError, lookup};
use parley_proto::session::{ClientOptions, ClientState};

use super::app;
use super::record::Ask;
use super::scene::Scene;

/// Worlds run beside each other, and the registry is the process's. No name is ever written down, so that a trace does
/// not depend on what ran before.
static NAMES: AtomicU64 = AtomicU64::new(0);

#[derive(Clone)]
pub(super) struct Name {
    scene: Arc<Scene>,
    text: String,
}

impl Name {
    pub(super) fn new(scene: &Arc<Scene>) -> Self {
        let text = format!("seeds {}", NAMES.fetch_add(1, Ordering::Relaxed));
        Self { scene: scene.clone(), text }
    }

    pub(super) fn text(&self) -> &str {
        &self.text
    }

    fn found(&self) -> Result<(), LookupError> {
        lookup::<u32>(&self.text).map(drop)
    }

    /// The client has started: others find it, and cannot have its name.
    pub(super) async fn taken(&self, state: ClientState) {
        if state == ClientState::Stopped {
            return;
        }
        let (found, other) = (self.found(), lookup::<String>(&self.text).map(drop));
        self.scene.check(found.is_ok(), || format!("a client is not found by its name: {found:?}"));
        self.scene.check(other == Err(LookupError::OtherInfo), || format!("another info type: {other:?}"));

        let mut options = ClientOptions::new("ws://10.0.0.9/").expect("a URL");
        options.name = Some(self.text.clone());
        let (second, life) = Setup::new(options).client(self.scene.sim.runtime(), ());
        self.scene.sim.spawn(life);
        let started = second.started().await;
        let refused = matches!(started, Err(StartError::NameInUse));
        self.scene.check(refused || self.found().is_err(), || format!("a second client of that name: {started:?}"));
    }

    /// The client has ended.
    pub(super) fn free(&self) {
        let found = self.found();
        self.scene.check(found == Err(LookupError::NotFound), || format!("a name behind the end: {found:?}"));
    }

    /// Stops the client some time later, found by its name.
    pub(super) async fn stop(self, after: Duration) {
        self.scene.sim.sleep(after).await;
        match lookup::<u32>(&self.text) {
            Ok(handle) => app::ask(&self.scene, &handle, Ask::Stop).await,
            Err(error) => self.scene.note(&format!("by its name: {error}")),
        }
    }
}
