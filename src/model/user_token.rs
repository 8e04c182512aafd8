//! A user's access token (用户授权令牌), bought by `alipay.system.oauth.token`.

use std::fmt;

use crate::model::id::{AppId, AuthAppId};
use crate::protocol::secret::Secret;

/// How long before its end a token is refreshed, milliseconds; of a short life at most a tenth.
const AHEAD_MS: i64 = 3_600_000;
/// How long a token is kept whose end Alipay didn't tell, milliseconds: as long as refresh tokens
/// live in its documents.
const DEFAULT_LIFE_MS: i64 = 30 * 24 * 3_600_000;

/// A `user_id` or an `open_id`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserName(String);

impl UserName {
    /// Takes 1 to 128 visible ASCII characters.
    #[must_use]
    pub fn new(text: &str) -> Option<Self> {
        let fits = (1..=128).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_graphic());
        fits.then(|| Self(text.to_owned()))
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for UserName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whose user: who signs, and for which merchant the user logged in.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct UserKey {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application; `None`: our own.
    pub auth_app_id: Option<AuthAppId>,
    /// Either name of the user.
    pub name: UserName,
}

/// A user's tokens as they were last bought.
#[derive(Debug, Clone)]
pub struct UserToken {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application; `None`: our own.
    pub auth_app_id: Option<AuthAppId>,
    /// The user's id at Alipay (2088…), for applications that still get one.
    pub user_id: Option<UserName>,
    /// The user's id for this application.
    pub open_id: Option<UserName>,
    /// What the user agreed to, where Alipay tells.
    pub scope: Option<String>,
    /// What calls carry as `auth_token`.
    pub access_token: Secret<String>,
    /// What a refresh spends.
    pub refresh_token: Option<Secret<String>>,
    /// When they were bought, Unix milliseconds.
    pub obtained_at: i64,
    /// When the access token ends, Unix milliseconds.
    pub expires_at: Option<i64>,
    /// When the refresh token ends, Unix milliseconds; a refresh doesn't move it.
    pub ends_at: Option<i64>,
    /// The answer to a refresh was lost: nobody knows which token holds, so none is used.
    pub is_lost: bool,
}

impl UserToken {
    /// The names the user is asked for by.
    pub fn names(&self) -> impl Iterator<Item = &UserName> {
        self.user_id.iter().chain(&self.open_id)
    }

    /// The key of the user under the first name.
    #[must_use]
    pub fn key(&self) -> Option<UserKey> {
        Some(UserKey {
            app_id: self.app_id.clone(),
            auth_app_id: self.auth_app_id.clone(),
            name: self.names().next()?.clone(),
        })
    }

    /// Whether the access token has ended.
    #[must_use]
    pub fn has_expired(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| at <= now)
    }

    /// Whether the access token ends soon, so that it is refreshed before its next use.
    #[must_use]
    pub fn is_due(&self, now: i64) -> bool {
        self.expires_at.is_some_and(|at| {
            let life = at.saturating_sub(self.obtained_at).max(0);
            at.saturating_sub(AHEAD_MS.min(life / 10)) <= now
        })
    }

    /// Whether there is something to refresh with.
    #[must_use]
    pub fn can_be_refreshed(&self, now: i64) -> bool {
        self.refresh_token.is_some() && self.ends_at.is_none_or(|at| now < at)
    }

    /// When nothing of it is of use any more, Unix milliseconds.
    #[must_use]
    pub fn useless_at(&self) -> i64 {
        let ends = self.expires_at.max(self.ends_at);
        ends.unwrap_or_else(|| self.obtained_at.saturating_add(DEFAULT_LIFE_MS))
    }

    /// The same with the names that `known` has besides: one login may tell both, the next only
    /// one of them.
    #[must_use]
    pub fn with_names_of(mut self, known: &Self) -> Self {
        self.user_id = self.user_id.or_else(|| known.user_id.clone());
        self.open_id = self.open_id.or_else(|| known.open_id.clone());
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3_600_000;

    fn token(expires_at: Option<i64>, ends_at: Option<i64>) -> UserToken {
        UserToken {
            app_id: AppId::new("2021000000000001").expect("an id"),
            auth_app_id: None,
            user_id: UserName::new("2088102146225135"),
            open_id: None,
            scope: None,
            access_token: Secret::new("a".to_owned()),
            refresh_token: Some(Secret::new("r".to_owned())),
            obtained_at: 0,
            expires_at,
            ends_at,
            is_lost: false,
        }
    }

    #[test]
    fn a_token_is_due_before_it_ends_and_not_long_before() {
        let check = |expires_at, now, due, expired| {
            let token = token(Some(expires_at), None);
            assert_eq!((token.is_due(now), token.has_expired(now)), (due, expired));
        };
        check(15 * DAY, 15 * DAY - AHEAD_MS - 1, false, false);
        check(15 * DAY, 15 * DAY - AHEAD_MS, true, false);
        check(15 * DAY, 15 * DAY, true, true);
        check(1000, 899, false, false);
        check(1000, 900, true, false);
        assert!(!token(None, None).is_due(i64::MAX));
    }

    #[test]
    fn a_refresh_token_ends_once_and_for_all() {
        let token = token(Some(DAY), Some(2 * DAY));
        assert!(token.can_be_refreshed(2 * DAY - 1) && !token.can_be_refreshed(2 * DAY));
        assert_eq!(token.useless_at(), 2 * DAY);
    }

    #[test]
    fn user_names_are_visible_ascii() {
        for bad in ["", "a b", "a\n", "用户", &"x".repeat(129)] {
            assert!(UserName::new(bad).is_none(), "{bad}");
        }
        assert!(UserName::new("074a1CcTG1LelxKe4xQC0zgNdId0nxi95b5lsNpazWYoCo5").is_some());
    }
}
