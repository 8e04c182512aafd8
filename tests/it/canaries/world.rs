//! A running program full of marked secrets, and everything that it says to anybody.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::Request;
use http::header::AUTHORIZATION;
use http_body_util::Full;

use super::search::Secrets;
use crate::support::backend::FakeBackend;
use crate::support::supervisor::{Program, Supervisor, program};
use crate::support::{PATIENCE, client, keys};

/// In the environment: the bearer token of `/api`.
pub const ADMIN_TOKEN: &str = "canary+admin/token-b8e1f09c";
/// In the environment: what the backend proves itself with.
pub const CALLER_TOKEN: &str = "canary+caller/token-5d07c2aa";
/// Printed by a command: what deliveries are signed with.
const SIGNING_SECRET: &[u8; 32] = b"canary of the signing secret 77!";
/// The app's AES key.
const APP_AES: &[u8; 16] = b"canary/app+aes 1";
/// In a file: that of another app.
const ADDED_AES: &[u8; 16] = b"canary/added+aes";
/// What the store is sealed with at last.
const NEXT_STORE_KEY: &[u8; 32] = b"canary: the next key of a store!";
/// A merchant's AES key.
const MERCHANT_AES: &[u8; 16] = b"canary-merch+aes";
/// Says what is secret, in a file of the test's own.
const OWN_FILES: [&str; 6] = [
    "keys",
    "merchants.jsonl",
    "secret",
    "store.key",
    "wrong.toml",
    "wrong.jsonl",
];

/// Where the one secret is that has to be found.
pub const PLANTED: &str = "tmp/planted";

/// What somebody was shown.
struct Shown {
    what: String,
    bytes: Vec<u8>,
    /// The secrets that belong there, because the reader asked for them.
    but: Vec<&'static str>,
}

pub struct World {
    pub supervisor: Supervisor,
    pub backend: FakeBackend,
    pub secrets: Secrets,
    client: Client,
    /// Trusts the certificate of the admin listener.
    admin_client: Client,
    shown: Vec<Shown>,
    /// Verbs that ended in another way than they had to.
    pub unexpected: Vec<String>,
    program: Program,
}

impl World {
    /// Starts a program at the deepest log level, on its own sockets.
    pub async fn start() -> Self {
        let mut supervisor =
            Supervisor::start_with(|options| options.encrypt_key = Some(STANDARD.encode(APP_AES)))
                .await;
        let backend = FakeBackend::start().await;
        let mut secrets = Secrets::default();
        configure(&supervisor, &backend, &mut secrets);
        supervisor.let_go();
        let ca_file = supervisor.path().join("keys/tls.crt");
        let admin_client = Client::new(&ClientOptions {
            connect_timeout: PATIENCE,
            max_reply: 16 << 20,
            ca_file: Some(&ca_file),
        });
        let mut command = command(supervisor.path(), &["run", "--wait-for-store", "10s"]);
        let log = std::fs::File::create(supervisor.path().join("sidecar.log")).expect("a file");
        let both = (log.try_clone().expect("a descriptor"), log);
        command.stdout(both.0).stderr(both.1);
        let program = Program(command.spawn().expect("started"));
        supervisor.noticed("READY=1");
        Self {
            supervisor,
            backend,
            secrets,
            client: client(),
            admin_client: admin_client.expect("a client"),
            shown: Vec::new(),
            unexpected: Vec::new(),
            program,
        }
    }

    /// Remembers what somebody was shown.
    pub fn show(&mut self, what: impl Into<String>, bytes: impl Into<Vec<u8>>) {
        self.show_but(what, bytes, &[]);
    }

    /// The same, where these secrets belong.
    pub fn show_but(
        &mut self,
        what: impl Into<String>,
        bytes: impl Into<Vec<u8>>,
        but: &[&'static str],
    ) {
        self.shown.push(Shown {
            what: what.into(),
            bytes: bytes.into(),
            but: but.to_vec(),
        });
    }

    /// Sends a request to one of the listeners, to the proxy as the caller that may do all, and
    /// remembers all of the answer.
    pub async fn ask(
        &mut self,
        address: &str,
        request: http::request::Builder,
        body: impl Into<Bytes>,
        but: &[&'static str],
    ) -> Reply {
        let mut request = request.body(Full::new(body.into())).expect("a request");
        let target = request.uri().to_string();
        let (scheme, client) = match address == self.supervisor.admin {
            true => ("https", &self.admin_client),
            false => ("http", &self.client),
        };
        let url = format!("{scheme}://{address}{target}");
        *request.uri_mut() = url.parse().expect("a URL");
        let is_call = address == self.supervisor.proxy;
        if is_call && !request.headers().contains_key(AUTHORIZATION) {
            let bearer = format!("Bearer {CALLER_TOKEN}").parse().expect("a value");
            request.headers_mut().insert(AUTHORIZATION, bearer);
        }
        let what = format!("the answer to {} {target}", request.method());
        let reply = client.send(request, PATIENCE).await.expect("an answer");
        let head = format!("{:?} {:?}\n", reply.status, reply.headers);
        self.show_but(what, [head.as_bytes(), &reply.body].concat(), but);
        reply
    }

    /// Asks the admin API with its token.
    pub async fn admin(&mut self, method: &str, path: &str, body: impl Into<Bytes>) -> Reply {
        let address = self.supervisor.admin.clone();
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("authorization", format!("Bearer {ADMIN_TOKEN}"));
        self.ask(&address, request, body, &[]).await
    }

    /// Runs a verb with `input`, and remembers what it writes.
    pub async fn verb(&mut self, arguments: &[&str], input: &str) -> Option<i32> {
        self.verb_but(arguments, input, &[]).await.0
    }

    /// The same, where these secrets belong; gives what it wrote, too.
    pub async fn verb_but(
        &mut self,
        arguments: &[&str],
        input: &str,
        but: &[&'static str],
    ) -> (Option<i32>, String) {
        let mut command = command(self.supervisor.path(), arguments);
        command.stdin(Stdio::piped());
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let mut stdin = child.stdin.take().expect("piped");
        // A verb that doesn't read is none the worse.
        let _ = stdin.write_all(input.as_bytes());
        drop(stdin);
        let output = tokio::task::spawn_blocking(move || child.wait_with_output());
        let output = output.await.expect("no panic").expect("ended");
        let what = format!("`{}`", arguments.join(" "));
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        self.show_but(what, [output.stdout, output.stderr].concat(), but);
        (output.status.code(), said)
    }

    /// What the backend was sent.
    pub async fn take_deliveries(&mut self) -> usize {
        let mut taken = 0;
        while let Ok(seen) = tokio::time::timeout(Duration::from_secs(1), self.backend.next()).await
        {
            let head = format!("{} {:?}\n", seen.path, seen.headers);
            self.show("a delivery", [head.as_bytes(), &seen.body].concat());
            taken += 1;
        }
        taken
    }

    /// What the system shows of the process to others.
    pub fn look_into_proc(&mut self) -> usize {
        // The program itself holds the simulator's seeds, which anybody may know.
        const NOT_TEXT: [&str; 4] = ["mem", "pagemap", "clear_refs", "exe"];
        let process = Path::new("/proc").join(self.program.0.id().to_string());
        let mut looked = 0;
        for folder in ["", "fd", "task"] {
            let entries = match std::fs::read_dir(process.join(folder)) {
                // Shut to us, too: whoever isn't root sees nothing there.
                Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => continue,
                entries => entries.expect("readable"),
            };
            for entry in entries {
                let mut path = entry.expect("readable").path();
                if folder == "task" {
                    path.push("comm");
                }
                let is_text = !NOT_TEXT.iter().any(|name| path.ends_with(name));
                if is_text
                    && path.is_file()
                    && let Ok(bytes) = std::fs::read(&path)
                {
                    self.show(path.display().to_string(), bytes);
                    looked += 1;
                }
            }
        }
        looked
    }

    /// Lets the process dump its core, if it would; gives how it ended.
    pub async fn abort(&mut self) -> Option<i32> {
        use std::os::unix::process::ExitStatusExt;
        self.program.signal("ABRT");
        let ended = self.program.0.wait().expect("ours");
        assert!(!ended.core_dumped(), "{ended:?}");
        ended.signal()
    }

    /// Takes in every token that the simulator ever gave.
    pub fn learn_tokens(&mut self) -> usize {
        let state = self.supervisor.simulator.state();
        let grants = state["grants"].as_array().cloned().unwrap_or_default();
        for grant in &grants {
            for name in ["app_auth_token", "app_refresh_token"] {
                if let Some(token) = grant[name].as_str() {
                    self.secrets.add(name, token.as_bytes());
                }
            }
        }
        grants.len()
    }

    /// Leaves one secret lying about, so that it is known that the search would find it.
    pub fn plant(&self) {
        let left: Vec<_> = std::fs::read_dir(self.supervisor.path().join("tmp"))
            .expect("readable")
            .collect();
        assert!(left.is_empty(), "no temporary file is left: {left:?}");
        let planted = format!("password={ADMIN_TOKEN}");
        std::fs::write(self.supervisor.path().join(PLANTED), planted).expect("written");
    }

    /// Searches everything, and all files; gives what was found, and how much was searched.
    pub fn search(mut self) -> (Vec<String>, usize) {
        let root = self.supervisor.path().to_owned();
        for path in files(&root) {
            let inside = path.strip_prefix(&root).expect("below it");
            if !OWN_FILES.iter().any(|own| inside.starts_with(own)) {
                let bytes = std::fs::read(&path).expect("readable");
                self.show(inside.display().to_string(), bytes);
            }
        }
        for file in [
            "sidecar.log",
            "data/audit.jsonl",
            "data/sidecar.redb",
            "live.backup",
            "cold.backup",
        ] {
            let searched = self.shown.iter().find(|shown| shown.what == file);
            assert!(
                searched.is_some_and(|shown| shown.bytes.len() > 1000),
                "{file}"
            );
        }
        let mut hits = Vec::new();
        for shown in &self.shown {
            for (name, how) in self.secrets.found_in(&shown.bytes) {
                if !shown.but.contains(&name) {
                    hits.push(format!("{name} ({how}) in {}", shown.what));
                }
            }
        }
        let bytes = self.shown.iter().map(|shown| shown.bytes.len()).sum();
        (hits, bytes)
    }
}

/// The program with the secrets of its environment, at the deepest log level.
fn command(directory: &Path, arguments: &[&str]) -> std::process::Command {
    let mut command = program(directory, arguments);
    command
        .env("CANARY_ADMIN_TOKEN", ADMIN_TOKEN)
        .env("CANARY_APP_AES", STANDARD.encode(APP_AES))
        .env("CANARY_CALLER_TOKEN", CALLER_TOKEN)
        .env("NOTIFY_SOCKET", directory.join("notify"))
        .env("ALIPAY_SIDECAR_TELEMETRY__LOG", "trace")
        .env("RUST_LOG", "trace")
        .env("TMPDIR", directory.join("tmp"));
    command
}

fn configure(supervisor: &Supervisor, backend: &FakeBackend, secrets: &mut Secrets) {
    let directory = supervisor.path();
    std::fs::create_dir(directory.join("tmp")).expect("made");
    private(
        directory,
        "keys/reply.pem",
        &keys::private("app4096"),
        0o600,
    );
    private(
        directory,
        "keys/next.pem",
        &keys::private("alipay2048_other"),
        0o600,
    );
    let signing = format!("whsec_{}", STANDARD.encode(SIGNING_SECRET));
    private(
        directory,
        "keys/added.pem",
        &keys::private("app1024"),
        0o600,
    );
    secure_the_admin_listener(directory);
    let script = format!("#!/bin/sh\necho {signing}\n");
    private(directory, "secret", &script, 0o700);
    supervisor.edit(
        "[proxy]\n",
        "[proxy]\nreply_key = \"file:keys/reply.pem\"\nreply_signature = \"local\"\n",
    );
    supervisor.edit(
        "[admin]\n",
        "[admin]\ntoken = \"env:CANARY_ADMIN_TOKEN\"\ntls_cert = \"file:keys/tls.crt\"\n\
         tls_key = \"file:keys/tls.pem\"\n",
    );
    supervisor.edit(
        "[webhook]\n",
        "[webhook]\nuser_auth_return_url = \"http://127.0.0.1:9/user\"\n",
    );
    let url = backend.url("/events");
    let more = format!(
        "[[caller]]\nname = \"shop\"\ntoken = \"env:CANARY_CALLER_TOKEN\"\nevents = true\n\
         merchants = [\"*\", \"self\"]\nmethods = [\"*\", \"alipay.open.auth.*\"]\n\
         [delivery]\nurl = \"{url}\"\nsigning_secret = \"exec:./secret\"\n\
         [tokens]\nremember_users = true\nunknown = \"learn\"\n[upstream]\ntimeout = \"4s\"\n"
    );
    supervisor.edit("[upstream]\n", &more);
    supervisor.edit(
        "encrypt_key = \"file:keys/encrypt_key\"",
        "encrypt_key = \"env:CANARY_APP_AES\"\nprivate_key_next = \"file:keys/next.pem\"",
    );
    give_the_second_merchant_a_key(directory);
    let read = |name: &str| std::fs::read_to_string(directory.join(name)).expect("readable");
    for (name, file) in [
        ("app private key", "keys/app_private_key.pem"),
        ("next private key", "keys/next.pem"),
        ("private key of another app", "keys/added.pem"),
        ("reply key", "keys/reply.pem"),
        ("TLS key", "keys/tls.pem"),
    ] {
        secrets.add_private_key(name, &read(file));
    }
    let store = STANDARD.decode(read("store.key").trim()).expect("base64");
    for (name, key) in [
        ("keys/added.aes", ADDED_AES.as_slice()),
        ("keys/new.store.key", NEXT_STORE_KEY),
    ] {
        private(directory, name, &STANDARD.encode(key), 0o600);
    }
    for (name, secret) in [
        ("store key", store.as_slice()),
        ("next store key", NEXT_STORE_KEY),
        ("AES key of another app", ADDED_AES),
        ("admin token", ADMIN_TOKEN.as_bytes()),
        ("caller token", CALLER_TOKEN.as_bytes()),
        ("signing secret", SIGNING_SECRET),
        ("app AES key", APP_AES),
        ("merchant AES key", MERCHANT_AES),
    ] {
        secrets.add(name, secret);
    }
}

fn private(directory: &Path, name: &str, text: &str, mode: u32) {
    let path = directory.join(name);
    std::fs::write(&path, text).expect("written");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("set");
}

fn secure_the_admin_listener(directory: &Path) {
    let pem = keys::private("alipay2048");
    let key = rcgen::KeyPair::from_pem(&pem).expect("an RSA key");
    let params = rcgen::CertificateParams::new(["127.0.0.1".to_owned()]).expect("a name");
    let certificate = params.self_signed(&key).expect("signed").pem();
    private(directory, "keys/tls.pem", &pem, 0o600);
    private(directory, "keys/tls.crt", &certificate, 0o644);
}

fn give_the_second_merchant_a_key(directory: &Path) {
    let path = directory.join("merchants.jsonl");
    let text = std::fs::read_to_string(&path).expect("readable");
    let key = format!(
        "\"encrypt_key\":\"{}\",\"app_id\"",
        STANDARD.encode(MERCHANT_AES)
    );
    let lines = text.lines().enumerate().map(|(at, line)| match at {
        1 => line.replacen("\"app_id\"", &key, 1),
        _ => line.to_owned(),
    });
    let text: Vec<_> = lines.collect();
    std::fs::write(&path, text.join("\n")).expect("written");
}

fn files(root: &Path) -> Vec<PathBuf> {
    let mut found = BTreeMap::new();
    let mut folders = vec![root.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).expect("readable") {
            let path = entry.expect("readable").path();
            let about = path.symlink_metadata().expect("there");
            if about.is_dir() {
                folders.push(path);
            } else if about.is_file() {
                found.insert(path, ());
            }
        }
    }
    found.into_keys().collect()
}
