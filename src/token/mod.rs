//! The life of an `app_auth_token` (应用授权令牌): exchanged, refreshed, asked about.
//!
//! Invariants: a new pair is durable before anybody uses it; one code is exchanged and one record
//! refreshed at most once at a time; nothing whose outcome is unknown is tried again by itself.
//! No token is ever refreshed to be safe: they hold until the merchant cancels.
//!
//! Protocol: 第三方应用授权, “使用 app_auth_code 换取 app_auth_token”.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::flight::Flights;
use crate::gateway::Gateway;
use crate::gateway::app::{Apps, SigningApp};
use crate::model::authorization::Source;
use crate::model::merchant::Merchant;
use crate::protocol::secret::Secret;
use crate::protocol::token_reply;
use crate::store::{MemoKey, Store};

pub mod auth_code;
mod calls;
mod content_key;
pub mod error;
mod exchange;
pub mod metrics;
mod refresh;
mod storing;
mod turn;
pub mod users;

use content_key::ContentKeys;
use error::TokenError;
use metrics::TokenMetrics;
use turn::Turns;
use users::UserTokens;

pub use calls::TokenStatus;
pub use content_key::ContentKeyError;
pub use turn::Turn;

/// Alipay's name of the method that exchanges and refreshes.
pub const TOKEN_METHOD: &str = "alipay.open.auth.token.app";

/// How many codes are exchanged at once. The callback is open to the world, and whoever sends it
/// rubbish has us ask Alipay, whose patience with an app is limited, too.
const EXCHANGES: usize = 16;

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
    refreshes: Flights<MemoKey, Result<Merchant, TokenError>>,
    turns: Turns,
    content_keys: ContentKeys,
    users: UserTokens,
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
            refreshes: Flights::new(),
            turns: Turns::default(),
            content_keys: ContentKeys::new(),
        }
    }

    /// Exchanges an `app_auth_code` and stores every token it gives, in one commit.
    ///
    /// The same code again gives the same merchants for 24 h without asking Alipay; who asks
    /// while it is under way joins. A code is good for one exchange, so a lost answer is an error
    /// whose outcome is unknown, and never a second try.
    ///
    /// # Errors
    /// [`TokenError`]; [`TokenError::is_refusal`] tells a bad code from an Alipay that couldn't
    /// be asked.
    ///
    /// # Cancel safety
    /// Safe: the exchange goes on in a task of its own.
    pub async fn exchange(
        &self,
        app: &Arc<SigningApp>,
        code: &Secret<String>,
        context: ExchangeContext,
    ) -> Result<Vec<Merchant>, TokenError> {
        exchange::check_code(code)?;
        let key = exchange::key(&app.app_id, code);
        let (parts, app, code) = (Arc::clone(&self.parts), Arc::clone(app), code.clone());
        let slots = Arc::clone(&self.slots);
        let work = async move { exchange::run(&parts, &slots, &app, &code, context).await };
        self.exchanges
            .run(key, work)
            .await
            .unwrap_or(Err(TokenError::Internal))
    }

    /// Stores the tokens in `node`, a verified reply to a call of [`TOKEN_METHOD`] that somebody
    /// else made.
    ///
    /// # Errors
    /// [`TokenError::Reply`] when the node holds no token, [`TokenError::Store`].
    ///
    /// # Cancel safety
    /// What was handed to the store is stored; dropped before, the tokens are lost.
    pub async fn absorb(
        &self,
        app: &SigningApp,
        node: &[u8],
        source: Source,
    ) -> Result<Vec<Merchant>, TokenError> {
        let granted = token_reply::parse(node).map_err(TokenError::Reply)?;
        let context = ExchangeContext::default();
        let found = storing::Found {
            app_id: &app.app_id,
            source,
            context: &context,
        };
        storing::store(&self.parts, &found, granted, None).await
    }

    /// Buys a new pair with the merchant's `app_refresh_token` and stores it.
    ///
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
        let (app_id, auth_app_id) = (&merchant.app_id, &merchant.auth_app_id);
        let key = MemoKey::new("refresh", &[app_id.as_str(), auth_app_id.as_str()]);
        let (parts, merchant) = (Arc::clone(&self.parts), merchant.clone());
        let turns = self.turns.clone();
        let work = async move {
            let result = refresh::run(&parts, &turns, &merchant).await;
            if let Some(result) = refresh::asked(&result) {
                parts.metrics.refreshed(&result);
            }
            result.map(refresh::Refreshed::into_merchant)
        };
        self.refreshes
            .run(key, work)
            .await
            .unwrap_or(Err(TokenError::Internal))
    }

    /// Ends once no exchange and no refresh is under way: each spends a code or a token, and what
    /// it buys must be stored before the program ends.
    ///
    /// # Cancel safety
    /// Safe: it only watches.
    pub async fn idle(&self) {
        self.exchanges.landed().await;
        self.refreshes.landed().await;
        self.content_keys.landed().await;
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
