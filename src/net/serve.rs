//! The accept loop: connections, their limits, and their end.

use std::convert::Infallible;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::CONNECTION;
use http::{HeaderValue, Request, Response};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_rustls::TlsAcceptor;

use crate::net::listener::{Listener, Peer, Stream};
use crate::net::pace::{Answering, Limits, Paced};
use crate::net::shutdown::{Ending, Shutdown, Stage};

/// How long an idle connection is kept: hyper counts heads with the same timer, so those have one
/// of their own.
const IDLE: Duration = Duration::from_secs(330);
/// How long a head may take to arrive, from its first byte.
const HEAD: Duration = Duration::from_secs(30);
/// How long an answer may wait for a reader that takes none of it.
const STALL: Duration = Duration::from_secs(30);
/// The same once the end has begun: who doesn't read then holds up everybody else.
const STALL_AT_THE_END: Duration = Duration::from_secs(5);
/// How long a TLS handshake may take.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// hyper's own limit on a head. Ours (64 KiB) is checked behind it, so that the refusal has our
/// shape; what exceeds even this one is answered by hyper with a bare 431.
const HEAD_BYTES: usize = 256 << 10;
/// How many header fields hyper takes before it answers a bare 431.
const HEADER_FIELDS: usize = 512;
/// Connections open at once on one listener; beyond it new ones wait in the backlog.
const CONNECTIONS: u32 = 16_384;
/// How long open requests may go on once the end was signalled.
const DRAIN: Duration = Duration::from_secs(30);
/// How long the system may take to hand over connections that stood in the backlog at the end.
const BACKLOG: Duration = Duration::from_millis(20);
/// The pause after an accept that failed, as for lack of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Serves HTTP/1.1 on `listener` until `shutdown`, then lets open requests end, for 30 s at most.
///
/// The request carries its [`Peer`] as an extension.
pub async fn serve<H, F>(
    listener: Listener,
    tls: Option<TlsAcceptor>,
    handle: H,
    shutdown: Shutdown,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let (hand, ending) = Ending::new();
    let served = serve_until(listener, tls, handle, ending);
    let end = async {
        shutdown.wait().await;
        hand.reach(Stage::Closing);
        tokio::time::sleep(DRAIN).await;
        hand.reach(Stage::Cut);
        std::future::pending().await
    };
    tokio::select! {
        () = served => {}
        () = end => {}
    }
}

/// The same, ending by the stages of `ending`; ends itself once no connection is left.
pub async fn serve_until<H, F>(
    listener: Listener,
    tls: Option<TlsAcceptor>,
    handle: H,
    ending: Ending,
) where
    H: Fn(Request<Incoming>) -> F + Clone + Send + Sync + 'static,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let slots = Arc::new(Semaphore::new(CONNECTIONS as usize));
    let mut accepting = Accepting {
        listener,
        slots: Arc::clone(&slots),
        ending: ending.clone(),
        until: None,
    };
    while let Some((stream, peer, slot)) = accepting.next().await {
        let (tls, handle, ending) = (tls.clone(), handle.clone(), ending.clone());
        tokio::spawn(async move {
            let cut = ending.reached(Stage::Cut);
            let spoken = async {
                let secured = tokio::time::timeout(HANDSHAKE, stream.secured(tls.as_ref())).await;
                if let Ok(Ok(stream)) = secured {
                    converse(stream, peer, handle, ending).await;
                }
            };
            tokio::select! {
                () = spoken => {}
                () = cut => {}
            }
            drop(slot);
        });
    }
    drop(accepting);
    // Every connection holds one; the semaphore is never closed.
    let _ = slots.acquire_many(CONNECTIONS).await;
}

type Slot = tokio::sync::OwnedSemaphorePermit;

/// The accept loop's state.
struct Accepting {
    listener: Listener,
    slots: Arc<Semaphore>,
    ending: Ending,
    /// Until when the backlog is emptied.
    until: Option<Instant>,
}

impl Accepting {
    /// The next connection. Once nothing more should be accepted, only what stood in the backlog
    /// of a socket of our own is: the system would answer those with a reset. A socket that others
    /// hold, too, keeps them for whoever serves next.
    async fn next(&mut self) -> Option<(Stream, Peer, Slot)> {
        if self.until.is_none() {
            tokio::select! {
                biased;
                () = self.ending.reached(Stage::Deaf) => {}
                accepted = self.accept() => return accepted,
            }
            if self.listener.is_shared() {
                return None;
            }
        }
        let until = *self.until.get_or_insert_with(|| Instant::now() + BACKLOG);
        tokio::time::timeout_at(until, self.accept()).await.ok()?
    }

    async fn accept(&self) -> Option<(Stream, Peer, Slot)> {
        let slot = Arc::clone(&self.slots).acquire_owned().await.ok()?;
        loop {
            match self.listener.accept().await {
                Ok((stream, peer)) => return Some((stream, peer, slot)),
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

/// Speaks HTTP on one connection until it ends.
async fn converse<H, F>(stream: Stream, peer: Peer, handle: H, ending: Ending)
where
    H: Fn(Request<Incoming>) -> F,
    F: Future<Output = Response<Full<Bytes>>> + Send + 'static,
{
    let answering = Answering::default();
    let limits = Limits {
        head: HEAD,
        stall: STALL,
        stall_at_the_end: STALL_AT_THE_END,
    };
    let stream = Paced::new(stream, limits, answering.clone(), ending.clone());
    let closing = ending.reached(Stage::Closing);
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        answering.begin();
        request.extensions_mut().insert(peer);
        let (answer, answering) = (handle(request), answering.clone());
        let ending = ending.clone();
        async move {
            let mut answer = answer.await;
            answering.end();
            if ending.stage() >= Stage::Leaving {
                let close = HeaderValue::from_static("close");
                answer.headers_mut().insert(CONNECTION, close);
            }
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
    let mut connection = pin!(connection);
    tokio::select! {
        biased;
        // A connection that breaks concerns nobody but its peer.
        _ = connection.as_mut() => return,
        () = closing => connection.as_mut().graceful_shutdown(),
    }
    let _ = connection.await;
}
