//! Whether whoever asked has hung up, for an answer that waits.
//!
//! hyper reads nothing while a request is answered, and so sees neither an end nor a reset of what it
//! reads from. Who waits gets the socket itself to watch; nobody else pays for that.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::sync::oneshot;

use crate::net::answering::Answering;

/// What a connection's socket can be had of once more.
pub(crate) trait Socket {
    /// The same socket under another number.
    fn once_more(&self) -> io::Result<OwnedFd>;
}

/// Whether somebody asked for the socket of a connection, and who.
#[derive(Debug, Default)]
pub(crate) struct Asked {
    is_asked: AtomicBool,
    by: Mutex<Option<oneshot::Sender<OwnedFd>>>,
}

impl Asked {
    fn ask(&self, by: oneshot::Sender<OwnedFd>) {
        *self.by.lock().unwrap_or_else(PoisonError::into_inner) = Some(by);
        self.is_asked.store(true, Ordering::Release);
    }

    /// Hands `socket` out where somebody asked for it: each time that its connection is polled, so that
    /// it must cost nothing.
    pub(crate) fn hand_out(&self, socket: &impl Socket) {
        if !self.is_asked.load(Ordering::Relaxed) || !self.is_asked.swap(false, Ordering::AcqRel) {
            return;
        }
        let by = self
            .by
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(by) = by
            && !by.is_closed()
            && let Ok(socket) = socket.once_more()
        {
            // Whoever asked may be gone by now.
            drop(by.send(socket));
        }
    }
}

/// The connection of a request: an extension of it.
#[derive(Debug, Clone)]
pub(crate) struct Line(pub(crate) Answering);

/// Watches whether whoever asked has hung up.
#[derive(Debug, Default)]
pub(crate) struct Watch {
    asked: Option<oneshot::Receiver<OwnedFd>>,
    /// Only watched: that it may be a unix socket makes no difference.
    socket: Option<TcpStream>,
}

impl Watch {
    /// Watches the connection of a request with these extensions. Where a host's own server took it,
    /// nothing is ever seen.
    pub(crate) fn of(extensions: &http::Extensions) -> Self {
        let Some(Line(answering)) = extensions.get() else {
            return Self::default();
        };
        let (by, asked) = oneshot::channel();
        answering.asked().ask(by);
        Self {
            asked: Some(asked),
            socket: None,
        }
    }

    /// Whether the peer has hung up, as the system knows it now; no before [`over`](Self::over) was
    /// polled.
    pub(crate) fn is_over(&self) -> bool {
        self.socket.as_ref().is_some_and(is_over)
    }

    /// Waits until the peer hangs up; for ever where that can't be seen.
    ///
    /// # Cancel safety
    /// Safe.
    pub(crate) async fn over(&mut self) {
        if self.seen_over().await.is_none() {
            std::future::pending().await
        }
    }

    async fn seen_over(&mut self) -> Option<()> {
        if let Some(asked) = &mut self.asked {
            let socket = asked.await.ok();
            self.asked = None;
            self.socket = TcpStream::from_std(socket?.into()).ok();
        }
        let socket = self.socket.as_ref()?;
        while !is_over(socket) {
            if socket
                .ready(Interest::READABLE)
                .await
                .ok()?
                .is_read_closed()
            {
                break;
            }
            // The next request is there already; it is left, and what comes behind it is told anew.
            let seen = || Err::<(), _>(io::ErrorKind::WouldBlock.into());
            let _ = socket.try_io(Interest::READABLE, seen);
        }
        Some(())
    }
}

/// Whether the other side has ended what it sends, or the whole connection.
fn is_over(socket: &impl AsFd) -> bool {
    #[cfg(target_os = "linux")]
    let end = PollFlags::RDHUP;
    #[cfg(not(target_os = "linux"))]
    let end = PollFlags::empty();
    let mut asked = [PollFd::new(socket, end)];
    let now = Timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // What isn't asked for is told, too: a reset.
    matches!(poll(&mut asked, Some(&now)), Ok(1))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::io::AsyncWriteExt;
    use tokio::net::TcpListener;

    use super::*;
    use crate::net::listener::Stream;

    async fn pair() -> (TcpStream, Stream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let client = TcpStream::connect(address).await.expect("a connection");
        let (server, _) = listener.accept().await.expect("accepted");
        (client, Stream::Tcp(server))
    }

    #[tokio::test]
    async fn an_end_and_a_reset_are_seen_behind_what_was_sent_ahead() {
        for is_reset in [false, true] {
            let answering = Answering::default();
            let mut extensions = http::Extensions::new();
            extensions.insert(Line(answering.clone()));
            let mut watch = Watch::of(&extensions);
            let (mut client, server) = pair().await;
            answering.asked().hand_out(&server);
            client.write_all(b"GET /").await.expect("room");
            let early = tokio::time::timeout(Duration::from_millis(50), watch.over()).await;
            assert!(early.is_err() && !watch.is_over(), "it is still there");
            if is_reset {
                client.set_zero_linger().expect("a socket");
            }
            drop(client);
            assert!(watch.is_over());
            let over = tokio::time::timeout(Duration::from_secs(5), watch.over()).await;
            over.expect("seen");
        }
    }

    #[tokio::test]
    async fn of_what_is_not_ours_no_end_is_seen() {
        let mut watch = Watch::of(&http::Extensions::new());
        let over = tokio::time::timeout(Duration::from_millis(10), watch.over()).await;
        assert!(over.is_err() && !watch.is_over());
    }
}
