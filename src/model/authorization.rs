//! What is learned about a merchant's authorisation, wherever it comes from.

use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::merchant::Merchant;
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;

/// A merchant's agreement that our app may act for one of its applications (代调用).
#[derive(Debug, Clone)]
pub struct Authorization {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application.
    pub auth_app_id: AuthAppId,
    /// The merchant's user id, where the source tells it.
    pub pid: Option<Pid>,
    /// The operator's name for it, where the operator is the source.
    pub alias: Option<Alias>,
    /// The ISV's own tenant id, from the link's `ref=`.
    pub reference: Option<String>,
    /// The token pair.
    pub token: AppAuthToken,
    /// How it ranks against what is stored.
    pub rank: Rank,
    /// Where it came from.
    pub source: Source,
    /// Whether a `state` of ours named who began it (a push always is bound).
    pub bound: bool,
    /// Whether it is a plugin's order.
    pub is_plugin: bool,
    /// The third-party application that owns the plugin.
    pub agent_app_id: Option<String>,
    /// Alipay's `notify_context.trigger`.
    pub trigger: Option<String>,
    /// Alipay's `error` member, as JSON text.
    pub error: Option<String>,
    /// The merchant's AES key for client data, base64.
    pub encrypt_key: Option<Secret<String>>,
}

/// How an authorisation ranks against the stored one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rank {
    /// By now: `max(now, stored + 1)`. What an operator, an exchange or a refresh brings.
    AfterStored,
    /// By Alipay's `auth_time`, Unix milliseconds.
    AuthTime(i64),
    /// By a time that another sidecar once estimated, Unix milliseconds: what an export brings.
    EstimatedTime(i64),
}

/// Where an authorisation came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The authorisation callback or an exchange by hand.
    Callback,
    /// The operator: `merchant add` or `merchant import`.
    Import,
    /// `open_app_auth_notify`.
    Push,
    /// A refresh with `app_refresh_token`.
    Refresh,
}

impl Source {
    /// The word used in events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Callback => "callback",
            Self::Import => "import",
            Self::Push => "push",
            Self::Refresh => "refresh",
        }
    }
}

impl std::str::FromStr for Source {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text {
            "callback" => Ok(Self::Callback),
            "import" => Ok(Self::Import),
            "push" => Ok(Self::Push),
            "refresh" => Ok(Self::Refresh),
            _ => Err(()),
        }
    }
}

/// A merchant's cancellation.
#[derive(Debug, Clone)]
pub struct Revocation {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application.
    pub auth_app_id: AuthAppId,
    /// When the merchant cancelled, Unix milliseconds; `None`: now, and after what is stored.
    pub at: Option<i64>,
}

impl Revocation {
    /// The cancellation of `merchant` at `at`.
    #[must_use]
    pub fn new(merchant: &Merchant, at: Option<i64>) -> Self {
        Self {
            app_id: merchant.app_id.clone(),
            auth_app_id: merchant.auth_app_id.clone(),
            at,
        }
    }
}
