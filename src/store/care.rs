//! What is known of a store as a whole: its size, its damage, its copy.

use bytes::Bytes;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use tokio::sync::mpsc;

use crate::store::error::StoreError;

/// How large a store is, and what is in it.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Stats {
    /// The schema version of the file.
    pub schema: u64,
    /// The size of the file.
    pub file_bytes: u64,
    /// What the rows take.
    pub stored_bytes: u64,
    /// What lies unused within pages.
    pub fragmented_bytes: u64,
    /// What lies unused between pages; the store fills it before the file grows.
    pub free_bytes: u64,
    /// Whether `store compact` would make the file much smaller.
    pub worth_compacting: bool,
    /// Merchants whose authorisation stands.
    pub merchants_authorized: u64,
    /// Merchants that cancelled.
    pub merchants_revoked: u64,
    /// Merchants whose token Alipay refused, without a word that they cancelled.
    pub merchants_suspect: u64,
    /// Deliveries owed.
    pub pending: u64,
    /// When the oldest of them was received, Unix milliseconds.
    pub oldest_pending_at: Option<i64>,
    /// Deliveries taken by the backend, as far as they are remembered.
    pub delivered: u64,
    /// Deliveries given up.
    pub dead: u64,
    /// Notifications owed to nobody.
    pub ignored: u64,
    /// Damaged records that were moved aside.
    pub damaged: u64,
    /// The rows of every table.
    pub tables: Vec<TableRows>,
}

/// The rows of one table.
#[derive(Debug, Clone, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct TableRows {
    /// The table's name.
    pub name: String,
    /// How many.
    pub rows: u64,
}

/// What a look at every record found.
#[derive(Debug, Clone, Default, PartialEq, Eq, JsonSchema, Serialize, Deserialize)]
pub struct Inspection {
    /// How many rows were read.
    pub rows: u64,
    /// How many records don't open.
    pub damaged: u64,
    /// How many rows of an index contradict the records.
    pub contradictions: u64,
    /// The first of both, [`Self::MOST_FINDINGS`] at the most.
    pub findings: Vec<String>,
}

impl Inspection {
    /// How many findings are named.
    pub const MOST_FINDINGS: usize = 1_000;

    /// Whether nothing was found.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.damaged == 0 && self.contradictions == 0
    }

    /// Notes a damaged record.
    pub(super) fn damaged(&mut self, what: String) {
        self.damaged += 1;
        self.note(what);
    }

    /// Notes a row that contradicts a record.
    pub(super) fn contradiction(&mut self, what: String) {
        self.contradictions += 1;
        self.note(what);
    }

    fn note(&mut self, what: String) {
        if self.findings.len() < Self::MOST_FINDINGS {
            self.findings.push(what);
        }
    }
}

/// The rows of a copy on their way, in pieces that
/// [`CopyWriter`](crate::store::embedded::CopyWriter) puts together.
#[derive(Debug)]
pub struct RowStream(pub(super) mpsc::Receiver<Result<Bytes, StoreError>>);

impl RowStream {
    /// The next piece; `None` after the last. A copy that broke off lacks its end, which the
    /// writer notices.
    pub async fn next(&mut self) -> Option<Result<Bytes, StoreError>> {
        self.0.recv().await
    }

    /// The same for a [`futures_util::Stream`].
    pub(crate) fn poll_next(
        &mut self,
        context: &mut std::task::Context<'_>,
    ) -> std::task::Poll<Option<Result<Bytes, StoreError>>> {
        self.0.poll_recv(context)
    }
}

/// What a copy holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Copied {
    /// How many rows of all tables.
    pub rows: u64,
    /// How many of its records don't open; they were copied as they are.
    pub damaged: u64,
    /// The size of the file.
    pub bytes: u64,
}
