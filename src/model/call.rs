//! What became of a call that may have changed something, kept for the backend whose own deadline
//! was shorter than Alipay's answer.

use std::fmt;

use bytes::Bytes;
use uuid::Uuid;

use crate::model::id::InvalidId;

/// How long a record can be asked for, milliseconds: contract §3 says 24 hours.
pub const KEPT_MS: i64 = 24 * 3_600_000;

/// The sidecar's own id of a call, as `Alipay-Sidecar-Request-Id` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct CallId(Uuid);

impl CallId {
    /// A new one, which sorts behind those made before.
    #[must_use]
    pub(crate) fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The 16 bytes of the id.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 16] {
        self.0.into_bytes()
    }

    /// The id whose bytes these are.
    #[must_use]
    pub fn from_bytes(bytes: [u8; 16]) -> Self {
        Self(Uuid::from_bytes(bytes))
    }
}

impl fmt::Display for CallId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.hyphenated().fmt(f)
    }
}

impl std::str::FromStr for CallId {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        let expected = "a UUID, as in Alipay-Sidecar-Request-Id";
        Uuid::try_parse(text)
            .map(Self)
            .map_err(|_| InvalidId::new("a request id", text, expected))
    }
}

/// How a call ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CallOutcome {
    /// Alipay said no, and signed it.
    BusinessError,
    /// Nothing left for Alipay.
    NotSent,
    /// Alipay did it, and signed that.
    Ok,
    /// Bytes had left, and no verified reply came: only a query tells.
    Unknown,
    /// Alipay answered, and signed that, in a ciphertext that nothing here opens: its caller has the
    /// key.
    Unopened,
    /// Alipay's error, which it didn't sign: as good as unknown.
    UnsignedError,
}

impl CallOutcome {
    /// Every one.
    pub const ALL: [Self; 6] = [
        Self::BusinessError,
        Self::NotSent,
        Self::Ok,
        Self::Unknown,
        Self::Unopened,
        Self::UnsignedError,
    ];

    /// The word for replies and records.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::BusinessError => "business-error",
            Self::NotSent => "not-sent",
            Self::Ok => "ok",
            Self::Unknown => "unknown",
            Self::Unopened => "unopened",
            Self::UnsignedError => "unsigned-error",
        }
    }
}

impl std::str::FromStr for CallOutcome {
    type Err = ();

    fn from_str(word: &str) -> Result<Self, ()> {
        let found = Self::ALL.into_iter().find(|one| one.as_str() == word);
        found.ok_or(())
    }
}

/// What became of one call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CallRecord {
    /// Which call.
    pub request_id: CallId,
    /// Who made it; nobody else may ask for it. `None`: nobody in particular.
    pub caller: Option<String>,
    /// The caller's own `X-Request-Id`.
    pub caller_request_id: Option<String>,
    /// Alipay's method name.
    pub method: String,
    /// How it ended.
    pub outcome: CallOutcome,
    /// The error of ours that it ended with, where it did.
    pub error: Option<String>,
    /// When, Unix milliseconds.
    pub completed_at: i64,
    /// What Alipay said, verified.
    pub reply: Option<KeptReply>,
}

/// A verified reply. `Debug` shows no content.
#[derive(Clone, PartialEq, Eq)]
pub struct KeptReply {
    /// The HTTP status, on v3 alone.
    pub status: Option<u16>,
    /// The node in UTF-8, or v3's body.
    pub body: Bytes,
}

impl fmt::Debug for KeptReply {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "KeptReply({:?}, {} bytes)", self.status, self.body.len())
    }
}

/// By what a record is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CallKey {
    /// The sidecar's own id.
    Id(CallId),
    /// The `X-Request-Id` of this caller; the newest call counts, but none that never left where
    /// another may have.
    Named {
        /// Who made the call.
        caller: Option<String>,
        /// The caller's name for it.
        caller_request_id: String,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outcomes_and_ids_survive_text() {
        for outcome in CallOutcome::ALL {
            assert_eq!(outcome.as_str().parse(), Ok(outcome));
        }
        let id: CallId = "01890a5d-ac96-774b-bcce-b302099a8057"
            .parse()
            .expect("a UUID");
        assert_eq!(id.to_string().parse::<CallId>().expect("own text"), id);
        assert_eq!(CallId::from_bytes(id.to_bytes()), id);
        assert!("17".parse::<CallId>().is_err());
    }
}
