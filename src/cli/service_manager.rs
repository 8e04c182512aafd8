//! Tells the service manager how the program fares.
//!
//! Protocol: systemd, `sd_notify(3)`: lines in a datagram to the socket `NOTIFY_SOCKET`.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};

/// Who wants to know; often nobody.
#[derive(Debug)]
pub(crate) struct ServiceManager(Option<(UnixDatagram, SocketAddr)>);

impl ServiceManager {
    /// The one that the environment names. One that can't be reached is none: that is no reason
    /// not to serve, but for the log.
    pub(crate) fn of_environment() -> Self {
        let Some(name) = std::env::var("NOTIFY_SOCKET")
            .ok()
            .filter(|n| !n.is_empty())
        else {
            return Self(None);
        };
        match address(&name).and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
            Ok(manager) => Self(Some(manager)),
            Err(error) => {
                tracing::warn!(%error, name, "the service manager can't be told how it goes");
                Self(None)
            }
        }
    }

    /// All listeners serve, and the store is open.
    pub(crate) fn ready(&self) {
        self.tell("READY=1\nSTATUS=serving");
    }

    /// The store is being opened, once who may have it lets go.
    pub(crate) fn opening(&self) {
        self.tell("STATUS=opening the store");
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending what is under way");
    }

    fn tell(&self, state: &str) {
        let Self(Some((socket, address))) = self else {
            return;
        };
        if let Err(error) = socket.send_to_addr(state.as_bytes(), address) {
            tracing::warn!(%error, "the service manager wasn't told how it goes");
        }
    }
}

/// A path, or a name in the abstract space, which begins with `@`.
fn address(name: &str) -> io::Result<SocketAddr> {
    #[cfg(target_os = "linux")]
    if let Some(name) = name.strip_prefix('@') {
        use std::os::linux::net::SocketAddrExt;
        return SocketAddr::from_abstract_name(name);
    }
    match name.starts_with('/') {
        true => SocketAddr::from_pathname(name),
        false => Err(io::Error::new(
            io::ErrorKind::InvalidInput,
            "expected a path or `@name`",
        )),
    }
}
