//! Deliveries: the duty to hand one inbox entry to the backend.

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

/// One try to hand an entry over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// When it began, Unix milliseconds.
    pub at: i64,
    /// How long it took, milliseconds.
    pub duration_ms: u64,
    /// The backend's HTTP status, if it answered.
    pub status: Option<u16>,
    /// What went wrong, from a closed set; `None`: taken.
    pub error: Option<AttemptError>,
}

/// Why an attempt failed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AttemptError {
    /// No connection, or it broke.
    Connect,
    /// 2xx, but the body wasn't `success`.
    NotSuccess,
    /// Another status than 2xx.
    Status,
    /// No answer in time.
    Timeout,
}

impl AttemptError {
    /// Every reason there is.
    pub const ALL: [Self; 4] = [Self::Connect, Self::NotSuccess, Self::Status, Self::Timeout];

    /// The word used in JSON and as the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connect => "connect",
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
