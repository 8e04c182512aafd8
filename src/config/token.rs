//! `[tokens]`: the life of app_auth_tokens.

use serde_json::{Value, json};

use crate::config::section::Section;
use crate::config::view;

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

impl TokenConfig {
    pub(crate) fn read(section: &Section<'_>) -> Self {
        let default = Self::default();
        Self {
            refresh: section.word("refresh", &REFRESH).unwrap_or(default.refresh),
            unknown: section.word("unknown", &UNKNOWN).unwrap_or(default.unknown),
            remember_users: section
                .flag("remember_users")
                .unwrap_or(default.remember_users),
        }
    }

    pub(crate) fn view(&self) -> Value {
        json!({
            "refresh": view::word(&REFRESH, self.refresh),
            "unknown": view::word(&UNKNOWN, self.unknown),
            "remember_users": self.remember_users,
        })
    }
}

const REFRESH: [(&str, RefreshMode); 2] = [
    ("on-demand", RefreshMode::OnDemand),
    ("ahead", RefreshMode::Ahead),
];

const UNKNOWN: [(&str, UnknownToken); 2] = [
    ("refuse", UnknownToken::Refuse),
    ("learn", UnknownToken::Learn),
];

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
