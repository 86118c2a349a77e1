//! `Session` by itself: whatever happens in whatever order, it calls one callback at a time, settles every ticket once,
//! and ends once.
#![allow(clippy::unwrap_used, reason = "in the helpers of tests as in the tests")]

use std::collections::BTreeSet;
use std::io::{Error, ErrorKind};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use parley_proto::codec::{CloseFrame, Frame};
use parley_proto::connection::{Config, Connection, Event, Shutdown};
use parley_proto::driver::{TlsError, TransportFacts};
use parley_proto::handshake::{Acceptance, ClientRequest};
use parley_proto::session::{Call, ClientOptions, ClientState, Command, DialId, Output, Returned, Session};
use parley_proto::{Action, Limits, Retry, Role};
use parley_tests::raw;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::FileFailurePersistence;

/// What happens to a session.
#[derive(Clone, Copy, Debug)]
enum Op {
    /// Outputs are taken, as many as there are.
    Poll,
    /// The outstanding step of dialling succeeds.
    Step,
    /// It fails.
    StepFails,
    /// The server takes the upgrade, if the request is there.
    Upgrade,
    Text,
    Ping,
    PeerCloses,
    PeerErrs,
    Written(usize),
    Flushed,
    Eof,
    Lost,
    /// The outstanding callback returns this, or what comes next to it.
    Return(u8),
    Send(bool),
    SendOwn(bool),
    TrySend(usize),
    Flush(bool),
    /// The newest flush is given up.
    Forget,
    Info,
    Disconnect,
    Stop,
    Unreachable,
    Wait(u64),
}

fn any_op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => Just(Op::Poll),
        4 => Just(Op::Step),
        1 => Just(Op::StepFails),
        4 => Just(Op::Upgrade),
        4 => Just(Op::Text),
        2 => Just(Op::Ping),
        1 => Just(Op::PeerCloses),
        1 => Just(Op::PeerErrs),
        4 => prop_oneof![0..300_usize, Just(usize::MAX)].prop_map(Op::Written),
        4 => Just(Op::Flushed),
        1 => Just(Op::Eof),
        1 => Just(Op::Lost),
        8 => (0..7_u8).prop_map(Op::Return),
        1 => (7..12_u8).prop_map(Op::Return),
        3 => any::<bool>().prop_map(Op::Send),
        2 => any::<bool>().prop_map(Op::SendOwn),
        2 => prop_oneof![9 => 0..200_usize, 1 => Just(70_000)].prop_map(Op::TrySend),
        2 => any::<bool>().prop_map(Op::Flush),
        1 => Just(Op::Forget),
        2 => Just(Op::Info),
        1 => Just(Op::Disconnect),
        1 => Just(Op::Stop),
        1 => Just(Op::Unreachable),
        2 => (0..7_u64).prop_map(Op::Wait),
    ]
}

/// The way to `handle_connect`.
const OPENING: [Op; 14] = [
    Op::Poll,
    Op::Return(0), // init
    Op::Poll,
    Op::Return(0), // prepare
    Op::Poll,
    Op::Step, // the name
    Op::Poll,
    Op::Step, // the address
    Op::Poll,
    Op::Written(usize::MAX),
    Op::Upgrade,
    Op::Poll,
    Op::Return(0), // handle_connect
    Op::Poll,
];

enum Step {
    Resolve(DialId),
    Dial(DialId),
    Tls(DialId),
}

/// A session, and what a driver knows of it.
struct World {
    session: Session<u8, u32>,
    now: Instant,
    step: Option<Step>,
    transport: bool,
    call: Option<&'static str>,
    calls: Vec<&'static str>,
    head: Vec<u8>,
    upgraded: bool,
    held: BytesMut,
    issued: u32,
    flushes: Vec<u32>,
    open: BTreeSet<u32>,
    ended: bool,
}

impl World {
    fn new(url: &str) -> Self {
        let mut options = ClientOptions::new(url).unwrap();
        options.connection.limits = Limits::client().with_send_queue(1000).unwrap();
        Self {
            session: Session::new(Arc::new(options), [3; 32]),
            now: Instant::now(),
            step: None,
            transport: false,
            call: None,
            calls: Vec::new(),
            head: Vec::new(),
            upgraded: false,
            held: BytesMut::new(),
            issued: 0,
            flushes: Vec::new(),
            open: BTreeSet::new(),
            ended: false,
        }
    }

    fn ticket(&mut self) -> u32 {
        self.issued += 1;
        self.open.insert(self.issued);
        self.issued
    }

    fn poll(&mut self) -> Result<(), TestCaseError> {
        while let Some(output) = self.session.poll_output(self.now) {
            let answers = matches!(output, Output::Settle(..)); // commands that come too late
            prop_assert!(!self.ended || answers, "nothing comes after the end: {:?}", output);
            match output {
                Output::Resolve(id, ..) => self.step = Some(Step::Resolve(id)),
                Output::Dial(id, _) => self.step = Some(Step::Dial(id)),
                Output::StartTls(id, _) => {
                    prop_assert!(self.transport);
                    self.step = Some(Step::Tls(id));
                }
                Output::Cancel(_) => (self.step, self.transport) = (None, false),
                Output::Shutdown(how) => {
                    prop_assert!(self.transport || how == Shutdown::Abort, "there is something to end: {:?}", how);
                    self.transport &= how == Shutdown::Write;
                }
                Output::Settle(ticket, _) => prop_assert!(self.open.remove(&ticket), "{} settled once", ticket),
                Output::Stopped(_) => self.ended = true,
                Output::Call(call) => {
                    prop_assert!(self.call.is_none(), "one callback at a time");
                    let name = match call {
                        Call::Init => "init",
                        Call::Prepare(_) => "prepare",
                        Call::Connect(_) => "connect",
                        Call::Frame(_) => "frame",
                        Call::Info(_) => "info",
                        Call::Disconnect(_) => "disconnect",
                        Call::Terminate(_) => "terminate",
                        _ => "?",
                    };
                    if name == "disconnect" {
                        prop_assert!(!self.transport, "the transport is closed before");
                    }
                    self.call = Some(name);
                    self.calls.push(name);
                }
                other => panic!("{other:?}"),
            }
        }
        if self.session.call_abandoned() && self.call.take().is_some() {
            self.session.called(self.now, Returned::Dropped);
            return self.poll();
        }
        Ok(())
    }

    fn step(&mut self, fails: bool) {
        let error = || Error::from(ErrorKind::ConnectionRefused);
        match self.step.take() {
            None => {}
            Some(Step::Resolve(id)) => {
                let addresses = ["10.0.0.1:80", "10.0.0.2:80"].map(|addr| addr.parse().unwrap()).to_vec();
                self.session.resolved(self.now, id, if fails { Err(error()) } else { Ok(addresses) });
            }
            Some(Step::Dial(id)) => {
                self.transport = !fails;
                self.connected();
                let outcome = if fails { Err(error()) } else { Ok(TransportFacts::default()) };
                self.session.dialled(self.now, id, outcome);
            }
            Some(Step::Tls(id)) => {
                self.transport = !fails;
                self.connected();
                let error = TlsError::Io(Arc::new(error()));
                let outcome = if fails { Err(error) } else { Ok(TransportFacts::default()) };
                self.session.tls_done(self.now, id, outcome);
            }
        }
    }

    fn connected(&mut self) {
        (self.upgraded, self.head, self.held) = (false, Vec::new(), BytesMut::new());
    }

    fn input(&mut self, bytes: &[u8]) {
        if self.transport && self.session.wants_input() {
            self.held.extend_from_slice(bytes);
            self.session.handle_input(self.now, &mut self.held);
        }
    }

    fn written(&mut self, n: usize) {
        if !self.transport {
            return;
        }
        let Some(transmit) = self.session.transmit() else { return };
        let bytes: Vec<u8> = transmit.iter().flatten().copied().take(n).collect();
        if !self.upgraded {
            self.head.extend_from_slice(&bytes);
        }
        self.session.handle_written(self.now, bytes.len());
    }

    fn upgrade(&mut self) {
        if self.upgraded || !self.head.ends_with(b"\r\n\r\n") {
            return;
        }
        self.upgraded = true;
        let head = String::from_utf8(self.head.clone()).unwrap();
        self.input(raw::switching_protocols(&head, "").as_bytes());
    }

    fn returns(&mut self, how: u8) {
        let Some(call) = self.call.take() else { return };
        if how == 11 {
            return self.session.called(self.now, Returned::Panicked);
        }
        let returned = match call {
            "init" => Returned::Init(if how == 10 { Err("no".into()) } else { Ok(()) }),
            "prepare" if how == 10 => Returned::Prepare(Err("no".into())),
            "prepare" => {
                let url = ["ws://a.test/", "wss://a.test/", "ws://10.0.0.1/"][usize::from(how) % 3];
                Returned::Prepare(Ok(Box::new(ClientRequest::new(url).unwrap())))
            }
            "disconnect" => Returned::Retry([Retry::Policy, Retry::Stay, Retry::Stop][usize::from(how) % 3]),
            "terminate" => Returned::Terminated,
            _ => Returned::Action(match how {
                4 | 5 => Ok(Frame::text("pushed").into()),
                6 => Ok(vec![Frame::ping("x"), Frame::binary(vec![0; 900]), Frame::ping(vec![0; 126])].into()),
                7 => Ok(Action::Disconnect(CloseFrame::normal())),
                8 => Ok(Action::Stop),
                9 => Ok(Action::StopWith(CloseFrame::going_away())),
                10 => Err("no".into()),
                _ => Ok(Action::Continue),
            }),
        };
        self.session.called(self.now, returned);
    }

    fn command(&mut self, command: Command<u8, u32>) {
        self.session.command(self.now, command);
    }

    fn apply(&mut self, op: Op) -> Result<(), TestCaseError> {
        let frame = |control| if control { Frame::ping("sent") } else { Frame::text("sent") };
        match op {
            Op::Poll => self.poll()?,
            Op::Step => self.step(false),
            Op::StepFails => self.step(true),
            Op::Upgrade => self.upgrade(),
            Op::Text => self.input(&raw::frame(0x81, b"x")),
            Op::Ping => self.input(&raw::frame(0x89, b"x")),
            Op::PeerCloses => self.input(&raw::frame(0x88, b"\x03\xe8")),
            Op::PeerErrs => self.input(&raw::frame(0x83, b"")),
            Op::Written(n) => self.written(n),
            Op::Flushed => {
                if self.transport {
                    self.session.handle_flushed(self.now);
                }
            }
            Op::Eof => self.session.handle_eof(self.now),
            Op::Lost => self.session.handle_lost(self.now, ErrorKind::ConnectionReset.into()),
            Op::Return(how) => self.returns(how),
            Op::Send(control) | Op::SendOwn(control) => {
                let ticket = Some(self.ticket());
                self.command(Command::Send { frame: frame(control), ticket, own: matches!(op, Op::SendOwn(_)) });
            }
            Op::TrySend(len) => {
                self.command(Command::Send { frame: Frame::binary(vec![0; len]), ticket: None, own: false });
            }
            Op::Flush(own) => {
                let ticket = self.ticket();
                self.flushes.push(ticket);
                self.command(Command::Flush { ticket, own });
            }
            Op::Forget => {
                if let Some(ticket) = self.flushes.pop() {
                    self.command(Command::Forget(ticket));
                    self.poll()?;
                    prop_assert!(!self.open.contains(&ticket), "it is settled now at the latest");
                }
            }
            Op::Info => self.command(Command::Info(1)),
            Op::Disconnect => self.command(Command::Disconnect(CloseFrame::normal())),
            Op::Stop => self.command(Command::Stop(CloseFrame::normal())),
            Op::Unreachable => self.session.set_unreachable(true),
            Op::Wait(seconds) => {
                self.now += Duration::from_secs(seconds);
                self.session.handle_timeout(self.now);
            }
        }
        Ok(())
    }

    /// Stops it and lets everything run its course: it has to end.
    fn finish(&mut self) -> Result<(), TestCaseError> {
        self.apply(Op::Stop)?;
        for _ in 0..200 {
            self.poll()?;
            if self.ended {
                break;
            }
            self.written(usize::MAX);
            self.session.handle_flushed(self.now);
            self.returns(0);
            self.poll()?;
            if let Some((at, _)) = self.session.poll_timeout() {
                self.now = self.now.max(at);
                self.session.handle_timeout(self.now);
            }
        }
        prop_assert!(self.ended, "it ends");
        prop_assert_eq!(self.session.state(), ClientState::Stopped);
        prop_assert!(self.open.is_empty(), "every ticket is settled: {:?}", &self.open);
        prop_assert!(!self.transport, "the transport is closed");
        Ok(())
    }

    fn check_calls(&self, panicked: bool) -> Result<(), TestCaseError> {
        let of = |name| self.calls.iter().filter(|call| **call == name).count();
        prop_assert!(of("init") <= 1 && of("terminate") <= 1);
        if let Some(at) = self.calls.iter().position(|call| *call == "terminate") {
            prop_assert_eq!(at, self.calls.len() - 1, "it is the last");
        } else if of("init") == 1 && self.calls.len() > 1 && !panicked {
            prop_assert!(false, "terminate runs where init succeeded: {:?}", &self.calls);
        }
        for name in ["prepare", "connect", "disconnect"] {
            prop_assert!(of(name) <= 1, "once in the life of a client with one attempt: {:?}", &self.calls);
        }
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig {
        failure_persistence: Some(Box::new(FileFailurePersistence::WithSource("regressions"))),
        ..ProptestConfig::default()
    })]

    #[test]
    fn whatever_happens_it_ends_once_and_settles_every_ticket(
        url in prop_oneof![Just("ws://a.test/"), Just("ws://10.0.0.1/"), Just("wss://a.test/")],
        begun in prop_oneof![0..=OPENING.len(), Just(OPENING.len()), Just(OPENING.len())],
        eager in any::<bool>(),
        ops in vec(any_op(), 0..120),
    ) {
        let mut world = World::new(url);
        let mut panicked = false;
        for op in OPENING[..begun].iter().copied().chain(ops) {
            panicked |= matches!(op, Op::Return(11)) && world.call.is_some();
            world.apply(op)?;
            if eager {
                world.poll()?;
            }
        }
        world.finish()?;
        world.check_calls(panicked)?;
    }
}

#[test]
fn a_request_whose_session_is_stopped_before_init_is_answered_with_503() {
    let now = Instant::now();
    let config = Arc::new(Config::new(Role::Server));
    let mut connection = Connection::server(config.clone(), [1; 32], now + Duration::from_secs(5));
    let request = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
                   Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    connection.handle_input(now, &mut BytesMut::from(request));
    assert!(matches!(connection.poll_event(), Some(Event::Request(_))));
    let mut session: Session<(), ()> =
        Session::accepted(connection, Acceptance::new(), TransportFacts::default(), config);
    session.command(now, Command::Stop(CloseFrame::normal()));
    assert!(session.poll_output(now).is_none(), "no callback runs");
    let response: Vec<u8> = session.transmit().unwrap().iter().flatten().copied().collect();
    assert!(response.starts_with(b"HTTP/1.1 503 "));
    session.handle_written(now, response.len());
    assert!(matches!(session.poll_output(now), Some(Output::Shutdown(Shutdown::Write))));
    session.handle_eof(now);
    assert!(matches!(session.poll_output(now), Some(Output::Shutdown(Shutdown::Close))));
    assert!(matches!(session.poll_output(now), Some(Output::Stopped(_))));
    assert!(session.poll_output(now).is_none());
}
