//! Faults of the connection: replies that don't come, come late, or never end.
use std::time::Duration;

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderValue, Response, StatusCode, header};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::Frame;

use super::{
    faults::{FaultKind, Strike},
    gateway::{Body, Closed},
};

/// Size of the oversized reply in bytes.
const OVERSIZED: usize = 64 * 1024 * 1024;
/// How often the endless reply goes on.
const ENDLESS_PERIOD: Duration = Duration::from_millis(20);

/// Sends a reply as it is.
pub(super) fn send(reply: Response<Bytes>) -> Response<Body> {
    reply.map(|body| Full::new(body).boxed())
}

/// Sends a reply in the fault's way.
pub(super) async fn play(strike: Strike, reply: Response<Bytes>) -> Result<Response<Body>, Closed> {
    match strike.kind {
        FaultKind::Reset => Err(Closed),
        FaultKind::Slow => {
            tokio::time::sleep(strike.delay).await;
            Ok(send(reply))
        }
        FaultKind::Html => Ok(send(page(reply))),
        FaultKind::Oversized => Ok(send(reply.map(|body| oversized(&body)))),
        FaultKind::Endless => Ok(reply.map(|_| endless())),
        _ => Ok(send(reply)),
    }
}

fn page(mut reply: Response<Bytes>) -> Response<Bytes> {
    *reply.status_mut() = StatusCode::BAD_GATEWAY;
    let html = HeaderValue::from_static("text/html;charset=utf-8");
    reply.headers_mut().insert(header::CONTENT_TYPE, html);
    reply.headers_mut().remove("alipay-signature");
    reply.map(|_| Bytes::from_static(b"<html><body><h1>502 Bad Gateway</h1></body></html>"))
}

/// Puts spaces behind the first byte, so that JSON stays JSON.
fn oversized(body: &[u8]) -> Bytes {
    let (first, rest) = body.split_at(body.len().min(1));
    [first, &vec![b' '; OVERSIZED], rest].concat().into()
}

fn endless() -> Body {
    let start = Bytes::from_static(b"{ ");
    let frames = stream::unfold(start, async |chunk| {
        tokio::time::sleep(ENDLESS_PERIOD).await;
        Some((Ok(Frame::data(chunk)), Bytes::from_static(b"  ")))
    });
    StreamBody::new(frames).boxed()
}
