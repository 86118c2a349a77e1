//! What clients, sockets and servers tell `tracing`: nothing without the feature of that name. Names and fields are
//! listed in [`telemetry`](crate::telemetry), which is a promise; no payload, query or credential is among them.

use std::time::Instant;

use super::stats::Stats;
use crate::error::{DisconnectReason, StopReason};
use crate::handler::{Attempt, Connected};
use crate::handshake::ClientRequest;

pub(super) use imp::{
    Span, accept_failed, accepted, answered, closed, handshake_failed, refused, requested, shut_down,
};

/// One client's telemetry.
pub(super) struct Trace {
    pub(super) span: Span,
    #[cfg(feature = "tracing")]
    seen: Box<Seen>,
}

struct Seen {
    /// When the attempt under way began, its last phase, and the connection.
    attempt: Instant,
    phase: Instant,
    up: Instant,
    /// The numbers when the connection began.
    before: Stats,
    dropped: u64,
    refused: u64,
}

impl Trace {
    pub(super) fn new(now: Instant, name: Option<&str>, is_server: bool) -> Self {
        let span = Span::client(name, is_server);
        let seen = Seen { attempt: now, phase: now, up: now, before: Stats::default(), dropped: 0, refused: 0 };
        Self::with(span, seen)
    }

    #[cfg(feature = "tracing")]
    fn with(span: Span, seen: Seen) -> Self {
        Self { span, seen: Box::new(seen) }
    }

    /// Nothing is traced, and no room is taken for it.
    #[cfg(not(feature = "tracing"))]
    fn with(span: Span, _: Seen) -> Self {
        Self { span }
    }

    #[cfg(feature = "tracing")]
    #[inline]
    fn seen(&mut self) -> Option<&mut Seen> {
        Some(&mut self.seen)
    }

    #[cfg(not(feature = "tracing"))]
    #[inline]
    fn seen(&mut self) -> Option<&mut Seen> {
        None
    }

    /// `prepare` is about to run.
    pub(super) fn attempt(&mut self, now: Instant, attempt: &Attempt, request: &ClientRequest) {
        let Some(seen) = self.seen() else { return };
        (seen.attempt, seen.phase) = (now, now);
        imp::attempt(attempt.number, request.host(), request.port(), request.is_secure());
    }

    /// A step of the attempt begins.
    pub(super) fn begin(&mut self, now: Instant) {
        if let Some(seen) = self.seen() {
            seen.phase = now;
        }
    }

    /// It is done; the next begins.
    pub(super) fn phase(&mut self, now: Instant, phase: &'static str, ok: bool) {
        let Some(seen) = self.seen() else { return };
        imp::phase(phase, micros(seen.phase, now), ok);
        seen.phase = now;
    }

    pub(super) fn connected(&mut self, now: Instant, connected: &Connected, stats: Stats) {
        let Some(seen) = self.seen() else { return };
        imp::phase("upgrade", micros(seen.phase, now), true);
        (seen.up, seen.before) = (now, stats);
        imp::connected(micros(seen.attempt, now), connected);
    }

    pub(super) fn disconnected(&mut self, now: Instant, reason: &DisconnectReason, stats: Stats) {
        let Some(seen) = self.seen() else { return };
        imp::disconnected(reason, micros(seen.up, now), &seen.before, &stats);
        (seen.up, seen.before) = (now, stats);
    }

    pub(super) fn retry(&self, now: Instant, at: Instant) {
        imp::retry(micros(now, at));
    }

    pub(super) fn stopped(&self, reason: &StopReason) {
        imp::stopped(reason);
    }

    /// Frames that were lost, and pushes that were refused, so far.
    #[inline]
    pub(super) fn lost(&mut self, dropped: u64, refused: u64) {
        let Some(seen) = self.seen() else { return };
        if (seen.dropped, seen.refused) != (dropped, refused) {
            imp::lost(dropped - seen.dropped, refused - seen.refused);
            (seen.dropped, seen.refused) = (dropped, refused);
        }
    }
}

fn micros(from: Instant, to: Instant) -> u64 {
    u64::try_from(to.saturating_duration_since(from).as_micros()).unwrap_or(u64::MAX)
}

#[cfg(feature = "tracing")]
mod imp {
    use std::io;

    use super::{Connected, DisconnectReason, Stats, StopReason};
    use crate::connection::Closed;
    use crate::handshake::Request;
    use crate::transport::TransportFacts;

    macro_rules! emit {
        ($level:ident, $name:literal, $($fields:tt)*) => {
            // Many subscribers print an event's message and not its name.
            tracing::event!(name: $name, target: "parley", tracing::Level::$level, message = $name, $($fields)*)
        };
    }

    /// The span of one client.
    #[derive(Clone)]
    pub(crate) struct Span(tracing::Span);

    impl Span {
        pub(super) fn client(name: Option<&str>, is_server: bool) -> Self {
            let role = if is_server { "server" } else { "client" };
            Self(tracing::info_span!(target: "parley", "parley.client", role, name))
        }

        #[inline]
        pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
            self.0.in_scope(f)
        }
    }

    pub(super) fn attempt(number: u32, host: &str, port: u16, secure: bool) {
        emit!(DEBUG, "attempt", number, host, port, secure);
    }

    pub(super) fn phase(phase: &'static str, elapsed_us: u64, ok: bool) {
        emit!(DEBUG, "phase", phase, elapsed_us, ok);
    }

    pub(super) fn connected(elapsed_us: u64, connected: &Connected) {
        let tls = connected.transport.tls.as_ref().and_then(|tls| tls.version.as_deref());
        let peer = connected.transport.peer_addr.map(tracing::field::display);
        let subprotocol = connected.subprotocol();
        emit!(INFO, "connected", elapsed_us, status = connected.negotiated.status().as_u16(), peer, tls, subprotocol);
    }

    pub(super) fn disconnected(reason: &DisconnectReason, lived_us: u64, before: &Stats, stats: &Stats) {
        let code = match reason {
            DisconnectReason::Remote(close) => Some(close.as_ref().map_or(1005, |close| close.code().into())),
            DisconnectReason::Requested(close) => Some(close.code().into()),
            _ => None::<u16>,
        };
        emit!(
            INFO,
            "disconnected",
            %reason,
            code,
            transient = reason.is_transient(),
            lived_us,
            bytes_received = stats.bytes_received - before.bytes_received,
            bytes_sent = stats.bytes_sent - before.bytes_sent,
            frames_received = stats.frames_received - before.frames_received,
            frames_sent = stats.frames_sent - before.frames_sent,
            queued = stats.queued,
            rtt_us = stats.rtt.map(|rtt| u64::try_from(rtt.smoothed.as_micros()).unwrap_or(u64::MAX)),
        );
    }

    pub(super) fn retry(delay_us: u64) {
        emit!(DEBUG, "retry", delay_us);
    }

    pub(super) fn stopped(reason: &StopReason) {
        emit!(INFO, "stopped", %reason);
    }

    pub(super) fn lost(dropped: u64, refused: u64) {
        emit!(WARN, "lost", dropped, refused);
    }

    pub(crate) fn closed(closed: &Closed, bytes_received: u64, bytes_sent: u64) {
        let error = closed.error.as_ref().map(tracing::field::display);
        emit!(INFO, "closed", code = closed.code(), clean = closed.was_clean, error, bytes_received, bytes_sent);
    }

    pub(crate) fn accepted(facts: &TransportFacts) {
        emit!(DEBUG, "accepted", peer = facts.peer_addr.map(tracing::field::display));
    }

    pub(crate) fn accept_failed(error: &io::Error) {
        emit!(WARN, "accept_failed", %error);
    }

    pub(crate) fn requested(request: &Request) {
        emit!(DEBUG, "requested", path = request.path(), host = request.host(), origin = request.origin());
    }

    pub(crate) fn refused(request: &Request) {
        emit!(WARN, "refused", path = request.path(), host = request.host(), origin = request.origin());
    }

    pub(crate) fn answered(path: &str, status: u16) {
        emit!(DEBUG, "answered", path, status);
    }

    pub(crate) fn handshake_failed(reason: &DisconnectReason) {
        emit!(DEBUG, "handshake_failed", %reason);
    }

    pub(crate) fn shut_down(connections: usize, dropped: usize) {
        emit!(INFO, "shut_down", connections, dropped);
    }
}

#[cfg(not(feature = "tracing"))]
mod imp {
    use std::io;

    use super::{Connected, DisconnectReason, Stats, StopReason};
    use crate::connection::Closed;
    use crate::handshake::Request;
    use crate::transport::TransportFacts;

    #[derive(Clone)]
    pub(crate) struct Span;

    impl Span {
        pub(super) fn client(_: Option<&str>, _: bool) -> Self {
            Self
        }

        #[inline]
        pub(crate) fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
            f()
        }
    }

    macro_rules! nothing {
        ($vis:vis, $($name:ident($($type:ty),*);)*) => {
            $(
                #[inline]
                $vis fn $name($(_: $type),*) {}
            )*
        };
    }

    nothing! { pub(super),
        attempt(u32, &str, u16, bool);
        phase(&'static str, u64, bool);
        connected(u64, &Connected);
        disconnected(&DisconnectReason, u64, &Stats, &Stats);
        retry(u64);
        stopped(&StopReason);
        lost(u64, u64);
    }

    nothing! { pub(crate),
        closed(&Closed, u64, u64);
        accepted(&TransportFacts);
        accept_failed(&io::Error);
        requested(&Request);
        refused(&Request);
        answered(&str, u16);
        handshake_failed(&DisconnectReason);
        shut_down(usize, usize);
    }
}
