//! A body in pieces that are worth being searched.

use bytes::{Bytes, BytesMut};
use futures_util::Stream;
use futures_util::stream;
use http_body_util::BodyExt as _;
use hyper::body::Body;

use crate::net::body::{BodyError, BoxError};

/// How large a piece is at least, but for the last, bytes.
const LEAST: usize = 16 << 10;

/// The data of `body`, its small frames gathered: a reader that looks for an end in all it holds at
/// every piece would have to look a million times at a megabyte that comes byte by byte. Each frame
/// is shown to `comes` as it arrives.
///
/// # Errors
/// The body's, those of `comes`, and [`BodyError::Trailers`].
pub(crate) fn pieces<B>(
    body: B,
    comes: impl Fn(&Bytes) -> Result<(), BoxError> + Copy,
) -> impl Stream<Item = Result<Bytes, BoxError>>
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let body = Some(Box::pin(body));
    stream::try_unfold(body, move |body| async move {
        let Some(mut body) = body else {
            return Ok(None);
        };
        let mut gathered = BytesMut::new();
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(Into::into)?.into_data();
            let frame = frame.map_err(|_| BodyError::Trailers)?;
            comes(&frame)?;
            if gathered.is_empty() && frame.len() >= LEAST {
                return Ok(Some((frame, Some(body))));
            }
            gathered.extend_from_slice(&frame);
            if gathered.len() >= LEAST {
                return Ok(Some((gathered.freeze(), Some(body))));
            }
        }
        Ok(Some((gathered.freeze(), None)).filter(|(rest, _)| !rest.is_empty()))
    })
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{StreamExt as _, TryStreamExt as _};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    fn body(frames: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = std::io::Error> {
        let frames = frames
            .into_iter()
            .map(|frame| Ok(Frame::data(frame.into())));
        StreamBody::new(stream::iter(frames))
    }

    async fn sizes(frames: Vec<Vec<u8>>) -> Vec<usize> {
        let seen = Cell::new(0);
        let whole = frames.concat();
        let count = |frame: &Bytes| {
            seen.set(seen.get() + frame.len());
            Ok(())
        };
        let pieces: Vec<Bytes> = pieces(body(frames), count)
            .try_collect()
            .await
            .expect("readable");
        assert_eq!(pieces.concat(), whole);
        assert_eq!(seen.get(), whole.len());
        pieces.iter().map(Bytes::len).collect()
    }

    #[tokio::test]
    async fn small_frames_are_gathered_and_large_ones_go_on_as_they_are() {
        let bytes = (0..40_000_u32).map(|n| vec![n.to_le_bytes()[0]]);
        assert_eq!(
            sizes(bytes.collect()).await,
            [LEAST, LEAST, 40_000 - 2 * LEAST]
        );
        let large = vec![b'x'; 100_000];
        assert_eq!(sizes(vec![large.clone(), large]).await, [100_000, 100_000]);
        assert_eq!(sizes(vec![vec![1], vec![b'x'; LEAST]]).await, [LEAST + 1]);
        assert_eq!(sizes(Vec::new()).await, [0; 0]);
    }

    #[tokio::test]
    async fn what_refuses_a_frame_ends_it() {
        let refused = |frame: &Bytes| match frame.len() {
            1 => Ok(()),
            _ => Err(BoxError::from("too much")),
        };
        let mut pieces = Box::pin(pieces(body(vec![vec![1], vec![1, 2]]), refused));
        let error = pieces.next().await.expect("an end").expect_err("refused");
        assert_eq!(error.to_string(), "too much");
    }
}
