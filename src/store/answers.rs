//! What a store answers.

use crate::model::delivery::Delivery;
use crate::model::id::EventId;
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::store::error::StoreError;

/// The merchants' records that were found.
#[derive(Debug, Default)]
pub struct Found {
    /// Those that can be read.
    pub merchants: Vec<Merchant>,
    /// Whose can't be.
    pub damaged: Vec<DamagedMerchant>,
}

/// A merchant whose record can't be read: all that is known is where it stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DamagedMerchant {
    /// Its record doesn't open, isn't understood, or was moved aside.
    Record {
        /// Our application.
        app_id: String,
        /// The merchant's application.
        auth_app_id: String,
    },
    /// The row of an index doesn't tell whose it is: anybody's, of any app.
    Row(String),
}

impl DamagedMerchant {
    /// Whether it may be one of this app of ours.
    #[must_use]
    pub fn may_be_of(&self, of: &str) -> bool {
        match self {
            Self::Record { app_id, .. } => app_id == of,
            Self::Row(_) => true,
        }
    }
}

impl std::fmt::Display for DamagedMerchant {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Record {
                app_id,
                auth_app_id,
            } => write!(f, "{app_id}/{auth_app_id}"),
            Self::Row(row) => f.write_str(row),
        }
    }
}

impl From<DamagedMerchant> for StoreError {
    fn from(merchant: DamagedMerchant) -> Self {
        Self::Damaged {
            record: match merchant {
                DamagedMerchant::Record { .. } => format!("record {merchant} of table `merchants`"),
                DamagedMerchant::Row(row) => row,
            },
        }
    }
}

/// Deliveries to attempt.
#[derive(Debug, Default)]
pub struct Due {
    /// What may be attempted now.
    pub now: Vec<(InboxEntry, Delivery)>,
    /// When the next one becomes due, Unix milliseconds, if any is pending beyond these.
    pub next_at: Option<i64>,
    /// Where a look at what may be claimed ended because it had found enough; `None`: it went to
    /// the end.
    pub end: Option<Mark>,
}

/// Deliveries that are parked.
#[derive(Debug, Default)]
pub struct Parked {
    /// Those that have an order key.
    pub of_an_order: Vec<EventId>,
    /// Where the look ended because it had seen enough; `None`: it went to the end.
    pub end: Option<EventId>,
}

/// A place in the order in which deliveries are claimed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mark {
    /// Among those that were parked.
    Parked(EventId),
    /// Among those that are scheduled, for so many Unix milliseconds.
    Scheduled(i64, EventId),
}

/// What takes room that is limited.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Backlog {
    /// Deliveries owed.
    pub pending: u64,
    /// Refused notifications that are kept.
    pub refused: u64,
}

impl From<Counts> for Backlog {
    fn from(counts: Counts) -> Self {
        Self {
            pending: counts.pending,
            refused: counts.refused,
        }
    }
}

/// How much there is of everything.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Damaged records that were moved aside.
    pub damaged: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Merchants whose authorisation stands beyond doubt.
    pub merchants_authorized: u64,
    /// Merchants that cancelled.
    pub merchants_revoked: u64,
    /// Merchants whose token Alipay refused, and that aren't known to have cancelled.
    pub merchants_suspect: u64,
    /// When the oldest pending entry was received, Unix milliseconds.
    pub oldest_pending_at: Option<i64>,
    /// Deliveries owed.
    pub pending: u64,
    /// Refused notifications that are kept.
    pub refused: u64,
}

/// How much was forgotten.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Records of calls.
    pub calls: u64,
    /// Inbox entries with their deliveries.
    pub entries: u64,
    /// Values kept by [`Change::Remember`](crate::store::Change::Remember).
    pub memos: u64,
    /// `notify_id`s of the de-duplication.
    pub notify_ids: u64,
    /// Refused notifications.
    pub refused: u64,
    /// Users' tokens, each name of a user counted.
    pub users: u64,
}
