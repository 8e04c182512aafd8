//! `tokens.unknown = "learn"`: a token that was never held is proved at Alipay, and its triple kept.
//!
//! Anybody who reaches the proxy can send rubbish here, so there are bounds: one query for each
//! token at a time, what Alipay calls invalid isn't asked about again for ten minutes, and no app
//! asks more than once a second on the average. Of tokens that are held already, and whose merchant has
//! cancelled, half of that.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use crate::flight::Flights;
use crate::gateway::app::SigningApp;
use crate::model::authorization::{Authorization, Rank, Source};
use crate::model::id::{AppId, AuthAppId, Pid};
use crate::model::token::AppAuthToken;
use crate::protocol::error::ProtocolError;
use crate::protocol::secret::Secret;
use crate::protocol::timestamp;
use crate::protocol::token_description::TokenDescription;
use crate::store::MemoKey;
use crate::token::calls;
use crate::token::error::TokenError;
use crate::token::lately::Lately;
use crate::token::{TokenParts, TokenStatus, Tokens, storing};

/// How long a token that Alipay calls invalid isn't asked about again, milliseconds.
const INVALID_MS: i64 = 600_000;
/// How long one that Alipay doesn't describe isn't asked about again, milliseconds: it may be new.
const UNDESCRIBED_MS: i64 = 60_000;
/// How many of those are remembered.
const MOST: usize = 10_000;
/// How many tokens an app may ask about within [`WINDOW_MS`].
const QUERIES: u32 = 60;
/// How many of those may have been asked about by then for one that is held to be asked about: of merchants
/// who have cancelled backends may go on using many, and new ones must find room.
const QUERIES_AGAIN: u32 = QUERIES / 2;
/// The time that [`QUERIES`] counts for, milliseconds.
const WINDOW_MS: i64 = 60_000;
/// The longest token that is asked about, characters; real ones have about 40.
const LONGEST_TOKEN: usize = 256;

/// Why a token wasn't learned. Cheap to clone: all who asked together get the same.
#[derive(Debug, Clone, thiserror::Error)]
#[non_exhaustive]
pub enum LearnError {
    /// Alipay says that the token doesn't hold.
    #[error("Alipay says that the given app_auth_token is invalid")]
    Invalid,
    /// Too many tokens were asked about lately.
    #[error(
        "{QUERIES} unknown tokens were asked about within a minute; import their merchants, or try again later"
    )]
    TooMany,
    /// Alipay doesn't describe it; asked again, it may.
    #[error("Alipay doesn't describe the given app_auth_token: {sub_code}")]
    Undescribed {
        /// Alipay's `sub_code`.
        sub_code: String,
    },
    /// Alipay couldn't be asked, or what it told couldn't be stored.
    #[error("a token never held could not be proved: {0}")]
    Unproved(#[source] TokenError),
}

/// What is being learned, and what lately wasn't. Clones share it.
#[derive(Clone)]
pub(super) struct Learning {
    flights: Flights<MemoKey, Result<(), LearnError>>,
    refused: Lately<MemoKey, LearnError>,
    /// Held tokens that were asked about again.
    again: Lately<MemoKey, ()>,
    used: Arc<Mutex<HashMap<AppId, Window>>>,
}

/// The queries of one app since `began`.
struct Window {
    began: i64,
    queries: u32,
}

impl Learning {
    pub(super) fn new() -> Self {
        Self {
            flights: Flights::new(),
            refused: Lately::new(MOST),
            again: Lately::new(MOST),
            used: Arc::default(),
        }
    }

    /// Ends once nothing is under way.
    pub(super) async fn landed(&self) {
        self.flights.landed().await;
    }

    /// Takes the right to one query, unless there were `most` lately.
    fn take(&self, app_id: &AppId, most: u32, now: i64) -> Result<(), LearnError> {
        // Held for a look-up; a poisoned one still is such a map.
        let mut used = self.used.lock().unwrap_or_else(PoisonError::into_inner);
        let fresh = || Window {
            began: now,
            queries: 0,
        };
        let window = used.entry(app_id.clone()).or_insert_with(fresh);
        // A clock that went back begins anew, too.
        if !(window.began..window.began.saturating_add(WINDOW_MS)).contains(&now) {
            *window = fresh();
        }
        if window.queries >= most {
            return Err(LearnError::TooMany);
        }
        window.queries += 1;
        Ok(())
    }
}

impl Tokens {
    /// Proves a token that was never held at Alipay, as `app`, and stores its triple. Afterwards
    /// [`MerchantKey::Token`] finds its merchant: with this token, or with the one that is in force
    /// where an authorisation stands already.
    ///
    /// [`MerchantKey::Token`]: crate::store::MerchantKey::Token
    ///
    /// # Errors
    /// [`LearnError`].
    ///
    /// # Cancel safety
    /// Safe: it goes on in a task of its own.
    pub async fn learn(
        &self,
        app: &Arc<SigningApp>,
        app_auth_token: &Secret<String>,
    ) -> Result<(), LearnError> {
        self.learn_as(Asked::First, app, app_auth_token).await
    }

    /// Proves a token once more that is held, and isn't the one in force of its merchant, who counts as
    /// cancelled: where the authorisation that it is of began after that, it is the one in force
    /// afterwards. If not, or Alipay can't be asked, nothing changes, and it isn't asked about again for a
    /// while.
    ///
    /// # Cancel safety
    /// Safe: it goes on in a task of its own.
    pub async fn learn_again(&self, app: &Arc<SigningApp>, app_auth_token: &Secret<String>) {
        let now = self.parts.clock.now_ms();
        let again = self.learning.again.get(&key(app, app_auth_token), now);
        if again.is_some() {
            return;
        }
        let learned = self.learn_as(Asked::Again, app, app_auth_token).await;
        if let Err(error) = learned {
            tracing::debug!(%error, app_id = %app.app_id, "a token of a merchant who has cancelled was not proved");
        }
    }

    async fn learn_as(
        &self,
        asked: Asked,
        app: &Arc<SigningApp>,
        app_auth_token: &Secret<String>,
    ) -> Result<(), LearnError> {
        check_form(app_auth_token)?;
        let key = key(app, app_auth_token);
        let now = self.parts.clock.now_ms();
        let learning = self.learning.clone();
        if let Some(refused) = learning.refused.get(&key, now) {
            return Err(refused);
        }
        let (parts, app) = (Arc::clone(&self.parts), Arc::clone(app));
        let (token, flights) = (app_auth_token.clone(), learning.flights.clone());
        let work = async move {
            let learned = match learning.take(&app.app_id, asked.most(), now) {
                Ok(()) => prove(&parts, &app, token).await,
                Err(error) => Err(error),
            };
            // Here, since whoever asked may have left by now.
            if asked == Asked::Again {
                learning.again.put(key, (), now, held_for(&learned));
            }
            let for_ms = match &learned {
                Err(LearnError::Invalid) => INVALID_MS,
                Err(LearnError::Undescribed { .. }) => UNDESCRIBED_MS,
                _ => return learned,
            };
            if let Err(refused) = &learned {
                learning.refused.put(key, refused.clone(), now, for_ms);
            }
            learned
        };
        let learned = flights.run(key, work).await;
        learned.unwrap_or(Err(LearnError::Unproved(TokenError::Internal)))
    }
}

/// Which time it is that a token is asked about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    /// It was never held.
    First,
    /// It is held, and its merchant has cancelled.
    Again,
}

impl Asked {
    /// How many queries its app may have made by then.
    fn most(self) -> u32 {
        match self {
            Self::First => QUERIES,
            Self::Again => QUERIES_AGAIN,
        }
    }
}

/// How long a token that is held isn't asked about once more.
fn held_for(learned: &Result<(), LearnError>) -> i64 {
    match learned {
        Err(LearnError::TooMany | LearnError::Unproved(_)) => UNDESCRIBED_MS,
        _ => INVALID_MS,
    }
}

fn key(app: &SigningApp, app_auth_token: &Secret<String>) -> MemoKey {
    MemoKey::new("learn", &[app.app_id.as_str(), app_auth_token.expose()])
}

/// Refuses what can't be a token before it costs a signature.
fn check_form(token: &Secret<String>) -> Result<(), LearnError> {
    let text = token.expose();
    let fits = (1..=LONGEST_TOKEN).contains(&text.len());
    match fits && text.bytes().all(|b| b.is_ascii_graphic()) {
        true => Ok(()),
        false => Err(LearnError::Invalid),
    }
}

async fn prove(
    parts: &TokenParts,
    app: &Arc<SigningApp>,
    token: Secret<String>,
) -> Result<(), LearnError> {
    let described = calls::describe(parts, app, &token).await;
    let (status, described) = match described {
        Err(TokenError::Refused { code, sub_code }) if is_about_the_token(&code, &sub_code) => {
            return Err(LearnError::Undescribed { sub_code });
        }
        described => described.map_err(LearnError::Unproved)?,
    };
    if status == TokenStatus::Invalid {
        return Err(LearnError::Invalid);
    }
    let authorization = authorization(app, token, &described).map_err(LearnError::Unproved)?;
    let auth_app_id = authorization.auth_app_id.clone();
    let stored = storing::store_one(parts, authorization).await;
    stored.map_err(|error| LearnError::Unproved(error.into()))?;
    tracing::info!(app_id = %app.app_id, %auth_app_id, "a token was proved at Alipay, and is held as its merchant's");
    Ok(())
}

/// Whether a signed no is about what was asked: a business failure, or the one parameter of the
/// query. Another may be about who asks, or a fault of Alipay's own.
fn is_about_the_token(code: &str, sub_code: &str) -> bool {
    match code {
        "40002" => sub_code == "isv.invalid-parameter",
        "40004" => !sub_code.ends_with("SYSTEM_ERROR"),
        _ => false,
    }
}

fn authorization(
    app: &SigningApp,
    app_auth_token: Secret<String>,
    described: &TokenDescription,
) -> Result<Authorization, TokenError> {
    let auth_app_id = described.auth_app_id.as_deref().unwrap_or_default();
    let auth_app_id = AuthAppId::new(auth_app_id).map_err(|_| {
        TokenError::Reply(ProtocolError::TokenReplyInvalid {
            reason: "it doesn't say whose the token is (`auth_app_id`)".to_owned(),
        })
    })?;
    Ok(Authorization {
        app_id: app.app_id.clone(),
        auth_app_id,
        pid: described
            .user_id
            .as_deref()
            .and_then(|id| Pid::new(id).ok()),
        alias: None,
        reference: None,
        token: AppAuthToken {
            app_auth_token,
            app_refresh_token: None,
            stated_expiry: None,
        },
        rank: since(described).map_or(Rank::Unranked, Rank::Since),
        source: Source::Import,
        bound: false,
        is_plugin: false,
        agent_app_id: None,
        renews: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    })
}

/// When the authorisation began, as Alipay says: Unix milliseconds, or its written time.
fn since(described: &TokenDescription) -> Option<i64> {
    let text = described.auth_start.as_deref()?.trim();
    let ms = text.parse().ok();
    ms.or_else(|| timestamp::parse_v2(text).ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rubbish_is_asked_about_within_bounds() {
        let learning = Learning::new();
        let app = |n: u32| AppId::new(&format!("202100000000000{n}")).expect("an id");
        let take = |n, now| learning.take(&app(n), QUERIES, now);
        for queries in 0..QUERIES {
            let again = learning.take(&app(3), QUERIES_AGAIN, 1000);
            assert_eq!(again.is_ok(), queries < QUERIES_AGAIN);
            take(1, 1000).expect("within bounds");
        }
        assert!(take(1, 1000 + WINDOW_MS - 1).is_err());
        assert!(take(2, 1000).is_ok());
        assert!(take(3, 1000).is_ok());
        assert!(take(1, 1000 + WINDOW_MS).is_ok());
        assert!(take(1, 500).is_ok());
    }

    #[test]
    fn what_cannot_be_a_token_is_not_sent() {
        let check = |token: &str| check_form(&Secret::new(token.to_owned()));
        assert!(check("202611BB0123456789abcdef0123456789abcX01").is_ok());
        for bad in ["", "a b", "a\n", "令牌", &"x".repeat(257)] {
            assert!(check(bad).is_err(), "{bad}");
        }
    }
}
