//! The program against a running sidecar and the simulator, both processes of their own.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::Full;

use crate::support::keys;

/// How long a process may take to start, answer or end.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

pub(crate) fn command(directory: &Path, arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"));
    command.args(arguments).current_dir(directory).env_clear();
    command.stdin(Stdio::null());
    command
}

pub(crate) fn output(directory: &Path, arguments: &[&str]) -> Output {
    command(directory, arguments).output().expect("started")
}

/// The program ends with `code` and says each of `texts`.
pub(crate) fn check(directory: &Path, arguments: &[&str], code: i32, texts: &[&str]) -> String {
    let output = output(directory, arguments);
    let said = String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned();
    assert_eq!(output.status.code(), Some(code), "{arguments:?}\n{said}");
    for text in texts {
        assert!(said.contains(text), "{arguments:?}: no `{text}` in\n{said}");
    }
    said
}

/// A process that serves; it is killed when this is dropped.
pub(crate) struct Process {
    child: Child,
    lines: mpsc::Receiver<String>,
}

impl Process {
    pub(crate) fn start(directory: &Path, arguments: &[&str]) -> Self {
        Self::of(command(directory, arguments))
    }

    pub(crate) fn of(mut command: Command) -> Self {
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().expect("started");
        let (sender, lines) = mpsc::channel();
        let stdout = child.stdout.take().expect("piped");
        let stderr = child.stderr.take().expect("piped");
        follow(stdout, sender.clone());
        follow(stderr, sender);
        Self { child, lines }
    }

    /// The next line that holds `text`.
    pub(crate) fn line(&self, text: &str) -> String {
        let mut seen = Vec::new();
        loop {
            let missing = |_| format!("no `{text}` in\n{}", seen.join("\n"));
            let line = self.lines.recv_timeout(PATIENCE).map_err(missing);
            let line = line.expect("said in time");
            if line.contains(text) {
                return line;
            }
            seen.push(line);
        }
    }

    /// Asks it to end.
    pub(crate) fn ask_to_end(&self) {
        self.signal("-TERM");
    }

    fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        let killed = Command::new("kill").args([name, &pid]).status();
        assert!(killed.expect("kill").success());
    }

    /// Asks it to end, and gives its exit code.
    pub(crate) fn terminate(self) -> Option<i32> {
        self.ended_by("-TERM")
    }

    /// Its exit code, once it has ended by a signal it was sent; none if that killed it.
    pub(crate) fn ended_by(mut self, signal: &str) -> Option<i32> {
        self.signal(signal);
        self.child.wait().expect("waited for").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn follow(output: impl Read + Send + 'static, lines: mpsc::Sender<String>) {
    std::thread::spawn(move || {
        for line in BufReader::new(output).lines().map_while(Result::ok) {
            // Read on though nobody listens, so that the process never waits for its pipe.
            let _ = lines.send(line);
        }
    });
}

/// A simulator with the files of a sidecar that talks to it.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) simulator: String,
    _process: Process,
}

impl World {
    pub(crate) fn start() -> Self {
        let directory = tempfile::tempdir().expect("a directory");
        let process = Process::start(
            directory.path(),
            &["simulator", "--dir", ".", "--listen-base", "0"],
        );
        let line = process.line("simulator  http://");
        let simulator = line.split_whitespace().nth(1).expect("a URL").to_owned();
        let world = Self {
            directory,
            simulator,
            _process: process,
        };
        world.edit("\"127.0.0.1:2088\"", "\"unix:proxy.sock\"");
        world.edit("listen = \"127.0.0.1:2089\"", "listen = \"127.0.0.1:0\"");
        world.edit("\"127.0.0.1:2090\"", "\"unix:admin.sock\"");
        world
    }

    pub(crate) fn path(&self) -> &Path {
        self.directory.path()
    }

    pub(crate) fn edit(&self, from: &str, to: &str) {
        let path = self.path().join("config.toml");
        let text = std::fs::read_to_string(&path).expect("read");
        assert!(text.contains(from), "{from} in\n{text}");
        std::fs::write(&path, text.replacen(from, to, 1)).expect("written");
    }

    /// Starts the sidecar, waits until it serves, and tells the simulator where.
    pub(crate) fn run(&self) -> (Process, serde_json::Value) {
        let process = Process::start(self.path(), &["run", "--create-store"]);
        let line = process.line("\"serving\"");
        let said: serde_json::Value = serde_json::from_str(&line).expect("JSON");
        let webhook = said.get("webhook").and_then(|address| address.as_str());
        let webhook = webhook.expect("an address");
        let body = format!("{{\"app_gateway\":\"http://{webhook}/alipay/gateway\"}}");
        let url = format!("{}/simulator/app", self.simulator);
        assert_eq!(
            send(&url, None, body).expect("answered").status,
            StatusCode::OK
        );
        (process, said)
    }

    pub(crate) fn check(&self, arguments: &[&str], code: i32, texts: &[&str]) -> String {
        check(self.path(), arguments, code, texts)
    }

    pub(crate) fn output(&self, arguments: &[&str]) -> Output {
        output(self.path(), arguments)
    }

    /// What the simulator was sent, as JSON.
    pub(crate) fn requests(&self) -> String {
        let url = format!("{}/simulator/requests", self.simulator);
        let reply = send(&url, None, String::new()).expect("answered");
        String::from_utf8_lossy(&reply.body).into_owned()
    }

    /// Has the simulator do something.
    pub(crate) fn control(&self, path: &str, body: String) {
        let url = format!("{}/simulator/{path}", self.simulator);
        let reply = send(&url, None, body).expect("answered");
        assert_eq!(reply.status, StatusCode::OK, "{path}");
    }
}

/// One request (`POST` where there is a body) by a client that also trusts `roots`.
fn send(url: &str, roots: Option<&Path>, body: String) -> Result<Reply, String> {
    let method = if body.is_empty() { "GET" } else { "POST" };
    let request = Request::builder().method(method).uri(url);
    let request = request
        .body(Full::new(Bytes::from(body)))
        .expect("a request");
    sent(request, roots)
}

fn sent(request: Request<Full<Bytes>>, roots: Option<&Path>) -> Result<Reply, String> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    runtime.expect("a runtime").block_on(async {
        let client = Client::new(&ClientOptions {
            connect_timeout: PATIENCE,
            max_reply: 1 << 20,
            ca_file: roots,
        });
        let sent = client.expect("a client").send(request, PATIENCE).await;
        sent.map_err(|error| error.to_string())
    })
}

/// `internal` says that the program is at fault; here the machine is, and the answer and the log say so.
#[test]
fn an_upload_that_finds_no_temporary_folder_says_whose_fault_it_is() {
    let world = World::start();
    world.edit("\"unix:proxy.sock\"", "\"127.0.0.1:0\"");
    let mut run = command(world.path(), &["run", "--create-store"]);
    run.env("TMPDIR", world.path().join("none"));
    let process = Process::of(run);
    let said: serde_json::Value = serde_json::from_str(&process.line("\"serving\"")).expect("JSON");
    let proxy = said["proxy"].as_str().expect("an address");
    let file = "x".repeat(6 << 20);
    let body = format!(
        "--b\r\nContent-Disposition: form-data; name=\"image_content\"; filename=\"a.png\"\r\n\r\n\
         {file}\r\n--b--\r\n"
    );
    let request = Request::post(format!(
        "http://{proxy}/v2/alipay.offline.material.image.upload"
    ))
    .header("alipay-merchant", "self")
    .header("content-type", "multipart/form-data; boundary=b")
    .body(Full::new(Bytes::from(body)))
    .expect("a request");
    let reply = sent(request, None).expect("answered");
    let text = String::from_utf8_lossy(&reply.body).into_owned();
    assert_eq!(reply.status, StatusCode::INTERNAL_SERVER_ERROR, "{text}");
    assert!(text.contains("the call isn't at fault"), "{text}");
    let warned = process.line("an upload can't be kept in the folder for temporary files");
    assert!(warned.contains("WARN"), "{warned}");
}

#[test]
fn the_verbs_talk_to_a_running_sidecar() {
    let world = World::start();
    let (sidecar, _) = world.run();
    world.check(&["health", "--wait", "10s"], 0, &["ready"]);
    world.check(&["check"], 0, &["is good"]);
    world.check(
        &["merchant", "import", "merchants.jsonl"],
        0,
        &["2 imported"],
    );
    world.check(
        &["merchant", "list"],
        0,
        &["2021000000001001", "2021000000001002"],
    );
    let said = world.check(&["merchant", "show", "2021000000001001", "--json"], 0, &[]);
    let merchant: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    assert_eq!(merchant["user_id"], "2088000000001001");
    world.check(
        &["merchant", "show", "2021000000001001"],
        0,
        &["doubt        -", "revoked_at   -"],
    );
    world.check(
        &["merchant", "remove", "2021000000001002"],
        0,
        &["is forgotten"],
    );
    world.check(
        &["merchant", "show", "2021000000001002"],
        1,
        &["no merchant"],
    );
    world.check(&["app", "list"], 0, &["2021000000000001", "config"]);
    world.check(&["app", "show", "2021000000000001"], 0, &["应用公钥"]);
    world.check(&["app", "remove", "2021000000000001"], 1, &["app-unknown"]);
    for (name, text) in [
        ("new.pem", keys::private("app2048")),
        ("new.txt", keys::public("alipay2048")),
    ] {
        let path = world.path().join(name);
        std::fs::write(&path, text).expect("written");
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600)).expect("set");
    }
    let add = "app add --app-id 2021000000000001 --private-key file:new.pem --alipay-public-key file:new.txt";
    let add: Vec<&str> = add.split(' ').collect();
    let hidden = "warning: the configuration has app 2021000000000001, and goes before the store";
    world.check(&add, 0, &[hidden]);
    world.check(&["app", "remove", "2021000000000001"], 0, &[hidden]);
    world.check(
        &["inbox", "list", "--limit", "0"],
        1,
        &["`limit` is a number from 1"],
    );
    let said = world.check(&["inbox", "list", "--json"], 0, &["merchant.authorized"]);
    let page: serde_json::Value = serde_json::from_str(&said).expect("JSON");
    let id = page["items"][0]["id"].as_str().expect("an id");
    world.check(
        &["inbox", "show", id],
        0,
        &["merchant.authorized", "pending"],
    );
    world.check(&["inbox", "replay", id], 0, &["will be delivered again"]);
    world.check(&["inbox", "replay", "nonsense"], 1, &["nonsense"]);
    assert_eq!(sidecar.terminate(), Some(0));
    world.check(&["merchant", "list"], 0, &["2021000000001001"]);
}

#[test]
fn a_call_and_a_trigger_go_through() {
    let world = World::start();
    let (_sidecar, _) = world.run();
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    let biz = r#"{"out_trade_no":"1","total_amount":"8.80","subject":"tea"}"#;
    let tag = ["--merchant", "2088000000001001", "--biz", biz];
    let create = [&["call", "alipay.trade.create"][..], &tag].concat();
    world.check(&create, 0, &["\"code\":\"10000\"", "\"trade_no\""]);
    let refused = ["call", "alipay.trade.query", "--merchant", "nobody"];
    world.check(&refused, 1, &["merchant-unknown", "404"]);
    let simulator = ["--simulator", &world.simulator];
    for event in [
        "plugin-order",
        "order-message",
        "re-authorize",
        "payment",
        "cancel",
    ] {
        world.check(
            &[&["trigger", event][..], &simulator].concat(),
            0,
            &["was taken by"],
        );
    }
    let refund = [&["trigger", "refund"][..], &simulator].concat();
    world.check(&refund, 0, &["was taken by"]);
    // That of the call has no notify_url.
    let payment = ["trigger", "payment", "--out-trade-no", "1"];
    let payment = [&payment[..], &simulator].concat();
    world.check(&payment, 0, &["was taken by", "notify_url"]);
    let payment = [&payment[..], &["--json"]].concat();
    world.check(&payment, 0, &["\"remark\": \"", "notify_url"]);
    let unknown = [&refund[..], &["--out-trade-no", "none"]].concat();
    world.check(&unknown, 1, &["the simulator refused", "out_trade_no"]);
    world.check(
        &["inbox", "list"],
        0,
        &["servicemarket_order_notify", "trade_status_sync"],
    );
}

#[test]
fn a_refused_signature_is_explained_in_the_log_without_values() {
    let world = World::start();
    let (sidecar, _) = world.run();
    world.check(&["merchant", "import", "merchants.jsonl"], 0, &[]);
    let fault = |name: &str| {
        let body = format!("{{\"name\":\"{name}\"}}");
        let url = format!("{}/simulator/fault", world.simulator);
        send(&url, None, body).expect("answered");
    };
    let call = || {
        let biz = r#"{"out_trade_no":"secret-order"}"#;
        let tag = ["--merchant", "2088000000001001", "--biz", biz];
        output(
            world.path(),
            &[&["call", "alipay.trade.query"][..], &tag].concat(),
        )
    };
    fault("invalid-signature");
    call();
    let said = sidecar.line("Alipay refused our signature");
    assert!(said.contains("alipay.trade.query"), "{said}");
    fault("tampered");
    call();
    let reply = sidecar.line("why a signature was refused");
    assert!(
        reply.contains("the signature of the response doesn't hold"),
        "{reply}"
    );
    fault("tampered-notification");
    let simulator = ["--simulator", &world.simulator];
    let trigger = [&["trigger", "order-message"][..], &simulator].concat();
    world.check(&trigger, 1, &["wasn't taken"]);
    let notification = sidecar.line("why a signature was refused");
    let expected = "the signature of the notification doesn't hold";
    assert!(notification.contains(expected), "{notification}");
    for line in [said, reply, notification] {
        for secret in ["secret-order", "202611BB"] {
            assert!(!line.contains(secret), "{line}");
        }
    }
}

#[test]
fn a_trigger_that_nobody_takes_fails() {
    let world = World::start();
    let said = [
        &["trigger", "order-message", "--simulator"][..],
        &[&world.simulator],
    ]
    .concat();
    let nobody = crate::support::free_port();
    let body = format!("{{\"app_gateway\":\"http://127.0.0.1:{nobody}/\"}}");
    send(&format!("{}/simulator/app", world.simulator), None, body).expect("answered");
    world.check(&said, 1, &["wasn't taken"]);
}

#[test]
fn a_second_sidecar_finds_the_store_in_use() {
    let world = World::start();
    let (_sidecar, _) = world.run();
    world.check(&["run"], 1, &["sidecar.redb", "in use by another process"]);
    world.edit("unix:admin.sock", "unix:another.sock");
    world.check(&["merchant", "list"], 1, &["in use by another process"]);
}

#[test]
fn a_taken_port_is_named_by_its_key() {
    let world = World::start();
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    world.edit(
        "listen = \"127.0.0.1:0\"",
        &format!("listen = \"{address}\""),
    );
    world.check(
        &["run", "--create-store"],
        1,
        &["`webhook.listen`", &address, "choose another"],
    );
    let port = address.rsplit_once(':').expect("a port").1;
    world.check(&["dev", "--tour", "--listen-base", port], 1, &[&address]);
    world.check(&["simulator", "--listen-base", port], 1, &[&address]);
}

#[test]
fn the_file_may_be_named_on_either_side_of_a_verb_of_two_words() {
    let world = World::start();
    world.check(&["-c", "config.toml", "store", "create"], 0, &[]);
    world.check(
        &["merchant", "-c", "config.toml", "list", "--json"],
        0,
        &["\"items\""],
    );
    world.check(
        &["app", "list", "-c", "config.toml", "--json"],
        0,
        &["\"config\""],
    );
    world.check(&["inbox", "list", "--json"], 0, &["\"items\": []"]);
    world.check(&["check", "--json"], 0, &["\"fingerprint\""]);
    world.check(&["version", "--json"], 0, &["\"version\""]);
}

#[test]
#[cfg(not(feature = "otlp"))]
fn what_this_build_does_not_do_ends_run_and_check_but_no_other_verb() {
    let world = World::start();
    world.check(&["store", "create"], 0, &[]);
    world.edit(
        "[[app]]",
        "[telemetry]\notlp_endpoint = \"http://127.0.0.1:4318\"\n\n[[app]]",
    );
    for verb in ["run", "check"] {
        world.check(
            &[verb],
            78,
            &[
                "config.toml:",
                "`telemetry.otlp_endpoint`",
                "--features otlp",
            ],
        );
    }
    world.check(&["merchant", "list"], 0, &[]);
}

/// Writes a self-signed certificate for loopback and its key.
fn certificate(directory: &Path, name: &str) -> PathBuf {
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("made");
    let path = |end: &str| directory.join(format!("{name}.{end}"));
    std::fs::write(path("crt"), made.cert.pem()).expect("written");
    std::fs::write(path("key"), made.signing_key.serialize_pem()).expect("written");
    let private = std::fs::Permissions::from_mode(0o600);
    std::fs::set_permissions(path("key"), private).expect("changed");
    path("crt")
}

#[test]
fn each_listener_speaks_tls_with_its_own_certificate() {
    let world = World::start();
    let names = ["proxy", "webhook", "admin"];
    let certificates = names.map(|name| certificate(world.path(), name));
    for name in names {
        let files = format!("tls_cert = \"file:{name}.crt\"\ntls_key = \"file:{name}.key\"");
        world.edit(&format!("[{name}]\n"), &format!("[{name}]\n{files}\n"));
    }
    for socket in ["unix:proxy.sock", "unix:admin.sock"] {
        world.edit(socket, "127.0.0.1:0");
    }
    let (_sidecar, said) = world.run();
    for ((name, path), cert) in names.iter().zip(["/", "/", "/livez"]).zip(&certificates) {
        let address = said[name].as_str().expect("an address");
        let url = format!("https://{address}{path}");
        let status = send(&url, Some(cert), String::new()).map(|reply| reply.status);
        let expected = if *name == "admin" {
            StatusCode::OK
        } else {
            StatusCode::NOT_FOUND
        };
        assert_eq!(status, Ok(expected), "{url}");
        for other in certificates.iter().filter(|other| *other != cert) {
            send(&url, Some(other), String::new()).expect_err("another's certificate");
        }
        send(&format!("http://{address}{path}"), None, String::new()).expect_err("plain HTTP");
        world.edit(
            &format!("[{name}]\ntls_cert = \"file:{name}.crt\"\ntls_key = \"file:{name}.key\"\nlisten = \"127.0.0.1:0\""),
            &format!("[{name}]\ntls_cert = \"file:{name}.crt\"\ntls_key = \"file:{name}.key\"\nlisten = \"{address}\""),
        );
    }
    world.check(&["health"], 0, &["ready"]);
    world.check(
        &["merchant", "import", "merchants.jsonl"],
        0,
        &["2 imported"],
    );
    let call = [
        "call",
        "alipay.trade.query",
        "--merchant",
        "2088000000001001",
        "--biz",
        "{}",
    ];
    world.check(&call, 0, &["\"code\""]);
    // It was renewed, which is in force after a reload: who sends no secret needn't know who answers.
    certificate(world.path(), "admin");
    world.check(&["health"], 0, &["ready"]);
    world.check(&["merchant", "list"], 1, &["admin.crt?", "after a reload"]);
    world.check(&["app", "list"], 1, &["admin.crt?"]);
}

#[test]
fn the_verbs_need_no_secrets_where_a_sidecar_has_them() {
    let world = World::start();
    let caller = "\n[[caller]]\nname = \"shop\"\ntoken = \"env:SHOP_TOKEN\"\n\
                  merchants = [\"*\"]\nmethods = [\"*\"]\n";
    let path = world.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    std::fs::write(&path, format!("{text}{caller}")).expect("written");
    // Off loopback somebody has to be named, and is, though not here.
    world.edit("\"unix:proxy.sock\"", "\"0.0.0.0:0\"");
    for verb in [&["health"][..], &["merchant", "list"]] {
        let said = world.output(verb);
        let code = if verb == ["health"] { 1 } else { 78 };
        assert_eq!(said.status.code(), Some(code), "{verb:?}: nobody runs");
    }
    let mut command = command(world.path(), &["run", "--create-store"]);
    command.env("SHOP_TOKEN", "a-token-of-the-shops");
    let sidecar = Process::of(command);
    sidecar.line("\"serving\"");
    world.check(&["health"], 0, &["ready"]);
    world.check(
        &["merchant", "import", "merchants.jsonl"],
        0,
        &["2 imported"],
    );
    world.check(&["inbox", "prune"], 0, &["notify_ids"]);
    let said = world.check(&["check"], 78, &["SHOP_TOKEN"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    // What others can read is refused all the same, but to who needs none.
    let key = world.path().join("keys/app_private_key.pem");
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o644)).expect("changed");
    world.check(&["merchant", "list"], 78, &["mode 0644"]);
    world.check(&["health"], 0, &["ready"]);
}

#[test]
fn an_admin_token_that_cannot_be_read_is_named() {
    let world = World::start();
    let (_sidecar, _) = world.run();
    let verbs = [
        &["merchant", "list"][..],
        &["merchant", "link", "--app", "2021000000000001"],
        &["inbox", "list"],
        &["store", "stats"],
        &["store", "backup", "copy.redb"],
    ];
    world.check(&["merchant", "list"], 0, &[]);
    // The one that it left itself; a folder, which root can't read either.
    let token = world.path().join("data/admin.token");
    let text = std::fs::read_to_string(&token).expect("a token");
    std::fs::remove_file(&token).expect("removed");
    std::fs::create_dir(&token).expect("in the way");
    for verb in verbs {
        world.check(verb, 1, &["data/admin.token can't be read"]);
    }
    world.check(&["health"], 0, &["ready"]);
    std::fs::remove_dir(&token).expect("removed");
    world.check(&["merchant", "list"], 1, &["is this the configuration"]);
    std::fs::write(&token, text).expect("written");
    // The configured one.
    world.edit("[admin]\n", "[admin]\ntoken = \"file:keys/none\"\n");
    for verb in verbs {
        world.check(verb, 78, &["`admin.token`", "keys/none"]);
    }
    world.check(&["health"], 0, &["ready"]);
}

#[test]
fn sidecars_whose_stores_share_a_folder_each_keep_their_command_line() {
    let world = World::start();
    let (_first, _) = world.run();
    let text = std::fs::read_to_string(world.path().join("config.toml")).expect("read");
    let text = text.replace("sidecar.redb", "second.redb");
    let text = text.replace("proxy.sock", "proxy2.sock");
    let text = text.replace("admin.sock", "admin2.sock");
    let text = text + "[audit]\nfile = \"data/second.jsonl\"\n";
    std::fs::write(world.path().join("second.toml"), text).expect("written");
    let second = |verb: &[&'static str]| [&["-c", "second.toml"], verb].concat();
    let process = Process::start(world.path(), &second(&["run", "--create-store"]));
    process.line("\"serving\"");
    world.check(&second(&["merchant", "list"]), 0, &[]);
    world.check(&["merchant", "list"], 0, &[]);
    let token = world.path().join("data/second.redb.admin-token");
    let mode = std::fs::metadata(&token).expect("there").permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn what_check_warns_of_run_tells_its_log() {
    let world = World::start();
    world.edit("[[app]]\n", "[audit]\nfile = \"\"\n\n[[app]]\n");
    let text = "`audit.file` is empty: calls and changes are told nowhere";
    let process = Process::start(world.path(), &["run", "--create-store"]);
    let line = process.line(text);
    assert!(line.contains("\"WARN\""), "{line}");
    drop(process);
    world.check(&["check"], 0, &[&format!("warning: {text}")]);
}

/// A health check comes every few seconds, and a key store takes as long as it takes.
#[test]
fn health_reads_no_secret_and_runs_no_command() {
    let world = World::start();
    let path = world.path().join("config.toml");
    let text = std::fs::read_to_string(&path).expect("read");
    let caller = "\n[[caller]]\nname = \"shop\"\nmerchants = [\"*\"]\nmethods = [\"*\"]\n\
                  token = \"exec:/bin/sh ./slow-keys caller\"\n";
    std::fs::write(&path, format!("{text}{caller}")).expect("written");
    world.edit(
        "[admin]\n",
        "[admin]\ntoken = \"exec:/bin/sh ./slow-keys admin\"\n",
    );
    let script = |text: &str| {
        std::fs::write(world.path().join("slow-keys"), text).expect("written");
    };
    script("echo token-of-$1\n");
    let (_sidecar, _) = world.run();
    script("echo $1 >>asked\nsleep 60\n");
    world.check(&["health"], 0, &["ready"]);
    world.check(&["health", "--wait", "1s", "--json"], 0, &["true"]);
    assert!(!world.path().join("asked").exists(), "a command was run");
    // What isn't a reference is a fault as ever, and the only one.
    world.edit("exec:/bin/sh ./slow-keys admin", "pasted-by-mistake");
    let said = world.check(&["health"], 78, &["`admin.token`", "plain text"]);
    assert_eq!(said.lines().count(), 1, "{said}");
    // So is a reference without its form, though none is followed.
    let mut former = "pasted-by-mistake";
    for (reference, told) in [("exec: ", "`exec:` alone"), ("cred:a/b", "with a path")] {
        world.edit(former, reference);
        let said = world.check(&["health"], 78, &["`admin.token`", told]);
        assert_eq!(said.lines().count(), 1, "{said}");
        former = reference;
    }
}

/// It opens none of the files that are named, and the others only the certificate of who answers.
#[test]
fn health_waits_for_no_certificate() {
    let world = World::start();
    let (_sidecar, _) = world.run();
    world.edit(
        "[admin]\n",
        "[admin]\ntls_cert = \"tls.crt\"\ntls_key = \"file:none.key\"\n",
    );
    let cert = world.path().join("tls.crt");
    let call = ["call", "alipay.trade.query", "--merchant", "self"];
    let proxy = "[proxy]\ntls_cert = \"tls.crt\"\ntls_key = \"file:none.key\"\n";
    world.edit("[proxy]\n", proxy);
    for verb in [&call[..], &["merchant", "list"]] {
        world.check(verb, 1, &["tls.crt can't be read", "No such file"]);
    }
    world.check(&["health"], 1, &["no TLS; does it run with this"]);
    let made = Command::new("mkfifo").arg(&cert).status();
    assert!(made.expect("mkfifo").success());
    world.check(&call, 78, &["`proxy.tls_cert`", "no file"]);
    world.check(&["health"], 1, &["no TLS; does it run with this"]);
    world.edit(proxy, "[proxy]\n");
    // Not even that one is opened by who has no use for it, nor is what became of the others a fault.
    world.edit(
        "[admin]\ntls_cert = \"tls.crt\"\ntls_key = \"file:none.key\"\n",
        "[admin]\n",
    );
    let others = "tls_cert = \"tls.crt\"\ntls_key = \"file:none.key\"";
    for section in ["proxy", "webhook"] {
        world.edit(
            &format!("[{section}]\n"),
            &format!("[{section}]\n{others}\n"),
        );
    }
    world.check(&["health"], 0, &["ready"]);
    std::fs::remove_file(&cert).expect("removed");
    std::fs::create_dir(&cert).expect("made");
    world.check(&["health"], 0, &["ready"]);
}

#[test]
fn a_unix_socket_speaks_tls_too() {
    let world = World::start();
    for name in ["proxy", "admin"] {
        certificate(world.path(), name);
        let files = format!("tls_cert = \"file:{name}.crt\"\ntls_key = \"file:{name}.key\"");
        world.edit(&format!("[{name}]\n"), &format!("[{name}]\n{files}\n"));
    }
    let (_sidecar, _) = world.run();
    world.check(&["health"], 0, &["ready"]);
    let call = ["call", "alipay.trade.query", "--merchant", "nobody"];
    world.check(&call, 1, &["merchant-unknown"]);
    for name in ["proxy", "admin"] {
        let socket = world.path().join(format!("{name}.sock"));
        let mut plain = UnixStream::connect(socket).expect("a listener");
        plain.write_all(b"GET /livez HTTP/1.0\r\n\r\n").ok();
        let mut answer = Vec::new();
        plain.read_to_end(&mut answer).ok();
        assert!(!answer.starts_with(b"HTTP"), "{name}: {answer:?}");
    }
    world.edit(
        "tls_cert = \"file:admin.crt\"\ntls_key = \"file:admin.key\"\n",
        "",
    );
    world.check(&["health"], 1, &["gave no reply"]);
}

#[test]
fn a_certificate_that_does_not_fit_its_key_is_a_fault_of_configuration() {
    let world = World::start();
    certificate(world.path(), "one");
    certificate(world.path(), "two");
    let files = "tls_cert = \"file:one.crt\"\ntls_key = \"file:two.key\"";
    world.edit("[admin]\n", &format!("[admin]\n{files}\n"));
    for verb in ["run", "check"] {
        world.check(
            &[verb],
            78,
            &["config.toml:", ": `admin.tls_cert`", "the key of its first"],
        );
    }
    world.edit("[admin]\n", "[admin]\ncolour = \"red\"\n");
    let said = world.check(&["check"], 78, &["`admin.colour`", "`admin.tls_cert`"]);
    let places = said.lines().map(|line| line.split(": ").next());
    let places: Vec<_> = places.map(|place| place.unwrap_or_default()).collect();
    let line = |place: &str| place.strip_prefix("config.toml:")?.parse::<usize>().ok();
    let [colour, certificate] = places.as_slice() else {
        panic!("two faults: {said}");
    };
    assert_eq!(
        line(certificate),
        line(colour).map(|line| line + 1),
        "{said}"
    );
}

#[test]
fn the_tour_verifies_every_step() {
    let directory = tempfile::tempdir().expect("a directory");
    let tour = ["dev", "--tour", "--listen-base", "0"];
    let said = check(directory.path(), &tour, 0, &["Every step was verified."]);
    for step in 1..=5 {
        assert!(said.contains(&format!("\n{step}. ")), "{said}");
    }
    assert!(!said.contains('✗'), "{said}");
}

#[test]
fn the_tour_ends_at_a_fault() {
    let directory = tempfile::tempdir().expect("a directory");
    for fault in [
        "tampered",
        "tampered-sign",
        "tampered-notification",
        "unsigned",
    ] {
        let tour = ["dev", "--tour", "--listen-base", "0", "--fault", fault];
        check(directory.path(), &tour, 1, &["✗", "not verified"]);
    }
    check(
        directory.path(),
        &["dev", "--tour", "--fault", "nonsense"],
        2,
        &["nonsense"],
    );
}
