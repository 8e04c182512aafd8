//! The real program, as a process of its own that can be killed.

use std::io::{BufRead, BufReader, Read as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use alipay_sidecar::clock::SystemClock;
use alipay_sidecar::net::client::{Client, Reply};
use alipay_sidecar::protocol::secret::Secret;
use alipay_sidecar::simulator::DEFAULT_APP_ID;
use alipay_sidecar::store::embedded::{EmbeddedStore, OpenOptions};
use alipay_sidecar::store::seal::StoreKey;
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;
use serde_json::Value;

use super::{PATIENCE, keys};

/// Where the program is.
const PROGRAM: &str = env!("CARGO_BIN_EXE_alipay-sidecar");

/// Everything that the program needs to run: a configuration, keys and an empty store.
pub struct Installation {
    directory: tempfile::TempDir,
    key: StoreKey,
}

impl Installation {
    /// One that delivers to `backend`.
    pub fn new(backend: &str) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let this = Self {
            directory,
            key: StoreKey::generate(),
        };
        this.write("store.key", this.key.to_base64().expose());
        this.write("app.pem", &keys::private("app2048"));
        this.write("alipay.pem", &keys::public("alipay2048"));
        let config = format!(
            r#"
[proxy]
listen = "127.0.0.1:0"
[webhook]
listen = "127.0.0.1:0"
user_auth_return_url = "https://isv.example.com/login"
[admin]
listen = "127.0.0.1:0"
[store]
url = "redb:store.redb"
key = "file:store.key"
[[app]]
app_id = "{DEFAULT_APP_ID}"
private_key = "file:app.pem"
alipay_public_key = "file:alipay.pem"
[delivery]
url = "{backend}"
"#
        );
        this.write("config.toml", &config);
        EmbeddedStore::create(&this.store_path(), &this.key).expect("created");
        this
    }

    /// Writes a file that its owner alone can read.
    pub fn write(&self, name: &str, text: &str) {
        use std::os::unix::fs::PermissionsExt;
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).expect("narrowed");
    }

    pub fn store_path(&self) -> PathBuf {
        self.directory.path().join("store.redb")
    }

    /// Opens the store, while no program has it open.
    pub fn open_store(&self) -> EmbeddedStore {
        EmbeddedStore::open(OpenOptions {
            path: self.store_path(),
            key: self.key.clone(),
            cache_bytes: 32 << 20,
            clock: Arc::new(SystemClock),
        })
        .expect("the program closed it")
    }

    /// Where everything is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// The store key as text.
    pub fn key(&self) -> Secret<String> {
        self.key.to_base64()
    }

    /// The program ends with `code`; gives what it said.
    pub fn check(&self, arguments: &[&str], code: i32) -> String {
        let output = Command::new(PROGRAM)
            .args(arguments)
            .current_dir(self.directory.path())
            .env_clear()
            .stdin(Stdio::null())
            .output()
            .expect("started");
        let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
        assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
        said
    }

    /// Starts the program, and waits until it has bound its sockets.
    pub fn start(&self) -> Program {
        self.start_by(|program| {
            let mut command = Command::new(program);
            command.arg("run");
            command
        })
    }

    /// The same by a command that is made for the program's path.
    pub fn start_by(&self, command: impl FnOnce(&str) -> Command) -> Program {
        let started = Instant::now();
        let mut child = command(PROGRAM)
            .current_dir(self.directory.path())
            .env_clear()
            .env("ALIPAY_SIDECAR_TELEMETRY__LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let mut log = BufReader::new(child.stderr.take().expect("piped"));
        let (said, mut written) = serving(&mut log);
        // Read on, so that the program never finds its pipe full; it is searched at last.
        let log = std::thread::spawn(move || {
            // What was read is searched, however that ends.
            let _ = log.read_to_end(&mut written);
            written
        });
        let url = |name: &str| format!("http://{}", said[name].as_str().expect("an address"));
        Program {
            proxy: url("proxy"),
            webhook: url("webhook"),
            admin: url("admin"),
            child,
            log: Some(log),
            folder: self.directory.path().to_owned(),
            started,
        }
    }
}

/// The line that tells where it listens, and what was written until then.
fn serving(log: &mut impl BufRead) -> (Value, Vec<u8>) {
    let mut said = Vec::new();
    for line in log.lines() {
        let line = line.expect("text");
        said.extend(line.as_bytes());
        said.push(b'\n');
        if line.contains("\"serving\"") {
            return (serde_json::from_str(&line).expect("JSON"), said);
        }
    }
    panic!("the program ended:\n{}", String::from_utf8_lossy(&said));
}

/// A running program; when this is dropped it is killed, and what it wrote is searched for the
/// secrets of its folder.
pub struct Program {
    pub proxy: String,
    pub webhook: String,
    pub admin: String,
    child: Child,
    log: Option<JoinHandle<Vec<u8>>>,
    folder: PathBuf,
    started: Instant,
}

impl Program {
    /// Waits until `/readyz` says yes; gives how long that took from the start.
    pub async fn ready(&self, client: &Client) -> Duration {
        let url = format!("{}/readyz", self.admin);
        while get(client, &url)
            .await
            .is_none_or(|reply| reply.status != StatusCode::OK)
        {
            assert!(self.started.elapsed() < PATIENCE, "it never became ready");
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        self.started.elapsed()
    }

    /// All that `/metrics` shows, where it answers.
    pub async fn metrics(&self, client: &Client) -> Option<String> {
        let reply = get(client, &format!("{}/metrics", self.admin)).await?;
        Some(super::text(&reply))
    }

    /// The value of one series of `/metrics`, where it is there.
    pub async fn metric(&self, client: &Client, series: &str) -> Option<f64> {
        let metrics = self.metrics(client).await?;
        let line = metrics.lines().find_map(|line| line.strip_prefix(series));
        line.and_then(|value| value.trim().parse().ok())
    }

    /// Its number.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// `kill -9`; returns when there is nothing left of it.
    pub fn kill(mut self) {
        self.child.kill().expect("it ran");
        self.child.wait().expect("it ended");
    }

    /// Asks it to end; gives the exit code.
    pub fn terminate(mut self) -> Option<i32> {
        let pid = self.child.id().to_string();
        let asked = Command::new("kill").args(["-TERM", &pid]).status();
        assert!(asked.expect("kill").success());
        self.child.wait().expect("it ended").code()
    }

    /// The same, and all that it logged.
    pub fn terminate_and_tell(mut self) -> (Option<i32>, String) {
        let log = self.log.take().expect("it is read");
        let folder = self.folder.clone();
        let code = self.terminate();
        let log = log.join().expect("read");
        #[cfg(target_os = "linux")]
        super::leaks::none_in(&log, &folder, &[]);
        (code, String::from_utf8(log).expect("text"))
    }

    /// A line of `/proc/<pid>/status` that gives KiB, in MiB.
    pub fn memory_mib(&self, name: &str) -> u64 {
        let path = format!("/proc/{}/status", self.child.id());
        let status = std::fs::read_to_string(path).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        let kib = line.and_then(|rest| rest.split_whitespace().next());
        kib.and_then(|kib| kib.parse::<u64>().ok()).expect("KiB") / 1024
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
        let log = self.log.take().map(JoinHandle::join);
        #[cfg(target_os = "linux")]
        if let Some(Ok(log)) = log {
            super::leaks::none_in(&log, &self.folder, &[]);
        }
    }
}

async fn get(client: &Client, url: &str) -> Option<Reply> {
    let request = Request::get(url).body(Full::<Bytes>::default());
    let answer = client.send(request.expect("a request"), PATIENCE).await;
    answer.ok()
}
