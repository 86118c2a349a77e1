//! The dialling machine: from a URL to a transport, as a sans-IO sequence of steps.
//!
//! ```text
//! Prepare ──▶ Resolve ──▶ Tcp (address after address) ──▶ Tls (wss) ──▶ ready for the upgrade
//! ```

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use core::net::{IpAddr, SocketAddr};

use crate::error::{ConnectPhase, DisconnectReason};
use crate::handshake::ClientRequest;

/// Names one step of one attempt, so that a late answer to an abandoned step is told from a current one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialId(pub(super) u32);

/// An address never gets less time than this, unless the attempt itself has less left.
const LEAST_SHARE: Duration = Duration::from_secs(2);

/// An attempt that has no transport yet.
pub(super) struct Dialling {
    pub(super) step: Step,
    pub(super) request: ClientRequest,
    /// The attempt's.
    pub(super) deadline: Instant,
}

pub(super) enum Step {
    /// The handler's `prepare` is to be called, or is running.
    Prepare {
        called: bool,
    },
    Resolve(DialId),
    Tcp(DialId, Addresses),
    Tls(DialId),
    /// One step has ended, the next is about to begin.
    Between,
}

/// The addresses that are left to try.
pub(super) struct Addresses {
    left: VecDeque<SocketAddr>,
    /// When the one being tried has had its share.
    pub(super) until: Option<Instant>,
    /// Why the one before failed.
    pub(super) failure: Option<DisconnectReason>,
}

impl Addresses {
    pub(super) fn new(addresses: Vec<SocketAddr>) -> Self {
        Self { left: addresses.into(), until: None, failure: None }
    }

    /// The next address, with its share of the time left: the addresses behind it shall get theirs.
    pub(super) fn next(&mut self, now: Instant, deadline: Instant) -> Option<SocketAddr> {
        let address = self.left.pop_front()?;
        let rivals = u32::try_from(self.left.len()).unwrap_or(u32::MAX).saturating_add(1);
        let share = (deadline.saturating_duration_since(now) / rivals).max(LEAST_SHARE);
        self.until = (rivals > 1).then(|| now + share);
        Some(address)
    }
}

impl Dialling {
    pub(super) fn new(request: ClientRequest, deadline: Instant) -> Self {
        Self { step: Step::Prepare { called: false }, request, deadline }
    }

    pub(super) fn phase(&self) -> ConnectPhase {
        match self.step {
            Step::Prepare { .. } => ConnectPhase::Prepare,
            Step::Resolve(_) => ConnectPhase::Dns,
            Step::Tcp(..) | Step::Between => ConnectPhase::Tcp,
            Step::Tls(_) => ConnectPhase::Tls,
        }
    }

    /// The step that the driver is working on, if any.
    pub(super) fn id(&self) -> Option<DialId> {
        match self.step {
            Step::Prepare { .. } | Step::Between => None,
            Step::Resolve(id) | Step::Tcp(id, _) | Step::Tls(id) => Some(id),
        }
    }

    /// When the address being tried has had its share.
    pub(super) fn address_deadline(&self) -> Option<Instant> {
        match &self.step {
            Step::Tcp(_, addresses) => addresses.until,
            _ => None,
        }
    }

    /// The host as an address, when it is one: then nothing has to be resolved.
    pub(super) fn literal(&self) -> Option<SocketAddr> {
        self.request.host().parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, self.request.port()))
    }
}
