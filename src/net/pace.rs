//! A stream whose requests must arrive at a pace: hyper's own timer can't tell a head that
//! trickles in from a connection that is idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// Ends a connection whose head takes longer than allowed, counted from its first byte.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    limit: Duration,
    answering: Answering,
    head: Option<Head>,
}

/// A head that has begun to arrive.
#[derive(Debug)]
struct Head {
    /// How many requests had begun and ended before it.
    turn: u64,
    late: Pin<Box<Sleep>>,
}

/// Whether a request is being answered, so that what arrives is no head: counts each beginning
/// and each end, so that it is odd while one is being answered. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answering(Arc<AtomicU64>);

impl Answering {
    /// A head is complete.
    pub(crate) fn begin(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    /// The answer is there: what arrives next is another head.
    pub(crate) fn end(&self) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }

    fn turn(&self) -> u64 {
        self.0.load(Ordering::Acquire)
    }
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, limit: Duration, answering: Answering) -> Self {
        Self {
            stream,
            limit,
            answering,
            head: None,
        }
    }

    /// Begins to count for what has just arrived, if that begins a head.
    fn arrived(&mut self) {
        let turn = self.answering.turn();
        if self.head.is_none() && turn.is_multiple_of(2) {
            let late = Box::pin(tokio::time::sleep(self.limit));
            self.head = Some(Head { turn, late });
        }
    }

    /// Ready once the head has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let Some(head) = &mut self.head else {
            return Poll::Pending;
        };
        ready!(head.late.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the head of a request took too long",
        ))
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // The head that was counted is complete once its request was begun, even if nothing was
        // read while it was answered.
        let turn = this.answering.turn();
        this.head.take_if(|head| head.turn != turn);
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.arrived();
        }
        match this.poll_late(cx) {
            Poll::Ready(late) => Poll::Ready(Err(late)),
            Poll::Pending => read,
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write(cx, bytes)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().stream).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_ends_the_connection() {
        let (mut client, server) = duplex(64);
        let mut paced = Paced::new(server, LIMIT, Answering::default());
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        let late = paced.read_u8().await.expect_err("no more comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_and_a_long_answer_are_left_alone() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let mut paced = Paced::new(server, LIMIT, answering.clone());
        let idle = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(idle.is_err(), "an idle connection is left alone");
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        answering.begin();
        let busy = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(
            busy.is_err(),
            "a request that is being answered has no head to wait for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_one_piece_leaves_no_timer_behind() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let mut paced = Paced::new(server, LIMIT, answering.clone());
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        // Answered without a read in between, as hyper does.
        answering.begin();
        answering.end();
        let idle = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(idle.is_err(), "an idle connection is left alone");
        client.write_all(b"P").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'P');
        let late = paced.read_u8().await.expect_err("the second head trickles");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }
}
