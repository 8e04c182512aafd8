//! Records proved at Alipay: does the token hold, and does it say what the record says?

use crate::model::authorization::Revocation;
use crate::model::event::MERCHANT_REVOKED;
use crate::model::id::{EventId, Pid};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::model::notification::{DeliveryForm, InboxEntry};
use crate::protocol::token_description::TokenDescription;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MerchantKey};
use crate::token::asking::{self, AskError};
use crate::token::{TokenParts, TokenStatus};

/// Whether a proof may change the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofMode {
    /// It only tells.
    Report,
    /// A missing PID is filled in, and what Alipay, signed, calls invalid is marked as cancelled.
    Settle,
}

/// What Alipay says of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// The token holds, but is another merchant's, or another of its apps'.
    Differs,
    /// The token doesn't hold.
    Invalid,
    /// The token holds, and says what the record says.
    Valid,
}

impl Verdict {
    /// The word for reports.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Differs => "differs",
            Self::Invalid => "invalid",
            Self::Valid => "valid",
        }
    }
}

/// A record and what Alipay says of it.
#[derive(Debug, Clone)]
pub struct Proof {
    /// The verdict.
    pub verdict: Verdict,
    /// All that Alipay says.
    pub described: TokenDescription,
    /// The record as it is now.
    pub merchant: Merchant,
    /// Whether a missing PID was filled in.
    pub pid_filled: bool,
    /// Whether the record was marked as cancelled.
    pub marked: bool,
}

/// Why a record wasn't proved.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ProofError {
    /// Alipay couldn't be asked, or didn't say.
    #[error(transparent)]
    Ask(#[from] AskError),
    /// The record got another token while Alipay was asked, or is gone.
    #[error("the record changed while Alipay was asked; verify it again")]
    Changed,
    /// The store couldn't be read or written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

pub(super) async fn prove(
    parts: &TokenParts,
    merchant: &Merchant,
    mode: ProofMode,
) -> Result<Proof, ProofError> {
    let asked_at = parts.clock.now_ms();
    let token = &merchant.token.app_auth_token;
    let (status, described) = asking::describe(parts, &merchant.app_id, token).await?;
    let verdict = verdict(merchant, status, &described);
    let mut proof = Proof {
        verdict,
        described,
        merchant: merchant.clone(),
        pid_filled: false,
        marked: false,
    };
    let change = match mode {
        ProofMode::Report => None,
        ProofMode::Settle => settlement(&proof, asked_at, parts.clock.now_ms()),
    };
    let Some(change) = change else {
        return Ok(proof);
    };
    // The answer is about the token that was asked about, and about no other.
    let is_same = |now: &Merchant| now.token.app_auth_token == *token;
    current(parts, merchant)
        .await?
        .filter(is_same)
        .ok_or(ProofError::Changed)?;
    let is_mark = matches!(change, Change::Revoke { .. });
    let effects = parts.store.commit(vec![change]).await?;
    let applied = matches!(effects.first(), Some(Effect::Applied));
    proof.marked = applied && is_mark;
    proof.pid_filled = applied && !is_mark;
    if proof.marked {
        parts.wake.notify_one();
    }
    proof.merchant = current(parts, merchant).await?.ok_or(ProofError::Changed)?;
    Ok(proof)
}

async fn current(parts: &TokenParts, merchant: &Merchant) -> Result<Option<Merchant>, StoreError> {
    let (app_id, auth_app_id) = (merchant.app_id.clone(), merchant.auth_app_id.clone());
    let key = MerchantKey::Exact(app_id, auth_app_id);
    Ok(parts.store.find(key).await?.pop())
}

fn verdict(merchant: &Merchant, status: TokenStatus, said: &TokenDescription) -> Verdict {
    let own_app = said.auth_app_id.as_deref();
    let own_pid = said.user_id.as_deref();
    let pid = merchant.pid.as_ref().map(Pid::as_str);
    let is_other = own_app.is_some_and(|id| id != merchant.auth_app_id.as_str())
        || own_pid.zip(pid).is_some_and(|(said, known)| said != known);
    match status {
        TokenStatus::Invalid => Verdict::Invalid,
        TokenStatus::Valid if is_other => Verdict::Differs,
        TokenStatus::Valid => Verdict::Valid,
    }
}

/// What the proof makes of the record, if anything.
fn settlement(proof: &Proof, asked_at: i64, now: i64) -> Option<Change> {
    let merchant = &proof.merchant;
    match proof.verdict {
        Verdict::Differs => None,
        Verdict::Invalid if merchant.status != MerchantStatus::Authorized => None,
        Verdict::Invalid => {
            // Newer than what was asked about, older than whatever comes meanwhile.
            let at = asked_at.max(merchant.auth_time.saturating_add(1));
            Some(Change::Revoke {
                revocation: Revocation::new(merchant, Some(at)),
                entry: Some(Box::new(event_entry(merchant, now))),
            })
        }
        Verdict::Valid if merchant.pid.is_some() => None,
        Verdict::Valid => {
            let pid = proof.described.user_id.as_deref()?;
            Some(Change::FillPid {
                app_id: merchant.app_id.clone(),
                auth_app_id: merchant.auth_app_id.clone(),
                pid: Pid::new(pid).ok()?,
            })
        }
    }
}

fn event_entry(merchant: &Merchant, now: i64) -> InboxEntry {
    InboxEntry {
        id: EventId::new(now),
        app_id: merchant.app_id.clone(),
        notify_id: None,
        event_type: MERCHANT_REVOKED.to_owned(),
        auth_app_id: Some(merchant.auth_app_id.clone()),
        pid: merchant.pid.clone(),
        received_at: now,
        notify_path: String::new(),
        order_key: None,
        opened_content: None,
        scheme: None,
        body: None,
        event: None,
        form: DeliveryForm::Event,
    }
}
