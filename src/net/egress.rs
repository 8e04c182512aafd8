//! The way out: straight to the target, or through an HTTP proxy by CONNECT.
//!
//! Behind a proxy everything else stays: TLS runs between us and the target, verified by the same
//! roots, so that the proxy sees a host, a port and ciphertext. It is asked for a tunnel to every
//! target, a plain `http://` one, too: one way that holds, instead of two. The proxy resolves the
//! target's name; nothing here does.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use http::Uri;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tower_service::Service;
use zeroize::Zeroizing;

use crate::config::url::is_whole;
use crate::net::body::BoxError;

/// The longest answer to CONNECT that is read, bytes: what servers accept as the head of a request.
const LONGEST_ANSWER: usize = 8 << 10;
/// How many header fields an answer may have.
const MOST_FIELDS: usize = 64;

/// An HTTP proxy that everything goes through.
#[derive(Clone)]
pub struct HttpProxy {
    shared: Arc<Shared>,
}

struct Shared {
    uri: Uri,
    name: String,
    authorization: Option<Zeroizing<String>>,
}

impl std::fmt::Debug for HttpProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "HttpProxy({self})")
    }
}

impl std::fmt::Display for HttpProxy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.shared.name)
    }
}

/// An address that can't be a proxy's.
#[derive(Debug, thiserror::Error)]
#[error("{found} is no proxy's address: {expected}", expected = HttpProxy::EXPECTED)]
pub struct NoProxy {
    found: String,
}

impl HttpProxy {
    /// What [`Self::new`] takes.
    pub(crate) const EXPECTED: &'static str =
        "expected http://HOST or http://HOST:PORT, without user information, path or query";

    /// The proxy at `url`, such as `http://egress:3128`, which is shown `credentials`
    /// (`user:password`), if there are any.
    ///
    /// # Errors
    /// [`NoProxy`] where `url` is something else.
    pub fn new(url: &str, credentials: Option<&str>) -> Result<Self, NoProxy> {
        let found = || match url.contains('@') {
            // What stands before the `@` may be a password.
            true => "a URL with `@` (not shown)".to_owned(),
            false => format!("\"{url}\""),
        };
        let wrong = || NoProxy { found: found() };
        let uri: Uri = url.parse().map_err(|_| wrong())?;
        let is_bare = uri.path() == "/" && uri.query().is_none() && !url.contains(['@', '#']);
        let is_whole = uri.authority().is_some_and(is_whole);
        if uri.scheme_str() != Some("http") || !is_bare || !is_whole {
            return Err(wrong());
        }
        let name = url.trim_end_matches('/').to_owned();
        let authorization = credentials.map(|credentials| {
            let basic = Zeroizing::new(STANDARD.encode(credentials));
            Zeroizing::new(format!("Basic {}", &*basic))
        });
        Ok(Self {
            shared: Arc::new(Shared {
                uri,
                name,
                authorization,
            }),
        })
    }

    /// The request for a tunnel to `target`.
    fn connect(&self, target: &str) -> Zeroizing<String> {
        let mut request = Zeroizing::new(String::with_capacity(512));
        request.push_str(&format!("CONNECT {target} HTTP/1.1\r\nHost: {target}\r\n"));
        if let Some(authorization) = &self.shared.authorization {
            for part in ["Proxy-Authorization: ", authorization.as_str(), "\r\n"] {
                request.push_str(part);
            }
        }
        request.push_str("\r\n");
        request
    }

    /// Turns a connection to the proxy into one to `target`.
    async fn tunnel(&self, mut stream: TcpStream, target: &str) -> Result<TcpStream, ProxyError> {
        let request = self.connect(target);
        let broken = |source| self.broken(source);
        stream.write_all(request.as_bytes()).await.map_err(broken)?;
        let mut answer = Vec::with_capacity(512);
        loop {
            if answer.len() >= LONGEST_ANSWER {
                return Err(self.unusable(&format!("is longer than {LONGEST_ANSWER} bytes")));
            }
            let left = (LONGEST_ANSWER - answer.len()) as u64;
            let read = (&mut stream).take(left).read_buf(&mut answer).await;
            if read.map_err(broken)? == 0 {
                return Err(self.unusable("ended before its head did"));
            }
            if let Some(status) = self.status(&answer)? {
                self.judge(status, target)?;
                return Ok(stream);
            }
        }
    }

    /// The status of an answer; `None`: it isn't whole yet.
    fn status(&self, answer: &[u8]) -> Result<Option<u16>, ProxyError> {
        let mut fields = [httparse::EMPTY_HEADER; MOST_FIELDS];
        let mut head = httparse::Response::new(&mut fields);
        match head.parse(answer) {
            Ok(httparse::Status::Partial) => Ok(None),
            // Whoever speaks first behind a proxy isn't the target: in TLS and in HTTP that waits.
            Ok(httparse::Status::Complete(length))
                if length < answer.len() && head.code.is_some_and(is_success) =>
            {
                Err(self.unusable("has more behind its head"))
            }
            Ok(httparse::Status::Complete(_)) => Ok(head.code),
            Err(_) => Err(self.unusable("isn't HTTP/1")),
        }
    }

    fn judge(&self, status: u16, target: &str) -> Result<(), ProxyError> {
        if is_success(status) {
            return Ok(());
        }
        let hint = match (status, &self.shared.authorization) {
            (407, None) => "; set upstream.proxy_credentials",
            (407, Some(_)) => "; see that upstream.proxy_credentials are right",
            (403 | 405, _) => "; the proxy must allow CONNECT to it",
            _ => "",
        };
        Err(ProxyError::Refused {
            proxy: self.to_string(),
            target: target.to_owned(),
            status,
            hint,
        })
    }

    fn broken(&self, source: io::Error) -> ProxyError {
        ProxyError::Broken {
            proxy: self.to_string(),
            source: source.into(),
        }
    }

    fn unusable(&self, what: &str) -> ProxyError {
        ProxyError::Unusable {
            proxy: self.to_string(),
            what: what.to_owned(),
        }
    }
}

fn is_success(status: u16) -> bool {
    (200..300).contains(&status)
}

/// Why a proxy gave no connection. Nothing of a request had left. Of what the proxy said, only its
/// status is shown.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProxyError {
    /// There is no connection to it, or it broke.
    #[error("the proxy {proxy} can't be used")]
    Broken {
        /// Its address.
        proxy: String,
        /// What failed.
        #[source]
        source: BoxError,
    },
    /// It doesn't connect us.
    #[error("the proxy {proxy} answered CONNECT to {target} with status {status}{hint}")]
    Refused {
        /// Its address.
        proxy: String,
        /// Where it should have connected us to.
        target: String,
        /// What it said.
        status: u16,
        /// What to do.
        hint: &'static str,
    },
    /// Its answer makes no sense.
    #[error("the answer of the proxy {proxy} {what}")]
    Unusable {
        /// Its address.
        proxy: String,
        /// What is wrong with it.
        what: String,
    },
}

/// Makes connections to targets, straight or through a proxy.
#[derive(Debug, Clone)]
pub(super) struct Egress {
    tcp: HttpConnector,
    proxy: Option<HttpProxy>,
}

impl Egress {
    pub(super) fn new(tcp: HttpConnector, proxy: Option<HttpProxy>) -> Self {
        Self { tcp, proxy }
    }
}

impl Service<Uri> for Egress {
    type Response = TokioIo<TcpStream>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, target: Uri) -> Self::Future {
        let Some(proxy) = self.proxy.clone() else {
            let connecting = self.tcp.call(target);
            return Box::pin(async move { Ok(connecting.await?) });
        };
        let connecting = self.tcp.call(proxy.shared.uri.clone());
        Box::pin(async move {
            let target = authority(&target).ok_or("the target has no host")?;
            let stream = connecting.await.map_err(|error| ProxyError::Broken {
                proxy: proxy.to_string(),
                source: error.into(),
            })?;
            let stream = proxy.tunnel(stream.into_inner(), &target).await?;
            Ok(TokioIo::new(stream))
        })
    }
}

/// Host and port, as CONNECT names them.
fn authority(target: &Uri) -> Option<String> {
    let standard = match target.scheme_str() {
        Some("http") => 80,
        _ => 443,
    };
    let port = target.port_u16().unwrap_or(standard);
    Some(format!("{}:{port}", target.host()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_bare_http_address_is_a_proxys() {
        for good in ["http://egress:3128", "http://egress", "http://[::1]:1/"] {
            let proxy = HttpProxy::new(good, None).expect(good);
            assert_eq!(proxy.to_string(), good.trim_end_matches('/'));
        }
        for bad in [
            "https://egress:3128",
            "egress:3128",
            "http://egress/p",
            "http://egress:99999",
            "http://egress:",
            "http://egress/?q",
            "http://",
            "",
        ] {
            let error = HttpProxy::new(bad, None).expect_err(bad).to_string();
            assert!(error.contains(&format!("\"{bad}\"")), "{error}");
        }
        let error = HttpProxy::new("http://user:hunter2@egress", None);
        let error = error.expect_err("refused").to_string();
        assert!(!error.contains("hunter2"), "{error}");
    }

    #[test]
    fn a_target_is_named_with_its_port() {
        for (target, expected) in [
            (
                "https://openapi.alipay.com/gateway.do",
                "openapi.alipay.com:443",
            ),
            ("https://[::1]/", "[::1]:443"),
            ("http://127.0.0.1/", "127.0.0.1:80"),
            ("http://localhost:8080/x", "localhost:8080"),
        ] {
            let target: Uri = target.parse().expect("a URL");
            assert_eq!(authority(&target).as_deref(), Some(expected));
        }
    }

    #[test]
    fn credentials_are_sent_and_not_shown() {
        let proxy = HttpProxy::new("http://egress:3128", Some("user:hunter2")).expect("a proxy");
        assert_eq!(
            proxy.connect("a:443").as_str(),
            "CONNECT a:443 HTTP/1.1\r\nHost: a:443\r\n\
             Proxy-Authorization: Basic dXNlcjpodW50ZXIy\r\n\r\n"
        );
        assert_eq!(format!("{proxy:?}"), "HttpProxy(http://egress:3128)");
    }
}
