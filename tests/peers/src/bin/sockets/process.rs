//! The process under test: started on one core, while the load is on the other; its CPU time and memory as the kernel counts them.

use std::io::{self, BufRead, BufReader};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::{Duration, Instant};
use std::{env, fs, thread};

use nix::sched::{CpuSet, sched_setaffinity};
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use nix::time::clock_getcpuclockid;
use nix::unistd::Pid;

use crate::job::Job;
use crate::load::PATIENCE;

/// The cores of the process under test, and of the load.
pub const UNDER_TEST: usize = 0;
pub const LOAD: usize = 1;

/// Binds this process to these cores.
///
/// # Errors
///
/// The system's: there is no such core.
pub fn pin(cores: &[usize]) -> io::Result<()> {
    let mut set = CpuSet::new();
    for core in cores {
        set.set(*core)?;
    }
    Ok(sched_setaffinity(Pid::from_raw(0), &set)?)
}

/// Lets this process have so many open files, or as many as the system allows it.
///
/// # Errors
///
/// The system's.
pub fn raise_open_files(most: u64) -> io::Result<()> {
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
    let most = most.min(hard);
    match soft < most {
        true => Ok(setrlimit(Resource::RLIMIT_NOFILE, most, hard)?),
        false => Ok(()),
    }
}

/// A process under test. Dropping it ends it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Process {
    /// Starts this program once more, for one job.
    ///
    /// # Errors
    ///
    /// The system's.
    pub fn start(job: &Job) -> io::Result<Self> {
        let mut command = Command::new(env::current_exe()?);
        command.arg("under-test").args(job.to_args()).stdin(Stdio::null()).stdout(Stdio::piped());
        // One core: more threads than one would only be in each other's way.
        command.env("ASYNC_STD_THREAD_COUNT", job.workers.max(1).to_string());
        let mut child = command.spawn()?;
        let output = child.stdout.take().ok_or_else(|| io::Error::other("the output is piped"))?;
        Ok(Self { child, output: BufReader::new(output) })
    }

    /// The port that a server says it listens at.
    ///
    /// # Errors
    ///
    /// It ended instead.
    pub fn port(&mut self) -> io::Result<u16> {
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        line.trim().parse().map_err(|_| io::Error::other(format!("no port, but {line:?}")))
    }

    pub fn id(&self) -> u32 {
        self.child.id()
    }

    fn pid(&self) -> i32 {
        self.id().cast_signed()
    }

    /// CPU time, of the user's and the system's, of all its threads: exact when it is at rest.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn cpu(&self) -> io::Result<Duration> {
        Ok(Duration::from(clock_getcpuclockid(Pid::from_raw(self.pid()))?.now()?))
    }

    /// Its CPU time once it has come to rest, which has to be soon: its work is done.
    ///
    /// # Errors
    ///
    /// It has ended, or does not come to rest.
    pub fn cpu_at_rest(&self) -> io::Result<Duration> {
        let (start, mut last) = (Instant::now(), None);
        while start.elapsed() < PATIENCE {
            // Twice asleep, and not a cycle between: what waits for a core that others keep busy is not at rest.
            let now = if self.sleeps()? { Some(self.cpu()?) } else { None };
            match (last, now) {
                (Some(before), Some(now)) if before == now => return Ok(now),
                _ => last = now,
            }
            thread::sleep(Duration::from_micros(300));
        }
        Err(io::Error::other("the process under test does not come to rest"))
    }

    /// Whether all its threads wait.
    fn sleeps(&self) -> io::Result<bool> {
        for thread in fs::read_dir(format!("/proc/{}/task", self.pid()))? {
            // "pid (name) state …"; a thread that has ended meanwhile does nothing.
            let stat = fs::read_to_string(thread?.path().join("stat")).unwrap_or_default();
            let state = stat.rsplit_once(") ").map_or("", |(_, rest)| rest);
            if state.starts_with('R') || state.starts_with('D') {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Resident memory, in bytes; the most there has ever been for `VmHWM`, and what there is now for `VmRSS`.
    ///
    /// # Errors
    ///
    /// It has ended.
    pub fn memory(&self, key: &str) -> io::Result<u64> {
        let status = fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let kib = status.lines().find_map(|line| line.strip_prefix(key)?.strip_prefix(':')?.split_whitespace().next());
        let kib: u64 = kib.and_then(|kib| kib.parse().ok()).ok_or_else(|| io::Error::other("no such memory"))?;
        Ok(kib * 1024)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
