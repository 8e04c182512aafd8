//! A stream whose requests must arrive, and whose answers must be taken, at a pace: hyper's own
//! timer can't tell a head that trickles in from a connection that is idle, and there is none for
//! a reader that doesn't read.
//!
//! Where a request was refused before all of its body had come, what still comes is thrown away for
//! some seconds before the connection is closed: a system that closes it at once breaks the sending,
//! and many a client then never reads why.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Instant, Sleep};

use crate::net::answering::Answering;
use crate::net::hang_up::Socket;
use crate::net::heads::Heads;
use crate::net::shutdown::{Ending, Stage};
use crate::net::terms::Terms;

/// How long, once the end has begun, nothing of a request may come that is half there. Listeners end
/// one after another, and all that before a supervisor loses patience.
pub(crate) const HURRY: Duration = Duration::from_secs(2);
/// How long after its answer the rest of a refused request may still come.
const LINGER: Duration = Duration::from_secs(5);

/// Ends a connection whose head takes longer than allowed, counted from its first byte, or whose
/// peer takes nothing of an answer for longer than allowed.
#[derive(Debug)]
pub(crate) struct Paced<S> {
    stream: S,
    terms: Terms,
    answering: Answering,
    heads: Heads,
    ending: Ending,
    /// Until when the first byte has to come.
    silent: Option<Pin<Box<Sleep>>>,
    head: Option<Head>,
    stall: Option<Stall>,
    /// Until when, once the end has begun, more of a request has to come.
    hurry: Option<Pin<Box<Sleep>>>,
    /// When something was last written.
    written: Option<Instant>,
    /// Until when what still comes is thrown away; nothing is written any more.
    linger: Option<Pin<Box<Sleep>>>,
}

/// A write that waits for the peer.
#[derive(Debug)]
struct Stall {
    since: Instant,
    late: Pin<Box<Sleep>>,
}

/// A head that has begun to arrive.
#[derive(Debug)]
struct Head {
    /// How many requests had begun and ended before it.
    turn: u64,
    late: Pin<Box<Sleep>>,
}

impl<S> Paced<S> {
    pub(crate) fn new(stream: S, terms: Terms, answering: Answering, ending: Ending) -> Self {
        let silent = terms
            .first_byte
            .map(|within| Box::pin(tokio::time::sleep(within)));
        Self {
            stream,
            terms,
            heads: Heads::new(answering.clone()),
            answering,
            ending,
            silent,
            head: None,
            stall: None,
            hurry: None,
            written: None,
            linger: None,
        }
    }

    /// Begins to count for what has just arrived, if that begins a head.
    fn arrived(&mut self) {
        self.silent = None;
        let turn = self.answering.turn();
        if turn.is_multiple_of(2) && self.head.is_none() {
            let late = Box::pin(tokio::time::sleep(self.terms.head));
            self.head = Some(Head { turn, late });
        }
    }

    /// Ready once the first byte, or the head, has taken too long.
    fn poll_late(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        if let Some(silent) = &mut self.silent {
            ready!(silent.as_mut().poll(cx));
            return Poll::Ready(io::Error::new(io::ErrorKind::TimedOut, "nothing was asked"));
        }
        let Some(head) = &mut self.head else {
            return Poll::Pending;
        };
        ready!(head.late.as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the head of a request took too long",
        ))
    }

    /// Ready once the end has begun and nothing more has come of a request for too long: who has
    /// sent half of one holds up everybody else then.
    fn poll_hurry(&mut self, cx: &mut Context<'_>) -> Poll<io::Error> {
        let is_half = match self.answering.turn().is_multiple_of(2) {
            true => self.head.is_some(),
            false => self.answering.is_unread(),
        };
        if !is_half || self.ending.stage() < Stage::Leaving {
            self.hurry = None;
            return Poll::Pending;
        }
        let late = || Box::pin(tokio::time::sleep(HURRY));
        ready!(self.hurry.get_or_insert_with(late).as_mut().poll(cx));
        Poll::Ready(io::Error::new(
            io::ErrorKind::TimedOut,
            "the rest of a request didn't come before the end",
        ))
    }

    fn note(&mut self, written: &Poll<io::Result<usize>>) {
        if written.is_ready() && (self.answering.is_unread() || self.answering.is_cut_off()) {
            self.written = Some(Instant::now());
        }
    }

    /// Gives `written` on, or an error once the peer has taken nothing for too long.
    fn watched<T>(
        &mut self,
        cx: &mut Context<'_>,
        written: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if written.is_ready() {
            self.stall = None;
            return written;
        }
        let limit = match self.ending.stage() {
            Stage::Open => self.terms.stall,
            _ => self.terms.stall_at_the_end,
        };
        let stall = self.stall.get_or_insert_with(|| Stall {
            since: Instant::now(),
            late: Box::pin(tokio::time::sleep(limit)),
        });
        let until = stall.since + limit;
        if stall.late.deadline() != until {
            stall.late.as_mut().reset(until);
        }
        ready!(stall.late.as_mut().poll(cx));
        Poll::Ready(Err(io::Error::new(
            io::ErrorKind::TimedOut,
            "the peer doesn't read its answer",
        )))
    }
}

impl<S: AsyncRead + Unpin> Paced<S> {
    /// Throws away what comes, until nothing more can come or it has taken long enough.
    fn poll_linger(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        // Of what was answered long ago nothing comes any more.
        let until = self.written.unwrap_or_else(Instant::now) + LINGER;
        let late = || Box::pin(tokio::time::sleep_until(until));
        let late = self.linger.get_or_insert_with(late);
        let mut room = [const { std::mem::MaybeUninit::uninit() }; 8 << 10];
        while late.as_mut().poll(cx).is_pending() {
            let mut thrown = ReadBuf::uninit(&mut room);
            match ready!(Pin::new(&mut self.stream).poll_read(cx, &mut thrown)) {
                Ok(()) if !thrown.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Paced<S> {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.answering.is_cut_off() {
            this.heads.give_end(buffer);
            return Poll::Ready(Ok(()));
        }
        // The head that was counted is complete once its request was begun, even if nothing was
        // read while it was answered.
        let turn = this.answering.turn();
        this.head.take_if(|head| head.turn != turn);
        let before = buffer.filled().len();
        let read = Pin::new(&mut this.stream).poll_read(cx, buffer);
        if buffer.filled().len() > before {
            this.hurry = None;
            this.arrived();
            this.heads.arrived(buffer, before);
        }
        if let Poll::Ready(late) = this.poll_late(cx) {
            return Poll::Ready(Err(late));
        }
        if read.is_pending()
            && let Poll::Ready(late) = this.poll_hurry(cx)
        {
            return Poll::Ready(Err(late));
        }
        read
    }
}

impl<S: AsyncRead + AsyncWrite + Socket + Unpin> AsyncWrite for Paced<S> {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write(cx, bytes);
        this.note(&written);
        this.watched(cx, written)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        // hyper does this each time that it is polled, also while somebody answers.
        this.answering.asked().hand_out(&this.stream);
        let flushed = Pin::new(&mut this.stream).poll_flush(cx);
        this.watched(cx, flushed)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.linger.is_none() {
            let shut = Pin::new(&mut this.stream).poll_shutdown(cx);
            ready!(this.watched(cx, shut))?;
            if !this.answering.is_unread() && !this.answering.is_cut_off() {
                return Poll::Ready(Ok(()));
            }
        }
        this.poll_linger(cx).map(Ok)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        let written = Pin::new(&mut this.stream).poll_write_vectored(cx, slices);
        this.note(&written);
        this.watched(cx, written)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};

    use super::*;

    use crate::net::shutdown::EndingHand;

    const LIMIT: Duration = Duration::from_secs(30);

    impl Socket for tokio::io::DuplexStream {
        fn once_more(&self) -> io::Result<std::os::fd::OwnedFd> {
            Err(io::ErrorKind::Unsupported.into())
        }
    }

    fn paced(
        server: tokio::io::DuplexStream,
        answering: &Answering,
    ) -> (EndingHand, Paced<tokio::io::DuplexStream>) {
        let (hand, ending) = Ending::new();
        let terms = Terms {
            head: LIMIT,
            stall: LIMIT,
            stall_at_the_end: LIMIT / 6,
            ..Terms::default()
        };
        let paced = Paced::new(server, terms, answering.clone(), ending);
        (hand, paced)
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_half_a_request_has_to_go_on() {
        let answering = Answering::default();
        let (mut client, server) = duplex(64);
        let (hand, mut paced) = paced(server, &answering);
        client.write_all(b"GE").await.expect("room");
        assert_eq!(paced.read_u16().await.expect("a head"), 0x4745);
        hand.reach(Stage::Leaving);
        // What comes begins the wait anew.
        for _ in 0..3 {
            let more = async {
                tokio::time::sleep(HURRY - Duration::from_millis(1)).await;
                client.write_all(b"T").await.expect("room");
            };
            let (read, ()) = tokio::join!(paced.read_u8(), more);
            assert_eq!(read.expect("a byte"), b'T');
        }
        // Who has asked for all, or for nothing, is left alone.
        answering.begin(Some(0));
        let asked = tokio::time::timeout(HURRY * 2, paced.read_u8()).await;
        asked.expect_err("it is being answered");
        answering.end();
        let idle = tokio::time::timeout(HURRY * 2, paced.read_u8()).await;
        idle.expect_err("it is idle");
        // Of this one a body is to come.
        answering.begin(None);
        let began = Instant::now();
        let late = paced.read_u8().await.expect_err("nothing comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), HURRY);
    }

    #[tokio::test(start_paused = true)]
    async fn a_head_that_trickles_ends_the_connection() {
        let (mut client, server) = duplex(64);
        let (_hand, mut paced) = paced(server, &Answering::default());
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        let late = paced.read_u8().await.expect_err("no more comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_connection_and_a_long_answer_are_left_alone() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let (_hand, mut paced) = paced(server, &answering);
        let idle = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(idle.is_err(), "an idle connection is left alone");
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        answering.begin(Some(0));
        let busy = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(
            busy.is_err(),
            "a request that is being answered has no head to wait for"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn who_asks_nothing_is_let_go_and_who_has_asked_may_be_idle() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let (_hand, ending) = Ending::new();
        let terms = Terms {
            first_byte: Some(LIMIT),
            head: LIMIT,
            stall: LIMIT,
            stall_at_the_end: LIMIT,
            ..Terms::default()
        };
        let (_silent, other) = duplex(64);
        let mut silent = Paced::new(other, terms, answering.clone(), ending.clone());
        let late = silent.read_u8().await.expect_err("nothing comes");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        let mut paced = Paced::new(server, terms, answering.clone(), ending);
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        answering.begin(Some(0));
        answering.end();
        let idle = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(idle.is_err(), "an idle connection is left alone");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_in_one_piece_leaves_no_timer_behind() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let (_hand, mut paced) = paced(server, &answering);
        client.write_all(b"G").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'G');
        // Answered without a read in between, as hyper does.
        answering.begin(Some(0));
        answering.end();
        let idle = tokio::time::timeout(LIMIT * 9, paced.read_u8()).await;
        assert!(idle.is_err(), "an idle connection is left alone");
        client.write_all(b"P").await.expect("room");
        assert_eq!(paced.read_u8().await.expect("a byte"), b'P');
        let late = paced.read_u8().await.expect_err("the second head trickles");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_takes_nothing_ends_the_connection_and_a_slow_one_does_not() {
        let (mut client, server) = duplex(4);
        let (_hand, mut paced) = paced(server, &Answering::default());
        let began = Instant::now();
        let slow = async {
            for _ in 0..4 {
                tokio::time::sleep(LIMIT - Duration::from_secs(1)).await;
                client.read_u8().await.expect("a byte");
            }
        };
        let (written, ()) = tokio::join!(paced.write_all(b"12345678"), slow);
        written.expect("a slow reader is waited for");
        let late = paced.write_all(b"9").await.expect_err("nobody reads");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(
            began.elapsed(),
            4 * (LIMIT - Duration::from_secs(1)) + LIMIT
        );
    }

    #[tokio::test(start_paused = true)]
    async fn the_rest_of_a_refused_request_is_thrown_away_for_some_seconds() {
        let (mut client, server) = duplex(64);
        let answering = Answering::default();
        let (_hand, mut paced) = paced(server, &answering);
        answering.begin(None);
        answering.end();
        let began = Instant::now();
        let sent = async {
            client.write_all(&[b'x'; 99_999]).await.expect("taken");
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.expect("the end");
            drop(client);
        };
        let both = async { tokio::join!(paced.shutdown(), sent) };
        let (shut, ()) = tokio::time::timeout(LINGER * 2, both)
            .await
            .expect("an end");
        shut.expect("shut");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn what_still_comes_is_not_waited_for_without_end_nor_without_reason() {
        for (is_unread, waited) in [(true, LINGER), (false, Duration::ZERO)] {
            let (_client, server) = duplex(64);
            let answering = Answering::default();
            let (_hand, mut paced) = paced(server, &answering);
            answering.begin((!is_unread).then_some(0));
            answering.end();
            let began = Instant::now();
            paced.shutdown().await.expect("shut");
            assert_eq!(began.elapsed(), waited);
        }
        // Nor for the rest of what was answered long ago.
        let (_client, server) = duplex(64);
        let answering = Answering::default();
        let (_hand, mut paced) = paced(server, &answering);
        answering.begin(None);
        paced.write_all(b"answer").await.expect("written");
        answering.end();
        tokio::time::advance(LINGER).await;
        let began = Instant::now();
        paced.shutdown().await.expect("shut");
        assert_eq!(began.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn at_the_end_a_reader_has_less_time() {
        let (_client, server) = duplex(4);
        let (hand, mut paced) = paced(server, &Answering::default());
        let began = Instant::now();
        let write = tokio::time::timeout(LIMIT / 3, paced.write_all(b"12345678"));
        assert!(write.await.is_err(), "there is still time");
        hand.reach(Stage::Leaving);
        let late = paced.write_all(b"5678").await.expect_err("nobody reads");
        assert_eq!(late.kind(), io::ErrorKind::TimedOut);
        assert_eq!(began.elapsed(), LIMIT / 3);
    }
}
