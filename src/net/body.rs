//! Reading bodies within a size and a time.

use std::time::Duration;

use bytes::Bytes;
use http_body_util::BodyExt;
use hyper::body::Body;

/// A boxed error, as bodies of other libraries give it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Why a body couldn't be read.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BodyError {
    /// The connection ended inside the body.
    #[error("the body broke off")]
    Broken(#[source] BoxError),
    /// It didn't arrive in time.
    #[error("the body didn't arrive within {} s", .0.as_secs())]
    Timeout(Duration),
    /// It is larger than allowed.
    #[error("the body is larger than {0} bytes")]
    TooLarge(usize),
}

/// Reads a whole body of at most `limit` bytes that arrives within `deadline`.
///
/// # Errors
/// [`BodyError`]; a declared length over the limit is refused before a byte is read.
pub async fn read<B>(body: B, limit: usize, deadline: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(BodyError::TooLarge(limit));
    }
    tokio::time::timeout(deadline, collect(body, limit))
        .await
        .map_err(|_| BodyError::Timeout(deadline))?
}

async fn collect<B>(body: B, limit: usize) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut body = std::pin::pin!(body);
    let (mut pieces, mut length) = (Vec::new(), 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| BodyError::Broken(e.into()))?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        length = length.saturating_add(piece.len());
        if length > limit {
            return Err(BodyError::TooLarge(limit));
        }
        pieces.push(piece);
    }
    // A body that came in one piece, as nearly all do, is never copied.
    match <[Bytes; 1]>::try_from(pieces) {
        Ok([whole]) => Ok(whole),
        Err(pieces) => Ok(pieces.concat().into()),
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::{Full, StreamBody};
    use hyper::body::Frame;

    use super::*;

    const SOON: Duration = Duration::from_secs(5);

    fn pieces(texts: &[&'static str]) -> impl Body<Data = Bytes, Error = std::io::Error> + Send {
        let frames: Vec<_> = texts
            .iter()
            .map(|t| Ok(Frame::data(Bytes::from_static(t.as_bytes()))))
            .collect();
        StreamBody::new(futures_util::stream::iter(frames))
    }

    #[tokio::test]
    async fn pieces_are_joined_in_order() {
        let read = read(pieces(&["a", "bc", "", "def"]), 6, SOON)
            .await
            .expect("within the limit");
        assert_eq!(read, "abcdef");
    }

    #[tokio::test]
    async fn one_byte_over_the_limit_is_refused() {
        let whole = read(Full::new(Bytes::from_static(b"1234567")), 6, SOON).await;
        assert!(matches!(whole, Err(BodyError::TooLarge(6))));
        let streamed = read(pieces(&["1234", "567"]), 6, SOON).await;
        assert!(matches!(streamed, Err(BodyError::TooLarge(6))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let stuck = StreamBody::new(futures_util::stream::pending::<
            Result<Frame<Bytes>, std::io::Error>,
        >());
        assert!(matches!(
            read(stuck, 6, SOON).await,
            Err(BodyError::Timeout(SOON))
        ));
    }
}
