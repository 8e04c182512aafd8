//! `tokens.refresh = "ahead"`: pairs are renewed before the expiry that Alipay stated for them.
//!
//! All merchants are walked through slowly, four times a day, and what is due is read off each
//! record: nothing has to be kept about it, a restart loses nothing, and no write of a merchant
//! pays for an index that is looked at a few times a day. A million merchants take an hour and a half
//! of pages, some 15 ms of work a second.

use std::time::Duration;

use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::{Merchant, MerchantStatus};
use crate::net::shutdown::Shutdown;
use crate::store::MemoKey;
use crate::store::error::StoreError;
use crate::token::Tokens;
use crate::token::error::TokenError;
use crate::token::refresh::Occasion;

/// How long before its stated expiry a pair is renewed at the latest, milliseconds: time enough for
/// an operator to let a merchant authorise again where that fails.
const AHEAD_MS: i64 = 30 * 24 * 3600 * 1000;
/// By how much earlier some are, milliseconds, so that merchants who came on one day don't all fall
/// due on one day.
const SPREAD_MS: i64 = 14 * 24 * 3600 * 1000;
/// How many records are read at once.
const PAGE: usize = 200;

/// How fast the walk goes.
#[derive(Debug, Clone, Copy)]
pub struct Pace {
    /// The pause after each page, and after each refresh.
    pub step: Duration,
    /// The pause between two walks.
    pub round: Duration,
    /// The pause after a refresh that Alipay couldn't be asked for; doubled with each further one.
    pub trouble: Duration,
    /// The longest such pause.
    pub longest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            step: Duration::from_secs(1),
            round: Duration::from_hours(6),
            trouble: Duration::from_secs(60),
            longest: Duration::from_secs(3600),
        }
    }
}

impl Tokens {
    /// Renews pairs ahead of their stated expiry, one at a time, until `shutdown`.
    pub async fn keep_ahead(&self, pace: Pace, shutdown: &Shutdown) {
        while !shutdown.is_given() {
            if let Err(error) = self.walk_ahead(pace, shutdown).await {
                tracing::warn!(%error, "merchants could not be read; tokens are renewed later");
            }
            pause(pace.round, shutdown).await;
        }
    }

    /// Walks through all merchants once and renews what is due; gives how many it renewed.
    ///
    /// # Errors
    /// The store's, when a page can't be read.
    ///
    /// # Cancel safety
    /// Safe: a refresh that has begun goes on by itself.
    pub async fn walk_ahead(&self, pace: Pace, shutdown: &Shutdown) -> Result<u64, StoreError> {
        let mut position: Option<(AppId, AuthAppId)> = None;
        let mut walk = Walk {
            tokens: self,
            pace,
            shutdown,
            failures: 0,
            renewed: 0,
        };
        loop {
            let page = self.parts.store.merchants(position, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(walk.renewed);
            };
            position = Some((last.app_id.clone(), last.auth_app_id.clone()));
            for merchant in &page {
                if shutdown.is_given() {
                    return Ok(walk.renewed);
                }
                if is_due(merchant, self.parts.clock.now_ms()) {
                    walk.renew(merchant).await;
                }
            }
            pause(pace.step, shutdown).await;
        }
    }
}

/// One way through all merchants.
struct Walk<'a> {
    tokens: &'a Tokens,
    pace: Pace,
    shutdown: &'a Shutdown,
    /// Refreshes in a row that Alipay couldn't be asked for.
    failures: u32,
    renewed: u64,
}

impl Walk<'_> {
    /// Renews one pair. What fails is due again at the next walk.
    async fn renew(&mut self, merchant: &Merchant) {
        let auth_app_id = &merchant.auth_app_id;
        let wait = match self.tokens.refresh_for(Occasion::Sidecar, merchant).await {
            Ok(_) => {
                tracing::info!(%auth_app_id, "a token was renewed ahead of its stated expiry");
                self.renewed += 1;
                self.failures = 0;
                self.pace.step
            }
            // Since its page was read.
            Err(TokenError::Removed { .. }) => self.pace.step,
            Err(error) => {
                tracing::warn!(%error, %auth_app_id, "a token could not be renewed ahead of its stated expiry");
                match error.is_refusal() {
                    true => self.pace.step,
                    false => self.trouble(),
                }
            }
        };
        pause(wait, self.shutdown).await;
    }

    fn trouble(&mut self) -> Duration {
        let doubled = 2_u32.saturating_pow(self.failures);
        self.failures = self.failures.saturating_add(1);
        let wait = self.pace.trouble.saturating_mul(doubled);
        wait.min(self.pace.longest)
    }
}

/// Whether the merchant's pair should be renewed at `now`.
fn is_due(merchant: &Merchant, now: i64) -> bool {
    let Some(expiry) = merchant.token.stated_expiry else {
        return false;
    };
    let can = merchant.token.app_refresh_token.is_some() && !merchant.refresh_refused;
    let stands = merchant.status == MerchantStatus::Authorized;
    let ahead = AHEAD_MS.saturating_add(spread(merchant));
    can && stands && now >= expiry.saturating_sub(ahead)
}

/// How much earlier than others this merchant is due: always the same, so that a restart changes
/// nothing.
fn spread(merchant: &Merchant) -> i64 {
    let ids = [merchant.app_id.as_str(), merchant.auth_app_id.as_str()];
    let MemoKey([a, b, c, d, ..]) = MemoKey::new("ahead", &ids);
    i64::from(u32::from_be_bytes([a, b, c, d])).rem_euclid(SPREAD_MS / 1000) * 1000
}

/// Waits, but not beyond `shutdown`.
async fn pause(time: Duration, shutdown: &Shutdown) {
    // The pause ends early on shutdown.
    let _ = tokio::time::timeout(time, shutdown.wait()).await;
}
