//! Whose events a backend gets, where it may have those of some merchants alone.

use std::fmt;
use std::sync::Arc;

use crate::model::id::{Alias, AuthAppId, Pid};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;

/// Whose events are given out.
#[derive(Clone)]
pub enum Whose {
    /// Everybody's, and those that are no merchant's.
    Everybodys,
    /// Those of the merchants for whom it says so.
    Of(Arc<dyn Fn(&Owner<'_>) -> bool + Send + Sync>),
}

/// The merchant of an event, as far as it is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Owner<'a> {
    /// Its application.
    pub auth_app_id: Option<&'a AuthAppId>,
    /// Its user id.
    pub pid: Option<&'a Pid>,
    /// The operator's name for it.
    pub alias: Option<&'a Alias>,
}

/// What the record of a merchant says of who it is, beyond what an event does.
#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) pid: Option<Pid>,
    pub(super) alias: Option<Alias>,
}

impl Known {
    /// The entry with the user id of its merchant, where that is only in the record.
    pub(super) fn told_in(&self, entry: InboxEntry) -> InboxEntry {
        let pid = entry.pid.or_else(|| self.pid.clone());
        InboxEntry { pid, ..entry }
    }
}

impl From<Merchant> for Known {
    fn from(record: Merchant) -> Self {
        Self {
            pid: record.pid,
            alias: record.alias,
        }
    }
}

impl<'a> Owner<'a> {
    /// That of an event, with what the merchant's record says.
    pub(super) fn of(entry: &'a InboxEntry, record: Option<&'a Known>) -> Self {
        Self {
            auth_app_id: entry.auth_app_id.as_ref(),
            pid: entry
                .pid
                .as_ref()
                .or_else(|| record.and_then(|record| record.pid.as_ref())),
            alias: record.and_then(|record| record.alias.as_ref()),
        }
    }
}

impl<'a> From<&'a Merchant> for Owner<'a> {
    fn from(record: &'a Merchant) -> Self {
        Self {
            auth_app_id: Some(&record.auth_app_id),
            pid: record.pid.as_ref(),
            alias: record.alias.as_ref(),
        }
    }
}

impl fmt::Debug for Whose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Everybodys => f.write_str("Everybodys"),
            Self::Of(_) => f.write_str("Of(…)"),
        }
    }
}
