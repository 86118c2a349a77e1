//! A browser on a page that our server serves, and nginx between our client and our server.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use super::{RUNTIMES, Row, START_LIMIT, Said, free_port, outcomes, run_client};
use crate::Outcome;
use crate::process::{self, Running};

/// What the page tries; it says what each means, and the server looks at the other side.
pub(super) const PAGE_CASES: &[&str] = &[
    "text",
    "binary",
    "blob",
    "1 MiB",
    "burst",
    "subprotocol",
    "close by server",
    "close by page",
    "page goes away",
    "other origin",
];
/// What becomes of a connection through a proxy on which nothing is said for longer than the proxy waits.
pub(super) const IDLE_CASES: &[&str] = &["kept by keepalive", "lost without", "comes back"];
/// Seconds for which the proxy waits.
const IDLE_TIMEOUT: u32 = 2;
/// For a browser to start and to run the whole page.
const PAGE_LIMIT: Duration = Duration::from_secs(90);

/// The programs that this needs.
pub(super) struct Programs {
    chromium: PathBuf,
    nginx: PathBuf,
}

impl Programs {
    /// [`new`](Self::new), if they are wanted at all.
    pub(super) fn new_if(wanted: bool) -> Result<Self, String> {
        if wanted { Self::new() } else { Err("not asked for (--browser)".to_owned()) }
    }

    /// Finds them, or installs them where that is possible. The error says what is missing, and why it still is.
    fn new() -> Result<Self, String> {
        let found = || {
            let chromium = find(&["chromium", "chromium-browser", "google-chrome"]);
            (chromium, find(&["nginx", "/usr/sbin/nginx"]))
        };
        if let (Some(chromium), Some(nginx)) = found() {
            return Ok(Self { chromium, nginx });
        }
        let missing: Vec<_> = [("chromium", found().0), ("nginx", found().1)]
            .into_iter()
            .filter_map(|(package, program)| program.is_none().then_some(package))
            .collect();
        install(&missing).map_err(|error| format!("{} missing, and not installed: {error}", missing.join(" and ")))?;
        match found() {
            (Some(chromium), Some(nginx)) => Ok(Self { chromium, nginx }),
            _ => Err(format!("{} installed, and not found", missing.join(" and "))),
        }
    }
}

fn find(names: &[&str]) -> Option<PathBuf> {
    names
        .iter()
        .find(|name| process::on_path(name) || Path::new(name).is_file() && name.starts_with('/'))
        .map(PathBuf::from)
}

/// By apt, as root or with a sudo that asks nothing.
fn install(packages: &[&str]) -> Outcome {
    if !process::on_path("apt-get") {
        return Err("no apt-get on the PATH".to_owned());
    }
    let root = process::output(Command::new("id").arg("-u"))?.trim() == "0";
    if !root && !process::on_path("sudo") {
        return Err("that takes root, or sudo".to_owned());
    }
    println!("installing {}", packages.join(" and "));
    let words: &[&str] = if root { &["sh"] } else { &["sudo", "-n", "sh"] };
    process::output(&mut install_command(words, Path::new("/usr/sbin/policy-rc.d"), packages)).map(drop)
}

/// `as_root` is how root runs a shell script.
fn install_command(as_root: &[&str], policy: &Path, packages: &[&str]) -> Command {
    let mut command = Command::new(as_root[0]);
    command.args(&as_root[1..]).arg(process::root().join("xtask/interop/install.sh"));
    command.arg(policy).args(packages).stdin(Stdio::null());
    command
}

/// The browser with each runtime's server: directly, under TLS, and through nginx.
pub(super) fn pages(ours: &Path, programs: &Programs, work: &Path) -> Result<Vec<Row>, String> {
    let mut rows = Vec::new();
    for runtime in RUNTIMES {
        for (scheme, words) in [("ws", &["plain"][..]), ("wss", &["tls", "cert.pem", "key.pem"])] {
            rows.push(page(
                ours,
                runtime,
                words,
                None,
                programs,
                work,
                &format!("chromium ─▶ our server on {runtime}, {scheme}"),
            )?);
        }
    }
    let title = format!("chromium ─▶ nginx ─▶ our server on {}, ws", RUNTIMES[0]);
    rows.push(page(ours, RUNTIMES[0], &["plain"], Some(()), programs, work, &title)?);
    Ok(rows)
}

fn page(
    ours: &Path,
    runtime: &str,
    words: &[&str],
    proxied: Option<()>,
    programs: &Programs,
    work: &Path,
    title: &str,
) -> Result<Row, String> {
    let mut command = process::die_with_us(ours);
    command.arg(runtime).args(words);
    let mut server = Said::start(command, work, "page.log")?;
    let said =
        server.wait_for(START_LIMIT, |said| said.lines().next().filter(|_| said.contains('\n')).map(str::to_owned))?;
    let (_proxy, url) = match proxied {
        None => (None, said),
        Some(()) => {
            let (proxy, addr) = proxy(programs, said.trim_start_matches("http://"), work)?;
            (Some(proxy), format!("http://{addr}"))
        }
    };
    let profile = profile(work)?;
    let mut browser = process::die_with_us(&programs.chromium);
    browser.args(["--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"]);
    // Nothing but the page: no updates, no services, no name that resolves.
    browser.args([
        "--disable-background-networking",
        "--disable-component-update",
        "--disable-sync",
        "--disable-breakpad",
    ]);
    browser.args(["--disable-extensions", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]);
    // The certificate is of an authority that this run has made.
    browser.arg("--ignore-certificate-errors").arg(format!("--user-data-dir={}", profile.display())).arg(&url);
    browser.env("HOME", &profile).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let browser = Running::start(&mut browser)?;
    // A page that does not come to its end lacks the cases that it has not reported.
    let _ = server.running.wait(PAGE_LIMIT);
    browser.terminate(Duration::from_secs(10));
    let _ = fs::remove_dir_all(&profile); // of no use any more, and in the way of nobody
    Ok(Row { title: title.to_owned(), outcomes: outcomes(&server.said()) })
}

/// A folder that no browser has had before.
fn profile(work: &Path) -> Result<PathBuf, String> {
    let free = (0..).map(|number| work.join(format!("chromium-{number}"))).find(|folder| !folder.exists());
    let folder = free.ok_or("no folder is free")?;
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    Ok(folder)
}

/// Our client through nginx to our server: all cases of the clients, and what idleness does.
pub(super) fn through_nginx(ours: &Path, programs: &Programs, work: &Path) -> Result<(Vec<Row>, Vec<Row>), String> {
    let (mut rows, mut idle) = (Vec::new(), Vec::new());
    for runtime in RUNTIMES {
        let mut command = process::die_with_us(ours);
        command.args([runtime, "server"]);
        let (_server, urls) = super::start_server(command, work)?;
        let plain = urls.iter().find_map(|url| url.strip_prefix("ws://")).ok_or("a server without ws://")?;
        let (_proxy, addr) = proxy(programs, plain, work)?;
        let title = format!("our client ─▶ nginx ─▶ our server on {runtime}, ws");
        let call = |what: &str| {
            let mut command = process::die_with_us(ours);
            run_client(command.args([runtime, what, &format!("ws://{addr}")]), work)
        };
        rows.push(Row { title: title.clone(), outcomes: call("client")? });
        idle.push(Row { title, outcomes: call("idle")? });
    }
    Ok((rows, idle))
}

/// nginx in front of a server, in one process with a folder of its own; with the address on which it listens.
fn proxy(programs: &Programs, server: &str, work: &Path) -> Result<(Running, String), String> {
    let folder = work.join("nginx");
    fs::create_dir_all(&folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let port = free_port()?;
    let temporary: String =
        ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"].map(|kind| format!("{kind}_temp_path temp;\n")).concat();
    let config = format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nerror_log error.log;\nevents {{ worker_connections 256; }}\n\
         http {{\naccess_log off;\n{temporary}server {{\nlisten 127.0.0.1:{port};\nlocation / {{\n\
         proxy_pass http://{server};\nproxy_http_version 1.1;\nproxy_set_header Host $http_host;\n\
         proxy_set_header Upgrade $http_upgrade;\nproxy_set_header Connection $connection_upgrade;\n\
         proxy_read_timeout {IDLE_TIMEOUT}s;\n}}\n}}\n\
         map $http_upgrade $connection_upgrade {{ default upgrade; '' close; }}\n}}\n"
    );
    let path = folder.join("nginx.conf");
    fs::write(&path, config).map_err(|error| format!("{}: {error}", path.display()))?;
    let mut command = process::die_with_us(&programs.nginx);
    command.arg("-p").arg(&folder).args(["-e", "error.log", "-c", "nginx.conf"]).stdin(Stdio::null());
    let mut nginx = Running::start(&mut command)?;
    let addr = format!("127.0.0.1:{port}");
    let deadline = Instant::now() + START_LIMIT;
    while std::net::TcpStream::connect(&addr).is_err() {
        if let Some(status) = nginx.ended()? {
            return Err(format!(
                "nginx ended before it listened ({status}): see {}",
                folder.join("error.log").display()
            ));
        }
        if Instant::now() >= deadline {
            return Err(format!("nginx did not listen within {} s", START_LIMIT.as_secs()));
        }
        thread::sleep(Duration::from_millis(20));
    }
    Ok((nginx, addr))
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSTALL: &str = "install --no-install-recommends chromium nginx";

    /// An `apt-get` of the test's own, which notes whether services would start (101: they would not), and what it was
    /// called for; then it does what the test says.
    struct Apt {
        folder: PathBuf,
    }

    impl Apt {
        fn new(name: &str, then: &str) -> Self {
            let folder = std::env::temp_dir().join(format!("parley-xtask-{}-{name}", std::process::id()));
            fs::create_dir_all(&folder).unwrap();
            let program = folder.join("apt-get");
            let script = format!(
                "#!/bin/sh\ncd '{}'\nsh ./policy; services=$?\n\
                 while [ \"$1\" != install ] && [ \"$1\" != update ]; do shift; done\n\
                 echo \"$services $*\" >>calls\n{then}\n",
                folder.display()
            );
            fs::write(&program, script).unwrap();
            process::run(Command::new("chmod").arg("+x").arg(program)).unwrap();
            Self { folder }
        }

        fn run(&self) -> Outcome {
            let mut command = install_command(&["sh"], &self.policy(), &["chromium", "nginx"]);
            let path = format!("{}:{}", self.folder.display(), std::env::var("PATH").unwrap());
            process::run(command.env("PATH", path))
        }

        fn policy(&self) -> PathBuf {
            self.folder.join("policy")
        }

        fn calls(&self) -> String {
            fs::read_to_string(self.folder.join("calls")).unwrap()
        }
    }

    impl Drop for Apt {
        fn drop(&mut self) {
            let _ = fs::remove_dir_all(&self.folder);
        }
    }

    #[test]
    fn packages_are_installed_without_their_services() {
        let apt = Apt::new("works", "");
        apt.run().unwrap();
        assert_eq!(apt.calls(), format!("101 {INSTALL}\n"));
        assert!(!apt.policy().exists());
    }

    #[test]
    fn the_lists_are_fetched_when_installing_fails() {
        let apt = Apt::new("old-lists", "[ -e lists ] || { [ $1 = update ] && touch lists; }");
        apt.run().unwrap();
        assert_eq!(apt.calls(), format!("101 {INSTALL}\n101 update\n101 {INSTALL}\n"));
        assert!(!apt.policy().exists());
    }

    #[test]
    fn services_may_start_again_after_a_failure_and_after_an_interruption() {
        for (name, then) in [("fails", "exit 100"), ("interrupted", "kill -TERM $PPID")] {
            let apt = Apt::new(name, then);
            assert!(apt.run().is_err(), "{name}");
            assert!(!apt.policy().exists(), "{name}");
        }
    }

    #[test]
    fn the_administrators_policy_is_left_alone() {
        let apt = Apt::new("policy", "");
        fs::write(apt.policy(), "exit 104").unwrap();
        apt.run().unwrap();
        assert_eq!(apt.calls(), format!("104 {INSTALL}\n"));
        assert_eq!(fs::read_to_string(apt.policy()).unwrap(), "exit 104");
    }
}
