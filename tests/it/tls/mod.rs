//! No byte of a request leaves for whoever can't prove to be the upstream.
//!
//! Whether a certificate was revoked isn't among the proofs: the public web's authorities publish
//! that in ways that a program can't rely on while money waits, so nothing here asks.

pub mod authority;

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use http::{Method, Request};
use rustls::ServerConfig;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{Mutex, mpsc};
use tokio_rustls::TlsAcceptor;

use self::authority::{Authority, Identity, NAME};
use crate::support::upstream::{SUCCESS, reply_of};
use crate::support::{ALIAS, PATIENCE, TestSidecar, header, text};

const PAY: &str = "/v2/alipay.trade.pay";

/// Shakes hands as told, and remembers what it could read of requests.
struct Upstream {
    port: u16,
    manner: Arc<Mutex<Manner>>,
    connections: Arc<AtomicUsize>,
    heard: Mutex<mpsc::UnboundedReceiver<Vec<u8>>>,
}

/// How a connection is taken.
#[derive(Clone)]
enum Manner {
    /// With TLS.
    Tls(Arc<ServerConfig>),
    /// With these bytes, whatever comes.
    Raw(Vec<u8>),
}

impl Upstream {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let port = listener.local_addr().expect("bound").port();
        let manner = Arc::new(Mutex::new(Manner::Raw(Vec::new())));
        let connections = Arc::new(AtomicUsize::new(0));
        let (told, heard) = mpsc::unbounded_channel();
        let (shown, counted) = (Arc::clone(&manner), Arc::clone(&connections));
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counted.fetch_add(1, Ordering::SeqCst);
                let manner = shown.lock().await.clone();
                told.send(hear(stream, manner).await).ok();
            }
        });
        Self {
            port,
            manner,
            connections,
            heard: Mutex::new(heard),
        }
    }

    async fn behave(&self, manner: Manner) {
        *self.manner.lock().await = manner;
    }

    /// What of a request could be read on the next connection.
    async fn heard(&self) -> Vec<u8> {
        let mut heard = self.heard.lock().await;
        let next = tokio::time::timeout(PATIENCE, heard.recv()).await;
        next.expect("a connection").expect("it runs")
    }
}

/// Takes a connection; gives what can be read of a request, and answers it where it is whole.
async fn hear(mut stream: TcpStream, manner: Manner) -> Vec<u8> {
    match manner {
        Manner::Tls(config) => match TlsAcceptor::from(config).accept(stream).await {
            Ok(mut secured) => answer(&mut secured).await,
            Err(_) => Vec::new(),
        },
        Manner::Raw(bytes) => {
            stream.write_all(&bytes).await.ok();
            let mut seen = Vec::new();
            stream.read_to_end(&mut seen).await.ok();
            application_data(&seen)
        }
    }
}

async fn answer(secured: &mut tokio_rustls::server::TlsStream<TcpStream>) -> Vec<u8> {
    let mut seen = vec![0; 64 << 10];
    let read = secured.read(&mut seen).await.unwrap_or_default();
    seen.truncate(read);
    if read > 0 {
        let body = reply_of("alipay.trade.pay", SUCCESS);
        let length = body.len();
        let head = format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n");
        let reply = format!("{head}Content-Type: text/html;charset=utf-8\r\n\r\n{body}");
        secured.write_all(reply.as_bytes()).await.ok();
        secured.shutdown().await.ok();
    }
    seen
}

/// What isn't a hello or an alert: records are a type, a version, a length.
fn application_data(mut records: &[u8]) -> Vec<u8> {
    let mut data = Vec::new();
    while let Some((head, rest)) = records.split_first_chunk::<5>() {
        let length = usize::from(u16::from_be_bytes([head[3], head[4]])).min(rest.len());
        let (record, next) = rest.split_at(length);
        match head[0] {
            20..=22 => {}
            _ => data.extend(record),
        }
        records = next;
    }
    data.extend(records);
    data
}

/// Shows a certificate with a key, whether it is its own or not.
#[derive(Debug)]
struct Shown(Arc<CertifiedKey>);

impl ResolvesServerCert for Shown {
    fn resolve(&self, _: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0))
    }
}

fn server(identity: Identity, version: &'static rustls::SupportedProtocolVersion) -> Manner {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let key = provider.key_provider.load_private_key(identity.key);
    let shown = CertifiedKey::new(identity.chain, key.expect("a key"));
    let config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[version])
        .expect("a version")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(Shown(Arc::new(shown))));
    Manner::Tls(Arc::new(config))
}

/// A sidecar whose Alipay is at `name`, behind TLS under the authority's roots.
async fn sidecar(authority: &Authority, upstream: &Upstream, name: &str) -> TestSidecar {
    let roots = tempfile::NamedTempFile::new().expect("a file");
    std::fs::write(roots.path(), authority.roots()).expect("written");
    let origin = format!("https://{name}:{}", upstream.port);
    TestSidecar::start_with(|config| {
        config.upstream.gateway = Some(format!("{origin}/gateway.do"));
        config.upstream.v3 = Some(origin.clone());
        config.upstream.authorize = Some(origin);
        config.upstream.ca_file = Some(roots.path().to_owned());
        config.upstream.timeout = Duration::from_secs(10);
    })
    .await
}

async fn check_refused(sidecar: &TestSidecar, upstream: &Upstream, what: &str) {
    for (path, method) in [(PAY, Method::POST), ("/v3/alipay/trade/pay", Method::POST)] {
        let before = upstream.connections.load(Ordering::SeqCst);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", "application/json")
            .header("alipay-merchant", ALIAS);
        let reply = sidecar.proxy(request, r#"{"out_trade_no":"1"}"#).await;
        let told = text(&reply);
        assert_eq!(reply.status, 502, "{what}: {told}");
        let error = header(&reply, "alipay-sidecar-error");
        assert_eq!(error, "upstream-unreachable", "{what}: {told}");
        let outcome = header(&reply, "alipay-sidecar-outcome");
        assert_eq!(outcome, "not-sent", "{what}: {told}");
        assert!(told.contains(words(what)), "{what}: {told}");
        let heard = upstream.heard().await;
        assert!(heard.is_empty(), "{what}: {} bytes left", heard.len());
        let connections = upstream.connections.load(Ordering::SeqCst) - before;
        assert_eq!(connections, 1, "{what}");
    }
}

/// How what is wrong is told.
fn words(what: &str) -> &'static str {
    match what.split_once(", ").map_or(what, |(what, _)| what) {
        "expired" => "its certificate ended on 2002-01-01",
        "not valid yet" => "its certificate has ended, or ends before it begins",
        "another name" => "its certificate is for openapi.example.com, not for localhost",
        "the address instead of the name" => "its certificate is for 127.0.0.1, not for localhost",
        "the name as common name alone" => "its certificate is for no name at all",
        "for clients alone" => "its certificate isn't one for servers",
        "an authority's own" => "its certificate is an authority's (CA), not a server's",
        "the issuer is no authority" => "issued under one that is no authority's (CA)",
        "an unknown root" | "the chain is cut off" => "an authority that isn't trusted here",
        "no common version" => "it speaks neither TLS 1.2 nor TLS 1.3",
        "no common cipher" => "it refused the TLS handshake by the alert HandshakeFailure",
        "no TLS at all" => "it doesn't speak TLS there",
        _ => "no connection to ",
    }
}

async fn check_accepted(sidecar: &TestSidecar, upstream: &Upstream, what: &str) {
    let reply = sidecar.post(PAY, r#"{"out_trade_no":"1"}"#).await;
    assert_eq!(reply.status, 200, "{what}: {}", text(&reply));
    assert_eq!(header(&reply, "alipay-sidecar-verified"), "true", "{what}");
    let heard = upstream.heard().await;
    let heard = String::from_utf8_lossy(&heard);
    assert!(heard.starts_with("POST /gateway.do?"), "{what}: {heard}");
}

#[tokio::test]
async fn a_bad_certificate_gets_no_byte_of_a_request() {
    let authority = Authority::new();
    let upstream = Upstream::start().await;
    let sidecar = sidecar(&authority, &upstream, NAME).await;
    let mut refused = 0;
    for version in [&TLS13, &TLS12] {
        for (what, identity) in authority.bad() {
            upstream.behave(server(identity, version)).await;
            check_refused(
                &sidecar,
                &upstream,
                &format!("{what}, {:?}", version.version),
            )
            .await;
            refused += 1;
        }
        for good in [authority.good(&[NAME]), authority.good_rsa()] {
            upstream.behave(server(good, version)).await;
            check_accepted(&sidecar, &upstream, &format!("good, {:?}", version.version)).await;
        }
    }
    println!("tls: {refused} bad certificates, 0 bytes of a request left");
    assert!(refused >= 40);
}

#[tokio::test]
async fn a_name_in_the_certificate_is_no_address() {
    let authority = Authority::new();
    let upstream = Upstream::start().await;
    let sidecar = sidecar(&authority, &upstream, "127.0.0.1").await;
    for names in [&[NAME][..], &["127.0.0.2"], &["*"]] {
        upstream.behave(server(authority.good(names), &TLS13)).await;
        check_refused(&sidecar, &upstream, &names.concat()).await;
    }
    let good = authority.good(&["127.0.0.1"]);
    upstream.behave(server(good, &TLS13)).await;
    check_accepted(&sidecar, &upstream, "the address itself").await;
}

#[tokio::test]
async fn an_old_version_or_none_gets_no_byte_of_a_request() {
    let authority = Authority::new();
    let upstream = Upstream::start().await;
    let sidecar = sidecar(&authority, &upstream, NAME).await;
    for (what, version) in [("TLS 1.1", [3, 2]), ("TLS 1.0", [3, 1]), ("SSL 3", [3, 0])] {
        upstream.behave(Manner::Raw(hello(version))).await;
        check_refused(&sidecar, &upstream, what).await;
    }
    // Alerts: a level, a reason. 70: no common version; 40: nothing else in common.
    for (what, alert) in [("no common version", 70), ("no common cipher", 40)] {
        let alert = vec![21, 3, 3, 0, 2, 2, alert];
        upstream.behave(Manner::Raw(alert)).await;
        check_refused(&sidecar, &upstream, what).await;
    }
    let plain = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_vec();
    upstream.behave(Manner::Raw(plain)).await;
    check_refused(&sidecar, &upstream, "no TLS at all").await;
    let good = authority.good(&[NAME]);
    upstream.behave(server(good, &TLS12)).await;
    check_accepted(&sidecar, &upstream, "TLS 1.2").await;
}

/// A ServerHello of an old version that takes TLS_RSA_WITH_AES_128_CBC_SHA.
fn hello(version: [u8; 2]) -> Vec<u8> {
    let mut body = version.to_vec();
    body.extend([7; 32]);
    body.extend([0, 0, 0x2f, 0]);
    let length = u8::try_from(body.len()).expect("short");
    let mut record = vec![22, version[0], version[1], 0, length + 4, 2, 0, 0, length];
    record.extend(body);
    record
}
