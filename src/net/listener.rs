//! Listening sockets: TCP or unix, with TLS or without.

use std::io;
use std::net::SocketAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use crate::config::listen::Listen;
use crate::net::hang_up;
use crate::net::terms::Terms;

/// A bound listener.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    /// Somebody else holds the socket, too, and keeps it when we end.
    shared: bool,
    terms: Terms,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    Unix {
        listener: UnixListener,
        path: PathBuf,
    },
}

/// Who is at the other end of a connection. Our listeners put it into the extensions of each request; a
/// host with a server of its own does, too, if callers are to be known by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Peer {
    /// A TCP address.
    Tcp(SocketAddr),
    /// A process on this host, with its uid where the system tells it.
    Unix {
        /// The effective uid of the peer.
        uid: Option<u32>,
    },
}

impl Listener {
    /// Binds to `listen`. A unix socket gets mode 0660, and a file of an earlier process that
    /// nobody answers on is replaced.
    ///
    /// # Errors
    /// The system's, with the address in its text.
    pub async fn bind(listen: &Listen) -> io::Result<Self> {
        let named =
            |e: io::Error| io::Error::new(e.kind(), format!("can't listen on {listen}: {e}"));
        let socket = match listen {
            Listen::Tcp(address) => Socket::Tcp(TcpListener::bind(address).await.map_err(named)?),
            Listen::Unix(path) => Socket::Unix {
                listener: bind_unix(path).await.map_err(named)?,
                path: path.clone(),
            },
        };
        Ok(Self {
            socket,
            shared: false,
            terms: Terms::default(),
        })
    }

    /// A listener over a socket that was bound elsewhere.
    #[must_use]
    pub fn from_tcp(listener: TcpListener) -> Self {
        Self {
            socket: Socket::Tcp(listener),
            shared: false,
            terms: Terms::default(),
        }
    }

    /// A listener over a TCP socket that a supervisor holds: it goes on listening when we end.
    ///
    /// # Errors
    /// The system's, when the socket can't be watched.
    pub fn shared_tcp(listener: std::net::TcpListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self {
            socket: Socket::Tcp(TcpListener::from_std(listener)?),
            shared: true,
            terms: Terms::default(),
        })
    }

    /// The same over a unix socket. Its file is the supervisor's: it is left alone.
    ///
    /// # Errors
    /// The system's, when the socket can't be watched.
    pub fn shared_unix(listener: std::os::unix::net::UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let path = address.as_pathname().map(Path::to_owned);
        Ok(Self {
            socket: Socket::Unix {
                listener: UnixListener::from_std(listener)?,
                path: path.unwrap_or_default(),
            },
            shared: true,
            terms: Terms::default(),
        })
    }

    /// The same on other terms.
    #[must_use]
    pub fn on(mut self, terms: Terms) -> Self {
        self.terms = terms;
        self
    }

    /// On which terms it serves.
    #[must_use]
    pub fn terms(&self) -> Terms {
        self.terms
    }

    /// Whether somebody else holds the socket, too.
    #[must_use]
    pub fn is_shared(&self) -> bool {
        self.shared
    }

    /// Where it listens: the port the system chose, where port 0 was asked for.
    #[must_use]
    pub fn address(&self) -> Listen {
        match &self.socket {
            Socket::Tcp(listener) => Listen::Tcp(
                listener
                    .local_addr()
                    .map_or_else(|_| String::new(), |address| address.to_string()),
            ),
            Socket::Unix { path, .. } => Listen::Unix(path.clone()),
        }
    }

    /// Waits for the next connection.
    ///
    /// # Errors
    /// The system's; most concern one connection or a passing lack of descriptors.
    ///
    /// # Cancel safety
    /// Safe: no connection is lost.
    pub async fn accept(&self) -> io::Result<(Stream, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, address) = listener.accept().await?;
                // Replies are small: waiting for more to fill a segment only delays them.
                stream.set_nodelay(true)?;
                Ok((Stream::Tcp(stream), Peer::Tcp(address)))
            }
            Socket::Unix { listener, .. } => {
                let (stream, _) = listener.accept().await?;
                let uid = stream.peer_cred().ok().map(|c| c.uid());
                Ok((Stream::Unix(stream), Peer::Unix { uid }))
            }
        }
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        if let Socket::Unix { path, .. } = &self.socket
            && !self.shared
        {
            // A leftover file is replaced at the next start, so failing here is harmless.
            let _ = std::fs::remove_file(path);
        }
    }
}

async fn bind_unix(path: &Path) -> io::Result<UnixListener> {
    make_room(path).await?;
    // Bound in a folder that nobody else can enter, narrowed, then moved out: the socket is never
    // wider than 0660 for a moment, whatever the process's umask.
    let folder = path.with_extension(format!("{}.tmp", std::process::id()));
    let narrow = folder.join("s");
    // Left by a process of the same number that was killed.
    let _ = std::fs::remove_file(&narrow);
    let _ = std::fs::remove_dir(&folder);
    std::fs::DirBuilder::new().mode(0o700).create(&folder)?;
    let bound = UnixListener::bind(&narrow).and_then(|listener| {
        std::fs::set_permissions(&narrow, std::fs::Permissions::from_mode(0o660))?;
        std::fs::rename(&narrow, path)?;
        Ok(listener)
    });
    // Fails only where the socket couldn't be moved, and that error is told.
    let _ = std::fs::remove_dir(&folder);
    bound
}

/// Removes the socket of a process that has ended; anything else at `path` is left alone.
async fn make_room(path: &Path) -> io::Result<()> {
    let taken = |what: &str| Err(io::Error::new(io::ErrorKind::AddrInUse, what));
    let Ok(found) = std::fs::symlink_metadata(path) else {
        return Ok(());
    };
    if !found.file_type().is_socket() {
        return taken("a file that is no socket is there; it was left alone");
    }
    match UnixStream::connect(path).await {
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            std::fs::remove_file(path)
        }
        _ => taken("another process answers there"),
    }
}

/// A connection, plain or under TLS.
#[derive(Debug)]
pub enum Stream {
    /// Plain TCP.
    Tcp(TcpStream),
    /// TLS over TCP.
    Tls(Box<TlsStream<TcpStream>>),
    /// A unix socket.
    Unix(UnixStream),
    /// TLS over a unix socket.
    UnixTls(Box<TlsStream<UnixStream>>),
}

impl Stream {
    /// Shakes hands where `acceptor` is given and the stream is plain.
    ///
    /// # Errors
    /// The handshake's.
    pub async fn secured(self, acceptor: Option<&TlsAcceptor>) -> io::Result<Self> {
        match (self, acceptor) {
            (Self::Tcp(stream), Some(acceptor)) => {
                Ok(Self::Tls(Box::new(acceptor.accept(stream).await?)))
            }
            (Self::Unix(stream), Some(acceptor)) => {
                Ok(Self::UnixTls(Box::new(acceptor.accept(stream).await?)))
            }
            (stream, _) => Ok(stream),
        }
    }
}

impl hang_up::Socket for Stream {
    fn once_more(&self) -> io::Result<OwnedFd> {
        let socket = match self {
            Self::Tcp(s) => s.as_fd(),
            Self::Tls(s) => s.get_ref().0.as_fd(),
            Self::Unix(s) => s.as_fd(),
            Self::UnixTls(s) => s.get_ref().0.as_fd(),
        };
        socket.try_clone_to_owned()
    }
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Tls(s) => Pin::new(s).poll_read(cx, buffer),
            Self::Unix(s) => Pin::new(s).poll_read(cx, buffer),
            Self::UnixTls(s) => Pin::new(s).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Tls(s) => Pin::new(s).poll_write(cx, bytes),
            Self::Unix(s) => Pin::new(s).poll_write(cx, bytes),
            Self::UnixTls(s) => Pin::new(s).poll_write(cx, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_flush(cx),
            Self::Tls(s) => Pin::new(s).poll_flush(cx),
            Self::Unix(s) => Pin::new(s).poll_flush(cx),
            Self::UnixTls(s) => Pin::new(s).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_shutdown(cx),
            Self::Tls(s) => Pin::new(s).poll_shutdown(cx),
            Self::Unix(s) => Pin::new(s).poll_shutdown(cx),
            Self::UnixTls(s) => Pin::new(s).poll_shutdown(cx),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Tcp(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Tls(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::Unix(s) => Pin::new(s).poll_write_vectored(cx, slices),
            Self::UnixTls(s) => Pin::new(s).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Tcp(s) => s.is_write_vectored(),
            Self::Tls(s) => s.is_write_vectored(),
            Self::Unix(s) => s.is_write_vectored(),
            Self::UnixTls(s) => s.is_write_vectored(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_unix_socket_is_0660_and_replaces_only_a_dead_one() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("proxy.sock");
        let first = bind_unix(&path).await.expect("bound");
        let mode = std::fs::metadata(&path)
            .expect("there")
            .permissions()
            .mode();
        assert_eq!(mode & 0o777, 0o660);
        let live = bind_unix(&path).await.expect_err("somebody answers");
        assert_eq!(live.kind(), io::ErrorKind::AddrInUse);
        drop(first);
        bind_unix(&path).await.expect("nobody answers any more");
        let left: Vec<_> = std::fs::read_dir(folder.path())
            .expect("readable")
            .collect();
        assert_eq!(left.len(), 1, "{left:?}");
    }

    #[tokio::test]
    async fn a_file_that_is_no_socket_is_left_alone() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("sidecar.redb");
        std::fs::write(&path, "tokens").expect("written");
        let taken = bind_unix(&path).await.expect_err("it isn't ours");
        assert_eq!(taken.kind(), io::ErrorKind::AddrInUse);
        assert_eq!(std::fs::read(&path).expect("there"), b"tokens");
    }
}
