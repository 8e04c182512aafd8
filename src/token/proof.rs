//! Records proved at Alipay: does the token hold, and does it say what the record says?

use crate::model::authorization::{Doubt, Evidence, Refusal};
use crate::model::id::Pid;
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::protocol::token_description::TokenDescription;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MerchantKey};
use crate::token::asking::{self, AskError};
use crate::token::{Remedy, TokenParts, TokenStatus, Tokens, doubt};

/// Whether a proof may change the record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ProofMode {
    /// It only tells.
    Report,
    /// A missing PID is filled in, and a suspicion is cleared where the token holds. What Alipay,
    /// signed, calls invalid is renewed where that can be, and marked as cancelled where nothing is
    /// left that holds; else the merchant is suspect.
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
    /// Whether the token didn't hold, and a new pair was bought: the verdict is about that one.
    pub renewed: bool,
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

impl Tokens {
    /// Proves the record of `merchant` by what Alipay says of its token.
    ///
    /// # Errors
    /// [`ProofError`].
    ///
    /// # Cancel safety
    /// Safe: what was found is stored as a whole or not at all.
    pub async fn prove(&self, merchant: &Merchant, mode: ProofMode) -> Result<Proof, ProofError> {
        prove(self, merchant, mode).await
    }
}

async fn prove(tokens: &Tokens, merchant: &Merchant, mode: ProofMode) -> Result<Proof, ProofError> {
    let parts = &*tokens.parts;
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
        renewed: false,
    };
    if mode == ProofMode::Report {
        return Ok(proof);
    }
    match proof.verdict {
        Verdict::Differs => {}
        Verdict::Invalid => settle_invalid(tokens, &mut proof, asked_at).await?,
        Verdict::Valid => settle_valid(parts, &mut proof).await?,
    }
    Ok(proof)
}

/// Looks for what still holds; where nothing does, the merchant has cancelled.
async fn settle_invalid(
    tokens: &Tokens,
    proof: &mut Proof,
    asked_at: i64,
) -> Result<(), ProofError> {
    let merchant = proof.merchant.clone();
    if let MerchantStatus::Revoked { .. } = merchant.status {
        return Ok(());
    }
    unchanged(&tokens.parts, &merchant).await?;
    let (doubt, evidence) = match tokens.remedy(&merchant).await {
        Remedy::Renewed(renewed) => return settle_renewed(tokens, proof, *renewed).await,
        Remedy::Nothing => (Doubt::TokenRefused, Evidence::Invalid),
        Remedy::Previous => (Doubt::NewTokenRefused, Evidence::None),
        Remedy::Unknown => (Doubt::TokenRefused, Evidence::None),
    };
    unchanged(&tokens.parts, &merchant).await?;
    let refusal = Refusal {
        evidence,
        ..Refusal::new(&merchant, doubt, asked_at)
    };
    let is_new = doubt::note(&tokens.parts, refusal).await?;
    proof.marked = is_new && evidence == Evidence::Invalid;
    proof.merchant = stored(&tokens.parts, &merchant).await?;
    Ok(())
}

/// The verdict is about the new pair from now on.
async fn settle_renewed(
    tokens: &Tokens,
    proof: &mut Proof,
    renewed: Merchant,
) -> Result<(), ProofError> {
    let parts = &*tokens.parts;
    proof.merchant = renewed;
    proof.renewed = true;
    let token = &proof.merchant.token.app_auth_token;
    let (status, described) = asking::describe(parts, &proof.merchant.app_id, token).await?;
    proof.verdict = verdict(&proof.merchant, status, &described);
    proof.described = described;
    match proof.verdict {
        Verdict::Valid => settle_valid(parts, proof).await,
        Verdict::Differs | Verdict::Invalid => Ok(()),
    }
}

async fn settle_valid(parts: &TokenParts, proof: &mut Proof) -> Result<(), ProofError> {
    let changes = good_news(proof);
    if changes.is_empty() {
        return Ok(());
    }
    unchanged(parts, &proof.merchant).await?;
    let effects = parts.store.commit(changes.clone()).await?;
    for (change, effect) in changes.iter().zip(&effects) {
        let applied = matches!(effect, Effect::Applied);
        proof.pid_filled |= applied && matches!(change, Change::FillPid { .. });
        proof.cleared |= applied && matches!(change, Change::Trust { .. });
    }
    proof.merchant = stored(parts, &proof.merchant).await?;
    Ok(())
}

/// Makes sure that the record still has the token that was asked about: the answer is about no other.
async fn unchanged(parts: &TokenParts, merchant: &Merchant) -> Result<(), ProofError> {
    let now = stored(parts, merchant).await?;
    match now.token.app_auth_token == merchant.token.app_auth_token {
        true => Ok(()),
        false => Err(ProofError::Changed),
    }
}

async fn stored(parts: &TokenParts, merchant: &Merchant) -> Result<Merchant, ProofError> {
    current(parts, merchant).await?.ok_or(ProofError::Changed)
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
