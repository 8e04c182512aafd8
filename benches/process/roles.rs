//! The other processes that this program plays: an Alipay, and the bases.
//!
//! Each is as little as hyper and rustls allow; what the bases leave out is what the sidecar costs.

use std::future::Future;
use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, bail};
use bytes::Bytes;
use http::uri::PathAndQuery;
use http::{HeaderValue, Request, Response, Uri};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::Client;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;

use crate::rsa::Rsa;
use crate::world::{self, files};

/// Any port that is free.
const LOOPBACK: &str = "127.0.0.1:0";
/// The port that a client takes which heeds none.
const PLAIN: &str = "127.0.0.4:80";

type Body = UnsyncBoxBody<Bytes, hyper::Error>;
type Answer = anyhow::Result<Response<Body>>;

/// Plays one role until it is killed.
pub(crate) fn play(role: &str, directory: &Path) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Runtime::new()?;
    runtime.block_on(async {
        match role {
            "alipay" => alipay(directory, LOOPBACK, Some(tls(directory)?)).await,
            "alipay-plain" => alipay(directory, PLAIN, None).await,
            "proxy" => proxy(directory).await,
            "inline" => inline(directory).await,
            other => bail!("there is no role `{other}`"),
        }
    })
}

/// Answers every call with the same reply.
async fn alipay(directory: &Path, at: &str, tls: Option<TlsAcceptor>) -> anyhow::Result<()> {
    let read = |name: &str| std::fs::read(directory.join(name)).map(Bytes::from);
    let of_query = read(files::QUERY_REPLY)?;
    let others = Arc::new([
        (world::UPLOAD, read(files::UPLOAD_REPLY)?),
        (world::CREATE, read(files::CREATE_REPLY)?),
    ]);
    serve(at, tls, move |request| {
        let (of_query, others) = (of_query.clone(), Arc::clone(&others));
        async move {
            // What a minimal proxy hands on has the method in its path.
            let target = request.uri().to_string();
            drain(request.into_body()).await?;
            let mut others = others.iter();
            let other = others.find(|(method, _)| target.contains(method));
            Ok(whole(other.map_or(of_query, |(_, reply)| reply.clone())))
        }
    })
    .await
}

fn tls(directory: &Path) -> anyhow::Result<TlsAcceptor> {
    let read = |name: &str| std::fs::read(directory.join(name));
    let chain = CertificateDer::pem_slice_iter(&read(files::CERTIFICATE)?)
        .collect::<Result<Vec<_>, _>>()?;
    let key = PrivateKeyDer::from_pem_slice(&read(files::CERTIFICATE_KEY)?)?;
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let tls = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(chain, key)?;
    Ok(TlsAcceptor::from(Arc::new(tls)))
}

/// Hands requests and replies on, and does nothing else.
async fn proxy(directory: &Path) -> anyhow::Result<()> {
    let upstream = Upstream::of(directory)?;
    serve(LOOPBACK, None, move |request| {
        let upstream = upstream.clone();
        async move { upstream.pass_on(request).await }
    })
    .await
}

/// Signs and verifies where it reads and writes, as a sidecar of an afternoon would.
async fn inline(directory: &Path) -> anyhow::Result<()> {
    let upstream = Upstream::of(directory)?;
    let key = std::fs::read_to_string(directory.join(files::APP_KEY))?;
    let rsa = Arc::new(Rsa::new(&key)?);
    serve(LOOPBACK, None, move |request| {
        let (upstream, rsa) = (upstream.clone(), Arc::clone(&rsa));
        async move {
            match request.uri().path() {
                "/livez" => Ok(whole(Bytes::from_static(b"ok"))),
                // Verified, and kept nowhere: less than an ack is worth.
                "/alipay/notify" => {
                    drain(request.into_body()).await?;
                    rsa.verify()?;
                    Ok(whole(Bytes::from_static(b"success")))
                }
                _ => {
                    std::hint::black_box(rsa.sign()?);
                    let reply = upstream.pass_on(request).await;
                    rsa.verify()?;
                    reply
                }
            }
        }
    })
    .await
}

/// A pool of connections to the Alipay of this bench.
#[derive(Clone)]
struct Upstream {
    authority: http::uri::Authority,
    pool: Client<HttpsConnector<HttpConnector>, Incoming>,
}

impl Upstream {
    fn of(directory: &Path) -> anyhow::Result<Self> {
        let mut roots = rustls::RootCertStore::empty();
        roots.add(CertificateDer::from_pem_file(directory.join(files::CA))?)?;
        let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
        let tls = rustls::ClientConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_root_certificates(roots)
            .with_no_client_auth();
        let mut tcp = HttpConnector::new();
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        let connector = hyper_rustls::HttpsConnectorBuilder::new()
            .with_tls_config(tls)
            .https_only()
            .enable_http1()
            .wrap_connector(tcp);
        let pool = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .build(connector);
        let authority = std::fs::read_to_string(directory.join(files::UPSTREAM))?;
        Ok(Self {
            authority: authority.parse()?,
            pool,
        })
    }

    async fn pass_on(&self, mut request: Request<Incoming>) -> Answer {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = Uri::builder()
            .scheme("https")
            .authority(self.authority.clone())
            .path_and_query(path.unwrap_or_else(|| PathAndQuery::from_static("/")))
            .build()?;
        let host = HeaderValue::from_str(self.authority.as_str())?;
        request.headers_mut().insert(http::header::HOST, host);
        Ok(self.pool.request(request).await?.map(Body::new))
    }
}

fn whole(body: Bytes) -> Response<Body> {
    Response::new(Body::new(Full::new(body).map_err(|never| match never {})))
}

async fn drain(mut body: Incoming) -> anyhow::Result<()> {
    while let Some(frame) = body.frame().await {
        frame?;
    }
    Ok(())
}

/// Says where it listens, and answers what comes.
async fn serve<F>(
    at: &str,
    tls: Option<TlsAcceptor>,
    handle: impl Fn(Request<Incoming>) -> F + Clone + Send + 'static,
) -> anyhow::Result<()>
where
    F: Future<Output = Answer> + Send + 'static,
{
    let listener = TcpListener::bind(at).await?;
    writeln!(std::io::stdout(), "{}", listener.local_addr()?)?;
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        let (tls, handle) = (tls.clone(), handle.clone());
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let answer = handle(request);
                async move { answer.await.map_err(std::io::Error::other) }
            });
            let http = http1::Builder::new();
            // A connection that breaks concerns nobody but its peer.
            match tls {
                None => drop(http.serve_connection(TokioIo::new(stream), service).await),
                Some(tls) => {
                    let stream = tls.accept(stream).await.context("no handshake")?;
                    drop(http.serve_connection(TokioIo::new(stream), service).await);
                }
            }
            anyhow::Ok(())
        });
    }
}
