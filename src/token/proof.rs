//! Records proved at Alipay: does the token hold, and does it say what the record says?

use crate::model::authorization::{Doubt, Evidence, Refusal};
use crate::model::id::Pid;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::protocol::token_description::TokenDescription;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MerchantKey};
use crate::token::asking::{self, AskError};
use crate::token::{TokenParts, TokenStatus, doubt};

/// Whether a proof may change the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofMode {
    /// It only tells.
    Report,
    /// A missing PID is filled in, a suspicion is cleared where the token holds, and what Alipay,
    /// signed, calls invalid is marked as cancelled.
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
    /// Whether a suspicion was cleared.
    pub cleared: bool,
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
    let mut proof = Proof {
        verdict: verdict(merchant, status, &described),
        described,
        merchant: merchant.clone(),
        pid_filled: false,
        marked: false,
        cleared: false,
    };
    if mode == ProofMode::Settle {
        settle(parts, &mut proof, asked_at).await?;
    }
    Ok(proof)
}

/// Changes the record as the proof calls for.
async fn settle(parts: &TokenParts, proof: &mut Proof, asked_at: i64) -> Result<(), ProofError> {
    let merchant = proof.merchant.clone();
    let is_revoked = matches!(merchant.status, MerchantStatus::Revoked { .. });
    let changes = match proof.verdict {
        Verdict::Differs => return Ok(()),
        Verdict::Invalid if is_revoked => return Ok(()),
        Verdict::Invalid => Vec::new(),
        Verdict::Valid => good_news(proof),
    };
    if proof.verdict == Verdict::Valid && changes.is_empty() {
        return Ok(());
    }
    // The answer is about the token that was asked about, and about no other.
    let is_same = |now: &Merchant| now.token.app_auth_token == merchant.token.app_auth_token;
    let stored = current(parts, &merchant).await?;
    stored.filter(is_same).ok_or(ProofError::Changed)?;
    if proof.verdict == Verdict::Invalid {
        let refusal = Refusal::new(&merchant, Doubt::TokenRefused, asked_at);
        let evidence = Evidence::Invalid;
        proof.marked = doubt::note(
            parts,
            Refusal {
                evidence,
                ..refusal
            },
        )
        .await?;
    } else {
        let effects = parts.store.commit(changes.clone()).await?;
        for (change, effect) in changes.iter().zip(&effects) {
            let applied = matches!(effect, Effect::Applied);
            proof.pid_filled |= applied && matches!(change, Change::FillPid { .. });
            proof.cleared |= applied && matches!(change, Change::Trust { .. });
        }
    }
    proof.merchant = current(parts, &merchant)
        .await?
        .ok_or(ProofError::Changed)?;
    Ok(())
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

/// What a token that holds makes of the record.
fn good_news(proof: &Proof) -> Vec<Change> {
    let merchant = &proof.merchant;
    let (app_id, auth_app_id) = (&merchant.app_id, &merchant.auth_app_id);
    let said = proof.described.user_id.as_deref();
    let pid = said.and_then(|pid| Pid::new(pid).ok());
    let fill = pid.filter(|_| merchant.pid.is_none());
    let fill = fill.map(|pid| Change::FillPid {
        app_id: app_id.clone(),
        auth_app_id: auth_app_id.clone(),
        pid,
    });
    let is_suspect = matches!(merchant.status, MerchantStatus::Suspect { .. });
    let trust = is_suspect.then(|| Change::Trust {
        app_id: app_id.clone(),
        auth_app_id: auth_app_id.clone(),
        app_auth_token: merchant.token.app_auth_token.clone(),
    });
    fill.into_iter().chain(trust).collect()
}
