//! Users' access tokens (用户授权令牌): kept from verified replies, refreshed when they are due.
//!
//! Invariants: a new token is durable before its first use; one user is refreshed at most once at a
//! time; where the answer to a refresh is lost, neither token is used again.
//!
//! Protocol: alipay.system.oauth.token(换取授权访问令牌): a refresh ends the old access token at once.

use std::sync::Arc;

use crate::flight::Flights;
use crate::gateway::app::SigningApp;
use crate::gateway::error::{GatewayError, Outcome};
use crate::gateway::metrics::Api;
use crate::gateway::v2::{Encryption, V2Call};
use crate::model::merchant::Merchant;
use crate::model::user_token::{UserKey, UserName, UserToken};
use crate::protocol::charset::CharsetLabel;
use crate::protocol::envelope::{Verification, VerifiedEnvelope};
use crate::protocol::params::Params;
use crate::protocol::secret::Secret;
use crate::protocol::user_token_reply::{self, GrantedUserToken};
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MemoKey};
use crate::telemetry::span::Span;
use crate::token::auth_code::AuthCodes;
use crate::token::error::TokenError;
use crate::token::lately::Lately;
use crate::token::refresh::{RENEW_AGAIN_MS, is_about_refresh_token};
use crate::token::storing::{self, STORING};
use crate::token::turn::{Turn, Turns};
use crate::token::{TokenParts, calls};

/// Alipay's name of the method by which users' tokens are bought.
pub const USER_TOKEN_METHOD: &str = "alipay.system.oauth.token";
/// Alipay's `code` of a fault of its own.
const UNAVAILABLE: &str = "20000";
/// How long a refresh that Alipay rejected isn't tried again, milliseconds: every call of the user
/// would ask for one.
const RENEW_EVERY_MS: i64 = 60_000;
/// How many of those are remembered.
const RENEWALS: usize = 10_000;

/// There is no access token to call with. Cheap to clone: all who asked together get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum UserTokenError {
    /// Both tokens have ended.
    #[error("the user's tokens have ended; log the user in again")]
    Expired,
    /// A bug ended the work.
    #[error("the refresh of the user's token ended in a bug; see the log")]
    Internal,
    /// Whether the refresh was made is unknown.
    #[error(
        "the answer to a refresh of the user's token was lost, and the old token may be dead; log \
         the user in again"
    )]
    Lost,
    /// Alipay refused the refresh token.
    #[error("Alipay refused to refresh the user's token: {sub_code}; log the user in again")]
    Refused {
        /// Alipay's `sub_code`.
        sub_code: String,
    },
    /// Alipay refused the refresh for another reason than its token: nothing was executed.
    #[error("the user's token is due, and could not be refreshed: {sub_code} ({code})")]
    Rejected {
        /// Alipay's `code`.
        code: String,
        /// Alipay's `sub_code`.
        sub_code: String,
    },
    /// The store couldn't be read or written.
    #[error("the store failed: {0}")]
    Store(Arc<StoreError>),
    /// Never logged in, or forgotten since.
    #[error(
        "no access token of this user is kept for this merchant; log the user in by \
         alipay.system.oauth.token"
    )]
    Unknown,
    /// Nothing could be sent.
    #[error("the user's token is due, and could not be refreshed: {0}")]
    Unsent(Arc<GatewayError>),
}

impl From<StoreError> for UserTokenError {
    fn from(error: StoreError) -> Self {
        Self::Store(Arc::new(error))
    }
}

/// Keeps and refreshes users' tokens. Clones share what is under way.
#[derive(Clone)]
pub struct UserTokens {
    parts: Arc<TokenParts>,
    refreshes: Flights<MemoKey, Result<UserToken, UserTokenError>>,
    keeping: Flights<MemoKey, Result<(), TokenError>>,
    failed: Lately<MemoKey, UserTokenError>,
    turns: Turns,
    codes: AuthCodes,
}

impl UserTokens {
    pub(super) fn new(parts: Arc<TokenParts>) -> Self {
        Self {
            codes: AuthCodes::new(Arc::clone(&parts)),
            parts,
            refreshes: Flights::new(),
            keeping: Flights::new(),
            failed: Lately::new(RENEWALS),
            turns: Turns::default(),
        }
    }

    pub(super) fn reconfigured(&self, parts: Arc<TokenParts>) -> Self {
        Self {
            codes: self.codes.reconfigured(Arc::clone(&parts)),
            parts,
            ..self.clone()
        }
    }

    /// Whether users are remembered: `tokens.remember_users`.
    #[must_use]
    pub fn are_kept(&self) -> bool {
        self.parts.remember_users
    }

    /// The codes that were sent to Alipay.
    #[must_use]
    pub fn codes(&self) -> &AuthCodes {
        &self.codes
    }

    /// Keeps the tokens in `node`, a verified success of [`USER_TOKEN_METHOD`], unless users
    /// aren't remembered.
    ///
    /// # Errors
    /// [`TokenError::Reply`] when the node holds no token or names no user, [`TokenError::Store`];
    /// [`TokenError::Unstored`] where the store doesn't take them yet.
    ///
    /// # Cancel safety
    /// Safe: they are kept in a task of its own, for as long as the process lives.
    pub async fn absorb(
        &self,
        app: &SigningApp,
        merchant: Option<&Merchant>,
        node: &[u8],
    ) -> Result<(), TokenError> {
        if !self.are_kept() {
            return Ok(());
        }
        let granted = user_token_reply::parse(node).map_err(TokenError::Reply)?;
        let token = UserToken {
            app_id: app.app_id.clone(),
            auth_app_id: merchant.map(|merchant| merchant.auth_app_id.clone()),
            user_id: name(granted.user_id.as_deref()),
            open_id: name(granted.open_id.as_deref()),
            ..self.bought(granted, app)
        };
        if token.key().is_none() {
            tracing::warn!(app_id = %app.app_id, "a user's token was not kept: its reply names no user");
            return Ok(());
        }
        let key = MemoKey::new("keep-user", &[token.access_token.expose()]);
        let parts = Arc::clone(&self.parts);
        let work = async move {
            let kept = storing::keep_login(&parts, token).await;
            kept.map_err(TokenError::from)
        };
        storing::until_stored(STORING, self.keeping.run(key, work)).await
    }

    /// Waits for the right to spend a user's `refresh_token`, as [`super::Tokens::turn`] does for a
    /// merchant's.
    ///
    /// # Cancel safety
    /// Safe: who leaves gives up the place in the queue.
    pub async fn turn(&self, refresh_token: &Secret<String>) -> Turn {
        self.turns.take(refresh_token).await
    }

    /// The user's token as it is to be sent now: refreshed first where it is due.
    ///
    /// # Errors
    /// [`UserTokenError`].
    ///
    /// # Cancel safety
    /// Safe: a refresh goes on in a task of its own.
    pub async fn current(
        &self,
        key: UserKey,
        merchant: Option<&Merchant>,
    ) -> Result<UserToken, UserTokenError> {
        let stored = self.parts.store.user(key).await?;
        let token = usable(stored)?;
        let now = self.parts.clock.now_ms();
        if !token.is_due(now) {
            return Ok(token);
        }
        let refreshed = match token.can_be_refreshed(now) {
            true => self.refresh(&token, merchant).await,
            false => Err(UserTokenError::Expired),
        };
        match refreshed {
            // The old one holds to its end, as long as nothing was executed.
            Err(
                UserTokenError::Expired
                | UserTokenError::Rejected { .. }
                | UserTokenError::Unsent(_),
            ) if !token.has_expired(now) => Ok(token),
            other => other,
        }
    }

    /// The token that takes the place of `used`, which Alipay said has timed out: the one stored
    /// meanwhile, or a refreshed one.
    ///
    /// # Errors
    /// [`UserTokenError`].
    ///
    /// # Cancel safety
    /// Safe: a refresh goes on in a task of its own.
    pub async fn renewed(
        &self,
        used: &UserToken,
        merchant: Option<&Merchant>,
    ) -> Result<UserToken, UserTokenError> {
        match used.can_be_refreshed(self.parts.clock.now_ms()) {
            true => self.refresh(used, merchant).await,
            false => self.replaced(used).await,
        }
    }

    /// Forgets `used`, which Alipay said is invalid. Where another token was stored meanwhile, it
    /// gives that one; a refresh that is under way is waited for, since it is what ends the old one.
    ///
    /// # Errors
    /// [`UserTokenError`]: there is none.
    ///
    /// # Cancel safety
    /// Safe: what was handed to the store is done.
    pub async fn replaced(&self, used: &UserToken) -> Result<UserToken, UserTokenError> {
        let _turn = match &used.refresh_token {
            Some(refresh_token) => Some(self.turns.take(refresh_token).await),
            None => None,
        };
        self.forget(used).await
    }

    /// The same, in the turn of its refresh token.
    async fn forget(&self, used: &UserToken) -> Result<UserToken, UserTokenError> {
        let key = used.key().ok_or(UserTokenError::Unknown)?;
        let change = Change::ForgetUser {
            key: key.clone(),
            only: Some(used.access_token.clone()),
            obtained_until: None,
        };
        self.parts.store.commit(vec![change]).await?;
        usable(self.parts.store.user(key).await?)
    }

    /// Ends once no refresh is under way.
    pub(super) async fn landed(&self) {
        self.refreshes.landed().await;
        self.keeping.landed().await;
    }

    /// Refreshes a token, once for all who ask together.
    async fn refresh(
        &self,
        known: &UserToken,
        merchant: Option<&Merchant>,
    ) -> Result<UserToken, UserTokenError> {
        let flight = MemoKey::new("user-refresh", &[known.access_token.expose()]);
        let now = self.parts.clock.now_ms();
        // With another token of the merchant's, another attempt.
        let token = merchant.map(|merchant| merchant.token.app_auth_token.expose().as_str());
        let access_token = known.access_token.expose().as_str();
        let attempt = MemoKey::new("user-renewal", &[access_token, token.unwrap_or_default()]);
        if let Some(error) = self.failed.get(&attempt, now) {
            return Err(error);
        }
        let (users, known, merchant) = (self.clone(), known.clone(), merchant.cloned());
        let work = async move {
            let result = users.refresh_now(&known, merchant.as_ref()).await;
            users.parts.metrics.user_refreshed(&result);
            result
        };
        let result = self.refreshes.run(flight, work).await;
        let result = result.unwrap_or(Err(UserTokenError::Internal));
        // After any other error the token is gone, and another would have another key.
        if let Err(error @ (UserTokenError::Rejected { .. } | UserTokenError::Unsent(_))) = &result
        {
            let pause = match error {
                UserTokenError::Unsent(_) => RENEW_AGAIN_MS,
                _ => RENEW_EVERY_MS,
            };
            let now = self.parts.clock.now_ms();
            self.failed.put(attempt, error.clone(), now, pause);
        }
        result
    }

    async fn refresh_now(
        &self,
        known: &UserToken,
        merchant: Option<&Merchant>,
    ) -> Result<UserToken, UserTokenError> {
        let key = known.key().ok_or(UserTokenError::Unknown)?;
        let refresh_token = known.refresh_token.as_ref();
        let refresh_token = refresh_token.ok_or(UserTokenError::Expired)?;
        let _turn = self.turns.take(refresh_token).await;
        let stored = usable(self.parts.store.user(key.clone()).await?)?;
        if stored.access_token != known.access_token {
            return Ok(stored);
        }
        if !self.parts.store.is_writable() {
            let reason = "it takes no writes at present, or its disk is full, so nothing was sent"
                .to_owned();
            return Err(StoreError::Unavailable { reason }.into());
        }
        match self.buy(known, refresh_token, merchant).await {
            Ok(granted) => self.replace(known, granted).await,
            Err(Failed::Refused { sub_code }) => {
                // Whoever logged in meanwhile keeps the new token.
                self.forget(known)
                    .await
                    .map_err(|_| UserTokenError::Refused { sub_code })
            }
            Err(Failed::Lost) => {
                self.mark_lost(known).await;
                Err(UserTokenError::Lost)
            }
            Err(Failed::Other(error)) => Err(error),
        }
    }

    /// Stores what a refresh bought; it is used from then on.
    async fn replace(
        &self,
        known: &UserToken,
        granted: GrantedUserToken,
    ) -> Result<UserToken, UserTokenError> {
        let key = known.key().ok_or(UserTokenError::Unknown)?;
        let app = calls::app(&self.parts, &known.app_id).map_err(|_| UserTokenError::Internal)?;
        let bought = self.bought(granted, &app);
        let token = UserToken {
            access_token: bought.access_token,
            refresh_token: bought.refresh_token,
            obtained_at: bought.obtained_at,
            expires_at: bought.expires_at,
            scope: bought.scope.or_else(|| known.scope.clone()),
            // A refresh doesn't move the end.
            ends_at: known.ends_at.or(bought.ends_at),
            ..known.clone()
        };
        let change = Change::KeepUserToken {
            token: Box::new(token.clone()),
            replaces: Some(known.access_token.clone()),
        };
        let effects = storing::commit_bought(&self.parts, vec![change]).await?;
        match effects.first() {
            // A login or a cancellation came in between.
            Some(Effect::Stale) => usable(self.parts.store.user(key).await?),
            _ => Ok(token),
        }
    }

    async fn mark_lost(&self, known: &UserToken) {
        let app_id = &known.app_id;
        tracing::warn!(%app_id, "the answer to a refresh of a user's token was lost; the user must log in again");
        let lost = UserToken {
            is_lost: true,
            ..known.clone()
        };
        let change = Change::KeepUserToken {
            token: Box::new(lost),
            replaces: Some(known.access_token.clone()),
        };
        if let Err(error) = storing::commit(&self.parts, vec![change]).await {
            tracing::error!(%error, %app_id, "a user's lost token could not be marked");
        }
    }

    async fn buy(
        &self,
        known: &UserToken,
        refresh_token: &Secret<String>,
        merchant: Option<&Merchant>,
    ) -> Result<GrantedUserToken, Failed> {
        let app = calls::app(&self.parts, &known.app_id);
        let app = app.map_err(|_| Failed::Other(UserTokenError::Internal))?;
        let mut parameters = Params::new();
        parameters.set("grant_type", "refresh_token");
        parameters.set("refresh_token", refresh_token.expose().as_str());
        let call = V2Call {
            files: Vec::new(),
            app,
            app_auth_token: merchant.map(|merchant| merchant.token.app_auth_token.clone()),
            method: USER_TOKEN_METHOD.to_owned(),
            parameters,
            charset: CharsetLabel::default(),
            encryption: Encryption::Ours,
            timeout: self.parts.timeout,
            api: Api::Internal,
            span: Span::default(),
        };
        match self.parts.gateway.call(&call).await {
            Ok(reply) => granted(&reply.envelope),
            Err(error) if error.outcome() == Outcome::NotSent => {
                Err(Failed::Other(UserTokenError::Unsent(Arc::new(error))))
            }
            Err(_) => Err(Failed::Lost),
        }
    }

    /// What was bought now; whose it is, its caller knows.
    fn bought(&self, granted: GrantedUserToken, app: &SigningApp) -> UserToken {
        let now = self.parts.clock.now_ms();
        let ends = |seconds: Option<u64>| {
            let ms = i64::try_from(seconds?).ok()?.checked_mul(1000)?;
            now.checked_add(ms)
        };
        UserToken {
            app_id: app.app_id.clone(),
            auth_app_id: None,
            user_id: None,
            open_id: None,
            scope: granted.scope,
            access_token: granted.access_token,
            refresh_token: granted.refresh_token,
            obtained_at: now,
            expires_at: ends(granted.expires_in),
            ends_at: ends(granted.re_expires_in),
            is_lost: false,
        }
    }
}

impl std::fmt::Debug for UserTokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("UserTokens")
    }
}

/// Why a refresh bought nothing.
enum Failed {
    /// Nobody knows whether it was made.
    Lost,
    /// Nothing was executed.
    Other(UserTokenError),
    /// The refresh token is bad.
    Refused { sub_code: String },
}

/// A success has no `code`.
fn granted(envelope: &VerifiedEnvelope) -> Result<GrantedUserToken, Failed> {
    let code = envelope.code().unwrap_or_default().to_owned();
    let sub_code = envelope.sub_code().unwrap_or_default().to_owned();
    if envelope.verification() != Verification::Signed || code == UNAVAILABLE {
        return Err(Failed::Lost);
    }
    if matches!(code.as_str(), "" | "10000") {
        let node = Secret::new(envelope.node_text());
        let granted = user_token_reply::parse(node.expose().as_bytes());
        return granted.map_err(|_| Failed::Lost);
    }
    Err(match is_about_refresh_token(&sub_code) {
        true => Failed::Refused { sub_code },
        false => Failed::Other(UserTokenError::Rejected { code, sub_code }),
    })
}

fn usable(stored: Option<UserToken>) -> Result<UserToken, UserTokenError> {
    match stored {
        None => Err(UserTokenError::Unknown),
        Some(token) if token.is_lost => Err(UserTokenError::Lost),
        Some(token) => Ok(token),
    }
}

fn name(text: Option<&str>) -> Option<UserName> {
    text.and_then(UserName::new)
}
