//! Listener addresses.

use std::fmt;
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

    /// Whether only this host can reach it: a unix socket, or a loopback address or name.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => {
                let host = address
                    .rsplit_once(':')
                    .map_or(address.as_str(), |(host, _)| host);
                let host = host.trim_start_matches('[').trim_end_matches(']');
                host == "localhost"
                    || host
                        .parse::<std::net::IpAddr>()
                        .is_ok_and(|ip| ip.is_loopback())
            }
            Self::Unix(_) => true,
        }
    }
}

impl fmt::Display for Listen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => f.write_str(address),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}
