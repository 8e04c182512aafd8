//! The triple PID – auth_app_id – app_auth_token, and what changes it.

use crate::model::authorization::{
    Authorization, Doubt, Evidence, Purchase, Rank, Refusal, Revocation, Source,
};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;

/// How far ahead of our clock Alipay's may be, milliseconds. What claims to be later still ranks by
/// our clock: a slip of the pen in one message must not outrank all that come after it for years.
const AHEAD_MS: i64 = 24 * 3600 * 1000;

/// One merchant application that authorised one of ours: unique per (`app_id`, `auth_app_id`),
/// never per PID, because one merchant can own several applications.
#[derive(Debug, Clone)]
pub struct Merchant {
    /// Our application.
    pub app_id: AppId,
    /// The merchant's application.
    pub auth_app_id: AuthAppId,
    /// The merchant's user id, once Alipay told it (open_id mode may never).
    pub pid: Option<Pid>,
    /// The operator's name for it.
    pub alias: Option<Alias>,
    /// The ISV's own tenant id, from `ref=` of the authorisation link.
    pub reference: Option<String>,
    /// The pair in force.
    pub token: AppAuthToken,
    /// The pair before it, kept until the new one has worked.
    pub previous_token: Option<AppAuthToken>,
    /// When the authorisation was given, Unix milliseconds: the newest wins.
    pub auth_time: i64,
    /// Whether `auth_time` is ours (arrival) and not Alipay's.
    pub auth_time_estimated: bool,
    /// Whether calls may be made for it.
    pub status: MerchantStatus,
    /// Whether the time of its cancellation is only by when that was ([`Revocation::estimated`]).
    pub revoked_at_estimated: bool,
    /// What makes it suspect, or revoked it where that was learned from a reply of Alipay's.
    pub doubt: Option<Doubt>,
    /// Whether Alipay refused the `app_refresh_token` in force: it isn't sent again.
    pub refresh_refused: bool,
    /// Where the authorisation came from.
    pub source: Source,
    /// The merchant's AES key for client data, base64.
    pub encrypt_key: Option<Secret<String>>,
    /// Whether Alipay told us that key, so that it may be asked again; else an operator gave it.
    pub encrypt_key_fetched: bool,
    /// When the record was last changed, Unix milliseconds.
    pub updated_at: i64,
}

/// Whether a merchant's authorisation stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MerchantStatus {
    /// Calls go through.
    Authorized,
    /// Cancelled at the given Unix millisecond: calls are `merchant-unauthorized`.
    Revoked {
        /// When the merchant cancelled.
        at: i64,
    },
    /// Alipay refused one of its tokens at the given Unix millisecond, without saying that the
    /// merchant cancelled. Calls go through; the first one that works clears it.
    Suspect {
        /// When the doubt arose.
        at: i64,
    },
}

impl MerchantStatus {
    /// The word used in JSON and as the metric label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Authorized => "authorized",
            Self::Revoked { .. } => "revoked",
            Self::Suspect { .. } => "suspect",
        }
    }
}

/// What is stored before an authorisation arrives.
#[derive(Debug, Clone, Copy)]
pub enum Before<'a> {
    /// No record, but a cancellation at the given Unix millisecond that came before what it
    /// cancels.
    Cancelled(i64),
    /// A record that can't be read; whatever comes takes its place.
    Damaged,
    /// Nothing.
    Nothing,
    /// The merchant's record.
    Record(&'a Merchant),
}

/// What an authorisation does to the stored record.
#[derive(Debug)]
pub enum Authorized {
    /// The record to store.
    Applied(Box<Merchant>),
    /// An authorisation stands; the token only becomes known as this record's.
    Known,
    /// A newer authorisation or cancellation is stored, or the merchant was removed (and maybe added
    /// anew) while its token was refreshed: nothing changes.
    Stale,
}

impl Merchant {
    /// Decides what `authorization` makes of what is stored.
    ///
    /// Protocol: plugins, authorisation message: apply only if `auth_time` is newer. The very
    /// same message again (same time, same token) is stale, too, so applying is idempotent.
    /// What an authorisation doesn't say (PID, alias, reference; of the same token also its refresh
    /// token and stated end) the record keeps.
    #[must_use]
    pub fn authorize(before: Before<'_>, authorization: &Authorization, now: i64) -> Authorized {
        let stored = before.record();
        if stored.is_some_and(|m| m.knows_better(authorization)) {
            return Authorized::Known;
        }
        let is_refresh = authorization
            .rank
            .purchase()
            .is_some_and(Purchase::is_refresh);
        let is_removed = is_refresh && matches!(before, Before::Cancelled(_) | Before::Nothing);
        if is_removed || stored.is_some_and(|m| m.has_ended(authorization.rank)) {
            return Authorized::Stale;
        }
        let newest = before.newest_change();
        let plausible = authorization.own_time(stored, now);
        let against = stored.map(|m| m.newest_against(authorization)).or(newest);
        let auth_time = match (plausible, newest) {
            (Some(at), _) if stored.is_some_and(|m| m.is_dated_by(authorization, at)) => at,
            (Some(at), _) if against.is_some_and(|against| at <= against) => {
                return Authorized::Stale;
            }
            (Some(at), _) => at,
            // What claims a time that can't be would otherwise be new each time it comes.
            (None, _) if authorization.repeats_absurdly(stored) => return Authorized::Stale,
            // It counts from when it began: its own message, which brings more, may yet come.
            (None, _) if authorization.rank.is_since() => authorization.rank.after(against, now),
            (None, newest) => authorization.rank.after(newest, now),
        };
        Authorized::Applied(Box::new(Self {
            auth_time,
            auth_time_estimated: plausible.is_none() || !authorization.rank.is_alipays(),
            ..Self::authorized_by(stored, authorization, now)
        }))
    }

    /// Whether a token of that rank is nothing but another name of this record: a pair that stands is
    /// never replaced by one that was only learned, and no cancellation undone by it unless the
    /// authorisation began after that.
    fn knows_better(&self, authorization: &Authorization) -> bool {
        let since = match authorization.rank {
            Rank::Since(since) => Some(since),
            Rank::Unranked => None,
            Rank::AfterStored
            | Rank::AuthTime(_)
            | Rank::Bought { .. }
            | Rank::EstimatedTime(_)
            | Rank::Proved { .. } => return false,
        };
        match self.status {
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => true,
            MerchantStatus::Revoked { .. } => {
                since.is_none_or(|since| since <= self.newest_against(authorization))
            }
        }
    }

    /// Whether Alipay's message of the token in force says when that was given, and `at` is just what
    /// was taken for it: then the message is news where it may bring the refresh token.
    fn is_dated_by(&self, authorization: &Authorization, at: i64) -> bool {
        let is_own = self.token.app_auth_token == authorization.token.app_auth_token;
        let is_guess = self.auth_time_estimated && self.newest_change() == at;
        let is_revoked = matches!(self.status, MerchantStatus::Revoked { .. });
        let lacks = self.token.app_refresh_token.is_none();
        is_own && is_guess && lacks && authorization.rank.is_alipays() && !is_revoked
    }

    /// Whether it counts as cancelled because its token was refused, and nothing said so.
    fn is_inferred(&self) -> bool {
        matches!(self.status, MerchantStatus::Revoked { .. }) && self.doubt.is_some()
    }

    /// What an authorisation with a time of its own must be newer than. Where a cancellation was only
    /// learned from a token that Alipay called invalid, its time is when we asked: it says nothing of
    /// another token, whose message may have been sent before and come after. Nor does one that only
    /// says by when it was, of a token that Alipay says holds. Where what Alipay called invalid has a time
    /// of ours alone, such a token wins whenever it began.
    fn newest_against(&self, authorization: &Authorization) -> i64 {
        let is_other = self.token.app_auth_token != authorization.token.app_auth_token;
        let is_since = authorization.rank.is_since();
        if is_since && is_other && self.is_inferred() && self.auth_time_estimated {
            return i64::MIN;
        }
        let is_proved = match authorization.rank {
            Rank::Proved { over, .. } => self.is_estimated_at(over),
            _ => false,
        };
        match (self.is_inferred() || is_proved) && is_other {
            true => self.auth_time,
            false => self.newest_change(),
        }
    }

    /// How `authorization` ranks if Alipay says that its token holds; nothing where that is no
    /// question: it is stale because of nothing but a cancellation that only says by when it was,
    /// which may have been of the token before.
    #[must_use]
    pub fn rank_if_proved(&self, authorization: &Authorization) -> Option<Rank> {
        let Rank::AuthTime(auth_time) = authorization.rank else {
            return None;
        };
        let over = self.newest_change();
        let is_other = self.token.app_auth_token != authorization.token.app_auth_token;
        let is_between = self.auth_time < auth_time && auth_time <= over;
        let is_question = is_other && is_between && self.is_estimated_at(over);
        is_question.then_some(Rank::Proved { auth_time, over })
    }

    /// Whether a cancellation stands that ranks at `time`, and only says by when it was.
    fn is_estimated_at(&self, time: i64) -> bool {
        self.revoked_at_estimated && self.status == MerchantStatus::Revoked { at: time }
    }

    /// Whether a cancellation stands that something of that rank doesn't undo.
    fn has_ended(&self, rank: Rank) -> bool {
        rank.purchase() == Some(Purchase::Renewal)
            && matches!(self.status, MerchantStatus::Revoked { .. })
    }

    /// The record with everything that `authorization` says, and what it doesn't kept.
    fn authorized_by(stored: Option<&Self>, authorization: &Authorization, now: i64) -> Self {
        let token = authorization.token_over(stored);
        let same_refresh_token = |m: &Self| m.token.app_refresh_token == token.app_refresh_token;
        Self {
            app_id: authorization.app_id.clone(),
            auth_app_id: authorization.auth_app_id.clone(),
            pid: authorization
                .pid
                .clone()
                .or_else(|| stored.and_then(|m| m.pid.clone())),
            alias: authorization
                .alias
                .clone()
                .or_else(|| stored.and_then(|m| m.alias.clone())),
            reference: authorization
                .reference
                .clone()
                .or_else(|| stored.and_then(|m| m.reference.clone())),
            refresh_refused: stored.is_some_and(|m| m.refresh_refused && same_refresh_token(m)),
            token,
            previous_token: stored.map(|m| m.token.clone()),
            auth_time: now,
            auth_time_estimated: true,
            status: MerchantStatus::Authorized,
            revoked_at_estimated: false,
            doubt: None,
            source: authorization.source,
            encrypt_key: authorization
                .encrypt_key
                .clone()
                .or_else(|| stored.and_then(|m| m.encrypt_key.clone())),
            encrypt_key_fetched: authorization.encrypt_key.is_none()
                && stored.is_some_and(|m| m.encrypt_key_fetched),
            updated_at: now,
        }
    }

    /// Whether what it has in force is `authorization`: the same token, given at the same time.
    #[must_use]
    pub fn has(&self, authorization: &Authorization) -> bool {
        let (Rank::AuthTime(at) | Rank::EstimatedTime(at)) = authorization.rank else {
            return false;
        };
        let token = &authorization.token.app_auth_token;
        self.auth_time == at && self.token.app_auth_token == *token
    }

    /// The record after `revocation`, or nothing where a newer authorisation stands. One without
    /// a time is known to hold and ranks after what is stored, whatever the clock says; so is one
    /// that Alipay confirmed for the token in force. Of who has cancelled already these tell nothing.
    #[must_use]
    pub fn revoke(&self, revocation: &Revocation, now: i64) -> Option<Self> {
        let newest = self.newest_change();
        let token = &self.token.app_auth_token;
        let holds_anyway = revocation.at.is_none() || revocation.only.is_some();
        if holds_anyway && matches!(self.status, MerchantStatus::Revoked { .. }) {
            return None;
        }
        if revocation.only.as_ref().is_some_and(|only| only != token) {
            return None;
        }
        let at = match revocation.at.map(|at| plausible(at, now)) {
            Some(at) if revocation.only.is_some() => at.max(newest.saturating_add(1)),
            // When it was cancelled takes the place of when we found out.
            Some(at) if self.is_inferred() && at > self.auth_time => at,
            Some(at) if at <= newest => return None,
            Some(at) => at,
            None => now.max(newest.saturating_add(1)),
        };
        Some(Self {
            status: MerchantStatus::Revoked { at },
            revoked_at_estimated: revocation.estimated,
            doubt: None,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The record after Alipay refused one of its tokens, or nothing where that tells nothing new:
    /// the token was replaced meanwhile, the merchant has cancelled, or was suspect before.
    ///
    /// What revokes ranks by when Alipay was asked: an authorisation that is given while the answer
    /// is on its way is newer.
    #[must_use]
    pub fn doubted(&self, refusal: &Refusal, now: i64) -> Option<Self> {
        let is_current = self.token.app_auth_token == refusal.app_auth_token;
        if !is_current || matches!(self.status, MerchantStatus::Revoked { .. }) {
            return None;
        }
        let refused = Self {
            doubt: Some(refusal.doubt),
            refresh_refused: self.refresh_refused || refusal.doubt == Doubt::RefreshTokenRefused,
            updated_at: now,
            ..self.clone()
        };
        if refusal.evidence == Evidence::WorkedSince {
            let is_new = refused.refresh_refused != self.refresh_refused;
            return is_new.then_some(Self {
                doubt: self.doubt,
                ..refused
            });
        }
        let at = plausible(refusal.at, now);
        if refusal.evidence == Evidence::Invalid {
            let at = at.max(self.newest_change().saturating_add(1));
            let status = MerchantStatus::Revoked { at };
            return Some(Self { status, ..refused });
        }
        let suspect = Self {
            status: match self.status {
                MerchantStatus::Authorized => MerchantStatus::Suspect { at },
                known => known,
            },
            ..refused
        };
        let is_new =
            suspect.status != self.status || suspect.refresh_refused != self.refresh_refused;
        is_new.then_some(suspect)
    }

    /// The record after a call with `app_auth_token` worked, or nothing where that tells nothing
    /// new. The first call that works drops the pair before, and clears a suspicion.
    #[must_use]
    pub fn worked(&self, app_auth_token: &Secret<String>, now: i64) -> Option<Self> {
        let is_current = self.token.app_auth_token == *app_auth_token;
        let is_revoked = matches!(self.status, MerchantStatus::Revoked { .. });
        if !is_current || is_revoked || !self.is_on_trial() {
            return None;
        }
        Some(Self {
            previous_token: None,
            status: MerchantStatus::Authorized,
            doubt: None,
            updated_at: now,
            ..self.clone()
        })
    }

    /// The record after Alipay said of `app_auth_token` that it holds, or nothing where that tells
    /// nothing new. It clears a suspicion; the pair before stays until a call has worked.
    #[must_use]
    pub fn trusted(&self, app_auth_token: &Secret<String>, now: i64) -> Option<Self> {
        let is_current = self.token.app_auth_token == *app_auth_token;
        let is_suspect = matches!(self.status, MerchantStatus::Suspect { .. });
        (is_current && is_suspect).then(|| Self {
            status: MerchantStatus::Authorized,
            doubt: None,
            updated_at: now,
            ..self.clone()
        })
    }

    /// Whether a call that works would tell something new.
    #[must_use]
    pub fn is_on_trial(&self) -> bool {
        self.previous_token.is_some() || matches!(self.status, MerchantStatus::Suspect { .. })
    }

    /// The token before the one in force, where that one came by a refresh and hasn't worked yet.
    /// What the merchant itself has replaced by authorising anew is never used again.
    #[must_use]
    pub fn fallback(&self) -> Option<&Secret<String>> {
        let is_revoked = matches!(self.status, MerchantStatus::Revoked { .. });
        let previous = self.previous_token.as_ref()?;
        let usable = self.source == Source::Refresh && !is_revoked;
        usable.then_some(&previous.app_auth_token)
    }

    /// When it was last authorised or cancelled, as it ranks.
    pub(crate) fn newest_change(&self) -> i64 {
        match self.status {
            MerchantStatus::Authorized | MerchantStatus::Suspect { .. } => self.auth_time,
            MerchantStatus::Revoked { at } => at.max(self.auth_time),
        }
    }
}

impl<'a> Before<'a> {
    fn record(self) -> Option<&'a Merchant> {
        match self {
            Self::Record(merchant) => Some(merchant),
            Self::Cancelled(_) | Self::Damaged | Self::Nothing => None,
        }
    }

    fn newest_change(self) -> Option<i64> {
        match self {
            Self::Cancelled(at) => Some(at),
            Self::Damaged | Self::Nothing => None,
            Self::Record(merchant) => Some(merchant.newest_change()),
        }
    }
}

impl Rank {
    /// When something counts from that ranks after what is stored, which ranks at `newest`.
    fn after(self, newest: Option<i64>, now: i64) -> i64 {
        let at = match self {
            Self::Bought { at, .. } | Self::Since(at) => plausible(at, now),
            _ => now,
        };
        newest.map_or(at, |newest| at.max(newest.saturating_add(1)))
    }

    fn purchase(self) -> Option<Purchase> {
        match self {
            Self::Bought { purchase, .. } => Some(purchase),
            _ => None,
        }
    }

    /// The time that what is stored must be older than, where that can be true.
    fn plausible(self, now: i64) -> Option<i64> {
        match self {
            Self::Bought {
                over: Some(over), ..
            } => Some(self.after(Some(over), now)),
            Self::AuthTime(at) | Self::EstimatedTime(at) | Self::Proved { auth_time: at, .. } => {
                Some(at).filter(|at| plausible(*at, now) == *at)
            }
            Self::AfterStored | Self::Bought { .. } | Self::Since(_) | Self::Unranked => None,
        }
    }

    /// Whether it names a time that can't be true: then it ranks as now.
    #[must_use]
    pub fn is_absurd(self, now: i64) -> bool {
        self.is_dated() && self.plausible(now).is_none()
    }

    fn is_dated(self) -> bool {
        matches!(self, Self::EstimatedTime(_)) || self.is_alipays()
    }

    fn is_since(self) -> bool {
        matches!(self, Self::Since(_))
    }

    /// Whether it names a time of Alipay's.
    fn is_alipays(self) -> bool {
        matches!(self, Self::AuthTime(_) | Self::Proved { .. })
    }
}

impl Authorization {
    /// The pair it brings. Of the token that is stored already it may say less than is known.
    fn token_over(&self, stored: Option<&Merchant>) -> AppAuthToken {
        let mut token = self.token.clone();
        let known = stored.map(|m| &m.token);
        if let Some(known) = known.filter(|known| known.app_auth_token == token.app_auth_token) {
            let AppAuthToken {
                app_refresh_token,
                stated_expiry,
                ..
            } = known.clone();
            token.app_refresh_token = token.app_refresh_token.or(app_refresh_token);
            token.stated_expiry = token.stated_expiry.or(stated_expiry);
        }
        token
    }

    /// The time that what is stored must be older than. A pair that was bought for the very token in
    /// force has none: nobody has replaced that, though it may have been given again meanwhile.
    fn own_time(&self, stored: Option<&Merchant>, now: i64) -> Option<i64> {
        match (&self.renews, stored) {
            (None, _) => self.rank.plausible(now),
            (Some(of), Some(stored)) if stored.token.app_auth_token != *of => {
                Some(self.rank.after(None, now))
            }
            (Some(_), _) => None,
        }
    }

    /// Whether it claims a time that can't be, and brings the token that is stored already.
    fn repeats_absurdly(&self, stored: Option<&Merchant>) -> bool {
        let same = |m: &Merchant| m.token.app_auth_token == self.token.app_auth_token;
        self.rank.is_dated() && stored.is_some_and(same)
    }
}

/// `at`, as far as it can be true; else now.
#[must_use]
pub fn plausible(at: i64, now: i64) -> i64 {
    if at <= now.saturating_add(AHEAD_MS) {
        at
    } else {
        now
    }
}

#[cfg(test)]
mod tests;
