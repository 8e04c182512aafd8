//! What all subjects share: keys, certificates, an Alipay; and how a sidecar is started on them.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use alipay_sidecar::protocol::key::AppPrivateKey;
use alipay_sidecar::protocol::signature::SignType;
use alipay_sidecar::store::seal::StoreKey;
use anyhow::{Context, bail};
use bytes::Bytes;
use http::Request;
use http_body_util::Full;

use crate::load::{Answer, Calls};
use crate::program::Program;
use crate::rsa::{CREATED, NODE, Rsa};

pub(crate) const APP_ID: &str = "2021000000000001";
pub(crate) const QUERY: &str = "alipay.trade.query";
/// Changes something, so that a record of it is kept.
pub(crate) const CREATE: &str = "alipay.trade.create";
pub(crate) const UPLOAD: &str = "alipay.offline.material.image.upload";
const UPLOAD_NODE: &str = r#"{"code":"10000","msg":"Success","image_id":"1"}"#;
/// What stands in every reply to a small call.
const TRADE_NO: &str = r#""trade_no":"2026112222001400000000000001""#;
/// What stands in every reply to an upload.
pub(crate) const IMAGE_ID: &str = r#""image_id":"1""#;
const BIZ_CONTENT: &str =
    r#"{"out_trade_no":"20261122180000000001","query_options":["trade_settle_info"]}"#;
/// How long a sidecar may take to serve.
const PATIENCE: Duration = Duration::from_secs(30);

/// What stands in the directory that all processes share.
pub(crate) mod files {
    pub(crate) const APP_KEY: &str = "app.pem";
    pub(crate) const ALIPAY_KEY: &str = "alipay.pem";
    pub(crate) const CA: &str = "ca.pem";
    pub(crate) const CERTIFICATE: &str = "certificate.pem";
    pub(crate) const CERTIFICATE_KEY: &str = "certificate-key.pem";
    pub(crate) const QUERY_REPLY: &str = "query-reply.json";
    pub(crate) const CREATE_REPLY: &str = "create-reply.json";
    pub(crate) const UPLOAD_REPLY: &str = "upload-reply.json";
    pub(crate) const UPSTREAM: &str = "upstream";
}

/// Keys and certificates, and an Alipay that runs on them.
pub(crate) struct World {
    directory: tempfile::TempDir,
    pub(crate) alipay_key: AppPrivateKey,
    pub(crate) rsa: Rsa,
    /// Host and port of the Alipay.
    pub(crate) upstream: String,
    /// The app's key, PEM.
    app_key: String,
    _alipay: Program,
}

impl World {
    pub(crate) fn new() -> anyhow::Result<Self> {
        let directory = tempfile::Builder::new().prefix("sidecar-bench").tempdir()?;
        let (app, alipay_key) = (
            AppPrivateKey::generate(2048)?,
            AppPrivateKey::generate(2048)?,
        );
        let app_key = app.to_pkcs8_pem().expose().to_owned();
        let at = directory.path();
        write(at, files::APP_KEY, &app_key)?;
        write(
            at,
            files::ALIPAY_KEY,
            &alipay_key.public_key().to_bare_base64(),
        )?;
        for (file, method, node) in [
            (files::QUERY_REPLY, QUERY, NODE),
            (files::CREATE_REPLY, CREATE, CREATED),
            (files::UPLOAD_REPLY, UPLOAD, UPLOAD_NODE),
        ] {
            write(at, file, &reply(&alipay_key, method, node)?)?;
        }
        certify(at)?;
        let (alipay, address) = role("alipay", at)?;
        let port = address.rsplit(':').next().context("no port")?;
        let upstream = format!("localhost:{port}");
        write(at, files::UPSTREAM, &upstream)?;
        Ok(Self {
            rsa: Rsa::new(&app_key)?,
            app_key,
            directory,
            alipay_key,
            upstream,
            _alipay: alipay,
        })
    }

    /// Starts this program in another role; gives where it listens, too.
    pub(crate) fn role(&self, role: &str) -> anyhow::Result<(Program, String)> {
        self::role(role, self.directory.path())
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// The home of a further sidecar.
    pub(crate) fn home(&self, name: &str) -> anyhow::Result<Home> {
        let directory = self.path(name);
        std::fs::create_dir(&directory)?;
        let key = StoreKey::generate();
        write(&directory, files::APP_KEY, &self.app_key)?;
        write(&directory, "store.key", key.to_base64().expose())?;
        write(&directory, "config.toml", &config(&self.upstream))?;
        Ok(Home { directory, key })
    }

    /// A sidecar with one merchant, `shop`.
    pub(crate) fn sidecar(&self, name: &str) -> anyhow::Result<Sidecar> {
        let home = self.home(name)?;
        crate::merchants::fill(&home, 1)?;
        home.start()
    }
}

/// Where a sidecar's files are.
pub(crate) struct Home {
    pub(crate) directory: PathBuf,
    pub(crate) key: StoreKey,
}

/// A sidecar that runs.
pub(crate) struct Sidecar {
    pub(crate) program: Program,
    pub(crate) proxy: String,
    pub(crate) webhook: String,
    pub(crate) admin: String,
}

impl Home {
    pub(crate) fn store(&self) -> PathBuf {
        self.directory.join("sidecar.redb")
    }

    /// Starts the program as an operator does, with all that is on by default and an audit log.
    pub(crate) fn start(&self) -> anyhow::Result<Sidecar> {
        let log = self.directory.join("log");
        let child = Command::new(program())
            .args(["run", "--create-store"])
            .current_dir(&self.directory)
            .env_clear()
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(std::fs::File::create(&log)?)
            .spawn()?;
        let mut program = Program::new(child);
        let began = Instant::now();
        loop {
            let has_ended = program.has_ended()?;
            if let Some([proxy, webhook, admin]) = serving(&log)? {
                return Ok(Sidecar {
                    program,
                    proxy,
                    webhook,
                    admin,
                });
            }
            if has_ended || began.elapsed() > PATIENCE {
                bail!("no sidecar serves:\n{}", std::fs::read_to_string(&log)?);
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// The program that is measured: the one built with this bench, or another build, for comparing.
pub(crate) fn program() -> PathBuf {
    let other = std::env::var_os("SIDECAR");
    other.map_or_else(
        || env!("CARGO_BIN_EXE_alipay-sidecar").into(),
        PathBuf::from,
    )
}

/// The addresses in the log line that tells them.
fn serving(log: &Path) -> anyhow::Result<Option<[String; 3]>> {
    for line in BufReader::new(std::fs::File::open(log)?).lines() {
        let line = line?;
        // The last line may still be being written.
        let Ok(said) = serde_json::from_str::<serde_json::Value>(&line) else {
            continue;
        };
        let text = |name: &str| said.get(name).and_then(|value| value.as_str());
        let addresses = (text("proxy"), text("webhook"), text("admin"));
        if let (Some("serving"), (Some(proxy), Some(webhook), Some(admin))) =
            (text("message"), addresses)
        {
            return Ok(Some([proxy, webhook, admin].map(str::to_owned)));
        }
    }
    Ok(None)
}

fn config(upstream: &str) -> String {
    format!(
        r#"[proxy]
listen = "127.0.0.1:0"
[webhook]
listen = "127.0.0.1:0"
[admin]
listen = "127.0.0.1:0"
[upstream]
gateway = "https://{upstream}/gateway.do"
v3 = "https://{upstream}"
ca_file = "../ca.pem"
[store]
url = "redb:sidecar.redb"
key = "file:store.key"
[audit]
file = "audit.jsonl"
[telemetry]
log_format = "json"
[[app]]
app_id = "{APP_ID}"
private_key = "file:app.pem"
alipay_public_key = "file:../alipay.pem"
"#
    )
}

/// Calls of the merchant `shop`, through a sidecar.
pub(crate) fn calls(method: &'static str) -> Calls {
    Calls {
        make: Arc::new(move |_, _| request(method, "shop")),
        answer: Answer::Verified(TRADE_NO),
    }
}

/// The same through whatever hands them on.
pub(crate) fn handed_on(method: &'static str) -> Calls {
    Calls {
        answer: Answer::Containing(TRADE_NO),
        ..calls(method)
    }
}

/// A call of the merchant that `selector` names.
pub(crate) fn request(method: &str, selector: &str) -> anyhow::Result<Request<Full<Bytes>>> {
    Ok(Request::post(format!("/v2/{method}"))
        .header("host", "127.0.0.1")
        .header("alipay-merchant", selector)
        .header("content-type", "application/json")
        .body(Full::new(Bytes::from_static(BIZ_CONTENT.as_bytes())))?)
}

/// A reply of `method`, signed.
fn reply(key: &AppPrivateKey, method: &str, node: &str) -> anyhow::Result<String> {
    let sign = key.sign(SignType::Rsa2, node.as_bytes())?;
    let name = method.replace('.', "_");
    Ok(format!(r#"{{"{name}_response":{node},"sign":"{sign}"}}"#))
}

fn role(role: &str, directory: &Path) -> anyhow::Result<(Program, String)> {
    let mut command = Command::new(std::env::current_exe()?);
    Program::listening(command.args(["--role", role]).arg(directory))
}

/// A throw-away authority, and a certificate of it for `localhost`.
fn certify(directory: &Path) -> anyhow::Result<()> {
    let (ca_key, key) = (rcgen::KeyPair::generate()?, rcgen::KeyPair::generate()?);
    let mut ca = rcgen::CertificateParams::new(Vec::new())?;
    // Where both had the same name, OpenSSL would take the certificate for its own issuer.
    ca.distinguished_name
        .push(rcgen::DnType::CommonName, "throw-away authority");
    ca.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let issuer = rcgen::Issuer::from_params(&ca, &ca_key);
    let names = vec!["localhost".to_owned()];
    let certificate = rcgen::CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    write(directory, files::CA, &ca.self_signed(&ca_key)?.pem())?;
    write(directory, files::CERTIFICATE, &certificate.pem())?;
    write(directory, files::CERTIFICATE_KEY, &key.serialize_pem())?;
    Ok(())
}

/// Writes a file that its owner alone can read.
pub(crate) fn write(directory: &Path, name: &str, text: &str) -> std::io::Result<()> {
    let mut options = std::fs::OpenOptions::new();
    let options = options.write(true).create_new(true).mode(0o600);
    options
        .open(directory.join(name))?
        .write_all(text.as_bytes())
}
