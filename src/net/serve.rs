//! The accept loop: connections, their limits, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response};
use hyper::body::{Body, Incoming};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;

use crate::net::body::BoxError;
use crate::net::listener::{Listener, Peer, Stream};
use crate::net::pace::{Answering, Paced};
use crate::net::shutdown::Shutdown;

/// How long an idle connection is kept: hyper counts heads with the same timer, so those have one
/// of their own.
const IDLE: Duration = Duration::from_secs(330);
/// How long a head may take to arrive, from its first byte.
const HEAD: Duration = Duration::from_secs(30);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// hyper's own limit on a head. Ours (64 KiB) is checked behind it, so that the refusal has our
/// shape; what exceeds even this one is answered by hyper with a bare 431.
const HEAD_BYTES: usize = 256 << 10;
/// How many header fields hyper takes before it answers a bare 431.
const HEADER_FIELDS: usize = 512;
/// Connections open at once on one listener; beyond it new ones wait in the backlog.
const CONNECTIONS: usize = 16_384;
/// How long open requests may go on once the end was signalled.
const DRAIN: Duration = Duration::from_secs(30);
/// The pause after an accept that failed, as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 on `listener` until `shutdown`, then lets open requests end.
///
/// The request carries its [`Peer`] as an extension.
pub async fn serve<H, F, B>(
    listener: Listener,
    tls: Option<TlsAcceptor>,
    handle: H,
    shutdown: Shutdown,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let graceful = Arc::new(GracefulShutdown::new());
    let slots = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Some((stream, peer, slot)) = next(&listener, &slots, &shutdown).await else {
            break;
        };
        let (tls, handle, watcher) = (tls.clone(), handle.clone(), graceful.watcher());
        tokio::spawn(async move {
            let secured = tokio::time::timeout(HANDSHAKE, stream.secured(tls.as_ref())).await;
            if let Ok(Ok(stream)) = secured {
                converse(stream, peer, handle, watcher).await;
            }
            drop(slot);
        });
    }
    drop(listener);
    if let Some(graceful) = Arc::into_inner(graceful) {
        let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    }
}

type Slot = tokio::sync::OwnedSemaphorePermit;

async fn next(
    listener: &Listener,
    slots: &Arc<Semaphore>,
    shutdown: &Shutdown,
) -> Option<(Stream, Peer, Slot)> {
    let accept = async {
        let slot = Arc::clone(slots).acquire_owned().await.ok()?;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, slot)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    };
    tokio::select! {
        biased;
        () = shutdown.wait() => None,
        accepted = accept => accepted,
    }
}

/// Speaks HTTP on one connection until it ends or `watcher` says so.
async fn converse<H, F, B>(stream: Stream, peer: Peer, handle: H, watcher: Watcher)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<B>> + Send + 'static,
    B: Body<Data = Bytes> + Send + 'static,
    B::Error: Into<BoxError>,
{
    let answering = Answering::default();
    let stream = Paced::new(stream, HEAD, answering.clone());
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        answering.begin();
        request.extensions_mut().insert(peer);
        let (answer, answering) = (handle(request), answering.clone());
        async move {
            let answer = answer.await;
            answering.end();
            Ok::<_, Infallible>(answer)
        }
    });
    let connection = hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(IDLE)
        .max_buf_size(HEAD_BYTES)
        .max_headers(HEADER_FIELDS)
        .half_close(true)
        .serve_connection(TokioIo::new(stream), service);
    // A connection that breaks concerns nobody but its peer.
    let _ = watcher.watch(connection).await;
}
