//! A supervisor that holds the sidecar's three sockets, as systemd does, and starts and ends the
//! real program on them.

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::simulator::{DEFAULT_APP_ID, Options, Simulator, WorkspaceListeners};

use super::PATIENCE;
#[cfg(target_os = "linux")]
use super::leaks;

/// Moves the three sockets from where a child can be given any (0, 1, 2) to where the protocol
/// wants them, and says for whom they are: the shell's number is the program's once it became it.
const HAND_OVER: &str = r#"exec 3<&0 4<&1 5<&2 0</dev/null 1>>sidecar.log 2>&1
LISTEN_PID=$$ exec "$0" "$@""#;

/// All that it has to say, for its log is searched at last.
const LOG_LEVEL: (&str, &str) = ("ALIPAY_SIDECAR_TELEMETRY__LOG", "trace");

/// The folder of a sidecar, its Alipay, and its sockets; what its programs wrote is searched for its
/// secrets when it is dropped.
pub struct Supervisor {
    pub directory: tempfile::TempDir,
    pub simulator: Simulator,
    pub proxy: String,
    pub webhook: String,
    pub admin: String,
    /// What Alipay signs with.
    pub platform: AppPrivateKey,
    sockets: Vec<TcpListener>,
    notices: UnixDatagram,
    _simulator_end: ShutdownTrigger,
}

/// A running program; it is killed when this is dropped.
pub struct Program(pub Child);

impl Supervisor {
    /// Binds the sockets and starts the simulator; the store is there, and empty.
    pub async fn start() -> Self {
        Self::start_with(|_| ()).await
    }

    /// The same before another Alipay.
    pub async fn start_with(change: impl FnOnce(&mut Options)) -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let sockets = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").expect("a port"));
        let address = |socket: &TcpListener| socket.local_addr().expect("bound").to_string();
        let [proxy, webhook, admin] = sockets.each_ref().map(address);
        let mut options = Options {
            listen: vec!["127.0.0.1:0".to_owned()],
            dir: Some(directory.path().to_owned()),
            sidecar: WorkspaceListeners {
                proxy: proxy.clone(),
                webhook: webhook.clone(),
                admin: admin.clone(),
            },
            ..Options::default()
        };
        change(&mut options);
        let simulator = alipay_sidecar::simulator::start(&options).await;
        let simulator = simulator.expect("a simulator");
        let (end, ends) = Shutdown::new();
        tokio::spawn(simulator.clone().run(ends.wait()));
        let key = directory.path().join("keys/simulator_private_key.pem");
        let key = std::fs::read_to_string(key).expect("a key");
        let notices = UnixDatagram::bind(directory.path().join("notify")).expect("a socket");
        notices.set_read_timeout(Some(PATIENCE)).expect("set");
        let supervisor = Self {
            directory,
            simulator,
            proxy,
            webhook,
            admin,
            platform: AppPrivateKey::from_text(&key).expect("a key"),
            sockets: sockets.into(),
            notices,
            _simulator_end: end,
        };
        supervisor.verb(&["store", "create"]);
        supervisor
    }

    pub fn path(&self) -> &Path {
        self.directory.path()
    }

    /// Closes the sockets, for a program that binds its own at the same addresses.
    pub fn let_go(&mut self) {
        self.sockets.clear();
    }

    /// Changes the configuration.
    pub fn edit(&self, from: &str, to: &str) {
        let path = self.path().join("config.toml");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains(from), "{from} in\n{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
    }

    /// Runs a verb to its good end.
    pub fn verb(&self, arguments: &[&str]) {
        let output = program(self.path(), arguments).output().expect("started");
        assert!(output.status.success(), "{arguments:?}: {output:?}");
    }

    /// Starts the program on the sockets, named as given.
    pub fn run(&self, names: &str, arguments: &[&str]) -> Program {
        Program(self.command(names, arguments).spawn().expect("started"))
    }

    /// What starts it.
    pub fn command(&self, names: &str, arguments: &[&str]) -> Command {
        let mut command = Command::new("/bin/sh");
        command
            .args(["-c", HAND_OVER, env!("CARGO_BIN_EXE_alipay-sidecar"), "run"])
            .args(arguments)
            .current_dir(self.path())
            .env_clear()
            .env(LOG_LEVEL.0, LOG_LEVEL.1)
            .env("LISTEN_FDS", "3")
            .env("LISTEN_FDNAMES", names)
            .env("NOTIFY_SOCKET", self.path().join("notify"));
        let mut sockets = self.sockets.iter().map(|socket| {
            let socket = socket.try_clone().expect("a descriptor");
            Stdio::from(OwnedFd::from(socket))
        });
        let mut next = || sockets.next().expect("three sockets");
        command.stdin(next()).stdout(next()).stderr(next());
        command
    }

    /// The same for the first time: it serves, and knows two merchants.
    pub fn run_first(&self) -> Program {
        let program = self.run("proxy:webhook:admin", &[]);
        self.noticed("READY=1");
        self.verb(&["merchant", "import", "merchants.jsonl"]);
        program
    }

    /// Waits until a program says `notice`.
    pub fn noticed(&self, notice: &str) {
        let mut text = [0; 512];
        loop {
            let length = self.notices.recv(&mut text).unwrap_or_else(|error| {
                panic!("no {notice}: {error}; the program's log:\n{}", self.log())
            });
            let text = String::from_utf8_lossy(&text[..length]).into_owned();
            if text.lines().any(|line| line == notice) {
                return;
            }
        }
    }

    /// Whether a program has said something that nobody heard yet.
    pub fn has_notice(&self) -> bool {
        self.notices.set_nonblocking(true).expect("set");
        let heard = self.notices.recv(&mut [0; 512]);
        self.notices.set_nonblocking(false).expect("set");
        heard.is_ok()
    }

    /// Hears all that was said until now.
    pub fn forget_notices(&self) {
        while self.has_notice() {}
    }

    /// What the programs have logged.
    pub fn log(&self) -> String {
        std::fs::read_to_string(self.path().join("sidecar.log")).unwrap_or_default()
    }

    /// A payment notification, signed, as Alipay would send it.
    pub fn notification(&self, notify_id: &str) -> String {
        let number = notify_id.to_owned();
        let mut fields = vec![
            ("app_id", DEFAULT_APP_ID.to_owned()),
            ("charset", "utf-8".to_owned()),
            ("notify_id", notify_id.to_owned()),
            ("notify_time", "2026-11-22 10:20:30".to_owned()),
            ("notify_type", "trade_status_sync".to_owned()),
            ("out_trade_no", number.clone()),
            ("total_amount", "8.80".to_owned()),
            ("trade_no", number),
            ("trade_status", "TRADE_SUCCESS".to_owned()),
            ("version", "1.0".to_owned()),
        ];
        fields.sort();
        let content: Vec<String> = fields.iter().map(|(n, v)| format!("{n}={v}")).collect();
        let sign = self
            .platform
            .sign(SignType::Rsa2, content.join("&").as_bytes());
        fields.push(("sign_type", "RSA2".to_owned()));
        fields.push(("sign", sign.expect("signed")));
        form_urlencoded::Serializer::new(String::new())
            .extend_pairs(fields)
            .finish()
    }
}

#[cfg(target_os = "linux")]
impl Drop for Supervisor {
    fn drop(&mut self) {
        let state = self.simulator.state();
        let grants = state["grants"].as_array().cloned().unwrap_or_default();
        let tokens = grants.iter().flat_map(|grant| {
            ["app_auth_token", "app_refresh_token"].map(|name| grant[name].as_str())
        });
        let tokens: Vec<_> = tokens.flatten().map(ToOwned::to_owned).collect();
        leaks::none_in(self.log().as_bytes(), self.path(), &tokens);
    }
}

impl Program {
    /// Sends a signal.
    pub fn signal(&self, name: &str) {
        let pid = self.0.id().to_string();
        let sent = Command::new("kill")
            .args([&format!("-{name}"), &pid])
            .status();
        assert!(sent.expect("kill").success());
    }

    /// Waits for its end, and gives its exit code.
    pub fn end(&mut self) -> Option<i32> {
        let until = std::time::Instant::now() + 2 * PATIENCE;
        loop {
            if let Some(status) = self.0.try_wait().expect("ours") {
                return status.code();
            }
            assert!(std::time::Instant::now() < until, "it doesn't end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The program, started in `directory` with nothing of our environment.
pub fn program(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"));
    command.args(arguments).current_dir(directory).env_clear();
    command.stdin(Stdio::null());
    command
}
