//! Deliveries: the duty to hand one inbox entry to the backend.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::model::id::EventId;

/// How many attempts a delivery remembers; older ones are forgotten, not their number.
pub const REMEMBERED_ATTEMPTS: usize = 20;

/// The state of one entry's delivery.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Delivery {
    /// The entry owed.
    pub id: EventId,
    /// Where it stands.
    pub state: DeliveryState,
    /// How many attempts were made since it was received or last replayed.
    pub attempts: u32,
    /// When it became owed (receipt or replay), Unix milliseconds: `give_up_after` counts from it.
    pub owed_since: i64,
    /// When the next attempt is due, Unix milliseconds; meaningful while pending.
    pub next_attempt_at: i64,
    /// Whether it was put off because no route fits it: then nothing is attempted at that time, it is
    /// looked at again.
    pub parked: bool,
    /// Who claimed it last has it until then, or had it and never said what became of it.
    pub lease: Option<Lease>,
    /// The last attempts, oldest first.
    pub history: Vec<Attempt>,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum DeliveryState {
    /// Given up after `delivery.give_up_after`; can be replayed.
    Dead,
    /// The backend took it.
    Delivered,
    /// Nothing is owed: an authorisation message older than what is stored.
    Ignored,
    /// Owed.
    Pending,
}

impl DeliveryState {
    /// The word used in JSON and in `?state=`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Dead => "dead",
            Self::Delivered => "delivered",
            Self::Ignored => "ignored",
            Self::Pending => "pending",
        }
    }
}

impl std::str::FromStr for DeliveryState {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "dead" => Ok(Self::Dead),
            "delivered" => Ok(Self::Delivered),
            "ignored" => Ok(Self::Ignored),
            "pending" => Ok(Self::Pending),
            _ => Err(()),
        }
    }
}

/// For how long a backend that pulls has claimed an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// When it was claimed, Unix milliseconds.
    pub since: i64,
    /// When it ends unless it is extended, Unix milliseconds: from then on others may have it.
    pub until: i64,
}

impl Lease {
    /// The attempt that this lease was, once it ended without a word.
    #[must_use]
    pub fn lapsed(self) -> Attempt {
        self.ended(self.until, Some(AttemptError::LeaseExpired))
    }

    /// The attempt that this lease was, ended at `at` (Unix milliseconds).
    #[must_use]
    pub fn ended(self, at: i64, error: Option<AttemptError>) -> Attempt {
        let duration = at.saturating_sub(self.since);
        Attempt {
            at: self.since,
            duration_ms: u64::try_from(duration).unwrap_or_default(),
            status: None,
            error,
            via: Via::Pull,
            to: None,
            reason: None,
        }
    }
}

/// One try to hand an entry over.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began, Unix milliseconds.
    pub at: i64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// The backend's HTTP status, if it answered.
    pub status: Option<u16>,
    /// What went wrong, from a closed set; `None`: taken.
    pub error: Option<AttemptError>,
    /// Who began it.
    #[serde(default)]
    pub via: Via,
    /// Where it was posted, without query and user information: these may hold a password.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub to: Option<String>,
    /// What went wrong in words, where the status doesn't say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Which way an entry went.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Via {
    /// The backend claimed it.
    Pull,
    /// The sidecar posted it.
    #[default]
    Push,
}

impl Via {
    /// The word used in JSON.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Pull => "pull",
            Self::Push => "push",
        }
    }
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, JsonSchema, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptError {
    /// No connection, or it broke.
    Connect,
    /// Who claimed it let the lease end.
    LeaseExpired,
    /// Who claimed it gave it back.
    Nacked,
    /// 2xx, but the body wasn't `success`.
    NotSuccess,
    /// Another status than 2xx.
    Status,
    /// No answer in time.
    Timeout,
}

impl AttemptError {
    /// Every reason there is.
    pub const ALL: [Self; 6] = [
        Self::Connect,
        Self::LeaseExpired,
        Self::Nacked,
        Self::NotSuccess,
        Self::Status,
        Self::Timeout,
    ];

    /// The word used in JSON and as the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
            Self::LeaseExpired => "lease-expired",
            Self::Nacked => "nacked",
            Self::NotSuccess => "not-success",
            Self::Status => "status",
            Self::Timeout => "timeout",
        }
    }
}

/// What an attempt means for its delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Settlement {
    /// Taken.
    Delivered,
    /// Given up.
    GivenUp,
    /// Due again at this Unix millisecond.
    RetryAt(i64),
}
