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
    /// The app_auth_token that a refresh bought it for. While that is in force, it takes its place
    /// whatever the times say; where another has replaced it, [`Rank::Bought`]'s `at` decides alone.
    pub renews: Option<Secret<String>>,
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
    /// By now: `max(now, stored + 1)`. What an operator brings.
    AfterStored,
    /// By Alipay's `auth_time`, Unix milliseconds.
    AuthTime(i64),
    /// By when it was bought: `max(at, stored + 1)`. What an exchange or a refresh brings.
    Bought {
        /// What was made of what.
        purchase: Purchase,
        /// When (of a refresh: when it was sent), Unix milliseconds: what is given later is newer, however
        /// late this one is stored.
        at: i64,
        /// What was stored by then ranked at that, where the store has failed since: of what it has
        /// stored meanwhile, the newest wins. `None`: it ranks after whatever is stored.
        over: Option<i64>,
    },
    /// By a time that another sidecar once estimated, Unix milliseconds: what an export brings.
    EstimatedTime(i64),
    /// By Alipay's `auth_time`, of a token that holds, as Alipay says: the cancellation that ranks at
    /// `over` doesn't count against it, where nobody knows when that happened
    /// ([`Revocation::estimated`]).
    Proved {
        /// Alipay's `auth_time`, Unix milliseconds.
        auth_time: i64,
        /// When the cancellation happened at the latest, Unix milliseconds. (One without a time of its own
        /// that comes meanwhile leaves this as it is: a revoked record is revoked only once by those.)
        over: i64,
    },
    /// A token that is good since the given Unix millisecond, as Alipay says
    /// (`tokens.unknown = "learn"`): it only counts where there is no record, or where one was
    /// cancelled before that. It ranks at that time: `max(at, stored + 1)`.
    Since(i64),
    /// A token that is good, and nobody knows since when: it only counts where there is no record.
    Unranked,
}

/// How a pair was bought.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Purchase {
    /// With a code; or by a backend itself, with whatever. It makes a record where there is none.
    Exchange,
    /// By a refresh of the sidecar's own: a cancellation that came meanwhile stands, and a merchant that
    /// was removed meanwhile stays removed.
    Renewal,
    /// By a refresh that the operator asked for: it undoes a cancellation, but no removal.
    Revival,
}

impl Purchase {
    /// Whether it goes on with a record, so that it makes none.
    pub(crate) fn is_refresh(self) -> bool {
        match self {
            Self::Exchange => false,
            Self::Renewal | Self::Revival => true,
        }
    }
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
    /// Whether `at` is only by when that was: when it was told, or Alipay asked about it.
    pub estimated: bool,
    /// The token that Alipay was asked about: the cancellation holds for no other, and for this one
    /// whatever its time says. `None`: it ranks by its time alone.
    pub only: Option<Secret<String>>,
}

impl Revocation {
    /// The cancellation of `merchant` at `at`.
    #[must_use]
    pub fn new(merchant: &Merchant, at: Option<i64>) -> Self {
        Self {
            app_id: merchant.app_id.clone(),
            auth_app_id: merchant.auth_app_id.clone(),
            at,
            estimated: false,
            only: None,
        }
    }

    /// The cancellation of `merchant` at `at`, which Alipay confirmed by what it says of the token
    /// in force.
    #[must_use]
    pub fn confirmed(merchant: &Merchant, at: i64) -> Self {
        Self {
            only: Some(merchant.token.app_auth_token.clone()),
            ..Self::new(merchant, Some(at))
        }
    }
}

/// What makes an authorisation doubtful.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doubt {
    /// The token that a refresh brought is refused, the one before it works.
    NewTokenRefused,
    /// The `app_refresh_token` is refused: spent, as a rule, by a refresh whose answer was lost.
    RefreshTokenRefused,
    /// The `app_auth_token` is refused.
    TokenRefused,
}

impl Doubt {
    const ALL: [Self; 3] = [
        Self::NewTokenRefused,
        Self::RefreshTokenRefused,
        Self::TokenRefused,
    ];

    /// The word used in events and lists.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::NewTokenRefused => "new-token-refused",
            Self::RefreshTokenRefused => "refresh-token-refused",
            Self::TokenRefused => "token-refused",
        }
    }
}

impl std::str::FromStr for Doubt {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let found = Self::ALL.into_iter().find(|doubt| doubt.as_str() == text);
        found.ok_or(())
    }
}

/// What is known of a token that was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Evidence {
    /// Alipay says that the `app_auth_token` is invalid.
    Invalid,
    /// Alipay says nothing of the kind, or couldn't be asked.
    None,
    /// A call has worked since: the merchant isn't suspect, and a refused refresh token stays so.
    WorkedSince,
}

/// A signed reply that refused one of a merchant's tokens, without having done anything.
#[derive(Debug, Clone)]
pub struct Refusal {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application.
    pub auth_app_id: AuthAppId,
    /// The token in force when it was refused: it says nothing of a later one.
    pub app_auth_token: Secret<String>,
    /// What was refused.
    pub doubt: Doubt,
    /// When it was refused, or Alipay asked about it, Unix milliseconds.
    pub at: i64,
    /// What Alipay says of the token itself.
    pub evidence: Evidence,
}

impl Refusal {
    /// A refusal of `merchant`'s token at `at`, without evidence.
    #[must_use]
    pub fn new(merchant: &Merchant, doubt: Doubt, at: i64) -> Self {
        Self {
            app_id: merchant.app_id.clone(),
            auth_app_id: merchant.auth_app_id.clone(),
            app_auth_token: merchant.token.app_auth_token.clone(),
            doubt,
            at,
            evidence: Evidence::None,
        }
    }
}
