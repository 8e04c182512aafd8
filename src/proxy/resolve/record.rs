//! The records that a tag names, whether they can be read or not.
//!
//! One that can't be read still counts as one: a call for which two records could be meant isn't made
//! for the other because of the damage.

use std::sync::Arc;

use crate::delivery::whose::Owner;
use crate::model::id::AuthAppId;
use crate::model::merchant::Merchant;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::store::{DamagedMerchant, MerchantKey};

/// What one tag names.
pub(super) enum Named {
    Own,
    Records(Vec<Record>),
}

/// A merchant's record.
pub(super) enum Record {
    Damaged(DamagedMerchant),
    Whole(Arc<Merchant>),
}

impl Record {
    pub(super) fn app_id(&self) -> &str {
        match self {
            Self::Damaged(merchant) => &merchant.app_id,
            Self::Whole(merchant) => merchant.app_id.as_str(),
        }
    }

    pub(super) fn auth_app_id(&self) -> &str {
        match self {
            Self::Damaged(merchant) => &merchant.auth_app_id,
            Self::Whole(merchant) => merchant.auth_app_id.as_str(),
        }
    }

    fn is(&self, other: &Self) -> bool {
        (self.app_id(), self.auth_app_id()) == (other.app_id(), other.auth_app_id())
    }
}

/// Whether a caller may call for whose record it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reached {
    No,
    /// It could be by a name that only the damaged record tells.
    Perhaps,
    Yes,
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
        (Named::Records(mut before), Named::Records(found)) => {
            before.retain(|a| found.iter().any(|b| a.is(b)));
            if before.is_empty() {
                Err(conflict())
            } else {
                Ok(Named::Records(before))
            }
        }
        _ => Err(conflict()),
    }
}

/// The error where several records are left.
pub(super) fn ambiguous(records: &[Record]) -> ProxyError {
    let mut candidates: Vec<_> = records.iter().map(|r| r.auth_app_id().to_owned()).collect();
    candidates.sort();
    ProxyError {
        candidates,
        ..ProxyError::refused(
            ErrorCode::MerchantAmbiguous,
            "the PID has several applications; tag by auth_app_id or alias",
        )
    }
}
