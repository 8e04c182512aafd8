//! A request's body: whole when it is small, in parts and without its files when it is an upload.
use bytes::Bytes;
use http::{HeaderMap, header};
use http_body_util::{BodyExt as _, Limited};
use hyper::body::Incoming;

use super::multipart::{Multipart, Parts};

/// The largest body that is read whole.
const MOST_WHOLE: usize = 40 * 1024 * 1024;
/// The largest upload; its files are hashed and dropped while they come.
const MOST_UPLOAD: usize = 1024 * 1024 * 1024;

/// A body that has come.
#[derive(Debug)]
pub(super) enum Content {
    /// A multipart body that cannot be taken apart.
    Malformed,
    Parts(Parts),
    Whole(Bytes),
}

impl Content {
    /// Reads a body; none when it is too large or breaks off.
    pub(super) async fn read(headers: &HeaderMap, body: Incoming) -> Option<Self> {
        match Multipart::new(content_type(headers)) {
            _ if !is_multipart(headers) => whole(body).await.map(Self::Whole),
            None => Some(Self::Malformed),
            Some(multipart) => upload(multipart, body).await,
        }
    }
}

/// Reads a body whole; none when it is too large or breaks off.
pub(super) async fn whole(body: Incoming) -> Option<Bytes> {
    let body = Limited::new(body, MOST_WHOLE).collect().await.ok()?;
    Some(body.to_bytes())
}

async fn upload(mut multipart: Multipart, body: Incoming) -> Option<Content> {
    let mut body = Limited::new(body, MOST_UPLOAD);
    while let Some(frame) = body.frame().await {
        if let Ok(data) = frame.ok()?.into_data() {
            multipart.push(&data);
        }
    }
    Some(
        multipart
            .finish()
            .map_or(Content::Malformed, Content::Parts),
    )
}

/// Gives the `Content-Type`, empty when there is none.
pub(super) fn content_type(headers: &HeaderMap) -> &str {
    headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// Gives the media type of the `Content-Type` in lower case.
pub(super) fn media_type(headers: &HeaderMap) -> String {
    let content_type = content_type(headers);
    let media_type = content_type.split(';').next().unwrap_or_default();
    media_type.trim().to_ascii_lowercase()
}

fn is_multipart(headers: &HeaderMap) -> bool {
    media_type(headers) == "multipart/form-data"
}
