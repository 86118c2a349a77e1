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
    let as_root = |words: &[&str]| {
        let mut command = if root { Command::new("env") } else { Command::new("sudo") };
        command.args(if root { &[][..] } else { &["-n", "env"] });
        command.arg("DEBIAN_FRONTEND=noninteractive").args(words).stdin(Stdio::null());
        process::output(&mut command).map(drop)
    };
    // Debian starts a service when it installs one, unless this file says no; nothing listens that was not asked for.
    let policy = "/usr/sbin/policy-rc.d";
    let ours = !Path::new(policy).exists();
    if ours {
        as_root(&["sh", "-c", &format!("printf '#!/bin/sh\\nexit 101\\n' > {policy} && chmod +x {policy}")])?;
    }
    let apt = [&["apt-get", "install", "--yes", "--quiet", "--no-install-recommends"], packages].concat();
    println!("installing {}", packages.join(" and "));
    let installed = as_root(&apt).or_else(|_| {
        as_root(&["apt-get", "update", "--quiet"])?; // the lists are old, or there are none
        as_root(&apt)
    });
    let removed = if ours { as_root(&["rm", policy]) } else { Ok(()) };
    installed.and(removed)
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
