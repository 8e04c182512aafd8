//! Tells the service manager how the program fares.
//!
//! Protocol: systemd, `sd_notify(3)`: lines in a datagram to the socket `NOTIFY_SOCKET`; and
//! `sd_watchdog_enabled(3)`: one of them every `WATCHDOG_USEC` microseconds at most, where that is
//! meant for the process `WATCHDOG_PID`.

use std::io;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::time::Duration;

use crate::admin::configuration::ReloadError;

/// Who wants to know; often nobody.
#[derive(Debug)]
pub(crate) struct ServiceManager(Option<(UnixDatagram, SocketAddr)>);

impl ServiceManager {
    /// The one that the environment names. One that can't be reached is none: that is no reason
    /// not to serve, but for the log.
    pub(crate) fn of_environment() -> Self {
        match std::env::var("NOTIFY_SOCKET") {
            Ok(name) if !name.is_empty() => Self::named(&name),
            _ => Self(None),
        }
    }

    fn named(name: &str) -> Self {
        match address(name).and_then(|address| Ok((UnixDatagram::unbound()?, address))) {
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

    /// A reload has begun.
    pub(crate) fn reloading(&self) {
        let now = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
        let now_us = now.tv_sec.saturating_mul(1_000_000) + now.tv_nsec / 1000;
        self.tell(&format!(
            "RELOADING=1\nMONOTONIC_USEC={now_us}\nSTATUS=reloading the configuration"
        ));
    }

    /// A reload has ended: by which generation, or why another serves on.
    pub(crate) fn reloaded(&self, ended: Result<u64, &ReloadError>) {
        let status = match ended {
            Ok(generation) => format!("serving, configuration {generation}"),
            // In one line, as the protocol wants it.
            Err(error) => format!(
                "serving; the last reload was refused ({}), see the log",
                error.kind()
            ),
        };
        self.tell(&format!("READY=1\nSTATUS={status}"));
    }

    /// The end has begun.
    pub(crate) fn stopping(&self) {
        self.tell("STOPPING=1\nSTATUS=ending what is under way");
    }

    /// The program still does its work.
    pub(crate) fn alive(&self) {
        self.tell("WATCHDOG=1");
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

/// How often the service manager wants to hear that the program is alive, if at all: twice within the
/// time after which it would end it.
pub(crate) fn watched_every() -> Option<Duration> {
    let variable = |name| std::env::var(name).ok();
    let pid = variable("WATCHDOG_PID");
    every(variable("WATCHDOG_USEC")?.as_str(), pid.as_deref())
}

/// `pid` is of the process that is meant, where it isn't everyone.
fn every(usec: &str, pid: Option<&str>) -> Option<Duration> {
    let is_meant = pid.is_none_or(|pid| pid.parse() == Ok(std::process::id()));
    let usec: u64 = usec.parse().ok().filter(|usec| *usec > 1 && is_meant)?;
    Some(Duration::from_micros(usec / 2))
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

#[cfg(test)]
mod tests {
    use super::*;

    fn check(name: &str, heard: &UnixDatagram) {
        let manager = ServiceManager::named(name);
        manager.ready();
        let mut text = [0; 64];
        let length = heard.recv(&mut text).expect("said");
        let text = String::from_utf8_lossy(text.get(..length).expect("read"));
        assert_eq!(text, "READY=1\nSTATUS=serving");
    }

    #[test]
    fn a_manager_is_told_by_path_and_may_be_missing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("notify");
        let heard = UnixDatagram::bind(&path).expect("bound");
        check(path.to_str().expect("text"), &heard);
        for missing in ["relative", "/nowhere/at/all"] {
            ServiceManager::named(missing).stopping();
        }
    }

    #[test]
    fn a_watchdog_is_heard_twice_within_its_time_by_whom_it_means() {
        let own = std::process::id().to_string();
        let second = Some(Duration::from_secs(1));
        assert_eq!(every("2000000", None), second);
        assert_eq!(every("2000000", Some(&own)), second);
        for (usec, pid) in [
            ("2000000", Some("1")),
            ("2000000", Some("")),
            ("0", None),
            ("1", None),
            ("-2", None),
            ("2s", None),
        ] {
            assert_eq!(every(usec, pid), None, "{usec} {pid:?}");
        }
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn a_manager_is_told_by_an_abstract_name() {
        use std::os::linux::net::SocketAddrExt;
        let name = format!("alipay-sidecar-test-{}", uuid::Uuid::now_v7());
        let address = SocketAddr::from_abstract_name(&name).expect("a name");
        let heard = UnixDatagram::bind_addr(&address).expect("bound");
        check(&format!("@{name}"), &heard);
    }
}
