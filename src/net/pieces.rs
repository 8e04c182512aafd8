//! A body in pieces that are worth being searched.

use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use bytes::{Bytes, BytesMut};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt as _};
use http_body_util::BodyExt as _;
use hyper::body::Body;
use tokio::sync::mpsc;

use crate::net::body::{BodyError, BoxError};

/// How large a piece is at least, but for the last, bytes.
const LEAST: usize = 16 << 10;

/// The pieces, as they come.
pub(crate) struct Pieces(mpsc::Receiver<Result<Bytes, BoxError>>);

impl Stream for Pieces {
    type Item = Result<Bytes, BoxError>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.0.poll_recv(cx)
    }
}

/// Has `read` read the data of `body`, its small frames gathered. A reader that searches all it
/// holds whenever it is polled would search a million times at a megabyte that comes byte by byte:
/// it is polled for what it waits for, and not for a frame. Each frame is shown to `comes` as it
/// arrives; what that refuses, what is wrong with the body, or [`BodyError::Trailers`] is the last
/// piece.
pub(crate) async fn in_pieces<B, F>(
    body: B,
    comes: impl Fn(&Bytes) -> Result<(), BoxError>,
    read: impl FnOnce(Pieces) -> F,
) -> F::Output
where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
    F: Future,
{
    let (pieces, arriving) = mpsc::channel(1);
    let mut gathering = pin!(gather(body, comes, pieces));
    let mut is_gathered = false;
    // It has a waker of its own in there, which no frame wakes.
    let mut reading = FuturesUnordered::new();
    reading.push(read(Pieces(arriving)));
    std::future::poll_fn(move |cx| {
        if !is_gathered {
            is_gathered = gathering.as_mut().poll(cx).is_ready();
        }
        match reading.poll_next_unpin(cx) {
            Poll::Ready(Some(read)) => Poll::Ready(read),
            Poll::Ready(None) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

async fn gather<B>(
    body: B,
    comes: impl Fn(&Bytes) -> Result<(), BoxError>,
    pieces: mpsc::Sender<Result<Bytes, BoxError>>,
) where
    B: Body<Data = Bytes>,
    B::Error: Into<BoxError>,
{
    let mut body = pin!(body);
    let mut gathered = BytesMut::new();
    loop {
        let frame = body.frame().await.map(|frame| {
            let data = frame.map_err(Into::into)?.into_data();
            let data = data.map_err(|_| BodyError::Trailers)?;
            comes(&data).map(|()| data)
        });
        let Some(data) = frame else {
            break;
        };
        let piece = match data {
            Ok(data) if gathered.is_empty() && data.len() >= LEAST => Ok(data),
            Ok(data) => {
                gathered.extend_from_slice(&data);
                if gathered.len() < LEAST {
                    continue;
                }
                Ok(gathered.split().freeze())
            }
            Err(error) => Err(error),
        };
        let is_last = piece.is_err();
        // A reader that has what it wants waits for no more.
        if pieces.send(piece).await.is_err() || is_last {
            return;
        }
    }
    if !gathered.is_empty() {
        let _ = pieces.send(Ok(gathered.freeze())).await;
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use futures_util::{TryStreamExt as _, stream};
    use http_body_util::StreamBody;
    use hyper::body::Frame;

    use super::*;

    /// A body whose frames come one a turn, as a connection gives them.
    fn body(frames: Vec<Vec<u8>>) -> impl Body<Data = Bytes, Error = std::io::Error> {
        let frames = stream::iter(frames).then(|frame| async {
            tokio::task::yield_now().await;
            Ok(Frame::data(frame.into()))
        });
        StreamBody::new(frames)
    }

    /// The sizes of the pieces, and how often their reader was polled.
    async fn read(frames: Vec<Vec<u8>>) -> (Vec<usize>, usize) {
        let (seen, polls) = (Cell::new(0), Cell::new(0));
        let whole = frames.concat();
        let count = |frame: &Bytes| {
            seen.set(seen.get() + frame.len());
            Ok(())
        };
        let collected = in_pieces(body(frames), count, |pieces| {
            let mut all = Box::pin(pieces.try_collect::<Vec<Bytes>>());
            std::future::poll_fn({
                let polls = &polls;
                move |cx| {
                    polls.set(polls.get() + 1);
                    all.as_mut().poll(cx)
                }
            })
        });
        let pieces = collected.await.expect("readable");
        assert_eq!(pieces.concat(), whole);
        assert_eq!(seen.get(), whole.len());
        (pieces.iter().map(Bytes::len).collect(), polls.get())
    }

    #[tokio::test]
    async fn small_frames_are_gathered_and_large_ones_go_on_as_they_are() {
        let bytes = (0..40_000_u32).map(|n| vec![n.to_le_bytes()[0]]);
        let (sizes, polls) = read(bytes.collect()).await;
        assert_eq!(sizes, [LEAST, LEAST, 40_000 - 2 * LEAST]);
        assert!(polls < 10, "{polls} looks at three pieces");
        let large = vec![b'x'; 100_000];
        let (sizes, _) = read(vec![large.clone(), large]).await;
        assert_eq!(sizes, [100_000, 100_000]);
        assert_eq!(read(vec![vec![1], vec![b'x'; LEAST]]).await.0, [LEAST + 1]);
        assert_eq!(read(Vec::new()).await.0, [0; 0]);
    }

    #[tokio::test]
    async fn what_refuses_a_frame_ends_it() {
        let refused = |frame: &Bytes| match frame.len() {
            1 => Ok(()),
            _ => Err(BoxError::from("too much")),
        };
        let frames = body(vec![vec![1], vec![1, 2], vec![1]]);
        let error = in_pieces(frames, refused, |mut pieces| async move {
            let error = pieces.next().await.expect("an end").expect_err("refused");
            assert!(pieces.next().await.is_none());
            error.to_string()
        });
        assert_eq!(error.await, "too much");
    }

    #[tokio::test]
    async fn a_reader_that_has_enough_waits_for_no_more() {
        let frames = body(vec![vec![b'x'; LEAST]; 100]);
        let first = in_pieces(
            frames,
            |_| Ok(()),
            |mut pieces| async move { pieces.next().await.expect("there").expect("readable").len() },
        );
        assert_eq!(first.await, LEAST);
    }
}
