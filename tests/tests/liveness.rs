//! Keepalive and write stall of `Connection` by itself, both roles, as timelines: send at t, expect at t, expect nothing
//! before.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use http::{HeaderMap, StatusCode};
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Config, Connection, ConnectionError, Event, Keepalive, Shutdown, State, Timer};
use parley_proto::handshake::{Acceptance, ClientRequest, Negotiated};
use parley_proto::{Limits, Role};
use parley_tests::raw;

const ROLES: [Role; 2] = [Role::Client, Role::Server];

/// An open connection and the time: everything happens `now`, in milliseconds since it opened.
struct Line {
    role: Role,
    start: Instant,
    now: u64,
    connection: Connection,
    input: BytesMut,
}

impl Line {
    fn new(role: Role) -> Self {
        Self::with(role, |_| {})
    }

    fn with(role: Role, change: impl FnOnce(&mut Config)) -> Self {
        let start = Instant::now();
        let mut config = Config::new(role);
        change(&mut config);
        let agreed = Negotiated::new(StatusCode::SWITCHING_PROTOCOLS, HeaderMap::new());
        let mut connection = Connection::upgraded(start, role, agreed, Arc::new(config), [role as u8; 32]);
        assert!(matches!(connection.poll_event(), Some(Event::Open(_))));
        Self { role, start, now: 0, connection, input: BytesMut::new() }
    }

    fn instant(&self) -> Instant {
        self.start + Duration::from_millis(self.now)
    }

    /// Time passes up to `millis`, without anything coming due before.
    #[track_caller]
    fn at(&mut self, millis: u64) -> &mut Self {
        assert!(millis > self.now);
        let due = self.due().map(|(at, timer)| (at >= millis, at, timer));
        assert!(due.is_none_or(|(late, ..)| late), "due before {millis}: {due:?}");
        self.jump(millis - 1);
        let (queued, state) = (self.connection.queued(), self.connection.state());
        let instant = self.instant();
        self.connection.handle_timeout(instant);
        assert_eq!((self.connection.queued(), self.connection.state()), (queued, state), "nothing before");
        self.now = millis;
        let instant = self.instant();
        self.connection.handle_timeout(instant);
        self
    }

    /// Time passes and nobody looks at the timers.
    fn jump(&mut self, millis: u64) -> &mut Self {
        self.now = millis;
        self
    }

    fn due(&self) -> Option<(u64, Timer)> {
        let (at, timer) = self.connection.poll_timeout()?;
        Some((at.saturating_duration_since(self.start).as_millis().try_into().unwrap(), timer))
    }

    #[track_caller]
    fn is_due(&mut self, millis: u64, timer: Timer) -> &mut Self {
        assert_eq!(self.due(), Some((millis, timer)));
        self
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.input.extend_from_slice(bytes);
        let now = self.instant();
        self.connection.handle_input(now, &mut self.input);
        self
    }

    fn peer_sends(&mut self, first: u8, payload: &[u8]) -> &mut Self {
        let frame = self.peer_frame(first, payload);
        self.bytes(&frame)
    }

    fn peer_frame(&self, first: u8, payload: &[u8]) -> Vec<u8> {
        match self.role {
            Role::Client => raw::frame(first, payload),
            Role::Server => raw::masked_frame(first, [1, 2, 3, 4], payload),
        }
    }

    fn send(&mut self, len: usize) -> &mut Self {
        let now = self.instant();
        self.connection.send(now, Frame::binary(vec![0; len])).unwrap();
        self
    }

    /// The peer takes so many bytes of the output.
    fn takes(&mut self, n: usize) -> &mut Self {
        let now = self.instant();
        self.connection.handle_written(now, n);
        self
    }

    /// Takes all output: one frame, of which first byte and payload are given.
    #[track_caller]
    fn frame(&mut self) -> (u8, Vec<u8>) {
        let bytes: Vec<u8> = self.connection.transmit().iter().flatten().copied().collect();
        self.takes(bytes.len());
        let (len, masked) = (usize::from(bytes[1] & 0x7f), bytes[1] & 0x80 != 0);
        let start = if masked { 6 } else { 2 };
        assert_eq!(bytes.len(), start + len, "one frame: {bytes:?}");
        let key = if masked { bytes[2..6].to_vec() } else { vec![0] };
        (bytes[0], bytes[start..].iter().zip(key.iter().cycle()).map(|(byte, key)| byte ^ key).collect())
    }

    /// Takes a ping of the connection's own, and gives its payload.
    #[track_caller]
    fn ping(&mut self) -> Vec<u8> {
        let (first, payload) = self.frame();
        assert_eq!((first, payload.len()), (0x89, 8));
        payload
    }

    #[track_caller]
    fn silent(&mut self) -> &mut Self {
        assert_eq!((self.connection.queued(), self.connection.state()), (0, State::Open));
        assert!(self.connection.poll_event().is_none());
        self
    }

    #[track_caller]
    fn polls(&mut self, frame: &Frame) -> &mut Self {
        assert!(matches!(self.connection.poll_event(), Some(Event::Frame(polled)) if polled == *frame));
        self
    }

    #[track_caller]
    fn is_lost(&mut self) -> ConnectionError {
        assert_eq!(self.connection.state(), State::Closed);
        assert_eq!(self.connection.poll_shutdown(), Some(Shutdown::Abort));
        assert_eq!(self.due(), None);
        let Some(Event::Closed(closed)) = self.connection.poll_event() else { panic!("the last event") };
        assert_eq!((closed.code(), closed.was_clean), (1006, false));
        assert!(self.connection.poll_event().is_none());
        closed.error.unwrap()
    }

    fn rtt(&self) -> Option<[u128; 3]> {
        self.connection.rtt().map(|rtt| [rtt.last, rtt.smoothed, rtt.min].map(|time| time.as_millis()))
    }
}

mod keepalive {
    use super::*;

    #[test]
    fn a_silent_peer_is_pinged_after_20_s_and_lost_after_another_20_s() {
        for role in ROLES {
            let mut line = Line::new(role);
            line.is_due(20_000, Timer::Keepalive).at(20_000).ping();
            line.is_due(40_000, Timer::Keepalive).at(40_000);
            assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout), "{role:?}");
        }
    }

    #[test]
    fn both_times_can_be_set() {
        let keepalive = Keepalive::new(Duration::from_secs(3), Duration::from_millis(500)).unwrap();
        let mut line = Line::with(Role::Client, |config| config.keepalive = Some(keepalive));
        line.at(3_000).ping();
        line.at(3_500);
        assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout));
        assert!(Keepalive::new(Duration::ZERO, Duration::from_secs(1)).is_err());
        assert!(Keepalive::new(Duration::from_secs(1), Duration::ZERO).is_err());
    }

    #[test]
    fn it_can_be_turned_off() {
        for role in ROLES {
            let mut line = Line::with(role, |config| config.keepalive = None);
            assert_eq!(line.due(), None);
            line.at(1_000_000_000).silent();
        }
    }

    #[test]
    fn it_begins_when_the_handshake_is_complete() {
        let start = Instant::now();
        let after = |secs| start + Duration::from_secs(secs);
        let request = ClientRequest::new("ws://a/").unwrap();
        let mut client = Connection::client(&request, Arc::new(Config::new(Role::Client)), [1; 32], after(60));
        let mut server = Connection::server(Arc::new(Config::new(Role::Server)), [2; 32], after(60));
        let carry = |now, from: &mut Connection, to: &mut Connection| {
            let bytes: Vec<u8> = from.transmit().iter().flatten().copied().collect();
            from.handle_written(now, bytes.len());
            to.handle_input(now, &mut BytesMut::from(&bytes[..]));
        };
        carry(after(30), &mut client, &mut server);
        assert_eq!(client.poll_timeout(), Some((after(60), Timer::Handshake)));
        server.accept(after(40), Acceptance::default()).unwrap();
        assert_eq!(server.poll_timeout(), Some((after(60), Timer::Keepalive)), "20 s after it was accepted");
        carry(after(45), &mut server, &mut client);
        assert_eq!(client.poll_timeout(), Some((after(65), Timer::Keepalive)));
    }

    #[test]
    fn hazard_18_a_peer_that_stalls_within_a_frame_is_pinged_and_lost() {
        for role in ROLES {
            let mut line = Line::new(role);
            let frame = line.peer_frame(0x82, &[7; 100]);
            line.at(5_000).bytes(&frame[..50]);
            line.is_due(25_000, Timer::Keepalive).at(25_000).ping();
            line.is_due(45_000, Timer::Keepalive).at(45_000);
            assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout), "{role:?}");
        }
    }

    #[test]
    fn any_byte_is_a_sign_of_life() {
        for role in ROLES {
            let mut line = Line::new(role);
            let frame = line.peer_frame(0x82, &[7; 20]);
            let mut now = 0;
            for byte in &frame {
                now += 19_999;
                line.at(now).bytes(&[*byte]);
                assert_eq!(line.connection.queued(), 0, "never asked");
            }
            line.polls(&Frame::binary(vec![7; 20])).at(now + 20_000).ping();
            // One byte, and the wait for an answer is over.
            line.at(now + 39_999).bytes(&frame[..1]);
            line.is_due(now + 59_999, Timer::Keepalive).at(now + 59_999).ping();
        }
    }

    #[test]
    fn output_is_no_sign_of_life() {
        let mut line = Line::new(Role::Client);
        line.at(19_000).send(10).frame();
        line.at(20_000).ping();
        line.at(39_000).send(10).frame();
        line.at(40_000);
        assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout));
    }

    #[test]
    fn frames_before_the_timeout_are_delivered() {
        let mut line = Line::new(Role::Server);
        line.at(5_000).peer_sends(0x81, b"last words").at(25_000).ping();
        line.at(45_000);
        assert_eq!(line.connection.poll_shutdown(), Some(Shutdown::Abort), "the transport goes at once");
        line.polls(&Frame::text("last words"));
        assert!(matches!(line.connection.poll_event(), Some(Event::Closed(_))));
    }

    #[test]
    fn while_reading_is_paused_the_wait_stands_still_and_starts_afresh() {
        for (role, resumed) in ROLES.into_iter().flat_map(|role| [(role, 16_000), (role, 100_000)]) {
            let mut line = Line::with(role, |config| {
                config.limits = Limits::client().with_read_ahead(1).unwrap();
            });
            line.at(15_000).peer_sends(0x81, b"x");
            assert!(!line.connection.wants_input());
            assert_eq!(line.due(), None);
            line.at(resumed).polls(&Frame::text("x"));
            assert!(line.connection.wants_input());
            let now = line.instant();
            assert!(line.due().is_some_and(|(at, timer)| at <= resumed && timer == Timer::Keepalive));
            line.connection.handle_timeout(now);
            line.silent().is_due(resumed + 20_000, Timer::Keepalive).at(resumed + 20_000).ping();
            line.at(resumed + 40_000);
            assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout));
        }
        // What is read on resuming does it too, before anybody looks at the timers.
        let mut line = Line::with(Role::Client, |config| config.limits = Limits::client().with_read_ahead(1).unwrap());
        line.peer_sends(0x81, b"x")
            .at(100_000)
            .polls(&Frame::text("x"))
            .bytes(b"\x81")
            .is_due(120_000, Timer::Keepalive);
    }

    #[test]
    fn while_output_is_blocked_there_is_neither_ping_nor_verdict() {
        for role in ROLES {
            let mut line = Line::new(role);
            line.at(10_000).send(1000).takes(0).is_due(40_000, Timer::WriteStall);
            line.at(39_000).takes(1);
            let left = line.connection.queued();
            line.at(50_000);
            assert_eq!(line.connection.queued(), left, "no ping");
            // Drained: the ping that is due leaves at once.
            line.takes(left);
            let now = line.instant();
            line.connection.handle_timeout(now);
            line.ping();
            line.is_due(70_000, Timer::Keepalive);
            // The wait for the answer starts afresh as well.
            line.at(69_000).send(1000).takes(0).is_due(99_000, Timer::WriteStall);
            let left = line.connection.queued();
            line.at(90_000).takes(left).is_due(110_000, Timer::Keepalive).at(110_000);
            assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout));
        }
    }

    #[test]
    fn hazard_24_a_clock_that_jumps_fires_each_timer_once() {
        let mut line = Line::new(Role::Client);
        let now = line.jump(86_400_000).instant();
        line.connection.handle_timeout(now);
        line.connection.handle_timeout(now);
        line.ping();
        line.is_due(86_420_000, Timer::Keepalive).at(86_420_000);
        assert!(matches!(line.is_lost(), ConnectionError::KeepaliveTimeout));
        // Going back changes nothing.
        let mut line = Line::new(Role::Client);
        line.at(15_000).bytes(b"\x81").jump(5_000).bytes(b"\x01").is_due(35_000, Timer::Keepalive);
    }

    #[test]
    fn it_stops_once_closing_begins() {
        for role in ROLES {
            let mut line = Line::with(role, |config| config.close_timeout = Duration::from_secs(100));
            line.at(20_000).ping();
            let now = line.instant();
            line.connection.close(now, &CloseFrame::normal());
            line.frame();
            line.is_due(120_000, Timer::Close);

            let mut line = Line::with(role, |config| config.close_timeout = Duration::from_secs(100));
            line.peer_sends(0x81, b"x").peer_sends(0x88, b"").is_due(50_000, Timer::Effect).polls(&Frame::text("x"));
            assert!(line.connection.poll_event().is_none());
            line.is_due(100_000, Timer::Close);
        }
    }
}

mod pongs {
    use super::*;

    #[test]
    fn those_that_answer_our_own_pings_are_not_delivered_and_give_round_trip_times() {
        for role in ROLES {
            let mut line = Line::new(role);
            assert_eq!(line.rtt(), None);
            let first = line.at(20_000).ping();
            line.at(20_080).peer_sends(0x8a, &first).silent();
            assert_eq!(line.rtt(), Some([80, 80, 80]));
            let second = line.at(40_080).ping();
            assert_ne!(first, second);
            line.at(40_240).peer_sends(0x8a, &second).silent();
            assert_eq!(line.rtt(), Some([160, 90, 80]), "7/8 of 80 and 1/8 of 160");
            let third = line.at(60_240).ping();
            line.at(60_250).peer_sends(0x8a, &third).silent();
            assert_eq!(line.rtt(), Some([10, 80, 10]));
        }
    }

    #[test]
    fn others_are_delivered_and_are_a_sign_of_life_all_the_same() {
        for role in ROLES {
            let mut line = Line::new(role);
            let ping = line.at(20_000).ping();
            let wrong = [&ping[..7], &[!ping[7]]].concat();
            for payload in [&b""[..], &ping[..7], &wrong] {
                line.peer_sends(0x8a, payload).polls(&Frame::pong(payload.to_vec())).silent();
            }
            line.is_due(40_000, Timer::Keepalive);
            assert_eq!(line.rtt(), None);
            line.jump(20_030).peer_sends(0x8a, &ping).silent();
            assert_eq!(line.rtt(), Some([30, 30, 30]));
            line.peer_sends(0x8a, &ping).polls(&Frame::pong(ping));
        }
    }

    #[test]
    fn one_that_comes_late_answers_too_and_the_newest_answers_for_those_before_it() {
        let mut line = Line::new(Role::Client);
        let pings: Vec<_> = (1..=3)
            .map(|n| {
                let ping = line.at(n * 20_000).ping();
                line.bytes(if n == 1 { b"\x82\x03" } else { b"." }); // alive, but no pong
                ping
            })
            .collect();
        line.bytes(b".").polls(&Frame::binary("..."));
        line.at(60_005).peer_sends(0x8a, &pings[0]).silent();
        assert_eq!(line.rtt(), Some([40_005, 40_005, 40_005]));
        line.peer_sends(0x8a, &pings[2]).silent();
        assert_eq!(line.rtt().unwrap()[0], 5);
        line.peer_sends(0x8a, &pings[1]).polls(&Frame::pong(pings[1].clone()));
    }

    #[test]
    fn the_time_runs_from_when_the_ping_has_left() {
        let mut line = Line::new(Role::Server);
        line.send(1).at(20_000); // behind data that nobody has taken yet
        let left = line.connection.queued();
        assert_eq!(left, 3 + 10);
        let bytes: Vec<u8> = line.connection.transmit().iter().flatten().copied().collect();
        line.at(21_000).takes(left - 1).at(22_000).takes(1).at(22_007).peer_sends(0x8a, &bytes[5..]).silent();
        assert_eq!(line.rtt(), Some([7, 7, 7]));
    }

    #[test]
    fn within_a_message_in_fragments_and_beside_a_ping_that_is_answered() {
        let mut line = Line::new(Role::Client);
        let ping = line.at(20_000).ping();
        line.peer_sends(0x01, b"to").peer_sends(0x8a, &ping).peer_sends(0x89, b"p").peer_sends(0x80, b"gether");
        line.polls(&Frame::ping("p")).polls(&Frame::text("together"));
        assert_eq!(line.frame(), (0x8a, b"p".to_vec()));
        line.silent();
    }

    #[test]
    fn payloads_come_from_the_seed() {
        let ping = |role| Line::new(role).at(20_000).ping();
        assert_eq!(ping(Role::Client), ping(Role::Client));
        assert_ne!(ping(Role::Client), ping(Role::Server), "another seed");
    }
}

mod write_stall {
    use super::*;

    #[test]
    fn a_peer_that_takes_no_byte_for_30_s_is_lost() {
        for role in ROLES {
            let mut line = Line::new(role);
            line.at(3_000).send(1000).takes(0);
            line.is_due(33_000, Timer::WriteStall).at(20_000).takes(0);
            line.at(33_000);
            assert_eq!(line.connection.queued(), 0, "what was not taken is lost");
            assert!(matches!(line.is_lost(), ConnectionError::WriteTimeout), "{role:?}");
        }
    }

    #[test]
    fn one_that_takes_a_byte_every_29_s_is_not() {
        for role in ROLES {
            let mut line = Line::new(role);
            line.send(20).takes(0);
            let mut now = 0;
            while line.connection.queued() > 1 {
                now += 29_000;
                line.at(now).takes(1).is_due(now + 30_000, Timer::WriteStall);
            }
            line.at(now + 29_000).takes(1);
            assert!(matches!(line.due(), Some((_, Timer::Keepalive))), "disarmed when all is taken");
        }
    }

    #[test]
    fn it_can_be_set_and_its_end_delivers_the_frames_before() {
        let mut line = Line::with(Role::Client, |config| config.write_timeout = Duration::from_secs(2));
        line.peer_sends(0x81, b"x").send(10).takes(3).at(2_000).polls(&Frame::text("x"));
        assert!(matches!(line.is_lost(), ConnectionError::WriteTimeout));
    }

    #[test]
    fn input_does_not_help() {
        let mut line = Line::new(Role::Client);
        line.send(10).takes(1).at(29_000).bytes(b"\x81").at(30_000);
        assert!(matches!(line.is_lost(), ConnectionError::WriteTimeout));
    }

    #[test]
    fn it_runs_while_reading_is_paused() {
        let mut line = Line::with(Role::Client, |config| config.limits = Limits::client().with_read_ahead(1).unwrap());
        line.peer_sends(0x81, b"x").send(10).takes(1).is_due(30_000, Timer::WriteStall);
    }

    #[test]
    fn the_close_timeout_takes_over() {
        for role in ROLES {
            let mut line = Line::new(role);
            line.send(1000).takes(1).at(29_000);
            let now = line.instant();
            line.connection.close(now, &CloseFrame::normal());
            line.is_due(34_000, Timer::Close);
        }
    }
}
