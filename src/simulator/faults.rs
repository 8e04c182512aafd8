//! Faults on demand: what can go wrong between Alipay and a caller.
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::error::SimulatorError;

/// What goes wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// An encrypted node is signed without its quotes.
    CiphertextQuotes,
    /// The node stands twice: the signature is for the first, the data in the second.
    DuplicateNode,
    /// The reply never ends.
    Endless,
    /// In certificate mode, `alipay_cert_sn` is that of no certificate.
    ForgedCertSn,
    /// An encrypted node, well signed, that the app's key does not decrypt.
    GarbledCiphertext,
    /// An HTML page with status 502; nothing was executed.
    Html,
    /// `isv.invalid-signature`, signed; nothing was executed.
    InvalidSignature,
    /// A reply of 64 MiB.
    Oversized,
    /// The connection is closed after the call was executed, before the reply.
    Reset,
    /// The call is executed, the reply comes late (`delay_ms`).
    Slow,
    /// One byte of the node is changed after signing.
    Tampered,
    /// One notification is changed after signing.
    TamperedNotification,
    /// The signature is a good one over other bytes.
    TamperedSign,
    /// `aop.invalid-app-auth-token`, signed; nothing was executed, and the token holds.
    TokenInvalid,
    /// `aop.app-auth-token-time-out`, signed; nothing was executed.
    TokenTimeout,
    /// A success without `sign`.
    Unsigned,
    /// The node stands, well signed, under another method's root.
    WrongRoot,
}

impl FaultKind {
    /// Every fault with the name it is asked for by.
    pub const ALL: [(&'static str, Self); 17] = [
        ("ciphertext-quotes", Self::CiphertextQuotes),
        ("duplicate-node", Self::DuplicateNode),
        ("endless", Self::Endless),
        ("forged-cert-sn", Self::ForgedCertSn),
        ("garbled-ciphertext", Self::GarbledCiphertext),
        ("html", Self::Html),
        ("invalid-signature", Self::InvalidSignature),
        ("oversized", Self::Oversized),
        ("reset", Self::Reset),
        ("slow", Self::Slow),
        ("tampered", Self::Tampered),
        ("tampered-notification", Self::TamperedNotification),
        ("tampered-sign", Self::TamperedSign),
        ("token-invalid", Self::TokenInvalid),
        ("token-timeout", Self::TokenTimeout),
        ("unsigned", Self::Unsigned),
        ("wrong-root", Self::WrongRoot),
    ];

    /// Finds a fault by its name.
    ///
    /// # Errors
    /// [`SimulatorError::FaultUnknown`], which lists the names.
    pub fn from_name(name: &str) -> Result<Self, SimulatorError> {
        Self::ALL
            .into_iter()
            .find(|(other, _)| *other == name)
            .map(|(_, kind)| kind)
            .ok_or_else(|| SimulatorError::FaultUnknown(name.to_owned()))
    }

    /// Gives the fault's name.
    pub fn name(self) -> &'static str {
        Self::ALL
            .into_iter()
            .find(|(_, kind)| *kind == self)
            .map_or("", |(name, _)| name)
    }

    pub(super) fn names() -> String {
        Self::ALL.map(|(name, _)| name).join(", ")
    }
}

/// A fault to be played.
#[derive(Clone, Debug)]
pub struct Fault {
    kind: FaultKind,
    count: u32,
    delay: Duration,
    method: Option<String>,
}

impl Fault {
    /// Plays `kind` once.
    pub fn once(kind: FaultKind) -> Self {
        Self {
            kind,
            count: 1,
            delay: DEFAULT_DELAY,
            method: None,
        }
    }

    /// Plays it `count` times.
    #[must_use]
    pub fn times(mut self, count: u32) -> Self {
        self.count = count;
        self
    }

    /// Sets how late a slow reply is.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Plays it on calls of this method alone.
    #[must_use]
    pub fn on(mut self, method: impl Into<String>) -> Self {
        self.method = Some(method.into());
        self
    }
}

/// How late a slow reply is when nobody says: later than the Node SDK waits (5 s).
const DEFAULT_DELAY: Duration = Duration::from_secs(6);

/// What `POST /simulator/fault` takes.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FaultRequest {
    name: String,
    count: Option<u32>,
    delay_ms: Option<u64>,
    method: Option<String>,
}

impl TryFrom<FaultRequest> for Fault {
    type Error = SimulatorError;

    fn try_from(request: FaultRequest) -> Result<Self, SimulatorError> {
        Ok(Self {
            kind: FaultKind::from_name(&request.name)?,
            count: request.count.unwrap_or(1),
            delay: request
                .delay_ms
                .map_or(DEFAULT_DELAY, Duration::from_millis),
            method: request.method,
        })
    }
}

/// The faults still to be played, oldest first.
#[derive(Default)]
pub(super) struct Faults(Vec<Fault>);

/// A fault that strikes now.
#[derive(Clone, Copy, Debug)]
pub(super) struct Strike {
    pub(super) kind: FaultKind,
    pub(super) delay: Duration,
}

/// A fault as `GET /simulator/state` shows it.
#[derive(Serialize)]
pub(super) struct Pending {
    name: &'static str,
    count: u32,
    method: Option<String>,
}

impl Faults {
    pub(super) fn add(&mut self, fault: Fault) {
        self.0.push(fault);
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }

    /// Takes the oldest fault that concerns a gateway call of `method`.
    pub(super) fn strike_call(&mut self, method: &str) -> Option<Strike> {
        self.strike(|fault| {
            fault.kind != FaultKind::TamperedNotification
                && fault
                    .method
                    .as_deref()
                    .is_none_or(|wanted| wanted == method)
        })
    }

    /// Takes the oldest fault that concerns a v3 call, named by its path or its method of v2.
    pub(super) fn strike_v3(&mut self, names: [&str; 2]) -> Option<Strike> {
        self.strike(|fault| {
            let foreign = matches!(
                fault.kind,
                FaultKind::CiphertextQuotes
                    | FaultKind::DuplicateNode
                    | FaultKind::TamperedNotification
                    | FaultKind::WrongRoot
            );
            let wanted = fault.method.as_deref();
            !foreign && wanted.is_none_or(|wanted| names.contains(&wanted))
        })
    }

    /// Takes the oldest fault that concerns a notification.
    pub(super) fn strike_notification(&mut self) -> Option<Strike> {
        self.strike(|fault| fault.kind == FaultKind::TamperedNotification)
    }

    fn strike(&mut self, concerns: impl Fn(&Fault) -> bool) -> Option<Strike> {
        let fault = self
            .0
            .iter_mut()
            .find(|fault| fault.count > 0 && concerns(fault))?;
        fault.count -= 1;
        let strike = Strike {
            kind: fault.kind,
            delay: fault.delay,
        };
        self.0.retain(|fault| fault.count > 0);
        Some(strike)
    }

    pub(super) fn state(&self) -> Vec<Pending> {
        let pending = |fault: &Fault| Pending {
            name: fault.kind.name(),
            count: fault.count,
            method: fault.method.clone(),
        };
        self.0.iter().map(pending).collect()
    }
}
