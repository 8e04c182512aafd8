//! `[tokens]`: the life of app_auth_tokens.

/// `[tokens]`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TokenConfig {
    /// When a token is refreshed.
    pub refresh: RefreshMode,
    /// What happens to a token never held.
    pub unknown: UnknownToken,
    /// Whether users' access tokens are kept.
    pub remember_users: bool,
}

/// When a token is refreshed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefreshMode {
    /// Also before a stated expiry.
    Ahead,
    /// When Alipay or the operator asks for it.
    OnDemand,
}

/// What happens to a token never held.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UnknownToken {
    /// It is proved at Alipay, its triple stored, the call sent.
    Learn,
    /// The call is refused.
    Refuse,
}

impl Default for TokenConfig {
    fn default() -> Self {
        Self {
            refresh: RefreshMode::OnDemand,
            unknown: UnknownToken::Refuse,
            remember_users: false,
        }
    }
}
