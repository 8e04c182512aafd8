//! A stream whose requests must arrive at a pace: hyper's own timer can't tell a head that
//! trickles in from a connection that is idle.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
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
    head: Option<Pin<Box<Sleep>>>,
}

/// Whether a request is being answered, so that what arrives is no head. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Answering(Arc<AtomicBool>);

impl Answering {
    /// A head is complete.
    pub(crate) fn begin(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// The answer is there: what arrives next is another head.
    pub(crate) fn end(&self) {
        self.0.store(false, Ordering::Release);
    }

    fn is_on(&self) -> bool {
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

    /// Ready once the head has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if self.answering.is_on() {
            self.head = None;
        }
        let Some(head) = &mut self.head else {
            return Poll::Pending;
        };
        ready!(head.as_mut().poll(cx));
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
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        let came = buffer.filled().len() > before;
        if came && this.head.is_none() && !this.answering.is_on() {
            this.head = Some(Box::pin(tokio::time::sleep(this.limit)));
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
}
