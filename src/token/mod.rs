//! The life of an `app_auth_token` (应用授权令牌): exchanged, refreshed, asked about.
//!
//! Invariants: a new pair is durable before anybody uses it; one code is exchanged and one record
//! refreshed at most once at a time; nothing whose outcome is unknown is tried again by itself.
//! No token is ever refreshed to be safe: they hold until the merchant cancels.
//!
//! What [`Tokens`] does stands where its subject is: `exchange`, `refresh` (`ahead`, `remedy`),
//! `passed_on`, `validity`, `doubt`, `learn`, `proof`, `asking`, `greeting`, `content_key`.
//!
//! Protocol: 第三方应用授权, “使用 app_auth_code 换取 app_auth_token”.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{Notify, Semaphore};

use crate::clock::Clock;
use crate::flight::Flights;
use crate::gateway::Gateway;
use crate::gateway::app::Apps;
use crate::model::merchant::Merchant;
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
mod passed_on;
mod proof;
mod refresh;
mod refused_code;
mod remedy;
mod spent;
mod storing;
mod turn;
pub mod users;
mod validity;

use content_key::ContentKeys;
use doubt::Doubts;
use error::TokenError;
use lately::Lately;
use learn::Learning;
use metrics::TokenMetrics;
use spent::SpentReplies;
use turn::Turns;
use users::UserTokens;

pub use ahead::Pace;
pub use asking::AskError;
pub use calls::TokenStatus;
pub use content_key::ContentKeyError;
pub use doubt::{SecondChoice, TokenVerdict};
pub use exchange::{CameWith, ExchangeContext, Exchanged, Slot};
pub use greeting::{Dialect, Greeting};
pub use learn::LearnError;
pub use proof::{Proof, ProofError, ProofMode, Verdict};
pub use remedy::Remedy;
pub use spent::{SpentForm, SpentReply};
pub use turn::Turn;

/// Alipay's name of the method that exchanges and refreshes.
pub const TOKEN_METHOD: &str = "alipay.open.auth.token.app";

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
    /// Counts refreshes and checks.
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
    exchanges: Flights<MemoKey, Result<Exchanged, TokenError>>,
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

impl Tokens {
    /// Tokens that work with `parts`.
    #[must_use]
    pub fn new(parts: TokenParts) -> Self {
        let parts = Arc::new(parts);
        Self {
            users: UserTokens::new(Arc::clone(&parts)),
            parts,
            exchanges: Flights::new(),
            slots: Arc::new(Semaphore::new(exchange::EXCHANGES)),
            refused: Lately::new(exchange::REFUSED),
            refreshes: Flights::new(),
            failed: Lately::new(refresh::RENEWALS),
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
}

impl std::fmt::Debug for Tokens {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Tokens")
    }
}
