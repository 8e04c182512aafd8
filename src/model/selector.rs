//! Merchant selectors: how a caller says for which merchant a call is.

use crate::model::id::{Alias, AuthAppId, InvalidId, Pid};

/// What a caller wrote to name a merchant: contract §2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Selector {
    /// `alias:` or a bare name that isn't all digits.
    Alias(Alias),
    /// `app:`: the merchant's application.
    AuthAppId(AuthAppId),
    /// Bare digits: a PID or an `auth_app_id`, whichever a record has.
    Number(AuthAppId),
    /// `self`: the ISV's own app, with no `app_auth_token`.
    Own,
    /// `pid:`: the merchant's user id; several of its applications may have authorised.
    Pid(Pid),
}

/// Reads as the same selector.
impl std::fmt::Display for Selector {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Alias(alias) => alias.fmt(f),
            Self::AuthAppId(id) => write!(f, "app:{id}"),
            Self::Number(id) => id.fmt(f),
            Self::Own => f.write_str("self"),
            Self::Pid(pid) => write!(f, "pid:{pid}"),
        }
    }
}

/// What may be shown of a text that was sent as a selector: all of it where it is short; else its
/// beginning, because somebody may have sent a token there.
#[must_use]
pub fn shown(text: &str) -> String {
    let visible = |c: char| if c.is_control() { '?' } else { c };
    let count = text.chars().count();
    if count <= LONGEST_SHOWN {
        return format!("`{}`", text.chars().map(visible).collect::<String>());
    }
    let begin: String = text.chars().take(BEGINNING).map(visible).collect();
    format!("`{begin}…` ({count} characters)")
}

/// Ids have 16 characters, tokens and codes 32 or more.
const LONGEST_SHOWN: usize = 24;

/// What Alipay's tokens begin with is the day on which they were made.
const BEGINNING: usize = 8;

impl std::str::FromStr for Selector {
    type Err = InvalidId;

    fn from_str(text: &str) -> Result<Self, InvalidId> {
        if let Some(pid) = text.strip_prefix("pid:") {
            return Pid::new(pid).map(Self::Pid);
        }
        if let Some(app) = text.strip_prefix("app:") {
            return AuthAppId::new(app).map(Self::AuthAppId);
        }
        if let Some(alias) = text.strip_prefix("alias:") {
            return Alias::new(alias).map(Self::Alias);
        }
        if text == "self" {
            return Ok(Self::Own);
        }
        if !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit()) {
            return AuthAppId::new(text).map(Self::Number);
        }
        Alias::new(text).map(Self::Alias)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &str) {
        let found = match text.parse::<Selector>() {
            Ok(Selector::Alias(id)) => format!("alias {id}"),
            Ok(Selector::AuthAppId(id)) => format!("app {id}"),
            Ok(Selector::Number(id)) => format!("number {id}"),
            Ok(Selector::Own) => "own".to_owned(),
            Ok(Selector::Pid(id)) => format!("pid {id}"),
            Err(_) => "refused".to_owned(),
        };
        assert_eq!(found, expected, "{text}");
        if let Ok(selector) = text.parse::<Selector>() {
            assert_eq!(selector.to_string().parse(), Ok(selector), "{text}");
        }
    }

    #[test]
    fn a_token_is_not_shown_where_somebody_sent_it_as_a_selector() {
        let token = "202611BB1f5c2d3e4a5b6c7d8e9f0a1b2c3d4e5f";
        assert_eq!(shown(token), "`202611BB…` (40 characters)");
        assert_eq!(shown("pid:2088102146225135"), "`pid:2088102146225135`");
        assert_eq!(shown("a\n\u{1b}[31m"), "`a??[31m`");
    }

    #[test]
    fn selectors_follow_the_contract() {
        check("2088102146225135", "number 2088102146225135");
        check("2021003125611234", "number 2021003125611234");
        check("pid:2088102146225135", "pid 2088102146225135");
        check("app:2088102146225135", "app 2088102146225135");
        check("alias:shop", "alias shop");
        check("shop", "alias shop");
        check("self", "own");
        check("Self", "alias Self");
        check("alias:self", "refused");
        check("pid:shop", "refused");
        check("", "refused");
        check("a b", "refused");
    }
}
