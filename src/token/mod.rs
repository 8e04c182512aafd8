//! The life of an `app_auth_token` (应用授权令牌): exchanged, refreshed, asked about.
//!
//! Invariants: a new pair is durable before anybody uses it; one code is exchanged and one record
//! refreshed at most once at a time; nothing whose outcome is unknown is tried again by itself.
//! No token is ever refreshed to be safe: they hold until the merchant cancels.
//!
//! Protocol: 第三方应用授权, “使用 app_auth_code 换取 app_auth_token”.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::flight::Flights;
use crate::gateway::Gateway;
use crate::gateway::app::{Apps, SigningApp};
use crate::model::authorization::{Authorization, Doubt, Rank, Refusal, Source};
use crate::model::id::{AppId, AuthAppId};
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::protocol::token_description::TokenDescription;
use crate::protocol::token_reply;
use crate::store::error::StoreError;
use crate::store::{MemoKey, Store};

mod ahead;
mod asking;
pub mod auth_code;
mod calls;
mod content_key;
mod doubt;
pub mod error;
mod exchange;
mod greeting;
mod lately;
mod learn;
pub mod metrics;
mod proof;
mod refresh;
mod refused_code;
mod remedy;
mod spent;
mod storing;
mod turn;
pub mod users;

use content_key::ContentKeys;
use doubt::Doubts;
use error::TokenError;
use lately::Lately;
use learn::Learning;
use metrics::TokenMetrics;
use refresh::Occasion;
use spent::SpentReplies;
use turn::Turns;
use users::UserTokens;

pub use ahead::Pace;
pub use asking::AskError;
pub use calls::TokenStatus;
pub use content_key::ContentKeyError;
pub use doubt::{SecondChoice, TokenVerdict};
pub use exchange::Slot;
pub use greeting::{Dialect, Greeting};
pub use learn::LearnError;
pub use proof::{Proof, ProofError, ProofMode, Verdict};
pub use remedy::Remedy;
pub use spent::{SpentForm, SpentReply};
pub use turn::Turn;

/// Alipay's name of the method that exchanges and refreshes.
pub const TOKEN_METHOD: &str = "alipay.open.auth.token.app";

/// How many codes are exchanged at once. The callback is open to the world, and whoever sends it
/// rubbish has us ask Alipay, whose patience with an app is limited, too.
const EXCHANGES: usize = 16;

/// How long a code that Alipay refused isn't sent again, milliseconds.
const REFUSED_MS: i64 = 600_000;
/// How many of those are remembered.
const REFUSED: usize = 10_000;

/// How long, beyond the calls to Alipay, an asker waits for what was bought to be stored.
const STORING: Duration = Duration::from_secs(5);
/// How long a refresh that was refused isn't tried again for calls, milliseconds: every call with a
/// token that timed out would ask for one.
const RENEW_EVERY_MS: i64 = 60_000;
/// The same where it failed in another way: it may work with the next call.
const RENEW_AGAIN_MS: i64 = 1_000;
/// How many of those are remembered.
const RENEWALS: usize = 10_000;

/// What [`Tokens`] works with.
pub struct TokenParts {
    /// Where records are kept.
    pub store: Arc<dyn Store>,
    /// Calls Alipay.
    pub gateway: Gateway,
    /// The apps that can sign.
    pub apps: Apps,
    /// Tells the time.
    pub clock: Arc<dyn Clock>,
    /// Deadline of one call to Alipay.
    pub timeout: Duration,
    /// Counts refreshes.
    pub metrics: TokenMetrics,
    /// Whether users' tokens are kept.
    pub remember_users: bool,
    /// Told when an event was stored that is owed to the backend.
    pub wake: Arc<Notify>,
}

/// Exchanges, refreshes and asks about merchants' tokens. Clones share what is under way.
#[derive(Clone)]
pub struct Tokens {
    parts: Arc<TokenParts>,
    exchanges: Flights<MemoKey, Result<Vec<Merchant>, TokenError>>,
    slots: Arc<Semaphore>,
    refused: Lately<MemoKey, TokenError>,
    refreshes: Flights<MemoKey, Result<Merchant, TokenError>>,
    failed: Lately<MemoKey, TokenError>,
    turns: Turns,
    spent: SpentReplies,
    content_keys: ContentKeys,
    users: UserTokens,
    doubts: Doubts,
    learning: Learning,
}

/// What is known about whose authorisation an exchange is.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ExchangeContext {
    /// The ISV's own tenant id, from the link's `ref=`.
    pub reference: Option<String>,
    /// Whether a `state` of ours named who began it.
    pub bound: bool,
}

impl Tokens {
    /// Tokens that work with `parts`.
    #[must_use]
    pub fn new(parts: TokenParts) -> Self {
        let parts = Arc::new(parts);
        Self {
            users: UserTokens::new(Arc::clone(&parts)),
            parts,
            exchanges: Flights::new(),
            slots: Arc::new(Semaphore::new(EXCHANGES)),
            refused: Lately::new(REFUSED),
            refreshes: Flights::new(),
            failed: Lately::new(RENEWALS),
            turns: Turns::default(),
            spent: SpentReplies::new(),
            content_keys: ContentKeys::new(),
            doubts: Doubts::new(),
            learning: Learning::new(),
        }
    }

    /// The same with other parts: what is under way goes on with its own, and what is remembered
    /// stays known.
    #[must_use]
    pub fn reconfigured(&self, parts: TokenParts) -> Self {
        let parts = Arc::new(parts);
        Self {
            users: self.users.reconfigured(Arc::clone(&parts)),
            parts,
            ..self.clone()
        }
    }

    /// Exchanges an `app_auth_code` and stores every token it gives, in one commit.
    ///
    /// The same code again gives the same merchants for 24 h without asking Alipay; who asks
    /// while it is under way joins. A code is good for one exchange, so a lost answer is an error
    /// whose outcome is unknown, and never a second try.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::may_be_about_code`] tells a bad code from an Alipay that couldn't
    /// be asked, or doesn't let the app ask.
    ///
    /// # Cancel safety
    /// Safe: the exchange goes on in a task of its own.
    pub async fn exchange(
        &self,
        app: &Arc<SigningApp>,
        code: &Secret<String>,
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        self.exchange_in(None, (app, code), context).await
    }

    /// Whether a code was exchanged before, so that it gives its merchants again without a question
    /// to Alipay.
    ///
    /// # Errors
    /// The store's.
    ///
    /// # Cancel safety
    /// Safe: it only reads.
    pub async fn is_exchanged(
        &self,
        app: &SigningApp,
        code: &Secret<String>,
    ) -> Result<bool, StoreError> {
        let (key, now) = (exchange::key(&app.app_id, code), self.parts.clock.now_ms());
        Ok(self.parts.store.recall(key, now).await?.is_some())
    }

    /// The right to one exchange, for who has something to do first that must not be done in vain.
    ///
    /// # Errors
    /// [`TokenError::Overloaded`].
    pub fn slot(&self) -> Result<Slot, TokenError> {
        Slot::take(&self.slots)
    }

    /// As [`Tokens::exchange`], with the right to it that was taken before, if one was.
    ///
    /// # Errors
    /// As there.
    ///
    /// # Cancel safety
    /// As there.
    pub async fn exchange_in(
        &self,
        slot: Option<Slot>,
        (app, code): (&Arc<SigningApp>, &Secret<String>),
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        exchange::check_code(code)?;
        let key = exchange::key(&app.app_id, code);
        let now = self.parts.clock.now_ms();
        if let Some(error) = self.refused.get(&key, now) {
            return Err(error);
        }
        let (parts, app, code) = (Arc::clone(&self.parts), Arc::clone(app), code.clone());
        let (slots, refused) = (Arc::clone(&self.slots), self.refused.clone());
        let work = async move {
            let result = exchange::run(&parts, (&slots, slot), (&app, &code), context).await;
            if let Err(error) = &result
                && exchange::is_about_code(error)
            {
                refused.put(key, error.clone(), now, REFUSED_MS);
            }
            result
        };
        let landed = self.exchanges.run(key, work);
        self.unless_unstored(landed).await
    }

    /// Waits for an exchange or a refresh, but not for a store that doesn't take what was bought.
    async fn unless_unstored<T>(
        &self,
        landed: impl Future<Output = Option<Result<T, TokenError>>>,
    ) -> Result<T, TokenError> {
        let patience = self.parts.timeout.saturating_mul(2) + STORING;
        storing::until_stored(patience, landed).await
    }

    /// Whether tokens that are bought now could be stored.
    #[must_use]
    pub fn can_be_stored(&self) -> bool {
        self.parts.store.is_writable()
    }

    /// Stores the tokens in `node`, a verified reply to a call of [`TOKEN_METHOD`] that somebody
    /// else made.
    ///
    /// # Errors
    /// [`TokenError::Reply`] when the node holds no token, [`TokenError::Store`];
    /// [`TokenError::Unstored`] where the store doesn't take them yet.
    ///
    /// # Cancel safety
    /// Safe: the tokens are stored in a task of its own, for as long as the process lives.
    pub async fn absorb(
        &self,
        app: &SigningApp,
        node: &[u8],
        source: Source,
    ) -> Result<Vec<Merchant>, TokenError> {
        self.absorb_in(None, (app, source), node).await
    }

    /// The same in the turn of the refresh token that was spent, which ends with it.
    ///
    /// # Errors
    /// As [`Tokens::absorb`].
    ///
    /// # Cancel safety
    /// As there.
    pub async fn absorb_in(
        &self,
        turn: Option<Turn>,
        (app, source): (&SigningApp, Source),
        node: &[u8],
    ) -> Result<Vec<Merchant>, TokenError> {
        let granted = token_reply::parse(node).map_err(TokenError::Reply)?;
        let key = MemoKey::new("absorb", &[&String::from_utf8_lossy(node)]);
        let (parts, app_id) = (Arc::clone(&self.parts), app.app_id.clone());
        let work = async move {
            // A refresh goes on with what was authorised before; an exchange had no `state` of ours.
            let context = ExchangeContext {
                reference: None,
                bound: source == Source::Refresh,
            };
            let found = storing::Found {
                app_id: &app_id,
                source,
                rank: Rank::AfterStored,
                context: &context,
            };
            let stored = storing::store(&parts, &found, granted, None).await;
            drop(turn);
            stored
        };
        storing::until_stored(STORING, self.exchanges.run(key, work)).await
    }

    /// Buys a new pair with the merchant's `app_refresh_token` and stores it.
    ///
    /// It is for the operator: a merchant who has cancelled is revived by it where Alipay agrees.
    /// `merchant` is the record as its caller knew it: if another refresh has replaced its token
    /// meanwhile, the record of today is given and Alipay isn't asked. The former pair is kept.
    ///
    /// # Errors
    /// [`TokenError`]; when its outcome is unknown, the stored pair may still be good, and the
    /// refresh may be asked for again.
    ///
    /// # Cancel safety
    /// Safe: the refresh goes on in a task of its own.
    pub async fn refresh(&self, merchant: &Merchant) -> Result<Merchant, TokenError> {
        self.refresh_for(Occasion::Operator, merchant).await
    }

    async fn refresh_for(
        &self,
        occasion: Occasion,
        merchant: &Merchant,
    ) -> Result<Merchant, TokenError> {
        let (app_id, auth_app_id) = (merchant.app_id.as_str(), merchant.auth_app_id.as_str());
        let key = MemoKey::new("refresh", &[occasion.as_str(), app_id, auth_app_id]);
        let (parts, merchant) = (Arc::clone(&self.parts), merchant.clone());
        let (turns, spent) = (self.turns.clone(), self.spent.clone());
        let work = async move {
            let result = refresh::run(&parts, (&turns, &spent), (&merchant, occasion)).await;
            if let Some(result) = refresh::asked(&result) {
                parts.metrics.refreshed(&result);
            }
            result.map(refresh::Refreshed::into_merchant)
        };
        let landed = self.refreshes.run(key, work);
        self.unless_unstored(landed).await
    }

    /// As [`Tokens::refresh`], for a call whose token has timed out: after a refusal not again for a
    /// minute, after any other failure not for a second. Where there is nothing to refresh with, the
    /// merchant becomes suspect.
    ///
    /// # Errors
    /// [`TokenError`], the last one where it isn't tried again.
    ///
    /// # Cancel safety
    /// Safe: the refresh goes on in a task of its own.
    pub async fn renew(&self, merchant: &Merchant) -> Result<Merchant, TokenError> {
        let token = merchant.token.app_auth_token.expose().as_str();
        let (app_id, auth_app_id) = (merchant.app_id.as_str(), merchant.auth_app_id.as_str());
        let key = MemoKey::new("renew", &[app_id, auth_app_id, token]);
        let now = self.parts.clock.now_ms();
        if let Some(error) = self.failed.get(&key, now) {
            return Err(error);
        }
        let renewed = self.refresh_for(Occasion::Sidecar, merchant).await;
        if let Err(error) = &renewed {
            let pause = match error.is_refusal() {
                true => RENEW_EVERY_MS,
                false => RENEW_AGAIN_MS,
            };
            // Counted from the failure: the attempt itself may have taken longer than that.
            let failed_at = self.parts.clock.now_ms();
            self.failed.put(key, error.clone(), failed_at, pause);
            if let TokenError::NoRefreshToken { .. } = error {
                let refusal = Refusal::new(merchant, Doubt::TokenRefused, now);
                doubt::note_or_warn(&self.parts, refusal).await;
            }
        }
        renewed
    }

    /// Ends once no exchange and no refresh is under way: each spends a code or a token, and what
    /// it buys must be stored before the program ends, however long the store is awaited.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn idle(&self) {
        self.exchanges.landed().await;
        self.refreshes.landed().await;
        self.content_keys.landed().await;
        self.doubts.landed().await;
        self.learning.landed().await;
        self.users.landed().await;
    }

    /// The tokens of users.
    #[must_use]
    pub fn users(&self) -> &UserTokens {
        &self.users
    }

    /// Waits for the right to send `refresh_token` to Alipay. Who passes on somebody else's call of
    /// [`TOKEN_METHOD`] holds it until the reply is absorbed: then a refresh of the sidecar's own
    /// finds the new pair instead of using the old one twice.
    ///
    /// # Cancel safety
    /// Safe: who leaves gives up the place in the queue.
    pub async fn turn(&self, refresh_token: &Secret<String>) -> Turn {
        self.turns.take(refresh_token).await
    }

    /// What Alipay answered a moment ago when the refresh token of `turn` was sent in the same
    /// form: the answer for whoever waited for this turn.
    #[must_use]
    pub fn spent_reply(&self, turn: &Turn, form: &SpentForm) -> Option<SpentReply> {
        let now = self.parts.clock.now_ms();
        self.spent.get(turn.key(), form, now)
    }

    /// The same for who needn't wait for the turn: it may take as long as the store takes what was
    /// bought.
    #[must_use]
    pub fn spent_reply_to(
        &self,
        refresh_token: &Secret<String>,
        form: &SpentForm,
    ) -> Option<SpentReply> {
        let now = self.parts.clock.now_ms();
        self.spent.get(Turns::key_of(refresh_token), form, now)
    }

    /// Keeps what Alipay answered to the refresh token of `turn`, for those who wait for theirs.
    pub fn keep_spent(&self, turn: &Turn, form: SpentForm, reply: SpentReply) {
        let now = self.parts.clock.now_ms();
        self.spent.keep(turn.key(), form, reply, now);
    }

    /// Asks Alipay whether the merchant's token holds (`alipay.open.auth.token.app.query`).
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked or refused to say.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn query(&self, merchant: &Merchant) -> Result<TokenStatus, TokenError> {
        calls::query(&self.parts, merchant).await
    }

    /// Whether Alipay says that a merchant's authorisation is over: its token is invalid, and so is
    /// the one before where a refresh brought it and it never worked. One whose time is over is
    /// invalid, too; then no new pair may be had for it either, and `None` says that nobody knows
    /// whether it can. Alipay ends a token when it executes its refresh, so one that is under way is
    /// waited for.
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked.
    ///
    /// # Cancel safety
    /// Safe: a refresh that has begun goes on by itself.
    pub async fn has_ended(&self, merchant: &Merchant) -> Result<Option<bool>, TokenError> {
        let (turn, stored) = refresh::in_turn(&self.parts, &self.turns, merchant).await?;
        let is_replaced = |now: Merchant| now.token.app_auth_token != merchant.token.app_auth_token;
        if stored.is_some_and(is_replaced) || self.query(merchant).await? == TokenStatus::Valid {
            return Ok(Some(false));
        }
        drop(turn);
        let now = self.parts.clock.now_ms();
        if merchant.token.stated_expiry.is_some_and(|at| at <= now) {
            return Ok(match self.remedy(merchant).await {
                Remedy::Nothing => Some(true),
                Remedy::Previous | Remedy::Renewed(_) => Some(false),
                Remedy::Unknown => None,
            });
        }
        let Some(previous) = merchant.fallback() else {
            return Ok(Some(true));
        };
        let app = calls::app(&self.parts, &merchant.app_id)?;
        let (status, _) = calls::describe(&self.parts, &app, previous).await?;
        Ok(Some(status == TokenStatus::Invalid))
    }

    /// Whether Alipay says that the token of `authorization` holds, and is that merchant's.
    ///
    /// # Errors
    /// [`TokenError`] when Alipay couldn't be asked.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn holds(&self, authorization: &Authorization) -> Result<bool, TokenError> {
        let app = calls::app(&self.parts, &authorization.app_id)?;
        let token = &authorization.token.app_auth_token;
        let (status, described) = calls::describe(&self.parts, &app, token).await?;
        let whose = described.auth_app_id.as_deref();
        let is_others = whose.is_some_and(|id| id != authorization.auth_app_id.as_str());
        Ok(status == TokenStatus::Valid && !is_others)
    }

    /// All that Alipay says of the merchant's token.
    ///
    /// # Errors
    /// [`AskError`] when Alipay couldn't be asked or refused to say.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn describe(&self, merchant: &Merchant) -> Result<TokenDescription, AskError> {
        let token = &merchant.token.app_auth_token;
        let (_, described) = asking::describe(&self.parts, &merchant.app_id, token).await?;
        Ok(described)
    }

    /// Asks Alipay something harmless in `dialect` as the app `app_id`: whether it knows the app and takes its key
    /// shows in the answer, and that there is one shows that replies verify.
    ///
    /// # Errors
    /// [`AskError`] where there is no verified answer.
    ///
    /// # Cancel safety
    /// Safe: a query changes nothing.
    pub async fn greet(&self, app_id: &AppId, dialect: Dialect) -> Result<Greeting, AskError> {
        greeting::greet(&self.parts, app_id, dialect).await
    }

    /// Proves the record of `merchant` by what Alipay says of its token.
    ///
    /// # Errors
    /// [`ProofError`].
    ///
    /// # Cancel safety
    /// Safe: what was found is stored as a whole or not at all.
    pub async fn prove(&self, merchant: &Merchant, mode: ProofMode) -> Result<Proof, ProofError> {
        proof::prove(self, merchant, mode).await
    }

    /// Asks a merchant again to authorise (`alipay.open.auth.appauth.invite.create`); gives the
    /// page to send it to. `way_back` is the `redirect_url` and the `state`.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Cancel safety
    /// Not known: Alipay may have made an invitation that nobody hears of. It binds nobody.
    pub async fn invite(
        &self,
        app: &Arc<SigningApp>,
        auth_app_id: &AuthAppId,
        way_back: (&str, &str),
    ) -> Result<String, AskError> {
        asking::invite(&self.parts, app, auth_app_id, way_back).await
    }

    /// Has messages of `topic` sent to the app gateway
    /// (`alipay.open.app.message.topic.subscribe`): the app's own ones, or those about a merchant.
    ///
    /// # Errors
    /// [`AskError`].
    ///
    /// # Cancel safety
    /// Subscribing again does no harm.
    pub async fn subscribe(
        &self,
        app: &Arc<SigningApp>,
        topic: &str,
        merchant: Option<&Merchant>,
    ) -> Result<(), AskError> {
        let token = merchant.map(|merchant| &merchant.token.app_auth_token);
        asking::subscribe(&self.parts, app, topic, token).await
    }
}

impl Tokens {
    /// Asks Alipay for the merchant's AES key (`alipay.open.auth.app.aes.get`), keeps it, and gives
    /// the record with it. Who asks while that is under way joins.
    ///
    /// `merchant` is the record as its caller knew it: where another key is stored by now, Alipay
    /// isn't asked. After an error it isn't asked about this merchant for a minute.
    ///
    /// # Errors
    /// [`ContentKeyError`].
    ///
    /// # Cancel safety
    /// Safe: the work goes on in a task of its own.
    pub async fn content_key(&self, merchant: &Merchant) -> Result<Merchant, ContentKeyError> {
        let parts = Arc::clone(&self.parts);
        self.content_keys.fetch(parts, merchant.clone()).await
    }
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}
