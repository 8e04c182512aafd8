//! How much memory a large upload costs the sidecar; `benches/README.md` says how to read it.
//!
//! The sidecar is a process of its own. Alipay and the client are in this one: both stream, and
//! neither ever holds the file. What arrives is compared by its SHA-256, its text parts by their
//! signature, and the reply is verified; a figure of a call that went wrong would mean nothing.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use alipay_sidecar::config::listen::Listen;
use alipay_sidecar::net::body::RequestBody;
use alipay_sidecar::net::client::{Client, ClientOptions, Reply};
use alipay_sidecar::net::listener::Listener;
use alipay_sidecar::net::serve::serve;
use alipay_sidecar::net::shutdown::{Shutdown, ShutdownTrigger};
use alipay_sidecar::protocol::charset::Charset;
use alipay_sidecar::protocol::envelope::Envelope;
use alipay_sidecar::protocol::key::{AppPrivateKey, RsaPublicKey};
use alipay_sidecar::protocol::params::Params;
use alipay_sidecar::protocol::sign_content;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::store::seal::StoreKey;
use anyhow::{Context, bail, ensure};
use bytes::Bytes;
use futures_util::stream::{self, StreamExt};
use http::{Request, Response, StatusCode};
use http_body_util::{BodyDataStream, Full, StreamBody};
use hyper::body::Frame;
use sha2::{Digest, Sha256};

const METHOD: &str = "alipay.offline.material.image.upload";
const NODE: &str = r#"{"code":"10000","msg":"Success","image_id":"1"}"#;
const BOUNDARY: &str = "bench-boundary";
/// How much the sidecar may grow: less than a tenth of the file, and more than its buffers need.
const ALLOWED: u64 = 16 << 20;
/// How long one upload may take.
const PATIENCE: Duration = Duration::from_secs(120);
const CHUNK: usize = 64 << 10;

fn main() -> anyhow::Result<()> {
    let size = size(std::env::args().skip(1))?;
    tokio::runtime::Runtime::new()?.block_on(measure(size))
}

/// The bytes of the large file.
fn size(arguments: impl Iterator<Item = String>) -> anyhow::Result<u64> {
    let mut size = 200_000_000;
    for argument in arguments {
        match argument.as_str() {
            // cargo says it to every bench.
            "--bench" => (),
            "--short" => size = 20_000_000,
            other => bail!("unknown argument `{other}`; there is `--short`"),
        }
    }
    Ok(size)
}

async fn measure(size: u64) -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let keys = Keys::new()?;
    let alipay = Alipay::start(&keys).await?;
    let sidecar = Sidecar::start(directory.path(), &keys, &alipay.gateway)?;
    let client = client()?;
    let mut out = std::io::stdout().lock();
    let before = upload_on_both(&client, (&sidecar, &alipay, &keys), 1_000).await?;
    writeln!(
        out,
        "| upload | seconds | sidecar's peak memory |\n|---|--:|--:|"
    )?;
    writeln!(out, "| 1 kB, both routes | | {} |", mebibytes(before))?;
    let mut after = before;
    for route in ROUTES {
        let began = Instant::now();
        after = upload(&client, (&sidecar, &alipay, &keys), route, size).await?;
        let (megabytes, took) = (size / 1_000_000, began.elapsed().as_secs_f64());
        let peak = mebibytes(after);
        writeln!(
            out,
            "| {megabytes} MB, {} | {took:.1} | {peak} |",
            route.path
        )?;
    }
    let grown = after.saturating_sub(before);
    writeln!(
        out,
        "\ngrown by {} (allowed: {})",
        mebibytes(grown),
        mebibytes(ALLOWED)
    )?;
    ensure!(grown <= ALLOWED, "memory grows with the file");
    Ok(())
}

/// A route and how its reply is read.
#[derive(Clone, Copy)]
struct Route {
    path: &'static str,
    query: &'static str,
    is_whole: bool,
}

const ROUTES: [Route; 2] = [
    Route {
        path: "/gateway.do",
        query: "?method=alipay.offline.material.image.upload&charset=utf-8",
        is_whole: true,
    },
    Route {
        path: "/v2",
        query: "/alipay.offline.material.image.upload",
        is_whole: false,
    },
];

type World<'a> = (&'a Sidecar, &'a Alipay, &'a Keys);

async fn upload_on_both(client: &Client, world: World<'_>, size: u64) -> anyhow::Result<u64> {
    let mut peak = 0;
    for route in ROUTES {
        peak = upload(client, world, route, size).await?;
    }
    Ok(peak)
}

/// One upload, checked on both ends; gives the sidecar's peak memory after it, bytes.
async fn upload(
    client: &Client,
    (sidecar, alipay, keys): World<'_>,
    route: Route,
    size: u64,
) -> anyhow::Result<u64> {
    let sent = Arc::new(Mutex::new(Sha256::new()));
    let url = format!("http://{}{}{}", sidecar.proxy, route.path, route.query);
    let request = Request::post(url)
        .header("alipay-merchant", "self")
        .header(
            "content-type",
            format!("multipart/form-data; boundary={BOUNDARY}"),
        )
        .body(body(size, &sent))?;
    let reply = client.send(request, PATIENCE).await?;
    check_reply(&reply, route, keys)?;
    let arrived = alipay
        .arrived
        .lock()
        .ok()
        .and_then(|mut arrived| arrived.take());
    let arrived = arrived.context("nothing arrived at Alipay")??;
    let sent = sent.lock().ok().context("a lost hash")?.clone();
    ensure!(arrived.bytes == size, "{} bytes arrived", arrived.bytes);
    ensure!(
        arrived.hash == sent.finalize().to_vec(),
        "other bytes arrived"
    );
    sidecar.peak()
}

fn check_reply(reply: &Reply, route: Route, keys: &Keys) -> anyhow::Result<()> {
    let said = String::from_utf8_lossy(&reply.body).into_owned();
    let verified = reply.headers.get("alipay-sidecar-verified");
    ensure!(reply.status == StatusCode::OK, "{}: {said}", reply.status);
    ensure!(verified.is_some_and(|value| value == "true"), "{said}");
    if route.is_whole {
        let envelope = Envelope::parse(reply.body.clone(), METHOD)?;
        let verified = envelope.verify(&[keys.platform.public_key().clone()], SignType::Rsa2)?;
        ensure!(verified.node() == NODE, "{said}");
    } else {
        ensure!(said == NODE, "{said}");
    }
    Ok(())
}

/// The parts, made while they are sent: the file's bytes are never all there.
fn body(
    size: u64,
    sent: &Arc<Mutex<Sha256>>,
) -> StreamBody<impl stream::Stream<Item = Result<Frame<Bytes>, std::io::Error>> + Send + 'static> {
    let text = |name: &str, value: &str| {
        format!(
            "--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
        )
    };
    let head = format!(
        "{}{}--{BOUNDARY}\r\nContent-Disposition: form-data; name=\"image_content\"; \
         filename=\"large.bin\"\r\n\r\n",
        text("image_type", "bin"),
        text("image_name", "海底捞"),
    );
    let sent = Arc::clone(sent);
    let file = stream::unfold((size, 1_u64), move |(left, state)| {
        let sent = Arc::clone(&sent);
        async move {
            let length = usize::try_from(left.min(CHUNK as u64))
                .ok()
                .filter(|n| *n > 0)?;
            let (chunk, state) = noise(length, state);
            if let Ok(mut hash) = sent.lock() {
                hash.update(&chunk);
            }
            Some((chunk, (left - length as u64, state)))
        }
    });
    let tail = format!("\r\n--{BOUNDARY}--\r\n");
    let whole = stream::iter([Bytes::from(head)])
        .chain(file)
        .chain(stream::iter([tail.into()]));
    StreamBody::new(whole.map(|piece| Ok(Frame::data(piece))))
}

/// Bytes that don't repeat (xorshift): a compressing file system finds nothing in them.
fn noise(length: usize, mut state: u64) -> (Bytes, u64) {
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    (bytes.into(), state)
}

/// The app's key and Alipay's.
#[derive(Clone)]
struct Keys {
    app: AppPrivateKey,
    platform: AppPrivateKey,
}

impl Keys {
    fn new() -> anyhow::Result<Self> {
        Ok(Self {
            app: AppPrivateKey::generate(2048)?,
            platform: AppPrivateKey::generate(2048)?,
        })
    }
}

/// What Alipay saw of a file.
struct Arrived {
    bytes: u64,
    hash: Vec<u8>,
}

type LastArrived = Arc<Mutex<Option<anyhow::Result<Arrived>>>>;

/// The gateway: reads an upload as a stream, checks its signature, answers a signed reply.
struct Alipay {
    gateway: String,
    arrived: LastArrived,
    _end: ShutdownTrigger,
}

impl Alipay {
    async fn start(keys: &Keys) -> anyhow::Result<Self> {
        let listener = Listener::bind(&Listen::Tcp("127.0.0.1:0".to_owned())).await?;
        let gateway = format!("http://{}/gateway.do", listener.address());
        let arrived = LastArrived::default();
        let sign = keys.platform.sign(SignType::Rsa2, NODE.as_bytes())?;
        let root = METHOD.replace('.', "_");
        let reply = Bytes::from(format!(
            "{{\"{root}_response\":{NODE},\"sign\":\"{sign}\"}}"
        ));
        let (app, last) = (keys.app.public_key().clone(), Arc::clone(&arrived));
        let handle = move |request: Request<RequestBody>| {
            let (app, last, reply) = (app.clone(), Arc::clone(&last), reply.clone());
            async move {
                let read = read(request, &app).await;
                if let Ok(mut last) = last.lock() {
                    *last = Some(read);
                }
                Response::new(Full::new(reply))
            }
        };
        let (end, ends) = Shutdown::new();
        tokio::spawn(serve(listener, None, handle, ends));
        Ok(Self {
            gateway,
            arrived,
            _end: end,
        })
    }
}

async fn read(request: Request<RequestBody>, app: &RsaPublicKey) -> anyhow::Result<Arrived> {
    let (head, body) = request.into_parts();
    let query = head.uri.query().unwrap_or_default();
    let mut params = Params::from_form(query.as_bytes(), Charset::Utf8)?;
    let content_type = head
        .headers
        .get("content-type")
        .context("no Content-Type")?;
    let boundary = multer::parse_boundary(content_type.to_str()?)?;
    let mut parts = multer::Multipart::new(BodyDataStream::new(body), boundary);
    let (mut hash, mut bytes) = (Sha256::new(), 0);
    while let Some(mut part) = parts.next_field().await? {
        let name = part.name().context("no name")?.to_owned();
        if part.file_name().is_none() {
            params.push(name, part.text().await?)?;
            continue;
        }
        while let Some(chunk) = part.chunk().await? {
            bytes += chunk.len() as u64;
            hash.update(&chunk);
        }
    }
    ensure!(params.get("image_name") == Some("海底捞"), "another text");
    let content = sign_content::v2_request(&params);
    let sign = params.get("sign").context("no sign")?;
    app.verify(SignType::Rsa2, content.as_bytes(), sign)?;
    Ok(Arrived {
        bytes,
        hash: hash.finalize().to_vec(),
    })
}

fn client() -> anyhow::Result<Client> {
    Ok(Client::new(&ClientOptions {
        connect_timeout: PATIENCE,
        max_reply: 1 << 20,
        ca_file: None,
    })?)
}

/// The program, as an operator runs it; it ends with this.
struct Sidecar {
    child: Child,
    proxy: String,
}

impl Sidecar {
    fn start(directory: &Path, keys: &Keys, gateway: &str) -> anyhow::Result<Self> {
        write(directory, "app.pem", keys.app.to_pkcs8_pem().expose())?;
        write(
            directory,
            "alipay.pem",
            &keys.platform.public_key().to_bare_base64(),
        )?;
        write(
            directory,
            "store.key",
            StoreKey::generate().to_base64().expose(),
        )?;
        write(directory, "config.toml", &config(gateway))?;
        let mut child = Command::new(env!("CARGO_BIN_EXE_alipay-sidecar"))
            .args(["run", "--create-store"])
            .current_dir(directory)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()?;
        let stderr = child.stderr.take().context("no standard error")?;
        let mut lines = BufReader::new(stderr).lines();
        let mut said = Vec::new();
        let proxy = loop {
            let Some(line) = lines.next().transpose()? else {
                bail!("the sidecar ended:\n{}", said.join("\n"));
            };
            match serving(&line) {
                Some(proxy) => break proxy,
                None => said.push(line),
            }
        };
        // Read on, so that the program never waits for its pipe.
        std::thread::spawn(move || lines.for_each(drop));
        Ok(Self { child, proxy })
    }

    /// The most memory it ever had resident, bytes.
    fn peak(&self) -> anyhow::Result<u64> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let kibibytes = line.and_then(|line| line.split_whitespace().next());
        Ok(kibibytes.context("no VmHWM")?.parse::<u64>()? << 10)
    }
}

impl Drop for Sidecar {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The proxy's address in the log line that says it.
fn serving(line: &str) -> Option<String> {
    let said: serde_json::Value = serde_json::from_str(line).ok()?;
    let is_it = said.get("message")?.as_str()? == "serving";
    is_it.then(|| said.get("proxy")?.as_str().map(str::to_owned))?
}

fn config(gateway: &str) -> String {
    format!(
        r#"[proxy]
listen = "127.0.0.1:0"
max_upload = "256MiB"
[webhook]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[upstream]
gateway = "{gateway}"
timeout = "60s"
[store]
url = "redb:sidecar.redb"
key = "file:store.key"
[telemetry]
log_format = "json"
[[app]]
app_id = "2021000000000001"
private_key = "file:app.pem"
alipay_public_key = "file:alipay.pem"
"#
    )
}

fn write(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    options
        .open(directory.join(name))?
        .write_all(text.as_bytes())
}

fn mebibytes(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20))
}
