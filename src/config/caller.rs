//! `[[caller]]`: who may call the proxy, for which merchants and methods.

use crate::protocol::secret::Secret;

/// One `[[caller]]`.
#[derive(Debug, Clone)]
pub struct CallerConfig {
    /// The name in logs.
    pub name: String,
    /// How it proves who it is.
    pub identity: CallerIdentity,
    /// Selectors, or `*`.
    pub merchants: Vec<String>,
    /// Globs over methods and v3 paths.
    pub methods: Vec<String>,
    /// Whether what it may not do is refused or only logged.
    pub mode: CallerMode,
    /// Whether it may claim events.
    pub events: bool,
}

/// How a caller proves who it is.
#[derive(Debug, Clone)]
pub enum CallerIdentity {
    /// The signature an SDK makes with its throw-away key; the public half, as text.
    PublicKey(String),
    /// `Authorization: Bearer`.
    Token(Secret<String>),
    /// The peer's uid on a unix socket.
    Uid(u32),
}

/// Whether what a caller may not do is refused or only logged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallerMode {
    /// Refused.
    Enforce,
    /// Logged.
    Report,
}
