//! What a process under test is to do, as arguments of the command line.

/// One library in one role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Job {
    /// As in the tables: "tokio-tungstenite".
    pub library: String,
    /// "tokio" or "async-std".
    pub runtime: String,
    pub role: Role,
    /// The runtime's threads; 0 for one that is the caller's own.
    pub workers: usize,
    /// A server's certificate and key, or the certificate that a client shall trust, in hexadecimal digits of DER; empty without TLS.
    pub certificate: String,
    pub key: String,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Role {
    /// A server that sends every message back.
    Server(Loop),
    /// A client of this port.
    Client { port: u16, task: Task },
    /// So many clients of this port in one process, each of which sends back what it receives.
    Clients { port: u16, count: usize, callbacks: bool },
}

/// How an echo server is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Loop {
    /// The fastest way: replies leave together, where the library can.
    Batched,
    /// A loop that waits for each reply to be sent.
    Naive,
    /// The same, with Parley's `auto_cork`.
    Corked,
    /// Parley's callbacks.
    Callbacks,
    /// As [`Batched`](Self::Batched), behind the library's own opening handshake instead of one by hand.
    Accepting,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Task {
    /// Receives messages of this size (0: of 100 to 200 bytes), and answers every so many of them by the sum of their sizes.
    Receive { every: u64, size: usize, callbacks: bool },
    /// Sends so many messages of this size whenever one arrives, and flushes after every `flush_every`. Unless `by_handle` is 0,
    /// so many at a time are fed through a handle, from a task beside a callback client.
    Send { messages: u64, size: usize, flush_every: u64, by_handle: usize },
}

const LOOPS: [(&str, Loop); 5] = [
    ("batched", Loop::Batched),
    ("naive", Loop::Naive),
    ("corked", Loop::Corked),
    ("callbacks", Loop::Callbacks),
    ("accepting", Loop::Accepting),
];

impl Job {
    pub fn new(library: &str, runtime: &str, role: Role) -> Self {
        Self {
            library: library.to_owned(),
            runtime: runtime.to_owned(),
            role,
            workers: 0,
            certificate: String::new(),
            key: String::new(),
        }
    }

    pub fn to_args(&self) -> Vec<String> {
        let mut args = vec![
            self.library.clone(),
            self.runtime.clone(),
            self.workers.to_string(),
            self.certificate.clone(),
            self.key.clone(),
        ];
        let role = match self.role {
            Role::Server(echo) => {
                let name = LOOPS.iter().find(|(_, known)| *known == echo).map_or("", |(name, _)| name);
                vec!["server".to_owned(), name.to_owned()]
            }
            Role::Client { port, task: Task::Receive { every, size, callbacks } } => {
                let numbers = [u64::from(port), every, size as u64].map(|number| number.to_string());
                let mut role = vec!["receive".to_owned()];
                role.extend(numbers);
                role.push(callbacks.to_string());
                role
            }
            Role::Client { port, task: Task::Send { messages, size, flush_every, by_handle } } => {
                let numbers = [u64::from(port), messages, size as u64, flush_every].map(|number| number.to_string());
                let mut role = vec!["send".to_owned()];
                role.extend(numbers);
                role.push(by_handle.to_string());
                role
            }
            Role::Clients { port, count, callbacks } => {
                vec!["clients".to_owned(), port.to_string(), count.to_string(), callbacks.to_string()]
            }
        };
        args.extend(role);
        args
    }

    /// What [`to_args`](Self::to_args) made.
    pub fn from_args(args: &[String]) -> Option<Self> {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let [library, runtime, workers, certificate, key, role @ ..] = args.as_slice() else { return None };
        let role = match role {
            ["server", name] => Role::Server(LOOPS.iter().find(|(known, _)| known == name)?.1),
            ["receive", port, every, size, callbacks] => Role::Client {
                port: port.parse().ok()?,
                task: Task::Receive {
                    every: every.parse().ok()?,
                    size: size.parse().ok()?,
                    callbacks: callbacks.parse().ok()?,
                },
            },
            ["send", port, messages, size, flush_every, by_handle] => Role::Client {
                port: port.parse().ok()?,
                task: Task::Send {
                    messages: messages.parse().ok()?,
                    size: size.parse().ok()?,
                    flush_every: flush_every.parse().ok()?,
                    by_handle: by_handle.parse().ok()?,
                },
            },
            ["clients", port, count, callbacks] => Role::Clients {
                port: port.parse().ok()?,
                count: count.parse().ok()?,
                callbacks: callbacks.parse().ok()?,
            },
            _ => return None,
        };
        Some(Self {
            workers: workers.parse().ok()?,
            certificate: (*certificate).to_owned(),
            key: (*key).to_owned(),
            ..Self::new(library, runtime, role)
        })
    }
}

pub fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

pub fn from_hex(digits: &str) -> Option<Vec<u8>> {
    (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_is_read_from_the_arguments_it_made() {
        let receive = Task::Receive { every: 5, size: 0, callbacks: true };
        let send = Task::Send { messages: 10, size: 128, flush_every: 64, by_handle: 7 };
        let roles = LOOPS.map(|(_, echo)| Role::Server(echo)).into_iter().chain([
            Role::Client { port: 80, task: receive },
            Role::Client { port: 80, task: send },
            Role::Clients { port: 80, count: 3, callbacks: true },
        ]);
        for role in roles {
            let job = Job { workers: 2, certificate: to_hex(b"\x00\xff"), ..Job::new("parley", "tokio", role) };
            assert_eq!(Job::from_args(&job.to_args()), Some(job));
        }
        assert_eq!(Job::from_args(&["parley".to_owned()]), None);
        assert_eq!(from_hex("00ff"), Some(vec![0, 255]));
    }
}
