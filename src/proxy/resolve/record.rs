//! The records that a tag names, whether they can be read or not.
//!
//! One that can't be read still counts as one: a call for which two records could be meant isn't made
//! for the other because of the damage.

use std::sync::Arc;

use crate::delivery::whose::Owner;
use crate::model::id::AuthAppId;
use crate::model::merchant::Merchant;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::store::error::StoreError;
use crate::store::{DamagedMerchant, MerchantKey};

/// What one tag names.
pub(super) enum Named {
    Own,
    Records(Vec<Record>),
}

/// A merchant's record.
pub(super) enum Record {
    Damaged(DamagedMerchant),
    /// A damaged one that the caller may call for or not, which only it could tell; or one of which
    /// nothing tells whose it is.
    Doubtful(DamagedMerchant),
    Whole(Arc<Merchant>),
}

impl Record {
    /// Its app and the merchant's, where they are known.
    pub(super) fn id(&self) -> Option<(&str, &str)> {
        match self {
            Self::Damaged(merchant) | Self::Doubtful(merchant) => match merchant {
                DamagedMerchant::Record {
                    app_id,
                    auth_app_id,
                } => Some((app_id, auth_app_id)),
                DamagedMerchant::Row(_) => None,
            },
            Self::Whole(merchant) => {
                Some((merchant.app_id.as_str(), merchant.auth_app_id.as_str()))
            }
        }
    }

    pub(super) fn app_id(&self) -> Option<&str> {
        Some(self.id()?.0)
    }

    /// Whose record it is, where nothing tells whether the caller may call for it.
    pub(super) fn doubtful(&self) -> Option<&DamagedMerchant> {
        match self {
            Self::Doubtful(merchant) => Some(merchant),
            Self::Damaged(_) | Self::Whole(_) => None,
        }
    }

    /// The merchant, if its record can be read.
    pub(super) fn whole(self) -> Result<Arc<Merchant>, ProxyError> {
        match self {
            Self::Whole(merchant) => Ok(merchant),
            Self::Damaged(merchant) | Self::Doubtful(merchant) => {
                Err(StoreError::from(merchant).into())
            }
        }
    }

    fn is(&self, other: &Self) -> bool {
        self.id() == other.id()
    }

    /// The record, if it is one of `others`, too. What another tag tells of whose it is counts as well.
    fn and(self, others: &[Self]) -> Option<Self> {
        let same = || others.iter().filter(|other| self.is(other));
        same().next()?;
        let is_known = same().any(|other| other.doubtful().is_none());
        Some(match self {
            Self::Doubtful(merchant) if is_known => Self::Damaged(merchant),
            record => record,
        })
    }
}

/// What is known of whose damaged record it is: its key, and by what it was found.
pub(super) fn known<'a>(auth_app_id: Option<&'a AuthAppId>, key: &'a MerchantKey) -> Owner<'a> {
    Owner {
        auth_app_id,
        pid: match key {
            MerchantKey::Pid(pid) => Some(pid),
            _ => None,
        },
        alias: match key {
            MerchantKey::Alias(alias) => Some(alias),
            _ => None,
        },
    }
}

/// What two tags name together.
pub(super) fn agree(before: Named, found: Named) -> Result<Named, ProxyError> {
    let conflict = || {
        ProxyError::refused(
            ErrorCode::MerchantConflict,
            "the request is tagged more than once, and the tags name different merchants",
        )
    };
    match (before, found) {
        (Named::Own, Named::Own) => Ok(Named::Own),
        (Named::Records(before), Named::Records(found)) => {
            // Whoever it is, it may be one that the other tag names.
            let nameless = |records: &[Record]| {
                let doubtful = records.iter().filter(|record| record.id().is_none());
                doubtful.filter_map(Record::doubtful).next().cloned()
            };
            let doubt = nameless(&before).or_else(|| nameless(&found));
            let both = before.into_iter().filter_map(|record| record.and(&found));
            let both: Vec<_> = both.collect();
            match (both.is_empty(), doubt) {
                (false, _) => Ok(Named::Records(both)),
                (true, Some(doubt)) => Err(in_doubt(&doubt)),
                (true, None) => Err(conflict()),
            }
        }
        _ => Err(conflict()),
    }
}

/// The error where a record is left that the caller may not be allowed: its name goes to the log alone.
pub(super) fn in_doubt(merchant: &DamagedMerchant) -> ProxyError {
    tracing::error!(%merchant, "a merchant's record is damaged; a call that may mean it was refused");
    ProxyError::refused(
        ErrorCode::StoreUnavailable,
        "a record that the request may mean is damaged; the log of the sidecar names it",
    )
}

/// The error where several records are left.
pub(super) fn ambiguous(records: &[Record]) -> ProxyError {
    let ids = records.iter().filter_map(Record::id);
    let mut candidates: Vec<_> = ids.map(|(_, auth_app_id)| auth_app_id.to_owned()).collect();
    candidates.sort();
    ProxyError {
        candidates,
        ..ProxyError::refused(
            ErrorCode::MerchantAmbiguous,
            "the PID has several applications; tag by auth_app_id or alias",
        )
    }
}
