//! Listener addresses.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use crate::config::error::Mismatch;
use crate::config::section::Section;

/// Where a listener listens.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Listen {
    /// `host:port`; port 0 lets the system choose.
    Tcp(String),
    /// `unix:/path.sock`.
    Unix(PathBuf),
}

impl Listen {
    /// The listener under `key`, a socket's path relative to the configuration's directory.
    pub(crate) fn read(section: &Section<'_>, key: &'static str) -> Option<Self> {
        let listen = section.text(key, Self::parse)?;
        Some(match listen {
            Self::Tcp(_) => listen,
            Self::Unix(path) => Self::Unix(section.reading.references().directory().join(path)),
        })
    }

    fn parse(text: &str) -> Result<Self, Mismatch> {
        let wrong = || Mismatch::of_text(text, "`host:port` or `unix:/path.sock`");
        if let Some(path) = text.strip_prefix("unix:") {
            return match path {
                "" => Err(wrong()),
                path => Ok(Self::Unix(PathBuf::from(path))),
            };
        }
        let (host, port) = text.rsplit_once(':').ok_or_else(wrong)?;
        if port.is_empty()
            || !port.bytes().all(|b| b.is_ascii_digit())
            || port.parse::<u16>().is_err()
        {
            return Err(wrong().hint("the port is a number from 0 to 65535"));
        }
        if host.is_empty() {
            return Err(wrong().hint("write 127.0.0.1 for this host alone, 0.0.0.0 for all"));
        }
        if text.parse::<http::uri::Authority>().is_err() || text.contains('@') {
            return Err(wrong());
        }
        Ok(Self::Tcp(text.to_owned()))
    }

    /// Whether nobody can listen at both: the same socket, or one port of the same address or of all.
    pub(crate) fn collides(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Unix(path), Self::Unix(other)) => path == other,
            (Self::Tcp(address), Self::Tcp(other)) => collide(address, other),
            _ => false,
        }
    }

    /// Whether only this host can reach it: a unix socket, or a loopback address or name.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => {
                let host = address
                    .rsplit_once(':')
                    .map_or(address.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost" || host.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

fn collide(one: &str, other: &str) -> bool {
    let split = |address: &str| {
        let (host, port) = address.rsplit_once(':')?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let host = match host.eq_ignore_ascii_case("localhost") {
            true => "127.0.0.1".to_owned(),
            false => host.to_ascii_lowercase(),
        };
        Some((host, port.parse::<u16>().ok()?))
    };
    let (Some((host, port)), Some((other_host, other_port))) = (split(one), split(other)) else {
        return false;
    };
    let ip = |host: &str| host.parse::<IpAddr>().ok();
    let covers = |all: &str, host: &str| match (ip(all), ip(host)) {
        (Some(all), Some(ip)) => all.is_unspecified() && all.is_ipv4() == ip.is_ipv4(),
        _ => false,
    };
    // The system gives a free one for port 0 each time.
    let is_same_port = port != 0 && port == other_port;
    let is_same_host =
        host == other_host || covers(&host, &other_host) || covers(&other_host, &host);
    is_same_port && is_same_host
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nobody_listens_twice_at_one_place() {
        let listen = |text: &str| Listen::parse(text).expect("an address");
        for (one, other, expected) in [
            ("127.0.0.1:1", "127.0.0.1:1", true),
            ("127.0.0.1:1", "127.0.0.1:2", false),
            ("127.0.0.1:0", "127.0.0.1:0", false),
            ("127.0.0.1:1", "127.0.0.2:1", false),
            ("0.0.0.0:1", "127.0.0.2:1", true),
            ("[::1]:1", "[::]:1", true),
            ("0.0.0.0:1", "[::1]:1", false),
            ("localhost:1", "127.0.0.1:1", true),
            ("unix:a", "unix:a", true),
            ("unix:a", "unix:b", false),
            ("unix:a", "127.0.0.1:1", false),
        ] {
            let (one, other) = (listen(one), listen(other));
            assert_eq!(one.collides(&other), expected, "{one} {other}");
            assert_eq!(other.collides(&one), expected, "{other} {one}");
        }
    }
}
