//! One request, one reply, to a listener of our own.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::{Body, Incoming};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use crate::cli::pinned::{self, Trust};
use crate::config::listen::Listen;
use crate::net::body::{self, BoxError};

/// A whole reply.
pub(crate) struct Reply {
    pub(crate) status: StatusCode,
    pub(crate) body: Bytes,
}

/// Why there is no reply.
#[derive(Debug)]
pub(crate) enum NoReply {
    /// Nobody listens there.
    NobodyListens,
    /// Anything else.
    Other(anyhow::Error),
}

impl NoReply {
    /// The error to show; `what` listens at `listen`.
    pub(crate) fn into_error(self, what: &str, listen: &impl std::fmt::Display) -> anyhow::Error {
        match self {
            Self::NobodyListens => anyhow!("no {what} listens at {listen}; start one, or mend -c"),
            Self::Other(error) => anyhow!("the {what} at {listen} gave no reply: {error:#}"),
        }
    }
}

/// Sends `request` to who listens at `listen`, under TLS where it is said who that has to be.
pub(crate) async fn send(
    listen: &Listen,
    tls: Option<Trust<'_>>,
    request: Request<Full<Bytes>>,
) -> Result<Reply, NoReply> {
    let whole = async {
        let (head, reply) = begin(listen, tls, request).await?.into_parts();
        let body = whole(reply).await?;
        Ok(Reply {
            status: head.status,
            body,
        })
    };
    in_time(whole).await
}

/// The same, the body not read yet: it may be larger, and take longer, than any other reply.
pub(crate) async fn open(
    listen: &Listen,
    tls: Option<Trust<'_>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, NoReply> {
    in_time(begin(listen, tls, request)).await
}

/// The body of a reply that was opened.
pub(crate) async fn whole<B>(reply: B) -> Result<Bytes, NoReply>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let body = body::read(reply, LARGEST_REPLY, DEADLINE).await;
    body.context("the reply broke off").map_err(NoReply::Other)
}

async fn in_time<T>(work: impl Future<Output = Result<T, NoReply>>) -> Result<T, NoReply> {
    let late = |_| {
        NoReply::Other(anyhow!(
            "it took longer than {} minutes, and may be done all the same",
            DEADLINE.as_secs() / 60
        ))
    };
    tokio::time::timeout(DEADLINE, work).await.map_err(late)?
}

async fn begin(
    listen: &Listen,
    tls: Option<Trust<'_>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, NoReply> {
    let absent = |error| unreachable(error, listen);
    match listen {
        Listen::Tcp(address) => {
            let stream = TcpStream::connect(reachable(address)).await;
            secure(stream.map_err(absent)?, tls, request).await
        }
        Listen::Unix(path) => {
            let stream = UnixStream::connect(path).await;
            secure(stream.map_err(absent)?, tls, request).await
        }
    }
}

async fn secure<S>(
    stream: S,
    tls: Option<Trust<'_>>,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, NoReply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Some(trust) = tls else {
        return ask(stream, request).await;
    };
    let secured = pinned::connect(stream, trust).await;
    ask(secured.map_err(NoReply::Other)?, request).await
}

/// An address to connect to, where the listener listens on all.
fn reachable(address: &str) -> String {
    address
        .strip_prefix("0.0.0.0:")
        .map(|port| format!("127.0.0.1:{port}"))
        .or_else(|| {
            address
                .strip_prefix("[::]:")
                .map(|port| format!("[::1]:{port}"))
        })
        .unwrap_or_else(|| address.to_owned())
}

fn unreachable(error: std::io::Error, listen: &Listen) -> NoReply {
    use std::io::ErrorKind::{ConnectionRefused, NotFound};
    let is_absent = match listen {
        Listen::Tcp(_) => error.kind() == ConnectionRefused,
        Listen::Unix(_) => matches!(error.kind(), ConnectionRefused | NotFound),
    };
    if is_absent {
        NoReply::NobodyListens
    } else {
        NoReply::Other(error.into())
    }
}

async fn ask<S>(stream: S, request: Request<Full<Bytes>>) -> Result<Response<Incoming>, NoReply>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let ask = async {
        let (mut sender, connection) =
            hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
        // Ends with the reply; what goes wrong on the connection its reader hears.
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    ask.await.map_err(|error| NoReply::Other(error.into()))
}

/// A page of a thousand entries is far below, bytes.
const LARGEST_REPLY: usize = 64 << 20;

/// For work that grows with the store, or waits for Alipay: far beyond any of it.
const DEADLINE: Duration = Duration::from_secs(3600);
