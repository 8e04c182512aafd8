//! Granted tokens become records and events, in one commit.

use std::time::Duration;

use crate::model::authorization::{Authorization, Purchase, Rank, Source};
use crate::model::event::MERCHANT_AUTHORIZED;
use crate::model::id::{AppId, AuthAppId, Pid};
use crate::model::merchant::Merchant;
use crate::model::notification::InboxEntry;
use crate::model::token::AppAuthToken;
use crate::model::user_token::UserToken;
use crate::protocol::error::ProtocolError;
use crate::protocol::token_reply::GrantedToken;
use crate::store::error::StoreError;
use crate::store::{Change, Effect, MerchantKey};
use crate::token::error::TokenError;
use crate::token::{ExchangeContext, TokenParts, Tokens};

/// How often a commit of what wasn't bought is tried while the disk refuses, before that is told. Together with the pause,
/// below the time a browser waits.
const TRIES: usize = 5;
/// The pause between two tries.
const PAUSE: Duration = Duration::from_millis(500);
/// The longest pause where nobody waits: the code is spent, so giving up loses the token.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);
/// How long, beyond the calls to Alipay, an asker waits for what was bought to be stored.
pub(super) const STORING: Duration = Duration::from_secs(5);

/// Where tokens came from.
pub(super) struct Found<'a> {
    pub(super) app_id: &'a AppId,
    pub(super) source: Source,
    /// The refresh of the sidecar's own that brought them.
    pub(super) renewal: Option<Renewal<'a>>,
    pub(super) context: &'a ExchangeContext,
}

/// What a refresh goes on with.
pub(super) struct Renewal<'a> {
    pub(super) purchase: Purchase,
    /// The record as it was when the refresh was sent.
    pub(super) of: &'a Merchant,
    /// When it was sent: what is authorised or removed after that is newer.
    pub(super) sent_at: i64,
}

/// What became of tokens that were bought.
pub(super) struct Stored {
    /// Their merchants' records as they are then.
    pub(super) merchants: Vec<Merchant>,
    /// Whose token is another record's, so that it wasn't stored.
    pub(super) conflicts: Vec<(AuthAppId, StoreError)>,
}

/// Stores `granted` and gives the records as they are then; `further` is part of the commit.
pub(super) async fn store(
    parts: &TokenParts,
    found: &Found<'_>,
    granted: Vec<GrantedToken>,
    further: Option<Change>,
) -> Result<Stored, TokenError> {
    let now = parts.clock.now_ms();
    let authorizations: Vec<_> = granted
        .into_iter()
        .filter_map(|granted| authorization(found, granted, now))
        .collect();
    if authorizations.is_empty() {
        return Err(TokenError::Reply(ProtocolError::TokenReplyInvalid {
            reason: "no `auth_app_id` has the form of one".to_owned(),
        }));
    }
    let (ids, conflicts) = commit_granted(parts, (authorizations, further), now).await?;
    parts.wake.notify_one();
    let mut merchants = Vec::new();
    for id in ids {
        let key = MerchantKey::Exact(found.app_id.clone(), id);
        merchants.extend(parts.store.find(key).await?);
    }
    Ok(Stored {
        merchants,
        conflicts,
    })
}

/// Stores one authorisation, with its event.
pub(super) async fn store_one(
    parts: &TokenParts,
    authorization: Authorization,
) -> Result<(), StoreError> {
    let entry = event_entry(&authorization, parts.clock.now_ms());
    let change = Change::Authorize {
        entry: Some(Box::new(entry)),
        authorization: Box::new(authorization),
    };
    commit(parts, vec![change]).await?;
    parts.wake.notify_one();
    Ok(())
}

/// Commits all at once; if one token turns out to be another record's, each by itself, because the
/// code is spent and the others must not be lost with it. Gives whose tokens were stored, and whose
/// weren't.
async fn commit_granted(
    parts: &TokenParts,
    (authorizations, further): (Vec<Authorization>, Option<Change>),
    now: i64,
) -> Result<(Vec<AuthAppId>, Vec<(AuthAppId, StoreError)>), StoreError> {
    let ids: Vec<_> = authorizations
        .iter()
        .map(|a| a.auth_app_id.clone())
        .collect();
    let changes: Vec<_> = authorizations
        .into_iter()
        .map(|authorization| Change::Authorize {
            entry: Some(Box::new(event_entry(&authorization, now))),
            authorization: Box::new(authorization),
        })
        .collect();
    let late = late(parts, changes.clone()).await;
    let with_further =
        |changes: &[Change]| changes.iter().cloned().chain(further.clone()).collect();
    let all = Dated {
        changes: with_further(&changes),
        late: with_further(&late),
    };
    let (settled, mut has_waited) = settle(parts, all).await;
    match settled {
        Ok(effects) => {
            tell_forgotten(&ids, &effects);
            return Ok((ids, Vec::new()));
        }
        Err(StoreError::TokenConflict { .. }) if ids.len() > 1 => {}
        Err(error) => return Err(error),
    }
    let (mut stored, mut conflicts) = (Vec::new(), Vec::new());
    for (id, (change, late)) in ids.into_iter().zip(changes.into_iter().zip(late)) {
        // Once the store has failed, what it has stored since may be newer in this round, too.
        let first = if has_waited { late.clone() } else { change };
        let one = Dated {
            changes: vec![first],
            late: vec![late],
        };
        let (settled, waited) = settle(parts, one).await;
        has_waited |= waited;
        match settled {
            Ok(effects) => {
                tell_forgotten(std::slice::from_ref(&id), &effects);
                stored.push(id);
            }
            Err(error @ StoreError::TokenConflict { .. }) => {
                tracing::error!(%error, auth_app_id = %id, "a granted token was not stored");
                conflicts.push((id, error));
            }
            Err(error) => return Err(error),
        }
    }
    if stored.is_empty()
        && let Some((_, conflict)) = conflicts.pop()
    {
        return Err(conflict);
    }
    if let Some(further) = further {
        commit_bought(parts, vec![further]).await?;
    }
    Ok((stored, conflicts))
}

/// Tells whose tokens were bought and aren't kept: each change of `ids` has its effect.
fn tell_forgotten(ids: &[AuthAppId], effects: &[Effect]) {
    for (id, effect) in ids.iter().zip(effects) {
        if matches!(effect, Effect::Stale) {
            tracing::warn!(
                auth_app_id = %id,
                "a token that was bought isn't kept: its merchant was removed, has cancelled or authorised anew meanwhile"
            );
        }
    }
}

/// Commits, again and again while the store is unavailable: by their ids the entries make what an
/// earlier try did store known, so that it isn't applied twice.
pub(super) async fn commit(
    parts: &TokenParts,
    changes: Vec<Change>,
) -> Result<Vec<Effect>, StoreError> {
    for _ in 1..TRIES {
        match parts.store.commit(changes.clone()).await {
            Err(StoreError::Unavailable { .. }) => tokio::time::sleep(PAUSE).await,
            settled => return settled,
        }
    }
    parts.store.commit(changes).await
}

/// Commits what was bought, however long the store takes: it exists nowhere else.
pub(super) async fn commit_bought(
    parts: &TokenParts,
    changes: Vec<Change>,
) -> Result<Vec<Effect>, StoreError> {
    // Before the store may fail: what it stores while this is tried again may be newer.
    let late = late(parts, changes.clone()).await;
    settle(parts, Dated { changes, late }).await.0
}

/// Changes that store what was bought.
struct Dated {
    changes: Vec<Change>,
    /// The same as they rank once the store has failed.
    late: Vec<Change>,
}

/// Commits what was bought, however long the store takes, and tells whether it had to be tried again.
async fn settle(parts: &TokenParts, dated: Dated) -> (Result<Vec<Effect>, StoreError>, bool) {
    match parts.store.commit(dated.changes).await {
        Err(error @ StoreError::Unavailable { .. }) => {
            (commit_at_last(parts, dated.late, error).await, true)
        }
        settled => (settled, false),
    }
}

/// Keeps a user's tokens as [`commit_bought`] does. Where they have to wait, what came meanwhile
/// counts more: a later login or refresh, and a cancellation.
pub(super) async fn keep_login(parts: &TokenParts, token: UserToken) -> Result<(), StoreError> {
    let Some(key) = token.key() else {
        return Ok(());
    };
    // Before the store may fail, as above; what can't be read now is overwritten.
    let before = parts.store.user(key.clone()).await;
    let keep = |replaces| Change::KeepUserToken {
        token: Box::new(token.clone()),
        replaces,
    };
    match parts.store.commit(vec![keep(None)]).await {
        Err(StoreError::Unavailable { .. }) => {}
        settled => return settled.map(drop),
    }
    // What stood there before is older, whatever the clocks say.
    let was = |known: &UserToken| match &before {
        Ok(Some(before)) => before.access_token == known.access_token,
        _ => false,
    };
    let mut was_known = matches!(before, Ok(Some(_)));
    let mut pause = PAUSE;
    loop {
        let known = parts.store.user(key.clone()).await;
        let replaces = match (known, &before) {
            (Ok(Some(known)), Ok(_)) if known.obtained_at > token.obtained_at && !was(&known) => {
                tracing::info!(app_id = %key.app_id, "the tokens of a login that waited for the store gave way to newer ones");
                return Ok(());
            }
            (Ok(None), _) if was_known => {
                tracing::info!(app_id = %key.app_id, "the tokens of a login that waited for the store aren't kept: the user was forgotten meanwhile");
                return Ok(());
            }
            (Ok(known), Ok(_)) => known.map(|known| known.access_token),
            _ => None,
        };
        was_known |= replaces.is_some();
        match parts.store.commit(vec![keep(replaces)]).await {
            Err(error @ StoreError::Unavailable { .. }) => pause = rest(&error, pause).await,
            Err(error) => return Err(error),
            // Somebody was faster: it is looked at again.
            Ok(effects) if matches!(effects.first(), Some(Effect::Stale)) => {}
            Ok(_) => return Ok(()),
        }
    }
}

/// Waits before the next try, and tells how long to wait before the one after it.
async fn rest(error: &StoreError, pause: Duration) -> Duration {
    tracing::error!(%error, "bought tokens can't be stored yet; they exist in this process alone");
    tokio::time::sleep(pause).await;
    pause.saturating_mul(2).min(LONGEST_PAUSE)
}

/// Commits as soon as the store takes it, which has failed with `error`: by their ids the entries make
/// what it did store known.
async fn commit_at_last(
    parts: &TokenParts,
    changes: Vec<Change>,
    mut error: StoreError,
) -> Result<Vec<Effect>, StoreError> {
    let mut pause = PAUSE;
    loop {
        pause = rest(&error, pause).await;
        match parts.store.commit(changes.clone()).await {
            Err(again @ StoreError::Unavailable { .. }) => error = again,
            settled => return settled,
        }
    }
}

/// The changes as they rank once the store has failed: what it stores meanwhile may be newer. What
/// stands in it now is older, whatever the two clocks say.
async fn late(parts: &TokenParts, mut changes: Vec<Change>) -> Vec<Change> {
    for change in &mut changes {
        if let Change::Authorize { authorization, .. } = change
            // A refresh knows what it goes on with.
            && authorization.renews.is_none()
            && let Rank::Bought { over, .. } = &mut authorization.rank
        {
            let whose = (
                authorization.app_id.clone(),
                authorization.auth_app_id.clone(),
            );
            // What can't be read now ranks by the clock alone.
            let stored = parts.store.find(MerchantKey::Exact(whose.0, whose.1)).await;
            let stored = stored.ok().and_then(|mut found| found.pop());
            *over = Some(stored.map_or(i64::MIN, |stored| stored.newest_change()));
        }
    }
    changes
}

impl Tokens {
    /// Whether tokens that are bought now could be stored.
    #[must_use]
    pub fn can_be_stored(&self) -> bool {
        self.parts.store.is_writable()
    }

    /// Waits for an exchange or a refresh, but not for a store that doesn't take what was bought.
    pub(super) async fn unless_unstored<T>(
        &self,
        landed: impl Future<Output = Option<Result<T, TokenError>>>,
    ) -> Result<T, TokenError> {
        let patience = self.parts.timeout.saturating_mul(2) + STORING;
        until_stored(patience, landed).await
    }
}

/// Waits for what is bought and stored in a task of its own, but not for a store that doesn't take it.
pub(super) async fn until_stored<T>(
    patience: Duration,
    landed: impl Future<Output = Option<Result<T, TokenError>>>,
) -> Result<T, TokenError> {
    match tokio::time::timeout(patience, landed).await {
        Ok(landed) => landed.unwrap_or(Err(TokenError::Internal)),
        Err(_) => Err(TokenError::Unstored),
    }
}

/// Refuses to spend what couldn't be stored.
pub(super) fn check_writable(parts: &TokenParts) -> Result<(), TokenError> {
    match parts.store.is_writable() {
        true => Ok(()),
        false => Err(TokenError::Unwritable),
    }
}

fn authorization(found: &Found<'_>, granted: GrantedToken, now: i64) -> Option<Authorization> {
    let auth_app_id = AuthAppId::new(&granted.auth_app_id).ok()?;
    let is_of = |renewal: &&Renewal<'_>| renewal.of.auth_app_id == auth_app_id;
    let renewal = found.renewal.as_ref().filter(is_of);
    Some(Authorization {
        app_id: found.app_id.clone(),
        auth_app_id,
        pid: granted.user_id.as_deref().and_then(|id| Pid::new(id).ok()),
        alias: None,
        reference: found.context.reference.clone(),
        token: AppAuthToken {
            stated_expiry: granted.expires_in.and_then(|s| expiry(now, s)),
            app_auth_token: granted.app_auth_token,
            app_refresh_token: granted.app_refresh_token,
        },
        rank: Rank::Bought {
            // What else a refresh may bring goes on with nothing.
            purchase: renewal.map_or(Purchase::Exchange, |renewal| renewal.purchase),
            at: renewal.map_or(now, |renewal| renewal.sent_at),
            over: None,
        },
        renews: renewal.map(|renewal| renewal.of.token.app_auth_token.clone()),
        source: found.source,
        bound: found.context.bound,
        is_plugin: false,
        agent_app_id: None,
        trigger: None,
        error: None,
        encrypt_key: None,
    })
}

/// The moment `seconds` after `now`, where there is one.
fn expiry(now: i64, seconds: u64) -> Option<i64> {
    i64::try_from(seconds)
        .ok()?
        .checked_mul(1000)?
        .checked_add(now)
}

fn event_entry(authorization: &Authorization, now: i64) -> InboxEntry {
    let whose = (&authorization.app_id, &authorization.auth_app_id);
    InboxEntry {
        pid: authorization.pid.clone(),
        ..InboxEntry::of_merchant(MERCHANT_AUTHORIZED, whose, now)
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::model::merchant::{Authorized, Before};
    use crate::protocol::secret::Secret;

    const CONTEXT: ExchangeContext = ExchangeContext {
        reference: None,
        bound: true,
    };

    fn granted(auth_app_id: &str) -> GrantedToken {
        GrantedToken {
            auth_app_id: auth_app_id.to_owned(),
            user_id: None,
            app_auth_token: Secret::new(format!("of-{auth_app_id}")),
            app_refresh_token: None,
            expires_in: None,
            re_expires_in: None,
        }
    }

    fn given(renewal: Option<Renewal<'_>>, auth_app_id: &str) -> Authorization {
        let found = Found {
            app_id: &AppId::new("2021000000000001").expect("an id"),
            source: Source::Refresh,
            renewal,
            context: &CONTEXT,
        };
        authorization(&found, granted(auth_app_id), 5000).expect("an id")
    }

    /// A record with a token.
    pub(in crate::token) fn merchant(auth_app_id: &str) -> Merchant {
        match Merchant::authorize(Before::Nothing, &given(None, auth_app_id), 5000) {
            Authorized::Applied(merchant) => *merchant,
            _ => panic!("nothing is stored that could be newer"),
        }
    }

    #[test]
    fn what_else_a_refresh_brings_is_no_refresh_of_it() {
        let of = merchant("2021000000000101");
        let renewal = || {
            Some(Renewal {
                purchase: Purchase::Renewal,
                of: &of,
                sent_at: 4000,
            })
        };
        let own = given(renewal(), "2021000000000101");
        assert_eq!(own.renews.as_ref(), Some(&of.token.app_auth_token));
        let bought = |purchase, at| Rank::Bought {
            purchase,
            at,
            over: None,
        };
        assert_eq!(own.rank, bought(Purchase::Renewal, 4000));
        let other = given(renewal(), "2021000000000102");
        assert!(other.renews.is_none());
        assert_eq!(other.rank, bought(Purchase::Exchange, 5000));
    }
}
