//! What an operator says of a merchant: a line of an import, or the body of a `PUT`; and the changes
//! that make the record of it.

use crate::admin::error::AdminError;
use crate::admin::json::{Members, invalid, missing};
use crate::admin::merchant_form;
use crate::model::authorization::{
    Authorization, Doubt, Evidence, Rank, Refusal, Revocation, Source,
};
use crate::model::event::{MERCHANT_AUTHORIZED, MERCHANT_REVOKED};
use crate::model::id::{Alias, AppId, AuthAppId, Pid};
use crate::model::merchant::plausible;
use crate::model::notification::InboxEntry;
use crate::model::token::AppAuthToken;
use crate::protocol::secret::Secret;
use crate::store::{Change, Fate};

/// What an operator says of a merchant.
pub(crate) struct MerchantRecord {
    pub(super) app_id: AppId,
    pub(super) auth_app_id: AuthAppId,
    pid: Option<Pid>,
    pub(crate) alias: Option<Alias>,
    reference: Option<String>,
    app_auth_token: Option<Secret<String>>,
    app_refresh_token: Option<Secret<String>>,
    auth_time: Option<i64>,
    encrypt_key: Option<Secret<String>>,
    exported: Exported,
}

/// What only an export says of a merchant.
#[derive(Default, PartialEq)]
struct Exported {
    auth_time_estimated: bool,
    encrypt_key_fetched: bool,
    previous_app_auth_token: Option<Secret<String>>,
    previous_app_refresh_token: Option<Secret<String>>,
    doubt: Option<Doubt>,
    refresh_refused: bool,
    revoked_at: Option<i64>,
    revoked_at_estimated: bool,
    stated_expiry: Option<i64>,
    suspect_at: Option<i64>,
}

impl Exported {
    fn parse(members: &mut Members) -> Result<Self, AdminError> {
        Ok(Self {
            auth_time_estimated: members.flag("auth_time_estimated")?,
            encrypt_key_fetched: members.flag("encrypt_key_fetched")?,
            previous_app_auth_token: token(members, "previous_app_auth_token")?,
            previous_app_refresh_token: token(members, "previous_app_refresh_token")?,
            doubt: members
                .text("doubt")?
                .map(|word| doubt(&word))
                .transpose()?,
            refresh_refused: members.flag("refresh_refused")?,
            revoked_at: members.integer("revoked_at")?,
            revoked_at_estimated: members.flag("revoked_at_estimated")?,
            stated_expiry: members.integer("stated_expiry")?,
            suspect_at: members.integer("suspect_at")?,
        })
    }

    /// What is told of a time makes no sense without the time.
    fn check(&self, auth_time: Option<i64>) -> Result<(), AdminError> {
        let dated = self.auth_time_estimated
            || self.previous_app_auth_token.is_some()
            || self.revoked_at.is_some()
            || self.suspect_at.is_some();
        self.check_doubt()?;
        match (auth_time, self.revoked_at) {
            (None, _) if dated => Err(missing("auth_time")),
            (_, None) if self.revoked_at_estimated => Err(missing("revoked_at")),
            (Some(given), Some(revoked)) if revoked <= given => {
                Err(invalid("`revoked_at` isn't later than `auth_time`"))
            }
            _ if self.previous_app_refresh_token.is_some()
                && self.previous_app_auth_token.is_none() =>
            {
                Err(missing("previous_app_auth_token"))
            }
            _ => Ok(()),
        }
    }

    /// A doubt is why a merchant is suspect, or revoked, and there is one of these at most.
    fn check_doubt(&self) -> Result<(), AdminError> {
        match (self.suspect_at, self.revoked_at, self.doubt) {
            (Some(_), Some(_), _) => Err(invalid("`suspect_at` stands beside `revoked_at`")),
            (Some(_), None, None) => Err(missing("doubt")),
            (None, None, Some(_)) => Err(missing("suspect_at")),
            (_, _, Some(_)) if self.revoked_at_estimated => {
                Err(invalid("`revoked_at_estimated` stands beside `doubt`"))
            }
            _ => Ok(()),
        }
    }
}

/// A token of Alipay's: whatever it consists of, it is sent as a parameter and, in v3, as a header.
fn token(members: &mut Members, name: &str) -> Result<Option<Secret<String>>, AdminError> {
    let token = members.secret(name)?;
    let is_one = |token: &Secret<String>| {
        let bytes = token.expose().as_bytes();
        bytes.len() <= LONGEST_TOKEN && bytes.iter().all(u8::is_ascii_graphic)
    };
    match token.as_ref().is_none_or(is_one) {
        true => Ok(token),
        false => Err(invalid(&format!(
            "`{name}` is no token (not shown): visible ASCII, no spaces, {LONGEST_TOKEN} characters at \
             the most"
        ))),
    }
}

fn doubt(word: &str) -> Result<Doubt, AdminError> {
    word.parse().map_err(|()| {
        invalid(
            "`doubt` is none of `new-token-refused`, `refresh-token-refused` and `token-refused`",
        )
    })
}

impl MerchantRecord {
    /// Reads a JSON object; `path` says which merchant the address named, if it did.
    pub(crate) fn parse(
        body: &[u8],
        path: Option<(&AppId, &AuthAppId)>,
    ) -> Result<Self, AdminError> {
        let object = match path {
            Some(_) => &merchant_form::BODY,
            None => &merchant_form::LINE,
        };
        let mut members = Members::parse(body, object)?;
        let (path_app, path_merchant) = path.unzip();
        let has_alias = members.has("alias");
        let record = Self {
            app_id: same(&mut members, "app_id", path_app)?,
            auth_app_id: same(&mut members, "auth_app_id", path_merchant)?,
            pid: members.parsed("user_id")?,
            alias: members.parsed("alias")?,
            reference: members.text("ref")?,
            app_auth_token: token(&mut members, "app_auth_token")?,
            app_refresh_token: token(&mut members, "app_refresh_token")?,
            auth_time: members.integer("auth_time")?,
            encrypt_key: members.content_key("encrypt_key")?,
            exported: Exported::parse(&mut members)?,
        };
        members.finish()?;
        record.exported.check(record.auth_time)?;
        let needs_token = path.is_none() || !has_alias || !record.is_name_alone();
        if record.app_auth_token.is_none() && needs_token {
            return Err(missing("app_auth_token"));
        }
        if record
            .reference
            .as_ref()
            .is_some_and(|text| text.chars().count() > LONGEST_REF)
        {
            return Err(invalid("`ref` has more than 64 characters"));
        }
        Ok(record)
    }

    fn is_name_alone(&self) -> bool {
        self.pid.is_none()
            && self.reference.is_none()
            && self.app_refresh_token.is_none()
            && self.auth_time.is_none()
            && self.encrypt_key.is_none()
            && self.exported == Exported::default()
    }

    /// The authorisation it tells of, ranked `otherwise` where it has no `auth_time`; `None`: it
    /// has no token.
    fn authorization(&self, otherwise: Rank) -> Option<Authorization> {
        let app_auth_token = self.app_auth_token.clone()?;
        Some(Authorization {
            app_id: self.app_id.clone(),
            auth_app_id: self.auth_app_id.clone(),
            pid: self.pid.clone(),
            alias: self.alias.clone(),
            reference: self.reference.clone(),
            token: AppAuthToken {
                app_auth_token,
                app_refresh_token: self.app_refresh_token.clone(),
                stated_expiry: self.exported.stated_expiry,
            },
            rank: self.auth_time.map_or(otherwise, |at| self.ranked(at)),
            source: Source::Import,
            bound: true,
            is_plugin: false,
            agent_app_id: None,
            renews: None,
            trigger: None,
            error: None,
            encrypt_key: self
                .encrypt_key
                .clone()
                .filter(|_| !self.exported.encrypt_key_fetched),
        })
    }

    fn ranked(&self, at: i64) -> Rank {
        match self.exported.auth_time_estimated {
            true => Rank::EstimatedTime(at),
            false => Rank::AuthTime(at),
        }
    }

    /// The changes that make the record of it; `None`: it has no token.
    pub(crate) fn changes(&self, now: i64) -> Option<Vec<Change>> {
        let authorization = self.authorization(Rank::AfterStored)?;
        let mut changes = Vec::new();
        if let Some(previous) = self.previous(&authorization) {
            changes.push(silently(previous));
        }
        match self.exported.revoked_at {
            None => changes.push(authorize(authorization.clone(), now)),
            // Of an authorisation that ended long ago the backend hears the end alone.
            Some(_) => changes.push(silently(authorization.clone())),
        }
        // Of what may have been overcome since, nothing says when it was: a suspicion by a call that worked,
        // a key by another one.
        let passing = self.suspicion(&authorization).into_iter();
        changes.push(Change::OfAuthorization {
            fate: Fate::Applied,
            changes: passing.chain(self.fetched_key()).collect(),
        });
        let (end, dated) = self.end(&authorization, now);
        let lasting = self.refused_refresh(&authorization).into_iter();
        changes.push(Change::OfAuthorization {
            fate: Fate::InForce,
            changes: lasting.chain(end).collect(),
        });
        changes.extend(dated);
        Some(changes)
    }

    fn fetched_key(&self) -> Option<Change> {
        let fetched = self.exported.encrypt_key_fetched;
        let encrypt_key = self.encrypt_key.clone().filter(|_| fetched)?;
        Some(Change::FetchedKey {
            app_id: self.app_id.clone(),
            auth_app_id: self.auth_app_id.clone(),
            encrypt_key,
        })
    }

    /// The token in force.
    pub(super) fn token(&self) -> Option<&Secret<String>> {
        self.app_auth_token.as_ref()
    }

    /// The tokens it tells of: that in force, and the one before.
    pub(super) fn tokens(&self) -> impl Iterator<Item = &Secret<String>> {
        let previous = &self.exported.previous_app_auth_token;
        self.app_auth_token.iter().chain(previous)
    }

    /// What makes it doubtful as it was. Nobody is told: whoever had to know was told then.
    fn suspicion(&self, authorization: &Authorization) -> Option<Change> {
        let (at, doubt) = self.exported.suspect_at.zip(self.exported.doubt)?;
        Some(Change::Doubt {
            refusal: refusal(authorization, doubt, at),
            entry: None,
        })
    }

    /// That its refresh token is spent, likewise.
    fn refused_refresh(&self, authorization: &Authorization) -> Option<Change> {
        self.exported.refresh_refused.then(|| Change::Doubt {
            refusal: Refusal {
                evidence: Evidence::WorkedSince,
                ..refusal(authorization, Doubt::RefreshTokenRefused, 0)
            },
            entry: None,
        })
    }

    /// The end of the authorisation: a cancellation, or a refusal that proved one. What says by itself
    /// when that was comes second: it counts whatever becomes of the authorisation.
    fn end(&self, authorization: &Authorization, now: i64) -> (Option<Change>, Option<Change>) {
        let Some(at) = self.exported.revoked_at else {
            return (None, None);
        };
        let entry = Some(Box::new(entry(authorization, MERCHANT_REVOKED, now)));
        if let Some(doubt) = self.exported.doubt {
            let refusal = Refusal {
                evidence: Evidence::Invalid,
                ..refusal(authorization, doubt, at)
            };
            return (Some(Change::Doubt { refusal, entry }), None);
        }
        // One that can't be true still holds, and must not rank with the authorisation.
        let at = Some(at).filter(|at| plausible(*at, now) == *at);
        let is_estimated = self.exported.revoked_at_estimated;
        let revocation = Revocation {
            app_id: self.app_id.clone(),
            auth_app_id: self.auth_app_id.clone(),
            at,
            estimated: at.is_some() && is_estimated,
            only: None,
        };
        let end = Some(Change::Revoke { revocation, entry });
        match at {
            Some(_) if !is_estimated => (None, end),
            _ => (end, None),
        }
    }

    /// The authorisation before it, which makes the pair it had.
    fn previous(&self, authorization: &Authorization) -> Option<Authorization> {
        let app_auth_token = self.exported.previous_app_auth_token.clone()?;
        let before = self.auth_time?.checked_sub(1)?;
        Some(Authorization {
            token: AppAuthToken {
                app_auth_token,
                app_refresh_token: self.exported.previous_app_refresh_token.clone(),
                stated_expiry: None,
            },
            rank: self.ranked(before),
            ..authorization.clone()
        })
    }
}

fn refusal(authorization: &Authorization, doubt: Doubt, at: i64) -> Refusal {
    Refusal {
        app_id: authorization.app_id.clone(),
        auth_app_id: authorization.auth_app_id.clone(),
        app_auth_token: authorization.token.app_auth_token.clone(),
        doubt,
        at,
        evidence: Evidence::None,
    }
}

/// An id that stands in the body, in the address, or, equal, in both.
fn same<T>(members: &mut Members, name: &str, path: Option<&T>) -> Result<T, AdminError>
where
    T: std::str::FromStr + Clone + PartialEq,
    T::Err: std::fmt::Display,
{
    match (members.parsed::<T>(name)?, path) {
        (Some(id), None) => Ok(id),
        (None, Some(path)) => Ok(path.clone()),
        (Some(id), Some(path)) if id == *path => Ok(id),
        (Some(_), Some(_)) => Err(invalid(&format!("`{name}` is another than the address's"))),
        (None, None) => Err(missing(name)),
    }
}

/// The change that stores `authorization` and tells the backend.
fn authorize(authorization: Authorization, now: i64) -> Change {
    let entry = entry(&authorization, MERCHANT_AUTHORIZED, now);
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: Some(Box::new(entry)),
    }
}

/// The change that stores `authorization` and tells nobody.
fn silently(authorization: Authorization) -> Change {
    Change::Authorize {
        authorization: Box::new(authorization),
        entry: None,
    }
}

fn entry(authorization: &Authorization, event_type: &str, now: i64) -> InboxEntry {
    let whose = (&authorization.app_id, &authorization.auth_app_id);
    InboxEntry {
        pid: authorization.pid.clone(),
        ..InboxEntry::of_merchant(event_type, whose, now)
    }
}

/// Alipay's own are documented with 40 characters.
const LONGEST_TOKEN: usize = 1024;

/// Contract §4: the ISV's own tenant id, characters.
const LONGEST_REF: usize = 64;
