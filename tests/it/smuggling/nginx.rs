//! A real nginx before a sidecar.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::Port;
use crate::support::{PATIENCE, TestSidecar, free_port, raw};

/// Set where a missing nginx is a failure.
const REQUIRED: &str = "REQUIRE_NGINX";

/// Whether nginx reads a whole body before it hands it on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Buffering {
    Off,
    On,
}

/// It, with a server for each port and each kind of buffering; it ends when this is dropped.
pub(super) struct Nginx {
    child: Child,
    ports: [u16; 4],
    directory: tempfile::TempDir,
}

impl Nginx {
    /// Starts one before both ports of `sidecar`; nothing where the host has none.
    pub(super) async fn before(sidecar: &TestSidecar) -> Option<Self> {
        let Some(program) = find() else {
            let hint = "no nginx in PATH or target/nginx (.ci/nginx gets one)";
            assert!(std::env::var_os(REQUIRED).is_none(), "{hint}");
            crate::support::skipped(&format!("{hint}; nothing was sent through it"));
            return None;
        };
        let directory = tempfile::tempdir().expect("a directory");
        let ports = free_ports();
        let path = directory.path().join("nginx.conf");
        let text = configuration(directory.path(), ports, sidecar);
        std::fs::write(&path, text).expect("written");
        let child = Command::new(program)
            .arg("-p")
            .arg(directory.path())
            .arg("-c")
            .arg(&path)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .spawn()
            .expect("nginx starts");
        let mut nginx = Self {
            child,
            ports,
            directory,
        };
        nginx.listening().await;
        Some(nginx)
    }

    /// Where a port of the sidecar is reached through it.
    pub(super) fn authority(&self, port: Port, buffering: Buffering) -> String {
        format!("127.0.0.1:{}", self.port(port, buffering))
    }

    fn port(&self, port: Port, buffering: Buffering) -> u16 {
        let index = match (port, buffering) {
            (Port::Proxy, Buffering::On) => 0,
            (Port::Proxy, Buffering::Off) => 1,
            (Port::Webhook, Buffering::On) => 2,
            (Port::Webhook, Buffering::Off) => 3,
        };
        self.ports[index]
    }

    /// How many requests with this tag it has handed on by that way, and got a good answer to.
    pub(super) fn handed_on(&self, (port, buffering): (Port, Buffering), tag: &str) -> usize {
        let file = format!("{}.log", self.port(port, buffering));
        let log = std::fs::read_to_string(self.directory.path().join(file));
        let line = format!("{tag} 200");
        let log = log.expect("a log");
        log.lines().filter(|told| *told == line).count()
    }

    async fn listening(&mut self) {
        let connected = async {
            for port in self.ports {
                while tokio::net::TcpStream::connect(("127.0.0.1", port))
                    .await
                    .is_err()
                {
                    let ended = self.child.try_wait().expect("watched");
                    assert!(ended.is_none(), "nginx ended: {ended:?}");
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
            }
        };
        let waited = tokio::time::timeout(PATIENCE, connected).await;
        waited.expect("nginx listens");
    }
}

impl Drop for Nginx {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn find() -> Option<PathBuf> {
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/nginx/usr/sbin");
    let path = std::env::var_os("PATH").unwrap_or_default();
    let system = ["/usr/sbin", "/usr/local/sbin"].map(PathBuf::from);
    let folders = std::env::split_paths(&path).chain(system).chain([unpacked]);
    folders
        .map(|folder| folder.join("nginx"))
        .find(|file| file.is_file() && runs(file))
}

/// One that was only unpacked may lack a library.
fn runs(nginx: &Path) -> bool {
    let said = Command::new(nginx).arg("-v").output();
    said.is_ok_and(|output| output.status.success())
}

/// Four ports that nobody has at present: nginx can't be asked which the system chose.
fn free_ports() -> [u16; 4] {
    [(); 4].map(|()| free_port())
}

/// As permissive as nginx can be, so that as much as possible gets through to the sidecar; and with
/// few connections to it, so that what one request leaves behind would meet the next.
fn configuration(directory: &Path, ports: [u16; 4], sidecar: &TestSidecar) -> String {
    let directory = directory.display();
    let temporary = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"];
    let temporary = temporary.map(|name| format!("{name}_temp_path {directory}/{name};\n"));
    let upstream = |name: &str, base: &str| {
        let authority = raw::authority(base);
        format!("upstream {name} {{ server {authority}; keepalive 4; }}\n")
    };
    let server = |port: u16, upstream: &str, buffering: &str| {
        format!(
            "server {{ listen 127.0.0.1:{port}; access_log {directory}/{port}.log told; \
             location / {{ proxy_pass http://{upstream}; proxy_request_buffering {buffering}; }} }}\n"
        )
    };
    let user = match is_root() {
        true => "user root;\n",
        false => "",
    };
    let [a, b, c, d] = ports;
    [
        user,
        "daemon off;\nmaster_process off;\nerror_log stderr crit;\n",
        &format!("pid {directory}/pid;\nevents {{ worker_connections 1024; }}\nhttp {{\n"),
        "log_format told '$http_alipay_merchant $upstream_status';\n",
        &temporary.concat(),
        "client_header_timeout 1s;\nclient_body_timeout 1s;\nkeepalive_timeout 1s;\n",
        "ignore_invalid_headers off;\nunderscores_in_headers on;\nmerge_slashes off;\n",
        "proxy_http_version 1.1;\nproxy_set_header Host $http_host;\n",
        "proxy_set_header Connection \"\";\nproxy_ignore_client_abort on;\n",
        "proxy_next_upstream off;\n",
        &upstream("proxy", &sidecar.proxy),
        &upstream("webhook", &sidecar.webhook),
        &server(a, "proxy", "on"),
        &server(b, "proxy", "off"),
        &server(c, "webhook", "on"),
        &server(d, "webhook", "off"),
        "}\n",
    ]
    .concat()
}

/// Whether the test runs as root: then nginx would try to become another user, who couldn't write
/// in the test's directory.
fn is_root() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let uid = status.lines().find_map(|line| line.strip_prefix("Uid:"));
    uid.and_then(|uid| uid.split_whitespace().next()) == Some("0")
}
