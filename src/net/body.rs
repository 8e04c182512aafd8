//! Reading bodies within a size and a time.

use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Limited};
use hyper::body::{Body, Frame, Incoming, SizeHint};

use crate::net::answering::Answering;
use crate::net::room::{Held, NoRoom, Room};

/// A boxed error, as bodies of other libraries give it.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// How long a body may take to arrive where nobody says otherwise: contract §11.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long the body of a request may take to arrive, as its listener says: an extension of it.
#[derive(Debug, Clone, Copy)]
pub struct Within(pub Duration);

impl Within {
    /// What the listener of a request said, or 30 s where a host's own server took it.
    #[must_use]
    pub fn of(extensions: &http::Extensions) -> Duration {
        extensions.get().map_or(DEADLINE, |Self(within)| *within)
    }
}

/// The body of a request that our own listener took. Whether it was read to its end decides how the
/// connection is closed.
#[derive(Debug)]
pub struct RequestBody {
    /// There until it is dropped, or breaks off.
    body: Option<Incoming>,
    answering: Answering,
    turn: u64,
}

impl RequestBody {
    pub(crate) fn new(body: Incoming, answering: Answering, turn: u64) -> Self {
        Self {
            body: Some(body),
            answering,
            turn,
        }
    }
}

impl Drop for RequestBody {
    fn drop(&mut self) {
        if self.answering.turn() == self.turn
            && self.answering.is_unread()
            && let Some(body) = self.body.take()
        {
            self.answering.leave(self.turn, body);
        }
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let Some(body) = &mut self.body else {
            return Poll::Ready(None);
        };
        let frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        if frame.is_none() || body.is_end_stream() {
            self.answering.read(self.turn);
        }
        if matches!(frame, Some(Err(_))) {
            // What comes then is no rest of it.
            self.body = None;
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(Body::size_hint);
        hint.unwrap_or_default()
    }
}

/// How much of a body that nobody reads is read all the same, bytes, and how long it may take to come:
/// it is on its way as a rule, and then the connection can go on.
const SMALL_REST: (u64, Duration) = (64 << 10, Duration::from_millis(250));

/// Whether something stays unread of a request that nobody reads any more. Where it `may_go_on`, and that is
/// little, it is read first.
pub(crate) async fn stays_unread(answering: &Answering, may_go_on: bool) -> bool {
    let (most, within) = SMALL_REST;
    // Taken in any case: hyper goes on once it is dropped.
    let Some(rest) = answering.take_rest() else {
        return answering.is_unread();
    };
    if !may_go_on || rest.size_hint().lower() > most {
        return true;
    }
    let most = usize::try_from(most).unwrap_or(usize::MAX);
    let mut rest = std::pin::pin!(Limited::new(rest, most));
    let reading = async {
        loop {
            match rest.frame().await {
                None => return true,
                Some(Ok(_)) => {}
                Some(Err(_)) => return false,
            }
        }
    };
    let is_read = tokio::time::timeout(within, reading).await.unwrap_or(false);
    if is_read {
        answering.read(answering.turn());
    }
    !is_read
}

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
    /// Fields follow it, which nobody reads: they could only be mistaken for headers.
    #[error("the body has trailer fields; send what they say as headers, or leave them out")]
    Trailers,
}

/// What becomes of fields that follow a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Trailers {
    Ignored,
    Refused,
}

/// Why a body couldn't be read into a [`Room`].
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RoomError {
    /// It couldn't be read at all.
    #[error(transparent)]
    Body(#[from] BodyError),
    /// Others take all of it, or those of the same network their share.
    #[error(transparent)]
    Full(#[from] NoRoom),
}

/// Reads the body of a request as [`read`] does, but within `room`: each byte takes its place as it
/// arrives, and gives it back with what is held. Trailers are refused.
///
/// # Errors
/// [`RoomError`].
pub async fn read_into<B>(
    body: B,
    limit: usize,
    deadline: Duration,
    room: &Room,
) -> Result<(Bytes, Held), RoomError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    let mut held = Held::default();
    let take = |bytes| room.take(bytes, &mut held).map_err(RoomError::from);
    let body = read_taking(body, (limit, Trailers::Refused), deadline, take).await?;
    Ok((body, held))
}

/// Reads a whole body of at most `limit` bytes that arrives within `deadline`; trailers mean
/// nothing.
///
/// # Errors
/// [`BodyError`]; a declared length over the limit is refused before a byte is read.
pub async fn read<B>(body: B, limit: usize, deadline: Duration) -> Result<Bytes, BodyError>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
{
    read_taking(body, (limit, Trailers::Ignored), deadline, |_| Ok(())).await
}

/// The same; `take` is asked for each piece.
async fn read_taking<B, E>(
    body: B,
    (limit, trailers): (usize, Trailers),
    deadline: Duration,
    take: impl FnMut(usize) -> Result<(), E> + Send,
) -> Result<Bytes, E>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
    E: From<BodyError>,
{
    let declared = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if declared > limit {
        return Err(BodyError::TooLarge(limit).into());
    }
    tokio::time::timeout(deadline, collect(body, (limit, trailers), take))
        .await
        .map_err(|_| BodyError::Timeout(deadline))?
}

async fn collect<B, E>(
    body: B,
    (limit, trailers): (usize, Trailers),
    mut take: impl FnMut(usize) -> Result<(), E> + Send,
) -> Result<Bytes, E>
where
    B: Body<Data = Bytes> + Send,
    B::Error: Into<BoxError>,
    E: From<BodyError>,
{
    let mut body = std::pin::pin!(body);
    let (mut gathered, mut length) = (Gathered::Nothing, 0_usize);
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|e| BodyError::Broken(e.into()))?;
        let Ok(piece) = frame.into_data() else {
            match trailers {
                Trailers::Ignored => continue,
                Trailers::Refused => return Err(BodyError::Trailers.into()),
            }
        };
        length = length.saturating_add(piece.len());
        if length > limit {
            return Err(BodyError::TooLarge(limit).into());
        }
        take(piece.len())?;
        gathered.add(piece, body.is_end_stream());
    }
    Ok(gathered.whole())
}

/// What has come of a body. A piece holds the whole buffer that it was read into, however short it is:
/// pieces that were kept would cost whoever sends them byte by byte next to nothing, and us thousands
/// of times what is counted.
#[derive(Debug)]
enum Gathered {
    Nothing,
    /// A body that came in one piece, as nearly all do, isn't copied.
    One(Bytes),
    Copied(Vec<u8>),
}

/// A beginning that is shorter isn't worth the buffer that it holds.
const WORTH_HOLDING: usize = 4096;

impl Gathered {
    fn add(&mut self, piece: Bytes, is_last: bool) {
        match self {
            Self::Nothing if !is_last && piece.len() < WORTH_HOLDING => {
                *self = Self::Copied(piece.to_vec())
            }
            Self::Nothing => *self = Self::One(piece),
            Self::One(first) => *self = Self::Copied([&first[..], &piece].concat()),
            Self::Copied(copied) => copied.extend_from_slice(&piece),
        }
    }

    fn whole(self) -> Bytes {
        match self {
            Self::Nothing => Bytes::new(),
            Self::One(whole) => whole,
            Self::Copied(copied) => copied.into(),
        }
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

    /// A byte of a buffer that counts as long as it is held.
    struct Buffer {
        byte: [u8; 1],
        _held: std::sync::Weak<()>,
    }

    impl AsRef<[u8]> for Buffer {
        fn as_ref(&self) -> &[u8] {
            &self.byte
        }
    }

    #[tokio::test]
    async fn no_buffer_is_held_for_the_few_bytes_that_came_in_it() {
        let held = std::sync::Arc::new(());
        let frames = (0..1000).map(|n: u32| {
            let left = std::sync::Arc::weak_count(&held);
            assert_eq!(left, 0, "piece {n}");
            let buffer = Buffer {
                byte: *b"x",
                _held: std::sync::Arc::downgrade(&held),
            };
            Ok::<_, std::io::Error>(Frame::data(Bytes::from_owner(buffer)))
        });
        let body = StreamBody::new(futures_util::stream::iter(frames));
        let read = read(body, 1000, SOON).await.expect("within the limit");
        assert_eq!(read, "x".repeat(1000));
    }

    #[tokio::test]
    async fn one_byte_over_the_limit_is_refused() {
        let whole = read(Full::new(Bytes::from_static(b"1234567")), 6, SOON).await;
        assert!(matches!(whole, Err(BodyError::TooLarge(6))));
        let streamed = read(pieces(&["1234", "567"]), 6, SOON).await;
        assert!(matches!(streamed, Err(BodyError::TooLarge(6))));
    }

    #[tokio::test]
    async fn trailers_of_a_request_are_refused_and_those_of_a_reply_mean_nothing() {
        let trailed = || {
            let fields = http::HeaderMap::from_iter([(
                http::header::HOST,
                http::HeaderValue::from_static("x"),
            )]);
            let frames = [
                Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(b"ab"))),
                Ok(Frame::trailers(fields)),
            ];
            StreamBody::new(futures_util::stream::iter(frames))
        };
        assert_eq!(read(trailed(), 6, SOON).await.expect("read"), "ab");
        let refused = read_into(trailed(), 6, SOON, &Room::new(8)).await;
        assert!(matches!(refused, Err(RoomError::Body(BodyError::Trailers))));
    }

    #[tokio::test]
    async fn bodies_share_their_room_as_long_as_they_are_held() {
        let room = Room::new(8);
        let read = async |texts: &[&'static str]| read_into(pieces(texts), 6, SOON, &room).await;
        let (first, held) = read(&["ab", "cde"]).await.expect("room");
        assert_eq!(first, "abcde");
        assert!(matches!(read(&["1234"]).await, Err(RoomError::Full(_))));
        read(&["123"]).await.expect("as much as is left");
        drop(held);
        read(&["123", "456"]).await.expect("given back");
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
