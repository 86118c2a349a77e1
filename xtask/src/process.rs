//! Folders and child processes: what a task starts, it also ends.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

/// The folder of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// The folder for all that is built or downloaded.
pub(crate) fn target_dir() -> PathBuf {
    match std::env::var_os("CARGO_TARGET_DIR") {
        Some(dir) if !dir.is_empty() => root().join(dir),
        _ => root().join("target"),
    }
}

/// The cargo that runs this task.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// Runs `command` to its end; anything but success is an error.
pub(crate) fn run(command: &mut Command) -> Result<(), String> {
    let status = command.status().map_err(|error| format!("{}: {error}", shown(command)))?;
    if status.success() { Ok(()) } else { Err(format!("{} failed ({status})", shown(command))) }
}

/// Runs `command` to its end and returns what it printed; its errors go to the terminal.
pub(crate) fn output(command: &mut Command) -> Result<String, String> {
    let output = command.stderr(Stdio::inherit()).output().map_err(|error| format!("{}: {error}", shown(command)))?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    } else {
        Err(format!("{} failed ({})", shown(command), output.status))
    }
}

/// Runs `command` to its end, shows what it prints, and returns that as well, beside whether it succeeded.
pub(crate) fn echoed(command: &mut Command) -> Result<(String, Result<(), String>), String> {
    let mut running = Running::start(command.stdout(Stdio::piped()))?;
    let mut printed = String::new();
    if let Some(stdout) = running.child.stdout.take() {
        for line in BufReader::new(stdout).split(b'\n') {
            let line = line.map_err(|error| format!("{}: {error}", shown(command)))?;
            let line = String::from_utf8_lossy(&line);
            println!("{line}");
            printed.push_str(&line);
            printed.push('\n');
        }
    }
    let status = running.child.wait().map_err(|error| format!("{}: {error}", shown(command)))?;
    let outcome = if status.success() { Ok(()) } else { Err(format!("{} failed ({status})", shown(command))) };
    Ok((printed, outcome))
}

/// Whether a program of this name is on the PATH.
pub(crate) fn on_path(program: &str) -> bool {
    std::env::var_os("PATH").is_some_and(|path| std::env::split_paths(&path).any(|dir| dir.join(program).is_file()))
}

/// `program`, where possible in such a way that the kernel ends it if this task is killed.
pub(crate) fn die_with_us(program: &Path) -> Command {
    if !on_path("setpriv") {
        return Command::new(program);
    }
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "KILL"]).arg(program);
    command
}

/// The first line of what a compiler says of itself: "rustc 1.95.0 (...)".
pub(crate) fn rustc_version(rustc: &mut Command) -> Result<String, String> {
    Ok(output(rustc.arg("--version"))?.trim().to_owned())
}

/// Builds one target with `cargo ARGS` and returns the path of the program.
pub(crate) fn build(args: &[&str], name: &str) -> Result<PathBuf, String> {
    built(cargo().args(args), name)
}

/// The same with a command that has its arguments and whatever else it needs.
pub(crate) fn built(command: &mut Command, name: &str) -> Result<PathBuf, String> {
    let messages = output(command.arg("--message-format=json-render-diagnostics"))?;
    executable(&messages, name).ok_or_else(|| format!("{} built no program called {name}", shown(command)))
}

/// The `executable` of the target `name` among cargo's messages, one JSON object a line.
fn executable(messages: &str, name: &str) -> Option<PathBuf> {
    let wanted = format!("\"name\":\"{name}\"");
    messages.lines().filter(|line| line.contains("\"compiler-artifact\"") && line.contains(&wanted)).find_map(|line| {
        let (_, rest) = line.split_once("\"executable\":\"")?;
        let (path, _) = rest.split_once('"')?;
        Some(PathBuf::from(path.replace("\\\\", "\\")))
    })
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(OsStr::to_string_lossy).collect::<Vec<_>>().join(" ")
}

/// A child process that ends with this value, however the task is left.
pub(crate) struct Running {
    child: Child,
    name: String,
}

impl Running {
    pub(crate) fn start(command: &mut Command) -> Result<Self, String> {
        let name = command.get_program().to_string_lossy().into_owned();
        let child = command.spawn().map_err(|error| format!("{name}: {error}"))?;
        Ok(Self { child, name })
    }

    /// Its exit status, if it has ended.
    pub(crate) fn ended(&mut self) -> Result<Option<ExitStatus>, String> {
        self.child.try_wait().map_err(|error| format!("{}: {error}", self.name))
    }

    /// Waits for its end, at most `limit`.
    pub(crate) fn wait(&mut self, limit: Duration) -> Result<ExitStatus, String> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(status) = self.ended()? {
                return Ok(status);
            }
            if Instant::now() >= deadline {
                return Err(format!("{} had not ended after {} s", self.name, limit.as_secs()));
            }
            thread::sleep(Duration::from_millis(50));
        }
    }

    /// Asks it to end, so that it ends what it has started itself, and waits for that, at most `limit`; then it is killed.
    pub(crate) fn terminate(mut self, limit: Duration) {
        let asked = Command::new("kill").arg(self.child.id().to_string()).status();
        if asked.is_ok_and(|status| status.success()) {
            let _ = self.wait(limit);
        }
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // Both fail only when it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_printed_comes_back_also_from_a_command_that_fails() {
        let (printed, outcome) = echoed(Command::new("sh").args(["-c", "echo one; printf two; exit 3"])).unwrap();
        assert_eq!(printed, "one\ntwo\n");
        assert!(outcome.unwrap_err().contains("exit status: 3"));
    }

    #[test]
    fn the_executable_of_the_named_target_is_found() {
        let messages = concat!(
            r#"{"reason":"compiler-artifact","target":{"name":"bytes"},"executable":null}"#,
            "\n",
            r#"{"reason":"compiler-artifact","target":{"name":"data_path"},"executable":"/t/deps/data_path-1"}"#,
            "\n",
            r#"{"reason":"build-finished","success":true}"#,
        );
        assert_eq!(executable(messages, "data_path"), Some(PathBuf::from("/t/deps/data_path-1")));
        assert_eq!(executable(messages, "bytes"), None);
    }
}
