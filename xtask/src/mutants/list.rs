//! Ways to break the library that the simulator has to see.
//!
//! `sound` has to occur exactly once in its file, below `parley-proto/src`; `broken` takes its place, with `MUTANT` where
//! the condition is to stand under which it differs.

pub(super) struct Mutant {
    /// What is wrong with it.
    pub(super) what: &'static str,
    pub(super) file: &'static str,
    pub(super) sound: &'static str,
    pub(super) broken: &'static str,
}

const fn mutant(what: &'static str, file: &'static str, sound: &'static str, broken: &'static str) -> Mutant {
    Mutant { what, file, sound, broken }
}

const SESSION: &str = "session/mod.rs";
const OUTBOX: &str = "session/outbox.rs";
const RETRY: &str = "session/retry.rs";
const DRIVER: &str = "driver/mod.rs";
const IO: &str = "driver/io.rs";
const HANDLE: &str = "driver/handle.rs";
const PIPE: &str = "driver/pipe.rs";
const NAMES: &str = "driver/names.rs";
const CONNECTION: &str = "connection/mod.rs";
const KEEPALIVE: &str = "connection/keepalive.rs";

pub(super) const MUTANTS: &[Mutant] = &[
    // Attempts and their delays.
    mutant(
        "the end of a connection is not told",
        SESSION,
        "self.lost = self.stop.is_none();",
        "self.lost = self.stop.is_none() && !MUTANT;",
    ),
    mutant(
        "a message that was lent and dealt with comes again",
        SESSION,
        "            up.connection.skip();\n            self.delivered();",
        "            if !MUTANT {\n                up.connection.skip();\n            }\n            self.delivered();",
    ),
    mutant(
        "a push of a lent message goes ahead of what its callback has sent",
        IO,
        "message.push(frame, !self.ending.shared.is_dirty())",
        "message.push(frame, MUTANT || !self.ending.shared.is_dirty())",
    ),
    mutant(
        "the backoff does not grow",
        RETRY,
        "self.retries = self.retries.saturating_add(1);",
        "self.retries = self.retries.saturating_add(u32::from(!MUTANT));",
    ),
    mutant(
        "any connection starts the backoff anew",
        RETRY,
        "if uptime >= reconnect.min_uptime {",
        "if uptime >= reconnect.min_uptime || MUTANT {",
    ),
    mutant(
        "half jitter draws from all of it",
        RETRY,
        "rng.random_range(nanos / 2 + 1..=nanos)",
        "rng.random_range(if MUTANT { 0 } else { nanos / 2 + 1 }..=nanos)",
    ),
    mutant(
        "one retry more than the most",
        RETRY,
        "|most| self.retries >= most)",
        "|most| self.retries >= most.saturating_add(u32::from(MUTANT)))",
    ),
    mutant(
        "policy tries again whatever the reason was",
        SESSION,
        "(Retry::Policy, Some(reconnect)) if reason.is_transient() => {",
        "(Retry::Policy, Some(reconnect)) if MUTANT || reason.is_transient() => {",
    ),
    mutant("Retry-After is not minded", SESSION, ".max(floor);", ".max(if MUTANT { Duration::ZERO } else { floor });"),
    mutant(
        "a disconnect does not cancel the retry",
        SESSION,
        "            Phase::Down(retry_at) => (*retry_at, self.then) = (None, late),",
        "            Phase::Down(_) if MUTANT => {}\n            Phase::Down(retry_at) => (*retry_at, self.then) = (None, late),",
    ),
    mutant(
        "a reconnect stays down",
        SESSION,
        "let then = if redial { Then::Dial } else { Then::Policy };",
        "let then = if redial && !MUTANT { Then::Dial } else { Then::Policy };",
    ),
    mutant(
        "a client with reconnection gives up at its first failure",
        SESSION,
        "let hopeless = self.reconnect().is_none() &&",
        "let hopeless = (MUTANT || self.reconnect().is_none()) &&",
    ),
    mutant(
        "a failed first attempt is never hopeless",
        SESSION,
        "if self.stop.is_none() && hopeless {",
        "if self.stop.is_none() && hopeless && !MUTANT {",
    ),
    mutant(
        "an attempt has twice its time",
        SESSION,
        "let deadline = deadline(now, dial.target.connect_timeout);",
        "let deadline = deadline(now, dial.target.connect_timeout * if MUTANT { 2 } else { 1 });",
    ),
    mutant(
        "a step of dialling that was given up goes on",
        IO,
        "steps.retain(|(step, _)| *step != id);",
        "steps.retain(|(step, _)| MUTANT || *step != id);",
    ),
    mutant(
        "prepare goes on though its attempt was given up",
        SESSION,
        "self.abandon |= self.outstanding == Some(Outstanding::Prepare);",
        "self.abandon |= self.outstanding == Some(Outstanding::Prepare) && !MUTANT;",
    ),
    mutant(
        "connect does not skip the delay",
        SESSION,
        "Command::Connect => self.connect(now),",
        "Command::Connect if MUTANT && self.retry_at().is_some() => {}\n            Command::Connect => self.connect(now),",
    ),
    // The end.
    mutant(
        "a transport that failed is kept",
        PIPE,
        "Shutdown::Abort => self.abort(),",
        "Shutdown::Abort if MUTANT => {}\n            Shutdown::Abort => self.abort(),",
    ),
    mutant(
        "a client whose future is dropped ends without a word",
        DRIVER,
        "self.shared.end(StopReason::Aborted, outcomes);",
        "if !MUTANT {\n            self.shared.end(StopReason::Aborted, outcomes);\n        }",
    ),
    mutant(
        "terminate is skipped",
        SESSION,
        "if stop.terminated || matches!(self.phase, Phase::New(_)) {",
        "if stop.terminated || MUTANT || matches!(self.phase, Phase::New(_)) {",
    ),
    mutant(
        "a client ends though an info is to come",
        SESSION,
        "!infos.delayed.is_empty()",
        "!infos.delayed.is_empty() && !MUTANT",
    ),
    mutant(
        "a client ends though it has a name",
        SESSION,
        "            || self.named;",
        "            || self.named && !MUTANT;",
    ),
    mutant(
        "a client ends though it has handles",
        SESSION,
        "        self.unreachable = unreachable;",
        "        self.unreachable = unreachable || MUTANT;",
    ),
    mutant(
        "a name is kept behind the end",
        NAMES,
        "let client = registry().remove(&self.0);",
        "if MUTANT {\n            return;\n        }\n        let client = registry().remove(&self.0);",
    ),
    mutant(
        "a close that was asked for has no deadline to speak of",
        SESSION,
        "let deadline = deadline(now, self.config.close_timeout);\n                    let greeting",
        "let deadline = deadline(now, self.config.close_timeout * if MUTANT { 20 } else { 1 });\n                    let greeting",
    ),
    mutant(
        "the close timeout is far too long",
        CONNECTION,
        "self.timers.armed().close.get_or_insert(deadline(now, self.config.close_timeout));",
        "self.timers.armed().close.get_or_insert(deadline(now, self.config.close_timeout * if MUTANT { 20 } else { 1 }));",
    ),
    mutant(
        "the peer's Close is answered with another code",
        CONNECTION,
        "CloseFrame::new(close.code(), \"\").ok());",
        "if MUTANT { Some(CloseFrame::normal()) } else { CloseFrame::new(close.code(), \"\").ok() });",
    ),
    mutant(
        "a TLS stream that was cut is an error of TCP",
        PIPE,
        "io::ErrorKind::UnexpectedEof => engine",
        "io::ErrorKind::UnexpectedEof if !MUTANT => engine",
    ),
    // Sends.
    mutant(
        "what waited for an attempt waits for the next",
        SESSION,
        "            Returned::Retry(retry) => {\n                self.give_back();",
        "            Returned::Retry(retry) => {\n                if !MUTANT {\n                    self.give_back();\n                }",
    ),
    mutant(
        "a send that waits for room waits over the end",
        HANDLE,
        "inner.epoch = inner.epoch.wrapping_add(1);",
        "inner.epoch = inner.epoch.wrapping_add(u32::from(!MUTANT));",
    ),
    mutant(
        "sends are settled when they are encoded",
        OUTBOX,
        "|&(end, _)| end <= self.flushed)",
        "|&(end, _)| MUTANT || end <= self.flushed)",
    ),
    mutant(
        "sends that were lost are said to have left",
        OUTBOX,
        "        for (_, ticket) in self.begun.take() {\n            self.settled.push_back((ticket, Err(SendError::Lost(reason.clone()))));",
        "        for (_, ticket) in self.begun.take() {\n            let lost = if MUTANT { Ok(()) } else { Err(SendError::Lost(reason.clone())) };\n            self.settled.push_back((ticket, lost));",
    ),
    mutant(
        "sends that have left are never settled",
        OUTBOX,
        "            if let Some((_, ticket)) = self.begun.pop_front() {\n                self.settled",
        "            if let Some((_, ticket)) = self.begun.pop_front().filter(|_| !MUTANT) {\n                self.settled",
    ),
    mutant(
        "what has left counts to the queue for ever",
        OUTBOX,
        "self.released += released;",
        "self.released += if MUTANT { 0 } else { released };",
    ),
    mutant(
        "what was given back counts to the queue for ever",
        OUTBOX,
        "self.released += error.frame().map_or(0, cost);",
        "self.released += if MUTANT { 0 } else { error.frame().map_or(0, cost) };",
    ),
    mutant(
        "queues have no bound",
        HANDLE,
        "self.used == 0 || self.used.saturating_add(cost) <= self.limit",
        "MUTANT || self.used == 0 || self.used.saturating_add(cost) <= self.limit",
    ),
    mutant(
        "what is fed goes ahead of what was asked for before",
        HANDLE,
        "let is_next = !own && self.commands.is_empty();",
        "let is_next = !own && (MUTANT || self.commands.is_empty());",
    ),
    mutant(
        "frames that waited leave ahead of the greeting",
        SESSION,
        "        self.outbox.hold();\n    }\n\n    /// The attempt is over",
        "        if !MUTANT {\n            self.outbox.hold();\n        }\n    }\n\n    /// The attempt is over",
    ),
    mutant(
        "callbacks go on over the bound of what they pushed",
        SESSION,
        "self.outbox.pushed() < self.config.limits.send_queue() &&",
        "(MUTANT || self.outbox.pushed() < self.config.limits.send_queue()) &&",
    ),
    mutant(
        "data goes ahead of pings and pongs",
        OUTBOX,
        "            self.control.pop_front().or_else(|| self.data.pop_front())",
        "                if MUTANT { self.data.pop_front() } else { None }\n                    .or_else(|| self.control.pop_front())\n                    .or_else(|| self.data.pop_front())",
    ),
    mutant(
        "a returned push goes ahead of what the callback sent itself",
        IO,
        "returned: Option<Result<Action, BoxError>>) {\n        self.take_commands();",
        "returned: Option<Result<Action, BoxError>>) {\n        if !MUTANT {\n            self.take_commands();\n        }",
    ),
    // Infos.
    mutant(
        "infos come in the wrong order",
        SESSION,
        "Command::Info(info) => self.infos.get_or_insert_default().due.push_back(info),",
        "Command::Info(info) if MUTANT => self.infos.get_or_insert_default().due.push_front(info),\n            Command::Info(info) => self.infos.get_or_insert_default().due.push_back(info),",
    ),
    mutant("infos wait for frames", SESSION, "self.info_turn = true;\n    }", "self.info_turn = !MUTANT;\n    }"),
    mutant("frames wait for infos", SESSION, "self.info_turn = false;", "self.info_turn = MUTANT;"),
    mutant(
        "a delayed info cannot be cancelled",
        SESSION,
        "|&(_, other), _| other != id);",
        "|&(_, other), _| MUTANT || other != id);",
    ),
    mutant(
        "a delayed info comes too early",
        SESSION,
        "self.infos.get_or_insert_default().delayed.insert((deadline(now, delay), id), info);",
        "self.infos.get_or_insert_default().delayed.insert((deadline(now, if MUTANT { delay / 2 } else { delay }), id), info);",
    ),
    mutant(
        "infos that came count to the queue for ever",
        SESSION,
        "        self.released += 1;",
        "        self.released += usize::from(!MUTANT);",
    ),
    // Pings, pongs and signs of life.
    mutant(
        "only the newest ping is ever answered",
        CONNECTION,
        "if blocked.is_some() || encoder.queued() >= PONGS_AHEAD {",
        "if MUTANT || blocked.is_some() || encoder.queued() >= PONGS_AHEAD {",
    ),
    mutant(
        "the oldest ping is answered when output has drained",
        CONNECTION,
        "*pong = Some(Box::new(answer));",
        "*pong = pong.take().filter(|_| MUTANT).or(Some(Box::new(answer)));",
    ),
    mutant(
        "a pong that waited waits for the next frame",
        CONNECTION,
        "fn handle_all_written(&mut self) {\n        if self.pong.is_some() {",
        "fn handle_all_written(&mut self) {\n        if self.pong.is_some() && !MUTANT {",
    ),
    mutant(
        "the answers to keepalive are delivered",
        CONNECTION,
        "return !life.answered(payload);",
        "return !life.answered(payload) || MUTANT;",
    ),
    mutant(
        "no byte but a pong is a sign of life",
        KEEPALIVE,
        "self.last_input = self.last_input.max(now);",
        "if MUTANT {\n            return;\n        }\n        self.last_input = self.last_input.max(now);",
    ),
    mutant(
        "a silent peer is waited for without end",
        KEEPALIVE,
        "Some(since) => deadline(since, keepalive.timeout),",
        "Some(since) => deadline(since, keepalive.timeout * if MUTANT { 100 } else { 1 }),",
    ),
    mutant(
        "progress does not put off the write timeout",
        CONNECTION,
        "if n > 0 || self.blocked.is_none() {",
        "if n > 0 && !MUTANT || self.blocked.is_none() {",
    ),
    mutant(
        "a peer that takes nothing is waited for without end",
        CONNECTION,
        "deadline(since, self.config.write_timeout)",
        "deadline(since, self.config.write_timeout * if MUTANT { 100 } else { 1 })",
    ),
];
