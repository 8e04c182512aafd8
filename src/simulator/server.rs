//! Accepts connections and sends each request to the part that answers it.
use std::{future::Future, pin::pin, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinSet,
    time::timeout,
};

use super::{
    Inner,
    content::{self, Content},
    control,
    gateway::{self, Body, Closed},
    pages, v3,
};

/// How long a request head may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);
/// How long open connections may take to finish once the simulator stops.
const DRAIN: Duration = Duration::from_secs(1);
/// How long accepting rests after the system refused a connection (too many open files).
const ACCEPT_REST: Duration = Duration::from_millis(50);

/// Serves all listeners until `shutdown` ends, then lets open requests finish for a moment.
pub(super) async fn serve(
    inner: Arc<Inner>,
    listeners: Vec<TcpListener>,
    shutdown: impl Future<Output = ()>,
) {
    let (stop, stopping) = watch::channel(());
    let mut accepting = JoinSet::new();
    for listener in listeners {
        accepting.spawn(accept(Arc::clone(&inner), listener, stopping.clone()));
    }
    drop(stopping);
    shutdown.await;
    drop(stop);
    while accepting.join_next().await.is_some() {}
}

async fn accept(inner: Arc<Inner>, listener: TcpListener, mut stopping: watch::Receiver<()>) {
    let mut connections = JoinSet::new();
    loop {
        tokio::select! {
            // The sender sends nothing; it is dropped when the simulator stops.
            _ = stopping.changed() => break,
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => {
                    connections.spawn(connection(Arc::clone(&inner), stream, stopping.clone()));
                }
                Err(_) => tokio::time::sleep(ACCEPT_REST).await,
            },
        }
        while connections.try_join_next().is_some() {}
    }
    let drained = async { while connections.join_next().await.is_some() {} };
    // Whatever is still open after this is aborted when the set is dropped.
    let _ = timeout(DRAIN, drained).await;
}

async fn connection(inner: Arc<Inner>, stream: TcpStream, mut stopping: watch::Receiver<()>) {
    // Without this, a small reply may wait for the other side's delayed acknowledgement.
    let _ = stream.set_nodelay(true);
    let service = service_fn(move |request| {
        let inner = Arc::clone(&inner);
        async move { answer(&inner, request).await }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_TIMEOUT)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // An error here is the other side's going away, or the reset a test has asked for.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = stopping.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

async fn answer(inner: &Arc<Inner>, request: Request<Incoming>) -> Result<Response<Body>, Closed> {
    let (head, body) = request.into_parts();
    let too_large = || status(StatusCode::PAYLOAD_TOO_LARGE);
    let is_v3 = head.uri.path().starts_with("/v3/");
    if is_v3 || head.uri.path() == "/gateway.do" {
        let Some(content) = Content::read(&head.headers, body).await else {
            return Ok(too_large());
        };
        let request = Request::from_parts(head, content);
        return match is_v3 {
            true => v3::handle(inner, &request).await,
            false => gateway::handle(inner, &request).await,
        };
    }
    let Some(body) = content::whole(body).await else {
        return Ok(too_large());
    };
    let request = Request::from_parts(head, body);
    if request.uri().path().starts_with("/simulator/") {
        return Ok(control::handle(inner, &request).await);
    }
    Ok(pages::handle(inner, &request).unwrap_or_else(|| status(StatusCode::NOT_FOUND)))
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(Full::new(Bytes::new()).boxed());
    *response.status_mut() = status;
    response
}
