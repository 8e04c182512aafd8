//! Which records a caller may call for, and the words for what it may not.

use std::sync::Arc;

use crate::model::merchant::Merchant;
use crate::model::selector::{self, Selector};
use crate::proxy::caller::Violation;
use crate::proxy::caller::grant::Grant;
use crate::proxy::error::{ErrorCode, ProxyError};
use crate::proxy::resolve::record::{Record, known};
use crate::store::{DamagedMerchant, MerchantKey};

/// Which records there are for a caller, and what it is told where there are none.
#[derive(Clone, Copy)]
pub(super) struct Reach<'a>(pub(super) Option<&'a Grant>);

impl Reach<'_> {
    /// No rules hold.
    pub(super) const EVERYBODY: Self = Self(None);

    /// The record, if it is one of them.
    pub(super) fn whole(self, merchant: Arc<Merchant>) -> Option<Record> {
        let reaches = |grant: &Grant| grant.reaches(&merchant.as_ref().into());
        self.0
            .is_none_or(reaches)
            .then_some(Record::Whole(merchant))
    }

    /// The damaged record that was found by `key`, if it is or may be one of them.
    pub(super) fn damaged(self, merchant: DamagedMerchant, key: &MerchantKey) -> Option<Record> {
        let (auth_app_id, is_row) = match &merchant {
            DamagedMerchant::Record { auth_app_id, .. } => (auth_app_id.parse().ok(), false),
            DamagedMerchant::Row(_) => (None, true),
        };
        let Some(grant) = self.0 else {
            return Some(match is_row {
                true => Record::Doubtful(merchant),
                false => Record::Damaged(merchant),
            });
        };
        let known = known(auth_app_id.as_ref(), key);
        if !is_row && grant.reaches(&known) {
            return Some(Record::Damaged(merchant));
        }
        grant
            .could_reach(&known)
            .then_some(Record::Doubtful(merchant))
    }

    pub(super) fn has_all(self) -> bool {
        self.0.is_none_or(Grant::reaches_all)
    }

    pub(super) fn has_own(self) -> bool {
        self.0.is_none_or(Grant::reaches_own)
    }

    /// The answer where nobody is found under `selector`, or under a text that is none: who may not
    /// call for whom it names isn't told that nobody is there.
    pub(super) fn missing(self, selector: Option<&Selector>, text: &str) -> ProxyError {
        let knows = |grant: &Grant| match selector {
            Some(selector) => grant.knows(selector),
            None => grant.reaches_all(),
        };
        match self.0.is_none_or(knows) {
            true => unknown_merchant(selector, text),
            false => Violation::Merchant.error(),
        }
    }

    pub(super) fn missing_token(self) -> ProxyError {
        match self.has_all() {
            true => unknown_token(),
            false => Violation::Merchant.error(),
        }
    }
}

fn unknown_merchant(selector: Option<&Selector>, text: &str) -> ProxyError {
    let shown = selector::shown(text);
    let detail = match selector {
        Some(_) => format!(
            "no merchant is stored under the selector {shown}; has it authorised the app? `alipay-sidecar merchant list` shows all"
        ),
        None => format!(
            "{shown} is no merchant selector; expected a PID, an auth_app_id or an alias, with or without `pid:`, `app:`, `alias:` in front, or `self`"
        ),
    };
    ProxyError::refused(ErrorCode::MerchantUnknown, detail)
}

fn unknown_token() -> ProxyError {
    ProxyError::refused(
        ErrorCode::TokenUnknown,
        "this sidecar never held the given app_auth_token; import its merchant, or tag by `merchant:{selector}`",
    )
}
